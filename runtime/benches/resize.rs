//! Milliseconds to resize a 12-megapixel photo on one core, beside the bicubic of the `image` and the `fast_image_resize` crates
//! in the same run, and the share of bytes that are not ours in theirs: ours are those of Hugging Face's processor.
//!
//! `cargo bench --profile dev -p owlet-runtime --bench resize` prints a line for each target size. Rounds of all take turns,
//! and the best of each counts. The pixels are those of a photo in size only: the work does not depend on their values.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program that prints and may stop")]

use std::{hint::black_box, time::Instant};

use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer, images};
use image::{RgbImage, imageops};
use owlet_runtime::{Image, ImageBudget, rng::Rng};

const N_ROUNDS: usize = 5;
const WIDTH: u32 = 4000;
const HEIGHT: u32 = 3000;

fn main() {
    let mut rng = Rng::keyed(&[1]);
    let rgb: Vec<u8> = (0..WIDTH * HEIGHT * 3).map(|_| (rng.uniform() * 256.0) as u8).collect();
    let photo = Image::from_rgb(WIDTH, HEIGHT, rgb.clone()).unwrap();
    let theirs = RgbImage::from_raw(WIDTH, HEIGHT, rgb.clone()).unwrap();
    let source = images::Image::from_vec_u8(WIDTH, HEIGHT, rgb, PixelType::U8x3).unwrap();
    let bicubic = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
    let mut resizer = Resizer::new();
    for max_tokens in [256, 1024, 4096, 16_384] {
        let budget = ImageBudget { factor: 32, min_pixels: 65_536, max_pixels: max_tokens * 1024 };
        let (width, height) = budget.size_for(WIDTH, HEIGHT).unwrap();
        let mut best = [f64::INFINITY; 3];
        for _ in 0..N_ROUNDS {
            let start = Instant::now();
            black_box(photo.resize_for(&budget).unwrap());
            best[0] = best[0].min(start.elapsed().as_secs_f64() * 1e3);
            let start = Instant::now();
            black_box(imageops::resize(&theirs, width, height, imageops::FilterType::CatmullRom));
            best[1] = best[1].min(start.elapsed().as_secs_f64() * 1e3);
            let start = Instant::now();
            let mut target = images::Image::new(width, height, PixelType::U8x3);
            resizer.resize(&source, &mut target, &bicubic).unwrap();
            black_box(&target);
            best[2] = best[2].min(start.elapsed().as_secs_f64() * 1e3);
        }
        let right = photo.resize(width, height);
        let image_bytes = imageops::resize(&theirs, width, height, imageops::FilterType::CatmullRom).into_raw();
        let mut fast_bytes = images::Image::new(width, height, PixelType::U8x3);
        resizer.resize(&source, &mut fast_bytes, &bicubic).unwrap();
        let [others, of_fast] = [&image_bytes[..], fast_bytes.buffer()].map(|bytes| {
            let n_other = bytes.iter().zip(right.rgb()).filter(|(a, b)| a != b).count();
            100.0 * n_other as f64 / bytes.len() as f64
        });
        let [ours, image, fast] = best;
        println!(
            "{WIDTH}x{HEIGHT} to {width}x{height} ({max_tokens} tokens at most): {ours:.1} ms, image crate {image:.1} ms \
             (ratio {:.2}, {others:.1} % other bytes), fast_image_resize {fast:.1} ms (ratio {:.2}, {of_fast:.1} %)",
            image / ours,
            fast / ours
        );
    }
}
