//! Tensors with memory of their own.

use std::{fmt, ptr::NonNull, sync::Arc};

use llama_cpp_sys_2 as sys;

use crate::gguf::{GgmlType, GgufFile};

/// Dimensions in ggml's order, row length first; unused ones are 1.
pub type Shape = [usize; 4];

/// A tensor that keeps its numbers between graphs. Clones name the same memory.
#[derive(Clone)]
pub struct Stored {
    pub(super) storage: Arc<Storage>,
    pub(super) tensor: NonNull<sys::ggml_tensor>,
    pub(super) shape: Shape,
    pub(super) dtype: GgmlType,
}

/// The descriptions of tensors that lie in one buffer.
pub(super) struct Storage {
    pub(super) backend: u64,
    pub(super) _context: Context,
    pub(super) buffer: Arc<Buffer>,
    /// Whether the numbers may change; those of a file may not.
    pub(super) writable: bool,
}

/// Memory of a backend.
pub(super) struct Buffer {
    pub(super) raw: NonNull<sys::ggml_backend_buffer>,
    /// What keeps the bytes in place where they are not the buffer's own.
    pub(super) _memory: Memory,
}

/// What holds the bytes of a [`Buffer`].
pub(super) enum Memory {
    /// The buffer, or nothing.
    Own,
    /// A mapped file.
    File { _file: Arc<GgufFile> },
    /// Pages of the process.
    Pages { _pages: memmap2::MmapMut },
}

/// Memory that is laid out anew for every use: [`super::Backend::carve`].
#[derive(Default)]
pub struct Arena(pub(super) Option<Arc<Buffer>>);

// SAFETY: descriptions are not changed after construction, and the numbers in the buffer are read and written only by
// methods of the one `Backend` with the same id, which take `&mut self`.
unsafe impl Send for Storage {}
// SAFETY: as above; a shared `Storage` gives no access to the numbers.
unsafe impl Sync for Storage {}
// SAFETY: as for `Storage`; freeing a buffer is not tied to a thread.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}
// SAFETY: `tensor` points into `storage`, which the value keeps alive; see `Storage` for what may be done with it.
unsafe impl Send for Stored {}
// SAFETY: as above.
unsafe impl Sync for Stored {}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the buffer came from ggml, belongs to this value alone, and no graph refers to it: graphs hold clones.
        unsafe { sys::ggml_backend_buffer_free(self.raw.as_ptr()) };
    }
}

impl Arena {
    /// Bytes that it holds.
    pub fn n_bytes(&self) -> usize {
        // SAFETY: the buffer is alive.
        self.0.as_ref().map_or(0, |buffer| unsafe { sys::ggml_backend_buffer_get_size(buffer.raw.as_ptr()) })
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Arena({} bytes)", self.n_bytes())
    }
}

impl Stored {
    /// Dimensions, row length first.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// How the numbers are stored.
    pub fn dtype(&self) -> GgmlType {
        self.dtype
    }

    /// Number of elements.
    pub fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of memory.
    pub fn n_bytes(&self) -> usize {
        self.n_elements() / self.dtype.block_size() as usize * self.dtype.block_bytes() as usize
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stored({} {:?})", self.dtype, self.shape)
    }
}

/// A ggml context: memory for descriptions, never for numbers.
pub(super) struct Context(NonNull<sys::ggml_context>);

impl Context {
    /// Room for `n_tensors` descriptions and `extra_bytes` of other objects.
    pub(super) fn new(n_tensors: usize, extra_bytes: usize) -> Self {
        // SAFETY: no preconditions.
        let overhead = unsafe { sys::ggml_tensor_overhead() };
        let params = sys::ggml_init_params {
            mem_size: n_tensors * overhead + extra_bytes,
            mem_buffer: std::ptr::null_mut(),
            no_alloc: true,
        };
        // SAFETY: a null buffer makes ggml allocate; null is only returned when that fails.
        let raw = unsafe { sys::ggml_init(params) };
        Self(NonNull::new(raw).expect("ggml_init aborts when memory is out"))
    }

    pub(super) fn as_ptr(&self) -> *mut sys::ggml_context {
        self.0.as_ptr()
    }

    /// A description without memory. The caller has made sure that there is room for it.
    pub(super) fn describe(&self, dtype: GgmlType, shape: Shape) -> NonNull<sys::ggml_tensor> {
        let ne = shape.map(|n| i64::try_from(n).expect("dimensions come from memory that exists"));
        // SAFETY: the context is alive, `ne` has the four dimensions announced, and the type is one of ggml's.
        let raw = unsafe { sys::ggml_new_tensor(self.0.as_ptr(), dtype.id(), 4, ne.as_ptr()) };
        NonNull::new(raw).expect("ggml_new_tensor aborts when the context is full")
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context is owned, and nothing that points into it outlives its owner.
        unsafe { sys::ggml_free(self.0.as_ptr()) };
    }
}

/// Fills up to four dimensions with ones.
pub(super) fn full_shape(shape: &[usize]) -> Shape {
    assert!((1..=4).contains(&shape.len()) && !shape.contains(&0), "bad tensor shape {shape:?}");
    let mut full = [1; 4];
    full[..shape.len()].copy_from_slice(shape);
    full
}
