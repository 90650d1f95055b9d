//! `tokenizer.json` and its neighbours -> the vocabulary as GGUF keeps it.
//!
//! Only byte-level BPE is handled, which is what the supported families use. llama.cpp does not read the splitting
//! rules from the file, it knows them by name: the name is found from the rules themselves, and rules that it does not
//! know are refused, since they would tokenize differently without a word.

use std::{collections::HashMap, path::Path};

use owlet_runtime::{Error, ErrorKind, Result, gguf::GgufWriter};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::json::{self, Section};

/// Token types of GGUF.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// Words split off before merging, by the regular expression in the file.
const SPLIT_PATTERNS: [(&str, &str); 3] = [
    (
        "qwen2",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    (
        "qwen35",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    (
        "llama-bpe",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
];

/// Tokens with a meaning of their own: the name in Hugging Face's files and GGUF's key.
const SPECIAL_KEYS: [(&str, &str); 4] = [
    ("bos", "tokenizer.ggml.bos_token_id"),
    ("eos", "tokenizer.ggml.eos_token_id"),
    ("unk", "tokenizer.ggml.unknown_token_id"),
    ("pad", "tokenizer.ggml.padding_token_id"),
];

/// A vocabulary ready to be written.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    splitter: &'static str,
    tokens: Vec<String>,
    types: Vec<i32>,
    merges: Vec<String>,
    special: Vec<(&'static str, u32)>,
    adds_bos: bool,
    adds_eos: bool,
    /// Written where the tokenizer's configuration has it.
    adds_space_prefix: Option<bool>,
    chat_template: Option<String>,
}

impl Vocabulary {
    /// Reads the tokenizer of `directory`; `n_vocab` rows of the embedding are named, the last ones possibly unused.
    ///
    /// # Errors
    /// `NotFound` without tokenizer.json; `InvalidFile` for one that contradicts itself; `Unsupported` for another model
    /// than byte-level BPE or for splitting rules that llama.cpp does not know; `Mismatch` for more tokens than rows.
    pub(crate) fn read(directory: &Path, config: &Value, n_vocab: u32) -> Result<Self> {
        let path = directory.join("tokenizer.json");
        let text = json::read_text(&path)?;
        // The library that defines the format checks that merges and tokens belong together.
        Tokenizer::from_bytes(text.as_bytes()).map_err(|source| {
            let reason = source.to_string();
            Error::new(ErrorKind::InvalidFile, "not a valid tokenizer").at(path.display()).got(reason).source(source)
        })?;
        let file = json::parse(&text, &path)?;
        let file = Section::new(&file, path.display().to_string());
        let settings_path = directory.join("tokenizer_config.json");
        let settings = json::read_optional(&settings_path)?.unwrap_or(json!({}));
        let settings = Section::new(&settings, settings_path.display().to_string());

        let splitter = splitter(&file)?;
        let model = file.section("model")?;
        check_model(&model, splitter)?;
        let added = added_tokens(&file)?;
        let (tokens, types) = name_rows(&model, &added, n_vocab)?;
        let special = special_ids(&settings, config, &added, n_vocab)?;
        let (adds_bos, adds_eos) = added_ends(&file, &settings)?;
        Ok(Self {
            splitter,
            tokens,
            types,
            merges: merges(&model)?,
            special,
            adds_bos,
            adds_eos,
            adds_space_prefix: settings.opt_bool("add_prefix_space")?,
            chat_template: chat_template(directory, &settings)?,
        })
    }

    /// Sets the keys of the vocabulary. `with_space_prefix` is for families where llama.cpp looks at it.
    pub(crate) fn write(self, writer: &mut GgufWriter, with_space_prefix: bool) {
        if let Some(value) = self.adds_space_prefix.filter(|_| with_space_prefix) {
            writer.set("tokenizer.ggml.add_space_prefix", value);
        }
        writer.set("tokenizer.ggml.model", "gpt2").set("tokenizer.ggml.pre", self.splitter);
        writer.set("tokenizer.ggml.tokens", self.tokens).set("tokenizer.ggml.token_type", self.types);
        writer.set("tokenizer.ggml.merges", self.merges);
        for (key, id) in self.special {
            writer.set(key, id);
        }
        writer.set("tokenizer.ggml.add_bos_token", self.adds_bos).set("tokenizer.ggml.add_eos_token", self.adds_eos);
        if let Some(template) = self.chat_template {
            writer.set("tokenizer.chat_template", template);
        }
    }
}

/// llama.cpp's name of the splitting rules.
fn splitter(file: &Section<'_>) -> Result<&'static str> {
    let refused = |what: &str, key: &str, needed: String| {
        let got = file.get(key).map_or("nothing".to_owned(), Value::to_string);
        Error::new(ErrorKind::Unsupported, what).at(file.at(key)).got(got).needed(needed)
    };
    let known_normalizer = match file.get("normalizer") {
        None => true,
        Some(normalizer) => normalizer["type"] == "NFC",
    };
    if !known_normalizer {
        return Err(refused("unsupported text normalizer", "normalizer", "NFC or none".to_owned()));
    }
    let steps = match file.get("pre_tokenizer") {
        Some(one) if one["type"] == "Sequence" => one["pretokenizers"].as_array().cloned().unwrap_or_default(),
        Some(one) => vec![one.clone()],
        None => Vec::new(),
    };
    let is_bytes = |step: &Value, use_regex: bool| {
        // The library's default for a missing `use_regex` is true.
        let regex = step["use_regex"].as_bool().unwrap_or(true);
        step["type"] == "ByteLevel" && step["add_prefix_space"] == false && regex == use_regex
    };
    let name = match &steps[..] {
        [bytes] if is_bytes(bytes, true) => Some("gpt-2"),
        [digits, bytes] if digits["type"] == "Digits" && is_bytes(bytes, true) => {
            (digits["individual_digits"] == true).then_some("smollm")
        }
        [split, bytes] if split["type"] == "Split" && is_bytes(bytes, false) => {
            let isolates = split["behavior"] == "Isolated" && split["invert"] == false;
            let pattern = split["pattern"]["Regex"].as_str();
            let known = SPLIT_PATTERNS.into_iter().find(|(_, known)| Some(*known) == pattern);
            known.filter(|_| isolates).map(|(name, _)| name)
        }
        _ => None,
    };
    name.ok_or_else(|| {
        let known = SPLIT_PATTERNS.map(|(name, _)| name).join(", ");
        refused("unknown text splitting rules", "pre_tokenizer", format!("those of gpt-2, smollm, {known}"))
    })
}

fn check_model(model: &Section<'_>, splitter: &str) -> Result<()> {
    if model.str("type")? != "BPE" {
        return Err(Error::new(ErrorKind::Unsupported, "unsupported tokenizer").at(model.at("type")).needed("BPE"));
    }
    model.only("byte_fallback", &[json!(false)])?;
    model.only("continuing_subword_prefix", &[json!("")])?;
    model.only("end_of_word_suffix", &[json!("")])?;
    // llama.cpp looks a whole word up before merging exactly where the Llama 3 rules apply.
    model.only("ignore_merges", &[json!(splitter == "llama-bpe")])
}

/// A token beside the BPE vocabulary.
struct AddedToken {
    content: String,
    id: u32,
    is_special: bool,
}

fn added_tokens(file: &Section<'_>) -> Result<Vec<AddedToken>> {
    if file.get("added_tokens").is_none() {
        return Ok(Vec::new());
    }
    let read = |(index, token): (usize, &Value)| {
        let token = Section::new(token, file.at(&format!("added_tokens {index}")));
        let wrong = || token.wrong("id", &token.get("id").cloned().unwrap_or_default(), "a token id");
        let id = token.get("id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok()).ok_or_else(wrong)?;
        let is_special = token.opt_bool("special")?.unwrap_or(false);
        Ok(AddedToken { content: token.str("content")?.to_owned(), id, is_special })
    };
    file.array("added_tokens")?.iter().enumerate().map(read).collect()
}

/// Names every row of the embedding; rows without a token get `[PADn]`, which can never be produced from text.
fn name_rows(model: &Section<'_>, added: &[AddedToken], n_vocab: u32) -> Result<(Vec<String>, Vec<i32>)> {
    let vocabulary = model.section("vocab")?;
    let vocabulary = model.get("vocab").and_then(Value::as_object).ok_or_else(|| {
        // `section` has told objects from the rest.
        Error::new(ErrorKind::Internal, "a vocabulary is not an object").at(vocabulary.at(""))
    })?;
    let mut rows: Vec<Option<(String, i32)>> = vec![None; n_vocab as usize];
    let place = |error: Error, token: &str| error.at(format!("{token:?}")).at(model.at("vocab"));
    let check = |token: &str, id: u64| {
        if id < u64::from(n_vocab) {
            return Ok(id as usize);
        }
        let error = Error::new(ErrorKind::Mismatch, "a token has no row in the embedding");
        Err(place(error, token).got(id).needed(format!("below the vocab_size of {n_vocab}")))
    };
    for (token, id) in vocabulary {
        let id = id.as_u64().ok_or_else(|| model.wrong("vocab", id, "token ids"))?;
        if let Some((other, _)) = rows[check(token, id)?].replace((token.clone(), NORMAL)) {
            let error = Error::new(ErrorKind::InvalidFile, "two tokens have one id");
            return Err(place(error, token).got(format!("{id}, the id of {other:?}")));
        }
    }
    for token in added {
        let looks_special = token.content.starts_with("<|") && token.content.ends_with("|>");
        let kind = if token.is_special || looks_special { CONTROL } else { USER_DEFINED };
        let row = &mut rows[check(&token.content, token.id.into())?];
        if let Some((other, _)) = row.as_ref().filter(|(other, _)| *other != token.content) {
            let error = Error::new(ErrorKind::InvalidFile, "two tokens have one id");
            return Err(place(error, &token.content).got(format!("{}, the id of {other:?}", token.id)));
        }
        *row = Some((token.content.clone(), kind));
    }
    let name = |(id, row): (usize, Option<(String, i32)>)| row.unwrap_or_else(|| (format!("[PAD{id}]"), UNUSED));
    Ok(rows.into_iter().enumerate().map(name).unzip())
}

/// Merges are written as `a b` or as `["a", "b"]`; GGUF has the former.
fn merges(model: &Section<'_>) -> Result<Vec<String>> {
    let read = |merge: &Value| {
        let text = match merge {
            Value::String(text) => Some(text.clone()),
            Value::Array(pair) => match &pair[..] {
                [Value::String(left), Value::String(right)] => Some(format!("{left} {right}")),
                _ => None,
            },
            _ => None,
        };
        // Byte-level tokens hold no spaces, so the one between the parts is the only one.
        let text = text.filter(|text| text.split(' ').count() == 2 && !text.starts_with(' ') && !text.ends_with(' '));
        text.ok_or_else(|| model.wrong("merges", merge, "two byte-level tokens"))
    };
    model.array("merges")?.iter().map(read).collect()
}

/// The tokens with a role: by content in tokenizer_config.json, else by id in config.json.
fn special_ids(
    settings: &Section<'_>,
    config: &Value,
    added: &[AddedToken],
    n_vocab: u32,
) -> Result<Vec<(&'static str, u32)>> {
    let ids: HashMap<_, _> = added.iter().map(|token| (token.content.as_str(), token.id)).collect();
    let mut special = Vec::new();
    for (role, key) in SPECIAL_KEYS {
        let content = settings.get(&format!("{role}_token"));
        let content = content.and_then(|value| value.as_str().or_else(|| value["content"].as_str()));
        let by_content = content.and_then(|content| ids.get(content).copied());
        let name = format!("{role}_token_id");
        let listed = |value: &Value| value.as_u64().or_else(|| value.as_array()?.first()?.as_u64());
        let by_id = listed(&config[&name]).or_else(|| listed(&config["text_config"][&name]));
        let by_id = by_id.map(|id| {
            u32::try_from(id).ok().filter(|id| *id < n_vocab).ok_or_else(|| {
                let error = Error::new(ErrorKind::Mismatch, "a special token has no row in the embedding");
                error.at(format!("config.json: {name}")).got(id).needed(format!("below the vocab_size of {n_vocab}"))
            })
        });
        if let Some(id) = by_content.map(Ok).or(by_id).transpose()? {
            special.push((key, id));
        }
    }
    Ok(special)
}

/// Whether texts get a beginning and an end token: what the template of tokenizer.json adds, unless
/// tokenizer_config.json says otherwise.
fn added_ends(file: &Section<'_>, settings: &Section<'_>) -> Result<(bool, bool)> {
    let post = file.get("post_processor").cloned().unwrap_or_default();
    let steps = match post["processors"].as_array() {
        Some(steps) => steps.clone(),
        None => vec![post],
    };
    let template = steps.iter().find(|step| step["type"] == "TemplateProcessing");
    let pieces = template.and_then(|step| step["single"].as_array()).map(Vec::as_slice).unwrap_or_default();
    let is_role = |piece: Option<&Value>, role: &str| {
        let token = piece.and_then(|piece| piece["SpecialToken"]["id"].as_str());
        let content = settings.get(&format!("{role}_token"));
        let content = content.and_then(|value| value.as_str().or_else(|| value["content"].as_str()));
        pieces.len() > 1 && token.is_some() && token == content
    };
    let bos = settings.opt_bool("add_bos_token")?.unwrap_or(is_role(pieces.first(), "bos"));
    let eos = settings.opt_bool("add_eos_token")?.unwrap_or(is_role(pieces.last(), "eos"));
    Ok((bos, eos))
}

/// The chat template: in tokenizer_config.json, else a file of its own in one of two formats.
fn chat_template(directory: &Path, settings: &Section<'_>) -> Result<Option<String>> {
    if let Some(template) = settings.get("chat_template") {
        let named_default = || template.as_array()?.iter().find(|item| item["name"] == "default")?["template"].as_str();
        let text = template.as_str().or_else(named_default);
        let needed = "a template, or a list with one called default";
        return text.map(|text| Some(text.to_owned())).ok_or_else(|| settings.wrong("chat_template", template, needed));
    }
    let jinja = directory.join("chat_template.jinja");
    if jinja.exists() {
        return json::read_text(&jinja).map(Some);
    }
    let path = directory.join("chat_template.json");
    let Some(file) = json::read_optional(&path)? else { return Ok(None) };
    Section::new(&file, path.display().to_string()).str("chat_template").map(|text| Some(text.to_owned()))
}
