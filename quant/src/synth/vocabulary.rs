//! A vocabulary that works without having been trained: a token for every byte, the special ones of ChatML, and numbers up to
//! the size asked for. No text is read as numbers, since that takes merges; a model may say them, so that, as with real
//! vocabularies, an answer of random tokens seldom meets the one that ends it.

use owlet_runtime::gguf::GgufWriter;

use super::model::{Family, SynthModel};

/// The chat format's own tokens, and those around a picture.
const SPECIAL: [&str; 6] =
    ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"];

/// Tokens that text is read as; a vocabulary has at least these.
pub(super) const N_WORKING_TOKENS: u32 = 256 + SPECIAL.len() as u32;

/// llama.cpp's kinds of tokens.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;

/// ChatML, with pictures.
const CHAT_TEMPLATE: &str = "\
{%- for message in messages -%}
{{- '<|im_start|>' ~ message.role ~ '\\n' -}}
{%- if message.content is string -%}{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- else -%}{{- part.text -}}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}";

/// Sets the keys of tokenizer and chat template.
pub(super) fn write_keys(model: &SynthModel, writer: &mut GgufWriter) {
    let mut tokens = byte_tokens();
    tokens.extend(SPECIAL.map(str::to_owned));
    // U+0120 spells a space.
    tokens.extend((N_WORKING_TOKENS..model.n_vocab).map(|id| format!("\u{120}{id}")));
    let mut types = vec![NORMAL; 256];
    types.resize(N_WORKING_TOKENS as usize, CONTROL);
    types.resize(tokens.len(), NORMAL);
    let splitter = if model.family == Family::Llama { "smollm" } else { "qwen2" };
    let id = |name: &str| 256 + SPECIAL.iter().position(|&special| special == name).map_or(0, |index| index as u32);
    writer
        .set("tokenizer.ggml.model", "gpt2")
        .set("tokenizer.ggml.pre", splitter)
        .set("tokenizer.ggml.tokens", tokens)
        .set("tokenizer.ggml.token_type", types)
        .set("tokenizer.ggml.merges", Vec::<String>::new())
        .set("tokenizer.ggml.eos_token_id", id("<|im_end|>"))
        .set("tokenizer.ggml.padding_token_id", id("<|endoftext|>"))
        .set("tokenizer.ggml.add_bos_token", false)
        .set("tokenizer.chat_template", CHAT_TEMPLATE);
}

/// Bytes as GPT-2 spells them: printable ones as themselves, the others as characters from 256 on.
fn byte_tokens() -> Vec<String> {
    let is_printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut replacements = 256..;
    let spelling = |byte: u32| {
        let code = if is_printable(&byte) { Some(byte) } else { replacements.next() };
        code.and_then(char::from_u32).map(String::from).unwrap_or_default()
    };
    (0..256).map(spelling).collect()
}
