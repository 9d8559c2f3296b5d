//! How a program reads its `TRACEBILITY_*` settings.
//!
//! Each setting is declared once, as a constant with its parser, default and help. A table of them is all that
//! [`Program::start`] needs to print `--help` and `--check-config`, and to report *every* missing or invalid setting at
//! once. The values of secret settings are never printed, neither in errors nor by `--check-config`.
//!
//! Nothing here does I/O: arguments and environment are passed in, and what is to be printed is handed back. An
//! environment variable that is blank counts as unset.
//!
//! ```
//! use std::net::SocketAddr;
//! use std::time::Duration;
//! use service::settings::{self, Declared, Program, Setting, Start, Values, parse};
//!
//! const LISTEN: Setting<SocketAddr> =
//!     Setting::new("TRACEBILITY_INGEST_LISTEN", parse::socket_addr, "Where to accept requests.")
//!         .default("0.0.0.0:7080");
//! const DRAIN: Setting<Duration> =
//!     Setting::new("TRACEBILITY_INGEST_DRAIN", parse::duration::<100, 600_000>, "How long a drain may take.")
//!         .default("20s");
//! const TABLE: &[&dyn Declared] = &[&LISTEN, &DRAIN, &settings::PG_DSN];
//!
//! const PROGRAM: Program = Program {
//!     name: "ingest-api",
//!     version: "0.1.0",
//!     about: "Takes in traces.",
//!     example: "TRACEBILITY_PG_DSN=postgres://app:pw@db/tracebility ingest-api",
//!     settings: TABLE,
//! };
//!
//! #[derive(Debug)]
//! struct Config {
//!     listen: SocketAddr,
//!     drain: Duration,
//!     pg_dsn: stores::secret::SecretUrl,
//! }
//!
//! impl Config {
//!     // When this runs, the whole table has been checked: `?` is for settings that are missing from it.
//!     fn read(values: &Values) -> Result<Self, settings::Errors> {
//!         let (listen, drain) = (values.get(&LISTEN)?, values.get(&DRAIN)?);
//!         Ok(Self { listen, drain, pg_dsn: values.get(&settings::PG_DSN)? })
//!     }
//! }
//!
//! // In `main`: `PROGRAM.start(std::env::args_os().skip(1), std::env::vars_os(), Config::read)`.
//! let env = [("TRACEBILITY_PG_DSN", "postgres://app:pw@db/tracebility"), ("TRACEBILITY_INGEST_DRAIN", "5s")];
//! let config = match PROGRAM.start(Vec::<String>::new(), env, Config::read) {
//!     Start::Run(config) => config,
//!     Start::Exit(exit) => panic!("{}", exit.stderr), // in `main`: `return exit.print()`
//! };
//! assert_eq!(config.drain, Duration::from_secs(5));
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::time::Duration;

use stores::clickhouse::ClickHouseUrl;
use stores::redis::ack::{AckClass, AckPolicy};
use stores::secret::{REDACTED, SecretUrl};
use tracing_subscriber::filter::Targets;

use crate::mode::DeploymentMode;

pub mod parse;
mod program;

pub use program::{Exit, Program, Start};

/// The prefix of all settings; other environment variables are ignored.
pub const PREFIX: &str = "TRACEBILITY_";

/// The URL of the Postgres registry.
pub const PG_DSN: Setting<SecretUrl> = Setting::new(
    "TRACEBILITY_PG_DSN",
    parse::postgres_url,
    "Postgres, the tenant registry: one URL with its credentials.",
)
.required("postgres://tracebility_app:secret@localhost:5432/tracebility")
.secret_url();

/// The URL of Redis, which holds streams, limits and caches.
pub const REDIS_URL: Setting<SecretUrl> = Setting::new(
    "TRACEBILITY_REDIS_URL",
    parse::redis_url,
    "Redis, with maxmemory-policy noeviction and appendonly yes: a node, redis-sentinel://host:26379/name or redis-cluster://.",
)
.required("redis://:secret@localhost:6379/0")
.secret_url();

/// The ack class of a 2xx answer; see [`stores::redis::ack`].
pub const ACK: Setting<AckClass> = Setting::new(
    "TRACEBILITY_ACK",
    parse::ack_class,
    "What happens before a 2xx: queued (Redis replied), fsynced (it is on Redis' disk), replicated (replicas have it). A class \
     that Redis cannot give makes the service not ready. The same for every service.",
)
.default("queued");

/// How many replicas an acknowledgement waits for.
pub const ACK_REPLICAS: Setting<u64> = Setting::new(
    "TRACEBILITY_ACK_REPLICAS",
    parse::count::<0, { AckPolicy::REPLICAS_MAX as u64 }>,
    "Replicas that must have it, too: in memory for replicated (unset: 1), on disk for fsynced (unset: none).",
);

/// How long an acknowledgement waits for disks or replicas.
pub const ACK_TIMEOUT: Setting<Duration> = Setting::new(
    "TRACEBILITY_ACK_TIMEOUT",
    parse::duration::<100, 30_000>,
    "How long disks and replicas are waited for. After that the answer is 503: stored or not is unknown, send it again.",
)
.default("5s");

/// The three settings above as one policy.
pub fn ack_policy(values: &Values) -> Result<AckPolicy, Errors> {
    let replicas = values.find(&ACK_REPLICAS)?.map(|replicas| u8::try_from(replicas).unwrap_or(u8::MAX));
    AckPolicy::new(values.get(&ACK)?, replicas, values.get(&ACK_TIMEOUT)?)
        .map_err(|reason| Errors::one(&ACK_REPLICAS, reason))
}

/// The URL of ClickHouse, for inserts.
pub const CLICKHOUSE_URL: Setting<ClickHouseUrl> = Setting::new(
    "TRACEBILITY_CLICKHOUSE_URL",
    parse::clickhouse_url,
    "ClickHouse's HTTP interface, with the database.",
)
.required("http://tracebility:secret@localhost:8123/tracebility")
.secret_url();

/// Whether monthly limits are enforced; see [`DeploymentMode`].
pub const DEPLOYMENT_MODE: Setting<DeploymentMode> = Setting::new(
    "TRACEBILITY_DEPLOYMENT_MODE",
    parse::deployment_mode,
    "saas: a monthly limit that is reached refuses (402). self_hosted: it is only counted and noted.",
)
.default("saas");

/// Which log messages are written.
pub const LOG: Setting<Targets> = Setting::new(
    "TRACEBILITY_LOG",
    parse::log_filter,
    "What is logged: a level, or directives such as info,stores=debug, where a target is a crate.",
)
.default("info");

/// Parses one setting. The error says what is wrong, and must not repeat the value, which may be a secret.
pub type Parse<T> = fn(&str) -> Result<T, String>;

/// One setting: its name, parser, help, default, and how its value is printed.
pub struct Setting<T> {
    name: &'static str,
    parse: Parse<T>,
    help: &'static str,
    when_unset: WhenUnset,
    visibility: Visibility,
}

/// What happens when a setting is unset.
#[derive(Clone, Copy, Debug)]
pub enum WhenUnset {
    /// It is an error, which shows this example.
    Required(&'static str),
    /// This text is parsed as the value.
    Default(&'static str),
    /// The setting has no value ([`Values::find`] returns `None`).
    Optional,
}

/// How much of a value may be printed.
#[derive(Clone, Copy, Debug)]
enum Visibility {
    All,
    UrlWithoutPassword,
    Nothing,
}

impl<T> Setting<T> {
    /// Declares a setting that may be left unset; see [`Self::default`] and [`Self::required`].
    pub const fn new(name: &'static str, parse: Parse<T>, help: &'static str) -> Self {
        Self { name, parse, help, when_unset: WhenUnset::Optional, visibility: Visibility::All }
    }

    /// Sets the default. It is parsed like any value, so an invalid one is reported at start.
    pub const fn default(mut self, text: &'static str) -> Self {
        self.when_unset = WhenUnset::Default(text);
        self
    }

    /// Makes the setting required; `example` is shown when it is missing.
    pub const fn required(mut self, example: &'static str) -> Self {
        self.when_unset = WhenUnset::Required(example);
        self
    }

    /// Hides the value wherever settings are printed.
    pub const fn secret(mut self) -> Self {
        self.visibility = Visibility::Nothing;
        self
    }

    /// Marks the value as a URL that is printed without its password and query.
    pub const fn secret_url(mut self) -> Self {
        self.visibility = Visibility::UrlWithoutPassword;
        self
    }
}

/// A [`Setting`] of any type: an element of a table of settings.
pub trait Declared: Sync {
    /// The name of the environment variable.
    fn name(&self) -> &'static str;
    /// What the setting is for, in one or two sentences.
    fn help(&self) -> &'static str;
    /// What happens when it is unset.
    fn when_unset(&self) -> WhenUnset;
    /// Whether errors and listings must hide the value, in full or in part.
    fn is_secret(&self) -> bool;
    /// Parses `text`; the error is the reason, without the value.
    fn check(&self, text: &str) -> Result<(), String>;
    /// The form of `text` that may be printed.
    fn printable(&self, text: &str) -> String;
}

impl<T> Declared for Setting<T> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn help(&self) -> &'static str {
        self.help
    }

    fn when_unset(&self) -> WhenUnset {
        self.when_unset
    }

    fn is_secret(&self) -> bool {
        !matches!(self.visibility, Visibility::All)
    }

    fn check(&self, text: &str) -> Result<(), String> {
        (self.parse)(text).map(drop)
    }

    fn printable(&self, text: &str) -> String {
        match self.visibility {
            Visibility::All => text.to_owned(),
            Visibility::UrlWithoutPassword => {
                url::Url::parse(text).map_or_else(|_| REDACTED.to_owned(), |url| SecretUrl::new(url).to_string())
            }
            Visibility::Nothing => REDACTED.to_owned(),
        }
    }
}

/// The environment, checked against a table of settings.
pub struct Values {
    texts: BTreeMap<String, String>,
    ignored: BTreeSet<String>,
}

impl Values {
    /// Reads the `TRACEBILITY_*` variables from `env` and checks every setting of `table`, including defaults.
    pub fn read<K: Into<OsString>, V: Into<OsString>>(
        table: &[&dyn Declared],
        env: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, Errors> {
        let mut errors = Errors::default();
        let mut texts = BTreeMap::new();
        let mut ignored = BTreeSet::new();
        for (name, value) in env {
            let Ok(name) = name.into().into_string() else { continue };
            let Some(setting) = table.iter().find(|setting| setting.name() == name) else {
                if name.starts_with(PREFIX) {
                    ignored.insert(name);
                }
                continue;
            };
            match value.into().into_string() {
                Ok(text) if text.trim().is_empty() => {}
                Ok(text) => drop(texts.insert(name, text.trim().to_owned())),
                Err(_) => errors.push(*setting, None, "is not UTF-8"),
            }
        }
        for setting in table {
            let given = texts.get(setting.name()).map(String::as_str);
            let text = match (given, setting.when_unset()) {
                (Some(text), _) | (None, WhenUnset::Default(text)) => text,
                (None, WhenUnset::Optional) => continue,
                (None, WhenUnset::Required(_)) if errors.mentions(setting.name()) => continue,
                (None, WhenUnset::Required(_)) => {
                    errors.push(*setting, None, "is not set");
                    continue;
                }
            };
            if let Err(reason) = setting.check(text) {
                errors.push(*setting, Some(text), &reason);
            }
        }
        if errors.is_empty() { Ok(Self { texts, ignored }) } else { Err(errors) }
    }

    /// The value of a setting that is required or has a default.
    pub fn get<T>(&self, setting: &Setting<T>) -> Result<T, Errors> {
        match self.find(setting)? {
            Some(value) => Ok(value),
            None => Err(Errors::one(setting, "is not set")),
        }
    }

    /// The value of a setting, or `None` when it is unset and has no default.
    pub fn find<T>(&self, setting: &Setting<T>) -> Result<Option<T>, Errors> {
        let Some(text) = self.text(setting) else { return Ok(None) };
        (setting.parse)(text).map(Some).map_err(|reason| Errors::one(setting, &reason))
    }

    /// The text that a setting is parsed from: the given value, else its default.
    pub fn text<'a>(&'a self, setting: &dyn Declared) -> Option<&'a str> {
        match (self.texts.get(setting.name()), setting.when_unset()) {
            (Some(text), _) => Some(text),
            (None, WhenUnset::Default(text)) => Some(text),
            (None, WhenUnset::Required(_) | WhenUnset::Optional) => None,
        }
    }

    /// `TRACEBILITY_*` variables that this program has no setting for: another program's, or misspelt.
    pub fn ignored(&self) -> impl Iterator<Item = &str> {
        self.ignored.iter().map(String::as_str)
    }

    /// Whether the environment gave a value, as opposed to a default.
    pub fn is_given(&self, setting: &dyn Declared) -> bool {
        self.texts.contains_key(setting.name())
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Only the table knows which settings are secret, so print no value.
        f.debug_struct("Values").field("given", &self.texts.keys()).finish()
    }
}

/// All settings that are missing or invalid, in one or two lines each.
#[derive(Debug, Default, Clone)]
pub struct Errors(Vec<Problem>);

#[derive(Debug, Clone)]
struct Problem {
    name: &'static str,
    what: String,
    remedy: String,
}

impl Errors {
    /// One problem, for a rule that spans several settings: `reason` continues the sentence that starts with the name.
    pub fn one(setting: &dyn Declared, reason: &str) -> Self {
        let mut errors = Self::default();
        errors.push(setting, None, reason);
        errors
    }

    /// The names of the invalid settings, in the table's order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|problem| problem.name)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn mentions(&self, name: &str) -> bool {
        self.0.iter().any(|problem| problem.name == name)
    }

    fn push(&mut self, setting: &dyn Declared, text: Option<&str>, reason: &str) {
        let what = match text {
            Some(text) if !setting.is_secret() => format!("{reason} (got {text:?})"),
            _ => reason.to_owned(),
        };
        let remedy = match setting.when_unset() {
            WhenUnset::Required(example) => format!("set it like {example}"),
            WhenUnset::Default(default) => format!("unset it for the default, {default}"),
            WhenUnset::Optional => "unset it to do without".to_owned(),
        };
        self.0.push(Problem { name: setting.name(), what, remedy });
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        writeln!(f, "{count} {} missing or invalid:", if count == 1 { "setting is" } else { "settings are" })?;
        for problem in &self.0 {
            writeln!(f, "  {} {}; {}", problem.name, problem.what, problem.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

#[cfg(test)]
mod tests;
