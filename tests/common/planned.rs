//! A memory plan beside the peak of what it plans, which a process of its own measures.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// What a plan may be off by.
const TOLERANCE: f64 = 0.15;

/// Name the case, and its model file, to the process that measures it.
const CASE: &str = "OWLET_MEMORY_CASE";
const MODEL: &str = "OWLET_MEMORY_MODEL";

/// What a process is to measure: the name of a case and its model file; `None` in the process that asks.
pub(crate) fn asked() -> Option<(String, PathBuf)> {
    Some((env::var(CASE).ok()?, env::var_os(MODEL)?.into()))
}

/// Tells a measured peak in bytes to the process that asked.
pub(crate) fn tell(peak: usize) {
    println!("peak={peak}");
}

/// Has the ignored test `measure_one_case` of this program measure `case` over `model`; what is wrong if the peak is not
/// within the tolerance of the sum of `parts`.
pub(crate) fn compare(case: &str, model: &Path, parts: &[(&str, usize)]) -> Option<String> {
    let child = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", "measure_one_case", "--ignored", "--nocapture", "--test-threads=1"])
        .env(CASE, case)
        .env(MODEL, model)
        .output()
        .expect("runs");
    let output = String::from_utf8_lossy(&child.stdout);
    let measured = output.lines().find_map(|line| line.split_once("peak=")?.1.trim().parse::<usize>().ok());
    let measured = measured.unwrap_or_else(|| panic!("{output}{}", String::from_utf8_lossy(&child.stderr)));
    let planned: usize = parts.iter().map(|(_, bytes)| bytes).sum();
    let error = planned as f64 / measured as f64 - 1.0;
    let told = format!("{case}: planned {planned}, measured {measured}, {:+.1} %; {parts:?}", 100.0 * error);
    eprintln!("{told}");
    (error.abs() > TOLERANCE).then_some(told)
}
