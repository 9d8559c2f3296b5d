//! Splits the body of `POST /runs/batch` into its runs: `{"post": [run, ...], "patch": [run, ...]}`.
//!
//! Only brackets, commas and strings are read, so that a run that is not JSON makes one rejected item and not a refused
//! request.

use translate::fields::string_end;

use super::Op;
use crate::error::ApiError;

/// Calls `found` with each run as it was sent, its operation and its index in that list. Fails if the body is not such
/// a batch, or if `found` fails.
pub(super) fn each<'a>(
    body: &'a [u8],
    mut found: impl FnMut(Op, usize, &'a [u8]) -> Result<(), ApiError>,
) -> Result<(), ApiError> {
    let mut scan = Scan { body, at: 0 };
    scan.expect(b'{')?;
    while !scan.skip(b'}') {
        let op = match scan.value(b":")? {
            br#""post""# => Some(Op::Post),
            br#""patch""# => Some(Op::Patch),
            key if key.first() == Some(&b'"') => None,
            _ => return Err(scan.refused("a name in quotes is missing")),
        };
        scan.expect(b':')?;
        match op {
            Some(op) if scan.skip(b'[') => {
                let mut i = 0;
                while !scan.skip(b']') {
                    found(op, i, scan.value(b",]")?)?;
                    scan.skip(b',');
                    i += 1;
                }
            }
            Some(_) if scan.value(b",}")? != b"null" => return Err(scan.refused("post and patch are lists")),
            Some(_) => {}
            None => drop(scan.value(b",}")?),
        }
        if !scan.skip(b',') && scan.peek() != Some(b'}') {
            return Err(scan.refused("a comma or a closing brace is missing"));
        }
    }
    match scan.peek() {
        None => Ok(()),
        Some(_) => Err(scan.refused("something follows the object")),
    }
}

struct Scan<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        let blank = self.body[self.at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.at += blank;
        self.body.get(self.at).copied()
    }

    fn skip(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, byte: u8) -> Result<(), ApiError> {
        if self.skip(byte) { Ok(()) } else { Err(self.refused(&format!("{:?} is missing", char::from(byte)))) }
    }

    /// The value up to one of the bytes in `ends`, not counting those inside of the value.
    fn value(&mut self, ends: &[u8]) -> Result<&'a [u8], ApiError> {
        self.peek();
        let (start, mut depth) = (self.at, 0_usize);
        while let Some(&byte) = self.body.get(self.at) {
            match byte {
                byte if depth == 0 && ends.contains(&byte) => return Ok(self.body[start..self.at].trim_ascii_end()),
                b'"' => {
                    self.at = string_end(self.body, self.at + 1);
                    continue;
                }
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.checked_sub(1).ok_or_else(|| self.refused("a bracket is closed twice"))?,
                _ => {}
            }
            self.at += 1;
        }
        Err(self.refused("the body ends early"))
    }

    fn refused(&self, reason: &str) -> ApiError {
        ApiError::Malformed(format!("not a batch of runs: {reason}, at byte {}", self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Vec<String>, String> {
        let mut found = Vec::new();
        let done = each(body.as_bytes(), |op, i, item| {
            found.push(format!("{}[{i}] {}", op.as_str(), String::from_utf8_lossy(item)));
            Ok(())
        });
        done.map(|()| found).map_err(|error| error.to_string())
    }

    #[test]
    fn a_batch_is_split_into_runs_whatever_json_they_contain() {
        assert_eq!(
            read(
                r#" { "patch" : [ {"a":"]}\",["} , [1,{}] ], "other":{"post":[1]}, "post":[nope, {"n":NaN},"x",7 ] } "#
            )
            .unwrap(),
            [
                r#"patch[0] {"a":"]}\",["}"#,
                "patch[1] [1,{}]",
                "post[0] nope",
                r#"post[1] {"n":NaN}"#,
                r#"post[2] "x""#,
                "post[3] 7"
            ]
        );
        for nothing in ["{}", r#"{"post":[],"patch":null}"#, r#"{"x":1}"#] {
            assert_eq!(read(nothing).unwrap(), [""; 0], "{nothing}");
        }
        assert_eq!(read(r#"{"post":[,1]}"#).unwrap(), ["post[0] ", "post[1] 1"]);
    }

    #[test]
    fn a_body_that_is_not_a_batch_is_refused() {
        for body in [
            "",
            "[]",
            "7",
            "{",
            r#"{"post""#,
            r#"{"post":"#,
            r#"{"post":["#,
            r#"{"post":[{]}"#,
            r#"{"post":7}"#,
            "{post:[]}",
            r#"{"post":[]"#,
            r#"{"post":[1],}x"#,
            r#"{"post":[] "patch":[]}"#,
            r#"{"post":[}}"#,
            r#"{"post":["]}"#,
            r#"{} {}"#,
        ] {
            assert!(read(body).is_err_and(|error| error.starts_with("not a batch of runs: ")), "{body}");
        }
    }
}
