//! The filter `tojson` as transformers has it: Python's `json.dumps` with its spaces, characters as they are, nothing escaped
//! for HTML. Models were trained on these very bytes.

use std::io::{self, Write};

use minijinja::{Error, ErrorKind, Value, value::Kwargs};
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};

/// `value` as JSON; `indent` is a number of spaces.
pub(super) fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // What else transformers takes is off by default and asked for by no template known.
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let failed = |error: serde_json::Error| Error::new(ErrorKind::InvalidOperation, "no JSON").with_source(error);
    let mut bytes = Vec::new();
    match indent {
        Some(n) => {
            let spaces = " ".repeat(n.min(16));
            let pretty = PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut bytes, pretty)).map_err(failed)?;
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut bytes, Spaced)).map_err(failed)?,
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(Value::from_safe_string(text))
}

/// One line, with a space behind commas and colons.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, is_first: bool) -> io::Result<()> {
        if is_first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, is_first: bool) -> io::Result<()> {
        if is_first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        CompactFormatter.begin_object_value(writer)?;
        writer.write_all(b" ")
    }
}

#[cfg(test)]
mod tests {
    use minijinja::{Environment, context};

    use super::*;

    #[test]
    fn json_is_written_as_python_writes_it() {
        let mut environment = Environment::new();
        environment.add_filter("tojson", to_json);
        let value: serde_json::Value =
            serde_json::from_str(r#"{"b": [1, "<é>\n", null], "a": {"x": true, "y": {}, "z": 0.5}}"#).expect("JSON");
        let render = |source: &str| {
            environment.render_str(source, context! { v => Value::from_serialize(&value) }).expect("renders")
        };
        // Written by json.dumps(v, ensure_ascii=False) and with indent=2.
        assert_eq!(render("{{ v | tojson }}"), r#"{"b": [1, "<é>\n", null], "a": {"x": true, "y": {}, "z": 0.5}}"#);
        let indented = "[\n  1,\n  \"<é>\\n\",\n  null\n]";
        assert_eq!(render("{{ v.b | tojson(indent=2) }}"), indented);
    }
}
