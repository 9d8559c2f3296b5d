//! Only envelopes that this deployment has written are believed, and the same content is recognised.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use load::client::Answer;
use load::corpus::Corpus;
use model::shard::Shard;
use queue::dlq::{DESCRIPTION_FIELD, Description, Reason};
use redis::AsyncCommands;
use redis::streams::StreamRangeReply;
use sqlx::{Connection, PgConnection};
use stores::keys::RedisKey;
use tests::{Org, World, now};
use uuid::Uuid;
use wire::envelope::{ContentId, HEADER_BYTES, claims};

/// Where the org is in an envelope, and its first section's rows.
const ORG_AT: usize = 4 + 16;
const ROWS_AT: usize = HEADER_BYTES + 3;

/// The envelopes that wait in an org's shard, in order.
async fn waiting(world: &World, org: &Org) -> anyhow::Result<Vec<Vec<u8>>> {
    let stream = RedisKey::shard_stream(Shard::home(org.org_id));
    let all: StreamRangeReply = world.redis().await?.xrange_all(&stream).await?;
    Ok(all.ids.iter().filter_map(|entry| entry.get("e")).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn altered_and_forged_entries_become_dead_letters_of_no_org() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    let (org, victim) = (world.org("sender").await?, world.org("victim").await?);
    world.worker.stop().await?;
    assert!(world.post_otlp(&org.key, Corpus::new(1).request(3, now()).body).await?.status.is_success());
    let [good] = &waiting(&world, &org).await?[..] else { panic!("one envelope") };
    let changed = |at: usize, bytes: &[u8]| {
        let mut changed = good.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    let forged = [
        changed(ORG_AT, victim.org_id.0.as_bytes()),
        changed(ROWS_AT, &500_000_u32.to_le_bytes()),
        changed(good.len() - 1, &[good[good.len() - 1] ^ 1]),
    ];
    let (shard, mut redis) = (Shard::home(org.org_id), world.redis().await?);
    for bytes in &forged {
        let mut add = redis::cmd("XADD");
        add.arg(RedisKey::shard_stream(shard)).arg("*").arg("e").arg(bytes).query_async::<String>(&mut redis).await?;
    }
    world.worker.start().await?;
    world.until_drained().await?;
    assert_eq!(world.clickhouse.number("SELECT count() FROM span").await?, 3, "what was not changed is stored");
    let of_victim = format!("SELECT count() FROM span WHERE org_id = '{}'", victim.org_id);
    assert_eq!(world.clickhouse.number(&of_victim).await?, 0);
    let letters: StreamRangeReply = redis.xrange_all(RedisKey::shard_dlq(shard)).await?;
    for (letter, bytes) in letters.ids.iter().zip(&forged) {
        let description: Description = serde_json::from_str(&letter.get::<String>(DESCRIPTION_FIELD).unwrap())?;
        assert_eq!((description.org, description.reason), (None, Reason::Unauthenticated), "{}", description.detail);
        assert_eq!(letter.get::<Vec<u8>>("e").as_ref(), Some(bytes), "its bytes are kept");
    }
    assert_eq!(letters.ids.len(), forged.len());
    Ok(())
}

/// As when Postgres is away, which every other test needs.
async fn let_keys_be_read(world: &World, may: bool) -> anyhow::Result<()> {
    let mut owner = PgConnection::connect(&world.urls.pg_owner_dsn).await?;
    let sql = match may {
        true => "GRANT EXECUTE ON FUNCTION envelope_key() TO tracebility_app",
        false => "REVOKE EXECUTE ON FUNCTION envelope_key() FROM tracebility_app",
    };
    sqlx::query(sql).execute(&mut owner).await?;
    Ok(owner.close().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn services_wait_for_the_envelope_key_and_lose_nothing_without_it() -> anyhow::Result<()> {
    const AWAY: Duration = Duration::from_secs(2);
    let mut world = World::start().await?;
    let org = world.org("waiting").await?;
    world.worker.stop().await?;
    let_keys_be_read(&world, false).await?;
    // A process that has the key needs Postgres no more.
    assert!(world.post_otlp(&org.key, Corpus::new(1).request(3, now()).body).await?.status.is_success());
    world.api.stop().await?;
    let begun = Instant::now();
    let urls = world.urls.clone();
    let back = async {
        tokio::time::sleep(AWAY).await;
        let mut owner = PgConnection::connect(&urls.pg_owner_dsn).await?;
        sqlx::query("GRANT EXECUTE ON FUNCTION envelope_key() TO tracebility_app").execute(&mut owner).await?;
        anyhow::Ok(owner.close().await?)
    };
    // Each start ends when the service is ready.
    let (api, worker, granted) = tokio::join!(world.api.start(), world.worker.start(), back);
    api?;
    worker?;
    granted?;
    assert!(begun.elapsed() >= AWAY, "ready without the key");
    world.until_drained().await?;
    assert_eq!(world.clickhouse.number("SELECT count() FROM span").await?, 3);
    let letters = RedisKey::shard_dlq(Shard::home(org.org_id));
    assert_eq!(world.redis().await?.xlen::<_, u64>(&letters).await?, 0);
    assert!(world.post_otlp(&org.key, Corpus::new(2).request(3, now()).body).await?.status.is_success());
    Ok(())
}

/// A request of OTLP in protobuf.
async fn send(world: &World, key: &str, body: &[u8], headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
    let url = format!("{}/v1/traces", world.api.url());
    let headers = [&[("x-api-key", key), ("content-type", "application/x-protobuf")], headers].concat();
    world.http.send(Method::POST, &url, &headers, body.to_vec()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_id_is_shared_only_by_retries_of_one_request() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    world.worker.stop().await?;
    let org = world.org("retries").await?;
    let registry = world.registry().await?;
    let scopes = ["ingest:write"];
    let other_key = registry.create_key(org.org_id, org.project_id, &registry::NewKey::new("b", &scopes)).await?;
    let (body, other) = (Corpus::new(1).request(3, now()).body, Corpus::new(2).request(3, now()).body);
    let gzipped = {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&body)?;
        encoder.finish()?
    };
    let gzip = [("content-encoding", "gzip")];
    type Request<'a> = (&'a str, &'a [u8], &'a [(&'a str, &'a str)]);
    let sent: [Request<'_>; 6] = [
        (&org.key, &body, &[]),
        (&org.key, &body, &[("x-request-id", "another"), ("user-agent", "another")]),
        (&org.key, &gzipped, &gzip),
        (&org.key, &other, &[]),
        (other_key.reveal(), &body, &[]),
        (&org.key, &body, &[("langsmith-project", "another")]),
    ];
    for (key, body, headers) in sent {
        assert_eq!(send(&world, key, body, headers).await?.status, StatusCode::OK);
    }
    // The same words mean different things at different paths.
    let run = serde_json::json!({"outputs": {"a": 1}});
    let ids = [Uuid::from_u128(1), Uuid::from_u128(2)];
    for path in ids.map(|id| format!("/runs/{id}")) {
        let url = format!("{}{path}", world.api.url());
        let headers = [("x-api-key", &*org.key), ("content-type", "application/json")];
        let answer = world.http.send(Method::PATCH, &url, &headers, run.to_string().into_bytes()).await?;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{path}");
    }
    let found: Vec<_> = waiting(&world, &org).await?.iter().map(|bytes| claims(bytes).unwrap().header).collect();
    assert_eq!(found.len(), sent.len() + 2);
    let ids: Vec<ContentId> = found.iter().map(|header| header.content_id).collect();
    assert!(ids.iter().all(|id| !id.is_none()));
    assert_eq!([ids[1], ids[2]], [ids[0]; 2], "the same content");
    assert_ne!(found[0].envelope_id, found[1].envelope_id);
    for at in 3..ids.len() {
        assert!(!ids[..at].contains(&ids[at]), "{at} is taken for another: {ids:?}");
    }
    Ok(())
}
