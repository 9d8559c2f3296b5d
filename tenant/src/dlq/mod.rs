//! Dead letters: envelopes that could not be stored, with their original bytes and the reason.
//!
//! They are a stream per shard beside the shard's own, in the same slot of a cluster. An entry is moved there by a script, so it is
//! in one of the two, never in both and never in none. The bytes of all dead letters of a shard are counted, and a shard whose dead
//! letters are full stands still until there is room: nothing is lost to make room.

use schema::ids::OrgId;
use serde::{Deserialize, Serialize};

/// The field of a dead letter that describes it, as JSON ([`Description`]). The fields of the entry follow as they were.
pub const DESCRIPTION_FIELD: &str = "m";
/// The start of every script that moves entries to the dead letters. Such a script may run on a full Redis.
pub const DEAD_LETTER_LUA: &str = include_str!("dead_letter.lua");
/// Characters of a reason's details.
pub const DETAIL_CHARS_MAX: usize = 500;

/// Why an envelope is a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It is not an envelope that this release can read.
    Unreadable,
    /// ClickHouse will never take its rows of a table.
    Refused,
}

/// What is known of a dead letter beside its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Its id in the stream that it comes from.
    pub entry: String,
    /// Whose it is; none if it cannot be read.
    pub org: Option<OrgId>,
    /// Since when it is dead, in milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// Why.
    pub reason: Reason,
    /// ClickHouse's code; 0 when there is none.
    pub code: u32,
    /// More about it, at most [`DETAIL_CHARS_MAX`] characters.
    pub detail: String,
    /// The tables that lack its rows, by number; empty if all do.
    pub tables: Vec<u8>,
    /// Runs and spans in it, as they are billed.
    pub items: u64,
}
