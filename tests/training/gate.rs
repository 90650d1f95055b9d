//! The gate: a trained adapter goes live, a random or damaged one never does, and the one before comes back.

use owlet::{
    Deadline,
    gate::{AdapterGate, GateRule, Trial, active_adapter},
    run::{AdaptRun, RunOptions},
};

use super::*;

/// Questions that the training does not have.
fn held_out(bench: &Bench, n: usize) -> Dataset {
    let like = dataset(bench.folder.path()).samples()[0].clone();
    let sample = |index: usize| Sample { id: index.to_string(), problem: format!("what is {index}?"), ..like.clone() };
    Dataset::from_samples((0..n).map(sample).collect()).expect("no pictures")
}

struct Candidates {
    /// After a few steps, and after some more.
    early: std::path::PathBuf,
    late: std::path::PathBuf,
    /// An adapter of the same shape that nobody trained.
    random: std::path::PathBuf,
}

impl Candidates {
    fn train(bench: &Bench) -> Self {
        let options = TrainerOptions { n_steps: 24, ..options() };
        let data = dataset(bench.folder.path());
        let mut run = AdaptRun::open(&bench.model, data, Arc::new(Letters), options, RunOptions::default())
            .expect("good options");
        let [early, late, random] = ["early", "late", "random"].map(|name| bench.folder.path().join(name));
        while !run.advance(&Deadline::never(), &mut |_| {}).expect("nothing stops it") {
            if run.n_steps_done() == 18 {
                run.write_adapter(&early, Precision::F32).expect("a writable folder");
            }
        }
        run.write_adapter(&late, Precision::F32).expect("a writable folder");
        let mut file = run.adapter().expect("the model can be read");
        let mut rng = owlet_runtime::rng::Rng::keyed(&[7]);
        file.weights.modules.iter_mut().flat_map(|module| &mut module.b).for_each(|b| *b = rng.normal() as f32);
        file.write(&random, Precision::F32).expect("a writable folder");
        Self { early, late, random }
    }
}

#[test]
fn adapters_go_live_by_their_answers_and_come_back() {
    let bench = Bench::new();
    let Candidates { early, late, random } = Candidates::train(&bench);
    let (held_out, options) = (held_out(&bench, 30), options());
    let trial = Trial { model: &bench.model, held_out: &held_out, reward: &Letters, options: &options };
    let folder = bench.folder.path().join("gate");
    let bytes = |path: &Path| fs::read(path).expect("an adapter");
    let never = CancelToken::new();

    // In a folder with files of others, which stay.
    fs::create_dir(&folder).expect("a writable folder");
    let mine = folder.join("adapter-000001.gguf");
    fs::copy(&early, &mine).expect("a writable folder");
    let mut gate = AdapterGate::open(&folder, GateRule::default()).expect("nobody's folder");
    assert_eq!((gate.active(), active_adapter(&folder).expect("readable")), (None, None));
    assert_eq!(gate.activate().expect_err("nothing was accepted").kind(), ErrorKind::NotFound);
    assert_eq!(gate.rollback().expect_err("the base is live").kind(), ErrorKind::NotFound);

    let mut n_done = 0;
    let verdict = gate.consider(&early, &trial, &never, &mut |progress| {
        assert!(progress.n_done >= n_done && progress.n_responses == 60);
        n_done = progress.n_done;
    });
    let verdict = verdict.expect("an adapter of this model");
    assert!(verdict.is_accepted(), "{verdict:?}");
    assert!(verdict.changes.reward.change.low > 0.0 && verdict.against.is_none() && n_done == 60, "{verdict:?}");
    // Nothing is live before it is said, over a restart too; and the folder has one owner.
    assert_eq!(gate.active(), None);
    assert_eq!(AdapterGate::open(&folder, GateRule::default()).expect_err("taken").kind(), ErrorKind::Busy);
    drop(gate);
    let mut gate = AdapterGate::open(&folder, GateRule::default()).expect("its folder");
    assert!(gate.has_candidate());
    let first = gate.activate().expect("it was accepted");
    assert_eq!((gate.active().as_deref(), bytes(&first)), (Some(&*first), bytes(&early)));

    // A random adapter is refused, with reasons; what was accepted before and not activated is gone as well.
    let verdict = gate.consider(&random, &trial, &never, &mut |_| {}).expect("an adapter of this model");
    assert!(!verdict.is_accepted() && verdict.against.is_some(), "{verdict:?}");
    assert!(verdict.reasons.iter().all(|reason| reason.to_string().contains("reward")), "{verdict:?}");
    assert!(verdict.changes.reward.change.mean < -0.1, "{verdict:?}");
    assert_eq!(gate.activate().expect_err("refused").kind(), ErrorKind::NotFound);
    assert_eq!(gate.active().as_deref(), Some(&*first));
    drop(gate);

    // About as good as what is live: a rule with a margin takes it.
    let rule = GateRule { least_gain: -0.3, most_loss: 0.5, ..GateRule::default() };
    let mut gate = AdapterGate::open(&folder, rule).expect("its folder");
    assert!(gate.consider(&late, &trial, &never, &mut |_| {}).expect("runs").is_accepted());
    let second = gate.activate().expect("it was accepted");
    assert_eq!((bytes(&second), bytes(&first)), (bytes(&late), bytes(&early)), "the one before is kept");
    assert_eq!(active_adapter(&folder).expect("readable"), Some(second.clone()));
    Adapter::open(&bench.model, &second).expect("what is live can be used");
    assert_eq!(gate.rollback().expect("one is live"), Some(first.clone()));
    assert!(!second.exists() && bytes(&first) == bytes(&early));

    // A live file that the disk damaged gives way to the one before.
    assert!(gate.consider(&late, &trial, &never, &mut |_| {}).expect("runs").is_accepted());
    let third = gate.activate().expect("it was accepted");
    drop(gate);
    let mut damaged = bytes(&third);
    *damaged.last_mut().expect("not empty") ^= 1;
    fs::write(&third, damaged).expect("a writable folder");
    let mut gate = AdapterGate::open(&folder, rule).expect("its folder");
    assert_eq!((gate.damaged(), gate.active()), ([third].as_slice(), Some(first)));
    assert_eq!(gate.rollback().expect("one is live"), None, "the base");
    assert!(mine.exists());
    assert_eq!(gate.active(), None);
}

#[test]
fn what_cannot_be_judged_is_an_error_and_never_goes_live() {
    let bench = Bench::new();
    let path = bench.folder.path().join("adapter.gguf");
    let good = bench.trainer(options()).adapter().expect("the model can be read");
    good.write(&path, Precision::F32).expect("a writable folder");
    let whole = fs::read(&path).expect("written");
    let (few, enough, options) = (held_out(&bench, 29), held_out(&bench, 30), options());
    let folder = bench.folder.path().join("gate");
    // A fresh adapter changes nothing, and this rule would take it.
    let rule = GateRule { most_loss: 0.1, ..GateRule::default() };
    let mut gate = AdapterGate::open(&folder, rule).expect("an empty folder");
    let mut consider = |path: &Path, held_out: &Dataset, cancel: &CancelToken| {
        let trial = Trial { model: &bench.model, held_out, reward: &Letters, options: &options };
        let error = gate.consider(path, &trial, cancel, &mut |_| {}).expect_err("not to be judged");
        assert!(!gate.has_candidate() && gate.active().is_none());
        let names = fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
        assert!(names.into_iter().all(|name| name == "lock"), "copies are removed");
        error
    };
    let never = CancelToken::new();
    assert_eq!(consider(&path, &few, &never).kind(), ErrorKind::InvalidInput);
    let cancelled = CancelToken::new();
    cancelled.cancel();
    assert_eq!(consider(&path, &enough, &cancelled).kind(), ErrorKind::Cancelled);
    assert_eq!(consider(&path.with_extension("none"), &enough, &never).kind(), ErrorKind::NotFound);

    fs::write(&path, &whole[..whole.len() / 2]).expect("a writable folder");
    assert_eq!(consider(&path, &enough, &never).kind(), ErrorKind::InvalidFile);
    let mut infinite = good.clone();
    infinite.weights.modules[0].b[0] = f32::INFINITY;
    infinite.write(&path, Precision::F32).expect("a writable folder");
    let error = consider(&path, &enough, &never);
    assert!(error.kind() == ErrorKind::InvalidFile && error.to_string().contains("not finite"), "{error}");
    let mut other = good;
    other.provenance.as_mut().expect("our own").base_model = "another".to_owned();
    other.write(&path, Precision::F32).expect("a writable folder");
    assert_eq!(consider(&path, &enough, &never).kind(), ErrorKind::Mismatch);
}
