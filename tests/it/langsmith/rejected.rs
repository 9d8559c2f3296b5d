//! What cannot be stored is kept as it came, and costs nothing beside it.

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tests::{Org, World, sdk};
use uuid::Uuid;

/// What an org's `set_aside` has, as item, reason and content.
async fn kept(world: &World, org: &Org) -> anyhow::Result<Vec<(String, String, String)>> {
    let query = format!(
        "SELECT item, reason, content FROM set_aside_of(org = '{}') WHERE content_bytes = length(content) ORDER BY item",
        org.org_id
    );
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = world.clickhouse.rows(&query).await?;
    Ok(rows.iter().map(|row| (text(&row["item"]), text(&row["reason"]), text(&row["content"]))).collect())
}

fn part(name: &str, content: &str) -> String {
    format!("Content-Disposition: form-data; name=\"{name}\"\r\n\r\n{content}")
}

/// The parts of a multipart body, whatever its boundary.
fn parts_of(body: &str) -> Vec<&str> {
    let (delimiter, rest) = body.split_once("\r\n").unwrap();
    let whole = rest.strip_suffix(&format!("\r\n{delimiter}--\r\n")).unwrap();
    whole.split(&format!("\r\n{delimiter}\r\n")).collect()
}

/// The SDK sends 101 runs at once, of which one has no id.
async fn one_bad_run(way: &str) -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("one-bad-run").await?;
    let endpoint = world.api.url();
    let env = super::environment(&endpoint, &org, "bad");
    let good = sdk::python("langsmith-native-python", "bad_run.py", &[way], &env).await?;
    let mut good: Vec<String> = serde_json::from_str(&good)?;
    good.sort();
    world.until_drained().await?;
    let query = format!("SELECT toString(run_id) AS id FROM run_of(org = '{}') ORDER BY id", org.org_id);
    let stored: Vec<_> = world.clickhouse.rows(&query).await?.iter().map(|run| run["id"].clone()).collect();
    assert_eq!((Value::from(stored), good.len()), (Value::from(good), 100));
    let kept = kept(&world, &org).await?;
    assert!(!kept.is_empty());
    for (item, reason, content) in &kept {
        assert!(item == "post[50]" || item.starts_with("post.7"), "{item}");
        assert!(reason.contains("id"), "{reason}");
        assert!(way != "batch" || serde_json::from_str::<Value>(content)?["name"] == "bad", "{content}");
    }
    let all: String = kept.into_iter().map(|(.., content)| content).collect();
    assert!(all.contains(r#""name":"bad""#) && all.contains(r#""ok":true"#), "{all}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_run_of_a_hundred_is_rejected_alone_by_multipart() -> anyhow::Result<()> {
    one_bad_run("multipart").await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_run_of_a_hundred_is_rejected_alone_by_batch() -> anyhow::Result<()> {
    one_bad_run("batch").await
}

/// Every item of two requests is bad, each in its own way. Both are sent twice: what is kept is the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_bad_items_only_is_kept_whole() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("all-bad").await?;
    let id = Uuid::from_u128(7);
    let parts = [
        part("what.is-this", "{}"),
        part(&format!("post.{id}"), "no JSON"),
        part(&format!("feedback.{id}"), r#"{"score":1}"#),
        part(&format!("attachment.{id}"), "no name"),
        "X: y\r\n\r\nno disposition".to_owned(),
        part(&format!("post.{id}.inputs"), r#"{"q":1}"#),
    ];
    let multipart: String = parts.iter().map(|part| format!("--b\r\n{part}\r\n")).collect();
    let json_body = r#"{"post":[{"name":"no id"},{"id":nope}, [[ ]],7],"patch":[{"id":"short"}]}"#;
    for (path, content_type, body) in [
        ("/runs/multipart", "multipart/form-data; boundary=b", multipart + "--b--"),
        ("/runs/batch", "application/json", json_body.to_owned()),
    ] {
        for _ in 0..2 {
            let headers = [("x-api-key", org.key.as_str()), ("content-type", content_type)];
            let url = format!("{}{path}", world.api.url());
            let answer = world.http.send(Method::POST, &url, &headers, body.clone()).await?;
            assert_eq!(answer.status, StatusCode::ACCEPTED, "{:?}", answer.body);
            assert_eq!(answer.json()?["accepted_runs"], 0);
            assert_eq!(answer.json()?["rejected"].as_array().map(Vec::len), Some(5), "{:?}", answer.body);
        }
    }
    world.until_drained().await?;
    let kept = kept(&world, &org).await?;
    let found: Vec<_> = kept.iter().map(|(item, _, content)| (item.as_str(), content.as_str())).collect();
    assert_eq!(
        &found[2..8],
        [
            ("part 5", found[2].1),
            ("patch[0]", r#"{"id":"short"}"#),
            (&*format!("post.{id}"), found[4].1),
            ("post[0]", r#"{"name":"no id"}"#),
            ("post[1]", r#"{"id":nope}"#),
            ("post[2]", "[[ ]]"),
        ]
    );
    assert_eq!(found[8..].iter().map(|(item, _)| *item).collect::<Vec<_>>(), ["post[3]", "what.is-this"]);
    assert_eq!(found[0].0, format!("attachment.{id}"));
    assert_eq!(found[1].0, format!("feedback.{id}"));
    for (at, sent) in [(0, &parts[3..4]), (1, &parts[2..3]), (2, &parts[4..5]), (9, &parts[..1])] {
        assert_eq!(parts_of(found[at].1), sent);
    }
    assert_eq!(parts_of(found[4].1), [parts[1].as_str(), parts[5].as_str()], "all that was sent of that run");
    assert_eq!(world.clickhouse.number("SELECT count() FROM run").await?, 0);
    let billed = format!("SELECT sum(quantity) FROM billing_meter WHERE org_id = '{}' AND meter = ", org.org_id);
    assert_eq!(world.clickhouse.number(&format!("{billed} 'span_ingested'")).await?, 0);
    assert!(world.clickhouse.number(&format!("{billed} 'span_bytes'")).await? > 0);
    Ok(())
}

/// What is too much for a column is rejected alone, and the run is stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_stored_without_its_oversized_field() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("too-much").await?;
    let (id, deep) = (Uuid::from_u128(7), format!("{}{}", "[".repeat(500), "]".repeat(500)));
    let body = format!(r#"{{"post":[{{"id":"{id}","name":"n","inputs":{deep},"outputs":{{"a":1}}}}]}}"#);
    let headers = [("x-api-key", org.key.as_str()), ("content-type", "application/json")];
    let answer = world.http.send(Method::POST, &format!("{}/runs/batch", world.api.url()), &headers, body).await?;
    assert_eq!(answer.json()?["accepted_runs"], 1, "{answer:?}");
    world.until_drained().await?;
    let reason = "nested deeper than 100 levels (NESTING_MAX)".to_owned();
    assert_eq!(kept(&world, &org).await?, [(format!("post.{id}.inputs"), reason, deep)]);
    let query = format!("SELECT name, inputs, outputs FROM run_of(org = '{}')", org.org_id);
    let wanted = json!([{"name": "n", "inputs": "", "outputs": r#"{"a":1}"#}]);
    assert_eq!(Value::from(world.clickhouse.rows(&query).await?), wanted);
    Ok(())
}
