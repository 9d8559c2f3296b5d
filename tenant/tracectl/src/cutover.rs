//! `tracectl cutover`: closes the stream from before tenancy, once it is drained.

use std::time::{Duration, Instant};

use clap::Subcommand;
use legacy::{Backlog, READER_SILENT, Switch, SwitchError};
use model::shard::Shard;
use redis::AsyncCommands;
use registry::flags::{Flag, FlagState, Flags};
use serde::Serialize;
use serde_json::json;
use stores::clock::{Clock, SystemClock};
use stores::keys::RedisKey;
use stores::redis::Redis;

use crate::confirm::Confirm;
use crate::environment::REDIS;
use crate::failure::Failure;
use crate::output::{Answer, Format, NONE, moment, or_none};
use crate::stores::Services;
use crate::when;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show whether the stream of envelopes written before tenancy is open, what is left of it, and who drains it.
    #[command(
        after_help = "Examples:\n  tracectl cutover status\n  tracectl cutover status --output json | jq .left.entries"
    )]
    Status {
        /// How long the stream is watched, to measure how many entries come and go.
        #[arg(long, default_value = "2s", value_parser = when::span)]
        over: Duration,
        #[command(flatten)]
        services: Services,
    },
    /// Check all conditions for closing the stream. Exit status 3 when one is not met.
    #[command(after_help = "Examples:\n  tracectl cutover verify\n  tracectl cutover verify --over 5m")]
    Verify {
        /// How long the stream must have had no new entry.
        #[arg(long, default_value = "10s", value_parser = when::span)]
        over: Duration,
        #[command(flatten)]
        services: Services,
    },
    /// Close the stream: the workers stop reading it. Refused while anything is left in it.
    #[command(after_help = "Examples:\n  tracectl cutover close\n  tracectl cutover close --yes")]
    Close {
        #[command(flatten)]
        confirm: Confirm,
        #[command(flatten)]
        services: Services,
    },
    /// Open the stream again: the workers read it within a second.
    #[command(after_help = "Examples:\n  tracectl cutover reopen")]
    Reopen {
        #[command(flatten)]
        services: Services,
    },
}

/// A reading of the stream.
#[derive(Serialize)]
struct CutoverState {
    /// `None` until the switch is flipped for the first time: then the workers' setting applies.
    switch: Option<FlagState>,
    left: Backlog,
    /// Seconds since the oldest entry was appended.
    oldest_s: Option<u64>,
    /// Entries added per second.
    in_per_s: f64,
    /// Entries removed per second.
    out_per_s: f64,
    dead_letters: u64,
    drained_by: Option<String>,
}

impl Command {
    pub(crate) async fn run(self, redis: Option<Redis>, format: Format, actor: &str) -> Result<Answer, Failure> {
        let redis = redis.ok_or_else(|| {
            Failure::usage("it is not known where Redis is, which has the stream", format!("set {REDIS}"))
        })?;
        match self {
            Self::Status { over, services } => {
                CutoverState::read(&redis, &services.flags().await?, over).await?.answer()
            }
            Self::Verify { over, services } => verify(&redis, &services.flags().await?, over, format).await,
            Self::Close { confirm, services } => {
                let switch = Switch::new(redis, services.flags().await?);
                confirm
                    .ask("closing the legacy stream", "what releases from before tenancy write is stored no more")?;
                let changed = switch.close(actor).await?;
                let note = "closed; tracectl cutover status shows whether somebody still writes to it";
                Answer::change(&json!({ "open": false }), changed, note, "it was closed already")
            }
            Self::Reopen { services } => {
                let changed = Switch::new(redis, services.flags().await?).reopen(actor).await?;
                let note = "open; the workers read it within a second";
                Answer::change(&json!({ "open": true }), changed, note, "it was open")
            }
        }
    }
}

impl CutoverState {
    async fn read(redis: &Redis, flags: &Flags, over: Duration) -> Result<Self, Failure> {
        let (begun, before) = (Instant::now(), legacy::read_backlog(redis).await?);
        tokio::time::sleep(over).await;
        let left = legacy::read_backlog(redis).await?;
        let came = left.added.saturating_sub(before.added);
        let went = before.entries.saturating_add(came).saturating_sub(left.entries);
        let per_s = |n: u64| n as f64 / begun.elapsed().as_secs_f64();
        let now_ms = u64::try_from(SystemClock::new().unix_ms()).unwrap_or_default();
        Ok(Self {
            switch: flags.state(Flag::DualReadLegacy).await.map_err(SwitchError::from)?,
            oldest_s: left.first.map(|first| now_ms.saturating_sub(first.ms()) / 1000),
            in_per_s: per_s(came),
            out_per_s: per_s(went),
            left,
            dead_letters: redis.clone().xlen(RedisKey::legacy_dlq()).await?,
            drained_by: drained_by(redis, now_ms).await?,
        })
    }

    fn answer(&self) -> Result<Answer, Failure> {
        let by = |s: &FlagState| format!("since {}, by {}", moment(s.since), s.by);
        let switch = match &self.switch {
            Some(state) if state.enabled => format!("open {}", by(state)),
            Some(state) => format!("closed {}", by(state)),
            None => "as the workers' setting says, which is open unless it was changed".to_owned(),
        };
        let group = |g: &legacy::Group| {
            let silent = g.silent_ms.map_or_else(|| "no reader".to_owned(), |ms| format!("silent for {} s", ms / 1000));
            format!("{}: {} pending, {silent}", g.name, g.pending)
        };
        let groups: Vec<String> = self.left.groups.iter().map(group).collect();
        let is_closed = self.switch.as_ref().is_some_and(|state| !state.enabled);
        let fields = [
            ("switch", switch),
            ("waiting", self.left.entries.to_string()),
            ("oldest", self.oldest_s.map_or_else(|| NONE.to_owned(), |s| format!("{s} s"))),
            ("on the way", self.left.moving.to_string()),
            ("older readers", if groups.is_empty() { NONE.to_owned() } else { groups.join("; ") }),
            ("come", format!("{:.1} per second", self.in_per_s)),
            ("go", format!("{:.1} per second", self.out_per_s)),
            ("dead letters", self.dead_letters.to_string()),
            ("drained by", or_none(self.drained_by.as_deref())),
        ];
        let stragglers = is_closed && self.left.entries > 0;
        let answer = Answer::record(self, &fields)?;
        Ok(match stragglers {
            true => {
                answer.note("it is closed and somebody writes to it: find who it is, and run tracectl cutover reopen")
            }
            false => answer,
        })
    }

    /// The conditions for closing the stream, and whether each is met.
    fn checks(&self) -> [(String, bool); 7] {
        let pending: u64 = self.left.groups.iter().map(|group| group.pending).sum();
        let silent = READER_SILENT.as_secs();
        [
            (format!("nothing waits in the stream ({})", self.left.entries), self.left.entries == 0),
            (format!("nothing is on its way into a shard ({})", self.left.moving), self.left.moving == 0),
            (format!("readers of older releases hold nothing ({pending})"), pending == 0),
            (format!("no reader of an older release was there for {silent} s"), self.left.old_reader().is_none()),
            (
                format!("nobody wrote to the stream while it was looked at ({:.1}/s)", self.in_per_s),
                self.in_per_s == 0.0,
            ),
            (format!("no dead letter waits for a decision ({})", self.dead_letters), self.dead_letters == 0),
            ("a worker drains the stream".to_owned(), self.drained_by.is_some()),
        ]
    }
}

/// The owner of the first shard's lease also drains the legacy stream.
async fn drained_by(redis: &Redis, now_ms: u64) -> Result<Option<String>, Failure> {
    let lease = RedisKey::shard_lease(Shard::FIRST);
    let (owner, until): (Option<String>, Option<u64>) = redis.clone().hmget(lease, &["owner", "until"]).await?;
    Ok(owner.filter(|_| until.is_some_and(|until| until > now_ms)))
}

async fn verify(redis: &Redis, flags: &Flags, over: Duration, format: Format) -> Result<Answer, Failure> {
    let seen = CutoverState::read(redis, flags, over).await?;
    let checks = seen.checks();
    let failed = checks.iter().filter(|(_, holds)| !holds).count();
    let json = checks.iter().map(|(check, holds)| json!({ "check": check, "holds": holds })).collect::<Vec<_>>();
    let rows = checks.iter().map(|(check, holds)| [if *holds { "✓" } else { "✗" }.to_owned(), check.clone()]);
    let answer = Answer::table(json!({ "checks": json }), &["", "CHECK"], rows.collect());
    if failed == 0 {
        return Ok(answer.note("the stream may be closed: tracectl cutover close"));
    }
    answer.print(format)?;
    Err(Failure::alarm(
        format!("{failed} of these do not hold"),
        "docs/operations/cutover.md says what to do about each",
    ))
}

impl From<SwitchError> for Failure {
    fn from(error: SwitchError) -> Self {
        let next = match &error {
            SwitchError::NotEmpty(_) => "wait until tracectl cutover status shows that nothing is left",
            SwitchError::OtherReader(_) => "stop it, and repeat the command",
            SwitchError::Straggler(_) => "find who still runs a release from before tenancy, and repeat the command",
            SwitchError::Redis(_) | SwitchError::Postgres(_) => "check that the stores run, then repeat the command",
        };
        Self::new(error.to_string(), next)
    }
}

impl From<redis::RedisError> for Failure {
    fn from(error: redis::RedisError) -> Self {
        Self::new(format!("Redis: {error}"), format!("check {REDIS}, then repeat the command"))
    }
}
