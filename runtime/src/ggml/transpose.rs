//! A transpose that the CPU does in blocks. ggml's own copies one element at a time, which costs more than the matrix
//! product behind it when matrices are narrow.

use std::ffi::{c_int, c_void};

use llama_cpp_sys_2 as sys;

/// Blocks are `TILE x TILE`: they and the lines they come from stay in the first-level cache.
const TILE: usize = 16;

/// The callback of the custom operation: `dst[n, m, ...]` from its only operand `[m, n, ...]`, F32 with contiguous rows.
/// Thread `thread` of `n_threads` takes every `n_threads`-th strip of rows of `dst`.
pub(super) unsafe extern "C" fn transpose_strips(
    dst: *mut sys::ggml_tensor,
    thread: c_int,
    n_threads: c_int,
    _: *mut c_void,
) {
    // SAFETY: ggml passes the tensor of a running operation, whose operand `Graph::transposed` has set.
    let (dst, src) = unsafe { (&*dst, &*(*dst).src[0]) };
    let [m, n, n2, n3] = src.ne.map(|n| n as usize);
    let n_strips = m.div_ceil(TILE);
    for strip in (thread as usize..n_strips * n2 * n3).step_by(n_threads as usize) {
        let (first, matrix) = (strip % n_strips * TILE, strip / n_strips);
        let (i2, i3) = (matrix % n2, matrix / n2);
        let width = TILE.min(m - first);
        for start in (0..n).step_by(TILE) {
            let height = TILE.min(n - start);
            let mut tile = [[0.0f32; TILE]; TILE];
            for (row, values) in tile.iter_mut().take(height).enumerate() {
                let offset = first * src.nb[0] + (start + row) * src.nb[1] + i2 * src.nb[2] + i3 * src.nb[3];
                // SAFETY: the operand has `width` elements from element `first` of row `start + row` on, in a row.
                let from = unsafe { std::slice::from_raw_parts(src.data.byte_add(offset).cast::<f32>(), width) };
                values[..width].copy_from_slice(from);
            }
            for column in 0..width {
                let offset = start * dst.nb[0] + (first + column) * dst.nb[1] + i2 * dst.nb[2] + i3 * dst.nb[3];
                // SAFETY: as above for the contiguous result; no other thread has this strip.
                let to = unsafe { std::slice::from_raw_parts_mut(dst.data.byte_add(offset).cast::<f32>(), height) };
                to.iter_mut().zip(&tile).for_each(|(to, values)| *to = values[column]);
            }
        }
    }
}
