//! The training engine from outside: against references, against itself, and what it refuses.
#![expect(clippy::unwrap_used, reason = "a test may stop where something is missing")]

mod exactness;
mod hf;
mod random;
mod references;
mod refusals;
