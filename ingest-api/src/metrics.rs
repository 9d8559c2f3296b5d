//! The metrics of `ingest-api` itself; crates below it have some of their own, and `docs/reference/metrics.md` has all.
//! Label values are from fixed sets: nothing that a client sends becomes a label value.

use std::time::Duration;

use metrics::{counter, histogram};
use translate::batch::Counts;

/// Upper bounds of the latency histograms, in seconds.
pub const LATENCY_BUCKETS_SECONDS: [f64; 14] =
    [0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 4.096];

/// `tracebility_requests_total{route,status}`: requests answered. `tracebility_request_seconds{route}`: time from the
/// request's head to the answer.
pub fn answered(route: &'static str, status: u16, took: Duration) {
    counter!("tracebility_requests_total", "route" => route, "status" => status.to_string()).increment(1);
    histogram!("tracebility_request_seconds", "route" => route).record(took.as_secs_f64());
}

/// `tracebility_refused_total{code}`: requests refused, by the error's code.
pub fn refused(code: &'static str) {
    counter!("tracebility_refused_total", "code" => code).increment(1);
}

/// `tracebility_items_total{table,outcome}`: runs, spans, scores and attachments `accepted`, and items `set_aside`.
pub fn items(counts: &Counts) {
    counter!("tracebility_items_total", "table" => "run", "outcome" => "accepted").increment(counts.runs.into());
    counter!("tracebility_items_total", "table" => "span", "outcome" => "accepted").increment(counts.spans.into());
    counter!("tracebility_items_total", "table" => "eval_score", "outcome" => "accepted")
        .increment(counts.scores.into());
    counter!("tracebility_items_total", "table" => "run_attachment", "outcome" => "accepted")
        .increment(counts.attachments.into());
    counter!("tracebility_items_total", "table" => "any", "outcome" => "set_aside").increment(counts.rejected);
}

/// `tracebility_prices_read_total{outcome}`: how often a changed file of prices was taken, or was not.
pub fn prices_read(taken: bool) {
    counter!("tracebility_prices_read_total", "outcome" => if taken { "taken" } else { "refused" }).increment(1);
}

/// `tracebility_append_seconds`: time of one `XADD`. `tracebility_append_bytes_total` and
/// `tracebility_append_failures_total`.
pub fn appended(took: Duration, bytes: usize, ok: bool) {
    histogram!("tracebility_append_seconds").record(took.as_secs_f64());
    if ok {
        counter!("tracebility_append_bytes_total").increment(bytes as u64);
    } else {
        counter!("tracebility_append_failures_total").increment(1);
    }
}
