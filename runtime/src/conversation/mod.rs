//! Conversations: questions and answers in turn over a [`Session`], each computed from where the last one ended.
//!
//! `question -> history by the chat template -> tokens and pictures -> what the sequence does not hold yet -> answer`.
//! Every turn renders the whole history anew, so the template decides what becomes of earlier thinking, and then compares
//! the result with what the sequence holds: the common beginning, pictures included, is neither encoded nor computed again.
//!
//! A conversation owns one sequence of its session. [`Conversation::fork`] takes another one, so conversations may share a
//! session, from several threads; they take turns, an answer at a time.

mod ask;
mod file;

mod history;
mod overflow;
mod seat;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::seat::Seat;
pub use self::{
    ask::{Turn, TurnReport},
    file::SavedConversation,
    history::{ChatMessage, ChatPart},
    overflow::OverflowPolicy,
};
use crate::{
    Error, ErrorKind, Result,
    adapter::Adapter,
    answer::AnswerOptions,
    cancel::CancelToken,
    image::ImageBudget,
    image_cache::ImageCache,
    prompt::{EncodedPrompt, Message, Role},
    session::{AdapterUse, Session},
    tools::Tools,
};

/// Room of the picture cache that a conversation begins with.
const IMAGE_CACHE_BYTES: usize = 256 << 20;

/// How a conversation goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConversationOptions {
    /// Instructions before the first question; default none.
    pub system: Option<String>,
    /// What the model may call; default none.
    pub tools: Tools,
    /// Whether the model shall think before it answers: see [`crate::Prompt::thinking`]; default `None`.
    pub thinking: Option<bool>,
    /// How answers are written.
    #[serde(flatten)]
    pub answer: AnswerOptions,
    /// Places of the context kept free for an answer, where its `max_new_tokens` is not less; default 256. A question that
    /// leaves fewer is an overflow.
    pub answer_room: usize,
    /// What becomes of a question that does not fit; default [`OverflowPolicy::Refuse`].
    pub overflow: OverflowPolicy,
    /// Seed of the random numbers; default 0. The same questions and seed give the same answers.
    pub seed: u64,
    /// Pixels of the pictures to come; default `None`: [`crate::Model::image_budget`]. [`crate::Model::plan_images`] makes one
    /// from limits in tokens, also for several pictures together, and warns of pictures too small for boxes.
    pub image_budget: Option<ImageBudget>,
}

impl Default for ConversationOptions {
    fn default() -> Self {
        Self {
            system: None,
            tools: Tools::default(),
            thinking: None,
            answer: AnswerOptions::default(),
            answer_room: 256,
            overflow: OverflowPolicy::default(),
            seed: 0,
            image_budget: None,
        }
    }
}

/// Questions and answers in turn.
///
/// A turn that fails or is cancelled leaves the conversation as it was before.
pub struct Conversation {
    seat: Seat,
    options: ConversationOptions,
    image_cache: Arc<ImageCache>,
    adapters: Vec<(Arc<Adapter>, f32)>,
    /// Without the instructions.
    messages: Vec<ChatMessage>,
    /// What the sequence holds, as `adapters` computed it.
    held: EncodedPrompt,
    /// Questions answered: keys the random numbers.
    n_turns: u64,
}

impl Conversation {
    /// A conversation in the first sequence of `session`, which is emptied, under the adapters of the session. The other
    /// sequences are for forks.
    ///
    /// Under a memory budget of the session, pictures get what it allows unless the options say otherwise, and one of them
    /// is kept for further conversations; those that this one has seen are kept as well and not counted.
    pub fn new(mut session: Session, mut options: ConversationOptions) -> Self {
        session.clear_all();
        if session.options().memory_budget.is_some() {
            options.image_budget = options.image_budget.or(session.image_budget());
        }
        let cache_bytes = session.fitted().map_or(IMAGE_CACHE_BYTES, |fitted| fitted.picture_bytes);
        let adapters = session.adapters().to_vec();
        Self {
            seat: Seat::first(session),
            options,
            image_cache: Arc::new(ImageCache::new(cache_bytes)),
            adapters,
            messages: Vec::new(),
            held: EncodedPrompt::default(),
            n_turns: 0,
        }
    }

    /// What was said so far, the instructions apart.
    pub fn messages(&self) -> &[ChatMessage] {
        &self.messages
    }

    /// Adds `message` to what was said, without asking anything: a history that an app kept elsewhere, or an example. It is
    /// computed with the next question, but for its pictures, which are encoded now.
    ///
    /// # Errors
    /// `InvalidInput` for instructions, which belong to the options; for pictures as [`Conversation::ask`].
    pub fn push(&mut self, message: Message) -> Result<()> {
        self.push_until(message, &CancelToken::new())
    }

    /// As [`Conversation::push`], until `cancel` is cancelled.
    ///
    /// # Errors
    /// As [`Conversation::push`]; `Cancelled`.
    pub fn push_until(&mut self, message: Message, cancel: &CancelToken) -> Result<()> {
        if message.role == Role::System {
            let error = Error::new(ErrorKind::InvalidInput, "instructions do not stand between turns");
            return Err(error.needed("`system` of the options"));
        }
        let model = self.seat.lock_until(&self.adapters, cancel)?.session.model().clone();
        let message = self.look(&model, message, cancel)?;
        self.messages.push(message);
        Ok(())
    }

    /// How it goes.
    pub fn options(&self) -> &ConversationOptions {
        &self.options
    }

    /// How it goes on. New instructions hold from the next question on, for which all is computed anew.
    pub fn set_options(&mut self, options: ConversationOptions) {
        self.options = options;
    }

    /// Places of the context that are computed.
    pub fn n_tokens(&self) -> usize {
        self.held.n_tokens()
    }

    /// The cache of its pictures; a new conversation has one of its own, of 256 MiB where its session has no memory budget.
    pub fn image_cache(&self) -> &Arc<ImageCache> {
        &self.image_cache
    }

    /// Takes `cache` for the pictures to come, such as one that all conversations of an app share. Pictures that were shown
    /// are kept with the conversation anyway.
    pub fn set_image_cache(&mut self, cache: Arc<ImageCache>) {
        self.image_cache = cache;
    }

    /// The adapters in use, with their scales.
    pub fn adapters(&self) -> &[(Arc<Adapter>, f32)] {
        &self.adapters
    }

    /// Puts `adapters` in place of those before. History stays; what the other adapters computed of it is dropped now and
    /// computed again by the next question. Of a change of activated adapters only, that is what follows the last
    /// invocation.
    ///
    /// # Errors
    /// As [`Session::set_adapters`], with the adapters as they were.
    pub fn set_adapters(&mut self, adapters: &[(Arc<Adapter>, f32)]) -> Result<()> {
        let mut shared = self.seat.lock(&self.adapters);
        shared.session.check_adapters(adapters)?;
        let (before, after) = (AdapterUse::of(&self.adapters), AdapterUse::of(adapters));
        let seq = self.seat.seq();
        let n_valid = if before == after {
            self.held.n_tokens()
        } else if before.iter().filter(|used| !used.is_activated).eq(after.iter().filter(|used| !used.is_activated)) {
            shared.session.activated_from(seq)
        } else {
            0
        };
        self.held = self.held.split_at(n_valid).0;
        shared.session.cut_back(seq, &self.held);
        shared.session.adopt_adapters(adapters);
        drop(shared);
        self.adapters = adapters.to_vec();
        Ok(())
    }

    /// A second conversation that goes on from here, in a free sequence of the same session. What is computed is copied, with
    /// the next decode call, and not computed again.
    ///
    /// # Errors
    /// `Limit` when all sequences of the session are taken: [`crate::SessionOptions::n_seq`] bounds the conversations in it.
    pub fn fork(&self) -> Result<Self> {
        Ok(Self {
            seat: self.seat.fork()?,
            options: self.options.clone(),
            image_cache: Arc::clone(&self.image_cache),
            adapters: self.adapters.clone(),
            messages: self.messages.clone(),
            held: self.held.clone(),
            n_turns: self.n_turns,
        })
    }
}

impl std::fmt::Debug for Conversation {
    // What was said is private: a log shows how much, never what.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Conversation({} messages, {} tokens)", self.messages.len(), self.n_tokens())
    }
}
