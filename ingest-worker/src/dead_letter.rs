//! The description of an entry that becomes a dead letter.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::entry_id::EntryId;
use model::ids::OrgId;
use queue::dlq::{DETAIL_CHARS_MAX, Description, Reason};

/// Describes the entry, with the reason and ClickHouse's error code (0 if there is none).
pub(crate) fn describe(entry: EntryId, org: Option<OrgId>, reason: Reason, code: u32, detail: &str) -> Description {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Description {
        entry: entry.to_string(),
        org,
        since_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        reason,
        code,
        detail: detail.chars().take(DETAIL_CHARS_MAX).collect(),
        tables: Vec::new(),
        items: 0,
    }
}
