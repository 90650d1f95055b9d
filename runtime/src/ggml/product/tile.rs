//! The innermost loop of matrix products: one tile of the result, kept in registers.

/// Rows of a tile: neighbours in the result, and in vector registers.
pub(in crate::ggml) const ROWS: usize = if cfg!(target_feature = "avx512f") { 32 } else { 16 };

/// Columns of a tile. `ROWS * COLUMNS` sums and one column of the left operand fill the registers: 26 of 32 with
/// AVX-512, 14 of 16 with AVX2, 28 of 32 with NEON.
pub(in crate::ggml) const COLUMNS: usize = if cfg!(target_feature = "avx512f") { 12 } else { 6 };

/// Numbers of the left operand for one step of the contraction.
pub(in crate::ggml) type Left = [f32; ROWS];
/// Numbers of the right operand for one step.
pub(in crate::ggml) type Right = [f32; COLUMNS];
/// Part of the result, column by column.
pub(in crate::ggml) type Tile = [[f32; ROWS]; COLUMNS];

/// `tile[j][i] = sum over steps of left[step][i] * right[step][j]`.
#[cfg(all(target_arch = "x86_64", target_feature = "avx512f"))]
pub(in crate::ggml) fn multiply(left: &[Left], right: &[Right]) -> Tile {
    // SAFETY: compiled only where every processor that may run this has the feature.
    unsafe { multiply_avx512(left, right) }
}

#[cfg(all(target_arch = "x86_64", target_feature = "avx512f"))]
#[target_feature(enable = "avx512f")]
fn multiply_avx512(left: &[Left], right: &[Right]) -> Tile {
    // SAFETY: arrays of as many numbers.
    unsafe { std::mem::transmute(sums_avx512(left, right)) }
}

/// By name: compilers prefer vectors of half the width.
#[cfg(all(target_arch = "x86_64", target_feature = "avx512f"))]
#[target_feature(enable = "avx512f")]
#[inline]
fn sums_avx512(left: &[Left], right: &[Right]) -> [[std::arch::x86_64::__m512; 2]; COLUMNS] {
    use std::arch::x86_64::{__m512, _MM_HINT_T0, _mm_prefetch, _mm512_fmadd_ps, _mm512_set1_ps, _mm512_setzero_ps};
    /// Steps of the right operand that are fetched ahead, which the processor does not do by itself in time.
    const AHEAD: usize = 16;
    let mut sums = [[_mm512_setzero_ps(); 2]; COLUMNS];
    for (left, right) in left.iter().zip(right) {
        // SAFETY: arrays of as many numbers; any address may be fetched.
        let [upper, lower] = unsafe {
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(right).wrapping_add(AHEAD).cast());
            std::mem::transmute::<Left, [__m512; 2]>(*left)
        };
        for (sums, &right) in sums.iter_mut().zip(right) {
            let right = _mm512_set1_ps(right);
            sums[0] = _mm512_fmadd_ps(upper, right, sums[0]);
            sums[1] = _mm512_fmadd_ps(lower, right, sums[1]);
        }
    }
    sums
}

/// As [`multiply`], with the columns of the tile written to, or added to, those at `result`, which are `stride` numbers apart.
///
/// # Safety
/// All those places are numbers that nobody else reads or writes.
#[cfg(all(target_arch = "x86_64", target_feature = "avx512f"))]
pub(super) unsafe fn multiply_into(left: &[Left], right: &[Right], result: *mut f32, stride: usize, adds: bool) {
    #[target_feature(enable = "avx512f")]
    unsafe fn run(left: &[Left], right: &[Right], result: *mut f32, stride: usize, adds: bool) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch, _mm512_add_ps, _mm512_loadu_ps, _mm512_storeu_ps};
        let halves =
            || (0..2 * COLUMNS).map(|index| (index / 2, index % 2, index / 2 * stride + index % 2 * (ROWS / 2)));
        for (.., offset) in halves() {
            // SAFETY: as the caller promises.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(result.add(offset).cast()) };
        }
        let sums = sums_avx512(left, right);
        for (column, half, offset) in halves() {
            // SAFETY: as the caller promises.
            unsafe {
                let place = result.add(offset);
                let sum = sums[column][half];
                let sum = if adds { _mm512_add_ps(_mm512_loadu_ps(place), sum) } else { sum };
                _mm512_storeu_ps(place, sum);
            }
        }
    }
    // SAFETY: compiled only where every processor that may run this has the feature; the rest is the caller's promise.
    unsafe { run(left, right, result, stride, adds) }
}

/// As [`multiply`], with the columns of the tile written to, or added to, those at `result`, which are `stride` numbers apart.
///
/// # Safety
/// All those places are numbers that nobody else reads or writes.
#[cfg(not(all(target_arch = "x86_64", target_feature = "avx512f")))]
pub(super) unsafe fn multiply_into(left: &[Left], right: &[Right], result: *mut f32, stride: usize, adds: bool) {
    for (column, sums) in multiply(left, right).iter().enumerate() {
        // SAFETY: as the caller promises.
        let result = unsafe { &mut *result.add(column * stride).cast::<Left>() };
        for (result, sum) in result.iter_mut().zip(sums) {
            *result = if adds { *result + sum } else { *sum };
        }
    }
}

/// `tile[j][i] = sum over steps of left[step][i] * right[step][j]`.
#[cfg(not(all(target_arch = "x86_64", target_feature = "avx512f")))]
pub(in crate::ggml) fn multiply(left: &[Left], right: &[Right]) -> Tile {
    // Without the instruction, `mul_add` is a call into the mathematics library.
    const FUSED: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));
    let mut sums = [[0.0f32; ROWS]; COLUMNS];
    for (left, right) in left.iter().zip(right) {
        for (sums, &right) in sums.iter_mut().zip(right) {
            for (sum, &left) in sums.iter_mut().zip(left) {
                *sum = if FUSED { left.mul_add(right, *sum) } else { *sum + left * right };
            }
        }
    }
    sums
}
