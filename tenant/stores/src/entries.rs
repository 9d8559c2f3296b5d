//! Reading entries of a stream, bounded in bytes by Redis.
//!
//! Entries differ in size by five orders of magnitude, and a `COUNT` bounds only their number: Redis copies all of them
//! into the reply, does nothing else meanwhile, and the reply counts against its `maxmemory`. So whatever reads more
//! than one entry reads through here: a script takes one at a time and stops at so many bytes. What one call reads is
//! less than that plus one entry.

use std::sync::LazyLock;

use redis::{RedisError, Script, Value};

use crate::keys::RedisKey;
use crate::redis::Redis;
use model::entry_id::EntryId;

static PAGE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("entries/page.lua")));
static PICK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("entries/pick.lua")));

/// Bytes after which one call reads no further entry: about three milliseconds in which Redis does nothing else.
pub const READ_BYTES_MAX: usize = 1 << 20;
/// Entries of one call.
pub const READ_ENTRIES_MAX: usize = 1_024;
/// An entry of more bytes ends a page. One this large costs Redis less when a command reads it alone than when a script
/// does, which copies it once more.
pub const LARGE_BYTES: usize = 16 << 10;
/// Ids that one call is asked for.
const PICK_ENTRIES_MAX: usize = 256;

/// An entry's id and the value of the field that was asked for; empty if it has no such field.
pub type Entry = (EntryId, Vec<u8>);

/// Entries that follow each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// In their order.
    pub entries: Vec<Entry>,
    /// Whether there may be more behind them.
    pub has_more: bool,
}

/// How much a page may hold; nothing is cut, so it ends with the entry that reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageMax {
    /// Entries.
    pub entries: usize,
    /// Bytes.
    pub bytes: usize,
}

impl PageMax {
    /// The most there is.
    pub const ALL: Self = Self { entries: READ_ENTRIES_MAX, bytes: READ_BYTES_MAX };
}

/// Reads what is in a stream from an id on, up to and with another.
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

/// Reads the entries of those ids that are in a stream. Says of how many of the ids, from the first on, it is known by
/// now: at least one, and not always all.
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
