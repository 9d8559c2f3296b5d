//! Compares the hand-written protobuf decoder with `prost`: on generated requests both read the same spans, and on
//! broken requests they agree on what is broken. The rules for values that cannot be read (`docs/reference/limits.md`)
//! are written here a second time, based on what prost has decoded.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod values;

use model::trace::{Attribute, Event, Link, Origin, Span, Status, Value, span_uuid};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as Proto, Status as ProtoStatus, span};
use otlp::{Sink, SpanError, decode_protobuf};
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use uuid::Uuid;

/// Keeps copies of the spans of a decoder.
#[derive(Default, Debug, PartialEq)]
struct Found {
    spans: Vec<(String, String)>,
    rejected: usize,
    reasons: Vec<String>,
}

impl<'a> Sink<'a> for Found {
    fn origin(&mut self) {}

    fn span(&mut self, origin: &Origin<'a>, span: &mut Span<'a>) {
        self.spans.push((format!("{origin:?}"), format!("{span:?}")));
    }

    fn reject(&mut self, _: &Span<'a>, error: SpanError) {
        self.rejected += 1;
        self.reasons.push(error.to_string());
    }
}

fn walked(bytes: &[u8]) -> Result<Found, String> {
    let mut found = Found::default();
    decode_protobuf(bytes, &mut found).map(|()| found).map_err(|e| e.to_string())
}

/// What our decoder must find, computed from what prost decoded.
fn expected(request: &ExportTraceServiceRequest) -> Found {
    let mut found = Found::default();
    for rs in &request.resource_spans {
        let attributes = rs.resource.iter().flat_map(|r| &r.attributes);
        for ss in &rs.scope_spans {
            let scope = ss.scope.clone().unwrap_or_default();
            let resource_attributes = last_of_each(attributes.clone().map(attribute).collect());
            let service = resource_attributes.iter().find(|a| a.key == "service.name").map(|a| match &a.value {
                Value::Str(text) | Value::Array(text) | Value::Map(text) => text.to_string().into(),
                Value::Int(n) => n.to_string().into(),
                Value::Bool(b) => b.to_string().into(),
                Value::Double(n) => n.to_string().into(),
                Value::Empty | Value::Bytes(_) => "".into(),
            });
            let origin = Origin {
                service_name: service.unwrap_or_default(),
                resource_attributes,
                resource_schema_url: rs.schema_url.as_str().into(),
                scope_name: scope.name.into(),
                scope_version: scope.version.into(),
                scope_attributes: last_of_each(scope.attributes.iter().map(attribute).map(owned).collect()),
                scope_schema_url: ss.schema_url.as_str().into(),
            };
            for span in &ss.spans {
                match model(span) {
                    Some(span) => found.spans.push((format!("{origin:?}"), format!("{span:?}"))),
                    None => found.rejected += 1,
                }
            }
        }
    }
    found
}

/// Each key once, with its last value, at its first place.
fn last_of_each(attributes: Vec<Attribute<'_>>) -> Vec<Attribute<'_>> {
    let mut kept: Vec<Attribute<'_>> = Vec::new();
    for attribute in attributes {
        match kept.iter_mut().find(|known| known.key == attribute.key) {
            Some(known) => *known = attribute,
            None => kept.push(attribute),
        }
    }
    kept
}

/// The values that no column can take, in the order of the fields. They follow the client's own attributes.
#[derive(Default)]
struct Kept(Vec<Attribute<'static>>);

impl Kept {
    fn keep(&mut self, field: &str, value: Value<'static>) {
        self.0.push(Attribute { key: format!("otlp.{field}").into(), value });
    }

    fn id<T: Default>(&mut self, field: &str, bytes: &[u8], read: impl Fn(&[u8]) -> Option<T>) -> T {
        // An empty id is not in the bytes at all, so it counts as missing and not as one of the wrong length.
        if bytes.is_empty() {
            return T::default();
        }
        read(bytes).unwrap_or_else(|| {
            self.keep(field, Value::Bytes(bytes.to_vec().into()));
            T::default()
        })
    }

    fn time(&mut self, field: &str, nanos: u64) -> i64 {
        i64::try_from(nanos).unwrap_or_else(|_| {
            self.keep(field, Value::Str(nanos.to_string().into()));
            i64::MAX
        })
    }

    fn choice(&mut self, field: &str, found: i32, max: i32) -> u8 {
        if (0..=max).contains(&found) {
            return found as u8;
        }
        self.keep(field, Value::Int(found.into()));
        0
    }

    fn status(&mut self, code: i32) -> Status {
        match self.choice("status.code", code, 2) {
            2 => return Status::Error,
            1 => self.0.push(Attribute { key: "tracebility.status_code".into(), value: Value::Str("ok".into()) }),
            _ => {}
        }
        Status::Ok
    }

    fn after<'a>(self, attributes: &'a [KeyValue]) -> Vec<Attribute<'a>> {
        attributes.iter().map(attribute).chain(self.0).collect()
    }
}

fn owned(a: Attribute<'_>) -> Attribute<'static> {
    let value = match a.value {
        Value::Empty => Value::Empty,
        Value::Str(t) => Value::Str(t.into_owned().into()),
        Value::Bool(b) => Value::Bool(b),
        Value::Int(n) => Value::Int(n),
        Value::Double(n) => Value::Double(n),
        Value::Bytes(b) => Value::Bytes(b.into_owned().into()),
        Value::Array(t) => Value::Array(t.into_owned().into()),
        Value::Map(t) => Value::Map(t.into_owned().into()),
    };
    Attribute { key: a.key.into_owned().into(), value }
}

fn model(p: &Proto) -> Option<Span<'_>> {
    let id = |bytes: &[u8]| bytes.try_into().ok().map(span_uuid);
    let trace_id = |bytes: &[u8]| Uuid::from_slice(bytes).ok();
    let status = p.status.clone().unwrap_or_default();
    let mut kept = Kept::default();
    let span = Span {
        run_id: trace_id(&p.trace_id)?,
        span_id: id(&p.span_id)?,
        parent_span_id: kept.id("parentSpanId", &p.parent_span_id, id),
        name: p.name.as_str().into(),
        span_kind: kept.choice("kind", p.kind, 5),
        start_time: kept.time("startTimeUnixNano", p.start_time_unix_nano),
        end_time: kept.time("endTimeUnixNano", p.end_time_unix_nano),
        status: kept.status(status.code),
        status_message: status.message.into(),
        trace_state: p.trace_state.as_str().into(),
        flags: p.flags,
        events: p
            .events
            .iter()
            .map(|e| {
                let mut kept = Kept::default();
                Event {
                    time: kept.time("timeUnixNano", e.time_unix_nano),
                    name: e.name.as_str().into(),
                    attributes: kept.after(&e.attributes),
                    dropped_attributes: e.dropped_attributes_count,
                }
            })
            .collect(),
        links: p
            .links
            .iter()
            .map(|l| {
                let mut kept = Kept::default();
                Link {
                    trace_id: kept.id("traceId", &l.trace_id, trace_id),
                    span_id: kept.id("spanId", &l.span_id, id),
                    trace_state: l.trace_state.as_str().into(),
                    attributes: kept.after(&l.attributes),
                    dropped_attributes: l.dropped_attributes_count,
                    flags: l.flags,
                }
            })
            .collect(),
        dropped_attributes: p.dropped_attributes_count,
        dropped_events: p.dropped_events_count,
        dropped_links: p.dropped_links_count,
        ..Span::default()
    };
    let span = Span { attributes: kept.after(&p.attributes), ..span };
    (!span.run_id.is_nil() && !span.span_id.is_nil()).then_some(span)
}

fn attribute(pair: &KeyValue) -> Attribute<'_> {
    let value = match pair.value.as_ref().and_then(|v| v.value.as_ref()) {
        None => Value::Empty,
        Some(Any::StringValue(t)) => Value::Str(t.as_str().into()),
        Some(Any::BoolValue(b)) => Value::Bool(*b),
        Some(Any::IntValue(n)) => Value::Int(*n),
        Some(Any::DoubleValue(n)) => Value::Double(*n),
        Some(Any::BytesValue(b)) => Value::Bytes(b.as_slice().into()),
        Some(Any::ArrayValue(a)) => Value::Array(json(&Any::ArrayValue(a.clone())).into()),
        Some(Any::KvlistValue(m)) => Value::Map(json(&Any::KvlistValue(m.clone())).into()),
        Some(_) => Value::Empty,
    };
    Attribute { key: pair.key.as_str().into(), value }
}

fn json(value: &Any) -> String {
    let nested = |v: &Option<AnyValue>| v.as_ref().and_then(|v| v.value.as_ref()).map_or("null".to_owned(), json);
    match value {
        Any::ArrayValue(a) => {
            let items: Vec<_> = a.values.iter().map(|v| nested(&Some(v.clone()))).collect();
            format!("[{}]", items.join(","))
        }
        Any::KvlistValue(m) => {
            let mut pairs: Vec<(&str, String)> = Vec::new();
            for pair in &m.values {
                match pairs.iter_mut().find(|(key, _)| *key == pair.key) {
                    Some((_, value)) => *value = nested(&pair.value),
                    None => pairs.push((&pair.key, nested(&pair.value))),
                }
            }
            let pairs = pairs.iter().map(|(key, value)| format!("{}:{value}", serde_json::to_string(key).unwrap()));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
        }
        Any::StringValue(t) => serde_json::to_string(t).unwrap(),
        Any::BoolValue(b) => b.to_string(),
        Any::IntValue(n) => n.to_string(),
        Any::DoubleValue(n) if n.is_nan() => "\"NaN\"".into(),
        Any::DoubleValue(n) if n.is_infinite() => if *n > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" }.into(),
        Any::DoubleValue(n) => ryu::Buffer::new().format(*n).to_owned(),
        Any::BytesValue(b) => {
            use base64::Engine;
            format!("\"{}\"", base64::engine::general_purpose::STANDARD.encode(b))
        }
        _ => "null".into(),
    }
}

/// Makes random requests that use everything in OTLP, some of it wrongly.
struct Maker(StdRng);

impl Maker {
    fn some(&mut self, most: usize) -> usize {
        self.0.random_range(0..=most)
    }

    fn text(&mut self) -> String {
        const PIECES: [&str; 8] =
            ["a", "service.name", "é", "漢", "😀", "\"", "\n\u{0}", "long enough for two bytes of length "];
        let n = self.some(4);
        (0..n).map(|_| PIECES[self.some(7)]).collect::<String>().repeat(if self.some(9) == 0 { 9 } else { 1 })
    }

    fn bytes(&mut self, usual: usize) -> Vec<u8> {
        let n = if self.some(30) == 0 { self.some(20) } else { usual };
        (0..n).map(|_| self.0.random()).collect()
    }

    /// A time, which is seldom after the year 2262.
    fn time(&mut self) -> u64 {
        let nanos: u64 = self.0.random();
        if self.some(9) == 0 { nanos } else { nanos >> 1 }
    }

    fn value(&mut self, depth: u8) -> Option<AnyValue> {
        let value = match self.some(if depth == 0 { 5 } else { 7 }) {
            0 => return None,
            1 => Any::StringValue(self.text()),
            2 => Any::BoolValue(self.0.random()),
            3 => Any::IntValue(self.0.random()),
            4 => Any::DoubleValue([0.5, -0.0, f64::INFINITY, f64::NEG_INFINITY, 1e300][self.some(4)]),
            5 => Any::BytesValue(self.bytes(5)),
            6 => {
                let n = self.some(3);
                Any::ArrayValue(ArrayValue {
                    values: (0..n).map(|_| self.value(depth - 1).unwrap_or_default()).collect(),
                })
            }
            _ => Any::KvlistValue(KeyValueList { values: self.pairs(depth - 1) }),
        };
        Some(AnyValue { value: Some(value) })
    }

    fn pairs(&mut self, depth: u8) -> Vec<KeyValue> {
        let n = self.some(3);
        (0..n).map(|_| KeyValue { key: self.text(), value: self.value(depth), ..Default::default() }).collect()
    }

    fn span(&mut self) -> Proto {
        let (events, links) = (self.some(2), self.some(2));
        Proto {
            trace_id: self.bytes(16),
            span_id: self.bytes(8),
            trace_state: self.text(),
            parent_span_id: if self.some(2) == 0 { vec![] } else { self.bytes(8) },
            flags: self.0.random(),
            name: self.text(),
            kind: self.0.random_range(-1..8),
            start_time_unix_nano: self.time(),
            end_time_unix_nano: self.time(),
            attributes: self.pairs(3),
            dropped_attributes_count: self.0.random(),
            events: (0..events)
                .map(|_| span::Event {
                    time_unix_nano: self.time(),
                    name: self.text(),
                    attributes: self.pairs(1),
                    dropped_attributes_count: self.0.random(),
                })
                .collect(),
            dropped_events_count: self.0.random(),
            links: (0..links)
                .map(|_| span::Link {
                    trace_id: self.bytes(16),
                    span_id: self.bytes(8),
                    trace_state: self.text(),
                    attributes: self.pairs(1),
                    dropped_attributes_count: self.0.random(),
                    flags: self.0.random(),
                })
                .collect(),
            dropped_links_count: self.0.random(),
            status: (self.some(2) > 0).then(|| ProtoStatus { message: self.text(), code: self.0.random_range(-1..4) }),
        }
    }

    fn request(&mut self) -> ExportTraceServiceRequest {
        let resources = self.some(3);
        let mut request = ExportTraceServiceRequest::default();
        for _ in 0..resources {
            let scopes = self.some(2);
            let mut rs = ResourceSpans { schema_url: self.text(), ..Default::default() };
            rs.resource = (self.some(3) > 0).then(|| Resource { attributes: self.pairs(2), ..Default::default() });
            for _ in 0..scopes {
                let spans = self.some(4);
                let scope = InstrumentationScope {
                    name: self.text(),
                    version: self.text(),
                    attributes: self.pairs(1),
                    ..Default::default()
                };
                rs.scope_spans.push(ScopeSpans {
                    scope: (self.some(3) > 0).then_some(scope),
                    spans: (0..spans).map(|_| self.span()).collect(),
                    schema_url: self.text(),
                });
            }
            request.resource_spans.push(rs);
        }
        request
    }
}

/// Compares span by span, because a whole request would be a page of output.
fn same(found: &Found, expected: &Found, request: usize) {
    for (i, (found, expected)) in found.spans.iter().zip(&expected.spans).enumerate() {
        assert_eq!(found, expected, "request {request}, span {i}");
    }
    let counts = |f: &Found| (f.spans.len(), f.rejected);
    assert_eq!(counts(found), counts(expected), "request {request}: spans and rejected spans");
}

#[test]
fn generated_requests_are_read_alike() {
    let mut maker = Maker(StdRng::seed_from_u64(11));
    let (mut spans, mut rejected) = (0, 0);
    for i in 0..600 {
        let request = maker.request();
        let found = walked(&request.encode_to_vec()).unwrap();
        same(&found, &expected(&request), i);
        spans += found.spans.len();
        rejected += found.rejected;
    }
    assert!(spans > 1_000 && rejected > 20, "the generator makes too little: {spans} spans, {rejected} bad ones");
}

#[test]
fn broken_requests_are_refused_alike() {
    let mut maker = Maker(StdRng::seed_from_u64(12));
    let (mut both_refused, mut both_read) = (0, 0);
    for _ in 0..400 {
        let mut bytes = maker.request().encode_to_vec();
        if bytes.is_empty() {
            continue;
        }
        let at = maker.some(bytes.len() - 1);
        if maker.some(1) == 0 {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 1 << maker.some(7);
        }
        match (ExportTraceServiceRequest::decode(&bytes[..]), walked(&bytes)) {
            (Ok(request), Ok(found)) => {
                both_read += 1;
                same(&found, &expected(&request), 0);
            }
            (Err(_), Err(_)) => both_refused += 1,
            // A flipped bit that makes a text invalid costs us that character; prost refuses the request.
            (Err(error), Ok(_)) => {
                let error = error.to_string();
                assert!(error.contains("UTF-8") || unread_field(&error), "only prost refuses: {error}");
            }
            // OTLP has no groups; prost skips them.
            (Ok(_), Err(error)) => {
                assert!(error.contains("group") || error.contains("field number"), "only we refuse: {error}")
            }
        }
    }
    assert!(both_refused > 50 && both_read > 50, "the breaker is one-sided: {both_refused} refused, {both_read} read");
}

/// Whether prost failed at a field that our decoder does not read.
fn unread_field(error: &str) -> bool {
    ["dropped_attributes_count", "entity_refs", "key_strindex", "Entity"].iter().any(|field| error.contains(field))
}
