//! What is about to be inserted, written down in Redis before the first insert.
//!
//! Whoever comes after a crash makes the same batch of it: the same entries in the same order, without the same ones, cut into
//! the same pieces, under the same tokens. So everything that depends on the moment (how much was there to be read, who was
//! over a quota, what ClickHouse refused) is in here, and nothing that can be had again from the entries themselves.

use std::ops::Range;

use schema::tables::content_hash_128;
use tenant::shard::fence::EntryId;
use thiserror::Error;

/// Entries of one batch.
pub const ENTRIES_MAX: usize = 8_192;
/// The format below.
const VERSION: u8 = 1;

/// A batch of one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Intent {
    /// Its entries, in the order in which their rows are inserted.
    pub entries: Vec<EntryId>,
    /// Whether the stream holds no other entry up to the last of these: then it can be cut off there, which is much cheaper
    /// than deleting entry by entry.
    pub is_prefix: bool,
    /// The tables that they have rows for, in the order of insertion.
    pub tables: Vec<u8>,
    /// Entries that are not stored because their org is over its quota, and what becomes of them instead. In order.
    pub set_aside: Vec<(u32, Verdict)>,
    /// Pieces of a table's rows that ClickHouse refused as a whole, so that each half is inserted by itself. In the order in
    /// which they were cut.
    pub cuts: Vec<Piece>,
    /// Entries of which ClickHouse refused the rows of a table. They end in the dead letters.
    pub refused: Vec<Refused>,
}

/// What becomes of an envelope of an org that is over its quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Kept until the quota is raised.
    Park,
    /// Counted and deleted, as the org's policy says.
    Drop,
}

/// Some of a batch's entries, for one table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Piece {
    /// The table's number.
    pub table: u8,
    /// Which entries, by their place in the batch.
    pub entries: Range<u32>,
}

/// Rows that ClickHouse will never take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Refused {
    /// Whose, by its place in the batch.
    pub entry: u32,
    /// Of which table.
    pub table: u8,
    /// ClickHouse's code; 0 when it named none.
    pub code: u32,
}

/// Why bytes are not an intent that this release can carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IntentError {
    /// Of a later release.
    #[error(
        "an intent of format {0}; this release knows {VERSION}. Let a worker of the release that wrote it finish it"
    )]
    Version(u8),
    /// Not written by any.
    #[error("an intent that breaks off or makes no sense")]
    Broken,
}

impl Intent {
    /// The entries whose rows of that table belong into that piece, by their place. An entry that was refused by a table is
    /// in none of the later ones; the earlier ones have it already.
    pub fn included(&self, piece: &Piece) -> impl Iterator<Item = usize> {
        let place = |table: u8| self.tables.iter().position(|known| *known == table);
        let place_of_piece = place(piece.table);
        let left_out = move |entry: &u32| {
            self.set_aside.binary_search_by_key(entry, |(at, _)| *at).is_ok()
                || self.refused.iter().any(|r| r.entry == *entry && place(r.table) <= place_of_piece)
        };
        piece.entries.clone().filter(move |entry| !left_out(entry)).map(|entry| entry as usize)
    }

    /// What is inserted into that table, each piece by itself.
    pub fn pieces(&self, table: u8) -> Vec<Piece> {
        let mut pieces = vec![Piece { table, entries: 0..self.entries.len() as u32 }];
        for cut in self.cuts.iter().filter(|cut| cut.table == table) {
            if let Some(at) = pieces.iter().position(|piece| piece == cut) {
                let Range { start, end } = cut.entries;
                let middle = start + (end - start) / 2;
                let half = |entries| Piece { table, entries };
                pieces.splice(at..=at, [half(start..middle), half(middle..end)]);
            }
        }
        pieces
    }

    /// How much it says about what ClickHouse refuses. It only grows, so what says more is newer.
    pub fn notes(&self) -> usize {
        self.cuts.len() + self.refused.len()
    }

    /// What tells the insert of a piece from all others: the entries whose rows are in it, each of them, and nothing else. The
    /// same entries make the same rows, so a repeated insert is recognised, whoever repeats it; others must never, or
    /// ClickHouse would drop their rows.
    pub fn token(&self, stream: &str, piece: &Piece) -> String {
        let ids: Vec<String> = self.included(piece).map(|at| self.entries[at].to_string()).collect();
        let text = |id: Option<&String>| id.cloned().unwrap_or_default();
        let all = u128::from_be_bytes(content_hash_128(ids.join(" ").as_bytes()));
        format!("{stream}/{}/{}/{all:032x}", text(ids.first()), text(ids.last()))
    }

    /// Its bytes in Redis. Numbers are LEB128; ids are written as the difference to the one before, because they are close.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, u8::from(self.is_prefix)];
        let put = |out: &mut Vec<u8>, mut n: u64| {
            while n >= 0x80 {
                out.push(n as u8 | 0x80);
                n >>= 7;
            }
            out.push(n as u8);
        };
        put(&mut out, self.entries.len() as u64);
        let mut before = 0_i64;
        for entry in &self.entries {
            let ms = entry.ms() as i64;
            let step = ms.wrapping_sub(before);
            put(&mut out, ((step << 1) ^ (step >> 63)) as u64);
            put(&mut out, entry.seq());
            before = ms;
        }
        put(&mut out, self.tables.len() as u64);
        out.extend_from_slice(&self.tables);
        put(&mut out, self.set_aside.len() as u64);
        for (entry, verdict) in &self.set_aside {
            put(&mut out, u64::from(*entry) << 1 | u64::from(*verdict == Verdict::Drop));
        }
        put(&mut out, self.cuts.len() as u64);
        for Piece { table, entries } in &self.cuts {
            for n in [u32::from(*table), entries.start, entries.end] {
                put(&mut out, n.into());
            }
        }
        put(&mut out, self.refused.len() as u64);
        for Refused { entry, table, code } in &self.refused {
            for n in [*entry, u32::from(*table), *code] {
                put(&mut out, n.into());
            }
        }
        out
    }

    /// Reads what [`Intent::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, IntentError> {
        let [version, is_prefix, rest @ ..] = bytes else { return Err(IntentError::Broken) };
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
        let tables = reader.list(Reader::byte)?;
        let set_aside = reader.list(|r| {
            let n = r.number()?;
            let entry = u32::try_from(n >> 1).map_err(|_| IntentError::Broken)?;
            Ok((entry, if n & 1 == 1 { Verdict::Drop } else { Verdict::Park }))
        })?;
        let cuts = reader.list(|r| Ok(Piece { table: r.small()?, entries: r.small()?..r.small()? }))?;
        let refused = reader.list(|r| Ok(Refused { entry: r.small()?, table: r.small()?, code: r.small()? }))?;
        let intent = Self { entries, is_prefix: *is_prefix == 1, tables, set_aside, cuts, refused };
        if reader.0.is_empty() && intent.makes_sense() { Ok(intent) } else { Err(IntentError::Broken) }
    }

    /// Whether every place it names is one of its entries'.
    fn makes_sense(&self) -> bool {
        let count = self.entries.len() as u32;
        let cuts = self.cuts.iter().all(|Piece { entries, .. }| entries.start < entries.end && entries.end <= count);
        cuts && self.set_aside.iter().all(|(at, _)| *at < count)
            && self.set_aside.is_sorted_by_key(|(at, _)| *at)
            && self.refused.iter().all(|refused| refused.entry < count)
    }
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

    fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Result<T, IntentError>) -> Result<Vec<T>, IntentError> {
        let count = self.number()?;
        // Each element takes a byte at least.
        if count > self.0.len() as u64 {
            return Err(IntentError::Broken);
        }
        (0..count).map(|_| read(self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn intents() -> impl Strategy<Value = Intent> {
        let entries = vec((0..u64::MAX >> 1, any::<u64>()).prop_map(|(ms, seq)| EntryId::new(ms, seq)), 1..40);
        (entries, any::<bool>(), vec(any::<(u32, bool)>(), 0..4), vec(any::<(u8, u32, u32)>(), 0..6)).prop_map(
            |(entries, is_prefix, aside, some)| {
                let count = entries.len() as u32;
                let verdict = |drop| if drop { Verdict::Drop } else { Verdict::Park };
                let mut set_aside: Vec<_> = aside.into_iter().map(|(at, drop)| (at % count, verdict(drop))).collect();
                set_aside.sort_by_key(|(at, _)| *at);
                set_aside.dedup_by_key(|(at, _)| *at);
                let cut = |&(table, a, b): &(u8, u32, u32)| {
                    let start = a % count;
                    Piece { table, entries: start..start + 1 + b % (count - start) }
                };
                let cuts = some.iter().map(cut).collect();
                let refused = some.iter().map(|&(table, a, code)| Refused { entry: a % count, table, code }).collect();
                let tables = vec![1, 2, 3];
                Intent { entries, is_prefix, tables, set_aside, cuts, refused }
            },
        )
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(intent in intents()) {
            prop_assert_eq!(Intent::decode(&intent.encode()), Ok(intent));
        }

        #[test]
        fn cut_or_changed_bytes_are_an_error_or_another_intent(intent in intents(), at in any::<usize>(), bit in 0..8_u32) {
            let mut bytes = intent.encode();
            for end in 0..bytes.len() {
                prop_assert!(Intent::decode(&bytes[..end]).is_err());
            }
            let at = at % bytes.len();
            bytes[at] ^= 1_u8 << bit;
            if let Ok(other) = Intent::decode(&bytes) {
                prop_assert!(at == 1 || other != intent);
            }
        }

        #[test]
        fn every_entry_is_in_one_piece(intent in intents(), table in any::<u8>()) {
            let pieces = intent.pieces(table);
            let all: Vec<u32> = pieces.iter().flat_map(|piece| piece.entries.clone()).collect();
            prop_assert_eq!(all, (0..intent.entries.len() as u32).collect::<Vec<_>>());
        }
    }

    fn three() -> Intent {
        let entries = (1..4).map(|ms| EntryId::new(ms, 0)).collect();
        Intent { entries, tables: vec![1, 2, 3], ..Intent::default() }
    }

    #[test]
    fn the_token_names_the_entries_whose_rows_are_in_it() {
        let whole = Piece { table: 2, entries: 0..3 };
        let token = three().token("s", &whole);
        assert!(token.starts_with("s/1-0/3-0/"), "{token}");
        let mut without = three();
        without.set_aside.push((1, Verdict::Park));
        assert_ne!(without.token("s", &whole), token, "the same ends, other rows");
        let mut refused = three();
        refused.refused.push(Refused { entry: 1, table: 1, code: 117 });
        assert_eq!(refused.token("s", &whole), without.token("s", &whole), "the same rows for another reason");
        refused.refused[0].table = 3;
        assert_eq!(refused.token("s", &whole), token, "its rows of an earlier table are there already");
        assert_ne!(three().token("s", &Piece { table: 2, entries: 0..2 }), token);
    }

    #[test]
    fn a_cut_halves_a_piece() {
        let mut intent = three();
        let piece = |entries| Piece { table: 2, entries };
        intent.cuts = vec![piece(0..3), piece(1..3)];
        assert_eq!(intent.pieces(2), [piece(0..1), piece(1..2), piece(2..3)]);
        assert_eq!(intent.pieces(1).len(), 1, "of that table only");
    }

    #[test]
    fn a_later_format_is_named() {
        assert_eq!(Intent::decode(&[2, 0]), Err(IntentError::Version(2)));
        assert_eq!(Intent::decode(&[]), Err(IntentError::Broken));
    }
}
