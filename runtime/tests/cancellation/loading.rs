//! Loading: progress, and stopping anywhere.

use std::{
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
};

use owlet_runtime::{CancelToken, ErrorKind, Model, ModelOptions};
use tempfile::TempDir;

use super::common::tiny;

fn files() -> (TempDir, PathBuf) {
    let (model, folder) = tiny::load();
    let path = model.path().to_owned();
    (folder, path)
}

fn options() -> ModelOptions {
    ModelOptions { n_threads: 1, ..ModelOptions::default() }
}

#[test]
fn progress_goes_from_0_to_1_over_both_files() {
    let (_folder, path) = files();
    for text_only in [false, true] {
        let mut told = Vec::new();
        let options = ModelOptions { text_only, ..options() };
        let model = Model::load_watched(&path, &options, &CancelToken::new(), &mut |fraction| {
            told.push(fraction);
            ControlFlow::Continue(())
        });
        let model = model.expect("loads");
        assert!(told.is_sorted(), "{told:?}");
        assert_eq!((told.first(), told.last()), (Some(&0.0), Some(&1.0)));
        let info = model.info();
        let share = info.n_bytes as f32 / (info.n_bytes + info.mmproj_bytes.unwrap_or(0)) as f32;
        assert!(told.iter().any(|&fraction| (fraction - share).abs() < 1e-6), "{share}: {told:?}");
        assert!(told.len() > if text_only { 20 } else { 50 }, "every tensor: {}", told.len());
    }
}

#[test]
fn loading_stops_wherever_it_is_told_to() {
    let (_folder, path) = files();
    let (mut stop_at, mut n_stopped) = (0, 0);
    loop {
        let mut n_told = 0;
        let cancel = CancelToken::new();
        let loaded = Model::load_watched(&path, &options(), &cancel, &mut |_| {
            n_told += 1;
            match n_told - 1 == stop_at {
                // Either way of saying it.
                true if stop_at % 2 == 0 => ControlFlow::Break(()),
                true => {
                    cancel.cancel();
                    ControlFlow::Continue(())
                }
                false => ControlFlow::Continue(()),
            }
        });
        let Err(error) = loaded else { break };
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
        assert!(n_told <= stop_at + 1, "told {n_told} times, stopped at {stop_at}");
        n_stopped += 1;
        stop_at += 1;
    }
    assert!(n_stopped > 50, "{n_stopped}");
    assert!(Model::load(&path, &options()).is_ok());
    let late = Model::load_watched(&path, &options(), &CancelToken::after(std::time::Duration::ZERO), &mut |_| {
        panic!("not even begun")
    });
    assert_eq!(late.expect_err("no time").to_string(), "cancelled: the time is up");
}

#[test]
fn a_panic_of_the_callback_comes_back_to_the_caller() {
    let (_folder, path) = files();
    for text_only in [false, true] {
        let options = ModelOptions { text_only, ..options() };
        let payload = catch_unwind(AssertUnwindSafe(|| {
            Model::load_watched(&path, &options, &CancelToken::new(), &mut |fraction| {
                assert!(fraction < 0.9, "as planned");
                ControlFlow::Continue(())
            })
        }));
        let payload = payload.expect_err("panics");
        assert_eq!(payload.downcast_ref::<&str>(), Some(&"as planned"));
    }
    assert!(Model::load(&path, &options()).is_ok());
}
