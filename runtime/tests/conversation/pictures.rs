//! The cache of pictures, in memory and on disk.

use std::sync::Arc;

use owlet_runtime::{ImageBudget, ImageCache};

use super::{common::tiny, picture};

#[test]
fn pictures_are_kept_on_disk_and_damaged_files_are_encoded_again() {
    let (model, _folder) = tiny::load();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("pictures");
    let budget = model.image_budget().expect("sees");
    let open = || ImageCache::new(1 << 20).with_folder(&path).expect("makes the folder");
    let counts = |cache: &ImageCache| {
        let stats = cache.stats();
        (stats.n_found, stats.n_loaded, stats.n_encoded)
    };
    let cache = open();
    let embedding = cache.embed(&model, &picture(1), &budget).expect("encodes");
    assert!(Arc::ptr_eq(&embedding, &cache.embed(&model, &picture(1), &budget).expect("finds")));
    cache.embed(&model, &picture(2), &budget).expect("encodes");
    let larger = ImageBudget { min_pixels: 4 * 96 * 64, max_pixels: 16 * 96 * 64, ..budget };
    assert!(cache.embed(&model, &picture(1), &larger).expect("encodes").n_tokens > embedding.n_tokens);
    assert_eq!(counts(&cache), (1, 0, 3));
    assert!(cache.n_bytes() >= size_of_val(embedding.data.as_slice()));

    let cache = open();
    assert_eq!(*cache.embed(&model, &picture(1), &budget).expect("loads"), *embedding);
    assert_eq!(counts(&cache), (0, 1, 0));
    for entry in std::fs::read_dir(&path).expect("a folder") {
        let path = entry.expect("a file").path();
        let mut bytes = std::fs::read(&path).expect("reads");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, &bytes).expect("writes");
    }
    let cache = open();
    assert_eq!(cache.embed(&model, &picture(1), &budget).expect("encodes").data, embedding.data);
    assert_eq!(counts(&cache), (0, 0, 1));
    // The damaged file was replaced; one without room in memory is read every time.
    let cache = ImageCache::new(10).with_folder(&path).expect("makes the folder");
    for _ in 0..2 {
        cache.embed(&model, &picture(1), &budget).expect("loads");
    }
    assert_eq!((counts(&cache), cache.n_bytes()), ((0, 2, 0), 0));
}
