//! Which files of a repository are pulled: the model of the wanted type, and the image projector that belongs to it.

use owlet_runtime::{Error, ErrorKind, Result};

use super::source::is_plain_path;

/// Types of a model, the first that a repository has is taken when nothing is said: small, and close to the original.
const MODEL_TYPES: [&str; 6] = ["Q4_K_M", "Q4_K_S", "Q4_0", "Q5_K_M", "Q8_0", "F16"];
/// Types of a projector: F16 is what checkpoints are converted to and was compared with Hugging Face, Q8_0 takes half.
const PROJECTOR_TYPES: [&str; 4] = ["F16", "Q8_0", "BF16", "F32"];

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Path within the repository.
    pub path: String,
    /// Bytes, where the server tells.
    pub n_bytes: Option<u64>,
    /// SHA-256 in lower-case hexadecimal, where the server tells.
    pub sha256: Option<String>,
}

/// Whether a projector is pulled beside a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Projector {
    /// The one that belongs to the model, if the repository has any.
    #[default]
    Auto,
    /// None.
    Skip,
    /// That of this name or type.
    Named(String),
}

/// What to pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The model, or whatever file was named.
    pub model: RemoteFile,
    /// Its projector.
    pub projector: Option<RemoteFile>,
    /// Names of other files that could have been the model or the projector.
    pub others: Vec<String>,
}

/// Picks from the `files` of a repository: `wanted` names a file or a type; without it the types of [`Choice`]'s module
/// are tried in order. Files whose names would lead out of the folder are passed over.
///
/// # Errors
/// `NotFound` when nothing fits, `InvalidInput` when several do: both list what there is. `InvalidInput` for a projector of
/// a projector, `Unsupported` for a model in parts.
pub fn choose(files: &[RemoteFile], wanted: Option<&str>, projector: &Projector) -> Result<Choice> {
    let usable: Vec<&RemoteFile> =
        files.iter().filter(|file| file.path.ends_with(".gguf") && is_plain_path(&file.path)).collect();
    let (projectors, models): (Vec<&RemoteFile>, Vec<_>) = usable.iter().copied().partition(|file| is_projector(file));
    let (parts, models): (Vec<&RemoteFile>, Vec<_>) = models.into_iter().partition(|file| is_part(&file.path));

    let named = wanted.and_then(|name| usable.iter().copied().find(|file| file.path == name || file.name() == name));
    let model = match (named, wanted) {
        (Some(file), _) => file,
        (None, Some(wanted)) => only("model", of_type(&models, wanted), &models, &parts, wanted)?,
        (None, None) if models.len() == 1 => models[0],
        (None, None) => {
            let preferred = MODEL_TYPES.iter().map(|name| of_type(&models, name)).find(|found| !found.is_empty());
            only("model", preferred.unwrap_or_else(|| models.clone()), &models, &parts, "no choice")?
        }
    };
    if is_part(&model.path) {
        return Err(in_parts(&model.path));
    }
    let beside = match projector {
        Projector::Named(name) if is_projector(model) => {
            let error = Error::new(ErrorKind::InvalidInput, "a projector has no projector").at(&model.path).got(name);
            return Err(error.needed("a model's file or type, or one projector by itself"));
        }
        _ if is_projector(model) => None,
        Projector::Skip => None,
        Projector::Auto if projectors.is_empty() => None,
        Projector::Auto => Some(belonging(model, &projectors)?),
        Projector::Named(name) => {
            let exact: Vec<_> =
                projectors.iter().copied().filter(|file| file.path == *name || file.name() == name).collect();
            let fitting = if exact.is_empty() { of_type(&projectors, name) } else { exact };
            Some(only("projector", fitting, &projectors, &[], name)?)
        }
    };
    let is_chosen = |file: &RemoteFile| file == model || Some(file) == beside;
    let others = models.iter().chain(&projectors).filter(|file| !is_chosen(file)).map(|file| file.path.clone());
    Ok(Choice { model: model.clone(), projector: beside.cloned(), others: others.collect() })
}

impl RemoteFile {
    /// The name without its folders.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// The name without what it ends in.
    fn stem(&self) -> &str {
        self.name().strip_suffix(".gguf").unwrap_or(self.name())
    }
}

fn is_projector(file: &RemoteFile) -> bool {
    file.name().to_ascii_lowercase().contains("mmproj")
}

/// `-00001-of-00003.gguf`, as llama.cpp's `gguf-split` writes.
fn is_part(path: &str) -> bool {
    let stem = path.strip_suffix(".gguf").unwrap_or(path);
    let Some((head, total)) = stem.rsplit_once("-of-") else { return false };
    let number = head.rsplit('-').next().unwrap_or_default();
    [number, total].iter().all(|digits| digits.len() == 5 && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Those whose names end in the type `name`: `x-Q4_K_M.gguf`, `x.Q4_K_M.gguf`, `x_Q4_K_M.gguf`.
fn of_type<'a>(files: &[&'a RemoteFile], name: &str) -> Vec<&'a RemoteFile> {
    let name = name.to_ascii_uppercase();
    let fits = |file: &RemoteFile| {
        let stem = file.stem().to_ascii_uppercase();
        stem.strip_suffix(&name).is_some_and(|head| head.is_empty() || head.ends_with(['-', '.', '_']))
    };
    files.iter().copied().filter(|file| fits(file)).collect()
}

/// The projector of `model` among several: of the first known type, and of the model's name where that leaves several.
fn belonging<'a>(model: &RemoteFile, projectors: &[&'a RemoteFile]) -> Result<&'a RemoteFile> {
    let typed = PROJECTOR_TYPES.iter().map(|name| of_type(projectors, name)).find(|found| !found.is_empty());
    let candidates = typed.unwrap_or_else(|| projectors.to_vec());
    if let [only] = candidates[..] {
        return Ok(only);
    }
    // A repository of several models: what stands before the type is the same in both names.
    let base = model.stem().rsplit_once(['-', '.']).map_or(model.stem(), |(base, _)| base);
    let same_name: Vec<_> = candidates.iter().copied().filter(|file| file.name().contains(base)).collect();
    let fitting = if same_name.is_empty() { candidates } else { same_name };
    only("projector", fitting, projectors, &[], model.name())
}

/// The only one of `fitting`; otherwise an error with all that there is.
fn only<'a>(
    what: &str,
    fitting: Vec<&'a RemoteFile>,
    all: &[&RemoteFile],
    parts: &[&RemoteFile],
    got: &str,
) -> Result<&'a RemoteFile> {
    match fitting[..] {
        [file] => Ok(file),
        [] => match parts.first() {
            Some(part) => Err(in_parts(&part.path)),
            None => Err(Error::new(ErrorKind::NotFound, format!("the repository has no such {what}"))
                .got(got)
                .needed(names(all))),
        },
        _ => {
            Err(Error::new(ErrorKind::InvalidInput, format!("the repository has several files that may be the {what}"))
                .got(got)
                .needed(format!("the name of one of {}", names(&fitting))))
        }
    }
}

fn in_parts(path: &str) -> Error {
    let needed = "a model in one file: choose a smaller type, or join the parts by llama.cpp's gguf-split --merge";
    Error::new(ErrorKind::Unsupported, "the model comes in parts").at(path).needed(needed)
}

fn names(files: &[&RemoteFile]) -> String {
    if files.is_empty() {
        return "a repository with GGUF files; a checkpoint in safetensors is for `owlet quantize`".to_owned();
    }
    files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(paths: &[&str]) -> Vec<RemoteFile> {
        paths.iter().map(|&path| RemoteFile { path: path.to_owned(), n_bytes: None, sha256: None }).collect()
    }

    const VISION: [&str; 7] = [
        "README.md",
        "M-2B-F16.gguf",
        "M-2B-Q4_K_M.gguf",
        "M-2B-Q8_0.gguf",
        "mmproj-M-2B-F16.gguf",
        "mmproj-M-2B-Q8_0.gguf",
        "imatrix.dat",
    ];

    #[test]
    fn a_model_comes_with_its_projector() {
        let auto = Projector::Auto;
        let named = |name: &str| Projector::Named(name.to_owned());
        type Case<'a> = (&'a [&'a str], Option<&'a str>, Projector, &'a str, Option<&'a str>);
        let cases: [Case<'_>; 13] = [
            (&VISION, None, auto.clone(), "M-2B-Q4_K_M.gguf", Some("mmproj-M-2B-F16.gguf")),
            (&VISION, Some("q8_0"), auto.clone(), "M-2B-Q8_0.gguf", Some("mmproj-M-2B-F16.gguf")),
            (&VISION, Some("M-2B-F16.gguf"), Projector::Skip, "M-2B-F16.gguf", None),
            (&VISION, None, named("Q8_0"), "M-2B-Q4_K_M.gguf", Some("mmproj-M-2B-Q8_0.gguf")),
            (&VISION, Some("mmproj-M-2B-Q8_0.gguf"), auto.clone(), "mmproj-M-2B-Q8_0.gguf", None),
            (&["only.gguf"], None, auto.clone(), "only.gguf", None),
            (&["a-Q2_K.gguf", "a-Q8_0.gguf"], None, auto.clone(), "a-Q8_0.gguf", None),
            (&["m.Q4_0.gguf", "m.f16.gguf"], Some("F16"), auto.clone(), "m.f16.gguf", None),
            (&["a-Q4_K_M.gguf", "a-mmproj-f32.gguf"], None, auto.clone(), "a-Q4_K_M.gguf", Some("a-mmproj-f32.gguf")),
            (&["a-Q8_0.gguf", "mmproj.gguf"], None, auto.clone(), "a-Q8_0.gguf", Some("mmproj.gguf")),
            (
                &["a-2b-Q8_0.gguf", "a-4b-Q8_0.gguf", "mmproj-a-2b-F16.gguf", "mmproj-a-4b-F16.gguf"],
                Some("a-4b-Q8_0.gguf"),
                auto.clone(),
                "a-4b-Q8_0.gguf",
                Some("mmproj-a-4b-F16.gguf"),
            ),
            (&["q/a-Q8_0.gguf", "b.gguf"], Some("q/a-Q8_0.gguf"), auto.clone(), "q/a-Q8_0.gguf", None),
            (&["../a-Q4_K_M.gguf", "b-Q8_0.gguf"], None, auto, "b-Q8_0.gguf", None),
        ];
        for (paths, wanted, projector, model, beside) in cases {
            let choice = choose(&files(paths), wanted, &projector).expect("a choice");
            let found = (choice.model.path.as_str(), choice.projector.as_ref().map(|file| file.path.as_str()));
            assert_eq!(found, (model, beside), "{wanted:?} of {paths:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_answered_with_what_there_is() {
        let cases: [(&[&str], Option<&str>, ErrorKind, &str); 7] = [
            (&VISION, Some("Q3_K_S"), ErrorKind::NotFound, "M-2B-Q8_0.gguf"),
            (&["a-Q4_K_M.gguf", "b-Q4_K_M.gguf"], None, ErrorKind::InvalidInput, "a-Q4_K_M.gguf, b-Q4_K_M.gguf"),
            (&["a-IQ1_S.gguf", "a-IQ2_S.gguf"], None, ErrorKind::InvalidInput, "a-IQ1_S.gguf, a-IQ2_S.gguf"),
            (&["README.md"], None, ErrorKind::NotFound, "owlet quantize"),
            (&["../a.gguf"], Some("../a.gguf"), ErrorKind::NotFound, "GGUF"),
            (&["a-Q8_0-00001-of-00002.gguf"], Some("Q8_0"), ErrorKind::Unsupported, "--merge"),
            (
                &["a-Q8_0.gguf", "mmproj-x-F16.gguf", "mmproj-y-F16.gguf"],
                None,
                ErrorKind::InvalidInput,
                "mmproj-x-F16.gguf, mmproj-y-F16.gguf",
            ),
        ];
        for (paths, wanted, kind, told) in cases {
            let error = choose(&files(paths), wanted, &Projector::Auto).expect_err("no choice");
            assert_eq!(error.kind(), kind, "{wanted:?} of {paths:?}");
            assert!(error.to_string().contains(told), "{error}");
        }
    }

    #[test]
    fn a_projector_is_not_picked_beside_another() {
        let wanted = Some("mmproj-M-2B-F16.gguf");
        let error = choose(&files(&VISION), wanted, &Projector::Named("Q8_0".to_owned())).expect_err("which one?");
        assert!(error.kind() == ErrorKind::InvalidInput && error.to_string().contains("Q8_0"), "{error}");
    }

    #[test]
    fn what_was_not_chosen_is_told() {
        let choice = choose(&files(&VISION), None, &Projector::Auto).expect("a choice");
        assert_eq!(choice.others, ["M-2B-F16.gguf", "M-2B-Q8_0.gguf", "mmproj-M-2B-Q8_0.gguf"]);
    }
}
