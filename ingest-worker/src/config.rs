//! The settings of `ingest-worker`.

use std::net::SocketAddr;
use std::time::Duration;

use service::settings;
use service::settings::{Declared, Errors, Program, Setting, Values, parse};
use stores::clickhouse::ClickHouseUrl;
use stores::redis::ack::AckPolicy;
use stores::secret::SecretUrl;

use crate::background_jobs::{BackgroundJobs, WorkerRoles};
use crate::batch::Limits;

const WORKER_LISTEN: Setting<SocketAddr> =
    Setting::new("TRACEBILITY_WORKER_LISTEN", parse::socket_addr, "Where /healthz, /readyz and /metrics are.")
        .default("0.0.0.0:7082");
const WORKER_ID: Setting<String> = Setting::new(
    "TRACEBILITY_WORKER_ID",
    worker_id,
    "This worker's name, as it is shown beside the shards that it works on. Unset, the host's name.",
);
const BATCH_ROWS_MAX: Setting<u64> = Setting::new(
    "TRACEBILITY_BATCH_ROWS_MAX",
    parse::count::<1, 1_000_000>,
    "Rows of one insert. Merging many small inserts is the largest cost of all.",
)
.default("100000");
const BATCH_BYTES_MAX: Setting<u64> =
    Setting::new("TRACEBILITY_BATCH_BYTES_MAX", parse::bytes::<{ 64 << 10 }, { 240 << 20 }>, "Bytes of one insert.")
        .default("128MiB");
const BATCH_AGE_MAX: Setting<Duration> = Setting::new(
    "TRACEBILITY_BATCH_AGE_MAX",
    parse::duration::<1, 60_000>,
    "Time between two inserts of a shard, and so how long a row may wait for others. After a quiet time rows are inserted at once.",
)
.default("1s");
const TOKEN_TRUST: Setting<Duration> = Setting::new(
    "TRACEBILITY_TOKEN_TRUST",
    parse::duration::<1_000, 3_600_000>,
    "For how long after a batch was announced its inserts rely on their deduplication tokens alone. Later, rows are looked for \
     before they are inserted. ClickHouse remembers the tokens of the last 100 000 inserts into a table, on a cluster 10 000: all \
     workers together may make no more than that within this time.",
)
.default("2m");
const MEMORY_MAX: Setting<u64> = Setting::new(
    "TRACEBILITY_BATCH_MEMORY_MAX",
    parse::bytes::<{ 16 << 20 }, { 64 << 30 }>,
    "Memory for the batches of all shards. A batch that finds it spent is inserted at once.",
)
.default("512MiB");
const READ_AHEAD_MAX: Setting<u64> = Setting::new(
    "TRACEBILITY_READ_AHEAD_MAX",
    parse::bytes::<{ 1 << 20 }, { 4 << 30 }>,
    "Memory per shard for envelopes that were read and are not in a batch yet. Beyond it they are read again.",
)
.default("16MiB");
const DLQ_BYTES_MAX: Setting<u64> = Setting::new(
    "TRACEBILITY_DLQ_BYTES_MAX",
    parse::bytes::<{ 64 << 10 }, { 64 << 30 }>,
    "Bytes of dead letters per shard. A shard whose dead letters are full waits until there is room; nothing is lost.",
)
.default("256MiB");
const PARKED_BYTES_MAX: Setting<u64> = Setting::new(
    "TRACEBILITY_QUOTA_PARKED_BYTES_MAX",
    parse::bytes::<0, { 64 << 30 }>,
    "Bytes in Redis per org for envelopes that are parked because the org is over its quota. Beyond it they are stored.",
)
.default("64MiB");
const INSERTS_MAX: Setting<u64> = Setting::new(
    "TRACEBILITY_INSERTS_MAX",
    parse::count::<1, 64>,
    "Inserts under way at the same time, so that a backlog does not overload ClickHouse.",
)
.default("4");
const INSERT_QUORUM: Setting<u64> = Setting::new(
    "TRACEBILITY_INSERT_QUORUM",
    parse::count::<0, 100>,
    "Replicas that must have an insert before it counts as stored; 0 for what the server's profile says. Only on a ClickHouse cluster.",
)
.default("0");
const DRAIN_MAX: Setting<Duration> = Setting::new(
    "TRACEBILITY_DRAIN_MAX",
    parse::duration::<0, 600_000>,
    "How long inserting the last batches may take after SIGTERM. What is not inserted stays in Redis.",
)
.default("20s");
const DUAL_READ_LEGACY: Setting<bool> = Setting::new(
    "TRACEBILITY_INGEST_DUAL_READ_LEGACY",
    parse::boolean,
    "Whether workers also drain the stream from before tenancy, until the flag of that name is switched off.",
)
.default("true");
const ROLES: Setting<WorkerRoles> = Setting::new(
    "TRACEBILITY_WORKER_ROLES",
    WorkerRoles::parse,
    "What this worker does: shards (inserts), quota (sums up monthly usage), audit (copies and checks the audit trail), ledger \
     (checks that every accepted item is accounted for).",
)
.default("shards,quota,audit,ledger");
const QUOTA_EVERY: Setting<Duration> = Setting::new(
    "TRACEBILITY_QUOTA_EVERY",
    parse::duration::<100, 3_600_000>,
    "How often one worker sums up monthly usage.",
)
.default("60s");
const QUOTA_SETTLE: Setting<Duration> = Setting::new(
    "TRACEBILITY_QUOTA_SETTLE",
    parse::duration::<0, 3_600_000>,
    "How far behind the oldest queued entry usage is summed up. More than any request takes, and than clocks differ.",
)
.default("2m");
const AUDIT_PUBLISH_EVERY: Setting<Duration> = Setting::new(
    "TRACEBILITY_AUDIT_PUBLISH_EVERY",
    parse::duration::<20, 3_600_000>,
    "How often new audit events are copied to ClickHouse.",
)
.default("1s");
const AUDIT_RECONCILE_EVERY: Setting<Duration> = Setting::new(
    "TRACEBILITY_AUDIT_RECONCILE_EVERY",
    parse::duration::<1_000, { 30 * 86_400_000 }>,
    "How often one worker checks that every audit event is in ClickHouse.",
)
.default("24h");

const LEDGER_EVERY: Setting<Duration> = Setting::new(
    "TRACEBILITY_LEDGER_EVERY",
    parse::duration::<100, 86_400_000>,
    "How often one worker checks the ledger.",
)
.default("60s");
const LEDGER_SETTLE: Setting<Duration> = Setting::new(
    "TRACEBILITY_LEDGER_SETTLE",
    parse::duration::<0, 86_400_000>,
    "How long accepted items may be missing, or there twice, before an alarm is raised.",
)
.default("2m");

/// The program, for `--help` and `--check-config`.
pub const PROGRAM: Program = Program {
    name: "ingest-worker",
    version: env!("CARGO_PKG_VERSION"),
    about: "Takes envelopes from the shards' streams and inserts their rows into ClickHouse in large blocks.",
    example: "TRACEBILITY_PG_DSN=postgres://tracebility_app:secret@localhost:5432/tracebility \\\n  \
              TRACEBILITY_REDIS_URL=redis://localhost:6379/0 \\\n  \
              TRACEBILITY_CLICKHOUSE_URL=http://tracebility:secret@localhost:8123/tracebility \\\n  ingest-worker",
    settings: TABLE,
};

const TABLE: &[&dyn Declared] = &[
    &settings::PG_DSN,
    &settings::REDIS_URL,
    &settings::ACK,
    &settings::ACK_REPLICAS,
    &settings::ACK_TIMEOUT,
    &settings::CLICKHOUSE_URL,
    &WORKER_LISTEN,
    &WORKER_ID,
    &BATCH_ROWS_MAX,
    &BATCH_BYTES_MAX,
    &BATCH_AGE_MAX,
    &TOKEN_TRUST,
    &MEMORY_MAX,
    &READ_AHEAD_MAX,
    &DLQ_BYTES_MAX,
    &PARKED_BYTES_MAX,
    &INSERTS_MAX,
    &INSERT_QUORUM,
    &DRAIN_MAX,
    &DUAL_READ_LEGACY,
    &ROLES,
    &settings::DEPLOYMENT_MODE,
    &QUOTA_EVERY,
    &QUOTA_SETTLE,
    &AUDIT_PUBLISH_EVERY,
    &AUDIT_RECONCILE_EVERY,
    &LEDGER_EVERY,
    &LEDGER_SETTLE,
    &settings::LOG,
];

/// Most characters of a worker's name.
const WORKER_ID_CHARS_MAX: usize = 128;

fn worker_id(text: &str) -> Result<String, String> {
    let fits = (1..=WORKER_ID_CHARS_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if fits {
        Ok(text.to_owned())
    } else {
        Err(format!("is not 1 to {WORKER_ID_CHARS_MAX} printable ASCII characters"))
    }
}

/// All settings, read and checked.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Config {
    pub redis_url: SecretUrl,
    pub ack: AckPolicy,
    pub clickhouse_url: ClickHouseUrl,
    pub worker_listen: SocketAddr,
    pub worker_id: String,
    pub limits: Limits,
    pub token_trust: Duration,
    /// Memory budget for gathered rows, in bytes.
    pub memory_max: usize,
    pub read_ahead_max: usize,
    pub dlq_bytes_max: u64,
    /// Most bytes of parked envelopes per org; `None` where monthly limits are not enforced.
    pub parked_bytes_max: Option<u64>,
    pub inserts_max: usize,
    /// Number of replicas that must confirm an insert.
    pub insert_quorum: u64,
    pub drain_max: Duration,
    pub dual_read_legacy: bool,
    pub roles: WorkerRoles,
    pub jobs: BackgroundJobs,
}

impl Config {
    /// Reads the settings, and checks those that depend on each other.
    pub fn read(values: &Values) -> Result<Self, Errors> {
        let size = |setting| values.get(setting).map(|n: u64| usize::try_from(n).unwrap_or(usize::MAX));
        let limits =
            Limits { rows: size(&BATCH_ROWS_MAX)?, bytes: size(&BATCH_BYTES_MAX)?, age: values.get(&BATCH_AGE_MAX)? };
        let memory_max = size(&MEMORY_MAX)?;
        if memory_max < limits.bytes {
            return Err(Errors::one(&MEMORY_MAX, "is less than TRACEBILITY_BATCH_BYTES_MAX"));
        }
        let (redis_url, clickhouse_url) = (values.get(&settings::REDIS_URL)?, values.get(&settings::CLICKHOUSE_URL)?);
        let jobs = BackgroundJobs {
            pg_dsn: values.get(&settings::PG_DSN)?,
            redis_url: SecretUrl::clone(&redis_url),
            clickhouse_url: ClickHouseUrl::clone(&clickhouse_url),
            mode: values.get(&settings::DEPLOYMENT_MODE)?,
            quota_every: values.get(&QUOTA_EVERY)?,
            quota_settle: values.get(&QUOTA_SETTLE)?,
            audit_publish_every: values.get(&AUDIT_PUBLISH_EVERY)?,
            audit_reconcile_every: values.get(&AUDIT_RECONCILE_EVERY)?,
            ledger_every: values.get(&LEDGER_EVERY)?,
            ledger_settle: values.get(&LEDGER_SETTLE)?,
        };
        let parked_bytes_max = Some(values.get(&PARKED_BYTES_MAX)?).filter(|_| jobs.mode.enforces_quotas());
        Ok(Self {
            redis_url,
            ack: settings::ack_policy(values)?,
            clickhouse_url,
            worker_listen: values.get(&WORKER_LISTEN)?,
            worker_id: match values.find(&WORKER_ID)? {
                Some(id) => id,
                None => hostname()?,
            },
            limits,
            token_trust: values.get(&TOKEN_TRUST)?,
            memory_max,
            read_ahead_max: size(&READ_AHEAD_MAX)?,
            dlq_bytes_max: values.get(&DLQ_BYTES_MAX)?,
            parked_bytes_max,
            inserts_max: size(&INSERTS_MAX)?,
            insert_quorum: values.get(&INSERT_QUORUM)?,
            drain_max: values.get(&DRAIN_MAX)?,
            dual_read_legacy: values.get(&DUAL_READ_LEGACY)?,
            roles: values.get(&ROLES)?,
            jobs,
        })
    }
}

fn hostname() -> Result<String, Errors> {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    worker_id(&name).map_err(|_| Errors::one(&WORKER_ID, "is not set, and the host's name cannot be used instead"))
}
