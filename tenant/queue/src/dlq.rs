//! Dead letters: envelopes that could not be stored, with their original bytes and the reason.
//!
//! They are a stream per shard beside the shard's own, in the same slot of a cluster. An entry is moved there by a
//! script, so it is in one of the two, never in both and never in none; and it is sent again by a script, back into the
//! shard that it comes from, wherever its org is now: whoever owns that shard stores whatever is in its stream. The
//! bytes of all dead letters of a shard are counted, and a shard whose dead letters are full stands still until there
//! is room: nothing is lost to make room.
//!
//! The dead letters of the legacy stream are in another slot than that stream. They are sent again in the three steps
//! of [`crate::arrival`].
//!
//! | module | one idea |
//! | --- | --- |
//! | `letter` | what a dead letter is, and how it is named |
//! | `desk` | reading dead letters, sending them again, throwing them away |

mod desk;
mod letter;

pub use desk::{Desk, DlqError, PAGE_LETTERS, Replayed, Walk};
pub use letter::{BadLetterId, Description, Letter, LetterId, Listed, Reason, Source};

/// The field of a dead letter that describes it, as JSON ([`Description`]). The fields of the entry follow as they
/// were.
pub const DESCRIPTION_FIELD: &str = "m";
/// The field of a legacy stream's entry that holds its JSON.
pub const LEGACY_FIELD: &str = "data";
/// The start of every script that moves entries to the dead letters. Such a script may run on a full Redis.
pub const DEAD_LETTER_LUA: &str = include_str!("dlq/dead_letter.lua");
/// Characters of a reason's details.
pub const DETAIL_CHARS_MAX: usize = 500;
