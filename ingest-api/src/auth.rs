//! Where a request carries its API key.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::error::ApiError;

/// The longest `Basic` credentials that are decoded, in bytes of base64; keys are far shorter.
const BASIC_BYTES_MAX: usize = 1_024;

/// The presented key: `Authorization: Bearer <key>`, else `x-api-key: <key>`, else either half of `Authorization: Basic`,
/// which is how Langfuse's SDKs send theirs. A token that is not one of our keys does not hide a key in the other header:
/// SDKs send both.
pub(crate) fn presented_key(headers: &HeaderMap) -> Result<Cow<'_, str>, ApiError> {
    let authorization = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.split_once(' '));
    let of_scheme = |name: &str| {
        let (_, token) = authorization.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(name))?;
        Some(token.trim())
    };
    let bearer = of_scheme("bearer");
    let header = headers.get("x-api-key").and_then(|v| v.to_str().ok()).map(str::trim);
    if let Some(key) = bearer.filter(|key| is_ours(key)) {
        return Ok(Cow::Borrowed(key));
    }
    if let Some(key) = header.or(bearer).filter(|key| !key.is_empty()) {
        return Ok(Cow::Borrowed(key));
    }
    of_scheme("basic").and_then(key_of_basic).map(Cow::Owned).ok_or(ApiError::NoKey)
}

fn is_ours(key: &str) -> bool {
    key.starts_with(tenant::api_key::KEY_PREFIX)
}

/// The half of `base64(user:password)` that is one of our keys; the password where both are.
fn key_of_basic(credentials: &str) -> Option<String> {
    if credentials.len() > BASIC_BYTES_MAX {
        return None;
    }
    let decoded = STANDARD.decode(credentials).ok()?;
    let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    [password, user].into_iter().find(|half| is_ours(half)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(headers: &[(&'static str, &str)]) -> Option<String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        presented_key(&map).ok().map(Cow::into_owned)
    }

    #[test]
    fn keys_are_found_in_either_header() {
        assert_eq!(key(&[("authorization", "Bearer tb_a.b")]).unwrap(), "tb_a.b");
        assert_eq!(key(&[("authorization", "bearer  tb_a.b ")]).unwrap(), "tb_a.b");
        assert_eq!(key(&[("x-api-key", "tb_a.b")]).unwrap(), "tb_a.b");
        assert_eq!(key(&[("x-api-key", "tb_a.b"), ("authorization", "Bearer oauth")]).unwrap(), "tb_a.b");
        assert_eq!(key(&[("x-api-key", "old"), ("authorization", "Bearer tb_a.b")]).unwrap(), "tb_a.b");
        assert_eq!(key(&[("authorization", "Basic eA==")]), None);
        assert_eq!(key(&[("x-api-key", " ")]), None);
    }

    #[test]
    fn either_half_of_basic_may_be_a_key() {
        let basic = |credentials: &str| {
            let value = format!("basic {}", STANDARD.encode(credentials));
            key(&[("authorization", &value)])
        };
        assert_eq!(basic("pk-lf-1:tb_a.b").unwrap(), "tb_a.b");
        assert_eq!(basic("tb_a.b:").unwrap(), "tb_a.b");
        assert_eq!(basic("tb_a.b:tb_c.d").unwrap(), "tb_c.d");
        assert_eq!(basic("pk:sk"), None);
        assert_eq!(basic("tb_a.b"), None, "no colon");
        assert_eq!(basic(&format!("tb_{}:", "x".repeat(BASIC_BYTES_MAX))), None);
        assert_eq!(key(&[("authorization", "Basic !"), ("x-api-key", "tb_a.b")]).unwrap(), "tb_a.b");
    }
}
