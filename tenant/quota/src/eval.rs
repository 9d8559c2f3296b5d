//! Limits how many evaluations of an org run at the same time: a semaphore per org in Redis, shared by the fleet.
//!
//! A holder has a slot until a deadline, by Redis' clock, and renews it while it works. So the slot of a crashed holder
//! becomes free by itself, and a holder that was away too long gets an error when it renews. Each acquisition has an id
//! of its own: a repetition after a lost reply takes no second slot, and a late release frees no other holder's slot.
//!
//! Every org has a key of its own, in its own slot of a cluster, and no request blocks in Redis: an org at its cap
//! delays no other. Unlike a rate, a cap is never guessed: while Redis does not answer, no evaluation begins.

use std::sync::LazyLock;
use std::time::Duration;

use auth::TenantContext;
use metrics::counter;
use model::ids::OrgId;
use redis::{RedisError, Script};
use stores::keys::RedisKey;
use stores::redis::Redis;
use thiserror::Error;
use uuid::Uuid;

/// The shortest time to live of a slot; a shorter one is raised to this.
pub const TTL_MIN: Duration = Duration::from_millis(100);
/// The longest time to live of a slot; a longer one is lowered to this. A holder that needs longer renews.
pub const TTL_MAX: Duration = Duration::from_secs(3600);
/// How many times an acquisition is tried when no reply comes.
pub const ATTEMPTS_MAX: usize = 2;

static ACQUIRE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("eval/acquire.lua")));
static RENEW: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("eval/renew.lua")));
static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("eval/release.lua")));

/// Why an evaluation must not begin.
#[derive(Debug, Error)]
pub enum AcquireError {
    /// Every slot of the org is taken.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// Redis did not answer. If it did assign a slot, that becomes free at its deadline.
    #[error("evaluation slots cannot be given at present: {0}")]
    Unavailable(#[source] RedisError),
}

/// Every slot of the org is taken. The message is for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the organization runs {held} evaluations at once, and may run {cap}")]
pub struct Busy {
    /// A slot becomes free after this time at the latest, unless its holder renews it or another takes it first. `None`
    /// when the plan has no slots.
    pub retry_after: Option<Duration>,
    /// How many slots the plan has.
    pub cap: u32,
    /// How many slots are taken; more than `cap` if the plan was lowered.
    pub held: u32,
}

/// Why a slot could not be renewed or released.
#[derive(Debug, Error)]
pub enum SlotError {
    /// The deadline has passed. Another holder may have the slot: stop, or acquire again.
    #[error("the evaluation slot has lapsed")]
    Lapsed,
    /// Redis did not answer. The slot is held until its deadline.
    #[error("the evaluation slot could not be reached: {0}")]
    Unavailable(#[source] RedisError),
}

/// Identifies a holder of a slot: one id per acquisition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HolderId(pub Uuid);

/// Assigns slots. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EvalConcurrency {
    redis: Redis,
}

impl EvalConcurrency {
    /// Manages the slots in that Redis.
    pub const fn new(redis: Redis) -> Self {
        Self { redis }
    }

    /// Takes a slot for at most `ttl`, within what the org's plan allows.
    pub async fn acquire(&self, tenant: &TenantContext, ttl: Duration) -> Result<Slot, AcquireError> {
        let holder = HolderId(Uuid::new_v4());
        let mut attempt = 1;
        loop {
            match self.acquire_as(tenant, holder, ttl).await {
                Err(AcquireError::Unavailable(_)) if attempt < ATTEMPTS_MAX => attempt += 1,
                other => return other,
            }
        }
    }

    /// The same for a given holder id, which has at most one slot however often it acquires.
    pub async fn acquire_as(
        &self,
        tenant: &TenantContext,
        holder: HolderId,
        ttl: Duration,
    ) -> Result<Slot, AcquireError> {
        let cap = tenant.plan().eval_slots;
        let org = tenant.org_id();
        let mut call = ACQUIRE.key(RedisKey::eval_concurrency(org));
        call.arg(holder.0.to_string()).arg(micros(ttl)).arg(cap);
        let reply: Vec<i64> = call.invoke_async(&mut self.redis.clone()).await.map_err(AcquireError::Unavailable)?;
        match *reply.as_slice() {
            [0, held, wait_us] => {
                counter!("tracebility_eval_busy_total").increment(1);
                Err(AcquireError::Busy(Busy {
                    retry_after: u64::try_from(wait_us).ok().map(Duration::from_micros),
                    cap: u32::try_from(cap).unwrap_or_default(),
                    held: u32::try_from(held).unwrap_or(u32::MAX),
                }))
            }
            _ => Ok(Slot { slots: self.clone(), org, holder }),
        }
    }
}

/// The right to run one evaluation until a deadline. Release it with [`Slot::release`]; a dropped one becomes free at
/// its deadline.
#[must_use = "a slot that is dropped stays taken until its deadline"]
#[derive(Debug)]
pub struct Slot {
    slots: EvalConcurrency,
    org: OrgId,
    holder: HolderId,
}

impl Slot {
    /// The id of this acquisition.
    pub const fn holder(&self) -> HolderId {
        self.holder
    }

    /// Extends the slot to `ttl` from now.
    pub async fn renew(&self, ttl: Duration) -> Result<(), SlotError> {
        self.ask(&RENEW, Some(ttl)).await
    }

    /// Releases the slot. An error needs no second attempt: the slot is free, or will be at its deadline.
    pub async fn release(self) -> Result<(), SlotError> {
        self.ask(&RELEASE, None).await
    }

    async fn ask(&self, script: &Script, ttl: Option<Duration>) -> Result<(), SlotError> {
        let mut call = script.key(RedisKey::eval_concurrency(self.org));
        call.arg(self.holder.0.to_string());
        if let Some(ttl) = ttl {
            call.arg(micros(ttl));
        }
        let held: Result<bool, RedisError> = call.invoke_async(&mut self.slots.redis.clone()).await;
        if held.map_err(SlotError::Unavailable)? {
            return Ok(());
        }
        counter!("tracebility_eval_lapsed_total").increment(1);
        Err(SlotError::Lapsed)
    }
}

fn micros(ttl: Duration) -> u64 {
    // An hour of microseconds fits.
    ttl.clamp(TTL_MIN, TTL_MAX).as_micros() as u64
}
