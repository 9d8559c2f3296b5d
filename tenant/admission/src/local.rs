//! What this node knows about limits without asking Redis: earlier refusals until they end, and a limiter per key.
//!
//! Both are bounded caches. A lost entry only costs one round trip to Redis.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use auth::TenantContext;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use model::ids::{ApiKeyId, OrgId};
use model::rate::{Limit, Rate};
use quick_cache::sync::Cache;

use super::{Refused, Scope};

/// The most keys with a limiter on this node.
pub(super) const KEY_LIMITERS_MAX: usize = 100_000;
/// The most refusals that are remembered, per kind.
pub(super) const REFUSALS_MAX: usize = 100_000;

pub(super) struct LocalLimits {
    /// The plan's rate, per key, on this node alone. The rate is part of the cache key, so that a changed plan gets a
    /// new limiter.
    limiters: Cache<(ApiKeyId, Rate), Arc<DefaultDirectRateLimiter>>,
    refused_keys: Cache<ApiKeyId, RefusedUntil>,
    refused_orgs: Cache<OrgId, RefusedUntil>,
    clock: DefaultClock,
}

impl std::fmt::Debug for LocalLimits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalLimits").field("limiters", &self.limiters.len()).finish_non_exhaustive()
    }
}

/// A refusal and when it ends. It applies only to the rate that caused it, because the plan may change meanwhile.
#[derive(Clone, Copy)]
struct RefusedUntil {
    at: Instant,
    rate: Rate,
}

impl LocalLimits {
    pub(super) fn new() -> Self {
        Self {
            limiters: Cache::new(KEY_LIMITERS_MAX),
            refused_keys: Cache::new(REFUSALS_MAX),
            refused_orgs: Cache::new(REFUSALS_MAX),
            clock: DefaultClock::default(),
        }
    }

    /// Remembers a refusal by Redis, until Redis would allow the request.
    pub(super) fn remember(&self, tenant: &TenantContext, refused: &Refused) {
        let Refused::RateLimited { scope, rate, retry_after } = *refused else { return };
        let until = RefusedUntil { at: Instant::now() + retry_after, rate };
        match scope {
            Scope::Key => self.refused_keys.insert(tenant.api_key_id(), until),
            Scope::Org => self.refused_orgs.insert(tenant.org_id(), until),
        }
    }

    /// Refuses what Redis would refuse, as far as this node knows.
    pub(super) fn check(&self, tenant: &TenantContext) -> Result<(), Refused> {
        let plan = tenant.plan();
        let remembered = [
            (Scope::Key, plan.key_limit(), self.refused_keys.get(&tenant.api_key_id())),
            (Scope::Org, plan.org_limit(), self.refused_orgs.get(&tenant.org_id())),
        ];
        for (scope, limit, until) in remembered {
            if let (Limit::Rate(rate), Some(until)) = (limit, until)
                && until.rate == rate
            {
                let retry_after = until.at.saturating_duration_since(Instant::now());
                if !retry_after.is_zero() {
                    return Err(Refused::RateLimited { scope, rate, retry_after });
                }
            }
        }
        match plan.key_limit() {
            Limit::Rate(rate) => self.pass(tenant.api_key_id(), rate),
            Limit::Unlimited | Limit::Forbidden => Ok(()),
        }
    }

    /// Takes one unit from the key's limiter on this node.
    fn pass(&self, key: ApiKeyId, rate: Rate) -> Result<(), Refused> {
        let limiter = match self.limiters.get(&(key, rate)) {
            Some(limiter) => limiter,
            None => {
                let limiter = Arc::new(RateLimiter::direct(quota(rate)));
                self.limiters.insert((key, rate), Arc::clone(&limiter));
                limiter
            }
        };
        limiter.check().map_err(|until| {
            let retry_after = until.wait_time_from(self.clock.now());
            Refused::RateLimited { scope: Scope::Key, rate, retry_after }
        })
    }
}

fn quota(rate: Rate) -> Quota {
    let interval = Duration::from_micros(rate.interval_us().unsigned_abs());
    let burst = u32::try_from(rate.burst()).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
    // An interval is at least 1 µs, so the quota is never the fallback.
    Quota::with_period(interval).unwrap_or(Quota::per_second(NonZeroU32::MIN)).allow_burst(burst)
}
