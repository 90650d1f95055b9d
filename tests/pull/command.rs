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
    for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(proxy).env_remove(proxy.to_ascii_lowercase());
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
    for words in ["error: cannot reach the server", "HTTPS_PROXY", "--endpoint"] {
        assert!(told.contains(words), "{words} in {told}");
    }
    assert!(!told.contains("is kept"), "nothing was downloaded: {told}");
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

#[test]
fn what_can_be_gone_on_with_is_told() {
    let cases = [("the same as before", true), ("without a name for its content", false)];
    for (name, is_known) in cases {
        let server = Server::start(move |request| {
            let reply = Reply::file(request, MODEL_GGUF, "a").cut(MIB);
            if is_known { reply } else { reply.without("ETag") }
        });
        let (folder, url) = (workshop(), format!("{}/owl.gguf", server.url));
        let output = owlet(folder.path(), &[&url, "--retries", "0"]);
        assert_eq!(output.status.code(), Some(1), "{name}");
        let told = text(&output.stderr);
        assert_eq!(told.contains("what was downloaded is kept"), is_known, "{name}: {told}");
        let again = owlet(folder.path(), &[&url, "--retries", "0"]);
        assert_eq!(text(&again.stderr).contains("goes on after"), is_known, "{name}: {}", text(&again.stderr));
    }
}

/// An address of this machine that is not known as such, so that proxies are asked for it.
fn elsewhere(server: &Server) -> String {
    server.url.replace("127.0.0.1", "0.0.0.0")
}

#[cfg(unix)]
#[test]
fn proxies_are_chosen_by_the_address_that_is_asked_for() {
    let store = Server::start(|request| Reply::file(request, MODEL_GGUF, "a"));
    let (near, far) = (store.url.clone(), elsewhere(&store));
    let safe = far.replace("http:", "https:");
    // The variable that names the proxy, NO_PROXY, the address, whether the proxy is asked, and the exit code. The store
    // speaks no TLS.
    let cases = [
        ("HTTP_PROXY", "", &near, false, 0),
        ("HTTP_PROXY", "", &far, true, 0),
        ("HTTP_PROXY", "one.example, 0.0.0.0", &far, false, 0),
        ("HTTP_PROXY", "", &safe, false, 1),
        ("HTTPS_PROXY", "", &far, false, 0),
        ("HTTPS_PROXY", "", &safe, true, 1),
        ("https_proxy", "*", &safe, false, 1),
        ("ALL_PROXY", "", &far, true, 0),
    ];
    for (variable, exempt, url, is_asked, code) in cases {
        let proxy = Server::start(|request| Reply::file(request, MODEL_GGUF, "a"));
        let folder = workshop();
        let mut command = command(folder.path(), &[&format!("{url}/owl.gguf"), "--retries", "0"]);
        let output = command.env(variable, &proxy.url).env("NO_PROXY", exempt).output().expect("it runs");
        let case = format!("{variable} {exempt:?} {url}: {}", text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{case}");
        let asked = proxy.requests().first().map(|request| format!("{} {}", request.method, request.path));
        let host = far.trim_start_matches("http://");
        assert_eq!(asked, is_asked.then(|| format!("CONNECT {host}")), "{case}");
    }
}

#[cfg(unix)]
#[test]
fn a_token_that_was_held_back_is_not_asked_for() {
    let server = Server::start(|_| Reply::new(401, ""));
    let folder = workshop();
    let endpoint = elsewhere(&server);
    let owl = format!("{}/owl.gguf", server.url);
    let cases: [(&[&str], &str); 2] =
        [(&["hf:owls/Owl-GGUF", "--endpoint", &endpoint], "https"), (&[&owl, "--endpoint", &endpoint], "--endpoint")];
    for (arguments, told) in cases {
        let output = command(folder.path(), arguments).env("HF_TOKEN", "hf_secret").output().expect("it runs");
        let error = text(&output.stderr);
        assert!(error.contains("401") && error.contains(told) && !error.contains("in HF_TOKEN"), "{error}");
    }
    assert!(server.requests().iter().all(|request| !request.headers.contains_key("authorization")));
}

#[test]
fn passwords_in_addresses_are_not_shown() {
    let server = Server::start(|_| Reply::new(404, ""));
    let folder = workshop();
    let with_password = |url: &str| url.replace("http://", "http://u:secret@");
    let endpoint = with_password(&server.url);
    let cases: [&[&str]; 4] = [
        &["hf:owls/Owl-GGUF", "--endpoint", &endpoint],
        &["hf:owls/Owl-GGUF", "--endpoint", "u:secret@hub"],
        &[&format!("{endpoint}/owl.gguf")],
        &[&format!("{endpoint}/owl.zip?key=secret")],
    ];
    for arguments in cases {
        let output = owlet(folder.path(), arguments);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {told}");
        assert!(told.contains("error: ") && !told.contains("secret"), "{arguments:?}: {told}");
    }
}

#[test]
fn a_projector_beside_an_address_is_refused() {
    let server = Server::start(|request| Reply::file(request, MODEL_GGUF, "a"));
    let (folder, url) = (workshop(), format!("{}/owl.gguf", server.url));
    let output = owlet(folder.path(), &[&url, "--mmproj", "Q8_0"]);
    assert!(output.status.code() == Some(1) && text(&output.stderr).contains("Q8_0"), "{}", text(&output.stderr));
    assert!(server.requests().is_empty() && names(folder.path()).is_empty());
    assert_eq!(owlet(folder.path(), &[&url, "--mmproj", "none"]).status.code(), Some(0));
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
