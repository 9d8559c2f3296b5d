//! `tracectl shards`: which shard an org is in, and moving it to another.

use std::time::{Duration, Instant};

use clap::Subcommand;
use model::meter::Meter;
use model::org::OrgStatus;
use model::shard::{SHARDS, Shard};
use queue::appender::ShardAppender;
use quota::reconcile::counter;
use registry::{Assigned, LIST_MAX, OrgSummary, Registry, ShardPlace};
use serde_json::json;
use stores::redis::Redis;
use time::OffsetDateTime;
use tokio::task::JoinSet;
use transfer::moving::{MoveError, Mover, Progress};
use transfer::plan::{Load, PerShard, Plan, skew};

use crate::environment::REDIS;
use crate::failure::Failure;
use crate::output::{Answer, NONE, moment, or_none};
use crate::printable::printable;
use crate::when;

/// How many counters are read at once.
const QUESTIONS_MAX: usize = 64;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the orgs that were assigned to a shard, and those that are moving.
    #[command(after_help = "Examples:\n  tracectl shards list\n  \
        tracectl shards list --output json | jq '.orgs[] | select(.moving_to != null)'")]
    List {
        /// Continue after this slug.
        #[arg(long, value_name = "SLUG")]
        after: Option<String>,
    },
    /// Move an org to a shard, and keep it there.
    ///
    /// Its requests are answered with 503 until everything it sent before is stored, usually for a second or two.
    #[command(after_help = "Examples:\n  tracectl shards assign acme 7\n  tracectl shards assign acme 7 --wait 5m")]
    Assign {
        /// The org: its slug or id.
        org: String,
        /// The number of the destination shard, 0 to 15.
        #[arg(value_parser = shard)]
        shard: Shard,
        #[command(flatten)]
        wait: Wait,
    },
    /// Move an org back to the shard of its hash.
    #[command(after_help = "Examples:\n  tracectl shards unassign acme")]
    Unassign {
        /// The org: its slug or id.
        org: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Continue a move that was interrupted.
    #[command(after_help = "Examples:\n  tracectl shards resume acme")]
    Resume {
        /// The org: its slug or id.
        org: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Revert a move that is not complete.
    #[command(after_help = "Examples:\n  tracectl shards abort acme")]
    Abort {
        /// The org: its slug or id.
        org: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Show how uneven the shards are, and which moves would help. Changes nothing.
    ///
    /// An org's weight is the bytes that it sent in this month and the one before, by the counters in Redis.
    #[command(after_help = "Examples:\n  tracectl shards plan --moves 3\n  \
        tracectl shards plan --output json | jq -r '.moves[] | \"tracectl shards assign \\(.slug) \\(.to)\"'")]
    Plan {
        /// The most moves to propose, 0 to 100.
        #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u8).range(0..=100))]
        moves: u8,
    },
}

#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Wait {
    /// How long to wait until the org's earlier entries are stored, such as 5m. After that the org is still moving, and
    /// `resume` continues.
    #[arg(long, value_name = "SPAN", default_value = "60s", value_parser = when::span)]
    wait: Duration,
}

pub(crate) fn shard(text: &str) -> Result<Shard, String> {
    let shard = text.parse().ok().and_then(Shard::new);
    shard.ok_or_else(|| format!("is no shard: a number from 0 to {}", SHARDS - 1))
}

impl Command {
    pub(crate) async fn run(self, registry: &Registry, redis: Option<Redis>) -> Result<Answer, Failure> {
        let needed = || {
            let example = format!("set {REDIS}, as the services have it");
            redis.clone().ok_or_else(|| Failure::usage("it is not known where Redis is, which has the shards", example))
        };
        match self {
            Self::List { after } => list(registry, after.as_deref()).await,
            Self::Plan { moves } => plan(registry, needed()?, moves.into()).await,
            Self::Assign { org, shard, wait } => {
                let (redis, org) = (needed()?, registry.find_org(&org).await?);
                let assigned = registry.assign_shard(org.org_id, Some(shard)).await?;
                finish(registry, redis, &org, assigned, wait).await
            }
            Self::Unassign { org, wait } => {
                let (redis, org) = (needed()?, registry.find_org(&org).await?);
                let assigned = registry.assign_shard(org.org_id, None).await?;
                finish(registry, redis, &org, assigned, wait).await
            }
            Self::Abort { org, wait } => {
                let (redis, org) = (needed()?, registry.find_org(&org).await?);
                let assigned = registry.abort_shard_move(org.org_id).await?;
                finish(registry, redis, &org, assigned, wait).await
            }
            Self::Resume { org, wait } => {
                let (redis, org) = (needed()?, registry.find_org(&org).await?);
                let moving = registry.shard_place(org.org_id).await?.filter(|place| place.moving_to.is_some());
                let place = moving.ok_or(registry::RegistryError::NotMoving)?;
                finish(registry, redis, &org, Assigned { place, changed: true }, wait).await
            }
        }
    }
}

async fn list(registry: &Registry, after: Option<&str>) -> Result<Answer, Failure> {
    let places = registry.shard_map(after).await?;
    let headings = ["SHARD", "HOME", "MOVING TO", "SINCE", "ORG", "BY"];
    let cursor: fn(&ShardPlace) -> &str = |place| &place.slug;
    let answer = Answer::list("orgs", &places, Some(cursor), headings, |place| {
        [
            place.shard.to_string(),
            place.home.to_string(),
            or_none(place.moving_to),
            moment(place.since),
            place.slug.clone(),
            place.by.clone(),
        ]
    })?;
    let moving = places.iter().filter(|place| place.moving_to.is_some());
    Ok(moving.fold(answer, |answer, ShardPlace { slug, .. }| {
        answer.note(format!(
            "{slug} is refused until its move is over: tracectl shards resume {slug} finishes it, \
             tracectl shards abort {slug} takes it back"
        ))
    }))
}

/// Completes a move, and reports it.
async fn finish(
    registry: &Registry,
    redis: Redis,
    org: &OrgSummary,
    Assigned { place, changed }: Assigned,
    Wait { wait }: Wait,
) -> Result<Answer, Failure> {
    let (slug, begun) = (&org.slug, Instant::now());
    let mut tell = |progress| {
        let line = match progress {
            Progress::Announced => {
                format!("{slug} moves to shard {}; until then it is refused", or_none(place.moving_to))
            }
            Progress::Draining { shard, closed } => {
                format!("shard {shard} has {} entries, some of them from before the move", closed.entries)
            }
            Progress::Settled => format!("{slug} has arrived"),
        };
        eprintln!("{}", printable(&line));
    };
    let mover = Mover::new(registry.clone(), ShardAppender::new(redis));
    mover.finish(org.org_id, wait, &mut tell).await.map_err(|error| unfinished(error, slug))?;
    let there = registry.shard_place(org.org_id).await?.unwrap_or(place);
    let shard = there.shard;
    let seconds = begun.elapsed().as_secs_f32();
    Answer::change(
        &json!({ "org_id": org.org_id, "slug": slug, "shard": shard, "home": there.home, "version": there.version }),
        changed,
        &format!("{slug} is in shard {shard} after {seconds:.1} s"),
        &format!("{slug} is in shard {shard}, as before"),
    )
}

fn unfinished(error: MoveError, slug: &str) -> Failure {
    match error {
        MoveError::Registry(error) => error.into(),
        MoveError::Superseded => Failure::new(error.to_string(), "tracectl shards list shows it"),
        MoveError::Redis(_) | MoveError::NotDrained { .. } => Failure::new(
            error.to_string(),
            format!(
                "{slug} is refused until its move is over: tracectl shards resume {slug} goes on, \
                 tracectl shards abort {slug} takes it back"
            ),
        ),
    }
}

async fn plan(registry: &Registry, redis: Redis, moves_max: usize) -> Result<Answer, Failure> {
    let periods = this_month_and_the_last();
    let loads = loads(registry, &redis, periods).await?;
    let plan = Plan::of(&loads, moves_max);
    let share = |part: u64, of: &PerShard| {
        let sum: u64 = of.iter().sum();
        if sum == 0 { NONE.to_owned() } else { format!("{:.1} %", part as f64 * 100.0 / sum as f64) }
    };
    let rows = Shard::all().map(|shard| {
        let goes =
            plan.moves.iter().filter(|step| step.from == shard).map(|step| format!("{} to {}", step.slug, step.to));
        let goes: Vec<_> = goes.collect();
        [
            shard.to_string(),
            loads.iter().filter(|load| load.shard == shard).count().to_string(),
            share(plan.now[shard.index()], &plan.now),
            share(plan.after[shard.index()], &plan.after),
            if goes.is_empty() { NONE.to_owned() } else { goes.join(", ") },
        ]
    });
    let sent = loads.iter().filter(|load| load.weight > 0).count();
    let based_on = format!(
        "bytes sent in {} and {} by the counters in Redis, of {sent} orgs that sent any, of {} in all",
        periods[1],
        periods[0],
        loads.len()
    );
    let per_shard = Shard::all().map(|shard| {
        json!({ "shard": shard, "bytes_now": plan.now[shard.index()], "bytes_after": plan.after[shard.index()] })
    });
    let (before, after) = (skew(&plan.now), skew(&plan.after));
    let json = json!({
        "based_on": { "meter": Meter::SpanBytes, "periods": periods, "orgs": loads.len(), "orgs_with_usage": sent },
        "skew_now": before, "skew_after": after, "moves": plan.moves, "shards": per_shard.collect::<Vec<_>>(),
    });
    let answer = Answer::table(json, &["SHARD", "ORGS", "NOW", "AFTER", "MOVES"], rows.collect());
    let answer = answer
        .note(format!("based on {based_on}"))
        .note(format!("the heaviest shard has {before:.2} times the mean, and {after:.2} times after these moves"));
    Ok(plan
        .moves
        .iter()
        .fold(answer, |answer, step| answer.note(format!("tracectl shards assign {} {}", step.slug, step.to))))
}

/// The months whose usage counts, the present one first: early in a month, that month alone says little.
fn this_month_and_the_last() -> [u32; 2] {
    let now = OffsetDateTime::now_utc();
    let month = |at: time::Date| at.year().unsigned_abs() * 100 + u32::from(u8::from(at.month()));
    let first = now.date().replace_day(1).unwrap_or(now.date());
    [month(first), month(first.previous_day().unwrap_or(first))]
}

/// All orgs that can send, with their shards and usage.
async fn loads(registry: &Registry, redis: &Redis, periods: [u32; 2]) -> Result<Vec<Load>, Failure> {
    let places = every_page(async |after| registry.shard_map(after).await, |place: &ShardPlace| &place.slug).await?;
    let orgs = every_page(async |after| registry.orgs(None, after).await, |org: &OrgSummary| &org.slug).await?;
    let mut loads = Vec::with_capacity(orgs.len());
    for org in orgs.into_iter().filter(|org| org.status != OrgStatus::Archived) {
        let place = places.binary_search_by(|place| place.slug.cmp(&org.slug)).ok().map(|found| &places[found]);
        let shard = place.map(|place| place.moving_to.unwrap_or(place.shard));
        let shard = shard.unwrap_or_else(|| Shard::home(org.org_id));
        loads.push(Load { org_id: org.org_id, slug: org.slug, shard, weight: 0 });
    }
    let mut asked = JoinSet::new();
    let ids: Vec<_> = loads.iter().map(|load| load.org_id).collect();
    let mut next = ids.into_iter().enumerate();
    loop {
        while asked.len() < QUESTIONS_MAX
            && let Some((n, org_id)) = next.next()
        {
            let redis = redis.clone();
            asked.spawn(async move {
                let mut bytes = 0_u64;
                for period in periods {
                    bytes += counter(&redis, org_id, period, Meter::SpanBytes).await?.unwrap_or_default();
                }
                Ok::<_, redis::RedisError>((n, bytes))
            });
        }
        let Some(answered) = asked.join_next().await else { return Ok(loads) };
        let failed = |error: String| Failure::new(format!("usage cannot be read: {error}"), format!("check {REDIS}"));
        let (n, bytes) =
            answered.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))?;
        loads[n].weight = bytes;
    }
}

/// All pages of a list, sorted by slug as this program compares texts.
pub(crate) async fn every_page<T>(
    page: impl AsyncFn(Option<&str>) -> Result<Vec<T>, registry::RegistryError>,
    slug: fn(&T) -> &String,
) -> Result<Vec<T>, Failure> {
    let mut all: Vec<T> = Vec::new();
    loop {
        let more = page(all.last().map(|last| slug(last).as_str())).await?;
        let is_last = more.len() < LIST_MAX as usize;
        all.extend(more);
        if is_last {
            all.sort_by(|a, b| slug(a).cmp(slug(b)));
            return Ok(all);
        }
    }
}
