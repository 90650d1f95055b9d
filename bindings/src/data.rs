//! Samples to train on and to be held out.

use std::{path::Path, sync::Arc};

use owlet_adapters::{data, picture::Picture, task};

use crate::{error::Result, image::Image};

/// Samples, checked as they are read.
#[derive(Debug, uniffi::Object)]
pub struct Dataset(pub(crate) data::Dataset);

/// One problem with its truth.
#[derive(Clone, Debug, uniffi::Record)]
pub struct Sample {
    /// Its name in reports.
    pub id: String,
    /// The question, together with the options with one `<image>` for every picture.
    pub problem: String,
    /// The truth.
    pub answer: String,
    /// How it is scored.
    pub problem_type: ProblemType,
    /// Which ability it trains; default general questions. Reports are by it.
    #[uniffi(default)]
    pub task_type: Option<TaskType>,
    /// Its pictures, in the order of the marks.
    #[uniffi(default)]
    pub images: Vec<SampleImage>,
    /// Options of a multiple choice, such as `A. cat`.
    #[uniffi(default)]
    pub options: Vec<String>,
}

/// A picture of a sample.
#[derive(Clone, Debug, uniffi::Enum)]
pub enum SampleImage {
    /// A file, which is read whenever its sample is asked.
    File {
        /// Its path.
        path: String,
    },
    /// The bytes of a PNG, JPEG, WebP, GIF or BMP file.
    Encoded {
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// A decoded picture. Large ones are better encoded: pixels take memory for the whole run.
    Pixels {
        /// The picture.
        image: Arc<Image>,
    },
}

/// How an answer is scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum ProblemType {
    /// One of the options, by its letter.
    MultipleChoice,
    /// A number, equal after rounding to two decimals.
    Numerical,
    /// A number, by relative closeness.
    Regression,
    /// Transcribed text, by word error rate.
    Ocr,
    /// Free text, by ROUGE.
    OpenEnded,
    /// A number or formula.
    Math,
    /// A box, by intersection over union.
    SpatialGrounding,
}

/// The ability that a sample trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum TaskType {
    /// Where something is, as a box.
    SpatialGrounding,
    /// How things stand to each other.
    SpatialReasoning,
    /// General questions and science.
    GeneralVqa,
    /// Mathematics over a picture.
    MathReasoning,
    /// Charts and figures.
    ChartQa,
    /// Reading printed text.
    Ocr,
}

#[uniffi::export]
impl Dataset {
    /// Reads a `.jsonl` file (one object a line) or a `.json` file (an array), with pictures beside it, on this thread.
    ///
    /// Throws `NotFound`, `Io`; `InvalidFile` and `Unsupported` for a bad row, with its line.
    #[uniffi::constructor]
    pub fn open(path: String) -> Result<Arc<Self>> {
        Ok(Arc::new(Self(data::Dataset::open(Path::new(&path))?)))
    }

    /// A data set of samples that the app makes.
    ///
    /// Throws `InvalidFile` for a sample whose marks do not fit its pictures or whose pictures are none; `NotFound`, `Io`.
    #[uniffi::constructor]
    pub fn from_samples(samples: Vec<Sample>) -> Result<Arc<Self>> {
        let samples = samples.into_iter().map(Sample::build).collect();
        Ok(Arc::new(Self(data::Dataset::from_samples(samples)?)))
    }

    /// Number of samples.
    pub fn n_samples(&self) -> u32 {
        self.0.len() as u32
    }
}

impl Sample {
    fn build(self) -> data::Sample {
        let Self { id, problem, answer, problem_type, task_type, images, options } = self;
        data::Sample {
            id,
            place: String::new(),
            problem,
            images: images.into_iter().map(SampleImage::build).collect(),
            answer,
            problem_type: problem_type.into(),
            task_type: task_type.map_or(task::TaskType::GeneralVqa, Into::into),
            options,
            response: None,
        }
    }
}

impl SampleImage {
    fn build(self) -> Picture {
        match self {
            Self::File { path } => Picture::File(path.into()),
            Self::Encoded { bytes } => Picture::Encoded(bytes.into()),
            Self::Pixels { image } => Picture::Pixels(Arc::new(image.0.clone())),
        }
    }
}

crate::mirror_enum!(ProblemType => task::ProblemType {
    MultipleChoice, Numerical, Regression, Ocr, OpenEnded, Math, SpatialGrounding
});
crate::mirror_enum!(TaskType => task::TaskType {
    SpatialGrounding, SpatialReasoning, GeneralVqa, MathReasoning, ChartQa, Ocr
});

impl From<task::ProblemType> for ProblemType {
    fn from(problem: task::ProblemType) -> Self {
        match problem {
            task::ProblemType::MultipleChoice => Self::MultipleChoice,
            task::ProblemType::Numerical => Self::Numerical,
            task::ProblemType::Regression => Self::Regression,
            task::ProblemType::Ocr => Self::Ocr,
            task::ProblemType::OpenEnded => Self::OpenEnded,
            task::ProblemType::Math => Self::Math,
            task::ProblemType::SpatialGrounding => Self::SpatialGrounding,
        }
    }
}

impl From<task::TaskType> for TaskType {
    fn from(task: task::TaskType) -> Self {
        match task {
            task::TaskType::SpatialGrounding => Self::SpatialGrounding,
            task::TaskType::SpatialReasoning => Self::SpatialReasoning,
            task::TaskType::GeneralVqa => Self::GeneralVqa,
            task::TaskType::MathReasoning => Self::MathReasoning,
            task::TaskType::ChartQa => Self::ChartQa,
            task::TaskType::Ocr => Self::Ocr,
        }
    }
}
