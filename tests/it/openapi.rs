//! `docs/reference/openapi.yaml` against the implementation: the same paths, and for `POST /v1/runs` the same bodies
//! and answers.

mod schema;

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use model::trace::{Kind, Status};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use schema::Description;
use serde_json::{Value, json};
use tests::{Org, World};

/// Rejected items that one answer names.
const NAMED: usize = 16;

#[tokio::test(flavor = "multi_thread")]
async fn every_path_is_described_and_no_other() -> anyhow::Result<()> {
    let description = Description::read();
    let described: BTreeSet<_> = description.operations().collect();
    let served: BTreeSet<_> =
        ingest_api::routes::served().map(|(method, path)| (method.to_owned(), path.to_owned())).collect();
    assert_eq!(described, served);
    let world = World::start().await?;
    let org = world.org("paths").await?;
    for (method, path) in &described {
        let url = format!("{}{}", world.api.url(), path.replace("{run_id}", "0190b7a4-0000-7000-8000-000000000001"));
        let key = [("x-api-key", org.key.as_str())];
        let answer = world.http.send(method.parse()?, &url, &key, "").await?;
        let absent = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED].contains(&answer.status);
        assert!(!absent, "{method} {path}: {}", answer.status);
        let other = world.http.send(Method::DELETE, &url, &key, "").await?;
        assert_eq!(other.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert_eq!(other.header("allow"), Some(method.as_str()), "{path}");
        description.check("Refusal", &other.json()?);
    }
    let unknown = world.http.send(Method::GET, &format!("{}/v2/runs", world.api.url()), &[], "").await?;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    let itself = world.http.send(Method::GET, &format!("{}/openapi.yaml", world.api.url()), &[], "").await?;
    assert_eq!(&*itself.body, schema::TEXT.as_bytes());
    Ok(())
}

#[test]
fn the_documented_enums_match_the_model() {
    let description = Description::read();
    let names = |schema: &str| {
        let values = description.schema(schema)["enum"].as_array().unwrap().clone();
        values.into_iter().filter(|value| !value.is_null()).collect::<Vec<_>>()
    };
    assert_eq!(names("Kind"), Kind::ALL.map(|(_, name)| json!(name)));
    assert_eq!(names("Status_"), Status::ALL.map(|(_, name)| json!(name)));
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_openapi_describes_is_stored() -> anyhow::Result<()> {
    const BODIES: usize = 150;
    let description = Description::read();
    let world = World::start().await?;
    let org = world.org("described").await?;
    let seed = rand::rng().random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut runs, mut spans) = (0, 0);
    let mut seen = BTreeSet::new();
    for _ in 0..BODIES {
        let body = description.make("Batch", &mut rng);
        description.check("Batch", &body);
        let answer = world.post_runs(&org.key, &body).await?;
        let reply = answer.json()?;
        assert_eq!((answer.status, &reply["rejected"]), (StatusCode::ACCEPTED, &json!([])), "{reply}\n{body}");
        description.check("Accepted", &reply);
        let items = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let sent: Vec<_> = items(&body["runs"]);
        let nested: Vec<_> = sent.iter().flat_map(|run| items(&run["spans"])).chain(items(&body["spans"])).collect();
        assert_eq!((&reply["accepted_runs"], &reply["accepted_spans"]), (&json!(sent.len()), &json!(nested.len())));
        (runs, spans) = (runs + sent.len() as u64, spans + nested.len() as u64);
        for (of, items) in [("Run", &sent), ("Span", &nested)] {
            seen.extend(items.iter().flat_map(|i| i.as_object().unwrap().keys()).map(|key| (of, key.clone())));
        }
    }
    for of in ["Run", "Span"] {
        for name in description.schema(of)["properties"].as_object().unwrap().keys() {
            assert!(seen.contains(&(of, name.clone())), "{of}.{name} was never sent");
        }
    }
    world.until_drained().await?;
    assert_eq!(world.clickhouse.number("SELECT count() FROM run FINAL").await?, runs);
    assert_eq!(world.clickhouse.number("SELECT count() FROM span FINAL").await?, spans);
    Ok(())
}

/// What is wrong with a body, and what it is rejected by.
struct Wrong {
    item: Value,
    name: String,
}

fn wrong_items(description: &Description, of: &str, base: &Value) -> Vec<Wrong> {
    let schema = description.schema(of);
    let mut all = Vec::new();
    for required in schema["required"].as_array().unwrap() {
        let name = required.as_str().unwrap().to_owned();
        let mut item = base.clone();
        item.as_object_mut().unwrap().remove(&name);
        all.push(Wrong { item, name });
    }
    for (name, property) in schema["properties"].as_object().unwrap() {
        // In a list of spans a bad one costs only itself.
        for value in description.wrong_values(property).into_iter().filter(|v| name != "spans" || !v.is_array()) {
            let mut item = base.clone();
            item[name] = value;
            all.push(Wrong { item, name: name.clone() });
        }
    }
    all
}

async fn rejects(
    world: &World,
    org: &Org,
    description: &Description,
    wrong: &[Wrong],
    path: impl Fn(usize) -> String,
    body: impl Fn(Vec<&Value>) -> Value,
) -> anyhow::Result<()> {
    for wrong in wrong.chunks(NAMED) {
        let body = body(wrong.iter().map(|wrong| &wrong.item).collect());
        assert!(!description.allows("Batch", &body));
        let answer = world.post_runs(&org.key, &body).await?;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
        let reply = answer.json()?;
        description.check("Accepted", &reply);
        let rejected = reply["rejected"].as_array().unwrap();
        assert_eq!(rejected.len(), wrong.len(), "{reply}");
        for (i, (rejected, wrong)) in rejected.iter().zip(wrong).enumerate() {
            assert_eq!(rejected["path"], path(i), "{reply}");
            let error = rejected["error"].as_str().unwrap();
            assert!(error.starts_with(&format!("`{}`", wrong.name)), "{}: {error}", wrong.name);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn items_that_openapi_does_not_allow_are_rejected_by_name() -> anyhow::Result<()> {
    let description = Description::read();
    let world = World::start().await?;
    let org = world.org("not-described").await?;
    let times = json!({"name": "n", "kind": "llm", "start_time": "2026-11-21T08:00:00Z"});
    let with = |more: Value| {
        let mut item = times.clone();
        item.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        item
    };
    let (run_id, span_id) = ("0190b7a4-0000-7000-8000-000000000001", "0190b7a4-0000-7000-8000-000000000002");
    let (run, span) = (with(json!({"run_id": run_id})), with(json!({"span_id": span_id, "run_id": run_id})));
    let of_run = wrong_items(&description, "Run", &run);
    let of_span = wrong_items(&description, "Span", &span);
    assert!(of_run.len() > 100 && of_span.len() > 100, "{} and {}", of_run.len(), of_span.len());
    let runs = |i| format!("runs[{i}]");
    rejects(&world, &org, &description, &of_run, runs, |items| json!({"runs": items})).await?;
    let loose = |i| format!("spans[{i}]");
    rejects(&world, &org, &description, &of_span, loose, |items| json!({"spans": items})).await?;
    let nested = |i| format!("runs[0].spans[{i}]");
    let inside = |items: Vec<&Value>| json!({"runs": [with(json!({"run_id": run_id, "spans": items}))]});
    rejects(&world, &org, &description, &of_span, nested, inside).await?;
    // A loose span says whose it is.
    let unowned = vec![Wrong { item: with(json!({"span_id": span_id})), name: "run_id".to_owned() }];
    rejects(&world, &org, &description, &unowned, loose, |items| json!({"spans": items})).await?;

    for (name, property) in description.schema("Batch")["properties"].as_object().unwrap() {
        // Of a list, one bad item costs only itself.
        for value in description.wrong_values(property).into_iter().filter(|value| !value.is_array()) {
            let answer = world.post_runs(&org.key, &json!({"runs": [run], name: value})).await?;
            let reply = answer.json()?;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{name}: {value}");
            description.check("Refusal", &reply);
            let message = reply["error"]["message"].as_str().unwrap();
            assert!(message.contains(&format!("`{name}`")), "{name}: {message}");
        }
    }
    let version = world.post_runs(&org.key, &json!({"schema_version": 2})).await?.json()?;
    assert_eq!(version["error"]["message"], "`schema_version` 2 is not known; known is 1");
    Ok(())
}
