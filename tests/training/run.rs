//! A whole run as an app drives it: slices, events, a folder that a run is resumed from, a disk that fails for a while.

use std::time::Duration;

use owlet::{
    Deadline, Picture,
    run::{AdaptRun, Advice, Begin, CheckpointPace, RunEvent, RunOptions},
};

use super::*;

const SLICE: Duration = Duration::from_millis(1);

fn short() -> TrainerOptions {
    TrainerOptions { n_steps: 3, ..options() }
}

fn in_folder(folder: &Path, begin: Begin, pace: CheckpointPace) -> RunOptions {
    RunOptions { folder: Some(folder.to_owned()), begin, pace, ..RunOptions::default() }
}

/// After every step, and within them as often as there is something new.
const OFTEN: CheckpointPace = CheckpointPace { n_steps: 1, time: Duration::ZERO };
/// At the end only.
const SELDOM: CheckpointPace = CheckpointPace { n_steps: u64::MAX, time: Duration::MAX };

impl Bench {
    fn run(&self, options: TrainerOptions, run: RunOptions) -> owlet::Result<AdaptRun> {
        AdaptRun::open(&self.model, dataset(self.folder.path()), Arc::new(Letters), options, run)
    }

    /// Adapter and metrics of a run that nobody disturbs.
    fn undisturbed(&self, options: TrainerOptions) -> (Vec<u8>, Vec<StepMetrics>) {
        let n_steps = options.n_steps;
        let mut trainer = self.trainer(options);
        let metrics = (0..n_steps).map(|_| timeless(step(&mut trainer))).collect();
        (self.adapter(&trainer), metrics)
    }
}

fn metrics_file(folder: &Path) -> Vec<StepMetrics> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).expect("metrics");
    text.lines().map(|line| timeless(serde_json::from_str(line).expect("JSON"))).collect()
}

/// One slice, its events beside.
fn slice(run: &mut AdaptRun, events: &mut Vec<RunEvent>) -> owlet::Result<bool> {
    run.advance(&Deadline::after(SLICE), &mut |event| events.push(event))
}

#[test]
fn a_run_in_slices_that_is_given_up_and_resumed_ends_with_the_same_bits() {
    let bench = Bench::new();
    let expected = bench.undisturbed(short());
    let folder = bench.folder.path().join("run");
    let mut events = Vec::new();
    let mut n_opened = 0;
    let adapter = loop {
        let mut run = bench.run(short(), in_folder(&folder, Begin::ResumeIfAny, OFTEN)).expect("its own folder");
        n_opened += 1;
        let n_before = events.len();
        let is_checkpoint = |event: &RunEvent| matches!(event, RunEvent::Checkpoint { .. });
        // Given up a little after its third checkpoint, as an app that is killed.
        while events[n_before..].iter().filter(|event| is_checkpoint(event)).count() < 3 && !run.is_done() {
            slice(&mut run, &mut events).expect("nothing stops it");
        }
        for _ in 0..3 {
            slice(&mut run, &mut events).expect("nothing stops it");
        }
        if run.is_done() {
            break bench.adapter(run.trainer());
        }
    };
    assert!(n_opened > 2, "{n_opened}");
    assert!(adapter == expected.0);
    assert_eq!(metrics_file(&folder), expected.1);
    let within = |event: &RunEvent| matches!(event, RunEvent::Checkpoint { n_parts: 1.., .. });
    let sampled = |event: &RunEvent| matches!(event, RunEvent::Working(StepEvent::Sampling(_)));
    let learned = |event: &RunEvent| matches!(event, RunEvent::Working(StepEvent::Learning { .. }));
    assert!(events.iter().any(within) && events.iter().any(sampled) && events.iter().any(learned));
    let told = events.iter().filter_map(|event| match event {
        RunEvent::StepDone(metrics) => Some(metrics.step),
        _ => None,
    });
    assert_eq!(told.max(), Some(2));

    // What is done stays done.
    let mut run = bench.run(short(), in_folder(&folder, Begin::Resume, OFTEN)).expect("the same run");
    assert!(run.is_done() && slice(&mut run, &mut events).expect("nothing to do"));
}

#[test]
fn a_pause_is_kept_by_a_checkpoint_and_a_cancel_does_nothing_more() {
    let bench = Bench::new();
    let expected = bench.undisturbed(short());
    let folder = bench.folder.path().join("run");
    let mut run = bench.run(short(), in_folder(&folder, Begin::Anew, SELDOM)).expect("an empty folder");
    let mut events = Vec::new();
    while run.trainer().n_parts_done() == 0 {
        slice(&mut run, &mut events).expect("nothing stops it");
    }
    let cancel = CancelToken::new();
    cancel.cancel();
    let stopped = Deadline::never().or_cancelled(&cancel);
    assert!(!run.advance(&stopped, &mut |event| panic!("{event:?}")).expect("no error of its own"));
    let n_parts = run.trainer().n_parts_done();
    let mut saved = Vec::new();
    run.checkpoint_now(&mut |event| saved.push(event)).expect("a writable folder");
    assert!(
        matches!(saved[..], [RunEvent::Checkpoint { n_steps: 0, n_parts: saved }] if saved == n_parts),
        "{saved:?}"
    );
    drop(run);

    let mut run = bench.run(short(), in_folder(&folder, Begin::Resume, SELDOM)).expect("the same run");
    assert_eq!(run.trainer().n_parts_done(), n_parts);
    while !run.advance(&Deadline::never(), &mut |_| {}).expect("nothing stops it") {}
    assert!(bench.adapter(run.trainer()) == expected.0);
    assert_eq!(metrics_file(&folder), expected.1);
}

#[test]
fn a_disk_that_fails_for_a_while_loses_nothing() {
    let bench = Bench::new();
    let (folder, aside) = (bench.folder.path().join("run"), bench.folder.path().join("aside"));
    let pace = CheckpointPace { n_steps: 1, time: Duration::MAX };
    let mut run = bench.run(short(), in_folder(&folder, Begin::Anew, pace)).expect("an empty folder");
    let whole_step = |run: &mut AdaptRun| run.advance(&Deadline::never(), &mut |_| {});
    assert!(!whole_step(&mut run).expect("a writable folder"));
    fs::rename(&folder, &aside).expect("renamed");
    // The second step is done, the last one is never begun before the checkpoint of the second is there.
    for _ in 0..2 {
        assert!(whole_step(&mut run).is_err());
        assert_eq!(run.n_steps_done(), 2);
    }
    fs::rename(&aside, &folder).expect("renamed");
    assert!(whole_step(&mut run).expect("the disk is back") && run.is_done());
    drop(run);
    assert_eq!(metrics_file(&folder), bench.undisturbed(short()).1);
    assert!(bench.run(short(), in_folder(&folder, Begin::Resume, pace)).expect("the same run").is_done());
}

#[test]
fn a_folder_is_begun_or_gone_on_from_as_was_asked() {
    let bench = Bench::new();
    let folder = bench.folder.path().join("run");
    let kind = |options: TrainerOptions, begin: Begin| {
        bench.run(options, in_folder(&folder, begin, SELDOM)).err().map(|error| error.kind())
    };
    assert_eq!(kind(short(), Begin::Resume), Some(ErrorKind::NotFound));
    let mut run = bench.run(short(), in_folder(&folder, Begin::ResumeIfAny, SELDOM)).expect("an empty folder");
    run.advance(&Deadline::never(), &mut |_| {}).expect("nothing stops it");
    run.checkpoint_now(&mut |_| {}).expect("a writable folder");
    assert_eq!(kind(short(), Begin::Resume), Some(ErrorKind::Busy));
    drop(run);
    assert_eq!(kind(short(), Begin::Anew), Some(ErrorKind::InvalidInput));
    assert_eq!(kind(TrainerOptions { seed: 4, ..short() }, Begin::ResumeIfAny), Some(ErrorKind::Mismatch));
    assert_eq!(kind(short(), Begin::ResumeIfAny), None);
}

#[test]
fn a_run_that_learns_nothing_is_told_so_once() {
    let bench = Bench::new();
    let options = TrainerOptions {
        n_steps: 7,
        filter: Some(owlet::GroupFilter { max_rounds: 1, ..owlet::GroupFilter::default() }),
        ..options()
    };
    let data = dataset(bench.folder.path());
    let run = RunOptions::default();
    let mut run = AdaptRun::open(&bench.model, data, Arc::new(Never), options, run).expect("good options");
    let mut advice = Vec::new();
    let mut listen = |event| {
        if let RunEvent::Advice(given) = event {
            advice.push(given);
        }
    };
    while !run.advance(&Deadline::never(), &mut listen).expect("nothing stops it") {}
    assert_eq!(advice, [Advice::Idle { n_steps: 5, accuracy: 0.0 }]);
}

/// A worker thread may own it.
#[test]
fn a_run_moves_between_threads() {
    let bench = Bench::new();
    let mut run = bench.run(short(), RunOptions::default()).expect("good options");
    let n_steps = std::thread::spawn(move || {
        run.advance(&Deadline::never(), &mut |_| {}).expect("nothing stops it");
        run.n_steps_done()
    });
    assert_eq!(n_steps.join().expect("no panic"), 1);
}

#[test]
fn pictures_in_memory_go_on_where_their_files_were() {
    let bench = Bench::new();
    let path = bench.folder.path().join("picture.png");
    image::RgbImage::from_fn(48, 32, |x, y| image::Rgb([x as u8 * 5, y as u8 * 7, 90])).save(&path).expect("written");
    let data = |picture: Picture| {
        let of_text = dataset(bench.folder.path()).samples()[0].clone();
        let sample = Sample { problem: "<image> what?".to_owned(), images: vec![picture], ..of_text };
        Dataset::from_samples(vec![sample]).expect("a picture")
    };
    let trainer = |picture: Picture| {
        let options = TrainerOptions { n_steps: 2, prompts_per_step: 1, ..options() };
        Trainer::new(&bench.model, data(picture), Arc::new(Letters), options).expect("good options")
    };
    let mut files = trainer(Picture::File(path.clone()));
    step(&mut files);
    let store = CheckpointStore::open(&bench.folder.path().join("checkpoints"), 2).expect("a writable folder");
    files.checkpoint(&store, 0).expect("a writable folder");
    let expected = timeless(step(&mut files));

    let bytes = fs::read(&path).expect("written above");
    fs::remove_file(&path).expect("written above");
    let mut memory = trainer(Picture::Encoded(bytes.into()));
    memory.resume(&store).expect("the same data");
    assert_eq!(timeless(step(&mut memory)), expected);
    assert_eq!(bench.adapter(&memory), bench.adapter(&files));
}
