//! What a dead letter is, and how it is named.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use model::ids::OrgId;
use model::trace::UnixNanos;
use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;
use wire::envelope::{DecodeError, ENVELOPE_FIELD, EnvelopeKey, Verified, claimed_received_at};

use super::LEGACY_FIELD;
use model::entry_id::EntryId;
use model::shard::Shard;
use model::words;
use stores::keys::RedisKey;

/// Nanoseconds of an hour.
const HOUR_NS: i64 = 3_600_000_000_000;
/// Milliseconds of an hour.
const HOUR_MS: i64 = 3_600_000;

words! {
    /// Why an envelope is a dead letter.
    #[derive(Deserialize)]
    #[serde(rename_all = "snake_case")]
    Reason, "reason" {
        /// It is not an envelope that this release can read.
        Unreadable = "unreadable",
        /// It was not written by this deployment, or was changed since. Nothing that it says is believed.
        Unauthenticated = "unauthenticated",
        /// ClickHouse will never take its rows of a table.
        Refused = "refused",
        /// Worker after worker crashed as soon as it looked at it.
        CrashedWorker = "crashed_worker",
        /// Nobody knows its project, which alone says whose it is.
        UnknownProject = "unknown_project",
        /// It names an org or a workspace that its project is not in.
        WrongOrg = "wrong_org",
    }
}

/// What is known of a dead letter beside its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Its id in the stream that it comes from.
    pub entry: String,
    /// Whose it is; none if that is not known for certain.
    pub org: Option<OrgId>,
    /// Since when it is dead, in milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// Why.
    pub reason: Reason,
    /// ClickHouse's code; 0 when there is none.
    pub code: u32,
    /// More about it, at most [`super::DETAIL_CHARS_MAX`] characters.
    pub detail: String,
    /// The tables that lack its rows, by number; empty if all do.
    pub tables: Vec<u8>,
    /// Runs and spans in it, as they are billed.
    pub items: u64,
}

impl Description {
    /// Of a letter that has none which can be read.
    pub(super) fn missing(entry: EntryId) -> Self {
        Self {
            entry: String::new(),
            org: None,
            since_ms: i64::try_from(entry.ms()).unwrap_or(i64::MAX),
            reason: Reason::Unreadable,
            code: 0,
            detail: "it has no description that this release can read".to_owned(),
            tables: Vec::new(),
            items: 0,
        }
    }
}

/// Whose dead letters: a shard's, or the legacy stream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Of that shard.
    Shard(Shard),
    /// Of the stream of envelopes written before tenancy.
    Legacy,
}

impl Source {
    /// Every source, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        Shard::all().map(Self::Shard).chain([Self::Legacy])
    }

    /// The field of an entry that holds the envelope.
    pub const fn field(self) -> &'static str {
        match self {
            Self::Shard(_) => ENVELOPE_FIELD,
            Self::Legacy => LEGACY_FIELD,
        }
    }

    pub(super) fn letters(self) -> RedisKey {
        match self {
            Self::Shard(shard) => RedisKey::shard_dlq(shard),
            Self::Legacy => RedisKey::legacy_dlq(),
        }
    }

    pub(super) fn bytes(self) -> RedisKey {
        match self {
            Self::Shard(shard) => RedisKey::shard_dlq_bytes(shard),
            Self::Legacy => RedisKey::legacy_dlq_bytes(),
        }
    }

    pub(super) fn dropped(self, hour: i64) -> RedisKey {
        match self {
            Self::Shard(shard) => RedisKey::shard_dlq_dropped(shard, hour),
            Self::Legacy => RedisKey::legacy_dlq_dropped(hour),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shard(shard) => shard.fmt(f),
            Self::Legacy => f.write_str("legacy"),
        }
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The name of a dead letter: `<shard>/<id>`, or `legacy/<id>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterId {
    /// Whose dead letters it is among.
    pub source: Source,
    /// Where in their stream.
    pub entry: EntryId,
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.source, self.entry)
    }
}

impl Serialize for LetterId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text that names no dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("is no dead letter's id, such as 7/1795241935570-0 or legacy/1795241935570-0")]
pub struct BadLetterId;

impl FromStr for LetterId {
    type Err = BadLetterId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (source, entry) = text.split_once('/').ok_or(BadLetterId)?;
        let source = match source {
            "legacy" => Source::Legacy,
            number => Source::Shard(number.parse().ok().and_then(Shard::new).ok_or(BadLetterId)?),
        };
        // Without its second half it would be another id, perhaps of another letter.
        let whole = entry.contains('-').then(|| entry.parse().ok()).flatten();
        Ok(Self { source, entry: whole.ok_or(BadLetterId)? })
    }
}

/// A dead letter without its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Its name.
    pub id: LetterId,
    /// What is known of it.
    #[serde(flatten)]
    pub description: Description,
    /// How much of the room for dead letters it takes.
    pub bytes: u64,
    /// When the edge read its request, as it says itself; none if it cannot be read.
    pub received_at: Option<UnixNanos>,
}

impl Listed {
    /// `head` are the envelope's first bytes.
    pub(super) fn new(id: LetterId, description: &str, bytes: u64, head: &[u8]) -> Self {
        let description = serde_json::from_str(description).unwrap_or_else(|_| Description::missing(id.entry));
        Self { id, description, bytes, received_at: claimed_received_at(head) }
    }

    /// The hour since the Unix epoch that its items are counted in: when they were received, or as near as is known.
    pub fn hour(&self) -> i64 {
        self.received_at.map_or_else(|| self.description.since_ms.div_euclid(HOUR_MS), |at| at.div_euclid(HOUR_NS))
    }
}

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// All but its bytes.
    pub listed: Listed,
    /// The envelope as it came; JSON in the legacy stream.
    pub content: Vec<u8>,
}

impl Letter {
    /// What is to be sent again: the tables that lack its rows. Fails if no worker could read it.
    pub fn missing_rows(&self, key: &EnvelopeKey) -> Result<Cow<'_, [u8]>, Unreadable> {
        if self.listed.id.source == Source::Legacy {
            serde_json::from_slice::<serde::de::IgnoredAny>(&self.content)?;
            return Ok(Cow::Borrowed(&self.content));
        }
        let verified = Verified::check(key, &self.content).map_err(|unverified| unverified.error)?;
        verified.decode()?;
        match self.listed.description.tables.as_slice() {
            [] => Ok(Cow::Borrowed(&self.content)),
            tables => Ok(Cow::Owned(verified.keep_tables(key, tables)?)),
        }
    }
}

/// Why nothing could be done with a letter's bytes but keeping them.
#[derive(Debug, Error)]
pub enum Unreadable {
    /// Not an envelope of this release.
    #[error(transparent)]
    Envelope(#[from] DecodeError),
    /// Not JSON.
    #[error("not JSON: {0}")]
    Json(#[from] serde_json::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in ["0/1795241935570-0", "15/1-12", "legacy/1795241935570-3"] {
            assert_eq!(name.parse::<LetterId>().unwrap().to_string(), name);
        }
        for bad in ["", "7", "16/1-0", "7/", "7/1", "7/x-1", "old/1-0", "7/1-0/2", "/1-0"] {
            assert_eq!(bad.parse::<LetterId>(), Err(BadLetterId), "{bad}");
        }
        assert_eq!(Source::all().count(), 17);
    }

    #[test]
    fn descriptions_keep_their_form() {
        let text = r#"{"entry":"1-0","org":null,"since_ms":7,"reason":"refused","code":469,"detail":"d","tables":[2,3],"items":4}"#;
        let read: Description = serde_json::from_str(text).unwrap();
        assert_eq!((read.reason, read.code, &read.tables[..]), (Reason::Refused, 469, &[2, 3][..]));
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
    }

    #[test]
    fn a_letter_of_somebody_else_is_listed() {
        let id: LetterId = "legacy/7200001-0".parse().unwrap();
        let listed = Listed::new(id, "not ours", 10, b"{");
        assert_eq!((listed.description.reason, listed.description.items, listed.hour()), (Reason::Unreadable, 0, 2));
        let letter = Letter { listed, content: b"{\"a\":".to_vec() };
        let key = EnvelopeKey::new(&[1; wire::envelope::ENVELOPE_KEY_BYTES]);
        assert!(letter.missing_rows(&key).is_err());
    }
}
