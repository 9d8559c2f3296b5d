//! Every captured request, against what is to be extracted from it.

use model::trace::RunOp;
use serde_json::{Map, Value, json};
use tests::World;

use super::Fixture;

const COLUMNS: &str = "toString(run_id) AS id, toString(trace_id) AS trace_id, toString(parent_run_id) AS parent_id,
    dotted_order, name, kind, status, session_name AS project, formatDateTime(start_time, '%FT%T.%f') AS start_time,
    formatDateTime(end_time, '%FT%T.%f') AS end_time, inputs, outputs, session_id, user_id, tags, model, provider,
    prompt_tokens, completion_tokens, total_tokens, cached_tokens, reasoning_tokens, error_message, error_kind, events,
    attributes";

const NO_ID: &str = "00000000-0000-0000-0000-000000000000";

/// Fails with the fixture and the field.
#[track_caller]
fn same(found: &Value, wanted: &Value, what: &str) {
    assert_eq!(found, wanted, "{what}");
}

/// A run as it is stored, against one as it is expected.
fn compare(found: &Value, wanted: &Value, fixture: &str) {
    let what = |field: &str| format!("{fixture}: {field} of {} {}", wanted["op"], wanted["id"]);
    let text = |field: &str| wanted[field].as_str().unwrap_or_default();
    for field in ["id", "name", "project", "session_id", "user_id", "model", "provider"] {
        same(&found[field], &json!(text(field)), &what(field));
    }
    let id = |field: &str| if text(field).is_empty() { NO_ID } else { text(field) };
    same(&found["parent_id"], &json!(id("parent_id")), &what("parent_id"));
    // A run that comes without both is a root, and is given them.
    if wanted["trace_id"].is_string() || wanted["op"] == "patch" {
        same(&found["trace_id"], &json!(id("trace_id")), &what("trace_id"));
        same(&found["dotted_order"], &json!(text("dotted_order")), &what("dotted_order"));
    } else {
        same(&found["trace_id"], &wanted["id"], &what("trace_id"));
        assert!(found["dotted_order"].as_str().unwrap().ends_with(&format!("Z{}", text("id"))), "{found}");
    }
    same(&found["kind"], &json!(wanted["kind"].as_str().unwrap_or("span")), &what("kind"));
    same(&found["status"], &json!(text("status").replace("pending", "running")), &what("status"));
    for field in ["start_time", "end_time"] {
        let wanted = if text(field).is_empty() { "1970-01-01T00:00:00.000000" } else { text(field) };
        let found_time = found[field].as_str().unwrap().replace(".000000000", ".000000");
        assert_eq!(found_time.get(..26), Some(wanted.trim_end_matches("+00:00")), "{}", what(field));
    }
    for field in ["inputs", "outputs"] {
        let found = found[field].as_str().unwrap();
        let found = if found.is_empty() { json!({}) } else { serde_json::from_str(found).unwrap_or(json!(found)) };
        same(&found, wanted.get(field).unwrap_or(&json!({})), &what(field));
    }
    same(&found["tags"], wanted.get("tags").unwrap_or(&json!([])), &what("tags"));
    same(&found["error_message"], &json!(text("error")), &what("error"));
    let empty = Map::new();
    let tokens = wanted["tokens"].as_object().unwrap_or(&empty);
    for (column, field) in [
        ("prompt_tokens", "input"),
        ("completion_tokens", "output"),
        ("total_tokens", "total"),
        ("cached_tokens", "cache_read"),
        ("reasoning_tokens", "reasoning"),
    ] {
        same(&found[column], tokens.get(field).unwrap_or(&json!(0)), &what(column));
    }
    if let Some(names) = wanted.get("event_names") {
        let events: Vec<Value> = serde_json::from_str(found["events"].as_str().unwrap()).unwrap();
        same(&events.iter().map(|e| e["name"].clone()).collect(), names, &what("events"));
    }
    if let Some(address) = wanted.get("address") {
        same(&found["attributes"]["langsmith.address"], address, &what("address"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_captured_request_is_stored_as_expected() -> anyhow::Result<()> {
    let world = World::start().await?;
    let mut sent = Vec::new();
    for (i, name) in Fixture::names()?.into_iter().enumerate() {
        let org = world.org(&format!("fixture-{i}")).await?;
        let fixture = Fixture::read(&name)?;
        // Twice, by both roots: a retry is the same row.
        for prefix in ["", "/api/v1"] {
            let answer = fixture.send(&world, &org, prefix).await?;
            assert_eq!(answer.status, 202, "{name}: {:?}", answer.body);
            assert_eq!(answer.json()?["rejected"], json!([]), "{name}");
        }
        sent.push((name, fixture, org));
    }
    world.until_drained().await?;
    for (name, fixture, org) in &sent {
        let of_org = format!("FINAL WHERE org_id = '{}'", org.org_id);
        let wanted = fixture.expected("runs");
        let count = world.clickhouse.number(&format!("SELECT count() FROM run {of_org}")).await?;
        assert_eq!(count, wanted.len() as u64, "{name}: runs");
        for run in &wanted {
            let op = match (run["op"] == "patch", run["end_time"].is_string()) {
                (true, _) => RunOp::Patch,
                (false, true) => RunOp::Complete,
                (false, false) => RunOp::Post,
            } as u8;
            let query = format!("SELECT {COLUMNS} FROM run {of_org} AND run_id = {} AND op = {op}", quoted(&run["id"]));
            let [found] = &world.clickhouse.rows(&query).await?[..] else { panic!("{name}: {}", run["id"]) };
            compare(found, run, name);
        }
        for run in fixture.expected("merged_runs") {
            merged(&world, org, &run, name).await?;
        }
        for score in fixture.expected("feedback") {
            let query = format!(
                "SELECT toString(run_id) AS run_id, toString(trace_id) AS trace_id, name AS key, value, value_json, comment
                 FROM eval_score {of_org} AND score_id = {}",
                quoted(&score["id"])
            );
            let [found] = &world.clickhouse.rows(&query).await?[..] else { panic!("{name}: {}", score["id"]) };
            let number = score["score"].as_bool().map_or(score["score"].as_f64(), |yes| Some(f64::from(u8::from(yes))));
            let value = if score["value"].is_null() { String::new() } else { score["value"].to_string() };
            let wanted = (score["run_id"].as_str(), score["key"].as_str(), number, value.as_str());
            let stored = (
                found["run_id"].as_str(),
                found["key"].as_str(),
                found["value"].as_f64(),
                found["value_json"].as_str(),
            );
            assert_eq!(stored, (wanted.0, wanted.1, wanted.2, Some(wanted.3)), "{name}");
            assert_eq!(found["trace_id"], score["trace_id"].as_str().unwrap_or(NO_ID), "{name}");
            assert_eq!(found["comment"], score["comment"].as_str().unwrap_or_default(), "{name}");
        }
        let attachments = fixture.expected("attachments");
        let count = world.clickhouse.number(&format!("SELECT count() FROM run_attachment {of_org}")).await?;
        assert_eq!(count, attachments.len() as u64, "{name}: attachments");
        for attachment in attachments {
            let query = format!(
                "SELECT mime_type, size, lower(hex(SHA256(content))) AS sha256, length(content) AS length FROM run_attachment
                 {of_org} AND run_id = {} AND name = {}",
                quoted(&attachment["run_id"]),
                quoted(&attachment["name"])
            );
            let [found] = &world.clickhouse.rows(&query).await?[..] else { panic!("{name}: {attachment}") };
            let wanted = json!({"mime_type": attachment["content_type"], "size": attachment["size"],
                                "sha256": attachment["sha256"], "length": attachment["size"]});
            assert_eq!(*found, wanted, "{name}");
        }
    }
    Ok(())
}

fn quoted(value: &Value) -> String {
    format!("'{}'", value.as_str().unwrap())
}

/// A run as `run_of` shows it, against the same expectations as a row.
async fn merged(world: &World, org: &tests::Org, wanted: &Value, fixture: &str) -> anyhow::Result<()> {
    let query =
        format!("SELECT {COLUMNS} FROM run_of(org = '{}') WHERE run_id = {}", org.org_id, quoted(&wanted["id"]));
    let [found] = &world.clickhouse.rows(&query).await?[..] else { panic!("{fixture}: {wanted}") };
    compare(found, wanted, fixture);
    Ok(())
}

/// Runs that came in several requests, in order and in reverse.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_sent_in_several_requests_is_one_run() -> anyhow::Result<()> {
    let world = World::start().await?;
    let groups: Map<String, Value> = serde_json::from_slice(&std::fs::read(super::directory().join("groups.json"))?)?;
    let mut sent = Vec::new();
    for (i, (name, group)) in groups.iter().enumerate() {
        for reverse in [false, true] {
            let org = world.org(&format!("group-{i}-{reverse}")).await?;
            let mut requests: Vec<_> = group["requests"].as_array().unwrap().iter().collect();
            if reverse {
                requests.reverse();
            }
            for request in requests {
                let answer = Fixture::read(request.as_str().unwrap())?.send(&world, &org, "").await?;
                assert_eq!(answer.status, 202, "{request}: {:?}", answer.body);
            }
            sent.push((name, group, org));
        }
    }
    world.until_drained().await?;
    for (name, group, org) in sent {
        let wanted = group["merged"].as_array().unwrap();
        let count = world.clickhouse.number(&format!("SELECT count() FROM run_of(org = '{}')", org.org_id)).await?;
        assert_eq!(count, wanted.len() as u64, "{name}");
        for run in wanted {
            merged(&world, &org, run, name).await?;
        }
    }
    Ok(())
}
