//! LangSmith's protocol: captured requests of its real SDKs, and what a correct server makes of them.
//!
//! The fixtures' `expect` was made by a reference normaliser. Where it differs from what we store: it keeps an empty
//! `inputs` or `outputs` object, which to us is "not provided"; it says `pending` where we say `running`.

mod fixtures;
mod forms;
mod limits;
mod merge;
mod merge_rules;
mod protocol;
mod rejected;
mod sdks;
mod updates;

use std::path::{Path, PathBuf};

use http::Method;
use load::client::Answer;
use serde_json::Value;
use tests::{Org, World};

/// A request that an SDK sent, from `tests/fixtures/langsmith`.
struct Fixture {
    description: Value,
    body: Vec<u8>,
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/langsmith")
}

impl Fixture {
    fn read(name: &str) -> anyhow::Result<Self> {
        let description = serde_json::from_slice(&std::fs::read(directory().join(format!("{name}.json")))?)?;
        Ok(Self { description, body: std::fs::read(directory().join(format!("{name}.bin")))? })
    }

    /// The name of every captured request.
    fn names() -> anyhow::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(directory())? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "bin") {
                names.push(path.file_stem().unwrap().to_str().unwrap().to_owned());
            }
        }
        names.sort();
        assert!(names.len() >= 25, "{names:?}");
        Ok(names)
    }

    fn expected(&self, what: &str) -> Vec<Value> {
        self.description["expect"][what].as_array().cloned().unwrap_or_default()
    }

    /// Its headers that say what it is, with the key of `org`.
    fn headers(&self, org: &Org) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let captured = self.description["headers"].as_array().unwrap();
        let mut headers: Vec<(String, String)> = captured
            .iter()
            .map(|pair| (text(&pair[0]).to_lowercase(), text(&pair[1])))
            .filter(|(name, _)| {
                ["content-type", "content-encoding", "x-tenant-id", "user-agent"].contains(&name.as_str())
            })
            .collect();
        headers.push(("x-api-key".into(), org.key.clone()));
        headers
    }

    /// Sends it again, with the key of `org`.
    async fn send(&self, world: &World, org: &Org, prefix: &str) -> anyhow::Result<Answer> {
        let headers = self.headers(org);
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let url = format!("{}{prefix}{}", world.api.url(), self.description["path"].as_str().unwrap());
        let method = self.description["method"].as_str().unwrap().parse::<Method>()?;
        world.http.send(method, &url, &headers, self.body.clone()).await
    }
}

/// What points a LangSmith SDK here.
fn environment<'a>(endpoint: &'a str, org: &'a Org, project: &'a str) -> Vec<(&'static str, &'a str)> {
    vec![
        ("LANGSMITH_TRACING", "true"),
        ("LANGSMITH_ENDPOINT", endpoint),
        ("LANGSMITH_API_KEY", org.key.as_str()),
        ("LANGSMITH_PROJECT", project),
    ]
}
