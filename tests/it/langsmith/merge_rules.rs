//! One run in a few writes, sent in every way there is: what was received last, of each field. The view's rules by
//! themselves are in `merge`.

use ingest_api::body::Budget;
use ingest_api::decoder::Decoder;
use ingest_api::langsmith::{BodyKind, Op};
use load::client::{ClickHouse, Http};
use model::ids::{ApiKeyId, EnvelopeId, OrgId, ProjectId, WorkspaceId};
use serde_json::{Value, json};
use stores::clickhouse::{InsertStatement, Inserter};
use uuid::Uuid;
use wire::block::Block;
use wire::envelope::{ContentId, ENVELOPE_KEY_BYTES, Envelope, EnvelopeKey, Header, Source};
use wire::tables::{RUN, STAMPS};

const ID: &str = "01a1fca2-6eb8-7760-82cf-990515cae231";
const SECOND: i64 = 1_000_000_000;
const DAY: i64 = 86_400 * SECOND;
/// 2026-10-31T23:00:00Z, the last hour of a partition.
const END_OF_MONTH: i64 = 1_793_487_600 * SECOND;

fn post() -> String {
    format!(
        r#"{{"id":"{ID}","name":"answer","run_type":"chain","start_time":"2026-10-31T22:59:00Z","inputs":{{"q":1}},"outputs":{{}},
            "tags":["posted"],"session_name":"p","extra":{{"metadata":{{"a":1,"both":"post"}}}}}}"#
    )
}

fn patch() -> String {
    format!(
        r#"{{"id":"{ID}","name":null,"end_time":"2026-10-31T22:59:30Z","outputs":{{"a":1}},"tags":["first"],"inputs":{{}},
            "error":null,"extra":{{"metadata":{{"b":2,"both":"patch"}}}}}}"#
    )
}

fn later_patch() -> String {
    format!(r#"{{"id":"{ID}","end_time":"2026-10-31T22:59:40Z","outputs":{{"a":2}},"events":[],"tags":[]}}"#)
}

/// What a request is and when it was received.
type Request = (BodyKind, String, i64);

fn batch(posts: &[&str], patches: &[&str], at: i64) -> Request {
    (BodyKind::Batch, format!(r#"{{"post":[{}],"patch":[{}]}}"#, posts.join(","), patches.join(",")), at)
}

fn multipart(parts: &[(&str, String)], at: i64) -> Request {
    let part = |(op, body): &(&str, String)| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{op}.{ID}\"\r\n\r\n{body}\r\n")
    };
    let body: String = parts.iter().map(part).collect();
    (BodyKind::Multipart("b".to_owned()), body + "--b--\r\n", at)
}

/// Which of the two patches was received last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    First,
    Second,
}

fn ways() -> Vec<(&'static str, Last, Vec<Request>)> {
    use Last::{First, Second};
    let (p, a, b) = (post(), patch(), later_patch());
    let posted = |at| batch(&[p.as_str()], &[], at);
    let patched = |patch: &str, at| batch(&[], &[patch], at);
    let now = END_OF_MONTH;
    let id = ID.parse().ok();
    vec![
        ("in one batch", Second, vec![batch(&[&p], &[&a, &b], now)]),
        ("in one batch, patches reversed", First, vec![batch(&[&p], &[&b, &a], now)]),
        ("apart", Second, vec![posted(now), patched(&a, now + SECOND), patched(&b, now + 2 * SECOND)]),
        ("apart, at the same time", Second, vec![posted(now), patched(&a, now), patched(&b, now)]),
        ("reversed", First, vec![patched(&b, now), patched(&a, now + SECOND), posted(now + 2 * SECOND)]),
        (
            "repeated",
            First,
            [
                posted(now),
                patched(&a, now),
                posted(now),
                patched(&b, now),
                posted(now + SECOND),
                patched(&a, now + DAY),
            ]
            .into(),
        ),
        (
            "the post repeated last",
            Second,
            vec![posted(now), patched(&a, now), patched(&b, now + SECOND), posted(now + 2 * SECOND), posted(now + DAY)],
        ),
        ("a day apart", Second, vec![posted(now), patched(&a, now + DAY), patched(&b, now + 2 * DAY)]),
        ("a day apart and reversed", First, vec![patched(&b, now), patched(&a, now + DAY), posted(now + 2 * DAY)]),
        (
            "one by one",
            Second,
            vec![
                (BodyKind::Run(Op::Post, None), p.clone(), now),
                (BodyKind::Run(Op::Patch, id), a.clone(), now + SECOND),
                (BodyKind::Run(Op::Patch, id), b.clone(), now + 2 * SECOND),
            ],
        ),
        ("as parts", Second, vec![multipart(&[("post", p.clone()), ("patch", a.clone()), ("patch", b.clone())], now)]),
        ("as parts, reversed", First, vec![multipart(&[("patch", b), ("patch", a), ("post", p)], now)]),
    ]
}

/// Stores one request as both services would, except that we say when it was received.
async fn store(inserter: &Inserter, org: OrgId, n: usize, (kind, body, received_at): &Request) -> anyhow::Result<()> {
    let id = Uuid::from_u128(9);
    let header = Header {
        envelope_id: EnvelopeId(id),
        org_id: org,
        workspace_id: WorkspaceId(id),
        project_id: ProjectId(id),
        api_key_id: ApiKeyId(id),
        content_id: ContentId::NONE,
        received_at: *received_at,
        source: Source::LangSmith,
    };
    let budget = Budget::new(1 << 20, 2 << 20);
    let (counts, envelope) = Decoder::LangSmith(kind.clone()).decode(&header, body.as_bytes(), &budget)?;
    assert_eq!(counts.rejected, 0, "{:?}", counts.reasons);
    let key = EnvelopeKey::new(&[1; ENVELOPE_KEY_BYTES]);
    let envelope = envelope.unwrap().finish(&key);
    let envelope = Envelope::decode(&key, &envelope)?;
    let section = envelope.sections.iter().find(|section| section.table == &RUN).unwrap();
    let mut block = Block::new(&RUN);
    block.append(&envelope.header, section);
    let statement = InsertStatement::new(RUN.name, STAMPS.iter().chain(RUN.columns).map(|column| column.name));
    let block = block.seal();
    Ok(inserter.insert_native(&statement, &format!("{}/{n}", org.0), block.pieces(), block.rows() as u64).await?)
}

async fn run_of(clickhouse: &ClickHouse, org: OrgId) -> anyhow::Result<Vec<Value>> {
    let query = format!(
        "SELECT toString(run_id) AS id, name, kind, status, toString(start_time) AS start, toString(end_time) AS end, inputs,
         outputs, tags, session_name, attributes FROM run_of(org = '{}')",
        org.0
    );
    clickhouse.rows(&query).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_field_of_a_run_is_the_last_received_in_any_order_of_writes() -> anyhow::Result<()> {
    let db = stack::shared().await?.fresh_database().await?;
    stack::migrate(&db).await?;
    let clickhouse = ClickHouse::new(Http::new(), &db.clickhouse_url)?;
    let inserter = Inserter::new(&db.clickhouse_url.parse()?);
    let wanted = |last| {
        let (end, outputs) = match last {
            Last::First => ("2026-10-31 22:59:30.000000000", r#"{"a":1}"#),
            Last::Second => ("2026-10-31 22:59:40.000000000", r#"{"a":2}"#),
        };
        json!([{
            "id": ID, "name": "answer", "kind": "chain", "status": "ok", "start": "2026-10-31 22:59:00.000000000",
            "end": end, "inputs": r#"{"q":1}"#, "outputs": outputs, "tags": ["first"],
            "session_name": "p", "attributes": {"a": "1", "b": "2", "both": "patch"},
        }])
    };
    let mut orgs = Vec::new();
    for (n, (way, last, requests)) in ways().into_iter().enumerate() {
        let org = OrgId(Uuid::from_u128(n as u128 + 1));
        for (n, request) in requests.iter().enumerate() {
            store(&inserter, org, n, request).await?;
        }
        assert_eq!(Value::from(run_of(&clickhouse, org).await?), wanted(last), "{way}");
        orgs.push((way, last, org));
    }
    let partitions =
        "SELECT uniqExact(partition) FROM system.parts WHERE database = currentDatabase() AND table = 'run' AND active";
    assert_eq!(clickhouse.number(partitions).await?, 2, "a day apart is over a month's end");
    clickhouse.text("OPTIMIZE TABLE run FINAL").await?;
    for (way, last, org) in orgs {
        assert_eq!(Value::from(run_of(&clickhouse, org).await?), wanted(last), "{way}, optimised");
    }
    Ok(())
}

/// What a client changes of a run that has ended, as JavaScript's `updateRun` does it: nothing but the changed fields.
fn changes() -> Vec<(&'static str, Value, Value)> {
    let change = |fields: Value, seen: Value| (fields, seen);
    [
        ("outputs", change(json!({"outputs": {"card": "[redacted]"}}), json!({"outputs": r#"{"card":"[redacted]"}"#}))),
        ("inputs", change(json!({"inputs": "[redacted]"}), json!({"inputs": "[redacted]"}))),
        ("tags", change(json!({"tags": ["reviewed"]}), json!({"tags": ["reviewed"]}))),
        ("name", change(json!({"name": "renamed"}), json!({"name": "renamed"}))),
        ("error", change(json!({"error": "ValueError('late')"}), json!({"status": "error"}))),
        ("project", change(json!({"session_name": "other"}), json!({"session_name": "other"}))),
        (
            "an end before the one it had",
            change(json!({"end_time": "2026-10-31T22:59:20Z"}), json!({"end": "2026-10-31 22:59:20.000000000"})),
        ),
        (
            "metadata",
            change(
                json!({"extra": {"metadata": {"stage": "two"}}}),
                json!({"attributes": {"stage": "two", "kept": "yes"}}),
            ),
        ),
    ]
    .into_iter()
    .map(|(what, (fields, seen))| (what, fields, seen))
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_after_the_end_of_a_run_is_shown() -> anyhow::Result<()> {
    let db = stack::shared().await?.fresh_database().await?;
    stack::migrate(&db).await?;
    let clickhouse = ClickHouse::new(Http::new(), &db.clickhouse_url)?;
    let inserter = Inserter::new(&db.clickhouse_url.parse()?);
    let whole = format!(
        r#"{{"id":"{ID}","name":"answer","run_type":"chain","start_time":"2026-10-31T22:59:00Z","end_time":"2026-10-31T22:59:30Z",
            "inputs":{{"q":"4111"}},"outputs":{{"card":"4111"}},"tags":["first"],"session_name":"p",
            "extra":{{"metadata":{{"stage":"one","kept":"yes"}}}}}}"#
    );
    let before = json!({
        "id": ID, "name": "answer", "kind": "chain", "status": "ok", "start": "2026-10-31 22:59:00.000000000",
        "end": "2026-10-31 22:59:30.000000000", "inputs": r#"{"q":"4111"}"#, "outputs": r#"{"card":"4111"}"#,
        "tags": ["first"], "session_name": "p", "attributes": {"stage": "one", "kept": "yes"},
    });
    let opened =
        whole.replace(r#""end_time":"2026-10-31T22:59:30Z","#, "").replace(r#""outputs":{"card":"4111"},"#, "");
    let ended = r#"{"end_time":"2026-10-31T22:59:30Z","outputs":{"card":"4111"}}"#;
    let (id, now) = (ID.parse().ok(), END_OF_MONTH);
    let posted = |json: &str, at| (BodyKind::Run(Op::Post, None), json.to_owned(), at);
    let patched = |json: &str, at| (BodyKind::Run(Op::Patch, id), json.to_owned(), at);
    let with_id = |json: &str| json.replacen('{', &format!("{{\"id\":\"{ID}\","), 1);
    let mut org = 0;
    for (what, fields, seen) in changes() {
        let change = fields.to_string();
        let ways = [
            ("after a post that tells all", vec![posted(&whole, now), patched(&change, now + SECOND)]),
            (
                "after the patch that ends it",
                vec![posted(&opened, now), patched(ended, now + 1), patched(&change, now + SECOND)],
            ),
            (
                "in one body with the patch that ends it",
                vec![batch(&[&opened], &[&with_id(ended), &with_id(&change)], now)],
            ),
            (
                "in one multipart body with the patch that ends it",
                vec![multipart(
                    &[("post", opened.clone()), ("patch", ended.to_owned()), ("patch", change.clone())],
                    now,
                )],
            ),
            ("before the post", vec![patched(&change, now), posted(&whole, now + SECOND)]),
            (
                "and the post comes again",
                vec![posted(&whole, now), patched(&change, now + 1), posted(&whole, now + DAY)],
            ),
            (
                "in another month",
                vec![posted(&whole, now), patched(&change, now + DAY), patched(&change, now + 40 * DAY)],
            ),
        ];
        let mut wanted = before.clone();
        for (field, value) in seen.as_object().unwrap() {
            wanted[field] = value.clone();
        }
        for (way, requests) in ways {
            org += 1;
            let org = OrgId(Uuid::from_u128(org));
            for (n, request) in requests.iter().enumerate() {
                store(&inserter, org, n, request).await?;
            }
            assert_eq!(Value::from(run_of(&clickhouse, org).await?), json!([wanted]), "{what} {way}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incomplete_run_is_shown_with_what_is_known() -> anyhow::Result<()> {
    let db = stack::shared().await?.fresh_database().await?;
    stack::migrate(&db).await?;
    let clickhouse = ClickHouse::new(Http::new(), &db.clickhouse_url)?;
    let inserter = Inserter::new(&db.clickhouse_url.parse()?);
    let [posted, patched] = [1, 2].map(|n| OrgId(Uuid::from_u128(n)));
    store(&inserter, posted, 0, &batch(&[&post()], &[], END_OF_MONTH)).await?;
    store(&inserter, patched, 0, &batch(&[], &[&later_patch()], END_OF_MONTH)).await?;
    let seen =
        |run: &Value| (run["name"].clone(), run["status"].clone(), run["inputs"].clone(), run["outputs"].clone());
    let runs = [run_of(&clickhouse, posted).await?, run_of(&clickhouse, patched).await?];
    assert_eq!(
        runs[0].iter().map(seen).collect::<Vec<_>>(),
        [(json!("answer"), json!("running"), json!(r#"{"q":1}"#), json!(""))]
    );
    assert_eq!(
        runs[1].iter().map(seen).collect::<Vec<_>>(),
        [(json!(""), json!("ok"), json!(""), json!(r#"{"a":2}"#))]
    );
    Ok(())
}
