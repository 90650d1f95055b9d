//! Pictures: decoding, resizing, waiting for the encoder, encoding.

use std::{
    io::Cursor,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use image::{ImageFormat, RgbImage};
use owlet_runtime::{CancelToken, DecodeOptions, EncodedPrompt, ErrorKind, Image, Model, Prompt, Segment, rng::Rng};
use tempfile::TempDir;

use super::{
    A_MOMENT,
    common::tiny::{self, Tower},
    stops_soon,
};

/// Sides of a picture that keeps an encoder busy: 2,304 patches.
const SIDE: u32 = 768;

fn busy_encoder() -> (Model, TempDir) {
    tiny::load_with(&tiny::mmproj_of(Tower { width: 128, n_layers: 12, max_pixels: u64::from(SIDE * SIDE) }))
}

fn noise(side: u32, seed: u64) -> Image {
    let mut rng = Rng::keyed(&[seed]);
    let rgb = (0..side * side * 3).map(|_| rng.next_u64() as u8).collect();
    Image::from_rgb(side, side, rgb).expect("right size")
}

fn prompt(seed: u64) -> Prompt {
    Prompt::user("What?", vec![noise(SIDE, seed)]).expect("no marks")
}

fn embedding(prompt: &EncodedPrompt) -> &[f32] {
    let mut pictures = prompt.segments.iter().filter_map(|segment| match segment {
        Segment::Image(picture) => Some(picture.data.as_slice()),
        Segment::Tokens(_) => None,
    });
    pictures.next_back().expect("one picture")
}

#[test]
fn an_encoder_that_was_stopped_gives_the_same_bits_afterwards() {
    let (model, _folder) = busy_encoder();
    let prompt = prompt(1);
    let fresh = stops_soon("encoder", |cancel| model.encode_until(&prompt, None, cancel));
    let again = model.encode(&prompt).expect("encodes");
    assert!(embedding(&again) == embedding(&fresh), "the embedding moved");
}

#[test]
fn who_waits_for_the_encoder_can_be_stopped_while_it_works_for_another() {
    let (model, _folder) = busy_encoder();
    let (prompt, is_done) = (prompt(2), AtomicBool::new(false));
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            let encoded = model.encode(&prompt);
            is_done.store(true, Ordering::Relaxed);
            encoded
        });
        thread::sleep(A_MOMENT);
        let waiting = model.encode_until(&prompt, None, &CancelToken::after(A_MOMENT));
        assert!(!is_done.load(Ordering::Relaxed), "the other one is at work");
        assert_eq!(waiting.expect_err("cancelled").kind(), ErrorKind::Cancelled);
        assert!(other.join().expect("no panic").is_ok(), "and not disturbed");
    });
}

#[test]
fn decoding_and_resizing_stop() {
    let noise = noise(3000, 3);
    let pixels = RgbImage::from_raw(3000, 3000, noise.rgb().to_vec()).expect("right size");
    let mut png = Cursor::new(Vec::new());
    pixels.write_to(&mut png, ImageFormat::Png).expect("writes");
    let decoded =
        stops_soon("PNG", |cancel| Image::from_encoded_until(png.get_ref(), &DecodeOptions::default(), cancel));
    assert!(decoded == noise);

    let (model, _folder) = tiny::load();
    let budget = owlet_runtime::ImageBudget { max_pixels: 8 << 20, ..model.image_budget().expect("sees") };
    let resized = stops_soon("resize", |cancel| noise.resize_until(&budget, cancel));
    assert!(resized == noise.resize_for(&budget).expect("resizes"));
    // Formats that are read before they are decoded are looked at before and after.
    let cancelled = CancelToken::new();
    cancelled.cancel();
    for format in [ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Bmp] {
        let mut bytes = Cursor::new(Vec::new());
        RgbImage::new(8, 8).write_to(&mut bytes, format).expect("writes");
        let decode = |cancel| Image::from_encoded_until(bytes.get_ref(), &DecodeOptions::default(), cancel);
        assert_eq!(decode(&cancelled).expect_err("cancelled").kind(), ErrorKind::Cancelled, "{format:?}");
        assert!(decode(&CancelToken::new()).is_ok(), "{format:?}");
    }
}
