//! The same tokens, positions, embeddings, logits and greedy answers as Hugging Face transformers.
//!
//! Tolerances are those of the reference's README for the files that it has (F16); `OWLET_GOLDEN_F32` names a folder of
//! F32 files (`<model>-f32.gguf`, `mmproj-<model>-f32.gguf`) to check with the tighter ones.

mod common;

use std::path::{Path, PathBuf};

use common::golden::{self, Case};
use owlet_runtime::{
    EncodedPrompt, FlashAttention, Image, KvType, Message, Model, ModelOptions, Prompt, Segment, Session,
    SessionOptions, TokenId,
};

/// A converted reference model and what its numbers may differ by.
struct Reference {
    folder: PathBuf,
    model: Model,
    /// Largest difference of a logit (they range over about +-15), for text and for prompts with pictures.
    text_tolerance: f32,
    image_tolerance: f32,
    /// Largest difference of a number in an image embedding (values up to 5).
    embedding_tolerance: f32,
}

fn references() -> Vec<Reference> {
    let mut references = Vec::new();
    for name in ["tiny-qwen3vl-tied", "tiny-llama"] {
        let Some(folder) = golden::shared(name) else { continue };
        let tolerances = (0.06, 0.06, 5e-3);
        references.push(reference(&folder, &folder.join(format!("{name}-f16.gguf")), tolerances));
    }
    if let Some(files) = std::env::var_os("OWLET_GOLDEN_F32") {
        for name in ["tiny-qwen3vl-tied", "tiny-qwen3vl-untied", "tiny-qwen3", "tiny-llama"] {
            let Some(folder) = golden::shared(name) else { continue };
            let file = Path::new(&files).join(format!("{name}-f32.gguf"));
            references.push(reference(&folder, &file, (5e-4, 0.03, 5e-3)));
        }
    }
    references
}

fn reference(folder: &Path, file: &Path, tolerances: (f32, f32, f32)) -> Reference {
    // The tied model was made with other limits than the published ones.
    let pixels = if folder.ends_with("tiny-qwen3vl-tied") { (4096, 65_536) } else { (65_536, 16_777_216) };
    let name = file.file_name().expect("a file").to_string_lossy().into_owned();
    let beside = file.with_file_name(format!("mmproj-{name}"));
    let options = ModelOptions {
        mmproj: beside.is_file().then_some(beside),
        min_pixels: Some(pixels.0),
        max_pixels: Some(pixels.1),
        n_threads: 1,
        ..ModelOptions::default()
    };
    let model = Model::load(file, &options).expect("loads");
    let (text_tolerance, image_tolerance, embedding_tolerance) = tolerances;
    Reference { folder: folder.to_owned(), model, text_tolerance, image_tolerance, embedding_tolerance }
}

fn exact_session(model: &Model) -> Session {
    let options = SessionOptions {
        n_ctx: 1024,
        kv_type: KvType::F32,
        flash_attention: FlashAttention::Off,
        n_threads: 1,
        ..SessionOptions::default()
    };
    Session::new(model, &options).expect("makes a session")
}

fn encode(reference: &Reference, case: &Case) -> EncodedPrompt {
    match case.prompt(&reference.folder) {
        Some(prompt) => reference.model.encode(&prompt).expect("encodes"),
        None => EncodedPrompt::from_tokens(reference.model.tokenize(case.text(), true).expect("tokenizes")),
    }
}

/// Tokens with the placeholder of pictures repeated, as Hugging Face counts them.
fn flat_tokens(model: &Model, prompt: &EncodedPrompt) -> Vec<TokenId> {
    let pad = model.tokenize("<|image_pad|>", true).expect("tokenizes")[0];
    let tokens = |segment: &Segment| match segment {
        Segment::Tokens(tokens) => tokens.clone(),
        Segment::Image(image) => vec![pad; image.n_tokens],
    };
    prompt.segments.iter().flat_map(tokens).collect()
}

fn largest_difference(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn argmax(logits: &[f32]) -> TokenId {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.expect("there are tokens").0 as TokenId
}

#[test]
fn prompts_have_the_tokens_and_positions_of_hugging_face() {
    for reference in references() {
        for case in golden::cases(&reference.folder) {
            let prompt = encode(&reference, &case);
            assert_eq!(flat_tokens(&reference.model, &prompt), case.i32s("input_ids"), "{}", case.name);
            // Text models have no such number: their positions are plain.
            let next = case.description["next_position"].as_i64().unwrap_or(prompt.n_tokens() as i64);
            assert_eq!(i64::from(prompt.next_position()), next, "{}", case.name);
            if case.has("position_ids") {
                let axes = case.i32s("position_ids");
                let n = prompt.n_tokens();
                let expected: Vec<_> = (0..n).map(|i| [axes[i], axes[n + i], axes[2 * n + i], 0]).collect();
                assert_eq!(prompt.positions(), expected, "{}", case.name);
            }
        }
    }
}

#[test]
fn image_embeddings_are_those_of_hugging_face() {
    for reference in references() {
        for case in golden::cases(&reference.folder).iter().filter(|case| case.has("vision_embeds")) {
            let prompt = encode(&reference, case);
            let images = prompt.segments.iter().filter_map(|segment| match segment {
                Segment::Image(image) => Some(image),
                Segment::Tokens(_) => None,
            });
            let rows: Vec<&[f32]> = images.flat_map(|image| image.data.chunks(image.width_embd)).collect();
            let width = reference.model.info().n_embd;
            let names = ["vision_embeds".to_owned()].into_iter().chain((0..9).map(|k| format!("deepstack_{k}")));
            for (share, name) in names.take_while(|name| case.has(name)).enumerate() {
                let columns = share * width..(share + 1) * width;
                let got: Vec<f32> = rows.iter().flat_map(|row| &row[columns.clone()]).copied().collect();
                let difference = largest_difference(&got, &case.f32s(&name));
                assert!(difference < reference.embedding_tolerance, "{} {name}: {difference}", case.name);
            }
        }
    }
}

#[test]
fn logits_and_greedy_answers_are_those_of_hugging_face() {
    for reference in references() {
        let mut session = exact_session(&reference.model);
        let n_vocab = reference.model.info().n_vocab;
        for case in golden::cases(&reference.folder) {
            let has_images = case.has("image_grid_thw");
            let tolerance = if has_images { reference.image_tolerance } else { reference.text_tolerance };
            session.clear(0).expect("sequence 0");
            session.prefill(0, &encode(&reference, &case)).expect("fits");
            let all = case.f32s("logits");
            let difference = largest_difference(session.logits(0).expect("has logits"), &all[all.len() - n_vocab..]);
            assert!(difference < tolerance, "{} {}: {difference}", reference.folder.display(), case.name);

            let expected_logits = case.f32s("greedy_logits");
            for (step, &expected) in case.i32s("greedy_ids").iter().enumerate() {
                let logits = session.logits(0).expect("has logits");
                let token = argmax(logits);
                assert_eq!(token, expected, "{} step {step}", case.name);
                let difference = largest_difference(logits, &expected_logits[step * n_vocab..][..n_vocab]);
                assert!(difference < tolerance, "{} step {step}: {difference}", case.name);
                session.decode(&[(0, token)]).expect("fits");
            }
        }
    }
}

#[test]
fn texts_have_the_tokens_of_hugging_face() {
    let Some(folder) = golden::shared("tokenizer") else { return };
    for (file, model) in [("qwen.json", "tiny-qwen3vl-tied"), ("smol.json", "tiny-llama")] {
        let path = folder.parent().expect("has a parent").join(model).join(format!("{model}-f16.gguf"));
        let model = Model::load(path, &ModelOptions { text_only: true, ..ModelOptions::default() }).expect("loads");
        let table = golden::json(&folder.join(file));
        for case in table["cases"].as_array().expect("a list") {
            // The reference marks the one text that llama.cpp does not normalise (NFC).
            if case["llama_cpp_gives_the_same_ids"] == false {
                continue;
            }
            let text = case["text"].as_str().expect("a string");
            let expected: Vec<_> = case["ids"].as_array().expect("a list").iter().map(|id| id.as_i64()).collect();
            let ids = model.tokenize(text, true).expect("tokenizes");
            let got: Vec<_> = ids.iter().map(|&id| Some(i64::from(id))).collect();
            assert_eq!(got, expected, "{text:?}");
        }
    }
}

#[test]
fn conversations_are_rendered_like_those_of_hugging_face() {
    let Some(folder) = golden::shared("tokenizer") else { return };
    for reference in references() {
        let name = reference.folder.file_name().expect("a folder").to_string_lossy().into_owned();
        let pad = reference.model.tokenize("<|image_pad|>", true).expect("tokenizes")[0];
        for case in golden::json(&folder.join("chat_templates.json")).as_array().expect("a list") {
            // Cases with further keys pass variables that only some templates know.
            let is_plain = case.as_object().expect("an object").len() == 5;
            if case["model"] != name.as_str() || case["add_generation_prompt"] == false || !is_plain {
                continue;
            }
            let picture = || Image::from_rgb(64, 64, vec![0; 64 * 64 * 3]).expect("right size");
            let messages = case["messages"].as_array().expect("a list").iter().map(|message| Message {
                role: golden::role(message["role"].as_str().expect("a role")),
                parts: golden::parts(&message["content"], &mut std::iter::repeat_with(picture)),
            });
            let prompt = Prompt { messages: messages.collect() };
            let encoded = reference.model.encode(&prompt).expect("encodes");
            let tokens = encoded.segments.iter().flat_map(|segment| match segment {
                Segment::Tokens(tokens) => tokens.clone(),
                Segment::Image(_) => vec![pad],
            });
            let rendered = case["rendered"].as_str().expect("a string");
            let expected = reference.model.tokenize(rendered, true).expect("tokenizes");
            assert_eq!(tokens.collect::<Vec<_>>(), expected, "{case}");
        }
    }
}
