//! Bicubic resize with antialias in fixed point, to the bit what torchvision computes for `uint8`.
//!
//! Two passes, horizontal then vertical, rounded to bytes in between. The filter is Keys' cubic with a = -0.5, widened
//! by the scale when shrinking. Its normalised weights become 16-bit integers of the largest precision at which the
//! biggest weight of the axis still fits; every pixel is then a sum of integer products, so the result does not depend
//! on the order of summation, the compiler or the processor.

use std::ops::Range;

use super::Image;

/// Keys' cubic reaches two pixels to either side.
const RADIUS: f64 = 2.0;
/// More bits than this would overflow the 32-bit sums.
const MAX_PRECISION: u32 = 22;

/// The weights of one axis.
struct Axis {
    /// Per output position: which inputs count, and where their weights start in `weights`.
    taps: Vec<(Range<usize>, usize)>,
    weights: Vec<i16>,
    /// Bits behind the binary point of a weight.
    precision: u32,
}

pub(super) fn bicubic(image: &Image, width: u32, height: u32) -> Image {
    let narrow = match width == image.width {
        true => None,
        false => Some(resize_rows(image, width)),
    };
    let image = narrow.as_ref().unwrap_or(image);
    if height == image.height { image.clone() } else { resize_columns(image, height) }
}

fn resize_rows(image: &Image, width: u32) -> Image {
    let axis = Axis::new(image.width as usize, width as usize);
    let mut rgb = Vec::with_capacity(width as usize * image.height as usize * 3);
    for row in image.rgb.chunks_exact(image.width as usize * 3) {
        for (inputs, first) in &axis.taps {
            let weights = &axis.weights[*first..first + inputs.len()];
            let mut sums = [axis.half(); 3];
            for (pixel, &weight) in row[inputs.start * 3..inputs.end * 3].chunks_exact(3).zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(value) * i32::from(weight);
                }
            }
            rgb.extend(sums.map(|sum| axis.to_byte(sum)));
        }
    }
    Image { width, height: image.height, rgb }
}

fn resize_columns(image: &Image, height: u32) -> Image {
    let axis = Axis::new(image.height as usize, height as usize);
    let row_bytes = image.width as usize * 3;
    let mut rgb = Vec::with_capacity(row_bytes * height as usize);
    // Whole rows are summed, so memory is read in order and the inner loop vectorises.
    let mut sums = vec![0i32; row_bytes];
    for (inputs, first) in &axis.taps {
        sums.fill(axis.half());
        for (row, &weight) in inputs.clone().zip(&axis.weights[*first..]) {
            let row = &image.rgb[row * row_bytes..][..row_bytes];
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * i32::from(weight);
            }
        }
        rgb.extend(sums.iter().map(|&sum| axis.to_byte(sum)));
    }
    Image { width: image.width, height, rgb }
}

impl Axis {
    fn new(n_in: usize, n_out: usize) -> Self {
        let scale = n_in as f64 / n_out as f64;
        let widening = scale.max(1.0);
        let support = RADIUS * widening;
        let mut taps = Vec::with_capacity(n_out);
        let mut real = Vec::new();
        for position in 0..n_out {
            let center = scale * (position as f64 + 0.5);
            let start = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(n_in);
            let first = real.len();
            real.extend((start..end).map(|input| cubic((input as f64 - center + 0.5) / widening)));
            let total: f64 = real[first..].iter().sum();
            real[first..].iter_mut().for_each(|weight| *weight /= total);
            taps.push((start..end, first));
        }
        let largest = real.iter().copied().fold(0.0, f64::max);
        let fits = |precision: u32| (largest * f64::from(1u32 << (precision + 1)) + 0.5) < f64::from(1u32 << 15);
        let precision = (0..MAX_PRECISION).find(|&precision| !fits(precision)).unwrap_or(MAX_PRECISION);
        let unit = f64::from(1u32 << precision);
        // Rounds halves away from zero.
        let weights = real.iter().map(|&weight| (weight * unit).round() as i16).collect();
        Self { taps, weights, precision }
    }

    /// One half, so that the shift rounds.
    fn half(&self) -> i32 {
        1 << (self.precision - 1)
    }

    fn to_byte(&self, sum: i32) -> u8 {
        (sum >> self.precision).clamp(0, 255) as u8
    }
}

/// Keys' cubic convolution kernel with a = -0.5.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < RADIUS {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}
