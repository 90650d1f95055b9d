//! What the work cost: times and memory.

use serde::Serialize;

/// Time and tokens of a session since it was made or reset. Times are wall-clock milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Timings {
    /// Prompts, images included but not their encoding.
    pub prefill_ms: f64,
    /// Tokens of prompts, places of images included.
    pub n_prompt_tokens: u64,
    /// Decode calls and guesses, sampling not included.
    pub decode_ms: f64,
    /// Tokens decoded, over all sequences, without guesses that were wrong.
    pub n_decoded: u64,
    /// Decode calls; each takes one token of every running sequence, or a run of one.
    pub n_decode_calls: u64,
    /// Tokens that were guessed ahead ([`crate::Speculation`]).
    pub n_guessed: u64,
    /// Of them, those that were right and spared a call.
    pub n_accepted: u64,
    /// Sampling, and whatever the caller did on each token.
    pub sample_ms: f64,
    /// From the call of the last [`crate::generate()`] to its first token; 0 before any.
    pub first_token_ms: f64,
}

impl Timings {
    /// Prompt tokens per second; 0 before any.
    pub fn prefill_rate(&self) -> f64 {
        rate(self.n_prompt_tokens, self.prefill_ms)
    }

    /// Decoded tokens per second over all sequences; 0 before any.
    pub fn decode_rate(&self) -> f64 {
        rate(self.n_decoded, self.decode_ms)
    }
}

pub(crate) fn rate(n: u64, ms: f64) -> f64 {
    if ms > 0.0 { n as f64 * 1e3 / ms } else { 0.0 }
}

/// The most physical memory that this process held so far, in bytes; `None` where the system does not tell.
pub fn peak_memory_bytes() -> Option<u64> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kilobytes * 1024)
    }
    #[cfg(target_vendor = "apple")]
    {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: getrusage fills the struct that it is given; zero is a valid value of each of its fields.
        let (status, usage) = unsafe { (libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()), usage.assume_init()) };
        // Apple counts in bytes where others count in kilobytes.
        (status == 0).then(|| usage.ru_maxrss as u64)
    }
    #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
    {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_follow_from_counts_and_are_zero_before_any_work() {
        let timings = Timings { prefill_ms: 500.0, n_prompt_tokens: 100, ..Timings::default() };
        assert_eq!((timings.prefill_rate(), timings.decode_rate()), (200.0, 0.0));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_takes_some_memory() {
        assert!(peak_memory_bytes().expect("Linux tells") > 1 << 20);
    }
}
