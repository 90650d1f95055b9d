//! What llama.cpp asks while it works: the callbacks of loading and of the image encoder.

use std::{
    any::Any,
    ffi::c_void,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    ptr::NonNull,
};

use llama_cpp_sys_2 as sys;

use crate::{Error, ErrorKind, Result, cancel::CancelToken};

/// How far loading is, and whether it goes on.
pub(crate) struct LoadWatch<'a> {
    cancel: &'a CancelToken,
    on_progress: &'a mut dyn FnMut(f32) -> ControlFlow<()>,
    /// Part of all bytes that the file before this one had, and that this one has.
    part: (f32, f32),
    is_stopped: bool,
    /// What `on_progress` panicked with: it must not unwind through llama.cpp.
    panic: Option<Box<dyn Any + Send>>,
}

impl<'a> LoadWatch<'a> {
    pub(crate) fn new(cancel: &'a CancelToken, on_progress: &'a mut dyn FnMut(f32) -> ControlFlow<()>) -> Self {
        Self { cancel, on_progress, part: (0.0, 1.0), is_stopped: false, panic: None }
    }

    /// Of what follows, llama.cpp's 0 to 1 is `start` to `start + share`.
    pub(crate) fn set_part(&mut self, start: f32, share: f32) {
        self.part = (start, share);
    }

    /// Tells that `fraction` of the part is done.
    ///
    /// # Errors
    /// `Cancelled` by the token or the callback.
    pub(crate) fn tell(&mut self, fraction: f32) -> Result<()> {
        if self.goes_on(fraction) { Ok(()) } else { self.stopped() }
    }

    /// Whether loading was stopped meanwhile, after a call into llama.cpp.
    ///
    /// # Errors
    /// `Cancelled` by the token or the callback.
    pub(crate) fn check(&mut self) -> Result<()> {
        if self.is_stopped { self.stopped() } else { self.cancel.check() }
    }

    fn stopped(&mut self) -> Result<()> {
        if let Some(panic) = self.panic.take() {
            resume_unwind(panic);
        }
        self.cancel.check()?;
        Err(Error::new(ErrorKind::Cancelled, "cancelled").at("loading"))
    }

    fn goes_on(&mut self, fraction: f32) -> bool {
        if self.is_stopped || self.cancel.is_cancelled() {
            self.is_stopped = true;
            return false;
        }
        let (start, share) = self.part;
        let told = (start + share * fraction).clamp(0.0, 1.0);
        let flow = catch_unwind(AssertUnwindSafe(|| (self.on_progress)(told)));
        self.is_stopped = !matches!(flow, Ok(ControlFlow::Continue(())));
        self.panic = flow.err();
        !self.is_stopped
    }

    /// Callback data of [`on_load_progress`], valid while `self` lives and is not used otherwise.
    pub(crate) fn as_callback_data(&mut self) -> *mut c_void {
        std::ptr::from_mut(self).cast()
    }
}

/// llama.cpp's and mtmd's callback after every tensor: false stops loading.
///
/// # Safety
/// `data` is [`LoadWatch::as_callback_data`] of a watch that is alive and that nobody else uses.
pub(crate) unsafe extern "C" fn on_load_progress(fraction: f32, data: *mut c_void) -> bool {
    // SAFETY: by the contract above; the call does not unwind.
    unsafe { (*data.cast::<LoadWatch<'_>>()).goes_on(fraction) }
}

/// Work between two looks at the token, in multiplications and additions: 5 to 50 milliseconds of a core, so that what a
/// look costs (ggml starts its threads anew) is not felt.
const WORK_BETWEEN_LOOKS: f64 = (1u64 << 29) as f64;

/// What stops a graph that ggml's scheduler computes, on any device. Its address is callback data, so it lives on the heap
/// and is owned by a pointer.
#[derive(Debug)]
pub(crate) struct GraphWatch(NonNull<Watched>);

#[derive(Debug)]
struct Watched {
    cancel: CancelToken,
    /// Work of the nodes since the last look.
    work: f64,
}

// SAFETY: the pointer is owned as a box is, and what it points to is `Send`.
unsafe impl Send for GraphWatch {}

impl GraphWatch {
    pub(crate) fn new() -> Self {
        let watched = Watched { cancel: CancelToken::new(), work: 0.0 };
        Self(NonNull::from(Box::leak(Box::new(watched))))
    }

    /// Makes `cancel` stop the graphs to come.
    pub(crate) fn set(&mut self, cancel: &CancelToken) {
        // SAFETY: the pointer is ours, and no graph is computed during `&mut self`.
        let watched = unsafe { self.0.as_mut() };
        *watched = Watched { cancel: cancel.clone(), work: 0.0 };
    }

    /// Callback data of [`on_graph_node`], valid while `self` lives.
    pub(crate) fn as_callback_data(&self) -> *mut c_void {
        self.0.as_ptr().cast()
    }
}

impl Drop for GraphWatch {
    fn drop(&mut self) {
        // SAFETY: made from a box, freed once.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// ggml's scheduler asks (`ask`) whether to stop after `node`, collects the nodes up to there, computes them, and then asks
/// whether to go on. After a stop it goes on to the next device's part of the graph and reports success: the results are
/// worth nothing, which the caller must find out by the token.
///
/// # Safety
/// `data` is [`GraphWatch::as_callback_data`] of a watch that is alive, whose token nobody sets meanwhile; `node` is a node
/// of a graph that is being computed.
pub(crate) unsafe extern "C" fn on_graph_node(node: *mut sys::ggml_tensor, ask: bool, data: *mut c_void) -> bool {
    // SAFETY: by the contract above; the scheduler calls from one thread.
    let (watched, node) = unsafe { (&mut *data.cast::<Watched>(), &*node) };
    if !ask {
        return !watched.cancel.is_cancelled();
    }
    // SAFETY: by the contract above.
    watched.work += unsafe { work(node) };
    let looks = watched.work >= WORK_BETWEEN_LOOKS || watched.cancel.is_cancelled();
    if looks {
        watched.work = 0.0;
    }
    looks
}

/// About the multiplications and additions of `node`.
///
/// # Safety
/// `node` is a node of a graph.
unsafe fn work(node: &sys::ggml_tensor) -> f64 {
    let n_elements = |tensor: &sys::ggml_tensor| tensor.ne.iter().map(|&n| n as f64).product::<f64>();
    // SAFETY: nodes of these operations have the sources that are named here.
    unsafe {
        match node.op {
            sys::GGML_OP_MUL_MAT => 2.0 * (*node.src[0]).ne[0] as f64 * n_elements(node),
            // Scores and values, over the length of the keys for every number of the queries.
            sys::GGML_OP_FLASH_ATTN_EXT => 4.0 * (*node.src[1]).ne[1] as f64 * n_elements(&*node.src[0]),
            // Bound by memory: a number read and written takes the time of some multiplications.
            _ => 8.0 * n_elements(node),
        }
    }
}
