//! Files that are missing, damaged, of another kind or of another model: typed errors that name place, got and needed,
//! and never an abort inside llama.cpp.

mod adapters;
#[path = "../common/mod.rs"]
mod common;
mod damaged;
mod models;
mod projectors;

use std::path::Path;

use common::tiny::Draft;
use owlet_runtime::{ErrorKind, Model, ModelOptions, Result};

/// One way to break a file, and what must be said about it.
struct Case {
    name: &'static str,
    edit: fn(&mut Draft) -> &mut Draft,
    kind: ErrorKind,
    says: &'static str,
}

fn check<T>(case: &Case, result: Result<T>) {
    let Err(error) = result else { panic!("{}: accepted", case.name) };
    assert_eq!(error.kind(), case.kind, "{}: {error}", case.name);
    assert!(error.to_string().contains(case.says), "{}: {error}", case.name);
}

fn load(path: &Path) -> Result<Model> {
    Model::load(path, &ModelOptions { n_threads: 1, ..ModelOptions::default() })
}
