//! The operations. All are forward operations that the CPU, CUDA, Metal and Vulkan backends have; transposes and products have
//! forms of their own for the CPU.
//!
//! Each checks what ggml would abort on. Unless it says otherwise, operands are F32, results are contiguous F32, and
//! operands other than those of views must have contiguous rows.

use std::ffi::{c_int, c_void};

use llama_cpp_sys_2 as sys;

use super::{
    graph::{Graph, Tensor},
    product::{multiply_panels, pack_strips, packed_shape},
    stored::{Shape, full_shape},
    transpose::transpose_strips,
};
use crate::gguf::GgmlType;

/// The right operand of products, laid out for the kernels of the device.
#[derive(Clone, Copy, Debug)]
pub struct Packed {
    pub(super) tensor: Tensor,
    /// Of the operand as it was.
    shape: Shape,
}

/// Operands of ggml's operations are at most `GGML_MAX_SRC`, 10.
pub const MAX_PRODUCTS: usize = 4;

/// ggml's `GGML_N_TASKS_MAX`.
const ALL_THREADS: i32 = -1;

/// What computes an operation of our own: the result, the thread, the number of threads, user data.
pub(super) type Callback = unsafe extern "C" fn(*mut sys::ggml_tensor, c_int, c_int, *mut c_void);

impl Graph {
    /// `a[k, m] x b[k, n] -> [m, n]`, contracting over rows; `a` may be of any type, and its last two dimensions may divide
    /// those of `b`. `b` must be contiguous: CPU kernels for packed operands are several times faster.
    pub fn mul_mat(&mut self, a: Tensor, b: Tensor) -> Tensor {
        let (sa, sb) = (self.shape(a), self.shape(b));
        assert!(
            sa[0] == sb[0] && sb[2].is_multiple_of(sa[2]) && sb[3].is_multiple_of(sa[3]),
            "mul_mat of {sa:?} and {sb:?}"
        );
        let strides = self.strides(a);
        assert!(
            strides[0] == self.dtype(a).block_bytes() as usize && strides[0] <= strides[1],
            "mul_mat: transposed operand"
        );
        assert!(self.dtype(b) == GgmlType::F32 && self.is_contiguous(b), "mul_mat: second operand");
        self.binary(a, b, sys::ggml_mul_mat)
    }

    /// `b[k, n]` for [`Graph::product`], F32 of any strides. It has the numbers of `b` at this place of the graph.
    pub fn pack(&mut self, b: Tensor) -> Packed {
        assert_eq!(self.dtype(b), GgmlType::F32, "pack: operand");
        let shape = self.shape(b);
        if !self.has_custom_operations() {
            return Packed { tensor: self.contiguous(b), shape };
        }
        Packed { tensor: self.custom(packed_shape(shape), &[b], pack_strips), shape }
    }

    /// `a[k, m] x b[k, n] -> [m, n]`, contracting over rows, in F32. `a` may be of any type, and transposed; its last two
    /// dimensions may divide those of `b`. On the CPU sums do not depend on the number of threads.
    pub fn product(&mut self, a: Tensor, b: Packed) -> Tensor {
        self.sum_of_products(&[(a, b)])
    }

    /// The sum of products as [`Graph::product`] computes them, one to four, all of one shape; `k` may differ.
    pub fn sum_of_products(&mut self, products: &[(Tensor, Packed)]) -> Tensor {
        self.add_products(None, products)
    }

    /// The same sum, added to contiguous `addend` of the shape of the products.
    pub fn add_products(&mut self, addend: Option<Tensor>, products: &[(Tensor, Packed)]) -> Tensor {
        assert!((1..=MAX_PRODUCTS).contains(&products.len()), "{} products", products.len());
        let shape = |g: &Self, (a, b): (Tensor, Packed)| [g.shape(a)[1], b.shape[1], b.shape[2], b.shape[3]];
        let result = shape(self, products[0]);
        if let Some(addend) = addend {
            assert_eq!(self.shape(addend), result, "add_products: addend");
            self.check_contiguous("add_products", addend);
        }
        for &(a, b) in products {
            let (sa, sb) = (self.shape(a), b.shape);
            assert!(
                sa[0] == sb[0] && sb[2].is_multiple_of(sa[2]) && sb[3].is_multiple_of(sa[3]),
                "product of {sa:?} and {sb:?}"
            );
            assert_eq!(shape(self, (a, b)), result, "sum_of_products: shapes");
            let (dtype, strides) = (self.dtype(a), self.strides(a));
            let along = strides[usize::from(self.is_transpose(a))];
            assert!(dtype == GgmlType::F32 || along == dtype.block_bytes() as usize, "product: first operand");
        }
        if self.has_custom_operations() {
            let operands: Vec<_> = products.iter().flat_map(|&(a, b)| [a, b.tensor]).chain(addend).collect();
            let turns = self.turns().cast_mut().cast();
            return self.custom_with(result, &operands, multiply_panels, turns);
        }
        let terms: Vec<_> = products.iter().map(|&(a, b)| self.general_product(a, b)).collect();
        addend.into_iter().chain(terms).reduce(|sum, term| self.add(sum, term)).expect("at least one product")
    }

    /// A product from operations that all devices have.
    fn general_product(&mut self, a: Tensor, b: Packed) -> Tensor {
        let a = match self.is_transpose(a) {
            false if self.dtype(a) == GgmlType::F32 => self.contiguous(a),
            false => a,
            true => {
                let stored = self.transpose(a);
                let numbers = self.dequantize(stored);
                self.transposed(numbers)
            }
        };
        self.mul_mat(a, b.tensor)
    }

    /// A view of `a[m, n, ...]` as `[n, m, ...]`.
    pub fn transpose(&mut self, a: Tensor) -> Tensor {
        self.unary(a, sys::ggml_transpose)
    }

    /// `a + b`, `b` repeated to the shape of `a`.
    pub fn add(&mut self, a: Tensor, b: Tensor) -> Tensor {
        self.check_broadcast("add", a, b);
        self.binary(a, b, sys::ggml_add)
    }

    /// `a - b`, `b` repeated to the shape of `a`.
    pub fn sub(&mut self, a: Tensor, b: Tensor) -> Tensor {
        self.check_broadcast("sub", a, b);
        self.binary(a, b, sys::ggml_sub)
    }

    /// `a * b` element by element, `b` repeated to the shape of `a`.
    pub fn mul(&mut self, a: Tensor, b: Tensor) -> Tensor {
        self.check_broadcast("mul", a, b);
        self.binary(a, b, sys::ggml_mul)
    }

    /// `a / b` element by element, `b` repeated to the shape of `a`.
    pub fn div(&mut self, a: Tensor, b: Tensor) -> Tensor {
        self.check_broadcast("div", a, b);
        self.binary(a, b, sys::ggml_div)
    }

    /// Adds `b` to the memory of `a`, a result or a view of one; later operations see the sum.
    pub fn add_into(&mut self, a: Tensor, b: Tensor) {
        self.check_broadcast("add_into", a, b);
        self.binary(a, b, sys::ggml_add_inplace);
    }

    /// Copies `from` into the memory of `to`, of the same shape, converting between plain types.
    pub fn copy(&mut self, from: Tensor, to: Tensor) {
        assert_eq!(self.shape(from), self.shape(to), "copy: shapes");
        assert!(!self.dtype(from).is_quantized() && !self.dtype(to).is_quantized(), "copy: plain types only");
        self.binary(from, to, sys::ggml_cpy);
    }

    /// `scale * a + bias`; `a` contiguous.
    pub fn scale(&mut self, a: Tensor, scale: f32, bias: f32) -> Tensor {
        self.check_contiguous("scale", a);
        self.check_room();
        // SAFETY: the context has room, and the operand is contiguous F32.
        let result = unsafe { sys::ggml_scale_bias(self.context(), self.raw(a).as_ptr(), scale, bias) };
        self.push(result)
    }

    /// Square root of every element; `a` contiguous.
    pub fn sqrt(&mut self, a: Tensor) -> Tensor {
        self.check_contiguous("sqrt", a);
        self.unary(a, sys::ggml_sqrt)
    }

    /// Dot products of the rows of `a` with those of `b`, of one shape, both contiguous: `[n, ...] -> [1, ...]`.
    pub fn dot_rows(&mut self, a: Tensor, b: Tensor) -> Tensor {
        let shape = self.shape(a);
        assert_eq!(shape, self.shape(b), "dot_rows: shapes");
        // One matrix product per row: on the CPU it is vectorised and threaded, which a sum of rows is not.
        let rows = [shape[0], 1, shape[1..].iter().product()];
        let (a, b) = (self.reshape(a, &rows), self.reshape(b, &rows));
        let dots = self.mul_mat(a, b);
        self.reshape(dots, &[1, shape[1], shape[2], shape[3]])
    }

    /// `x / sqrt(mean(x^2) + eps)` of each row.
    pub fn rms_norm(&mut self, a: Tensor, eps: f32) -> Tensor {
        self.check_f32_rows("rms_norm", a);
        self.check_room();
        // SAFETY: the context has room, and the operand is F32 with contiguous rows.
        let result = unsafe { sys::ggml_rms_norm(self.context(), self.raw(a).as_ptr(), eps) };
        self.push(result)
    }

    /// `x * sigmoid(x)`; `a` contiguous.
    pub fn silu(&mut self, a: Tensor) -> Tensor {
        self.check_contiguous("silu", a);
        self.unary(a, sys::ggml_silu)
    }

    /// `gradient * d silu(x) / dx`; both contiguous, of one shape.
    pub fn silu_back(&mut self, gradient: Tensor, x: Tensor) -> Tensor {
        assert_eq!(self.shape(gradient), self.shape(x), "silu_back: shapes");
        self.check_contiguous("silu_back", gradient);
        self.check_contiguous("silu_back", x);
        self.binary(gradient, x, sys::ggml_silu_back)
    }

    /// Softmax of each row of `a + mask`; `mask` is `[n, rows]` and serves all further dimensions of `a`. Both contiguous.
    pub fn soft_max(&mut self, a: Tensor, mask: Tensor) -> Tensor {
        let (sa, sm) = (self.shape(a), self.shape(mask));
        assert!(sm == [sa[0], sa[1], 1, 1], "soft_max: mask {sm:?} for {sa:?}");
        self.check_contiguous("soft_max", a);
        self.check_contiguous("soft_max", mask);
        self.check_room();
        let (a, mask) = (self.raw(a).as_ptr(), self.raw(mask).as_ptr());
        // SAFETY: the context has room, and the operands are as checked.
        let result = unsafe { sys::ggml_soft_max_ext(self.context(), a, mask, 1.0, 0.0) };
        self.push(result)
    }

    /// Rows `rows` (I32 `[n]`, each below the number of rows) of the matrix `a`, of any type: `[k, n]` in F32.
    pub fn get_rows(&mut self, a: Tensor, rows: Tensor) -> Tensor {
        let (sa, sr) = (self.shape(a), self.shape(rows));
        assert!(sa[2..] == [1, 1] && sr[1..] == [1, 1, 1], "get_rows of {sa:?} by {sr:?}");
        assert!(self.dtype(rows) == GgmlType::I32 && self.has_contiguous_rows(a), "get_rows: operands");
        self.binary(a, rows, sys::ggml_get_rows)
    }

    /// `a` in F32; itself if it is already.
    pub fn dequantize(&mut self, a: Tensor) -> Tensor {
        if self.dtype(a) == GgmlType::F32 {
            return a;
        }
        assert!(self.has_contiguous_rows(a), "dequantize: operand");
        self.check_room();
        // SAFETY: the context has room; the operand has contiguous rows of whole blocks.
        let result = unsafe { sys::ggml_cast(self.context(), self.raw(a).as_ptr(), sys::GGML_TYPE_F32) };
        self.push(result)
    }

    /// A contiguous copy; `a` itself if it is contiguous.
    pub fn contiguous(&mut self, a: Tensor) -> Tensor {
        if self.is_contiguous(a) { a } else { self.unary(a, sys::ggml_cont) }
    }

    /// The matrix `a[m, n, ...]` as a new contiguous `[n, m, ...]`.
    pub fn transposed(&mut self, a: Tensor) -> Tensor {
        if !self.has_custom_operations() {
            let view = self.transpose(a);
            return self.contiguous(view);
        }
        self.check_f32_rows("transposed", a);
        let [m, n, n2, n3] = self.shape(a);
        self.custom([n, m, n2, n3], &[a], transpose_strips)
    }

    /// A view with dimension `i` of `a` at `axes[i]`.
    pub fn permute(&mut self, a: Tensor, axes: [usize; 4]) -> Tensor {
        let mut sorted = axes;
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3], "permute: axes {axes:?}");
        self.check_room();
        let [x, y, z, w] = axes.map(|axis| axis as i32);
        // SAFETY: the context has room, and the axes are a permutation.
        let view = unsafe { sys::ggml_permute(self.context(), self.raw(a).as_ptr(), x, y, z, w) };
        self.push(view)
    }

    /// A view of contiguous `a` in another shape with as many elements.
    pub fn reshape(&mut self, a: Tensor, shape: &[usize]) -> Tensor {
        let shape = full_shape(shape);
        let old = self.shape(a);
        assert_eq!(old.iter().product::<usize>(), shape.iter().product::<usize>(), "reshape of {old:?} to {shape:?}");
        assert!(self.is_contiguous(a), "reshape: operand is not contiguous");
        self.check_room();
        let [x, y, z, w] = shape.map(|n| n as i64);
        // SAFETY: the context has room; the operand is contiguous with the same number of elements.
        let view = unsafe { sys::ggml_reshape_4d(self.context(), self.raw(a).as_ptr(), x, y, z, w) };
        self.push(view)
    }

    /// A view of `n` entries from `start` on along dimension `axis`; packed types cannot be cut along 0.
    pub fn slice(&mut self, a: Tensor, axis: usize, start: usize, n: usize) -> Tensor {
        let (mut shape, strides) = (self.shape(a), self.strides(a));
        assert!(n > 0 && start + n <= shape[axis], "slice {start}+{n} of axis {axis} of {shape:?}");
        assert!(axis > 0 || !self.dtype(a).is_quantized(), "slice: packed rows cannot be cut");
        shape[axis] = n;
        self.check_room();
        let [x, y, z, w] = shape.map(|n| n as i64);
        let (a, offset) = (self.raw(a).as_ptr(), start * strides[axis]);
        // SAFETY: the context has room, and the range was checked to lie inside the operand.
        let view =
            unsafe { sys::ggml_view_4d(self.context(), a, x, y, z, w, strides[1], strides[2], strides[3], offset) };
        self.push(view)
    }

    /// An operation of our own on the CPU: a contiguous F32 result of `shape`, computed by all threads.
    pub(super) fn custom(&mut self, shape: Shape, operands: &[Tensor], callback: Callback) -> Tensor {
        self.custom_with(shape, operands, callback, std::ptr::null_mut())
    }

    /// As [`Graph::custom`], for callbacks that want user data.
    pub(super) fn custom_with(
        &mut self,
        shape: Shape,
        operands: &[Tensor],
        callback: Callback,
        user_data: *mut c_void,
    ) -> Tensor {
        self.check_room();
        let mut operands: Vec<_> = operands.iter().map(|&operand| self.raw(operand).as_ptr()).collect();
        let [x, y, z, w] = shape.map(|n| n as i64);
        // SAFETY: the context has room; each callback gets the operands, the shape and the user data that it is written for.
        // The list of operands is read during the call only.
        let result = unsafe {
            let (context, n_operands) = (self.context(), operands.len() as i32);
            let operands = operands.as_mut_ptr();
            let dtype = sys::GGML_TYPE_F32;
            sys::ggml_custom_4d(
                context,
                dtype,
                x,
                y,
                z,
                w,
                operands,
                n_operands,
                Some(callback),
                ALL_THREADS,
                user_data,
            )
        };
        self.push(result)
    }

    fn unary(
        &mut self,
        a: Tensor,
        operation: unsafe extern "C" fn(*mut sys::ggml_context, *mut sys::ggml_tensor) -> *mut sys::ggml_tensor,
    ) -> Tensor {
        self.check_room();
        // SAFETY: the context has room; the caller has checked the operand.
        let result = unsafe { operation(self.context(), self.raw(a).as_ptr()) };
        self.push(result)
    }

    pub(super) fn binary(
        &mut self,
        a: Tensor,
        b: Tensor,
        operation: unsafe extern "C" fn(
            *mut sys::ggml_context,
            *mut sys::ggml_tensor,
            *mut sys::ggml_tensor,
        ) -> *mut sys::ggml_tensor,
    ) -> Tensor {
        self.check_room();
        // SAFETY: the context has room; the caller has checked the operands.
        let result = unsafe { operation(self.context(), self.raw(a).as_ptr(), self.raw(b).as_ptr()) };
        self.push(result)
    }

    fn check_broadcast(&self, what: &str, a: Tensor, b: Tensor) {
        let (sa, sb) = (self.shape(a), self.shape(b));
        assert!(sa.iter().zip(sb).all(|(n, part)| n.is_multiple_of(part)), "{what}: {sb:?} does not repeat to {sa:?}");
        self.check_f32_rows(what, a);
        self.check_f32_rows(what, b);
    }

    pub(super) fn check_f32_rows(&self, what: &str, a: Tensor) {
        assert!(
            self.dtype(a) == GgmlType::F32 && self.has_contiguous_rows(a),
            "{what}: operand is not F32 in contiguous rows"
        );
    }

    pub(super) fn check_contiguous(&self, what: &str, a: Tensor) {
        assert!(self.dtype(a) == GgmlType::F32 && self.is_contiguous(a), "{what}: operand is not contiguous F32");
    }
}
