//! The command from outside: exit codes, what goes to stdout and stderr, and that nothing half-written stays.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use tempfile::TempDir;

#[expect(dead_code, unreachable_pub, reason = "the runtime's own tests use the rest")]
#[path = "../runtime/tests/common/tiny.rs"]
mod tiny;

/// What must hold after a command was refused.
struct Refusal<'a> {
    arguments: &'a [&'a str],
    exit_code: i32,
    /// Words that stderr must have, after `error: `.
    told: &'a [&'a str],
}

fn owlet(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_owlet"))
        .args(arguments)
        .current_dir(folder)
        .env("NO_COLOR", "1")
        .output()
        .expect("cargo built the command")
}

/// Runs every case in `folder` and demands the exit code, the words, an empty stdout and an unchanged folder.
fn assert_refused(folder: &Path, cases: &[Refusal<'_>]) {
    let before = names(folder);
    let mut failures = Vec::new();
    for case in cases {
        let output = owlet(folder, case.arguments);
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let mut wrong = Vec::new();
        if output.status.code() != Some(case.exit_code) {
            wrong.push(format!("{} instead of exit code {}", output.status, case.exit_code));
        }
        wrong.extend(case.told.iter().filter(|&&word| !stderr.contains(word)).map(|word| format!("not told: {word}")));
        if !stderr.starts_with("error: ") {
            wrong.push("stderr does not start with `error: `".to_owned());
        }
        if !stdout.is_empty() {
            wrong.push(format!("stdout is not empty: {stdout}"));
        }
        if names(folder) != before {
            wrong.push(format!("files came or went: {:?}", names(folder)));
        }
        if !wrong.is_empty() {
            failures.push(format!("owlet {}\n  {}\n{stderr}", case.arguments.join(" "), wrong.join("\n  ")));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a readable folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn help_and_version_are_data() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for arguments in [&["--help"][..], &["tasks", "--help"], &["--version"]] {
        let output = owlet(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn wrong_command_lines_are_the_users_errors() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    assert_refused(
        folder.path(),
        &[
            Refusal { arguments: &["fly"], exit_code: 1, told: &["'fly'"] },
            Refusal { arguments: &["tasks"], exit_code: 1, told: &["--out"] },
            Refusal { arguments: &["tasks", "--out", "d", "--count", "many"], exit_code: 1, told: &["'many'"] },
            Refusal { arguments: &["tasks", "--out", "d", "--size", "64"], exit_code: 1, told: &["96..=256"] },
            Refusal { arguments: &["tasks", "--out", "d", "--quiet", "--verbose"], exit_code: 1, told: &["--verbose"] },
        ],
    );
}

#[test]
fn tasks_refuses_what_it_cannot_draw_or_write() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(folder.path().join("taken")).expect("a writable folder");
    fs::write(folder.path().join("file"), b"").expect("a writable folder");
    assert_refused(
        folder.path(),
        &[
            Refusal { arguments: &["tasks", "--out", "taken"], exit_code: 1, told: &["taken", "exists"] },
            Refusal { arguments: &["tasks", "--out", "file/below"], exit_code: 1, told: &["file/below"] },
            Refusal {
                arguments: &["tasks", "--out", "d", "--task", "dance"],
                exit_code: 1,
                told: &["unknown task type", "`dance`", "spatial_grounding"],
            },
        ],
    );
}

#[test]
fn tasks_prints_the_path_and_draws_the_same_bytes_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["first", "second"] {
        let output = owlet(folder.path(), &["tasks", "--out", name, "--count", "6", "--seed", "7", "--quiet"]);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{name}/data.jsonl\n"));
        assert!(output.stderr.is_empty());
    }
    let read = |name: &str, file: &str| fs::read(folder.path().join(name).join(file)).expect("it was drawn");
    for file in ["data.jsonl", "images/000000.png", "images/000005.png"] {
        assert_eq!(read("first", file), read("second", file), "{file}");
    }
}

#[test]
fn tasks_draws_larger_pictures_and_adds_replies_on_demand() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = owlet(folder.path(), &["tasks", "--out", "d", "--count", "1", "--size", "160", "--responses", "-q"]);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let picture = image::open(folder.path().join("d/images/000000.png")).expect("a PNG file");
    assert_eq!((picture.width(), picture.height()), (160, 160));
    let row = fs::read(folder.path().join("d/data.jsonl")).expect("it was drawn");
    let row: serde_json::Value = serde_json::from_slice(&row).expect("one row");
    assert!(row["responses"]["careful"].is_string(), "{row}");
}

/// A picture of 10,000 x 10,001 pixels, as far as its header says.
const HUGE_PNG: &[u8] = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00'\x10\x00\x00'\x11\x08\x02\x00\x00\x00\xfep&\xd5\
\x00\x00\x00\x08IDATx\x9c\x03\x00\x00\x00\x00\x01H\x06\x89\xd2\x00\x00\x00\x00IEND\xaeB`\x82";

/// A folder with a tiny model, its projector and an adapter, a picture, and files that are wrong in one way each.
fn workshop() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("a writable folder");
    let (model, mmproj, adapter) = (tiny::model().bytes(), tiny::mmproj().bytes(), tiny::adapter().bytes());
    write("model.gguf", &model);
    write("mmproj.gguf", &mmproj);
    write("adapter.gguf", &adapter);
    write("other-adapter.gguf", &other_adapter());
    write("header-cut.gguf", &model[..100]);
    write("data-cut.gguf", &model[..model.len() - 1000]);
    write("text.gguf", b"once upon a time there was a GGUF");
    write("empty.gguf", b"");
    write("text.png", b"once upon a time there was a picture");
    write("huge.png", HUGE_PNG);
    let picture = image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8 * 4, y as u8 * 4, 90]));
    picture.save(folder.path().join("picture.png")).expect("a writable folder");
    let row = r#"{"problem": "<image>How many?", "images": ["picture.png"], "answer": "3", "problem_type": "numerical", "task_type": "math_reasoning"}"#;
    write("data.jsonl", format!("{row}\n{row}\n").as_bytes());
    write("malformed.jsonl", format!("{row}\n{{\"problem\": \n").as_bytes());
    write("dance.jsonl", format!("{row}\n\n{}\n", row.replace("math_reasoning", "dance")).as_bytes());
    write("no-picture.jsonl", row.replace("picture.png", "gone.png").as_bytes());
    write("long.jsonl", row.replace("How many?", &"why ".repeat(2000)).as_bytes());
    folder
}

/// An adapter for a model whose layers are twice as wide.
fn other_adapter() -> Vec<u8> {
    let mut draft = tiny::adapter();
    draft.tensor("blk.0.attn_q.weight.lora_a", &[2 * tiny::N_EMBD, 2]);
    draft.bytes()
}

#[test]
fn run_streams_the_answer_and_json_has_the_timings() {
    let folder = workshop();
    let arguments = ["run", "-m", "model.gguf", "--image", "picture.png", "--max-tokens", "8", "What is this?"];
    let output = owlet(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.ends_with(b"\n"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("peak memory"));

    let output = owlet(folder.path(), &[&arguments[..], &["--adapter", "adapter.gguf=0.5", "--json", "-q"]].concat());
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("stdout is JSON");
    for timing in ["load_ms", "image_encode_ms", "prefill_ms", "decode_tokens_per_s", "peak_memory_bytes"] {
        assert!(report["timings"][timing].as_f64().is_some_and(|value| value > 0.0), "{timing}: {report}");
    }
    assert!(report["answer"].is_string() && report["stop"].is_string(), "{report}");
    assert!(report["warnings"].is_null(), "{report}");
}

#[test]
fn boxes_on_a_picture_of_few_tokens_are_warned_of() {
    let folder = workshop();
    let arguments = ["run", "-m", "model.gguf", "--image", "picture.png", "--max-tokens", "2", "--draw", "drawn.png"];
    let output = owlet(folder.path(), &[&arguments[..], &["--json", "Where is it?"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let warning = "boxes may be off: the model sees picture 1 as 4 tokens, 1024 (at least 1048576 pixels) are advised";
    assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("warning: {warning}")), "{}", told(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("stdout is JSON");
    assert_eq!(report["warnings"], serde_json::json!([warning]));
}

#[test]
fn run_refuses_bad_files_and_arguments() {
    let folder = workshop();
    let model = |path: &'static str, told: &'static [&'static str]| (vec!["run", "-m", path, "Hello?"], told);
    let with = |arguments: &[&'static str], told: &'static [&'static str]| {
        ([&["run", "-m", "model.gguf"], arguments, &["Hello?"]].concat(), told)
    };
    let cases = [
        model("gone.gguf", &["gone.gguf"]),
        model("header-cut.gguf", &["header-cut.gguf", "hint: "]),
        model("data-cut.gguf", &["data-cut.gguf", "hint: "]),
        model("text.gguf", &["text.gguf"]),
        model("empty.gguf", &["empty.gguf"]),
        model("mmproj.gguf", &["mmproj.gguf", "projector"]),
        model("adapter.gguf", &["adapter.gguf", "adapter"]),
        with(&["--mmproj", "model.gguf"], &["model.gguf"]),
        with(&["--mmproj", "gone.gguf"], &["gone.gguf"]),
        with(&["--adapter", "gone.gguf"], &["gone.gguf"]),
        with(&["--adapter", "model.gguf"], &["model.gguf"]),
        with(&["--adapter", "other-adapter.gguf"], &["blk.0.attn_q.weight", "got", "needed", "hint: "]),
        with(&["--image", "gone.png"], &["gone.png"]),
        with(&["--image", "text.png"], &["text.png"]),
        with(&["--image", "huge.png"], &["huge.png", "got", "needed"]),
        with(&["--temperature=-1"], &["temperature"]),
        with(&["--top-p", "2"], &["top_p"]),
        with(&["--max-tokens", "0"], &["max_new_tokens"]),
        with(&["--context", "8"], &["context of 8"]),
        with(&["--draw", "drawn.png"], &["--image"]),
        with(&["--image", "picture.png", "--draw", "gone/drawn.png"], &["gone/drawn.png", "hint: "]),
    ];
    let cases: Vec<Refusal<'_>> =
        cases.iter().map(|(arguments, told)| Refusal { arguments, exit_code: 1, told }).collect();
    assert_refused(folder.path(), &cases);
}

#[test]
fn quantize_makes_the_file_smaller_and_prints_its_path() {
    let folder = workshop();
    let output = owlet(folder.path(), &["quantize", "model.gguf", "--type", "q8_0", "-o", "small.gguf"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, b"small.gguf\n");
    let size = |name: &str| fs::metadata(folder.path().join(name)).expect("it is there").len();
    assert!(size("small.gguf") < size("model.gguf"));
}

#[test]
fn quantize_refuses_bad_files_and_arguments() {
    let folder = workshop();
    let with = |arguments: &[&'static str], told: &'static [&'static str]| ([&["quantize"], arguments].concat(), told);
    let cases = [
        with(&["gone.gguf", "-t", "Q8_0"], &["gone.gguf", "hint: "]),
        with(&["header-cut.gguf", "-t", "Q8_0"], &["header-cut.gguf"]),
        with(&["data-cut.gguf", "-t", "Q8_0"], &["data-cut.gguf"]),
        with(&["text.gguf", "-t", "Q8_0"], &["text.gguf"]),
        with(&[".", "-t", "Q8_0"], &["config.json"]),
        with(&["model.gguf", "-t", "Q9_9"], &["Q9_9", "Q4_K_M"]),
        with(&["model.gguf", "-t", "Q8_0", "-o", "model.gguf"], &["model.gguf"]),
        with(&["model.gguf", "-t", "Q8_0", "-o", "gone/small.gguf"], &["gone/small.gguf"]),
        with(&["model.gguf", "-t", "Q8_0", "-o", "."], &["directory"]),
    ];
    let cases: Vec<Refusal<'_>> =
        cases.iter().map(|(arguments, told)| Refusal { arguments, exit_code: 1, told }).collect();
    assert_refused(folder.path(), &cases);
}

#[test]
fn adapt_refuses_bad_data_and_arguments_before_it_trains() {
    let folder = workshop();
    let with = |arguments: &[&'static str], told: &'static [&'static str]| {
        ([&["adapt", "-m", "model.gguf", "-o", "a.gguf"], arguments].concat(), told)
    };
    let cases = [
        with(&["--data", "gone.jsonl"], &["gone.jsonl"]),
        with(&["--data", "malformed.jsonl"], &["malformed.jsonl:2", "hint: "]),
        with(&["--data", "dance.jsonl"], &["dance.jsonl:3", "dance", "math_reasoning"]),
        with(&["--data", "no-picture.jsonl"], &["no-picture.jsonl:1", "gone.png"]),
        with(&["--data", "data.jsonl", "--eval", "malformed.jsonl"], &["malformed.jsonl:2"]),
        with(&["--data", "data.jsonl", "--estimator", "luck"], &["luck", "dr_grpo"]),
        with(&["--data", "data.jsonl", "--length-envelope", "ocr=4,2,1,0"], &["trapezoid"]),
        with(&["--data", "data.jsonl", "--group-size", "1"], &["group_size", "2..=256"]),
        with(&["--data", "data.jsonl", "--rank", "0"], &["rank"]),
        with(&["--data", "data.jsonl", "--max-skipped-updates", "0"], &["max_skipped_updates", "at least 1"]),
        with(&["--data", "data.jsonl", "--targets", "q,x"], &["x"]),
        with(&["--data", "data.jsonl", "--length-weight", "0.2"], &["--length-envelope"]),
        with(&["--data", "data.jsonl", "--kl-estimator", "k2"], &["--kl-weight"]),
        with(&["--data", "data.jsonl", "--method", "sapo", "--clip-low", "0.1"], &["--clip-low", "sapo"]),
        with(&["--data", "data.jsonl", "--prefix-cache", "kept"], &["--prefix-cache", "--lora-mode activated"]),
        with(&["--data", "data.jsonl", "--lora-mode", "half"], &["half", "full", "activated"]),
    ];
    let mut cases: Vec<Refusal<'_>> =
        cases.iter().map(|(arguments, told)| Refusal { arguments, exit_code: 1, told }).collect();
    let elsewhere = ["adapt", "-m", "model.gguf", "--data", "data.jsonl", "-o", "gone/a.gguf"];
    cases.push(Refusal { arguments: &elsewhere, exit_code: 1, told: &["gone/a.gguf", "hint: "] });
    assert_refused(folder.path(), &cases);
}

/// `owlet adapt` for `n_steps` steps that are as short as can be.
fn adapt_command(folder: &Path, n_steps: usize, out: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_owlet"));
    command.args(["adapt", "-m", "model.gguf", "--data", "data.jsonl", "--threads", "1", "-o", out]);
    command.args(["--rank", "2", "--prompts-per-step", "1", "--group-size", "2", "--max-tokens", "4"]);
    command.args(["--steps", &n_steps.to_string()]).args(more).current_dir(folder).env("NO_COLOR", "1");
    command
}

/// The same, run to its end with a checkpoint at every step.
fn adapt(folder: &Path, n_steps: usize, out: &str, more: &[&str]) -> Output {
    let mut command = adapt_command(folder, n_steps, out, more);
    command.args(["--checkpoint-every", "1"]).output().expect("cargo built the command")
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn adapt_resumes_to_the_same_adapter_and_refuses_to_mix_runs() {
    let folder = workshop();
    let adapt =
        |out: &str, more: &[&str]| adapt(folder.path(), 4, out, &[&["--eval", "data.jsonl", "-q"], more].concat());
    let whole = adapt("whole.gguf", &[]);
    assert_eq!((whole.status.code(), &whole.stdout[..]), (Some(0), &b"whole.gguf\n"[..]), "{}", told(&whole));

    // What a run that was killed in its last step leaves behind.
    assert_eq!(adapt("resumed.gguf", &[]).status.code(), Some(0));
    let checkpoints = folder.path().join("resumed.checkpoints");
    fs::remove_file(folder.path().join("resumed.gguf")).expect("it was written");
    fs::remove_dir_all(checkpoints.join("step-00000004")).expect("the newest checkpoint");

    let mixed = adapt("resumed.gguf", &[]);
    assert_eq!(mixed.status.code(), Some(1));
    assert!(told(&mixed).contains("--resume"), "{}", told(&mixed));
    let other = adapt("resumed.gguf", &["--resume", "--seed", "5"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(told(&other).contains("seed"), "{}", told(&other));

    let resumed = adapt("resumed.gguf", &["--resume", "--json", "--answers", "answers.jsonl"]);
    assert_eq!(resumed.status.code(), Some(0), "{}", told(&resumed));
    let report: serde_json::Value = serde_json::from_slice(&resumed.stdout).expect("stdout is JSON");
    assert_eq!(report["n_steps"], 4);
    assert_eq!(report["held_out"]["before"]["overall"]["accuracy"]["n"], 2);
    let read = |name: &str| fs::read(folder.path().join(name)).expect("it was written");
    assert_eq!(read("whole.gguf"), read("resumed.gguf"));

    let answers = String::from_utf8(read("answers.jsonl")).expect("UTF-8");
    let pairs: Vec<serde_json::Value> =
        answers.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
    let mean =
        |when: &str| pairs.iter().map(|pair| pair[when]["reward"].as_f64().expect("a number")).sum::<f64>() / 2.0;
    for when in ["before", "after"] {
        assert_eq!(report["held_out"][when]["overall"]["reward"]["mean"], mean(when), "{when}");
    }
    assert!(pairs.len() == 2 && pairs.iter().all(|pair| pair["before"]["id"] == pair["after"]["id"]), "{answers}");
}

#[test]
fn an_activated_adapter_is_trained_kept_apart_and_run_as_what_it_is() {
    let folder = workshop();
    let activated = ["--lora-mode", "activated", "-q"];
    let trained = adapt(folder.path(), 2, "a.gguf", &activated);
    assert_eq!(trained.status.code(), Some(0), "{}", told(&trained));
    let file = owlet::AdapterFile::open(&folder.path().join("a.gguf")).expect("an adapter");
    assert!(file.weights.config.mode.invocation().is_some_and(|tokens| tokens.len() > 1));

    let full = adapt(folder.path(), 2, "a.gguf", &["--resume", "-q"]);
    assert_eq!(full.status.code(), Some(1));
    assert!(told(&full).contains("configuration"), "{}", told(&full));

    let arguments =
        ["run", "-m", "model.gguf", "--adapter", "a.gguf", "--image", "picture.png", "--max-tokens", "4", "?"];
    let mut run = Command::new(env!("CARGO_BIN_EXE_owlet"));
    let output = run.args(arguments).args(["--threads", "1"]).current_dir(folder.path()).output().expect("built");
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
}

#[test]
fn resume_needs_a_checkpoint_and_tells_of_damaged_ones() {
    let folder = workshop();
    let resume = ["--resume", "--checkpoint-dir", "run"];
    let refused = |wrong: &str| {
        let output = adapt(folder.path(), 2, "a.gguf", &resume);
        let told = told(&output);
        assert_eq!(output.status.code(), Some(1), "{wrong}: {told}");
        for word in ["no checkpoint", "run", "hint: ", "--checkpoint-dir"] {
            assert!(told.contains(word), "{wrong}: {told}");
        }
        assert!(!folder.path().join("a.gguf").exists(), "{wrong}");
    };
    let run = folder.path().join("run");
    refused("no folder");
    assert!(!run.exists());
    fs::create_dir(&run).expect("a writable folder");
    refused("an empty folder");

    assert_eq!(adapt(folder.path(), 2, "first.gguf", &resume[1..]).status.code(), Some(0));
    let damage = |step: &str| fs::write(run.join(step).join("moments.bin"), b"").expect("a checkpoint");
    damage("step-00000002");
    let fallen_back = adapt(folder.path(), 2, "second.gguf", &resume);
    assert_eq!(fallen_back.status.code(), Some(0), "{}", told(&fallen_back));
    let told = told(&fallen_back);
    assert!(told.contains("damaged") && told.contains("step-00000002") && told.contains("step 2/2"), "{told}");
    let read = |name: &str| fs::read(folder.path().join(name)).expect("it was written");
    assert_eq!(read("first.gguf"), read("second.gguf"));

    let metrics = read("run/metrics.jsonl");
    damage("step-00000001");
    damage("step-00000002");
    refused("all checkpoints are damaged");
    assert_eq!(read("run/metrics.jsonl"), metrics);
}

#[test]
fn answers_before_are_reused_only_by_the_run_that_they_are_of() {
    let folder = workshop();
    let data = fs::read_to_string(folder.path().join("data.jsonl")).expect("it is there");
    fs::write(folder.path().join("other.jsonl"), data.replace("How many", "How few")).expect("a writable folder");
    let run = folder.path().join("run");
    let before = run.join("before.json");
    let adapt = |eval: &str, more: &[&str]| {
        let arguments = ["--checkpoint-dir", "run", "-q", "--eval", eval];
        let output = adapt(folder.path(), 1, "a.gguf", &[&arguments[..], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", told(&output));
        fs::read_to_string(&before).expect("the answers are kept")
    };
    let marked = |text: String| {
        let mut kept: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        kept["evaluation"]["answers"][0]["text"] = "kept".into();
        fs::write(&before, kept.to_string()).expect("a writable folder");
    };
    let is_reused = |text: &str| text.contains("\"kept\"");

    marked(adapt("data.jsonl", &[]));
    assert!(is_reused(&adapt("data.jsonl", &["--resume"])), "the same run");
    assert!(!is_reused(&adapt("other.jsonl", &["--resume"])), "other questions of the same ids");
    marked(adapt("data.jsonl", &["--resume"]));
    for more in [&["--suffix", "Be brief."][..], &[]] {
        fs::remove_dir_all(run.join("step-00000001")).expect("the checkpoint");
        let text = adapt("data.jsonl", more);
        assert!(!is_reused(&text), "a new run with {more:?}");
        marked(text);
    }
}

#[test]
fn outputs_never_replace_inputs() {
    let folder = workshop();
    fs::create_dir(folder.path().join("below")).expect("a writable folder");
    let adapt = |output: &'static str, more: &[&'static str]| {
        let arguments = ["adapt", "-m", "model.gguf", "--data", "data.jsonl", "--eval", "long.jsonl", "-o", output];
        ([&arguments[..], more].concat(), output)
    };
    let run = |output: &'static str| {
        let arguments = ["run", "-m", "model.gguf", "--adapter", "adapter.gguf", "--image", "picture.png", "--draw"];
        ([&arguments[..], &[output, "Where?"]].concat(), output)
    };
    let cases = [
        adapt("model.gguf", &[]),
        adapt("./model.gguf", &[]),
        adapt("below/../data.jsonl", &[]),
        adapt("long.jsonl", &[]),
        adapt("mmproj.gguf", &["--mmproj", "mmproj.gguf"]),
        adapt("new", &["--checkpoint-dir", "below/../new"]),
        run("picture.png"),
        run("model.gguf"),
        run("adapter.gguf"),
    ];
    let read = || ["model.gguf", "picture.png"].map(|name| fs::read(folder.path().join(name)).expect("it is there"));
    let before = read();
    for (arguments, output) in &cases {
        assert_refused(folder.path(), &[Refusal { arguments, exit_code: 1, told: &[output, "place", "hint: "] }]);
    }
    assert!(read() == before, "the inputs are as they were");
}

#[test]
fn steps_tell_their_numbers_and_idle_ones_bring_advice() {
    let folder = workshop();
    // Random weights never answer right.
    let output = adapt(folder.path(), 6, "a.gguf", &[]);
    let told = told(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    let last = told.lines().find(|line| line.starts_with("step 6/6")).expect("a line for every step");
    for number in ["reward", "acc", "len", "entropy", "clip", "logp gap", "tok/s", "00:00:00 left"] {
        assert!(last.contains(number), "{number}: {last}");
    }
    assert_eq!(told.matches("warning: nothing was learned in 5 steps").count(), 1, "{told}");
    assert!(told.contains("easier questions") && told.contains("--temperature") && told.contains("--group-size"));
}

#[test]
fn a_question_longer_than_the_context_is_named() {
    let folder = workshop();
    let arguments =
        ["adapt", "-m", "model.gguf", "-o", "a.gguf", "--data", "long.jsonl", "--steps", "1", "--rank", "2"];
    let output = owlet(folder.path(), &arguments);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("long.jsonl:1") && told.contains("--max-prompt-tokens"), "{told}");
    // It is found before anything is done.
    assert!(!folder.path().join("a.checkpoints").exists());
    assert!(!folder.path().join("a.gguf").exists());
}

/// Starts a training that does not end by itself, and waits until a step is done.
fn endless_training(folder: &Path) -> Child {
    let more = ["--checkpoint-every", "1000000", "--quiet"];
    let mut command = adapt_command(folder, 1_000_000, "a.gguf", &more);
    let mut training = command.stderr(Stdio::piped()).spawn().expect("cargo built the command");
    let metrics = folder.join("a.checkpoints/metrics.jsonl");
    while fs::metadata(&metrics).map_or(0, |metadata| metadata.len()) == 0 {
        assert!(training.try_wait().expect("a child of ours").is_none(), "the training ended by itself");
        std::thread::sleep(Duration::from_millis(20));
    }
    training
}

#[test]
fn a_training_that_ends_early_leaves_a_checkpoint_to_go_on_from() {
    type End = fn(&Path, &Child);
    let lose_the_picture: End = |folder, _| fs::remove_file(folder.join("picture.png")).expect("a writable folder");
    let mut cases = vec![(lose_the_picture, 1, "picture.png")];
    if cfg!(unix) {
        let stop: End = |_, training| {
            let asked = Command::new("sh").args(["-c", &format!("kill {}", training.id())]).status().expect("a shell");
            assert!(asked.success());
        };
        cases.push((stop, 130, "error: cancelled"));
    }
    for (end, exit_code, why) in cases {
        let folder = workshop();
        let training = endless_training(folder.path());
        end(folder.path(), &training);
        let output = training.wait_with_output().expect("a child of ours");
        let told = told(&output);
        assert_eq!(output.status.code(), Some(exit_code), "{told}");
        assert!(told.contains(why) && told.contains("are kept") && told.contains("--resume"), "{told}");
        assert!(names(&folder.path().join("a.checkpoints")).iter().any(|name| name.starts_with("step-")));
        assert!(!folder.path().join("a.gguf").exists());
    }
}

#[test]
fn a_reader_who_goes_away_is_no_failure() {
    let folder = workshop();
    let mut command = Command::new(env!("CARGO_BIN_EXE_owlet"))
        .args(["quantize", "model.gguf", "--type", "Q8_0", "--dry-run", "--quiet"])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cargo built the command");
    drop(command.stdout.take());
    let output = command.wait_with_output().expect("a child of ours");
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
