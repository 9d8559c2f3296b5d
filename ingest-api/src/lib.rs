//! Protocols in, envelopes out.
//!
//! A request goes through `routes` (or `grpc`) to [`app`]: `auth` finds the key, the resolver the tenant, [`body`] reads
//! under caps, [`otlp`], [`langsmith`] or [`native`](schema::translate::native) fill a [`Batch`](schema::translate::batch::Batch) of
//! rows, `publish` appends it. Then it is answered.

pub mod app;
mod auth;
pub mod body;
pub mod config;
pub mod cors;
pub mod error;
pub mod grpc;
mod header_value;
pub mod health;
pub mod langsmith;
pub mod metrics;
pub mod operator;
pub mod otlp;
pub mod prices;
mod provider;
mod publish;
pub mod routes;
pub mod server;
