//! `tracectl dlq`: lists, shows, replays, drops and exports dead letters.

mod choose;
mod export;
mod show;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use choose::{Filter, Selection, Selector};
use clap::Subcommand;
use model::ids::OrgId;
use queue::dlq::{DeadLetterId, DeadLetters, DlqError, Listed, PAGE_LETTERS, Replayed};
use registry::event::{EventType, NewEvent};
use registry::{LIST_MAX, Registry, RegistryError};
use serde::Serialize;
use serde_json::json;
use stores::redis::Redis;
use time::OffsetDateTime;
use wire::envelope::EnvelopeKey;

use crate::confirm::Confirm;
use crate::environment::REDIS;
use crate::failure::Failure;
use crate::output::{Answer, NONE, moment};
use crate::stores::Services;

/// The most dead letters that the error message names when they cannot be replayed.
const NAMED_MAX: usize = 20;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List dead letters, shard by shard and in each the oldest first.
    #[command(after_help = "Examples:\n  tracectl dlq ls\n  tracectl dlq ls --org acme --reason refused\n  \
        tracectl dlq ls --shard 7 --output json | jq '[.letters[].items] | add'")]
    Ls {
        #[command(flatten)]
        filter: Filter,
        /// Continue after this dead letter.
        #[arg(long, value_name = "ID")]
        after: Option<DeadLetterId>,
    },
    /// Show everything known about a dead letter, and its first bytes.
    #[command(after_help = "Examples:\n  tracectl dlq show 7/1795241935570-0")]
    Show {
        /// The name of the dead letter, such as 7/1795241935570-0.
        id: DeadLetterId,
        #[command(flatten)]
        services: Services,
    },
    /// Replay dead letters, limited to the rows that are not stored.
    ///
    /// Do this when the reason is gone: a constraint, a column that was missing, an older release. A letter that is
    /// refused again comes back as a new one. The command may be interrupted and repeated.
    #[command(
        after_help = "Examples:\n  tracectl dlq replay 7/1795241935570-0\n  tracectl dlq replay --org acme --limit 100\n  \
        tracectl dlq replay --all --shard 7"
    )]
    Replay {
        #[command(flatten)]
        chosen: Selector,
        #[command(flatten)]
        services: Services,
    },
    /// Drop dead letters. Their data is lost, and counted as dropped.
    #[command(after_help = "Examples:\n  tracectl dlq drop 7/1795241935570-0\n  \
        tracectl dlq drop --all --shard 7 --reason unreadable --yes")]
    Drop {
        #[command(flatten)]
        chosen: Selector,
        #[command(flatten)]
        confirm: Confirm,
        #[command(flatten)]
        services: Services,
    },
    /// Write dead letters with their bytes to a file, one JSON document per line. They stay dead letters.
    #[command(after_help = "Examples:\n  tracectl dlq export letters.jsonl\n  \
        tracectl dlq export acme.jsonl --org acme --reason refused")]
    Export {
        /// The file, which must not exist yet. Only its owner may read it.
        file: PathBuf,
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        services: Services,
    },
}

impl Command {
    pub(crate) async fn run(self, registry: &Registry, redis: Option<Redis>, actor: &str) -> Result<Answer, Failure> {
        let unknown =
            || Failure::usage("it is not known where Redis is, which has the dead letters", format!("set {REDIS}"));
        let dead_letters = DeadLetters::new(redis.ok_or_else(unknown)?);
        let trail = |services| AuditTrail { registry, services, of_no_org: None, actor };
        match self {
            Self::Ls { filter, after } => list(registry, &dead_letters, &filter, after).await,
            Self::Show { id, services } => show::show(registry, &dead_letters, id, trail(services)).await,
            Self::Replay { chosen, services } => {
                let picked = chosen.select(registry, &dead_letters).await?;
                let key = registry.envelope_key().await?;
                replay(&dead_letters, &key, picked, trail(services)).await
            }
            Self::Drop { chosen, confirm, services } => {
                let picked = chosen.select(registry, &dead_letters).await?;
                drop(&dead_letters, picked, confirm, trail(services)).await
            }
            Self::Export { file, filter, services } => {
                let picked = filter.select(registry, &dead_letters, None).await?;
                export::export(&dead_letters, picked, &file, trail(services)).await
            }
        }
    }
}

impl From<DlqError> for Failure {
    fn from(error: DlqError) -> Self {
        Self::new(error.to_string(), format!("check {REDIS} and repeat the command: what was done is done once"))
    }
}

/// Writes audit events before dead letters are changed.
struct AuditTrail<'a> {
    registry: &'a Registry,
    services: Services,
    /// Opened for the first letter of an unknown org: only the services' role may write events of no org.
    of_no_org: Option<Registry>,
    actor: &'a str,
}

impl AuditTrail<'_> {
    /// Writes an event to each org that has letters. Without the event, nothing is changed.
    async fn write(
        &mut self,
        what: EventType,
        how: &str,
        letters: &[(DeadLetterId, Option<OrgId>)],
    ) -> Result<(), Failure> {
        let mut orgs = BTreeMap::<Option<OrgId>, Vec<DeadLetterId>>::new();
        for (id, org) in letters {
            orgs.entry(*org).or_default().push(*id);
        }
        for (org, ids) in orgs {
            let event = |org| {
                NewEvent::new(org, what, self.actor)
                    .with_target("dlq")
                    .with_detail(json!({ "how": how, "letters": ids }))
            };
            let org = match org {
                Some(org) => match self.registry.record_events(Some(org), &[event(Some(org))]).await {
                    // An envelope may name an org that is not in this registry: of another installation, or made up.
                    Err(RegistryError::Database(error)) if is_unknown_org(&error) => None,
                    written => {
                        written?;
                        continue;
                    }
                },
                None => None,
            };
            if self.of_no_org.is_none() {
                self.of_no_org = Some(self.services.registry().await?);
            }
            if let Some(registry) = &self.of_no_org {
                registry.record_events(org, &[event(None)]).await?;
            }
        }
        Ok(())
    }
}

fn is_unknown_org(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_foreign_key_violation)
}

/// A dead letter as it is listed.
#[derive(Serialize)]
struct DeadLetterLine {
    #[serde(flatten)]
    letter: Listed,
    /// The slug of its org; `None` if the org is unknown.
    slug: Option<String>,
    #[serde(skip)]
    cursor: String,
}

async fn list(
    registry: &Registry,
    dead_letters: &DeadLetters,
    filter: &Filter,
    after: Option<DeadLetterId>,
) -> Result<Answer, Failure> {
    let mut walk = filter.walk(registry, dead_letters, after).await?;
    let (mut lines, mut slugs) = (Vec::new(), HashMap::new());
    'listing: while let Some(page) = walk.next().await? {
        for letter in page {
            if lines.len() >= LIST_MAX as usize {
                break 'listing;
            }
            let slug = slug(registry, letter.description.org, &mut slugs).await?;
            lines.push(DeadLetterLine { cursor: letter.id.to_string(), slug, letter });
        }
    }
    let headings = ["ID", "ORG", "SINCE", "REASON", "CODE", "ITEMS", "BYTES", "DETAIL"];
    let cursor: fn(&DeadLetterLine) -> &str = |line| &line.cursor;
    Answer::list("letters", &lines, Some(cursor), headings, |line| {
        let description = &line.letter.description;
        let org = description.org.map(|org| org.to_string());
        [
            line.cursor.clone(),
            line.slug.clone().or(org).unwrap_or_else(|| NONE.to_owned()),
            since(description.since_ms),
            description.reason.to_string(),
            description.code.to_string(),
            description.items.to_string(),
            line.letter.bytes.to_string(),
            description.detail.clone(),
        ]
    })
}

/// The slug of an org, if the registry has it.
async fn slug(
    registry: &Registry,
    org: Option<OrgId>,
    known: &mut HashMap<OrgId, Option<String>>,
) -> Result<Option<String>, Failure> {
    let Some(org) = org else { return Ok(None) };
    if let Some(slug) = known.get(&org) {
        return Ok(slug.clone());
    }
    let slug = match registry.find_org(&org.to_string()).await {
        Ok(found) => Some(found.slug),
        Err(RegistryError::UnknownOrg { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    known.insert(org, slug.clone());
    Ok(slug)
}

fn since(ms: i64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).map_or_else(|_| NONE.to_owned(), moment)
}

/// A dead letter that could not be replayed.
#[derive(Serialize)]
struct Skipped {
    id: DeadLetterId,
    why: String,
}

async fn replay(
    dead_letters: &DeadLetters,
    key: &EnvelopeKey,
    picked: Selection,
    mut trail: AuditTrail<'_>,
) -> Result<Answer, Failure> {
    let (mut sent, mut gone, mut skipped, mut named) = (0_u64, picked.gone, 0_u64, Vec::new());
    for some in picked.letters.chunks(PAGE_LETTERS) {
        trail.write(EventType::DlqReplay, "replay", some).await?;
        for (id, _) in some {
            let replayed = match dead_letters.read(*id).await? {
                Some(letter) => dead_letters.replay(&letter, key).await?,
                None => Replayed::Gone,
            };
            match replayed {
                Replayed::Sent => sent += 1,
                Replayed::Gone => gone += 1,
                Replayed::Skipped(why) => {
                    skipped += 1;
                    if named.len() < NAMED_MAX {
                        named.push(Skipped { id: *id, why: why.to_string() });
                    }
                }
            }
        }
        eprintln!("{} of {} letters", sent + gone + skipped, picked.letters.len() as u64 + picked.gone);
    }
    let fields = [("sent", sent.to_string()), ("gone before", gone.to_string()), ("skipped", skipped.to_string())];
    let answer = Answer::record(&json!({ "sent": sent, "gone": gone, "skipped": skipped, "letters": named }), &fields)?;
    let answer = named.iter().fold(answer, |answer, Skipped { id, why }| {
        answer.note(format!("{id} stays a dead letter, because no worker could read it: {why}"))
    });
    Ok(match skipped {
        0 => answer,
        _ => answer
            .note("tracectl dlq show ID says more; a newer release may read them, tracectl dlq drop throws them away"),
    })
}

async fn drop(
    dead_letters: &DeadLetters,
    picked: Selection,
    confirm: Confirm,
    mut trail: AuditTrail<'_>,
) -> Result<Answer, Failure> {
    let (count, items) = (picked.letters.len(), picked.items);
    if count > 0 {
        let what = format!("dropping {count} dead letters with {items} runs and spans in {} bytes", picked.bytes);
        confirm.ask(&what, "their data is lost; tracectl dlq export keeps a copy")?;
    }
    let (mut dropped, mut gone) = (0_u64, picked.gone);
    for some in picked.letters.chunks(PAGE_LETTERS) {
        trail.write(EventType::DlqDrop, "drop", some).await?;
        for (id, _) in some {
            let was_there = match dead_letters.read(*id).await? {
                Some(letter) => dead_letters.drop(&letter.listed).await?,
                None => false,
            };
            *(if was_there { &mut dropped } else { &mut gone }) += 1;
        }
        eprintln!("{} of {} letters", dropped + gone, count as u64 + picked.gone);
    }
    let fields = [("dropped", dropped.to_string()), ("gone before", gone.to_string())];
    Answer::record(&json!({ "dropped": dropped, "gone": gone }), &fields)
}
