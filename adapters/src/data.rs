//! Data sets in the reference's fields: JSON Lines or a JSON array, images beside the file.
//!
//! A sample is checked as it is loaded, so that a bad row stops a run before it begins and never inside it: unknown types,
//! files that are no images or too large, marks that do not fit the images, and truths that no answer could earn anything
//! for are errors with the line of the row.
//!
//! | field | meaning |
//! |---|---|
//! | `problem` | the question; `<image>` marks where the images go |
//! | `images` | paths, relative to the data file, in the order of the marks in the problem and then the options |
//! | `answer` | the truth, with or without `<answer>` tags |
//! | `problem_type` | [`ProblemType`]: how it is scored |
//! | `task_type` | [`TaskType`]: which ability it trains |
//! | `data_type` | `image` or `text`; optional |
//! | `options` | texts such as `A. cat`; optional |
//! | `response` or `completion` | a whole response, thinking included, for supervised training; optional |
//! | `problem_id` | a number or text for reports; optional, otherwise the line |
//!
//! Other fields are ignored.

use std::{
    fs,
    path::{Path, PathBuf},
};

use owlet_runtime::{Error, ErrorKind, IMAGE_MARK, Result, rng::Rng};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    picture::Picture,
    reward,
    task::{ProblemType, TaskType},
};

/// What follows every problem by default: the form of answer that the format reward looks for.
pub const DEFAULT_SUFFIX: &str = "Think first inside <thinking> </thinking> tags, then give the final answer inside \
    <answer> </answer> tags. Give boxes as JSON with the key boxes.";

/// One problem with its truth.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Name in reports.
    pub id: String,
    /// Where it was read, `path:line`, for errors; may be empty.
    pub place: String,
    /// The question, together with the options with one [`IMAGE_MARK`] for every image.
    pub problem: String,
    /// Its pictures, in the order of the marks.
    pub images: Vec<Picture>,
    /// The truth, without tags, never empty.
    pub answer: String,
    /// How it is scored.
    pub problem_type: ProblemType,
    /// Which ability it trains.
    pub task_type: TaskType,
    /// Options of a multiple choice, such as `A. cat`; empty elsewhere.
    pub options: Vec<String>,
    /// A whole response to learn from, thinking included; rewards do not look at it.
    pub response: Option<String>,
}

impl Sample {
    /// The set of G2RPO's second stage: the problem type.
    pub fn advantage_task(&self) -> &'static str {
        self.problem_type.name()
    }

    /// The response that supervised training teaches: the one that is given, otherwise the answer in its tags.
    pub fn target(&self) -> String {
        self.response.clone().unwrap_or_else(|| format!("<answer>{}</answer>", self.answer))
    }

    /// That there are as many images as marks for them, and that they are images.
    fn check_images(&self) -> Result<()> {
        let texts = std::iter::once(&self.problem).chain(&self.options);
        let n_marks = texts.map(|text| text.matches(IMAGE_MARK).count()).sum::<usize>();
        if n_marks != self.images.len() {
            return Err(Error::new(ErrorKind::InvalidFile, "image marks do not fit the images")
                .got(format!("{n_marks} marks and {} images", self.images.len()))
                .needed("one <image> in the problem or its options for every image"));
        }
        self.images.iter().try_for_each(|image| image.probe().map(drop))
    }

    /// Where errors place it: its line, or its name where it has none.
    pub(crate) fn named_place(&self) -> &str {
        if self.place.is_empty() { &self.id } else { &self.place }
    }

    /// The text of the user's turn: problem, options (one a line) and `suffix`, separated by line breaks; empty parts are
    /// left out. Image marks stay in it.
    pub fn prompt_text(&self, suffix: &str) -> String {
        let options = self.options.join("\n");
        let parts = [self.problem.trim(), options.trim(), suffix.trim()];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
    }
}

/// A row as it is in the file.
#[derive(Deserialize)]
struct Row {
    problem: String,
    #[serde(default)]
    images: Vec<PathBuf>,
    answer: String,
    problem_type: String,
    task_type: String,
    #[serde(default)]
    data_type: String,
    #[serde(default)]
    options: Vec<String>,
    #[serde(alias = "completion")]
    response: Option<String>,
    problem_id: Option<Value>,
}

/// Samples in the order of their file, and the hash that ties checkpoints to them.
#[derive(Clone, Debug)]
pub struct Dataset {
    samples: Vec<Sample>,
    hash: String,
}

impl Dataset {
    /// Loads a `.jsonl` file (one object a line, empty lines skipped) or a `.json` file (an array of objects).
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] or [`ErrorKind::Io`] for files that cannot be read, images included;
    /// [`ErrorKind::InvalidFile`] for rows that are malformed or empty, whose marks do not fit their images or whose truth
    /// cannot be scored; [`ErrorKind::Unsupported`] for unknown types; those of [`Picture::probe`]. Every row's error names
    /// `path:line` (of an array: the item).
    pub fn open(path: &Path) -> Result<Self> {
        let what = "cannot read data set";
        let text = fs::read(path).map_err(|source| Error::io(what, path, source))?;
        let text = String::from_utf8(text).map_err(|source| {
            let line =
                source.as_bytes()[..source.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
            Error::new(ErrorKind::InvalidFile, what).at(format!("{}:{line}", path.display())).needed("UTF-8 text")
        })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let rows = if text.trim_start().starts_with('[') { array_rows(path, &text)? } else { line_rows(path, &text)? };
        let samples: Vec<Sample> = rows
            .into_iter()
            .map(|placed| {
                let place = placed.place.clone();
                sample(folder, placed).map_err(|error| error.at(place))
            })
            .collect::<Result<_>>()?;
        if samples.is_empty() {
            return Err(Error::new(ErrorKind::InvalidFile, what).at(path.display()).got("no rows"));
        }
        Self::from_samples(samples)
    }

    /// A data set of samples that were made by a program, such as what an app has seen its user correct.
    ///
    /// # Errors
    /// At the sample's place: [`ErrorKind::InvalidFile`] if its marks do not fit its images; those of [`Picture::probe`];
    /// [`ErrorKind::NotFound`] or [`ErrorKind::Io`] if an image cannot be read for the hash.
    pub fn from_samples(samples: Vec<Sample>) -> Result<Self> {
        let check = |sample: &Sample| sample.check_images().map_err(|error| error.at(sample.named_place()));
        samples.iter().try_for_each(check)?;
        let hash = hash(&samples)?;
        Ok(Self { samples, hash })
    }

    /// All samples.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// SHA-256 in hexadecimal over texts, truths, types and the bytes of the images; not over paths, so a data set may move,
    /// from files into memory too.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The order of the samples in an epoch: a permutation that depends on `seed` and `epoch` alone.
    pub fn epoch_order(&self, seed: u64, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.samples.len()).collect();
        Rng::keyed(&[seed, epoch, ORDER_KEY]).shuffle(&mut order);
        order
    }
}

/// Keeps the streams of data order apart from the other uses of a seed.
const ORDER_KEY: u64 = 0x6f72_6465_7200_0001;

/// Stands before a response in the hash; no text is these bytes, which are no UTF-8.
const RESPONSE_KEY: &[u8] = b"\xffresponse";

/// A row and where it was.
struct Placed {
    place: String,
    /// Line, or item of an array, from 1.
    number: usize,
    row: Row,
}

fn line_rows(path: &Path, text: &str) -> Result<Vec<Placed>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let number = index + 1;
            let place = format!("{}:{number}", path.display());
            let row = serde_json::from_str(line).map_err(|source| malformed(&source).at(&place))?;
            Ok(Placed { place, number, row })
        })
        .collect()
}

fn array_rows(path: &Path, text: &str) -> Result<Vec<Placed>> {
    let values: Vec<Value> = serde_json::from_str(text)
        .map_err(|source| malformed(&source).at(format!("{}:{}", path.display(), source.line())))?;
    let row = |(index, value): (usize, Value)| {
        let number = index + 1;
        let place = format!("{}: item {number}", path.display());
        let row = serde_json::from_value(value).map_err(|source| malformed(&source).at(&place))?;
        Ok(Placed { place, number, row })
    };
    values.into_iter().enumerate().map(row).collect()
}

/// The place that is added names the line in the file; serde_json's own counts from the row's beginning.
fn malformed(source: &serde_json::Error) -> Error {
    let (text, column) = (source.to_string(), source.column());
    let position = format!(" at line {} column {column}", source.line());
    let got = text.strip_suffix(&position).map_or(text.clone(), |text| format!("{text} at column {column}"));
    Error::new(ErrorKind::InvalidFile, "malformed row")
        .got(got)
        .needed("an object with problem, answer, problem_type and task_type")
}

fn sample(folder: &Path, Placed { place, number, row }: Placed) -> Result<Sample> {
    let invalid = |what: &str| Error::new(ErrorKind::InvalidFile, what);
    let problem_type: ProblemType = row.problem_type.parse()?;
    let task_type: TaskType = row.task_type.parse()?;
    if !matches!(row.data_type.to_lowercase().as_str(), "" | "image" | "text") {
        return Err(Error::new(ErrorKind::Unsupported, "unknown data_type")
            .got(format!("{:?}", row.data_type))
            .needed("one of image, text"));
    }
    let answer = reward::parse(&row.answer).answer.to_owned();
    if answer.is_empty() {
        return Err(invalid("empty answer"));
    }
    if reward::accuracy(problem_type, &answer, &answer, &row.options) < 0.999 {
        return Err(invalid("the answer can never be scored").got(format!("{answer:?}")).needed(form(problem_type)));
    }
    let images = row.images.iter().map(|image| folder.join(image).into()).collect();
    let id = match row.problem_id {
        Some(Value::String(id)) => id,
        Some(id) => id.to_string(),
        None => number.to_string(),
    };
    if row.response.as_ref().is_some_and(|response| response.trim().is_empty()) {
        return Err(invalid("empty response"));
    }
    let Row { problem, options, response, .. } = row;
    Ok(Sample { id, place, problem, images, answer, problem_type, task_type, options, response })
}

/// What a truth must be to be scored.
fn form(problem_type: ProblemType) -> &'static str {
    match problem_type {
        ProblemType::MultipleChoice => "the letter of an option, or words",
        ProblemType::Numerical | ProblemType::Regression => "a bare number",
        ProblemType::Ocr | ProblemType::OpenEnded => "words",
        ProblemType::Math => "a number or formula",
        ProblemType::SpatialGrounding => r#"{"boxes": [x1, y1, x2, y2]} with an area"#,
    }
}

fn hash(samples: &[Sample]) -> Result<String> {
    let mut hasher = Sha256::new();
    // Lengths go first: no two different lists of fields have the same bytes.
    let mut field = |head: &[u8], body: &[u8]| {
        hasher.update((head.len() as u64 + body.len() as u64).to_le_bytes());
        hasher.update(head);
        hasher.update(body);
    };
    for sample in samples {
        field(&[], sample.problem.as_bytes());
        field(&[], sample.answer.as_bytes());
        field(&[], sample.problem_type.name().as_bytes());
        field(&[], sample.task_type.name().as_bytes());
        field(&[], &(sample.options.len() as u64).to_le_bytes());
        sample.options.iter().for_each(|option| field(&[], option.as_bytes()));
        field(&[], &(sample.images.len() as u64).to_le_bytes());
        for image in &sample.images {
            let (head, body) = image.content()?;
            field(&head, &body);
        }
        if let Some(response) = &sample.response {
            field(&[], RESPONSE_KEY);
            field(&[], response.as_bytes());
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use owlet_runtime::Image;

    use super::*;

    const ROW: &str = r#"{"problem": "<image> How many?", "images": ["a.png"], "answer": "<answer>3</answer>", "problem_type": "numerical", "task_type": "spatial_reasoning", "data_type": "image", "options": [], "other": 1}"#;

    /// The header of a square picture with pixels of 24 bits, and the first pixel.
    fn bmp(side: u32) -> Vec<u8> {
        let fields = [54, 0, 54, 40, side, side, 1 | 24 << 16].map(u32::to_le_bytes).concat();
        [b"BM", &fields[..], &[0; 28]].concat()
    }

    fn folder(rows: &str, name: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("temporary directory");
        for (name, bytes) in [("a.png", bmp(1)), ("huge.bmp", bmp(50_000)), ("text.png", b"no picture".to_vec())] {
            fs::write(folder.path().join(name), bytes).expect("writable");
        }
        let path = folder.path().join(name);
        fs::write(&path, rows).expect("writable");
        (folder, path)
    }

    #[test]
    fn lines_and_arrays_give_the_same_samples() {
        let (_lines_folder, lines) = folder(&format!("{ROW}\n\n{ROW}\n"), "d.jsonl");
        let (_array_folder, array) = folder(&format!("[{ROW},\n{ROW}]"), "d.json");
        let (lines, array) = (Dataset::open(&lines).expect("valid"), Dataset::open(&array).expect("valid"));
        assert_eq!((lines.len(), lines.hash()), (2, array.hash()));
        let sample = &lines.samples()[1];
        assert_eq!((sample.id.as_str(), sample.answer.as_str()), ("3", "3"));
        assert!(sample.place.ends_with("d.jsonl:3"), "{}", sample.place);
        assert!(array.samples()[1].place.ends_with("d.json: item 2"), "{}", array.samples()[1].place);
        assert_eq!(sample.prompt_text("Think."), "<image> How many?\nThink.");
        assert_eq!(sample.advantage_task(), "numerical");
    }

    #[test]
    fn targets_are_given_responses_or_else_the_answer_in_tags() {
        let (_folder, plain) = folder(ROW, "d.jsonl");
        let plain = Dataset::open(&plain).expect("valid");
        assert_eq!(plain.samples()[0].target(), "<answer>3</answer>");
        for field in ["response", "completion"] {
            let row = ROW.replace(r#""other": 1"#, &format!(r#""{field}": "<thinking>1, 2, 3</thinking>3""#));
            let (_folder, path) = folder(&row, "d.jsonl");
            let given = Dataset::open(&path).expect("valid");
            assert_eq!(given.samples()[0].target(), "<thinking>1, 2, 3</thinking>3");
            assert_ne!(given.hash(), plain.hash());
        }
    }

    #[test]
    fn options_stand_between_problem_and_suffix() {
        let row = ROW.replace(r#""options": []"#, r#""options": ["A. 1", "B. 2"]"#);
        let (_folder, path) = folder(&row, "d.jsonl");
        let data = Dataset::open(&path).expect("valid");
        assert_eq!(data.samples()[0].prompt_text(""), "<image> How many?\nA. 1\nB. 2");
        assert!(data.samples()[0].prompt_text(DEFAULT_SUFFIX).ends_with("key boxes."));
    }

    #[test]
    fn bad_rows_are_named_by_line() {
        for (from, to, kind, message) in [
            ("}", "", ErrorKind::InvalidFile, "malformed row"),
            (r#""answer""#, r#""response""#, ErrorKind::InvalidFile, "missing field `answer`"),
            ("numerical", "riddle", ErrorKind::Unsupported, "multiple choice, numerical"),
            ("spatial_reasoning", "riddles", ErrorKind::Unsupported, "spatial_grounding, spatial_reasoning"),
            (r#""data_type": "image""#, r#""data_type": "video""#, ErrorKind::Unsupported, "one of image, text"),
            ("<image>", "", ErrorKind::InvalidFile, "0 marks and 1 images"),
            ("a.png", "b.png", ErrorKind::NotFound, "b.png"),
            ("a.png", "text.png", ErrorKind::InvalidFile, "not a picture"),
            ("a.png", "huge.bmp", ErrorKind::Limit, "50000x50000 pixels"),
            (r#""options": []"#, r#""options": ["A. <image>"]"#, ErrorKind::InvalidFile, "2 marks and 1 images"),
            (r#""problem""#, r#"problem"#, ErrorKind::InvalidFile, "key must be a string at column 2, needed"),
            ("<answer>3</answer>", "5 apples", ErrorKind::InvalidFile, r#"got "5 apples", needed a bare number"#),
            ("<answer>3</answer>", "<answer> </answer>", ErrorKind::InvalidFile, "empty answer"),
            (r#""other": 1"#, r#""response": " ""#, ErrorKind::InvalidFile, "empty response"),
        ] {
            let (_folder, path) = folder(&format!("{ROW}\n{}", ROW.replace(from, to)), "d.jsonl");
            let error = Dataset::open(&path).expect_err("bad row");
            let text = error.to_string();
            assert_eq!(error.kind(), kind, "{text}");
            assert!(text.contains("d.jsonl:2") && text.contains(message), "{text}");
        }
        let (_folder, path) = folder("\n", "d.jsonl");
        assert_eq!(Dataset::open(&path).expect_err("empty").kind(), ErrorKind::InvalidFile);
        assert_eq!(Dataset::open(Path::new("no.jsonl")).expect_err("missing").kind(), ErrorKind::NotFound);
    }

    #[test]
    fn truths_that_no_answer_could_match_are_refused() {
        for (problem_type, answer, is_good) in [
            ("numerical", "five", false),
            ("numerical", "1/2", true),
            ("regression", "5 m", false),
            ("regression", "0", true),
            ("spatial grounding", "[1, 2, 3, 4]", false),
            ("spatial grounding", r#"{\"boxes\": [5, 5, 5, 9]}"#, false),
            ("spatial grounding", r#"{\"boxes\": [1, 2, 3, 4]}"#, true),
            ("multiple choice", "?", false),
            ("multiple choice", "A, C", true),
            ("OCR", "...", true),
            ("open-ended", "...", false),
            ("math", "x^2 + 1", true),
        ] {
            let row = ROW.replace("<answer>3</answer>", answer).replace("numerical", problem_type);
            let (_folder, path) = folder(&row, "d.jsonl");
            let outcome = Dataset::open(&path).map_err(|error| error.to_string());
            assert_eq!(outcome.is_ok(), is_good, "{problem_type}, {answer}: {outcome:?}");
        }
    }

    #[test]
    fn images_may_stand_in_options() {
        let row =
            ROW.replace("<image> How many?", "Which?").replace(r#""options": []"#, r#""options": ["A. <image>"]"#);
        let (_folder, path) = folder(&row, "d.jsonl");
        assert_eq!(Dataset::open(&path).expect("valid").samples()[0].images.len(), 1);
    }

    #[test]
    fn pictures_in_memory_are_the_files_with_their_bytes() {
        let (_folder, path) = folder(ROW, "d.jsonl");
        let files = Dataset::open(&path).expect("valid");
        let with = |images: Vec<Picture>| {
            let sample = Sample { id: "mine".to_owned(), place: String::new(), images, ..files.samples()[0].clone() };
            Dataset::from_samples(vec![sample])
        };
        let encoded = with(vec![Picture::Encoded(bmp(1).into())]).expect("a picture");
        assert_eq!(encoded.hash(), files.hash());
        let pixels = |rgb: [u8; 3]| Picture::Pixels(Arc::new(Image::from_rgb(1, 1, rgb.into()).expect("one pixel")));
        let hash = |rgb| with(vec![pixels(rgb)]).expect("a picture").hash().to_owned();
        assert!(hash([0; 3]) != files.hash() && hash([0; 3]) != hash([1, 0, 0]) && hash([0; 3]) == hash([0; 3]));

        for (images, message) in [
            (vec![], "mine: got 1 marks and 0 images"),
            (vec![Picture::Encoded(b"no picture".as_slice().into())], "not a picture: mine"),
            (vec![Picture::File("gone.png".into())], "mine: gone.png"),
        ] {
            let error = with(images).expect_err("no such picture").to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn orders_are_permutations_fixed_by_seed_and_epoch() {
        let (_folder, path) = folder(&[ROW; 20].join("\n"), "d.jsonl");
        let data = Dataset::open(&path).expect("valid");
        let mut order = data.epoch_order(1, 0);
        assert_eq!(order, data.epoch_order(1, 0));
        assert_ne!(order, data.epoch_order(1, 1));
        assert_ne!(order, data.epoch_order(2, 0));
        order.sort_unstable();
        assert_eq!(order, (0..20).collect::<Vec<_>>());
    }
}
