//! What is said, and to whom.

use std::sync::Arc;

use owlet_runtime::{self as runtime, conversation};

use crate::{error::Result, image::Image};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Role {
    /// Instructions that hold for the whole conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// A tool that the model called.
    Tool,
}

/// What one side says: a question, what a tool found, an earlier turn.
#[derive(Clone, Debug, uniffi::Record)]
pub struct Message {
    /// What is said. Every `<image>` in it is replaced by the next of `images`; without any the pictures come first.
    pub text: String,
    /// The pictures.
    #[uniffi(default)]
    pub images: Vec<Arc<Image>>,
    /// Who says it; default the person.
    #[uniffi(default)]
    pub role: Option<Role>,
}

/// What a model is given outside of a session.
#[derive(Clone, Debug, uniffi::Record)]
pub struct Prompt {
    /// What was said, oldest first; the answer to the last one is wanted.
    pub messages: Vec<Message>,
    /// What the model may call: a JSON list of `{"name", "description", "parameters"}`; default none.
    #[uniffi(default)]
    pub tools_json: Option<String>,
    /// Whether the model shall think before it answers; default: as its chat template has it. Templates that have no switch
    /// refuse one.
    #[uniffi(default)]
    pub thinking: Option<bool>,
}

/// What one side said in a session.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct ChatMessage {
    /// Who said it.
    pub role: Role,
    /// What was said, pictures left out; of answers the thinking with its tags as well.
    pub text: String,
    /// Pictures in it.
    pub n_images: u32,
    /// Tools that the model called behind that.
    pub calls: Vec<ToolCall>,
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct ToolCall {
    /// The tool.
    pub name: String,
    /// What it is called with: a JSON object, which was not checked against the tool's schema.
    pub arguments_json: String,
}

/// What looks like a call and is none.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct MalformedCall {
    /// As the model wrote it.
    pub text: String,
    /// What is wrong with it.
    pub problem: String,
}

/// An answer with calls taken out.
#[derive(Clone, Debug, Default, PartialEq, Eq, uniffi::Record)]
pub struct ToolCalls {
    /// What stands before the first call.
    pub text: String,
    /// The calls, in order.
    pub calls: Vec<ToolCall>,
    /// Calls that cannot be read.
    pub malformed: Vec<MalformedCall>,
}

impl Message {
    /// The message with pictures in their places.
    pub(crate) fn build(self) -> Result<runtime::Message> {
        let images = self.images.iter().map(|image| image.0.clone()).collect();
        let role = self.role.map_or(runtime::Role::User, Into::into);
        Ok(runtime::Message { role, ..runtime::Message::user(&self.text, images)? })
    }
}

impl Prompt {
    pub(crate) fn build(self) -> Result<runtime::Prompt> {
        let messages = self.messages.into_iter().map(Message::build).collect::<Result<_>>()?;
        Ok(runtime::Prompt { messages, tools: tools(self.tools_json.as_deref())?, thinking: self.thinking })
    }
}

/// The tools of a JSON list.
pub(crate) fn tools(json: Option<&str>) -> Result<runtime::Tools> {
    Ok(json.map(runtime::Tools::from_json).transpose()?.unwrap_or_default())
}

crate::mirror_enum!(Role => runtime::Role { System, User, Assistant, Tool });

impl From<runtime::Role> for Role {
    fn from(role: runtime::Role) -> Self {
        match role {
            runtime::Role::System => Self::System,
            runtime::Role::User => Self::User,
            runtime::Role::Assistant => Self::Assistant,
            runtime::Role::Tool => Self::Tool,
        }
    }
}

impl From<&conversation::ChatMessage> for ChatMessage {
    fn from(message: &conversation::ChatMessage) -> Self {
        let mut text = String::new();
        let mut n_images = 0;
        for part in &message.parts {
            match part {
                conversation::ChatPart::Text(piece) => text.push_str(piece),
                conversation::ChatPart::Picture(_) => n_images += 1,
            }
        }
        let calls = message.calls.iter().cloned().map(Into::into).collect();
        Self { role: message.role.into(), text, n_images, calls }
    }
}

impl From<runtime::ToolCall> for ToolCall {
    fn from(call: runtime::ToolCall) -> Self {
        Self { name: call.name, arguments_json: call.arguments.to_string() }
    }
}

impl From<runtime::ToolCalls> for ToolCalls {
    fn from(calls: runtime::ToolCalls) -> Self {
        let malformed = |call: runtime::MalformedCall| MalformedCall { text: call.text, problem: call.problem };
        Self {
            text: calls.text,
            calls: calls.calls.into_iter().map(Into::into).collect(),
            malformed: calls.malformed.into_iter().map(malformed).collect(),
        }
    }
}
