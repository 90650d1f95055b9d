//! Milliseconds to resize a 12-megapixel photo on one core, beside the bicubic of the `image` crate in the same run.
//!
//! `cargo bench --profile dev -p owlet-runtime --bench resize` prints a line for each target size. Rounds of both take turns,
//! and the best of each counts. The pixels are those of a photo in size only: the work does not depend on their values.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program that prints and may stop")]

use std::{hint::black_box, time::Instant};

use image::{RgbImage, imageops};
use owlet_runtime::{Image, ImageBudget, rng::Rng};

const N_ROUNDS: usize = 5;
const WIDTH: u32 = 4000;
const HEIGHT: u32 = 3000;

fn main() {
    let mut rng = Rng::keyed(&[1]);
    let rgb: Vec<u8> = (0..WIDTH * HEIGHT * 3).map(|_| (rng.uniform() * 256.0) as u8).collect();
    let photo = Image::from_rgb(WIDTH, HEIGHT, rgb.clone()).unwrap();
    let theirs = RgbImage::from_raw(WIDTH, HEIGHT, rgb).unwrap();
    for max_tokens in [256, 1024, 4096, 16_384] {
        let budget = ImageBudget { factor: 32, min_pixels: 65_536, max_pixels: max_tokens * 1024 };
        let (width, height) = budget.size_for(WIDTH, HEIGHT).unwrap();
        let mut best = [f64::INFINITY; 2];
        for _ in 0..N_ROUNDS {
            let start = Instant::now();
            black_box(photo.resize_for(&budget).unwrap());
            best[0] = best[0].min(start.elapsed().as_secs_f64() * 1e3);
            let start = Instant::now();
            black_box(imageops::resize(&theirs, width, height, imageops::FilterType::CatmullRom));
            best[1] = best[1].min(start.elapsed().as_secs_f64() * 1e3);
        }
        let [ours, image] = best;
        println!(
            "{WIDTH}x{HEIGHT} to {width}x{height} ({max_tokens} tokens at most): {ours:.1} ms, image crate {image:.1} ms, \
             ratio {:.2}",
            image / ours
        );
    }
}
