//! The column lists in `schema` against the live tables, and every column type through a real insert and back.

use std::collections::BTreeMap;

use load::client::{ClickHouse, Http};
use model::ids::{ApiKeyId, EnvelopeId, OrgId, ProjectId, WorkspaceId};
use model::meter::Meter;
use model::trace::{Attribute, Event, Kind, Link, Llm, Origin, Run, Span, Status, Tokens, Value};
use serde_json::json;
use stores::clickhouse::{InsertStatement, Inserter};
use uuid::Uuid;
use wire::block::Block;
use wire::columns::ColumnType;
use wire::envelope::{ContentId, ENVELOPE_KEY_BYTES, Envelope, EnvelopeKey, Header, Source, Writer};
use wire::tables::{BILLING_METER, BillingRows, RUN, Rows, RunRows, SPAN, STAMPS, SpanRows, Table};

/// What a column of that wire type may be in the table: the same, or something the server converts it to.
fn accepts(ty: ColumnType, live: &str) -> bool {
    let live = live.replace("LowCardinality(String)", "String");
    live == ty.native_name()
}

#[tokio::test(flavor = "multi_thread")]
async fn column_lists_are_those_of_the_live_tables() -> anyhow::Result<()> {
    let db = stack::shared().await?.fresh_database().await?;
    stack::migrate(&db).await?;
    let clickhouse = ClickHouse::new(Http::new(), &db.clickhouse_url)?;
    for table in Table::ALL {
        let rows = clickhouse
            .rows(&format!(
                "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = '{}'",
                table.name
            ))
            .await?;
        let mut live: BTreeMap<_, _> = rows
            .iter()
            .map(|r| (r["name"].as_str().unwrap().to_owned(), r["type"].as_str().unwrap().to_owned()))
            .collect();
        for column in STAMPS.iter().chain(table.columns) {
            let found = live.remove(column.name);
            let found = found.unwrap_or_else(|| panic!("{}.{} is not in ClickHouse", table.name, column.name));
            assert!(accepts(column.ty, &found), "{}.{}: {:?} into {found}", table.name, column.name, column.ty);
        }
        assert!(live.is_empty(), "{}: in ClickHouse but never filled: {live:?}", table.name);
        let settings = clickhouse
            .text(&format!(
                "SELECT create_table_query FROM system.tables WHERE database = currentDatabase() AND name = '{}'",
                table.name
            ))
            .await?;
        for wanted in [
            "PARTITION BY toYYYYMM(received_at)",
            "ORDER BY (org_id, project_id, ",
            "non_replicated_deduplication_window",
            " replicated_deduplication_window",
        ] {
            assert!(settings.contains(wanted), "{}: no {wanted} in {settings}", table.name);
        }
    }
    Ok(())
}

fn header(n: u128) -> Header {
    let id = Uuid::from_u128;
    Header {
        envelope_id: EnvelopeId(id(100 + n)),
        org_id: OrgId(id(0x0190_b7a4_0000_7000_8000_0000_0000_0001)),
        workspace_id: WorkspaceId(id(3)),
        project_id: ProjectId(id(4)),
        api_key_id: ApiKeyId(id(5)),
        content_id: ContentId::NONE,
        received_at: 1_795_241_935_570_826_453,
        source: Source::OtlpProtobuf,
    }
}

fn attribute(key: &'static str, value: Value<'static>) -> Attribute<'static> {
    Attribute { key: key.into(), value }
}

fn full_span(i: u128) -> Span<'static> {
    Span {
        run_id: Uuid::from_u128(0xaaaa_0000 + i),
        span_id: Uuid::from_u128(i),
        parent_span_id: Uuid::from_u128(i * 2),
        name: format!("span {i}").into(),
        status: Status::Error,
        status_message: "bad".into(),
        span_kind: 3,
        start_time: 1_795_241_935_570_826_453,
        end_time: 1_795_241_936_000_000_001,
        trace_state: "k=v".into(),
        flags: 0x101,
        session_name: "project".into(),
        llm: Llm {
            kind: Kind::Llm,
            model: "m".into(),
            response_model: "m-1".into(),
            provider: "p".into(),
            tokens: Tokens {
                prompt: Some(1),
                completion: Some(2),
                total: Some(3),
                cached: Some(4),
                reasoning: Some(5),
                ..Tokens::default()
            },
            cost_usd_e8: (i % 2 == 1).then_some(1_234),
            temperature: (i % 2 == 1).then_some(0.25),
            inputs: "漢".repeat(100).into(),
            outputs: "out".into(),
            inputs_attribute: "in.from".into(),
            outputs_attribute: "out.from".into(),
            session_id: "s".into(),
            user_id: "u".into(),
            tags: (0..i % 3).map(|t| format!("t{t}").into()).collect(),
            error_kind: "E".into(),
            error_message: "boom".into(),
            content_hash: *b"0123456789abcdef",
        },
        attributes: vec![
            attribute("double", Value::Double(f64::NAN)),
            attribute("bytes", Value::Bytes(vec![0, 255].into())),
            attribute("empty", Value::Empty),
            attribute("list", Value::Array("[1,2]".into())),
        ],
        events: (0..i % 3)
            .map(|e| Event {
                time: 7 + e as i64,
                name: "ev".into(),
                attributes: vec![attribute("e", Value::Int(e as i64)); e as usize],
                dropped_attributes: 9,
            })
            .collect(),
        links: (0..i % 2)
            .map(|_| Link {
                trace_id: Uuid::from_u128(0xff),
                span_id: Uuid::from_u128(0xee),
                trace_state: "t".into(),
                attributes: vec![attribute("l", Value::Bool(true))],
                dropped_attributes: 8,
                flags: 1,
            })
            .collect(),
        dropped_attributes: 1,
        dropped_events: 2,
        dropped_links: 3,
    }
}

/// Five spans in three envelopes, so that offsets are re-based and constant columns repeated; then the same block
/// again.
#[tokio::test(flavor = "multi_thread")]
async fn every_column_type_reads_back_and_a_token_is_stored_once() -> anyhow::Result<()> {
    let db = stack::shared().await?.fresh_database().await?;
    stack::migrate(&db).await?;
    let clickhouse = ClickHouse::new(Http::new(), &db.clickhouse_url)?;
    let inserter = Inserter::new(&db.clickhouse_url.parse()?);
    let key = EnvelopeKey::new(&[1; ENVELOPE_KEY_BYTES]);
    let mut blocks = [&SPAN, &RUN, &BILLING_METER].map(Block::new);
    for (n, spans) in [(0, 0..2), (1, 2..3), (2, 3..5)] {
        let header = header(n);
        let origin = Origin {
            service_name: "svc".into(),
            resource_attributes: vec![attribute("r", Value::Str(format!("r{n}").into()))],
            resource_schema_url: "https://r".into(),
            scope_name: "sc".into(),
            scope_version: "1".into(),
            scope_attributes: vec![attribute("s", Value::Int(n as i64))],
            scope_schema_url: "https://s".into(),
        };
        let (mut rows, mut runs, mut bills) = (SpanRows::default(), RunRows::default(), BillingRows::default());
        for (k, i) in spans.enumerate() {
            rows.push(header.project_id, &origin, k > 0, &full_span(i));
        }
        runs.push(
            header.project_id,
            &Run { run_id: Uuid::from_u128(n), events: "[]".into(), ..Run::default() },
            u64::MAX - n as u64,
        );
        bills.push(
            header.project_id,
            header.api_key_id,
            header.envelope_id,
            header.received_at,
            Meter::SpanBytes,
            u64::MAX,
        );
        let mut writer = Writer::new(&header, 0);
        writer.section(&rows);
        writer.section(&runs);
        writer.section(&bills);
        assert_eq!(rows.rows(), rows.columns().map(|c| c.rows()).max().unwrap());
        let bytes = writer.finish(&key);
        let envelope = Envelope::decode(&key, &bytes)?;
        for (block, section) in blocks.iter_mut().zip(&envelope.sections) {
            block.append(&envelope.header, section);
        }
    }
    for block in blocks {
        let block = block.seal();
        let (table, rows) = (block.table(), block.rows() as u64);
        let statement = InsertStatement::new(table.name, STAMPS.iter().chain(table.columns).map(|c| c.name));
        for _ in 0..2 {
            inserter.insert_native(&statement, "token", block.pieces(), rows).await?;
        }
        let stored = clickhouse.number(&format!("SELECT count() FROM {}", table.name)).await?;
        assert_eq!(stored, rows, "{}: the same token must store its rows once", table.name);
    }
    check_spans(&clickhouse).await?;
    let run =
        clickhouse.rows("SELECT toString(run_id) AS run_id, op, op_hash, events FROM run ORDER BY run_id").await?;
    assert_eq!(
        run[2],
        json!({"run_id": "00000000-0000-0000-0000-000000000002", "op": 2, "op_hash": u64::MAX - 2, "events": "[]"})
    );
    let bill = clickhouse
        .rows("SELECT toString(envelope_id) AS id, meter, period, quantity FROM billing_meter ORDER BY id")
        .await?;
    assert_eq!(
        bill[1],
        json!({"id": "00000000-0000-0000-0000-000000000065", "meter": "span_bytes", "period": 202_611, "quantity": u64::MAX})
    );
    Ok(())
}

async fn check_spans(clickhouse: &ClickHouse) -> anyhow::Result<()> {
    let query = "SELECT toString(org_id) AS org, toString(run_id) AS run, toString(parent_span_id) AS parent, name, status, span_kind,
        toUnixTimestamp64Nano(start_time) AS start, flags, resource_attributes, scope_attributes, model, response_model,
        reasoning_tokens, toString(cost_usd) AS cost, temperature, length(inputs) AS inputs, inputs_attribute, tags, attributes,
        attribute_types, event_names, event_attributes, event_attribute_types, event_dropped_attributes,
        arrayMap(t -> toUnixTimestamp64Nano(t), event_times) AS times, arrayMap(i -> toString(i), link_span_ids) AS links,
        link_attributes, link_flags, dropped_links, source, toUnixTimestamp64Nano(received_at) AS received FROM span ORDER BY run_id";
    let rows = clickhouse.rows(query).await?;
    assert_eq!(rows.len(), 5);
    for (i, row) in rows.iter().enumerate() {
        let envelope = [0, 0, 1, 2, 2][i];
        let odd = i % 2 == 1;
        let events = i % 3;
        let wanted = json!({
            "org": "0190b7a4-0000-7000-8000-000000000001",
            "run": Uuid::from_u128(0xaaaa_0000 + i as u128).to_string(),
            "parent": Uuid::from_u128(i as u128 * 2).to_string(),
            "name": format!("span {i}"), "status": "error", "span_kind": "client",
            "start": 1_795_241_935_570_826_453_u64, "flags": 0x101,
            "resource_attributes": {"r": format!("r{envelope}")}, "scope_attributes": {"s": envelope.to_string()},
            "model": "m", "response_model": "m-1", "reasoning_tokens": 5,
            "cost": if odd { json!("0.00001234") } else { json!(null) },
            "temperature": if odd { json!(0.25) } else { json!(null) },
            "inputs": 300, "inputs_attribute": "in.from",
            "tags": (0..i % 3).map(|t| format!("t{t}")).collect::<Vec<_>>(),
            "attributes": {"double": "NaN", "bytes": "AP8=", "empty": "", "list": "[1,2]"}, "attribute_types": "dyea",
            "event_names": vec!["ev"; events],
            "event_attributes": (0..events).map(|e| if e == 0 { json!({}) } else { json!({"e": "1"}) }).collect::<Vec<_>>(),
            "event_attribute_types": (0..events).map(|e| "i".repeat(e)).collect::<Vec<_>>(),
            "event_dropped_attributes": vec![9; events],
            "times": (0..events).map(|e| 7 + e).collect::<Vec<_>>(),
            "links": vec!["00000000-0000-0000-0000-0000000000ee"; i % 2],
            "link_attributes": vec![json!({"l": "true"}); i % 2], "link_flags": vec![1; i % 2], "dropped_links": 3,
            "source": "otlp_protobuf", "received": 1_795_241_935_570_826_453_u64,
        });
        assert_eq!(*row, wanted, "span {i}");
    }
    Ok(())
}
