//! How often and how long to wait before the next try.

use std::{
    thread,
    time::{Duration, Instant},
};

use owlet_runtime::{CancelToken, Result};

use super::{
    PullOptions,
    client::Client,
    trouble::{Again, Trouble},
};

/// Longest pause of our own.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Longest pause that a server may ask for.
const MAX_ASKED: Duration = Duration::from_secs(300);
/// A try that brought as much was none in vain.
const PROGRESS_BYTES: u64 = 64 << 10;
/// How often a pause looks whether it was cancelled.
const WAIT: Duration = Duration::from_millis(50);

/// Counts the tries in vain.
pub(super) struct Patience<'a> {
    client: &'a Client,
    options: &'a PullOptions,
    cancel: &'a CancelToken,
    n_in_vain: u32,
}

impl<'a> Patience<'a> {
    pub(super) fn new(client: &'a Client, options: &'a PullOptions, cancel: &'a CancelToken) -> Self {
        Self { client, options, cancel, n_in_vain: 0 }
    }

    /// Waits before the next try after one that brought `n_bytes` more than all before, once `told` has heard why and how long. Pauses double.
    ///
    /// # Errors
    /// That of `trouble` when another try is of no use, `Cancelled`.
    pub(super) fn endure(
        &mut self,
        trouble: Trouble,
        n_bytes: u64,
        told: &mut dyn FnMut(String, Duration),
    ) -> Result<()> {
        // A transfer that was interrupted from outside failed for that reason.
        self.cancel.check()?;
        if n_bytes >= PROGRESS_BYTES {
            self.n_in_vain = 0;
        }
        let asked = match trouble.again {
            Again::Never => return Err(trouble.error),
            Again::IfReached if !self.client.was_reached() => return Err(trouble.error),
            Again::IfReached => Duration::ZERO,
            Again::After(asked) => asked,
        };
        if self.n_in_vain >= self.options.retries || asked > MAX_ASKED {
            return Err(trouble.error);
        }
        let doubled = self.options.backoff.saturating_mul(1 << self.n_in_vain.min(16));
        self.n_in_vain += 1;
        let pause = doubled.min(MAX_PAUSE).max(asked);
        told(trouble.error.to_string(), pause);
        let end = Instant::now() + pause;
        while Instant::now() < end {
            self.cancel.check()?;
            thread::sleep(WAIT.min(end.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }
}
