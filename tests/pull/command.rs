//! `owlet pull` as a person and a script see it.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::*;

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_owlet"));
    command.arg("pull").args(arguments).current_dir(folder).env("NO_COLOR", "1");
    for variable in ["HF_TOKEN", "HF_ENDPOINT"] {
        command.env_remove(variable);
    }
    command
}

fn owlet(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().expect("cargo built the command")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

#[test]
fn paths_are_data_and_the_next_step_is_told() {
    let server = Server::start(|request| Reply::file(request, MODEL_GGUF, "a"));
    let (folder, url) = (workshop(), format!("{}/owl.gguf", server.url));
    let output = owlet(folder.path(), &[&url, "--out", "models"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "models/owl.gguf\n");
    assert!(text(&output.stderr).contains("owlet run -m models/owl.gguf"), "{}", text(&output.stderr));

    let output = owlet(folder.path(), &[&url, "--json", "--sha256", &sha256(MODEL_GGUF)]);
    let lines: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    let events: Vec<&str> = lines.iter().map(|line| line["event"].as_str().expect("a name")).collect();
    assert!(events.starts_with(&["progress"]) && events.ends_with(&["progress", "finished", "done"]), "{events:?}");
    let whole = &lines[lines.len() - 3];
    assert_eq!((whole["n_bytes"].as_u64(), whole["seconds_left"].as_f64()), (Some(MODEL_GGUF.len() as u64), Some(0.0)));
    assert_eq!(lines[lines.len() - 1]["files"][0]["verified"], true);
    assert!(output.stderr.is_empty());
}

#[test]
fn no_network_is_told_with_what_helps() {
    // A port that was free a moment ago.
    let gone = Server::start(|_| Reply::new(404, "")).url.clone();
    let folder = workshop();
    let start = Instant::now();
    let output = owlet(folder.path(), &["hf:owls/Owl-GGUF", "--endpoint", &gone]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    for words in ["error: cannot reach the server", "HTTPS_PROXY", "--endpoint", "hint: "] {
        assert!(told.contains(words), "{words} in {told}");
    }
    // Nobody is kept waiting by tries that cannot help.
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(names(folder.path()).is_empty() && output.stdout.is_empty());
}

#[test]
fn the_environment_names_mirror_and_token() {
    let server = Server::start(|_| Reply::new(403, ""));
    let folder = workshop();
    let mut command = command(folder.path(), &["hf:owls/Owl-GGUF"]);
    let output = command.env("HF_ENDPOINT", &server.url).env("HF_TOKEN", "hf_secret").output().expect("it runs");
    assert_eq!(server.requests()[0].headers.get("authorization").map(String::as_str), Some("Bearer hf_secret"));
    let told = text(&output.stderr);
    assert!(told.contains("accept the terms") && !told.contains("hf_secret"), "{told}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_part_to_go_on_with() {
    let server = Server::start(|request| match request.index {
        0 => Reply::file(request, MODEL_GGUF, "a").cut(2 * MIB).stalling(),
        _ => Reply::file(request, MODEL_GGUF, "a"),
    });
    let (folder, url) = (workshop(), format!("{}/owl.gguf", server.url));
    let child = command(folder.path(), &[&url]).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
    let has_part = || {
        let sizes = names(folder.path()).into_iter().map(|name| fs::metadata(folder.path().join(name)));
        sizes.flatten().any(|metadata| metadata.len() >= 2 * MIB as u64)
    };
    while !has_part() {
        thread::sleep(Duration::from_millis(5));
    }
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("a shell's kill");
    assert!(killed.success());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("goes on where this one stopped"));
    let output = owlet(folder.path(), &[&url]);
    assert!(text(&output.stderr).contains("goes on after"), "{}", text(&output.stderr));
    assert!(content(&folder) == MODEL_GGUF);
}
