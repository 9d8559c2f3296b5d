//! The view `run_of` against a merge written down a second time, here: whatever the order, however often, and before
//! and after ClickHouse has merged its parts.

use std::collections::BTreeMap;

use load::client::{ClickHouse, Http};
use model::ids::{ApiKeyId, EnvelopeId, OrgId, ProjectId, WorkspaceId};
use model::trace::{Attribute, Kind, Llm, Run, RunOp, Status, Tokens, Value};
use rand::prelude::*;
use rand::rngs::StdRng;
use serde_json::json;
use stores::clickhouse::{InsertStatement, Inserter};
use uuid::Uuid;
use wire::block::Block;
use wire::envelope::{ContentId, ENVELOPE_KEY_BYTES, Envelope, EnvelopeKey, Header, Source, Writer};
use wire::tables::{RUN, RunRows, STAMPS};

const RUNS: u128 = 150;
const WRITES_MAX: usize = 6;
const INSERTS: usize = 12;

/// One write, and when it arrived.
#[derive(Clone, Debug)]
struct Write {
    run: Run<'static>,
    hash: u64,
    received_at: i64,
    source: Source,
}

impl Write {
    fn place(&self) -> (u8, i64, i64, u64) {
        (self.run.op as u8, self.received_at, self.run.end_time, self.hash)
    }

    /// How the run ended, if the write tells of it.
    fn ending(&self) -> Option<Status> {
        let says_only_that_it_ended = self.source == Source::LangSmith && self.run.status == Some(Status::Ok);
        self.run.status.filter(|status| *status != Status::Running && !says_only_that_it_ended)
    }
}

/// A value out of few, so that writes agree and disagree; often none.
fn some<T: Default + Clone>(random: &mut StdRng, values: &[T]) -> T {
    if random.random_bool(0.5) { T::default() } else { values.choose(random).unwrap().clone() }
}

fn write(random: &mut StdRng, run_id: Uuid) -> Write {
    let texts = ["a", "b", "c"].map(std::borrow::Cow::Borrowed);
    let values = [Value::Empty, Value::Int(1), Value::Str("x".into()), Value::Map("{}".into())];
    let mut keys = ["k1", "k2", "k3", "k4"];
    keys.shuffle(random);
    let attributes = keys[..random.random_range(0..4)]
        .iter()
        .map(|key| Attribute { key: (*key).into(), value: values.choose(random).unwrap().clone() })
        .collect();
    let tokens =
        Tokens { prompt: Some(some(random, &[1, 2])), total: Some(some(random, &[3, 4])), ..Tokens::default() };
    let run = Run {
        run_id,
        op: *[RunOp::Post, RunOp::Complete, RunOp::Patch].choose(random).unwrap(),
        name: some(random, &texts),
        status: *[None, Some(Status::Running), Some(Status::Ok), Some(Status::Error), Some(Status::Cancelled)]
            .choose(random)
            .unwrap(),
        start_time: some(random, &[10, 20]),
        end_time: some(random, &[30, 40]),
        trace_id: some(random, &[Uuid::from_u128(7), Uuid::from_u128(8)]),
        llm: Llm {
            kind: *[Kind::Span, Kind::Llm, Kind::Chain].choose(random).unwrap(),
            inputs: some(random, &texts),
            outputs: some(random, &texts),
            tokens,
            cost_usd_e8: some(random, &[Some(0), Some(5)]),
            tags: some(random, &[vec!["t".into()], vec!["u".into(), "v".into()]]),
            error_message: some(random, &texts),
            error_kind: some(random, &texts),
            ..Llm::default()
        },
        attributes,
        events: some(random, &texts),
        ..Run::default()
    };
    let source = *[Source::LangSmith, Source::Native].choose(random).unwrap();
    Write { run, hash: random.random(), received_at: random.random_range(1..4), source }
}

/// What a run is, from its writes.
fn reference(writes: &[Write]) -> serde_json::Value {
    let mut latest: BTreeMap<(u8, u64), &Write> = BTreeMap::new();
    for write in writes {
        let known = latest.entry((write.run.op as u8, write.hash)).or_insert(write);
        if known.received_at < write.received_at {
            *known = write;
        }
    }
    let mut writes: Vec<_> = latest.into_values().collect();
    writes.sort_by_key(|write| std::cmp::Reverse(write.place()));
    let runs: Vec<_> = writes.iter().map(|write| &write.run).collect();
    let text = |of: for<'a> fn(&'a Run<'static>) -> &'a str| {
        runs.iter().map(|run| of(run)).find(|t| !t.is_empty()).unwrap_or("")
    };
    let number = |of: fn(&Run<'static>) -> i64| runs.iter().map(|run| of(run)).find(|n| *n != 0).unwrap_or(0);
    let end_time = number(|run| run.end_time);
    let status = match (writes.iter().find_map(|write| write.ending()), end_time) {
        (Some(ending), _) => ending,
        (None, 0) => Status::Running,
        _ => Status::Ok,
    };
    let mut attributes: BTreeMap<&str, &Value<'_>> = BTreeMap::new();
    for attribute in runs.iter().flat_map(|run| &run.attributes) {
        let known = attributes.entry(&attribute.key).or_insert(&attribute.value);
        if **known == Value::Empty {
            *known = &attribute.value;
        }
    }
    let rendered = |value: &Value<'_>| match value {
        Value::Int(n) => n.to_string(),
        Value::Str(text) | Value::Map(text) => text.to_string(),
        _ => String::new(),
    };
    let failed = runs.iter().find(|run| !run.llm.error_message.is_empty());
    json!({
        "name": text(|run| &run.name),
        "kind": runs.iter().map(|run| run.llm.kind).find(|kind| *kind != Kind::Span).unwrap_or_default().as_str(),
        "status": status.as_str(),
        "start": number(|run| run.start_time),
        "end": end_time,
        "trace_id": runs.iter().map(|run| run.trace_id).find(|id| !id.is_nil()).unwrap_or_default(),
        "inputs": text(|run| &run.llm.inputs),
        "outputs": text(|run| &run.llm.outputs),
        "prompt_tokens": number(|run| run.llm.tokens.prompt.unwrap_or(0).into()),
        "total_tokens": number(|run| run.llm.tokens.total.unwrap_or(0).into()),
        "cost": runs.iter().find_map(|run| run.llm.cost_usd_e8),
        "tags": runs.iter().map(|run| &run.llm.tags).find(|tags| !tags.is_empty()).cloned().unwrap_or_default(),
        "error_message": text(|run| &run.llm.error_message),
        "error_kind": failed.map_or("", |run| &run.llm.error_kind),
        "attributes": attributes.iter().map(|(key, value)| ((*key).to_owned(), rendered(value))).collect::<BTreeMap<_, _>>(),
        "types": attributes.values().map(|value| char::from(value.type_tag())).collect::<String>(),
        "events": text(|run| &run.events),
        "writes": writes.len(),
    })
}

async fn insert(inserter: &Inserter, org: OrgId, writes: &[Write], token: &str) -> anyhow::Result<()> {
    let (id, key) = (Uuid::from_u128(9), EnvelopeKey::new(&[1; ENVELOPE_KEY_BYTES]));
    let mut block = Block::new(&RUN);
    for write in writes {
        let header = Header {
            envelope_id: EnvelopeId(id),
            org_id: org,
            workspace_id: WorkspaceId(id),
            project_id: ProjectId(id),
            api_key_id: ApiKeyId(id),
            content_id: ContentId::NONE,
            received_at: write.received_at,
            source: write.source,
        };
        let mut rows = RunRows::default();
        rows.push(header.project_id, &write.run, write.hash);
        let mut writer = Writer::new(&header, 0);
        writer.section(&rows);
        let bytes = writer.finish(&key);
        let envelope = Envelope::decode(&key, &bytes)?;
        block.append(&envelope.header, &envelope.sections[0]);
    }
    let statement = InsertStatement::new(RUN.name, STAMPS.iter().chain(RUN.columns).map(|column| column.name));
    let block = block.seal();
    Ok(inserter.insert_native(&statement, token, block.pieces(), writes.len() as u64).await?)
}

async fn check(clickhouse: &ClickHouse, org: OrgId, wanted: &[serde_json::Value], when: &str) -> anyhow::Result<()> {
    let query = format!(
        "SELECT name, kind, status, toUnixTimestamp64Nano(start_time) AS start, toUnixTimestamp64Nano(end_time) AS end,
         toString(trace_id) AS trace_id, inputs, outputs, prompt_tokens, total_tokens, toInt64(cost_usd * 100000000) AS cost,
         tags, error_message, error_kind, attributes, attribute_types AS types, events, writes
         FROM run_of(org = '{}') ORDER BY run_id",
        org.0
    );
    let found = clickhouse.rows(&query).await?;
    assert_eq!(found.len(), wanted.len(), "{when}");
    for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        assert_eq!(found, wanted, "{when}: run {i}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_run_view_equals_the_reference_merge_in_any_order_and_with_repeats() -> anyhow::Result<()> {
    let db = stack::shared().await?.fresh_database().await?;
    stack::migrate(&db).await?;
    let clickhouse = ClickHouse::new(Http::new(), &db.clickhouse_url)?;
    let inserter = Inserter::new(&db.clickhouse_url.parse()?);
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let random = &mut StdRng::seed_from_u64(seed);
    let mut writes: Vec<Vec<Write>> = Vec::new();
    for n in 0..RUNS {
        let count = random.random_range(1..=WRITES_MAX);
        writes.push((0..count).map(|_| write(random, Uuid::from_u128(1_000 + n))).collect());
    }
    // A retry that arrives later counts as arriving then.
    for of_run in &mut writes {
        if random.random_bool(0.3) {
            let mut again = of_run.choose(random).unwrap().clone();
            again.received_at += 2;
            of_run.push(again);
        }
    }
    let wanted: Vec<_> = writes.iter().map(|of_run| reference(of_run)).collect();
    let orgs = [1, 2].map(|n| OrgId(Uuid::from_u128(n)));
    for org in orgs {
        let mut all: Vec<Write> = writes.iter().flatten().cloned().collect();
        let repeated: Vec<_> = all.choose_multiple(random, all.len() / 3).cloned().collect();
        all.extend(repeated);
        all.shuffle(random);
        for (i, some) in all.chunks(all.len().div_ceil(INSERTS)).enumerate() {
            insert(&inserter, org, some, &format!("{}/{i}", org.0)).await?;
        }
        check(&clickhouse, org, &wanted, &format!("seed {seed}, as inserted")).await?;
    }
    clickhouse.text("OPTIMIZE TABLE run FINAL").await?;
    for org in orgs {
        check(&clickhouse, org, &wanted, &format!("seed {seed}, optimised")).await?;
    }
    let other = format!("SELECT count() FROM run_of(org = '{}')", Uuid::from_u128(3));
    assert_eq!(clickhouse.number(&other).await?, 0, "an org sees its own runs only");
    Ok(())
}
