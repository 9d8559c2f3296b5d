//! Splits `multipart/form-data` into its parts (RFC 2046 §5.1, RFC 7578), borrowed from the body.
//!
//! Only the boundary separates parts. The lengths that some SDKs add are ignored, because other SDKs do not send them.

use std::borrow::Cow;

use memchr::memmem;

use crate::header_value;

/// Most parts of one request that are read one by one. A LangSmith SDK sends at most 100 operations at once, each of up
/// to eight parts and its attachments. All further parts together are one rejected item.
pub(super) const PARTS_MAX: usize = 20_000;
/// Most bytes of the headers of one part.
const HEADER_BYTES_MAX: usize = 16 << 10;
/// Most bytes of a boundary (RFC 2046 §5.1.1).
const BOUNDARY_BYTES_MAX: usize = 70;

/// One part of a body, with the headers that are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part<'a> {
    /// The `name` parameter of its Content-Disposition.
    pub(super) name: Cow<'a, str>,
    /// Its media type, without the length that some SDKs write into it; empty if none is given.
    pub(super) mime_type: String,
    /// Its content encoding, if any.
    pub(super) encoding: Option<&'a str>,
    /// The part's content, still in its content encoding.
    pub(super) content: &'a [u8],
    /// The whole part, headers and content.
    pub(super) raw: &'a [u8],
}

/// A part without a readable name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadPart<'a> {
    /// Place of the part in the body, from 1.
    pub(super) number: usize,
    /// Why the part cannot be read, for the client.
    pub(super) reason: String,
    /// The whole part, headers and content.
    pub(super) raw: &'a [u8],
}

/// Why a body is not `multipart/form-data`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum MultipartError {
    #[error("the boundary {0:?} does not occur in the body")]
    NoBoundary(String),
    #[error("the body ends within part {0}: its closing boundary is missing")]
    Cut(usize),
}

/// The boundary in a content type; `None` if that is not `multipart/form-data`.
pub(super) fn boundary(content_type: &str) -> Option<String> {
    let (kind, parameters) = header_value::split(content_type);
    if !kind.eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let found = parameters.find("boundary")?.into_owned();
    (1..=BOUNDARY_BYTES_MAX).contains(&found.len()).then_some(found)
}

/// The parts in their order. A body that is cut off is refused as a whole, because the rest of it is not known.
pub(super) fn parts<'a>(body: &'a [u8], boundary: &str) -> Result<Vec<Result<Part<'a>, BadPart<'a>>>, MultipartError> {
    let delimiter = format!("\r\n--{boundary}");
    let finder = memmem::Finder::new(delimiter.as_bytes());
    let mut parts = Vec::new();
    // There is no line before the first delimiter, unless there is a preamble.
    let start = match body.strip_prefix(&delimiter.as_bytes()[2..]).and_then(line_end) {
        Some(end) => Some((body.len() - end.rest.len(), end.last)),
        None => next(&finder, body, 0).map(|(_, after, last)| (after, last)),
    };
    let (mut at, mut last) = start.ok_or_else(|| MultipartError::NoBoundary(boundary.to_owned()))?;
    // The parts beyond [`PARTS_MAX`]: their number, the start of the first and the end of the last.
    let mut beyond: Option<(usize, usize, usize)> = None;
    while !last {
        // The delimiter after an empty part begins right here, because its line break is also the end of the line
        // before.
        let number = parts.len() + beyond.map_or(1, |(count, ..)| count + 1);
        let (end, after, is_last) = next(&finder, body, at - 2).ok_or(MultipartError::Cut(number))?;
        let end = end.max(at);
        if parts.len() == PARTS_MAX {
            let (count, first, _) = beyond.unwrap_or((0, at, end));
            beyond = Some((count + 1, first, end));
        } else {
            let raw = &body[at..end];
            parts.push(part(raw).map_err(|reason| BadPart { number, reason, raw }));
        }
        (at, last) = (after, is_last);
    }
    if let Some((count, first, end)) = beyond {
        let reason = format!("it and what follows are {count} parts more than {PARTS_MAX} (PARTS_MAX)");
        parts.push(Err(BadPart { number: PARTS_MAX + 1, reason, raw: &body[first..end] }));
    }
    Ok(parts)
}

/// The end of a delimiter's line: only blanks, or two dashes after the last part.
struct LineEnd<'a> {
    rest: &'a [u8],
    last: bool,
}

fn line_end(after: &[u8]) -> Option<LineEnd<'_>> {
    if let Some(rest) = after.strip_prefix(b"--") {
        return Some(LineEnd { rest, last: true });
    }
    let rest = after.trim_ascii_start();
    let blank = &after[..after.len() - rest.len()];
    let line = memmem::find(blank, b"\r\n")?;
    blank[..line].iter().all(|b| matches!(b, b' ' | b'\t')).then(|| LineEnd { rest: &after[line + 2..], last: false })
}

/// The next delimiter from `from` on: where the part before it ends, where the next part starts, and whether it is the
/// last delimiter. A look-alike that anything else follows is content.
fn next(finder: &memmem::Finder<'_>, body: &[u8], mut from: usize) -> Option<(usize, usize, bool)> {
    loop {
        let at = from + finder.find(body.get(from..)?)?;
        let after = at + finder.needle().len();
        match line_end(&body[after..]) {
            Some(end) => return Some((at, body.len() - end.rest.len(), end.last)),
            None => from = at + 1,
        }
    }
}

fn part(bytes: &[u8]) -> Result<Part<'_>, String> {
    let (headers, content) = match bytes.strip_prefix(b"\r\n") {
        Some(content) => (&b""[..], content),
        None => {
            let end = memmem::find(bytes, b"\r\n\r\n").ok_or("its headers do not end")?;
            (&bytes[..end], &bytes[end + 4..])
        }
    };
    if headers.len() > HEADER_BYTES_MAX {
        return Err(format!("its headers are larger than {HEADER_BYTES_MAX} bytes"));
    }
    let headers = std::str::from_utf8(headers).map_err(|_| "its headers are not UTF-8")?;
    let header = |wanted: &str| {
        let mut lines = headers.split("\r\n").filter_map(|line| line.split_once(':'));
        lines.find(|(name, _)| name.trim().eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
    };
    let disposition = header("content-disposition").ok_or("it has no content-disposition")?;
    let encoding = header("content-encoding").filter(|e| !e.is_empty() && !e.eq_ignore_ascii_case("identity"));
    Ok(Part {
        name: name(disposition).ok_or("its content-disposition names no field")?,
        mime_type: mime_type(header("content-type").unwrap_or_default()),
        encoding,
        content,
        raw: bytes,
    })
}

/// The `name` parameter. Browsers percent-encode the characters that would end it.
fn name(disposition: &str) -> Option<Cow<'_, str>> {
    let (_, parameters) = header_value::split(disposition);
    let mut name = parameters.find("name")?;
    for (escaped, plain) in [("%22", "\""), ("%0D", "\r"), ("%0A", "\n")] {
        if name.contains(escaped) {
            name = Cow::Owned(name.replace(escaped, plain));
        }
    }
    (!name.is_empty()).then_some(name)
}

fn mime_type(content_type: &str) -> String {
    let kept: Vec<_> = content_type
        .split(';')
        .map(str::trim)
        .filter(|p| !p.split_once('=').is_some_and(|(name, _)| name.trim().eq_ignore_ascii_case("length")))
        .collect();
    kept.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Vec<Result<(String, String, String), String>> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let describe = |bad: BadPart<'_>| format!("part {}: {} {:?}", bad.number, bad.reason, text(bad.raw));
        let parts = parts(body.as_bytes(), "b").unwrap().into_iter();
        parts.map(|p| p.map(|p| (p.name.into_owned(), p.mime_type, text(p.content))).map_err(describe)).collect()
    }

    const NAMED: &str = "Content-Disposition: form-data; name=\"n\"";

    #[test]
    fn content_may_look_like_a_boundary() {
        let content = "\r\n--bx\r\n--b \tno\r\n--b-\r\n -- b";
        let body = format!("--b\r\n{NAMED}\r\n\r\n{content}\r\n--b--\r\n");
        assert_eq!(read(&body), [Ok(("n".into(), String::new(), content.into()))]);
    }

    #[test]
    fn preamble_padding_and_epilogue_are_allowed() {
        let body = format!(
            "hello\r\n--b \t\r\nX: y\r\n{NAMED}\r\nContent-Type: text/plain; length=1; charset=x\r\n\r\nc\r\n--b--bye"
        );
        assert_eq!(read(&body), [Ok(("n".into(), "text/plain; charset=x".into(), "c".into()))]);
        assert_eq!(read("--b--"), []);
    }

    #[test]
    fn a_part_without_content_disposition_is_reported_alone() {
        let body = format!("--b\r\n\r\nno headers\r\n--b\r\n--b\r\nX: y\r\n\r\n\r\n--b\r\n{NAMED}\r\n\r\n\r\n--b--");
        let read = read(&body);
        let errors: Vec<_> = read.iter().map(|part| part.as_ref().err().map_or("fine", |e| e.as_str())).collect();
        assert_eq!(
            errors,
            [
                r#"part 1: it has no content-disposition "\r\nno headers""#,
                r#"part 2: its headers do not end """#,
                r#"part 3: it has no content-disposition "X: y\r\n\r\n""#,
                "fine"
            ]
        );
    }

    #[test]
    fn part_names_are_unescaped() {
        for (disposition, wanted) in [
            (r#"form-data; name="a\"b\\c""#, Some("a\"b\\c")),
            ("form-data; name=plain; x=y", Some("plain")),
            (r#"Form-Data;FILENAME="; name=no";NAME = "yes""#, Some("yes")),
            (r#"form-data; filename="no"; name="yes%22""#, Some("yes\"")),
            (r#"form-data; filename="no""#, None),
            (r#"form-data; name="open"#, None),
        ] {
            assert_eq!(name(disposition).as_deref(), wanted, "{disposition}");
        }
    }

    #[test]
    fn a_truncated_multipart_body_is_not_taken_as_complete() {
        let body = format!("--b\r\n{NAMED}\r\n\r\none\r\n--b\r\n{NAMED}\r\n\r\ntwo\r\n--b--");
        for end in 0..body.len() {
            assert!(parts(&body.as_bytes()[..end], "b").is_err(), "cut at {end}");
        }
        assert_eq!(parts(body.as_bytes(), "b").unwrap().len(), 2);
    }

    #[test]
    fn parts_over_the_limit_are_reported_as_one_bad_part() {
        let part = format!("--b\r\n{NAMED}\r\n\r\nc\r\n");
        let body = part.repeat(PARTS_MAX + 3) + "--b--";
        let parts = parts(body.as_bytes(), "b").unwrap();
        assert_eq!(parts.len(), PARTS_MAX + 1);
        assert!(parts[..PARTS_MAX].iter().all(Result::is_ok));
        let beyond = parts[PARTS_MAX].as_ref().unwrap_err();
        assert_eq!(beyond.reason, "it and what follows are 3 parts more than 20000 (PARTS_MAX)");
        let (first, last) = (part.len() * PARTS_MAX + "--b\r\n".len(), body.len() - "\r\n--b--".len());
        assert_eq!(beyond.raw, &body.as_bytes()[first..last]);
        assert_eq!(super::parts(&body.as_bytes()[..body.len() - 3], "b"), Err(MultipartError::Cut(PARTS_MAX + 3)));
    }

    #[test]
    fn boundaries_are_read_from_the_content_type() {
        for (content_type, wanted) in [
            ("multipart/form-data; boundary=abc", Some("abc")),
            ("Multipart/Form-Data;charset=x; Boundary=\"a b\"", Some("a b")),
            ("MULTIPART/FORM-DATA ; charset=\"a;boundary=no\"; boundary = \"x;y=\\\"z\"; a=b", Some("x;y=\"z")),
            ("multipart/mixed; boundary=abc", None),
            ("multipart/form-data", None),
            ("multipart/form-data; boundary=", None),
        ] {
            assert_eq!(boundary(content_type).as_deref(), wanted, "{content_type}");
        }
    }
}
