//! The teacher: a second model that answers, and that a student is compared with.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use owlet_runtime::{
    AnswerOptions, CancelToken, EncodedPrompt, Error, ErrorKind, GenerateRequest, Model, Prompt, Result, RngKey,
    Segment, Session, SessionOptions, TokenId, generate,
};

use super::TuneOptions;
use crate::{
    data::{Dataset, Sample},
    engine::{Engine, EngineOptions},
    rollout::encode,
};

/// Sequences that the teacher decodes at a time.
const N_SEQUENCES: usize = 8;

/// A model that only looks.
pub(super) struct TeacherModel {
    pub(super) model: Model,
    pub(super) engine: Engine,
    /// Made when the first answer is wanted.
    session: Option<Session>,
    /// By the hash of a data set and the number of a sample in it.
    answers: BTreeMap<(String, usize), Vec<TokenId>>,
}

impl TeacherModel {
    /// # Errors
    /// `Mismatch` if the two do not have the same tokens, or wrap a question in other ones.
    pub(super) fn new(model: &Model, student: &Model, n_threads: usize) -> Result<Self> {
        let tokens = |model: &Model| model.gguf().strings("tokenizer.ggml.tokens").map(<[String]>::to_vec);
        if tokens(model)? != tokens(student)? {
            let error = Error::new(ErrorKind::Mismatch, "the teacher has another vocabulary");
            return Err(error.at(model.path().display()).needed(format!("that of {}", student.path().display())));
        }
        let plain = |model: &Model| model.encode(&Prompt::user("?", Vec::new())?);
        ensure_same_text(model, &plain(model)?, &plain(student)?)?;
        // It is never differentiated, so no weight is transposed.
        let options = EngineOptions { n_threads, ..EngineOptions::default() };
        let engine = Engine::new(model.path(), options)?;
        Ok(Self { model: model.clone(), engine, session: None, answers: BTreeMap::new() })
    }

    /// Its greedy answers to some samples of `dataset`, in their order. What it answered before it knows.
    ///
    /// What is asked side by side changes the last bits, so it does not depend on what is known: whole portions of the order
    /// of the first epoch, which spends no answer before its time there.
    pub(super) fn answers(
        &mut self,
        dataset: &Dataset,
        samples: &[usize],
        options: &TuneOptions,
        cancel: &CancelToken,
        on_answer: &mut dyn FnMut(usize),
    ) -> Result<Vec<Vec<TokenId>>> {
        let key = |sample: usize| (dataset.hash().to_owned(), sample);
        let order = dataset.epoch_order(options.seed, 0);
        let is_unknown = |answers: &BTreeMap<_, _>, sample: usize| !answers.contains_key(&key(sample));
        let unknown: Vec<usize> = samples.iter().copied().filter(|&sample| is_unknown(&self.answers, sample)).collect();
        for portion in portions(&order, &unknown) {
            let answers = self.ask(dataset, portion, options, cancel)?;
            self.answers.extend(portion.iter().map(|&sample| key(sample)).zip(answers));
            on_answer(samples.iter().filter(|&&sample| !is_unknown(&self.answers, sample)).count());
        }
        Ok(samples.iter().filter_map(|&sample| self.answers.get(&key(sample)).cloned()).collect())
    }

    /// The prompt of `sample` with its pictures as the teacher sees them, for comparison with a student's.
    ///
    /// # Errors
    /// `Mismatch` if the texts around the pictures differ: the two would answer different questions.
    pub(super) fn encode_beside(
        &self,
        sample: &Sample,
        suffix: &str,
        student: &EncodedPrompt,
    ) -> Result<EncodedPrompt> {
        let prompt = encode(&self.model, sample, suffix)?;
        ensure_same_text(&self.model, &prompt, student).map_err(|error| error.at(sample.named_place()))?;
        Ok(prompt)
    }

    fn ask(
        &mut self,
        dataset: &Dataset,
        samples: &[usize],
        options: &TuneOptions,
        cancel: &CancelToken,
    ) -> Result<Vec<Vec<TokenId>>> {
        let prompts = samples
            .iter()
            .map(|&sample| {
                cancel.check()?;
                encode(&self.model, &dataset.samples()[sample], &options.suffix)
            })
            .collect::<Result<Vec<_>>>()?;
        let session = match &mut self.session {
            Some(session) => session,
            None => {
                let session_options = SessionOptions {
                    n_ctx: options.max_prompt_tokens + options.max_response_tokens,
                    n_seq: N_SEQUENCES,
                    n_threads: options.n_threads,
                    ..SessionOptions::default()
                };
                self.session.insert(Session::new(&self.model, &session_options)?)
            }
        };
        let requests: Vec<_> =
            prompts.iter().map(|prompt| GenerateRequest { prompt, n: 1, rng_key: RngKey::default() }).collect();
        let greedy = AnswerOptions::greedy(options.max_response_tokens);
        let answers = generate(session, &requests, &greedy, cancel, &mut |_| ControlFlow::Continue(()))?;
        Ok(answers.into_iter().flatten().map(|answer| answer.tokens).collect())
    }
}

/// The parts of `order`, of [`N_SEQUENCES`] each, that contain any of `wanted`.
fn portions<'a>(order: &'a [usize], wanted: &[usize]) -> impl Iterator<Item = &'a [usize]> {
    let wanted: BTreeSet<usize> = wanted.iter().copied().collect();
    order.chunks(N_SEQUENCES).filter(move |portion| portion.iter().any(|sample| wanted.contains(sample)))
}

/// # Errors
/// `Mismatch` if the tokens of the two prompts differ; pictures may.
fn ensure_same_text(teacher: &Model, prompt: &EncodedPrompt, student: &EncodedPrompt) -> Result<()> {
    fn texts(prompt: &EncodedPrompt) -> Vec<Option<&[TokenId]>> {
        let texts = prompt.segments.iter().map(|segment| match segment {
            Segment::Tokens(tokens) => Some(tokens.as_slice()),
            Segment::Image(_) => None,
        });
        texts.collect()
    }
    if texts(prompt) == texts(student) {
        return Ok(());
    }
    let spelled = |prompt: &EncodedPrompt| {
        let tokens: Vec<TokenId> = texts(prompt).into_iter().flatten().flatten().copied().collect();
        format!("{:?}", teacher.detokenize(&tokens))
    };
    Err(Error::new(ErrorKind::Mismatch, "the teacher's chat template makes another prompt of a question")
        .at(teacher.path().display())
        .got(spelled(prompt))
        .needed(spelled(student)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_asked_side_by_side_does_not_depend_on_what_is_wanted() {
        let order: Vec<usize> = (0..20).map(|place| place * 7 % 20).collect();
        for wanted in [vec![], vec![3], vec![order[0], order[19]], vec![order[8], order[8], order[9]], order.clone()] {
            let asked: Vec<&[usize]> = portions(&order, &wanted).collect();
            assert!(asked.iter().all(|portion| order.chunks(8).any(|part| part == *portion)), "{wanted:?}: {asked:?}");
            assert!(wanted.iter().all(|sample| asked.concat().contains(sample)), "{wanted:?}: {asked:?}");
        }
        assert_eq!(portions(&order, &[order[8], order[9]]).count(), 1);
    }
}
