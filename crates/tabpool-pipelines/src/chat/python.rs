//! Values as Python prints them, and as its `json.dumps` writes them: templates were written against both.

use std::fmt::Write as _;

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// The deepest nesting of values.
const MAX_DEPTH: usize = 64;

/// Appends what Python's `str` gives: texts as they are, all else as `repr` has it.
pub(super) fn print(value: &Value, out: &mut String) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => out.push_str(text),
        None if value.is_undefined() => {}
        None => write(value, out, &Style::Repr, 0)?,
    }
    Ok(())
}

/// What `json.dumps(value, ensure_ascii=False, indent=indent)` gives.
pub(super) fn dumps(value: &Value, indent: Option<usize>) -> Result<String, Error> {
    let mut out = String::new();
    write(value, &mut out, &Style::Json { indent }, 0)?;
    Ok(out)
}

enum Style {
    Repr,
    Json { indent: Option<usize> },
}

fn write(value: &Value, out: &mut String, style: &Style, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, "values are nested too deeply"));
    }
    let json = matches!(style, Style::Json { .. });
    match value.kind() {
        ValueKind::Undefined if json => {
            return Err(Error::new(ErrorKind::UndefinedError, "an undefined value cannot be written as JSON"));
        }
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str(if json { "null" } else { "None" }),
        ValueKind::Bool => out.push_str(match (value.is_true(), json) {
            (true, true) => "true",
            (false, true) => "false",
            (true, false) => "True",
            (false, false) => "False",
        }),
        ValueKind::Number => number(value, out),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            if json { quoted_json(text, out) } else { quoted_python(text, out) }
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter()?.map(|item| (None, item));
            nested(items, ('[', ']'), out, style, depth)?;
        }
        ValueKind::Map => {
            let mut items = Vec::new();
            for key in value.try_iter()? {
                let item = value.get_item(&key)?;
                items.push((Some(key), item));
            }
            nested(items.into_iter(), ('{', '}'), out, style, depth)?;
        }
        kind => {
            return Err(Error::new(ErrorKind::InvalidOperation, format!("a value of kind {kind} cannot be written")));
        }
    }
    Ok(())
}

fn nested(
    items: impl Iterator<Item = (Option<Value>, Value)>,
    (open, close): (char, char),
    out: &mut String,
    style: &Style,
    depth: usize,
) -> Result<(), Error> {
    let indent = match style {
        Style::Json { indent } => *indent,
        Style::Repr => None,
    };
    let line = |out: &mut String, depth: usize| {
        if let Some(indent) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent.saturating_mul(depth)));
        }
    };
    out.push(open);
    let mut empty = true;
    for (key, item) in items {
        if !empty {
            out.push_str(if indent.is_some() { "," } else { ", " });
        }
        empty = false;
        line(out, depth + 1);
        if let Some(key) = key {
            match (style, key.as_str()) {
                // JSON has no keys but texts.
                (Style::Json { .. }, None) => {
                    let mut text = String::new();
                    write(&key, &mut text, style, depth + 1)?;
                    quoted_json(&text, out);
                }
                _ => write(&key, out, style, depth + 1)?,
            }
            out.push_str(": ");
        }
        write(&item, out, style, depth + 1)?;
    }
    if !empty {
        line(out, depth);
    }
    out.push(close);
    Ok(())
}

/// Integers as they are, floating-point numbers as `repr` writes them.
fn number(value: &Value, out: &mut String) {
    if value.is_integer() {
        let _ = write!(out, "{value}");
        return;
    }
    let Ok(float) = f64::try_from(value.clone()) else {
        let _ = write!(out, "{value}");
        return;
    };
    if float.is_nan() {
        out.push_str("NaN");
    } else if float.is_infinite() {
        out.push_str(if float > 0.0 { "Infinity" } else { "-Infinity" });
    } else {
        // Both languages write the shortest digits; Python's exponents have a sign and two digits at least, and begin below 1e-4.
        let magnitude = float.abs();
        if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
            let text = format!("{float:e}");
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
            let _ = write!(out, "{digits}e{sign}{exponent:0>2}");
        } else {
            let _ = write!(out, "{float:?}");
        }
    }
}

fn quoted_json(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// In single quotes, unless the text has those and no double ones.
fn quoted_python(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if c < ' ' || c == '\u{7f}' => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

#[cfg(test)]
mod tests {
    use minijinja::value::Value;

    use super::{dumps, print};

    fn value(json: &str) -> Value {
        serde_json::from_str(json).expect("JSON")
    }

    /// What Python 3.11 gives for `str(json.loads(x))`.
    #[test]
    fn values_print_as_python_prints_them() {
        for (json, want) in [
            (r#"{"b": [true, null, 1.0], "a": {}}"#, "{'b': [True, None, 1.0], 'a': {}}"),
            (r#"["it's", "a \"b\"", "'\"", "\n\u0001é\\"]"#, r#"["it's", 'a "b"', '\'"', '\n\x01é\\']"#),
            (
                r#"[1e16, 1e15, 0.0001, 0.00001, -2.5e-7, 123456789012345680.0, 5e-324]"#,
                "[1e+16, 1000000000000000.0, 0.0001, 1e-05, -2.5e-07, 1.2345678901234568e+17, 5e-324]",
            ),
            (r#""plain 'text'""#, "plain 'text'"),
            ("18446744073709551615", "18446744073709551615"),
        ] {
            let mut out = String::new();
            print(&value(json), &mut out).expect("prints");
            assert_eq!(out, want);
        }
    }

    /// What Python 3.11 gives for `json.dumps(json.loads(x), ensure_ascii=False, indent=…)`.
    #[test]
    fn json_is_written_as_python_writes_it() {
        let nested = value(r#"{"z": [1, {"a": "<'é\u007f\u0000>"}], "e": [], "o": {}}"#);
        assert_eq!(
            dumps(&nested, None).expect("writes"),
            "{\"z\": [1, {\"a\": \"<'é\u{7f}\\u0000>\"}], \"e\": [], \"o\": {}}"
        );
        assert_eq!(
            dumps(&value(r#"{"a": [1, {}], "b": []}"#), Some(2)).expect("writes"),
            "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": []\n}"
        );
        assert!(dumps(&Value::UNDEFINED, None).is_err());
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert!(dumps(&value(&deep), None).is_err());
    }
}
