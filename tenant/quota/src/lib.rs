//! What happens to accepted data of orgs that are over a monthly limit.
//!
//! The API refuses requests that would exceed a monthly limit, so accepted data is within it, unless the counter was
//! lost, the limit was lowered or the plan changed. The reconciler ([`crate::reconcile`]) detects this and sets the
//! org's flag; the worker reads the flag and parks the org's envelopes until the quota is raised, or drops them, by the
//! org's policy. `docs/operations/quotas.md` describes all of it.
//!
//! | module | one idea |
//! | --- | --- |
//! | `flag` | which limits an org has reached, and its policy |
//! | `parked` | parking envelopes, and releasing them |
//! | [`reconcile`] | monthly usage, summed up from what is billed |
//! | [`eval`] | how many evaluations of an org run at the same time |
//! | `withheld` | counts of parked, dropped and repeated items, for the ledger and the audit trail |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod eval;
mod flag;
mod parked;
pub mod reconcile;
mod withheld;

pub use flag::{Flag, read};
pub use parked::{ENVELOPES_MAX, ParkedAmount, ParkedEnvelopes, ParkedId};
pub use withheld::{Withheld, WithheldNotes, forget_notes, note, note_repeated, notes};
