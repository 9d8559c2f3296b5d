//! Where a fuzzer starts: the captured requests of `tests/fixtures`, made into what each target takes.

use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use flate2::Compression;
use serde_json::Value;
use wire::envelope::Source;

use crate::stored::{header, key};
use crate::{langsmith_translated, translated};

/// Bytes for a target to start from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seed {
    /// The name of the target that they are for, as in [`crate::TARGETS`].
    pub target: &'static str,
    /// Where they come from.
    pub name: String,
    /// What the target is called with.
    pub bytes: Vec<u8>,
}

/// A request that an SDK sent, from `tests/fixtures`.
struct Request {
    name: String,
    path: String,
    method: String,
    content_type: String,
    body: Vec<u8>,
}

/// Where a captured gRPC request went.
const GRPC_EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// Native batches and feedback are not among the captured requests.
const NATIVE: &str = r#"{"schema_version":1,"sdk":"a","sdk_version":"1","runs":[{
    "run_id":"0190b7a4-0000-7000-8000-000000000001","name":"n","kind":"llm","status":"ok","model":"gpt-4o","provider":"openai",
    "start_time":"2026-01-02T03:04:05.123456789Z","end_time":"2026-01-02T03:04:06+01:00","prompt_tokens":1,
    "completion_tokens":2,"total_tokens":3,"cost_usd":0.25,"temperature":0.5,"inputs":{"q":[1,null,"x"]},"outputs":"plain",
    "session_id":"s","user_id":"u","tags":["a","b"],"error_kind":"k","error_message":"m","metadata":{"k":"v","n":1.5},
    "end_user_id":"e","big":123456789012345678901,"spans":[{"span_id":"0190b7a4-0000-7000-8000-000000000002","name":"s",
    "kind":"tool","start_time":"2026-01-02T03:04:05Z","attributes":{"deep":[[{}]]}}]}],
    "spans":[{"run_id":"0190b7a4-0000-7000-8000-000000000001","span_id":"0190b7a4-0000-7000-8000-000000000003",
    "parent_span_id":"0190b7a4-0000-7000-8000-000000000002","name":"t","kind":"retriever","start_time":"2026-01-02T03:04:05Z"}]}"#;

/// All seeds, in the order of their targets and names.
pub fn all() -> Result<Vec<Seed>> {
    let mut seeds = Vec::new();
    let mut requests = captured()?;
    requests.push(Request {
        name: "native".to_owned(),
        path: "/v1/runs".to_owned(),
        method: "POST".to_owned(),
        content_type: "application/json".to_owned(),
        body: NATIVE.as_bytes().to_vec(),
    });
    for request in &requests {
        let mut add = |target, bytes| seeds.push(Seed { target, name: request.name.clone(), bytes });
        let (target, input) = request.input()?;
        add(target, input);
        add("decompress_gzip", gzip(&request.body)?);
        add("decompress_deflate", zlib(&request.body)?);
        add("decompress_zstd", zstd::stream::encode_all(&request.body[..], 3)?);
        if let Some(envelope) = request.envelope()? {
            add("envelope", envelope);
        }
    }
    seeds.push(Seed { target: "langsmith_multipart", name: "parts".to_owned(), bytes: parts()? });
    // Bodies of several members, and ones that say how large they are.
    let whole = NATIVE.as_bytes();
    let (first, second) = whole.split_at(whole.len() / 2);
    let mut add = |target, name: &str, bytes| seeds.push(Seed { target, name: name.to_owned(), bytes });
    add("decompress_gzip", "members", [gzip(first)?, gzip(second)?].concat());
    add("decompress_zstd", "frames", [zstd::bulk::compress(first, 1)?, zstd::bulk::compress(second, 19)?].concat());
    seeds.sort();
    Ok(seeds)
}

/// A multipart body of one small part of each kind, of which one is compressed by itself.
fn parts() -> Result<Vec<u8>> {
    const ID: &str = "5f1a0000-0000-4000-8000-0000000000aa";
    let mut body = b"multipart/form-data; boundary=b\n".to_vec();
    let parts = [
        (format!("post.{ID}"), "", br#"{"name":"n","run_type":"llm","trace_id":null}"#.to_vec()),
        (format!("post.{ID}.inputs"), "", br#"{"a":[NaN,"\ud800"]}"#.to_vec()),
        (format!("patch.{ID}.outputs"), "Content-Encoding: gzip\r\n", gzip(b"{}")?),
        (
            format!("feedback.{ID}"),
            "Content-Type: application/json; length=25\r\n",
            br#"{"key":"k","score":true}"#.to_vec(),
        ),
        (format!("attachment.{ID}.a"), "Content-Type: text/plain\r\n", b"a".to_vec()),
    ];
    for (name, header, content) in parts {
        write!(body, "--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n{header}\r\n")?;
        body.extend([&content[..], b"\r\n"].concat());
    }
    body.extend(b"--b--\r\n");
    Ok(body)
}

impl Request {
    /// Which target takes it, and as what.
    fn input(&self) -> Result<(&'static str, Vec<u8>)> {
        let after = |head: &[u8]| [head, &self.body].concat();
        Ok(match (self.path.as_str(), self.method.as_str()) {
            ("/v1/runs", _) => ("native", self.body.clone()),
            ("/runs", _) => ("langsmith_json", after(&[0])),
            (_, "PATCH") => ("langsmith_json", after(&[1])),
            ("/runs/batch", _) => ("langsmith_json", after(&[2])),
            ("/feedback", _) => ("langsmith_json", after(&[3])),
            ("/runs/multipart", _) => ("langsmith_multipart", after(format!("{}\n", self.content_type).as_bytes())),
            ("/v1/traces" | "/otel/v1/traces", _) if self.body.starts_with(b"{") => ("otlp_json", self.body.clone()),
            ("/v1/traces" | "/otel/v1/traces" | GRPC_EXPORT, _) => ("otlp_protobuf", self.body.clone()),
            (path, _) => bail!("no target takes a request to {path}"),
        })
    }

    /// Its rows as the edge publishes them.
    fn envelope(&self) -> Result<Option<Vec<u8>>> {
        let translated = match self.input()?.0 {
            "native" => translated(&header(Source::Native), &self.body),
            "otlp_json" => translated(&header(Source::OtlpJson), &self.body),
            "otlp_protobuf" => translated(&header(Source::OtlpProtobuf), &self.body),
            "langsmith_json" | "langsmith_multipart" => {
                let route = ingest_api::routes::langsmith_at(&self.path).with_context(|| self.path.clone())?;
                langsmith_translated(&header(Source::LangSmith), &route.body(&self.content_type)?, &self.body)
            }
            target => bail!("nothing makes an envelope of what {target} takes"),
        };
        Ok(translated?.1.map(|envelope| envelope.finish(&key())))
    }
}

fn captured() -> Result<Vec<Request>> {
    let mut requests = Vec::new();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
    for directory in ["langsmith", "otlp"] {
        for entry in std::fs::read_dir(fixtures.join(directory))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "bin") {
                requests.push(read(&path).with_context(|| path.display().to_string())?);
            }
        }
    }
    Ok(requests)
}

/// A request with its body as a translator gets it: out of its gRPC frame, and decompressed.
fn read(path: &Path) -> Result<Request> {
    let described: Value = serde_json::from_slice(&std::fs::read(path.with_extension("json"))?)?;
    let text = |name: &str| described[name].as_str().unwrap_or_default().to_owned();
    let header = |name: &str| {
        let headers = described["headers"].as_array().into_iter().flatten();
        let mut pairs = headers.filter_map(|pair| Some((pair[0].as_str()?, pair[1].as_str()?)));
        pairs.find(|pair| pair.0.eq_ignore_ascii_case(name)).map(|pair| pair.1).unwrap_or_default().to_owned()
    };
    let mut body = std::fs::read(path)?;
    let mut encoding = header("content-encoding");
    if header("content-type") == "application/grpc" {
        encoding = if body[0] == 1 { header("grpc-encoding") } else { String::new() };
        body.drain(..5);
    }
    Ok(Request {
        name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        path: text("path"),
        method: text("method"),
        content_type: header("content-type"),
        body: plain(&encoding, body)?,
    })
}

#[allow(clippy::disallowed_methods)] // our own files
fn plain(encoding: &str, body: Vec<u8>) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    match encoding {
        "" => return Ok(body),
        "gzip" => flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut plain)?,
        "zstd" => zstd::stream::read::Decoder::new(&body[..])?.read_to_end(&mut plain)?,
        other => bail!("unknown encoding {other}"),
    };
    Ok(plain)
}

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn zlib(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}
