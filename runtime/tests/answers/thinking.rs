//! Whether a template lets the model think.

use owlet_runtime::{ErrorKind, Message, Prompt, Role, Segment, conversation::ConversationOptions};

use super::{ask, conversation, load, options};

/// As Qwen3's: thinks unless it is told not to.
const TEMPLATE: &str = "{%- for m in messages -%}{{- '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' -}}{%- endfor -%}\
    {%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}\
    {%- if enable_thinking is defined and enable_thinking is false -%}{{- '<think>\\n\\n</think>\\n\\n' -}}\
    {%- elif enable_thinking is defined -%}{{- '<think>\\n' -}}{%- endif -%}{%- endif -%}";

#[test]
fn templates_that_switch_thinking_do_as_they_are_told() {
    let (model, _folder) = load(Some(TEMPLATE));
    for (thinking, opening) in [(None, ""), (Some(true), "<think>\n"), (Some(false), "<think>\n\n</think>\n\n")] {
        let prompt = Prompt { messages: vec![Message::text(Role::User, "Hello?")], thinking, ..Prompt::default() };
        let encoded = model.encode(&prompt).expect("encodes");
        let [Segment::Tokens(tokens)] = &encoded.segments[..] else { panic!("text") };
        assert_eq!(model.detokenize(tokens), format!("user\nHello?\nassistant\n{opening}"), "{thinking:?}");

        let mut chat = conversation(&model, options());
        chat.set_options(ConversationOptions { thinking, ..chat.options().clone() });
        let turn = ask(&mut chat, "Hello?", &mut Vec::new()).expect("answers");
        assert_eq!(turn.report.n_prompt_tokens, encoded.n_tokens(), "{thinking:?}");
        assert_eq!(turn.answer.thinking.is_empty(), thinking != Some(true), "{thinking:?}");
    }
}

#[test]
fn templates_that_do_not_switch_thinking_refuse_to() {
    let (model, _folder) = load(None);
    for thinking in [Some(true), Some(false)] {
        let prompt = Prompt { messages: vec![Message::text(Role::User, "Hello?")], thinking, ..Prompt::default() };
        let error = model.encode(&prompt).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("enable_thinking"), "{error}");
    }
}
