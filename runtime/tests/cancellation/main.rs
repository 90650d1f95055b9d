//! Stopping work in every phase: how soon it ends, and that what was stopped serves the next call with the same bits.
//!
//! Times are compared with those of the same work undisturbed, on the same machine at the same hour.
#![expect(clippy::print_stderr, reason = "tests tell what they measured")]

#[path = "../common/mod.rs"]
mod common;
mod images;
mod loading;
mod sessions;

use std::time::{Duration, Instant};

use owlet_runtime::{CancelToken, ErrorKind, Result};

/// A machine that is busy with something else may hold up a call; not several in a row.
const ATTEMPTS: usize = 4;

/// Does `work` undisturbed, and then stops it after a quarter of the time that it took: it must end before another quarter
/// is over. Returns the result of the undisturbed work.
fn stops_soon<T>(what: &str, mut work: impl FnMut(&CancelToken) -> Result<T>) -> T {
    let start = Instant::now();
    let result = work(&CancelToken::new()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let undisturbed = start.elapsed();
    let mut seen = Vec::new();
    for _ in 0..ATTEMPTS {
        let start = Instant::now();
        let Err(error) = work(&CancelToken::after(undisturbed / 4)) else {
            seen.push("not stopped".to_owned());
            continue;
        };
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{what}: {error}");
        let stopped = start.elapsed();
        if stopped < undisturbed / 2 {
            eprintln!(
                "{what}: {undisturbed:?} undisturbed, ended {:?} after the time",
                stopped.saturating_sub(undisturbed / 4)
            );
            return result;
        }
        seen.push(format!("{stopped:?}"));
    }
    panic!("{what}: {undisturbed:?} undisturbed, stopped after {seen:?}");
}

/// Something that takes long enough for a thread to be stopped in its midst.
const A_MOMENT: Duration = Duration::from_millis(50);
