//! Splits a migration into statements, so that an error can name the number of the failed one.

/// One statement of a migration's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Statement {
    /// Number of the statement in the file, from 1.
    pub(super) number: usize,
    /// The statement, without comments before it and without its semicolon.
    pub(super) sql: &'static str,
}

impl Statement {
    /// The first line of the statement, for messages.
    pub(super) fn first_line(&self) -> String {
        const CHARS_MAX: usize = 100;
        self.sql.lines().next().unwrap_or_default().trim_end().chars().take(CHARS_MAX).collect()
    }
}

/// How a backslash inside of a string is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backslash {
    /// It is an ordinary character, as in standard SQL.
    IsPlain,
    /// It escapes the next character, as in ClickHouse.
    Escapes,
}

/// Splits `text` into statements. A statement ends at a semicolon that is outside of strings, quoted names, comments
/// and `$tag$` bodies, and that is the last character on its line except for blanks and a comment.
pub(super) fn split(text: &'static str, backslash: Backslash) -> Vec<Statement> {
    let mut statements = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with(';') && ends_line(&rest[1..]) {
            push(&mut statements, &text[start..at]);
            at += 1;
            start = at;
        } else {
            at += token_len(rest, backslash);
        }
    }
    push(&mut statements, &text[start..]);
    statements
}

fn push(statements: &mut Vec<Statement>, sql: &'static str) {
    let sql = skip_comments(sql).trim_end();
    if !sql.is_empty() {
        statements.push(Statement { number: statements.len() + 1, sql });
    }
}

/// `sql` from its first character that is neither blank nor in a comment.
fn skip_comments(mut sql: &'static str) -> &'static str {
    loop {
        sql = sql.trim_start();
        match comment_len(sql) {
            Some(len) => sql = &sql[len..],
            None => return sql,
        }
    }
}

fn ends_line(after: &str) -> bool {
    let line = after.lines().next().unwrap_or_default().trim_start();
    line.is_empty() || line.starts_with("--") || line.starts_with("/*")
}

/// The length of the token at the beginning of `text`, which is not empty: a comment, a quoted piece, or one character.
fn token_len(text: &str, backslash: Backslash) -> usize {
    if let Some(len) = comment_len(text) {
        return len;
    }
    let first = text.chars().next().map_or(1, char::len_utf8);
    match text.as_bytes()[0] {
        quote @ (b'\'' | b'"' | b'`') => quoted_len(text.as_bytes(), quote, backslash),
        b'$' => dollar_quoted_len(text).unwrap_or(first),
        _ => first,
    }
}

fn comment_len(text: &str) -> Option<usize> {
    if text.starts_with("--") {
        Some(text.find('\n').map_or(text.len(), |newline| newline + 1))
    } else if text.starts_with("/*") {
        Some(text.find("*/").map_or(text.len(), |end| end + 2))
    } else {
        None
    }
}

/// The length of a quoted piece. A doubled quote inside counts as two quoted pieces in a row, which gives the same
/// result.
fn quoted_len(text: &[u8], quote: u8, backslash: Backslash) -> usize {
    let mut at = 1;
    while at < text.len() {
        match text[at] {
            b'\\' if backslash == Backslash::Escapes => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// The length of `$tag$ … $tag$`; the tag may be empty.
fn dollar_quoted_len(text: &str) -> Option<usize> {
    let tag_end = 1 + text[1..].find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))?;
    if !text[tag_end..].starts_with('$') {
        return None;
    }
    let tag = &text[..=tag_end];
    let body = &text[tag.len()..];
    Some(body.find(tag).map_or(text.len(), |end| tag.len() + end + tag.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(text: &'static str, backslash: Backslash) -> Vec<&'static str> {
        split(text, backslash).iter().map(|statement| statement.sql).collect()
    }

    #[test]
    fn a_statement_ends_at_a_semicolon_at_the_end_of_a_line() {
        let text = "-- about; this\nSELECT 1;\n\n/* and; that */ SELECT 2 ; -- done\nSELECT a;b\n;\nSELECT 3";
        assert_eq!(sql(text, Backslash::IsPlain), ["SELECT 1", "SELECT 2", "SELECT a;b", "SELECT 3"]);
    }

    #[test]
    fn quoted_semicolons_do_not_end_a_statement() {
        let text =
            "SELECT ';\n', \";\n\", `;\n`, 'it''s;\n';\nSELECT $$;\n$$, $a$;\n$$;\n$a$, $1;\nSELECT '-- no comment';\n";
        assert_eq!(
            sql(text, Backslash::IsPlain),
            [
                "SELECT ';\n', \";\n\", `;\n`, 'it''s;\n'",
                "SELECT $$;\n$$, $a$;\n$$;\n$a$, $1",
                "SELECT '-- no comment'"
            ]
        );
    }

    #[test]
    fn a_backslash_escapes_in_clickhouse_only() {
        assert_eq!(sql("SELECT '\\';\n';\nSELECT 2;", Backslash::Escapes), ["SELECT '\\';\n'", "SELECT 2"]);
        assert_eq!(sql("SELECT '\\';\nSELECT 2;", Backslash::IsPlain), ["SELECT '\\'", "SELECT 2"]);
    }

    #[test]
    fn an_unclosed_quote_or_comment_runs_to_the_end() {
        for text in ["SELECT '", "SELECT $$;\n", "SELECT 1 /*;\n", "SELECT '\\", "SELECT $", "SELECT $tag"] {
            assert_eq!(sql(text, Backslash::Escapes).len(), 1, "{text}");
        }
        assert!(sql("", Backslash::Escapes).is_empty());
        assert!(sql("-- only\n ; \n/* comments */", Backslash::Escapes).is_empty());
    }

    #[test]
    fn statements_are_numbered_and_named_by_their_first_line() {
        let statements = split("-- one\nCREATE TABLE é\n(a);\nDROP TABLE b;", Backslash::IsPlain);
        assert_eq!((statements[0].number, statements[0].first_line().as_str()), (1, "CREATE TABLE é"));
        assert_eq!((statements[1].number, statements[1].first_line().as_str()), (2, "DROP TABLE b"));
    }
}
