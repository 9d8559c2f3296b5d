//! Normalizes the path of a request, so that all spellings that mean the same path in HTTP reach the same route.

use std::borrow::Cow;

/// Merges repeated slashes, removes a trailing one, and decodes characters that need no percent-encoding (RFC 3986
/// §6.2.2.2). Some SDKs join a base URL and a path with a slash too many. They get an answer and no redirect, because
/// some take a redirect for success.
pub fn normal(path: &str) -> Cow<'_, str> {
    let is_normal = path == "/" || !(path.ends_with('/') || path.contains("//") || path.contains('%'));
    if is_normal {
        return Cow::Borrowed(path);
    }
    let mut normal = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(first) = rest.chars().next() {
        let (next, length) = unreserved(rest).map_or((first, first.len_utf8()), |decoded| (decoded, 3));
        if next != '/' || !normal.ends_with('/') {
            normal.push(next);
        }
        rest = &rest[length..];
    }
    normal.truncate(normal.trim_end_matches('/').len().max(1));
    Cow::Owned(normal)
}

/// The unreserved character that `text` starts with in percent-encoded form.
fn unreserved(text: &str) -> Option<char> {
    let digits = text.strip_prefix('%')?.get(..2)?;
    let byte = digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u8::from_str_radix(digits, 16).ok())??;
    (byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)).then_some(char::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equivalent_paths_are_normalized_to_one() {
        for (path, wanted) in [
            ("/v1/traces", "/v1/traces"),
            ("/v1/traces/", "/v1/traces"),
            ("/v1/traces///", "/v1/traces"),
            ("//api/public/otel/v1/traces", "/api/public/otel/v1/traces"),
            ("/api//v1///runs/multipart/", "/api/v1/runs/multipart"),
            ("/%76%31/trace%73", "/v1/traces"),
            ("/runs%2Fbatch", "/runs%2Fbatch"),
            ("/runs/a%2D%2d", "/runs/a--"),
            ("/%2E%2E/x", "/../x"),
            ("/100%", "/100%"),
            ("/%zz/%+1/%e", "/%zz/%+1/%e"),
            ("/é%C3//", "/é%C3"),
            ("/", "/"),
            ("//", "/"),
            ("*", "*"),
        ] {
            assert_eq!(normal(path), wanted, "{path}");
        }
        assert!(matches!(normal("/v1/traces"), Cow::Borrowed(_)), "the usual path costs no copy");
    }
}
