//! Repairs JSON that real SDKs send and strict parsers refuse.
//!
//! Python's `json` writes bare `NaN` and `Infinity`; JavaScript writes lone surrogates. In a batch such a value is in
//! the shared body, where it would cost a hundred good runs. Numbers of any size need no repair: they are kept as text.

use std::borrow::Cow;
use std::cell::OnceCell;

use serde_json::value::RawValue;

/// How `NaN` and the infinities are replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NoNumber {
    Null,
    /// By their names in quotes, as OTLP/JSON writes them.
    Quoted,
}

/// A document that is rewritten only where necessary. Invalid UTF-8 and lone surrogates become U+FFFD. `NaN` and the
/// infinities are replaced if the document cannot be read as it came.
pub struct Document<'a> {
    text: Cow<'a, str>,
    no_number: NoNumber,
    repaired: OnceCell<String>,
    quoted: OnceCell<String>,
}

impl<'a> Document<'a> {
    /// A document in which `NaN` and the infinities become null.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self::with(bytes, NoNumber::Null)
    }

    /// A document in which `NaN` and the infinities become their names, as texts.
    pub fn of_otlp(bytes: &'a [u8]) -> Self {
        Self::with(bytes, NoNumber::Quoted)
    }

    fn with(bytes: &'a [u8], no_number: NoNumber) -> Self {
        Self { text: text(bytes, no_number), no_number, repaired: OnceCell::new(), quoted: OnceCell::new() }
    }

    /// Reads the document with `read`. If that fails, reads it once more with the tokens replaced that are not JSON. So
    /// `read` must have no effect when it fails. The error is that of the document as it came.
    pub fn read<'d, T, E>(&'d self, mut read: impl FnMut(&'d str) -> Result<T, E>) -> Result<T, E> {
        read(&self.text).or_else(|refused| {
            let repaired = self.repaired.get_or_init(|| repaired(&self.text, self.no_number));
            read(repaired).map_err(|_| refused)
        })
    }

    /// The document's JSON; its text as a JSON string if it is not JSON.
    pub fn value(&self) -> Result<&RawValue, serde_json::Error> {
        self.read(serde_json::from_str::<&RawValue>).or_else(|_| {
            let quoted = self.quoted.get_or_init(|| serde_json::Value::from(&*self.text).to_string());
            serde_json::from_str(quoted)
        })
    }
}

/// The JSON without the byte order mark that some editors and .NET put before it.
pub fn without_bom(json: &[u8]) -> &[u8] {
    json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json)
}

fn text(bytes: &[u8], no_number: NoNumber) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(without_bom(bytes));
    // serde_json skips surrogates without a check, and later readers of the stored text may not.
    if has_surrogates(&text) { Cow::Owned(repaired(&text, no_number)) } else { text }
}

fn has_surrogates(text: &str) -> bool {
    let bytes = text.as_bytes();
    memchr::memmem::find_iter(bytes, b"\\u").any(|at| matches!(bytes.get(at + 2), Some(b'd' | b'D')))
}

/// The text with each token replaced that is not JSON.
fn repaired(text: &str, no_number: NoNumber) -> String {
    const WORDS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            rest = string(rest, &mut out);
        } else if let Some(word) = WORDS.iter().find(|word| rest.starts_with(**word)) {
            match no_number {
                NoNumber::Null => out.push_str("null"),
                NoNumber::Quoted => out.extend(["\"", word, "\""]),
            }
            rest = &rest[word.len()..];
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

/// Copies the string at the beginning of `text`, and returns the rest after it.
fn string<'a>(text: &'a str, out: &mut String) -> &'a str {
    out.push('"');
    let mut rest = &text[1..];
    while let Some(at) = memchr::memchr2(b'"', b'\\', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix('"') {
            out.push('"');
            return after;
        }
        let taken = match (unit(rest), rest.get(6..).and_then(unit)) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 12,
            (Some(0xD800..=0xDFFF), _) => {
                out.push('\u{FFFD}');
                rest = &rest[6..];
                continue;
            }
            (Some(_), _) => 6,
            // A backslash and the character after it, which may be a quote.
            (None, _) => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
        };
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out.push_str(rest);
    ""
}

/// The UTF-16 unit of the escape at the beginning of `text`.
fn unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(bytes: &[u8]) -> Result<String, serde_json::Error> {
        Document::new(bytes).read(|text| serde_json::from_str::<&RawValue>(text).map(|raw| raw.get().to_owned()))
    }

    fn read(text: &str) -> String {
        json(text.as_bytes()).unwrap()
    }

    #[test]
    fn valid_json_is_unchanged() {
        for text in [r#"{"a":1180591620717411303424, "b":"a\u0000b \\ud83d \ud83d\ude00 NaN"}"#, "[1e400]", r#""漢""#]
        {
            assert_eq!(read(text), text);
        }
    }

    #[test]
    fn non_standard_json_of_python_and_javascript_is_repaired() {
        assert_eq!(
            read(r#"{"nan": NaN, "i": [Infinity,-Infinity], "t": "NaN"}"#),
            r#"{"nan": null, "i": [null,null], "t": "NaN"}"#
        );
        assert_eq!(
            read(r#"["\ud83d", "\uDE00x", "\ud83dA", "\ud83d\ud83d\ude00"]"#),
            "[\"\u{FFFD}\", \"\u{FFFD}x\", \"\u{FFFD}A\", \"\u{FFFD}\\ud83d\\ude00\"]"
        );
        assert_eq!(json(b"[\"\xff\"]").unwrap(), "[\"\u{FFFD}\"]");
    }

    #[test]
    fn bare_nan_and_infinity_become_strings_for_otlp() {
        let read = |text: &str| {
            let document = Document::of_otlp(text.as_bytes());
            document.read(|text| serde_json::from_str::<&RawValue>(text).map(|raw| raw.get().to_owned())).unwrap()
        };
        assert_eq!(read("[NaN,-Infinity, Infinity]"), r#"["NaN","-Infinity", "Infinity"]"#);
        assert_eq!(read(r#"["\ud83d",NaN]"#), "[\"\u{FFFD}\",\"NaN\"]");
    }

    #[test]
    fn invalid_json_is_refused() {
        for text in ["", "{", r#"{"a":"#, r#""abc"#, r#""\"#, r#""\ud83"#, "[NaN", "nan", "{} {}"] {
            assert!(json(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_document_is_read_as_it_came_or_repaired_or_as_text() {
        for (bytes, wanted) in [
            (&b"{\"a\": 1}"[..], r#"{"a": 1}"#),
            (b"[NaN]", "[null]"),
            (b"\xef\xbb\xbf{}", "{}"),
            (b"\xef\xbb\xbfno JSON", r#""no JSON""#),
            (b"[\"\\ud83d\xff\"]", "[\"\u{FFFD}\u{FFFD}\"]"),
            (b"no \"JSON\"", r#""no \"JSON\"""#),
        ] {
            assert_eq!(Document::new(bytes).value().unwrap().get(), wanted);
        }
    }
}
