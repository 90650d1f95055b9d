//! Cut and damaged picture files of every format: an error or a picture, never a panic, and never more memory than allowed.

use owlet_runtime::{DecodeOptions, ErrorKind, Image, ImageLimits, rng::Rng};

use crate::formats::picture;

const FILES: [&str; 10] = [
    "baseline.jpg",
    "progressive.jpg",
    "cmyk.jpg",
    "palette_transparent.png",
    "rgba.png",
    "lossy.webp",
    "animated.webp",
    "animated.gif",
    "rgb.bmp",
    "palette.bmp",
];

/// Damage per file; more by `OWLET_DAMAGED_CASES`.
const N_CASES: usize = 200;

/// Tries `bytes`; whatever comes of it obeys the limits and has a reason that callers can branch on.
fn attempt(bytes: &[u8], name: &str) -> Result<Image, ErrorKind> {
    let limits = ImageLimits { max_pixels: 1 << 20, max_decoded_bytes: 1 << 22, ..ImageLimits::default() };
    match Image::from_encoded_with(bytes, &DecodeOptions { limits, ..DecodeOptions::default() }) {
        Ok(image) => {
            assert!(u64::from(image.width()) * u64::from(image.height()) <= limits.max_pixels, "{name}");
            Ok(image)
        }
        Err(error) => {
            let expected = [ErrorKind::InvalidFile, ErrorKind::Unsupported, ErrorKind::Limit];
            assert!(expected.contains(&error.kind()), "{name}: {error}");
            Err(error.kind())
        }
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    for name in FILES {
        let whole = std::fs::read(picture(name)).expect("reads");
        // The first frame of an animation ends before the file; GIF needs no trailer.
        let is_animated = name.starts_with("animated");
        let n_needed = match name {
            _ if is_animated => whole.len() / 3,
            _ => whole.len(),
        };
        for n_bytes in (0..n_needed).step_by(7) {
            let cut = attempt(&whole[..n_bytes], name);
            // PNG's last chunk and padding of BMP and WebP carry nothing: a picture without them is whole.
            assert!(cut.is_err() || n_bytes + 20 > whole.len(), "{name} cut at {n_bytes} of {}", whole.len());
        }
    }
}

#[test]
fn damaged_files_never_panic() {
    let n_cases = std::env::var("OWLET_DAMAGED_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(N_CASES);
    for (index, name) in FILES.into_iter().enumerate() {
        let whole = std::fs::read(picture(name)).expect("reads");
        let mut n_refused = 0;
        for case in 0..n_cases {
            let mut rng = Rng::keyed(&[index as u64, case as u64]);
            let mut below = |n: usize| (rng.uniform() * n as f64) as usize;
            let mut bytes = whole.clone();
            // A bit, a few bytes, a run that is missing, a run twice; the header is hit as often as all the rest.
            let n_changed = if below(2) == 0 { bytes.len().min(64) } else { bytes.len() };
            let at = below(n_changed);
            match below(4) {
                0 => bytes[at] ^= 1 << below(8),
                1 => (0..1 + below(8)).for_each(|_| bytes[below(n_changed)] = below(256) as u8),
                2 => drop(bytes.drain(at..(at + 1 + below(16)).min(whole.len()))),
                _ => bytes.splice(at..at, whole[at..(at + 1 + below(16)).min(whole.len())].to_vec()).for_each(drop),
            }
            n_refused += usize::from(attempt(&bytes, name).is_err());
        }
        // The damage is felt: a test whose files all decode would show nothing.
        assert!(n_refused > n_cases / 20, "{name}: {n_refused} of {n_cases} refused");
    }
}

#[test]
fn headers_that_claim_too_much_are_refused_before_the_memory_is_taken() {
    // 60,000 x 60,000 pixels in the size fields of each format.
    let large = 60_000u16;
    let mut cases = Vec::new();
    let mut gif = std::fs::read(picture("palette.gif")).expect("reads");
    gif[6..10].copy_from_slice(&[large.to_le_bytes(), large.to_le_bytes()].concat());
    cases.push(("gif", gif));
    let mut bmp = std::fs::read(picture("rgb.bmp")).expect("reads");
    bmp[18..26].copy_from_slice(&[u32::from(large).to_le_bytes(), u32::from(large).to_le_bytes()].concat());
    cases.push(("bmp", bmp));
    for name in ["baseline.jpg", "progressive.jpg"] {
        let mut jpeg = std::fs::read(picture(name)).expect("reads");
        let frame = jpeg.windows(2).position(|pair| pair[0] == 0xff && matches!(pair[1], 0xc0 | 0xc2));
        let frame = frame.expect("a JPEG file has a frame");
        jpeg[frame + 5..frame + 9].copy_from_slice(&[large.to_be_bytes(), large.to_be_bytes()].concat());
        cases.push((name, jpeg));
    }
    for (name, bytes) in cases {
        let error = Image::from_encoded(&bytes).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Limit, "{name}: {error}");
    }
}

#[test]
fn metadata_that_claim_more_than_their_file_are_refused_before_the_memory_is_taken() {
    let pixels = std::fs::read(picture("lossless.webp")).expect("reads");
    let (width, height) = Image::probe(picture("lossless.webp")).expect("a good file");
    let chunk = |name: &[u8; 4], claimed: u32, data: &[u8]| [name, &claimed.to_le_bytes()[..], data].concat();
    let size = [width - 1, height - 1].map(|side| side.to_le_bytes());
    let canvas = [&[0x08 /* EXIF */, 0, 0, 0], &size[0][..3], &size[1][..3]].concat();
    let file = |exif: Vec<u8>| {
        let chunks = [&b"WEBP"[..], &chunk(b"VP8X", 10, &canvas), &pixels[12..], &exif].concat();
        chunk(b"RIFF", chunks.len() as u32, &chunks)
    };
    Image::from_encoded(&file(chunk(b"EXIF", 2, b"II"))).expect("nonsense is no orientation");
    let folder = tempfile::tempdir().expect("a folder");
    for claimed in [3, 1 << 20, 0xffff_fffe] {
        let bytes = file(chunk(b"EXIF", claimed, b"II"));
        let path = folder.path().join("a.webp");
        std::fs::write(&path, &bytes).expect("writes");
        for error in [Image::from_encoded(&bytes).err(), Image::probe(&path).err()] {
            let error = error.unwrap_or_else(|| panic!("{claimed} bytes"));
            assert_eq!(error.kind(), ErrorKind::InvalidFile, "{error}");
            assert!(error.to_string().contains("cut short"), "{error}");
        }
    }
}
