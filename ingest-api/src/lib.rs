//! Protocols in, envelopes out.
//!
//! A request goes through `routes` (or `grpc`) to [`app`]: `credentials` finds the key, the resolver the tenant,
//! [`body`] reads under caps, [`otlp`](::otlp), [`langsmith`] or [`native`](translate::native) fill a
//! [`Batch`](translate::batch::Batch) of rows, `publish` appends it. Then it is answered.

mod admitted;
pub mod answer;
pub mod app;
pub mod body;
pub mod config;
pub mod cors;
mod credentials;
pub mod decoder;
pub mod error;
pub mod grpc;
mod header_value;
pub mod health;
pub mod langsmith;
pub mod metrics;
pub mod operator;
pub mod prices;
pub mod routes;
pub mod server;
