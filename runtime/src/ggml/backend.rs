//! The device that computes, its threads and its memory.

use std::{
    fmt,
    ptr::{self, NonNull},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use llama_cpp_sys_2 as sys;

use super::{
    graph::Graph,
    stored::{Arena, Buffer, Context, Memory, Storage, Stored, full_shape},
};
use crate::{
    Error, ErrorKind, Result,
    gguf::{GgmlType, GgufFile},
};

/// Alignment that ggml demands of memory that it did not allocate.
const POINTER_ALIGNMENT: usize = 32;

/// How long a thread spins for the next graph before it sleeps: some milliseconds. ggml's default of 50 would keep the cores
/// from whatever runs between two graphs, such as the rollouts.
const IDLE_POLL: u32 = 1;

/// Parts of an arena start on cache lines; no backend asks for more than this.
const CARVE_ALIGNMENT: usize = 256;

/// The address of tensors without memory: ggml takes null for a mistake.
const NO_MEMORY: *mut std::ffi::c_void = ptr::without_provenance_mut(1 << 12);

/// ggml's own limit, `GGML_MAX_N_THREADS`.
const MAX_THREADS: usize = 512;

/// A device with its persistent threads and the scratch memory of its graphs.
pub struct Backend {
    id: u64,
    raw: NonNull<sys::ggml_backend>,
    /// ggml starts and joins threads for every graph unless it is given a pool.
    threads: NonNull<sys::ggml_threadpool>,
    /// Kept between graphs: it grows to the largest and is not returned to the system.
    scratch: NonNull<sys::ggml_gallocr>,
    n_threads: usize,
    /// Of a backend that only measures: what its graphs would have needed so far.
    measured: Option<Measured>,
}

/// Bytes that graphs need, at most.
#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    scratch: usize,
    work: usize,
}

// SAFETY: the three objects belong to this value alone, ggml ties none of them to a thread, and every use of them
// takes `&mut self` but for queries that do not change them.
unsafe impl Send for Backend {}

impl Backend {
    /// The processor with `n_threads` threads, at least 1, the caller's among them. Results depend on the number of
    /// threads in the last bits, and on nothing else.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a number of threads outside 1..=512, [`ErrorKind::Backend`] when ggml cannot
    /// start.
    pub fn cpu(n_threads: usize) -> Result<Self> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        if !(1..=MAX_THREADS).contains(&n_threads) {
            let error = Error::new(ErrorKind::InvalidInput, "number of threads").got(n_threads);
            return Err(error.needed(format!("1..={MAX_THREADS}")));
        }
        crate::backend::init()?;
        let failed = |what: &str| Error::new(ErrorKind::Backend, format!("cannot create the ggml {what}"));
        // SAFETY: the type is one of ggml's; null parameters are allowed.
        let raw = unsafe { sys::ggml_backend_init_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU, ptr::null()) };
        let raw = NonNull::new(raw).ok_or_else(|| failed("processor backend"))?;
        // SAFETY: `raw` is alive; asking for its default buffer type has no other precondition.
        let scratch = unsafe { sys::ggml_gallocr_new(sys::ggml_backend_get_default_buffer_type(raw.as_ptr())) };
        let scratch = NonNull::new(scratch).ok_or_else(|| failed("graph allocator"))?;
        // SAFETY: the parameters are initialised by ggml for a number of threads within its limit.
        let threads = unsafe {
            let mut params = sys::ggml_threadpool_params_default(n_threads as i32);
            params.poll = IDLE_POLL;
            sys::ggml_threadpool_new(&raw mut params)
        };
        let threads = NonNull::new(threads).ok_or_else(|| failed("thread pool"))?;
        // SAFETY: `raw` is the processor backend, and the pool outlives it (see `Drop`).
        unsafe {
            sys::ggml_backend_cpu_set_n_threads(raw.as_ptr(), n_threads as i32);
            sys::ggml_backend_cpu_set_threadpool(raw.as_ptr(), threads.as_ptr());
        }
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Ok(Self { id, raw, threads, scratch, n_threads, measured: None })
    }

    /// As [`Backend::cpu`], but it only measures: tensors have sizes and no memory, writes are dropped, numbers read are 0,
    /// and graphs are laid out and not computed. What [`Arena::n_bytes`], [`Backend::scratch_bytes`] and
    /// [`Backend::work_bytes`] then tell is what the same calls would take on a backend that computes.
    ///
    /// # Errors
    /// As [`Backend::cpu`].
    pub fn measuring(n_threads: usize) -> Result<Self> {
        let mut backend = Self::cpu(n_threads)?;
        backend.measured = Some(Measured::default());
        Ok(backend)
    }

    /// Number of threads, the caller's among them.
    pub fn n_threads(&self) -> usize {
        self.n_threads
    }

    /// An empty graph for this device, with room for `capacity` tensors: inputs, views and results.
    pub fn graph(&self, capacity: usize) -> Graph {
        Graph::new(capacity, self.has_attention())
    }

    /// Whether the device has attention of our own ([`Graph::attention`]): the CPU does.
    pub fn has_attention(&self) -> bool {
        // SAFETY: the backend is alive.
        unsafe { sys::ggml_backend_is_cpu(self.raw.as_ptr()) }
    }

    /// Bytes of scratch memory that the largest graph so far needed.
    pub fn scratch_bytes(&self) -> usize {
        if let Some(measured) = self.measured {
            return measured.scratch;
        }
        // SAFETY: the allocator is alive and has exactly one buffer, number 0.
        unsafe { sys::ggml_gallocr_get_buffer_size(self.scratch.as_ptr(), 0) }
    }

    /// Bytes that the kernels need beside the scratch, in the most demanding graph so far: operands that are rounded to
    /// the type of a weight. Known only to a backend that measures, else 0.
    pub fn work_bytes(&self) -> usize {
        self.measured.map_or(0, |measured| measured.work)
    }

    /// Tensors with memory of their own, in one buffer, their numbers undefined.
    ///
    /// # Errors
    /// [`ErrorKind::Limit`] when the memory cannot be had.
    ///
    /// # Panics
    /// For a shape of no or more than four dimensions or with a zero, or rows that are not whole blocks.
    pub fn allocate(&self, tensors: &[(GgmlType, &[usize])]) -> Result<Vec<Stored>> {
        self.carve(&mut Arena::default(), tensors)
    }

    /// As [`Backend::allocate`], in the memory of `arena`, which grows if it must. Tensors carved earlier keep their
    /// shapes, but share memory with the new ones.
    ///
    /// # Errors
    /// As [`Backend::allocate`].
    ///
    /// # Panics
    /// As [`Backend::allocate`].
    pub fn carve(&self, arena: &mut Arena, tensors: &[(GgmlType, &[usize])]) -> Result<Vec<Stored>> {
        if tensors.is_empty() {
            return Ok(Vec::new());
        }
        let context = Context::new(tensors.len(), 0);
        let mut n_bytes = 0usize;
        let described: Vec<_> = tensors
            .iter()
            .map(|&(dtype, shape)| {
                let shape = full_shape(shape);
                assert!(
                    shape[0].is_multiple_of(dtype.block_size() as usize),
                    "{shape:?} is not whole blocks of {dtype}"
                );
                let tensor = context.describe(dtype, shape);
                let offset = n_bytes;
                // SAFETY: the buffer type is that of a live backend, and the description is complete.
                let size = unsafe {
                    let kind = sys::ggml_backend_get_default_buffer_type(self.raw.as_ptr());
                    sys::ggml_backend_buft_get_alloc_size(kind, tensor.as_ptr())
                };
                n_bytes += size.next_multiple_of(CARVE_ALIGNMENT);
                (tensor, shape, dtype, offset)
            })
            .collect();
        let buffer = match &arena.0 {
            Some(buffer) if arena.n_bytes() >= n_bytes => Arc::clone(buffer),
            _ => {
                // The old memory goes first where nobody uses it: both at once may not fit.
                arena.0 = None;
                let buffer = self.memory(n_bytes).ok_or_else(|| {
                    Error::new(ErrorKind::Limit, "out of memory for tensors").needed(format!("{n_bytes} bytes"))
                })?;
                Arc::clone(arena.0.insert(Arc::new(buffer)))
            }
        };
        // SAFETY: the buffer is alive; every tensor gets a part of it that is inside, aligned and its own.
        unsafe {
            let base = sys::ggml_backend_buffer_get_base(buffer.raw.as_ptr());
            for (tensor, .., offset) in &described {
                let status =
                    sys::ggml_backend_tensor_alloc(buffer.raw.as_ptr(), tensor.as_ptr(), base.byte_add(*offset));
                assert_eq!(status, sys::GGML_STATUS_SUCCESS, "ggml refused a part of its own buffer");
            }
        }
        let storage = Arc::new(Storage { backend: self.id, _context: context, buffer, writable: true });
        let stored = |(tensor, shape, dtype, _)| Stored { storage: Arc::clone(&storage), tensor, shape, dtype };
        Ok(described.into_iter().map(stored).collect())
    }

    /// A buffer of `n_bytes`; `None` when they cannot be had. The processor's are pages of their own, which go back to the
    /// system with the buffer: in a heap they leave holes, and a plan of the peak would be wrong by the largest of them.
    fn memory(&self, n_bytes: usize) -> Option<Buffer> {
        if self.measured.is_some() {
            // SAFETY: nothing reads or writes through the address: `measured` keeps reads, writes and graphs away.
            let raw = unsafe { sys::ggml_backend_cpu_buffer_from_ptr(NO_MEMORY, n_bytes) };
            return Some(Buffer { raw: NonNull::new(raw)?, _memory: Memory::Own });
        }
        // SAFETY: the backend is alive.
        if !unsafe { sys::ggml_backend_is_cpu(self.raw.as_ptr()) } {
            // SAFETY: the backend is alive.
            let raw = unsafe { sys::ggml_backend_alloc_buffer(self.raw.as_ptr(), n_bytes) };
            return Some(Buffer { raw: NonNull::new(raw)?, _memory: Memory::Own });
        }
        let mut pages = memmap2::MmapMut::map_anon(n_bytes).ok()?;
        // SAFETY: the pages are aligned, have that many bytes, and live as long as the buffer, which alone uses them.
        let raw = unsafe { sys::ggml_backend_cpu_buffer_from_ptr(pages.as_mut_ptr().cast(), n_bytes) };
        Some(Buffer { raw: NonNull::new(raw)?, _memory: Memory::Pages { _pages: pages } })
    }

    /// The tensor `name` of `file`. Its bytes are used where they are mapped, and copied only if the file is not aligned
    /// as ggml needs it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidFile`] if there is no such tensor, [`ErrorKind::Limit`] when memory for a copy cannot be had.
    pub fn weight(&mut self, file: &Arc<GgufFile>, name: &str) -> Result<Stored> {
        let info = file
            .tensor(name)
            .ok_or_else(|| Error::new(ErrorKind::InvalidFile, "missing tensor").at(name).at(file.path().display()))?;
        let shape: Vec<usize> = info.shape.iter().map(|&n| n as usize).collect();
        let data = file.data(info);
        if data.as_ptr().align_offset(POINTER_ALIGNMENT) != 0 {
            let stored = self.allocate(&[(info.dtype, &shape)])?.remove(0);
            self.write_bytes(&stored, data);
            return Ok(stored);
        }
        let context = Context::new(1, 0);
        let shape = full_shape(&shape);
        let tensor = context.describe(info.dtype, shape);
        // SAFETY: the slice stays mapped while `_file` lives, it is aligned, and `writable: false` keeps every write away
        // from it; the length of the slice is that of the tensor, which `GgufFile` guarantees.
        let buffer = unsafe {
            let base = data.as_ptr().cast_mut().cast();
            let buffer = sys::ggml_backend_cpu_buffer_from_ptr(base, data.len());
            let status = sys::ggml_backend_tensor_alloc(buffer, tensor.as_ptr(), base);
            debug_assert_eq!(status, sys::GGML_STATUS_SUCCESS);
            NonNull::new(buffer).expect("ggml allocates a description or aborts")
        };
        let buffer = Arc::new(Buffer { raw: buffer, _memory: Memory::File { _file: Arc::clone(file) } });
        let storage = Storage { backend: self.id, _context: context, buffer, writable: false };
        Ok(Stored { storage: Arc::new(storage), tensor, shape, dtype: info.dtype })
    }

    /// Replaces the numbers of an F32 tensor.
    ///
    /// # Panics
    /// If `values` has another length or `stored` is of another type or backend.
    pub fn write(&mut self, stored: &Stored, values: &[f32]) {
        assert_eq!(stored.dtype, GgmlType::F32);
        self.write_bytes(stored, bytemuck::cast_slice(values));
    }

    /// Replaces the numbers of an F32 tensor from element `start` on.
    ///
    /// # Panics
    /// As [`Backend::read`]; also for weights of a file.
    pub fn write_part(&mut self, stored: &Stored, start: usize, values: &[f32]) {
        self.check_part(stored, start, values.len());
        assert!(stored.storage.writable, "weights of a file are read-only");
        if self.measured.is_some() {
            return;
        }
        let bytes: &[u8] = bytemuck::cast_slice(values);
        // SAFETY: the range is inside the tensor, and `&mut self` keeps others away from it.
        unsafe { sys::ggml_backend_tensor_set(stored.tensor.as_ptr(), bytes.as_ptr().cast(), start * 4, bytes.len()) };
    }

    /// Replaces the numbers of an I32 tensor.
    ///
    /// # Panics
    /// As [`Backend::write`].
    pub fn write_i32(&mut self, stored: &Stored, values: &[i32]) {
        assert_eq!(stored.dtype, GgmlType::I32);
        self.write_bytes(stored, bytemuck::cast_slice(values));
    }

    /// Sets every number to zero.
    ///
    /// # Panics
    /// If `stored` belongs to another backend or is mapped from a file.
    pub fn zero(&mut self, stored: &Stored) {
        self.check_owner(stored);
        assert!(stored.storage.writable, "weights of a file are read-only");
        if self.measured.is_some() {
            return;
        }
        // SAFETY: the tensor has memory of that size, and `&mut self` keeps others away from it.
        unsafe { sys::ggml_backend_tensor_memset(stored.tensor.as_ptr(), 0, 0, stored.n_bytes()) };
    }

    /// Copies the numbers of an F32 tensor out, starting at element `start`.
    ///
    /// # Panics
    /// If the range is not inside the tensor or `stored` is of another type or backend.
    pub fn read(&mut self, stored: &Stored, start: usize, values: &mut [f32]) {
        self.check_part(stored, start, values.len());
        if self.measured.is_some() {
            values.fill(0.0);
            return;
        }
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(values);
        // SAFETY: the range is inside the tensor, the destination has its length, and `&mut self` excludes writers.
        unsafe {
            sys::ggml_backend_tensor_get(stored.tensor.as_ptr(), bytes.as_mut_ptr().cast(), start * 4, bytes.len());
        }
    }

    /// All numbers of an F32 tensor.
    ///
    /// # Panics
    /// As [`Backend::read`].
    pub fn read_all(&mut self, stored: &Stored) -> Vec<f32> {
        let mut values = vec![0.0; stored.n_elements()];
        self.read(stored, 0, &mut values);
        values
    }

    /// Gives the first `n` numbers of an F32 tensor to `change`: where they lie if the processor computes, otherwise in a copy
    /// that is written back. A backend that measures gives zeros.
    ///
    /// # Panics
    /// As [`Backend::write_part`].
    pub fn change<T>(&mut self, stored: &Stored, n: usize, change: impl FnOnce(&mut [f32]) -> T) -> T {
        self.check_part(stored, 0, n);
        assert!(stored.storage.writable, "weights of a file are read-only");
        // SAFETY: the buffer is alive.
        let is_host = unsafe { sys::ggml_backend_buffer_is_host(stored.storage.buffer.raw.as_ptr()) };
        if is_host && self.measured.is_none() {
            // SAFETY: the tensor has `n` numbers in memory of this process, and `&mut self` keeps others away from them.
            let values = unsafe {
                let data = stored.tensor.as_ref().data.cast::<f32>();
                std::slice::from_raw_parts_mut(data, n)
            };
            return change(values);
        }
        let mut values = vec![0.0; n];
        self.read(stored, 0, &mut values);
        let result = change(&mut values);
        self.write_part(stored, 0, &values);
        result
    }

    /// Another name for the first numbers of an F32 tensor, in another shape. Both name the same memory.
    ///
    /// # Panics
    /// If the shape has more numbers than the tensor, or `stored` is of another type or backend.
    pub fn view(&self, stored: &Stored, shape: &[usize]) -> Stored {
        let shape = full_shape(shape);
        self.check_part(stored, 0, shape.iter().product());
        let context = Context::new(1, 0);
        let tensor = context.describe(stored.dtype, shape);
        let Storage { buffer, writable, .. } = &*stored.storage;
        // SAFETY: the numbers of the new description are among those of the old one, in a buffer that both keep alive.
        unsafe {
            let status =
                sys::ggml_backend_tensor_alloc(buffer.raw.as_ptr(), tensor.as_ptr(), stored.tensor.as_ref().data);
            assert_eq!(status, sys::GGML_STATUS_SUCCESS, "ggml refused a part of its own buffer");
        }
        let storage = Storage { backend: self.id, _context: context, buffer: Arc::clone(buffer), writable: *writable };
        Stored { storage: Arc::new(storage), tensor, shape, dtype: stored.dtype }
    }

    /// Computes every operation of `graph`, in order.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if this backend lacks an operation, [`ErrorKind::Limit`] when the scratch memory cannot
    /// be had, [`ErrorKind::Backend`] if ggml reports a failure.
    ///
    /// # Panics
    /// If the graph uses a tensor of another backend.
    pub fn run(&mut self, graph: Graph) -> Result<()> {
        graph.stored().iter().for_each(|stored| self.check_owner(stored));
        if let Some(operation) = graph.nodes().find(|&node| {
            // SAFETY: nodes live as long as the graph; the query changes nothing.
            unsafe { !sys::ggml_backend_supports_op(self.raw.as_ptr(), node) }
        }) {
            // SAFETY: as above; operation descriptions are static strings.
            let name = unsafe { std::ffi::CStr::from_ptr(sys::ggml_op_desc(operation)) };
            return Err(
                Error::new(ErrorKind::Unsupported, "operation missing on this device").got(name.to_string_lossy())
            );
        }
        if let Some(measured) = &mut self.measured {
            let mut scratch = 0;
            // SAFETY: allocator and graph are alive, and there is one buffer, whose size is written; nothing is allocated.
            // The plan only reads the graph's shapes and types; it may do without a thread pool.
            let work = unsafe {
                let (graph, everywhere) = (graph.as_ptr(), ptr::null());
                sys::ggml_gallocr_reserve_n_size(
                    self.scratch.as_ptr(),
                    graph,
                    everywhere,
                    everywhere,
                    &raw mut scratch,
                );
                sys::ggml_graph_plan(graph, self.n_threads as i32, ptr::null_mut()).work_size
            };
            *measured = Measured { scratch: measured.scratch.max(scratch), work: measured.work.max(work) };
            return Ok(());
        }
        // SAFETY: allocator and graph are alive; results of earlier graphs in this memory can no longer be named, since
        // their graphs were consumed.
        if !unsafe { sys::ggml_gallocr_alloc_graph(self.scratch.as_ptr(), graph.as_ptr()) } {
            return Err(Error::new(ErrorKind::Limit, "out of memory for the scratch of a graph"));
        }
        // SAFETY: all tensors of the graph have memory, in the scratch buffer or in storage that the graph keeps alive;
        // the checks in `ops.rs` make every operation fit its operands.
        match unsafe { sys::ggml_backend_graph_compute(self.raw.as_ptr(), graph.as_ptr()) } {
            sys::GGML_STATUS_SUCCESS => Ok(()),
            status => Err(Error::new(ErrorKind::Backend, "graph failed").got(format!("ggml status {status}"))),
        }
    }

    pub(super) fn write_bytes(&mut self, stored: &Stored, bytes: &[u8]) {
        self.check_owner(stored);
        assert!(stored.storage.writable, "weights of a file are read-only");
        assert_eq!(bytes.len(), stored.n_bytes(), "length of {stored:?}");
        if self.measured.is_some() {
            return;
        }
        // SAFETY: the tensor has memory of that size, and `&mut self` keeps others away from it.
        unsafe { sys::ggml_backend_tensor_set(stored.tensor.as_ptr(), bytes.as_ptr().cast(), 0, bytes.len()) };
    }

    fn check_part(&self, stored: &Stored, start: usize, n: usize) {
        self.check_owner(stored);
        assert_eq!(stored.dtype, GgmlType::F32);
        assert!(start.checked_add(n).is_some_and(|end| end <= stored.n_elements()), "range outside {stored:?}");
    }

    fn check_owner(&self, stored: &Stored) {
        assert_eq!(stored.storage.backend, self.id, "{stored:?} belongs to another backend");
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // SAFETY: each object is owned and freed once; the pool goes last because the backend refers to it.
        unsafe {
            sys::ggml_gallocr_free(self.scratch.as_ptr());
            sys::ggml_backend_free(self.raw.as_ptr());
            sys::ggml_threadpool_free(self.threads.as_ptr());
        }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").field("n_threads", &self.n_threads).finish_non_exhaustive()
    }
}
