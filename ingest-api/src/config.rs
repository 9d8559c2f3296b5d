//! The settings of `ingest-api`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use auth::api_key::PresentedKey;
use service::mode::DeploymentMode;
use service::settings;
use service::settings::{Declared, Errors, Program, Setting, Values, parse};
use stores::clickhouse::ClickHouseUrl;
use stores::redis::ack::AckPolicy;
use stores::secret::{Secret, SecretUrl};

use crate::cors::Origins;

const INGEST_LISTEN: Setting<SocketAddr> =
    Setting::new("TRACEBILITY_INGEST_LISTEN", parse::socket_addr, "Where SDKs send to, over HTTP/1.1 and HTTP/2.")
        .default("0.0.0.0:7080");
const OTLP_GRPC_LISTEN: Setting<SocketAddr> =
    Setting::new("TRACEBILITY_OTLP_GRPC_LISTEN", parse::socket_addr, "Where OTLP/gRPC exporters send to.")
        .default("0.0.0.0:4317");
const OPERATOR_LISTEN: Setting<SocketAddr> = Setting::new(
    "TRACEBILITY_OPERATOR_LISTEN",
    parse::socket_addr,
    "The operators' listener. Keep it off the internet.",
)
.default("0.0.0.0:7081");
const ADMIN_KEY: Setting<String> = Setting::new(
    "TRACEBILITY_ADMIN_KEY",
    admin_key,
    "The bearer token of the admin API, at least 32 characters. Without it the admin API refuses every request.",
)
.secret();
const STATIC_API_KEY: Setting<String> = Setting::new(
    "TRACEBILITY_STATIC_API_KEY",
    static_api_key,
    "self_hosted only: a key of the form tb_<24 hex>.<64 hex> for the default org, which works without Postgres.",
)
.secret();
const BODY_MAX: Setting<u64> = Setting::new(
    "TRACEBILITY_BODY_MAX",
    parse::bytes::<{ 64 << 10 }, { 512 << 20 }>,
    "The largest request body, before and after decompression. SDKs send up to 27 MB unasked, and drop what is refused.",
)
.default("64MiB");
const BODIES_IN_FLIGHT_MAX: Setting<u64> = Setting::new(
    "TRACEBILITY_BODIES_IN_FLIGHT_MAX",
    parse::bytes::<{ 1 << 20 }, { 64 << 30 }>,
    "Memory for the bodies of all requests under way. Beyond it requests are answered with 503 and Retry-After.",
)
.default("512MiB");
const CONNECTIONS_MAX: Setting<u64> = Setting::new(
    "TRACEBILITY_CONNECTIONS_MAX",
    parse::count::<1, 1_000_000>,
    "Open connections per listener. Further ones wait to be accepted.",
)
.default("4096");
const CORS_ORIGINS: Setting<Origins> = Setting::new(
    "TRACEBILITY_CORS_ORIGINS",
    Origins::parse,
    "Origins whose web pages may send here, such as https://app.example.com, with commas; * for any. None by default.",
);
const PRICES: Setting<String> = Setting::new(
    "TRACEBILITY_PRICES",
    parse::text,
    "A file of what model calls cost, in place of the built-in prices. Read again whenever it changes.",
);
const ANSWERED_EVERY: Setting<Duration> = Setting::new(
    "TRACEBILITY_ANSWERED_EVERY",
    parse::duration::<100, 3_600_000>,
    "How often the counts of acknowledged items are written to ClickHouse, for the ledger.",
)
.default("60s");
const DRAIN_MAX: Setting<Duration> = Setting::new(
    "TRACEBILITY_DRAIN_MAX",
    parse::duration::<0, 600_000>,
    "How long requests under way may take to finish after SIGTERM.",
)
.default("20s");

/// The program, for `--help` and `--check-config`.
pub const PROGRAM: Program = Program {
    name: "ingest-api",
    version: env!("CARGO_PKG_VERSION"),
    about: "Takes in OTLP traces and native run batches, and appends them durably to Redis before it answers.",
    example: "TRACEBILITY_PG_DSN=postgres://tracebility_app:secret@localhost:5432/tracebility \\\n  \
              TRACEBILITY_REDIS_URL=redis://localhost:6379/0 \\\n  \
              TRACEBILITY_CLICKHOUSE_URL=http://tracebility:secret@localhost:8123/tracebility \\\n  ingest-api",
    settings: TABLE,
};

const TABLE: &[&dyn Declared] = &[
    &settings::PG_DSN,
    &settings::REDIS_URL,
    &settings::ACK,
    &settings::ACK_REPLICAS,
    &settings::ACK_TIMEOUT,
    &settings::CLICKHOUSE_URL,
    &settings::DEPLOYMENT_MODE,
    &INGEST_LISTEN,
    &OTLP_GRPC_LISTEN,
    &OPERATOR_LISTEN,
    &ADMIN_KEY,
    &STATIC_API_KEY,
    &BODY_MAX,
    &BODIES_IN_FLIGHT_MAX,
    &CONNECTIONS_MAX,
    &CORS_ORIGINS,
    &PRICES,
    &ANSWERED_EVERY,
    &DRAIN_MAX,
    &settings::LOG,
];

const ADMIN_KEY_CHARS_MIN: usize = 32;

fn admin_key(text: &str) -> Result<String, String> {
    if text.len() < ADMIN_KEY_CHARS_MIN {
        return Err(format!("is shorter than {ADMIN_KEY_CHARS_MIN} characters"));
    }
    Ok(text.to_owned())
}

fn static_api_key(text: &str) -> Result<String, String> {
    PresentedKey::parse(text).map(|_| text.to_owned()).map_err(|error| format!("is not an API key: {error}"))
}

/// All settings, read and checked.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Config {
    pub pg_dsn: SecretUrl,
    pub redis_url: SecretUrl,
    pub ack: AckPolicy,
    pub clickhouse_url: ClickHouseUrl,
    pub deployment_mode: DeploymentMode,
    pub ingest_listen: SocketAddr,
    pub otlp_grpc_listen: SocketAddr,
    pub operator_listen: SocketAddr,
    pub admin_key: Option<Secret<String>>,
    pub static_api_key: Option<Secret<String>>,
    /// Most bytes of one body, before and after decompression.
    pub body_max: usize,
    /// Most bytes of all bodies under way.
    pub bodies_in_flight_max: usize,
    pub connections_max: usize,
    pub cors: Origins,
    pub prices: Option<PathBuf>,
    pub answered_every: Duration,
    pub drain_max: Duration,
}

impl Config {
    /// Reads the settings, and checks those that depend on each other.
    pub fn read(values: &Values) -> Result<Self, Errors> {
        let size = |setting| values.get(setting).map(|n: u64| usize::try_from(n).unwrap_or(usize::MAX));
        let config = Self {
            pg_dsn: values.get(&settings::PG_DSN)?,
            redis_url: values.get(&settings::REDIS_URL)?,
            ack: settings::ack_policy(values)?,
            clickhouse_url: values.get(&settings::CLICKHOUSE_URL)?,
            deployment_mode: values.get(&settings::DEPLOYMENT_MODE)?,
            ingest_listen: values.get(&INGEST_LISTEN)?,
            otlp_grpc_listen: values.get(&OTLP_GRPC_LISTEN)?,
            operator_listen: values.get(&OPERATOR_LISTEN)?,
            admin_key: values.find(&ADMIN_KEY)?.map(Secret::new),
            static_api_key: values.find(&STATIC_API_KEY)?.map(Secret::new),
            body_max: size(&BODY_MAX)?,
            bodies_in_flight_max: size(&BODIES_IN_FLIGHT_MAX)?,
            connections_max: size(&CONNECTIONS_MAX)?,
            cors: values.find(&CORS_ORIGINS)?.unwrap_or_default(),
            prices: values.find(&PRICES)?.map(PathBuf::from),
            answered_every: values.get(&ANSWERED_EVERY)?,
            drain_max: values.get(&DRAIN_MAX)?,
        };
        if config.static_api_key.is_some() && config.deployment_mode == DeploymentMode::Saas {
            return Err(Errors::one(&STATIC_API_KEY, "is for TRACEBILITY_DEPLOYMENT_MODE=self_hosted only"));
        }
        // A body may be in memory twice: as it came, and decompressed.
        if config.bodies_in_flight_max < 2 * config.body_max {
            return Err(Errors::one(&BODIES_IN_FLIGHT_MAX, "is less than twice TRACEBILITY_BODY_MAX"));
        }
        Ok(config)
    }
}
