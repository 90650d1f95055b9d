//! The cache of pictures, in memory and on disk.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use owlet_runtime::{CancelToken, ErrorKind, ImageBudget, ImageCache, Prompt};

use super::{common::tiny, picture, user};

#[test]
fn pictures_are_kept_on_disk_and_damaged_files_are_encoded_again() {
    let (model, _folder) = tiny::load();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("pictures");
    let budget = model.image_budget().expect("sees");
    let open = || ImageCache::new(1 << 20).with_folder(&path, 1 << 20).expect("makes the folder");
    let never = CancelToken::new();
    let counts = |cache: &ImageCache| {
        let stats = cache.stats();
        (stats.n_found, stats.n_loaded, stats.n_encoded)
    };
    let cache = open();
    let embedding = cache.embed(&model, &picture(1), &budget, &never).expect("encodes");
    assert!(Arc::ptr_eq(&embedding, &cache.embed(&model, &picture(1), &budget, &never).expect("finds")));
    cache.embed(&model, &picture(2), &budget, &never).expect("encodes");
    let larger = ImageBudget { min_pixels: 4 * 96 * 64, max_pixels: 16 * 96 * 64, ..budget };
    assert!(cache.embed(&model, &picture(1), &larger, &never).expect("encodes").n_tokens > embedding.n_tokens);
    assert_eq!(counts(&cache), (1, 0, 3));
    assert!(cache.n_bytes() >= size_of_val(embedding.data.as_slice()));

    let cache = open();
    assert_eq!(*cache.embed(&model, &picture(1), &budget, &never).expect("loads"), *embedding);
    assert_eq!(counts(&cache), (0, 1, 0));
    for entry in std::fs::read_dir(&path).expect("a folder") {
        let path = entry.expect("a file").path();
        let mut bytes = std::fs::read(&path).expect("reads");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, &bytes).expect("writes");
    }
    let cache = open();
    assert_eq!(cache.embed(&model, &picture(1), &budget, &never).expect("encodes").data, embedding.data);
    assert_eq!(counts(&cache), (0, 0, 1));
    // The damaged file was replaced; one without room in memory is read every time.
    let cache = ImageCache::new(10).with_folder(&path, 1 << 20).expect("makes the folder");
    for _ in 0..2 {
        cache.embed(&model, &picture(1), &budget, &never).expect("loads");
    }
    assert_eq!((counts(&cache), cache.n_bytes()), ((0, 2, 0), 0));
}

#[test]
fn the_folder_keeps_to_its_limit_and_to_its_own_files() {
    let (model, _folder) = tiny::load();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let never = CancelToken::new();
    let budget = model.image_budget().expect("sees");
    let open = |max_bytes: u64| ImageCache::new(10).with_folder(folder.path(), max_bytes).expect("makes the folder");
    let names = || {
        let entries = std::fs::read_dir(folder.path()).expect("a folder");
        let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text"));
        names.collect::<std::collections::BTreeSet<_>>()
    };
    let write = |name: &str, age: Duration| {
        let file = std::fs::File::create(folder.path().join(name)).expect("a writable folder");
        file.set_modified(SystemTime::now() - age).expect("a time");
    };
    // Of nobody, of a writer that was killed, of one at work.
    let (day, others) = (Duration::from_secs(86_400), ["notes.txt", "ab.embedding", ".owlet-new.part"]);
    others.into_iter().for_each(|name| write(name, Duration::ZERO));
    write(".owlet-old.part", 2 * day);

    // Which file is which: each picture's appears when it is encoded. Times are a tick apart.
    let cache = open(1 << 20);
    let mut files = Vec::new();
    for index in 1..=3 {
        let before = names();
        cache.embed(&model, &picture(index), &budget, &never).expect("encodes");
        files.extend(names().difference(&before).cloned());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(files.len(), 3);
    let length = std::fs::metadata(folder.path().join(&files[0])).expect("a file").len();
    cache.embed(&model, &picture(1), &budget, &never).expect("loads, and is the newest now");
    std::thread::sleep(Duration::from_millis(20));
    // Another process with a lower limit: room for three, so the least recently used goes.
    let other = open(3 * length);
    other.embed(&model, &picture(4), &budget, &never).expect("encodes");
    let kept = names();
    let is_kept: Vec<bool> = files.iter().map(|name| kept.contains(name)).collect();
    assert_eq!(is_kept, [true, false, true]);
    assert!(others.iter().all(|name| kept.contains(*name)) && kept.len() == 6, "{kept:?}");
    // The first one does not mind that its file is gone.
    cache.embed(&model, &picture(2), &budget, &never).expect("encodes again");
    assert_eq!(cache.stats().n_encoded, 4);

    // What does not fit at all is not written, and what fits alone stays alone.
    let before = names();
    open(length - 1).embed(&model, &picture(5), &budget, &never).expect("encodes");
    assert_eq!(names(), before);
    open(length).embed(&model, &picture(5), &budget, &never).expect("encodes");
    assert_eq!(names().len(), others.len() + 1);
}

#[test]
fn a_budget_of_another_model_is_refused_before_the_work() {
    let (model, _folder) = tiny::load();
    let own = model.image_budget().expect("sees");
    // A token of 65,536 pixels a side would be 13 GB.
    let other = ImageBudget { factor: 65_536, min_pixels: 1, max_pixels: 1 << 33 };
    let prompt = Prompt { messages: vec![user("What?", &[1])], ..Prompt::default() };
    let cache = ImageCache::new(1 << 20);
    let errors = [
        model.encode_with(&prompt, other).map(drop),
        cache.embed(&model, &picture(1), &other, &CancelToken::new()).map(drop),
    ];
    for error in errors.map(|result| result.expect_err("refused")) {
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains(&format!("got 65536, needed {}", own.factor)), "{error}");
    }
}
