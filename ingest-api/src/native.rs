//! `POST /v1/runs`: our own batch model, runs with nested spans and loose spans, in JSON.
//!
//! The body is `{"schema_version", "sdk", "sdk_version", "runs": [run], "spans": [span]}`. A field that is not known is kept
//! as an attribute. An item that cannot be stored is set aside with its path and reason; the others are stored.

use std::borrow::Cow;

use schema::ids::ProjectId;
use schema::model::{Attribute, Kind, Llm, Origin, Run, RunOp, Span, Status, Tokens, UnixNanos};
use schema::tables::content_hash;
use serde::Deserialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::batch::Batch;
use crate::fields::{Fields, ItemError, json_value};

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow, default)]
    sdk: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    sdk_version: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    runs: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    spans: Vec<&'a RawValue>,
}

/// Reads a native batch into rows. An error means that the body as a whole is not such a batch.
pub fn decode(body: &[u8], project: ProjectId, batch: &mut Batch) -> Result<(), serde_json::Error> {
    let body: Body<'_> = serde_json::from_slice(body)?;
    let sdk = (body.sdk.unwrap_or_default(), body.sdk_version.unwrap_or_default());
    let origin = Origin::default();
    for (i, raw) in body.runs.iter().enumerate() {
        let path = format!("runs[{i}]");
        let (run_id, spans) = match read_run(raw, &sdk) {
            Ok((run, spans)) => {
                batch.runs.push(project, &run, content_hash(raw.get().as_bytes()));
                (Some(run.run_id), spans)
            }
            Err(error) => {
                batch.set_aside(error.item(&path, raw), error.to_string());
                nested_spans(raw)
            }
        };
        for (j, raw) in spans.into_iter().enumerate() {
            push_span(raw, &format!("{path}.spans[{j}]"), run_id, &origin, project, batch);
        }
    }
    for (i, raw) in body.spans.iter().enumerate() {
        push_span(raw, &format!("spans[{i}]"), None, &origin, project, batch);
    }
    Ok(())
}

/// The spans of a run that cannot be stored itself: they still can, if it says whose they are.
fn nested_spans(raw: &RawValue) -> (Option<Uuid>, Vec<&RawValue>) {
    let Ok(mut fields) = Fields::read(raw) else { return (None, Vec::new()) };
    let run_id = fields.parse("run_id").ok().flatten();
    (run_id, fields.parse("spans").ok().flatten().unwrap_or_default())
}

fn push_span(
    raw: &RawValue,
    path: &str,
    run_id: Option<Uuid>,
    origin: &Origin<'_>,
    project: ProjectId,
    batch: &mut Batch,
) {
    match read_span(raw, run_id) {
        Ok(span) => batch.spans.push(project, origin, false, &span),
        Err(error) => batch.set_aside(error.item(path, raw), error.to_string()),
    }
}

impl ItemError {
    /// The path, and the id if one can be made out.
    fn item(&self, path: &str, raw: &RawValue) -> String {
        let id = Fields::read(raw).ok().and_then(|mut f| {
            let id = f.take("run_id").or_else(|| f.take("span_id"))?;
            serde_json::from_str::<String>(id.get()).ok()
        });
        id.map_or_else(|| path.to_owned(), |id| format!("{path} {id}"))
    }
}

impl<'a> Fields<'a> {
    fn time(&mut self, name: &'static str) -> Result<Option<UnixNanos>, ItemError> {
        let text = self.text(name)?;
        if text.is_empty() {
            return Ok(None);
        }
        let invalid = |reason: String| ItemError::Field { field: name, reason };
        let at = OffsetDateTime::parse(&text, &Rfc3339).map_err(|e| invalid(format!("not an RFC 3339 time: {e}")))?;
        let nanos = UnixNanos::try_from(at.unix_timestamp_nanos());
        nanos.map(Some).map_err(|_| invalid("outside the years 1678 to 2262".into()))
    }

    fn llm(&mut self) -> Result<Llm<'a>, ItemError> {
        let kind = Self::required(self.parse::<String>("kind")?, "kind")?;
        let kind = Kind::parse(&kind).ok_or_else(|| ItemError::Field {
            field: "kind",
            reason: format!("{kind:?} is none of {}", Kind::ALL.map(|(_, name)| name).join(", ")),
        })?;
        let (prompt, completion) = (self.parse("prompt_tokens")?, self.parse("completion_tokens")?);
        let (prompt, completion): (u32, u32) = (prompt.unwrap_or(0), completion.unwrap_or(0));
        let total = self.parse("total_tokens")?.unwrap_or(prompt.saturating_add(completion));
        Ok(Llm {
            kind,
            model: self.text("model")?,
            tokens: Tokens { prompt, completion, total, ..Tokens::default() },
            cost_usd_e8: self.parse::<f64>("cost_usd")?.map(|usd| (usd * 1e8).round() as i64),
            temperature: self.parse("temperature")?,
            inputs: self.payload("inputs")?,
            outputs: self.payload("outputs")?,
            session_id: self.text("session_id")?,
            user_id: self.text("user_id")?,
            tags: self.parse::<Vec<String>>("tags")?.unwrap_or_default().into_iter().map(Cow::Owned).collect(),
            error_kind: self.text("error_kind")?,
            error_message: self.text("error_message")?,
            ..Llm::default()
        })
    }

    fn status(&mut self) -> Result<Option<Status>, ItemError> {
        let Some(name) = self.parse::<String>("status")? else { return Ok(None) };
        Status::parse(&name).map(Some).ok_or_else(|| ItemError::Field {
            field: "status",
            reason: format!("{name:?} is none of {}", Status::ALL.map(|(_, name)| name).join(", ")),
        })
    }

    /// What is left, and the members of the object `name`, as attributes.
    fn attributes(mut self, name: &'static str) -> Result<Vec<Attribute<'a>>, ItemError> {
        let mut all = match self.take(name) {
            Some(raw) => Fields::read(raw).map_err(|e| ItemError::Field { field: name, reason: e.to_string() })?.0,
            None => Vec::new(),
        };
        all.extend(self.0);
        Ok(all.into_iter().map(|(key, raw)| Attribute { key, value: json_value(raw) }).collect())
    }
}

fn read_run<'a>(
    raw: &'a RawValue,
    (sdk, sdk_version): &(Cow<'a, str>, Cow<'a, str>),
) -> Result<(Run<'a>, Vec<&'a RawValue>), ItemError> {
    let mut fields = Fields::read(raw)?;
    let run_id = Fields::required(fields.parse::<Uuid>("run_id")?, "run_id")?;
    let parent_run_id = fields.parse::<Uuid>("parent_run_id")?.unwrap_or_default();
    let name = Fields::required(fields.parse::<Cow<'a, str>>("name")?, "name")?;
    let start_time = Fields::required(fields.time("start_time")?, "start_time")?;
    let end_time = fields.time("end_time")?.unwrap_or_default();
    let status = fields.status()?;
    let own_sdk = fields.text("sdk")?;
    let spans = fields.parse("spans")?.unwrap_or_default();
    let llm = fields.llm()?;
    let run = Run {
        run_id,
        trace_id: if parent_run_id.is_nil() { run_id } else { Uuid::nil() },
        parent_run_id,
        op: if end_time == 0 { RunOp::Post } else { RunOp::Patch },
        name,
        // The origin's default: a run without a status is one that ended well, unless it has not ended.
        status: Some(status.unwrap_or(if end_time == 0 { Status::Running } else { Status::Ok })),
        start_time,
        end_time,
        sdk: if own_sdk.is_empty() { sdk.clone() } else { own_sdk },
        sdk_version: sdk_version.clone(),
        llm,
        attributes: fields.attributes("metadata")?,
        ..Run::default()
    };
    Ok((run, spans))
}

fn read_span<'a>(raw: &'a RawValue, run_id: Option<Uuid>) -> Result<Span<'a>, ItemError> {
    let mut fields = Fields::read(raw)?;
    let own_run_id = fields.parse::<Uuid>("run_id")?;
    let end_time = fields.time("end_time")?.unwrap_or_default();
    Ok(Span {
        run_id: Fields::required(own_run_id.or(run_id), "run_id")?,
        span_id: Fields::required(fields.parse::<Uuid>("span_id")?, "span_id")?,
        parent_span_id: fields.parse::<Uuid>("parent_span_id")?.unwrap_or_default(),
        name: Fields::required(fields.parse::<Cow<'a, str>>("name")?, "name")?,
        start_time: Fields::required(fields.time("start_time")?, "start_time")?,
        end_time,
        status: fields.status()?.unwrap_or(if end_time == 0 { Status::Running } else { Status::Ok }),
        llm: fields.llm()?,
        attributes: fields.attributes("attributes")?,
        ..Span::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use schema::model::Value;

    fn decoded(body: &str) -> crate::batch::Counts {
        Batch::with(|batch| {
            decode(body.as_bytes(), ProjectId(Uuid::nil()), batch).unwrap();
            batch.counts()
        })
    }

    const RUN: &str = r#""run_id":"0190b7a4-0000-7000-8000-000000000001","name":"n","kind":"llm","start_time":"2026-01-02T03:04:05.123456789Z""#;

    #[test]
    fn a_bad_item_is_set_aside_alone_and_named() {
        let body = format!(
            r#"{{"runs":[{{{RUN}}},{{"name":"x"}},7,{{{RUN},"end_time":"yesterday"}}],
               "spans":[{{"span_id":"0190b7a4-0000-7000-8000-000000000002","name":"s"}}]}}"#
        );
        let counts = decoded(&body);
        assert_eq!((counts.runs, counts.spans, counts.set_aside), (1, 0, 4));
        let told: Vec<_> = counts.reasons.iter().map(|r| format!("{} {}", r.item, r.error)).collect();
        assert_eq!(told[0], "runs[1] `run_id` is missing");
        assert!(told[1].starts_with("runs[2] not a JSON object"), "{}", told[1]);
        assert!(told[2].starts_with("runs[3] 0190b7a4-0000-7000-8000-000000000001 `end_time`"), "{}", told[2]);
        assert_eq!(told[3], "spans[0] 0190b7a4-0000-7000-8000-000000000002 `run_id` is missing");
    }

    #[test]
    fn spans_of_a_bad_run_are_stored_or_named() {
        let span = r#"{"span_id":"0190b7a4-0000-7000-8000-000000000002","name":"s","kind":"tool","start_time":"2026-01-02T03:04:05Z"}"#;
        let bad_run = r#""name":"no start time","kind":"llm""#;
        let id = r#""run_id":"0190b7a4-0000-7000-8000-000000000001""#;
        let counts = decoded(&format!(r#"{{"runs":[{{{bad_run},{id},"spans":[{span}]}}]}}"#));
        assert_eq!((counts.runs, counts.spans, counts.set_aside), (0, 1, 1));
        let counts = decoded(&format!(r#"{{"runs":[{{{bad_run},"spans":[{span}]}}]}}"#));
        assert_eq!((counts.runs, counts.spans, counts.set_aside), (0, 0, 2));
    }

    #[test]
    fn unknown_fields_become_attributes_with_their_types() {
        let raw = format!(
            r#"{{{RUN},"inputs":{{"q": 1}},"outputs":"plain","cost_usd":0.25,"tags":["a"],
                "metadata":{{"k":"v","n":1.5}},"end_user_id":"u","big":123456789012345678901}}"#
        );
        let raw: &RawValue = serde_json::from_str(&raw).unwrap();
        let (run, _) = read_run(raw, &Default::default()).unwrap();
        assert_eq!((&*run.llm.inputs, &*run.llm.outputs), (r#"{"q": 1}"#, "plain"));
        assert_eq!(run.start_time, 1_767_323_045_123_456_789);
        assert_eq!((run.op, run.status, run.llm.cost_usd_e8), (RunOp::Post, Some(Status::Running), Some(25_000_000)));
        let attributes: Vec<_> = run.attributes.iter().map(|a| (&*a.key, a.value.clone())).collect();
        assert_eq!(
            attributes,
            [
                ("k", Value::Str("v".into())),
                ("n", Value::Double(1.5)),
                ("end_user_id", Value::Str("u".into())),
                ("big", Value::Str("123456789012345678901".into())),
            ]
        );
    }
}
