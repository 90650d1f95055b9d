//! The log.

use std::ffi::{c_char, c_void};

use owlet_host::log::{clear_sink, set_sink};
use tracing::Level;

use crate::{
    boundary,
    error::{owlet_error, owlet_status},
    input::pick,
    text::c_string,
};

/// How grave a line of the log is.
#[repr(u32)]
#[derive(Clone, Copy)]
pub enum owlet_log_level {
    /// Something failed.
    Error = 1,
    /// Something that a person should know of.
    Warn = 2,
    /// What is going on.
    Info = 3,
    /// Details for whoever looks for a fault, llama.cpp's own messages among them.
    Debug = 4,
}

/// Told a line of the log: an owlet_log_level, which part of Owlet says it, and the text; strings live until it returns.
/// Called from any thread, several at once too. It must not call Owlet: llama.cpp may log while it holds locks.
pub type owlet_log_callback =
    Option<unsafe extern "C" fn(user_data: *mut c_void, level: u32, target: *const c_char, text: *const c_char)>;

/// Called once when the library will not use `user_data` any more, on whatever thread that happens. It must not call Owlet.
pub type owlet_release_callback = Option<unsafe extern "C" fn(user_data: *mut c_void)>;

/// An app's data, given back when the library is done with it.
pub(crate) struct UserData {
    pub(crate) data: *mut c_void,
    release: owlet_release_callback,
}

// SAFETY: the header demands of apps that hand over data beyond a call that it may be used from any thread.
unsafe impl Send for UserData {}
// SAFETY: as above.
unsafe impl Sync for UserData {}

impl UserData {
    pub(crate) fn new(data: *mut c_void, release: owlet_release_callback) -> Self {
        Self { data, release }
    }
}

impl Drop for UserData {
    fn drop(&mut self) {
        if let Some(release) = self.release {
            // SAFETY: the app gave a function of this type and its data; this is the only call.
            unsafe { release(self.data) };
        }
    }
}

/// Hands what Owlet and llama.cpp log from now on, up to `level` (an owlet_log_level), to `callback`, in place of the one
/// before; NULL for nobody. One for the whole process. Prompts, pictures and answers are never logged.
///
/// `user_data` must be usable from any thread until `release`, which may be NULL, is called with it: after another callback
/// took its place and the last line under way was told. After a failure `release` is called too. May be called from any
/// thread, but not from callbacks of the log.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_log_set_callback(
    level: u32,
    callback: owlet_log_callback,
    user_data: *mut c_void,
    release: owlet_release_callback,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let user_data = UserData::new(user_data, release);
    let body = || {
        let Some(callback) = callback else {
            clear_sink();
            return Ok(());
        };
        let level = pick("level", level, &levels().map(|(level, ours)| (ours, level)))?;
        let sink = move |level: Level, target: &str, text: &str| {
            let number = levels().iter().find(|(known, _)| *known == level).map_or(0, |&(_, number)| number);
            // The whole of it, not its pointer alone.
            let UserData { data, .. } = &user_data;
            // SAFETY: the app gave a function of this type and its data; the strings live during the call.
            unsafe { callback(*data, number, c_string(target).as_ptr(), c_string(text).as_ptr()) };
        };
        set_sink(level, Box::new(sink))
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

fn levels() -> [(Level, u32); 4] {
    [
        (Level::ERROR, owlet_log_level::Error as u32),
        (Level::WARN, owlet_log_level::Warn as u32),
        (Level::INFO, owlet_log_level::Info as u32),
        (Level::DEBUG, owlet_log_level::Debug as u32),
    ]
}
