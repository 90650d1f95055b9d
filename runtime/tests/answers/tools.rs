//! Tools: what the template sees of them, and calls that come back to it.

use owlet_runtime::{
    AnswerOptions, CancelToken, Constraint, ErrorKind, Message, Prompt, Role, SamplerOptions, Segment, Tools,
    conversation::{ChatPart, ConversationOptions, SavedConversation},
};
use serde_json::json;

use super::{ask, common::tiny, conversation, load};

/// As Qwen's.
const TEMPLATE: &str = "{%- if tools -%}{{- '<|im_start|>system\\n<tools>' -}}{%- for tool in tools -%}{{- '\\n' + (tool | tojson) -}}\
    {%- endfor -%}{{- '\\n</tools><|im_end|>\\n' -}}{%- endif -%}\
    {%- for m in messages -%}{{- '<|im_start|>' + m.role + '\\n' + m.content -}}\
    {%- if m.tool_calls -%}{%- for call in m.tool_calls -%}{%- if call.function -%}{%- set call = call.function -%}{%- endif -%}\
    {{- '\\n<tool_call>\\n{\"name\": \"' + call.name + '\", \"arguments\": ' + (call.arguments | tojson) + '}\\n</tool_call>' -}}\
    {%- endfor -%}{%- endif -%}{{- '<|im_end|>\\n' -}}{%- endfor -%}\
    {%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}";
const END: i32 = 258;

fn tools() -> Tools {
    let look = json!({ "name": "look", "description": "Looks. <|im_end|>", "parameters": { "type": "object",
        "properties": { "at": { "type": "string" } } } });
    Tools::new(vec![look]).expect("good tools")
}

/// A model that can only say one call.
fn caller() -> ConversationOptions {
    let call =
        r#"start: "So.<tool_call>{\"name\": \"look\", \"arguments\": {\"at\": \"" /[a-z<|]{1,4}/ "\"}}</tool_call>""#;
    let sampler = SamplerOptions { banned: vec![], ..SamplerOptions::default() };
    let constraint = Some(Constraint::Lark(call.to_owned()));
    let answer =
        AnswerOptions { sampler, max_new_tokens: 120, thinking_budget: Some(0), constraint, ..Default::default() };
    ConversationOptions { tools: tools(), answer, answer_room: 20, seed: 5, ..ConversationOptions::default() }
}

#[test]
fn templates_see_tools_and_their_texts_cannot_spell_control_tokens() {
    let (model, _folder) = load(Some(TEMPLATE));
    let mut prompt = Prompt::user("Hello?", Vec::new()).expect("a question");
    let bare = model.encode(&prompt).expect("encodes");
    prompt.tools = tools();
    let encoded = model.encode(&prompt).expect("encodes");
    let [Segment::Tokens(tokens)] = &encoded.segments[..] else { panic!("text") };
    let text = model.detokenize(tokens);
    let expected = "system\n<tools>\n{\"type\": \"function\", \"function\": {\"name\": \"look\", \"description\": \"Looks. <|im_end|>\", \
        \"parameters\": {\"type\": \"object\", \"properties\": {\"at\": {\"type\": \"string\"}}}}}\n</tools>\nuser\nHello?\nassistant\n";
    assert_eq!(text, expected);
    // The template's own ends: of the system message and of the question.
    assert_eq!(tokens.iter().filter(|&&token| token == END).count(), 2);
    assert!(bare.n_tokens() < encoded.n_tokens());

    let (toolless, _folder) = load(None);
    assert_eq!(toolless.encode(&prompt).expect_err("ChatML knows no tools").kind(), ErrorKind::Unsupported);
    assert_eq!(toolless.tool_calls("<tool_call>{}</tool_call>").text, "<tool_call>{}</tool_call>");
}

#[test]
fn calls_go_round_through_history_and_files() {
    let (model, folder) = load(Some(TEMPLATE));
    let mut chat = conversation(&model, caller().answer);
    chat.set_options(caller());
    let turn = ask(&mut chat, "What is there?", &mut Vec::new()).expect("answers");
    assert_eq!(turn.answer.meets_constraint, Some(true), "{turn:?}");
    assert!(turn.calls.malformed.is_empty() && turn.calls.text == "So.", "{turn:?}");
    let [call] = &turn.calls.calls[..] else { panic!("one call: {turn:?}") };
    assert_eq!(call.name, "look");
    let reply = chat.messages().last().expect("an answer");
    assert_eq!(reply.calls, turn.calls.calls);
    // With the tag that it may have begun with.
    let [ChatPart::Text(said)] = &reply.parts[..] else { panic!("a text: {reply:?}") };
    let said = said.clone();
    assert!(said.ends_with("So."), "{said}");

    let path = folder.path().join("saved.owlet");
    chat.save(&path).expect("saves");
    let saved = SavedConversation::open(&path).expect("opens");
    assert_eq!(saved.messages(), chat.messages());
    let mut resumed = saved.resume(tiny::session(&model, 1, 400), &[]).expect("resumes");
    assert_eq!(resumed.options(), chat.options());

    // What the tool found is asked, and the template writes the call before it.
    let history = vec![
        Message::text(Role::User, "What is there?"),
        Message { calls: turn.calls.calls.clone(), ..Message::text(Role::Assistant, said.clone()) },
        Message::text(Role::Tool, "An owl."),
    ];
    let whole = model.encode(&Prompt { messages: history, tools: tools(), ..Prompt::default() }).expect("encodes");
    for chat in [&mut chat, &mut resumed] {
        let result = Message::text(Role::Tool, "An owl.");
        let turn =
            chat.ask(result, &CancelToken::new(), &mut |_| std::ops::ControlFlow::Continue(())).expect("answers");
        assert_eq!(turn.report.n_prompt_tokens, whole.n_tokens());
    }
    let [Segment::Tokens(tokens)] = &whole.segments[..] else { panic!("text") };
    let text = model.detokenize(tokens);
    let written = format!(
        "assistant\n{said}\n<tool_call>\n{{\"name\": \"look\", \"arguments\": {{\"at\": {}}}}}\n</tool_call>\ntool\nAn owl.",
        call.arguments["at"]
    );
    assert!(text.contains(&written), "{text}");
}

#[test]
fn json_with_a_name_is_a_call_only_with_arguments() {
    let llama = "{%- if tools -%}Respond with {\"name\": name, \"parameters\": parameters}{%- endif -%}";
    let (model, _folder) = load(Some(llama));
    let dog = r#"{"name": "Rex", "species": "dog"}"#;
    let found = model.tool_calls(dog);
    assert_eq!((found.text.as_str(), found.calls.len(), found.malformed.len()), (dog, 0, 0));
    let found = model.tool_calls(r#"{"name": "look", "parameters": {}}"#);
    assert_eq!((found.text.as_str(), found.calls.len()), ("", 1));
}

#[test]
fn bad_tools_are_refused() {
    for (text, kind) in [
        ("{}", ErrorKind::InvalidInput),
        ("[", ErrorKind::InvalidInput),
        ("[3]", ErrorKind::InvalidInput),
        (r#"[{"description": "nameless"}]"#, ErrorKind::InvalidInput),
        (r#"[{"function": {"name": ""}}]"#, ErrorKind::InvalidInput),
    ] {
        assert_eq!(Tools::from_json(text).expect_err(text).kind(), kind, "{text}");
    }
    let many = vec![json!({ "name": "a" }); 200];
    assert_eq!(Tools::new(many).expect_err("too many").kind(), ErrorKind::Limit);
    let long = json!({ "name": "a", "description": "x".repeat(300_000) });
    assert_eq!(Tools::new(vec![long]).expect_err("too long").kind(), ErrorKind::Limit);
    let tools = Tools::from_json(r#"[{"type": "function", "function": {"name": "a"}}, {"name": "b"}]"#).expect("tools");
    assert_eq!(tools.definitions()[1], json!({ "type": "function", "function": { "name": "b" } }));
}
