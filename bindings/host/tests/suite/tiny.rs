//! The embedded model and a data set for it, on a disk.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use owlet_adapters::{data::Dataset, lora::LoraConfig, optim::Schedule, options::TrainerOptions};
use owlet_models::{DatasetOptions, write_dataset};
use owlet_runtime::{
    AnswerOptions, Image, Message, Model, ModelOptions, SessionOptions, conversation::ConversationOptions,
};
use tempfile::TempDir;

/// Loaded once for all tests, with the projector beside it.
pub(crate) fn model() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/owlet-tiny-F16.gguf");
        let model = Model::load(path, &ModelOptions { n_threads: 1, ..ModelOptions::default() });
        model.expect("the embedded model loads")
    })
}

pub(crate) fn session_options() -> SessionOptions {
    SessionOptions { n_ctx: 512, n_seq: 2, n_threads: 1, ..SessionOptions::default() }
}

pub(crate) fn conversation_options(max_new_tokens: usize) -> ConversationOptions {
    ConversationOptions { answer: AnswerOptions::greedy(max_new_tokens), ..ConversationOptions::default() }
}

/// A question with a picture.
pub(crate) fn question(text: &str) -> Message {
    let rgb = (0..64 * 64).flat_map(|i| [(i % 64 * 4) as u8, (i / 64 * 4) as u8, 90]).collect();
    Message::user(text, vec![Image::from_rgb(64, 64, rgb).expect("right size")]).expect("no marks")
}

/// `count` samples of the synthetic tasks, whose pictures lie in the folder.
pub(crate) fn dataset(count: u64) -> (TempDir, Dataset) {
    let folder = TempDir::new().expect("a folder");
    let directory: PathBuf = folder.path().join("data");
    write_dataset(&directory, &DatasetOptions { count, ..DatasetOptions::default() }).expect("a data set");
    let data = Dataset::open(&directory.join("data.jsonl")).expect("a good data set");
    (folder, data)
}

/// A run of `n_steps` small steps.
pub(crate) fn trainer_options(n_steps: u64) -> TrainerOptions {
    TrainerOptions {
        seed: 3,
        n_steps,
        prompts_per_step: 2,
        group_size: 2,
        max_new_tokens: 8,
        max_prompt_tokens: 200,
        n_sequences: 4,
        filter: None,
        lora: LoraConfig { rank: 2, ..LoraConfig::default() },
        schedule: Schedule { learning_rate: 0.01, ..Schedule::default() },
        n_threads: 1,
        ..TrainerOptions::default()
    }
}
