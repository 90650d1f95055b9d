//! Points at which long work may rest: what turns a gradient into slices.
//!
//! A gradient carries much on its way: inputs of layers, kept products, half a backward pass. The engine's functions are
//! `async`, so the compiler keeps all of that while they rest. There is no executor and no thread behind it: whoever owns
//! the [`Task`] polls it, and the [`Pace::point`]s, one before each layer and each chunk of the vocabulary, give the
//! control back when the slice is over. A rest changes no bits.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use owlet_runtime::{CancelToken, Deadline, Error, ErrorKind, Result};

/// Tells running work whether it may go on; shared by the work and its owner. By default it always may.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace(Arc<Mutex<Slice>>);

#[derive(Debug, Default)]
struct Slice {
    deadline: Deadline,
    /// Whether a point was passed in this slice: the first one always is, unless the slice is cancelled.
    has_worked: bool,
    /// Whether the work ends here.
    is_abandoned: bool,
    /// Whether it ends where the slice is cancelled, instead of resting there.
    ends_when_cancelled: bool,
}

impl Pace {
    /// The pace of work that is not done in slices: it ends at the first point after `cancel` is cancelled.
    pub(crate) fn until_cancelled(cancel: &CancelToken) -> Self {
        let deadline = Deadline::never().or_cancelled(cancel);
        Self(Arc::new(Mutex::new(Slice { deadline, ends_when_cancelled: true, ..Slice::default() })))
    }

    /// Rests while the slice is over.
    ///
    /// # Errors
    /// `Cancelled` when the work was abandoned, or was to end when it is cancelled.
    pub(crate) fn point(&self) -> impl Future<Output = Result<()>> + Send {
        poll_fn(|_| {
            let mut slice = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if slice.is_abandoned || slice.ends_when_cancelled && slice.deadline.is_cancelled() {
                return Poll::Ready(Err(Error::new(ErrorKind::Cancelled, "cancelled")));
            }
            if slice.deadline.is_cancelled() || slice.has_worked && slice.deadline.is_over() {
                return Poll::Pending;
            }
            slice.has_worked = true;
            Poll::Ready(Ok(()))
        })
    }

    fn set(&self, slice: Slice) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = slice;
    }
}

/// Work under way.
pub(crate) struct Task<T> {
    future: Pin<Box<dyn Future<Output = T> + Send>>,
    pace: Pace,
}

impl<T> Task<T> {
    /// What `start` gives, which rests at the points of its argument. Nothing is done yet.
    pub(crate) fn new<F: Future<Output = T> + Send + 'static>(start: impl FnOnce(Pace) -> F) -> Self {
        let pace = Pace::default();
        Self { future: Box::pin(start(pace.clone())), pace }
    }

    /// Goes on until the first point after `deadline`, but past one point at least; gives the result when it is there.
    pub(crate) fn advance(&mut self, deadline: &Deadline) -> Option<T> {
        self.pace.set(Slice { deadline: deadline.clone(), ..Slice::default() });
        poll(self.future.as_mut())
    }

    /// Ends the work at the point where it rests; gives what it makes of that.
    pub(crate) fn abandon(mut self) -> Option<T> {
        self.pace.set(Slice { is_abandoned: true, ..Slice::default() });
        poll(self.future.as_mut())
    }
}

/// Runs work to its end, which its pace may set but does not put off.
pub(crate) fn complete<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    loop {
        if let Some(output) = poll(work.as_mut()) {
            return output;
        }
    }
}

fn poll<T>(future: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Option<T> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use super::*;

    /// Counts to five, a point before each number; tells how far it came when it is abandoned.
    fn count(reached: &Arc<AtomicUsize>) -> Task<Result<()>> {
        let reached = Arc::clone(reached);
        Task::new(|pace| async move {
            for number in 1..=5 {
                pace.point().await?;
                reached.store(number, Ordering::Relaxed);
            }
            Ok(())
        })
    }

    #[test]
    fn every_slice_does_one_unit_at_least_and_none_when_cancelled() {
        let reached = Arc::new(AtomicUsize::new(0));
        let mut task = count(&reached);
        let over = Deadline::after(Duration::ZERO);
        for expected in 1..5 {
            assert!(task.advance(&over).is_none());
            assert_eq!(reached.load(Ordering::Relaxed), expected);
        }
        let cancel = CancelToken::new();
        cancel.cancel();
        assert!(task.advance(&Deadline::never().or_cancelled(&cancel)).is_none());
        assert_eq!(reached.load(Ordering::Relaxed), 4);
        assert!(matches!(task.advance(&Deadline::never()), Some(Ok(()))));
    }

    #[test]
    fn abandoned_work_ends_where_it_rests() {
        let reached = Arc::new(AtomicUsize::new(0));
        let mut task = count(&reached);
        assert!(task.advance(&Deadline::after(Duration::ZERO)).is_none());
        let error = task.abandon().expect("it ends").expect_err("abandoned");
        assert_eq!((error.kind(), reached.load(Ordering::Relaxed)), (ErrorKind::Cancelled, 1));
        assert!(complete(async { Pace::default().point().await }).is_ok());
    }

    #[test]
    fn work_that_is_not_sliced_ends_at_the_first_point_after_it_is_cancelled() {
        let cancel = CancelToken::new();
        let pace = Pace::until_cancelled(&cancel);
        let mut reached = 0;
        let result = complete(async {
            for number in 1..=5 {
                pace.point().await?;
                reached = number;
                if number == 3 {
                    cancel.cancel();
                }
            }
            Ok::<_, Error>(())
        });
        assert_eq!((result.expect_err("cancelled").kind(), reached), (ErrorKind::Cancelled, 3));
    }
}
