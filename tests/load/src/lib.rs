//! Sending load, and looking at what arrived: for `cargo demo`, the benches and the black-box tests.
//!
//! * [`corpus`]: realistic spans, as OTLP requests, from a crate of its own, so that `instructions` builds quickly.
//! * [`demo`]: what `cargo demo` sends and shows.
//! * [`mod@bench`]: what `just bench` measures, and how.
//! * [`table`]: tables of text.
//! * [`client`]: a small HTTP client for the ingest API and for ClickHouse's HTTP interface.

pub use base64;
pub use corpus;
pub use opentelemetry_proto;
pub use prost;

pub mod bench;
pub mod client;
pub mod demo;
pub mod table;
