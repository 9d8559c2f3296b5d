//! Whether Redis may be trusted with acknowledged data, on every primary of a cluster.
//!
//! A configuration that would lose data silently makes Redis not ready: `/readyz` reports it, and `ingest-api` refuses
//! requests until it is mended. What only makes a loss likelier, or will lead to a refusal later, is a [`Warning`]:
//! refusing requests would not help.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::gauge;
use model::words;
use redis::RedisError;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::Redis;
use super::ack::{AckClass, AckPolicy, Wait};
use super::facts::{Facts, is_refusal};

/// How often each process checks Redis by itself.
pub const CHECK_EVERY: Duration = Duration::from_secs(1);
/// A caller of [`Readiness::check`] within this time of a check gets the result of that check.
const CHECK_SHARED_FOR: Duration = Duration::from_millis(200);
/// The share of `maxmemory` above which a warning is raised.
pub const MEMORY_SHARE_MAX: f64 = 0.8;
/// How long the warning about a postponed write stays up after the last such write.
pub const SLOW_FSYNC_SHOWN: Duration = Duration::from_secs(60);
/// The only eviction policy under which a stream is never evicted.
pub(super) const SAFE_POLICY: &str = "noeviction";

/// Why Redis cannot be used.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The URL is not one that the driver can use.
    #[error("TRACEBILITY_REDIS_URL cannot be used: {0}")]
    Url(#[source] RedisError),
    /// Redis did not answer, or refused the connection.
    #[error("redis cannot be asked: {0}")]
    Unreachable(#[source] RedisError),
    /// Redis may evict acknowledged data.
    #[error("redis runs with maxmemory-policy {policy:?}, under which it may evict acknowledged data; set noeviction")]
    Evicts {
        /// The `maxmemory_policy` that Redis reported.
        policy: String,
    },
    /// Redis has no append-only file, so it loses everything when it ends.
    #[error(
        "redis runs without an append-only file (aof_enabled:0) and forgets acknowledged data when it ends; set appendonly yes"
    )]
    NoAof,
    /// Redis cannot write to its append-only file.
    #[error("redis could not write its append-only file (aof_last_write_status:{status}); free its disk or replace it")]
    AofFails {
        /// The status of the last write, as Redis reported it.
        status: String,
    },
    /// Redis leaves fsync to the kernel (`appendfsync no`).
    #[error("redis runs with appendfsync no, under which a power cut loses half a minute; set everysec or always")]
    NoFsync,
    /// Redis is still loading its data.
    #[error("redis is reading its data from disk; wait until it has")]
    Loading,
    /// It is a replica, which takes no writes.
    #[error("redis is a replica; give the URL of the primary, or of Sentinel (redis-sentinel://host:26379/name)")]
    Replica,
    /// Redis does not report a field that must be checked.
    #[error("redis does not tell {field} in INFO; it cannot be trusted unseen: use a server whose INFO shows it")]
    Hidden {
        /// The name of the field in `INFO`.
        field: &'static str,
    },
    /// Redis cannot give the configured ack class.
    #[error("redis cannot give TRACEBILITY_ACK={class}: {why}; {remedy}")]
    AckUnavailable {
        /// The configured ack class.
        class: AckClass,
        /// Why the class cannot be given.
        why: String,
        /// How the operator can make it available.
        remedy: &'static str,
    },
}

words! {
    /// Something about Redis that should be mended soon.
    Warning, "warning about redis" {
        /// It postpones fsync because the disk is slow.
        SlowFsync = "slow_fsync",
        /// It does not fsync while it rewrites its log.
        NoFsyncOnRewrite = "no_fsync_on_rewrite",
        /// It cannot rewrite its log, which grows.
        RewriteFails = "rewrite_fails",
        /// It uses more than [`MEMORY_SHARE_MAX`] of `maxmemory`.
        LittleMemory = "little_memory",
        /// It has no `maxmemory`.
        NoMaxmemory = "no_maxmemory",
        /// It does not answer `CONFIG GET`, so its fsync settings are unknown.
        ConfigHidden = "config_hidden",
    }
}

impl Warning {
    /// What is wrong and what to do.
    pub const fn text(self) -> &'static str {
        match self {
            Self::SlowFsync => {
                "redis postpones writes because an fsync takes longer than a second (aof_delayed_fsync grows): with \
                 TRACEBILITY_ACK=queued, killing it loses acknowledged data; give it a faster disk, or use fsynced"
            }
            Self::NoFsyncOnRewrite => {
                "redis does not fsync while it rewrites its log: a power cut then loses what was acknowledged as queued; set \
                 no-appendfsync-on-rewrite no"
            }
            Self::RewriteFails => {
                "redis could not rewrite its append-only file (aof_last_bgrewrite_status): the file grows until the disk is \
                 full; see its log, often vm.overcommit_memory or disk space"
            }
            Self::LittleMemory => "redis has used more than 80 % of maxmemory; at 100 % requests are refused (503)",
            Self::NoMaxmemory => {
                "redis has no maxmemory: the kernel may kill it for taking too much; set maxmemory to half of the memory"
            }
            Self::ConfigHidden => {
                "redis does not answer CONFIG GET, so appendfsync is unknown: with everysec a power cut loses the last seconds"
            }
        }
    }
}

/// What a check found out about a Redis that may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// What an append waits for to get the configured ack class; `None` if the reply is enough.
    pub wait: Option<Wait>,
    /// Problems to mend soon; requests are accepted nevertheless.
    pub warnings: Vec<Warning>,
}

/// The result of one check.
pub type CheckResult = Result<Ready, Arc<ConnectError>>;

/// Checks Redis and remembers the result. Cheap to clone; clones share the result.
#[derive(Clone)]
pub struct Readiness(Arc<Inner>);

struct Inner {
    redis: Redis,
    policy: AckPolicy,
    state: tokio::sync::Mutex<CheckState>,
    /// The last check that Redis answered.
    last_answer: Mutex<Option<Result<Option<Wait>, Arc<ConnectError>>>>,
}

#[derive(Default)]
struct CheckState {
    last: Option<(Instant, CheckResult)>,
    delayed: DelayedFsyncs,
}

/// How many writes each server had postponed at the last check.
#[derive(Default)]
struct DelayedFsyncs {
    by_server: HashMap<String, u64>,
    grew: Option<Instant>,
}

impl DelayedFsyncs {
    /// Whether a write was postponed within [`SLOW_FSYNC_SHOWN`].
    fn grew_recently(&mut self, servers: &[Facts], now: Instant) -> bool {
        let counted = servers.iter().filter_map(|facts| Some((facts.run_id.clone(), facts.delayed_fsyncs?)));
        let counted: HashMap<String, u64> = counted.collect();
        // A server seen for the first time: what it counted before does not count.
        if counted.iter().any(|(server, count)| self.by_server.get(server).is_some_and(|before| count > before)) {
            self.grew = Some(now);
        }
        self.by_server = counted;
        self.grew.is_some_and(|grew| now.duration_since(grew) < SLOW_FSYNC_SHOWN)
    }
}

impl Readiness {
    /// Checks that Redis against that ack policy.
    pub fn new(redis: Redis, policy: AckPolicy) -> Self {
        Self(Arc::new(Inner { redis, policy, state: Default::default(), last_answer: Mutex::default() }))
    }

    /// The configured ack policy.
    pub fn policy(&self) -> AckPolicy {
        self.0.policy
    }

    /// Checks Redis now, or returns the result of a check within the last `CHECK_SHARED_FOR`.
    pub async fn check(&self) -> CheckResult {
        let mut state = self.0.state.lock().await;
        if let Some((at, result)) = &state.last
            && at.elapsed() < CHECK_SHARED_FOR
        {
            return result.clone();
        }
        let result = check_servers(&self.0.redis, &self.0.policy, &mut state.delayed).await.map_err(Arc::new);
        state.last = Some((Instant::now(), result.clone()));
        drop(state);
        report(&result);
        // A Redis that does not answer reports nothing about itself; the append will fail on its own.
        if !matches!(&result, Err(error) if matches!(**error, ConnectError::Unreachable(_))) {
            *self.last_answer() = Some(result.as_ref().map(|ready| ready.wait).map_err(Arc::clone));
        }
        result
    }

    /// What an append has to wait for, by the last check that Redis answered. An error if no request may be
    /// acknowledged.
    pub async fn wait(&self) -> Result<Option<Wait>, Arc<ConnectError>> {
        let last_answer = self.last_answer().clone();
        match last_answer {
            Some(result) => result,
            None => self.check().await.map(|ready| ready.wait),
        }
    }

    fn last_answer(&self) -> std::sync::MutexGuard<'_, Option<Result<Option<Wait>, Arc<ConnectError>>>> {
        self.0.last_answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks every [`CHECK_EVERY`] until `stop`, and logs changes.
    pub async fn follow(self, mut stop: watch::Receiver<bool>) {
        let mut ticks = tokio::time::interval(CHECK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before: Option<Result<Vec<Warning>, String>> = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let result = self.check().await.map(|ready| ready.warnings).map_err(|error| error.to_string());
            if before.as_ref() != Some(&result) {
                match &result {
                    Ok(warnings) => warnings.iter().for_each(|warning| tracing::warn!("{}", warning.text())),
                    Err(error) => tracing::warn!("not ready: {error}"),
                }
            }
            before = Some(result);
        }
    }
}

/// `tracebility_redis_ready`: 1 when the last check found that Redis may be used.
/// `tracebility_redis_warning{warning}`: 1 for each warning that is up.
fn report(result: &CheckResult) {
    gauge!("tracebility_redis_ready").set(if result.is_ok() { 1.0 } else { 0.0 });
    for warning in Warning::ALL {
        let holds = result.as_ref().is_ok_and(|ready| ready.warnings.contains(warning));
        gauge!("tracebility_redis_warning", "warning" => warning.as_str()).set(if holds { 1.0 } else { 0.0 });
    }
}

async fn check_servers(redis: &Redis, policy: &AckPolicy, delayed: &mut DelayedFsyncs) -> Result<Ready, ConnectError> {
    let servers = Facts::read(redis).await?;
    for facts in &servers {
        facts.check()?;
    }
    let shares = servers.iter().filter_map(|facts| facts.memory_share());
    gauge!("tracebility_redis_memory_share").set(shares.fold(0.0, f64::max));
    let has_waitaof = match policy.class {
        AckClass::Fsynced => has_waitaof(redis).await?,
        AckClass::Queued | AckClass::Replicated => Ok(()),
    };
    let wait = wait_for(policy, &servers, has_waitaof)?;
    let is_slow = delayed.grew_recently(&servers, Instant::now());
    let holds = |warning: &&Warning| match warning {
        Warning::SlowFsync => is_slow,
        Warning::NoFsyncOnRewrite => servers.iter().any(|facts| facts.no_fsync_on_rewrite == Some(true)),
        Warning::RewriteFails => servers.iter().any(|facts| facts.rewrite_fails),
        Warning::LittleMemory => servers.iter().filter_map(Facts::memory_share).any(|share| share > MEMORY_SHARE_MAX),
        Warning::NoMaxmemory => servers.iter().any(|facts| facts.maxmemory == Some(0)),
        Warning::ConfigHidden => servers.iter().any(|facts| facts.appendfsync.is_none()),
    };
    Ok(Ready { wait, warnings: Warning::ALL.iter().filter(holds).copied().collect() })
}

/// Whether every primary has `WAITAOF` and lets us use it; otherwise the error message of the server.
async fn has_waitaof(redis: &Redis) -> Result<Result<(), String>, ConnectError> {
    let mut probe = redis::cmd("WAITAOF");
    // Zero disks and zero replicas: the probe returns at once.
    probe.arg(0).arg(0).arg(0);
    match redis.on_every_primary(&probe).await {
        Ok(_) => Ok(Ok(())),
        Err(error) if is_refusal(&error) => Ok(Err(error.to_string())),
        Err(error) => Err(ConnectError::Unreachable(error)),
    }
}

/// Which wait gives the ack class on all of these servers.
fn wait_for(
    policy: &AckPolicy,
    servers: &[Facts],
    has_waitaof: Result<(), String>,
) -> Result<Option<Wait>, ConnectError> {
    let refuse = |why: String, remedy| Err(ConnectError::AckUnavailable { class: policy.class, why, remedy });
    if let Some(facts) = servers.iter().find(|facts| facts.replicas_online < u64::from(policy.replicas)) {
        return refuse(
            format!(
                "{} replicas are online, and TRACEBILITY_ACK_REPLICAS is {}",
                facts.replicas_online, policy.replicas
            ),
            "start the missing replicas of every primary, or ask for fewer",
        );
    }
    match policy.class {
        AckClass::Queued => Ok(None),
        AckClass::Replicated => Ok(Some(Wait::Replicas(policy.replicas))),
        AckClass::Fsynced if servers.iter().any(|facts| facts.no_fsync_on_rewrite == Some(true)) => {
            refuse("while its log is rewritten it does not fsync".to_owned(), "set no-appendfsync-on-rewrite no")
        }
        AckClass::Fsynced if policy.replicas == 0 && servers.iter().all(Facts::replies_after_fsync) => Ok(None),
        AckClass::Fsynced => match has_waitaof {
            Ok(()) => Ok(Some(Wait::Disks { replicas: policy.replicas })),
            Err(why) => refuse(
                format!("WAITAOF answers {why:?}"),
                "use Redis 7.2 or Valkey and permit WAITAOF, or, without TRACEBILITY_ACK_REPLICAS, set appendfsync always",
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(changes: &str) -> Facts {
        Facts::parse(&format!(
            "redis_version:7.0.15\r\nrun_id:a\r\nrole:master\r\nloading:0\r\nmaxmemory_policy:noeviction\r\naof_enabled:1\r\n\
             aof_last_write_status:ok\r\naof_last_bgrewrite_status:ok\r\naof_delayed_fsync:0\r\nused_memory:10\r\n\
             maxmemory:100\r\n{changes}"
        ))
    }

    fn policy(class: AckClass, replicas: u8) -> AckPolicy {
        AckPolicy { class, replicas, timeout: Duration::from_secs(1) }
    }

    #[test]
    fn an_ack_class_is_granted_only_if_the_server_can_keep_it() {
        let always = Facts { appendfsync: Some("always".to_owned()), no_fsync_on_rewrite: Some(false), ..server("") };
        let unsafe_rewrite = Facts { no_fsync_on_rewrite: Some(true), ..always.clone() };
        let unknown_rewrite = Facts { no_fsync_on_rewrite: None, ..always.clone() };
        let everysec = Facts { appendfsync: Some("everysec".to_owned()), ..always.clone() };
        let two = Facts { replicas_online: 2, ..everysec.clone() };
        let fsynced = |replicas, facts: &Facts, has_waitaof: bool| {
            let has_waitaof = if has_waitaof { Ok(()) } else { Err("ERR: unknown command".to_owned()) };
            wait_for(&policy(AckClass::Fsynced, replicas), std::slice::from_ref(facts), has_waitaof).ok()
        };
        assert_eq!(fsynced(0, &always, false), Some(None));
        assert_eq!(fsynced(0, &everysec, true), Some(Some(Wait::Disks { replicas: 0 })));
        assert_eq!(fsynced(0, &everysec, false), None);
        assert_eq!(fsynced(0, &unsafe_rewrite, true), None, "nothing is fsynced during a rewrite");
        assert_eq!(fsynced(0, &unknown_rewrite, false), None, "what is not known is not promised");
        assert_eq!(fsynced(1, &always, true), None, "there is no replica");
        assert_eq!(fsynced(2, &two, true), Some(Some(Wait::Disks { replicas: 2 })));
        assert_eq!(fsynced(2, &two, false), None);

        let replicated = |servers: &[Facts]| wait_for(&policy(AckClass::Replicated, 2), servers, Ok(()));
        assert_eq!(replicated(std::slice::from_ref(&two)).unwrap(), Some(Wait::Replicas(2)));
        let refused = replicated(&[two, always.clone()]).unwrap_err();
        assert!(refused.to_string().contains("0 replicas are online"), "{refused}");
        assert_eq!(wait_for(&AckPolicy::QUEUED, &[always], Ok(())).unwrap(), None);
    }

    #[test]
    fn a_postponed_write_is_warned_of_for_a_while() {
        let (mut delayed, begun) = (DelayedFsyncs::default(), Instant::now());
        let at =
            |count: u64, run_id: &str| [Facts { delayed_fsyncs: Some(count), run_id: run_id.to_owned(), ..server("") }];
        assert!(!delayed.grew_recently(&at(7, "a"), begun), "what was before the first check is over");
        assert!(!delayed.grew_recently(&at(7, "a"), begun));
        assert!(delayed.grew_recently(&at(8, "a"), begun));
        assert!(delayed.grew_recently(&at(8, "a"), begun + SLOW_FSYNC_SHOWN / 2));
        assert!(!delayed.grew_recently(&at(8, "a"), begun + SLOW_FSYNC_SHOWN));
        assert!(!delayed.grew_recently(&at(9, "b"), begun + SLOW_FSYNC_SHOWN), "another server");
    }
}
