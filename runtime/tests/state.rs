//! Keys and values that leave a session and come back: the same bits as if they had been computed there.

mod common;

use std::sync::Arc;

use common::tiny;
use owlet_runtime::{
    Adapter, EncodedPrompt, ErrorKind, FlashAttention, Image, KvType, Model, ModelOptions, Prompt, PromptCache,
    PromptCacheStats, Result, SequenceState, Session, SessionOptions,
};

fn picture(model: &Model, text: &str) -> EncodedPrompt {
    let mut rng = owlet_runtime::rng::Rng::keyed(&[7]);
    let rgb = (0..96 * 64 * 3).map(|_| rng.next_u64() as u8).collect();
    let picture = Image::from_rgb(96, 64, rgb).expect("right size");
    model.encode(&Prompt::user(text, vec![picture]).expect("no marks")).expect("encodes")
}

/// A text longer than a batch, and a picture between texts.
fn prompts(model: &Model) -> [EncodedPrompt; 2] {
    [tiny::prompt(model, &"Hello, owl. ".repeat(7)), picture(model, "What is on this picture?")]
}

fn session(model: &Model, kv_type: KvType, flash_attention: FlashAttention, n_seq: usize) -> Session {
    let plain = SessionOptions { n_ctx: 200, n_ubatch: 32, n_threads: 1, ..SessionOptions::default() };
    Session::new(model, &SessionOptions { n_seq, kv_type, flash_attention, ..plain }).expect("makes a session")
}

fn f16(model: &Model, n_seq: usize) -> Session {
    session(model, KvType::F16, FlashAttention::Auto, n_seq)
}

/// Logits after `rest` and after two tokens more.
fn answer(session: &mut Session, seq: usize, rest: &EncodedPrompt) -> Vec<Vec<f32>> {
    session.prefill(seq, rest).expect("fits");
    let mut logits = vec![session.logits(seq).expect("has logits").to_vec()];
    for token in [65, 66] {
        session.decode(&[(seq, token)]).expect("fits");
        logits.push(session.logits(seq).expect("has logits").to_vec());
    }
    logits
}

fn state_of(session: &mut Session, seq: usize, content: &EncodedPrompt) -> SequenceState {
    session.clear(seq).expect("a sequence");
    session.prefill(seq, content).expect("fits");
    session.save(seq, content).expect("saves")
}

#[test]
fn a_restored_sequence_goes_on_with_the_bits_of_the_computed_one() {
    let (model, _folder) = tiny::load();
    let kinds =
        [(KvType::F16, FlashAttention::Auto), (KvType::F16, FlashAttention::Off), (KvType::F32, FlashAttention::Off)];
    for prompt in prompts(&model) {
        let (begin, rest) = prompt.split_at(prompt.n_tokens() - 3);
        for (kv_type, flash) in kinds {
            let mut computing = session(&model, kv_type, flash, 3);
            let state = state_of(&mut computing, 1, &begin);
            assert_eq!(state.n_tokens(), begin.n_tokens());
            let expected = answer(&mut computing, 1, &rest);
            // In the same session where something else was; in others, of more and of fewer sequences.
            computing.prefill(2, &tiny::prompt(&model, "something else")).expect("fits");
            let bytes = state.to_bytes();
            let state = SequenceState::from_bytes(&bytes).expect("whole");
            assert_eq!(state.to_bytes(), bytes);
            let (mut one, mut five) = (session(&model, kv_type, flash, 1), session(&model, kv_type, flash, 5));
            for (session, seq) in [(&mut computing, 2), (&mut one, 0), (&mut five, 4)] {
                session.restore(seq, &state, &begin).expect("fits");
                assert_eq!(session.n_tokens(seq), begin.n_tokens());
                assert_eq!(session.save(seq, &begin).expect("saves"), state);
                assert!(answer(session, seq, &rest) == expected, "{kv_type:?} {flash:?} sequence {seq}");
            }
        }
    }
}

/// Of the embedded model, since keys and values in Q8_0 need heads of a multiple of 32.
#[test]
fn keys_and_values_in_q8_0_come_back_to_the_bit() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/owlet-tiny-F16.gguf");
    let model = Model::load(path, &ModelOptions { n_threads: 1, ..ModelOptions::default() }).expect("loads");
    let packed = |n_seq: usize| session(&model, KvType::Q8_0, FlashAttention::On, n_seq);
    for prompt in prompts(&model) {
        let (begin, rest) = prompt.split_at(prompt.n_tokens() - 3);
        let (mut computing, mut one) = (packed(2), packed(1));
        let state = state_of(&mut computing, 1, &begin);
        let expected = answer(&mut computing, 1, &rest);
        let state = SequenceState::from_bytes(&state.to_bytes()).expect("whole");
        one.restore(0, &state, &begin).expect("fits");
        assert_eq!(one.save(0, &begin).expect("saves"), state);
        assert!(answer(&mut one, 0, &rest) == expected);

        let whole = state_of(&mut f16(&model, 1), 0, &begin);
        // Blocks of 32 numbers take 34 bytes instead of 64; beside them each token has some bytes of places.
        let ratio = state.to_bytes().len() as f64 / whole.to_bytes().len() as f64;
        assert!((0.53..0.56).contains(&ratio), "{ratio}");
        for (state, session) in [(&state, &mut f16(&model, 1)), (&whole, &mut one)] {
            assert_eq!(session.restore(0, state, &begin).expect_err("another precision").kind(), ErrorKind::Mismatch);
        }
    }
}

#[test]
fn forks_that_llama_cpp_put_off_and_restored_sequences_do_not_disturb_each_other() {
    let (model, _folder) = tiny::load();
    let [text, picture] = prompts(&model);
    let mut reference = f16(&model, 3);
    let state = state_of(&mut reference, 0, &picture);
    let mut after = |prompt: &EncodedPrompt| {
        reference.clear_all();
        reference.prefill(0, prompt).expect("fits");
        reference.decode(&[(0, 65)]).expect("fits");
        reference.logits(0).expect("has logits").to_vec()
    };
    let (after_text, after_picture) = (after(&text), after(&picture));
    // Over a copy, and over what copies are made of.
    for (restored, kept) in [(1, 0), (0, 1)] {
        let mut session = f16(&model, 3);
        session.prefill(0, &text).expect("fits");
        session.fork(0, &[1]).expect("copies");
        assert_eq!(session.save(1, &text).expect("saves"), session.save(0, &text).expect("saves"));
        session.fork(0, &[1]).expect("copies");
        session.restore(restored, &state, &picture).expect("fits");
        for (seq, expected) in [(restored, &after_picture), (kept, &after_text)] {
            session.decode(&[(seq, 65)]).expect("fits");
            assert!(session.logits(seq).expect("has logits") == expected.as_slice(), "restored {restored}, at {seq}");
        }
    }
}

#[test]
fn states_of_something_else_are_refused_and_change_nothing() {
    let (model, folder) = tiny::load();
    let [text, picture] = prompts(&model);
    let mut session = f16(&model, 2);
    let state = state_of(&mut session, 0, &picture);
    session.clear_all();
    session.prefill(1, &text).expect("fits");

    let refused = |result: Result<()>, what: &str| {
        let error = result.expect_err(what);
        assert!(error.to_string().contains(what), "{error}");
        error.kind()
    };
    let mut changed = picture.clone();
    let last = changed.segments.last_mut().expect("not empty");
    *last = owlet_runtime::Segment::Tokens(vec![65; last.n_tokens()]);
    for content in [&changed, &text, &EncodedPrompt::default()] {
        assert_eq!(refused(session.restore(1, &state, content), "content"), ErrorKind::Mismatch);
    }
    assert_eq!(refused(session.restore(2, &state, &picture), "no such sequence"), ErrorKind::InvalidInput);
    let error = session.save(1, &picture).expect_err("holds another prompt");
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert_eq!((session.n_tokens(0), session.n_tokens(1)), (0, text.n_tokens()));

    let mut precise = self::session(&model, KvType::F32, FlashAttention::Off, 1);
    assert_eq!(refused(precise.restore(0, &state, &picture), "precision"), ErrorKind::Mismatch);
    let mut transposed = self::session(&model, KvType::F16, FlashAttention::Off, 1);
    assert_eq!(refused(transposed.restore(0, &state, &picture), "llama.cpp"), ErrorKind::Mismatch);
    let short = SessionOptions { n_ctx: 8, n_threads: 1, ..SessionOptions::default() };
    let mut short = Session::new(&model, &short).expect("makes a session");
    assert_eq!(refused(short.restore(0, &state, &picture), "fit"), ErrorKind::ContextOverflow);
    let path = tiny::model().set("general.name", "another").write(&folder.path().join("other.gguf"));
    let other = Model::load(path, &ModelOptions { n_threads: 1, ..ModelOptions::default() }).expect("loads");
    assert_eq!(refused(f16(&other, 1).restore(0, &state, &picture), "model"), ErrorKind::Mismatch);

    // Positions that are not those of the content, and damaged or shortened bytes, get an error and no abort.
    let bytes = state.to_bytes();
    let mut n_refused = 0;
    for at in (0..bytes.len()).step_by(7).take_while(|at| *at < 2000) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x81;
        let restored = SequenceState::from_bytes(&damaged).and_then(|state| session.restore(0, &state, &picture));
        n_refused += usize::from(restored.is_err());
        let cut = SequenceState::from_bytes(&bytes[..at]).and_then(|state| session.restore(0, &state, &picture));
        assert!(cut.is_err(), "{at} bytes");
    }
    assert!(n_refused > 100, "{n_refused}");
    session.restore(0, &state, &picture).expect("still usable");
    assert_eq!(session.save(0, &picture).expect("saves"), state);
}

#[test]
fn what_adapters_computed_goes_on_under_the_same_adapters_only() {
    let (model, _folder) = tiny::load();
    let [text, picture] = prompts(&model);
    let opening: Vec<u32> = model.generation_prompt().expect("ChatML").iter().map(|&token| token as u32).collect();
    let adapter = |seed: u64| {
        let mut draft = tiny::adapter();
        draft.seed = seed;
        draft
    };
    let open = |bytes: &[u8]| Arc::new(Adapter::from_bytes(&model, bytes).expect("loads"));
    let (plain, other) = (open(&adapter(1).bytes()), open(&adapter(2).bytes()));
    let activated = open(&adapter(3).set("adapter.alora.invocation_tokens", opening).bytes());
    assert_ne!(plain.hash(), other.hash());
    let sets = [
        vec![],
        vec![(plain.clone(), 1.0)],
        vec![(plain.clone(), 0.5)],
        vec![(other.clone(), 1.0)],
        vec![(plain.clone(), 1.0), (other.clone(), 0.5)],
        vec![(activated.clone(), 1.0)],
        vec![(plain.clone(), 1.0), (activated.clone(), 1.0)],
    ];
    // The text lacks an invocation; the picture's prompt ends with one, so its beginning is as without.
    let begin = picture.split_at(picture.n_tokens() - 3).0;
    assert!(begin.activation(activated.invocation().expect("activated")).is_err());
    for (computed, adapters) in sets.iter().enumerate() {
        let mut session = f16(&model, 2);
        session.set_adapters(adapters).expect("sets");
        session.prefill(0, &picture).expect("fits");
        let state = session.save(0, &picture).expect("saves");
        assert_eq!(state.adapters().len(), adapters.len());
        session.decode(&[(0, 65)]).expect("fits");
        let expected = session.logits(0).expect("has logits").to_vec();
        let state = SequenceState::from_bytes(&state.to_bytes()).expect("whole");
        for (restored, adapters) in sets.iter().enumerate() {
            let reversed: Vec<_> = adapters.iter().rev().cloned().collect();
            session.set_adapters(&reversed).expect("sets");
            match session.restore(1, &state, &picture) {
                Ok(()) => {
                    // What the base computed may be followed by activated adapters.
                    assert!(restored == computed || (computed, restored) == (0, 5) || (computed, restored) == (1, 6));
                    session.decode(&[(1, 65)]).expect("fits");
                    let is_same = session.logits(1).expect("has logits") == expected;
                    assert!(is_same || computed != restored || adapters.len() > 1, "{computed} {restored}");
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Mismatch);
                    assert!(error.to_string().contains("adapters"), "{error}");
                    assert_ne!(restored, computed);
                }
            }
        }
    }
    // A second prompt puts a stretch of the base between two of the adapter.
    let mut session = f16(&model, 1);
    session.set_adapters(&[(activated, 1.0)]).expect("sets");
    session.prefill(0, &picture).expect("fits");
    session.prefill(0, &picture).expect("fits");
    let twice = EncodedPrompt { segments: [&picture.segments[..], &picture.segments].concat() };
    assert_eq!(session.save(0, &twice).expect_err("in parts").kind(), ErrorKind::Unsupported);
    session.set_adapters(&[]).expect("sets");
    assert!(state_of(&mut session, 0, &text).adapters().is_empty());
}

#[test]
fn prompts_of_activated_adapters_begin_with_what_is_kept() {
    let (model, _folder) = tiny::load();
    let opening = model.generation_prompt().expect("ChatML");
    let invocation: Vec<u32> = opening.iter().map(|&token| token as u32).collect();
    let bytes = tiny::adapter().set("adapter.alora.invocation_tokens", invocation).bytes();
    let activated = Arc::new(Adapter::from_bytes(&model, &bytes).expect("loads"));
    let plain = Arc::new(Adapter::from_bytes(&model, &tiny::adapter().bytes()).expect("loads"));
    let prompts = ["What?", "And what is that?"].map(|text| picture(&model, text));

    let logits = |session: &mut Session, prompt: &EncodedPrompt| {
        session.clear_all();
        answer(session, 1, prompt)
    };
    let mut without = f16(&model, 2);
    without.set_adapters(&[(activated.clone(), 1.0)]).expect("sets");
    let expected = prompts.each_ref().map(|prompt| logits(&mut without, prompt));

    let cache = Arc::new(PromptCache::new(1 << 20));
    let mut sessions = [f16(&model, 2), f16(&model, 3)];
    for session in &mut sessions {
        session.set_adapters(&[(activated.clone(), 1.0)]).expect("sets");
        session.set_prompt_cache(Some(cache.clone()));
    }
    for round in 0..2 {
        for session in &mut sessions {
            for (prompt, expected) in prompts.iter().zip(&expected) {
                assert!(logits(session, prompt) == *expected, "round {round}");
            }
        }
    }
    assert_eq!(cache.stats(), PromptCacheStats { n_restored: 6, n_loaded: 0, n_computed: 2 });
    assert!((1..1 << 20).contains(&cache.n_bytes()), "{}", cache.n_bytes());
    // The adapter's weights do not matter, whether there is one does.
    let [session, _] = &mut sessions;
    session.set_adapters(&[(activated.clone(), -0.5)]).expect("sets");
    assert!(logits(session, &prompts[0]) != expected[0]);
    assert_eq!(cache.stats().n_restored, 7);
    for adapters in [vec![], vec![(plain.clone(), 1.0)], vec![(activated.clone(), 1.0), (plain, 1.0)]] {
        session.set_adapters(&adapters).expect("sets");
        logits(session, &prompts[0]);
    }
    assert_eq!(cache.stats(), PromptCacheStats { n_restored: 7, n_loaded: 0, n_computed: 2 });
    // Behind something else a beginning is none.
    session.set_adapters(&[(activated, 1.0)]).expect("sets");
    session.prefill(0, &prompts[0]).expect("fits");
    session.prefill(0, &prompts[0]).expect("fits");
    assert_eq!(cache.stats(), PromptCacheStats { n_restored: 8, n_loaded: 0, n_computed: 2 });
    // A cache without room computes, to the same bits.
    let none = Arc::new(PromptCache::new(100));
    session.set_prompt_cache(Some(none.clone()));
    assert!(logits(session, &prompts[1]) == expected[1] && logits(session, &prompts[1]) == expected[1]);
    assert_eq!((none.stats(), none.n_bytes()), (PromptCacheStats { n_restored: 0, n_loaded: 0, n_computed: 2 }, 0));
}
