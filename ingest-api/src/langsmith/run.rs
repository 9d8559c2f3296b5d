//! Decodes one run object of LangSmith, a whole run or a patch, into a row of `run`.
//!
//! A run is rejected only if it is not a JSON object or has no readable id. Any other field of an unexpected type is
//! kept unchanged as an attribute, because the SDK that sent it neither reads answers nor sends it again.

use std::borrow::Cow;

use model::trace::{Attribute, Kind, Llm, Run, RunOp, Status, Value};
use serde::Deserialize;
use serde_json::value::RawValue;
use translate::batch::Batch;
use translate::fields::{Bounded, Fields, ItemError, NESTING_MAX, json_value, nests_deeper};
use translate::lenient::Document;
use translate::{instant, provider, times};
use uuid::Uuid;
use wire::envelope::Header;
use wire::tables::content_hash;

use super::tree::Parent;
use super::{Op, tree, usage};

/// Prefix of attributes that are not the user's own metadata.
const PREFIX: &str = "langsmith.";
/// Most bytes of one field of a run. SDKs send runs of 26 MB in one piece.
const VALUE_BYTES_MAX: usize = 32 << 20;
/// Most tags of one run. A longer list is kept as an attribute.
const TAGS_MAX: usize = 1_024;

/// Adds the row of a write whose body is one JSON object.
pub(super) fn store(
    op: Op,
    id: Option<Uuid>,
    object: &[u8],
    header: &Header,
    batch: &mut Batch,
) -> Result<(), ItemError> {
    let document = Document::new(object);
    let fields = document.read(Fields::of_text)?;
    Write { op, id, fields, hash: content_hash(object.trim_ascii()), parent: None }.store(header, batch)
}

/// One write of a run as it was sent, before its fields are read.
pub(super) struct Write<'a> {
    pub(super) op: Op,
    /// The id that was sent outside of the object: in the path, or in a part's name.
    pub(super) id: Option<Uuid>,
    pub(super) fields: Fields<'a>,
    /// Hash of everything that was sent, so that a retry is the same row.
    pub(super) hash: u64,
    /// The run in whose `child_runs` this one was; `None` if it was not inside of another.
    pub(super) parent: Option<&'a Parent>,
}

impl<'a> Write<'a> {
    /// Adds the run's row. A field that is too large or too deeply nested is rejected by itself.
    pub(super) fn store(mut self, header: &Header, batch: &mut Batch) -> Result<(), ItemError> {
        let (op, hash, level) = (self.op, self.hash, self.parent.map_or(0, |parent| parent.level));
        let too_much = self.remove_oversized();
        let children = tree::take(&mut self.fields, level);
        let mut run = self.read()?;
        run.attributes.extend(times::of_write(run.start_time, run.end_time, header.received_at));
        batch.push_run(header.project_id, &mut run, hash);
        for (name, raw, reason) in too_much {
            let item = format!("{}.{}.{name}", op.as_str(), run.run_id);
            batch.reject_and_keep(item, reason, raw.get().as_bytes());
        }
        if !children.is_empty() {
            tree::store(&children, &Parent::of(&run, level), op, header, batch);
        }
        Ok(())
    }

    fn remove_oversized(&mut self) -> Vec<(Cow<'a, str>, &'a RawValue, String)> {
        let mut taken = Vec::new();
        self.fields.0.retain(|(name, raw)| {
            let reason = match raw.get() {
                text if text.len() > VALUE_BYTES_MAX => format!("more than {VALUE_BYTES_MAX} bytes (VALUE_BYTES_MAX)"),
                text if nests_deeper(text, NESTING_MAX) => {
                    format!("nested deeper than {NESTING_MAX} levels (NESTING_MAX)")
                }
                _ => return true,
            };
            taken.push((name.clone(), *raw, reason));
            false
        });
        taken
    }

    fn read(self) -> Result<Run<'a>, ItemError> {
        let Self { op, id, mut fields, parent, .. } = self;
        let sent_id = fields.parse::<Uuid>("id");
        let run_id = Fields::required(id.map_or(sent_id, |id| Ok(Some(id)))?, "id")?;
        if run_id.is_nil() {
            return Err(ItemError::Field { field: "id", reason: "all zeros".to_owned() });
        }
        let fields = &mut Lenient { fields, attributes: Vec::new() };
        let mut extra = Extra::take(fields);
        let kind = fields.kind();
        let (start_time, end_time) = (fields.time("start_time"), fields.time("end_time"));
        let (inputs, outputs) = (fields.payload("inputs"), fields.payload("outputs"));
        let error_message = fields.error();
        let mut run = Run {
            run_id,
            trace_id: fields.id("trace_id"),
            parent_run_id: fields.id("parent_run_id"),
            op: match op {
                Op::Patch => RunOp::Patch,
                Op::Post if end_time != 0 => RunOp::Complete,
                Op::Post => RunOp::Post,
            },
            name: fields.text("name"),
            status: match (error_message.is_empty(), end_time, op) {
                (false, ..) => Some(Status::Error),
                (true, 0, Op::Post) => Some(Status::Running),
                (true, 0, Op::Patch) => None,
                _ => Some(Status::Ok),
            },
            start_time,
            end_time,
            dotted_order: fields.text("dotted_order"),
            session_name: fields.session_name(),
            sdk: extra.runtime("sdk"),
            sdk_version: extra.runtime("sdk_version"),
            llm: Llm {
                kind,
                inputs,
                outputs,
                session_id: extra.first_metadata(&["session_id", "thread_id", "conversation_id"]),
                user_id: extra.first_metadata(&["user_id"]),
                tags: fields.tags(),
                error_kind: error_kind(&error_message).to_owned().into(),
                error_message,
                ..Llm::default()
            },
            events: fields.list("events"),
            attributes: Vec::new(),
        };
        if let Some(parent) = parent {
            parent.place(&mut run);
        }
        // A run whose parent or trace cannot be read is not a root.
        let is_placed = ["trace_id", "parent_run_id"].iter().all(|name| !fields.is_kept(name));
        tree::place(op == Op::Post && is_placed, &mut run);
        // Both SDKs copy the usage of an LLM call to every run that returns its result, and the model to the runs
        // below: a sum over all runs would count it several times. So for other kinds it stays in the attributes. A
        // patch alone does not say which kind of run it changes.
        if matches!(kind, Kind::Llm | Kind::Embedding | Kind::Span) {
            extra.describe_model(&mut run.llm, &fields.fields.0);
        }
        run.attributes = extra.into_attributes();
        fields.keep_rest();
        run.attributes.append(&mut fields.attributes);
        Ok(run)
    }
}

/// The class of an error, which `repr` and JavaScript write first, as in `ValueError('no')` and `TypeError: no`.
fn error_kind(message: &str) -> &str {
    let end = message.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.'))).unwrap_or(0);
    let (word, after) = message.split_at(end);
    let is_class = after.starts_with(['(', ':']) && word.starts_with(|c: char| c.is_alphabetic());
    if is_class { word } else { "" }
}

/// `{}`, `[]`, `null` and `""`: placeholders for "not provided".
fn is_placeholder(raw: &str) -> bool {
    let mut chars = raw.chars().filter(|c| !c.is_ascii_whitespace());
    match (chars.next(), chars.next(), chars.next()) {
        (Some('{'), Some('}'), None) | (Some('['), Some(']'), None) | (Some('"'), Some('"'), None) => true,
        _ => raw == "null",
    }
}

/// Fields that are taken if they have the expected type, and otherwise kept as attributes.
struct Lenient<'a> {
    fields: Fields<'a>,
    attributes: Vec<Attribute<'a>>,
}

impl<'a> Lenient<'a> {
    fn take<T>(&mut self, name: &'static str, read: impl FnOnce(&'a RawValue) -> Option<T>) -> Option<T> {
        let raw = self.fields.take(name).filter(|raw| !is_placeholder(raw.get()))?;
        let read = read(raw);
        if read.is_none() {
            self.keep(name, raw);
        }
        read
    }

    fn keep(&mut self, name: &str, raw: &'a RawValue) {
        self.attributes.push(Attribute { key: format!("{PREFIX}{name}").into(), value: json_value(raw) });
    }

    fn is_kept(&self, name: &str) -> bool {
        self.attributes.iter().any(|attribute| attribute.key.strip_prefix(PREFIX) == Some(name))
    }

    fn text(&mut self, name: &'static str) -> Cow<'a, str> {
        self.take(name, scalar).unwrap_or_default()
    }

    /// The name of the LangSmith project. Clients that are not an SDK send it as `project_name`, as the SDKs' own
    /// functions call it.
    fn session_name(&mut self) -> Cow<'a, str> {
        let name = self.text("session_name");
        if name.is_empty() { self.text("project_name") } else { name }
    }

    fn id(&mut self, name: &'static str) -> Uuid {
        self.take(name, |raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
    }

    fn time(&mut self, name: &'static str) -> i64 {
        self.take(name, instant::of_json).unwrap_or_default()
    }

    fn kind(&mut self) -> Kind {
        self.take("run_type", |raw| Kind::parse(&text(raw)?.to_ascii_lowercase())).unwrap_or_default()
    }

    fn tags(&mut self) -> Vec<Cow<'a, str>> {
        let read = |raw: &'a RawValue| {
            let tags = serde_json::from_str::<Bounded<&'a RawValue, TAGS_MAX>>(raw.get()).ok()?;
            tags.0.into_iter().filter(|tag| tag.get() != "null").map(scalar).collect()
        };
        self.take("tags", read).unwrap_or_default()
    }

    /// A list, as JSON as the client wrote it.
    fn list(&mut self, name: &'static str) -> Cow<'a, str> {
        self.take(name, |raw| raw.get().starts_with('[').then(|| raw.get().into())).unwrap_or_default()
    }

    /// The text of the error. A boolean is kept as an attribute, because it does not say what went wrong.
    fn error(&mut self) -> Cow<'a, str> {
        let read = |raw: &'a RawValue| {
            let is_boolean = matches!(raw.get(), "true" | "false");
            (!is_boolean).then(|| text(raw).unwrap_or_else(|| raw.get().into()))
        };
        self.take("error", read).unwrap_or_default()
    }

    /// Any JSON as the client wrote it, except that a string becomes its text.
    fn payload(&mut self, name: &'static str) -> Cow<'a, str> {
        self.take(name, |raw| text(raw).or_else(|| Some(raw.get().into()))).unwrap_or_default()
    }

    /// Keeps all fields that were not taken as attributes.
    fn keep_rest(&mut self) {
        for (name, raw) in std::mem::take(&mut self.fields.0) {
            if !is_placeholder(raw.get()) {
                self.keep(&name, raw);
            }
        }
    }
}

fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str::<Text<'_>>(raw.get()).ok().map(|text| text.0)
}

/// The content of the field `extra`: the user's metadata, the SDK's runtime, and more.
struct Extra<'a> {
    metadata: Vec<(Cow<'a, str>, &'a RawValue)>,
    runtime: Vec<(Cow<'a, str>, &'a RawValue)>,
    others: Vec<(Cow<'a, str>, &'a RawValue)>,
    outputs: Option<&'a RawValue>,
}

impl<'a> Extra<'a> {
    fn take(fields: &mut Lenient<'a>) -> Self {
        let outputs = fields.fields.0.iter().find(|(name, _)| name == "outputs").map(|(_, raw)| *raw);
        let mut extra = fields.take("extra", |raw| Fields::read(raw).ok()).unwrap_or(Fields(Vec::new()));
        let mut members = |name: &str| {
            let raw = extra.take(name)?;
            let members = Fields::read(raw).ok();
            if members.is_none() {
                extra.0.push((Cow::Owned(name.to_owned()), raw));
            }
            members.map(|members| members.0)
        };
        let (metadata, runtime) = (members("metadata").unwrap_or_default(), members("runtime").unwrap_or_default());
        Self { metadata, runtime, others: extra.0, outputs }
    }

    fn runtime(&self, name: &str) -> Cow<'a, str> {
        find(&self.runtime, name).and_then(scalar).unwrap_or_default()
    }

    fn first_metadata(&self, names: &[&str]) -> Cow<'a, str> {
        names.iter().find_map(|name| find(&self.metadata, name).and_then(scalar)).unwrap_or_default()
    }

    /// Fills in model, provider, temperature, tokens and cost. `fields` are the fields of the run that were not taken
    /// yet.
    fn describe_model(&mut self, llm: &mut Llm<'a>, fields: &[(Cow<'a, str>, &'a RawValue)]) {
        let parameters = find(&self.others, "invocation_params").and_then(|raw| Fields::read(raw).ok());
        let parameters = parameters.map(|fields| fields.0).unwrap_or_default();
        let parameter = |name: &str| find(&parameters, name).and_then(scalar).filter(|text| !text.is_empty());
        llm.model = self.first_metadata(&["ls_model_name"]);
        if llm.model.is_empty() {
            llm.model = parameter("model").or_else(|| parameter("model_name")).unwrap_or_default();
        }
        llm.provider = provider::current_name(self.first_metadata(&["ls_provider"]));
        let temperature = Some(self.first_metadata(&["ls_temperature"])).filter(|text| !text.is_empty());
        llm.temperature = temperature.or_else(|| parameter("temperature")).and_then(|text| text.parse().ok());
        usage::of_run(find(&self.metadata, "usage_metadata"), self.outputs, fields).fill(llm);
    }

    fn into_attributes(self) -> Vec<Attribute<'a>> {
        let mut attributes = Vec::with_capacity(self.metadata.len() + self.runtime.len() + self.others.len());
        let named = |key: Cow<'a, str>, raw| Attribute { key, value: json_value(raw) };
        attributes.extend(self.metadata.into_iter().map(|(key, raw)| named(key, raw)));
        let prefixed = |place: &str, key: &str| Cow::Owned(format!("{PREFIX}{place}.{key}"));
        attributes.extend(self.runtime.into_iter().map(|(key, raw)| named(prefixed("runtime", &key), raw)));
        attributes.extend(self.others.into_iter().map(|(key, raw)| named(prefixed("extra", &key), raw)));
        // A null says only that the client has such a key. It is kept, and any other value replaces it.
        attributes.retain(|a| !matches!(&a.value, Value::Map(text) | Value::Array(text) if is_placeholder(text)));
        attributes
    }
}

fn find<'a>(fields: &[(Cow<'a, str>, &'a RawValue)], name: &str) -> Option<&'a RawValue> {
    fields.iter().find(|(key, _)| key == name).map(|(_, raw)| *raw)
}

/// A string, number or boolean as text.
pub(super) fn scalar(raw: &RawValue) -> Option<Cow<'_, str>> {
    match raw.get().as_bytes().first() {
        Some(b'"') => text(raw),
        Some(b'{' | b'[' | b'n') | None => None,
        Some(_) => Some(raw.get().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "01a1fca2-6eb8-7760-82cf-990515cae231";

    fn write(op: Op, json: &str) -> Write<'_> {
        Write { op, id: None, fields: Fields::of_text(json).unwrap(), hash: 0, parent: None }
    }

    fn read(op: Op, json: &str) -> Run<'_> {
        write(op, json).read().unwrap()
    }

    #[test]
    fn a_write_needs_only_a_run_id() {
        let json = format!(r#"{{"id":"{ID}"}}"#);
        let run = read(Op::Patch, &json);
        assert_eq!(
            (run.run_id.to_string().as_str(), run.op, run.status, run.llm.kind),
            (ID, RunOp::Patch, None, Kind::Span)
        );
        for bad in ["{}", r#"{"id":"x"}"#, r#"{"id":null}"#, r#"{"id":"00000000-0000-0000-0000-000000000000"}"#] {
            assert!(write(Op::Post, bad).read().is_err(), "{bad}");
        }
    }

    #[test]
    fn empty_placeholders_count_as_absent_fields() {
        let json = format!(
            r#"{{"id":"{ID}","name":null,"inputs":{{ }},"outputs":{{}},"events":[],"tags":[],"error":null,"extra":{{}},
                "serialized":{{}},"child_runs":[],"session_id":null,"end_time":null}}"#
        );
        assert_eq!(read(Op::Patch, &json), Run { run_id: ID.parse().unwrap(), op: RunOp::Patch, ..Run::default() });
    }

    #[test]
    fn fields_that_are_not_understood_are_kept_as_attributes() {
        let json = format!(
            r#"{{"id":"{ID}","start_time":"soon","run_type":"dance","tags":"a","trace_id":7,"new":{{"a":1}},"events":"none",
                "error":false,"name":["n"],"session_name":"s","project_name":"p","end_time":0,
                "extra":{{"metadata":{{"k":1,"gone":null}},"runtime":{{"sdk":"s"}},"batch_size":2}}}}"#
        );
        let run = read(Op::Post, &json);
        let attributes: Vec<_> = run.attributes.iter().map(|a| (&*a.key, a.value.clone())).collect();
        assert_eq!(
            attributes,
            [
                ("k", Value::Int(1)),
                ("gone", Value::Empty),
                ("langsmith.runtime.sdk", Value::Str("s".into())),
                ("langsmith.extra.batch_size", Value::Int(2)),
                ("langsmith.run_type", Value::Str("dance".into())),
                ("langsmith.start_time", Value::Str("soon".into())),
                ("langsmith.end_time", Value::Int(0)),
                ("langsmith.error", Value::Bool(false)),
                ("langsmith.trace_id", Value::Int(7)),
                ("langsmith.name", Value::Array(r#"["n"]"#.into())),
                ("langsmith.tags", Value::Str("a".into())),
                ("langsmith.events", Value::Str("none".into())),
                ("langsmith.new", Value::Map(r#"{"a":1}"#.into())),
                ("langsmith.project_name", Value::Str("p".into())),
            ]
        );
    }

    #[test]
    fn values_of_the_wrong_type_are_read_when_unambiguous() {
        let json = format!(
            r#"{{"id":"{ID}","name":7,"run_type":"LLM","tags":["a",1,null,true],"start_time":1767323045,"end_time":"1767323046.5",
                "project_name":"p","error":{{"code":1}}}}"#
        );
        let run = read(Op::Post, &json);
        assert_eq!((&*run.name, run.llm.kind, &*run.session_name), ("7", Kind::Llm, "p"));
        assert_eq!(run.llm.tags, ["a", "1", "true"]);
        assert_eq!((run.start_time, run.end_time), (1_767_323_045_000_000_000, 1_767_323_046_500_000_000));
        assert_eq!((run.status, &*run.llm.error_message), (Some(Status::Error), r#"{"code":1}"#));
        assert_eq!((run.op, run.attributes), (RunOp::Complete, vec![]));
    }

    #[test]
    fn a_field_over_its_limits_is_rejected_without_its_run() {
        let deep = format!("{}{}", "[".repeat(NESTING_MAX + 1), "]".repeat(NESTING_MAX + 1));
        let long = "x".repeat(VALUE_BYTES_MAX);
        let json = format!(r#"{{"id":"{ID}","name":"n","inputs":{deep},"outputs":"{long}","error":"no"}}"#);
        let mut write = write(Op::Post, &json);
        let taken = write.remove_oversized();
        let taken: Vec<_> =
            taken.iter().map(|(name, raw, reason)| (&**name, raw.get().len(), reason.as_str())).collect();
        assert_eq!(
            taken,
            [
                ("inputs", deep.len(), "nested deeper than 100 levels (NESTING_MAX)"),
                ("outputs", long.len() + 2, "more than 33554432 bytes (VALUE_BYTES_MAX)"),
            ]
        );
        let run = write.read().unwrap();
        assert_eq!((&*run.name, &*run.llm.inputs, &*run.llm.outputs, &*run.llm.error_message), ("n", "", "", "no"));
    }

    #[test]
    fn tags_over_the_limit_become_an_attribute() {
        let json = |n| format!(r#"{{"id":"{ID}","tags":[{}]}}"#, vec![r#""t""#; n].join(","));
        assert_eq!(read(Op::Post, &json(TAGS_MAX)).llm.tags.len(), TAGS_MAX);
        let json = json(TAGS_MAX + 1);
        let run = read(Op::Post, &json);
        assert_eq!((run.llm.tags.len(), &*run.attributes[0].key), (0, "langsmith.tags"));
    }

    #[test]
    fn trace_and_parent_are_read_from_dotted_order() {
        let parent = "01a1fca2-6ec2-7e04-96a9-2ce0986d145b";
        let json =
            format!(r#"{{"id":"{ID}","dotted_order":"20261121T054426040845Z{parent}.20261121T054426040846Z{ID}"}}"#);
        let run = read(Op::Post, &json);
        assert_eq!((run.trace_id.to_string().as_str(), run.parent_run_id.to_string().as_str()), (parent, parent));
        for odd in ["", ".", "x.y", "é.漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢"] {
            let json = format!(r#"{{"id":"{ID}","dotted_order":"{odd}"}}"#);
            let run = read(Op::Post, &json);
            assert_eq!((run.trace_id.to_string().as_str(), run.parent_run_id), (ID, Uuid::nil()), "{odd}");
            assert_eq!(run.dotted_order, odd);
        }
    }

    #[test]
    fn error_kind_is_the_class_name_of_the_exception() {
        for (message, kind) in [
            ("ValueError('no')\n\nTraceback", "ValueError"),
            ("httpx.ReadTimeout('')", "httpx.ReadTimeout"),
            ("TypeError: no", "TypeError"),
            ("it broke: badly", ""),
            ("", ""),
            ("Error", ""),
        ] {
            assert_eq!(error_kind(message), kind, "{message}");
        }
    }
}
