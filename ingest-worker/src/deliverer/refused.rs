//! Judges entries that ClickHouse refused: whether they or their table are to blame.

use std::time::Instant;

use delivery::intent::{Intent, Refused};
use delivery::judge::{Blame, RefusedAlone};
use wire::envelope::Envelope;

use super::{Deliverer, LeaseLost};

impl Deliverer {
    /// Judges entries that were refused alone; `since` is when the first of them was judged first.
    pub(super) async fn blame(
        &self,
        intent: &Intent,
        suspects: &[Refused],
        since: Instant,
    ) -> Result<Blame, LeaseLost> {
        let Some(first) = suspects.first() else { return Ok(Blame::Entries) };
        let shard = self.stream.shard();
        let mut alone = Vec::new();
        for suspect in suspects {
            let entry = intent.entries[suspect.entry as usize];
            let found = self.fetch(&[entry]).await?;
            let envelope = found.get(&entry).and_then(|bytes| Envelope::decode(&self.key, bytes).ok());
            let org = envelope.map(|envelope| envelope.header.org_id);
            alone.push(RefusedAlone { entry: (shard, entry), org, code: suspect.code });
        }
        let blame = self.judge.judge(first.target, &alone, since);
        if blame == Blame::Table {
            let table = first.target.known().map_or("", |table| table.name);
            tracing::error!(
                shard = shard.number(),
                table,
                code = first.code,
                "a table refuses everything; nothing is given up until it is mended"
            );
        }
        Ok(blame)
    }
}
