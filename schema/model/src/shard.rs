//! Which of the 16 shards an org's envelopes go to.
//!
//! The rule is part of the wire contract: BLAKE2b with an 8-byte digest over the 16 bytes of the org's UUID, read
//! big-endian, modulo 16. The API and every worker must agree on it, so tests compare it with vectors that were
//! computed with Python's `hashlib.blake2b(uuid.bytes, digest_size=8)`. An operator can assign an org to another shard.
//! The org is then moved in steps, so that acknowledged envelopes stay in order.

use std::fmt;

use blake2::digest::consts::U8;
use blake2::{Blake2b, Digest};
use serde::Serialize;

use crate::ids::OrgId;
use crate::words;

/// Number of shards. The hash of an org's id is taken modulo this, so a change would move orgs.
pub const SHARDS: u8 = 16;

words! {
    /// Why a shard makes no progress.
    Waiting, "reason to wait" {
        /// Redis does not answer.
        Redis = "redis",
        /// ClickHouse does not answer, or fails.
        ClickHouse = "clickhouse",
        /// A table refuses everything: an operator must repair it.
        Table = "table",
        /// There is no room for more dead letters: an operator must replay or drop some.
        DeadLetters = "dead_letters",
        /// Another release announced the batch under way, and a worker of that release must finish it.
        OtherRelease = "other_release",
    }
}

/// One of the 16 shards, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Shard(u8);

impl Shard {
    /// Shard 0, whose owner also drains the legacy stream.
    pub const FIRST: Self = Self(0);

    /// The shard with that number, 0 to 15; `None` for any other.
    pub const fn new(number: u8) -> Option<Self> {
        if number < SHARDS { Some(Self(number)) } else { None }
    }

    /// Every shard, in order.
    pub fn all() -> impl ExactSizeIterator<Item = Self> + Clone {
        (0..SHARDS).map(Self)
    }

    /// The shard of an org that no operator has assigned to another shard.
    pub fn home(org: OrgId) -> Self {
        let digest: [u8; 8] = Blake2b::<U8>::digest(org.0.as_bytes()).into();
        // The remainder of a division by 16 fits into a `u8`.
        Self((u64::from_be_bytes(digest) % u64::from(SHARDS)) as u8)
    }

    /// The shard's number, 0 to 15.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The shard's number, as an index into an array of [`SHARDS`] elements.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `int.from_bytes(hashlib.blake2b(uuid.UUID(s).bytes, digest_size=8).digest(), "big") % 16`
    const VECTORS: [(&str, u8); 24] = [
        ("11111111-1111-1111-1111-111111111111", 11),
        ("22222222-2222-2222-2222-222222222222", 4),
        ("33333333-3333-3333-3333-333333333333", 15),
        ("44444444-4444-4444-4444-444444444444", 2),
        ("55555555-5555-5555-5555-555555555555", 12),
        ("66666666-6666-6666-6666-666666666666", 13),
        ("77777777-7777-7777-7777-777777777777", 12),
        ("88888888-8888-8888-8888-888888888888", 11),
        ("99999999-9999-9999-9999-999999999999", 3),
        ("aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa", 5),
        ("bbbbbbbb-bbbb-bbbb-bbbb-bbbbbbbbbbbb", 9),
        ("cccccccc-cccc-cccc-cccc-cccccccccccc", 11),
        ("dddddddd-dddd-dddd-dddd-dddddddddddd", 0),
        ("eeeeeeee-eeee-eeee-eeee-eeeeeeeeeeee", 5),
        ("ffffffff-ffff-ffff-ffff-ffffffffffff", 7),
        ("00000000-0000-0000-0000-000000000000", 14),
        ("00000000-0000-0000-0000-000000000001", 2),
        ("00000000-0000-0000-0000-000000000002", 15),
        ("00000000-0000-0000-0000-000000000003", 6),
        ("0190a5c2-7b3e-7c4d-8e5f-0123456789ab", 15),
        ("f47ac10b-58cc-4372-a567-0e02b2c3d479", 3),
        ("6ba7b810-9dad-11d1-80b4-00c04fd430c8", 8),
        ("123e4567-e89b-12d3-a456-426614174000", 13),
        ("00000000-0000-0000-0000-000000000008", 9),
    ];

    #[test]
    fn home_shards_match_the_pinned_vectors() {
        for (org, shard) in VECTORS {
            assert_eq!(Shard::home(org.parse().unwrap()).number(), shard, "{org}");
        }
    }

    #[test]
    fn orgs_spread_evenly() {
        let mut counts = [0u32; SHARDS as usize];
        for _ in 0..16_000 {
            counts[Shard::home(OrgId(uuid::Uuid::new_v4())).index()] += 1;
        }
        // 1000 are expected per shard, with a standard deviation of 31: six of them in both directions.
        assert!(counts.iter().all(|n| (814..=1186).contains(n)), "{counts:?}");
    }

    #[test]
    fn there_are_16_shards() {
        assert_eq!(Shard::all().map(Shard::number).collect::<Vec<_>>(), (0..16).collect::<Vec<_>>());
        assert_eq!((Shard::new(15).map(Shard::index), Shard::new(16)), (Some(15), None));
    }
}
