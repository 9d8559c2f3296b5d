//! What can be asked of the bench.

use std::fmt;
use std::path::PathBuf;

use anyhow::{bail, ensure};
use clap::{Parser, ValueEnum};
use http::{HeaderName, HeaderValue};

const EXAMPLES: &str = "Examples:
  just bench
  just bench --per-request 100 --encoding gzip --rounds 7
  just bench --trickle
  just bench --endpoint http://127.0.0.1:4318/v1/traces --pid rotel=4711 --pid clickhouse=4712 \\
      --clickhouse http://127.0.0.1:8123/otel --count-sql 'SELECT count() FROM otel_traces' \\
      --probe-sql 'SELECT SpanId FROM otel_traces WHERE SpanId IN ({ids})' --json rotel.json";

/// Measures what a span costs each process on its way, how long it takes, and what it leaves on disk.
///
/// Every request has ids of its own, is made before the clock starts, and is sent once. A round counts only if the rows
/// that are stored are exactly those that were sent.
#[derive(Clone, Debug, Parser)]
#[command(name = "bench", after_help = EXAMPLES)]
pub struct Options {
    /// Spans in one request. Each size is a shape with a line of its own.
    #[arg(long, value_delimiter = ',', default_value = "1,10,100,500", value_name = "N,N")]
    pub(super) per_request: Vec<usize>,
    /// Spans per round and shape. More are sent where the rounds of a shape would have fewer than 1000 requests. They
    /// must fit into the stack's Redis (512 MiB, about 400 000 spans) in case ClickHouse is slower.
    #[arg(long, default_value_t = 50_000)]
    pub(super) spans: usize,
    /// Counted rounds per shape; medians are shown, with the smallest and the largest.
    #[arg(long, default_value_t = 5)]
    pub(super) rounds: usize,
    /// Requests under way at the same time at full load.
    #[arg(long, default_value_t = 8)]
    pub(super) connections: usize,
    /// Content encoding of the bodies.
    #[arg(long, value_enum, default_value_t = Encoding::Identity)]
    pub(super) encoding: Encoding,
    /// Protocol of the bodies.
    #[arg(long, value_enum, default_value_t = Format::Otlp)]
    pub(super) format: Format,
    /// Size of a span, about, in bytes of protobuf: a call of a model, or an HTTP request.
    #[arg(long, value_enum, default_value_t = SpanBytes::Large)]
    pub(super) span_bytes: SpanBytes,
    /// Orgs that send. They are created first: 10 000 take minutes, for every shape.
    #[arg(long, default_value_t = 1)]
    pub(super) orgs: usize,
    /// How the requests are spread over the orgs.
    #[arg(long, value_enum, default_value_t = Spread::Uniform)]
    pub(super) spread: Spread,
    /// Instead of the shapes: 16 requests of one span a second, from 16 orgs in different shards.
    #[arg(long)]
    pub(super) trickle: bool,
    /// Seconds of each half of a trickle's round: one for CPU and inserts, one for latencies.
    #[arg(long, default_value_t = 20)]
    pub(super) trickle_seconds: usize,
    /// Send here instead of to a stack of our own: the whole URL, http only.
    #[arg(long, value_name = "URL")]
    pub(super) endpoint: Option<String>,
    /// A header of each request to `--endpoint`; may be repeated.
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header, requires = "endpoint")]
    pub(super) headers: Vec<(String, String)>,
    /// A process to account, with its children; may be repeated. The one named `clickhouse` is read a second time when
    /// its merges are done.
    #[arg(long = "pid", value_name = "NAME=PID", value_parser = named_pid, requires = "endpoint")]
    pub(super) pids: Vec<(String, u32)>,
    /// ClickHouse behind `--endpoint`: http://user:password@host:8123/database.
    #[arg(long, value_name = "URL", requires = "endpoint", requires = "count_sql")]
    pub(super) clickhouse: Option<String>,
    /// How many rows are stored there.
    #[arg(long, value_name = "SQL", requires = "clickhouse")]
    pub(super) count_sql: Option<String>,
    /// Which of the span ids `{ids}` are there ('16 hex digits', …): one per row, as it was asked for. Without it there
    /// is no figure from answer to queryable.
    #[arg(long, value_name = "SQL", requires = "clickhouse")]
    pub(super) probe_sql: Option<String>,
    /// Write all figures to this file.
    #[arg(long, value_name = "FILE", default_value = "target/bench/last.json")]
    pub(super) json: PathBuf,
    /// Draw the CPU per span of each process into this file.
    #[arg(long, value_name = "FILE")]
    pub(super) svg: Option<PathBuf>,
    /// Compare with the figures in this file. Without it, with those that `--json` is about to overwrite, if any.
    #[arg(long, value_name = "FILE")]
    pub(super) compare: Option<PathBuf>,
}

impl Options {
    /// Names the first mistake that clap cannot see.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.per_request.is_empty() && !self.per_request.contains(&0), "--per-request must be at least 1");
        let positive = [self.spans, self.rounds, self.connections, self.orgs, self.trickle_seconds];
        ensure!(!positive.contains(&0), "--spans, --rounds, --connections, --orgs and --trickle-seconds start at 1");
        if self.endpoint.is_some() && self.orgs > 1 {
            bail!("--orgs needs a stack of our own: leave --endpoint or --orgs out");
        }
        if let Some(url) = self.endpoint.as_ref().filter(|url| !url.starts_with("http://")) {
            bail!("{url} is not http://…; the bench speaks no TLS, so that it measures none");
        }
        if self.probe_sql.as_ref().is_some_and(|sql| !sql.contains("{ids}")) {
            bail!("--probe-sql must contain {{ids}}, where the span ids go; see --help for an example");
        }
        Ok(())
    }
}

/// The content encoding of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Encoding {
    /// As it is.
    Identity,
    /// At zlib's level 6, as the SDKs do.
    Gzip,
    /// At level 3, as the LangSmith SDK does.
    Zstd,
}

/// The protocol of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// OTLP in protobuf.
    Otlp,
    /// OTLP in JSON.
    OtlpJson,
    /// Whole LangSmith runs, each in three parts.
    LangsmithMultipart,
}

/// The size of a span in protobuf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum SpanBytes {
    /// An HTTP request.
    #[value(name = "300")]
    Small,
    /// A call of a model, with two texts.
    #[value(name = "1260")]
    Large,
}

/// How requests are spread over orgs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Spread {
    /// Each org sends as many.
    Uniform,
    /// The k-th org sends in proportion to 1 / k^1.2.
    Zipf,
}

macro_rules! shown_as_on_the_command_line {
    ($($name:ty),*) => {
        $(impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.to_possible_value().map_or(Ok(()), |value| f.pad(value.get_name()))
            }
        })*
    };
}
shown_as_on_the_command_line!(Encoding, Format, SpanBytes, Spread);

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write it as 'Name: value'")?;
    let (name, value) = (name.trim(), value.trim());
    HeaderName::try_from(name).map_err(|e| e.to_string())?;
    HeaderValue::try_from(value).map_err(|e| e.to_string())?;
    Ok((name.to_owned(), value.to_owned()))
}

fn named_pid(text: &str) -> Result<(String, u32), String> {
    let (name, pid) = text.split_once('=').ok_or("write it as NAME=PID")?;
    Ok((name.to_owned(), pid.parse::<u32>().map_err(|e| format!("{pid:?} is not a process number: {e}"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_a_foreign_endpoint_is_understood() {
        let options = Options::parse_from([
            "bench",
            "--per-request=1,10",
            "--endpoint=http://h/v1/traces",
            "--header=a: b:c",
            "--pid=rotel=7",
            "--clickhouse=http://h:8123/otel",
            "--count-sql=SELECT count() FROM t",
        ]);
        options.check().unwrap();
        assert_eq!(options.per_request, [1, 10]);
        assert_eq!(options.headers, [("a".to_owned(), "b:c".to_owned())]);
        assert_eq!(options.pids, [("rotel".to_owned(), 7)]);
        for wrong in ["--pid=a=1", "--count-sql=x", "--clickhouse=http://h/"] {
            assert!(Options::try_parse_from(["bench", wrong]).is_err(), "{wrong} needs --endpoint");
        }
        for wrong in [["--spans", "0"], ["--per-request", "0"], ["--endpoint", "https://h/"]] {
            let options = Options::parse_from(["bench"].into_iter().chain(wrong));
            assert!(options.check().is_err(), "{wrong:?}");
        }
    }
}
