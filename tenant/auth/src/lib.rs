//! From a presented API key to a [`TenantContext`]: who a request is from, and what its org may do.
//!
//! | module | one idea |
//! | --- | --- |
//! | [`api_key`] | the form of an API key, and its hash |
//! | [`resolver`] | from a presented key to a [`TenantContext`] |
//! | [`context`] | who a request is from and what its org may do |
//! | [`invalidate`] | announcing that processes must look keys up again |
//! | [`envelope_key`] | the key that authenticates envelopes |
//!
//! Only the resolver makes a [`TenantContext`] (a `compile_fail` example in [`context`]).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod api_key;
pub mod envelope_key;
pub mod invalidate;
pub mod resolver;

pub use resolver::context::TenantContext;
pub use resolver::{ResolveError, Resolver, context};
