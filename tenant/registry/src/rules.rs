//! Which names, slugs, scopes and configs are valid. The database enforces the same rules; here errors get a readable
//! message.

use std::time::Duration;

use serde_json::Value;
use time::OffsetDateTime;

use super::RegistryError;

/// The most characters of a name.
pub const NAME_CHARS_MAX: usize = 200;
/// The fewest characters of a slug.
pub const SLUG_LEN_MIN: usize = 3;
/// The most characters of a slug.
pub const SLUG_LEN_MAX: usize = 40;
/// The most scopes of one key.
pub const SCOPES_MAX: usize = 32;
/// The most bytes of a product's or identity provider's config, as JSON text.
pub const CONFIG_BYTES_MAX: usize = 64 * 1024;
/// The longest retention: ten years.
pub const RETENTION_DAYS_MAX: u32 = 3650;
/// How long a rotated key may work beside the one that replaces it.
pub const OVERLAP_MAX: Duration = Duration::from_secs(90 * 24 * 3600);

/// Slugs that no org may have: they are, or will be, paths and host names of ours, or would read as "nobody" or "all"
/// where an org is named. Workspaces and projects may have them, because their slug never stands alone.
/// `tenants_slug_reserved_check` has the same list.
pub const RESERVED_SLUGS: &[&str] = &[
    "account",
    "accounts",
    "admin",
    "all",
    "anonymous",
    "any",
    "api",
    "app",
    "assets",
    "auth",
    "billing",
    "console",
    "dashboard",
    "default",
    "docs",
    "everyone",
    "global",
    "guest",
    "health",
    "healthz",
    "help",
    "info",
    "ingest",
    "internal",
    "login",
    "logout",
    "metrics",
    "new",
    "nobody",
    "none",
    "null",
    "oauth",
    "operator",
    "otlp",
    "owner",
    "public",
    "readyz",
    "root",
    "self",
    "settings",
    "shared",
    "signin",
    "signup",
    "sso",
    "static",
    "status",
    "support",
    "system",
    "tracebility",
    "undefined",
    "unknown",
    "www",
];

pub(super) fn org_slug(slug: &str) -> Result<(), RegistryError> {
    self::slug(slug)?;
    let is_reserved = RESERVED_SLUGS.contains(&slug);
    if is_reserved { Err(invalid(slug, "it is reserved")) } else { Ok(()) }
}

pub(super) fn slug(slug: &str) -> Result<(), RegistryError> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !(SLUG_LEN_MIN..=SLUG_LEN_MAX).contains(&slug.len()) {
        Err(invalid(slug, "it must have 3 to 40 characters"))
    } else if !slug.bytes().all(allowed) {
        Err(invalid(slug, "only a-z, 0-9 and - are allowed"))
    } else if slug.starts_with('-') || slug.ends_with('-') {
        Err(invalid(slug, "it must not start or end with -"))
    } else {
        Ok(())
    }
}

fn invalid(slug: &str, reason: &'static str) -> RegistryError {
    RegistryError::InvalidSlug { slug: shortened(slug), reason }
}

pub(super) fn name(name: &str) -> Result<(), RegistryError> {
    if is_text(name) { Ok(()) } else { Err(RegistryError::InvalidName { name: shortened(name) }) }
}

pub(super) fn reason(reason: &str) -> Result<(), RegistryError> {
    if is_text(reason) { Ok(()) } else { Err(RegistryError::InvalidReason) }
}

/// Postgres' text cannot hold a zero byte.
fn is_text(text: &str) -> bool {
    !text.trim().is_empty() && text.chars().count() <= NAME_CHARS_MAX && !text.contains('\0')
}

pub(super) fn scopes(scopes: &[&str]) -> Result<(), RegistryError> {
    let word =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || b"_.".contains(&byte));
    let is_valid =
        |scope: &str| scope.split_once(':').is_some_and(|(area, action)| word(area) && (action == "*" || word(action)));
    let wrong = scopes.iter().find(|scope| !is_valid(scope)).or(scopes.get(SCOPES_MAX));
    wrong.map_or(Ok(()), |scope| Err(RegistryError::InvalidScope { scope: shortened(scope) }))
}

pub(super) fn product(product: &str) -> Result<(), RegistryError> {
    const LEN_MAX: usize = 63;
    let starts_well = product.starts_with(|c: char| c.is_ascii_lowercase());
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if starts_well && product.len() <= LEN_MAX && product.bytes().all(allowed) {
        Ok(())
    } else {
        Err(RegistryError::InvalidProduct { product: shortened(product) })
    }
}

pub(super) fn config(what: &str, config: &Value) -> Result<(), RegistryError> {
    let invalid = |reason| Err(RegistryError::InvalidConfig { what: what.to_owned(), reason });
    if !config.is_object() {
        return invalid("it is no object");
    }
    let text = config.to_string();
    if text.len() > CONFIG_BYTES_MAX {
        return invalid("it is too large");
    }
    // Postgres' jsonb cannot hold a zero character, and JSON can only write it like this.
    if text.contains("\\u0000") {
        return invalid("it contains \\u0000");
    }
    Ok(())
}

pub(super) fn retention(days: u32) -> Result<i32, RegistryError> {
    let is_possible = (1..=RETENTION_DAYS_MAX).contains(&days);
    i32::try_from(days).ok().filter(|_| is_possible).ok_or(RegistryError::InvalidRetention { days })
}

pub(super) fn expiry(at: Option<OffsetDateTime>) -> Result<(), RegistryError> {
    match at {
        Some(at) if at <= OffsetDateTime::now_utc() => Err(RegistryError::InvalidExpiry { at }),
        _ => Ok(()),
    }
}

pub(super) fn overlap(overlap: Duration) -> Result<(), RegistryError> {
    if overlap <= OVERLAP_MAX { Ok(()) } else { Err(RegistryError::InvalidOverlap { overlap }) }
}

/// An invalid value, shortened for a message.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_and_scopes_are_checked() {
        assert!(name(&"é".repeat(200)).is_ok());
        for bad in ["", "  ", "\t", "a\0b", &"é".repeat(201)] {
            assert!(matches!(name(bad), Err(RegistryError::InvalidName { .. })), "{bad}");
        }
        assert!(scopes(&["ingest:write", "admin:*", "read_api.inputs:read"]).is_ok());
        assert!(scopes(&[]).is_ok());
        for bad in ["", "*", "ingest", "ingest:", ":write", "Ingest:write", "a:b:c", "a:**"] {
            assert!(matches!(scopes(&["a:b", bad]), Err(RegistryError::InvalidScope { scope }) if scope == bad));
        }
        assert!(scopes(&["a:b"; SCOPES_MAX]).is_ok() && scopes(&["a:b"; SCOPES_MAX + 1]).is_err());
    }

    #[test]
    fn a_config_is_an_object_that_postgres_can_hold() {
        assert!(config("x", &json!({ "a": [1, { "b": null }] })).is_ok());
        for (bad, reason) in [
            (json!([]), "it is no object"),
            (json!("text"), "it is no object"),
            (json!(null), "it is no object"),
            (json!({ "a": "b".repeat(CONFIG_BYTES_MAX) }), "it is too large"),
            (json!({ "a\0": 1 }), "it contains \\u0000"),
        ] {
            match config("x", &bad) {
                Err(RegistryError::InvalidConfig { reason: said, .. }) => assert_eq!(said, reason),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn reserved_slugs_are_sorted_slugs() {
        assert!(RESERVED_SLUGS.is_sorted());
        for reserved in RESERVED_SLUGS {
            assert!(slug(reserved).is_ok(), "{reserved} cannot be a slug in any case");
            assert!(org_slug(reserved).is_err());
        }
    }

    #[test]
    fn a_long_wrong_value_is_repeated_in_part() {
        let error = name(&"é".repeat(1_000_000)).unwrap_err().to_string();
        assert!(error.len() < 400, "{error}");
    }
}
