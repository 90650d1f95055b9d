use super::*;
use crate::lora::{LoraConfig, LoraGrads, Target};

fn run() -> RunIdentity {
    RunIdentity {
        base_model: "model".into(),
        architecture: "qwen3vl".into(),
        dataset: "data".into(),
        config: serde_json::json!({"rank": 2, "learning_rate": 0.1}),
        seed: 7,
    }
}

fn checkpoint(step: u64) -> Checkpoint {
    let tensors = [("blk.0.attn_q.weight".to_owned(), 8, 4)];
    let config = LoraConfig { rank: 2, alpha: 4.0, targets: [Target::Q].into(), ..LoraConfig::default() };
    let mut weights = LoraWeights::init(&config, &tensors, step).expect("valid");
    let mut optimizer = AdamW::new(AdamWOptions::default(), &weights);
    let mut grads = LoraGrads::zeros(&weights);
    grads.tensors_mut().for_each(|tensor| tensor.fill(0.1));
    optimizer.step(&mut weights, &grads, 0.01);
    let state =
        TrainState { run: run(), step, epoch: 1, position: 5, n_updates: 1, n_skipped_in_a_row: 0, metrics_bytes: 99 };
    Checkpoint { state, weights, optimizer, running: None }
}

fn save(store: &CheckpointStore, step: u64) -> PathBuf {
    let Checkpoint { state, weights, optimizer, running } = checkpoint(step);
    store.save(&state, &weights, &optimizer, running.as_ref()).expect("written")
}

fn newest(store: &CheckpointStore) -> Option<Checkpoint> {
    store.load_newest(&run(), AdamWOptions::default()).expect("readable").0
}

#[test]
fn the_newest_comes_back_to_the_bit_and_old_ones_go() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let store = CheckpointStore::open(&folder.path().join("checkpoints"), 2).expect("created");
    assert_eq!(newest(&store), None);
    fs::create_dir(folder.path().join("checkpoints/.part-killed")).expect("created");
    for step in [1, 2, 30] {
        save(&store, step);
    }
    save(&store, 30);
    assert_eq!(newest(&store), Some(checkpoint(30)));
    let names: Vec<_> =
        store.list().expect("readable").into_iter().map(|path| path.file_name().map(PathBuf::from)).collect();
    assert_eq!(names, ["step-00000002", "step-00000030"].map(|name| Some(PathBuf::from(name))));
    assert_eq!(fs::read_dir(folder.path().join("checkpoints")).expect("readable").count(), 3, "with the lock");
}

#[test]
fn damaged_checkpoints_are_passed_over() {
    let folder = tempfile::tempdir().expect("temporary directory");
    for name in [ADAPTER, MOMENTS, STATE, STATE_HASH] {
        let store = CheckpointStore::open(folder.path(), 5).expect("created");
        save(&store, 1);
        let damaged = save(&store, 2).join(name);
        let mut bytes = fs::read(&damaged).expect("readable");
        bytes.truncate(bytes.len() / 2);
        fs::write(&damaged, bytes).expect("writable");
        assert_eq!(newest(&store), Some(checkpoint(1)), "{name}");
        fs::remove_file(&damaged).expect("removable");
        assert_eq!(newest(&store), Some(checkpoint(1)), "{name}");
    }
}

#[test]
fn a_run_that_fell_back_keeps_what_it_writes() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let store = CheckpointStore::open(folder.path(), 2).expect("created");
    save(&store, 10);
    let damaged = save(&store, 20);
    fs::write(damaged.join(STATE), "{").expect("writable");
    assert_eq!(newest(&store), Some(checkpoint(10)));
    assert_eq!(store.load_newest(&run(), AdamWOptions::default()).expect("readable").1, [damaged]);
    drop(store);
    let store = CheckpointStore::open(folder.path(), 1).expect("created");
    let saved = save(&store, 13);
    assert_eq!(store.list().expect("readable"), [saved]);
    assert_eq!(newest(&store), Some(checkpoint(13)));
}

#[test]
fn checkpoints_of_other_runs_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let store = CheckpointStore::open(folder.path(), 1).expect("created");
    let path = save(&store, 1);
    for (other, reason) in [
        (RunIdentity { base_model: "other".into(), ..run() }, "base model"),
        (RunIdentity { dataset: "other".into(), ..run() }, "data set"),
        (RunIdentity { config: serde_json::json!({"rank": 4}), ..run() }, "configuration"),
        (RunIdentity { seed: 8, ..run() }, "seed"),
    ] {
        let error = store.load_newest(&other, AdamWOptions::default()).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        assert!(error.to_string().contains(reason), "{error}");
    }
    let state = path.join(STATE);
    let newer = fs::read_to_string(&state).expect("readable").replace("\"version\": 3", "\"version\": 4");
    fs::write(path.join(STATE_HASH), sha256(newer.as_bytes())).expect("writable");
    fs::write(&state, newer).expect("writable");
    let error = store.load_newest(&run(), AdamWOptions::default()).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    // As versions before the hash have it.
    let older = fs::read_to_string(&state).expect("readable").replace("\"version\": 4", "\"version\": 2");
    fs::remove_file(path.join(STATE_HASH)).expect("there");
    fs::write(&state, older).expect("writable");
    let error = store.load_newest(&run(), AdamWOptions::default()).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[test]
fn a_flipped_digit_of_the_state_is_damage() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let store = CheckpointStore::open(folder.path(), 2).expect("created");
    let state = save(&store, 1).join(STATE);
    let flipped = fs::read_to_string(&state).expect("readable").replace("\"position\": 5", "\"position\": 7");
    fs::write(&state, flipped).expect("writable");
    assert_eq!(newest(&store), None);
    save(&store, 1);
    assert_eq!(newest(&store), Some(checkpoint(1)), "written over");
}

#[test]
fn the_very_same_checkpoint_is_not_written_again() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let store = CheckpointStore::open(folder.path(), 2).expect("created");
    let witness = save(&store, 1).join("witness");
    fs::write(&witness, "").expect("writable");
    save(&store, 1);
    assert!(witness.exists(), "the same");
    let Checkpoint { state, weights, optimizer, .. } = checkpoint(1);
    let state = TrainState { metrics_bytes: 100, ..state };
    store.save(&state, &weights, &optimizer, None).expect("written");
    assert!(!witness.exists(), "of another state");
    assert_eq!(newest(&store).map(|newest| newest.state), Some(state));
}

#[test]
fn a_checkpoint_that_cannot_be_read_is_no_damaged_one() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let store = CheckpointStore::open(folder.path(), 5).expect("created");
    save(&store, 1);
    let moments = save(&store, 2).join(MOMENTS);
    fs::remove_file(&moments).expect("there");
    // Reading a folder fails in the manner of a disk that does not answer.
    fs::create_dir(&moments).expect("writable");
    let error = store.load_newest(&run(), AdamWOptions::default()).expect_err("not passed over");
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
}
