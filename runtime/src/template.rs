//! Chat templates: the Jinja program in a model file that turns messages into the text the model was trained on.

mod json;

use minijinja::{Environment, ErrorKind as JinjaErrorKind, Value, context};
use serde::Serialize;

use crate::{Error, ErrorKind, Result, tools::ToolFormat};

/// For files without a template: the format of Qwen and SmolLM.
const CHATML: &str = "\
{%- for message in messages -%}
{{- '<|im_start|>' ~ message.role ~ '\n' -}}
{%- if message.content is string -%}{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}{%- else -%}{{- part.text -}}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}";

const NAME: &str = "chat";
/// By which templates, Qwen3's among them, let the model think or not.
const ENABLE_THINKING: &str = "enable_thinking";

/// One message as templates see it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TemplateMessage {
    pub(crate) role: &'static str,
    pub(crate) content: Content,
    /// Left out where there are none: templates ask whether a message has calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tool_calls: Vec<TemplateCall>,
}

/// A call of a tool as templates see it.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename = "function")]
pub(crate) struct TemplateCall {
    pub(crate) function: TemplateFunction,
}

/// What is called.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TemplateFunction {
    pub(crate) name: String,
    pub(crate) arguments: serde_json::Value,
}

/// The content of a message: many templates for text models only take a string.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Content {
    Text(String),
    Parts(Vec<ContentPart>),
}

/// One part of a message with pictures.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum ContentPart {
    Text { text: String },
    Image,
}

/// A compiled chat template, in the dialect of Hugging Face: Jinja2 with `trim_blocks`, `lstrip_blocks`, Python's string
/// methods and `raise_exception`.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// Compiles `source`, or ChatML where a file has no template. `bos` and `eos` are what the template calls
    /// `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// `InvalidFile` with line and reason when it is no Jinja template.
    pub fn new(source: Option<&str>, bos: Option<&str>, eos: Option<&str>) -> Result<Self> {
        let source = source.unwrap_or(CHATML).to_owned();
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", json::to_json);
        // A file is not trusted: a template that loops for ever ends here. Real ones take a few thousand steps.
        environment.set_fuel(Some(10_000_000));
        environment.add_template_owned(NAME, source.clone()).map_err(|error| {
            Error::new(ErrorKind::InvalidFile, "bad chat template").got(error.to_string()).source(error)
        })?;
        let text = |token: Option<&str>| token.unwrap_or_default().to_owned();
        Ok(Self { environment, source, bos: text(bos), eos: text(eos) })
    }

    /// The template as the file has it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// How it teaches the model to call tools; `None` if it does not.
    pub(crate) fn tool_format(&self) -> Option<ToolFormat> {
        ToolFormat::of(&self.source)
    }

    /// The text of `messages`; with `ask`, followed by what starts an answer, in which the model is to think or not if
    /// `thinking` says so.
    ///
    /// # Errors
    /// `Unsupported` with the template's own complaint when it refuses the messages, or for `tools` or `thinking` that it would
    /// pass over.
    pub(crate) fn render(
        &self,
        messages: &[TemplateMessage],
        tools: &[serde_json::Value],
        thinking: Option<bool>,
        ask: bool,
    ) -> Result<String> {
        if thinking.is_some() && !self.source.contains(ENABLE_THINKING) {
            let error = Error::new(ErrorKind::Unsupported, "the chat template does not switch thinking");
            return Err(error.needed(format!("one with the variable `{ENABLE_THINKING}`")));
        }
        if !tools.is_empty() && self.tool_format().is_none() {
            let error = Error::new(ErrorKind::Unsupported, "the chat template knows no tools");
            return Err(error.got(format!("{} tools", tools.len())));
        }
        // As Hugging Face calls templates: without tools the variable is none, not missing.
        let tools = (!tools.is_empty()).then(|| Value::from_serialize(tools));
        let template = self.environment.get_template(NAME).expect("added under this name in `new`");
        let values = context! {
            messages => Value::from_serialize(messages),
            tools => tools,
            add_generation_prompt => ask,
            // Templates ask whether it is defined.
            enable_thinking => thinking.map_or(Value::UNDEFINED, Value::from),
            bos_token => self.bos,
            eos_token => self.eos,
        };
        template.render(values).map_err(|error| {
            let reason = error.detail().map_or_else(|| error.to_string(), str::to_owned);
            Error::new(ErrorKind::Unsupported, "chat template refuses the messages").got(reason).source(error)
        })
    }
}

fn raise_exception(message: String) -> Result<String, minijinja::Error> {
    Err(minijinja::Error::new(JinjaErrorKind::InvalidOperation, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(role: &'static str, text: &str) -> TemplateMessage {
        TemplateMessage { role, content: Content::Text(text.into()), tool_calls: Vec::new() }
    }

    #[test]
    fn a_file_without_template_gets_chatml() {
        let template = ChatTemplate::new(None, None, None).expect("compiles");
        let parts = vec![ContentPart::Image, ContentPart::Text { text: "What?".into() }];
        let messages =
            [message("system", "Be brief."), TemplateMessage { content: Content::Parts(parts), ..message("user", "") }];
        let text = template.render(&messages, &[], None, true).expect("renders");
        let expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n\
            <|vision_start|><|image_pad|><|vision_end|>What?<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn python_methods_and_slices_of_published_templates_work() {
        let source = "{%- for m in messages[::-1] -%}{%- if m.content.startswith('a') -%}\
            {{- m.content.split('-')[-1].strip() + bos_token -}}{%- endif -%}{%- endfor -%}";
        let template = ChatTemplate::new(Some(source), Some("<s>"), None).expect("compiles");
        let text = template.render(
            &[message("user", "a- 1 "), message("user", "b"), message("user", "a-2")],
            &[],
            None,
            false,
        );
        assert_eq!(text.expect("renders"), "2<s>1<s>");
    }

    #[test]
    fn refusals_and_bad_syntax_are_told() {
        let source = "{{ raise_exception('only user messages') }}";
        let template = ChatTemplate::new(Some(source), None, None).expect("compiles");
        let error = template.render(&[message("system", "x")], &[], None, true).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("only user messages"), "{error}");
        let error = ChatTemplate::new(Some("{% for"), None, None).expect_err("no Jinja");
        assert_eq!(error.kind(), ErrorKind::InvalidFile);
        let endless = "{% for a in range(100000) %}{% for b in range(100000) %}{{ b }}{% endfor %}{% endfor %}";
        let template = ChatTemplate::new(Some(endless), None, None).expect("compiles");
        assert_eq!(template.render(&[], &[], None, true).expect_err("out of fuel").kind(), ErrorKind::Unsupported);
    }
}
