//! A run that is changed after it has ended, by LangSmith's real SDKs and over HTTP: the change is what is shown.

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tests::{Org, World, sdk};

use super::environment;

async fn shown(world: &World, org: &Org, id: &str) -> anyhow::Result<Value> {
    let query = format!(
        "SELECT inputs, outputs, tags, status, attributes['stage'] AS stage, attributes['kept'] AS kept
         FROM run_of(org = '{}') WHERE run_id = '{id}'",
        org.org_id
    );
    Ok(world.clickhouse.rows(&query).await?.into())
}

async fn check(world: &World, org: &Org, printed: &str) -> anyhow::Result<()> {
    world.until_drained().await?;
    let ids: Value = serde_json::from_str(printed)?;
    for which in ["sent", "queued"] {
        assert_eq!(
            shown(world, org, ids[which].as_str().unwrap()).await?,
            json!([{"inputs": r#"{"q":1}"#, "outputs": r#"{"card":"[redacted]"}"#, "tags": ["first", "reviewed"],
                    "status": "ok", "stage": "two", "kept": "yes"}]),
            "{which}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_javascript_changes_after_its_end_is_shown_changed() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("updates-js").await?;
    let endpoint = format!("{}/", world.api.url());
    let printed = sdk::node("langsmith-native-js", "update.mjs", &[], &environment(&endpoint, &org, "updates")).await?;
    check(&world, &org, &printed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_python_changes_after_its_end_is_shown_changed() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("updates-python").await?;
    let endpoint = format!("{}/api/v1/", world.api.url());
    let env = environment(&endpoint, &org, "updates");
    let printed = sdk::python("langsmith-native-python", "update.py", &[], &env).await?;
    check(&world, &org, &printed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_over_http_is_shown_and_a_repeated_post_takes_nothing_back() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("updates-http").await?;
    let id = "01a1fca2-6eb8-7760-82cf-990515cae231";
    let send = async |method: Method, path: &str, body: &Value| {
        let headers = [("x-api-key", org.key.as_str()), ("content-type", "application/json")];
        let answer = world.http.send(method, &format!("{}{path}", world.api.url()), &headers, body.to_string()).await?;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{:?}", answer.body);
        anyhow::Ok(())
    };
    let post = json!({"id": id, "name": "r", "run_type": "chain", "start_time": "2026-11-27T13:00:00Z", "inputs": {"q": 1},
                      "end_time": "2026-11-27T13:00:01Z", "outputs": {"token": "secret"}, "tags": ["first"],
                      "extra": {"metadata": {"stage": "one", "kept": "yes"}}});
    let change = json!({"outputs": {"token": "***"}, "extra": {"metadata": {"stage": "two"}}});
    let wanted = |outputs: &str, status: &str| json!([{"inputs": r#"{"q":1}"#, "outputs": outputs, "tags": ["first"], "status": status, "stage": "two", "kept": "yes"}]);
    send(Method::POST, "/runs", &post).await?;
    send(Method::PATCH, &format!("/runs/{id}"), &change).await?;
    send(Method::POST, "/runs", &post).await?;
    world.until_drained().await?;
    assert_eq!(shown(&world, &org, id).await?, wanted(r#"{"token":"***"}"#, "ok"));
    // An error that is told later is an error; the next change takes only what it names, and back is a change as well.
    send(Method::PATCH, &format!("/runs/{id}"), &json!({"error": "ValueError('late')"})).await?;
    send(Method::PATCH, &format!("/runs/{id}"), &json!({"outputs": {"token": "?"}})).await?;
    world.until_drained().await?;
    assert_eq!(shown(&world, &org, id).await?, wanted(r#"{"token":"?"}"#, "error"));
    send(Method::PATCH, &format!("/runs/{id}"), &change).await?;
    world.until_drained().await?;
    assert_eq!(shown(&world, &org, id).await?, wanted(r#"{"token":"***"}"#, "error"));
    Ok(())
}
