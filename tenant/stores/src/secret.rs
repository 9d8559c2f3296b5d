//! Values that must never reach a log: [`Secret`] hides all of itself, [`SecretUrl`] only its password.

use std::fmt;

use url::Url;

/// What is printed in place of a secret.
pub const REDACTED: &str = "***";

/// A value whose `Debug` and `Display` print `***`. The only way to the value is [`Secret::expose`], so that each use
/// can be found by searching for that word.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Wraps a value that must not be printed.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself. Never pass it to a log, an error or a metric.
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl<T> fmt::Display for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// A URL that holds credentials. `Debug` and `Display` print it with `***` for the password and without its query, in
/// which drivers accept passwords too.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(Url);

impl SecretUrl {
    /// Wraps a URL that may hold credentials.
    pub const fn new(url: Url) -> Self {
        Self(url)
    }

    /// The whole URL, credentials included. Never pass it to a log, an error or a metric.
    pub fn expose(&self) -> &Url {
        &self.0
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = &self.0;
        write!(f, "{}://", url.scheme())?;
        if !url.username().is_empty() || url.password().is_some() {
            f.write_str(url.username())?;
            if url.password().is_some() {
                write!(f, ":{REDACTED}")?;
            }
            f.write_str("@")?;
        }
        f.write_str(url.host_str().unwrap_or_default())?;
        if let Some(port) = url.port() {
            write!(f, ":{port}")?;
        }
        f.write_str(url.path())?;
        if url.query().is_some() { write!(f, "?{REDACTED}") } else { Ok(()) }
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_nothing_of_itself() {
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn a_url_prints_all_but_its_password_and_query() {
        let print = |url: &str| SecretUrl::new(Url::parse(url).unwrap()).to_string();
        assert_eq!(print("postgres://app:hunter2@db:5432/t"), "postgres://app:***@db:5432/t");
        assert_eq!(print("redis://:hunter2@cache:6379/1"), "redis://:***@cache:6379/1");
        assert_eq!(print("postgres://db/t?password=hunter2"), "postgres://db/t?***");
        assert_eq!(print("http://[::1]:8123/t"), "http://[::1]:8123/t");
    }
}
