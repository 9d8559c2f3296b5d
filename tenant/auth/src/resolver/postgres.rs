//! Looks keys up in Postgres.

use model::ids::{ApiKeyId, OrgId, ProjectId, WorkspaceId};
use model::meter::Meter;
use model::org::PlaceStatus;
use model::shard::Shard;
use model::words::UnknownWord;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};
use stores::secret::Secret;
use time::OffsetDateTime;

use super::context::{Plan, Scopes};
use super::{Answer, CacheKey, KeyRecord, KeySource, Lookup, NEGATIVE_TTL, POSITIVE_TTL, SourceError};

/// One key with its org, the workspace of its project, and its plan with the org's overrides merged in field by field:
/// the only query that row-level security allows before the org is known.
const FIND: &str = "\
    SELECT id, tenant_id, workspace_id, project_id, key_hash, scopes, expires_at, revoked_at IS NOT NULL AS revoked,
           tenant_status::text AS tenant_status, workspace_status::text AS workspace_status,
           project_status::text AS project_status, plan, rps, burst, org_rps, org_burst,
           eval_slots, meters, monthly_limits, shard, is_moving, cache_key
      FROM find_api_key($1)";

/// The registry as a source of keys.
#[derive(Clone, Debug)]
pub struct PostgresSource {
    pool: PgPool,
}

impl PostgresSource {
    /// A source on that pool; see [`stores::postgres::pool`].
    pub const fn new(pool: PgPool) -> Self {
        Self { pool }
    }
}

impl PostgresSource {
    /// The key with that public id, and the deployment's cache key.
    pub(super) async fn read(&self, public_id: &str) -> Result<Option<(KeyRecord, CacheKey)>, SourceError> {
        let row = sqlx::query(FIND).bind(public_id).fetch_optional(&self.pool).await?;
        let Some(row) = row else { return Ok(None) };
        let cache_key: Vec<u8> = row.try_get("cache_key")?;
        let cache_key = cache_key.try_into().map_err(|_| SourceError::Broken("cache_key".to_owned()))?;
        Ok(Some((record(&row)?, CacheKey::new(cache_key))))
    }
}

impl KeySource for PostgresSource {
    fn find<'a>(&'a self, public_id: &'a str) -> Lookup<'a> {
        Box::pin(async move {
            Ok(match self.read(public_id).await? {
                Some((record, _)) => Answer::Key { record: Box::new(record), good_for: POSITIVE_TTL, accepted: None },
                None => Answer::Unknown { good_for: NEGATIVE_TTL },
            })
        })
    }
}

fn record(row: &PgRow) -> Result<KeyRecord, SourceError> {
    let broken = |error: UnknownWord| SourceError::Broken(error.to_string());
    let place =
        |column| -> Result<PlaceStatus, SourceError> { row.try_get::<&str, _>(column)?.parse().map_err(broken) };
    let archived = match (place("project_status")?, place("workspace_status")?) {
        (PlaceStatus::Archived, _) => Some("project"),
        (_, PlaceStatus::Archived) => Some("workspace"),
        _ => None,
    };
    let expires_at: Option<OffsetDateTime> = row.try_get("expires_at")?;
    Ok(KeyRecord {
        api_key_id: ApiKeyId(row.try_get("id")?),
        org_id: OrgId(row.try_get("tenant_id")?),
        workspace_id: WorkspaceId(row.try_get("workspace_id")?),
        project_id: ProjectId(row.try_get("project_id")?),
        hash: Secret::new(row.try_get("key_hash")?),
        scopes: Scopes::new(row.try_get::<Vec<String>, _>("scopes")?),
        expires_at_unix_ms: expires_at.map(unix_ms),
        revoked: row.try_get("revoked")?,
        status: row.try_get::<&str, _>("tenant_status")?.parse().map_err(broken)?,
        archived,
        plan: Plan {
            name: row.try_get::<String, _>("plan")?.into(),
            rps: row.try_get("rps")?,
            burst: row.try_get("burst")?,
            org_rps: row.try_get("org_rps")?,
            org_burst: row.try_get("org_burst")?,
            eval_slots: row.try_get("eval_slots")?,
            monthly: monthly(row)?,
        },
        shard: shard(row)?,
        is_moving: row.try_get("is_moving")?,
    })
}

/// The limits of the meters that ingest knows; it ignores others.
fn monthly(row: &PgRow) -> Result<Box<[(Meter, i64)]>, SourceError> {
    let (names, limits) = (row.try_get::<Vec<String>, _>("meters")?, row.try_get::<Vec<i64>, _>("monthly_limits")?);
    let known = |name: &str| Meter::INGEST.into_iter().find(|meter| meter.as_str() == name);
    Ok(names.iter().zip(limits).filter_map(|(name, limit)| Some((known(name)?, limit))).collect())
}

fn shard(row: &PgRow) -> Result<Option<Shard>, SourceError> {
    let Some(number) = row.try_get::<Option<i16>, _>("shard")? else { return Ok(None) };
    let shard = u8::try_from(number).ok().and_then(Shard::new);
    shard.map(Some).ok_or_else(|| SourceError::Broken(format!("shard {number}")))
}

fn unix_ms(time: OffsetDateTime) -> i64 {
    // Out of range only for years that Postgres does not have.
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}
