//! Grammars over tokens, by the crate `llguidance`: which tokens may follow so that the text can still become one of the
//! grammar. (llama.cpp's own grammars throw C++ exceptions, which must not cross into Rust.)

use std::sync::Arc;

use llguidance::{
    Matcher, ParserFactory,
    api::{ParserLimits, TopLevelGrammar},
    toktrie::{ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie},
};
use serde_json::{Value, json};

use super::constraint::Constraint;
use crate::{
    Error, ErrorKind, Result,
    model::{Model, TokenId},
};

/// Longest token that the trie takes.
const MAX_TOKEN_BYTES: usize = 512;
/// Most states of the lexer of one grammar: 1 to 2 kB each.
const MAX_LEXER_STATES: usize = 25_000;
/// Blank space that JSON may have between two of its elements. Without a bound, models have been seen to go on with line breaks
/// until their tokens are used up.
const JSON_BLANKS: &str = r"[\x20\x0A\x0D\x09]{1,16}";
/// What the engine says when no token can follow.
const DEAD_END: &str = "NoExtensionBias";

/// The tokens of a model as grammars need them.
pub(crate) struct GrammarTokens {
    tokens: TokEnv,
    /// Tokens of blank space alone, ascending.
    blanks: Vec<TokenId>,
}

impl GrammarTokens {
    /// Looks at all tokens of `model` that may be said.
    pub(crate) fn new(model: &Model) -> Self {
        let n_vocab = model.info().n_vocab as TokenId;
        let ends: Vec<_> = (0..n_vocab).filter(|&token| model.is_eog(token)).map(|token| token as u32).collect();
        let word = |token| {
            let is_text = !model.is_eog(token) && model.never_sampled().binary_search(&token).is_err();
            let bytes = if is_text { model.token_bytes(token) } else { Vec::new() };
            // A first byte 0xff would mark a control token; no text in UTF-8 has one.
            if bytes.len() <= MAX_TOKEN_BYTES && bytes.first() != Some(&0xff) { bytes } else { Vec::new() }
        };
        let words: Vec<_> = (0..n_vocab).map(word).collect();
        let is_blank = |bytes: &[u8]| !bytes.is_empty() && bytes.iter().all(u8::is_ascii_whitespace);
        let blanks = (0..n_vocab).filter(|&token| is_blank(&words[token as usize])).collect();
        let info = TokRxInfo::new(n_vocab as u32, ends.first().copied().unwrap_or(0));
        let trie = TokTrie::from(&info, &words);
        let trie = if ends.is_empty() { trie } else { trie.with_eos_tokens(&ends) };
        Self { tokens: Arc::new(ApproximateTokEnv::new(trie)), blanks }
    }

    /// What `token` says; nothing for one that is no text.
    pub(super) fn bytes(&self, token: TokenId) -> &[u8] {
        u32::try_from(token).map_or(&[], |token| self.tokens.tok_trie().token(token))
    }

    /// Tokens that spell `text`.
    pub(super) fn spell(&self, text: &str) -> Vec<TokenId> {
        self.tokens.tok_trie().greedy_tokenize(text.as_bytes()).into_iter().map(|token| token as TokenId).collect()
    }

    /// Whether `token` is blank space and nothing else.
    pub(super) fn is_blank(&self, token: TokenId) -> bool {
        self.blanks.binary_search(&token).is_ok()
    }
}

/// A text of the grammar under way.
#[derive(Clone)]
pub(super) struct GrammarText {
    matcher: Matcher,
    /// Tokens that may follow.
    allowed: SimpleVob,
    is_complete: bool,
}

impl GrammarText {
    /// The beginning of a text of `constraint`, which was checked.
    ///
    /// # Errors
    /// `InvalidInput` with the engine's reason for a schema or grammar that is wrong or has what it does not support; `Limit`
    /// for one that is too complex.
    pub(super) fn new(model: &Model, constraint: &Constraint) -> Result<Self> {
        let grammar = match constraint {
            Constraint::JsonSchema(schema) => TopLevelGrammar::from_json_schema(with_bounded_blanks(schema)),
            Constraint::Lark(text) => TopLevelGrammar::from_lark(text.clone()),
        };
        let refused = |reason: String| {
            let is_limit =
                ["fuel", "too large", "too big", "too complex", "limit"].iter().any(|word| reason.contains(word));
            let kind = if is_limit { ErrorKind::Limit } else { ErrorKind::InvalidInput };
            Error::new(kind, format!("bad {}", constraint.name())).got(reason)
        };
        let tokens = &model.grammar_tokens().tokens;
        // No slices: they speed up masks of large vocabularies for free strings, at the cost of building each.
        let factory = ParserFactory::new(tokens, InferenceCapabilities::default(), &[]);
        let mut factory = factory.map_err(|error| refused(first_line(&error.to_string())))?;
        let limits =
            ParserLimits { max_lexer_states: MAX_LEXER_STATES, verbose_errors: false, ..ParserLimits::default() };
        *factory.quiet().limits_mut() = limits;
        let parser = factory.create_parser(grammar).map_err(|error| refused(first_line(&error.to_string())))?;
        let allowed = SimpleVob::alloc(model.info().n_vocab);
        let mut text = Self { matcher: Matcher::new(Ok(parser)), allowed, is_complete: false };
        text.look_ahead().map_err(|error| error.at(constraint.name()))?;
        Ok(text)
    }

    /// Whether `token` may follow; tokens that end an answer exactly when the text is complete.
    pub(super) fn allows(&self, token: TokenId) -> bool {
        u32::try_from(token).is_ok_and(|token| (token as usize) < self.allowed.len() && self.allowed.is_allowed(token))
    }

    /// Whether the text may end here.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Appends `token`, which is allowed. Where the engine gives up, which is logged, nothing may follow.
    pub(super) fn push(&mut self, token: TokenId) {
        let consumed = self.matcher.consume_token(token as u32).map_err(|error| gave_up(&error.to_string()));
        if let Err(error) = consumed.and_then(|()| self.look_ahead()) {
            tracing::warn!("{error}");
            self.end();
        }
    }

    /// Nothing may follow, and the text is none of the grammar.
    fn end(&mut self) {
        self.allowed.set_all(false);
        self.is_complete = false;
    }

    /// Finds out what may follow.
    ///
    /// # Errors
    /// `Limit` when the engine gives up.
    fn look_ahead(&mut self) -> Result<()> {
        if let Err(error) = self.matcher.compute_mask_or_eos().map(|allowed| self.allowed = allowed) {
            if !error.to_string().starts_with(DEAD_END) {
                return Err(gave_up(&error.to_string()));
            }
            self.end();
            return Ok(());
        }
        self.is_complete =
            self.matcher.is_stopped() || self.matcher.is_accepting().map_err(|error| gave_up(&error.to_string()))?;
        Ok(())
    }
}

impl std::fmt::Debug for GrammarText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GrammarText({} tokens may follow)", self.allowed.num_set())
    }
}

fn gave_up(reason: &str) -> Error {
    Error::new(ErrorKind::Limit, "the grammar is too complex to go on").got(first_line(reason))
}

/// The engine's reason, without the state that it prints behind.
fn first_line(reason: &str) -> String {
    reason.lines().next().unwrap_or_default().to_owned()
}

/// `schema` with [`JSON_BLANKS`], unless it says something else itself.
fn with_bounded_blanks(schema: &Value) -> Value {
    const OPTIONS: &str = "x-guidance";
    let mut schema = match schema {
        Value::Object(_) => schema.clone(),
        // `true` allows anything.
        Value::Bool(true) => json!({}),
        other => return other.clone(),
    };
    if let Some(fields) = schema.as_object_mut()
        && !fields.contains_key(OPTIONS)
    {
        fields.insert(OPTIONS.to_owned(), json!({ "whitespace_pattern": JSON_BLANKS }));
    }
    schema
}
