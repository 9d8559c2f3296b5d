//! Decodes one feedback object of LangSmith into a row of `eval_score`.

use model::ids::ProjectId;
use model::trace::Score;
use serde_json::value::RawValue;
use translate::batch::Batch;
use translate::fields::{Fields, ItemError};
use translate::instant;
use translate::lenient::Document;
use uuid::Uuid;
use wire::tables::content_hash_128;

use super::run::scalar;

/// The label column is for few different values. A longer text is not a label and is only in `value_json`.
const LABEL_BYTES_MAX: usize = 128;

/// Adds the row of one feedback object. `id` is the one in the part's name.
pub(super) fn store(id: Option<Uuid>, object: &[u8], project: ProjectId, batch: &mut Batch) -> Result<(), ItemError> {
    let document = Document::new(object);
    let mut fields = document.read(Fields::of_text)?;
    fields.check_nesting()?;
    let sent_id = fields.parse::<Uuid>("id")?;
    let name = Fields::required(fields.take("key").and_then(scalar).filter(|key| !key.is_empty()), "key")?;
    let run_id = fields.parse("run_id")?.unwrap_or_default();
    // A field that cannot be read is kept unchanged in `extra`.
    let mut unread = Vec::new();
    let source = read(&mut fields, "feedback_source", |raw| Fields::read(raw).ok(), &mut unread);
    let mut source = source.unwrap_or(Fields(Vec::new()));
    let value = fields.take("value");
    let score = Score {
        run_id,
        trace_id: read(&mut fields, "trace_id", |raw| serde_json::from_str(raw.get()).ok(), &mut unread)
            .unwrap_or_default(),
        // Without an id of its own, the hash of the content is the id: a retry is the same row.
        score_id: id.or(sent_id).unwrap_or_else(|| Uuid::from_bytes(content_hash_128(object.trim_ascii()))),
        name,
        value: read(&mut fields, "score", as_number, &mut unread),
        label: value
            .and_then(|raw| serde_json::from_str::<String>(raw.get()).ok())
            .filter(|label| is_label(label))
            .unwrap_or_default()
            .into(),
        value_json: value.map(|raw| raw.get().into()).unwrap_or_default(),
        comment: fields.payload("comment")?,
        correction: fields.payload("correction")?,
        feedback_source: source.payload("type")?,
        user_id: source.payload("user_id")?,
        feedback_source_metadata: source.payload("metadata")?,
        feedback_config: fields.payload("feedback_config")?,
        error_message: fields.payload("error")?,
        start_time: read(&mut fields, "start_time", instant::of_json, &mut unread).unwrap_or_default(),
        created_at: read(&mut fields, "created_at", instant::of_json, &mut unread).unwrap_or_default(),
        modified_at: read(&mut fields, "modified_at", instant::of_json, &mut unread).unwrap_or_default(),
        extra: rest_as_json(&fields, &unread).into(),
    };
    batch.scores.push(project, &score);
    Ok(())
}

fn is_label(text: &str) -> bool {
    text.len() <= LABEL_BYTES_MAX
}

fn as_number(raw: &RawValue) -> Option<f64> {
    match raw.get() {
        "true" => Some(1.0),
        "false" => Some(0.0),
        number => number.trim_matches('"').trim().parse().ok().filter(|n: &f64| n.is_finite()),
    }
}

/// Takes a field out of `fields`. A field that cannot be read is added to `unread`.
fn read<'a, T>(
    fields: &mut Fields<'a>,
    name: &'static str,
    read: impl FnOnce(&'a RawValue) -> Option<T>,
    unread: &mut Vec<(&'static str, &'a RawValue)>,
) -> Option<T> {
    let raw = fields.take(name)?;
    let value = read(raw);
    if value.is_none() {
        unread.push((name, raw));
    }
    value
}

/// The fields that were not taken or could not be read, as one object.
fn rest_as_json(fields: &Fields<'_>, unread: &[(&'static str, &RawValue)]) -> String {
    let others = fields.0.iter().filter(|(_, raw)| raw.get() != "null").map(|(name, raw)| (&**name, *raw));
    let members: Vec<_> = others
        .chain(unread.iter().copied())
        .map(|(name, raw)| format!("{}:{}", serde_json::Value::from(name), raw.get()))
        .collect();
    if members.is_empty() { String::new() } else { format!("{{{}}}", members.join(",")) }
}
