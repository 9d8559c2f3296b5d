//! The shard map: orgs that do not go where their hash says, and orgs on their way.
//!
//! Append-only. The newest row of an org is where it is to go; the newest with `drained_at` where it is. In between it
//! is moving, and the services refuse its requests. How it gets there: [`transfer::moving`].

use std::time::Duration;

use model::ids::OrgId;
use serde::Serialize;
use serde_json::json;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use time::OffsetDateTime;

use super::event::EventType;
use super::outbox::Event;
use super::session::Session;
use super::{LIST_MAX, Registry, RegistryError};
use model::org::DEFAULT_ORG;
use model::shard::{SHARDS, Shard};

/// An org that is, or was, not where its hash says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShardPlace {
    /// The org.
    pub org_id: OrgId,
    /// Its slug.
    pub slug: String,
    /// The shard that it is in.
    pub shard: Shard,
    /// The shard that its hash says.
    pub home: Shard,
    /// The shard that it was assigned to and has arrived in; `None` where its hash decides.
    pub assigned: Option<Shard>,
    /// Where it is on its way to; its requests are refused until it is there.
    pub moving_to: Option<Shard>,
    /// The version of the map that says so; each move has one of its own.
    pub version: i64,
    /// Who said so.
    pub by: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
}

/// A move that has begun and not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardMove {
    /// The org.
    pub org_id: OrgId,
    /// Which move.
    pub version: i64,
    /// Where it goes.
    pub to: Shard,
    /// Every other shard that it can have something in.
    pub leaves: Vec<Shard>,
    /// How long ago it began, by Postgres' clock.
    pub begun_ago: Duration,
}

/// What was asked for when an org was assigned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Assigned {
    /// Where the org is, or where it goes.
    #[serde(flatten)]
    pub place: ShardPlace,
    /// Whether a move was begun by this; not if it was on its way there already.
    pub changed: bool,
}

/// The newest row of each org, and the newest that is settled.
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
    /// Every org that was ever assigned to a shard, by slug, after one of them; at most [`LIST_MAX`]. For operators,
    /// who see the whole map.
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

    /// Those of them that are on their way.
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

    /// Where an org was assigned to; `None` for one that never was.
    pub async fn shard_place(&self, org_id: OrgId) -> Result<Option<ShardPlace>, RegistryError> {
        find(Session::open(&self.pool, org_id).await?.connection(), org_id).await
    }

    /// Begins to move an org to a shard, or with `None` to where its hash says. From now on its requests are refused,
    /// until [`transfer::moving::Mover`] has finished the move. A move under way to another place ends here.
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

    /// Takes a move back that has not ended: the org goes back to where it is.
    pub async fn abort_shard_move(&self, org_id: OrgId) -> Result<Assigned, RegistryError> {
        let place = self.shard_place(org_id).await?.filter(|place| place.moving_to.is_some());
        let place = place.ok_or(RegistryError::NotMoving)?;
        self.assign_shard(org_id, place.assigned).await
    }

    /// The move of an org that is moving.
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

    /// Says that a move has ended: everything that the org had elsewhere is stored. False when that was said before; an
    /// error when it is not the newest move.
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

/// The place of the org of an open session.
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
