//! Element-wise operations that the backward pass needs in a row, in one pass over memory where the CPU computes. Elsewhere
//! they are composed of operations that all devices have.

use std::{
    ffi::{c_int, c_void},
    ops::Range,
};

use llama_cpp_sys_2 as sys;

use super::{
    graph::{Graph, Tensor},
    product::share,
};
use crate::exponential::exp;

/// What [`Graph::swiglu_back`] gives.
#[derive(Clone, Copy, Debug)]
pub struct SwigluGradients {
    /// `silu(gate) * up` once more.
    pub hidden: Tensor,
    /// The gradient of the gate.
    pub d_gate: Tensor,
    /// The gradient of the other factor.
    pub d_up: Tensor,
}

impl Graph {
    /// `silu(gate) * up`; both contiguous, of one shape.
    pub fn swiglu(&mut self, gate: Tensor, up: Tensor) -> Tensor {
        assert_eq!(self.shape(gate), self.shape(up), "swiglu: shapes");
        self.check_contiguous("swiglu", gate);
        self.check_contiguous("swiglu", up);
        self.binary(gate, up, sys::ggml_swiglu_split)
    }

    /// The way back through [`Graph::swiglu`] for the `gradient` of its result; all contiguous matrices of one shape. With
    /// `s = sigmoid(gate)`: `d_up = gradient * gate * s`, `d_gate = gradient * up * s * (1 + gate * (1 - s))`.
    pub fn swiglu_back(&mut self, gradient: Tensor, gate: Tensor, up: Tensor) -> SwigluGradients {
        let shape @ [width, n_rows, ..] = self.shape(gate);
        assert!([gradient, up].iter().all(|&x| self.shape(x) == shape), "swiglu_back: shapes");
        assert_eq!(shape[2..], [1, 1], "swiglu_back: not matrices");
        [gradient, gate, up].iter().for_each(|&x| self.check_contiguous("swiglu_back", x));
        if self.has_custom_operations() {
            let results = self.custom([width, n_rows, 3, 1], &[gradient, gate, up], swiglu_back_rows);
            let mut part = |index| self.slice(results, 2, index, 1);
            return SwigluGradients { hidden: part(0), d_gate: part(1), d_up: part(2) };
        }
        let activated = self.silu(gate);
        let d_activated = self.mul(gradient, up);
        SwigluGradients {
            hidden: self.mul(activated, up),
            d_gate: self.silu_back(d_activated, gate),
            d_up: self.mul(gradient, activated),
        }
    }

    /// The way back through `x / sqrt(mean(x^2) + eps) * gain`, row by row, for the `gradient` of its result; plus `addend`.
    /// With `n = x / rms` and `d = gradient * gain`: `(d - n mean(d n)) / rms`. All contiguous and of one shape but `gain`,
    /// which has one row.
    pub fn rms_norm_back(
        &mut self,
        x: Tensor,
        gain: Tensor,
        gradient: Tensor,
        eps: f32,
        addend: Option<Tensor>,
    ) -> Tensor {
        let shape = self.shape(x);
        let width = shape[0] as f32;
        assert!([Some(gradient), addend].iter().flatten().all(|&y| self.shape(y) == shape), "rms_norm_back: shapes");
        assert_eq!(self.shape(gain), [shape[0], 1, 1, 1], "rms_norm_back: gain");
        [x, gain, gradient].iter().chain(&addend).for_each(|&y| self.check_contiguous("rms_norm_back", y));
        if self.has_custom_operations() {
            let operands: Vec<_> = [x, gain, gradient].into_iter().chain(addend).collect();
            let eps = std::ptr::without_provenance_mut(eps.to_bits() as usize);
            return self.custom_with(shape, &operands, rms_norm_back_rows, eps);
        }
        let normalised = self.rms_norm(x, eps);
        let d = self.mul(gradient, gain);
        let projection = self.dot_rows(d, normalised);
        let projection = self.scale(projection, -1.0 / width, 0.0);
        let along = self.mul(normalised, projection);
        let across = self.add(d, along);
        let square = self.dot_rows(x, x);
        let mean_square = self.scale(square, 1.0 / width, eps);
        let rms = self.sqrt(mean_square);
        let dx = self.div(across, rms);
        addend.map_or(dx, |addend| self.add(dx, addend))
    }
}

/// The callback of [`Graph::swiglu_back`]: three planes from gradient, gate and factor.
unsafe extern "C" fn swiglu_back_rows(dst: *mut sys::ggml_tensor, thread: c_int, n_threads: c_int, _: *mut c_void) {
    // SAFETY: ggml passes the tensor of a running operation, whose three operands `Graph::swiglu_back` has set.
    let (dst, [gradient, gate, up]) = unsafe { (&*dst, [0, 1, 2].map(|index| &*(*dst).src[index])) };
    let n = gate.ne[0] as usize * gate.ne[1] as usize;
    let part = share(n, thread, n_threads);
    // SAFETY: operands are contiguous with `n` numbers, the result has three times as many; no other thread has this part.
    let ([gradient, gate, up], [hidden, d_gate, d_up]) = unsafe {
        let plane = |index| numbers_mut(dst.data.cast(), index * n + part.start..index * n + part.end);
        ([gradient, gate, up].map(|operand| numbers(operand, part.clone())), [0, 1, 2].map(plane))
    };
    let operands = gradient.iter().zip(gate).zip(up);
    let results = hidden.iter_mut().zip(d_gate).zip(d_up);
    for (((&gradient, &gate), &up), ((hidden, d_gate), d_up)) in operands.zip(results) {
        // The exponential of what is not positive cannot overflow.
        let e = exp(-gate.abs());
        let sigmoid = if gate < 0.0 { e } else { 1.0 } / (1.0 + e);
        let activated = gate * sigmoid;
        *hidden = activated * up;
        *d_gate = gradient * up * sigmoid * (1.0 + gate - activated);
        *d_up = gradient * activated;
    }
}

/// The callback of [`Graph::rms_norm_back`]: from input, gain, gradient and perhaps an addend; the user data are the bits of
/// epsilon.
unsafe extern "C" fn rms_norm_back_rows(dst: *mut sys::ggml_tensor, thread: c_int, n_threads: c_int, eps: *mut c_void) {
    // SAFETY: ggml passes the tensor of a running operation, whose operands `Graph::rms_norm_back` has set; an addend that is
    // not given is null.
    let (dst, [x, gain, gradient], addend) =
        unsafe { (&*dst, [0, 1, 2].map(|index| &*(*dst).src[index]), (*dst).src[3].as_ref()) };
    let eps = f32::from_bits(eps.addr() as u32);
    let width = x.ne[0] as usize;
    // SAFETY: the gain is one contiguous row.
    let gain = unsafe { numbers(gain, 0..width) };
    for row in share(x.ne[1..].iter().product::<i64>() as usize, thread, n_threads) {
        let row = row * width..(row + 1) * width;
        // SAFETY: operands and result are contiguous rows of one shape; no other thread has this row.
        let (x, gradient, addend, dx) = unsafe {
            let addend = addend.map(|addend| numbers(addend, row.clone()));
            (numbers(x, row.clone()), numbers(gradient, row.clone()), addend, numbers_mut(dst.data.cast(), row.clone()))
        };
        let square = dot(x.iter().copied(), x);
        let projection = dot(gradient.iter().zip(gain).map(|(gradient, gain)| gradient * gain), x);
        let inverse_rms = 1.0 / (square / width as f32 + eps).sqrt();
        let along = projection / width as f32 * inverse_rms * inverse_rms;
        for (((dx, gradient), gain), x) in dx.iter_mut().zip(gradient).zip(gain).zip(x) {
            *dx = (gradient * gain - x * along) * inverse_rms;
        }
        if let Some(addend) = addend {
            dx.iter_mut().zip(addend).for_each(|(dx, addend)| *dx += addend);
        }
    }
}

/// The sum of products, in independent sums so that the loop becomes vector instructions.
#[inline(always)]
fn dot(a: impl Iterator<Item = f32>, b: &[f32]) -> f32 {
    const LANES: usize = 32;
    let mut sums = [0.0f32; LANES];
    let mut a = a;
    let (chunks, rest) = b.as_chunks::<LANES>();
    for chunk in chunks {
        for (sum, b) in sums.iter_mut().zip(chunk) {
            *sum += a.next().unwrap_or(0.0) * b;
        }
    }
    rest.iter().zip(a).zip(&mut sums).for_each(|((b, a), sum)| *sum += a * b);
    sums.iter().sum()
}

/// Numbers `range` of a contiguous F32 tensor.
unsafe fn numbers(tensor: &sys::ggml_tensor, range: Range<usize>) -> &[f32] {
    // SAFETY: the caller knows the range to be inside, and that nobody writes there meanwhile.
    unsafe { std::slice::from_raw_parts(tensor.data.cast::<f32>().add(range.start), range.len()) }
}

/// Numbers `range` of those from `data` on, to be written.
unsafe fn numbers_mut<'a>(data: *mut f32, range: Range<usize>) -> &'a mut [f32] {
    // SAFETY: the caller knows the range to be inside a contiguous F32 tensor, and that it is nobody else's meanwhile.
    unsafe { std::slice::from_raw_parts_mut(data.add(range.start), range.len()) }
}
