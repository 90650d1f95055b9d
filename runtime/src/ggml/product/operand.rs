//! Reading matrices of any type and strides.

use std::ops::Range;

use llama_cpp_sys_2 as sys;

use super::{DEPTH, PANELS, tile::ROWS};

/// Numbers that are unpacked at a time: the blocks of packed types have 16 to 256.
const LONGEST: usize = 256;

/// How the numbers of a type become F32; `None` for F32 itself.
type Unpack = Option<unsafe extern "C" fn(*const std::ffi::c_void, *mut f32, i64)>;

/// One matrix `x[k, n]` inside a tensor: number `step` of vector `index` is at `step * strides[0] + index * strides[1]`.
pub(super) struct Operand {
    data: *const u8,
    /// Bytes between neighbours; for packed types, whose blocks run along one dimension, between blocks there.
    strides: [usize; 2],
    /// Numbers in a block, and its bytes.
    block: usize,
    block_bytes: usize,
    unpack: Unpack,
    /// Whether blocks lie across vectors; strides do not tell where rows are single blocks.
    is_transposed: bool,
}

impl Operand {
    /// Matrix `(i2, i3)` of `tensor`, which is F32, or has contiguous rows, or is the transpose of such a tensor. The tensor's
    /// memory must stay as it is while the value lives.
    pub(super) fn matrix(tensor: &sys::ggml_tensor, i2: usize, i3: usize) -> Self {
        // SAFETY: the type is one of ggml's own; the table is constant.
        let traits = unsafe { &*sys::ggml_get_type_traits(tensor.type_) };
        Self {
            data: tensor.data.cast::<u8>().wrapping_add(i2 * tensor.nb[2] + i3 * tensor.nb[3]),
            strides: [tensor.nb[0], tensor.nb[1]],
            block: traits.blck_size as usize,
            block_bytes: traits.type_size,
            unpack: if tensor.type_ == sys::GGML_TYPE_F32 { None } else { traits.to_float },
            is_transposed: tensor.op == sys::GGML_OP_TRANSPOSE,
        }
    }

    /// Whether few vectors cost as much to unpack as all that share their blocks.
    pub(super) fn wants_whole_blocks(&self) -> bool {
        self.is_transposed && self.block > ROWS
    }

    /// Steps of `k` to unpack at a time: equal parts of at most [`DEPTH`], in whole blocks.
    pub(super) fn steps_at_once(&self, k: usize) -> usize {
        let unit = if self.is_transposed { 1 } else { self.block };
        k.div_ceil(k.div_ceil(DEPTH)).next_multiple_of(unit)
    }

    /// Steps `start..start + strip.len()` of the vectors `columns`, at most `N`, step by step; further columns are zero.
    /// F32 only.
    pub(super) fn interleave<const N: usize>(&self, columns: Range<usize>, start: usize, strip: &mut [[f32; N]]) {
        debug_assert!(self.unpack.is_none() && columns.len() <= N);
        let width = columns.len();
        if self.strides[1] == size_of::<f32>() {
            for (step, to) in strip.iter_mut().enumerate() {
                copy_padded(self.floats(start + step, columns.start, width), to);
            }
            return;
        }
        if self.strides[0] != size_of::<f32>() {
            for (step, to) in strip.iter_mut().enumerate() {
                to[width..].fill(0.0);
                for (to, column) in to.iter_mut().zip(columns.clone()) {
                    *to = self.floats(start + step, column, 1)[0];
                }
            }
            return;
        }
        let mut rows: [&[f32]; N] = [&[]; N];
        rows.iter_mut().zip(columns).for_each(|(row, column)| *row = self.floats(start, column, strip.len()));
        interleave(&rows[..width], strip);
    }

    /// Steps `start..start + depth` of the vectors `rows`: panel by panel of [`ROWS`] vectors, at most [`PANELS`], `depth`
    /// steps each. Vectors that fill up the last panel are zero. `start` is a multiple of [`Operand::steps_at_once`].
    pub(super) fn unpack(&self, rows: Range<usize>, start: usize, depth: usize, panels: &mut [[f32; ROWS]]) {
        debug_assert!(depth <= DEPTH && rows.len() <= PANELS * ROWS);
        let firsts = rows.clone().step_by(ROWS);
        let Some(unpack) = self.unpack else {
            for (first, panel) in firsts.zip(panels.chunks_exact_mut(depth)) {
                self.interleave(first..(first + ROWS).min(rows.end), start, panel);
            }
            return;
        };
        if !self.is_transposed {
            let mut unpacked = [[0.0f32; DEPTH]; ROWS];
            for (first, panel) in firsts.zip(panels.chunks_exact_mut(depth)) {
                let count = ROWS.min(rows.end - first);
                for (row, numbers) in unpacked.iter_mut().take(count).enumerate() {
                    let offset = start / self.block * self.block_bytes + (first + row) * self.strides[1];
                    // SAFETY: `depth` numbers in whole blocks from step `start` of that vector on: parts are whole blocks,
                    // and so are all vectors.
                    unsafe { unpack(self.data.add(offset).cast(), numbers.as_mut_ptr(), depth as i64) };
                }
                let mut vectors: [&[f32]; ROWS] = [&[]; ROWS];
                vectors.iter_mut().zip(&unpacked).for_each(|(to, from)| *to = &from[..depth]);
                interleave(&vectors[..count], panel);
            }
            return;
        }
        // Transposed: blocks run across vectors. Rows of the panels need not begin with a block.
        let begin = rows.start / self.block * self.block;
        let end = rows.end.next_multiple_of(self.block);
        let mut unpacked = [0.0f32; PANELS * ROWS + 2 * LONGEST];
        for step in 0..depth {
            let offset = (start + step) * self.strides[0] + begin / self.block * self.block_bytes;
            // SAFETY: whole blocks of one row of the stored matrix, at most `LONGEST` more numbers than `rows` at either end.
            unsafe { unpack(self.data.add(offset).cast(), unpacked.as_mut_ptr(), (end - begin) as i64) };
            let numbers = &unpacked[rows.start - begin..rows.end - begin];
            for (numbers, panel) in numbers.chunks(ROWS).zip(panels.chunks_exact_mut(depth)) {
                copy_padded(numbers, &mut panel[step]);
            }
        }
    }

    /// `n` neighbours in memory from number `step` of vector `index` on. F32 only.
    fn floats(&self, step: usize, index: usize, n: usize) -> &[f32] {
        let offset = step * self.strides[0] + index * self.strides[1];
        // SAFETY: callers stay inside the matrix, along a dimension whose neighbours are neighbours in memory.
        unsafe { std::slice::from_raw_parts(self.data.add(offset).cast::<f32>(), n) }
    }
}

/// Copies the at most `N` numbers of `from`, and zeros behind them; whole arrays without a call.
#[inline(always)]
fn copy_padded<const N: usize>(from: &[f32], to: &mut [f32; N]) {
    match from.try_into() {
        Ok(from) => *to = from,
        Err(_) => {
            to[..from.len()].copy_from_slice(from);
            to[from.len()..].fill(0.0);
        }
    }
}

/// `to[step][i] = vectors[i][step]`, and zero for further `i`, in tiles that stay in registers and the nearest cache.
pub(in crate::ggml) fn interleave<const N: usize>(vectors: &[&[f32]], to: &mut [[f32; N]]) {
    const TILE: usize = 16;
    for (tile, to) in to.chunks_mut(TILE).enumerate() {
        let mut numbers = [[0.0f32; TILE]; N];
        for (numbers, vector) in numbers.iter_mut().zip(vectors) {
            let from = &vector[tile * TILE..];
            let n = to.len().min(from.len());
            numbers[..n].copy_from_slice(&from[..n]);
        }
        for (step, to) in to.iter_mut().enumerate() {
            to.iter_mut().zip(&numbers).for_each(|(to, numbers)| *to = numbers[step]);
        }
    }
}
