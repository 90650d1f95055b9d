//! Threads that own what they work on.

use std::{
    any::Any,
    collections::VecDeque,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use owlet_runtime::{CancelToken, Error, ErrorKind, Result};

use crate::pending::{Pending, pending};

/// Longest time that dropping an object waits for its thread. Cancelled work ends much sooner (docs/cancellation.md); what
/// may take longer is a function of the app, and the thread then ends by itself when that returns.
pub const CLOSING_TIME: Duration = Duration::from_secs(5);
/// How often the tokens of resting calls are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// A thread that owns a value and works on it, call after call, in the order in which they came.
pub struct Worker<S> {
    desk: Arc<Desk<S>>,
    thread: Option<JoinHandle<()>>,
}

/// A call as the thread takes it: with the value, or with the reason why there is none.
type Call<S> = Box<dyn FnMut(Result<&mut S>) -> Next + Send>;

/// What becomes of a call after it was let at the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// It is done.
    Done,
    /// It goes on when those that wait have had their turn.
    Again,
    /// It goes on when it is woken or cancelled.
    Rest,
    /// It panicked: nobody knows what the value is like.
    Broken,
}

/// What a call that works in slices says at the end of one.
#[derive(Debug)]
pub enum Progress<T> {
    /// This is its result.
    Done(T),
    /// There is more to do: other calls may come first.
    More,
    /// There is more to do, but not before [`Worker::wake`].
    Rest,
}

/// What callers and thread share.
struct Desk<S> {
    state: Mutex<State<S>>,
    changed: Condvar,
}

struct State<S> {
    waiting: VecDeque<(CancelToken, Call<S>)>,
    resting: Vec<(CancelToken, Call<S>)>,
    /// Whether [`Worker::wake`] was called during the call under way, which may be about to rest.
    is_woken: bool,
    /// Of the call under way.
    running: Option<CancelToken>,
    is_closed: bool,
    has_ended: bool,
}

impl<S> Desk<S> {
    fn lock(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next call, when there is one; `None` when there will be none.
    fn next(&self) -> Option<(CancelToken, Call<S>)> {
        let mut state = self.lock();
        loop {
            if state.is_closed {
                return None;
            }
            let is_cancelled = |(cancel, _): &(CancelToken, Call<S>)| cancel.is_cancelled();
            if let Some(index) = state.resting.iter().position(is_cancelled) {
                let woken = state.resting.swap_remove(index);
                state.waiting.push_back(woken);
            }
            if let Some((cancel, call)) = state.waiting.pop_front() {
                state.running = Some(cancel.clone());
                state.is_woken = false;
                return Some((cancel, call));
            }
            state = if state.resting.is_empty() {
                self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0
            };
        }
    }

    /// Puts a call that was let at the value where it belongs.
    fn put_back(&self, cancel: CancelToken, call: Call<S>, next: Next) {
        let mut state = self.lock();
        state.running = None;
        match next {
            _ if state.is_closed => {}
            Next::Again => return state.waiting.push_back((cancel, call)),
            Next::Rest if state.is_woken => return state.waiting.push_back((cancel, call)),
            Next::Rest => return state.resting.push((cancel, call)),
            Next::Done | Next::Broken => {}
        }
        drop(state);
        // Outside of the lock: what it refers to may be the last of something.
        drop(call);
    }

    /// Cancels all calls, so that the thread ends.
    fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.running.iter().for_each(CancelToken::cancel);
        let (waiting, resting) = (std::mem::take(&mut state.waiting), std::mem::take(&mut state.resting));
        drop(state);
        self.changed.notify_all();
        // Outside of the lock: those who wait are woken.
        drop((waiting, resting));
    }
}

impl<S: Send + 'static> Worker<S> {
    /// A thread called `name` that owns `value`, and drops it in the end.
    ///
    /// # Errors
    /// `Io` when the system gives no thread.
    pub fn start(name: &str, value: S) -> Result<Self> {
        let (waiting, resting) = (VecDeque::new(), Vec::new());
        let state = State { waiting, resting, running: None, is_woken: false, is_closed: false, has_ended: false };
        let desk = Arc::new(Desk { state: Mutex::new(state), changed: Condvar::new() });
        let at_desk = Arc::clone(&desk);
        let thread = spawn(name, move || {
            work(&at_desk, value);
            at_desk.lock().has_ended = true;
            at_desk.changed.notify_all();
        })?;
        Ok(Self { desk, thread: Some(thread) })
    }

    /// Does `call` with the value when those before are done. It is handed a token of its own, cancelled with `cancel`, by
    /// dropping the [`Pending`] and by dropping the worker. A call that is cancelled while it waits is not begun.
    ///
    /// Results are errors of the call; `Cancelled`; `Internal` when it panicked, or one before it did.
    pub fn submit<T: Send + 'static>(
        &self,
        cancel: &CancelToken,
        call: impl FnOnce(&mut S, &CancelToken) -> Result<T> + Send + 'static,
    ) -> Pending<T> {
        let mut call = Some(call);
        self.submit_slices(cancel, move |value, cancel| match call.take() {
            Some(call) => cancel.check().and_then(|()| call(value, cancel)).map(Progress::Done),
            None => Err(Error::new(ErrorKind::Internal, "a call was made twice")),
        })
    }

    /// As [`Worker::submit`] of work that is done in slices: `slice` is called until it is done or fails, and other calls come
    /// between. While it rests, its token is looked at a few times a second.
    pub fn submit_slices<T: Send + 'static>(
        &self,
        cancel: &CancelToken,
        mut slice: impl FnMut(&mut S, &CancelToken) -> Result<Progress<T>> + Send + 'static,
    ) -> Pending<T> {
        let cancel = cancel.child();
        let (pending, promise) = pending(cancel.clone());
        let (own, mut promise) = (cancel.clone(), Some(promise));
        let call: Call<S> = Box::new(move |value| {
            // Nothing is used after a panic but by what refuses it: see `work`.
            let outcome = catch_unwind(AssertUnwindSafe(|| slice(value?, &own)));
            let (result, next) = match outcome {
                Ok(Ok(Progress::More)) => return Next::Again,
                Ok(Ok(Progress::Rest)) => return Next::Rest,
                Ok(Ok(Progress::Done(result))) => (Ok(result), Next::Done),
                Ok(Err(error)) => (Err(error), Next::Done),
                Err(panic) => (Err(panicked(&*panic)), Next::Broken),
            };
            if let Some(promise) = promise.take() {
                promise.keep(result);
            }
            next
        });
        self.desk.lock().waiting.push_back((cancel, call));
        self.desk.changed.notify_all();
        pending
    }

    /// Has calls that rest go on.
    pub fn wake(&self) {
        let mut state = self.desk.lock();
        let resting = std::mem::take(&mut state.resting);
        state.waiting.extend(resting);
        state.is_woken = true;
        drop(state);
        self.desk.changed.notify_all();
    }
}

/// The thread's life.
fn work<S>(desk: &Desk<S>, mut value: S) {
    let mut is_broken = false;
    while let Some((cancel, mut call)) = desk.next() {
        let next = call(if is_broken {
            Err(Error::new(ErrorKind::Internal, "an earlier call panicked").needed("a new object in place of this one"))
        } else {
            Ok(&mut value)
        });
        is_broken |= next == Next::Broken;
        desk.put_back(cancel, call, next);
    }
    // A value that a panic left behind may panic once more.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    Error::new(ErrorKind::Internal, "Owlet panicked").got(panic_text(panic))
}

/// What a panic says.
fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

impl<S> Drop for Worker<S> {
    fn drop(&mut self) {
        self.desk.close();
        let Some(thread) = self.thread.take() else { return };
        // The last owner may be a call of its own, or a function of the app that it runs.
        if thread.thread().id() == thread::current().id() {
            return;
        }
        let until = Instant::now() + CLOSING_TIME;
        let mut state = self.desk.lock();
        while !state.has_ended {
            let Some(left) = until.checked_duration_since(Instant::now()) else { return };
            state = self.desk.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        // It caught its panics.
        let _ = thread.join();
    }
}

impl<S> fmt::Debug for Worker<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.thread.as_ref().and_then(|thread| thread.thread().name());
        write!(f, "Worker({})", name.unwrap_or_default())
    }
}

/// Does `call` on a thread of its own called `name`, with a token as [`Worker::submit`] gives it.
pub fn background<T: Send + 'static>(
    name: &str,
    cancel: &CancelToken,
    call: impl FnOnce(&CancelToken) -> Result<T> + Send + 'static,
) -> Pending<T> {
    let cancel = cancel.child();
    let (pending, promise) = pending(cancel.clone());
    let spawned = spawn(name, move || {
        let result = catch_unwind(AssertUnwindSafe(|| cancel.check().and_then(|()| call(&cancel))));
        promise.keep(result.unwrap_or_else(|panic| Err(panicked(&*panic))));
    });
    match spawned {
        Ok(_) => pending,
        Err(error) => failed(error),
    }
}

/// A result that is here already.
fn failed<T>(error: Error) -> Pending<T> {
    let (pending, promise) = pending(CancelToken::new());
    promise.keep(Err(error));
    pending
}

fn spawn(name: &str, life: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(life);
    thread.map_err(|source| Error::new(ErrorKind::Io, "the system gives no thread").at(name).source(source))
}
