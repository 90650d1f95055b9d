//! The teacher: a second model that answers, and that a student is compared with.

use std::{collections::BTreeMap, ops::ControlFlow};

use owlet_runtime::{
    CancelToken, EncodedPrompt, Error, ErrorKind, GenerateRequest, Model, Result, RngKey, SamplerOptions, Session,
    SessionOptions, TokenId, generate,
};

use super::{TuneOptions, example::place};
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
    /// `Mismatch` if the two do not have the same tokens.
    pub(super) fn new(model: &Model, student: &Model, n_threads: usize) -> Result<Self> {
        let tokens = |model: &Model| model.gguf().strings("tokenizer.ggml.tokens").map(<[String]>::to_vec);
        if tokens(model)? != tokens(student)? {
            let error = Error::new(ErrorKind::Mismatch, "the teacher has another vocabulary");
            return Err(error.at(model.path().display()).needed(format!("that of {}", student.path().display())));
        }
        // It is never differentiated, so no weight is transposed.
        let options = EngineOptions { n_threads, ..EngineOptions::default() };
        let engine = Engine::new(model.path(), options)?;
        Ok(Self { model: model.clone(), engine, session: None, answers: BTreeMap::new() })
    }

    /// Its greedy answers to some samples of `dataset`, in their order. What it answered before it knows.
    pub(super) fn answers(
        &mut self,
        dataset: &Dataset,
        samples: &[usize],
        options: &TuneOptions,
        cancel: &CancelToken,
        on_answer: &mut dyn FnMut(usize),
    ) -> Result<Vec<Vec<TokenId>>> {
        let key = |sample: usize| (dataset.hash().to_owned(), sample);
        let mut unknown: Vec<usize> =
            samples.iter().copied().filter(|&sample| !self.answers.contains_key(&key(sample))).collect();
        unknown.sort_unstable();
        unknown.dedup();
        let mut n_done = samples.len() - unknown.len();
        for portion in unknown.chunks(N_SEQUENCES) {
            let answers = self.ask(dataset, portion, options, cancel)?;
            self.answers.extend(portion.iter().map(|&sample| key(sample)).zip(answers));
            n_done += portion.len();
            on_answer(n_done);
        }
        Ok(samples.iter().filter_map(|&sample| self.answers.get(&key(sample)).cloned()).collect())
    }

    /// The prompt of `sample` with its pictures as the teacher sees them.
    pub(super) fn encode(&self, sample: &Sample, suffix: &str) -> Result<EncodedPrompt> {
        encode(&self.model, sample, suffix).map_err(|error| error.at(place(sample)))
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
                self.encode(&dataset.samples()[sample], &options.suffix)
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
        let n = options.max_response_tokens;
        let greedy = SamplerOptions::greedy();
        let answers = generate(session, &requests, &greedy, n, cancel, &mut |_| ControlFlow::Continue(()))?;
        Ok(answers.into_iter().flatten().map(|answer| answer.tokens).collect())
    }
}
