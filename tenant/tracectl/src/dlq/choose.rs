//! Selects the dead letters that a command is about.

use clap::Args;
use model::ids::OrgId;
use model::shard::Shard;
use queue::dlq::{DeadLetterId, DeadLetters, DlqError, Listed, Reason, Source, Walk};
use registry::Registry;

use crate::failure::Failure;
use crate::shards::shard;

/// The most dead letters that one command changes.
const SELECTED_MAX: u64 = 1_000_000;

/// Selects by shard, org and reason.
#[derive(Args, Debug)]
pub(crate) struct Filter {
    /// Only dead letters of this shard, 0 to 15.
    #[arg(long, value_name = "N", value_parser = shard)]
    shard: Option<Shard>,
    /// Only dead letters of the legacy stream.
    #[arg(long, conflicts_with = "shard")]
    legacy: bool,
    /// Only dead letters of this org: its slug or id.
    #[arg(long)]
    org: Option<String>,
    /// Only dead letters with this reason: unreadable, unauthenticated, refused, crashed_worker, unknown_project or
    /// wrong_org.
    #[arg(long)]
    reason: Option<Reason>,
}

/// Selects by name, or by a filter.
#[derive(Args, Debug)]
pub(crate) struct Selector {
    /// The names of dead letters, such as 7/1795241935570-0.
    #[arg(
        value_name = "ID",
        required_unless_present_any = ["all", "org"],
        conflicts_with_all = ["all", "org", "shard", "legacy", "reason", "limit"]
    )]
    ids: Vec<DeadLetterId>,
    /// All dead letters, or all that the other arguments select.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: Filter,
    /// The most dead letters to take, such as 100, the oldest of each shard first.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=SELECTED_MAX))]
    limit: Option<u64>,
}

/// The dead letters that a command selected when it began.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    /// The names of the dead letters, and their orgs if known.
    pub(crate) letters: Vec<(DeadLetterId, Option<OrgId>)>,
    /// The number of runs and spans in them.
    pub(crate) items: u64,
    /// The bytes that they take.
    pub(crate) bytes: u64,
    /// How many named letters no longer exist.
    pub(crate) gone: u64,
}

impl Selection {
    fn add(&mut self, letter: &Listed) {
        self.letters.push((letter.id, letter.description.org));
        self.items += letter.description.items;
        self.bytes += letter.bytes;
    }
}

/// Iterates over the dead letters that a filter selects.
pub(crate) struct Filtered {
    walk: Walk,
    org: Option<OrgId>,
    reason: Option<Reason>,
}

impl Filtered {
    /// The next selected ones; the list may be empty although more follow. `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Listed>>, DlqError> {
        let (org, reason) = (self.org, self.reason);
        let fits = |letter: &Listed| {
            org.is_none_or(|org| letter.description.org == Some(org))
                && reason.is_none_or(|reason| letter.description.reason == reason)
        };
        let page = self.walk.next().await?;
        Ok(page.map(|page| page.into_iter().filter(fits).collect()))
    }
}

impl Filter {
    pub(crate) async fn walk(
        &self,
        registry: &Registry,
        dead_letters: &DeadLetters,
        after: Option<DeadLetterId>,
    ) -> Result<Filtered, Failure> {
        let org = match &self.org {
            Some(org) => Some(registry.find_org(org).await?.org_id),
            None => None,
        };
        let is_meant = |source: &Source| match (self.shard, self.legacy) {
            (Some(shard), _) => *source == Source::Shard(shard),
            (None, true) => *source == Source::Legacy,
            (None, false) => true,
        };
        let walk = Walk::new(dead_letters.clone(), Source::all().filter(is_meant));
        let walk = after.into_iter().fold(walk, Walk::after);
        Ok(Filtered { walk, org, reason: self.reason })
    }

    /// Reads the names of the selected dead letters.
    pub(crate) async fn select(
        &self,
        registry: &Registry,
        dead_letters: &DeadLetters,
        limit: Option<u64>,
    ) -> Result<Selection, Failure> {
        let limit = limit.unwrap_or(SELECTED_MAX);
        let (mut walk, mut picked) = (self.walk(registry, dead_letters, None).await?, Selection::default());
        while let Some(page) = walk.next().await? {
            for letter in page {
                if picked.letters.len() as u64 >= limit {
                    return Ok(picked);
                }
                picked.add(&letter);
            }
        }
        Ok(picked)
    }
}

impl Selector {
    pub(crate) async fn select(&self, registry: &Registry, dead_letters: &DeadLetters) -> Result<Selection, Failure> {
        if self.ids.is_empty() {
            return self.filter.select(registry, dead_letters, self.limit).await;
        }
        let mut picked = Selection::default();
        for id in &self.ids {
            match dead_letters.read(*id).await? {
                Some(letter) => picked.add(&letter.listed),
                None => picked.gone += 1,
            }
        }
        Ok(picked)
    }
}
