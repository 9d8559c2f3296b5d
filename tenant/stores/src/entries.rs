//! Reads entries of a stream; Redis itself bounds the bytes of each reply.
//!
//! Entries differ in size by five orders of magnitude, and a `COUNT` bounds only their number: Redis copies all of them
//! into the reply, does nothing else meanwhile, and the reply counts against its `maxmemory`. So all code that reads
//! more than one entry uses this module: a script takes one entry at a time and stops at a number of bytes. One call
//! reads less than that plus one entry.

use std::sync::LazyLock;

use model::entry_id::EntryId;
use redis::{RedisError, Script, Value};

use crate::keys::RedisKey;
use crate::redis::Redis;

static PAGE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("entries/page.lua")));
static PICK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("entries/pick.lua")));

/// Bytes after which one call reads no further entry: about three milliseconds in which Redis does nothing else.
pub const READ_BYTES_MAX: usize = 1 << 20;
/// The most entries of one call.
pub const READ_ENTRIES_MAX: usize = 1_024;
/// An entry larger than this ends a page. Reading one this large by a plain command costs Redis less than reading it by
/// a script, which copies it once more.
pub const LARGE_BYTES: usize = 16 << 10;
/// The most ids that one call asks for.
const PICK_ENTRIES_MAX: usize = 256;

/// An entry's id and the value of the requested field; empty if it has no such field.
pub type Entry = (EntryId, Vec<u8>);

/// Entries that follow each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The entries, oldest id first.
    pub entries: Vec<Entry>,
    /// Whether the stream may have more entries after these.
    pub has_more: bool,
}

/// The limits of a page. The page ends with the entry that reaches a limit; no entry is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageMax {
    /// The most entries in the page.
    pub entries: usize,
    /// Bytes of the requested field's values.
    pub bytes: usize,
}

impl PageMax {
    /// The largest page that one call may read.
    pub const ALL: Self = Self { entries: READ_ENTRIES_MAX, bytes: READ_BYTES_MAX };
}

/// Reads the entries of a stream between two ids, both included.
pub async fn page(
    redis: &mut Redis,
    stream: &RedisKey,
    field: &str,
    from: EntryId,
    to: Option<EntryId>,
    max: PageMax,
) -> Result<Page, RedisError> {
    let mut call = PAGE.key(stream);
    call.arg(from.to_string()).arg(to.map_or_else(|| "+".to_owned(), |to| to.to_string()));
    call.arg(max.entries.clamp(1, READ_ENTRIES_MAX)).arg(max.bytes.clamp(1, READ_BYTES_MAX));
    call.arg(LARGE_BYTES).arg(field);
    let (has_more, entries) = counted_entries(call.invoke_async(redis).await?)?;
    Ok(Page { entries, has_more: has_more == 1 })
}

/// Reads those entries of `ids` that are in the stream. Also returns how many ids, from the first, were looked up: at
/// least one, and not always all.
pub async fn pick(
    redis: &mut Redis,
    stream: &RedisKey,
    field: &str,
    ids: &[EntryId],
) -> Result<(usize, Vec<Entry>), RedisError> {
    let mut call = PICK.key(stream);
    call.arg(READ_BYTES_MAX).arg(field);
    for id in ids.iter().take(PICK_ENTRIES_MAX) {
        call.arg(id.to_string());
    }
    counted_entries(call.invoke_async(redis).await?)
}

/// A number, and then an id and a value of each entry.
fn counted_entries(reply: Vec<Value>) -> Result<(usize, Vec<Entry>), RedisError> {
    let mut reply = reply.into_iter();
    let Some(Value::Int(number)) = reply.next() else { return Err(unexpected()) };
    let mut entries = Vec::with_capacity(reply.len() / 2);
    while let Some(id) = reply.next() {
        let (Value::BulkString(id), Some(Value::BulkString(value))) = (id, reply.next()) else {
            return Err(unexpected());
        };
        let id = std::str::from_utf8(&id).ok().and_then(|id| id.parse().ok()).ok_or_else(unexpected)?;
        entries.push((id, value));
    }
    Ok((usize::try_from(number).map_err(|_| unexpected())?, entries))
}

fn unexpected() -> RedisError {
    RedisError::from((redis::ErrorKind::UnexpectedReturnType, "not entries of a stream"))
}
