//! The shard map: orgs that are assigned to another shard than that of their hash, and orgs that are moving.
//!
//! Append-only. The newest row of an org is its destination; the newest row with `drained_at` is its present shard. If
//! these differ the org is moving, and the services refuse its requests. [`transfer::moving`] carries the move out.

use std::time::Duration;

use model::ids::OrgId;
use model::org::DEFAULT_ORG;
use model::shard::{SHARDS, Shard};
use serde::Serialize;
use serde_json::json;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use time::OffsetDateTime;

use super::event::EventType;
use super::outbox::Event;
use super::session::Session;
use super::{LIST_MAX, Registry, RegistryError};

/// An org that is, or was, assigned to another shard than that of its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShardPlace {
    /// The id of the org.
    pub org_id: OrgId,
    /// The slug of the org.
    pub slug: String,
    /// The shard that the org is on.
    pub shard: Shard,
    /// The shard that the org's hash gives.
    pub home: Shard,
    /// The shard that the org was assigned to and has moved to; `None` if its hash decides.
    pub assigned: Option<Shard>,
    /// The destination of a move; the org's requests are refused until the move is complete.
    pub moving_to: Option<Shard>,
    /// The version of the map's row; every move has its own.
    pub version: i64,
    /// The person or program that wrote the row.
    pub by: String,
    /// When the row was written.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
}

/// A move that is not complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardMove {
    /// The id of the org.
    pub org_id: OrgId,
    /// The version of the move.
    pub version: i64,
    /// The destination of the move.
    pub to: Shard,
    /// All other shards that may still have entries of the org.
    pub leaves: Vec<Shard>,
    /// How long ago the move began, by Postgres' clock.
    pub begun_ago: Duration,
}

/// The result of assigning an org.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Assigned {
    /// The org's present shard and destination.
    #[serde(flatten)]
    pub place: ShardPlace,
    /// Whether this call began a move; false if the org was moving there already.
    pub changed: bool,
}

/// The newest row of each org, and its newest completed one.
macro_rules! select_places {
    ($where:literal) => {
        concat!(
            "SELECT t.id, t.slug, newest.version, newest.shard, newest.drained_at IS NULL AS is_moving,
                    newest.created_by, newest.created_at,
                    (SELECT s.shard FROM shard_map s WHERE s.tenant_id = t.id AND s.drained_at IS NOT NULL
                      ORDER BY s.version DESC LIMIT 1) AS assigned
               FROM tenants t
               JOIN LATERAL (SELECT * FROM shard_map s WHERE s.tenant_id = t.id
                              ORDER BY s.version DESC LIMIT 1) newest ON true ",
            $where
        )
    };
}

impl Registry {
    /// All orgs that were ever assigned to a shard, by slug, those after `after`; at most [`LIST_MAX`]. Only operators
    /// can read the whole map.
    pub async fn shard_map(&self, after: Option<&str>) -> Result<Vec<ShardPlace>, RegistryError> {
        let rows = sqlx::query(select_places!(
            "WHERE t.id IN (SELECT tenant_id FROM shard_map) AND t.slug > $1 ORDER BY t.slug LIMIT $2"
        ))
        .bind(after.unwrap_or_default())
        .bind(i64::from(LIST_MAX))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(place).collect()
    }

    /// All orgs that are moving.
    pub async fn shard_moves(&self) -> Result<Vec<ShardPlace>, RegistryError> {
        let rows = sqlx::query(select_places!(
            "WHERE t.id IN (SELECT tenant_id FROM shard_map WHERE drained_at IS NULL) AND newest.drained_at IS NULL
             ORDER BY t.slug LIMIT $1"
        ))
        .bind(i64::from(LIST_MAX))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(place).collect()
    }

    /// The place of an org; `None` if it was never assigned to a shard.
    pub async fn shard_place(&self, org_id: OrgId) -> Result<Option<ShardPlace>, RegistryError> {
        find(Session::open(&self.pool, org_id).await?.connection(), org_id).await
    }

    /// Begins to move an org to a shard, or with `None` to the shard of its hash. From now on its requests are refused,
    /// until `transfer::moving::Mover` has completed the move. Replaces a running move to another shard.
    pub async fn assign_shard(&self, org_id: OrgId, to: Option<Shard>) -> Result<Assigned, RegistryError> {
        if org_id == DEFAULT_ORG {
            return Err(RegistryError::NotMovable);
        }
        let mut change = self.change(org_id).await?;
        let old = find(change.connection(), org_id).await?;
        let wanted = to.unwrap_or(Shard::home(org_id));
        match &old {
            Some(place) if place.moving_to == Some(wanted) || (place.moving_to.is_none() && place.assigned == to) => {
                return Ok(Assigned { place: place.clone(), changed: false });
            }
            None if to.is_none() => return Err(RegistryError::NotAssigned),
            _ => {}
        }
        let insert = "INSERT INTO shard_map (tenant_id, shard, created_by) VALUES ($1, $2, $3)";
        let insert = sqlx::query(insert).bind(org_id.0).bind(to.map(|shard| i16::from(shard.number())));
        insert.bind(&self.actor).execute(change.connection()).await?;
        let Some(place) = find(change.connection(), org_id).await? else { return Err(RegistryError::NotAssigned) };
        let event_type = if to.is_some() { EventType::ShardAssign } else { EventType::ShardUnassign };
        let detail = json!({
            "old": place.shard, "new": wanted, "version": place.version,
            "instead_of": old.and_then(|old| old.moving_to),
        });
        change.commit(Event::new(event_type, org_id, detail)).await?;
        Ok(Assigned { place, changed: true })
    }

    /// Reverts a move that is not complete: the org stays on its present shard.
    pub async fn abort_shard_move(&self, org_id: OrgId) -> Result<Assigned, RegistryError> {
        let place = self.shard_place(org_id).await?.filter(|place| place.moving_to.is_some());
        let place = place.ok_or(RegistryError::NotMoving)?;
        self.assign_shard(org_id, place.assigned).await
    }

    /// The move of an org; `None` if the org is not moving.
    pub async fn shard_move(&self, org_id: OrgId) -> Result<Option<ShardMove>, RegistryError> {
        let mut session = Session::open(&self.pool, org_id).await?;
        let newest = sqlx::query(
            "SELECT version, shard, drained_at IS NULL AS is_moving,
                    (extract(epoch FROM now() - created_at) * 1000)::bigint AS age_ms
               FROM shard_map WHERE tenant_id = $1 ORDER BY version DESC LIMIT 1",
        );
        let newest = newest.bind(org_id.0).fetch_optional(session.connection()).await?;
        let Some(newest) = newest else { return Ok(None) };
        if !newest.try_get::<bool, _>("is_moving")? {
            return Ok(None);
        }
        let home = Shard::home(org_id);
        let to = shard(&newest, "shard")?.unwrap_or(home);
        let rows = sqlx::query(
            "SELECT DISTINCT shard FROM shard_map WHERE tenant_id = $1 AND shard IS NOT NULL ORDER BY shard LIMIT $2",
        );
        let rows = rows.bind(org_id.0).bind(i64::from(SHARDS)).fetch_all(session.connection()).await?;
        let mut leaves = vec![home];
        for row in &rows {
            leaves.extend(shard(row, "shard")?);
        }
        leaves.sort_unstable();
        leaves.dedup();
        leaves.retain(|shard| *shard != to);
        let age_ms = u64::try_from(newest.try_get::<i64, _>("age_ms")?).unwrap_or_default();
        let version = newest.try_get("version")?;
        Ok(Some(ShardMove { org_id, version, to, leaves, begun_ago: Duration::from_millis(age_ms) }))
    }

    /// Records that a move is complete: all entries of the org on other shards are stored. False if that was recorded
    /// before; an error if it is not the newest move.
    pub async fn settle_shard_move(&self, org_id: OrgId, version: i64) -> Result<bool, RegistryError> {
        let mut change = self.change(org_id).await?;
        let newest = find(change.connection(), org_id).await?.filter(|place| place.version == version);
        let place = newest.ok_or(RegistryError::MoveSuperseded)?;
        let Some(to) = place.moving_to else { return Ok(false) };
        let settle = "UPDATE shard_map SET drained_at = now() WHERE tenant_id = $1 AND version = $2";
        sqlx::query(settle).bind(org_id.0).bind(version).execute(change.connection()).await?;
        let detail = json!({ "old": place.shard, "new": to, "version": version });
        change.commit(Event::new(EventType::ShardSettle, org_id, detail)).await?;
        Ok(true)
    }
}

/// The place of the session's org.
async fn find(connection: &mut PgConnection, org_id: OrgId) -> Result<Option<ShardPlace>, RegistryError> {
    let row = sqlx::query(select_places!("WHERE t.id = $1")).bind(org_id.0).fetch_optional(connection).await?;
    row.as_ref().map(place).transpose()
}

fn place(row: &PgRow) -> Result<ShardPlace, RegistryError> {
    let org_id = OrgId(row.try_get("id")?);
    let home = Shard::home(org_id);
    let assigned = shard(row, "assigned")?;
    let to = shard(row, "shard")?.unwrap_or(home);
    Ok(ShardPlace {
        org_id,
        slug: row.try_get("slug")?,
        shard: assigned.unwrap_or(home),
        home,
        assigned,
        moving_to: row.try_get::<bool, _>("is_moving")?.then_some(to),
        version: row.try_get("version")?,
        by: row.try_get("created_by")?,
        since: row.try_get("created_at")?,
    })
}

/// A shard by its number; a check in the database keeps it in range.
fn shard(row: &PgRow, column: &str) -> Result<Option<Shard>, RegistryError> {
    let number: Option<i16> = row.try_get(column)?;
    Ok(number.and_then(|number| Shard::new(u8::try_from(number).ok()?)))
}
