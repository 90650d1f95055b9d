//! Where words go: stdout carries data, stderr carries talk.

use std::{
    fmt::Display,
    fs,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use owlet::{AtomicFile, Error, ErrorKind};
use serde::Serialize;

use super::failure::{Failure, Result, Teach};

/// The two streams as the person wants them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    quiet: bool,
    styled: bool,
}

impl Output {
    /// `quiet` silences talk and progress, never errors. Styles need a terminal and no `NO_COLOR`.
    pub(crate) fn new(quiet: bool) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { quiet, styled: wanted && io::stderr().is_terminal() }
    }

    /// Data, as it comes: no line end is added, and it is visible at once.
    pub(crate) fn data(self, text: impl Display) -> Result<()> {
        let mut stdout = io::stdout().lock();
        write!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(Failure::stdout)
    }

    /// A line of data.
    pub(crate) fn line(self, text: impl Display) -> Result<()> {
        self.data(format_args!("{text}\n"))
    }

    /// Data for programs: one pretty JSON document.
    pub(crate) fn json(self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(|error| Failure::stdout(error.into()))?;
        self.line(text)
    }

    /// A line of talk.
    pub(crate) fn say(self, text: impl Display) {
        if !self.quiet {
            talk(text);
        }
    }

    /// Talk beside the data, set back, as it comes: no line end is added.
    pub(crate) fn aside(self, text: &str) {
        let (dim, plain) = if self.styled { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
        if !self.quiet {
            // As in `talk`.
            let _ = write!(io::stderr().lock(), "{dim}{text}{plain}");
        }
    }

    /// A bar over `n` units of work with rate and time left; nothing when stderr is not a terminal.
    pub(crate) fn progress(self, n: u64, unit: &'static str) -> ProgressBar {
        let template = format!("{{bar:24}} {{pos}}/{{len}} {unit}  {{per_sec}}  {{eta}} left  {{wide_msg}}");
        self.bar(n, &template)
    }

    /// A bar over `n` training steps with the prefix beside it and the message on a line of its own.
    pub(crate) fn step_progress(self, n: u64) -> ProgressBar {
        self.bar(n, "{bar:16} {pos}/{len} steps  {prefix}\n{msg}")
    }

    /// A bar over `n` bytes.
    pub(crate) fn byte_progress(self, n: u64) -> ProgressBar {
        self.bar(n, "{bar:24} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left  {wide_msg}")
    }

    fn bar(self, n: u64, template: &str) -> ProgressBar {
        let target = if self.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(n), target);
        let style = ProgressStyle::with_template(template).expect("the templates above are well formed");
        bar.set_style(style.progress_chars("━╸ "));
        bar.enable_steady_tick(Duration::from_millis(250));
        bar
    }
}

/// Writes a line to stderr; errors are told through here even when the rest is quiet.
pub(crate) fn talk(text: impl Display) {
    // Nobody is left to hear that stderr is closed.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Fails where a file at `path` could not be written, before hours of work are spent on what goes into it.
pub(crate) fn ensure_writable(path: &Path) -> Result<()> {
    AtomicFile::create(path).map(drop).hint(ErrorKind::NotFound, "the folder of an output file must exist")
}

/// Fails where `output` is one of `others`, the files and folders that the command needs besides, by whatever path.
pub(crate) fn ensure_distinct<'a>(output: &Path, others: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    let place = place(output);
    if others.into_iter().all(|other| self::place(other) != place) {
        return Ok(());
    }
    let error = Error::new(ErrorKind::InvalidInput, "an output would take the place of another file of the command");
    Err(Failure::from(error.at(output.display())).with_hint("give the output a name of its own"))
}

/// Where `path` is or would be, links followed.
fn place(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let would_be = || Some(fs::canonicalize(folder).ok()?.join(path.file_name()?));
    fs::canonicalize(path).ok().or_else(would_be).unwrap_or_else(|| path.to_owned())
}

/// `1234567` as `1.2 MB`.
pub(crate) fn bytes(n: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// Columns of text aligned under their headings, the first to the left and the others to the right.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..n_columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Memory by part in MiB, with the sum and what is only mapped.
pub(crate) fn memory_table(parts: impl Iterator<Item = (&'static str, usize)>, peak: usize, mapped: usize) -> String {
    let ends = [("peak", peak), ("weights, mapped, not counted", mapped)];
    let row = |(name, bytes): (&str, usize)| vec![name.to_owned(), format!("{:.1}", bytes as f64 / f64::from(1 << 20))];
    let heading = vec!["memory".to_owned(), "MiB".to_owned()];
    table(&std::iter::once(heading).chain(parts.chain(ends).map(row)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_in_the_largest_fitting_unit() {
        let cases = [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (999_999, "1.0 MB"), (16_400_000, "16.4 MB")];
        for (n, text) in cases {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn outputs_have_places_of_their_own() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("below")).expect("a writable folder");
        fs::write(path("a.gguf"), b"").expect("a writable folder");
        let cases = [
            ("b.gguf", "a.gguf", true),
            ("a.gguf", "a.gguf", false),
            ("below/../a.gguf", "a.gguf", false),
            ("new", "below/../new", false),
            ("gone/new", "gone/new", false),
            ("below/a.gguf", "a.gguf", true),
        ];
        for (output, other, is_distinct) in cases {
            let found = ensure_distinct(&path(output), [&*path("c"), &*path(other)]);
            assert_eq!(found.is_ok(), is_distinct, "{output} beside {other}");
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("a.gguf", path("link")).expect("a writable folder");
            assert!(ensure_distinct(&path("a.gguf"), [&*path("link")]).is_err());
        }
    }

    #[test]
    fn tables_align_names_left_and_numbers_right() {
        let rows = [["task", "before"], ["ocr", "0.5"], ["chart", "10.25"]];
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect();
        assert_eq!(table(&rows), "task   before\nocr       0.5\nchart   10.25\n");
    }
}
