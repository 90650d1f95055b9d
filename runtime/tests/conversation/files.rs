//! Conversations that leave the process and come back.

use std::{path::Path, sync::Arc};

use owlet_runtime::{
    Adapter, ErrorKind, KvType, Model, ModelOptions, Session, SessionOptions,
    conversation::{Conversation, SavedConversation, Turn},
};
use sha2::{Digest, Sha256};

use super::{ask, common::tiny, conversation, said, session, session_options, sharing::adapter, user};

fn resume(path: &Path, session: Session, adapters: &[(Arc<Adapter>, f32)]) -> owlet_runtime::Result<Conversation> {
    SavedConversation::open(path)?.resume(session, adapters)
}

fn two_turns(conversation: &mut Conversation) -> [Turn; 2] {
    [user("And on this one?", &[2]), user("Which is the owl, <this>?", &[])].map(|question| ask(conversation, question))
}

#[test]
fn a_restored_conversation_goes_on_as_the_one_that_was_never_saved() {
    let (model, folder) = tiny::load();
    let path = folder.path().join("saved.owlet");
    let opening: Vec<u32> = model.generation_prompt().expect("ChatML").iter().map(|&token| token as u32).collect();
    let adapters = [
        vec![],
        vec![(adapter(&model, 1, None), 1.0), (adapter(&model, 2, None), -0.3)],
        vec![(adapter(&model, 3, Some(opening)), 1.0)],
    ];
    for adapters in adapters {
        let mut original = conversation(&model);
        original.set_adapters(&adapters).expect("sets");
        // Before the first question there is nothing to compute.
        original.save(&path).expect("saves");
        let mut restored = resume(&path, session(&model), &adapters).expect("fits");
        for pictures in [&[][..], &[1, 1, 3]] {
            let turns = [&mut original, &mut restored].map(|conversation| ask(conversation, user("Hello?", pictures)));
            assert_eq!(said(&turns[0]), said(&turns[1]));
            original.save(&path).expect("saves");
            let saved = SavedConversation::open(&path).expect("whole");
            assert_eq!((saved.messages(), saved.adapters().len()), (original.messages(), adapters.len()));
            let bytes = std::fs::read(&path).expect("reads");
            restored = saved.resume(session(&model), &adapters).expect("fits");
            assert_eq!((restored.messages(), restored.n_tokens()), (original.messages(), original.n_tokens()));
            assert_eq!(restored.options(), original.options());
            restored.save(&path).expect("saves");
            assert!(std::fs::read(&path).expect("reads") == bytes, "the same file");
        }
        for (original, restored) in two_turns(&mut original).iter().zip(two_turns(&mut restored)) {
            assert_eq!(said(original), said(&restored));
            assert_eq!(original.report.n_computed_tokens, restored.report.n_computed_tokens);
        }
    }
}

#[test]
fn a_conversation_of_something_else_is_refused_by_what_differs() {
    let (model, folder) = tiny::load();
    let path = folder.path().join("saved.owlet");
    let used = adapter(&model, 1, None);
    let mut original = conversation(&model);
    original.set_adapters(&[(used.clone(), 0.5)]).expect("sets");
    ask(&mut original, user("What is this?", &[1]));
    original.save(&path).expect("saves");

    let refused = |session: Session, adapters: &[(Arc<Adapter>, f32)], what: &str| {
        let error = resume(&path, session, adapters).expect_err(what);
        assert!(error.to_string().contains(what), "{error}");
        error.kind()
    };
    let load = |name: &str, draft: &mut tiny::Draft, mmproj: Option<&mut tiny::Draft>| {
        let place = folder.path().join(name);
        std::fs::create_dir(&place).expect("a folder");
        let mmproj = mmproj.map(|mmproj| mmproj.write(&place.join("other-mmproj.gguf")));
        let options = ModelOptions { n_threads: 1, text_only: mmproj.is_none(), mmproj, ..ModelOptions::default() };
        Model::load(draft.write(&place.join("model.gguf")), &options).expect("loads")
    };
    let renamed = load("renamed", tiny::model().set("general.name", "another"), None);
    assert_eq!(refused(session(&renamed), &[], ": model: "), ErrorKind::Mismatch);
    let mut mmproj = tiny::mmproj();
    mmproj.seed += 1;
    let other_eyes = load("other-eyes", &mut tiny::model(), Some(&mut mmproj));
    assert_eq!(refused(session(&other_eyes), &[], ": image projector: "), ErrorKind::Mismatch);
    let half = SessionOptions { kv_type: KvType::F16, ..session_options() };
    let half = Session::new(&model, &half).expect("makes a session");
    assert_eq!(
        refused(half, &[(used.clone(), 0.5)], "precision of keys and values: got F16, needed F32"),
        ErrorKind::Mismatch
    );
    let other = adapter(&model, 2, None);
    for adapters in
        [vec![], vec![(used.clone(), 1.0)], vec![(other.clone(), 0.5)], vec![(used.clone(), 0.5), (other, 0.5)]]
    {
        assert_eq!(refused(session(&model), &adapters, ": adapters: "), ErrorKind::Mismatch);
    }
    let short = SessionOptions { n_ctx: 20, ..session_options() };
    let short = Session::new(&model, &short).expect("makes a session");
    assert_eq!(refused(short, &[(used.clone(), 0.5)], "at most 20"), ErrorKind::ContextOverflow);

    // Damaged anywhere, cut anywhere, of a later version, of another kind.
    let bytes = std::fs::read(&path).expect("reads");
    let parsed = |bytes: &[u8]| {
        let path = folder.path().join("damaged.owlet");
        std::fs::write(&path, bytes).expect("writes");
        SavedConversation::open(&path).map(drop).map_err(|error| error.kind())
    };
    for at in (8..bytes.len()).step_by(bytes.len() / 60) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert_eq!(parsed(&damaged), Err(ErrorKind::InvalidFile), "byte {at}");
        assert_eq!(parsed(&bytes[..at]), Err(ErrorKind::InvalidFile), "{at} bytes");
    }
    // A checksum that was made for the damage leaves every other check; none ends the process.
    let content = &bytes[..bytes.len() - 32];
    let mut n_refused = 0;
    for at in (8..content.len()).step_by(content.len() / 200) {
        let mut damaged = content.to_vec();
        damaged[at] ^= 0x11;
        damaged.extend(Sha256::digest(&damaged));
        std::fs::write(&path, &damaged).expect("writes");
        n_refused += usize::from(resume(&path, session(&model), &[(used.clone(), 0.5)]).is_err());
    }
    assert!(n_refused > 5, "{n_refused}");
    // Names its picture so often that no context holds it: refused before any of it is read.
    let header = u64::from_le_bytes(*bytes[8..].first_chunk().expect("a length")) as usize;
    let mut named: serde_json::Value = serde_json::from_slice(&bytes[16..16 + header]).expect("JSON");
    let held = named["held"].as_array_mut().expect("a list");
    held.extend(std::iter::repeat_n(serde_json::json!({ "picture": 0 }), 1_000));
    let named = serde_json::to_vec(&named).expect("JSON");
    let mut endless = bytes[..8].to_vec();
    endless.extend((named.len() as u64).to_le_bytes());
    endless.extend([&named, &content[16 + header..]].concat());
    endless.extend(Sha256::digest(&endless));
    std::fs::write(&path, &endless).expect("writes");
    let error = resume(&path, session(&model), &[(used, 0.5)]).expect_err("too long");
    assert_eq!(error.kind(), ErrorKind::ContextOverflow, "{error}");
    let mut later = bytes.clone();
    later[7] += 1;
    assert_eq!(parsed(&later), Err(ErrorKind::Unsupported));
    assert_eq!(parsed(b""), Err(ErrorKind::InvalidFile));
    let gone = SavedConversation::open(folder.path().join("gone")).expect_err("not there");
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    let nowhere = original.save(folder.path().join("no/folder")).expect_err("cannot be written");
    assert_eq!(nowhere.kind(), ErrorKind::NotFound);
}

#[test]
fn any_number_of_turns_in_a_file_can_be_gone_on_from() {
    let (model, folder) = tiny::load();
    let path = folder.path().join("saved.owlet");
    conversation(&model).save(&path).expect("saves");
    let bytes = std::fs::read(&path).expect("reads");
    let header = String::from_utf8(bytes[16..bytes.len() - 32].to_vec()).expect("JSON");
    let header = header.replace("\"n_turns\":0", &format!("\"n_turns\":{}", u64::MAX));
    let mut patched = [&bytes[..8], &(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    patched.extend(Sha256::digest(&patched));
    std::fs::write(&path, patched).expect("writes");
    let mut last = resume(&path, session(&model), &[]).expect("fits");
    two_turns(&mut last);
    assert_eq!(last.messages().len(), 4);
}
