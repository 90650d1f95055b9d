//! Repositories of a hub: the list of files, the choice, the hashes.

use owlet::pull::Source;
use serde_json::{Value, json};

use super::*;

/// A hub with one repository, `owls/Owl-GGUF`, whose list of files is `listing` and whose files are the embedded ones.
fn hub(listing: Value) -> Server {
    Server::start(move |request| {
        let path = request.path.split('?').next().unwrap_or_default();
        match path {
            "/api/models/owls/Owl-GGUF/revision/main" => Reply::new(200, listing.to_string()),
            "/owls/Owl-GGUF/resolve/c0ffee/Owl-Q4_K_M.gguf" => Reply::file(request, MODEL_GGUF, "m"),
            "/owls/Owl-GGUF/resolve/c0ffee/sub/mmproj-Owl-F16.gguf" => Reply::file(request, MMPROJ_GGUF, "p"),
            _ => Reply::new(404, "").with("x-error-code", "EntryNotFound"),
        }
    })
}

fn listing(model_hash: &str) -> Value {
    let entry = |name: &str, bytes: &[u8], hash: &str| json!({ "rfilename": name, "size": bytes.len(), "lfs": { "sha256": hash } });
    json!({
        "sha": "c0ffee",
        "siblings": [
            { "rfilename": "README.md", "size": 3 },
            entry("Owl-Q4_K_M.gguf", MODEL_GGUF, model_hash),
            entry("Owl-Q8_0.gguf", MODEL_GGUF, model_hash),
            entry("sub/mmproj-Owl-F16.gguf", MMPROJ_GGUF, &sha256(MMPROJ_GGUF)),
            entry("mmproj-Owl-Q8_0.gguf", MMPROJ_GGUF, &sha256(MMPROJ_GGUF)),
        ],
    })
}

fn pull_hub(server: &Server, source: &str, options: &PullOptions) -> Result<Vec<PulledFile>, Error> {
    let options = PullOptions { endpoint: server.url.clone(), ..options.clone() };
    let source: Source = source.parse().expect("a source");
    pull(&source, &options, &CancelToken::new(), &mut |_| {})
}

#[test]
fn a_model_comes_with_its_projector_and_both_are_checked() {
    let (folder, server) = (workshop(), hub(listing(&sha256(MODEL_GGUF))));
    let files = pull_hub(&server, "hf:owls/Owl-GGUF", &options(folder.path())).expect("both");
    let found: Vec<_> = files.iter().map(|file| (file.role, file.verified, file.was_there)).collect();
    assert_eq!(found, [(FileRole::Model, true, false), (FileRole::Projector, true, false)]);
    assert!(fs::read(&files[0].path).expect("the model") == MODEL_GGUF);
    assert!(fs::read(folder.path().join("mmproj-Owl-F16.gguf")).expect("the projector") == MMPROJ_GGUF);
    // The list, and each file of its commit.
    assert_eq!(server.requests().len(), 3);

    // All is there: the hashes of the list are enough.
    let again = pull_hub(&server, "hf:owls/Owl-GGUF:q4_k_m", &options(folder.path())).expect("both");
    assert!(again.iter().all(|file| file.was_there && file.verified));
    assert_eq!(server.requests().len(), 4);

    let alone = PullOptions { projector: Projector::Skip, ..options(folder.path()) };
    assert_eq!(pull_hub(&server, "hf:owls/Owl-GGUF:Owl-Q4_K_M.gguf", &alone).expect("one").len(), 1);
}

#[test]
fn a_file_that_is_not_what_the_list_says_is_refused() {
    let short = {
        let mut listing = listing(&sha256(MODEL_GGUF));
        listing["siblings"][1]["size"] = json!(MODEL_GGUF.len() - 1);
        listing
    };
    let huge = {
        let mut listing = listing(&sha256(MODEL_GGUF));
        listing["siblings"][1]["size"] = json!(u64::MAX);
        listing
    };
    let cases = [
        ("wrong hash", listing(&sha256(b"another")), ErrorKind::InvalidFile),
        ("wrong length", short, ErrorKind::Mismatch),
        ("absurd length", huge, ErrorKind::Limit),
        ("no list", json!({ "error": "no" }), ErrorKind::Mismatch),
    ];
    for (name, listing, kind) in cases {
        let (folder, server) = (workshop(), hub(listing));
        let error = pull_hub(&server, "hf:owls/Owl-GGUF", &options(folder.path())).expect_err("refused");
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert!(names(folder.path()).is_empty(), "{name}: {:?}", names(folder.path()));
    }
}

#[test]
fn room_is_looked_for_before_the_first_of_several_files() {
    let mut listing = listing(&sha256(MODEL_GGUF));
    listing["siblings"][3]["size"] = json!(1u64 << 60);
    let (folder, server) = (workshop(), hub(listing));
    let error = pull_hub(&server, "hf:owls/Owl-GGUF", &options(folder.path())).expect_err("no such disk");
    let both = (1u64 << 60) + MODEL_GGUF.len() as u64;
    assert!(error.kind() == ErrorKind::Limit && error.to_string().contains(&format!("{both} bytes")), "{error}");
    assert_eq!((names(folder.path()).len(), server.requests().len()), (0, 1), "only the list was asked for");
}

#[test]
fn a_hiccup_before_a_file_is_tried_again_once_anything_was_answered() {
    let known = listing(&sha256(MODEL_GGUF)).to_string();
    let server = Server::start(move |request| match request.index {
        0 => Reply::new(200, known.clone()),
        1 | 2 => Reply::hanging_up(),
        _ => Reply::file(request, MODEL_GGUF, "m"),
    });
    let folder = workshop();
    let options = PullOptions { projector: Projector::Skip, retries: 2, ..options(folder.path()) };
    pull_hub(&server, "hf:owls/Owl-GGUF", &options).expect("the file in the end");
    assert_eq!(server.requests().len(), 4);

    // A redirect is an answer too.
    let store = Server::start(|request| match request.index {
        0 | 1 => Reply::hanging_up(),
        _ => Reply::file(request, MODEL_GGUF, "a"),
    });
    let there = format!("{}/key", store.url);
    let home = Server::start(move |_| Reply::new(302, "").with("Location", there.clone()));
    pull_url(&home, &PullOptions { force: true, ..options.clone() }).0.expect("the file in the end");

    let dead = Server::start(|_| Reply::hanging_up());
    pull_url(&dead, &PullOptions { force: true, ..options }).0.expect_err("no answer at all");
    assert_eq!(dead.requests().len(), 1, "nobody is kept waiting where there may be no network");
}

#[test]
fn hostile_names_lead_nowhere() {
    let hostile =
        ["../evil.gguf", "/etc/evil.gguf", "a/../../evil.gguf", "..\\evil.gguf", "\u{1b}[2Jevil.gguf", ".evil.gguf"];
    let above = workshop();
    let folder = above.path().join("models");
    for name in hostile {
        let siblings = json!([{ "rfilename": name, "size": MODEL_GGUF.len() }]);
        let answer = json!({ "sha": "c0ffee", "siblings": siblings }).to_string();
        let server = Server::start(move |request| match request.path.contains("/api/") {
            true => Reply::new(200, answer.clone()),
            false => Reply::file(request, MODEL_GGUF, "a"),
        });
        for source in ["hf:owls/Owl-GGUF".to_owned(), format!("hf:owls/Owl-GGUF:{name}")] {
            let error = pull_hub(&server, &source, &options(&folder)).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::NotFound, "{name:?}: {error}");
        }
        assert_eq!(server.requests().len(), 2, "{name:?}: only lists were asked for");
    }
    assert!(names(above.path()).is_empty());
}

#[test]
fn a_repository_without_the_wanted_type_says_what_it_has() {
    let (folder, server) = (workshop(), hub(listing(&sha256(MODEL_GGUF))));
    let error = pull_hub(&server, "hf:owls/Owl-GGUF:Q3_K_S", &options(folder.path())).expect_err("not there");
    assert!(error.kind() == ErrorKind::NotFound && error.to_string().contains("Owl-Q8_0.gguf"), "{error}");
    let error = pull_hub(&server, "hf:owls/Barn-GGUF", &options(folder.path())).expect_err("no such repository");
    assert!(error.kind() == ErrorKind::NotFound && error.to_string().contains("EntryNotFound"), "{error}");
}
