//! Dead letters from end to end: what ClickHouse refuses, what nobody can read, and what becomes of them.

use std::time::{Duration, Instant};

use load::corpus::Corpus;
use model::ids::OrgId;
use model::shard::Shard;
use queue::dlq::{DeadLetters, Listed, Reason, Replayed, Source, Walk};
use redis::AsyncCommands;
use serde_json::{Value, json};
use stores::keys::RedisKey;
use tests::{Org, STORED_WITHIN, World, now};
use uuid::Uuid;

/// What ClickHouse takes no call of.
const POISON: &str = "poison";

async fn until(what: &str, mut holds: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !holds().await? {
        anyhow::ensure!(begun.elapsed() < STORED_WITHIN, "{what} does not hold after {STORED_WITHIN:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// A run with one call in it: rows in run, span and billing_meter.
fn batch(name: &str) -> Value {
    let times = ("2026-11-21T08:00:00Z", "2026-11-21T08:00:01Z");
    let call = json!({ "span_id": Uuid::new_v4(), "name": name, "kind": "llm", "model": "m", "inputs": { "q": 1 },
                       "start_time": times.0, "end_time": times.1 });
    json!({ "schema_version": 1, "sdk": "test", "runs": [
        { "run_id": Uuid::new_v4(), "name": "run", "kind": "chain", "start_time": times.0, "end_time": times.1, "spans": [call] }
    ]})
}

async fn post(world: &World, org: &Org, name: &str) -> anyhow::Result<()> {
    let answer = world.post_runs(&org.key, &batch(name)).await?;
    anyhow::ensure!(answer.status.is_success(), "{:?}", answer.body);
    Ok(())
}

async fn letters(dead_letters: &DeadLetters) -> anyhow::Result<Vec<Listed>> {
    let (mut walk, mut all) = (Walk::new(dead_letters.clone(), Source::all()), Vec::new());
    while let Some(page) = walk.next().await? {
        all.extend(page);
    }
    Ok(all)
}

/// Rows without FINAL: run, span, and what is billed.
async fn stored(world: &World, org: &Org) -> anyhow::Result<[u64; 3]> {
    let mut counts = [0; 3];
    for (count, (what, table)) in counts.iter_mut().zip([
        ("count()", "run"),
        ("count()", "span"),
        ("sumIf(quantity, meter = 'span_ingested')", "billing_meter"),
    ]) {
        *count =
            world.clickhouse.number(&format!("SELECT {what} FROM {table} WHERE org_id = '{}'", org.org_id)).await?;
    }
    Ok(counts)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_that_clickhouse_refuses_is_dead_lettered_alone_and_replayed_once() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    let org = world.org("poisoned").await?;
    // Another org of the same shard, so of the same batch.
    let home = Shard::home(org.org_id);
    let neighbour = std::iter::repeat_with(|| OrgId(Uuid::new_v4())).find(|id| Shard::home(*id) == home);
    let neighbour = world.org_with_id(neighbour.unwrap(), "neighbour").await?;
    let (mut redis, dead_letters) = (world.redis().await?, DeadLetters::new(world.redis().await?));
    world.clickhouse.text(&format!("ALTER TABLE span ADD CONSTRAINT no_poison CHECK name != '{POISON}'")).await?;
    world.worker.stop().await?;
    for name in ["good", POISON, "good"] {
        post(&world, &org, name).await?;
        post(&world, &neighbour, "good").await?;
    }
    world.worker.start().await?;
    world.until_drained().await?;
    assert_eq!(stored(&world, &neighbour).await?, [3, 3, 6]);
    let [runs, spans, billed] = stored(&world, &org).await?;
    assert_eq!((runs, spans, billed), (3, 2, 4), "the run is stored, what comes after the refusal is not");
    let [letter] = &letters(&dead_letters).await?[..] else { panic!("one letter") };
    let description = &letter.description;
    assert_eq!((letter.id.source, description.org), (Source::Shard(home), Some(org.org_id)));
    assert_eq!((description.reason, description.code, description.items), (Reason::Refused, 469, 2));

    // Counted and told.
    let outcome = async || {
        let fields: Vec<(String, u64)> =
            redis.hgetall(RedisKey::outcomes(Some(org.org_id), stores::clock::unix_hour())).await?;
        Ok(fields.iter().any(|(field, items)| field.ends_with(":dead_lettered:refused") && *items == 2))
    };
    until("the outcome is counted", outcome).await?;
    let registry = world.registry().await?;
    until("the trail has it", async || {
        let events = registry.events(org.org_id, 100).await?;
        let wanted = json!([{ "reason": "refused", "code": 469, "envelopes": 1, "items": 2 }]);
        Ok(events.iter().any(|event| event.event_type == "dlq.dead_lettered" && event.detail["dead_letters"] == wanted))
    })
    .await?;

    // Refused again, it is a letter again.
    let (read, key) = (dead_letters.read(letter.id).await?.unwrap(), registry.envelope_key().await?);
    assert!(matches!(dead_letters.replay(&read, &key).await?, Replayed::Sent));
    until("it is refused again", async || {
        Ok(letters(&dead_letters).await?.first().is_some_and(|again| again.id != letter.id))
    })
    .await?;
    assert_eq!(stored(&world, &org).await?, [3, 2, 4]);

    world.clickhouse.text("ALTER TABLE span DROP CONSTRAINT no_poison").await?;
    let [again] = &letters(&dead_letters).await?[..] else { panic!("one letter") };
    assert_eq!((again.received_at, &again.description.tables), (letter.received_at, &description.tables));
    let read = dead_letters.read(again.id).await?.unwrap();
    assert!(matches!(dead_letters.replay(&read, &key).await?, Replayed::Sent));
    assert!(matches!(dead_letters.replay(&read, &key).await?, Replayed::Gone));
    world.until_drained().await?;
    assert_eq!(stored(&world, &org).await?, [3, 3, 6], "each row once");
    assert_eq!(stored(&world, &neighbour).await?, [3, 3, 6]);
    assert_eq!(letters(&dead_letters).await?, []);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_without_room_for_dead_letters_waits_and_no_other_does() -> anyhow::Result<()> {
    let world = World::start_with(&[], &[("TRACEBILITY_DLQ_BYTES_MAX", "64KiB")]).await?;
    let stuck = world.org("stuck").await?;
    let home = Shard::home(stuck.org_id);
    let free = std::iter::repeat_with(|| OrgId(Uuid::new_v4())).find(|id| Shard::home(*id) != home);
    let free = world.org_with_id(free.unwrap(), "free").await?;
    let (mut redis, dead_letters) = (world.redis().await?, DeadLetters::new(world.redis().await?));
    let (source, stream) = (Source::Shard(home), RedisKey::shard_stream(home));
    let garbage = "x".repeat(40 << 10);
    for _ in 0..2 {
        let _: String = redis.xadd(&stream, "*", &[("e", garbage.as_str())]).await?;
    }
    until("the dead letters are full", async || Ok(dead_letters.size(source).await?.0 == 1)).await?;
    let send = async |org: &Org, seed| {
        let answer = world.post_otlp(&org.key, Corpus::new(seed).request(5, now()).body).await?;
        anyhow::ensure!(answer.status.is_success());
        anyhow::Ok(())
    };
    send(&stuck, 1).await?;
    send(&free, 2).await?;
    let count = |org: &Org| format!("SELECT count() FROM span WHERE org_id = '{}'", org.org_id);
    world.until_number(&count(&free), 5).await?;
    assert_eq!(dead_letters.size(source).await?.0, 1, "no more than there is room for");
    assert_eq!(redis.xlen::<_, u64>(&stream).await?, 2, "and nothing is lost");
    assert_eq!(world.clickhouse.number(&count(&stuck)).await?, 0);

    let [full] = &letters(&dead_letters).await?[..] else { panic!("one letter") };
    assert!(dead_letters.drop(full).await?);
    world.until_number(&count(&stuck), 5).await?;
    world.until_drained().await?;
    let (held, bytes) = dead_letters.size(source).await?;
    assert!(held == 1 && bytes > garbage.len() as u64, "the second took the first one's place: {held}, {bytes}");
    Ok(())
}
