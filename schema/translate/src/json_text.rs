//! Writes JSON text, in which nested attribute values are stored.

use base64::Engine;
use model::trace::Value;

/// Writes a comma, unless `out` ends with `open`, which opened the container.
pub fn separate(out: &mut String, open: char) {
    if !out.ends_with(open) {
        out.push(',');
    }
}

/// Writes a string, quoted and escaped (RFC 8259 §7).
pub fn string(text: &str, out: &mut String) {
    out.push('"');
    let mut from = 0;
    for (i, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..0x20 => "",
            _ => continue,
        };
        out.push_str(&text[from..i]);
        if escape.is_empty() {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.push_str("\\u00");
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        } else {
            out.push_str(escape);
        }
        from = i + 1;
    }
    out.push_str(&text[from..]);
    out.push('"');
}

/// Writes a double. A value that is not a JSON number becomes the string that OTLP/JSON uses for it.
pub fn double(n: f64, out: &mut String) {
    if n.is_finite() {
        out.push_str(ryu::Buffer::new().format_finite(n));
    } else if n.is_nan() {
        out.push_str("\"NaN\"");
    } else {
        out.push_str(if n > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" });
    }
}

/// Writes an attribute's value.
pub fn value(value: &Value<'_>, out: &mut String) {
    match value {
        Value::Empty => out.push_str("null"),
        Value::Str(text) => string(text, out),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Int(n) => out.push_str(itoa::Buffer::new().format(*n)),
        Value::Double(n) => double(*n, out),
        Value::Bytes(b) => bytes(b, out),
        Value::Array(json) | Value::Map(json) => out.push_str(json),
    }
}

/// Writes bytes as a base64 string.
pub fn bytes(bytes: &[u8], out: &mut String) {
    out.push('"');
    base64::engine::general_purpose::STANDARD.encode_string(bytes, out);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_read_back() {
        let all: String = (0..0x80u8).map(char::from).chain("é漢😀\u{2028}".chars()).collect();
        let mut out = String::new();
        string(&all, &mut out);
        assert_eq!(serde_json::from_str::<String>(&out).unwrap(), all);
    }
}
