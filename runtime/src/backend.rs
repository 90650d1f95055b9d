//! llama.cpp as a process-wide thing: initialised once, its log sent to `tracing`.

use std::{
    cell::RefCell,
    ffi::{CStr, c_char, c_void},
    ptr,
    sync::{OnceLock, mpsc::Sender},
};

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_sys_2 as sys;

use crate::{Error, ErrorKind, Result};

/// ggml's limit on the threads of a pool.
const MAX_THREADS: usize = 512;

/// The threads to use for `n_threads` asked for: 0 is one per core that the system offers.
///
/// # Errors
/// `InvalidInput` above 512.
pub(crate) fn resolve_threads(n_threads: usize) -> Result<usize> {
    match n_threads {
        0 => Ok(std::thread::available_parallelism().map_or(1, |n| n.get()).min(MAX_THREADS)),
        1..=MAX_THREADS => Ok(n_threads),
        _ => {
            let error = Error::new(ErrorKind::InvalidInput, "too many threads").at("n_threads").got(n_threads);
            Err(error.needed(format!("0 to {MAX_THREADS}")))
        }
    }
}

/// Initialises llama.cpp, once per process. Every constructor that reaches llama.cpp or ggml calls this first.
///
/// # Errors
/// `Backend` when another user of llama-cpp-2 in this process holds its backend.
pub(crate) fn init() -> Result<()> {
    static BACKEND: OnceLock<Result<LlamaBackend, String>> = OnceLock::new();
    let backend = BACKEND.get_or_init(|| {
        // SAFETY: `log_line` keeps no reference to its arguments and never unwinds; NULL user data is never read.
        // This runs once, before any other call into the libraries, so nothing logs meanwhile.
        unsafe {
            sys::llama_log_set(Some(log_line), ptr::null_mut());
            sys::mtmd_log_set(Some(log_line), ptr::null_mut());
        }
        LlamaBackend::init().map_err(|error| error.to_string())
    });
    match backend {
        Ok(_) => Ok(()),
        Err(reason) => Err(Error::new(ErrorKind::Backend, "cannot initialise llama.cpp").got(reason)),
    }
}

/// Lines that [`explain`] keeps; a failing load logs one to three.
const MAX_KEPT_LINES: usize = 8;

thread_local! {
    /// Warnings and errors that llama.cpp logged on this thread since the last [`explain`] began.
    static COMPLAINTS: RefCell<Complaints> = const { RefCell::new(Complaints { lines: Vec::new(), open: false }) };
}

thread_local! {
    /// Who wants every piece that llama.cpp logs on this thread.
    static LISTENER: RefCell<Option<Sender<String>>> = const { RefCell::new(None) };
}

struct Complaints {
    lines: Vec<String>,
    /// Whether the last line still waits for continuations.
    open: bool,
}

/// Runs `call`, and when it returns `None` makes an error of what llama.cpp logged on this thread meanwhile.
///
/// llama.cpp's constructors return NULL for every failure; the reason is in the log alone.
pub(crate) fn explain<T>(what: &str, call: impl FnOnce() -> Option<T>) -> Result<T> {
    COMPLAINTS.with_borrow_mut(|complaints| complaints.lines.clear());
    call().ok_or_else(|| {
        let error = Error::new(ErrorKind::Backend, what);
        let lines = COMPLAINTS.with_borrow(|complaints| complaints.lines.join("; "));
        if lines.is_empty() { error } else { error.got(lines) }
    })
}

/// Runs `call` and sends every piece of llama.cpp's log on this thread to `listener` meanwhile.
pub(crate) fn listen<T>(listener: Sender<String>, call: impl FnOnce() -> T) -> T {
    LISTENER.set(Some(listener));
    let result = call();
    LISTENER.set(None);
    result
}

/// llama.cpp's log callback. `text` may be a part of a line: parts that follow come with the level CONT.
unsafe extern "C" fn log_line(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a NUL-terminated string that lives during the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let line = text.trim_end_matches('\n');
    match level {
        sys::GGML_LOG_LEVEL_ERROR => tracing::error!(target: "llama.cpp", "{line}"),
        sys::GGML_LOG_LEVEL_WARN => tracing::warn!(target: "llama.cpp", "{line}"),
        sys::GGML_LOG_LEVEL_INFO => tracing::debug!(target: "llama.cpp", "{line}"),
        _ => tracing::trace!(target: "llama.cpp", "{line}"),
    }
    let _ = LISTENER.try_with(|listener| {
        if let Some(listener) = &*listener.borrow() {
            // A listener that has gone away wants nothing more.
            let _ = listener.send(text.to_string());
        }
    });
    // A thread that is being torn down has no complaints left to keep.
    let _ = COMPLAINTS.try_with(|complaints| {
        if let Ok(mut complaints) = complaints.try_borrow_mut() {
            complaints.keep(level, line, text.ends_with('\n'));
        }
    });
}

impl Complaints {
    fn keep(&mut self, level: sys::ggml_log_level, line: &str, ends: bool) {
        let is_complaint = level == sys::GGML_LOG_LEVEL_ERROR || level == sys::GGML_LOG_LEVEL_WARN;
        let continues = level == sys::GGML_LOG_LEVEL_CONT && self.open;
        if continues && let Some(last) = self.lines.last_mut() {
            last.push_str(line);
        } else if is_complaint && !line.is_empty() {
            if self.lines.len() == MAX_KEPT_LINES {
                self.lines.remove(0);
            }
            self.lines.push(line.to_owned());
        }
        self.open = (is_complaint || continues) && !ends;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_call_tells_what_the_library_logged() {
        let failed: Result<()> = explain("cannot load model", || {
            // SAFETY: both strings are NUL-terminated literals.
            unsafe {
                log_line(sys::GGML_LOG_LEVEL_INFO, c"chatter\n".as_ptr(), ptr::null_mut());
                log_line(sys::GGML_LOG_LEVEL_ERROR, c"tensor is ".as_ptr(), ptr::null_mut());
                log_line(sys::GGML_LOG_LEVEL_CONT, c"odd\n".as_ptr(), ptr::null_mut());
            }
            None
        });
        let error = failed.expect_err("the call returned nothing");
        assert_eq!(error.kind(), ErrorKind::Backend);
        assert_eq!(error.to_string(), "cannot load model: got tensor is odd");
    }

    #[test]
    fn threads_are_within_ggmls_limit() {
        assert!((1..=MAX_THREADS).contains(&resolve_threads(0).expect("the default")));
        assert_eq!(resolve_threads(MAX_THREADS).expect("the limit"), MAX_THREADS);
        for n_threads in [MAX_THREADS + 1, usize::MAX] {
            assert_eq!(resolve_threads(n_threads).expect_err("too many").kind(), ErrorKind::InvalidInput);
        }
    }
}
