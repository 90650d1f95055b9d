//! Formats, orientation, limits. The resize is checked against Hugging Face in `tests/pixels.rs`.

use std::io::Cursor;

use image::{ImageFormat, RgbImage};

use super::{DecodeOptions, Image, ImageBudget, ImageLimits};
use crate::ErrorKind;

#[test]
fn contradictory_budgets_are_refused() {
    let good = ImageBudget { factor: 32, min_pixels: 1024, max_pixels: 4096 };
    for bad in [
        ImageBudget { factor: 0, ..good },
        ImageBudget { min_pixels: 0, ..good },
        ImageBudget { min_pixels: 8192, ..good },
        ImageBudget { max_pixels: 1023, min_pixels: 1, ..good },
    ] {
        assert_eq!(bad.size_for(64, 64).expect_err("refused").kind(), ErrorKind::InvalidInput, "{bad:?}");
    }
    assert_eq!(good.size_for(0, 64).expect_err("refused").kind(), ErrorKind::InvalidInput);
}

fn encode(image: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).expect("encodes");
    bytes.into_inner()
}

fn gradient() -> RgbImage {
    RgbImage::from_fn(8, 6, |x, y| image::Rgb([x as u8 * 30, y as u8 * 40, 90]))
}

#[test]
fn every_format_is_decoded() {
    let source = gradient();
    for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Gif] {
        let image = Image::from_encoded(&encode(&source, format)).unwrap_or_else(|error| panic!("{format:?}: {error}"));
        assert_eq!((image.width(), image.height()), (8, 6));
        if !matches!(format, ImageFormat::Jpeg | ImageFormat::Gif) {
            assert_eq!(image.rgb(), source.as_raw().as_slice(), "{format:?}");
        }
    }
}

#[test]
fn the_exif_orientation_is_applied() {
    // An EXIF block with the one entry orientation = 6 (turn right), big endian, put behind the start of a JPEG.
    let exif: &[u8] = b"\xff\xe1\x00\x22Exif\0\0MM\x00\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let mut jpeg = encode(&gradient(), ImageFormat::Jpeg);
    jpeg.splice(2..2, exif.iter().copied());
    let image = Image::from_encoded(&jpeg).expect("decodes");
    assert_eq!((image.width(), image.height()), (6, 8));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("turned.jpg");
    std::fs::write(&path, jpeg).expect("a writable folder");
    assert_eq!(Image::probe(path).expect("a picture"), (6, 8));
}

/// The same PNG with a header that claims another size, and a checksum that fits the claim.
fn claiming(png: &[u8], width: u32, height: u32) -> Vec<u8> {
    let mut bytes = png.to_vec();
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let checksum = !bytes[12..29].iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    });
    bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

#[test]
fn bad_files_are_refused_with_a_reason() {
    let png = encode(&gradient(), ImageFormat::Png);
    struct Case {
        name: &'static str,
        bytes: Vec<u8>,
        kind: ErrorKind,
        says: &'static str,
    }
    let cases = [
        Case { name: "empty", bytes: vec![], kind: ErrorKind::InvalidFile, says: "not a picture" },
        Case { name: "text", bytes: b"not a picture at all".to_vec(), kind: ErrorKind::InvalidFile, says: "PNG, JPEG" },
        Case { name: "cut", bytes: png[..png.len() / 2].to_vec(), kind: ErrorKind::InvalidFile, says: "decode" },
        Case {
            name: "100 megapixels",
            bytes: claiming(&png, 10_000, 10_000),
            kind: ErrorKind::Limit,
            says: "got 10000x10000 pixels, needed at most 67108864 pixels",
        },
    ];
    for Case { name, bytes, kind, says } in cases {
        let error = Image::from_encoded(&bytes).expect_err(name);
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert!(error.to_string().contains(says), "{name}: {error}");
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, bytes, expected) in [
        ("good.png", png.clone(), Ok((8, 6))),
        ("cut.png", png[..png.len() / 2].to_vec(), Ok((8, 6))),
        ("text.png", b"not a picture at all".to_vec(), Err(ErrorKind::InvalidFile)),
        ("huge.png", claiming(&png, 10_000, 10_000), Err(ErrorKind::Limit)),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("a writable folder");
        let probed = Image::probe(&path);
        assert!(probed.as_ref().err().is_none_or(|error| error.to_string().contains(name)), "{probed:?}");
        assert_eq!(probed.map_err(|error| error.kind()), expected, "{name}");
    }
    assert_eq!(Image::probe("no/such/picture.png").expect_err("missing").kind(), ErrorKind::NotFound);
    let missing = Image::open("no/such/picture.png").expect_err("missing");
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.to_string().contains("no/such/picture.png"), "{missing}");
    for tight in [
        ImageLimits { max_pixels: 47, ..ImageLimits::default() },
        ImageLimits { max_decoded_bytes: 3 * 48 - 1, ..ImageLimits::default() },
    ] {
        let options = DecodeOptions { limits: tight, ..DecodeOptions::default() };
        assert_eq!(Image::from_encoded_with(&png, &options).expect_err("48 pixels").kind(), ErrorKind::Limit);
    }
    assert_eq!(Image::from_rgb(2, 2, vec![0; 11]).expect_err("short").kind(), ErrorKind::InvalidInput);
}

#[test]
fn only_regular_files_are_read() {
    let directory = tempfile::tempdir().expect("creates");
    let mut places = vec![directory.path().to_owned()];
    if cfg!(unix) {
        places.push("/dev/zero".into());
    }
    for place in places {
        let error = Image::open(&place).expect_err("no end");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
}

#[test]
fn limits_at_the_end_of_their_range_do_not_overflow() {
    let limits = ImageLimits { max_pixels: u64::MAX, max_file_bytes: u64::MAX, max_decoded_bytes: u64::MAX };
    let options = DecodeOptions { limits, ..DecodeOptions::default() };
    let error = Image::from_encoded_with(b"text", &options).expect_err("no picture");
    assert_eq!(error.kind(), ErrorKind::InvalidFile);
}
