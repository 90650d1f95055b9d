//! `owlet chat` from outside, over the embedded model: a pipe in, answers out.

#[path = "common/piped.rs"]
mod piped;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::Output,
};

use owlet::{
    AdapterFile, LoraConfig, LoraWeights, Model, ModelOptions, Precision, Role,
    conversation::{ChatPart, SavedConversation},
};
use owlet_adapters::engine::{Engine, EngineOptions};
use owlet_models::{Split, TaskKind, sample};
use tempfile::TempDir;

/// The embedded model and two pictures.
fn workshop() -> TempDir {
    let folder = piped::workshop();
    for (index, name) in ["a.png", "b.png"].into_iter().enumerate() {
        let sample = sample(1, Split::HeldOut, TaskKind::SpatialReasoning, index as u64);
        sample.image.save(folder.path().join(name)).expect("a writable folder");
    }
    folder
}

fn chat(folder: &Path, arguments: &[&str], input: &str) -> Output {
    piped::owlet("chat", folder, &[&["--max-tokens", "24"], arguments].concat(), input)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

/// Tokens computed and tokens in all, of every turn.
fn computed(output: &Output) -> Vec<(usize, usize)> {
    let lines = text(&output.stderr).lines().filter_map(|line| line.split_once(" tokens computed"));
    let numbers = lines.map(|(numbers, _)| {
        let (computed, all) = numbers.split_once(" of ").expect("two numbers");
        (computed.parse().expect("a number"), all.parse().expect("a number"))
    });
    numbers.collect()
}

const QUESTIONS: [&str; 3] = ["How many shapes are there?\n", "/image b.png\nWhat is here?\n", "Is there a circle?\n"];

#[test]
fn a_chat_over_a_pipe_answers_line_by_line_and_can_be_cut_in_sessions() {
    let folder = workshop();
    let whole = chat(folder.path(), &["--image", "a.png", "--session", "whole"], &QUESTIONS.concat());
    assert_eq!(whole.status.code(), Some(0), "{}", text(&whole.stderr));
    assert!(whole.stdout.ends_with(b"\n"));
    let turns = computed(&whole);
    assert_eq!(turns.len(), 3, "{}", text(&whole.stderr));
    // The first picture is not computed again, and the third question has none.
    assert!(turns[0].0 == turns[0].1 && turns[1].0 < turns[1].1 && turns[2].0 < 40, "{turns:?}");

    let mut parts = Vec::new();
    for (index, question) in QUESTIONS.into_iter().enumerate() {
        let first: &[&str] = if index == 0 { &["--image", "a.png"] } else { &[] };
        let arguments = [first, &["--session", "parts", "--image-cache", "pictures"]].concat();
        let part = chat(folder.path(), &arguments, question);
        assert_eq!(part.status.code(), Some(0), "{}", text(&part.stderr));
        assert_eq!(computed(&part), [turns[index]]);
        parts.extend(part.stdout);
    }
    assert_eq!(text(&parts), text(&whole.stdout));
    assert_eq!(fs::read_dir(folder.path().join("pictures")).expect("a folder").count(), 2);

    // `/quit` ends it before the rest, and `/save` writes what `--session` goes on from.
    let input = format!("/image a.png\n\n{}/save saved\n/quit\n{}", QUESTIONS[0], QUESTIONS[1]);
    let first = chat(folder.path(), &["-q"], &input);
    let rest = chat(folder.path(), &["-q", "--session", "saved"], &QUESTIONS[1..].concat());
    assert_eq!(text(&[first.stdout, rest.stdout].concat()), text(&whole.stdout));
    assert!(first.stderr.is_empty() && rest.stderr.is_empty());
}

#[test]
fn a_chat_over_a_pipe_ends_at_the_first_error() {
    let folder = workshop();
    let at = |name: &str| folder.path().join(name);
    // As training begins: B is zero, and nothing changes.
    let model =
        Model::load(at("model.gguf"), &ModelOptions { n_threads: 1, ..ModelOptions::default() }).expect("loads");
    let engine = Engine::new(model.path(), EngineOptions { n_threads: 1, ..EngineOptions::default() }).expect("loads");
    let weights = LoraWeights::init(&LoraConfig::default(), &engine.lora_targets(), 0).expect("good options");
    let adapter = AdapterFile { architecture: model.info().architecture.clone(), weights, provenance: None };
    fs::write(at("untrained.gguf"), adapter.to_bytes(Precision::F16).expect("fits")).expect("a writable folder");
    fs::write(at("broken"), b"once upon a time there was a session").expect("a writable folder");

    fs::write(at("tools.json"), r#"[{ "name": "look" }]"#).expect("a writable folder");

    let long = format!("{}\n", "why ".repeat(3000));
    let cases: [(&[&str], &str, &[&str]); 12] = [
        (&["--tools", "tools.json", "--image", "a.png"], "What?\n", &["knows no tools", "hint: ", "asked in words"]),
        (&[], "/dance\n", &["/dance", "/image FILE"]),
        (&[], "/image gone.png\n", &["gone.png"]),
        (&[], "/image model.gguf\n", &["model.gguf"]),
        (&[], "/adapter model.gguf\n", &["model.gguf"]),
        (&[], "/adapter untrained.gguf\n", &["untrained.gguf", "changes nothing"]),
        (&["--adapter", "untrained.gguf=0.5"], "Hello?\n", &["changes nothing", "scale 0.5"]),
        (&["--tools", "-"], "[]\n", &["standard input has the questions", "--tools -"]),
        (&["--json-schema", "-"], "{}\n", &["standard input has the questions", "--json-schema -"]),
        (&["--session", "broken"], "Hello?\n", &["broken", "not a whole conversation file"]),
        (&["--session", "gone/session"], "Hello?\n", &["gone/session", "hint: "]),
        (&["--context", "64"], &long, &["for the answer, needed at most 64", "hint: "]),
    ];
    let mut failures = Vec::new();
    for (arguments, input, told) in cases {
        // The question behind the error is not answered.
        let output = chat(folder.path(), &[arguments, &["-q"]].concat(), &format!("{input}Hello?\n"));
        let stderr = text(&output.stderr);
        let is_right = output.status.code() == Some(1) && output.stdout.is_empty() && stderr.starts_with("error: ");
        if !is_right || !told.iter().all(|word| stderr.contains(word)) {
            failures.push(format!("{arguments:?} {input:.20}: {} {stderr}", output.status));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));

    // A session of another model is refused and stays as it was.
    assert_eq!(chat(folder.path(), &["--session", "kept"], "Hello?\n").status.code(), Some(0));
    let kept = fs::read(at("kept")).expect("reads");
    fs::remove_file(at("mmproj.gguf")).expect("removes");
    let other = chat(folder.path(), &["--session", "kept"], "Hello?\n");
    assert_eq!(other.status.code(), Some(1));
    assert!(text(&other.stderr).contains("image projector"), "{}", text(&other.stderr));
    assert!(fs::read(at("kept")).expect("reads") == kept);
}

#[test]
fn results_of_tools_are_answered() {
    let folder = workshop();
    let input = format!("{}/tool 3 shapes\n", QUESTIONS[0]);
    let output = chat(folder.path(), &["--session", "saved"], &input);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(computed(&output).len(), 2, "{}", text(&output.stderr));
    let saved = SavedConversation::open(folder.path().join("saved")).expect("a whole file");
    let roles: Vec<_> = saved.messages().iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::User, Role::Assistant, Role::Tool, Role::Assistant]);
    assert_eq!(saved.messages()[2].parts, [ChatPart::Text("3 shapes".to_owned())]);
}

#[test]
fn a_session_that_cannot_be_written_is_told_whatever_ended_the_chat() {
    let folder = workshop();
    let kept = folder.path().join("kept");
    fs::create_dir(&kept).expect("a writable folder");
    let arguments = ["--max-tokens", "24", "--session", "kept/session"];
    let mut child = piped::start("chat", folder.path(), &arguments);
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(b"Hello?\n").expect("it reads");
    let mut answer = String::new();
    BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut answer).expect("it answers");
    fs::remove_dir_all(&kept).expect("removes");
    stdin.write_all(b"/dance\n").expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("/dance") && told.contains("kept/session"), "{told}");
}

#[test]
fn a_full_context_forgets_on_demand() {
    let folder = workshop();
    let question = "/image a.png\nHow many shapes are there?\n";
    let refused = chat(folder.path(), &["--context", "300"], &question.repeat(12));
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("--forget"), "{}", text(&refused.stderr));
    let forgetful = chat(folder.path(), &["--context", "300", "--forget"], &question.repeat(12));
    assert_eq!(forgetful.status.code(), Some(0), "{}", text(&forgetful.stderr));
    assert!(text(&forgetful.stderr).contains("messages forgotten"), "{}", text(&forgetful.stderr));
    assert_eq!(computed(&forgetful).len(), 12);
}

#[test]
fn a_memory_budget_makes_pictures_smaller_or_is_refused() {
    let folder = workshop();
    let large = ["--image", "a.png", "--min-pixels", "589824", "--max-pixels", "589824"];
    let asked = |budget: &str| chat(folder.path(), &[&large[..], &["--memory-budget", budget]].concat(), QUESTIONS[0]);
    let n_tokens = |output: &Output| {
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        computed(output)[0].1
    };
    let (plenty, little) = (n_tokens(&asked("1GiB")), n_tokens(&asked("40MiB")));
    // 32 x 32 pixels a token; pictures are reduced by halves, down to 256 tokens.
    assert!(plenty > 576 && (256..512).contains(&little), "{plenty} and {little}");
    let refused = asked("6MiB");
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("needed at least"), "{}", text(&refused.stderr));
}

#[test]
fn pictures_are_read_and_shown_as_the_flags_say() {
    let folder = workshop();
    // What the model sees of `a.png`: tokens of a question with it, and warnings.
    let asked = |more: &[&str]| {
        let output = chat(folder.path(), &[&["--image", "a.png"], more].concat(), QUESTIONS[0]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let told = text(&output.stderr);
        (computed(&output)[0].1, told.contains("warning: boxes may be off: the model sees picture 1"))
    };
    let (n_tokens, is_warned) = asked(&[]);
    assert!(!is_warned);
    assert_eq!(asked(&["--grounding"]), (n_tokens, true));
    let (n_fewer, _) = asked(&["--min-pixels", "1024", "--max-image-tokens", "2"]);
    assert!(n_fewer < n_tokens, "{n_fewer} and {n_tokens}");

    let refused = chat(folder.path(), &["--image", "a.png", "--max-file-pixels", "100"], QUESTIONS[0]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("--max-file-pixels"), "{}", text(&refused.stderr));
    let refused = chat(folder.path(), &["--image-cache-limit", "1GiB"], QUESTIONS[0]);
    assert!(text(&refused.stderr).contains("--image-cache"), "{}", text(&refused.stderr));
}
