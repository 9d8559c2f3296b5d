//! Accepted data of orgs that turn out to be over a monthly limit.
//!
//! The edge refuses what would go over a limit, so what it accepted is within it, unless the counter was lost, the
//! limit was lowered or the plan changed. The reconciler notices ([`crate::reconcile`]) and says so in the org's flag;
//! the worker reads the flag and sets the org's envelopes aside: parks them until the quota is raised, or drops them,
//! as the org's policy says. `docs/quotas.md` tells the whole story.
//!
//! | module | one idea |
//! | --- | --- |
//! | `flag` | what the flag of an org says |
//! | `parked` | keeping envelopes, and releasing them |
//! | [`reconcile`] | monthly usage, summed up from what is billed |
//! | [`eval`] | how many evaluations of an org run at the same time |
//! | `aside` | how much was set aside, for the ledger and the audit trail |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod aside;
pub mod eval;
mod flag;
mod parked;
pub mod reconcile;

pub use aside::{Aside, Kept, forget_notes, note, note_repeated, notes};
pub use flag::{Flag, read};
pub use parked::{ENVELOPES_MAX, Held, Parked, ParkedId};
