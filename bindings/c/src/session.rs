//! Sessions: conversations over a model.

mod options;
mod saved;
mod turnstile;

use std::{
    ffi::c_void,
    sync::{Arc, Mutex, PoisonError},
};

use owlet_runtime::{CancelToken, Error, ErrorKind, Result, Session, conversation::Conversation};

use self::turnstile::Turnstile;
pub use self::{options::*, saved::*};
use crate::{
    adapter::{self, owlet_adapter},
    answer::{Listener, owlet_event_callback},
    boundary::{self, Out},
    cancel::{self, owlet_cancel_token},
    error::{owlet_error, owlet_status},
    handle::{self, Handle},
    message::{self, owlet_message},
    model::{self, owlet_model},
    turn::{Answered, owlet_turn},
};

/// A conversation: questions about text and pictures, answered in turn over what was said before.
///
/// It may be used by several threads: calls on a session, and on sessions that were forked from it, wait for each other.
/// A callback of such a call cannot use any of them, which is OWLET_STATUS_BUSY; it may free them, and cancel the call. A call
/// that fails or is cancelled leaves the session as it was before.
pub struct owlet_session {
    _opaque: (),
}

/// A conversation and the turnstile that it shares with its forks.
pub(crate) struct Seat {
    /// Taken when the seat is dropped, and not before.
    conversation: Mutex<Option<Conversation>>,
    turnstile: Arc<Turnstile>,
}

impl Handle for owlet_session {
    type Target = Seat;
    const NAME: &'static str = "owlet_session";
}

impl Seat {
    fn new(conversation: Conversation) -> Self {
        Self { conversation: Mutex::new(Some(conversation)), turnstile: Arc::default() }
    }

    /// Works with the conversation as soon as no other call works with this session or its forks.
    ///
    /// # Errors
    /// `Busy` from a callback of such a call, `Cancelled`, `Internal` after a call that panicked; those of `work`.
    fn with<T>(&self, cancel: &CancelToken, work: impl FnOnce(&mut Conversation) -> Result<T>) -> Result<T> {
        let _passage = self.turnstile.enter(cancel)?;
        let broken = || Error::new(ErrorKind::Internal, "an earlier call broke this session").needed("a new session");
        let mut conversation = self.conversation.lock().map_err(|_| broken())?;
        work(conversation.as_mut().ok_or_else(broken)?)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let conversation = self.conversation.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(conversation) = conversation {
            self.turnstile.end(conversation);
        }
    }
}

/// Opens a session over `model`. `options` may be NULL. The caller frees `*out` by owlet_session_free(). May be called from
/// any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_session_open(
    model: *const owlet_model,
    options: *const owlet_session_options,
    out: *mut *mut owlet_session,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        // SAFETY: the caller's contract.
        let (out, given) = unsafe { (Out::new(out)?, crate::input::options(options)?) };
        let model = model::borrow(model)?;
        // SAFETY: the caller's contract.
        let conversation = unsafe { given.conversation(&model) }?;
        out.put(Seat::new(Conversation::new(
            Session::new(&model, &given.session(model.info().n_ctx_train)?)?,
            conversation,
        )));
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Asks `question` and returns when it is answered. `on_event`, which may be NULL, is told thinking and answer piece by
/// piece, on this thread. `cancel` may be NULL. `out` may be NULL; otherwise the caller frees `*out` by owlet_turn_free().
///
/// Question and answer become part of the session. May be called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_session_ask(
    session: *mut owlet_session,
    question: *const owlet_message,
    on_event: owlet_event_callback,
    user_data: *mut c_void,
    cancel: *const owlet_cancel_token,
    out: *mut *mut owlet_turn,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        // SAFETY: the caller's contract.
        let (out, question) = unsafe { (Out::optional(out), message::read(question)?) };
        let (seat, cancel) = (handle::borrow(session)?, cancel::token(cancel)?);
        let mut listener = Listener::new(on_event, user_data, &cancel);
        let work = listener.cancel();
        let turn =
            seat.with(&cancel, |conversation| conversation.ask(question, &work, &mut |event| listener.tell(0, &event)));
        let turn = listener.finish(turn)?;
        if let Some(out) = out {
            out.put(Answered::new(turn));
        }
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Adds `message` to what was said, without asking anything: a history that the app kept elsewhere, or an example. It is
/// computed with the next question. May be called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_session_push(
    session: *mut owlet_session,
    message: *const owlet_message,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        // SAFETY: the caller's contract.
        let message = unsafe { message::read(message) }?;
        handle::borrow(session)?.with(&CancelToken::new(), |conversation| conversation.push(message))
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Puts `n` adapters in place of those before; their updates are added up, each times its scale. `scales` may be NULL: 1 for
/// each. With `n` of 0 the base model answers. What was said stays; what other adapters computed of it is computed again by the
/// next question. The session keeps shares of the adapters. May be called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_session_set_adapters(
    session: *mut owlet_session,
    adapters: *const *const owlet_adapter,
    scales: *const f32,
    n: usize,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        // SAFETY: the caller's contract.
        let adapters = unsafe { adapter::scaled(adapters, scales, n) }?;
        handle::borrow(session)?.with(&CancelToken::new(), |conversation| conversation.set_adapters(&adapters))
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Makes a second session that goes on from here, in the same memory: what is computed is copied, not computed again. The two
/// take turns. OWLET_STATUS_LIMIT when all `n_forks` of the options are taken. The caller frees `*out` by
/// owlet_session_free(). May be called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_session_fork(
    session: *mut owlet_session,
    out: *mut *mut owlet_session,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        // SAFETY: the caller's contract.
        let out = unsafe { Out::new(out) }?;
        let seat = handle::borrow(session)?;
        let fork = seat.with(&CancelToken::new(), |conversation| conversation.fork())?;
        out.put(Seat { conversation: Mutex::new(Some(fork)), turnstile: Arc::clone(&seat.turnstile) });
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Counts the places of the context that are computed. May be called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_session_count_tokens(
    session: *mut owlet_session,
    out: *mut usize,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        if out.is_null() {
            return Err(boundary::null("out"));
        }
        let n_tokens =
            handle::borrow(session)?.with(&CancelToken::new(), |conversation| Ok(conversation.n_tokens()))?;
        // SAFETY: the caller's contract; not NULL.
        unsafe { out.write(n_tokens) };
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Frees a session. NULL is ignored. A call that works with it, also one whose callback this is, ends as if it were not freed,
/// and the session goes then. May be called from any thread; it waits for calls on forks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn owlet_session_free(session: *mut owlet_session) {
    boundary::free(session);
}
