//! What all bindings share: Owlet's objects behind threads of their own, so that an app's threads never compute.
//!
//! 1. [`Worker`] owns a value on a named thread and works on it, a call after the other; [`background`] runs one call
//!    without a value. Both give a [`Pending`], which is awaited by any executor or waited for by a thread.
//! 2. [`Session`] is a conversation behind a worker.
//! 3. [`Job`] is a training run behind a worker, which can be paused.
//! 4. [`Gate`] says whether an adapter may go live, behind a worker.
//! 5. [`log`] hands what Owlet logs to the app.
//!
//! The rules, which the bindings pass on to their users:
//!
//! - **Cancelling.** Every call takes a [`CancelToken`]. A [`Pending`] that is dropped cancels its call and no other.
//! - **Threads.** Functions of the app (listeners, rewards) run on the worker's thread, with no lock held: they may call
//!   whatever they like, but waiting there for the same object's next call would wait for ever.
//! - **Panics.** None leaves a worker: its caller gets `Internal`, and so does whoever calls the object afterwards.
//! - **Ends.** Dropping an object cancels its calls and waits for its thread, [`CLOSING_TIME`] at most.
#![forbid(unsafe_code)]

mod gate;
mod job;
pub mod log;
mod pending;
mod session;
mod worker;

pub use owlet_runtime::CancelToken;

pub use self::{
    gate::{AnswerCounter, Gate},
    job::{Job, JobEvent, JobReport, JobState, Observer, SLICE},
    pending::Pending,
    session::{Adapters, Listener, Session},
    worker::{CLOSING_TIME, Progress, Worker, background},
};
