//! Downloads from servers on this machine that cut, lie and stall.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use owlet::{
    CancelToken, Error, ErrorKind,
    pull::{FileRole, Projector, PullEvent, PullOptions, PulledFile, pull},
};
use owlet_models::{MMPROJ_GGUF, MODEL_GGUF};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

mod command;
mod hub;
mod server;

use server::{Reply, Request, Server};

/// One MiB.
const MIB: usize = 1 << 20;

/// Hasty options, so that tests are quick.
fn options(folder: &Path) -> PullOptions {
    PullOptions {
        out: Some(folder.to_owned()),
        retries: 2,
        backoff: Duration::from_millis(5),
        stall: Duration::from_millis(500),
        ..PullOptions::default()
    }
}

/// The file `owl.gguf` of `server`, and the names of the events but progress.
fn pull_url(server: &Server, options: &PullOptions) -> (Result<PulledFile, Error>, Vec<&'static str>) {
    pull_url_until(server, options, &CancelToken::new())
}

fn pull_url_until(
    server: &Server,
    options: &PullOptions,
    cancel: &CancelToken,
) -> (Result<PulledFile, Error>, Vec<&'static str>) {
    let source = format!("{}/owl.gguf", server.url).parse().expect("an address");
    let mut events = Vec::new();
    let pulled = pull(&source, options, cancel, &mut |event| {
        events.extend(match event {
            PullEvent::Progress { .. } => None,
            PullEvent::Resumed { .. } => Some("resumed"),
            PullEvent::StartedOver { .. } => Some("started over"),
            PullEvent::Retrying { .. } => Some("retrying"),
            PullEvent::Kept { .. } => Some("kept"),
            PullEvent::Finished { .. } => Some("finished"),
            _ => Some("other"),
        });
    });
    (pulled.map(|mut files| files.remove(0)), events)
}

fn workshop() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

fn content(folder: &TempDir) -> Vec<u8> {
    fs::read(folder.path().join("owl.gguf")).expect("the file")
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_whole_file_arrives_and_says_what_it_is() {
    let (folder, server) = (workshop(), Server::start(|request| Reply::file(request, MMPROJ_GGUF, "a")));
    let (pulled, events) = pull_url(&server, &options(folder.path()));
    let file = pulled.expect("a file");
    assert!(content(&folder) == MMPROJ_GGUF && events == ["finished"]);
    assert_eq!((file.role, &*file.architecture), (FileRole::Projector, "clip"));
    assert_eq!((file.n_bytes, file.sha256), (MMPROJ_GGUF.len() as u64, sha256(MMPROJ_GGUF)));
    assert!(!file.verified && !file.was_there && !file.resumed);
    assert_eq!(names(folder.path()), ["owl.gguf"]);
}

#[test]
fn a_connection_that_is_cut_goes_on_where_it_stopped() {
    let server = Server::start(|request| {
        let reply = Reply::file(request, MODEL_GGUF, "a");
        if request.index < 4 { reply.cut(MIB) } else { reply }
    });
    let folder = workshop();
    let (pulled, events) = pull_url(&server, &options(folder.path()));
    pulled.expect("a file, since every try brought bytes");
    assert!(content(&folder) == MODEL_GGUF);
    assert_eq!(events, ["retrying", "retrying", "retrying", "retrying", "finished"]);
    assert_eq!(server.offsets(), [0, 1, 2, 3, 4].map(|n| n * MIB as u64));
}

#[test]
fn a_server_that_never_gets_further_is_given_up() {
    let server = Server::start(|_| Reply::new(200, MODEL_GGUF).cut(MIB));
    let folder = workshop();
    let error = pull_url(&server, &options(folder.path())).0.expect_err("it never ends");
    // The first try was none in vain, the two retries were.
    assert_eq!((error.kind(), server.requests().len()), (ErrorKind::Network, 3), "{error}");
}

#[test]
fn a_pull_that_failed_goes_on_in_the_next_call() {
    let server = Server::start(|request| match request.index {
        0 => Reply::file(request, MODEL_GGUF, "a").cut(3 * MIB),
        _ => Reply::file(request, MODEL_GGUF, "a"),
    });
    let folder = workshop();
    let impatient = PullOptions { retries: 0, ..options(folder.path()) };
    let error = pull_url(&server, &impatient).0.expect_err("cut");
    assert_eq!(error.kind(), ErrorKind::Network);
    assert!(!folder.path().join("owl.gguf").exists());
    let (pulled, events) = pull_url(&server, &impatient);
    assert!(pulled.expect("the rest").resumed);
    assert_eq!(events, ["resumed", "finished"]);
    assert_eq!(server.offsets(), [0, 3 * MIB as u64 - 1]);
    assert!(content(&folder) == MODEL_GGUF);
    assert_eq!(names(folder.path()), ["owl.gguf"]);
}

#[test]
fn what_cannot_be_continued_starts_over_and_never_mixes() {
    type Answer = fn(&Request) -> Reply;
    let cases: [(&str, Answer, &[u8]); 6] = [
        ("ranges are ignored", |_| Reply::new(200, MODEL_GGUF).with("ETag", "\"a\""), MODEL_GGUF),
        ("the file changed", |request| Reply::file(request, MMPROJ_GGUF, "b"), MMPROJ_GGUF),
        ("no ETag", |request| Reply::file(request, MMPROJ_GGUF, "a").without("ETag"), MMPROJ_GGUF),
        ("a weak ETag", |r| Reply::file(r, MMPROJ_GGUF, "a").without("ETag").with("ETag", "W/\"a\""), MMPROJ_GGUF),
        ("the file is shorter now", |request| Reply::file(request, &MMPROJ_GGUF[..6_491_840], "b"), MMPROJ_GGUF),
        (
            "another range than was asked for",
            |request| match request.offset() {
                0 => Reply::file(request, MODEL_GGUF, "a"),
                _ => Reply::new(206, &MODEL_GGUF[5..]).with("ETag", "\"a\"").with("Content-Range", "bytes 5-9/10"),
            },
            MODEL_GGUF,
        ),
    ];
    for (name, answer, expected) in cases {
        for n_retries in [0, 3] {
            let server = Server::start(move |request| match request.index {
                0 => Reply::file(request, MODEL_GGUF, "a").cut(7 * MIB),
                _ => answer(request),
            });
            let folder = workshop();
            let options = PullOptions { retries: n_retries, ..options(folder.path()) };
            let (mut pulled, mut events) = pull_url(&server, &options);
            if n_retries == 0 {
                assert!(pulled.is_err(), "{name}");
                (pulled, events) = pull_url(&server, &options);
            }
            pulled.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(events.contains(&"started over") && content(&folder) == expected, "{name}: {events:?}");
            assert_eq!(names(folder.path()), ["owl.gguf"], "{name}");
        }
    }
}

#[test]
fn lies_about_the_length_leave_no_file() {
    let whole = MODEL_GGUF.len() as u64;
    let too_long =
        Server::start(move |_| Reply::new(200, MODEL_GGUF).announcing(Some(whole + 9)).with("ETag", "\"a\""));
    let too_short = Server::start(|_| Reply::new(200, MODEL_GGUF).announcing(Some(MIB as u64)));
    let untold = Server::start(|_| Reply::new(200, MODEL_GGUF).announcing(None));
    let untold_and_cut = Server::start(|_| Reply::new(200, MODEL_GGUF).announcing(None).cut(MIB));
    let page = Server::start(|_| Reply::new(200, "<html>Please log in</html>"));
    let cases = [
        ("too long", &too_long, Some(ErrorKind::Network)),
        ("too short", &too_short, Some(ErrorKind::InvalidFile)),
        ("untold", &untold, None),
        ("untold and cut", &untold_and_cut, Some(ErrorKind::InvalidFile)),
        ("a page", &page, Some(ErrorKind::InvalidFile)),
    ];
    for (name, server, expected) in cases {
        let folder = workshop();
        let found = pull_url(server, &options(folder.path())).0;
        assert_eq!(found.as_ref().err().map(Error::kind), expected, "{name}: {found:?}");
        assert_eq!(folder.path().join("owl.gguf").exists(), expected.is_none(), "{name}");
        if expected == Some(ErrorKind::InvalidFile) {
            assert!(names(folder.path()).is_empty(), "{name}: {:?}", names(folder.path()));
        }
    }
}

#[test]
fn a_wrong_checksum_leaves_nothing() {
    let server = Server::start(|request| Reply::file(request, MODEL_GGUF, "a"));
    let folder = workshop();
    let wrong = PullOptions { sha256: Some(sha256(MMPROJ_GGUF)), ..options(folder.path()) };
    let error = pull_url(&server, &wrong).0.expect_err("another file");
    assert_eq!(error.kind(), ErrorKind::InvalidFile);
    assert!(error.to_string().contains(&sha256(MODEL_GGUF)), "{error}");
    assert!(names(folder.path()).is_empty());

    let right = PullOptions { sha256: Some(sha256(MODEL_GGUF).to_uppercase()), ..wrong.clone() };
    assert!(pull_url(&server, &right).0.expect("the file").verified);
    let nonsense = PullOptions { sha256: Some("12".to_owned()), ..wrong };
    assert_eq!(pull_url(&server, &nonsense).0.expect_err("no hash").kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_part_that_was_damaged_on_the_disk_is_found_out_and_fetched_again() {
    let server = Server::start(|request| match request.index {
        0 => Reply::file(request, MODEL_GGUF, "a").cut(2 * MIB),
        _ => Reply::file(request, MODEL_GGUF, "a"),
    });
    let folder = workshop();
    let options = PullOptions { sha256: Some(sha256(MODEL_GGUF)), retries: 0, ..options(folder.path()) };
    pull_url(&server, &options).0.expect_err("cut");
    let part = folder.path().join(&names(folder.path())[0]);
    let mut bytes = fs::read(&part).expect("a part");
    bytes[MIB] ^= 1;
    fs::write(&part, bytes).expect("written");
    let (pulled, events) = pull_url(&server, &options);
    pulled.expect("the file");
    assert_eq!(events, ["resumed", "started over", "finished"]);
    assert!(content(&folder) == MODEL_GGUF);
}

#[test]
fn silence_ends_in_bounded_time() {
    let servers = [
        ("after some bytes", Server::start(|r| Reply::file(r, MODEL_GGUF, "a").cut(100).stalling())),
        ("drop by drop", Server::start(|r| Reply::file(r, MODEL_GGUF, "a").cut(100).dripping())),
    ];
    for (name, server) in servers {
        let folder = workshop();
        let options = PullOptions { retries: 1, stall: Duration::from_millis(200), ..options(folder.path()) };
        let start = Instant::now();
        let (pulled, events) = pull_url(&server, &options);
        let error = pulled.expect_err("it never ends");
        assert_eq!(error.kind(), ErrorKind::Network, "{name}: {error}");
        assert!(error.to_string().contains("stalled"), "{name}: {error}");
        assert_eq!(events, ["retrying", "kept"], "{name}");
        assert!(start.elapsed() < Duration::from_secs(5), "{name}: {:?}", start.elapsed());
    }
}

#[test]
fn refusals_teach_and_only_passing_ones_are_tried_again() {
    let cases = [
        (401, ErrorKind::Network, 1, "HF_TOKEN"),
        (403, ErrorKind::Network, 1, "HF_TOKEN"),
        (404, ErrorKind::NotFound, 1, "spelling"),
        (429, ErrorKind::Network, 3, "HF_TOKEN"),
        (500, ErrorKind::Network, 3, "--endpoint"),
        (503, ErrorKind::Network, 3, "--endpoint"),
        (418, ErrorKind::Network, 1, "418"),
    ];
    for (status, kind, n_requests, told) in cases {
        let server = Server::start(move |_| Reply::new(status, "no").with("x-error-message", "the owner says no"));
        let folder = workshop();
        let error = pull_url(&server, &options(folder.path())).0.expect_err("refused");
        assert_eq!((error.kind(), server.requests().len()), (kind, n_requests), "{status}: {error}");
        let text = error.to_string();
        assert!(text.contains(told) && text.contains("the owner says no"), "{status}: {text}");
        assert!(names(folder.path()).is_empty(), "{status}");
    }
}

#[test]
fn a_server_that_recovers_is_forgiven_and_one_that_asks_for_hours_is_not_waited_for() {
    let recovering = Server::start(|request| match request.index {
        0 => Reply::new(503, ""),
        1 => Reply::new(429, "").with("Retry-After", "0"),
        _ => Reply::file(request, MODEL_GGUF, "a"),
    });
    let folder = workshop();
    pull_url(&recovering, &options(folder.path())).0.expect("the file in the end");
    let busy = Server::start(|_| Reply::new(429, "").with("Retry-After", "7200"));
    pull_url(&busy, &PullOptions { force: true, ..options(folder.path()) }).0.expect_err("hours");
    assert_eq!(busy.requests().len(), 1);
}

#[test]
fn redirects_are_followed_and_the_token_stays_at_home() {
    let store = Server::start(|request| Reply::file(request, MODEL_GGUF, "a"));
    let there = store.url.clone();
    let hash = sha256(MODEL_GGUF);
    let home = Server::start(move |request| match &*request.path {
        "/owl.gguf" => Reply::new(307, "").with("Location", "/moved/owl.gguf"),
        "/moved/owl.gguf" => {
            let reply = Reply::new(302, "").with("Location", format!("{there}/key?signature=secret"));
            reply.with("x-linked-etag", format!("\"{hash}\""))
        }
        _ => Reply::new(404, ""),
    });
    let folder = workshop();
    let token = Some("hf_secret".to_owned());
    let options = PullOptions { endpoint: home.url.clone(), token, ..options(folder.path()) };
    assert!(pull_url(&home, &options).0.expect("a file").verified);
    let tokens = |server: &Server| -> Vec<Option<String>> {
        server.requests().into_iter().map(|mut request| request.headers.remove("authorization")).collect()
    };
    assert_eq!(tokens(&home), [const { Some("Bearer hf_secret") }; 2].map(|token| token.map(str::to_owned)));
    assert_eq!(tokens(&store), [None]);

    let circle = Server::start(|_| Reply::new(302, "").with("Location", "/owl.gguf"));
    let error = pull_url(&circle, &PullOptions { force: true, ..options }).0.expect_err("a circle");
    assert!(error.kind() == ErrorKind::Network && circle.requests().len() < 20, "{error}");
}

#[test]
fn a_server_without_tls_is_no_https_server() {
    let server = Server::start(|_| Reply::new(200, "no"));
    let source = format!("{}/owl.gguf", server.url.replace("http:", "https:")).parse().expect("an address");
    let folder = workshop();
    let error = pull(&source, &options(folder.path()), &CancelToken::new(), &mut |_| {}).expect_err("no handshake");
    assert_eq!(error.kind(), ErrorKind::Network, "{error}");
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_disk_without_room_is_found_before_the_download() {
    let server = Server::start(|_| Reply::new(200, MODEL_GGUF).announcing(Some(1 << 60)).with("ETag", "\"a\""));
    let folder = workshop();
    let error = pull_url(&server, &options(folder.path())).0.expect_err("no such disk");
    assert_eq!(error.kind(), ErrorKind::Limit);
    assert!(error.to_string().contains("1152921504606846976 bytes"), "{error}");
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_cancelled_pull_ends_at_once_and_leaves_a_part_to_go_on_with() {
    let server = Server::start(|request| match request.index {
        0 => Reply::file(request, MODEL_GGUF, "a").cut(2 * MIB).stalling(),
        _ => Reply::file(request, MODEL_GGUF, "a"),
    });
    let folder = workshop();
    let options = PullOptions { stall: Duration::from_secs(60), ..options(folder.path()) };
    let cancel = CancelToken::new();
    let asked = cancel.clone();
    let part_bytes = {
        let folder = folder.path().to_owned();
        move || {
            names(&folder).iter().filter_map(|name| fs::metadata(folder.join(name)).ok()).map(|m| m.len()).sum::<u64>()
        }
    };
    let canceller = thread::spawn(move || {
        while part_bytes() < 2 * MIB as u64 {
            thread::sleep(Duration::from_millis(5));
        }
        asked.cancel();
        Instant::now()
    });
    let error = pull_url_until(&server, &options, &cancel).0.expect_err("cancelled");
    let late = canceller.join().expect("it cancelled").elapsed();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    assert!(late < Duration::from_secs(5), "{late:?}");
    assert!(pull_url(&server, &options).0.expect("the rest").resumed);
    assert!(content(&folder) == MODEL_GGUF && server.offsets()[1] == 2 * MIB as u64 - 1);
}

#[test]
fn what_is_there_is_kept_unless_it_is_another_file() {
    let version = Arc::new(AtomicUsize::new(0));
    let current = Arc::clone(&version);
    let server = Server::start(move |request| match current.load(Ordering::Relaxed) {
        0 => Reply::file(request, MODEL_GGUF, "a"),
        _ => Reply::file(request, MMPROJ_GGUF, "b"),
    });
    let folder = workshop();
    let options = options(folder.path());
    pull_url(&server, &options).0.expect("the first");
    assert!(pull_url(&server, &options).0.expect("the same length").was_there);
    let checked = PullOptions { sha256: Some(sha256(MODEL_GGUF)), ..options.clone() };
    let again = pull_url(&server, &checked).0.expect("the same hash");
    assert!(again.was_there && again.verified);

    version.store(1, Ordering::Relaxed);
    let error = pull_url(&server, &options).0.expect_err("another file");
    assert!(error.kind() == ErrorKind::InvalidInput && error.to_string().contains("--force"), "{error}");
    assert!(content(&folder) == MODEL_GGUF);
    pull_url(&server, &PullOptions { force: true, ..options }).0.expect("replaced");
    assert!(content(&folder) == MMPROJ_GGUF);
}

#[test]
fn a_file_that_appeared_meanwhile_is_not_replaced() {
    let folder = workshop();
    let place = folder.path().join("owl.gguf");
    let server = Server::start(move |request| {
        fs::write(&place, "theirs").expect("a writable folder");
        Reply::file(request, MODEL_GGUF, "a")
    });
    let error = pull_url(&server, &options(folder.path())).0.expect_err("another file");
    assert!(error.kind() == ErrorKind::InvalidInput && error.to_string().contains("--force"), "{error}");
    assert_eq!(content(&folder), b"theirs");
    pull_url(&server, &PullOptions { force: true, ..options(folder.path()) }).0.expect("the rest, in its place");
    assert!(content(&folder) == MODEL_GGUF && server.offsets()[1] > 0);
}

#[test]
fn two_at_the_same_file_do_not_disturb_each_other() {
    let server = Server::start(|request| match request.index {
        0 => Reply::file(request, MODEL_GGUF, "a").cut(MIB).stalling(),
        _ => Reply::file(request, MODEL_GGUF, "a"),
    });
    let folder = workshop();
    let options = PullOptions { stall: Duration::from_secs(60), ..options(folder.path()) };
    let cancel = CancelToken::new();
    thread::scope(|scope| {
        let first = scope.spawn(|| pull_url_until(&server, &options, &cancel).0);
        while names(folder.path()).is_empty() || server.requests().is_empty() {
            thread::sleep(Duration::from_millis(5));
        }
        let second = pull_url(&server, &options).0;
        cancel.cancel();
        assert_eq!(second.expect_err("one at a time").kind(), ErrorKind::Busy);
        assert_eq!(first.join().expect("it ends").expect_err("cancelled").kind(), ErrorKind::Cancelled);
    });
}
