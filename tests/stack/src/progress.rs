//! What a person who waits gets to read: on standard error, so that standard output stays the result.

/// Says what is being done.
pub(crate) fn say(what: &str) {
    eprintln!("stack: {what}");
}
