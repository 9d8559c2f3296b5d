//! Dead letters and their names.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use model::entry_id::EntryId;
use model::ids::OrgId;
use model::shard::Shard;
use model::trace::UnixNanos;
use model::words;
use serde::{Deserialize, Serialize, Serializer};
use stores::keys::RedisKey;
use thiserror::Error;
use wire::envelope::{DecodeError, ENVELOPE_FIELD, EnvelopeKey, Verified, claimed_received_at};

use super::LEGACY_FIELD;

/// One hour in nanoseconds.
const HOUR_NS: i64 = 3_600_000_000_000;
/// One hour in milliseconds.
const HOUR_MS: i64 = 3_600_000;

words! {
    /// Why an envelope became a dead letter.
    #[derive(Deserialize)]
    #[serde(rename_all = "snake_case")]
    Reason, "reason" {
        /// This release cannot read it as an envelope.
        Unreadable = "unreadable",
        /// This deployment did not write it, or it was changed since. None of its content is trusted.
        Unauthenticated = "unauthenticated",
        /// ClickHouse will never accept its rows for some table.
        Refused = "refused",
        /// One worker after another crashed while processing it.
        CrashedWorker = "crashed_worker",
        /// Its project is unknown, so its org is unknown as well.
        UnknownProject = "unknown_project",
        /// It names an org or a workspace that its project does not belong to.
        WrongOrg = "wrong_org",
    }
}

/// The description of a dead letter, stored beside its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The entry's id in the stream that it comes from.
    pub entry: String,
    /// The org that sent it; `None` if that is not certain.
    pub org: Option<OrgId>,
    /// When it became a dead letter, in milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// Why the entry became a dead letter.
    pub reason: Reason,
    /// ClickHouse's error code; 0 if ClickHouse was not the cause.
    pub code: u32,
    /// Details of the reason, at most [`super::DETAIL_CHARS_MAX`] characters.
    pub detail: String,
    /// The numbers of the tables that lack its rows; empty if all do.
    pub tables: Vec<u8>,
    /// Runs and spans in it, as they are billed.
    pub items: u64,
}

impl Description {
    /// For a dead letter without a readable description.
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

/// Which dead letters: those of a shard, or of the legacy stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The dead letters of a shard.
    Shard(Shard),
    /// The dead letters of the legacy stream.
    Legacy,
}

impl Source {
    /// All sources, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        Shard::all().map(Self::Shard).chain([Self::Legacy])
    }

    /// The field of a stream's entry that holds the envelope.
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
pub struct DeadLetterId {
    /// The source that the dead letter belongs to.
    pub source: Source,
    /// Its id in the source's stream of dead letters.
    pub entry: EntryId,
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.source, self.entry)
    }
}

impl Serialize for DeadLetterId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The text is not a name of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("is no dead letter's id, such as 7/1795241935570-0 or legacy/1795241935570-0")]
pub struct BadDeadLetterId;

impl FromStr for DeadLetterId {
    type Err = BadDeadLetterId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (source, entry) = text.split_once('/').ok_or(BadDeadLetterId)?;
        let source = match source {
            "legacy" => Source::Legacy,
            number => Source::Shard(number.parse().ok().and_then(Shard::new).ok_or(BadDeadLetterId)?),
        };
        // Without its second half it would be another id, perhaps of another letter.
        let whole = entry.contains('-').then(|| entry.parse().ok()).flatten();
        Ok(Self { source, entry: whole.ok_or(BadDeadLetterId)? })
    }
}

/// A dead letter without its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// The name of the dead letter.
    pub id: DeadLetterId,
    /// The reason, the org and the items of the dead letter.
    #[serde(flatten)]
    pub description: Description,
    /// How many bytes it takes of the shard's limit for dead letters.
    pub bytes: u64,
    /// When the API read its request, by the envelope itself; `None` if it is unreadable.
    pub received_at: Option<UnixNanos>,
}

impl Listed {
    /// `head` is the start of the envelope.
    pub(super) fn new(id: DeadLetterId, description: &str, bytes: u64, head: &[u8]) -> Self {
        let description = serde_json::from_str(description).unwrap_or_else(|_| Description::missing(id.entry));
        Self { id, description, bytes, received_at: claimed_received_at(head) }
    }

    /// The hour, since the Unix epoch, that its items count in: when they were received, or the nearest known time.
    pub fn hour(&self) -> i64 {
        self.received_at.map_or_else(|| self.description.since_ms.div_euclid(HOUR_MS), |at| at.div_euclid(HOUR_NS))
    }
}

/// A dead letter with its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Everything except the bytes.
    pub listed: Listed,
    /// The original envelope; JSON if from the legacy stream.
    pub content: Vec<u8>,
}

impl DeadLetter {
    /// The envelope to replay, limited to the tables that lack its rows. Fails if no worker could read it.
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

/// Why the bytes of a dead letter cannot be processed, only kept.
#[derive(Debug, Error)]
pub enum Unreadable {
    /// This release cannot decode the envelope.
    #[error(transparent)]
    Envelope(#[from] DecodeError),
    /// The content is not JSON.
    #[error("not JSON: {0}")]
    Json(#[from] serde_json::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_letter_ids_read_back() {
        for name in ["0/1795241935570-0", "15/1-12", "legacy/1795241935570-3"] {
            assert_eq!(name.parse::<DeadLetterId>().unwrap().to_string(), name);
        }
        for bad in ["", "7", "16/1-0", "7/", "7/1", "7/x-1", "old/1-0", "7/1-0/2", "/1-0"] {
            assert_eq!(bad.parse::<DeadLetterId>(), Err(BadDeadLetterId), "{bad}");
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
    fn a_dead_letter_with_an_unknown_description_is_listed() {
        let id: DeadLetterId = "legacy/7200001-0".parse().unwrap();
        let listed = Listed::new(id, "not ours", 10, b"{");
        assert_eq!((listed.description.reason, listed.description.items, listed.hour()), (Reason::Unreadable, 0, 2));
        let letter = DeadLetter { listed, content: b"{\"a\":".to_vec() };
        let key = EnvelopeKey::new(&[1; wire::envelope::ENVELOPE_KEY_BYTES]);
        assert!(letter.missing_rows(&key).is_err());
    }
}
