//! The pieces that the three operations are made of.

use std::ops::Range;

use llama_cpp_sys_2 as sys;

use super::{
    super::product::{COLUMNS, Left, ROWS, Right, Tile, interleave, multiply},
    BATCH,
};

/// The numbers of a contiguous F32 tensor.
///
/// # Safety
/// `tensor` points to such a tensor, which nobody changes while the result lives.
pub(super) unsafe fn numbers<'a>(tensor: *const sys::ggml_tensor) -> &'a [f32] {
    // SAFETY: as many numbers as the tensor has elements.
    unsafe {
        let tensor = &*tensor;
        std::slice::from_raw_parts(tensor.data.cast(), tensor.ne.iter().product::<i64>() as usize)
    }
}

/// A contiguous F32 result that threads write parts of.
pub(super) struct Output {
    data: *mut f32,
    length: usize,
}

impl Output {
    /// # Safety
    /// `tensor` points to a contiguous F32 tensor that outlives the value.
    pub(super) unsafe fn new(tensor: *mut sys::ggml_tensor) -> Self {
        // SAFETY: as the caller promises.
        let tensor = unsafe { &*tensor };
        Self { data: tensor.data.cast(), length: tensor.ne.iter().product::<i64>() as usize }
    }

    /// Numbers `start..start + values.len()` become `values`.
    ///
    /// # Safety
    /// No other thread writes or reads these numbers.
    pub(super) unsafe fn write(&self, start: usize, values: &[f32]) {
        assert!(start + values.len() <= self.length);
        // SAFETY: the numbers are inside the tensor, and this thread's.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), values.len()) }.copy_from_slice(values);
    }
}

/// What `Graph::pack` gives: strips of [`COLUMNS`] vectors, or elements, for every head.
pub(super) struct Strips<'a> {
    rights: &'a [Right],
    depth: usize,
    n_strips: usize,
}

impl<'a> Strips<'a> {
    /// # Safety
    /// As for [`numbers`], for what `Graph::pack` gives.
    pub(super) unsafe fn new(tensor: *const sys::ggml_tensor) -> Self {
        // SAFETY: as the caller promises.
        let (rights, [depth, n_strips, ..]) = unsafe { (numbers(tensor).as_chunks().0, (*tensor).ne) };
        Self { rights, depth: depth as usize / COLUMNS, n_strips: n_strips as usize }
    }

    fn strip(&self, head: usize, index: usize) -> &'a [Right] {
        &self.rights[(head * self.n_strips + index) * self.depth..][..self.depth]
    }
}

/// Vectors side by side, at most [`ROWS`]; lanes without one are zero.
pub(super) struct Panel(Vec<Left>);

impl Panel {
    pub(super) fn new(head_dim: usize) -> Self {
        Self(vec![[0.0; ROWS]; head_dim])
    }

    pub(super) fn fill<'a>(&mut self, vectors: impl ExactSizeIterator<Item = &'a [f32]>) {
        let mut lanes: [&[f32]; ROWS] = [&[]; ROWS];
        let n = vectors.len();
        lanes.iter_mut().zip(vectors).for_each(|(lane, vector)| *lane = vector);
        interleave(&lanes[..n], &mut self.0);
    }

    /// Products of all lanes with vectors `vectors` of `head`, at most [`BATCH`] of them: `to[vector][lane]`.
    pub(super) fn products(&self, strips: &Strips, head: usize, vectors: Range<usize>, to: &mut [Left]) {
        for index in vectors.start / COLUMNS..vectors.end.div_ceil(COLUMNS) {
            let tile = multiply(&self.0, strips.strip(head, index));
            let first = index * COLUMNS;
            let inside = vectors.start.max(first)..vectors.end.min(first + COLUMNS);
            to[inside.start - vectors.start..inside.end - vectors.start]
                .copy_from_slice(&tile[inside.start - first..inside.end - first]);
        }
    }
}

/// One weighted sum of vectors for each lane of a panel.
pub(super) struct Sums {
    /// `[element][lane]`, strip by strip.
    tiles: Vec<Tile>,
    head_dim: usize,
}

impl Sums {
    pub(super) fn new(head_dim: usize) -> Self {
        Self { tiles: vec![[[0.0; ROWS]; COLUMNS]; head_dim.div_ceil(COLUMNS)], head_dim }
    }

    pub(super) fn clear(&mut self) {
        self.tiles.fill([[0.0; ROWS]; COLUMNS]);
    }

    /// Adds vectors `vectors` of `head`, each times its `weights[vector][lane]`.
    pub(super) fn add(&mut self, weights: &[Left], strips: &Strips, head: usize, vectors: Range<usize>) {
        for (index, sums) in self.tiles.iter_mut().enumerate() {
            let tile = multiply(weights, &strips.strip(head, index)[vectors.clone()]);
            let pairs = sums.as_flattened_mut().iter_mut().zip(tile.as_flattened());
            pairs.for_each(|(sum, product)| *sum += product);
        }
    }

    /// Multiplies the sum of every lane by its factor.
    pub(super) fn scale(&mut self, factors: &Left) {
        for row in self.tiles.as_flattened_mut() {
            row.iter_mut().zip(factors).for_each(|(sum, factor)| *sum *= factor);
        }
    }

    /// Calls `write` with the sums of the first `n` lanes, a piece at a time: lane, first element, elements.
    pub(super) fn write(&self, n: usize, mut write: impl FnMut(usize, usize, &[f32])) {
        const WIDTH: usize = 16;
        let rows = &self.tiles.as_flattened()[..self.head_dim];
        let mut pieces = [[0.0; WIDTH]; ROWS];
        for (index, rows) in rows.chunks(WIDTH).enumerate() {
            let mut elements: [&[f32]; WIDTH] = [&[]; WIDTH];
            elements.iter_mut().zip(rows).for_each(|(element, row)| *element = row);
            interleave(&elements[..rows.len()], &mut pieces);
            for (lane, piece) in pieces.iter().take(n).enumerate() {
                write(lane, index * WIDTH, &piece[..rows.len()]);
            }
        }
    }
}

/// Scores of a batch, or what becomes of them.
pub(super) fn batch() -> Vec<Left> {
    vec![[0.0; ROWS]; BATCH]
}
