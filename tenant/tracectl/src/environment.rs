//! The environment variables with the URLs of the stores.

/// The variable with the URL of Postgres, for the operators' role.
pub(crate) const DSN: &str = "TRACEBILITY_PG_OPERATOR_DSN";

/// The variable with the URL of Redis, where changes of keys are announced.
pub(crate) const REDIS: &str = "TRACEBILITY_REDIS_URL";
