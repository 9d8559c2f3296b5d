//! Obligations against rows: everything that was promised is there, once, and nothing else is.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::Context;
use load::client::ClickHouse;
use model::ids::OrgId;
use model::shard::Shard;
use queue::dlq::{DESCRIPTION_FIELD, Description, Reason};
use stores::keys::RedisKey;
use stores::redis::Redis;
use uuid::Uuid;

use crate::traffic::{Row, Sent};

/// What is where, read without FINAL.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// How often each row is there.
    pub rows: HashMap<Row, u64>,
    /// What each org is billed for.
    pub billed: HashMap<OrgId, u64>,
    /// Rows of the billing of one envelope and meter beyond the first.
    pub billed_again: u64,
    /// The dead letters that were found, in any shard.
    pub letters: Vec<Description>,
    /// Shards that have a batch under way.
    pub under_way: usize,
    /// Entries in the streams.
    pub waiting: u64,
}

impl Found {
    /// Reads all of it.
    pub async fn read(clickhouse: &ClickHouse, redis: &Redis) -> anyhow::Result<Self> {
        let mut found = Self::default();
        let uuid = |text: Option<&str>| text.unwrap_or_default().parse::<Uuid>().context("not a UUID");
        for line in clickhouse.text("SELECT span_id FROM span").await?.lines() {
            *found.rows.entry(Row::Span(uuid(Some(line))?)).or_default() += 1;
        }
        for line in clickhouse.text("SELECT run_id, op FROM run").await?.lines() {
            let mut fields = line.split('\t');
            let row = Row::Run(uuid(fields.next())?, fields.next().unwrap_or_default().parse()?);
            *found.rows.entry(row).or_default() += 1;
        }
        let billed = "SELECT org_id, sum(quantity) FROM billing_meter WHERE meter = 'span_ingested' GROUP BY org_id";
        for line in clickhouse.text(billed).await?.lines() {
            let mut fields = line.split('\t');
            let org = OrgId(uuid(fields.next())?);
            found.billed.insert(org, fields.next().unwrap_or_default().parse()?);
        }
        let again = "SELECT count() - uniqExact(org_id, envelope_id, meter) FROM billing_meter";
        found.billed_again = clickhouse.number(again).await?;
        let mut redis = redis.clone();
        for shard in Shard::all() {
            let stream = RedisKey::shard_stream(shard);
            found.waiting += redis::cmd("XLEN").arg(stream).query_async::<u64>(&mut redis).await?;
            let body = redis::cmd("HEXISTS").arg(RedisKey::shard_intent(shard)).arg("body").to_owned();
            found.under_way += usize::from(body.query_async::<bool>(&mut redis).await?);
            let range = redis::cmd("XRANGE").arg(RedisKey::shard_dlq(shard)).arg("-").arg("+").to_owned();
            let letters: redis::streams::StreamRangeReply = range.query_async(&mut redis).await?;
            for letter in letters.ids {
                let text: String = letter.get(DESCRIPTION_FIELD).context("a dead letter without a description")?;
                found.letters.push(serde_json::from_str(&text)?);
            }
        }
        Ok(found)
    }
}

/// How promises and rows compare. In rows, except where it says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Spans and writes of runs that were answered with a 2xx.
    pub acked: u64,
    /// Spans and writes of runs that are there.
    pub stored: u64,
    /// Rows that are there more than once, counted without the first.
    pub duplicated: u64,
    /// Rows that were promised and are not there.
    pub lost: u64,
    /// What else is wrong.
    pub wrong: Vec<String>,
}

impl Verdict {
    /// Compares them. `unreadable` is how many entries that nobody sent end as dead letters.
    pub fn of(sent: &[Sent], found: &Found, unreadable: usize) -> Self {
        let mut verdict = Self::default();
        let (mut known, mut owed, mut poisoned) = (0, HashMap::<OrgId, u64>::new(), Vec::new());
        for request in sent {
            let count = |row: &Row| found.rows.get(row).copied().unwrap_or_default();
            let there = request.rows.iter().filter(|row| count(row) > 0).count();
            verdict.stored += there as u64;
            let is_whole = request.rows.iter().all(|row| (count(row) > 0) != request.poison);
            known += there;
            verdict.duplicated += request.rows.iter().map(|row| count(row).saturating_sub(1)).sum::<u64>();
            if request.acked {
                verdict.acked += request.items;
                verdict.lost += request.rows.iter().filter(|row| !request.poison && count(row) == 0).count() as u64;
            } else if there > 0 && !is_whole {
                verdict.wrong.push(format!("{there} of {} rows of an unanswered request", request.rows.len()));
            }
            if request.poison && (request.acked || there > 0) {
                poisoned.push(request.items);
            } else if there > 0 {
                *owed.entry(request.org).or_default() += request.items;
            }
        }
        verdict.duplicated += found.billed_again;
        if known < found.rows.len() {
            verdict.wrong.push(format!("{} rows that nobody sent", found.rows.len() - known));
        }
        if owed != found.billed {
            let sum = |billed: &HashMap<OrgId, u64>| billed.values().sum::<u64>();
            verdict.wrong.push(format!("{} items are billed, not {}", sum(&found.billed), sum(&owed)));
        }
        let refused = found.letters.iter().filter(|letter| letter.reason == Reason::Refused);
        let mut items: Vec<u64> = refused.map(|letter| letter.items).collect();
        items.sort_unstable();
        poisoned.sort_unstable();
        if items != poisoned || found.letters.len() - items.len() != unreadable {
            let newest =
                found.letters.last().map(|letter| format!("; the newest: {}, {}", letter.reason, letter.detail));
            verdict.wrong.push(format!(
                "{} dead letters, not {} refused and {unreadable} unreadable{}",
                found.letters.len(),
                poisoned.len(),
                newest.unwrap_or_default()
            ));
        }
        if found.under_way + found.waiting as usize > 0 {
            verdict.wrong.push(format!("{} batches under way, {} entries waiting", found.under_way, found.waiting));
        }
        verdict
    }

    /// The same where nothing was promised of what was sent before that moment: what is wrong with it is told, and only
    /// what was sent later is judged.
    pub fn since(self, moment: Instant, sent: &[Sent], found: &Found) -> (Self, String) {
        let later: Vec<Sent> = sent.iter().filter(|request| request.at >= moment).cloned().collect();
        let judged = Self::of(&later, found, 0);
        let duplicated = judged.duplicated - found.billed_again;
        let (lost, again) = (self.lost - judged.lost, self.duplicated - duplicated);
        let promised: usize = later.iter().filter(|request| request.acked).map(|request| request.rows.len()).sum();
        let mut note = format!("lost as expected: {lost} rows, and {again} doubled; later judged: {promised} rows");
        if !self.wrong.is_empty() {
            note = format!("{note}; counted: {}", self.wrong.join(", "));
        }
        (Self { lost: judged.lost, duplicated, wrong: Vec::new(), ..self }, note)
    }

    /// Nothing lost, nothing twice, nothing odd.
    pub fn holds(&self) -> bool {
        self.duplicated == 0 && self.lost == 0 && self.wrong.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;
    use std::time::Duration;

    use super::*;

    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);

    fn id(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    fn org() -> OrgId {
        OrgId(Uuid::from_u128(1))
    }

    fn request(id: u128, acked: bool) -> Sent {
        let at = *BEGUN + Duration::from_secs(id as u64);
        let id = self::id(id);
        let rows = vec![Row::Span(id), Row::Run(id, 1), Row::Run(id, 2)];
        Sent { org: org(), rows, items: 3, at, acked, poison: false }
    }

    fn stored(requests: &[&Sent]) -> Found {
        let rows = requests.iter().flat_map(|sent| sent.rows.iter().map(|row| (*row, 1))).collect();
        let billed = HashMap::from([(org(), requests.iter().map(|sent| sent.items).sum())]);
        Found { rows, billed, ..Found::default() }
    }

    #[test]
    fn acknowledged_requests_must_be_stored_and_unanswered_ones_may_be() {
        let sent = [request(1, true), request(2, false), request(3, false)];
        let verdict = Verdict::of(&sent, &stored(&[&sent[0], &sent[1]]), 0);
        assert!(verdict.holds(), "{verdict:?}");
        assert_eq!((verdict.acked, verdict.stored), (3, 6));
    }

    #[test]
    fn lost_and_duplicated_rows_are_detected() {
        let sent = [request(1, true), request(2, false)];
        let whole = || stored(&[&sent[0], &sent[1]]);
        let with = |change: fn(&mut Found)| {
            let mut found = whole();
            change(&mut found);
            Verdict::of(&sent, &found, 0)
        };
        assert_eq!(Verdict::of(&sent, &stored(&[&sent[1]]), 0).lost, 3);
        assert_eq!(with(|found| *found.rows.entry(Row::Span(id(2))).or_default() += 1).duplicated, 1);
        assert_eq!(with(|found| found.billed_again = 1).duplicated, 1);
        let changes: [fn(&mut Found); 6] = [
            |found| *found.billed.entry(org()).or_default() += 1,
            |found| found.rows.retain(|row, _| *row != Row::Run(id(2), 1)),
            |found| found.rows.extend([(Row::Span(id(9)), 1)]),
            |found| found.under_way = 1,
            |found| found.waiting = 1,
            |found| found.billed.clear(),
        ];
        for change in changes {
            let verdict = with(change);
            assert!(!verdict.holds() && verdict.lost + verdict.duplicated == 0, "{verdict:?}");
        }
        assert!(!Verdict::of(&sent, &whole(), 1).holds(), "a dead letter is missing");
    }

    #[test]
    fn after_an_allowed_loss_only_later_requests_are_judged() {
        let sent = [request(1, true), request(2, true)];
        let stored_one = |n: usize| stored(&[&sent[n]]);
        let judged = |found: &Found| Verdict::of(&sent, found, 0).since(sent[1].at, &sent, found);
        let (verdict, note) = judged(&stored_one(1));
        assert!(verdict.holds() && note.contains("expected: 3 rows") && note.contains("judged: 3 rows"), "{note}");
        let (verdict, _) = judged(&stored_one(0));
        assert_eq!(verdict.lost, 3, "the later one is missing");
    }

    #[test]
    fn a_poisoned_request_is_a_dead_letter_and_not_billed() {
        let poisoned = Sent { poison: true, ..request(1, true) };
        let letter = Description {
            entry: "1-0".to_owned(),
            org: Some(org()),
            since_ms: 0,
            reason: Reason::Refused,
            code: 469,
            detail: String::new(),
            tables: Vec::new(),
            items: 3,
        };
        let found = Found { letters: vec![letter], ..Found::default() };
        let sent = [poisoned];
        let verdict = Verdict::of(&sent, &found, 0);
        assert!(verdict.holds(), "{verdict:?}");
        assert!(!Verdict::of(&sent, &Found { letters: Vec::new(), ..found }, 0).holds());
    }
}
