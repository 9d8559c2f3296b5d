//! What the real SDKs report as sent equals what ClickHouse holds, field by field.

mod captured;
mod conventions;
mod otel;
mod providers;

use std::collections::BTreeSet;

use serde_json::Value;
use tests::{Org, World};

const QUERY: &str = "SELECT replaceAll(toString(run_id), '-', '') AS trace_id,
    right(replaceAll(toString(span_id), '-', ''), 16) AS span_id,
    right(replaceAll(toString(parent_span_id), '-', ''), 16) AS parent_span_id, name, span_kind, kind, status, status_message,
    toUnixTimestamp64Nano(start_time) AS start, toUnixTimestamp64Nano(end_time) AS end,
    attributes, mapKeys(attributes) AS attribute_names, attribute_types, inputs, inputs_attribute, outputs, outputs_attribute,
    model, response_model, provider, prompt_tokens, completion_tokens, total_tokens, cached_tokens, reasoning_tokens,
    toFloat64(cost_usd) AS cost, temperature, session_id, user_id, tags, error_kind, error_message,
    event_names, arrayMap(t -> toUnixTimestamp64Nano(t), event_times) AS event_times, event_attributes,
    arrayMap(i -> replaceAll(toString(i), '-', ''), link_trace_ids) AS link_trace_ids,
    arrayMap(i -> right(replaceAll(toString(i), '-', ''), 16), link_span_ids) AS link_span_ids, link_attributes,
    resource_attributes, service_name, scope_name, scope_version, source,
    toString(org_id) AS org_id, toString(workspace_id) AS workspace_id, toString(project_id) AS project_id
    FROM span FINAL ORDER BY span_id";

/// What an OpenTelemetry SDK is told.
fn environment(endpoint: &str, org: &Org) -> Vec<(&'static str, String)> {
    vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.to_owned()),
        ("OTEL_EXPORTER_OTLP_HEADERS", format!("x-api-key={}", org.key)),
    ]
}

fn borrowed<'a>(env: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    env.iter().map(|(key, value)| (*key, value.as_str())).collect()
}

/// Compares every span that the SDK reports with the one that is stored; returns the stored ones.
async fn check(world: &World, org: &Org, sent: &str, source: &str, count: usize) -> anyhow::Result<Vec<Value>> {
    let mut sent: Vec<Value> = serde_json::from_str(sent)?;
    assert_eq!(sent.len(), count, "the SDK reports another number of spans");
    sent.sort_by_key(|span| span["span_id"].as_str().unwrap().to_owned());
    world.until_number("SELECT count() FROM span FINAL", count as u64).await?;
    let stored = world.clickhouse.rows(QUERY).await?;
    for (sent, stored) in sent.iter().zip(&stored) {
        compare(sent, stored);
        for (column, id) in [
            ("org_id", org.org_id.to_string()),
            ("workspace_id", org.workspace_id.to_string()),
            ("project_id", org.project_id.to_string()),
            ("source", source.to_owned()),
        ] {
            assert_eq!(stored[column], id, "{column}");
        }
    }
    let billed = "SELECT sum(quantity) FROM billing_meter FINAL WHERE meter = 'span_ingested'";
    world.until_number(billed, count as u64).await?;
    Ok(stored)
}

fn compare(sent: &Value, stored: &Value) {
    assert_eq!(stored["trace_id"], sent["trace_id"], "trace id");
    assert_eq!(stored["span_id"], sent["span_id"], "span id");
    assert_eq!(stored["parent_span_id"], sent["parent_span_id"], "parent of {}", sent["name"]);
    for (column, field) in [
        ("name", "name"),
        ("span_kind", "kind"),
        ("status", "status"),
        ("status_message", "status_message"),
        ("start", "start"),
        ("end", "end"),
    ] {
        // JavaScript reports nanoseconds as text, because its numbers cannot hold them.
        assert_eq!(as_text(&stored[column]), as_text(&sent[field]), "{column}");
    }
    compare_attributes(sent, stored);
    compare_lists(sent, stored);
    assert_eq!(stored["scope_name"], sent["scope"][0]);
    assert_eq!(stored["scope_version"], sent["scope"][1]);
    assert_eq!(stored["service_name"], sent["resource"]["service.name"]);
    same_values(&sent["resource"], &stored["resource_attributes"], "resource");
}

fn compare_attributes(sent: &Value, stored: &Value) {
    let types = stored["attribute_types"].as_str().unwrap();
    let names = stored["attribute_names"].as_array().unwrap();
    assert_eq!(types.len(), names.len(), "one type per attribute");
    let mut kept = stored["attributes"].as_object().unwrap().clone();
    // What we add ourselves.
    kept.retain(|name, _| !name.starts_with("tracebility."));
    for (key, tag) in names.iter().map(|name| name.as_str().unwrap()).zip(types.chars()) {
        if !kept.contains_key(key) {
            continue;
        }
        let value = &sent["attributes"][key];
        // What a JavaScript number is, only its value tells.
        let wanted = match value {
            Value::String(_) => "s",
            Value::Bool(_) => "b",
            Value::Array(_) => "a",
            Value::Number(n) if n.is_f64() => "d",
            Value::Number(_) => "i",
            other => panic!("unexpected {other}"),
        };
        assert_eq!(tag.to_string(), wanted, "type of {key} = {value}");
    }
    // What was moved into a column of its own.
    for payload in ["inputs", "outputs"] {
        let moved = stored[format!("{payload}_attribute")].as_str().unwrap();
        if !moved.is_empty() {
            assert_eq!(kept.insert(moved.to_owned(), stored[payload].clone()), None, "{moved} is stored twice");
        }
    }
    same_values(&sent["attributes"], &Value::Object(kept), "attributes");
}

fn compare_lists(sent: &Value, stored: &Value) {
    let events = sent["events"].as_array().unwrap();
    assert_eq!(stored["event_names"].as_array().unwrap().len(), events.len());
    for (i, event) in events.iter().enumerate() {
        assert_eq!(stored["event_names"][i], event["name"]);
        assert_eq!(stored["event_times"][i].to_string(), as_text(&event["time"]));
        same_values(&event["attributes"], &stored["event_attributes"][i], "event");
    }
    let links = sent["links"].as_array().unwrap();
    assert_eq!(stored["link_trace_ids"].as_array().unwrap().len(), links.len());
    for (i, link) in links.iter().enumerate() {
        assert_eq!(stored["link_trace_ids"][i], link["trace_id"]);
        assert_eq!(stored["link_span_ids"][i], link["span_id"]);
        same_values(&link["attributes"], &stored["link_attributes"][i], "link");
    }
}

/// The same names with the same values, which are stored as text.
fn same_values(sent: &Value, stored: &Value, of: &str) {
    let (sent, stored) = (sent.as_object().unwrap(), stored.as_object().unwrap());
    assert_eq!(stored.keys().collect::<BTreeSet<_>>(), sent.keys().collect(), "names of {of}");
    for (key, value) in sent {
        let kept = stored[key].as_str().unwrap();
        match value {
            // A number may be written in several ways.
            Value::Number(n) if n.is_f64() => assert_eq!(kept.parse().ok(), n.as_f64(), "{of}: {key}"),
            _ => assert_eq!(kept, as_text(value), "{of}: {key}"),
        }
    }
}

/// How a value is stored in a map of text.
fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
