//! A conversation behind a worker: what apps call a session.

use std::{
    ops::ControlFlow,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use owlet_runtime::{
    self as runtime, Adapter, CancelToken, Error, Message, Model, Result, SessionOptions, Speculation, ThinkEvent,
    conversation::{ChatMessage, Conversation, ConversationOptions, SavedConversation, Turn},
};

use crate::{
    pending::Pending,
    worker::{Worker, background},
};

/// Name of a session's thread, for profilers.
const THREAD: &str = "owlet-session";

/// Hears thinking and answer while they are written, on the session's thread. `Break` ends the answer there, as a turn like any
/// other; an error ends the call with that error, and the turn with it.
pub type Listener = Box<dyn FnMut(ThinkEvent) -> Result<ControlFlow<()>> + Send>;

/// Adapters with their scales, in use together.
pub type Adapters = Vec<(Arc<Adapter>, f32)>;

/// A conversation with a thread of its own. Calls wait for each other in the order in which they came.
pub struct Session {
    worker: Worker<Conversation>,
    view: Arc<Mutex<View>>,
    model: Model,
}

/// What is known of a conversation without asking its thread, which may be in the midst of an answer.
#[derive(Clone, Debug, Default)]
struct View {
    messages: Arc<[ChatMessage]>,
    n_tokens: usize,
}

impl Session {
    /// Begins a conversation under `adapters`. With `speculation`, `session.n_logits` is raised to what it needs.
    ///
    /// The result's errors are those of [`runtime::Session::new`], [`runtime::Session::set_adapters`] and
    /// [`runtime::Session::set_speculation`]; `Cancelled`.
    pub fn open(
        model: &Model,
        session: SessionOptions,
        speculation: Option<Speculation>,
        conversation: ConversationOptions,
        adapters: Adapters,
        cancel: &CancelToken,
    ) -> Pending<Self> {
        let model = model.clone();
        background("owlet-open", cancel, move |_| {
            let mut session = runtime_session(&model, session, speculation.as_ref())?;
            session.set_adapters(&adapters)?;
            Self::start(model, Conversation::new(session, conversation))
        })
    }

    /// Goes on with the conversation that [`Session::save`] wrote to `path`, under the adapters that it was saved under.
    ///
    /// The result's errors are those of [`Session::open`], [`SavedConversation::open`] and [`SavedConversation::resume`].
    pub fn restore(
        model: &Model,
        path: PathBuf,
        session: SessionOptions,
        speculation: Option<Speculation>,
        adapters: Adapters,
        cancel: &CancelToken,
    ) -> Pending<Self> {
        let model = model.clone();
        background("owlet-open", cancel, move |cancel| {
            let saved = SavedConversation::open(&path)?;
            cancel.check()?;
            let session = runtime_session(&model, session, speculation.as_ref())?;
            let resumed = saved.resume(session, &adapters).map_err(|error| error.at(path.display()))?;
            Self::start(model, resumed)
        })
    }

    fn start(model: Model, conversation: Conversation) -> Result<Self> {
        let view = Arc::new(Mutex::new(View::of(&conversation)));
        Ok(Self { worker: Worker::start(THREAD, conversation)?, view, model })
    }

    /// Asks `question` and tells `listener` of the answer as it is written; see [`Conversation::ask`].
    ///
    /// The result's errors are those of [`Conversation::ask`] and of `listener`; the conversation is then as before.
    pub fn ask(&self, question: Message, cancel: &CancelToken, mut listener: Listener) -> Pending<Turn> {
        self.submit(cancel, move |conversation, cancel| {
            let mut failure: Option<Error> = None;
            let answered = conversation.ask(question, cancel, &mut |event| {
                listener(event).unwrap_or_else(|error| {
                    failure = Some(error);
                    // An answer that ends here would be a turn; one that is cancelled is none.
                    cancel.cancel();
                    ControlFlow::Break(())
                })
            });
            failure.map_or(answered, Err)
        })
    }

    /// Adds `message` to the history; see [`Conversation::push_until`].
    pub fn push(&self, message: Message, cancel: &CancelToken) -> Pending<()> {
        self.submit(cancel, move |conversation, cancel| conversation.push_until(message, cancel))
    }

    /// Puts `adapters` in place of those before, between two answers; see [`Conversation::set_adapters`].
    pub fn set_adapters(&self, adapters: Adapters, cancel: &CancelToken) -> Pending<()> {
        self.submit(cancel, move |conversation, _| conversation.set_adapters(&adapters))
    }

    /// Goes on by other options from the next question on; see [`Conversation::set_options`].
    pub fn set_options(&self, options: ConversationOptions, cancel: &CancelToken) -> Pending<()> {
        self.submit(cancel, move |conversation, _| {
            conversation.set_options(options);
            Ok(())
        })
    }

    /// Writes the whole conversation to `path`; see [`Conversation::save`].
    pub fn save(&self, path: PathBuf, cancel: &CancelToken) -> Pending<()> {
        self.submit(cancel, move |conversation, _| conversation.save(path))
    }

    /// A second conversation that goes on from here, with a thread of its own; see [`Conversation::fork`]. Both share the
    /// memory of the first one's session and take turns at it, an answer at a time.
    pub fn fork(&self, cancel: &CancelToken) -> Pending<Self> {
        let model = self.model.clone();
        self.submit(cancel, move |conversation, _| Self::start(model, conversation.fork()?))
    }

    /// What was said so far, the instructions apart, after the last call that is done.
    pub fn messages(&self) -> Arc<[ChatMessage]> {
        Arc::clone(&self.view().messages)
    }

    /// Places of the context that are computed, after the last call that is done.
    pub fn n_tokens(&self) -> usize {
        self.view().n_tokens
    }

    /// The model that answers.
    pub fn model(&self) -> &Model {
        &self.model
    }

    fn view(&self) -> View {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn submit<T: Send + 'static>(
        &self,
        cancel: &CancelToken,
        call: impl FnOnce(&mut Conversation, &CancelToken) -> Result<T> + Send + 'static,
    ) -> Pending<T> {
        let view = Arc::clone(&self.view);
        self.worker.submit(cancel, move |conversation, cancel| {
            let result = call(conversation, cancel);
            let now = View::of(conversation);
            *view.lock().unwrap_or_else(PoisonError::into_inner) = now;
            result
        })
    }
}

impl View {
    fn of(conversation: &Conversation) -> Self {
        Self { messages: conversation.messages().into(), n_tokens: conversation.n_tokens() }
    }
}

fn runtime_session(
    model: &Model,
    options: SessionOptions,
    speculation: Option<&Speculation>,
) -> Result<runtime::Session> {
    let n_logits = speculation.map_or(1, Speculation::n_logits).max(options.n_logits);
    let mut session = runtime::Session::new(model, &SessionOptions { n_logits, ..options })?;
    session.set_speculation(speculation)?;
    Ok(session)
}

impl std::fmt::Debug for Session {
    // What was said is private: a log shows how much, never what.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let View { messages, n_tokens } = self.view();
        write!(f, "Session({} messages, {n_tokens} tokens)", messages.len())
    }
}
