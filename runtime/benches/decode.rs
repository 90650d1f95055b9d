//! What our decode loop costs beside a bare one: `generate` of one answer against `llama_decode` called in a loop.
//!
//! `cargo bench --profile dev -p owlet-runtime --bench decode -- MODEL [THREADS] [TOKENS] [ROUNDS]` prints one line of JSON.
//! Both loops work on the same file with the same context, threads and tokens. The bare one calls `llama_decode`, looks for
//! the largest logit and goes on with the token that ours had picked. Ours adds the checks of a session, the
//! log-probability of every token over the whole vocabulary (in f64) and the call of `on_token`. They take turns; medians of
//! all rounds are compared. `sample_share` is what picking tokens takes of ours. It stands here because it calls
//! llama-cpp-sys-2.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program that prints and may stop")]

use std::{ffi::CString, ops::ControlFlow, path::Path, time::Instant};

use llama_cpp_sys_2 as sys;
use owlet_runtime::{
    AnswerOptions, CancelToken, EncodedPrompt, GenerateRequest, Model, ModelOptions, RngKey, SamplerOptions, Session,
    SessionOptions, TokenId, generate, rng::Rng,
};

const N_PROMPT: usize = 64;
const N_CTX: usize = 512;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let [path, numbers @ ..] = arguments.as_slice() else {
        println!("needs MODEL [THREADS] [TOKENS] [ROUNDS]");
        return;
    };
    let number = |index: usize, default: usize| numbers.get(index).map_or(default, |number| number.parse().unwrap());
    let (n_threads, n_tokens, n_rounds) = (number(0, 2), number(1, 128), number(2, 9));
    assert!(N_PROMPT + n_tokens <= N_CTX, "at most {} tokens", N_CTX - N_PROMPT);

    let model = Model::load(path, &ModelOptions { text_only: true, gpu_layers: 0, ..ModelOptions::default() }).unwrap();
    let options = SessionOptions { n_ctx: N_CTX, n_threads, ..SessionOptions::default() };
    let mut session = Session::new(&model, &options).unwrap();
    let mut rng = Rng::keyed(&[1]);
    let n_vocab = model.info().n_vocab;
    let prompt: Vec<TokenId> = (0..N_PROMPT).map(|_| rng.below(n_vocab.min(256)) as TokenId).collect();
    let (answer, _) = ours(&mut session, &prompt, n_tokens);
    let mut bare = Bare::new(Path::new(path), n_threads);

    let (mut our_seconds, mut bare_seconds) = (Vec::new(), Vec::new());
    session.reset_timings();
    for round in 0..n_rounds {
        // Whoever goes first finds other caches.
        for turn in 0..2 {
            if (round + turn).is_multiple_of(2) {
                our_seconds.push(ours(&mut session, &prompt, n_tokens).1);
            } else {
                bare_seconds.push(bare.run(&prompt, &answer));
            }
        }
    }
    let timings = session.timings();
    let sample_share = timings.sample_ms / (timings.sample_ms + timings.decode_ms);
    let (ours, bare) = (median(our_seconds), median(bare_seconds));
    let line = serde_json::json!({
        "model": model.info().name, "type": model.info().quantization, "threads": n_threads, "tokens": n_tokens,
        "rounds": n_rounds, "bare_seconds": bare, "our_seconds": ours, "overhead": ours / bare - 1.0,
        "sample_share": sample_share, "tokens_per_second": (n_tokens - 1) as f64 / ours,
    });
    println!("{line}");
}

/// The tokens of a greedy answer that nothing ends early, and the seconds from its first to its last token.
fn ours(session: &mut Session, prompt: &[TokenId], n_tokens: usize) -> (Vec<TokenId>, f64) {
    let model = session.model().clone();
    let banned = (0..model.info().n_vocab as TokenId).filter(|&token| model.is_eog(token)).collect();
    let sampler = SamplerOptions { banned, ..SamplerOptions::greedy() };
    let options = AnswerOptions { sampler, max_new_tokens: n_tokens, ..AnswerOptions::default() };
    let prompt = EncodedPrompt::from_tokens(prompt.to_vec());
    let request = GenerateRequest { prompt: &prompt, n: 1, rng_key: RngKey::default() };
    let mut start = Instant::now();
    let answers = generate(session, &[request], &options, &CancelToken::new(), &mut |event| {
        if event.position == 0 {
            start = Instant::now();
        }
        ControlFlow::Continue(())
    });
    (answers.unwrap().remove(0).remove(0).tokens, start.elapsed().as_secs_f64())
}

/// llama.cpp alone, set up as a session is.
struct Bare {
    model: *mut sys::llama_model,
    context: *mut sys::llama_context,
    threads: *mut sys::ggml_threadpool,
    n_vocab: usize,
}

impl Bare {
    fn new(path: &Path, n_threads: usize) -> Self {
        let path = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: parameters are the library's own defaults with plain values, the path ends with NUL, results are checked
        // before use, and `drop` frees in reverse. The backend was started when `Model::load` loaded the same file.
        unsafe {
            let mut params = sys::llama_model_default_params();
            params.n_gpu_layers = 0;
            params.use_extra_bufts = false;
            let model = sys::llama_model_load_from_file(path.as_ptr(), params);
            assert!(!model.is_null(), "cannot load");
            let mut params = sys::llama_context_default_params();
            params.n_ctx = N_CTX as u32;
            params.n_batch = N_CTX as u32;
            params.n_ubatch = N_CTX as u32;
            params.n_threads = n_threads as i32;
            params.n_threads_batch = n_threads as i32;
            params.no_perf = true;
            let context = sys::llama_init_from_model(model, params);
            let mut pool = sys::ggml_threadpool_params_default(n_threads as i32);
            let threads = sys::ggml_threadpool_new(&raw mut pool);
            assert!(!context.is_null() && !threads.is_null(), "cannot make a context");
            sys::llama_attach_threadpool(context, threads, threads);
            let n_vocab = sys::llama_vocab_n_tokens(sys::llama_model_get_vocab(model)) as usize;
            Self { model, context, threads, n_vocab }
        }
    }

    /// Seconds from the first to the last token of `answer` behind `prompt`.
    fn run(&mut self, prompt: &[TokenId], answer: &[TokenId]) -> f64 {
        // SAFETY: the context is alive.
        unsafe { sys::llama_memory_clear(sys::llama_get_memory(self.context), false) };
        self.decode(prompt);
        let start = Instant::now();
        // As in ours, the last token is picked and not decoded.
        let (_, decoded) = answer.split_last().unwrap();
        for token in decoded {
            self.decode(&[*token]);
        }
        start.elapsed().as_secs_f64()
    }

    /// Appends `tokens` and gives the most probable next one.
    fn decode(&mut self, tokens: &[TokenId]) -> usize {
        let mut tokens = tokens.to_vec();
        // SAFETY: the batch refers to `tokens`, which outlives the call, are of the vocabulary and fit the context; the last
        // one has logits, a row of the vocabulary's length.
        let logits = unsafe {
            let batch = sys::llama_batch_get_one(tokens.as_mut_ptr(), tokens.len() as i32);
            assert_eq!(sys::llama_decode(self.context, batch), 0);
            std::slice::from_raw_parts(sys::llama_get_logits_ith(self.context, -1), self.n_vocab)
        };
        let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
        std::hint::black_box(best)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // SAFETY: made in `new`, freed once, users before what they use.
        unsafe {
            sys::llama_free(self.context);
            sys::ggml_threadpool_free(self.threads);
            sys::llama_model_free(self.model);
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
