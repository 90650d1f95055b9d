//! Training behind a thread: progress, pauses, cancelling, and what is left of it.

use std::{
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use owlet_adapters::{
    data::{Dataset, Sample},
    reward::{Reward, RewardParts},
    run::{Begin, RunEvent, RunOptions},
};
use owlet_host::{CancelToken, Job, JobEvent, JobState, Observer};
use owlet_runtime::{Error, ErrorKind, Result};
use tempfile::TempDir;

use crate::tiny::{dataset, model, trainer_options};

/// Judges by the length of a response, or not at all.
struct Length {
    can_judge: Mutex<bool>,
}

impl Length {
    fn new() -> Arc<Self> {
        Arc::new(Self { can_judge: Mutex::new(true) })
    }
}

impl Reward for Length {
    fn name(&self) -> &str {
        "length"
    }

    fn score(&self, response: &str, _: &Sample) -> Result<RewardParts> {
        if !*self.can_judge.lock().expect("no panic") {
            return Err(Error::new(ErrorKind::Callback, "no judgement"));
        }
        Ok(RewardParts { accuracy: (response.len() % 7) as f64 / 6.0, ..RewardParts::default() })
    }
}

fn open(data: &Dataset, reward: &Arc<Length>, n_steps: u64, folder: Option<&TempDir>) -> Result<Job> {
    let folder = folder.map(|folder| folder.path().join("run"));
    let run = RunOptions { folder, begin: Begin::ResumeIfAny, ..RunOptions::default() };
    let reward: Arc<dyn Reward> = reward.clone();
    Job::open(model(), data.clone(), reward, trainer_options(n_steps), run, &CancelToken::new()).wait()
}

/// An observer, and what it heard.
fn ear() -> (Arc<Mutex<Vec<JobEvent>>>, Observer) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&heard);
    let observer = move |event| {
        into.lock().expect("no panic").push(event);
        Ok(())
    };
    (heard, Box::new(observer))
}

fn n_steps_heard(heard: &Mutex<Vec<JobEvent>>) -> usize {
    let is_step = |event: &&JobEvent| matches!(event, JobEvent::Run(RunEvent::StepDone(_)));
    heard.lock().expect("no panic").iter().filter(is_step).count()
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..6000 {
        if is_so() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{what} did not come about within a minute");
}

#[test]
fn a_job_that_was_paused_cancelled_and_opened_again_ends_in_the_same_adapter() {
    let (_folder, data) = dataset(4);
    let (reward, no_cancel) = (Length::new(), CancelToken::new());
    let whole = open(&data, &reward, 3, None).expect("a job");
    let report = whole.run(&no_cancel, ear().1).wait().expect("trained");
    assert_eq!((report.n_steps, report.last_step.map(|step| step.step)), (3, Some(2)));
    assert_eq!(whole.state(), JobState::Done);

    let kept = TempDir::new().expect("a folder");
    let job = open(&data, &reward, 3, Some(&kept)).expect("a job");
    job.pause();
    let (heard, observer) = ear();
    let running = job.run(&no_cancel, observer);
    wait_until("a pause", || job.state() == JobState::Paused);
    // Others have their turn while it rests.
    assert_eq!(job.n_steps_done(&no_cancel).wait().expect("told"), 0);
    assert_eq!(job.run(&no_cancel, ear().1).wait().expect_err("it runs already").kind(), ErrorKind::Busy);
    job.resume();
    wait_until("a step", || n_steps_heard(&heard) == 1);
    drop(running);
    wait_until("the end of the run", || job.state() == JobState::Idle);
    {
        let heard = heard.lock().expect("no panic");
        assert!(heard.iter().any(|event| matches!(event, JobEvent::Paused)), "{heard:?}");
        assert!(heard.iter().any(|event| matches!(event, JobEvent::Resumed)), "{heard:?}");
    }
    assert_eq!(open(&data, &reward, 3, Some(&kept)).expect_err("the folder is taken").kind(), ErrorKind::Busy);
    drop(job);

    let again = open(&data, &reward, 3, Some(&kept)).expect("a job");
    assert!(again.n_steps_done(&no_cancel).wait().expect("told") >= 1);
    again.run(&no_cancel, ear().1).wait().expect("trained");
    let hash = |job: &Job| job.adapter(&no_cancel).wait().expect("an adapter").hash().to_owned();
    assert_eq!(hash(&again), hash(&whole));
    let evaluation = again.evaluate(data, &no_cancel, Box::new(|_| Ok(()))).wait().expect("evaluated");
    assert_eq!(evaluation.answers.len(), 4);
}

#[test]
fn what_fails_in_the_host_ends_the_run_and_not_the_job() {
    let (_folder, data) = dataset(2);
    let (reward, no_cancel) = (Length::new(), CancelToken::new());
    let job = open(&data, &reward, 1, None).expect("a job");
    *reward.can_judge.lock().expect("no panic") = false;
    let error = job.run(&no_cancel, ear().1).wait().expect_err("nobody judges");
    assert!(error.kind() == ErrorKind::Callback && error.to_string().contains("no judgement"), "{error}");
    *reward.can_judge.lock().expect("no panic") = true;
    let deaf: Observer = Box::new(|_| Err(Error::new(ErrorKind::Callback, "no ear")));
    assert_eq!(job.run(&no_cancel, deaf).wait().expect_err("nobody hears").to_string(), "no ear");
    assert_eq!(job.state(), JobState::Idle);
    assert_eq!(job.run(&no_cancel, ear().1).wait().expect("trained").n_steps, 1);
}
