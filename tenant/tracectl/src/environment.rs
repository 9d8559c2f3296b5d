//! The variables that name the stores.

/// The variable that names Postgres, as people who change the registry.
pub(crate) const DSN: &str = "TRACEBILITY_PG_OPERATOR_DSN";

/// The variable that names Redis, where changes of keys are announced.
pub(crate) const REDIS: &str = "TRACEBILITY_REDIS_URL";
