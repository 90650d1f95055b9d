//! The measurements themselves: what is timed, from where to where.

use std::{ops::ControlFlow, time::Instant};

use owlet::{
    AnswerOptions, BareLoop, CancelToken, EncodedPrompt, Error, ErrorKind, GenerateRequest, Image, Message, Model,
    Prompt, Result, RngKey, SamplerOptions, Session, SessionOptions, TokenId,
    conversation::{Conversation, ConversationOptions},
    generate,
};

/// Tokens of the prompt before the decode loops, which have nothing to do with it.
const LOOP_PROMPT: usize = 64;
/// Questions of a conversation about a picture.
const QUESTIONS: [&str; 2] = ["What is this?", "Is it an owl?"];
/// Tokens of the answers between them.
const TURN_TOKENS: usize = 8;
/// What the template may write around an answer, in tokens.
const TURN_MARKS: usize = 32;

/// One answer to a prompt. Times in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    pub(super) encode_ms: f64,
    pub(super) prefill_ms: f64,
    pub(super) n_prompt_tokens: usize,
    /// From the prompt as text and pixels to its first token.
    pub(super) first_token_ms: f64,
    /// Tokens a second, from the first to the last.
    pub(super) decode_rate: f64,
}

/// The same tokens by our loop and by the bare one, all sequences together. Rates in tokens a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Compared {
    pub(super) our_rate: f64,
    pub(super) bare_rate: f64,
    /// What picking tokens takes of our loop: log-probabilities over the whole vocabulary, above all.
    pub(super) pick_share: f64,
}

/// First tokens of two questions about the same picture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) first_ms: f64,
    pub(super) second_ms: f64,
}

/// What all measurements share.
pub(super) struct Bench<'a> {
    pub(super) model: &'a Model,
    pub(super) n_threads: usize,
    pub(super) n_tokens: usize,
    pub(super) cancel: &'a CancelToken,
}

impl Bench<'_> {
    /// Answers a question about `image`, or one in text, in a new session.
    pub(super) fn answer(&self, image: Option<&Image>, text: &str) -> Result<Answered> {
        let start = Instant::now();
        let prompt = Prompt::user(text, image.cloned().into_iter().collect())?;
        let prompt = self.model.encode_until(&prompt, None, self.cancel)?;
        let encoded = start.elapsed();
        let mut session = self.session(prompt.n_tokens() + self.n_tokens, 1)?;
        // Making the session is not part of an answer: an app has one.
        let start = Instant::now() - encoded;
        let (answers, times) = self.generate(&mut session, &prompt, 1)?;
        let n_decoded = answers[0].len() - 1;
        Ok(Answered {
            encode_ms: prompt.image_encode_ms(),
            prefill_ms: session.timings().prefill_ms,
            n_prompt_tokens: prompt.n_tokens(),
            first_token_ms: (times.first - start).as_secs_f64() * 1e3,
            decode_rate: n_decoded as f64 / (times.last - times.first).as_secs_f64(),
        })
    }

    /// `n_rounds` turns of both loops over `n_samples` answers of the same prompt.
    pub(super) fn compare(&self, n_samples: usize, n_rounds: usize) -> Result<Vec<Compared>> {
        let n_ctx = LOOP_PROMPT + self.n_tokens;
        let mut session = self.session(n_ctx, n_samples)?;
        let mut bare = BareLoop::new(self.model, session.options())?;
        // Any tokens do: the work does not depend on them.
        let n_plain = self.model.info().n_vocab.min(256) as TokenId;
        let tokens: Vec<TokenId> = (0..LOOP_PROMPT as TokenId).map(|index| (index * 37 + 11) % n_plain).collect();
        let prompt = EncodedPrompt::from_tokens(tokens.clone());
        let (answers, _) = self.generate(&mut session, &prompt, n_samples)?;
        let n_decoded = (n_samples * (self.n_tokens - 1)) as f64;
        let mut rounds = Vec::new();
        for round in 0..n_rounds {
            let (mut our_rate, mut bare_rate, mut pick_share) = (0.0, 0.0, 0.0);
            for turn in 0..2 {
                // Whoever goes first finds other caches.
                if (round + turn).is_multiple_of(2) {
                    session.reset_timings();
                    let (_, times) = self.generate(&mut session, &prompt, n_samples)?;
                    let timings = session.timings();
                    pick_share = timings.sample_ms / (timings.sample_ms + timings.decode_ms);
                    our_rate = n_decoded / (times.last - times.first).as_secs_f64();
                } else {
                    self.cancel.check()?;
                    bare_rate = n_decoded / bare.run(&tokens, &answers)?.as_secs_f64();
                }
            }
            rounds.push(Compared { our_rate, bare_rate, pick_share });
        }
        Ok(rounds)
    }

    /// Two questions in turn about `image`, in a new conversation.
    pub(super) fn ask_twice(&self, image: &Image) -> Result<Asked> {
        // No more than both turns take: keys and values for all that a model was trained for may be gigabytes.
        let n_first = self.model.count_tokens(QUESTIONS[0], &[(image.width(), image.height())])?;
        let n_turns = n_first + self.model.count_tokens(QUESTIONS[1], &[])? + 2 * (TURN_TOKENS + TURN_MARKS);
        let session = self.session(n_turns.min(self.model.info().n_ctx_train), 1)?;
        let options =
            ConversationOptions { answer: AnswerOptions::greedy(TURN_TOKENS), ..ConversationOptions::default() };
        let mut conversation = Conversation::new(session, options);
        let mut ask = |text: &str, images: Vec<Image>| -> Result<f64> {
            let question = Message::user(text, images)?;
            let turn = conversation.ask(question, self.cancel, &mut |_| ControlFlow::Continue(()))?;
            Ok(turn.report.first_token_ms)
        };
        let first_ms = ask(QUESTIONS[0], vec![image.clone()])?;
        Ok(Asked { first_ms, second_ms: ask(QUESTIONS[1], Vec::new())? })
    }

    fn session(&self, n_ctx: usize, n_seq: usize) -> Result<Session> {
        let n_ctx_train = self.model.info().n_ctx_train;
        if n_ctx > n_ctx_train {
            let error = Error::new(ErrorKind::ContextOverflow, "prompt and answer do not fit the model");
            return Err(error.got(format!("{n_ctx} tokens")).needed(format!("at most {n_ctx_train}")));
        }
        Session::new(
            self.model,
            &SessionOptions { n_ctx, n_seq, n_threads: self.n_threads, ..SessionOptions::default() },
        )
    }

    /// Greedy answers that nothing ends early, and when their first and last tokens were picked.
    fn generate(&self, session: &mut Session, prompt: &EncodedPrompt, n: usize) -> Result<(Vec<Vec<TokenId>>, Times)> {
        let banned = (0..self.model.info().n_vocab as TokenId).filter(|&token| self.model.is_eog(token)).collect();
        let sampler = SamplerOptions { banned, ..SamplerOptions::greedy() };
        let request = GenerateRequest { prompt, n, rng_key: RngKey::default() };
        let mut first = None;
        let options = AnswerOptions { sampler, max_new_tokens: self.n_tokens, ..AnswerOptions::default() };
        let answers = generate(session, &[request], &options, self.cancel, &mut |_| {
            first.get_or_insert_with(Instant::now);
            ControlFlow::Continue(())
        })?;
        let last = Instant::now();
        let tokens = answers.into_iter().flatten().map(|answer| answer.tokens).collect();
        Ok((tokens, Times { first: first.unwrap_or(last), last }))
    }
}

/// When tokens were picked.
struct Times {
    first: Instant,
    last: Instant,
}
