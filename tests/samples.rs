//! Given answers ranked, several answers to one question, and answers guessed ahead, from the command line.

#[expect(dead_code, unreachable_pub, reason = "the runtime's own tests use more of it")]
#[path = "../runtime/tests/common/tiny.rs"]
mod tiny;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

/// A tiny model with a projector and an adapter, and a picture.
fn workshop() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("a writable folder");
    write("model.gguf", &tiny::model().bytes());
    write("mmproj.gguf", &tiny::mmproj().bytes());
    write("adapter.gguf", &tiny::adapter().bytes());
    let picture = image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8 * 4, y as u8 * 4, 90]));
    picture.save(folder.path().join("picture.png")).expect("a writable folder");
    folder
}

fn owlet(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_owlet"));
    command.current_dir(folder).args(arguments).args(["-m", "model.gguf", "--threads", "1"]);
    command.output().expect("owlet starts")
}

fn json(folder: &Path, arguments: &[&str]) -> Value {
    let output = owlet(folder, &[arguments, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("stdout is JSON")
}

const SCORE: [&str; 7] = ["score", "--image", "picture.png", "What is this?", "A cat", "A dog on a mat", "no"];

#[test]
fn score_ranks_answers_and_json_has_every_token() {
    let folder = workshop();
    let report = json(folder.path(), &SCORE);
    let rows = report["answers"].as_array().expect("a list");
    let logprobs: Vec<_> = rows.iter().map(|row| row["logprob"].as_f64().expect("a number")).collect();
    assert!(logprobs.len() == 3 && logprobs.is_sorted_by(|a, b| a >= b), "{report}");
    let shares: f64 = rows.iter().map(|row| row["share"].as_f64().expect("a number")).sum();
    assert!((shares - 1.0).abs() < 1e-9, "{report}");
    for row in rows {
        let tokens = row["tokens"].as_array().expect("a list");
        let text: String = tokens.iter().map(|token| token["text"].as_str().expect("text")).collect();
        assert_eq!(text, row["answer"], "{report}");
        let sum: f64 = tokens.iter().map(|token| token["logprob"].as_f64().expect("a number")).sum();
        assert!((sum - row["logprob"].as_f64().expect("a number")).abs() < 1e-4, "{report}");
    }
    let other = json(folder.path(), &[&SCORE[..], &["--adapter", "adapter.gguf"]].concat());
    assert_ne!(report["answers"], other["answers"], "the adapter acts");
    let whole = json(folder.path(), &[&SCORE[..], &["--end"]].concat());
    let n_tokens = |report: &Value| -> usize {
        report["answers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|row| row["tokens"].as_array())
            .map(Vec::len)
            .sum()
    };
    assert_eq!(n_tokens(&whole), n_tokens(&report) + 3, "an end token each");

    let output = owlet(folder.path(), &[&SCORE[..], &["--by-mean"]].concat());
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.starts_with("answer") && table.contains("A dog on a mat"), "{table}");
}

#[test]
fn score_refuses_what_it_cannot_score() {
    let folder = workshop();
    for (arguments, says) in [
        (&["score", "What?"][..], "<ANSWER>"),
        (&["score", "What?", ""], "empty completion"),
        (&["score", "What?", "yes", "--temperature=-1"], "temperature"),
        (&["score", "--image", "gone.png", "What?", "yes"], "gone.png"),
    ] {
        let output = owlet(folder.path(), arguments);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains(says), "{told}");
    }
}

const ASK: [&str; 9] =
    ["run", "--image", "picture.png", "What is this?", "--max-tokens", "6", "--temperature", "1.5", "--quiet"];

#[test]
fn samples_vote_and_json_has_every_one() {
    let folder = workshop();
    for (vote, rule) in [("majority", "majority"), ("mbr", "minimum_risk"), ("best", "best")] {
        let report = json(folder.path(), &[&ASK[..], &["--samples", "10", "--vote", vote]].concat());
        let (vote, samples) = (&report["vote"], report["vote"]["samples"].as_array().expect("a list"));
        assert_eq!((samples.len(), vote["rule"].as_str()), (10, Some(rule)), "{report}");
        let winner = &samples[vote["winner"].as_u64().expect("an index") as usize];
        assert_eq!(vote["support"], winner["weight"], "{report}");
        assert_eq!(report["stop"], winner["stop"], "{report}");
        assert!(samples.iter().any(|sample| sample["logprob"] != winner["logprob"]), "samples differ: {report}");
    }
    // One prompt for all; the same seed gives the same samples, one by one and together.
    let one = json(folder.path(), &ASK);
    let many = json(folder.path(), &[&ASK[..], &["--samples", "3", "--expect", "text"]].concat());
    assert_eq!(one["timings"]["n_prompt_tokens"], many["timings"]["n_prompt_tokens"]);
    assert!(one["vote"].is_null() && many["vote"]["problem_type"] == "open-ended", "{many}");
    let n_decoded = |report: &Value| report["timings"]["n_decoded"].as_u64().expect("a number");
    assert!(n_decoded(&many) > n_decoded(&one), "{many}");

    let told = owlet(folder.path(), &[&ASK[..8], &["--samples", "3", "--vote", "best"]].concat());
    assert!(told.stdout.ends_with(b"\n"));
    let talk = String::from_utf8_lossy(&told.stderr);
    assert!(talk.contains("of 3 is the best"), "{talk}");
    assert!(
        talk.lines().all(|line| !line.is_empty()),
        "nothing was thought, so nothing stands before the answer: {talk}"
    );
}

/// A template that opens answers with thinking, unless it is told not to.
const OPENED: &str = "{%- for m in messages -%}{{- '<|im_start|>' ~ m.role ~ '\\n' -}}\
    {%- if m.content is string -%}{{- m.content -}}{%- else -%}{%- for part in m.content -%}{%- if part.type == 'image' -%}\
    {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}{%- else -%}{{- part.text -}}{%- endif -%}{%- endfor -%}{%- endif -%}\
    {{- '<|im_end|>\\n' -}}{%- endfor -%}\
    {%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}\
    {%- if enable_thinking is not defined or enable_thinking -%}{{- '<think>\\n' -}}{%- endif -%}{%- endif -%}";

#[test]
fn thoughts_are_no_votes() {
    let folder = workshop();
    let model = tiny::model().set("tokenizer.chat_template", OPENED).bytes();
    fs::write(folder.path().join("model.gguf"), model).expect("a writable folder");
    let mut ask = [&ASK[..], &["--samples", "4"]].concat();
    ask[5] = "24";
    let samples = |report: &Value| report["vote"]["samples"].as_array().cloned().expect("a list");
    // Thoughts that never end answer nothing.
    let thinking = json(folder.path(), &ask);
    assert_eq!(thinking["answer"], "", "{thinking}");
    for sample in samples(&thinking) {
        assert!(sample["answer"] == "" && sample["is_well_formed"] == false, "{sample}");
        assert!(sample["thinking"].as_str().is_some_and(|thinking| !thinking.is_empty()), "{sample}");
    }
    let thoughtless = json(folder.path(), &[&ask[..], &["--thinking", "off"]].concat());
    for sample in samples(&thoughtless) {
        assert!(sample["answer"] != "" && sample["thinking"] == "", "{sample}");
    }
    assert_eq!(json(folder.path(), &[&ask[..], &["--thinking", "on"]].concat())["vote"], thinking["vote"]);
    // What is closed by force is read behind it, and its tag is nothing that the model said.
    let closed = json(folder.path(), &[&ask[..], &["--thinking-budget", "2"]].concat());
    for sample in samples(&closed) {
        let answer = sample["answer"].as_str().expect("text");
        assert!(!answer.is_empty() && !answer.contains("think"), "{sample}");
        assert!(sample["n_tokens"].as_u64().is_some_and(|n_tokens| n_tokens <= 24 - 8), "{sample}");
    }
}

#[test]
fn json_tells_tokens_with_the_most_probable_in_their_places() {
    let folder = workshop();
    let report = json(folder.path(), &[&ASK[..], &["--top-logprobs", "3"]].concat());
    let tokens = report["tokens"].as_array().expect("a list");
    assert_eq!(tokens.len(), 6, "{report}");
    let logprob = |token: &Value| token["logprob"].as_f64().expect("a number");
    for token in tokens {
        let top = token["top"].as_array().expect("a list");
        assert!(top.len() == 3 && top.is_sorted_by(|a, b| logprob(a) >= logprob(b)), "{token}");
        assert!(logprob(token) <= logprob(&top[0]) && logprob(&top[0]) < 0.0, "{token}");
    }
    assert!(json(folder.path(), &ASK)["tokens"].is_null());
    let refused = owlet(folder.path(), &[&ASK[..], &["--top-logprobs", "3"]].concat());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--json"), "{refused:?}");
}

#[test]
fn votes_that_cannot_be_are_refused() {
    let folder = workshop();
    for (arguments, says) in [
        (&["run", "What?", "--samples", "3"][..], "hint: `--temperature 1`"),
        (&["run", "What?", "--samples", "0"], "1 to 256"),
        (&["run", "What?", "--vote", "mbr"], "--samples"),
        (&["run", "What?", "--expect", "box"], "--samples"),
        (&["run", "What?", "--best-by", "format"], "--vote"),
        (
            &["run", "What?", "--samples", "2", "--temperature", "1", "--vote", "mbr", "--best-by", "format"],
            "--vote best",
        ),
    ] {
        let output = owlet(folder.path(), arguments);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains(says), "{told}");
    }
}

#[test]
fn guesses_change_nothing_and_are_counted() {
    let folder = workshop();
    let ask = ["run", "--image", "picture.png", "abcabcabc", "--max-tokens", "40", "--quiet"];
    let plain = json(folder.path(), &ask);
    let guessed = |report: &Value| report["timings"]["n_guessed"].as_u64().expect("a number");
    assert_eq!(guessed(&plain), 0);
    let report = json(folder.path(), &[&ask[..], &["--speculate", "model.gguf"]].concat());
    assert_eq!((&report["answer"], &report["thinking"]), (&plain["answer"], &plain["thinking"]));
    assert!(guessed(&report) > 0, "{report}");
    let by_ngrams = json(folder.path(), &[&ask[..], &["--speculate", "ngrams"]].concat());
    assert_eq!((&by_ngrams["answer"], &by_ngrams["thinking"]), (&plain["answer"], &plain["thinking"]));
    let refused = owlet(folder.path(), &[&ask[..], &["--speculate", "gone"]].concat());
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("takes `ngrams` or the file"), "{refused:?}");
}
