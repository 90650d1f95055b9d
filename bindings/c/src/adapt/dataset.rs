//! Samples to train on and to be held out.

use std::{
    ffi::{CString, c_char},
    sync::Arc,
};

use owlet_adapters::{
    data::{Dataset, Sample},
    picture::Picture,
    task::{ProblemType, TaskType},
};
use owlet_runtime::{Error, ErrorKind, Result};

use crate::{
    boundary::{self, Out},
    error::{owlet_error, owlet_status},
    handle::{self, Handle},
    image::owlet_image,
    input::{self, versioned},
    text::c_string,
};

/// Longest picture file that is taken from memory.
const MAX_PICTURE_BYTES: usize = 256 << 20;

/// Samples, checked as they are read. Never changes; may be used by several threads and jobs.
pub struct owlet_dataset {
    _opaque: (),
}

impl Handle for owlet_dataset {
    type Target = Dataset;
    const NAME: &'static str = "owlet_dataset";
}

/// A picture of a sample: one of `path`, `data` and `image` is set, and the others are NULL.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct owlet_picture {
    /// sizeof(owlet_picture), set by the caller.
    pub struct_size: usize,
    /// A file, which is read whenever its sample is asked, and stays as it is meanwhile.
    pub path: *const c_char,
    /// The bytes of a picture file, which are copied.
    pub data: *const u8,
    /// Bytes of `data`.
    pub n_bytes: usize,
    /// A decoded picture. Large ones are better given as files or their bytes: pixels take memory for the whole run.
    pub image: *const owlet_image,
}

/// One problem with its truth. All of it is copied.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct owlet_sample {
    /// sizeof(owlet_sample), set by the caller.
    pub struct_size: usize,
    /// Its name in reports; default NULL: its number.
    pub id: *const c_char,
    /// The question, together with the options with one "<image>" for every picture.
    pub problem: *const c_char,
    /// The truth.
    pub answer: *const c_char,
    /// How it is scored: "multiple choice", "numerical", "regression", "OCR", "open-ended", "math" or "spatial grounding".
    pub problem_type: *const c_char,
    /// Which ability it trains; reports are by it: "spatial_grounding", "spatial_reasoning", "general_vqa_science_stem",
    /// "math_reasoning", "chart_figure_qa" or "ocr". Default NULL: "general_vqa_science_stem".
    pub task_type: *const c_char,
    /// Options of a multiple choice, such as "A. cat"; default NULL.
    pub options: *const *const c_char,
    /// Number of options.
    pub n_options: usize,
    /// Its pictures, in the order of the marks; default NULL.
    pub pictures: *const owlet_picture,
    /// Number of pictures.
    pub n_pictures: usize,
}

versioned!(owlet_picture, owlet_sample);

/// Reads a .jsonl file (one object a line) or a .json file (an array of objects) with the fields of owlet_sample, `images`
/// (paths beside the file) in place of pictures. The caller frees `*out` by owlet_dataset_free(). May be called from any
/// thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_dataset_open(
    path: *const c_char,
    out: *mut *mut owlet_dataset,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        // SAFETY: the caller's contract.
        let (out, path) = unsafe { (Out::new(out)?, input::path(path, "path")?) };
        out.put(Dataset::open(&path)?);
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Makes a data set of `n_samples` samples, which are copied. The caller frees `*out` by owlet_dataset_free(). May be called
/// from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_dataset_from_samples(
    samples: *const owlet_sample,
    n_samples: usize,
    out: *mut *mut owlet_dataset,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        // SAFETY: the caller's contract.
        let (out, samples) = unsafe { (Out::new(out)?, input::structs(samples, n_samples, "samples")?) };
        let read = |(index, given): (usize, &owlet_sample)| {
            // SAFETY: the caller's contract.
            unsafe { read(index, given) }.map_err(|error| error.at(format!("sample {index}")))
        };
        let samples: Vec<Sample> = samples.iter().enumerate().map(read).collect::<Result<_>>()?;
        out.put(Dataset::from_samples(samples)?);
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// How many samples there are; 0 for NULL.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_dataset_length(dataset: *const owlet_dataset) -> usize {
    boundary::get(0, || handle::borrow(dataset).map_or(0, |dataset| dataset.len()))
}

/// Frees a data set's handle. NULL is ignored. Jobs that were given it keep it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn owlet_dataset_free(dataset: *mut owlet_dataset) {
    boundary::free(dataset);
}

unsafe fn read(index: usize, given: &owlet_sample) -> Result<Sample> {
    // SAFETY: by the contract of the caller.
    let (id, problem, answer, problem_type, task_type, options, pictures) = unsafe {
        (
            input::optional_text(given.id, "id")?,
            input::text(given.problem, "problem")?,
            input::text(given.answer, "answer")?,
            input::text(given.problem_type, "problem_type")?,
            input::optional_text(given.task_type, "task_type")?,
            input::array(given.options, given.n_options, "options")?,
            input::structs(given.pictures, given.n_pictures, "pictures")?,
        )
    };
    if problem.trim().is_empty() || answer.trim().is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "a sample needs a problem and an answer").got("nothing"));
    }
    // SAFETY: by the contract of the caller.
    let option = |&option: &*const c_char| unsafe { input::text(option, "options") }.map(str::to_owned);
    Ok(Sample {
        id: id.map_or_else(|| index.to_string(), str::to_owned),
        place: String::new(),
        problem: problem.to_owned(),
        // SAFETY: by the contract of the caller.
        images: pictures.iter().map(|picture| unsafe { read_picture(picture) }).collect::<Result<_>>()?,
        answer: answer.to_owned(),
        problem_type: problem_type.parse::<ProblemType>()?,
        task_type: task_type.map_or(Ok(TaskType::GeneralVqa), str::parse)?,
        options: options.iter().map(option).collect::<Result<_>>()?,
        response: None,
    })
}

unsafe fn read_picture(given: &owlet_picture) -> Result<Picture> {
    match (!given.path.is_null(), !given.data.is_null(), !given.image.is_null()) {
        // SAFETY: by the contract of the caller.
        (true, false, false) => Ok(Picture::File(unsafe { input::path(given.path, "path") }?)),
        (false, true, false) => {
            // SAFETY: by the contract of the caller.
            let bytes = unsafe { input::bytes(given.data, given.n_bytes, MAX_PICTURE_BYTES, "data") }?;
            Ok(Picture::Encoded(bytes.into()))
        }
        (false, false, true) => Ok(Picture::Pixels(handle::borrow(given.image)?)),
        _ => {
            let error = Error::new(ErrorKind::InvalidInput, "a picture is one thing").at("pictures");
            Err(error.needed("one of path, data and image"))
        }
    }
}

/// What a reward sees of a sample, which lives until it returns.
#[repr(C)]
pub struct owlet_sample_view {
    /// sizeof(owlet_sample_view) of the library: later versions may have more fields behind these.
    pub struct_size: usize,
    /// Its name.
    pub id: *const c_char,
    /// The question.
    pub problem: *const c_char,
    /// The truth.
    pub answer: *const c_char,
    /// How Owlet's own rules would score it; names as in owlet_sample.
    pub problem_type: *const c_char,
    /// Which ability it trains.
    pub task_type: *const c_char,
    /// Options of a multiple choice.
    pub options: *const *const c_char,
    /// Number of options.
    pub n_options: usize,
}

/// Calls `look` with the view of `sample`.
pub(super) fn view<T>(sample: &Sample, look: impl FnOnce(&owlet_sample_view) -> T) -> T {
    let names =
        [sample.id.as_str(), &sample.problem, &sample.answer, sample.problem_type.name(), sample.task_type.name()];
    let [id, problem, answer, problem_type, task_type] = names.map(c_string);
    let texts: Vec<CString> = sample.options.iter().map(|option| c_string(option)).collect();
    let options: Vec<*const c_char> = texts.iter().map(|option| option.as_ptr()).collect();
    look(&owlet_sample_view {
        struct_size: size_of::<owlet_sample_view>(),
        id: id.as_ptr(),
        problem: problem.as_ptr(),
        answer: answer.as_ptr(),
        problem_type: problem_type.as_ptr(),
        task_type: task_type.as_ptr(),
        options: options.as_ptr(),
        n_options: options.len(),
    })
}

/// A data set behind a handle.
pub(super) fn borrow(dataset: *const owlet_dataset) -> Result<Dataset> {
    let dataset: Arc<Dataset> = handle::borrow(dataset)?;
    Ok((*dataset).clone())
}
