//! Bicubic resize with antialias in fixed point, to the bit what torchvision computes for `uint8`.
//!
//! Two passes, horizontal then vertical, rounded to bytes in between. The filter is Keys' cubic with a = -0.5, widened
//! by the scale when shrinking. Its normalised weights become 16-bit integers of the largest precision at which the
//! biggest weight of the axis still fits; every pixel is then a sum of integer products, so the result does not depend
//! on the order of summation, the compiler or the processor.
//!
//! Both passes keep a block of sums in vector registers while they go through the weights: the vertical one for
//! neighbours of a row, the horizontal one for the same place of [`LANES`] rows, which are transposed for it.

use std::{borrow::Cow, ops::Range};

use super::Image;
use crate::{Result, cancel::CancelToken};

/// Keys' cubic reaches two pixels to either side.
const RADIUS: f64 = 2.0;
/// More bits than this would overflow the 32-bit sums.
const MAX_PRECISION: u32 = 22;
/// Rows that the horizontal pass works on together.
const LANES: usize = 16;
/// Neighbouring bytes that the vertical pass works on together. A pixel is 3 bytes and the model's sides are multiples of
/// 32 pixels or so, so that little is left over.
const BLOCK: usize = 32;
/// Side of the squares that are transposed at once: as many bytes as a word has.
const WORD: usize = 8;

/// One byte column of [`LANES`] rows.
type Lanes = [u8; LANES];
/// One column of pixels, channel by channel: three columns of bytes. As one array its sums stay in registers.
type Pixels = [u8; 3 * LANES];

/// The weights of one axis.
struct Axis {
    /// Per output position: which inputs count, and where their weights start in `weights`.
    taps: Vec<(Range<usize>, usize)>,
    weights: Vec<i16>,
    /// Bits behind the binary point of a weight.
    precision: u32,
}

/// `cancel` is looked at every [`LANES`] rows.
pub(super) fn bicubic(image: &Image, width: u32, height: u32, cancel: &CancelToken) -> Result<Image> {
    let (n_in, n_out) = (image.width as usize, width as usize);
    let rgb = match width == image.width {
        true => Cow::Borrowed(&image.rgb),
        false => Cow::Owned(resize_rows(&image.rgb, n_in, n_out, cancel)?),
    };
    let rgb = match height == image.height {
        true => rgb.into_owned(),
        false => resize_columns(&rgb, 3 * n_out, image.height as usize, height as usize, cancel)?,
    };
    Ok(Image { width, height, rgb, ..*image })
}

/// Rows of `n_in` pixels to rows of `n_out`.
fn resize_rows(rgb: &[u8], n_in: usize, n_out: usize, cancel: &CancelToken) -> Result<Vec<u8>> {
    let axis = Axis::new(n_in, n_out);
    let mut resized = vec![0; rgb.len() / n_in * n_out];
    // Lanes without a row keep what was in them; nobody reads it.
    let mut wide: Vec<Pixels> = vec![[0; 3 * LANES]; n_in];
    let mut narrow: Vec<Pixels> = vec![[0; 3 * LANES]; n_out];
    for (rows, resized) in rgb.chunks(LANES * 3 * n_in).zip(resized.chunks_mut(LANES * 3 * n_out)) {
        cancel.check()?;
        gather(rows, wide.as_flattened_mut().as_chunks_mut().0);
        for ((inputs, first), sum) in axis.taps.iter().zip(&mut narrow) {
            *sum = axis.weigh(wide[inputs.clone()].iter(), &axis.weights[*first..]);
        }
        scatter(narrow.as_flattened().as_chunks().0, resized);
    }
    Ok(resized)
}

/// `n_in` rows of `row_bytes` to `n_out` rows.
fn resize_columns(rgb: &[u8], row_bytes: usize, n_in: usize, n_out: usize, cancel: &CancelToken) -> Result<Vec<u8>> {
    let axis = Axis::new(n_in, n_out);
    let mut resized = vec![0; row_bytes * n_out];
    for (index, ((inputs, first), resized)) in axis.taps.iter().zip(resized.chunks_exact_mut(row_bytes)).enumerate() {
        if index.is_multiple_of(LANES) {
            cancel.check()?;
        }
        let rows = &rgb[inputs.start * row_bytes..inputs.end * row_bytes];
        let weights = &axis.weights[*first..];
        let (blocks, rest) = resized.as_chunks_mut::<BLOCK>();
        let n_blocks = blocks.len();
        for (index, sum) in blocks.iter_mut().enumerate() {
            let inputs = rows.chunks_exact(row_bytes).map(|row| &row.as_chunks().0[index]);
            *sum = axis.weigh(inputs, weights);
        }
        for (index, sum) in rest.iter_mut().enumerate() {
            let inputs = rows[n_blocks * BLOCK + index..].iter().step_by(row_bytes).map(std::array::from_ref);
            [*sum] = axis.weigh(inputs, weights);
        }
    }
    Ok(resized)
}

/// `block[column][lane] = rows[lane][column]`; `rows` are at most [`LANES`], of one length.
fn gather(rows: &[u8], block: &mut [Lanes]) {
    let row_bytes = block.len();
    for (group, rows) in rows.chunks(WORD * row_bytes).enumerate() {
        let lanes = WORD * group..WORD * (group + 1);
        let mut n_done = 0;
        if rows.len() == WORD * row_bytes {
            let (squares, _) = block.as_chunks_mut::<WORD>();
            n_done = squares.len() * WORD;
            for (index, square) in squares.iter_mut().enumerate() {
                let words = std::array::from_fn(|lane| word(&rows[lane * row_bytes + index * WORD..]));
                for (column, word) in square.iter_mut().zip(transpose(words)) {
                    column[lanes.clone()].copy_from_slice(&word.to_le_bytes());
                }
            }
        }
        for (lane, row) in lanes.zip(rows.chunks_exact(row_bytes)) {
            for (column, &byte) in block[n_done..].iter_mut().zip(&row[n_done..]) {
                column[lane] = byte;
            }
        }
    }
}

/// The reverse of [`gather`].
fn scatter(block: &[Lanes], rows: &mut [u8]) {
    let row_bytes = block.len();
    for (group, rows) in rows.chunks_mut(WORD * row_bytes).enumerate() {
        let lanes = WORD * group..WORD * (group + 1);
        let mut n_done = 0;
        if rows.len() == WORD * row_bytes {
            let (squares, _) = block.as_chunks::<WORD>();
            n_done = squares.len() * WORD;
            for (index, square) in squares.iter().enumerate() {
                let words = transpose(square.map(|column| word(&column[lanes.clone()])));
                for (lane, word) in words.iter().enumerate() {
                    rows[lane * row_bytes + index * WORD..][..WORD].copy_from_slice(&word.to_le_bytes());
                }
            }
        }
        for (lane, row) in lanes.zip(rows.chunks_exact_mut(row_bytes)) {
            for (column, byte) in block[n_done..].iter().zip(&mut row[n_done..]) {
                *byte = column[lane];
            }
        }
    }
}

/// The first bytes as a word; 0 where there are too few.
fn word(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// A square of bytes along its diagonal: byte k of word i against byte i of word k, by halves, quarters and eighths.
fn transpose(mut words: [u64; WORD]) -> [u64; WORD] {
    for (distance, mask) in [(4, 0x0000_0000_ffff_ffff), (2, 0x0000_ffff_0000_ffff), (1, 0x00ff_00ff_00ff_00ff)] {
        for i in (0..WORD).filter(|i| i & distance == 0) {
            let bits = WORD * distance;
            let differences = ((words[i] >> bits) ^ words[i + distance]) & mask;
            words[i] ^= differences << bits;
            words[i + distance] ^= differences;
        }
    }
    words
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

    /// The weighted sum of runs of `N` bytes: the value of each place.
    fn weigh<'a, const N: usize>(&self, runs: impl Iterator<Item = &'a [u8; N]>, weights: &[i16]) -> [u8; N] {
        let mut sums = [self.half(); N];
        for (values, &weight) in runs.zip(weights) {
            add(&mut sums, values, weight);
        }
        sums.map(|sum| self.to_byte(sum))
    }

    /// One half, so that the shift rounds.
    fn half(&self) -> i32 {
        1 << (self.precision - 1)
    }

    fn to_byte(&self, sum: i32) -> u8 {
        (sum >> self.precision).clamp(0, 255) as u8
    }
}

/// `sums += values * weight`. The magnitudes of an axis' weights add up to less than 1.5 * 2^22, so nothing wraps; a check
/// would keep the loop out of the vector registers.
#[inline(always)]
fn add<const N: usize>(sums: &mut [i32; N], values: &[u8; N], weight: i16) {
    for (sum, &value) in sums.iter_mut().zip(values) {
        *sum = sum.wrapping_add(i32::from(value) * i32::from(weight));
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
