//! The id of an entry in a stream, as Redis gives it.

use std::fmt;
use std::str::FromStr;

/// The id of an entry; ids of one stream are ordered as the entries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    ms: u64,
    seq: u64,
}

impl EntryId {
    /// Smaller than the id of every entry.
    pub const ZERO: Self = Self { ms: 0, seq: 0 };

    /// The entry number `seq` of the millisecond `ms` since the Unix epoch.
    pub const fn new(ms: u64, seq: u64) -> Self {
        Self { ms, seq }
    }

    /// Milliseconds since the Unix epoch, by the clock of Redis.
    pub const fn ms(self) -> u64 {
        self.ms
    }

    /// The number of the entry among those of the same millisecond, from 0.
    pub const fn seq(self) -> u64 {
        self.seq
    }

    /// The smallest id that is larger.
    pub const fn next(self) -> Self {
        match self.seq.checked_add(1) {
            Some(seq) => Self { ms: self.ms, seq },
            None => Self { ms: self.ms.saturating_add(1), seq: 0 },
        }
    }
}

impl FromStr for EntryId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (ms, seq) = text.split_once('-').unwrap_or((text, "0"));
        Ok(Self { ms: ms.parse()?, seq: seq.parse()? })
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}
