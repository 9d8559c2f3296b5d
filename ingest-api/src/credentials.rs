//! Where a request carries its API key.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderMap;
use http::header::{AUTHORIZATION, AsHeaderName};
use percent_encoding::percent_decode_str;

use crate::error::ApiError;

/// The longest header that is looked into, in bytes. A key has 92.
const VALUE_BYTES_MAX: usize = 1_024;
/// Base64 with or without its `=`.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The presented key: in `Authorization`, as `Bearer <key>`, as the key alone, or as either half of `Basic`, which is
/// how Langfuse's SDKs send theirs; or in `x-api-key`. Schemes compare without case. A value may be percent-encoded or
/// in quotes: exporters send on what stands in `OTEL_EXPORTER_OTLP_HEADERS` as it is.
///
/// SDKs send both headers. Of several keys, the first counts that looks like ours, in this order: `Bearer`,
/// `x-api-key`, `Basic`. If none does, the client is told that the one in `x-api-key`, else in `Authorization`, is not
/// known.
pub(crate) fn presented_key(headers: &HeaderMap) -> Result<Cow<'_, str>, ApiError> {
    let bearer = || values(headers, AUTHORIZATION).filter_map(|value| slice(&value, bare_or_bearer));
    let header = || values(headers, "x-api-key").filter_map(|value| slice(&value, bare_or_bearer));
    let basic = values(headers, AUTHORIZATION).filter_map(|value| key_of_basic(of_scheme(&value, "basic")?));
    let ours = bearer().chain(header()).chain(basic.map(Cow::Owned)).find(|key| is_ours(key));
    ours.or_else(|| header().chain(bearer()).next()).ok_or(ApiError::NoKey)
}

/// The values of a header as texts, without what exporters put around them.
fn values<'h>(headers: &'h HeaderMap, name: impl AsHeaderName) -> impl Iterator<Item = Cow<'h, str>> {
    let texts = headers.get_all(name).iter().filter(|value| value.len() <= VALUE_BYTES_MAX);
    texts.filter_map(|value| {
        let decoded = percent_decode_str(value.to_str().ok()?).decode_utf8().ok()?;
        slice(&decoded, |text| Some(unquoted(text)))
    })
}

/// A part of a text, borrowed if the text is.
fn slice<'h>(text: &Cow<'h, str>, part: impl Fn(&str) -> Option<&str>) -> Option<Cow<'h, str>> {
    match text {
        Cow::Borrowed(text) => part(text).map(Cow::Borrowed),
        Cow::Owned(text) => part(text).map(|part| Cow::Owned(part.to_owned())),
    }
}

fn unquoted(text: &str) -> &str {
    text.trim().trim_matches(['"', '\'']).trim()
}

/// What follows the name of a scheme.
pub(crate) fn of_scheme<'t>(value: &'t str, wanted: &str) -> Option<&'t str> {
    let (scheme, token) = value.split_once(char::is_whitespace)?;
    scheme.eq_ignore_ascii_case(wanted).then(|| unquoted(token)).filter(|token| !token.is_empty())
}

/// A value without a scheme, or what follows `Bearer`.
fn bare_or_bearer(value: &str) -> Option<&str> {
    let is_scheme = ["bearer", "basic"].iter().any(|scheme| value.eq_ignore_ascii_case(scheme));
    let is_bare = !value.is_empty() && !is_scheme && !value.contains(char::is_whitespace);
    if is_bare { Some(value) } else { of_scheme(value, "bearer") }
}

fn is_ours(key: &str) -> bool {
    key.starts_with(auth::api_key::KEY_PREFIX)
}

/// The half of `base64(user:password)` that is one of our keys; the password where both are. Either alphabet of base64
/// is read.
fn key_of_basic(credentials: &str) -> Option<String> {
    let decoded = BASE64.decode(credentials.replace('-', "+").replace('_', "/")).ok()?;
    let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    [password, user].into_iter().map(unquoted).find(|half| is_ours(half)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

    fn key(headers: &[(&'static str, &str)]) -> Option<String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
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
    fn a_key_is_read_whatever_an_exporter_puts_around_it() {
        for value in [
            "BEARER tb_a.b",
            "Bearer\ttb_a.b",
            "Bearer%20tb_a.b",
            "bearer%20%20tb_a%2Eb%20",
            "%42earer tb_a.b",
            "  Bearer   tb_a.b  ",
            "\"Bearer tb_a.b\"",
            "'Bearer%20tb_a.b'",
            "Bearer \"tb_a.b\"",
            "%22Bearer%20tb_a.b%22",
            "tb_a.b",
            "\"tb_a.b\"",
        ] {
            assert_eq!(key(&[("authorization", value)]).as_deref(), Some("tb_a.b"), "authorization: {value}");
            assert_eq!(key(&[("x-api-key", value)]).as_deref(), Some("tb_a.b"), "x-api-key: {value}");
        }
        for value in ["Bearer", "Bearer ", "Digest tb_a.b", "\"\"", "Bearer%ZZtb_a.b%FF"] {
            assert_eq!(key(&[("authorization", value)]), None, "{value}");
        }
        let long = format!("tb_{}", "a".repeat(VALUE_BYTES_MAX));
        assert_eq!(key(&[("x-api-key", &long)]), None);
    }

    #[test]
    fn of_several_keys_the_first_that_looks_like_ours_counts() {
        let basic = format!("Basic {}", STANDARD.encode("pk:tb_basic.b"));
        let (bearer, header, basic) =
            (("authorization", "Bearer tb_bearer.b"), ("x-api-key", "tb_header.b"), ("authorization", basic.as_str()));
        let (other, foreign) = (("authorization", "Bearer oauth"), ("x-api-key", "lsv2_pt_x"));
        for (headers, wanted) in [
            (&[header, basic, bearer][..], "tb_bearer.b"),
            (&[basic, header], "tb_header.b"),
            (&[other, foreign, basic], "tb_basic.b"),
            (&[foreign, header], "tb_header.b"),
            (&[other, bearer], "tb_bearer.b"),
            (&[other, foreign], "lsv2_pt_x"),
            (&[other], "oauth"),
        ] {
            assert_eq!(key(headers).as_deref(), Some(wanted), "{headers:?}");
        }
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
        assert_eq!(basic(&format!("tb_{}:", "x".repeat(VALUE_BYTES_MAX))), None);
        assert_eq!(key(&[("authorization", "Basic !"), ("x-api-key", "tb_a.b")]).unwrap(), "tb_a.b");
    }

    #[test]
    fn basic_is_read_in_every_writing_of_base64() {
        // Both halves need the characters in which the two alphabets differ, and a length that is padded.
        let credentials = "p\u{3f}\u{7e}\u{ff}\u{fbf0}>:tb_a.b\n";
        assert!(STANDARD.encode(credentials).contains(['+', '/']) && STANDARD.encode(credentials).ends_with('='));
        for engine in [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD] {
            let encoded = engine.encode(credentials);
            for value in [format!("Basic {encoded}"), format!("BASIC%20{}", encoded.replace('=', "%3D"))] {
                assert_eq!(key(&[("authorization", &value)]).as_deref(), Some("tb_a.b"), "{value}");
            }
        }
    }
}
