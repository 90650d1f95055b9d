//! The host layer as bindings use it.

mod jobs;
mod logs;
mod sessions;
mod tiny;
mod workers;
