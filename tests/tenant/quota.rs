//! Parked envelopes in real Redis, on one node and on a cluster: kept once, released once, whoever repeats what and
//! however late.

use model::entry_id::EntryId;
use model::ids::{ApiKeyId, EnvelopeId, OrgId, ProjectId, WorkspaceId};
use model::meter::{Meter, period};
use model::org::OverQuota;
use model::shard::Shard;
use queue::appender::ShardAppender;
use quota::{ParkedAmount, ParkedEnvelopes, ParkedId};
use redis::AsyncCommands;
use redis::streams::StreamRangeReply;
use registry::{Limit, LimitChange, LimitEdit};
use service::settings::parse;
use stack::RedisCluster;
use stores::keys::RedisKey;
use stores::redis::{Redis, connect};
use uuid::Uuid;
use wire::envelope::{ContentId, ENVELOPE_KEY_BYTES, Envelope, EnvelopeKey, Header, Source, Verified, Writer};
use wire::tables::BillingRows;

use crate::support::{World, empty};

/// A moment in November 2026.
const AT: i64 = 1_795_262_400_000_000_000;

fn redis(url: &str) -> Redis {
    connect(&parse::redis_url(url).unwrap()).unwrap()
}

/// An envelope of nothing but what it is billed for.
pub(crate) fn envelope(key: &EnvelopeKey, org: OrgId, items: u64) -> Vec<u8> {
    let header = Header {
        envelope_id: EnvelopeId(Uuid::new_v4()),
        org_id: org,
        workspace_id: WorkspaceId(Uuid::nil()),
        project_id: ProjectId(Uuid::nil()),
        api_key_id: ApiKeyId(Uuid::nil()),
        content_id: ContentId::NONE,
        received_at: AT,
        source: Source::Native,
    };
    let mut bills = BillingRows::default();
    bills.push(header.project_id, header.api_key_id, header.envelope_id, AT, Meter::SpanIngested, items);
    let mut writer = Writer::new(&header, 0);
    writer.section(&bills);
    writer.finish(key)
}

fn id(shard: u8, ms: u64) -> ParkedId {
    ParkedId { shard: Shard::new(shard).unwrap(), entry: EntryId::new(ms, 0) }
}

async fn waiting(redis: &Redis, shard: Shard) -> Vec<Vec<u8>> {
    let all: StreamRangeReply = redis.clone().xrange_all(RedisKey::shard_stream(shard)).await.unwrap();
    all.ids.iter().map(|entry| entry.get("e").unwrap()).collect()
}

async fn parked_once_and_released_once(redis: Redis) {
    let (parked, org, here) = (ParkedEnvelopes::new(redis.clone()), OrgId(Uuid::new_v4()), id(3, 7));
    let key = &EnvelopeKey::new(&[1; ENVELOPE_KEY_BYTES]);
    let verified = |bytes: Vec<u8>| Verified::check(key, bytes).unwrap();
    let bytes = envelope(key, org, 5);
    for _ in 0..2 {
        parked.park(org, here, &bytes).await.unwrap();
        assert_eq!(parked.amount(org).await.unwrap(), ParkedAmount { envelopes: 1, bytes: bytes.len() as u64 });
    }
    parked.park(org, id(3, 8), &envelope(key, org, 1)).await.unwrap();
    parked.park(org, id(12, 1), &envelope(key, org, 1)).await.unwrap();
    assert_eq!(parked.ids(org).await.unwrap(), [here, id(3, 8), id(12, 1)]);
    assert_eq!(parked.ids(OrgId(Uuid::new_v4())).await.unwrap(), []);

    // It goes back to where it comes from, also if its org has moved away from there.
    ShardAppender::new(redis.clone()).close(here.shard, org, 1).await.unwrap().unwrap();
    let read = parked.read(org, here).await.unwrap().unwrap();
    assert_eq!(read, bytes);
    // Twice, as by two at once or after a crash; and parked again by a worker that comes late.
    for _ in 0..2 {
        parked.release(org, here, &verified(read.clone()), key).await.unwrap();
        parked.park(org, here, &bytes).await.unwrap();
    }
    parked.end_releases(org).await.unwrap();
    let [released] = waiting(&redis, here.shard).await.try_into().unwrap();
    let (released, before) = (Envelope::decode(key, &released).unwrap(), Envelope::decode(key, &bytes).unwrap());
    assert!(released.is_exempt && !before.is_exempt && released.header == before.header);
    assert_eq!(parked.ids(org).await.unwrap(), [id(3, 8), id(12, 1)]);

    // One that died when the envelope was in its stream, but still among the parked ones; and one a step later.
    let dying = id(3, 8);
    let read = parked.read(org, dying).await.unwrap().unwrap();
    parked.release(org, dying, &verified(read.clone()), key).await.unwrap();
    let (hash, released): (RedisKey, RedisKey) = (RedisKey::quota_parked(org), RedisKey::quota_released(org));
    let _: () = redis.clone().hset(&hash, dying.to_string(), &read).await.unwrap();
    let _: () = redis.clone().zrem(&released, dying.to_string()).await.unwrap();
    parked.release(org, dying, &verified(read), key).await.unwrap();
    let _: () = redis.clone().zadd(&released, dying.to_string(), "+inf").await.unwrap();
    parked.end_releases(org).await.unwrap();
    assert_eq!(waiting(&redis, dying.shard).await.len(), 2, "it is there once");
    let score: f64 = redis.clone().zscore(&released, dying.to_string()).await.unwrap();
    assert!(score.is_finite());

    let read = parked.read(org, id(12, 1)).await.unwrap().unwrap();
    parked.release(org, id(12, 1), &verified(read), key).await.unwrap();
    assert_eq!(parked.amount(org).await.unwrap().envelopes, 0);
}

#[tokio::test]
async fn an_envelope_is_parked_once_and_released_once_on_a_node() {
    let db = empty().await;
    parked_once_and_released_once(redis(&db.redis_url)).await;
}

#[tokio::test]
async fn an_envelope_is_parked_once_and_released_once_on_a_cluster() {
    let cluster = RedisCluster::start().await.unwrap();
    parked_once_and_released_once(redis(cluster.url())).await;
}

#[tokio::test]
async fn the_over_quota_policy_is_set_per_org_and_audited() {
    let world = World::new().await;
    let org = world.org.org_id;
    assert_eq!(world.registry.limits(org).await.unwrap().over_quota, OverQuota::Park);
    let change = |over_quota| LimitChange { over_quota, ..LimitChange::default() };
    assert!(!world.registry.set_limits(org, &change(Some(OverQuota::Park))).await.unwrap(), "it is so already");
    assert!(world.registry.set_limits(org, &change(Some(OverQuota::Drop))).await.unwrap());
    let other = LimitChange { rps: LimitEdit::Set(Limit::AtMost(7)), ..change(None) };
    assert!(world.registry.set_limits(org, &other).await.unwrap());
    assert_eq!(world.registry.limits(org).await.unwrap().over_quota, OverQuota::Drop, "another limit leaves it");
    let events = world.registry.events(org, 10).await.unwrap();
    let policy_change = events.iter().find(|event| event.detail["new"]["over_quota"] == "drop").unwrap();
    assert_eq!(
        (policy_change.event_type.as_str(), &policy_change.detail["old"]["over_quota"]),
        ("org.limits", &"drop".into())
    );
    let first = events.iter().rfind(|event| event.event_type == "org.limits").unwrap();
    assert_eq!(first.detail["old"]["over_quota"], "park");
}

/// A change of limits takes back at once what was said about an org that was over them.
#[tokio::test]
async fn a_raised_limit_clears_the_over_quota_flag_at_once() {
    let world = World::new().await;
    let (org, redis) = (world.org.org_id, redis(&world.db.redis_url));
    let registry = world.registry.clone().announcing(auth::invalidate::Invalidator::new(redis.clone()));
    let now = i64::try_from(time::OffsetDateTime::now_utc().unix_timestamp_nanos()).unwrap();
    let key = RedisKey::quota_over(org, period(now));
    let _: () = redis.clone().set(&key, "span_ingested! drop").await.unwrap();
    assert_eq!(quota::read(&redis, org, period(now)).await.unwrap(), Some(OverQuota::Drop));
    let limits = vec![(model::meter::Meter::SpanIngested, LimitEdit::Set(Limit::AtMost(1_000)))];
    registry.set_limits(org, &LimitChange { meters: limits, ..LimitChange::default() }).await.unwrap();
    assert_eq!(quota::read(&redis, org, period(now)).await.unwrap(), None);
}
