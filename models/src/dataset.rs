//! Data sets on disk, in the reference's format: `data.jsonl` and `images/*.png`.

use std::fmt;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::scene::Mark;
use crate::tasks::{IMAGE_SIZE, Sample, Split, TaskKind, sample_sized};

/// What to write.
#[derive(Clone, Debug)]
pub struct DatasetOptions {
    /// Names the data set; the same seed gives the same bytes. Default 0.
    pub seed: u64,
    /// Which scenes may be drawn. Default [`Split::Train`].
    pub split: Split,
    /// Number of samples over all tasks, dealt out in turn. Default 96.
    pub count: u64,
    /// The tasks, in the order in which they are dealt out. Default all six.
    pub tasks: Vec<TaskKind>,
    /// Side of the pictures in pixels, 96..=256. Default 128.
    pub image_size: u32,
    /// Adds a whole `response` to learn from, and `responses`, `description` and `marks`, which the training recipe reads.
    /// Default off.
    pub responses: bool,
}

impl Default for DatasetOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            split: Split::Train,
            count: 96,
            tasks: TaskKind::ALL.to_vec(),
            image_size: IMAGE_SIZE,
            responses: false,
        }
    }
}

/// A data set could not be written.
#[derive(Debug)]
pub struct DatasetError {
    path: PathBuf,
    source: io::Error,
}

impl fmt::Display for DatasetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot write data set {:?}: {}", self.path.display().to_string(), self.source)
    }
}

impl std::error::Error for DatasetError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// One line of `data.jsonl`.
#[derive(Serialize)]
struct Row<'a> {
    problem_id: &'a str,
    problem: &'a str,
    images: [String; 1],
    answer: String,
    problem_type: &'a str,
    task_type: &'a str,
    data_type: &'a str,
    options: &'a [String],
    kind: &'a str,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    extra: Option<Extra<'a>>,
}

#[derive(Serialize)]
struct Extra<'a> {
    response: &'a str,
    responses: Responses<'a>,
    description: &'a str,
    marks: &'a [Mark],
}

#[derive(Serialize)]
struct Responses<'a> {
    careful: &'a str,
    hasty: &'a str,
}

/// The line of `data.jsonl` for a sample whose picture is at `image` (relative to the file).
///
/// # Errors
/// None in practice: only if serialisation fails.
pub fn jsonl_row(sample: &Sample, image: &str, responses: bool) -> io::Result<String> {
    let row = Row {
        problem_id: &sample.id,
        problem: &sample.problem,
        images: [image.to_owned()],
        answer: format!("<answer>{}</answer>", sample.answer),
        problem_type: sample.problem_type,
        task_type: sample.task_type,
        data_type: sample.data_type,
        options: &sample.options,
        kind: sample.kind,
        extra: responses.then_some(Extra {
            response: &sample.careful,
            responses: Responses { careful: &sample.careful, hasty: &sample.hasty },
            description: &sample.description,
            marks: &sample.marks,
        }),
    };
    serde_json::to_string(&row).map_err(io::Error::from)
}

/// Writes a data set into the new directory `dir` and returns the path of its `data.jsonl`.
///
/// Everything is written into a sibling first and renamed, so `dir` is complete or absent.
///
/// # Errors
/// [`DatasetError`] if `dir` exists already, if no task is given, or if writing fails.
pub fn write_dataset(dir: &Path, options: &DatasetOptions) -> Result<PathBuf, DatasetError> {
    let fail = |source| DatasetError { path: dir.to_owned(), source };
    if dir.exists() {
        return Err(fail(io::Error::new(io::ErrorKind::AlreadyExists, "it exists already")));
    }
    if options.tasks.is_empty() {
        return Err(fail(io::Error::new(io::ErrorKind::InvalidInput, "no task is given")));
    }
    let Some(name) = dir.file_name() else {
        return Err(fail(io::Error::new(io::ErrorKind::InvalidInput, "the path has no last part")));
    };
    let mut sibling = name.to_owned();
    sibling.push(format!(".partial-{}", std::process::id()));
    let partial = dir.with_file_name(sibling);
    let written = write_files(&partial, options).and_then(|()| fs::rename(&partial, dir));
    if let Err(source) = written {
        // The error that matters is the first one; a leftover is harmless.
        let _ = fs::remove_dir_all(&partial);
        return Err(fail(source));
    }
    Ok(dir.join("data.jsonl"))
}

fn write_files(dir: &Path, options: &DatasetOptions) -> io::Result<()> {
    fs::create_dir_all(dir.join("images"))?;
    let mut jsonl = BufWriter::new(fs::File::create(dir.join("data.jsonl"))?);
    let n_tasks = options.tasks.len() as u64;
    for i in 0..options.count {
        let task = options.tasks[(i % n_tasks) as usize];
        let size = options.image_size;
        let sample = sample_sized(options.seed, options.split, task, i / n_tasks, size);
        let image = format!("images/{i:06}.png");
        sample.image.save(dir.join(&image)).map_err(io::Error::other)?;
        writeln!(jsonl, "{}", jsonl_row(&sample, &image, options.responses)?)?;
    }
    jsonl.flush()
}
