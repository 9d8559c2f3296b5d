//! `project_tenant_dict`: the org and workspace of each project, read from the registry.
//!
//! Its definition contains a password. So it exists only while rows are copied, and our messages never repeat it.

use percent_encoding::percent_decode_str;
use url::Url;

use super::RebuildError;
use crate::session::Session;

/// The address of Postgres as ClickHouse reaches it, and the user that may read the projects.
pub(super) struct Registry {
    host: String,
    port: u16,
    user: String,
    password: String,
    database: String,
}

impl Registry {
    /// Parses a URL like `postgres://user:password@host:5432/database`.
    pub(super) fn parse(dsn: &str) -> Result<Self, RebuildError> {
        let refused = |reason: &str| RebuildError::RegistryUrl { reason: reason.to_owned() };
        let url = Url::parse(dsn).map_err(|error| refused(&error.to_string()))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(refused("it must start with postgres://"));
        }
        let decode = |text| percent_decode_str(text).decode_utf8().map_err(|_| refused("it is not UTF-8"));
        let host = url.host_str().ok_or_else(|| refused("it names no host"))?;
        let database = url.path().trim_matches('/');
        if database.is_empty() {
            return Err(refused("it names no database"));
        }
        Ok(Self {
            host: decode(host.trim_matches(['[', ']']))?.into_owned(),
            port: url.port().unwrap_or(5432),
            user: decode(url.username())?.into_owned(),
            password: decode(url.password().unwrap_or_default())?.into_owned(),
            database: decode(database)?.into_owned(),
        })
    }

    /// Makes the dictionary, or makes it again. ClickHouse loads it at the first query, with the registry's content at
    /// that time.
    pub(super) async fn load(&self, session: &mut Session<'_>) -> Result<(), RebuildError> {
        let made = session.execute(&self.definition(), &[]).await;
        let asked = match made {
            Ok(_) => {
                let ask =
                    "SELECT dictHas('project_tenant_dict', tuple(toUUID('00000000-0000-0000-0000-000000000000')))";
                session.rows::<u8>(ask, &[]).await.map(drop)
            }
            Err(failed) => Err(failed),
        };
        asked.map_err(|failed| {
            let message = self.without_password(&failed.to_string());
            RebuildError::Registry { host: self.host.clone(), port: self.port, message }
        })
    }

    fn definition(&self) -> String {
        let Self { host, port, user, password, database } = self;
        let [host, user, password, database] = [host, user, password, database].map(|text| literal(text));
        format!(
            "CREATE OR REPLACE DICTIONARY project_tenant_dict (project_id UUID, workspace_id UUID, org_id UUID) \
             PRIMARY KEY project_id \
             SOURCE(POSTGRESQL(host {host} port {port} user {user} password {password} db {database} \
             table 'project_tenant_view')) \
             LAYOUT(COMPLEX_KEY_HASHED()) LIFETIME(0)"
        )
    }

    /// Removes the password from a message, because a server repeats a statement that it cannot parse.
    fn without_password(&self, message: &str) -> String {
        let escaped = literal(&self.password);
        let mut message = message.to_owned();
        for secret in [escaped.trim_matches('\''), &self.password] {
            if !secret.is_empty() {
                message = message.replace(secret, "***");
            }
        }
        message
    }
}

/// Removes the dictionary, if there is one.
pub(super) async fn forget(session: &mut Session<'_>) -> Result<(), RebuildError> {
    session.execute("DROP DICTIONARY IF EXISTS project_tenant_dict", &[]).await?;
    Ok(())
}

/// Quotes a text for ClickHouse's SQL, because the source of a dictionary cannot have parameters.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_becomes_a_source_with_escaped_strings() {
        let registry = Registry::parse("postgres://o%27p:p%27%5Cw@[::1]:6543/d%20b?sslmode=disable").unwrap();
        let sql = registry.definition();
        let wanted = r"SOURCE(POSTGRESQL(host '::1' port 6543 user 'o\'p' password 'p\'\\w' db 'd b' table";
        assert!(sql.contains(wanted), "{sql}");
        assert_eq!(registry.without_password(r"bad 'p\'\\w' and p'\w"), "bad '***' and ***");
    }

    #[test]
    fn a_wrong_url_is_refused_without_repeating_it() {
        for dsn in ["hunter2", "http://u:hunter2@h/d", "postgres://u:hunter2@h", "postgres:///d"] {
            let Err(error) = Registry::parse(dsn) else { panic!("{dsn} was taken") };
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
