//! Prints how many tokens per second a model prefills and decodes, for several numbers of sequences.
//!
//! `cargo run -p owlet-runtime --example throughput -- MODEL.gguf [THREADS] [SEQUENCES ...]`

use std::{ops::ControlFlow, time::Instant};

use owlet_runtime::{
    AnswerOptions, CancelToken, EncodedPrompt, FlashAttention, GenerateRequest, KvType, Model, ModelOptions, Result,
    RngKey, SamplerOptions, Session, SessionOptions, generate, rng::Rng,
};

/// Tokens of each prompt and of each answer: those of a small visual question.
const N_PROMPT: usize = 96;
const N_ANSWER: usize = 64;

#[expect(clippy::print_stdout, reason = "a table is what it is for")]
fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().unwrap_or_default();
    let n_threads = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut counts: Vec<usize> = arguments.filter_map(|text| text.parse().ok()).collect();
    if counts.is_empty() {
        counts = vec![1, 8, 64];
    }
    println!("seqs  kv   flash  repack  prefill t/s  decode t/s  sample ms  wall s");
    for repack in [false, true] {
        let model = Model::load(&path, &ModelOptions { repack, text_only: true, ..ModelOptions::default() })?;
        let n_vocab = model.info().n_vocab;
        let mut rng = Rng::keyed(&[1]);
        let prompt = EncodedPrompt::from_tokens((0..N_PROMPT).map(|_| rng.below(n_vocab) as i32).collect());
        for &n_seq in &counts {
            for (kv_type, flash_attention) in [
                (KvType::F16, FlashAttention::On),
                (KvType::F16, FlashAttention::Off),
                (KvType::F32, FlashAttention::Off),
            ] {
                let options =
                    SessionOptions { n_ctx: 256, n_seq, n_threads, kv_type, flash_attention, ..Default::default() };
                let mut session = Session::new(&model, &options)?;
                let request = GenerateRequest { prompt: &prompt, n: n_seq, rng_key: RngKey::default() };
                // No answer ends early, so that every call decodes all sequences.
                let ends = (0..n_vocab as i32).filter(|&token| model.is_eog(token)).collect();
                let sampler = SamplerOptions { banned: ends, ..SamplerOptions::default() };
                let answer = AnswerOptions { sampler, max_new_tokens: N_ANSWER, ..AnswerOptions::default() };
                let start = Instant::now();
                generate(&mut session, &[request], &answer, &CancelToken::new(), &mut |_| ControlFlow::Continue(()))?;
                let seconds = start.elapsed().as_secs_f64();
                let timings = session.timings();
                let (prefill, decode) = (timings.prefill_rate(), timings.decode_rate());
                let (kv, flash) = (format!("{kv_type:?}"), format!("{flash_attention:?}"));
                let sample_ms = timings.sample_ms;
                println!(
                    "{n_seq:4}  {kv}  {flash:5}  {repack:6}  {prefill:11.0}  {decode:10.0}  {sample_ms:9.1}  {seconds:6.2}"
                );
            }
        }
    }
    Ok(())
}
