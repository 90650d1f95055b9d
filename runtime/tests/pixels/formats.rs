//! Formats, orientations, alpha and raw pixels, against what Pillow made of the same files (`pictures/make.py`).

use std::path::{Path, PathBuf};

use owlet_runtime::{Alpha, DecodeOptions, ErrorKind, Image, Orientation, PixelFormat, RawImage};

pub(crate) fn picture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pixels/pictures").join(name)
}

fn largest_difference(got: &Image, expected: &Image) -> u8 {
    assert_eq!((got.width(), got.height()), (expected.width(), expected.height()));
    got.rgb().iter().zip(expected.rgb()).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0)
}

#[test]
fn every_format_gives_the_pixels_of_pillow() {
    // Lossy formats leave the decoder room: libjpeg and zune-jpeg, libwebp and image-webp round differently.
    for (name, tolerance) in [
        ("baseline.jpg", 3),
        ("subsampled.jpg", 3),
        ("progressive.jpg", 3),
        ("grey.jpg", 1),
        ("cmyk.jpg", 3),
        ("rgb.png", 0),
        ("rgba.png", 0),
        ("palette.png", 0),
        ("palette_transparent.png", 0),
        ("grey.png", 0),
        ("grey_alpha.png", 0),
        ("one_bit.png", 0),
        ("lossless.webp", 0),
        ("lossy.webp", 2),
        ("alpha.webp", 0),
        ("palette.gif", 0),
        ("animated.gif", 0),
        ("animated.webp", 0),
        ("rgb.bmp", 0),
        ("palette.bmp", 0),
    ] {
        let got = Image::open(picture(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = Image::open(picture(&format!("expected/{name}.png"))).expect("opens");
        let difference = largest_difference(&got, &expected);
        assert!(difference <= tolerance, "{name}: {difference}");
    }
}

#[test]
fn transparent_pictures_may_be_laid_over_white() {
    let options = DecodeOptions { alpha: Alpha::OverWhite, ..DecodeOptions::default() };
    let got = Image::open_with(picture("rgba.png"), &options).expect("opens");
    let expected = Image::open(picture("expected/over_white.png")).expect("opens");
    assert_eq!(largest_difference(&got, &expected), 0);
}

#[test]
fn of_16_bits_the_upper_8_count() {
    let folder = tempfile::tempdir().expect("creates");
    let path = folder.path().join("deep.png");
    let samples = [0x00ff, 0x01ff, 0x8000, 0xffff, 0x1234, 0x7f80];
    let grey = image::ImageBuffer::<image::Luma<u16>, _>::from_raw(6, 1, samples.to_vec()).expect("right size");
    grey.save(&path).expect("writes");
    let expected: Vec<u8> = samples.iter().flat_map(|sample| [(sample >> 8) as u8; 3]).collect();
    assert_eq!(Image::open(&path).expect("opens").rgb(), expected);
    let colour = image::ImageBuffer::<image::Rgb<u16>, _>::from_raw(2, 1, samples.to_vec()).expect("right size");
    colour.save(&path).expect("writes");
    assert_eq!(Image::open(&path).expect("opens").rgb(), [0, 1, 0x80, 0xff, 0x12, 0x7f]);
}

/// An EXIF block that holds the orientation alone, little endian.
fn exif(orientation: u8) -> Vec<u8> {
    let mut block = b"II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    block.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    block
}

/// A file of `format` with the EXIF block `exif` in it.
fn with_exif(image: &image::RgbImage, format: image::ImageFormat, exif: Vec<u8>) -> Vec<u8> {
    use image::{ExtendedColorType::Rgb8, ImageEncoder, codecs};
    fn write(mut encoder: impl ImageEncoder, exif: Vec<u8>, image: &image::RgbImage) {
        encoder.set_exif_metadata(exif).expect("has a place for it");
        encoder.write_image(image.as_raw(), image.width(), image.height(), Rgb8).expect("encodes");
    }
    let mut bytes = Vec::new();
    match format {
        image::ImageFormat::Png => write(codecs::png::PngEncoder::new(&mut bytes), exif, image),
        image::ImageFormat::WebP => write(codecs::webp::WebPEncoder::new_lossless(&mut bytes), exif, image),
        _ => write(codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 100), exif, image),
    }
    bytes
}

/// The four quarters of a picture in colours that JPEG keeps apart: top left, top right, bottom left, bottom right.
fn corners(image: &Image) -> [usize; 4] {
    let (w, h) = (image.width() as usize, image.height() as usize);
    let colour = |x: usize, y: usize| {
        let pixel = &image.rgb()[3 * (y * w + x)..][..3];
        pixel.iter().position(|&value| value > 128).unwrap_or(3)
    };
    [colour(2, 2), colour(w - 3, 2), colour(2, h - 3), colour(w - 3, h - 3)]
}

#[test]
fn all_orientations_are_applied_in_every_format_that_has_them() {
    const COLOURS: [[u8; 3]; 4] = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]];
    // 32 x 16 pixels of quarters 0 1 / 2 3.
    let stored = image::RgbImage::from_fn(32, 16, |x, y| image::Rgb(COLOURS[(x / 16 + 2 * (y / 8)) as usize]));
    // As the EXIF specification says where the stored first row and column are when the picture is seen upright.
    let seen = [
        (1, [0, 1, 2, 3]),
        (2, [1, 0, 3, 2]),
        (3, [3, 2, 1, 0]),
        (4, [2, 3, 0, 1]),
        (5, [0, 2, 1, 3]),
        (6, [2, 0, 3, 1]),
        (7, [3, 1, 2, 0]),
        (8, [1, 3, 0, 2]),
    ];
    let folder = tempfile::tempdir().expect("creates");
    for format in [image::ImageFormat::Jpeg, image::ImageFormat::Png, image::ImageFormat::WebP] {
        for (value, expected) in seen {
            let bytes = with_exif(&stored, format, exif(value));
            let image = Image::from_encoded(&bytes).expect("decodes");
            assert_eq!(corners(&image), expected, "{format:?} {value}");
            let size = if value >= 5 { (16, 32) } else { (32, 16) };
            assert_eq!((image.width(), image.height()), size, "{format:?} {value}");
            assert_eq!(Some(image.orientation()), Orientation::from_exif(value), "{format:?}");
            let path = folder.path().join("picture");
            std::fs::write(&path, bytes).expect("writes");
            assert_eq!(Image::probe(&path).expect("a picture"), size, "{format:?} {value}");

            let rgb = stored.as_raw();
            let orientation = Orientation::from_exif(value).expect("in range");
            let raw = RawImage {
                data: rgb,
                width: 32,
                height: 16,
                stride: 96,
                format: PixelFormat::Rgb8,
                is_premultiplied: false,
                orientation,
            };
            assert_eq!(corners(&Image::from_raw(&raw, Alpha::Drop).expect("right size")), expected, "raw {value}");
        }
        // Some writers put JPEG's prefix in the other formats too; values that mean nothing mean upright.
        let prefixed = [b"Exif\0\0".as_slice(), &exif(6)].concat();
        if format != image::ImageFormat::Jpeg {
            let image = Image::from_encoded(&with_exif(&stored, format, prefixed)).expect("decodes");
            assert_eq!(corners(&image), [2, 0, 3, 1], "{format:?}");
        }
        for nonsense in [exif(0), exif(9), b"II\x2a\0\xff\xff\xff\xff".to_vec(), vec![1, 2, 3]] {
            let image = Image::from_encoded(&with_exif(&stored, format, nonsense)).expect("decodes");
            assert_eq!(corners(&image), [0, 1, 2, 3], "{format:?}");
        }
    }
}

fn raw(data: &[u8], format: PixelFormat, stride: usize) -> RawImage<'_> {
    RawImage { data, width: 2, height: 2, stride, format, is_premultiplied: false, orientation: Orientation::Upright }
}

#[test]
fn raw_pixels_of_every_layout_become_the_same_picture() {
    let expected = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    let cases: [(&str, RawImage<'_>); 4] = [
        ("rows without gaps", raw(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], PixelFormat::Rgb8, 6)),
        ("a stride", raw(&[1, 2, 3, 4, 5, 6, 0, 0, 7, 8, 9, 10, 11, 12], PixelFormat::Rgb8, 8)),
        ("rgba", raw(&[1, 2, 3, 0, 4, 5, 6, 9, 7, 8, 9, 99, 10, 11, 12, 255], PixelFormat::Rgba8, 8)),
        ("bgra", raw(&[3, 2, 1, 0, 6, 5, 4, 9, 9, 8, 7, 99, 12, 11, 10, 255], PixelFormat::Bgra8, 8)),
    ];
    for (name, raw) in cases {
        assert_eq!(Image::from_raw(&raw, Alpha::Drop).expect(name).rgb(), expected, "{name}");
    }
    let grey = Image::from_raw(&raw(&[1, 2, 3, 4], PixelFormat::Gray8, 2), Alpha::Drop).expect("right size");
    assert_eq!(grey.rgb(), [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]);
    // Half transparent red, once as it is and once multiplied: the same picture over white, and without alpha.
    let plain = [[200, 0, 0, 128]; 4].concat();
    let multiplied = [[100, 0, 0, 128]; 4].concat();
    for (alpha, expected) in [(Alpha::OverWhite, [227, 127, 127]), (Alpha::Drop, [199, 0, 0])] {
        let plain = Image::from_raw(&raw(&plain, PixelFormat::Rgba8, 8), alpha).expect("right size");
        let premultiplied = RawImage { is_premultiplied: true, ..raw(&multiplied, PixelFormat::Rgba8, 8) };
        let premultiplied = Image::from_raw(&premultiplied, alpha).expect("right size");
        assert!(largest_difference(&plain, &premultiplied) <= 1, "{alpha:?}");
        assert_eq!(premultiplied.rgb()[..3], expected, "{alpha:?}");
    }
    let lost = [[9, 9, 9, 0]; 4].concat();
    let lost = RawImage { is_premultiplied: true, ..raw(&lost, PixelFormat::Rgba8, 8) };
    assert_eq!(Image::from_raw(&lost, Alpha::Drop).expect("right size").rgb(), [0; 12]);
}

#[test]
fn raw_pixels_that_contradict_themselves_are_refused() {
    let data = [0u8; 64];
    let good = raw(&data, PixelFormat::Rgba8, 8);
    let cases = [
        ("no columns", RawImage { width: 0, ..good }, "sides of at least 1"),
        ("no rows", RawImage { height: 0, ..good }, "sides of at least 1"),
        ("short stride", RawImage { stride: 7, ..good }, "at least 8 bytes"),
        ("no stride", RawImage { stride: 0, ..good }, "at least 8 bytes"),
        ("short data", RawImage { data: &data[..15], ..good }, "16 bytes"),
        ("huge", RawImage { width: u32::MAX, height: u32::MAX, stride: usize::MAX, ..good }, "bytes"),
    ];
    for (name, raw, says) in cases {
        let error = Image::from_raw(&raw, Alpha::Drop).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name}");
        assert!(error.to_string().contains(says), "{name}: {error}");
    }
}
