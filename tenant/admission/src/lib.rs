//! Decides whether a request may pass: by the rate of its key, the rate of its org, and the org's monthly meters.
//!
//! There are two steps. [`Admission::precheck`] does no I/O and runs before the body is read: it refuses keys and orgs
//! that Redis has refused, until that refusal ends, and a key that exceeds its rate on this node alone.
//! [`Admission::admit`] is one script in Redis, run when the cost is known and before the append: it checks and charges
//! all limits together or none. So an accepted request takes two round trips to Redis, this and the append, and a
//! request that is refused repeatedly takes none.
//!
//! Invariants: limits hold across the fleet, by Redis' clock; a [`Charge`] ends as kept or refunded, and a dropped one
//! is counted as a defect; when Redis does not answer, the node's own limiter decides alone, and that is counted: it is
//! better to let an org send a multiple of its rate for a while than to refuse every customer.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use auth::TenantContext;
use auth::context::scope;
use metrics::counter;
use model::ids::OrgId;
use model::meter::Meter;
use model::trace::UnixNanos;
use redis::{RedisError, Script};
use stores::keys::RedisKey;
use stores::redis::Redis;
use thiserror::Error;

/// A script of this module, hashed once.
macro_rules! script {
    ($file:literal) => {{
        static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!($file)));
        &*SCRIPT
    }};
}

mod local;

use local::LocalLimits;
use model::rate::{Limit, Rate};

/// Items per unit of a rate: a request costs 1 unit, and 1 more for each further so many items.
pub const ITEMS_PER_UNIT: u64 = 1_000;
/// How long Redis keeps the counters of a month: that month, and long enough after it for the reconciler.
pub const COUNTER_TTL: Duration = Duration::from_secs(70 * 24 * 3600);

/// The cost of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Number of runs and spans that will be stored.
    pub items: u64,
    /// Size of the body in bytes, decompressed.
    pub bytes: u64,
}

impl Cost {
    /// The cost in units of the rates; see [`ITEMS_PER_UNIT`].
    pub const fn units(&self) -> i64 {
        // At most 2^64 / 1000, so it fits into an i64.
        (1 + self.items.saturating_sub(1) / ITEMS_PER_UNIT) as i64
    }

    const fn of(&self, meter: Meter) -> u64 {
        match meter {
            Meter::SpanIngested => self.items,
            Meter::SpanBytes => self.bytes,
            // Ingest charges nothing to these meters.
            Meter::EvalJudgeCall | Meter::EvalJudgeTokens | Meter::ReplayRun => 0,
        }
    }
}

/// Which limit applies: that of the key or that of the org.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The rate of the API key.
    Key,
    /// The rate of the org, over all of its keys.
    Org,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "API key",
            Self::Org => "organization",
        })
    }
}

/// Why a request is refused. Messages are for the client.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// The rate is exceeded at present. (429)
    #[error("the rate limit of this {scope} is {} requests per second, {} at once", .rate.per_second(), .rate.burst())]
    RateLimited {
        /// Whether the key's or the org's rate is exceeded.
        scope: Scope,
        /// The rate that is exceeded.
        rate: Rate,
        /// The same request would be accepted after this time.
        retry_after: Duration,
    },
    /// The request is larger than the rate's burst, so it would never pass. (413)
    #[error(
        "a request of {items} items counts as {units} requests, and this {scope} may send {} at once; \
         send at most {} items per request", .rate.burst(), .rate.burst() as u64 * ITEMS_PER_UNIT
    )]
    TooCostly {
        /// Whether the key's or the org's rate is too small.
        scope: Scope,
        /// The rate that is too small.
        rate: Rate,
        /// Number of items in the request.
        items: u64,
        /// The cost of the request in units.
        units: i64,
    },
    /// The rate is set to 0. (403)
    #[error("this {scope} may not send anything: its rate limit is 0")]
    Forbidden {
        /// Whether the key's or the org's rate is 0.
        scope: Scope,
    },
    /// A monthly limit is reached. (402)
    #[error("the monthly limit of {limit} {} is reached ({used} used)", .meter.as_str())]
    OverQuota {
        /// The meter that has reached its limit.
        meter: Meter,
        /// The monthly limit of the meter.
        limit: u64,
        /// How much of it was used before this request.
        used: u64,
    },
}

/// The state of a key's rate limit, for the `RateLimit-*` headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimitStatus {
    /// The most units that may pass at once.
    pub limit: i64,
    /// How many units may pass now.
    pub remaining: i64,
    /// The time until `limit` units may pass again.
    pub reset: Duration,
}

/// Admits or refuses requests. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Admission {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    redis: Redis,
    local: LocalLimits,
    /// Whether a monthly limit refuses requests, or usage is only counted.
    enforces_quotas: bool,
}

impl Admission {
    /// Uses the limiters in that Redis. Without `enforces_quotas` (self-hosted), usage is counted and never refused.
    pub fn new(redis: Redis, enforces_quotas: bool) -> Self {
        Self { inner: Arc::new(Inner { redis, local: LocalLimits::new(), enforces_quotas }) }
    }

    /// Checks what can be checked before the body is read, without I/O.
    pub fn precheck(&self, tenant: &TenantContext) -> Result<(), Refused> {
        if tenant.scopes().allow(scope::INTERNAL) {
            return Ok(());
        }
        for (scope, limit) in [(Scope::Key, tenant.plan().key_limit()), (Scope::Org, tenant.plan().org_limit())] {
            if limit == Limit::Forbidden {
                return Err(Refused::Forbidden { scope });
            }
        }
        self.inner.local.check(tenant)
    }

    /// Checks all limits and charges them. On `Ok` the request may be stored; then end the [`Charge`] as kept or
    /// refunded.
    pub async fn admit(
        &self,
        tenant: &TenantContext,
        cost: Cost,
        received_at: UnixNanos,
    ) -> Result<(Charge, Option<RateLimitStatus>), Refused> {
        let (key, org) = self.rates(tenant, cost)?;
        let inner = &self.inner;
        let charged = Charged::new(tenant.org_id(), cost, received_at);
        let script = script!("admit.lua");
        let mut call = script.key(RedisKey::rate_limit(tenant.org_id(), tenant.api_key_id()));
        call.key(RedisKey::org_rate_limit(tenant.org_id())).key(&charged.recent);
        call.arg(cost.units());
        for rate in [key, org] {
            call.arg(rate.map_or(0, |rate| rate.interval_us())).arg(rate.map_or(0, |rate| rate.tolerance_us()));
        }
        call.arg(charged.minute).arg(COUNTER_TTL.as_secs());
        for (meter, counter) in Meter::INGEST.iter().zip(&charged.counters) {
            let limit = tenant.plan().monthly_limit(*meter).filter(|_| inner.enforces_quotas);
            call.key(counter).arg(meter.as_str()).arg(cost.of(*meter)).arg(limit.map_or(-1, |limit| limit as i64));
        }
        let reply: Result<Vec<i64>, RedisError> = call.invoke_async(&mut inner.redis.clone()).await;
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => {
                // This node's own limiter has accepted it, and nothing was charged.
                counter!("tracebility_admission_unchecked_total").increment(1);
                tracing::warn!(%error, "limits could not be checked; the local limiter decided alone");
                return Ok((Charge { charged: None, admission: self.clone() }, None));
            }
        };
        self.decided(tenant, key, org, charged, &reply)
    }

    /// The rates that apply to a request, `None` where there is no limit; refuses a request that would never pass.
    fn rates(&self, tenant: &TenantContext, cost: Cost) -> Result<(Option<Rate>, Option<Rate>), Refused> {
        if tenant.scopes().allow(scope::INTERNAL) {
            return Ok((None, None));
        }
        let rate = |scope, limit| match limit {
            Limit::Unlimited => Ok(None),
            Limit::Forbidden => Err(Refused::Forbidden { scope }),
            Limit::Rate(rate) if cost.units() > rate.burst() => {
                Err(Refused::TooCostly { scope, rate, items: cost.items, units: cost.units() })
            }
            Limit::Rate(rate) => Ok(Some(rate)),
        };
        Ok((rate(Scope::Key, tenant.plan().key_limit())?, rate(Scope::Org, tenant.plan().org_limit())?))
    }

    fn decided(
        &self,
        tenant: &TenantContext,
        key: Option<Rate>,
        org: Option<Rate>,
        charged: Charged,
        reply: &[i64],
    ) -> Result<(Charge, Option<RateLimitStatus>), Refused> {
        let wait = |us: i64| Duration::from_micros(us.unsigned_abs());
        let limited = |scope, rate, us| {
            let refused = Refused::RateLimited { scope, rate, retry_after: wait(us) };
            self.inner.local.remember(tenant, &refused);
            Err(refused)
        };
        match (reply, key, org) {
            (&[0, reset, remaining, ..], ..) => {
                let rate_limit = key.map(|rate| RateLimitStatus { limit: rate.burst(), remaining, reset: wait(reset) });
                Ok((Charge { charged: Some(charged), admission: self.clone() }, rate_limit))
            }
            (&[1, us, ..], Some(rate), _) => limited(Scope::Key, rate, us),
            (&[2, us, ..], _, Some(rate)) => limited(Scope::Org, rate, us),
            (&[3, index, used, ..], ..) => {
                let meter = usize::try_from(index - 1).ok().and_then(|index| Meter::INGEST.get(index)).copied();
                let meter = meter.unwrap_or(Meter::SpanIngested);
                let limit = tenant.plan().monthly_limit(meter).unwrap_or_default();
                Err(Refused::OverQuota { meter, limit, used: used.unsigned_abs() })
            }
            _ => {
                // Only a script of another version could give this reply.
                tracing::error!(?reply, "admit.lua gave an answer that it does not give");
                counter!("tracebility_admission_unchecked_total").increment(1);
                Ok((Charge { charged: None, admission: self.clone() }, None))
            }
        }
    }

    async fn refund(&self, charged: &Charged) -> Result<(), RedisError> {
        let script = script!("refund.lua");
        let mut call = script.key(&charged.recent);
        call.arg(charged.minute);
        for (meter, counter) in Meter::INGEST.iter().zip(&charged.counters) {
            call.key(counter).arg(meter.as_str()).arg(charged.cost.of(*meter));
        }
        call.invoke_async(&mut self.inner.redis.clone()).await
    }
}

/// What an admitted request was charged.
#[derive(Debug)]
struct Charged {
    cost: Cost,
    minute: i64,
    recent: RedisKey,
    counters: [RedisKey; Meter::INGEST.len()],
}

impl Charged {
    fn new(org: OrgId, cost: Cost, received_at: UnixNanos) -> Self {
        const NANOS_PER_MINUTE: i64 = 60_000_000_000;
        let period = model::meter::period(received_at);
        Self {
            cost,
            minute: received_at.div_euclid(NANOS_PER_MINUTE),
            recent: RedisKey::quota_recent(org, period),
            counters: Meter::INGEST.map(|meter| RedisKey::quota(org, period, meter.as_str())),
        }
    }
}

/// The right to store one request, already charged. End it by [`Charge::kept`] or [`Charge::refunded`].
#[must_use = "a charge ends as kept or refunded"]
#[derive(Debug)]
pub struct Charge {
    /// `None` when nothing was charged, or when the charge has ended.
    charged: Option<Charged>,
    admission: Admission,
}

impl Charge {
    /// Keeps the charge, because the request was stored.
    pub fn kept(mut self) {
        self.charged = None;
    }

    /// Refunds the charge, because the request was not stored. Best effort: the reconciler corrects a failed refund.
    pub async fn refunded(mut self) {
        let Some(charged) = self.charged.take() else { return };
        if let Err(error) = self.admission.refund(&charged).await {
            tracing::warn!(%error, "a charge could not be given back; the quota reconciler will");
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.charged.is_some() {
            // A panic between the charge and its end, or code that forgot to end it.
            counter!("tracebility_charges_dropped_total").increment(1);
        }
    }
}
