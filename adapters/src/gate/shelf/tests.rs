use std::{
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use owlet_runtime::gguf::GgufWriter;

use super::*;

/// Names the folder to the child of the test below.
const FOLDER: &str = "OWLET_GATE_TEST_FOLDER";

fn file(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    let mut writer = GgufWriter::new();
    writer.set("general.type", "adapter").set("general.name", name);
    let stream = writer.start(File::create(&path).expect("created")).expect("written");
    stream.finish().expect("written");
    path
}

/// Copies `path` and makes it the candidate.
fn admit(shelf: &mut Shelf, path: &Path) {
    let copy = shelf.copy(path).expect("copied");
    let hash = GgufFile::open(&copy).expect("a GGUF file").content_hash().expect("readable").to_owned();
    shelf.admit(hash, "base".to_owned()).expect("written");
}

fn activate(shelf: &mut Shelf) {
    let state = shelf.state.clone().activated().expect("a candidate");
    shelf.commit(state).expect("written");
}

/// Every file that is named is there and whole, and no other file is.
fn check(shelf: &Shelf) {
    let State { live, before, candidate, .. } = &shelf.state;
    let named: Vec<_> = live.iter().chain(before).chain(candidate).collect();
    named.iter().for_each(|kept| assert!(shelf.is_whole(kept), "{kept:?}"));
    let entries = fs::read_dir(&shelf.directory).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    let others = entries.filter(|name| !["lock", STATE].map(std::ffi::OsString::from).contains(name)).count();
    assert_eq!(others, named.len());
}

#[test]
fn a_few_older_adapters_are_kept_and_come_back_in_turn() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let directory = folder.path().join("gate");
    let (mut shelf, _) = Shelf::open(&directory).expect("opened");
    let mut hashes = Vec::new();
    for index in 0..4 {
        admit(&mut shelf, &file(folder.path(), &index.to_string()));
        activate(&mut shelf);
        check(&shelf);
        hashes.push(shelf.state.live.as_ref().expect("live").hash.clone());
    }
    // A candidate that waits goes with the adapter that it was compared with.
    admit(&mut shelf, &file(folder.path(), "5"));
    for expected in [Some(&hashes[2]), Some(&hashes[1]), None] {
        let state = shelf.state.clone().rolled_back().expect("one is live");
        shelf.commit(state).expect("written");
        check(&shelf);
        assert_eq!(shelf.state.live.as_ref().map(|live| &live.hash), expected);
        assert_eq!(State::read(&directory).expect("readable"), shelf.state);
    }
    assert!(shelf.state.clone().rolled_back().is_none() && shelf.state.clone().activated().is_none());
}

#[test]
fn what_is_no_state_of_a_gate_is_refused() {
    let folder = tempfile::tempdir().expect("temporary directory");
    for (text, kind) in [
        ("{", ErrorKind::InvalidFile),
        ("{\"version\": 1}", ErrorKind::InvalidFile),
        ("{\"version\": 2}", ErrorKind::Unsupported),
    ] {
        fs::write(folder.path().join(STATE), text).expect("written");
        assert_eq!(Shelf::open(folder.path()).expect_err("refused").kind(), kind, "{text}");
    }
}

/// Kills a process in the midst of its writes, again and again.
#[test]
#[cfg(unix)]
fn whoever_is_killed_between_two_writes_leaves_whole_adapters() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let directory = folder.path().join("gate");
    let mut last = 0;
    let mut n_progressed = 0;
    for kill in 0..16 {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "gate::shelf::tests::swaps_until_it_is_killed", "--ignored"])
            .env(FOLDER, &directory)
            .stdout(Stdio::null())
            .spawn()
            .expect("started");
        // Begins to write, and is some moments on.
        let began = || State::read(&directory).expect("whole at any moment").next > last;
        let mut n_waits = 0;
        while !began() && n_waits < 10_000 {
            thread::sleep(Duration::from_millis(1));
            n_waits += 1;
        }
        thread::sleep(Duration::from_micros(700 * kill));
        child.kill().expect("our child");
        child.wait().expect("our child");
        let (shelf, damaged) = Shelf::open(&directory).expect("the lock went with its owner");
        assert!(damaged.is_empty(), "{damaged:?}");
        check(&shelf);
        n_progressed += usize::from(shelf.state.next > last);
        last = shelf.state.next;
    }
    assert!(n_progressed > 12, "{n_progressed} of 16 children wrote something");
}

/// The child of the test above.
#[test]
#[ignore = "runs until it is killed, in a process of its own"]
fn swaps_until_it_is_killed() {
    let Some(directory) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let (mut shelf, _) = Shelf::open(&directory).expect("opened");
    let source = directory.parent().expect("a folder in a folder");
    for round in 0.. {
        admit(&mut shelf, &file(source, &format!("{}-{round}", std::process::id() % 7)));
        activate(&mut shelf);
        if round % 3 == 2 {
            let state = shelf.state.clone().rolled_back().expect("one is live");
            shelf.commit(state).expect("written");
        }
    }
}
