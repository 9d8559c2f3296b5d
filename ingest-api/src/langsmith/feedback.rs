//! One feedback object of LangSmith, as a row of `eval_score`.

use std::borrow::Cow;

use schema::ids::ProjectId;
use schema::model::Score;
use schema::tables::content_hash_128;
use schema::translate::batch::Batch;
use schema::translate::fields::{Fields, ItemError};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::lenient::Document;
use super::time;

/// Labels are a column of few different values: a longer text is no label, and only in `value_json`.
const LABEL_BYTES_MAX: usize = 128;

/// Adds the row of one feedback object. `id` is the one in the part's name.
pub(super) fn store(id: Option<Uuid>, object: &[u8], project: ProjectId, batch: &mut Batch) -> Result<(), ItemError> {
    let document = Document::new(object);
    let mut fields = document.read(Fields::of_text)?;
    fields.check_nesting()?;
    let sent_id = fields.parse::<Uuid>("id")?;
    let mut source =
        fields.take("feedback_source").and_then(|raw| Fields::read(raw).ok()).unwrap_or(Fields(Vec::new()));
    let number = fields.take("score");
    let value = fields.take("value");
    let score = Score {
        run_id: fields.parse("run_id")?.unwrap_or_default(),
        trace_id: fields.parse("trace_id")?.unwrap_or_default(),
        // Without an id of its own, what it says is what it is: a retry is the same row.
        score_id: id.or(sent_id).unwrap_or_else(|| Uuid::from_bytes(content_hash_128(object.trim_ascii()))),
        name: Fields::required(fields.parse::<Cow<'_, str>>("key")?, "key")?,
        value: number.and_then(as_number),
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
        start_time: fields.take("start_time").and_then(time::read).unwrap_or_default(),
        created_at: fields.take("created_at").and_then(time::read).unwrap_or_default(),
        modified_at: fields.take("modified_at").and_then(time::read).unwrap_or_default(),
        extra: rest(&fields, number.filter(|raw| as_number(raw).is_none())).into(),
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
        number => number.parse().ok().filter(|n: &f64| n.is_finite()),
    }
}

/// What nobody took, as one object; and a score that is no number.
fn rest(fields: &Fields<'_>, score: Option<&RawValue>) -> String {
    let others = fields.0.iter().filter(|(_, raw)| raw.get() != "null").map(|(name, raw)| (&**name, *raw));
    let members: Vec<_> = others
        .chain(score.map(|raw| ("score", raw)))
        .map(|(name, raw)| format!("{}:{}", serde_json::Value::from(name), raw.get()))
        .collect();
    if members.is_empty() { String::new() } else { format!("{{{}}}", members.join(",")) }
}
