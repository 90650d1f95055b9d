//! Matrix products on the CPU in F32, of operands however they are stored: weights of any type are unpacked as they are
//! used, and a transposed operand costs no more than another.
//!
//! `c[m, n] = sum over k of a[k, m] * b[k, n]` runs as two operations. [`pack_strips`] lays `b` out once, in strips of
//! [`COLUMNS`] columns that interleave their numbers step by step; several products may use it. [`multiply_panels`]
//! brings panels of [`ROWS`] rows of `a` into the same form, a piece at a time that stays in the cache of its thread, and
//! multiplies every piece with every strip. Sums run in the same order however the work is divided among threads.

mod operand;
mod tile;

use std::ffi::{c_int, c_void};

use llama_cpp_sys_2 as sys;

use self::{operand::Operand, tile::multiply_into};
pub(super) use self::{
    operand::interleave,
    tile::{COLUMNS, Left, ROWS, Right, Tile, multiply},
};
use super::turns::Turns;

/// Most steps of the contraction that are taken at a time; whole blocks of every packed type.
const DEPTH: usize = 256;

/// Panels that are unpacked at a time: they make whole blocks of every packed type too. 256 KiB together with [`DEPTH`].
const PANELS: usize = 256 / ROWS;

/// Shape of packed `b[k, n, n2, n3]`.
pub(super) fn packed_shape([k, n, n2, n3]: [usize; 4]) -> [usize; 4] {
    [COLUMNS * k, n.div_ceil(COLUMNS), n2, n3]
}

/// The callback of the custom operation that packs its only operand, F32 `b[k, n, n2, n3]` of any strides, into
/// contiguous `dst[COLUMNS * k, strips, n2, n3]`. Columns that fill up the last strip are zero.
pub(super) unsafe extern "C" fn pack_strips(
    dst: *mut sys::ggml_tensor,
    thread: c_int,
    n_threads: c_int,
    _: *mut c_void,
) {
    // SAFETY: ggml passes the tensor of a running operation, whose operand `Graph::pack` has set.
    let (dst, src) = unsafe { (&*dst, &*(*dst).src[0]) };
    let [k, n, n2, n3] = src.ne.map(|n| n as usize);
    let n_strips = n.div_ceil(COLUMNS);
    for index in share(n_strips * n2 * n3, thread, n_threads) {
        let (first, matrix) = (index % n_strips * COLUMNS, index / n_strips);
        let b = Operand::matrix(src, matrix % n2, matrix / n2);
        // SAFETY: the result has `strips` contiguous stretches of `k` steps for every matrix; no other thread has this one.
        let strip = unsafe { std::slice::from_raw_parts_mut(dst.data.cast::<Right>().add(index * k), k) };
        b.interleave(first..(first + COLUMNS).min(n), 0, strip);
    }
}

/// The callback of the custom operation `dst[m, n, n2, n3]`, the sum of products of its operands, pair by pair: `a[k, m, ...]`
/// of any type and strides, its last dimensions dividing those of the result, and `b` as [`pack_strips`] leaves it. A last
/// operand without a partner is contiguous, of the shape of the result, and added.
pub(super) unsafe extern "C" fn multiply_panels(
    dst: *mut sys::ggml_tensor,
    thread: c_int,
    n_threads: c_int,
    turns: *mut c_void,
) {
    // SAFETY: the user data are turns of this operation alone, which the graph keeps.
    let turns = unsafe { &*turns.cast::<Turns>() };
    // SAFETY: ggml passes the tensor of a running operation, whose operands `Graph::sum_of_products` has set and checked;
    // those that are not used are null.
    let (dst, operands) = unsafe {
        let dst = &*dst;
        let operands: Vec<_> = dst.src.iter().map_while(|operand| operand.as_ref()).collect();
        (dst, operands)
    };
    let pairs = operands.chunks_exact(2);
    let addend = pairs.remainder().first();
    let [m, n, n2, n3] = dst.ne.map(|n| n as usize);
    let (n_panels, n_strips) = (m.div_ceil(ROWS), n.div_ceil(COLUMNS));
    // Threads take panels in turn; where there are few they take strips, and each unpacks all the panels.
    let n_all = n_panels * n2 * n3;
    let by_panels = n_all >= 2 * n_threads as usize;
    let strips = if by_panels { 0..n_strips } else { share(n_strips, thread, n_threads) };
    if strips.is_empty() {
        return;
    }
    let whole = PANELS.min(n_panels);
    let is_coarse = pairs.clone().any(|pair| Operand::matrix(pair[0], 0, 0).wants_whole_blocks());
    let at_once = if is_coarse { whole } else { 1 }..whole;
    let mut all = (!by_panels).then_some(0..n_all);
    let mut next = || match by_panels {
        true => turns.take(n_all, n_threads as usize, at_once.clone()),
        false => all.take(),
    };
    let mut pieces = vec![[0.0; ROWS]; whole * DEPTH];

    while let Some(mut panels) = next() {
        while !panels.is_empty() {
            let (matrix, first) = (panels.start / n_panels, panels.start % n_panels);
            let (i2, i3) = (matrix % n2, matrix / n2);
            let count = whole.min(panels.len()).min(n_panels - first);
            panels.start += count;
            let mut base = match addend {
                Some(addend) => Base::Other(addend.data.cast()),
                None => Base::Nothing,
            };
            for pair in pairs.clone() {
                let (a, b) = (pair[0], pair[1]);
                let [k, _, a2, a3] = a.ne.map(|n| n as usize);
                let operand = Operand::matrix(a, i2 * a2 / n2, i3 * a3 / n3);
                let at_once = operand.steps_at_once(k);
                for start in (0..k).step_by(at_once) {
                    let depth = at_once.min(k - start);
                    let pieces = &mut pieces[..count * depth];
                    operand.unpack(first * ROWS..((first + count) * ROWS).min(m), start, depth, pieces);
                    for (index, piece) in pieces.chunks_exact(depth).enumerate() {
                        let row = (first + index) * ROWS;
                        for strip in strips.clone() {
                            let offset = (matrix * n_strips + strip) * k + start;
                            // SAFETY: packed strips are `k` contiguous steps each, and nobody writes them now.
                            let right =
                                unsafe { std::slice::from_raw_parts(b.data.cast::<Right>().add(offset), depth) };
                            let column = strip * COLUMNS;
                            let corner = row + m * (column + n * matrix);
                            let (height, width) = (ROWS.min(m - row), COLUMNS.min(n - column));
                            let result = dst.data.cast::<f32>();
                            // SAFETY: the result is contiguous, and so is an addend, of the same shape; the tile is inside,
                            // and no other thread has these panels and strips.
                            unsafe {
                                if let Base::Other(addend) = base {
                                    copy(addend, result, (corner, m), (height, width));
                                }
                                let adds = !matches!(base, Base::Nothing);
                                if (height, width) == (ROWS, COLUMNS) {
                                    multiply_into(piece, right, result.add(corner), m, adds);
                                } else {
                                    put(&multiply(piece, right)[..width], height, result.add(corner), m, adds);
                                }
                            }
                        }
                    }
                    base = Base::Result;
                }
            }
        }
    }
}

/// What a tile is added to.
#[derive(Clone, Copy)]
enum Base {
    Nothing,
    /// What stands in its place.
    Result,
    /// What stands in the same place there.
    Other(*const f32),
}

/// Copies `height` rows of `width` columns, the first at `corner`, `stride` apart.
///
/// # Safety
/// All those places are numbers in `from` and `to`; nobody writes the former, nobody else reads or writes the latter.
unsafe fn copy(from: *const f32, to: *mut f32, (corner, stride): (usize, usize), (height, width): (usize, usize)) {
    for column in 0..width {
        let offset = corner + column * stride;
        // SAFETY: as the caller promises.
        unsafe { to.add(offset).copy_from_nonoverlapping(from.add(offset), height) };
    }
}

/// Writes or adds `height` rows of the columns `tile` to those at `result`, `stride` apart.
///
/// # Safety
/// All those places are numbers that nobody else reads or writes.
unsafe fn put(tile: &[Left], height: usize, result: *mut f32, stride: usize, adds: bool) {
    for (column, sums) in tile.iter().enumerate() {
        // SAFETY: as the caller promises.
        let result = unsafe { std::slice::from_raw_parts_mut(result.add(column * stride), height) };
        for (result, sum) in result.iter_mut().zip(sums) {
            *result = if adds { *result + sum } else { *sum };
        }
    }
}

/// The part of `0..n` that is for `thread` of `n_threads`.
pub(super) fn share(n: usize, thread: c_int, n_threads: c_int) -> std::ops::Range<usize> {
    let (thread, n_threads) = (thread as usize, n_threads as usize);
    n * thread / n_threads..n * (thread + 1) / n_threads
}
