//! The legacy stream: JSON envelopes written before tenancy, and how many of them are left.
//!
//! The worker moves them one by one into the shards of their orgs, as envelopes of the present format, or into the
//! legacy stream's dead letters. Neither is in the stream's slot of a cluster, so each move takes the three steps of
//! [`queue::arrival`], and its destination is stored beside the stream first. `docs/operations/cutover.md` describes
//! how to drain the stream for good.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use std::sync::LazyLock;
use std::time::Duration;

use model::entry_id::EntryId;
use redis::{RedisError, Script};
use serde::Serialize;
use stores::keys::RedisKey;
use stores::redis::Redis;

mod dead_letters;
mod projects;
mod switch;

pub use dead_letters::DeadLetters;
pub use projects::{Place, Projects};
pub use switch::{SWITCH_SEEN_AFTER, Switch, SwitchError};

static BACKLOG: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("backlog.lua")));

/// A reader of an older release counts as gone when it has sent no read for this long.
pub const READER_SILENT: Duration = Duration::from_secs(10);

/// The entries of the legacy stream that were not moved yet, and who reads them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Backlog {
    /// Number of entries in the stream.
    pub entries: u64,
    /// The oldest entry; `None` if the stream is empty.
    #[serde(skip)]
    pub first: Option<EntryId>,
    /// Number of entries ever added to the stream.
    pub added: u64,
    /// Number of entries that are being moved, or were when a worker crashed.
    pub moving: u64,
    /// Consumer groups, created by readers of older releases.
    pub groups: Vec<Group>,
}

/// A consumer group of the legacy stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// The name of the group.
    pub name: String,
    /// Entries that were delivered to a reader and not acknowledged.
    pub pending: u64,
    /// Milliseconds since the last read of any of its readers; `None` if it has no reader.
    pub silent_ms: Option<u64>,
}

impl Backlog {
    /// Whether nothing is left: no entry, none pending at a reader, none being moved.
    pub fn is_empty(&self) -> bool {
        self.entries == 0 && self.moving == 0 && self.groups.iter().all(|group| group.pending == 0)
    }

    /// The group of an older release's reader that is still active, if there is one.
    pub fn old_reader(&self) -> Option<&Group> {
        let is_at_work = |ms: u64| u128::from(ms) < READER_SILENT.as_millis();
        self.groups.iter().find(|group| group.silent_ms.is_some_and(is_at_work))
    }
}

/// A group in the script's reply.
type RawGroup = (String, u64, i64);

/// Reads how much is left of the legacy stream.
pub async fn read_backlog(redis: &Redis) -> Result<Backlog, RedisError> {
    let mut call = BACKLOG.key(RedisKey::legacy_stream());
    call.key(RedisKey::legacy_moving());
    let reply = call.invoke_async(&mut redis.clone()).await?;
    let (entries, first, added, moving, groups): (u64, String, u64, u64, Vec<RawGroup>) = reply;
    let group = |(name, pending, silent): RawGroup| Group { name, pending, silent_ms: silent.try_into().ok() };
    Ok(Backlog { entries, first: first.parse().ok(), added, moving, groups: groups.into_iter().map(group).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_legacy_stream_counts_as_empty_only_when_no_group_holds_entries() {
        let group = |pending, silent_ms| Group { name: "ingest".to_owned(), pending, silent_ms };
        let nothing = Backlog { added: 7, groups: vec![group(0, None)], ..Backlog::default() };
        assert!(nothing.is_empty() && nothing.old_reader().is_none());
        for backlog in [
            Backlog { entries: 1, ..nothing.clone() },
            Backlog { moving: 1, ..nothing.clone() },
            Backlog { groups: vec![group(0, None), group(1, None)], ..nothing.clone() },
        ] {
            assert!(!backlog.is_empty(), "{backlog:?}");
        }
        let read = |silent_ms| Backlog { groups: vec![group(0, Some(silent_ms))], ..Backlog::default() };
        assert!(read(9_999).old_reader().is_some() && read(10_000).old_reader().is_none());
    }
}
