//! Dead letters by hand: listed, shown, sent again, thrown away, written to a file.

mod kill;

use std::collections::HashMap;
use std::process::Command;

use model::ids::{ApiKeyId, EnvelopeId, OrgId, ProjectId, WorkspaceId};
use model::meter::Meter;
use model::shard::Shard;
use model::trace::{Origin, Run, Span};
use queue::appender::{Appended, ShardAppender};
use queue::arrival::{Arrivals, Place};
use queue::dlq::{DeadLetterId, DeadLetters, PAGE_LETTERS, Replayed, Source, Walk};
use redis::AsyncCommands;
use redis::streams::StreamRangeReply;
use serde_json::{Value, json};
use service::settings::parse;
use stores::keys::RedisKey;
use stores::redis::{Redis, connect};
use uuid::Uuid;
use wire::envelope::{ContentId, ENVELOPE_KEY_BYTES, Envelope, EnvelopeKey, Header, Source as From, Writer};
use wire::tables::{BILLING_METER, BillingRows, RUN, RunRows, SPAN, SpanRows};

use crate::support::World;
use crate::tracectl::{Run as Ran, with};

/// 2026-11-21T08:00:00Z, in nanoseconds since the Unix epoch.
const RECEIVED_AT: i64 = 1_795_248_000_000_000_000;
const HOUR: i64 = RECEIVED_AT / 3_600_000_000_000;

fn redis(world: &World) -> Redis {
    connect(&parse::redis_url(&world.db.redis_url).unwrap()).unwrap()
}

fn shard(number: u8) -> Shard {
    Shard::new(number).unwrap()
}

/// An envelope of three tables.
fn envelope(key: &EnvelopeKey, org: OrgId, items: u64) -> Vec<u8> {
    let id = Uuid::new_v4();
    let header = Header {
        envelope_id: EnvelopeId(id),
        org_id: org,
        workspace_id: WorkspaceId(id),
        project_id: ProjectId(id),
        api_key_id: ApiKeyId(id),
        content_id: ContentId::NONE,
        received_at: RECEIVED_AT,
        source: From::Native,
    };
    let (mut runs, mut spans, mut bills) = (RunRows::default(), SpanRows::default(), BillingRows::default());
    runs.push(header.project_id, &Run::default(), 7);
    spans.push(header.project_id, &Origin::default(), false, &Span::default());
    bills.push(
        header.project_id,
        header.api_key_id,
        header.envelope_id,
        header.received_at,
        Meter::SpanIngested,
        items,
    );
    let mut writer = Writer::new(&header, 0);
    writer.section(&runs);
    writer.section(&spans);
    writer.section(&bills);
    writer.finish(key)
}

/// A dead letter as a worker makes it. `tables` are those that lack its rows.
async fn letter(
    redis: &mut Redis,
    source: Source,
    org: Option<OrgId>,
    items: u64,
    tables: &[u8],
    bytes: &[u8],
) -> DeadLetterId {
    let (letters, size) = match source {
        Source::Shard(shard) => (RedisKey::shard_dlq(shard), RedisKey::shard_dlq_bytes(shard)),
        Source::Legacy => (RedisKey::legacy_dlq(), RedisKey::legacy_dlq_bytes()),
    };
    let reason = if org.is_some() { "refused" } else { "unreadable" };
    let code = if org.is_some() { 469 } else { 0 };
    let description =
        json!({ "entry": "1-0", "org": org, "since_ms": RECEIVED_AT / 1_000_000, "reason": reason, "code": code,
        "detail": "a reason", "tables": tables, "items": items })
        .to_string();
    let fields = [("m", description.as_bytes()), (source.field(), bytes)];
    let entry: String = redis.xadd(letters, "*", &fields).await.unwrap();
    let _: i64 = redis.incr(size, description.len() + bytes.len()).await.unwrap();
    format!("{source}/{entry}").parse().unwrap()
}

async fn entries(redis: &mut Redis, stream: &RedisKey, field: &str) -> Vec<Vec<u8>> {
    let range: StreamRangeReply = redis.xrange_all(stream).await.unwrap();
    range.ids.iter().map(|entry| entry.get(field).unwrap()).collect()
}

fn command(world: &World) -> Command {
    let mut command = with(world);
    command
        .env("TRACEBILITY_REDIS_URL", &world.db.redis_url)
        .env("TRACEBILITY_PG_DSN", &world.db.pg_app_dsn)
        .arg("dlq");
    command
}

fn dlq(world: &World, args: &[&str]) -> Ran {
    command(world).args(args).output().unwrap().into()
}

#[track_caller]
fn document(world: &World, args: &[&str]) -> Value {
    serde_json::from_str(&dlq(world, &[args, &["--output", "json"]].concat()).done()).unwrap()
}

/// Letters of a source are gone, and the room that they took is free.
async fn is_empty(dead_letters: &DeadLetters, source: Source) -> bool {
    dead_letters.size(source).await.unwrap() == (0, 0)
}

#[tokio::test]
async fn paging_ends_with_the_dead_letters_that_were_there_at_its_start() {
    let world = World::new().await;
    let (mut redis, org) = (redis(&world), Some(world.org.org_id));
    let dead_letters = DeadLetters::new(redis.clone());
    let many = PAGE_LETTERS * 2 + 3;
    for _ in 0..many {
        letter(&mut redis, Source::Shard(shard(3)), org, 1, &[], b"x").await;
    }
    let other = letter(&mut redis, Source::Legacy, None, 0, &[], b"{}").await;
    let mut walk = Walk::new(dead_letters.clone(), Source::all());
    let (mut seen, mut pages) = (Vec::new(), 0);
    while let Some(page) = walk.next().await.unwrap() {
        assert!(!page.is_empty() && page.len() <= PAGE_LETTERS);
        seen.extend(page.into_iter().map(|letter| letter.id));
        pages += 1;
        letter(&mut redis, Source::Shard(shard(3)), org, 1, &[], b"new").await;
    }
    assert_eq!((seen.len(), pages, seen.last()), (many + 1, 4, Some(&other)));
    assert!(seen.is_sorted());
    let mut rest = Walk::new(dead_letters, Source::all()).after(seen[many - 1]);
    let mut after = Vec::new();
    while let Some(page) = rest.next().await.unwrap() {
        after.extend(page);
    }
    assert_eq!(after.len(), 4 + 1, "what was added, and the legacy stream's");
}

#[tokio::test]
async fn a_replay_sends_a_dead_letter_once_and_only_its_missing_tables() {
    let world = World::new().await;
    let (mut redis, org) = (redis(&world), world.org.org_id);
    let dead_letters = DeadLetters::new(redis.clone());
    let (source, stream) = (Source::Shard(shard(7)), RedisKey::shard_stream(shard(7)));
    let key = &world.registry.envelope_key().await.unwrap();
    let bytes = envelope(key, org, 2);
    let partly = letter(&mut redis, source, Some(org), 2, &[SPAN.id, BILLING_METER.id], &bytes).await;
    let whole = letter(&mut redis, source, Some(org), 2, &[], &bytes).await;
    let odd = letter(&mut redis, source, None, 0, &[], b"not an envelope").await;
    // Of another deployment, or made up by who can write to Redis.
    let foreign_bytes = envelope(&EnvelopeKey::new(&[1; ENVELOPE_KEY_BYTES]), org, 2);
    let foreign = letter(&mut redis, source, None, 0, &[], &foreign_bytes).await;

    let listed = document(&world, &["ls", "--shard", "7"]);
    let ids: Vec<_> = listed["letters"].as_array().unwrap().iter().map(|letter| letter["id"].clone()).collect();
    assert_eq!(ids, [partly, whole, odd, foreign].map(|id| json!(id)));
    assert_eq!(listed["letters"][3]["slug"], json!(null), "nobody's, whatever its bytes say");
    let first = &listed["letters"][0];
    assert_eq!((&first["slug"], &first["items"], &first["tables"]), (&json!("acme"), &json!(2), &json!([2, 3])));
    assert_eq!(first["received_at"], RECEIVED_AT);

    let sent = document(&world, &["replay", "--all"]);
    assert_eq!((&sent["sent"], &sent["gone"], &sent["skipped"]), (&json!(2), &json!(0), &json!(2)), "{sent}");
    assert!(sent["letters"][1]["why"].as_str().unwrap().contains("not written by this deployment"), "{sent}");
    assert_eq!(sent["letters"][0]["id"], json!(odd), "{sent}");
    let again = entries(&mut redis, &stream, "e").await;
    assert_eq!(again.len(), 2);
    let tables = |bytes| Envelope::decode(key, bytes).unwrap().sections.iter().map(|s| s.table.id).collect::<Vec<_>>();
    assert_eq!(tables(&again[0]), [SPAN.id, BILLING_METER.id], "the run is stored");
    assert_eq!(again[1], bytes);
    assert_eq!(tables(&bytes), [RUN.id, SPAN.id, BILLING_METER.id]);

    let gone = document(&world, &["replay", &whole.to_string()]);
    assert_eq!((&gone["sent"], &gone["gone"]), (&json!(0), &json!(1)));
    assert_eq!(entries(&mut redis, &stream, "e").await.len(), 2);
    assert_eq!(dead_letters.size(source).await.unwrap().0, 2, "what nobody could read stays");
    assert_eq!(dead_letters.read(odd).await.unwrap().unwrap().content, b"not an envelope");
}

#[tokio::test]
async fn dropped_dead_letters_are_counted_and_every_action_is_audited() {
    let world = World::new().await;
    let (mut redis, org) = (redis(&world), world.org.org_id);
    let source = Source::Shard(shard(7));
    let other = world.registry.create_org(&registry::NewOrg::new("other", "Other", "pro")).await.unwrap().org_id;
    let key = &world.registry.envelope_key().await.unwrap();
    let mut ids = Vec::new();
    for items in [2, 3] {
        ids.push(letter(&mut redis, source, Some(org), items, &[], &envelope(key, org, items)).await);
    }
    let others = letter(&mut redis, source, Some(other), 4, &[], &envelope(key, other, 4)).await;
    // An org that is in no registry, and none at all.
    let stranger = OrgId(Uuid::new_v4());
    letter(&mut redis, source, Some(stranger), 9, &[], &envelope(key, stranger, 9)).await;
    letter(&mut redis, Source::Legacy, None, 0, &[], b"{").await;

    let refused = dlq(&world, &["drop", "--org", "acme"]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.err.contains("dropping 2 dead letters with 5 runs and spans"), "{}", refused.err);
    assert!(
        refused.err.contains("their data is lost; tracectl dlq export keeps a copy; repeat it with --yes"),
        "{}",
        refused.err
    );
    assert_eq!(
        document(&world, &["drop", "--org", "acme", "--limit", "1", "--yes"]),
        json!({ "dropped": 1, "gone": 0 })
    );
    assert_eq!(document(&world, &["drop", "--org", "acme", "--yes"])["dropped"], 1);
    let both = [&ids[0], &ids[1]].map(ToString::to_string);
    assert_eq!(document(&world, &["drop", &both[0], &both[1], "--yes"]), json!({ "dropped": 0, "gone": 2 }));
    let sum: u64 = redis.hget(RedisKey::shard_dlq_dropped(shard(7), HOUR), org.to_string()).await.unwrap();
    let outcome: u64 = redis.hget(RedisKey::outcomes(Some(org), HOUR), "dlq-7:dead_lettered:dropped").await.unwrap();
    assert_eq!((sum, outcome), (5, 5));

    assert_eq!(document(&world, &["replay", &others.to_string()])["sent"], 1);
    assert_eq!(document(&world, &["drop", "--all", "--yes"])["dropped"], 2, "also what is nobody's");
    assert!(is_empty(&DeadLetters::new(redis.clone()), source).await);
    let drops = "SELECT count(*) FROM audit_outbox WHERE event_type = 'dlq.drop'";
    assert_eq!(world.count(drops).await, 2, "acme's; what was gone is nothing that is done");
    let events = world.registry.events(other, 10).await.unwrap();
    let replayed = events.iter().find(|event| event.event_type == "dlq.replay").unwrap();
    assert_eq!((&replayed.detail["letters"][0], replayed.actor.starts_with("olga@")), (&json!(others), true));
}

#[tokio::test]
async fn dead_letters_are_shown_and_written_to_a_file() {
    let world = World::new().await;
    let (mut redis, org) = (redis(&world), world.org.org_id);
    let bytes = envelope(&world.registry.envelope_key().await.unwrap(), org, 2);
    let id = letter(&mut redis, Source::Shard(shard(7)), Some(org), 2, &[SPAN.id], &bytes).await.to_string();
    let legacy = letter(&mut redis, Source::Legacy, None, 0, &[], b"{\"data\"").await.to_string();

    let table = dlq(&world, &["ls"]).done();
    let lines: Vec<_> = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!(lines[0], ["ID", "ORG", "SINCE", "REASON", "CODE", "ITEMS", "BYTES", "DETAIL"]);
    assert_eq!(lines[1][..6], [&id, "acme", "2026-11-21T08:00:00Z", "refused", "469", "2"]);
    assert_eq!(lines[2][..4], [&legacy, "-", "2026-11-21T08:00:00Z", "unreadable"]);
    for (args, wanted) in [
        (&["ls", "--reason", "unreadable"][..], &legacy),
        (&["ls", "--legacy"], &legacy),
        (&["ls", "--org", "acme"], &id),
        (&["ls", "--after", &id], &legacy),
    ] {
        let listed = document(&world, args);
        let letters = listed["letters"].as_array().unwrap();
        assert_eq!(
            letters.iter().map(|letter| letter["id"].as_str().unwrap()).collect::<Vec<_>>(),
            [wanted],
            "{args:?}"
        );
    }

    let shown = dlq(&world, &["show", &id]).done();
    for wanted in ["acme", "span", "run 1, span 1, billing_meter 1", "native", "|TBE2", "00000000  54 42 45 32"] {
        assert!(shown.contains(wanted), "{wanted}\n{shown}");
    }
    assert_eq!(document(&world, &["show", &id])["rows"], json!({ "run": 1, "span": 1, "billing_meter": 1 }));
    assert!(document(&world, &["show", &legacy])["unreadable"].as_str().unwrap().contains("not an envelope"));

    let path = std::env::temp_dir().join(format!("dlq-{}.jsonl", Uuid::new_v4()));
    let file = path.to_str().unwrap();
    assert_eq!(document(&world, &["export", file])["written"], 2);
    let text = std::fs::read_to_string(&path).unwrap();
    let written: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&written[0]["id"], &written[1]["id"]), (&json!(id), &json!(legacy)));
    assert_eq!(written[1]["envelope"], "eyJkYXRhIg==");
    assert_eq!(written[0]["envelope"].as_str().unwrap().len(), bytes.len().div_ceil(3) * 4);
    let again = dlq(&world, &["export", file]);
    assert!(
        again.code == Some(1) && again.err.contains("choose another file that does not exist yet"),
        "{}",
        again.err
    );
    std::fs::remove_file(&path).unwrap();
    assert_eq!(world.count("SELECT count(*) FROM audit_outbox WHERE event_type = 'dlq.show'").await, 3);
}

#[tokio::test]
async fn dlq_command_errors_say_what_helps() {
    let world = World::new().await;
    let unknown = "it is not known where Redis is, which has the dead letters; set TRACEBILITY_REDIS_URL";
    let ran: Ran = with(&world).args(["dlq", "ls"]).output().unwrap().into();
    ran.refused(2, &format!("tracectl: {unknown}\n"));
    for (args, wanted) in [
        (&["replay"][..], "<ID>..."),
        (&["replay", "7/1-0", "--all"], "cannot be used with"),
        (&["drop", "7/1-0", "--org", "acme"], "cannot be used with"),
        (&["show", "7"], "is no dead letter's id, such as 7/1795241935570-0"),
        (&["ls", "--reason", "odd"], "expected one of unreadable, unauthenticated, refused"),
        (&["ls", "--shard", "16"], "is no shard: a number from 0 to 15"),
        (&["ls", "--shard", "1", "--legacy"], "cannot be used with"),
    ] {
        let ran = dlq(&world, args);
        assert!(ran.code == Some(2) && ran.err.contains(wanted), "{args:?}: {}", ran.err);
    }
    let gone = "there is no dead letter 7/1-0; tracectl dlq ls shows those that there are";
    dlq(&world, &["show", "7/1-0"]).refused(1, &format!("tracectl: {gone}\n"));
    dlq(&world, &["ls", "--org", "nobody"])
        .refused(1, "tracectl: there is no organization \"nobody\"; tracectl orgs list shows them\n");

    // What is nobody's is written down by the services' role, or not done.
    let mut redis = redis(&world);
    letter(&mut redis, Source::Legacy, None, 0, &[], b"{}").await;
    let mut without = command(&world);
    let ran: Ran = without.env_remove("TRACEBILITY_PG_DSN").args(["replay", "--all"]).output().unwrap().into();
    assert!(ran.code == Some(2) && ran.err.contains("set TRACEBILITY_PG_DSN"), "{}", ran.err);
    assert_eq!(DeadLetters::new(redis).size(Source::Legacy).await.unwrap().0, 1);
}

#[tokio::test]
async fn an_arrival_is_appended_once_and_a_closed_shard_takes_none() {
    let world = World::new().await;
    let (mut redis, org, shard) = (redis(&world), world.org.org_id, shard(5));
    let (arrivals, fence, place) =
        (Arrivals::new(redis.clone()), ShardAppender::new(redis.clone()), Place::Shard(shard, org));
    let stream = RedisKey::shard_stream(shard);
    for _ in 0..3 {
        assert_eq!(arrivals.append(place, "a", "e", b"one").await.unwrap(), Appended::Kept);
    }
    arrivals.settle(place, "a").await.unwrap();
    assert_eq!(arrivals.append(place, "a", "e", b"late").await.unwrap(), Appended::Kept, "remembered for a while");
    fence.close(shard, org, 1).await.unwrap();
    assert_eq!(arrivals.append(place, "a", "e", b"one").await.unwrap(), Appended::Kept, "it is there, closed or not");
    assert_eq!(arrivals.append(place, "b", "e", b"two").await.unwrap(), Appended::Closed);
    fence.open(shard, org, 2).await.unwrap();
    assert_eq!(arrivals.append(place, "b", "e", b"two").await.unwrap(), Appended::Kept);
    assert_eq!(entries(&mut redis, &stream, "e").await, [b"one", b"two"]);
    // A token whose source has been gone for long is forgotten; one whose source may be there is not.
    let key = RedisKey::shard_arrivals(shard);
    let _: i64 = redis.zadd(&key, "a", 1).await.unwrap();
    assert_eq!(arrivals.append(place, "c", "e", b"three").await.unwrap(), Appended::Kept);
    let kept: Vec<String> = redis.zrange(&key, 0, -1).await.unwrap();
    assert_eq!(kept, ["b", "c"]);
}

#[tokio::test]
async fn every_dlq_command_works_on_a_cluster() {
    let cluster = stack::RedisCluster::start().await.expect("a cluster");
    let mut redis = connect(&parse::redis_url(cluster.url()).unwrap()).unwrap();
    let (dead_letters, org) = (DeadLetters::new(redis.clone()), OrgId(Uuid::new_v4()));
    let key = EnvelopeKey::new(&[1; ENVELOPE_KEY_BYTES]);
    let bytes = envelope(&key, org, 2);
    for source in Source::all() {
        for _ in 0..2 {
            let content = if source == Source::Legacy { &b"{}"[..] } else { &bytes };
            letter(&mut redis, source, Some(org), 2, &[], content).await;
        }
    }
    let mut walk = Walk::new(dead_letters.clone(), Source::all());
    while let Some(page) = walk.next().await.unwrap() {
        let [first, second] = &page[..] else { panic!("{page:?}") };
        let read = dead_letters.read(first.id).await.unwrap().unwrap();
        assert_eq!(read.listed, *first);
        assert!(matches!(dead_letters.replay(&read, &key).await.unwrap(), Replayed::Sent));
        assert!(matches!(dead_letters.replay(&read, &key).await.unwrap(), Replayed::Gone));
        assert!(dead_letters.drop(second).await.unwrap() && !dead_letters.drop(second).await.unwrap());
        assert!(is_empty(&dead_letters, first.id.source).await);
    }
    let outcomes: HashMap<String, u64> = redis.hgetall(RedisKey::outcomes(Some(org), HOUR)).await.unwrap();
    assert_eq!(outcomes.values().sum::<u64>(), 17 * 2, "of each source");
    for stream in Shard::all().map(RedisKey::shard_stream).chain([RedisKey::legacy_stream()]) {
        assert_eq!(redis.xlen::<_, u64>(&stream).await.unwrap(), 1, "{stream}");
    }
}
