//! How a session is opened.

use std::ffi::c_char;

use owlet_runtime::{
    FlashAttention, ImageOptions, KvType, Model, Result, SessionOptions, Tools,
    conversation::{ConversationOptions, OverflowPolicy},
};

use crate::{
    answer::{self, owlet_answer_options},
    input::{self, or, pick, versioned},
    message,
};

/// Precision of keys and values.
#[repr(u32)]
#[derive(Clone, Copy)]
pub enum owlet_kv_type {
    /// F16.
    Default = 0,
    /// Full precision.
    F32 = 1,
    /// Half the memory; logits move by 0.01 to 0.05.
    F16 = 2,
    /// A quarter of the memory; needs fused attention and heads of a multiple of 32.
    Q8_0 = 3,
}

/// Whether attention is computed in one fused operation.
#[repr(u32)]
#[derive(Clone, Copy)]
pub enum owlet_flash_attention {
    /// Where the device has it.
    Auto = 0,
    /// Always.
    On = 1,
    /// Never: the most exact, and the most memory for long contexts.
    Off = 2,
}

/// What becomes of a question that no longer fits the context.
#[repr(u32)]
#[derive(Clone, Copy)]
pub enum owlet_overflow {
    /// It is refused with OWLET_STATUS_CONTEXT_OVERFLOW, and the session stays as it is.
    Refuse = 0,
    /// The oldest turns are forgotten until it fits. The instructions stay.
    DropOldestTurns = 1,
}

/// How a session is opened. 0 and NULL stand for the default of every field.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct owlet_session_options {
    /// sizeof(owlet_session_options), set by the caller.
    pub struct_size: usize,
    /// Instructions before the first question; default NULL: none.
    pub system: *const c_char,
    /// What the model may call: a JSON list of tools, as OpenAI's interface has them; default NULL: none.
    pub tools: *const c_char,
    /// How answers are written; default NULL.
    pub answer: *const owlet_answer_options,
    /// Most anonymous memory in bytes that model and session may take together; batch, precision, pictures and context are
    /// reduced to meet it, or the session is refused with OWLET_STATUS_LIMIT. Weights are mapped and not counted. Default no
    /// limit.
    pub memory_budget: u64,
    /// Seed of the random numbers. The same questions and seed give the same answers. Default 0.
    pub seed: u64,
    /// Tokens that each fork can hold, questions and answers together; default 2048 or what the model was trained with,
    /// where that is less.
    pub n_ctx: usize,
    /// Forks that can be alive at a time beside the session; default 0, at most 255. Memory grows with it.
    pub n_forks: usize,
    /// Threads, at most 512; default 0: one per core. With more threads than idle cores the work crawls.
    pub n_threads: usize,
    /// Most tokens of a prompt computed at once; default 512.
    pub n_ubatch: usize,
    /// Places of the context kept free for an answer; default 256.
    pub answer_room: usize,
    /// Most tokens of each picture; default: the model's limit of pixels.
    pub max_image_tokens: usize,
    /// An owlet_kv_type.
    pub kv_type: u32,
    /// An owlet_flash_attention.
    pub flash_attention: u32,
    /// An owlet_overflow.
    pub overflow: u32,
    /// An owlet_thinking.
    pub thinking: u32,
}

versioned!(owlet_session_options);

impl owlet_session_options {
    /// The session of the runtime, for a model that was trained with `n_ctx_train` places.
    pub(crate) fn session(&self, n_ctx_train: usize) -> Result<SessionOptions> {
        let kv_types = [
            (owlet_kv_type::Default as u32, KvType::F16),
            (owlet_kv_type::F32 as u32, KvType::F32),
            (owlet_kv_type::F16 as u32, KvType::F16),
            (owlet_kv_type::Q8_0 as u32, KvType::Q8_0),
        ];
        let attention = [
            (owlet_flash_attention::Auto as u32, FlashAttention::Auto),
            (owlet_flash_attention::On as u32, FlashAttention::On),
            (owlet_flash_attention::Off as u32, FlashAttention::Off),
        ];
        let default = SessionOptions::default();
        let memory_budget = input::size(self.memory_budget, "memory_budget")?;
        Ok(SessionOptions {
            n_ctx: or(self.n_ctx, default.n_ctx.min(n_ctx_train)),
            n_seq: self.n_forks.saturating_add(1),
            n_ubatch: or(self.n_ubatch, default.n_ubatch),
            kv_type: pick("kv_type", self.kv_type, &kv_types)?,
            flash_attention: pick("flash_attention", self.flash_attention, &attention)?,
            n_threads: self.n_threads,
            memory_budget: (memory_budget > 0).then_some(memory_budget),
            ..default
        })
    }

    /// The conversation in it.
    ///
    /// # Safety
    /// Pointers are as the header says.
    pub(super) unsafe fn conversation(&self, model: &Model) -> Result<ConversationOptions> {
        let overflow = [
            (owlet_overflow::Refuse as u32, OverflowPolicy::Refuse),
            (owlet_overflow::DropOldestTurns as u32, OverflowPolicy::DropOldestTurns),
        ];
        // SAFETY: by the contract above.
        let (system, tools, answer) = unsafe {
            (
                input::optional_text(self.system, "system")?,
                input::optional_text(self.tools, "tools")?,
                answer::read(self.answer)?,
            )
        };
        let image_budget = match self.max_image_tokens {
            0 => None,
            max_tokens => {
                let images = ImageOptions { max_tokens: Some(max_tokens), ..ImageOptions::default() };
                Some(model.plan_images(&[], &images)?.budget)
            }
        };
        let default = ConversationOptions::default();
        Ok(ConversationOptions {
            system: system.map(str::to_owned),
            tools: tools.map_or(Ok(Tools::default()), Tools::from_json)?,
            answer,
            answer_room: or(self.answer_room, default.answer_room),
            thinking: message::thinking(self.thinking)?,
            overflow: pick("overflow", self.overflow, &overflow)?,
            seed: self.seed,
            image_budget,
        })
    }
}
