//! Finds the API key in the headers of a request.

use std::borrow::Cow;

use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine, alphabet};
use http::HeaderMap;
use http::header::{AUTHORIZATION, AsHeaderName};
use percent_encoding::percent_decode_str;

use crate::error::ApiError;

/// Longer header values are ignored, in bytes. An API key has 92.
const VALUE_BYTES_MAX: usize = 1_024;
/// Decodes base64 with or without its `=`.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The API key that the client presented: in `Authorization`, as `Bearer <key>`, as the key alone, or as either half of
/// `Basic`, which is how Langfuse's SDKs send it; or in `x-api-key`. Schemes are compared without case. A value may be
/// percent-encoded or in quotes, because exporters pass on the content of `OTEL_EXPORTER_OTLP_HEADERS` unchanged.
///
/// SDKs send both headers. If there are several keys, the first one that looks like ours counts, in this order:
/// `Bearer`, `x-api-key`, `Basic`. If none looks like ours, the answer says that the key in `x-api-key`, else the one
/// in `Authorization`, is not known.
pub(crate) fn presented_key(headers: &HeaderMap) -> Result<Cow<'_, str>, ApiError> {
    let bearer = || values(headers, AUTHORIZATION).filter_map(|value| slice(&value, bare_or_bearer));
    let header = || values(headers, "x-api-key").filter_map(|value| slice(&value, bare_or_bearer));
    let basic = values(headers, AUTHORIZATION).filter_map(|value| key_of_basic(of_scheme(&value, "basic")?));
    let ours = bearer().chain(header()).chain(basic.map(Cow::Owned)).find(|key| is_ours(key));
    ours.or_else(|| header().chain(bearer()).next()).ok_or(ApiError::NoKey)
}

/// The values of a header as texts, without the quotes and percent-encoding that exporters add.
fn values<'h>(headers: &'h HeaderMap, name: impl AsHeaderName) -> impl Iterator<Item = Cow<'h, str>> {
    let texts = headers.get_all(name).iter().filter(|value| value.len() <= VALUE_BYTES_MAX);
    texts.filter_map(|value| {
        let decoded = percent_decode_str(value.to_str().ok()?).decode_utf8().ok()?;
        slice(&decoded, |text| Some(unquoted(text)))
    })
}

/// A part of a text; borrowed if the text is.
fn slice<'h>(text: &Cow<'h, str>, part: impl Fn(&str) -> Option<&str>) -> Option<Cow<'h, str>> {
    match text {
        Cow::Borrowed(text) => part(text).map(Cow::Borrowed),
        Cow::Owned(text) => part(text).map(|part| Cow::Owned(part.to_owned())),
    }
}

fn unquoted(text: &str) -> &str {
    text.trim().trim_matches(['"', '\'']).trim()
}

/// The text after the name of the scheme `wanted`; `None` if the value has another scheme.
pub(crate) fn of_scheme<'t>(value: &'t str, wanted: &str) -> Option<&'t str> {
    let (scheme, token) = value.split_once(char::is_whitespace)?;
    scheme.eq_ignore_ascii_case(wanted).then(|| unquoted(token)).filter(|token| !token.is_empty())
}

/// A value without a scheme, or the text after `Bearer`.
fn bare_or_bearer(value: &str) -> Option<&str> {
    let is_scheme = ["bearer", "basic"].iter().any(|scheme| value.eq_ignore_ascii_case(scheme));
    let is_bare = !value.is_empty() && !is_scheme && !value.contains(char::is_whitespace);
    if is_bare { Some(value) } else { of_scheme(value, "bearer") }
}

fn is_ours(key: &str) -> bool {
    key.starts_with(auth::api_key::KEY_PREFIX)
}

/// The half of `base64(user:password)` that looks like one of our keys; the password if both do. Both alphabets of
/// base64 are read.
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
    fn an_api_key_is_read_despite_quotes_spaces_and_percent_encoding() {
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
    fn the_first_well_formed_key_wins_when_several_are_sent() {
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
    fn basic_auth_takes_the_key_as_username_or_password() {
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
    fn basic_auth_is_read_in_every_base64_variant() {
        // Both halves need the characters that the two alphabets encode differently, and a length that needs padding.
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
