//! Whether everything that was accepted is somewhere: exactly, wherever it is and whoever was killed; and that what
//! somebody takes away is noticed.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use ledger::{Balance, Hours, LedgerReader, SCAN_ENTRIES_MAX, Scope};
use load::corpus::Corpus;
use model::meter::Meter;
use model::shard::Shard;
use queue::appender::{Accepted, Appended, ShardAppender};
use queue::arrival::{Arrivals, Place};
use queue::dlq::{DeadLetters, Source, Walk};
use redis::AsyncCommands;
use registry::{Limit, LimitChange, LimitEdit};
use serde_json::{Value, json};
use service::settings::parse;
use stores::clickhouse::Records;
use stores::clock::unix_hour;
use stores::keys::RedisKey;
use tests::{Org, STORED_WITHIN, World, now};
use uuid::Uuid;

/// An alarm at the second look.
const AT_ONCE: [(&str, &str); 3] = [
    ("TRACEBILITY_LEDGER_EVERY", "100ms"),
    ("TRACEBILITY_LEDGER_SETTLE", "0ms"),
    ("TRACEBILITY_AUDIT_PUBLISH_EVERY", "50ms"),
];

async fn until(what: &str, mut holds: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !holds().await? {
        anyhow::ensure!(begun.elapsed() < STORED_WITHIN, "{what} does not hold after {STORED_WITHIN:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

pub(crate) async fn books(world: &World) -> anyhow::Result<LedgerReader> {
    let clickhouse = parse::clickhouse_url(&world.urls.clickhouse_url).map_err(anyhow::Error::msg)?;
    Ok(LedgerReader::new(world.redis().await?, Records::new(&clickhouse)))
}

/// An org's items of the last hours, so that a test may run over the end of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    accepted: u64,
    stored: u64,
    parked: u64,
    over_quota: u64,
    letters: u64,
    dropped_letters: u64,
    in_flight: u64,
    imbalance: i64,
}

impl Sums {
    fn of(balance: &Balance) -> Self {
        balance.rows.iter().fold(Self::default(), |sum, row| Self {
            accepted: sum.accepted + row.amounts.accepted,
            stored: sum.stored + row.amounts.stored,
            parked: sum.parked + row.amounts.withheld.parked,
            over_quota: sum.over_quota + row.amounts.withheld.dropped,
            letters: sum.letters + row.amounts.dead_lettered.held,
            dropped_letters: sum.dropped_letters + row.amounts.dead_lettered.dropped,
            in_flight: sum.in_flight + row.amounts.in_flight,
            imbalance: sum.imbalance + row.amounts.imbalance,
        })
    }
}

async fn sums(world: &World, org: &Org) -> anyhow::Result<Sums> {
    let balance = books(world).await?.balance(Scope::Org(org.org_id), &Hours::up_to(unix_hour(), 3)).await?;
    assert!(balance.is_complete, "{balance:?}");
    Ok(Sums::of(&balance))
}

async fn send(world: &World, org: &Org, spans: usize) -> anyhow::Result<()> {
    let answer = world.post_otlp(&org.key, Corpus::new(now()).request(spans, now()).body).await?;
    anyhow::ensure!(answer.status.is_success(), "{answer:?}");
    Ok(())
}

/// Two good items, one that cannot be read.
fn native(name: &str) -> Value {
    let times = ("2026-11-21T08:00:00Z", "2026-11-21T08:00:01Z");
    let call =
        json!({ "span_id": Uuid::new_v4(), "name": name, "kind": "llm", "start_time": times.0, "end_time": times.1 });
    json!({ "schema_version": 1, "sdk": "test", "runs": [
        { "run_id": Uuid::new_v4(), "name": "run", "kind": "chain", "start_time": times.0, "end_time": times.1, "spans": [call] },
        { "name": "it has no id" },
    ]})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_balances_wherever_items_are_and_whichever_process_is_killed() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    let (org, other) = (world.org("balanced").await?, world.org("another").await?);
    world.clickhouse.text("ALTER TABLE span ADD CONSTRAINT no_poison CHECK name != 'poison'").await?;
    world.worker.stop().await?;
    send(&world, &org, 30).await?;
    send(&world, &other, 7).await?;
    for name in ["good", "poison"] {
        assert_eq!(world.post_runs(&org.key, &native(name)).await?.status, StatusCode::ACCEPTED);
    }
    let run = json!({ "id": Uuid::new_v4(), "name": "r", "run_type": "chain", "start_time": "2026-11-21T08:00:00Z" });
    let langsmith = format!("{}/runs", world.api.url());
    let posted = world.http.post(&langsmith, &org.key, "application/json", run.to_string()).await?;
    assert!(posted.status.is_success(), "{posted:?}");
    // What was accepted is known without the API's help, however it ends.
    world.api.kill().await?;
    let queued = Sums { accepted: 35, in_flight: 35, ..Sums::default() };
    assert_eq!(sums(&world, &org).await?, queued, "while in flight");
    world.api.start().await?;

    world.worker.start().await?;
    for _ in 0..3 {
        send(&world, &org, 5).await?;
        world.worker.kill().await?;
        world.worker.start().await?;
    }
    world.until_drained().await?;
    let stored = Sums { accepted: 50, stored: 48, letters: 2, ..Sums::default() };
    assert_eq!(sums(&world, &org).await?, stored, "the poisoned one is a dead letter");
    assert_eq!(sums(&world, &other).await?, Sums { accepted: 7, stored: 7, ..Sums::default() });

    let dead_letters = DeadLetters::new(world.redis().await?);
    let letter = Walk::new(dead_letters.clone(), Source::all()).next().await?.unwrap().remove(0);
    assert!(dead_letters.drop(&letter).await?);
    let dropped = Sums { letters: 0, dropped_letters: 2, ..stored };
    assert_eq!(sums(&world, &org).await?, dropped);

    // The operators' endpoint says the same.
    let ask = async |query: &str, key: &str| {
        let url = format!("{}/v1/admin/ledger{query}", world.api.operator_url());
        world.http.send(Method::GET, &url, &[("authorization", &format!("Bearer {key}"))], "").await
    };
    let reply = ask(&format!("?org={}&hours=3", org.org_id), world.api.admin_key()).await?.json()?;
    let accepted: u64 =
        reply["rows"].as_array().unwrap().iter().map(|row| row["row"]["accepted"].as_u64().unwrap()).sum();
    assert_eq!((accepted, &reply["imbalance"], &reply["is_complete"]), (50, &json!(0), &json!(true)), "{reply}");
    let all = ask("", world.api.admin_key()).await?.json()?;
    let orgs: Vec<_> = all["rows"].as_array().unwrap().iter().map(|row| &row["row"]["org_id"]).collect();
    assert!(orgs.contains(&&json!(org.org_id)) && orgs.contains(&&json!(other.org_id)), "{all}");
    assert_eq!(ask("?hours=0", world.api.admin_key()).await?.status, StatusCode::BAD_REQUEST);
    assert_eq!(ask("", &org.key).await?.status, StatusCode::UNAUTHORIZED);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_or_doubled_items_are_an_imbalance_and_an_alarm() -> anyhow::Result<()> {
    let mut world = World::start_with(&[], &AT_ONCE).await?;
    let names = ["loses-rows", "loses-an-entry", "is-doubled", "is-whole"];
    let mut orgs = Vec::new();
    for name in names {
        orgs.push(world.org(name).await?);
    }
    let [rows, entry, doubled, whole] = &orgs[..] else { panic!("four") };
    for org in [rows, doubled, whole] {
        send(&world, org, 10).await?;
        send(&world, org, 4).await?;
    }
    world.until_drained().await?;
    // From here on somebody watches, and nobody stores.
    world.worker.stop().await?;
    world.worker.set_env("TRACEBILITY_WORKER_ROLES", "ledger,audit");
    world.worker.start().await?;
    send(&world, entry, 6).await?;

    let stream = RedisKey::shard_stream(Shard::home(entry.org_id));
    let mut redis = world.redis().await?;
    let waiting: redis::streams::StreamRangeReply = redis.xrange_all(&stream).await?;
    let gone: u64 = redis.xdel(&stream, &[&waiting.ids[0].id]).await?;
    assert_eq!(gone, 1);
    let of = |org: &Org, meter: &str| format!("org_id = '{}' AND meter = '{meter}' AND quantity = 10", org.org_id);
    let delete =
        format!("ALTER TABLE billing_meter DELETE WHERE {} SETTINGS mutations_sync = 1", of(rows, "span_ingested"));
    world.clickhouse.text(&delete).await?;
    // A merge would make one of the two.
    world.clickhouse.text("SYSTEM STOP MERGES billing_meter").await?;
    let double =
        format!("INSERT INTO billing_meter SELECT * FROM billing_meter WHERE {}", of(doubled, "span_ingested"));
    world.clickhouse.text(&double).await?;

    for (org, imbalance) in [(rows, 10), (entry, 6), (doubled, -10), (whole, 0)] {
        assert_eq!(sums(&world, org).await?.imbalance, imbalance);
    }
    let registry = world.registry().await?;
    for (org, imbalance) in [(rows, 10), (entry, 6), (doubled, -10)] {
        until("the alarm is in the trail", async || {
            let events = registry.events(org.org_id, 100).await?;
            Ok(events
                .iter()
                .any(|event| event.event_type == "ledger.imbalance" && event.detail["imbalance"] == imbalance))
        })
        .await?;
    }
    let metrics = async || -> anyhow::Result<String> {
        let answer = world.http.send(Method::GET, &format!("{}/metrics", world.worker.url()), &[], "").await?;
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    };
    until("the gauges say it", async || {
        let text = metrics().await?;
        Ok(text.contains("tracebility_ledger_imbalance 26") && text.contains("tracebility_ledger_imbalance_orgs 3"))
    })
    .await?;
    let alarms = async |org: &Org| -> anyhow::Result<usize> {
        let events = registry.events(org.org_id, 100).await?;
        Ok(events.iter().filter(|event| event.event_type == "ledger.imbalance").count())
    };
    assert_eq!((alarms(rows).await?, alarms(whole).await?), (1, 0), "once, and only where something is wrong");

    // What comes back ends it.
    let restore = format!(
        "INSERT INTO billing_meter (org_id, project_id, envelope_id, meter, period, quantity, received_at)
         SELECT org_id, project_id, generateUUIDv4(), meter, period, 10, received_at FROM billing_meter
          WHERE org_id = '{}' AND meter = 'span_ingested' LIMIT 1",
        rows.org_id
    );
    world.clickhouse.text(&restore).await?;
    until("the gauges say that it is back", async || Ok(metrics().await?.contains("tracebility_ledger_imbalance 16")))
        .await
}

/// Alarms of an org, by how much is missing.
async fn alarms(world: &World, org: &Org) -> anyhow::Result<Vec<i64>> {
    let events = world.registry().await?.events(org.org_id, 100).await?;
    let imbalances = events.iter().filter(|event| event.event_type == "ledger.imbalance");
    Ok(imbalances.filter_map(|event| event.detail["imbalance"].as_i64()).collect())
}

async fn answered(world: &World) -> anyhow::Result<u64> {
    world.clickhouse.number("SELECT sum(items) FROM answered FINAL").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_loses_entries_with_their_counts_is_noticed() -> anyhow::Result<()> {
    let mut world = World::start_with(&[("TRACEBILITY_ANSWERED_EVERY", "100ms")], &AT_ONCE).await?;
    let (loses, whole) = (world.org("loses").await?, world.org("loses-nothing").await?);
    for org in [&loses, &whole] {
        send(&world, org, 10).await?;
    }
    world.until_drained().await?;
    // From here on somebody watches, and nobody stores.
    world.worker.stop().await?;
    world.worker.set_env("TRACEBILITY_WORKER_ROLES", "ledger,audit");
    world.worker.start().await?;
    send(&world, &loses, 6).await?;
    until("what was answered for is written down", async || Ok(answered(&world).await? == 26)).await?;
    assert_eq!(sums(&world, &loses).await?.imbalance, 0);

    redis::cmd("FLUSHDB").exec_async(&mut world.redis().await?).await?;
    let lost = Sums { stored: 10, imbalance: 6, ..Sums::default() };
    assert_eq!(sums(&world, &loses).await?, lost, "Redis knows nothing of it any more");
    assert_eq!(sums(&world, &whole).await?.imbalance, 0, "only counts were lost of that one");
    until("the alarm is in the trail", async || Ok(alarms(&world, &loses).await? == [6])).await?;
    assert_eq!(alarms(&world, &whole).await?, [0; 0]);

    // An API that is killed has not written all down: then less is known, and nothing is called missing.
    world.api.kill().await?;
    world.api.set_env("TRACEBILITY_ANSWERED_EVERY", "1h");
    world.api.start().await?;
    send(&world, &whole, 5).await?;
    world.api.kill().await?;
    assert_eq!(answered(&world).await?, 26);
    assert_eq!(sums(&world, &whole).await?, Sums { accepted: 5, stored: 10, in_flight: 5, ..Sums::default() });
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_alarm_is_raised_while_items_move() -> anyhow::Result<()> {
    let mut world = World::start_with(&[("TRACEBILITY_ANSWERED_EVERY", "100ms")], &AT_ONCE).await?;
    let mut orgs = Vec::new();
    for number in 0..6 {
        orgs.push(world.org(&format!("moves-{number}")).await?);
    }
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(6) {
        for org in &orgs {
            send(&world, org, 3).await?;
        }
    }
    world.worker.kill().await?;
    world.worker.start().await?;
    world.until_drained().await?;
    for org in &orgs {
        assert_eq!((alarms(&world, org).await?, sums(&world, org).await?.imbalance), (Vec::new(), 0));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_balances_on_a_cluster() -> anyhow::Result<()> {
    let db = stack::shared().await?.fresh_database().await?;
    let cluster = stack::RedisCluster::start().await?;
    let urls = stack::Urls { redis_url: cluster.url().to_owned(), ..(*db).clone() };
    let mut world = World::on(&urls, &[], &[]).await?;
    let mut orgs = Vec::new();
    for number in 0..6 {
        orgs.push(world.org(&format!("org-{number}")).await?);
        send(&world, &orgs[number], 10).await?;
    }
    world.until_drained().await?;
    world.worker.stop().await?;
    send(&world, &orgs[0], 3).await?;
    let balance = books(&world).await?.balance(Scope::Everyone, &Hours::up_to(unix_hour(), 3)).await?;
    let sums = Sums::of(&balance);
    assert_eq!(sums, Sums { accepted: 63, stored: 60, in_flight: 3, ..Sums::default() }, "{balance:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn envelopes_parked_or_dropped_over_quota_are_no_imbalance() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    let org = world.org("over-quota").await?;
    world.worker.stop().await?;
    send(&world, &org, 9).await?;
    send(&world, &org, 4).await?;
    // As a worker parks an envelope: the copy first, then the entry goes.
    let mut redis = world.redis().await?;
    let stream = RedisKey::shard_stream(Shard::home(org.org_id));
    let waiting: redis::streams::StreamRangeReply = redis.xrange_all(&stream).await?;
    let [parked, dropped] = &waiting.ids[..] else { panic!("{waiting:?}") };
    let envelope: Vec<u8> = parked.get("e").unwrap();
    let _: () = redis.hset(RedisKey::quota_parked(org.org_id), format!("0/{}", parked.id), envelope).await?;
    assert_eq!(sums(&world, &org).await?.imbalance, 0, "in two places for a moment");
    let field = outcomes::field("0/1-0", outcomes::Outcome::OverQuota, outcomes::DROPPED);
    let _: () = redis.hset(RedisKey::outcomes(Some(org.org_id), unix_hour()), field, 4).await?;
    let _: u64 = redis.xdel(&stream, &[&parked.id, &dropped.id]).await?;
    let aside = Sums { accepted: 13, parked: 9, over_quota: 4, ..Sums::default() };
    assert_eq!(sums(&world, &org).await?, aside);

    // What comes from the legacy stream is accepted when it arrives, once; what comes back is not accepted again.
    let envelope: Vec<u8> = parked.get("e").unwrap();
    let (arrivals, shard) = (Arrivals::new(redis.clone()), Shard::home(org.org_id));
    for _ in 0..2 {
        let arrived = arrivals.append(Place::Shard(shard, org.org_id), "from elsewhere", "e", &envelope).await?;
        assert_eq!(arrived, Appended::Kept);
    }
    let arrived = Sums { accepted: 22, in_flight: 9, ..aside };
    assert_eq!(sums(&world, &org).await?, arrived);
    let _: u64 = redis.hdel(RedisKey::quota_parked(org.org_id), format!("0/{}", parked.id)).await?;
    assert_eq!(arrivals.append(Place::Back(shard), "released", "e", &envelope).await?, Appended::Kept);
    assert_eq!(sums(&world, &org).await?, Sums { parked: 0, in_flight: 18, ..arrived });
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_imbalance_is_reported_when_not_all_entries_were_counted() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    let org = world.org("deep").await?;
    let shard = Shard::home(org.org_id);
    world.worker.stop().await?;
    let mut redis = world.redis().await?;
    let stream = RedisKey::shard_stream(shard);
    for _ in 0..SCAN_ENTRIES_MAX / 1_000 + 1 {
        let mut pipe = redis::pipe();
        for _ in 0..1_000 {
            pipe.cmd("XADD").arg(&stream).arg("*").arg("e").arg("not an envelope").ignore();
        }
        pipe.query_async::<()>(&mut redis).await?;
    }
    send(&world, &org, 5).await?;
    let balance = books(&world).await?.balance(Scope::Org(org.org_id), &Hours::up_to(unix_hour(), 3)).await?;
    assert_eq!((balance.is_complete, balance.imbalance()), (false, 0), "{balance:?}");
    assert!(balance.unreadable >= SCAN_ENTRIES_MAX, "{balance:?}");
    assert_eq!(Sums::of(&balance), Sums { accepted: 5, ..Sums::default() });
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_to_a_closed_shard_does_not_count_as_accepted() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    world.worker.stop().await?;
    let org = world.org("moving").await?;
    let (shard, fence) = (Shard::new(3).unwrap(), ShardAppender::new(world.redis().await?));
    let new = Accepted { org: org.org_id, received_at: i64::try_from(now())?, items: 5, envelope: b"any" };
    assert_eq!(fence.append(shard, &new).await?, Appended::Kept);
    fence.close(shard, org.org_id, 1).await?;
    assert_eq!(fence.append(shard, &new).await?, Appended::Closed);
    let key = RedisKey::shard_accepted(shard, stores::clock::hour_of(new.received_at));
    let mut redis = world.redis().await?;
    let (count, seconds): (u64, i64) = (redis.hget(&key, org.org_id.to_string()).await?, redis.ttl(&key).await?);
    assert_eq!(count, 5, "the second was taken out again");
    assert!(seconds > 0, "it is not kept for ever");
    Ok(())
}

/// A client that is refused sends all of it again: then what is bad in it is counted, once.
#[tokio::test(flavor = "multi_thread")]
async fn rejected_items_are_counted_once_when_a_refused_request_is_retried() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    let org = world.org("refused").await?;
    let meters = vec![(Meter::SpanIngested, LimitEdit::Set(Limit::AtMost(3)))];
    world.registry().await?.set_limits(org.org_id, &LimitChange { meters, ..LimitChange::default() }).await?;
    assert_eq!(world.post_runs(&org.key, &native("a")).await?.status, StatusCode::ACCEPTED);
    assert_eq!(world.post_runs(&org.key, &native("b")).await?.status, StatusCode::PAYMENT_REQUIRED);
    // The last sums are written when the process ends.
    world.api.stop().await?;
    let mut redis = world.redis().await?;
    let mut counted = std::collections::BTreeMap::<String, u64>::new();
    for hour in Hours::up_to(unix_hour(), 2).iter() {
        let fields: Vec<(String, u64)> = redis.hgetall(RedisKey::outcomes(Some(org.org_id), hour)).await?;
        for (field, items) in fields {
            *counted.entry(field.split_once(':').unwrap().1.to_owned()).or_default() += items;
        }
    }
    let wanted = [("accepted:appended", 2), ("over_quota:over_quota", 3), ("rejected:set_aside", 1)];
    assert_eq!(counted, wanted.map(|(what, items)| (what.to_owned(), items)).into());
    Ok(())
}
