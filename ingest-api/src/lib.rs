//! Takes requests of several protocols and appends their envelopes to the shards.
//!
//! A request goes through `routes` (or `grpc`) to [`app`]. `credentials` finds the API key in it, and the resolver
//! finds the tenant. [`body`] reads the body under limits. [`otlp`], [`langsmith`] or
//! [`native`](translate::native) decode it into a [`Batch`](translate::batch::Batch) of rows. The shard appender
//! appends the envelope. Then the request is answered.

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
mod uncancelled;
