//! Calls in answers, in the two ways that published models write them.

use serde_json::{Deserializer, Value, json};

use super::{MalformedCall, ToolCall, ToolCalls};

const OPENING: &str = "<tool_call>";
const CLOSING: &str = "</tool_call>";
const PYTHON_TAG: &str = "<|python_tag|>";
/// Under which models write the arguments of a call.
const ARGUMENTS: [&str; 2] = ["arguments", "parameters"];

/// Whether `spelling` is a tag that begins or ends a call.
pub(crate) fn is_call_tag(spelling: &str) -> bool {
    [OPENING, CLOSING].contains(&spelling)
}

/// How a model writes calls, by its chat template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ToolFormat {
    /// Qwen and Hermes: `<tool_call>{"name": .., "arguments": {..}}</tool_call>`, any number of them, anywhere.
    Tagged,
    /// Llama 3: the whole answer is `{"name": .., "parameters": {..}}`, or several of them with semicolons between.
    Bare,
}

impl ToolFormat {
    /// The format that `template` teaches; `None` for one that knows no tools.
    pub(crate) fn of(template: &str) -> Option<Self> {
        if !template.contains("tools") {
            None
        } else if template.contains(OPENING) {
            Some(Self::Tagged)
        } else if template.contains("\"parameters\"") || template.contains(PYTHON_TAG) {
            Some(Self::Bare)
        } else {
            None
        }
    }

    /// The calls in `answer`.
    pub(crate) fn parse(self, answer: &str) -> ToolCalls {
        match self {
            Self::Tagged => parse_tagged(answer),
            Self::Bare => parse_bare(answer),
        }
    }
}

fn parse_tagged(answer: &str) -> ToolCalls {
    let (text, mut rest) = answer.split_once(OPENING).map_or((answer, None), |(text, rest)| (text, Some(rest)));
    let mut found = ToolCalls { text: text.to_owned(), ..ToolCalls::default() };
    if rest.is_some() {
        found.text.truncate(text.trim_end().len());
    }
    while let Some(from_call) = rest {
        let (call, behind, is_closed) = match from_call.split_once(CLOSING) {
            Some((call, behind)) => (call.trim(), behind, true),
            None => (from_call.trim(), "", false),
        };
        match (serde_json::from_str(call), is_closed) {
            (Ok(value), true) => found.push(value, call),
            (Ok(_), false) => found.refuse(call, format!("no {CLOSING}")),
            (Err(error), _) => found.refuse(call, error.to_string()),
        }
        rest = behind.split_once(OPENING).map(|(_, rest)| rest);
    }
    found
}

fn parse_bare(answer: &str) -> ToolCalls {
    let text = answer.trim();
    let body = text.strip_prefix(PYTHON_TAG).unwrap_or(text).trim();
    let plain = ToolCalls { text: answer.to_owned(), ..ToolCalls::default() };
    // JSON that calls nothing is an answer like any other, one of something with a name as well.
    let is_call = |value: &Value| value.get("name").is_some() && ARGUMENTS.iter().any(|key| value.get(key).is_some());
    let has_key = |key: &str| body.contains(&format!("\"{key}\""));
    if !body.starts_with('{') || !has_key("name") || !ARGUMENTS.into_iter().any(has_key) {
        return plain;
    }
    let mut found = ToolCalls::default();
    let mut rest = body;
    while !rest.is_empty() {
        let mut values = Deserializer::from_str(rest).into_iter::<Value>();
        match values.next() {
            Some(Ok(value)) if is_call(&value) => found.push(value, rest),
            Some(Ok(_)) => return plain,
            Some(Err(error)) => {
                found.refuse(rest, error.to_string());
                break;
            }
            None => break,
        }
        rest = rest[values.byte_offset()..].trim_start_matches(|c: char| c == ';' || c.is_whitespace());
    }
    found
}

impl ToolCalls {
    /// Takes `value`, which `text` begins with, for a call if it is one.
    fn push(&mut self, mut value: Value, text: &str) {
        let Some(name) = value.get("name").and_then(Value::as_str).filter(|name| !name.is_empty()) else {
            return self.refuse(text, "no `name`".to_owned());
        };
        let name = name.to_owned();
        let arguments = ARGUMENTS.into_iter().find_map(|key| value.get_mut(key).map(Value::take));
        // Some models write the arguments as a string that holds JSON.
        let arguments = match arguments {
            None => json!({}),
            Some(Value::String(text)) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
            Some(arguments) => arguments,
        };
        if !arguments.is_object() {
            return self.refuse(text, "the arguments are no JSON object".to_owned());
        }
        self.calls.push(ToolCall { name, arguments });
    }

    fn refuse(&mut self, text: &str, problem: String) {
        self.malformed.push(MalformedCall { text: text.to_owned(), problem });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_tells_how_calls_are_written() {
        for (template, format) in [
            ("{% if tools %}{{ '<tool_call>' }}{% endif %}", Some(ToolFormat::Tagged)),
            (r#"{% if tools %}Respond with {"name": x, "parameters": y}{% endif %}"#, Some(ToolFormat::Bare)),
            ("{% if tools %}{{ '<|python_tag|>' }}{% endif %}", Some(ToolFormat::Bare)),
            ("{{ messages }} <tool_call>", None),
            ("{{ tools }}", None),
        ] {
            assert_eq!(ToolFormat::of(template), format, "{template}");
        }
    }

    #[test]
    fn calls_are_read_and_what_cannot_be_read_is_told() {
        struct Case {
            format: ToolFormat,
            answer: &'static str,
            text: &'static str,
            calls: Vec<(&'static str, Value)>,
            /// Text and a part of the problem.
            malformed: Vec<(&'static str, &'static str)>,
        }
        use ToolFormat::{Bare, Tagged};
        const DOG: &str = "{\"name\": \"Rex\", \"species\": \"dog\"}";
        let case = |format, answer, text, calls, malformed| Case { format, answer, text, calls, malformed };
        let owl = || ("look", json!({ "at": "owl", "n": 2 }));
        let tagged = "<tool_call>\n{\"name\": \"look\", \"arguments\": {\"at\": \"owl\", \"n\": 2}}\n</tool_call>";
        let two = "Let me see.\n<tool_call>{\"name\":\"a\"}</tool_call>\n<tool_call>{\"name\":\"b\",\"arguments\":{}}</tool_call>";
        for Case { format, answer, text, calls, malformed } in [
            case(Tagged, "No call.", "No call.", vec![], vec![]),
            case(Tagged, tagged, "", vec![owl()], vec![]),
            case(Tagged, two, "Let me see.", vec![("a", json!({})), ("b", json!({}))], vec![]),
            case(
                Tagged,
                "<tool_call>{\"name\": \"look\", \"arguments\": \"{\\\"at\\\": \\\"owl\\\", \\\"n\\\": 2}\"}</tool_call>",
                "",
                vec![owl()],
                vec![],
            ),
            case(Tagged, "x <tool_call>{\"name\"</tool_call>", "x", vec![], vec![("{\"name\"", "EOF")]),
            case(Tagged, "<tool_call>{\"name\": \"a\"}", "", vec![], vec![("{\"name\": \"a\"}", "no </tool_call>")]),
            case(
                Tagged,
                "<tool_call>{\"arguments\": {}}</tool_call>",
                "",
                vec![],
                vec![("{\"arguments\": {}}", "`name`")],
            ),
            case(Tagged, "<tool_call>[1]</tool_call>", "", vec![], vec![("[1]", "`name`")]),
            case(Tagged, "<tool_call></tool_call>", "", vec![], vec![("", "EOF")]),
            case(
                Tagged,
                "<tool_call>{\"name\": \"a\", \"arguments\": 3}</tool_call><tool_call>{\"name\": \"b\"}</tool_call>",
                "",
                vec![("b", json!({}))],
                vec![("{\"name\": \"a\", \"arguments\": 3}", "no JSON object")],
            ),
            case(Bare, "No call.", "No call.", vec![], vec![]),
            case(Bare, "{\"name\": \"look\", \"parameters\": {\"at\": \"owl\", \"n\": 2}}", "", vec![owl()], vec![]),
            case(
                Bare,
                "<|python_tag|>{\"name\": \"a\", \"parameters\": {}}; {\"name\": \"b\", \"parameters\": {}}",
                "",
                vec![("a", json!({})), ("b", json!({}))],
                vec![],
            ),
            case(Bare, "{\"answer\": 3}", "{\"answer\": 3}", vec![], vec![]),
            case(Bare, "{\"person\": {\"name\": \"x\"}}", "{\"person\": {\"name\": \"x\"}}", vec![], vec![]),
            case(
                Bare,
                "{\"name\": \"a\", \"parameters\": {\"x",
                "",
                vec![],
                vec![("{\"name\": \"a\", \"parameters\": {\"x", "EOF")],
            ),
            case(Bare, DOG, DOG, vec![], vec![]),
            case(Bare, &DOG[..20], &DOG[..20], vec![], vec![]),
            case(Bare, "{\"name\": \"now\", \"parameters\": {}}", "", vec![("now", json!({}))], vec![]),
        ] {
            let found = format.parse(answer);
            let expected: Vec<_> =
                calls.into_iter().map(|(name, arguments)| ToolCall { name: name.to_owned(), arguments }).collect();
            assert_eq!((found.text.as_str(), &found.calls), (text, &expected), "{answer}");
            assert_eq!(found.malformed.len(), malformed.len(), "{answer}: {found:?}");
            for (got, (text, problem)) in found.malformed.iter().zip(malformed) {
                assert!(got.text == text && got.problem.contains(problem), "{answer}: {got:?}");
            }
        }
    }
}
