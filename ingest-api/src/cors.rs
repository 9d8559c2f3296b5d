//! Cross-origin requests: web pages of the origins that the operator lists may send to this server (Fetch Standard,
//! "HTTP-CORS protocol").
//!
//! An API key is sent in a header and never in a cookie, so credentials are not allowed. By default no origin is
//! listed: then no answer has CORS headers, and browsers do not let pages send.

use std::sync::Arc;

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderValue, ORIGIN, VARY,
};
use http::{HeaderMap, Method};
use url::Url;

/// Most origins that may be listed.
const ORIGINS_MAX: usize = 100;
/// Seconds for which a browser may remember the answer to a preflight. Chrome remembers none for longer.
const MAX_AGE_SECONDS: u64 = 7_200;
/// The headers of an answer that a page may read.
const EXPOSED: &str = "ratelimit-limit, ratelimit-remaining, ratelimit-reset, x-ratelimit-reset, retry-after, x-request-id, \
                       x-quota-meter, x-tracebility-ack";

/// The origins whose pages may send to this server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(Arc<Allowed>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Allowed {
    Any,
    These(Vec<String>),
}

impl Default for Allowed {
    fn default() -> Self {
        Self::These(Vec::new())
    }
}

impl Origins {
    /// Parses a list with commas of origins, such as `https://app.example.com` or `http://localhost:3000`, or `*` alone
    /// for any origin.
    pub fn parse(text: &str) -> Result<Self, String> {
        let listed: Vec<_> = text.split(',').map(str::trim).filter(|origin| !origin.is_empty()).collect();
        if listed == ["*"] {
            return Ok(Self(Arc::new(Allowed::Any)));
        }
        if listed.len() > ORIGINS_MAX {
            return Err(format!("lists more than {ORIGINS_MAX} origins"));
        }
        let origins: Option<_> = listed.into_iter().map(origin).collect();
        let origins = origins.ok_or(
            "has an item that is no origin, such as https://app.example.com; a path is none of it, and * stands alone",
        )?;
        Ok(Self(Arc::new(Allowed::These(origins))))
    }

    /// The origin of the request, if its pages may send to this server.
    fn allowed<'h>(&self, headers: &'h HeaderMap) -> Option<&'h HeaderValue> {
        let origin = headers.get(ORIGIN)?;
        match &*self.0 {
            Allowed::Any => Some(origin),
            // Browsers write scheme and host in lower case.
            Allowed::These(origins) => origins.iter().any(|listed| origin == listed.as_str()).then_some(origin),
        }
    }

    /// Whether the request is a preflight: a browser asks whether a page may send another request.
    pub(crate) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
        method == Method::OPTIONS && headers.contains_key(ORIGIN) && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// Whether the answer to a preflight is yes.
    pub(crate) fn admits(&self, headers: &HeaderMap) -> bool {
        self.allowed(headers).is_some()
    }

    /// Adds the headers that answer a preflight for a path that takes `method`. Any request header is allowed: SDKs
    /// send headers of their own, and this server ignores those that it does not know.
    pub(crate) fn answer_preflight(&self, asked: &HeaderMap, method: &'static str, answer: &mut HeaderMap) {
        answer.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(method));
        if let Some(names) = asked.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
        }
        answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(MAX_AGE_SECONDS));
        answer.append(VARY, HeaderValue::from_static("access-control-request-method, access-control-request-headers"));
    }

    /// Adds the headers that let the page read an answer, and that keep caches from giving it to other origins.
    pub(crate) fn expose(&self, asked: &HeaderMap, answer: &mut HeaderMap) {
        if matches!(&*self.0, Allowed::These(origins) if origins.is_empty()) {
            return;
        }
        answer.append(VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = self.allowed(asked) {
            answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        }
    }
}

/// Parses an origin into the form that browsers send; `None` if it is not an origin.
fn origin(text: &str) -> Option<String> {
    let url = Url::parse(text).ok()?;
    let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    let is_anonymous = url.username().is_empty() && url.password().is_none();
    let origin = url.origin();
    (is_bare && is_anonymous && origin.is_tuple() && !text.contains('*')).then(|| origin.ascii_serialization())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(origin: &str) -> HeaderMap {
        HeaderMap::from_iter([(ORIGIN, HeaderValue::from_str(origin).unwrap())])
    }

    #[test]
    fn origins_are_listed_as_browsers_write_them() {
        let origins =
            Origins::parse(" https://App.Example.com/ , http://localhost:3000,https://b.example:443,, ").unwrap();
        for (origin, admitted) in [
            ("https://app.example.com", true),
            ("http://localhost:3000", true),
            ("https://b.example", true),
            ("http://app.example.com", false),
            ("https://app.example.com:8443", false),
            ("https://app.example.com.evil.example", false),
            ("http://localhost:30000", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(origins.admits(&from(origin)), admitted, "{origin}");
        }
        assert!(!origins.admits(&HeaderMap::new()));
        assert!(Origins::parse("*").unwrap().admits(&from("null")));
        assert_eq!(Origins::parse(" ,").unwrap(), Origins::default());
    }

    #[test]
    fn an_invalid_origin_is_refused() {
        for text in [
            "example.com",
            "https://",
            "https://*.example.com",
            "https://a.example/path",
            "https://a.example?x",
            "https://u:p@a.example",
            "file:///x",
            "null",
            "*,https://a.example",
        ] {
            assert!(Origins::parse(text).is_err_and(|error| error.contains("no origin")), "{text}");
        }
        let many = vec!["https://a.example"; ORIGINS_MAX + 1].join(",");
        assert!(Origins::parse(&many).is_err());
    }
}
