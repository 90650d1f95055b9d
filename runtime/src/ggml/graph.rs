//! Recording of operations.

use std::{
    ffi::CStr,
    fmt,
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};

use llama_cpp_sys_2 as sys;

use super::{
    attention::Work,
    stored::{Context, Shape, Stored, full_shape},
    turns::Turns,
};
use crate::gguf::GgmlType;

/// A result, an input or a view inside one [`Graph`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    graph: u32,
    index: u32,
}

/// Operations in the order in which they will run. [`super::Backend::graph`] makes it, [`super::Backend::run`] consumes it.
///
/// The order matters where memory is changed in place ([`Graph::add_into`], [`Graph::copy`]):
/// operations recorded before see the old numbers, those recorded after see the new ones.
pub struct Graph {
    id: u32,
    context: Context,
    raw: NonNull<sys::ggml_cgraph>,
    tensors: Vec<NonNull<sys::ggml_tensor>>,
    capacity: usize,
    /// What the leaves name: kept alive until the graph has run.
    stored: Vec<Stored>,
    /// Of operations of our own; at addresses that stay.
    #[expect(clippy::vec_box, reason = "operations point to them while the vector grows")]
    turns: Vec<Box<Turns>>,
    /// The same of attention.
    #[expect(clippy::vec_box, reason = "operations point to them while the vector grows")]
    attention: Vec<Box<Work>>,
    has_custom_operations: bool,
}

// SAFETY: everything the graph points to is owned by it or, through `stored`, kept alive by it; nothing is tied to a thread.
unsafe impl Send for Graph {}

impl Graph {
    /// An empty graph with room for `capacity` tensors.
    pub(super) fn new(capacity: usize, has_custom_operations: bool) -> Self {
        static NEXT_ID: AtomicU32 = AtomicU32::new(0);
        // SAFETY: no preconditions.
        let graph_bytes = unsafe { sys::ggml_graph_overhead_custom(capacity, false) };
        let context = Context::new(capacity, graph_bytes);
        // SAFETY: the context was made with room for this graph.
        let raw = unsafe { sys::ggml_new_graph_custom(context.as_ptr(), capacity, false) };
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            context,
            raw: NonNull::new(raw).expect("the context has room for the graph"),
            tensors: Vec::with_capacity(capacity),
            capacity,
            stored: Vec::new(),
            turns: Vec::new(),
            attention: Vec::new(),
            has_custom_operations,
        }
    }

    /// Brings a stored tensor into the graph.
    pub fn leaf(&mut self, stored: &Stored) -> Tensor {
        self.check_room();
        let tensor = self.context.describe(stored.dtype, stored.shape);
        self.attach(tensor, stored);
        self.push(tensor.as_ptr())
    }

    /// Blank F32 scratch, for operations that write in place. Its numbers are undefined.
    pub fn scratch(&mut self, shape: &[usize]) -> Tensor {
        self.check_room();
        let tensor = self.context.describe(GgmlType::F32, full_shape(shape));
        self.push(tensor.as_ptr())
    }

    /// Makes `tensor` be computed straight into the memory of `stored`, which no operation of this graph may read
    /// otherwise.
    ///
    /// # Panics
    /// If `tensor` is a view or an input, or type or shape differ.
    pub fn place(&mut self, tensor: Tensor, stored: &Stored) {
        let raw = self.raw(tensor);
        assert_eq!((self.dtype(tensor), self.shape(tensor)), (stored.dtype, stored.shape), "place: type and shape");
        assert!(stored.storage.writable, "weights of a file are read-only");
        // SAFETY: `raw` belongs to this graph; its fields are plain data.
        let placeable = unsafe { raw.as_ref().view_src.is_null() && raw.as_ref().data.is_null() };
        assert!(placeable && self.is_contiguous(tensor), "place: only results can be placed, once");
        self.attach(raw, stored);
    }

    /// Dimensions of `tensor`, row length first.
    pub fn shape(&self, tensor: Tensor) -> Shape {
        // SAFETY: `raw` checks that the tensor belongs to this graph, whose context keeps it.
        unsafe { self.raw(tensor).as_ref() }.ne.map(|n| n as usize)
    }

    /// Type of the numbers of `tensor`.
    pub fn dtype(&self, tensor: Tensor) -> GgmlType {
        // SAFETY: as in `shape`.
        let id = unsafe { self.raw(tensor).as_ref() }.type_;
        GgmlType::from_id(id).expect("tensors are made with a `GgmlType`")
    }

    /// Names of the operations recorded, views and inputs left out.
    pub fn operations(&self) -> Vec<String> {
        self.nodes()
            .map(|node| {
                // SAFETY: nodes live as long as the graph; descriptions are static strings.
                unsafe { CStr::from_ptr(sys::ggml_op_desc(node)) }.to_string_lossy().into_owned()
            })
            .filter(|name| !["NONE", "VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE"].contains(&name.as_str()))
            .collect()
    }

    /// Bytes between neighbours along each dimension.
    pub(super) fn strides(&self, tensor: Tensor) -> [usize; 4] {
        // SAFETY: as in `shape`.
        unsafe { self.raw(tensor).as_ref() }.nb
    }

    pub(super) fn is_contiguous(&self, tensor: Tensor) -> bool {
        // SAFETY: as in `shape`; the query changes nothing.
        unsafe { sys::ggml_is_contiguous(self.raw(tensor).as_ptr()) }
    }

    pub(super) fn has_contiguous_rows(&self, tensor: Tensor) -> bool {
        // SAFETY: as in `shape`; the query changes nothing.
        unsafe { sys::ggml_is_contiguous_rows(self.raw(tensor).as_ptr()) }
    }

    /// Whether `tensor` is what [`Graph::transpose`] gives.
    pub(super) fn is_transpose(&self, tensor: Tensor) -> bool {
        // SAFETY: as in `shape`.
        unsafe { self.raw(tensor).as_ref() }.op == sys::GGML_OP_TRANSPOSE
    }

    pub(super) fn raw(&self, tensor: Tensor) -> NonNull<sys::ggml_tensor> {
        assert_eq!(tensor.graph, self.id, "tensor of another graph");
        self.tensors[tensor.index as usize]
    }

    pub(super) fn as_ptr(&self) -> *mut sys::ggml_cgraph {
        self.raw.as_ptr()
    }

    pub(super) fn context(&self) -> *mut sys::ggml_context {
        self.context.as_ptr()
    }

    /// Whether the device runs operations of our own: the CPU does.
    pub(super) fn has_custom_operations(&self) -> bool {
        self.has_custom_operations
    }

    /// The address of new turns, which stay there as long as the graph.
    pub(super) fn turns(&mut self) -> *const Turns {
        self.turns.push(Box::default());
        self.turns.last().map_or(std::ptr::null(), |turns| &raw const **turns)
    }

    /// The address of `work`, which stays there as long as the graph.
    pub(super) fn keep(&mut self, work: Work) -> *const Work {
        self.attention.push(Box::new(work));
        self.attention.last().map_or(std::ptr::null(), |work| &raw const **work)
    }

    pub(super) fn stored(&self) -> &[Stored] {
        &self.stored
    }

    /// The tensors to compute, in order.
    pub(super) fn nodes(&self) -> impl Iterator<Item = *mut sys::ggml_tensor> {
        // SAFETY: the graph is alive.
        let n_nodes = unsafe { sys::ggml_graph_n_nodes(self.as_ptr()) };
        (0..n_nodes).map(|index| {
            // SAFETY: the graph is alive, and the index is below its number of nodes.
            unsafe { sys::ggml_graph_node(self.as_ptr(), index) }
        })
    }

    /// Every operation calls this before it makes a tensor: ggml aborts when the context is full.
    pub(super) fn check_room(&self) {
        assert!(self.tensors.len() < self.capacity, "graph is full at {} tensors", self.capacity);
    }

    /// Records a tensor that ggml has just made in this graph's context.
    pub(super) fn push(&mut self, tensor: *mut sys::ggml_tensor) -> Tensor {
        let tensor = NonNull::new(tensor).expect("ggml returns a tensor or aborts");
        // SAFETY: graph and tensor live in `context`; `check_room` has kept the graph within its capacity.
        unsafe { sys::ggml_build_forward_expand(self.raw.as_ptr(), tensor.as_ptr()) };
        self.tensors.push(tensor);
        Tensor { graph: self.id, index: (self.tensors.len() - 1) as u32 }
    }

    fn attach(&mut self, tensor: NonNull<sys::ggml_tensor>, stored: &Stored) {
        // SAFETY: `tensor` has no memory yet, and has the type and shape of `stored`, whose memory is thus large enough.
        let status = unsafe {
            let address = stored.tensor.as_ref().data;
            sys::ggml_backend_tensor_alloc(stored.storage.buffer.raw.as_ptr(), tensor.as_ptr(), address)
        };
        assert_eq!(status, sys::GGML_STATUS_SUCCESS, "ggml refused memory of {stored:?}");
        self.stored.push(stored.clone());
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Graph({} of {} tensors)", self.tensors.len(), self.capacity)
    }
}
