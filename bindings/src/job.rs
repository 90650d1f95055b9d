//! Training an adapter on the device.

use std::sync::Arc;

use owlet_adapters::{
    file::{AdapterFile, Precision},
    run::{self, Advice, RunEvent, RunOptions},
    trainer::StepEvent,
};
use owlet_host::{self as host, JobEvent};
use owlet_runtime as runtime;

use crate::{
    adapter::Adapter,
    data::Dataset,
    error::{CancelToken, Result, callback, token},
    evaluation::EvaluationReport,
    metrics::StepMetrics,
    model::Model,
    reward::{self, Reward},
    training::AdaptOptions,
};

/// A training run with a thread of its own.
///
/// What it has done is kept in its folder, by checkpoints and whenever it is paused, cancelled or closed: a job that is opened
/// with the same folder, options, data and reward goes on from there, to the same adapter as if it had never stopped.
#[derive(Debug, uniffi::Object)]
pub struct AdaptJob(host::Job);

/// Whether a job goes on from its folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Begin {
    /// From the beginning; checkpoints of an earlier run are an error.
    Anew,
    /// From the newest checkpoint; without one it is an error.
    Resume,
    /// From the newest checkpoint, or from the beginning where there is none. The default.
    ResumeIfAny,
}

/// What a job is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
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

/// What a job tells.
#[derive(Clone, Debug, PartialEq, uniffi::Enum)]
pub enum Progress {
    /// Answers are being written.
    Sampling {
        /// Answers that are done.
        n_done: u32,
        /// Answers of the step.
        n_answers: u32,
        /// Tokens written.
        n_tokens: u64,
    },
    /// Gradients are being computed.
    Learning {
        /// Questions that are done.
        n_done: u32,
        /// Questions of the step.
        n_groups: u32,
    },
    /// A step is complete.
    StepDone {
        /// Its numbers.
        metrics: StepMetrics,
    },
    /// A checkpoint is on the disk.
    Checkpoint {
        /// Steps in it.
        n_steps: u64,
    },
    /// Nothing was learned in several steps in a row: easier or harder questions, a higher temperature or larger groups may help.
    NothingLearned {
        /// Steps in a row.
        n_steps: u32,
        /// Mean accuracy of the last one's answers: below one half, the questions are too hard.
        accuracy: f64,
    },
    /// Gradients were not finite; the adapter stays as it was.
    UpdateSkipped {
        /// Steps done.
        n_steps: u64,
    },
    /// The job rests until `resume`.
    Paused,
    /// It goes on.
    Resumed,
}

/// Hears of a job.
#[uniffi::export(with_foreign)]
pub trait ProgressSink: Send + Sync {
    /// What happens, on the job's thread. What is thrown ends the run, which can go on.
    fn on_progress(&self, progress: Progress) -> Result<()>;
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq, uniffi::Record)]
pub struct AdaptReport {
    /// Steps done, those of earlier processes included.
    pub n_steps: u64,
    /// The last step of this call, if it finished one.
    pub last_step: Option<StepMetrics>,
}

#[uniffi::export]
impl AdaptJob {
    /// Prepares training over `model`, with a folder for checkpoints and `metrics.jsonl` (default: nothing is kept), and an
    /// adapter file to begin with (default: a fresh adapter). Without a reward, Owlet's own rules for the problem types score.
    ///
    /// Throws `InvalidInput` for options out of range; `ContextOverflow` for a question that is too long; `Unsupported` for a
    /// model that cannot be trained; `Limit` when it does not fit the memory budget; `Busy` when another job has the folder;
    /// `Mismatch` for a folder of another run.
    #[uniffi::constructor(default(options), default(reward = None, folder = None, begin = None, start = None, cancel = None))]
    #[expect(clippy::too_many_arguments, reason = "all but two have defaults in other languages")]
    pub async fn open(
        model: Arc<Model>,
        data: Arc<Dataset>,
        options: AdaptOptions,
        reward: Option<Arc<dyn Reward>>,
        folder: Option<String>,
        begin: Option<Begin>,
        start: Option<String>,
        cancel: Option<Arc<CancelToken>>,
    ) -> Result<Arc<Self>> {
        let trainer = options.build()?;
        let start = start.map(|path| AdapterFile::open(path.as_ref())).transpose()?;
        let run = RunOptions {
            folder: folder.map(Into::into),
            begin: begin.map_or(run::Begin::ResumeIfAny, Into::into),
            pace: options.pace(),
            start: start.map(|adapter| adapter.weights),
        };
        let reward = reward::build(reward)?;
        let opened = host::Job::open(&model.0, data.0.clone(), reward, trainer, run, &token(cancel));
        Ok(Arc::new(Self(opened.await?)))
    }

    /// Trains to the last step. A run that fails or is cancelled goes on from there when it is called again.
    ///
    /// Throws `Cancelled`, after a checkpoint; `Callback` when reward or sink throw; `Diverged`; `Busy` when it runs already.
    #[uniffi::method(default(sink = None, cancel = None))]
    pub async fn run(
        &self,
        sink: Option<Arc<dyn ProgressSink>>,
        cancel: Option<Arc<CancelToken>>,
    ) -> Result<AdaptReport> {
        let observer = move |event: JobEvent| {
            let Some(sink) = &sink else { return Ok(()) };
            sink.on_progress(event.into()).map_err(|error| callback("ProgressSink", error))
        };
        let report = self.0.run(&token(cancel), Box::new(observer)).await?;
        Ok(AdaptReport { n_steps: report.n_steps, last_step: report.last_step.as_deref().map(Into::into) })
    }

    /// Has the job rest, within a fraction of a second, and write a checkpoint then. `run` goes on waiting.
    pub fn pause(&self) {
        self.0.pause();
    }

    /// Has the job go on.
    pub fn resume(&self) {
        self.0.resume();
    }

    /// What it is doing.
    pub fn state(&self) -> JobState {
        match self.0.state() {
            host::JobState::Idle => JobState::Idle,
            host::JobState::Running => JobState::Running,
            host::JobState::Paused => JobState::Paused,
            host::JobState::Done => JobState::Done,
        }
    }

    /// Steps done, those of earlier processes included.
    pub async fn n_steps_done(&self) -> Result<u64> {
        Ok(self.0.n_steps_done(&runtime::CancelToken::new()).await?)
    }

    /// Writes the adapter as it is after the last complete step, as a GGUF file that llama.cpp loads too.
    pub async fn write_adapter(&self, path: String) -> Result<()> {
        Ok(self.0.write_adapter(path.into(), Precision::F32, &runtime::CancelToken::new()).await?)
    }

    /// The same without a file, for sessions of the model.
    pub async fn adapter(&self) -> Result<Arc<Adapter>> {
        Ok(Arc::new(Adapter(self.0.adapter(&runtime::CancelToken::new()).await?)))
    }

    /// Asks every sample of `data` once, greedily, with the adapter as it is after the last complete step, and scores the answers
    /// by the job's reward. Training waits meanwhile.
    #[uniffi::method(default(cancel))]
    pub async fn evaluate(&self, data: Arc<Dataset>, cancel: Option<Arc<CancelToken>>) -> Result<EvaluationReport> {
        Ok(self.0.evaluate(data.0.clone(), &token(cancel), Box::new(|_| Ok(()))).await?.into())
    }
}

crate::mirror_enum!(Begin => run::Begin { Anew, Resume, ResumeIfAny });

impl From<JobEvent> for Progress {
    fn from(event: JobEvent) -> Self {
        match event {
            JobEvent::Run(RunEvent::Working(StepEvent::Sampling(progress))) => Self::Sampling {
                n_done: progress.n_done as u32,
                n_answers: progress.n_responses as u32,
                n_tokens: progress.n_tokens as u64,
            },
            JobEvent::Run(RunEvent::Working(StepEvent::Learning { n_done, n_groups })) => {
                Self::Learning { n_done: n_done as u32, n_groups: n_groups as u32 }
            }
            JobEvent::Run(RunEvent::StepDone(metrics)) => Self::StepDone { metrics: (&*metrics).into() },
            JobEvent::Run(RunEvent::Checkpoint { n_steps, .. }) => Self::Checkpoint { n_steps },
            JobEvent::Run(RunEvent::Advice(Advice::Idle { n_steps, accuracy })) => {
                Self::NothingLearned { n_steps: n_steps as u32, accuracy }
            }
            JobEvent::Run(RunEvent::Advice(Advice::Skipped { n_steps })) => Self::UpdateSkipped { n_steps },
            JobEvent::Paused => Self::Paused,
            JobEvent::Resumed => Self::Resumed,
        }
    }
}
