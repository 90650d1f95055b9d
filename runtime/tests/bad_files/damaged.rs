//! Files that are missing, cut off, unaligned or corrupt.

use std::{sync::Arc, time::Duration};

use owlet_runtime::{Adapter, CancelToken, EncodedPrompt, ErrorKind, Image, Prompt, Session, SessionOptions, rng::Rng};

use super::{
    common::tiny::{self, Draft},
    load,
};

#[test]
fn missing_and_damaged_files_are_refused() {
    let (model, directory) = tiny::load();
    let missing = directory.path().join("nothing.gguf");
    for error in [load(&missing).expect_err("missing"), Adapter::open(&model, &missing).expect_err("missing")] {
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("nothing.gguf"), "{error}");
    }
    let path = directory.path().join("cut.gguf");
    let bytes = tiny::model().bytes();
    for n in [0, 3, 20, 200, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..n]).expect("writes");
        let error = load(&path).expect_err("cut");
        assert_eq!(error.kind(), ErrorKind::InvalidFile, "{n} bytes: {error}");
    }
    std::fs::write(&path, b"<html>404</html>").expect("writes");
    assert!(load(&path).expect_err("text").to_string().contains("GGUF"));
}

/// `draft` as a file that names an alignment of 8 bytes; its data starts at a multiple of 32 only by chance.
fn loosely_aligned(draft: &Draft, padding: usize) -> Vec<u8> {
    let mut draft = draft.clone();
    draft.set("general.alignmen_", 8u32).set("padding", "x".repeat(padding));
    let mut bytes = draft.bytes();
    let key = b"general.alignmen_";
    let at = bytes.windows(key.len()).position(|window| window == key).expect("set");
    bytes[at + key.len() - 1] = b't';
    bytes
}

#[test]
fn data_that_ggml_cannot_map_is_refused() {
    let (model, directory) = tiny::load();
    let path = directory.path().join("tiny.gguf");
    let mmproj = directory.path().join("mmproj-tiny.gguf");
    let mut n_refused = [0; 3];
    for padding in [0, 8, 16, 24] {
        std::fs::write(&path, loosely_aligned(&tiny::model(), padding)).expect("writes");
        let text = load(&path);
        tiny::model().write(&path);
        std::fs::write(&mmproj, loosely_aligned(&tiny::mmproj(), padding)).expect("writes");
        let vision = load(&path);
        tiny::mmproj().write(&mmproj);
        let adapter = Adapter::from_bytes(&model, &loosely_aligned(&tiny::adapter(), padding));
        let errors = [text.err(), vision.err(), adapter.err()];
        for (n, error) in n_refused.iter_mut().zip(errors) {
            let Some(error) = error else { continue };
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains("needed a multiple of 32 (general.alignment)"), "{error}");
            *n += 1;
        }
    }
    assert_eq!(n_refused, [3; 3], "of 4 lengths, 8 bytes apart, one is aligned");
}

/// Numbers at which counts, sizes and sums go wrong.
const EDGES: [u64; 12] = [
    0,
    1,
    4,
    7,
    31,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_fff0,
    u64::MAX,
];

/// `bytes` damaged in one of the ways that disks, networks and villains have, more often near the start, where the numbers
/// that matter are.
fn damaged(bytes: &[u8], round: u64) -> Vec<u8> {
    let mut rng = Rng::keyed(&[77, round]);
    let mut damaged = bytes.to_vec();
    let n = damaged.len();
    let place = |rng: &mut Rng, room: usize| match rng.below(3) {
        0 => rng.below(n - room),
        1 => rng.below((n - room).min(1500)),
        _ => rng.below(n - room) * rng.below(n - room) / n,
    };
    for _ in 0..=rng.below(3) {
        match round % 6 {
            // Bytes.
            0 => {
                let at = place(&mut rng, 1);
                damaged[at] = rng.next_u64() as u8;
            }
            // Bits.
            1 => {
                let at = place(&mut rng, 1);
                damaged[at] ^= 1 << rng.below(8);
            }
            // Lengths, offsets, types, sides of tensors: numbers of 32 and 64 bits.
            2 => {
                let at = place(&mut rng, 8) / 4 * 4;
                let edge = EDGES[rng.below(EDGES.len())].to_le_bytes();
                let width = if rng.below(2) == 0 { 4 } else { 8 };
                damaged[at..at + width].copy_from_slice(&edge[..width]);
            }
            // A number that is slightly wrong.
            3 => {
                let at = place(&mut rng, 1);
                damaged[at] = damaged[at].wrapping_add(if rng.below(2) == 0 { 1 } else { 255 });
            }
            // A piece that came twice, or from elsewhere.
            4 => {
                let length = 1 + rng.below(64);
                let (from, to) = (place(&mut rng, length), place(&mut rng, length));
                damaged.copy_within(from..from + length, to);
            }
            // An end that is missing, or begins to be something else.
            _ => {
                damaged.truncate(1 + rng.below(n));
                damaged.resize(damaged.len() + rng.below(2) * rng.below(64), 0);
                break;
            }
        }
    }
    damaged
}

/// Loads and uses models, projectors and adapters of the `rounds`; whatever comes of it, this process goes on. Returns how
/// many loaded.
fn use_damaged(rounds: std::ops::Range<u64>) -> [usize; 3] {
    let (model, directory) = tiny::load();
    let path = directory.path().join("tiny.gguf");
    let mmproj = directory.path().join("mmproj-tiny.gguf");
    let good = [tiny::model().bytes(), tiny::mmproj().bytes(), tiny::adapter().bytes()];
    let picture = Image::from_rgb(64, 64, vec![9; 64 * 64 * 3]).expect("right size");
    let prompt = Prompt::user("What?", vec![picture]).expect("no marks");
    let mut n_loaded = [0; 3];
    for round in rounds {
        // A damaged number may ask for a picture of many pixels.
        let soon = CancelToken::after(Duration::from_secs(2));
        let [model_bytes, mmproj_bytes, adapter_bytes] = good.each_ref().map(|bytes| damaged(bytes, round));
        std::fs::write(&path, &model_bytes).expect("writes");
        std::fs::write(&mmproj, &good[1]).expect("writes");
        if let Ok(model) = load(&path) {
            n_loaded[0] += 1;
            let options =
                SessionOptions { n_ctx: 64.min(model.info().n_ctx_train), n_threads: 1, ..SessionOptions::default() };
            if let (Ok(mut session), Ok(tokens)) = (Session::new(&model, &options), model.tokenize("Hello", true)) {
                let _ = session.prefill(0, &EncodedPrompt::from_tokens(tokens));
            }
            let _ = model.encode_until(&prompt, None, &soon);
        }
        std::fs::write(&path, &good[0]).expect("writes");
        std::fs::write(&mmproj, &mmproj_bytes).expect("writes");
        if let Ok(model) = load(&path) {
            n_loaded[1] += 1;
            let _ = model.encode_until(&prompt, None, &soon);
        }
        if let Ok(adapter) = Adapter::from_bytes(&model, &adapter_bytes) {
            n_loaded[2] += 1;
            let mut session = tiny::session(&model, 1, 64);
            if session.set_adapters(&[(Arc::new(adapter), 1.0)]).is_ok() {
                let _ = session.prefill(0, &tiny::prompt(&model, "Hello"));
            }
        }
    }
    n_loaded
}

#[test]
fn hundreds_of_damaged_files_end_in_errors_or_models_but_never_in_an_abort() {
    let n_loaded = use_damaged(0..150);
    // Damage of weights is not found, and does no harm.
    assert!(n_loaded.iter().all(|n| (1..150).contains(n)), "{n_loaded:?} of 150 each");
}

#[test]
#[ignore = "takes minutes; part of `make test-heavy`"]
fn thousands_of_damaged_files_end_in_errors_or_models_but_never_in_an_abort() {
    use_damaged(1000..6000);
}

#[test]
#[cfg(unix)]
fn a_pipe_in_place_of_a_file_is_refused_and_not_waited_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("model.gguf");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("every Unix has it");
    assert!(made.success());
    assert_eq!(load(&pipe).expect_err("no file").kind(), ErrorKind::InvalidFile);
}
