//! The result of work on another thread: a future for those who await, a door to wait at for the others.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use owlet_runtime::{CancelToken, Error, ErrorKind, Result};

/// The result of a call that a worker has taken.
///
/// Dropping it before the result was taken cancels the call: the host has lost interest. It needs no executor of a
/// certain kind, since it does nothing but wake whoever polls it.
#[must_use = "a call whose result is dropped is cancelled"]
pub struct Pending<T> {
    slot: Arc<Slot<T>>,
    cancel: CancelToken,
}

/// Where the result is put.
struct Slot<T> {
    state: Mutex<State<T>>,
    arrived: Condvar,
}

enum State<T> {
    Open(Option<Waker>),
    Here(Result<T>),
    Taken,
}

impl<T> Slot<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The side that gives the result, once. Dropped without one, the caller learns that the worker ended.
pub(crate) struct Promise<T>(Arc<Slot<T>>);

/// A result to come of a call that `cancel` stops, and the side that gives it.
pub(crate) fn pending<T>(cancel: CancelToken) -> (Pending<T>, Promise<T>) {
    let slot = Arc::new(Slot { state: Mutex::new(State::Open(None)), arrived: Condvar::new() });
    (Pending { slot: Arc::clone(&slot), cancel }, Promise(slot))
}

impl<T> Promise<T> {
    pub(crate) fn keep(self, result: Result<T>) {
        self.put(result);
    }

    fn put(&self, result: Result<T>) {
        let mut state = self.0.lock();
        if let State::Open(waker) = &mut *state {
            let waker = waker.take();
            *state = State::Here(result);
            drop(state);
            self.0.arrived.notify_all();
            // Outside of the lock: an executor may poll from within.
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        self.put(Err(Error::new(ErrorKind::Cancelled, "cancelled: the object was closed")));
    }
}

impl<T> Pending<T> {
    /// Waits on this thread.
    ///
    /// # Errors
    /// Those of the call; `Cancelled` when its object was closed before.
    pub fn wait(self) -> Result<T> {
        let mut state = self.slot.lock();
        loop {
            match std::mem::replace(&mut *state, State::Taken) {
                State::Here(result) => return result,
                waiting => *state = waiting,
            }
            state = self.slot.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        let mut state = self.slot.lock();
        match std::mem::replace(&mut *state, State::Taken) {
            State::Here(result) => Poll::Ready(result),
            State::Open(_) => {
                *state = State::Open(Some(context.waker().clone()));
                Poll::Pending
            }
            State::Taken => Poll::Ready(Err(Error::new(ErrorKind::Internal, "a result was taken twice"))),
        }
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        let is_taken = matches!(*self.slot.lock(), State::Taken);
        if !is_taken {
            self.cancel.cancel();
        }
    }
}

impl<T> std::fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pending")
    }
}
