//! Cancelling long work from another thread, and doing it in slices.

use std::{
    ffi::c_void,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{Error, ErrorKind, Result};

/// A wish to stop that every clone shares, and a time after which it is understood: one side sets it, the working side looks
/// at it between graph nodes, tokens, rows of pictures and tensors of a file (docs/cancellation.md has the bounds).
///
/// A cancelled call returns [`ErrorKind::Cancelled`] and leaves its session as it was before the call. The wish stays; take
/// a new token for new work.
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<Wish>);

#[derive(Debug, Default)]
struct Wish {
    is_cancelled: AtomicBool,
    /// From when on nobody has to ask.
    at: Option<Instant>,
    parent: Option<CancelToken>,
}

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// A token that cancels itself `duration` from now: "at most ten seconds".
    pub fn after(duration: Duration) -> Self {
        // What overflows the clock is never.
        Self(Arc::new(Wish { at: Instant::now().checked_add(duration), ..Wish::default() }))
    }

    /// A token that is cancelled with this one, and `duration` from now at the latest. Cancelling it leaves this one alone.
    #[must_use]
    pub fn or_after(&self, duration: Duration) -> Self {
        let at = Instant::now().checked_add(duration);
        Self(Arc::new(Wish { at, parent: Some(self.clone()), ..Wish::default() }))
    }

    /// A token that is cancelled with this one. Cancelling it leaves this one alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self(Arc::new(Wish { parent: Some(self.clone()), ..Wish::default() }))
    }

    /// Asks the work to stop.
    pub fn cancel(&self) {
        self.0.is_cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether [`CancelToken::cancel`] was called or the time is up.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Returns an error once cancelled, for use with `?` between steps.
    ///
    /// # Errors
    /// `Cancelled`.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(self.error()) } else { Ok(()) }
    }

    /// The error of a call that saw the wish.
    pub(crate) fn error(&self) -> Error {
        Error::new(ErrorKind::Cancelled, if self.0.is_asked() { "cancelled" } else { "cancelled: the time is up" })
    }

    /// The wish's address as callback data of [`abort_requested`]; valid while this token lives.
    pub(crate) fn as_callback_data(&self) -> *mut c_void {
        Arc::as_ptr(&self.0).cast::<c_void>().cast_mut()
    }
}

impl Wish {
    /// Whether somebody asked, whatever the time.
    fn is_asked(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed) || self.parent.as_ref().is_some_and(|parent| parent.0.is_asked())
    }

    fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed)
            || self.at.is_some_and(|at| Instant::now() >= at)
            || self.parent.as_ref().is_some_and(CancelToken::is_cancelled)
    }
}

/// Until when a slice of long work may go on. Work that is done in slices looks at it after every unit, such as a token of
/// all running answers or a layer, and does at least one unit a slice, so that short slices get there too.
#[derive(Clone, Debug, Default)]
pub struct Deadline {
    at: Option<Instant>,
    cancel: CancelToken,
}

impl Deadline {
    /// As long as the work takes.
    pub fn never() -> Self {
        Self::default()
    }

    /// Until `at`.
    pub fn at(at: Instant) -> Self {
        Self { at: Some(at), ..Self::default() }
    }

    /// For `duration` from now.
    pub fn after(duration: Duration) -> Self {
        // What overflows the clock is never.
        Self { at: Instant::now().checked_add(duration), ..Self::default() }
    }

    /// The same, or until `at` where that comes first.
    #[must_use]
    pub fn or_at(self, at: Instant) -> Self {
        Self { at: Some(self.at.map_or(at, |own| own.min(at))), ..self }
    }

    /// The same, or until `cancel` is cancelled: then not even one more unit is done, and on CPU the running one stops.
    #[must_use]
    pub fn or_cancelled(self, cancel: &CancelToken) -> Self {
        Self { cancel: cancel.clone(), ..self }
    }

    /// Whether the slice is over.
    pub fn is_over(&self) -> bool {
        self.is_cancelled() || self.at.is_some_and(|at| Instant::now() >= at)
    }

    /// Whether the slice was cancelled, whatever the time.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// The token that ends the slice; of no consequence where none was given.
    pub fn cancel(&self) -> &CancelToken {
        &self.cancel
    }
}

/// ggml's abort callback: true stops the graph after the current node.
///
/// # Safety
/// `data` is [`CancelToken::as_callback_data`] of a token that is alive.
pub(crate) unsafe extern "C" fn abort_requested(data: *mut c_void) -> bool {
    // SAFETY: by the contract above `data` points to a `Wish`, which any thread may read.
    unsafe { (*data.cast::<Wish>()).is_cancelled() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A time far enough for any test.
    const NEVER: Duration = Duration::from_secs(1 << 20);

    #[test]
    fn tokens_are_cancelled_by_themselves_their_time_or_their_parent() {
        let asked = CancelToken::new();
        asked.cancel();
        let cases = [
            (CancelToken::new(), None),
            (CancelToken::after(NEVER), None),
            (CancelToken::after(Duration::MAX), None),
            (CancelToken::new().or_after(NEVER), None),
            (asked.clone(), Some("cancelled")),
            (asked.child(), Some("cancelled")),
            (CancelToken::new().child(), None),
            (asked.or_after(NEVER), Some("cancelled")),
            (CancelToken::after(Duration::ZERO), Some("cancelled: the time is up")),
            (CancelToken::new().or_after(Duration::ZERO), Some("cancelled: the time is up")),
            (CancelToken::after(Duration::ZERO).or_after(NEVER), Some("cancelled: the time is up")),
        ];
        for (index, (token, expected)) in cases.iter().enumerate() {
            let found = token.check().err().map(|error| (error.kind(), error.to_string()));
            assert_eq!(found, expected.map(|text| (ErrorKind::Cancelled, text.to_owned())), "case {index}");
            // SAFETY: the token is alive.
            assert_eq!(unsafe { abort_requested(token.as_callback_data()) }, expected.is_some(), "case {index}");
        }
        let (now, later) = (Instant::now(), Instant::now() + NEVER);
        assert!(Deadline::never().or_at(now).is_over() && Deadline::at(later).or_at(now).is_over());
        assert!(Deadline::at(now).or_at(later).is_over() && !Deadline::never().or_at(later).is_over());

        let parent = CancelToken::new();
        parent.or_after(NEVER).cancel();
        parent.child().cancel();
        assert!(!parent.is_cancelled(), "a child's wish is its own");
    }
}
