//! Protocols in, envelopes out.
//!
//! A request goes through `routes` (or `grpc`) to [`app`]: `auth` finds the key, the resolver the tenant, [`body`] reads
//! under caps, [`otlp`], [`langsmith`] or [`native`] fill a [`batch`] of rows, `publish` appends it. Then it is answered.

pub mod app;
mod auth;
pub mod batch;
pub mod body;
pub mod config;
pub mod derive;
pub mod error;
mod fields;
pub mod grpc;
pub mod health;
pub mod langsmith;
pub mod metrics;
pub mod native;
pub mod operator;
pub mod otlp;
mod publish;
pub mod routes;
pub mod server;
pub mod times;
