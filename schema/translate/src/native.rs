//! `POST /v1/runs`: our own batch model, which has runs with nested spans and loose spans, in JSON.
//!
//! `docs/reference/openapi.yaml` describes it, and a test compares this with it. An unknown field is kept as an
//! attribute. A rejected item is named with its path, id and reason; the other items are stored.

use std::borrow::Cow;

use model::ids::ProjectId;
use model::trace::{Attribute, Kind, Llm, Origin, Run, RunOp, Span, Status, UnixNanos, Value};
use serde::Deserialize;
use serde::de::{Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use uuid::Uuid;
use wire::envelope::SECTION_ROWS_MAX;
use wire::tables::content_hash;

use super::batch::{Batch, origin_bytes};
use super::fields::{Bounded, Fields, ItemError, MEMBERS_MAX, json_value};
use super::usage::{SentNumber, USD_LIMIT, Usage};
use super::{instant, times, unique};

/// The only version of the batch model so far.
pub const SCHEMA_VERSION: u32 = 1;
/// Most tags of a run or span.
pub const TAGS_MAX: usize = 1_024;

/// Why a body as a whole cannot be read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum BodyError {
    #[error("not a batch of runs and spans: {0}")]
    Json(#[from] serde_json::Error),
    #[error("`schema_version` {0} is not known; known is {SCHEMA_VERSION}")]
    SchemaVersion(String),
    #[error("not a batch of runs and spans: {0}")]
    Field(ItemError),
}

/// What becomes of a rejected item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRejection {
    /// The answer to the client names it.
    Answer,
    /// It becomes a row of `set_aside`, because no client waits for an answer.
    Keep,
}

type Items<'a> = Bounded<&'a RawValue, { SECTION_ROWS_MAX as usize }>;

struct Body<'a> {
    schema_version: Option<&'a RawValue>,
    sdk: Cow<'a, str>,
    sdk_version: Cow<'a, str>,
    runs: Items<'a>,
    spans: Items<'a>,
    /// All other fields, which apply to every run and span.
    rest: Fields<'a>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Body<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Body<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                #[derive(Deserialize)]
                struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
                let mut body = Body {
                    schema_version: None,
                    sdk: Cow::Borrowed(""),
                    sdk_version: Cow::Borrowed(""),
                    runs: Items::default(),
                    spans: Items::default(),
                    rest: Fields(Vec::new()),
                };
                while let Some(Text(key)) = map.next_key()? {
                    let read = match &*key {
                        "schema_version" => map.next_value().map(|version| body.schema_version = version),
                        "sdk" => map.next_value().map(|sdk: Option<Text<'de>>| body.sdk = text(sdk)),
                        "sdk_version" => map.next_value().map(|sdk: Option<Text<'de>>| body.sdk_version = text(sdk)),
                        "runs" => map.next_value().map(|runs: Option<_>| body.runs = runs.unwrap_or_default()),
                        "spans" => map.next_value().map(|spans: Option<_>| body.spans = spans.unwrap_or_default()),
                        _ if body.rest.0.len() == MEMBERS_MAX => {
                            return Err(A::Error::custom(format_args!("more than {MEMBERS_MAX} members")));
                        }
                        _ => map.next_value().map(|raw| body.rest.0.push((key.clone(), raw))),
                    };
                    read.map_err(|error| A::Error::custom(format_args!("`{key}`: {error}")))?;
                }
                fn text<'a>(text: Option<Text<'a>>) -> Cow<'a, str> {
                    text.map(|text| text.0).unwrap_or_default()
                }
                Ok(body)
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// Decodes a native batch into rows. Fails if the body as a whole is not such a batch.
pub fn decode(
    body: &[u8],
    project: ProjectId,
    received_at: UnixNanos,
    on_rejection: OnRejection,
    batch: &mut Batch,
) -> Result<(), BodyError> {
    let body: Body<'_> = serde_json::from_slice(body)?;
    match body.schema_version.map(RawValue::get) {
        None | Some("null" | "1") => {}
        Some(found) => return Err(BodyError::SchemaVersion(found.to_owned())),
    }
    body.rest.check_nesting().map_err(BodyError::Field)?;
    let shared: Vec<_> = body.rest.0.iter().cloned().map(attribute).collect();
    let mut origin = Origin { resource_attributes: shared.clone(), ..Origin::default() };
    for (key, text) in [("sdk", &body.sdk), ("sdk_version", &body.sdk_version)] {
        if !text.is_empty() {
            let value = Value::Str(text.clone());
            origin.resource_attributes.push(Attribute { key: Cow::Borrowed(key), value });
        }
    }
    unique::keep_last(&mut origin.resource_attributes);
    let shared_bytes = origin_bytes(&origin);
    let mut sink = Sink { project, received_at, shared, origin, same_origin: false, shared_bytes, on_rejection, batch };
    for (i, raw) in body.runs.0.iter().enumerate() {
        let path = format!("runs[{i}]");
        let (run_id, spans) = match read_run(raw, &body) {
            Ok((run, spans)) => {
                let run_id = run.run_id;
                sink.run(run, raw);
                (Some(run_id), spans)
            }
            Err(error) => {
                sink.reject(path.clone(), raw, "run_id", &error);
                nested_spans(raw)
            }
        };
        for (j, raw) in spans.0.into_iter().enumerate() {
            sink.span(raw, format!("{path}.spans[{j}]"), run_id);
        }
    }
    for (i, raw) in body.spans.0.iter().enumerate() {
        sink.span(raw, format!("spans[{i}]"), None);
    }
    Ok(())
}

/// The place where items become rows.
struct Sink<'b, 'a> {
    project: ProjectId,
    received_at: UnixNanos,
    /// The fields of the batch as a whole, as attributes.
    shared: Vec<Attribute<'a>>,
    /// The same as the resource of the batch's spans.
    origin: Origin<'a>,
    same_origin: bool,
    shared_bytes: usize,
    on_rejection: OnRejection,
    batch: &'b mut Batch,
}

impl<'a> Sink<'_, 'a> {
    fn run(&mut self, mut run: Run<'a>, raw: &RawValue) {
        if self.batch.take_origin_bytes(self.shared_bytes) {
            run.attributes.extend(self.shared.iter().cloned());
            run.attributes.extend(times::of_write(run.start_time, run.end_time, self.received_at));
            self.batch.push_run(self.project, &mut run, content_hash(raw.get().as_bytes()));
        }
    }

    fn reject(&mut self, path: String, raw: &RawValue, id: &'static str, error: &ItemError) {
        match self.on_rejection {
            OnRejection::Answer => self.batch.reject_with_id(path, id_of(raw, id), error.to_string()),
            OnRejection::Keep => self.batch.reject_and_keep(path, error.to_string(), raw.get().as_bytes()),
        }
    }

    fn span(&mut self, raw: &RawValue, path: String, run_id: Option<Uuid>) {
        let mut span = match read_span(raw, run_id) {
            Ok(span) => span,
            Err(error) => return self.reject(path, raw, "span_id", &error),
        };
        if self.batch.take_origin_bytes(self.shared_bytes) {
            span.attributes.extend(times::of_write(span.start_time, span.end_time, self.received_at));
            unique::keep_last(&mut span.attributes);
            self.batch.push_span(self.project, &self.origin, self.same_origin, &mut span);
            self.same_origin = true;
        }
    }
}

/// The spans of a rejected run. They can still be stored if the run's id can be read.
fn nested_spans(raw: &RawValue) -> (Option<Uuid>, Items<'_>) {
    let Ok(mut fields) = Fields::read(raw) else { return (None, Items::default()) };
    let run_id = fields.parse("run_id").ok().flatten();
    (run_id, fields.parse("spans").ok().flatten().unwrap_or_default())
}

/// The id of an item, if it can be read.
fn id_of(raw: &RawValue, name: &str) -> Option<String> {
    serde_json::from_str(Fields::read(raw).ok()?.take(name)?.get()).ok()
}

impl<'a> Fields<'a> {
    fn time(&mut self, name: &'static str) -> Result<Option<UnixNanos>, ItemError> {
        let Some(raw) = self.take(name).filter(|raw| raw.get() != "\"\"") else { return Ok(None) };
        let reason = "not a time of ISO 8601 or since 1970, from 1678 to 2262";
        instant::of_json(raw).map(Some).ok_or_else(|| ItemError::unreadable(name, reason, raw.get()))
    }

    /// Takes a number out, with or without quotes.
    fn number(&mut self, name: &'static str) -> Result<Option<f64>, ItemError> {
        let Some(raw) = self.take(name) else { return Ok(None) };
        let number = raw.get().trim_matches('"').trim().parse().ok().filter(|number: &f64| number.is_finite());
        number.map(Some).ok_or_else(|| ItemError::unreadable(name, "not a number", raw.get()))
    }

    fn id(&mut self, name: &'static str) -> Result<Option<Uuid>, ItemError> {
        match self.parse::<Uuid>(name)? {
            Some(id) if id.is_nil() => Err(ItemError::Field { field: name, reason: "all zeros".to_owned() }),
            id => Ok(id),
        }
    }

    /// Takes a number out, or a text that is a number, with its text. JSON has one type of number, so 3.0 is a count
    /// too.
    fn said(&mut self, name: &'static str) -> Result<(SentNumber, &'a str), ItemError> {
        let raw = self.take(name).map_or("null", RawValue::get);
        let value: serde_json::Value = serde_json::from_str(raw).map_err(|e| invalid(name, e.to_string()))?;
        Ok((SentNumber::json(&value), raw))
    }

    fn count(&mut self, name: &'static str) -> Result<Option<u32>, ItemError> {
        let (said, raw) = self.said(name)?;
        said.count().map_err(|_| invalid(name, format!("{} is not a whole number from 0 to {}", shown(raw), u32::MAX)))
    }

    fn usd(&mut self, name: &'static str) -> Result<Option<f64>, ItemError> {
        let (said, raw) = self.said(name)?;
        said.usd().map_err(|_| invalid(name, format!("{} is not a number from 0 to below {USD_LIMIT}", shown(raw))))
    }

    fn llm(&mut self) -> Result<Llm<'a>, ItemError> {
        let kind = Self::required(self.parse::<String>("kind")?, "kind")?;
        let kind = Kind::parse(&kind.to_ascii_lowercase()).ok_or_else(|| ItemError::Field {
            field: "kind",
            reason: format!("{kind:?} is none of {}", Kind::ALL.map(|(_, name)| name).join(", ")),
        })?;
        let (prompt, completion) = (self.count("prompt_tokens")?, self.count("completion_tokens")?);
        let usage = Usage::known(prompt, completion, self.count("total_tokens")?, self.usd("cost_usd")?);
        let tags: Bounded<String, TAGS_MAX> = self.parse("tags")?.unwrap_or_default();
        let mut llm = Llm {
            kind,
            model: self.text("model")?,
            temperature: self.number("temperature")?,
            inputs: self.payload("inputs")?,
            outputs: self.payload("outputs")?,
            session_id: self.text("session_id")?,
            user_id: self.text("user_id")?,
            tags: tags.0.into_iter().map(Cow::Owned).collect(),
            error_kind: self.text("error_kind")?,
            error_message: self.text("error_message")?,
            ..Llm::default()
        };
        usage.fill(&mut llm);
        Ok(llm)
    }

    fn status(&mut self) -> Result<Option<Status>, ItemError> {
        let Some(name) = self.parse::<String>("status")? else { return Ok(None) };
        Status::parse(&name.to_ascii_lowercase()).map(Some).ok_or_else(|| ItemError::Field {
            field: "status",
            reason: format!("{name:?} is none of {}", Status::ALL.map(|(_, name)| name).join(", ")),
        })
    }

    /// The fields that were not taken, and the members of the object `name`, as attributes. The fields in `texts` must
    /// be texts.
    fn attributes(mut self, name: &'static str, texts: &[&'static str]) -> Result<Vec<Attribute<'a>>, ItemError> {
        let mut all = self.object(name)?;
        for name in texts {
            let text = self.text(name)?;
            if !text.is_empty() {
                all.push(Attribute { key: Cow::Borrowed(name), value: Value::Str(text) });
            }
        }
        all.extend(self.0.into_iter().map(attribute));
        Ok(all)
    }

    fn expect_object(&self, name: &'static str) -> Result<(), ItemError> {
        match self.0.iter().find(|(key, _)| key == name).map(|(_, raw)| raw.get()) {
            Some(text) if !text.starts_with('{') && text != "null" => {
                Err(ItemError::Field { field: name, reason: "not a JSON object".to_owned() })
            }
            _ => Ok(()),
        }
    }

    fn object(&mut self, name: &'static str) -> Result<Vec<Attribute<'a>>, ItemError> {
        let Some(raw) = self.take(name) else { return Ok(Vec::new()) };
        let members = Fields::read(raw).map_err(|e| ItemError::Field { field: name, reason: e.to_string() })?;
        Ok(members.0.into_iter().map(attribute).collect())
    }
}

fn invalid(field: &'static str, reason: String) -> ItemError {
    ItemError::Field { field, reason }
}

/// The beginning of a value that the answer quotes.
fn shown(raw: &str) -> &str {
    const BYTES_MAX: usize = 64;
    &raw[..raw.floor_char_boundary(BYTES_MAX)]
}

fn attribute<'a>((key, raw): (Cow<'a, str>, &'a RawValue)) -> Attribute<'a> {
    Attribute { key, value: json_value(raw) }
}

fn read_run<'a>(raw: &'a RawValue, body: &Body<'a>) -> Result<(Run<'a>, Items<'a>), ItemError> {
    let mut fields = Fields::read(raw)?;
    let spans = fields.parse("spans")?.unwrap_or_default();
    fields.check_nesting()?;
    let run_id = Fields::required(fields.id("run_id")?, "run_id")?;
    let parent_run_id = fields.parse::<Uuid>("parent_run_id")?.unwrap_or_default();
    let name = Fields::required(fields.parse::<Cow<'a, str>>("name")?, "name")?;
    let start_time = Fields::required(fields.time("start_time")?, "start_time")?;
    let end_time = fields.time("end_time")?.unwrap_or_default();
    let status = fields.status()?;
    let own_sdk = fields.text("sdk")?;
    let llm = fields.llm()?;
    fields.expect_object("end_user_metadata")?;
    let run = Run {
        run_id,
        trace_id: if parent_run_id.is_nil() { run_id } else { Uuid::nil() },
        parent_run_id,
        op: if end_time == 0 { RunOp::Post } else { RunOp::Complete },
        name,
        // The default of our API: a run without a status has ended well, unless it has no end.
        status: Some(status.unwrap_or(if end_time == 0 { Status::Running } else { Status::Ok })),
        start_time,
        end_time,
        sdk: if own_sdk.is_empty() { body.sdk.clone() } else { own_sdk },
        sdk_version: body.sdk_version.clone(),
        llm,
        attributes: fields.attributes("metadata", &["inputs_obj_ref", "outputs_obj_ref", "end_user_id"])?,
        ..Run::default()
    };
    Ok((run, spans))
}

fn read_span<'a>(raw: &'a RawValue, run_id: Option<Uuid>) -> Result<Span<'a>, ItemError> {
    let mut fields = Fields::read(raw)?;
    fields.check_nesting()?;
    let own_run_id = fields.id("run_id")?;
    let end_time = fields.time("end_time")?.unwrap_or_default();
    Ok(Span {
        run_id: Fields::required(own_run_id.or(run_id), "run_id")?,
        span_id: Fields::required(fields.id("span_id")?, "span_id")?,
        parent_span_id: fields.parse::<Uuid>("parent_span_id")?.unwrap_or_default(),
        name: Fields::required(fields.parse::<Cow<'a, str>>("name")?, "name")?,
        start_time: Fields::required(fields.time("start_time")?, "start_time")?,
        end_time,
        status: fields.status()?.unwrap_or(if end_time == 0 { Status::Running } else { Status::Ok }),
        llm: fields.llm()?,
        attributes: fields.attributes("attributes", &["inputs_obj_ref", "outputs_obj_ref"])?,
        ..Span::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(body: &str) -> crate::batch::Counts {
        Batch::with(|batch| {
            decode(body.as_bytes(), ProjectId(Uuid::nil()), 0, OnRejection::Answer, batch).unwrap();
            batch.counts()
        })
    }

    const RUN: &str = r#""run_id":"0190b7a4-0000-7000-8000-000000000001","name":"n","kind":"llm","start_time":"2026-01-02T03:04:05.123456789Z""#;

    #[test]
    fn a_bad_item_is_rejected_alone_and_named() {
        let body = format!(
            r#"{{"runs":[{{{RUN}}},{{"name":"x"}},7,{{{RUN},"end_time":"yesterday"}}],
               "spans":[{{"span_id":"0190b7a4-0000-7000-8000-000000000002","name":"s"}}]}}"#
        );
        let counts = decoded(&body);
        assert_eq!((counts.runs, counts.spans, counts.rejected), (1, 0, 4));
        let reasons: Vec<_> = counts
            .reasons
            .iter()
            .map(|r| format!("{} {} {}", r.item, r.id.as_deref().unwrap_or("-"), r.error))
            .collect();
        assert_eq!(reasons[0], "runs[1] - `run_id` is missing");
        assert!(reasons[1].starts_with("runs[2] - not a JSON object"), "{}", reasons[1]);
        assert!(reasons[2].starts_with("runs[3] 0190b7a4-0000-7000-8000-000000000001 `end_time`"), "{}", reasons[2]);
        assert_eq!(reasons[3], "spans[0] 0190b7a4-0000-7000-8000-000000000002 `run_id` is missing");
    }

    #[test]
    fn unambiguous_values_are_read_and_others_are_named_with_their_value() {
        let read = |fields: &str| {
            let raw = format!(r#"{{"run_id":"0190b7a4-0000-7000-8000-000000000001","name":"n",{fields}}}"#);
            let run = read_run(serde_json::from_str(&raw).unwrap(), &serde_json::from_str("{}").unwrap());
            run.map(|(run, _)| (run.start_time, run.end_time, run.status, run.llm.tokens.prompt, run.llm.cost_usd_e8))
        };
        let second = 1_767_323_045_000_000_000;
        for times in [
            r#""start_time":1767323045,"end_time":"1767323046000""#,
            r#""start_time":"2026-01-02t03:04:05","end_time":"20260102T040406+0100""#,
        ] {
            let read = read(&format!(r#""kind":"LLM","status":"Ok","prompt_tokens":"12","cost_usd":"0.5",{times}"#));
            assert_eq!(
                read.unwrap(),
                (second, second + 1_000_000_000, Some(Status::Ok), Some(12), Some(50_000_000)),
                "{times}"
            );
        }
        for (fields, named, value) in [
            (r#""start_time":"soon""#, "`start_time`", "\"soon\""),
            (r#""start_time":0"#, "`start_time`", "0"),
            (r#""start_time":1767323045,"end_time":[1]"#, "`end_time`", "[1]"),
            (r#""start_time":1767323045,"prompt_tokens":"many""#, "`prompt_tokens`", "\"many\""),
            (r#""start_time":1767323045,"cost_usd":"NaN""#, "`cost_usd`", "\"NaN\""),
            (r#""start_time":1767323045,"temperature":{}"#, "`temperature`", "{}"),
        ] {
            let error = read(&format!(r#""kind":"llm",{fields}"#)).unwrap_err().to_string();
            assert!(error.starts_with(named) && error.contains(value), "{error}");
        }
    }

    #[test]
    fn spans_of_a_bad_run_are_stored_or_named() {
        let span = r#"{"span_id":"0190b7a4-0000-7000-8000-000000000002","name":"s","kind":"tool","start_time":"2026-01-02T03:04:05Z"}"#;
        let bad_run = r#""name":"no start time","kind":"llm""#;
        let id = r#""run_id":"0190b7a4-0000-7000-8000-000000000001""#;
        let counts = decoded(&format!(r#"{{"runs":[{{{bad_run},{id},"spans":[{span}]}}]}}"#));
        assert_eq!((counts.runs, counts.spans, counts.rejected), (0, 1, 1));
        let counts = decoded(&format!(r#"{{"runs":[{{{bad_run},"spans":[{span}]}}]}}"#));
        assert_eq!((counts.runs, counts.spans, counts.rejected), (0, 0, 2));
    }

    #[test]
    fn unknown_fields_become_attributes_with_their_types() {
        let raw = format!(
            r#"{{{RUN},"inputs":{{"q": 1}},"outputs":"plain","cost_usd":0.25,"tags":["a"],
                "metadata":{{"k":"v","n":1.5}},"end_user_id":"u","big":123456789012345678901}}"#
        );
        let raw: &RawValue = serde_json::from_str(&raw).unwrap();
        let body = serde_json::from_str("{}").unwrap();
        let (run, _) = read_run(raw, &body).unwrap();
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
