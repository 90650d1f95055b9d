//! Files that are missing, cut off, unaligned or corrupt.

use owlet_runtime::{Adapter, ErrorKind, Image, Prompt, rng::Rng};

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

/// `bytes` with one to four bytes changed, every other time near the start, where the numbers that matter are.
fn corrupted(bytes: &[u8], round: u64) -> Vec<u8> {
    let mut rng = Rng::keyed(&[77, round]);
    let mut corrupt = bytes.to_vec();
    for _ in 0..=rng.below(4) {
        let at = rng.below(if round.is_multiple_of(2) { 1500 } else { bytes.len() });
        corrupt[at] = rng.next_u64() as u8;
    }
    corrupt
}

#[test]
fn hundreds_of_corrupted_files_end_in_errors_or_models_but_never_in_an_abort() {
    let (model, directory) = tiny::load();
    let path = directory.path().join("tiny.gguf");
    let mmproj = directory.path().join("mmproj-tiny.gguf");
    let good = [tiny::model().bytes(), tiny::mmproj().bytes(), tiny::adapter().bytes()];
    let picture = Image::from_rgb(64, 64, vec![9; 64 * 64 * 3]).expect("right size");
    let prompt = Prompt::user("What?", vec![picture]).expect("no marks");
    for round in 0..100 {
        let [model_bytes, mmproj_bytes, adapter_bytes] = good.each_ref().map(|bytes| corrupted(bytes, round));
        std::fs::write(&path, &model_bytes).expect("writes");
        std::fs::write(&mmproj, &good[1]).expect("writes");
        if let Ok(model) = load(&path) {
            let mut session = tiny::session(&model, 1, 64);
            let _ = session.prefill(0, &tiny::prompt(&model, "Hello"));
        }
        std::fs::write(&path, &good[0]).expect("writes");
        std::fs::write(&mmproj, &mmproj_bytes).expect("writes");
        if let Ok(model) = load(&path) {
            let _ = model.encode(&prompt);
        }
        let _ = Adapter::from_bytes(&model, &adapter_bytes);
    }
}
