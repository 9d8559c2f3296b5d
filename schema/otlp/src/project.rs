//! The header `Langsmith-Project`, with which exporters name the LangSmith project. The client chooses this name, and
//! it becomes `session_name`. It does not change the org and project that the API key belongs to.

use http::HeaderMap;

/// Name of the header, and of the gRPC metadata key.
pub const HEADER: &str = "langsmith-project";
/// Most bytes of a name. A longer name is cut.
pub const NAME_BYTES_MAX: usize = 1_024;

/// The name that a request gives its spans; empty if it gives none. It is percent-decoded, because values in
/// `OTEL_EXPORTER_OTLP_HEADERS` can be encoded and some exporters pass them on unchanged.
pub fn of(headers: &HeaderMap) -> String {
    let bytes = headers.get(HEADER).map(|value| value.as_bytes()).unwrap_or_default();
    let mut name = percent_encoding::percent_decode(bytes).decode_utf8_lossy().trim().to_owned();
    name.truncate(name.floor_char_boundary(NAME_BYTES_MAX));
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn names_are_decoded_and_bounded() {
        let long = "é".repeat(NAME_BYTES_MAX);
        for (sent, name) in [
            (&b"web%20site"[..], "web site"),
            (b"100%", "100%"),
            (b" caf%C3%A9 ", "café"),
            (b"%FF", "\u{fffd}"),
            (b"", ""),
            (long.as_bytes(), &long[..NAME_BYTES_MAX]),
        ] {
            let headers =
                HeaderMap::from_iter([("langsmith-project".parse().unwrap(), HeaderValue::from_bytes(sent).unwrap())]);
            assert_eq!(of(&headers), name);
        }
        assert_eq!(of(&HeaderMap::new()), "");
    }
}
