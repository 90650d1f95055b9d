//! What the command line tells about devices, time and memory of inference.

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

#[expect(dead_code, unreachable_pub, reason = "the runtime's own tests use the rest")]
#[path = "../runtime/tests/common/tiny.rs"]
mod tiny;

fn owlet(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_owlet"));
    command.args(arguments).current_dir(folder).env("NO_COLOR", "1").output().expect("cargo built the command")
}

fn json(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"))
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn devices_are_listed_with_the_reason_why_there_is_no_gpu() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let report = json(&owlet(folder.path(), &["devices", "--json"]));
    let devices = report["devices"].as_array().expect("a list");
    assert!(devices.iter().any(|device| device["kind"] == "processor"), "{report}");
    let has_gpu = devices.iter().any(|device| device["kind"].as_str().is_some_and(|kind| kind.contains("GPU")));
    assert_eq!(report["no_gpu"].is_string(), !has_gpu, "{report}");
    let text = owlet(folder.path(), &["devices"]);
    assert!(String::from_utf8_lossy(&text.stdout).starts_with("device"));
    assert_eq!(told(&text).contains("no GPU: "), !has_gpu);
    if !has_gpu {
        tiny::model().write(&folder.path().join("model.gguf"));
        let run = ["run", "-m", "model.gguf", "--threads", "1", "--max-tokens", "1", "--device"];
        for (device, code, says) in
            [("cpu", 0, ""), ("auto", 0, ""), ("gpu", 1, "no GPU backend"), ("Vulkan7", 1, "Vulkan7")]
        {
            let output = owlet(folder.path(), &[&run[..], &[device, "?"]].concat());
            assert_eq!(output.status.code(), Some(code), "{device}: {}", told(&output));
            assert!(told(&output).contains(says), "{device}: {}", told(&output));
        }
    }
}

#[test]
fn a_time_limit_ends_a_run() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    tiny::model().write(&folder.path().join("model.gguf"));
    let run = ["run", "-m", "model.gguf", "--threads", "1", "--max-tokens", "3", "--time-limit"];
    let late = owlet(folder.path(), &[&run[..], &["0", "?"]].concat());
    assert_eq!(late.status.code(), Some(130), "{}", told(&late));
    assert!(told(&late).contains("the time is up"), "{}", told(&late));
    let early = owlet(folder.path(), &[&run[..], &["600", "?"]].concat());
    assert_eq!(early.status.code(), Some(0), "{}", told(&early));
    let wrong = owlet(folder.path(), &[&run[..], &["-1", "?"]].concat());
    assert_eq!(wrong.status.code(), Some(1), "{}", told(&wrong));
}

#[test]
fn synthetic_models_see() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let synth = ["synth", "--family", "qwen3vl", "--type", "Q8_0", "--threads", "1", "-o", "m.gguf", "--mmproj-out"];
    let wrong = owlet(folder.path(), &[&synth[..], &["m.gguf"]].concat());
    assert_eq!(wrong.status.code(), Some(1), "{}", told(&wrong));
    let output = owlet(folder.path(), &[&synth[..], &["mmproj.gguf"]].concat());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "m.gguf\nmmproj.gguf\n", "{}", told(&output));
    image::RgbImage::new(64, 64).save(folder.path().join("a.png")).expect("a writable folder");
    let run = ["run", "-m", "m.gguf", "--image", "a.png", "--max-tokens", "1", "--threads", "1", "--json", "?"];
    let report = json(&owlet(folder.path(), &run));
    assert!(report["timings"]["image_encode_ms"].as_f64().is_some_and(|value| value > 0.0), "{report}");
}

#[test]
fn more_tokens_than_can_be_counted_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let synth = ["synth", "--family", "qwen3vl", "--type", "Q8_0", "--threads", "1", "-o", "m.gguf"];
    assert_eq!(owlet(folder.path(), &synth).status.code(), Some(0));
    let most = usize::MAX.to_string();
    for purpose in ["run", "adapt"] {
        // A picture that is larger than the question is cut to it where asking is planned.
        let options = ["--max-prompt-tokens", "--max-tokens", "--image-tokens"].map(|option| [option, &*most]);
        for more in &options[..if purpose == "run" { 2 } else { 3 }] {
            let refused = owlet(folder.path(), &[&["plan", "--for", purpose, "-m", "m.gguf"], &more[..]].concat());
            assert_eq!(refused.status.code(), Some(1), "{purpose} {more:?}: {}", told(&refused));
            assert!(told(&refused).contains(&most), "{purpose} {more:?}: {}", told(&refused));
        }
    }
}

#[test]
fn memory_is_planned_and_kept_to() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let synth = ["synth", "--family", "qwen3vl", "--type", "Q8_0", "--threads", "1", "-o", "m.gguf", "--mmproj-out"];
    assert_eq!(owlet(folder.path(), &[&synth[..], &["mmproj.gguf"]].concat()).status.code(), Some(0));
    image::RgbImage::new(900, 900).save(folder.path().join("a.png")).expect("a writable folder");

    let plan =
        ["plan", "--for", "run", "-m", "m.gguf", "--mmproj", "mmproj.gguf", "--max-prompt-tokens", "2000", "--json"];
    let whole = json(&owlet(folder.path(), &plan));
    let peak = whole["peak"].as_u64().expect("a number");
    let parts = whole["parts"].as_array().expect("a list").iter().map(|part| part["bytes"].as_u64().expect("a number"));
    assert_eq!(parts.sum::<u64>(), peak, "{whole}");
    assert_eq!(whole["image_tokens"], 1024, "as many as the projector takes: {whole}");
    let budget = (peak - (4 << 20)).to_string();
    let fitted = json(&owlet(folder.path(), &[&plan[..], &["--memory-budget", &budget]].concat()));
    assert!(fitted["peak"].as_u64().is_some_and(|bytes| bytes <= peak - (4 << 20)), "{fitted}");
    let few = json(&owlet(folder.path(), &[&plan[..], &["--image-tokens", "300"]].concat()));
    assert_eq!(few["image_tokens"], 300, "{few}");

    let run =
        ["run", "-m", "m.gguf", "--image", "a.png", "--max-tokens", "2", "--threads", "1", "--json", "--memory-budget"];
    let tokens = |budget: &str| {
        let output = owlet(folder.path(), &[&run[..], &[budget, "?"]].concat());
        assert_eq!(output.status.code(), Some(0), "{budget}: {}", told(&output));
        json(&output)["timings"]["n_prompt_tokens"].as_u64().expect("a number")
    };
    assert!(tokens("1GiB") > 780, "28 x 28 tokens");
    assert!(tokens("24MiB") < 780, "a smaller picture");
    let refused = owlet(folder.path(), &[&run[..], &["6MiB", "?"]].concat());
    assert_eq!(refused.status.code(), Some(1));
    assert!(told(&refused).contains("at least"), "{}", told(&refused));
}
