//! The six tasks: a question about a scene, its answer, and two ways to reply.
//!
//! After `compose` (random scenes), before `dataset` (files). The two replies are the point of the
//! embedded model: a *careful* one writes down what it sees and reads the answer off its own
//! notes; a *hasty* one glances, and is wrong by a fixed rule in about half of the pictures.

use image::RgbImage;

use crate::compose;
use crate::questions::{self, Question};
use crate::rng::Rng;
use crate::scene::{Mark, Scene};

/// What the model is asked to do with its reply; part of every prompt.
pub const PROMPT_SUFFIX: &str = "Reply with <thinking> and <answer>.";

/// The problem of the auxiliary "list everything" samples. They carry no suffix and no tags.
pub const DESCRIBE_PROBLEM: &str = "<image>Describe the image.";

/// Side of the pictures that the embedded model was trained on, in pixels.
pub const IMAGE_SIZE: u32 = 128;

/// The text that the model reads: the problem, the options one to a line, and [`PROMPT_SUFFIX`].
///
/// An `<image>` mark at the start of the problem stays where it is.
#[must_use]
pub fn compose_prompt(problem: &str, options: &[String]) -> String {
    let mut lines = vec![problem];
    lines.extend(options.iter().map(String::as_str));
    lines.push(PROMPT_SUFFIX);
    lines.join("\n")
}

/// One of the six task types of the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TaskKind {
    /// Find a shape: a box.
    SpatialGrounding,
    /// How one shape lies to another: a choice.
    SpatialReasoning,
    /// Colour or shape of something: a choice.
    GeneralVqa,
    /// Count, add: a number.
    MathReasoning,
    /// Read a bar chart: a number.
    Chart,
    /// Read two printed words: text.
    Ocr,
}

impl TaskKind {
    /// All six, in the reference's order.
    pub const ALL: [Self; 6] =
        [Self::SpatialGrounding, Self::SpatialReasoning, Self::GeneralVqa, Self::MathReasoning, Self::Chart, Self::Ocr];

    /// The value of the `task_type` field.
    #[must_use]
    pub fn task_type(self) -> &'static str {
        match self {
            Self::SpatialGrounding => "spatial_grounding",
            Self::SpatialReasoning => "spatial_reasoning",
            Self::GeneralVqa => "general_vqa_science_stem",
            Self::MathReasoning => "math_reasoning",
            Self::Chart => "chart_figure_qa",
            Self::Ocr => "ocr",
        }
    }

    /// The value of the `problem_type` field, which selects the reward.
    #[must_use]
    pub fn problem_type(self) -> &'static str {
        match self {
            Self::SpatialGrounding => "spatial grounding",
            Self::SpatialReasoning | Self::GeneralVqa => "multiple choice",
            Self::MathReasoning | Self::Chart => "numerical",
            Self::Ocr => "ocr",
        }
    }

    /// The task with this `task_type`.
    #[must_use]
    pub fn from_task_type(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.task_type() == name)
    }
}

/// Which scenes may be drawn.
///
/// The hash of a scene's content ([`Scene::content_hash`]) decides: one in eight is held out. No
/// scene is in both splits, under any seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Seven scenes in eight.
    Train,
    /// The rest.
    HeldOut,
}

impl Split {
    /// The split that a scene belongs to.
    #[must_use]
    pub fn of(scene: &Scene) -> Self {
        if scene.content_hash() >> 61 == 0 { Self::HeldOut } else { Self::Train }
    }

    /// `train` or `heldout`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::HeldOut => "heldout",
        }
    }

    /// The split of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Train, Self::HeldOut].into_iter().find(|s| s.name() == name)
    }
}

/// One picture with one question about it.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Unique among the samples of one seed: split, task and index.
    pub id: String,
    /// The question, after an `<image>` mark and without the options.
    pub problem: String,
    /// Selects the reward.
    pub problem_type: &'static str,
    /// One of the six task types.
    pub task_type: &'static str,
    /// Always `image`.
    pub data_type: &'static str,
    /// `A. red` and so on; empty where the answer is not a choice.
    pub options: Vec<String>,
    /// The right answer, without tags.
    pub answer: String,
    /// Which variant of the task this is, for finer tables: `count`, `sum`, `bar`, ...
    pub kind: &'static str,
    /// A complete reply that looks first, and is right.
    pub careful: String,
    /// A complete reply that glances, and is wrong by a fixed rule in about half of the scenes.
    pub hasty: String,
    /// Everything in the picture: the reply to [`DESCRIBE_PROBLEM`].
    pub description: String,
    /// Where everything is, for dense supervision.
    pub marks: Vec<Mark>,
    /// What was drawn.
    pub scene: Scene,
    /// The picture.
    pub image: RgbImage,
}

impl Sample {
    /// The text that the model reads, with its `<image>` mark.
    #[must_use]
    pub fn prompt(&self) -> String {
        compose_prompt(&self.problem, &self.options)
    }
}

/// Draws sample `index` of a task, [`IMAGE_SIZE`] pixels wide. The same arguments give the same
/// bytes on every platform.
#[must_use]
pub fn sample(seed: u64, split: Split, task: TaskKind, index: u64) -> Sample {
    sample_sized(seed, split, task, index, IMAGE_SIZE)
}

/// As [`sample`], with the side of the picture in pixels, clamped to 96..=256. The scene, the
/// question and the answer do not depend on the size.
#[must_use]
pub fn sample_sized(seed: u64, split: Split, task: TaskKind, index: u64, size: u32) -> Sample {
    let mut attempt = 0;
    let (scene, question) = loop {
        let mut rng = Rng::keyed(&[seed, task as u64, index, attempt]);
        let (scene, question) = draw_question(task, &mut rng);
        if Split::of(&scene) == split {
            break (scene, question);
        }
        attempt += 1;
    };
    let reply = |thinking: &str, answer: &str| format!("<thinking>{thinking}</thinking><answer>{answer}</answer>");
    Sample {
        id: format!("{}-{}-{seed}-{index:06}", split.name(), task.task_type()),
        problem: format!("<image>{}", question.text),
        problem_type: task.problem_type(),
        task_type: task.task_type(),
        data_type: "image",
        options: question.options,
        kind: question.kind,
        careful: reply(&question.careful_thinking, &question.answer),
        hasty: reply(&question.hasty_thinking, &question.hasty_answer),
        answer: question.answer,
        description: scene.describe(),
        marks: scene.marks(),
        image: scene.draw(size.clamp(96, 256)),
        scene,
    }
}

fn draw_question(task: TaskKind, rng: &mut Rng) -> (Scene, Question) {
    match task {
        TaskKind::SpatialGrounding => {
            let n = rng.between(2, 4) as usize;
            let scene = compose::distinct_shapes(rng, n);
            let question = questions::find(rng, &scene);
            (scene, question)
        }
        TaskKind::SpatialReasoning => {
            let n = rng.between(2, 4) as usize;
            let (scene, a, b) = compose::aligned_shapes(rng, n);
            let question = questions::relation(&scene, a, b);
            (scene, question)
        }
        TaskKind::GeneralVqa => {
            let n = rng.between(2, 3) as usize;
            let scene = compose::distinct_shapes(rng, n);
            let question = questions::attribute(rng, &scene);
            (scene, question)
        }
        TaskKind::MathReasoning if rng.chance(30) => {
            let scene = compose::two_digits(rng);
            let question = questions::sum(&scene);
            (scene, question)
        }
        TaskKind::MathReasoning => {
            let scene = compose::repeated_shapes(rng);
            let question = questions::count(rng, &scene);
            (scene, question)
        }
        TaskKind::Chart => {
            let scene = compose::bars(rng);
            let question = questions::chart(rng, &scene);
            (scene, question)
        }
        TaskKind::Ocr => {
            let scene = compose::two_words(rng);
            let question = questions::read(&scene);
            (scene, question)
        }
    }
}
