//! Header values of the form `value; name=value; name="quoted"`, as in Content-Type and Content-Disposition (RFC 9110
//! §5.6.6).

use std::borrow::Cow;

/// Splits a header value into the text before the first semicolon and the parameters after it.
pub(crate) fn split(text: &str) -> (&str, Parameters<'_>) {
    let (value, rest) = text.split_once(';').unwrap_or((text, ""));
    (value.trim(), Parameters { rest })
}

/// The parameters that have a name and a value, in their order. Names are compared without case.
#[derive(Clone, Debug)]
pub(crate) struct Parameters<'a> {
    rest: &'a str,
}

impl<'a> Parameters<'a> {
    /// The value of the first parameter of that name.
    pub(crate) fn find(mut self, wanted: &str) -> Option<Cow<'a, str>> {
        self.find_map(|(name, value)| name.eq_ignore_ascii_case(wanted).then_some(value))
    }
}

impl<'a> Iterator for Parameters<'a> {
    type Item = (&'a str, Cow<'a, str>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let end = self.rest.find(['=', ';'])?;
            let (name, rest) = self.rest.split_at(end);
            self.rest = &rest[1..];
            if rest.starts_with(';') {
                continue;
            }
            let name = name.trim();
            let value = self.rest.trim_start();
            return match value.strip_prefix('"') {
                // A quote that is not closed makes the rest unreadable, so no parameter follows.
                Some(quoted) => unquoted(quoted).map(|(value, rest)| {
                    self.rest = rest.split_once(';').map_or("", |(_, rest)| rest);
                    (name, value)
                }),
                None => {
                    let (value, rest) = value.split_once(';').unwrap_or((value, ""));
                    self.rest = rest;
                    Some((name, Cow::Borrowed(value.trim())))
                }
            };
        }
    }
}

/// The text up to the closing quote, and the rest after it. A backslash quotes the next character.
fn unquoted(quoted: &str) -> Option<(Cow<'_, str>, &str)> {
    let end = quoted.find(['"', '\\'])?;
    if quoted[end..].starts_with('"') {
        return Some((Cow::Borrowed(&quoted[..end]), &quoted[end + 1..]));
    }
    let mut text = String::new();
    let mut chars = quoted.chars();
    loop {
        match chars.next()? {
            '"' => return Some((Cow::Owned(text), chars.as_str())),
            '\\' => text.push(chars.next()?),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_values_and_parameters_are_parsed() {
        for (text, value, parameters) in [
            ("application/json", "application/json", &[][..]),
            (" Application/JSON ;Charset=UTF-8", "Application/JSON", &[("Charset", "UTF-8")]),
            ("a/b; x = \"1;2\" ; y=3;", "a/b", &[("x", "1;2"), ("y", "3")]),
            (r#"a/b; x="q\"\\q"; y"#, "a/b", &[("x", r#"q"\q"#)]),
            (r#"a/b;;flag; x="" ; y=a"b"#, "a/b", &[("x", ""), ("y", "a\"b")]),
            (r#"a/b; y=1; x="open; z=2"#, "a/b", &[("y", "1")]),
            (r#"a/b; x="é\"#, "a/b", &[]),
            ("", "", &[]),
        ] {
            let (found, rest) = split(text);
            let rest: Vec<_> = rest.map(|(name, value)| (name, value.into_owned())).collect();
            let wanted: Vec<_> = parameters.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
            assert_eq!((found, rest), (value, wanted), "{text}");
        }
    }

    #[test]
    fn names_compare_without_case() {
        let (_, parameters) = split("multipart/form-data; charset=x; BOUNDARY=\"a b\"; boundary=second");
        assert_eq!(parameters.find("boundary").as_deref(), Some("a b"));
    }
}
