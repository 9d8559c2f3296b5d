//! Writes JSON in one form: no blanks between tokens, and the members of every object in the order of their names. Two
//! texts that differ only in these have the same bytes then, so that a call is recognised in whatever order a map was
//! written.
//!
//! Numbers and strings stay as they are written: reading them would cost far more than it could find.

use super::json_text;

/// Most levels of arrays and objects inside each other. Deeper text stays as it is. An object whose members must be
/// reordered is copied, so this is also how often each byte can be copied.
const NESTING_MAX: usize = 32;

/// Texts in the one form, one after another, in buffers that are reused.
#[derive(Debug, Default)]
pub(super) struct Canonical {
    out: String,
    /// The members of the objects that are being read, outermost object first.
    members: Vec<Member>,
    sorted: String,
}

/// Offsets of a member in `out`.
#[derive(Clone, Copy, Debug)]
struct Member {
    start: usize,
    name_end: usize,
    end: usize,
}

impl Canonical {
    pub(super) fn clear(&mut self) {
        self.out.clear();
        self.members.clear();
    }

    pub(super) fn text(&self) -> &str {
        &self.out
    }

    /// Appends an object or array in the one form. Returns false, and appends nothing, if `text` is neither.
    pub(super) fn container(&mut self, text: &str) -> bool {
        let (start, members) = (self.out.len(), self.members.len());
        let mut reader = Reader { text, at: 0 };
        let read = match reader.blanks_then() {
            Some(b'{' | b'[') => self.value(&mut reader, NESTING_MAX),
            _ => None,
        };
        if read.is_some() && reader.blanks_then().is_none() {
            return true;
        }
        self.out.truncate(start);
        self.members.truncate(members);
        false
    }

    /// Appends what `write` writes, unchanged.
    pub(super) fn plain(&mut self, write: impl FnOnce(&mut String)) {
        write(&mut self.out);
    }

    /// Appends an object. `write` appends its members, each with [`Self::member`].
    pub(super) fn object(&mut self, write: impl FnOnce(&mut Self)) {
        let first = self.members.len();
        self.out.push('{');
        write(self);
        self.close_object(first);
    }

    /// Appends a member: `name` appends its name as a JSON string, then `value` its value.
    pub(super) fn member(&mut self, name: impl FnOnce(&mut String), value: impl FnOnce(&mut Self)) {
        let start = self.begin_member();
        name(&mut self.out);
        let name_end = self.out.len();
        self.out.push(':');
        value(self);
        self.members.push(Member { start, name_end, end: self.out.len() });
    }

    fn begin_member(&mut self) -> usize {
        json_text::separate(&mut self.out, '{');
        self.out.len()
    }

    fn value(&mut self, reader: &mut Reader<'_>, levels: usize) -> Option<()> {
        match reader.blanks_then()? {
            b'{' => {
                let levels = levels.checked_sub(1)?;
                let first = self.members.len();
                reader.at += 1;
                self.out.push('{');
                reader.items(b'}', |reader| {
                    let start = self.begin_member();
                    self.out.push_str(reader.string()?);
                    let name_end = self.out.len();
                    reader.expect(b':')?;
                    self.out.push(':');
                    self.value(reader, levels)?;
                    self.members.push(Member { start, name_end, end: self.out.len() });
                    Some(())
                })?;
                self.close_object(first);
            }
            b'[' => {
                let levels = levels.checked_sub(1)?;
                reader.at += 1;
                self.out.push('[');
                let first = self.out.len();
                reader.items(b']', |reader| {
                    if self.out.len() > first {
                        self.out.push(',');
                    }
                    self.value(reader, levels)
                })?;
                self.out.push(']');
            }
            b'"' => self.out.push_str(reader.string()?),
            _ => self.out.push_str(reader.word()?),
        }
        Some(())
    }

    /// Sorts the members from `first` on by their names. Members of the same name keep their order.
    fn close_object(&mut self, first: usize) {
        let Self { out, members, sorted } = self;
        let of_object = &mut members[first..];
        let name = |member: &Member| &out[member.start..member.name_end];
        if !of_object.is_sorted_by_key(name) {
            let begin = of_object[0].start;
            of_object.sort_by(|a, b| name(a).cmp(name(b)));
            sorted.clear();
            for member in of_object {
                sorted.push_str(&out[member.start..member.end]);
                sorted.push(',');
            }
            sorted.pop();
            out.truncate(begin);
            out.push_str(sorted);
        }
        members.truncate(first);
        out.push('}');
    }
}

/// A text and the current offset in it.
struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    /// Skips blanks, and returns the next byte without taking it.
    fn blanks_then(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.text.as_bytes().get(self.at) {
            self.at += 1;
        }
        self.text.as_bytes().get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.blanks_then()? == byte).then(|| self.at += 1)
    }

    /// Reads items with commas between them, up to and including `end`.
    fn items(&mut self, end: u8, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        if self.blanks_then()? == end {
            self.at += 1;
            return Some(());
        }
        loop {
            item(self)?;
            let next = self.blanks_then()?;
            self.at += 1;
            match next {
                b',' => {}
                _ => return (next == end).then_some(()),
            }
        }
    }

    /// A string with its quotes, as it is written.
    fn string(&mut self) -> Option<&'t str> {
        if self.blanks_then()? != b'"' {
            return None;
        }
        let (text, start) = (self.text, self.at);
        let mut at = start + 1;
        loop {
            at += memchr::memchr2(b'"', b'\\', text.as_bytes().get(at..)?)?;
            if text.as_bytes()[at] == b'"' {
                self.at = at + 1;
                return text.get(start..=at);
            }
            at += 2;
        }
    }

    /// A number or a literal, as it is written.
    fn word(&mut self) -> Option<&'t str> {
        let rest = self.text.get(self.at..)?;
        let len = rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.')).count();
        self.at += len;
        (len > 0).then(|| &rest[..len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelled(text: &str) -> Option<String> {
        let mut canonical = Canonical::default();
        let is_container = canonical.container(text);
        assert_eq!(canonical.members.len(), 0);
        is_container.then_some(canonical.out)
    }

    #[test]
    fn members_are_in_the_order_of_their_names() {
        for (text, wanted) in [
            (r#" { "b" : [ 1 , {"y":2, "x":"é\"}" } ] , "a":null }"#, r#"{"a":null,"b":[1,{"x":"é\"}","y":2}]}"#),
            ("[]", "[]"),
            ("[ ]", "[]"),
            ("{ }", "{}"),
            (r#"[{},[],"",-1.5e+3,true]"#, r#"[{},[],"",-1.5e+3,true]"#),
            (r#"{"a":1,"a":0}"#, r#"{"a":1,"a":0}"#),
            (r#"{"a":{"d":{"f":1,"e":2},"c":3},"A":4}"#, r#"{"A":4,"a":{"c":3,"d":{"e":2,"f":1}}}"#),
        ] {
            assert_eq!(spelled(text).as_deref(), Some(wanted), "{text}");
        }
    }

    #[test]
    fn text_that_is_no_json_object_or_array_is_not_canonicalized() {
        let deep = "[".repeat(NESTING_MAX + 1) + &"]".repeat(NESTING_MAX + 1);
        for text in
            ["", " ", "text", "7", "\"s\"", "{", "[1", "[1,]", "{\"a\"}", "{\"a\":1}x", "[\"\\", "[\"", "{1:2}", &deep]
        {
            assert_eq!(spelled(text), None, "{text}");
        }
        assert!(spelled(&deep[1..deep.len() - 1]).is_some());
    }

    #[test]
    fn a_text_that_fails_to_parse_leaves_no_output() {
        let mut canonical = Canonical::default();
        canonical.plain(|out| out.push('x'));
        canonical.object(|object| {
            for (name, text) in [("b", r#"{"z":{"y":1},"#), ("a", "[1]")] {
                object.member(
                    |out| out.push_str(name),
                    |value| {
                        value.container(text);
                    },
                );
            }
        });
        assert_eq!(canonical.text(), "x{a:[1],b:}");
    }
}
