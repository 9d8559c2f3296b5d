//! A batch that is about to be inserted, written to Redis before its first insert.
//!
//! After a crash, the next owner of the shard reads the intent and makes the same batch: the same entries in the same
//! order, without the same set-aside entries, cut into the same pieces, under the same tokens. So the intent holds
//! everything that depends on the moment: which entries there were to read, which orgs were over a quota, what
//! ClickHouse refused. It holds nothing that can be read again from the entries themselves.
//!
//! An intent has two parts. The *body* never changes. *Notes* are added while ClickHouse refuses rows. A note is a few
//! bytes and is written once, so that finding a thousand bad envelopes does not write the whole intent a thousand
//! times.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use model::entry_id::EntryId;
use thiserror::Error;
use wire::tables::{BILLING_METER, Table, content_hash_128};

/// The most entries that one batch may have.
pub const ENTRIES_MAX: usize = 8_192;
/// Version of the body's encoding. A body of another version is [`IntentError::Version`].
const VERSION: u8 = 2;
/// First byte of a note that cuts a piece; the next constant is that of a note that names a refused entry.
const CUT: u8 = 1;
const REFUSED: u8 = 2;

/// Which entries of one shard make a batch, and how their rows are inserted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Intent {
    /// Its entries, in the order in which their rows are inserted.
    pub entries: Vec<EntryId>,
    /// Whether the stream has no entries up to the last one of this batch except the batch's own. Then the commit can
    /// trim the stream there, which is much cheaper than deleting entry by entry.
    pub is_prefix: bool,
    /// The tables (with versions) that the entries have rows for, in the order of insertion.
    pub targets: Vec<Target>,
    /// Entries that are not stored or not billed, by their index in `entries`, and what becomes of each. In order.
    pub withheld: Vec<(u32, Verdict)>,
    /// What became known after the body was written.
    pub noted: Noted,
}

/// The notes of a batch, and the cuts and refused entries that follow from them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Noted {
    notes: Vec<Note>,
    /// For each target, the indexes of the entries before which its rows are cut into pieces.
    cuts: BTreeMap<Target, BTreeSet<u32>>,
    /// The refused entries, by their index in the batch.
    refused: BTreeMap<u32, Refused>,
}

/// A table at one version of its column list. Rows of two versions never share an insert: their blocks differ, and if
/// they shared one token, ClickHouse would drop the second as a repetition of the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The number that stands for the table in an envelope.
    pub table: u8,
    /// The version of its column list.
    pub version: u16,
}

impl Target {
    /// The table, or `None` if this release does not know the table or that version.
    pub fn known(self) -> Option<&'static Table> {
        Table::find(self.table, self.version)
    }
}

impl From<&Table> for Target {
    fn from(table: &Table) -> Self {
        Self { table: table.id, version: table.version }
    }
}

/// What becomes of an envelope that is not both stored and billed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Its org is over a monthly limit: the envelope is parked until an operator releases or drops it.
    Park,
    /// Its org is over a monthly limit: the envelope is counted and deleted, as the org's policy says.
    Drop,
    /// A client's retry of a request that is in this batch or in a recent one. Its rows are stored and collapse with
    /// the first ones, but it is not billed.
    Repeated,
}

impl Verdict {
    const ALL: [Self; 3] = [Self::Park, Self::Drop, Self::Repeated];
}

/// Some of a batch's entries, for one target. One insert.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Piece {
    /// The table and version whose rows the piece has.
    pub target: Target,
    /// The entries, as a range of indexes in the batch.
    pub entries: Range<u32>,
}

/// A fact that became known while the batch was inserted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Note {
    /// ClickHouse refused a piece as a whole. The piece is cut before each of these entries, and each part is inserted
    /// by itself.
    Cut {
        /// The table and version whose rows are cut.
        target: Target,
        /// Indexes of entries in the batch.
        before: Vec<u32>,
    },
    /// ClickHouse will never take the rows of an entry.
    Refused(Refused),
}

/// Rows that ClickHouse will never take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Refused {
    /// The entry that has the rows, by its index in the batch.
    pub entry: u32,
    /// The table and version that refused them.
    pub target: Target,
    /// ClickHouse's error code; 0 when ClickHouse named none.
    pub code: u32,
}

/// Why this release cannot carry out an intent that it read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IntentError {
    /// A release with another version of the encoding wrote it.
    #[error(
        "an intent of format {0}; this release knows {VERSION}. Let a worker of the release that wrote it finish it"
    )]
    Version(u8),
    /// No release writes such bytes.
    #[error("an intent that breaks off or makes no sense")]
    Broken,
}

impl Intent {
    /// The indexes of the entries whose rows belong into that piece. An entry that one table has refused is left out of
    /// all later tables; the earlier tables have its rows already.
    pub fn included(&self, piece: &Piece) -> impl Iterator<Item = usize> {
        let place = |target: Target| self.targets.iter().position(|known| *known == target);
        let place_of_piece = place(piece.target);
        // The rows of a repeated request are stored again, because a change back to an earlier value is a change. They
        // are not billed again.
        let is_bill = piece.target.table == BILLING_METER.id;
        let is_withheld = move |entry: &u32| {
            let found = self.withheld.binary_search_by_key(entry, |(at, _)| *at);
            found.is_ok_and(|at| is_bill || self.withheld[at].1 != Verdict::Repeated)
        };
        let is_left_out = move |entry: &u32| {
            is_withheld(entry)
                || self.noted.refused.get(entry).is_some_and(|refused| place(refused.target) <= place_of_piece)
        };
        piece.entries.clone().filter(move |entry| !is_left_out(entry)).map(|entry| entry as usize)
    }

    /// The pieces of that target, in order. Each is inserted by itself.
    pub fn pieces(&self, target: Target) -> Vec<Piece> {
        let cuts = self.noted.cuts.get(&target).into_iter().flatten().copied();
        let mut start = 0;
        let mut pieces = Vec::new();
        for end in cuts.chain([self.entries.len() as u32]) {
            pieces.push(Piece { target, entries: start..end });
            start = end;
        }
        pieces
    }

    /// The notes, in the order in which they were added.
    pub fn notes(&self) -> &[Note] {
        &self.noted.notes
    }

    /// The rows that ClickHouse refused for good, one element per entry.
    pub fn refused(&self) -> impl Iterator<Item = &Refused> {
        self.noted.refused.values()
    }

    /// Whether no target is cut, so that all rows of each target are inserted together as they were gathered.
    pub fn is_uncut(&self) -> bool {
        self.noted.notes.is_empty()
    }

    /// Adds a note. Fails if the note does not fit this batch.
    pub fn note(&mut self, note: Note) -> Result<(), IntentError> {
        let count = self.entries.len() as u32;
        match &note {
            Note::Cut { target, before } => {
                if before.iter().any(|at| *at == 0 || *at >= count) {
                    return Err(IntentError::Broken);
                }
                self.noted.cuts.entry(*target).or_default().extend(before);
            }
            Note::Refused(refused) => {
                if refused.entry >= count {
                    return Err(IntentError::Broken);
                }
                self.noted.refused.entry(refused.entry).or_insert(*refused);
            }
        }
        self.noted.notes.push(note);
        Ok(())
    }

    /// The token of a piece's insert. It is made of the version of the columns and of every entry whose rows are in the
    /// piece, and of nothing else. The same entries make the same rows, so ClickHouse recognises a repeated insert,
    /// whichever worker repeats it. Two different pieces must never have the same token, or ClickHouse would drop the
    /// rows of the second.
    pub fn token(&self, stream: &str, piece: &Piece) -> String {
        let ids: Vec<String> = self.included(piece).map(|at| self.entries[at].to_string()).collect();
        let text = |id: Option<&String>| id.cloned().unwrap_or_default();
        let all = u128::from_be_bytes(content_hash_128(ids.join(" ").as_bytes()));
        format!("{stream}/v{}/{}/{}/{all:032x}", piece.target.version, text(ids.first()), text(ids.last()))
    }

    /// The body as bytes for Redis. Numbers are LEB128. Each id is written as the difference to the id before it,
    /// because the ids of a batch are close together.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, u8::from(self.is_prefix)];
        put(&mut out, self.entries.len() as u64);
        let mut before = 0_i64;
        for entry in &self.entries {
            let ms = entry.ms() as i64;
            let step = ms.wrapping_sub(before);
            put(&mut out, ((step << 1) ^ (step >> 63)) as u64);
            put(&mut out, entry.seq());
            before = ms;
        }
        put(&mut out, self.targets.len() as u64);
        for target in &self.targets {
            put_target(&mut out, *target);
        }
        put(&mut out, self.withheld.len() as u64);
        for (entry, verdict) in &self.withheld {
            put(&mut out, u64::from(*entry) << 2 | *verdict as u64);
        }
        out
    }

    /// Reads what [`Intent::encode`] and [`Note::encode`] wrote.
    pub fn decode<N: AsRef<[u8]>>(body: &[u8], notes: impl IntoIterator<Item = N>) -> Result<Self, IntentError> {
        let [version, is_prefix, rest @ ..] = body else { return Err(IntentError::Broken) };
        if *version != VERSION {
            return Err(IntentError::Version(*version));
        }
        let mut reader = Reader(rest);
        let mut before = 0_i64;
        let entries = reader.list(|r| {
            let (step, seq) = (r.number()?, r.number()?);
            before = before.wrapping_add((step >> 1) as i64 ^ -((step & 1) as i64));
            Ok(EntryId::new(before as u64, seq))
        })?;
        let targets = reader.list(Reader::target)?;
        let withheld = reader.list(|r| {
            let n = r.number()?;
            let entry = u32::try_from(n >> 2).map_err(|_| IntentError::Broken)?;
            let verdict = Verdict::ALL.into_iter().find(|verdict| *verdict as u64 == n & 3);
            Ok((entry, verdict.ok_or(IntentError::Broken)?))
        })?;
        let mut intent = Self { entries, is_prefix: *is_prefix == 1, targets, withheld, ..Self::default() };
        let count = intent.entries.len() as u32;
        let is_sound = reader.0.is_empty()
            && intent.withheld.iter().all(|(at, _)| *at < count)
            && intent.withheld.is_sorted_by_key(|(at, _)| *at);
        if !is_sound {
            return Err(IntentError::Broken);
        }
        for note in notes {
            intent.note(Note::decode(note.as_ref())?)?;
        }
        Ok(intent)
    }
}

impl Note {
    /// The note as bytes for Redis.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Cut { target, before } => {
                out.push(CUT);
                put_target(&mut out, *target);
                put(&mut out, before.len() as u64);
                before.iter().for_each(|at| put(&mut out, u64::from(*at)));
            }
            Self::Refused(Refused { entry, target, code }) => {
                out.push(REFUSED);
                put(&mut out, u64::from(*entry));
                put_target(&mut out, *target);
                put(&mut out, u64::from(*code));
            }
        }
        out
    }

    /// Reads what [`Note::encode`] wrote.
    fn decode(bytes: &[u8]) -> Result<Self, IntentError> {
        let mut reader = Reader(bytes);
        let note = match reader.byte()? {
            CUT => Self::Cut { target: reader.target()?, before: reader.list(Reader::small)? },
            REFUSED => {
                let (entry, target) = (reader.small()?, reader.target()?);
                Self::Refused(Refused { entry, target, code: reader.small()? })
            }
            _ => return Err(IntentError::Broken),
        };
        if reader.0.is_empty() { Ok(note) } else { Err(IntentError::Broken) }
    }
}

fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn put_target(out: &mut Vec<u8>, target: Target) {
    out.push(target.table);
    put(out, u64::from(target.version));
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, IntentError> {
        let (byte, rest) = self.0.split_first().ok_or(IntentError::Broken)?;
        self.0 = rest;
        Ok(*byte)
    }

    fn number(&mut self) -> Result<u64, IntentError> {
        let mut n = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                break;
            }
            n |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(n);
            }
        }
        Err(IntentError::Broken)
    }

    fn small<T: TryFrom<u64>>(&mut self) -> Result<T, IntentError> {
        T::try_from(self.number()?).map_err(|_| IntentError::Broken)
    }

    fn target(&mut self) -> Result<Target, IntentError> {
        Ok(Target { table: self.byte()?, version: self.small()? })
    }

    fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Result<T, IntentError>) -> Result<Vec<T>, IntentError> {
        let count = self.number()?;
        // Each element takes at least one byte.
        if count > self.0.len() as u64 {
            return Err(IntentError::Broken);
        }
        (0..count).map(|_| read(self)).collect()
    }
}

#[cfg(test)]
mod tests;
