//! llama.cpp's decode call in a loop and nothing else: what [`crate::generate()`] is measured against.

use std::{
    ptr::{self, NonNull},
    slice,
    time::{Duration, Instant},
};

use llama_cpp_sys_2 as sys;

use super::{
    SessionOptions,
    context::{context_params, pool_params},
    wants_all_logits,
};
use crate::{
    Error, ErrorKind, Result, backend,
    cancel::CancelToken,
    model::{Model, TokenId},
};

/// A context of its own over the weights of a model, set up as a [`super::Session`] with the same options is.
///
/// It looks for the largest logit of every sequence, as the plainest program would, and goes on with tokens that are given,
/// so that it decodes what another loop had picked. No adapters, no pictures, no log-probabilities, no cancelling.
pub struct BareLoop {
    raw: NonNull<sys::llama_context>,
    threads: NonNull<sys::ggml_threadpool>,
    options: SessionOptions,
    model: Model,
}

impl BareLoop {
    /// A loop over as many sequences as `options` says.
    ///
    /// # Errors
    /// `InvalidInput` for options out of range, `Backend`.
    pub fn new(model: &Model, options: &SessionOptions) -> Result<Self> {
        options.check_for(model.hyper())?;
        let n_threads = backend::resolve_threads(options.n_threads)?;
        let mut params = context_params(options, n_threads, wants_all_logits(model), &CancelToken::new());
        params.abort_callback = None;
        params.abort_callback_data = ptr::null_mut();
        let unchanged = model.keep_adapters();
        let raw = backend::explain("cannot make a context", || {
            // SAFETY: the model is alive and outlives the context (`self` owns both).
            NonNull::new(unsafe { sys::llama_init_from_model(model.raw().as_ptr(), params) })
        })?;
        drop(unchanged);
        let mut pool = pool_params(n_threads);
        // SAFETY: the parameters are the library's own defaults.
        let Some(threads) = NonNull::new(unsafe { sys::ggml_threadpool_new(&raw mut pool) }) else {
            // SAFETY: made above, freed once.
            unsafe { sys::llama_free(raw.as_ptr()) };
            return Err(Error::new(ErrorKind::Backend, "cannot start threads").got(n_threads));
        };
        // SAFETY: both are alive; `drop` frees the context before the pool.
        unsafe { sys::llama_attach_threadpool(raw.as_ptr(), threads.as_ptr(), threads.as_ptr()) };
        Ok(Self { raw, threads, options: *options, model: model.clone() })
    }

    /// Computes `prompt`, copies it to as many sequences as there are `answers`, and decodes these side by side, a token of
    /// each a call. The time is that from the end of the prompt to the last picked token; as in any loop, the last token of an
    /// answer is picked and not decoded.
    ///
    /// # Errors
    /// `InvalidInput` for an empty prompt, tokens outside of the vocabulary, answers of different lengths or more of them than
    /// sequences; `ContextOverflow`, `Backend`.
    pub fn run(&mut self, prompt: &[TokenId], answers: &[Vec<TokenId>]) -> Result<Duration> {
        let n_steps = self.check(prompt, answers)?;
        // SAFETY: the context is alive.
        unsafe { sys::llama_memory_clear(sys::llama_get_memory(self.raw.as_ptr()), false) };
        let n_batch = self.options.n_ubatch;
        let mut position = 0;
        for piece in prompt.chunks(n_batch) {
            let is_last = position as usize + piece.len() == prompt.len();
            let entries = piece.iter().zip(position..).map(|(&token, position)| (token, position, 0));
            self.decode(entries, is_last)?;
            position += piece.len() as i32;
        }
        let start = Instant::now();
        for sequence in 1..answers.len() {
            // SAFETY: the context is alive and has that many sequences, which are different; whole ones are copied.
            unsafe {
                let memory = sys::llama_get_memory(self.raw.as_ptr());
                sys::llama_memory_seq_cp(memory, 0, sequence as i32, -1, -1);
            }
        }
        for step in 0..n_steps {
            let at = position + step as i32;
            let entries = answers.iter().enumerate().map(|(sequence, answer)| (answer[step], at, sequence as i32));
            self.decode(entries, true)?;
        }
        Ok(start.elapsed())
    }

    /// Tokens of each answer that are decoded.
    fn check(&self, prompt: &[TokenId], answers: &[Vec<TokenId>]) -> Result<usize> {
        let refused = |what: &str| Error::new(ErrorKind::InvalidInput, what);
        let n_tokens = answers.first().map_or(0, Vec::len);
        if prompt.is_empty() || n_tokens == 0 || answers.iter().any(|answer| answer.len() != n_tokens) {
            return Err(refused("a bare loop needs a prompt and answers of equal length"));
        }
        if answers.len() > self.options.n_seq {
            return Err(refused("more answers than sequences").got(answers.len()).needed(self.options.n_seq));
        }
        let n_vocab = self.model.info().n_vocab as TokenId;
        if !prompt.iter().chain(answers.iter().flatten()).all(|token| (0..n_vocab).contains(token)) {
            return Err(refused("token outside of the vocabulary"));
        }
        let n_needed = prompt.len() + n_tokens;
        if n_needed > self.options.n_ctx {
            let error = Error::new(ErrorKind::ContextOverflow, "prompt and answer do not fit the context");
            return Err(error.got(n_needed).needed(format!("at most {}", self.options.n_ctx)));
        }
        Ok(n_tokens - 1)
    }

    /// Runs `entries` of token, position and sequence; where they are looked at, each sequence's largest logit is looked for.
    fn decode(&mut self, entries: impl Iterator<Item = (TokenId, i32, i32)>, look: bool) -> Result<()> {
        let (mut tokens, mut positions, mut sequences) = (Vec::new(), Vec::new(), Vec::new());
        for (token, position, sequence) in entries {
            tokens.push(token);
            positions.push(position);
            sequences.push(sequence);
        }
        let n_tokens = tokens.len();
        let is_one_sequence = sequences.iter().all(|&sequence| sequence == 0);
        let mut n_sequences = vec![1; n_tokens];
        let mut pointers: Vec<*mut i32> = sequences.iter_mut().map(ptr::from_mut).collect();
        // The last entry of each sequence: of a prompt the last one, of a step every one.
        let is_looked_at = |index: usize| look && (!is_one_sequence || index + 1 == n_tokens);
        let all = wants_all_logits(&self.model);
        let mut wants_logits: Vec<i8> = (0..n_tokens).map(|index| (all || is_looked_at(index)).into()).collect();
        let batch = sys::llama_batch {
            n_tokens: n_tokens as i32,
            token: tokens.as_mut_ptr(),
            embd: ptr::null_mut(),
            pos: positions.as_mut_ptr(),
            n_seq_id: n_sequences.as_mut_ptr(),
            seq_id: pointers.as_mut_ptr(),
            logits: wants_logits.as_mut_ptr(),
        };
        let unchanged = self.model.keep_adapters();
        // SAFETY: the arrays have `n_tokens` entries and outlive the call; tokens, sequences and the room of the context were
        // checked, and a batch is no longer than the context takes.
        let status = unsafe { sys::llama_decode(self.raw.as_ptr(), batch) };
        drop(unchanged);
        if status != 0 {
            return Err(Error::new(ErrorKind::Backend, "llama.cpp cannot decode").got(status));
        }
        for index in (0..n_tokens).filter(|&index| is_looked_at(index)) {
            // SAFETY: the call checks the index and answers NULL to a wrong one.
            let row = NonNull::new(unsafe { sys::llama_get_logits_ith(self.raw.as_ptr(), index as i32) });
            let row = row.ok_or_else(|| Error::new(ErrorKind::Backend, "llama.cpp gave no logits"))?;
            // SAFETY: a row has one float for each token of the vocabulary and lives until the next decode call.
            let logits = unsafe { slice::from_raw_parts(row.as_ptr(), self.model.info().n_vocab) };
            std::hint::black_box(logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)));
        }
        Ok(())
    }
}

impl Drop for BareLoop {
    fn drop(&mut self) {
        // SAFETY: both were made in `new` and are freed once, the context first since it refers to the pool.
        unsafe {
            sys::llama_free(self.raw.as_ptr());
            sys::ggml_threadpool_free(self.threads.as_ptr());
        }
    }
}
