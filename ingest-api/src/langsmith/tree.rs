//! Finds the place of a run in its tree, and reads `child_runs`: the runs below a run, inside its own object. Old SDKs
//! send a whole tree this way. Each run becomes a run of its own.

use model::trace::Run;
use serde_json::value::RawValue;
use translate::batch::Batch;
use translate::fields::{Bounded, Fields, ItemError};
use uuid::Uuid;
use wire::envelope::{Header, SECTION_ROWS_MAX};
use wire::tables::content_hash;

use super::run::Write;
use super::{Op, time};

/// How deep runs may be inside one another. Each level is read once more often than the level above it. Deeper runs
/// stay an attribute of the run that contains them.
pub(super) const CHILD_LEVELS_MAX: usize = 16;

/// A run whose object contains other runs.
pub(super) struct Parent {
    /// Depth of the runs inside of it: 1 for the runs of a run that is not inside of another.
    pub(super) level: usize,
    run_id: Uuid,
    trace_id: Uuid,
    dotted_order: String,
    session_name: String,
}

impl Parent {
    /// `level` is the depth of the run itself, 0 if it is not inside of another.
    pub(super) fn of(run: &Run<'_>, level: usize) -> Self {
        Self {
            level: level + 1,
            run_id: run.run_id,
            trace_id: run.trace_id,
            dotted_order: run.dotted_order.as_ref().to_owned(),
            session_name: run.session_name.as_ref().to_owned(),
        }
    }

    /// Fills in what a run below this one may leave out.
    pub(super) fn place(&self, run: &mut Run<'_>) {
        if run.parent_run_id.is_nil() {
            run.parent_run_id = self.run_id;
        }
        if run.trace_id.is_nil() {
            run.trace_id = self.trace_id;
        }
        if run.session_name.is_empty() {
            run.session_name = self.session_name.clone().into();
        }
        if run.dotted_order.is_empty() && !self.dotted_order.is_empty() && run.start_time != 0 {
            run.dotted_order = format!("{}.{}", self.dotted_order, time::root_path(run.start_time, run.run_id)).into();
        }
    }
}

/// Fills in the place of a run in its tree, as far as it is known. A run without a parent is a root, if `can_be_root`.
pub(super) fn place(can_be_root: bool, run: &mut Run<'_>) {
    // The last 36 characters of each segment are an id; those before it are a time.
    let id_of = |segment: &str| segment.len().checked_sub(36).and_then(|at| segment.get(at..)?.parse::<Uuid>().ok());
    let segments: Vec<_> = run.dotted_order.split('.').collect();
    if run.trace_id.is_nil() {
        run.trace_id = segments.first().and_then(|s| id_of(s)).unwrap_or_default();
    }
    if run.parent_run_id.is_nil() && segments.len() > 1 {
        run.parent_run_id = id_of(segments[segments.len() - 2]).unwrap_or_default();
    }
    if can_be_root && run.parent_run_id.is_nil() && run.trace_id.is_nil() {
        run.trace_id = run.run_id;
        if run.dotted_order.is_empty() && run.start_time != 0 {
            run.dotted_order = time::root_path(run.start_time, run.run_id).into();
        }
    }
}

/// Takes the runs below a run of that level out of its fields. A list that cannot be read stays in the fields.
pub(super) fn take<'a>(fields: &mut Fields<'a>, level: usize) -> Vec<&'a RawValue> {
    const NAME: &str = "child_runs";
    if level == CHILD_LEVELS_MAX {
        return Vec::new();
    }
    let list = fields.0.iter().find(|(name, _)| name == NAME).map(|(_, raw)| raw.get());
    let children =
        list.and_then(|list| serde_json::from_str::<Bounded<&RawValue, { SECTION_ROWS_MAX as usize }>>(list).ok());
    let Some(Bounded(children)) = children else { return Vec::new() };
    fields.0.retain(|(name, _)| name != NAME);
    children
}

/// Stores the runs that were inside of `parent`, which came as `op`. Each run that cannot be stored is rejected by
/// itself.
pub(super) fn store(children: &[&RawValue], parent: &Parent, op: Op, header: &Header, batch: &mut Batch) {
    for (i, child) in children.iter().enumerate().filter(|(_, child)| child.get() != "null") {
        let stored = if batch.run_rows() < SECTION_ROWS_MAX {
            let hash = content_hash(child.get().as_bytes());
            // A post, whatever the operation of its parent is, because no earlier write contained this run.
            let write = |fields| Write { op: Op::Post, id: None, fields, hash, parent: Some(parent) };
            Fields::read(child).and_then(|fields| write(fields).store(header, batch))
        } else {
            Err(ItemError::Field {
                field: "child_runs",
                reason: format!("more than {SECTION_ROWS_MAX} runs in one request (SECTION_ROWS_MAX)"),
            })
        };
        if let Err(error) = stored {
            let item = format!("{}.{}.child_runs[{i}]", op.as_str(), parent.run_id);
            batch.reject_and_keep(item, error.to_string(), child.get().as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BodyKind, decode};
    use super::*;
    use crate::body::Budget;
    use model::ids::{ApiKeyId, EnvelopeId, OrgId, ProjectId, WorkspaceId};
    use translate::batch::Counts;
    use wire::envelope::{ContentId, Source};

    fn stored(body: &str) -> Counts {
        let id = Uuid::from_u128(1);
        let header = Header {
            envelope_id: EnvelopeId(id),
            org_id: OrgId(id),
            workspace_id: WorkspaceId(id),
            project_id: ProjectId(id),
            api_key_id: ApiKeyId(id),
            received_at: 0,
            source: Source::LangSmith,
            content_id: ContentId::NONE,
        };
        let budget = Budget::new(1 << 20, 2 << 20);
        Batch::with(|batch| {
            decode(&BodyKind::Run(Op::Post, None), body.as_bytes(), &header, &budget, batch).unwrap();
            batch.counts()
        })
    }

    #[test]
    fn child_runs_are_stored_at_every_level() {
        let nested = (0..CHILD_LEVELS_MAX + 5).fold(String::from("[]"), |inner, n| {
            format!(r#"[{{"id":"{}","child_runs":{inner}}}]"#, Uuid::from_u128(n as u128 + 1))
        });
        let counts = stored(&nested[1..nested.len() - 1]);
        assert_eq!((counts.runs as usize, counts.rejected), (CHILD_LEVELS_MAX + 1, 0));
    }

    #[test]
    fn a_bad_child_run_is_rejected_alone() {
        let [root, child] = [1, 2].map(Uuid::from_u128);
        let nil = Uuid::nil();
        let counts =
            stored(&format!(r#"{{"id":"{root}","child_runs":[{{"id":"{child}"}},"x",{{"id":"{nil}"}},null]}}"#));
        let rejected: Vec<_> = counts.reasons.iter().map(|reason| reason.item.clone()).collect();
        assert_eq!(counts.runs, 2);
        assert_eq!(rejected, [1, 2].map(|i| format!("post.{root}.child_runs[{i}]")));
        for other in ["{}", "\"x\"", "7", "null", "[]"] {
            let counts = stored(&format!(r#"{{"id":"{root}","child_runs":{other}}}"#));
            assert_eq!((counts.runs, counts.rejected), (1, 0), "{other}");
        }
    }
}
