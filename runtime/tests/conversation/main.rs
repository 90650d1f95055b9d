//! Questions in turn: what was computed is not computed again, and makes no difference.

#[path = "../common/mod.rs"]
mod common;
mod files;
mod pictures;
mod sharing;
mod turns;

use std::{ops::ControlFlow, sync::Arc};

use owlet_runtime::{
    Adapter, AnswerOptions, CancelToken, FlashAttention, GenerateRequest, Generated, Image, KvType, Message, Model,
    Prompt, RngKey, Role, SamplerOptions, Session, SessionOptions,
    conversation::{Conversation, ConversationOptions, Turn},
    generate,
};

/// Kernels round differently for other batch sizes; logits range over about +-5.
const ROUNDING: f32 = 1e-3;
const SYSTEM: &str = "You are an owl.";

fn picture(seed: u64) -> Image {
    let mut rng = owlet_runtime::rng::Rng::keyed(&[seed]);
    let rgb = (0..96 * 64 * 3).map(|_| rng.next_u64() as u8).collect();
    Image::from_rgb(96, 64, rgb).expect("right size")
}

fn user(text: &str, pictures: &[u64]) -> Message {
    Message::user(text, pictures.iter().map(|&seed| picture(seed)).collect()).expect("no marks")
}

/// Answers of printable ASCII, whose text has the tokens that were sampled.
fn options() -> ConversationOptions {
    let banned = (0..32).chain(127..256).collect();
    ConversationOptions {
        system: Some(SYSTEM.to_owned()),
        answer: AnswerOptions {
            sampler: SamplerOptions { banned, ..SamplerOptions::default() },
            max_new_tokens: 12,
            ..AnswerOptions::default()
        },
        seed: 7,
        ..ConversationOptions::default()
    }
}

fn session_options() -> SessionOptions {
    // Keys and values that are rounded to F16 would pass on the rounding of other batch sizes enlarged.
    let (kv_type, flash_attention) = (KvType::F32, FlashAttention::Off);
    SessionOptions {
        n_ctx: 700,
        n_seq: 2,
        n_ubatch: 64,
        n_threads: 1,
        kv_type,
        flash_attention,
        ..SessionOptions::default()
    }
}

fn session(model: &Model) -> Session {
    Session::new(model, &session_options()).expect("makes a session")
}

fn conversation(model: &Model) -> Conversation {
    Conversation::new(session(model), options())
}

fn ask(conversation: &mut Conversation, question: Message) -> Turn {
    conversation.ask(question, &CancelToken::new(), &mut |_| ControlFlow::Continue(())).expect("answers")
}

fn said(turn: &Turn) -> (&[i32], &[f32]) {
    (&turn.answer.tokens, &turn.answer.logprobs)
}

/// The answer of a fresh session to the whole history, of which the last message is the question.
fn from_scratch(model: &Model, messages: &[Message], turn: u64, adapters: &[(Arc<Adapter>, f32)]) -> Generated {
    let prompt = Prompt { messages: messages.to_vec(), ..Prompt::default() }.with_system(SYSTEM);
    let prompt = model.encode(&prompt).expect("encodes");
    let request = GenerateRequest { prompt: &prompt, n: 1, rng_key: RngKey { seed: 7, step: 0, prompt: turn } };
    let mut session = session(model);
    session.set_adapters(adapters).expect("sets");
    let answers =
        generate(&mut session, &[request], &options().answer, &CancelToken::new(), &mut |_| ControlFlow::Continue(()));
    answers.expect("runs")[0].remove(0)
}

fn assert_same_answer(turn: &Turn, expected: &Generated) {
    assert_eq!((&turn.answer.tokens, turn.answer.stop), (&expected.tokens, expected.stop));
    let differences = turn.answer.logprobs.iter().zip(&expected.logprobs).map(|(a, b)| (a - b).abs());
    let largest = differences.max_by(f32::total_cmp).unwrap_or(0.0);
    assert!(largest < ROUNDING, "{largest}");
}

fn answered(turn: &Turn) -> Message {
    Message::text(Role::Assistant, turn.answer.thinking.clone() + &turn.answer.text)
}
