//! A training run behind a worker: what apps call a job.
//!
//! The run is worked on in slices of [`SLICE`], between which other calls have their turn and a pause takes effect. A job
//! that is paused, cancelled or closed has written a checkpoint, if it has a folder.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use owlet_adapters::{
    data::Dataset,
    evaluate::Evaluation,
    file::Precision,
    metrics::StepMetrics,
    options::TrainerOptions,
    reward::Reward,
    rollout::RolloutProgress,
    run::{AdaptRun, RunEvent, RunOptions},
};
use owlet_runtime::{Adapter, CancelToken, Deadline, Error, ErrorKind, Model, Result};

use crate::{
    pending::Pending,
    worker::{Progress, Worker, background},
};

/// How long a job works before it looks whether something else is wanted of it.
pub const SLICE: Duration = Duration::from_millis(100);

/// Name of a job's thread, for profilers.
const THREAD: &str = "owlet-job";

/// Hears of a job on its thread. An error ends [`Job::run`] with that error; the job is none the worse.
pub type Observer = Box<dyn FnMut(JobEvent) -> Result<()> + Send>;

/// What a job tells.
#[derive(Clone, Debug)]
pub enum JobEvent {
    /// What its run tells.
    Run(RunEvent),
    /// It rests until [`Job::resume`]. A checkpoint, if it has a folder, was told before.
    Paused,
    /// It goes on.
    Resumed,
}

/// What a job is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Nothing: nobody runs it.
    Idle,
    /// It trains.
    Running,
    /// It is run, and rests.
    Paused,
    /// The last step is done.
    Done,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct JobReport {
    /// Steps done, those of earlier processes included.
    pub n_steps: u64,
    /// The last step of this call, if it finished one.
    pub last_step: Option<Box<StepMetrics>>,
}

/// A training run with a thread of its own.
pub struct Job {
    worker: Worker<AdaptRun>,
    status: Arc<Status>,
    model: Model,
}

/// What is known of a job without asking its thread.
struct Status {
    is_paused: AtomicBool,
    state: Mutex<JobState>,
}

impl Status {
    fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::Relaxed)
    }

    fn state(&self) -> JobState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: JobState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Takes a job that nobody runs.
    fn begin(self: &Arc<Self>) -> Result<Turn> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, JobState::Running | JobState::Paused) {
            return Err(Error::new(ErrorKind::Busy, "the job is running already"));
        }
        *state = JobState::Running;
        Ok(Turn(Arc::clone(self)))
    }
}

/// The right to run a job, given back when it is dropped.
struct Turn(Arc<Status>);

impl Drop for Turn {
    fn drop(&mut self) {
        if self.0.state() != JobState::Done {
            self.0.set(JobState::Idle);
        }
    }
}

impl Job {
    /// Prepares a run, or goes on with that of a folder; see [`AdaptRun::open`], whose errors are those of the result.
    pub fn open(
        model: &Model,
        dataset: Dataset,
        reward: Arc<dyn Reward>,
        options: TrainerOptions,
        run: RunOptions,
        cancel: &CancelToken,
    ) -> Pending<Self> {
        let model = model.clone();
        background("owlet-open", cancel, move |_| {
            let run = AdaptRun::open(&model, dataset, reward, options, run)?;
            let state = Mutex::new(if run.is_done() { JobState::Done } else { JobState::Idle });
            let status = Arc::new(Status { is_paused: AtomicBool::new(false), state });
            Ok(Self { worker: Worker::start(THREAD, run)?, status, model })
        })
    }

    /// Trains to the last step. What fails or is cancelled can be run again and goes on from there.
    ///
    /// The result's errors are `Busy` while another call runs the job; `Cancelled`, after a checkpoint; those of
    /// [`AdaptRun::advance`]; those of `observer`.
    pub fn run(&self, cancel: &CancelToken, observer: Observer) -> Pending<JobReport> {
        let status = Arc::clone(&self.status);
        let mut call = Run { status, turn: None, observer, failure: None, last_step: None, was_paused: false };
        self.worker.submit_slices(cancel, move |run, cancel| {
            let progress = call.slice(run, cancel);
            if !matches!(progress, Ok(Progress::More | Progress::Rest)) {
                call.turn = None;
            }
            progress
        })
    }

    /// Has the job rest from the end of the running slice on, and write a checkpoint then.
    pub fn pause(&self) {
        self.status.is_paused.store(true, Ordering::Relaxed);
    }

    /// Has the job go on.
    pub fn resume(&self) {
        self.status.is_paused.store(false, Ordering::Relaxed);
        self.worker.wake();
    }

    /// What it is doing.
    pub fn state(&self) -> JobState {
        self.status.state()
    }

    /// The model that is trained.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Steps done, between two slices; see [`AdaptRun::n_steps_done`].
    pub fn n_steps_done(&self, cancel: &CancelToken) -> Pending<u64> {
        self.worker.submit(cancel, |run, _| Ok(run.n_steps_done()))
    }

    /// Writes the adapter as it is after the last complete step; see [`AdaptRun::write_adapter`].
    pub fn write_adapter(&self, path: PathBuf, precision: Precision, cancel: &CancelToken) -> Pending<()> {
        self.worker.submit(cancel, move |run, _| run.write_adapter(&path, precision))
    }

    /// The same, for sessions of the model, without a file.
    pub fn adapter(&self, cancel: &CancelToken) -> Pending<Arc<Adapter>> {
        let model = self.model.clone();
        self.worker.submit(cancel, move |run, _| {
            let bytes = run.adapter()?.to_bytes(Precision::F32)?;
            Ok(Arc::new(Adapter::from_bytes(&model, &bytes)?))
        })
    }

    /// Greedy answers to `dataset`, scored, with the adapter as it is after the last complete step; see [`AdaptRun::evaluate`].
    pub fn evaluate(
        &self,
        dataset: Dataset,
        cancel: &CancelToken,
        mut on_progress: Box<dyn FnMut(RolloutProgress) -> Result<()> + Send>,
    ) -> Pending<Evaluation> {
        self.worker.submit(cancel, move |run, cancel| {
            let mut failure = None;
            let evaluation = run.evaluate(&dataset, cancel, &mut |progress| {
                if failure.is_none()
                    && let Err(error) = on_progress(progress)
                {
                    failure = Some(error);
                    cancel.cancel();
                }
            });
            failure.map_or(evaluation, Err)
        })
    }
}

/// A call of [`Job::run`].
struct Run {
    status: Arc<Status>,
    turn: Option<Turn>,
    observer: Observer,
    /// Of the observer.
    failure: Option<Error>,
    last_step: Option<Box<StepMetrics>>,
    was_paused: bool,
}

impl Run {
    fn slice(&mut self, run: &mut AdaptRun, cancel: &CancelToken) -> Result<Progress<JobReport>> {
        if self.turn.is_none() {
            self.turn = Some(self.status.begin()?);
        }
        // Whoever cancels does not wait for the end of a pause.
        let is_paused = self.status.is_paused() && !cancel.is_cancelled();
        let was_paused = std::mem::replace(&mut self.was_paused, is_paused);
        if is_paused && !was_paused {
            run.checkpoint_now(&mut |event| self.hear(JobEvent::Run(event)))?;
            self.status.set(JobState::Paused);
            self.hear(JobEvent::Paused);
        } else if was_paused && !is_paused {
            self.status.set(JobState::Running);
            self.hear(JobEvent::Resumed);
        }
        let mut is_done = false;
        if !is_paused && self.failure.is_none() {
            // A listener that fails ends the slice as well.
            let stop = cancel.child();
            let deadline = Deadline::after(SLICE).or_cancelled(&stop);
            is_done = run.advance(&deadline, &mut |event| {
                self.hear(JobEvent::Run(event));
                if self.failure.is_some() {
                    stop.cancel();
                }
            })?;
        }
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        if is_paused {
            return Ok(Progress::Rest);
        }
        if is_done {
            self.status.set(JobState::Done);
            return Ok(Progress::Done(JobReport { n_steps: run.n_steps_done(), last_step: self.last_step.take() }));
        }
        if let Err(error) = cancel.check() {
            return Err(match run.checkpoint_now(&mut |_| {}) {
                Ok(()) => error,
                Err(lost) => error.source(lost),
            });
        }
        Ok(Progress::More)
    }

    fn hear(&mut self, event: JobEvent) {
        if let JobEvent::Run(RunEvent::StepDone(metrics)) = &event {
            self.last_step = Some(metrics.clone());
        }
        if self.failure.is_none() {
            self.failure = (self.observer)(event).err();
        }
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Job({:?})", self.state())
    }
}
