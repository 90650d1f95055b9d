//! The training engine from outside: against references, against itself, against finite differences.

mod hf;
mod references;
