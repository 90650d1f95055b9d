//! As much of JSON Schema as the tests use, to check the grammar engine by something else.

use serde_json::Value;

/// Whether `value` is valid under `schema`, a part of `root`.
pub(crate) fn is_valid(value: &Value, schema: &Value, root: &Value) -> bool {
    let fields = schema.as_object().expect("a schema");
    fields.iter().all(|(keyword, argument)| match keyword.as_str() {
        "type" => is_of_type(value, argument.as_str().expect("a type")),
        "enum" => argument.as_array().expect("values").contains(value),
        "const" => argument == value,
        "anyOf" => argument.as_array().expect("schemas").iter().any(|schema| is_valid(value, schema, root)),
        "$ref" => {
            let path = argument.as_str().and_then(|path| path.strip_prefix('#')).expect("a local reference");
            is_valid(value, root.pointer(path).expect("its target"), root)
        }
        "$defs" => true,
        "minimum" => value.as_f64().is_none_or(|value| value >= number(argument)),
        "maximum" => value.as_f64().is_none_or(|value| value <= number(argument)),
        "exclusiveMaximum" => value.as_f64().is_none_or(|value| value < number(argument)),
        "maxLength" => value.as_str().is_none_or(|text| text.chars().count() as f64 <= number(argument)),
        "pattern" => value.as_str().is_none_or(|text| is_of_pattern(text, argument.as_str().expect("a pattern"))),
        "minItems" => value.as_array().is_none_or(|values| values.len() as f64 >= number(argument)),
        "maxItems" => value.as_array().is_none_or(|values| values.len() as f64 <= number(argument)),
        "items" => value.as_array().is_none_or(|values| values.iter().all(|value| is_valid(value, argument, root))),
        "required" => {
            argument.as_array().expect("names").iter().all(|name| value.get(name.as_str().expect("a name")).is_some())
        }
        "properties" => argument
            .as_object()
            .expect("schemas")
            .iter()
            .all(|(name, schema)| value.get(name).is_none_or(|value| is_valid(value, schema, root))),
        "additionalProperties" => {
            value.as_object().is_none_or(|fields| fields.keys().all(|name| schema["properties"].get(name).is_some()))
        }
        other => panic!("the tests do not use {other}"),
    })
}

fn number(argument: &Value) -> f64 {
    argument.as_f64().expect("a number")
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|value| value.fract() == 0.0),
        other => panic!("the tests do not use {other}"),
    }
}

fn is_of_pattern(text: &str, pattern: &str) -> bool {
    assert_eq!(pattern, "^[a-c]{2,6}$");
    (2..=6).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'a'..=b'c'))
}
