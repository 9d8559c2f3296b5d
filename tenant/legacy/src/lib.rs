//! The legacy stream: JSON envelopes that were written before tenancy, and what is left of them.
//!
//! The worker moves them one by one into the shards of their orgs, as envelopes of today, or into the legacy stream's
//! dead letters. Neither is in the stream's slot of a cluster, so each move is the three steps of [`queue::arrival`],
//! and where it goes is noted beside the stream first. `docs/cutover.md` tells how the stream is drained for good.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use std::sync::LazyLock;
use std::time::Duration;

use redis::{RedisError, Script};
use serde::Serialize;

use model::entry_id::EntryId;
use stores::keys::RedisKey;
use stores::redis::Redis;

mod letters;
mod projects;
mod switch;

pub use letters::Letters;
pub use projects::{Place, Projects};
pub use switch::{HEARD_AFTER, Switch, SwitchError};

static LOOK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("look.lua")));

/// A reader of an older release counts as gone when it has asked for nothing for so long.
pub const READER_SILENT: Duration = Duration::from_secs(10);

/// What is left of the legacy stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Left {
    /// Entries in it.
    pub entries: u64,
    /// The first of them.
    #[serde(skip)]
    pub first: Option<EntryId>,
    /// Entries that were ever added to it.
    pub added: u64,
    /// Entries that are being moved, or were when a worker died.
    pub moving: u64,
    /// Consumer groups, which readers of older releases have made.
    pub groups: Vec<Group>,
}

/// A consumer group of the legacy stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Entries that were given to a reader and not acknowledged.
    pub pending: u64,
    /// Milliseconds since one of its readers asked for something; none if it has no reader.
    pub silent_ms: Option<u64>,
}

impl Left {
    /// Whether nothing is left: no entry, none given to a reader, none on its way.
    pub fn is_nothing(&self) -> bool {
        self.entries == 0 && self.moving == 0 && self.groups.iter().all(|group| group.pending == 0)
    }

    /// The group of a reader of an older release that is still at work, if there is one.
    pub fn other_reader(&self) -> Option<&Group> {
        let is_at_work = |ms: u64| u128::from(ms) < READER_SILENT.as_millis();
        self.groups.iter().find(|group| group.silent_ms.is_some_and(is_at_work))
    }
}

/// A group as the script tells of it.
type RawGroup = (String, u64, i64);

/// Looks what is left.
pub async fn look(redis: &Redis) -> Result<Left, RedisError> {
    let mut call = LOOK.key(RedisKey::legacy_stream());
    call.key(RedisKey::legacy_moving());
    let reply = call.invoke_async(&mut redis.clone()).await?;
    let (entries, first, added, moving, groups): (u64, String, u64, u64, Vec<RawGroup>) = reply;
    let group = |(name, pending, silent): RawGroup| Group { name, pending, silent_ms: silent.try_into().ok() };
    Ok(Left { entries, first: first.parse().ok(), added, moving, groups: groups.into_iter().map(group).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_only_when_nobody_holds_anything() {
        let group = |pending, silent_ms| Group { name: "ingest".to_owned(), pending, silent_ms };
        let nothing = Left { added: 7, groups: vec![group(0, None)], ..Left::default() };
        assert!(nothing.is_nothing() && nothing.other_reader().is_none());
        for left in [
            Left { entries: 1, ..nothing.clone() },
            Left { moving: 1, ..nothing.clone() },
            Left { groups: vec![group(0, None), group(1, None)], ..nothing.clone() },
        ] {
            assert!(!left.is_nothing(), "{left:?}");
        }
        let read = |silent_ms| Left { groups: vec![group(0, Some(silent_ms))], ..Left::default() };
        assert!(read(9_999).other_reader().is_some() && read(10_000).other_reader().is_none());
    }
}
