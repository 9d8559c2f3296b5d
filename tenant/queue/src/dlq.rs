//! Dead letters: envelopes that could not be stored, with their original bytes and the reason.
//!
//! Each shard has a stream of dead letters beside its own, in the same slot of a cluster. A script moves an entry
//! there, so it is in exactly one of the two; another script replays it, back into the shard that it comes from, even
//! if its org has moved: the owner of a shard stores everything in its stream. The bytes of a shard's dead letters are
//! counted, and a shard whose dead letters are full stops until there is room: nothing is dropped to make room.
//!
//! The dead letters of the legacy stream are in another slot than that stream. They are replayed in the three steps of
//! [`crate::arrival`].
//!
//! | module | one idea |
//! | --- | --- |
//! | `letter` | dead letters and their names |
//! | `dead_letters` | reading, replaying and dropping dead letters |

mod dead_letters;
mod letter;

pub use dead_letters::{DeadLetters, DlqError, PAGE_LETTERS, Replayed, Walk};
pub use letter::{BadDeadLetterId, DeadLetter, DeadLetterId, Description, Listed, Reason, Source};

/// The field of a dead letter that describes it, as JSON ([`Description`]). The fields of the original entry follow
/// unchanged.
pub const DESCRIPTION_FIELD: &str = "m";
/// The field of a legacy stream's entry that holds its JSON.
pub const LEGACY_FIELD: &str = "data";
/// The start of every script that moves entries to the dead letters. Such a script may run on a full Redis.
pub const DEAD_LETTER_LUA: &str = include_str!("dlq/dead_letter.lua");
/// The most characters of a reason's details.
pub const DETAIL_CHARS_MAX: usize = 500;
