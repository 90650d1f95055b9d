//! A value that threads take in turn, in the order in which they came; whoever is cancelled leaves the queue.

use std::{
    collections::VecDeque,
    ops::{Deref, DerefMut},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{Result, cancel::CancelToken};

/// How often those who wait look at their token.
const LOOK: Duration = Duration::from_millis(5);

/// A value with a queue in front of it. A plain lock would let a thread wait for the whole picture, or the whole answer, of
/// another one, whatever becomes of its own work.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    line: Mutex<Line>,
    /// The first one left.
    moved: Condvar,
    /// Locked by the first in line only.
    value: Mutex<T>,
}

#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<u64>,
    next: u64,
}

/// The value, until it is dropped.
pub(crate) struct Turn<'a, T> {
    // Dropped in this order: the next one in line finds the value free.
    value: MutexGuard<'a, T>,
    _place: Place<'a, T>,
}

/// A place in line, given up when it is dropped.
struct Place<'a, T> {
    queue: &'a Queue<T>,
    number: u64,
}

impl<T> Queue<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { line: Mutex::default(), moved: Condvar::new(), value: Mutex::new(value) }
    }

    /// The value, when all who came before are done with it.
    ///
    /// # Errors
    /// `Cancelled`, some milliseconds after `cancel` is.
    pub(crate) fn enter(&self, cancel: &CancelToken) -> Result<Turn<'_, T>> {
        cancel.check()?;
        let mut line = self.line();
        let number = line.next;
        line.next += 1;
        line.waiting.push_back(number);
        let place = Place { queue: self, number };
        while line.waiting.front() != Some(&number) {
            if let Err(error) = cancel.check() {
                // Leaving takes the line's lock.
                drop(line);
                return Err(error);
            }
            line = self.moved.wait_timeout(line, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(line);
        Ok(Turn { value: self.lock(), _place: place })
    }

    /// As [`Queue::enter`], however long it takes.
    pub(crate) fn enter_patiently(&self) -> Turn<'_, T> {
        loop {
            if let Ok(turn) = self.enter(&CancelToken::new()) {
                return turn;
            }
        }
    }

    // A panic of another thread leaves the value as its calls left it.
    fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Drop for Place<'_, T> {
    fn drop(&mut self) {
        self.queue.line().waiting.retain(|&number| number != self.number);
        self.queue.moved.notify_all();
    }
}

impl<T> Deref for Turn<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Turn<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::ErrorKind;

    #[test]
    fn everyone_gets_a_turn_in_the_order_of_coming_and_the_cancelled_leave() {
        let queue = Queue::new(Vec::new());
        let cancel = CancelToken::new();
        thread::scope(|scope| {
            let until_in_line = |n| {
                while queue.line().waiting.len() < n {
                    thread::yield_now();
                }
            };
            let held = queue.enter_patiently();
            let gone = scope.spawn(|| queue.enter(&cancel).err().map(|error| error.kind()));
            until_in_line(2);
            for index in 0..4 {
                let queue = &queue;
                scope.spawn(move || queue.enter_patiently().push(index));
                until_in_line(3 + index);
            }
            cancel.cancel();
            assert_eq!(gone.join().expect("no panic"), Some(ErrorKind::Cancelled), "while the value is held");
            assert!(held.is_empty());
        });
        assert_eq!(*queue.enter_patiently(), [0, 1, 2, 3]);
    }

    #[test]
    fn a_panic_gives_the_place_away() {
        let queue = Queue::new(1);
        let panicked = thread::scope(|scope| {
            let panics = || {
                let _turn = queue.enter_patiently();
                panic!("as planned");
            };
            scope.spawn(panics).join().is_err()
        });
        assert!(panicked);
        assert_eq!(*queue.enter_patiently(), 1);
    }
}
