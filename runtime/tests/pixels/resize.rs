//! Pictures reach the model with the very bytes and sizes that Hugging Face's processor gives them.

use owlet_runtime::{ErrorKind, Image, ImageBudget, rng::Rng};
use proptest::prelude::*;

use crate::common::golden;

#[test]
fn resized_pictures_equal_those_of_hugging_face_byte_for_byte() {
    let Some(folder) = golden::shared("preprocess") else { return };
    let table = golden::json(&folder.join("preprocess.json"));
    let factor = table["factor"].as_u64().expect("a number") as u32;
    let cases = table["images"].as_array().expect("a list");
    assert!(!cases.is_empty());
    for case in cases {
        let number = |key: &str| case[key].as_u64().expect("a number");
        let file = |key: &str| folder.parent().expect("has a parent").join(case[key].as_str().expect("a path"));
        let budget = ImageBudget { factor, min_pixels: number("min_pixels"), max_pixels: number("max_pixels") };
        let source = Image::open(file("image")).expect("opens");
        let resized = source.resize_for(&budget).expect("resizes");
        let size = (u64::from(resized.width()), u64::from(resized.height()));
        assert_eq!(size, (number("resized_width"), number("resized_height")), "{case}");
        let expected = Image::open(file("resized_rgb_png")).expect("opens");
        assert!(resized.rgb() == expected.rgb(), "{case}");
        let n_tokens = budget.tokens_for(source.width(), source.height()).expect("fits");
        assert_eq!(n_tokens as u64, number("n_image_tokens"), "{case}");
    }
}

#[test]
fn sizes_equal_those_of_smart_resize() {
    let Some(folder) = golden::shared("preprocess") else { return };
    let table = golden::json(&folder.join("preprocess.json"));
    let factor = table["factor"].as_u64().expect("a number") as u32;
    for row in table["smart_resize"].as_array().expect("a list") {
        let number = |column: usize| row[column].as_u64();
        let [height, width, min_pixels, max_pixels] = [0, 1, 2, 3].map(|column| number(column).expect("a number"));
        let budget = ImageBudget { factor, min_pixels, max_pixels };
        let size = budget.size_for(width as u32, height as u32).ok();
        let expected = number(4).zip(number(5)).map(|(h, w)| (w as u32, h as u32));
        assert_eq!(size, expected, "{row}");
    }
}

/// `smart_resize` of Qwen2-VL's processor in Hugging Face transformers, restated line by line in whole numbers where Python
/// has them; `None` where it raises.
fn smart_resize(height: u64, width: u64, factor: u64, min_pixels: u64, max_pixels: u64) -> Option<(u64, u64)> {
    if height.max(width) as f64 / height.min(width) as f64 > 200.0 {
        return None;
    }
    // Python's `round`: a half goes to the even neighbour.
    let round = |side: u64| match (side / factor, 2 * (side % factor)) {
        (whole, twice) if twice > factor || (twice == factor && whole % 2 == 1) => whole + 1,
        (whole, _) => whole,
    };
    let (h_bar, w_bar) = (round(height) * factor, round(width) * factor);
    let (h, w, f) = (height as f64, width as f64, factor as f64);
    if h_bar * w_bar > max_pixels {
        let beta = ((height * width) as f64 / max_pixels as f64).sqrt();
        let reduced = |side: f64| factor.max((side / beta / f).floor() as u64 * factor);
        return Some((reduced(h), reduced(w)));
    }
    if h_bar * w_bar < min_pixels {
        let beta = (min_pixels as f64 / (height * width) as f64).sqrt();
        let enlarged = |side: f64| (side * beta / f).ceil() as u64 * factor;
        return Some((enlarged(h), enlarged(w)));
    }
    Some((h_bar, w_bar))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sizes_equal_the_formula(
        // As many small pictures as large ones, and halves of a factor more often than chance has them.
        (width, height) in prop_oneof![
            (1u32..40, 1u32..40),
            (1u32..5000, 1u32..5000),
            (1u32..=400, 1u32..=400).prop_map(|(w, h)| (w * 14, h * 16)),
            (1u32..=65_535, 1u32..=65_535),
        ],
        factor in prop_oneof![Just(28u32), Just(32)],
        min_tokens in 1u64..2000,
        more_tokens in 0u64..16_384,
    ) {
        let token = u64::from(factor).pow(2);
        let (min_pixels, max_pixels) = (min_tokens * token, (min_tokens + more_tokens) * token);
        let budget = ImageBudget { factor, min_pixels, max_pixels };
        let expected = smart_resize(height.into(), width.into(), factor.into(), min_pixels, max_pixels);
        let got = budget.size_for(width, height).ok().map(|(w, h)| (h.into(), w.into()));
        prop_assert_eq!(got, expected);
    }
}

#[test]
fn sides_too_different_are_refused_as_qwen_does() {
    let budget = ImageBudget { factor: 32, min_pixels: 65_536, max_pixels: 16_777_216 };
    for (width, height, is_good) in [(200, 1, true), (201, 1, false), (1, 200, true), (2, 401, false), (4000, 20, true)]
    {
        let size = budget.size_for(width, height);
        assert_eq!(size.is_ok(), is_good, "{width}x{height}");
        if let Err(error) = size {
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        }
    }
    // Smaller than a patch: enlarged.
    assert_eq!(budget.size_for(1, 1).expect("a square"), (256, 256));
    let image = Image::from_rgb(1, 1, vec![10, 20, 30]).expect("one pixel");
    let resized = image.resize_for(&budget).expect("a square");
    assert!(resized.rgb().chunks(3).all(|pixel| pixel == [10, 20, 30]));
    let huge = ImageBudget { factor: 32, min_pixels: u64::MAX, max_pixels: u64::MAX };
    assert_eq!(huge.size_for(200, 1).expect_err("too large").kind(), ErrorKind::Limit);
}

/// The same two passes with one pixel at a time, in 64 bits, from the description in the reference's README.
fn plain_resize(image: &Image, width: usize, height: usize) -> Vec<u8> {
    let (old_w, old_h) = (image.width() as usize, image.height() as usize);
    let at =
        |rgb: &[u8], row: usize, index: usize, width: usize, channel: usize| rgb[(row * width + index) * 3 + channel];
    let mut narrow = image.rgb().to_vec();
    if width != old_w {
        let weights = plain_weights(old_w, width);
        narrow = (0..old_h * width * 3)
            .map(|i| weights.sum(i / 3 % width, |k| at(image.rgb(), i / 3 / width, k, old_w, i % 3)))
            .collect();
    }
    if height == old_h {
        return narrow;
    }
    let weights = plain_weights(old_h, height);
    let sum = |i: usize| weights.sum(i / 3 / width, |k| at(&narrow, k, i / 3 % width, width, i % 3));
    (0..height * width * 3).map(sum).collect()
}

/// Weights of every input for every output.
struct PlainWeights {
    rows: Vec<Vec<i64>>,
    precision: u32,
}

impl PlainWeights {
    fn sum(&self, output: usize, input: impl Fn(usize) -> u8) -> u8 {
        let products = self.rows[output].iter().enumerate().filter(|(_, weight)| **weight != 0);
        let sum: i64 = products.map(|(k, weight)| weight * i64::from(input(k))).sum();
        ((sum + (1 << (self.precision - 1))) >> self.precision).clamp(0, 255) as u8
    }
}

fn plain_weights(n_in: usize, n_out: usize) -> PlainWeights {
    let scale = n_in as f64 / n_out as f64;
    let widening = scale.max(1.0);
    let keys = |x: f64| match x.abs() {
        x if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5,
        _ => 0.0,
    };
    let real: Vec<Vec<f64>> = (0..n_out)
        .map(|output| {
            let center = scale * (output as f64 + 0.5);
            let row: Vec<f64> = (0..n_in).map(|k| keys((k as f64 - center + 0.5) / widening)).collect();
            let total: f64 = row.iter().sum();
            row.iter().map(|weight| weight / total).collect()
        })
        .collect();
    let largest = real.iter().flatten().copied().fold(0.0, f64::max);
    let fits = |precision: &u32| (largest * f64::from(2u32 << precision)).round() < 32768.0;
    let precision = (0..=22).find(|precision| !fits(precision)).unwrap_or(22);
    let fixed = |weight: &f64| (weight * f64::from(1u32 << precision)).round() as i64;
    PlainWeights { rows: real.iter().map(|row| row.iter().map(fixed).collect()).collect(), precision }
}

#[test]
fn resized_pictures_equal_those_of_plain_loops() {
    let mut rng = Rng::keyed(&[7]);
    let mut side = |most: u32| 1 + (rng.uniform() * f64::from(most)) as u32;
    let mut noise = Rng::keyed(&[8]);
    for case in 0..60 {
        // Rows in whole and broken groups of 16, columns in whole and broken groups of 8 and of 32 bytes; both ways.
        let (width, height, new_width, new_height) = (side(70), side(70), side(70), side(70));
        let extreme = case % 2 == 0;
        let rgb = (0..width * height * 3).map(|_| match noise.uniform() {
            share if extreme => {
                if share < 0.5 {
                    0
                } else {
                    255
                }
            }
            share => (share * 256.0) as u8,
        });
        let image = Image::from_rgb(width, height, rgb.collect()).expect("right size");
        let resized = image.resize(new_width, new_height);
        let expected = plain_resize(&image, new_width as usize, new_height as usize);
        assert!(resized.rgb() == expected, "{width}x{height} to {new_width}x{new_height}");
    }
}
