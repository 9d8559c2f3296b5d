//! Parsers for [`super::Setting`]. Bounds are part of the parser, so that a table of settings shows every limit. No
//! error repeats the value, which may be a secret.

use std::net::SocketAddr;
use std::time::Duration;

use stores::clickhouse::ClickHouseUrl;
use stores::redis::ack::AckClass;
use stores::secret::SecretUrl;
use tracing_subscriber::filter::Targets;
use url::Url;

use crate::mode::DeploymentMode;

/// Any text; never an error.
#[allow(clippy::unnecessary_wraps)] // the shape of a parser
pub fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

/// A log filter: a level, or a level per target. A target is a crate, or a module of one.
pub fn log_filter(text: &str) -> Result<Targets, String> {
    text.parse().map_err(|_| "is not a log filter, such as info or info,stores=debug".to_owned())
}

/// An IP address and port, such as `0.0.0.0:7080` or `[::1]:7080`.
pub fn socket_addr(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "is not an IP address and port, such as 0.0.0.0:7080 or [::]:7080".to_owned())
}

/// `true`, `false`, `1`, `0`, `yes`, `no`, `on` or `off`.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("is not true or false".to_owned()),
    }
}

/// A whole number between two bounds, both included. `_` may group digits.
pub fn count<const MIN: u64, const MAX: u64>(text: &str) -> Result<u64, String> {
    let refused = || format!("is not a whole number from {MIN} to {MAX}");
    let value = text.replace('_', "").parse::<u64>().map_err(|_| refused())?;
    if (MIN..=MAX).contains(&value) { Ok(value) } else { Err(refused()) }
}

/// A size in bytes between two bounds: a whole number and `B`, `KiB`, `MiB`, `GiB`, `kB`, `MB` or `GB`.
pub fn bytes<const MIN: u64, const MAX: u64>(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 7] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
    ];
    let refused = || format!("is not a size from {} to {}, such as 64MiB", Bytes(MIN), Bytes(MAX));
    let value = with_unit(text, &UNITS).ok_or_else(refused)?;
    if (MIN..=MAX).contains(&value) { Ok(value) } else { Err(refused()) }
}

/// A duration between two bounds in milliseconds: a whole number and `ms`, `s`, `m`, `h` or `d`.
pub fn duration<const MIN_MS: u64, const MAX_MS: u64>(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let refused = || format!("is not a duration from {MIN_MS}ms to {MAX_MS}ms, such as 500ms or 20s");
    let value = with_unit(text, &UNITS).ok_or_else(refused)?;
    if (MIN_MS..=MAX_MS).contains(&value) { Ok(Duration::from_millis(value)) } else { Err(refused()) }
}

/// `saas`, where monthly limits refuse, or `self_hosted`, where they only count.
pub fn deployment_mode(text: &str) -> Result<DeploymentMode, String> {
    text.parse::<DeploymentMode>().map_err(|_| "is not saas or self_hosted".to_owned())
}

/// A URL like `postgres://user:password@host:5432/database`.
pub fn postgres_url(text: &str) -> Result<SecretUrl, String> {
    secret_url(text, &["postgres", "postgresql"], "postgres://user:password@host:5432/database")
}

/// A `redis://` URL, or one of [`stores::redis::CLUSTER_SCHEME`] or [`stores::redis::SENTINEL_SCHEME`].
pub fn redis_url(text: &str) -> Result<SecretUrl, String> {
    use stores::redis::{CLUSTER_SCHEME, SENTINEL_SCHEME, check_url};
    let url = secret_url(text, &["redis", CLUSTER_SCHEME, SENTINEL_SCHEME], "redis://:password@host:6379/0")?;
    check_url(&url)?;
    Ok(url)
}

/// `queued`, `fsynced` or `replicated`.
pub fn ack_class(text: &str) -> Result<AckClass, String> {
    text.parse::<AckClass>().map_err(|_| "is not queued, fsynced or replicated".to_owned())
}

/// A ClickHouse URL; see [`ClickHouseUrl`].
pub fn clickhouse_url(text: &str) -> Result<ClickHouseUrl, String> {
    text.parse::<ClickHouseUrl>().map_err(|error| error.to_string())
}

fn secret_url(text: &str, schemes: &[&str], shape: &str) -> Result<SecretUrl, String> {
    // The parser's own message names the fault without quoting the text.
    let url = Url::parse(text).map_err(|error| format!("is not a URL of the form {shape}: {error}"))?;
    if !schemes.contains(&url.scheme()) {
        return Err(format!("is not a {}:// URL of the form {shape}", schemes[0]));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(format!("names no host; its form is {shape}"));
    }
    Ok(SecretUrl::new(url))
}

/// Splits `number unit`; a number without a unit is refused, because its unit would be a guess.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_')?;
    let (number, unit) = text.split_at(digits);
    let scale = units.iter().find(|(name, _)| *name == unit.trim_start())?.1;
    number.replace('_', "").parse::<u64>().ok()?.checked_mul(scale)
}

/// Formats a size in the largest binary unit that divides it.
struct Bytes(u64);

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => f.write_str("0B"),
            n if n.is_multiple_of(1 << 30) => write!(f, "{}GiB", n >> 30),
            n if n.is_multiple_of(1 << 20) => write!(f, "{}MiB", n >> 20),
            n if n.is_multiple_of(1 << 10) => write!(f, "{}KiB", n >> 10),
            n => write!(f, "{n}B"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_keep_their_bounds() {
        let parse = count::<1, 1_000>;
        assert_eq!(parse("1"), Ok(1));
        assert_eq!(parse("1_000"), Ok(1_000));
        for bad in ["0", "1001", "-1", "1.5", "x", "99999999999999999999"] {
            assert_eq!(parse(bad), Err("is not a whole number from 1 to 1000".to_owned()), "{bad}");
        }
    }

    #[test]
    fn sizes_need_a_unit() {
        let parse = bytes::<1024, { 1 << 30 }>;
        assert_eq!(parse("64MiB"), Ok(64 << 20));
        assert_eq!(parse("64 MiB"), Ok(64 << 20));
        assert_eq!(parse("2kB"), Ok(2_000));
        for bad in ["64", "MiB", "1B", "2GiB", "1.5MiB", "64mib", "18446744073709551615GiB"] {
            assert_eq!(parse(bad), Err("is not a size from 1KiB to 1GiB, such as 64MiB".to_owned()), "{bad}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        let parse = duration::<10, 3_600_000>;
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(parse("1h"), Ok(Duration::from_secs(3_600)));
        for bad in ["500", "5ms", "2h", "1.5s", "s", ""] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_booleans_and_urls() {
        assert_eq!(socket_addr("[::1]:7080").unwrap().port(), 7080);
        assert!(socket_addr("localhost").is_err());
        assert_eq!((boolean("TRUE"), boolean("off")), (Ok(true), Ok(false)));
        assert!(boolean("maybe").is_err());
        assert!(postgres_url("postgres://u:p@h/d").is_ok());
        for good in ["redis://h", "redis-cluster://h:1/?nodes=b:2", "redis-sentinel://u:p@h/name/1?nodes=b:2,c:3"] {
            assert!(redis_url(good).is_ok(), "{good}");
        }
        let no_name = "redis-sentinel://u:hunter2@h:26379";
        for bad in ["", "hunter2", "http://u:hunter2@h", "redis://", "rediss://u:hunter2@h", no_name] {
            let error = redis_url(bad).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
