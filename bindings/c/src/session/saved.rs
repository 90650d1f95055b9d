//! What a session holds: its messages, and files of whole sessions.

use std::ffi::{CString, c_char};

use owlet_runtime::{
    CancelToken, Session,
    conversation::{ChatMessage, ChatPart, Conversation, SavedConversation},
};

use super::{Seat, owlet_session, owlet_session_options};
use crate::{
    adapter::{self, owlet_adapter},
    boundary::{self, Out},
    device::beyond,
    error::{owlet_error, owlet_status},
    handle::{self, Handle},
    input::{self, versioned},
    message::role_number,
    model::{self, owlet_model},
    text::c_string,
};

/// Writes the whole session to `path`: what was said, pictures as the model sees them, keys and values. An older file is
/// replaced only when the new one is complete. May be called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_session_save(
    session: *mut owlet_session,
    path: *const c_char,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        // SAFETY: the caller's contract.
        let path = unsafe { input::path(path, "path") }?;
        handle::borrow(session)?.with(&CancelToken::new(), |conversation| conversation.save(path))
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Opens a session that owlet_session_save() wrote to `path`, where it stopped: the next answer is what it would have been.
/// Instructions, tools, seed and answer options come from the file; of `options`, which may be NULL, memory and threads count.
/// `adapters` and `scales` are those that were in use, as for owlet_session_set_adapters(). OWLET_STATUS_MISMATCH for another
/// model, other adapters or another precision of keys and values. The caller frees `*out` by owlet_session_free(). May be
/// called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_session_restore(
    model: *const owlet_model,
    path: *const c_char,
    options: *const owlet_session_options,
    adapters: *const *const owlet_adapter,
    scales: *const f32,
    n_adapters: usize,
    out: *mut *mut owlet_session,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        // SAFETY: the caller's contract.
        let (out, path, given) = unsafe { (Out::new(out)?, input::path(path, "path")?, input::options(options)?) };
        // SAFETY: the caller's contract.
        let adapters = unsafe { adapter::scaled(adapters, scales, n_adapters) }?;
        let model = model::borrow(model)?;
        let saved = SavedConversation::open(path)?;
        let session = Session::new(&model, &given.session(model.info().n_ctx_train)?)?;
        out.put(Seat::new(saved.resume(session, &adapters)?));
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// What was said in a session at some time. Never changes; may be read by several threads.
pub struct owlet_history {
    _opaque: (),
}

/// A message as it is told.
pub(crate) struct Said {
    role: u32,
    text: CString,
    n_images: usize,
    calls: CString,
}

impl Handle for owlet_history {
    type Target = Vec<Said>;
    const NAME: &'static str = "owlet_history";
}

/// A message of a history. Strings belong to the history.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct owlet_history_message {
    /// sizeof(owlet_history_message), set by the caller.
    pub struct_size: usize,
    /// The text; of answers with their thinking and its tags. "<image>" stands for a picture.
    pub text: *const c_char,
    /// Calls of tools behind it, as a JSON list of objects of `name` and `arguments`.
    pub calls: *const c_char,
    /// Pictures.
    pub n_images: usize,
    /// An owlet_role.
    pub role: u32,
}

versioned!(owlet_history_message);

/// Copies what was said so far, the instructions apart. The caller frees `*out` by owlet_history_free(). May be called from
/// any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_session_get_history(
    session: *mut owlet_session,
    out: *mut *mut owlet_history,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        // SAFETY: the caller's contract.
        let out = unsafe { Out::new(out) }?;
        let copy = |conversation: &mut Conversation| Ok(conversation.messages().iter().map(Said::new).collect());
        out.put(handle::borrow(session)?.with(&CancelToken::new(), copy)?);
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

impl Said {
    fn new(message: &ChatMessage) -> Self {
        let (mut text, mut n_images) = (String::new(), 0);
        for part in &message.parts {
            match part {
                ChatPart::Text(part) => text.push_str(part),
                ChatPart::Picture(_) => {
                    text.push_str(owlet_runtime::IMAGE_MARK);
                    n_images += 1;
                }
            }
        }
        let calls = c_string(&model::json(&message.calls));
        Self { role: role_number(message.role), text: c_string(&text), n_images, calls }
    }
}

/// How many messages there are; 0 for NULL.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_history_length(history: *const owlet_history) -> usize {
    boundary::get(0, || handle::borrow(history).map_or(0, |history| history.len()))
}

/// Tells of message `index`, from 0, in `*out`, whose strings live as long as the history.
/// OWLET_STATUS_INVALID_INPUT beyond the last one.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_history_get(
    history: *const owlet_history,
    index: usize,
    out: *mut owlet_history_message,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        let history = handle::borrow(history)?;
        let said = history.get(index).ok_or_else(|| beyond(index, history.len()))?;
        let message = owlet_history_message {
            text: said.text.as_ptr(),
            calls: said.calls.as_ptr(),
            n_images: said.n_images,
            role: said.role,
            ..input::zeroed()
        };
        // SAFETY: the caller's contract.
        unsafe { input::fill(out, message) }
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Frees a history and its strings. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn owlet_history_free(history: *mut owlet_history) {
    boundary::free(history);
}
