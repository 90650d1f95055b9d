//! JSON files of a checkpoint, read with errors that name the file and the key.

use std::{fs, path::Path};

use owlet_runtime::{Error, ErrorKind, Result};
use serde_json::Value;

/// A JSON object and where it is: `config.json: text_config`.
#[derive(Clone, Debug)]
pub(crate) struct Section<'a> {
    value: &'a Value,
    place: String,
}

/// Reads a JSON file.
///
/// # Errors
/// `NotFound`, `Io`; `InvalidFile` for what is not JSON.
pub(crate) fn read(path: &Path) -> Result<Value> {
    parse(&read_text(path)?, path)
}

/// The JSON in `text`, which was read from `path`.
///
/// # Errors
/// `InvalidFile` for what is not JSON.
pub(crate) fn parse(text: &str, path: &Path) -> Result<Value> {
    serde_json::from_str(text).map_err(|source| {
        let reason = source.to_string();
        Error::new(ErrorKind::InvalidFile, "not JSON").at(path.display()).got(reason).source(source)
    })
}

/// Reads a JSON file that may be absent.
pub(crate) fn read_optional(path: &Path) -> Result<Option<Value>> {
    if path.exists() { read(path).map(Some) } else { Ok(None) }
}

/// Reads a text file.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(|source| Error::io("cannot read file", path, source))?;
    String::from_utf8(bytes)
        .map_err(|source| Error::new(ErrorKind::InvalidFile, "not UTF-8").at(path.display()).source(source))
}

impl<'a> Section<'a> {
    pub(crate) fn new(value: &'a Value, place: impl Into<String>) -> Self {
        Self { value, place: place.into() }
    }

    /// The value of `key`; a JSON `null` counts as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn section(&self, key: &str) -> Result<Self> {
        self.opt_section(key)?.ok_or_else(|| self.missing(key))
    }

    pub(crate) fn opt_section(&self, key: &str) -> Result<Option<Self>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) if value.is_object() => Ok(Some(Self::new(value, self.at(key)))),
            Some(other) => Err(self.wrong(key, other, "an object")),
        }
    }

    /// A count that must be in `1..=most`.
    pub(crate) fn count(&self, key: &str, most: u32) -> Result<u32> {
        self.opt_count(key, most)?.ok_or_else(|| self.missing(key))
    }

    pub(crate) fn opt_count(&self, key: &str, most: u32) -> Result<Option<u32>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| (1..=most).contains(n));
        number.map(Some).ok_or_else(|| self.wrong(key, value, &format!("1 to {most}")))
    }

    /// A list of counts in `0..=most`.
    pub(crate) fn counts(&self, key: &str, most: u32) -> Result<Vec<u32>> {
        let value = self.get(key).ok_or_else(|| self.missing(key))?;
        let number = |item: &Value| item.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= most);
        let numbers = value.as_array().and_then(|items| items.iter().map(number).collect::<Option<Vec<_>>>());
        numbers.ok_or_else(|| self.wrong(key, value, &format!("a list of 0 to {most}")))
    }

    /// A positive finite number.
    pub(crate) fn positive(&self, key: &str) -> Result<f32> {
        self.opt_positive(key)?.ok_or_else(|| self.missing(key))
    }

    pub(crate) fn opt_positive(&self, key: &str) -> Result<Option<f32>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_f64().map(|number| number as f32).filter(|number| number.is_finite() && *number > 0.0);
        number.map(Some).ok_or_else(|| self.wrong(key, value, "a positive number"))
    }

    /// `n` finite numbers.
    pub(crate) fn numbers<const N: usize>(&self, key: &str) -> Result<[f32; N]> {
        let value = self.get(key).ok_or_else(|| self.missing(key))?;
        let number = |item: &Value| item.as_f64().map(|number| number as f32).filter(|number| number.is_finite());
        let numbers = value.as_array().and_then(|items| items.iter().map(number).collect::<Option<Vec<_>>>());
        let numbers = numbers.and_then(|numbers| numbers.try_into().ok());
        numbers.ok_or_else(|| self.wrong(key, value, &format!("{N} numbers")))
    }

    pub(crate) fn str(&self, key: &str) -> Result<&'a str> {
        let value = self.get(key).ok_or_else(|| self.missing(key))?;
        value.as_str().ok_or_else(|| self.wrong(key, value, "a string"))
    }

    pub(crate) fn opt_bool(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(key, value, "true or false"))
    }

    pub(crate) fn array(&self, key: &str) -> Result<&'a [Value]> {
        let value = self.get(key).ok_or_else(|| self.missing(key))?;
        value.as_array().map(Vec::as_slice).ok_or_else(|| self.wrong(key, value, "a list"))
    }

    /// Fails unless `key` is absent or equal to one of `supported`: options that change the computation.
    pub(crate) fn only(&self, key: &str, supported: &[Value]) -> Result<()> {
        match self.get(key) {
            Some(value) if !supported.contains(value) => {
                let needed: Vec<_> = supported.iter().map(Value::to_string).collect();
                let error = Error::new(ErrorKind::Unsupported, "unsupported option").at(self.at(key));
                Err(error.got(short(value)).needed(needed.join(" or ")))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn at(&self, key: &str) -> String {
        format!("{}: {key}", self.place)
    }

    pub(crate) fn wrong(&self, key: &str, got: &Value, needed: &str) -> Error {
        Error::new(ErrorKind::InvalidFile, "wrong value").at(self.at(key)).got(short(got)).needed(needed)
    }

    fn missing(&self, key: &str) -> Error {
        Error::new(ErrorKind::InvalidFile, "missing value").at(self.at(key))
    }
}

/// The value for a message: hostile files hold long ones.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text,
    }
}
