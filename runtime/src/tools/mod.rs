//! Tools: what a model may call, and the calls that it writes.
//!
//! `Tools -> chat template (its variable `tools`) -> prompt -> answer -> ToolCalls`. Apps run the tools; a call goes back to
//! the template with the message that made it ([`crate::Message::calls`]), its result as a message of [`crate::Role::Tool`].

mod parse;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub(crate) use self::parse::{ToolFormat, is_call_tag};
use crate::{Error, ErrorKind, Result};

/// Most tools of a prompt.
const MAX_TOOLS: usize = 128;
/// Most bytes of their definitions together.
const MAX_BYTES: usize = 256 << 10;

/// Definitions of tools, as chat templates take them: `{"type": "function", "function": {"name", "description",
/// "parameters"}}`, the parameters a JSON Schema.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Value>", into = "Vec<Value>")]
pub struct Tools(Vec<Value>);

impl Tools {
    /// The tools that `definitions` are of: complete ones, or what stands under `function` alone.
    ///
    /// # Errors
    /// `InvalidInput` for a definition without a name, `Limit` for more than 128 tools or 256 KiB.
    pub fn new(definitions: Vec<Value>) -> Result<Self> {
        if definitions.len() > MAX_TOOLS {
            let error = Error::new(ErrorKind::Limit, "too many tools").got(definitions.len());
            return Err(error.needed(format!("at most {MAX_TOOLS}")));
        }
        let n_bytes: usize = definitions.iter().map(|definition| definition.to_string().len()).sum();
        if n_bytes > MAX_BYTES {
            let error = Error::new(ErrorKind::Limit, "definitions of tools too long").got(format!("{n_bytes} bytes"));
            return Err(error.needed(format!("at most {MAX_BYTES}")));
        }
        let complete = |(index, definition): (usize, Value)| {
            let definition = match definition.get("function") {
                Some(_) => definition,
                None => json!({ "type": "function", "function": definition }),
            };
            let name = definition["function"]["name"].as_str().filter(|name| !name.is_empty());
            name.ok_or_else(|| {
                let error = Error::new(ErrorKind::InvalidInput, "tool without a name").at(format!("tool {index}"));
                error.needed("an object with `name`, `description` and `parameters`")
            })?;
            Ok(definition)
        };
        Ok(Self(definitions.into_iter().enumerate().map(complete).collect::<Result<_>>()?))
    }

    /// The tools of a JSON list.
    ///
    /// # Errors
    /// As [`Tools::new`]; `InvalidInput` for text that is no JSON list.
    pub fn from_json(text: &str) -> Result<Self> {
        let definitions = serde_json::from_str(text).map_err(|error| {
            let reason =
                Error::new(ErrorKind::InvalidInput, "not a list of tools").got(error.to_string()).source(error);
            reason.needed("a JSON list of objects")
        })?;
        Self::new(definitions)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The definitions.
    pub fn definitions(&self) -> &[Value] {
        &self.0
    }
}

impl TryFrom<Vec<Value>> for Tools {
    type Error = Error;

    fn try_from(definitions: Vec<Value>) -> Result<Self> {
        Self::new(definitions)
    }
}

impl From<Tools> for Vec<Value> {
    fn from(tools: Tools) -> Self {
        tools.0
    }
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The tool.
    pub name: String,
    /// What it is called with: a JSON object, which was not checked against the tool's schema.
    pub arguments: Value,
}

/// What looks like a call and is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MalformedCall {
    /// As the model wrote it, without tags.
    pub text: String,
    /// What is wrong with it.
    pub problem: String,
}

/// An answer with calls taken out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ToolCalls {
    /// What stands before the first call.
    pub text: String,
    /// The calls, in order.
    pub calls: Vec<ToolCall>,
    /// Calls that cannot be read.
    pub malformed: Vec<MalformedCall>,
}
