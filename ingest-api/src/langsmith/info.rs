//! `GET /info`: the SDKs read it once, to learn how to send.

use serde_json::{Value, json};

/// The release of LangSmith whose protocol this is. From 0.8.10 on, the SDKs send feedback together with runs; from
/// 0.16 on, they do not log a warning.
const VERSION: &str = "0.18.0";
/// Most operations per request that the SDKs should send.
const OPERATIONS_MAX: usize = 100;
/// Most bytes per request that the SDKs should send, uncompressed. The Python SDK stops adding runs after it has passed
/// this size, so a body can be larger by one run.
const BODY_BYTES: usize = 20 << 20;

/// The answer. `batch_ingest_config` must be complete or absent: the Python SDK crashes when a member is missing.
pub(super) fn answer(body_max: usize) -> Value {
    json!({
        "version": VERSION,
        "batch_ingest_config": {
            "use_multipart_endpoint": true,
            "scale_up_qsize_trigger": 1000,
            "scale_up_nthreads_limit": 16,
            "scale_down_nempty_trigger": 4,
            "size_limit": OPERATIONS_MAX,
            "size_limit_bytes": BODY_BYTES.min(body_max / 2),
        },
        "instance_flags": { "zstd_compression_enabled": true, "gzip_body_enabled": true },
    })
}
