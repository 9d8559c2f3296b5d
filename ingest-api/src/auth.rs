//! Where a request carries its API key.

use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::error::ApiError;

/// The presented key: `Authorization: Bearer <key>`, else `x-api-key: <key>`. A bearer token that is not one of our keys
/// does not hide a key in the other header: SDKs send both.
pub(crate) fn presented_key(headers: &HeaderMap) -> Result<&str, ApiError> {
    let bearer = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(strip_bearer);
    let header = headers.get("x-api-key").and_then(|v| v.to_str().ok()).map(str::trim);
    match (bearer, header) {
        (Some(key), _) if key.starts_with(tenant::api_key::KEY_PREFIX) => Ok(key),
        (bearer, header) => header.or(bearer).filter(|key| !key.is_empty()).ok_or(ApiError::NoKey),
    }
}

fn strip_bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(headers: &[(&'static str, &str)]) -> Option<String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        presented_key(&map).ok().map(str::to_owned)
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
}
