//! One call at a time, over a session and its forks.
//!
//! The runtime's own lock would do between threads. It cannot tell a callback that calls back in, which would wait for
//! itself.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, ThreadId},
    time::Duration,
};

use owlet_runtime::{CancelToken, Error, ErrorKind, Result, conversation::Conversation};

/// Time between two looks at the cancel token of a call that waits.
const LOOK: Duration = Duration::from_millis(10);

/// Lets one call in at a time.
#[derive(Default)]
pub(super) struct Turnstile {
    /// The thread whose call is inside.
    inside: Mutex<Option<ThreadId>>,
    left: Condvar,
    /// Conversations that a callback freed: they end when its call does.
    left_behind: Mutex<Vec<Conversation>>,
}

/// The right to be inside, until it is dropped.
pub(super) struct Passage<'a>(&'a Turnstile);

impl Turnstile {
    /// Waits until nobody is inside.
    ///
    /// # Errors
    /// `Busy` when this thread is inside already, `Cancelled`.
    pub(super) fn enter(&self, cancel: &CancelToken) -> Result<Passage<'_>> {
        let me = thread::current().id();
        let mut inside = unpoisoned(&self.inside);
        loop {
            match *inside {
                None => {
                    *inside = Some(me);
                    return Ok(Passage(self));
                }
                Some(thread) if thread == me => {
                    let error = Error::new(ErrorKind::Busy, "a callback cannot use the session that it is called by");
                    return Err(error.needed("a call after the callback returned"));
                }
                Some(_) => {
                    cancel.check()?;
                    inside = self.left.wait_timeout(inside, LOOK).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// Ends `conversation` as soon as nobody is inside.
    pub(super) fn end(&self, conversation: Conversation) {
        match self.enter(&CancelToken::new()) {
            Ok(_passage) => drop(conversation),
            Err(_) => unpoisoned(&self.left_behind).push(conversation),
        }
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        let ended = std::mem::take(&mut *unpoisoned(&self.0.left_behind));
        drop(ended);
        *unpoisoned(&self.0.inside) = None;
        self.0.left.notify_one();
    }
}

/// What these locks guard is whole between any two statements.
fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
