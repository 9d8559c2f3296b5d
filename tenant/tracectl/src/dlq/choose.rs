//! Which dead letters a command is about.

use clap::Args;
use model::ids::OrgId;
use model::shard::Shard;
use queue::dlq::{Desk, DlqError, LetterId, Listed, Reason, Source, Walk};
use registry::Registry;

use crate::failure::Failure;
use crate::shards::shard;

/// The most letters that one command does something to.
const PICKED_MAX: u64 = 1_000_000;

/// Some of all dead letters.
#[derive(Args, Debug)]
pub(crate) struct Filter {
    /// Of this shard.
    #[arg(long, value_name = "N", value_parser = shard)]
    shard: Option<Shard>,
    /// Of the stream that was written before there were orgs.
    #[arg(long, conflicts_with = "shard")]
    legacy: bool,
    /// Of this org: its slug or id.
    #[arg(long)]
    org: Option<String>,
    /// For this reason, such as refused.
    #[arg(long)]
    reason: Option<Reason>,
}

/// Letters by name, or some of all.
#[derive(Args, Debug)]
pub(crate) struct Chosen {
    /// The letters.
    #[arg(
        value_name = "ID",
        required_unless_present_any = ["all", "org"],
        conflicts_with_all = ["all", "org", "shard", "legacy", "reason", "limit"]
    )]
    ids: Vec<LetterId>,
    /// All of them, or all that the other arguments leave.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: Filter,
    /// At most so many, the oldest of each shard first.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=PICKED_MAX))]
    limit: Option<u64>,
}

/// The letters of a command, as they were when it began.
#[derive(Debug, Default)]
pub(crate) struct Picked {
    /// Their names, and whose they are.
    pub(crate) letters: Vec<(LetterId, Option<OrgId>)>,
    /// Runs and spans in them.
    pub(crate) items: u64,
    /// The room that they take.
    pub(crate) bytes: u64,
    /// Letters that were named and are none any more.
    pub(crate) gone: u64,
}

impl Picked {
    fn add(&mut self, letter: &Listed) {
        self.letters.push((letter.id, letter.description.org));
        self.items += letter.description.items;
        self.bytes += letter.bytes;
    }
}

/// Goes through the letters that a filter leaves.
pub(crate) struct Filtered {
    walk: Walk,
    org: Option<OrgId>,
    reason: Option<Reason>,
}

impl Filtered {
    /// The next of them; perhaps none, although more follow. `None` at the end.
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
        desk: &Desk,
        after: Option<LetterId>,
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
        let walk = Walk::new(desk.clone(), Source::all().filter(is_meant));
        let walk = after.into_iter().fold(walk, Walk::after);
        Ok(Filtered { walk, org, reason: self.reason })
    }

    /// The letters that it leaves now.
    pub(crate) async fn pick(&self, registry: &Registry, desk: &Desk, limit: Option<u64>) -> Result<Picked, Failure> {
        let limit = limit.unwrap_or(PICKED_MAX);
        let (mut walk, mut picked) = (self.walk(registry, desk, None).await?, Picked::default());
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

impl Chosen {
    pub(crate) async fn pick(&self, registry: &Registry, desk: &Desk) -> Result<Picked, Failure> {
        if self.ids.is_empty() {
            return self.filter.pick(registry, desk, self.limit).await;
        }
        let mut picked = Picked::default();
        for id in &self.ids {
            match desk.read(*id).await? {
                Some(letter) => picked.add(&letter.listed),
                None => picked.gone += 1,
            }
        }
        Ok(picked)
    }
}
