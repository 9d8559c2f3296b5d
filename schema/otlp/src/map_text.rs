//! Writes a map as JSON while it is read. If a key occurs again, only its last value stays.
//!
//! Only the offsets of members are kept in memory, and replaced values are removed before the text has doubled: a body
//! of many tiny values must not take a multiple of its bytes.

use translate::unique;

/// Bytes of text that are written before the first check for repeated keys.
const FIRST_LOOK_BYTES: usize = 64 << 10;

/// The members of one map that were written so far.
pub(super) struct Members {
    /// Offset of the first member in the text.
    start: usize,
    /// Length of the text at which the next check is due.
    due: usize,
    members: Vec<Member>,
}

/// Offsets of a member, in bytes from the first member. A map above 4 GiB is far larger than any attribute that is
/// kept.
#[derive(Clone, Copy)]
struct Member {
    at: u32,
    value_at: u32,
    end: u32,
}

impl Members {
    /// A map whose text begins at the end of `out`.
    pub(super) fn new(out: &str) -> Self {
        Self { start: out.len(), due: out.len() + FIRST_LOOK_BYTES, members: Vec::new() }
    }

    /// Must be called after a member was written to the end of the text, with the offsets of the member and its value.
    pub(super) fn written(&mut self, at: usize, value_at: usize, out: &mut String) {
        let place = |at: usize| u32::try_from(at - self.start);
        if let (Ok(at), Ok(value_at), Ok(end)) = (place(at), place(value_at), place(out.len())) {
            self.members.push(Member { at, value_at, end });
        }
        if out.len() >= self.due {
            self.keep_last(out);
            self.due = out.len() + (out.len() - self.start).max(FIRST_LOOK_BYTES);
        }
    }

    /// Must be called after all members were written.
    pub(super) fn keep_last(&mut self, out: &mut String) {
        let Self { start, members, .. } = self;
        let count = members.len();
        if count < 2 {
            return;
        }
        let key = |member: &Member| member.at as usize..member.value_at as usize;
        unique::keep_last_of(members, &out.as_bytes()[*start..], |member, text| &text[key(member)], |_| true);
        if members.len() == count {
            return;
        }
        let old = out.split_off(*start);
        for member in members {
            if out.len() > *start {
                out.push(',');
            }
            let (length, key) = (member.end - member.at, member.value_at - member.at);
            let at = (out.len() - *start) as u32;
            out.push_str(&old[member.at as usize..member.end as usize]);
            *member = Member { at, value_at: at + key, end: at + length };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(members: impl IntoIterator<Item = (String, String)>) -> String {
        let mut out = String::from("before{");
        let mut map = Members::new(&out);
        for (key, value) in members {
            translate::json_text::separate(&mut out, '{');
            let at = out.len();
            out.push_str(&format!("{key:?}:"));
            let value_at = out.len();
            out.push_str(&value);
            map.written(at, value_at, &mut out);
        }
        map.keep_last(&mut out);
        out
    }

    #[test]
    fn the_last_value_of_each_key_stays() {
        for (members, wanted) in [
            (&[][..], "before{"),
            (&[("a", "1")], r#"before{"a":1"#),
            (&[("a", "1"), ("b", "2")], r#"before{"a":1,"b":2"#),
            (
                &[("a", "1"), ("b", "2"), ("a", "[3,{}]"), ("c", "\"\""), ("b", "null")],
                r#"before{"a":[3,{}],"b":null,"c":"""#,
            ),
        ] {
            assert_eq!(written(members.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))), wanted);
        }
    }

    #[test]
    fn overwritten_values_are_removed_while_the_map_is_written() {
        let long = "7".repeat(FIRST_LOOK_BYTES / 4);
        let members = (0..1_000).map(|i| (format!("k{}", i % 3), format!("{i}{long}")));
        let text = written(members);
        assert_eq!(text, format!(r#"before{{"k0":999{long},"k1":997{long},"k2":998{long}"#));
        assert!(text.capacity() < 10 * text.len(), "{} bytes", text.capacity());
    }
}
