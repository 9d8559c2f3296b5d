//! Entries that become dead letters: their descriptions, and the counts of them.

use std::collections::BTreeSet;

use delivery::intent::Intent;
use model::meter::Meter;
use outcomes::Outcome;
use queue::dlq::{Description, Reason, Source};

use super::{Deliverer, LeaseLost};
use crate::stream::Write;
use crate::{dead_letter, metrics};

impl Deliverer {
    /// Moves an entry that is in no batch, because it cannot be read, to the dead letters.
    pub(crate) async fn dead_letter(&self, letter: &Description) -> Result<(), LeaseLost> {
        let (shard, entry, reason) = (self.stream.shard(), &letter.entry, &letter.detail);
        tracing::error!(shard = shard.number(), entry, reason, "an entry is not readable; it goes to the dead letters");
        self.write("move an entry to the dead letters", Write::DeadLetter(letter)).await?;
        self.ledger.refused_unread(letter.org, Outcome::DeadLettered, letter.reason.as_str());
        self.dead_letters.note(Source::Shard(shard), letter);
        metrics::dead_lettered(shard, 1);
        Ok(())
    }

    /// Describes the refused entries of a batch, for its commit to move them to the dead letters.
    pub(super) async fn describe_refused(&self, intent: &Intent) -> Result<Vec<Description>, LeaseLost> {
        let mut letters = Vec::new();
        for refused in intent.refused() {
            let (mut org, mut items) = (None, 0);
            let entry = [refused.entry as usize];
            let read = self.each_entry(intent, &entry, |envelope| {
                org = Some(envelope.header.org_id);
                items = envelope.billed(Meter::SpanIngested);
            });
            let is_readable = read.await?.is_ok();
            let table = refused.target.known().map_or("", |table| table.name);
            let (reason, detail) = if is_readable {
                (Reason::Refused, format!("refused by table {table}"))
            } else {
                (Reason::Unreadable, format!("changed before it was inserted into table {table}"))
            };
            let id = intent.entries[refused.entry as usize];
            let mut letter = dead_letter::describe(id, org, reason, refused.code, &detail);
            let first = intent.targets.iter().position(|target| *target == refused.target).unwrap_or_default();
            let tables: BTreeSet<u8> = intent.targets[first..].iter().map(|target| target.table).collect();
            (letter.tables, letter.items) = (tables.into_iter().collect(), items);
            letters.push(letter);
        }
        Ok(letters)
    }

    /// Counts the refused entries of a batch, once its commit has moved them to the dead letters.
    pub(super) fn count_refused(&self, letters: &[Description]) {
        for letter in letters {
            if let Some(org) = letter.org {
                self.ledger.open(org, letter.items).end(Outcome::DeadLettered, letter.reason.as_str());
            }
            self.dead_letters.note(Source::Shard(self.stream.shard()), letter);
        }
        metrics::dead_lettered(self.stream.shard(), letters.len());
    }
}
