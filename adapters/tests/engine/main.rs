//! The training engine from outside: against references, against itself, and what it refuses.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests may stop, and tell what they measured or skipped")]

mod activated;
mod distillation;
mod distributions;
mod exactness;
mod hf;
mod random;
mod references;
mod refusals;
mod targets;
