//! The hand-written protobuf walker against `prost`: on generated requests both read the same spans; on broken ones they
//! agree on what is broken.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use ingest_api::otlp::{Sink, SpanError, decode_json, decode_protobuf};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as Proto, Status as ProtoStatus, span};
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use schema::model::{Attribute, Event, Link, Origin, Span, Status, Value, span_uuid};
use uuid::Uuid;

/// Keeps copies of what a decoder finds.
#[derive(Default, Debug, PartialEq)]
struct Found {
    spans: Vec<(String, String)>,
    set_aside: usize,
}

impl<'a> Sink<'a> for Found {
    fn origin(&mut self) {}

    fn span(&mut self, origin: &Origin<'a>, span: &mut Span<'a>) {
        self.spans.push((format!("{origin:?}"), format!("{span:?}")));
    }

    fn set_aside(&mut self, _: &Span<'a>, _: SpanError) {
        self.set_aside += 1;
    }
}

fn walked(bytes: &[u8]) -> Result<Found, String> {
    let mut found = Found::default();
    decode_protobuf(bytes, &mut found).map(|()| found).map_err(|e| e.to_string())
}

/// What the walker must find, computed from what prost decoded.
fn expected(request: &ExportTraceServiceRequest) -> Found {
    let mut found = Found::default();
    for rs in &request.resource_spans {
        let attributes = rs.resource.iter().flat_map(|r| &r.attributes);
        for ss in &rs.scope_spans {
            let scope = ss.scope.clone().unwrap_or_default();
            let resource_attributes: Vec<_> = attributes.clone().map(attribute).collect();
            let service = resource_attributes.iter().rev().find_map(|a| match &a.value {
                Value::Str(text) if a.key == "service.name" => Some(text.clone()),
                _ => None,
            });
            let origin = Origin {
                service_name: service.unwrap_or_default(),
                resource_attributes,
                resource_schema_url: rs.schema_url.as_str().into(),
                scope_name: scope.name.into(),
                scope_version: scope.version.into(),
                scope_attributes: scope.attributes.iter().map(attribute).map(owned).collect(),
                scope_schema_url: ss.schema_url.as_str().into(),
            };
            for span in &ss.spans {
                match model(span) {
                    Some(span) => found.spans.push((format!("{origin:?}"), format!("{span:?}"))),
                    None => found.set_aside += 1,
                }
            }
        }
    }
    found
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
    let status = p.status.clone().unwrap_or_default();
    let span = Span {
        run_id: Uuid::from_slice(&p.trace_id).ok()?,
        span_id: id(&p.span_id)?,
        parent_span_id: if p.parent_span_id.is_empty() { Uuid::nil() } else { id(&p.parent_span_id)? },
        name: p.name.as_str().into(),
        status: if status.code == 2 { Status::Error } else { Status::Ok },
        status_message: status.message.into(),
        span_kind: u8::try_from(p.kind).unwrap_or_default(),
        start_time: i64::try_from(p.start_time_unix_nano).unwrap_or(i64::MAX),
        end_time: i64::try_from(p.end_time_unix_nano).unwrap_or(i64::MAX),
        trace_state: p.trace_state.as_str().into(),
        flags: p.flags,
        attributes: p.attributes.iter().map(attribute).collect(),
        events: p
            .events
            .iter()
            .map(|e| Event {
                time: i64::try_from(e.time_unix_nano).unwrap_or(i64::MAX),
                name: e.name.as_str().into(),
                attributes: e.attributes.iter().map(attribute).collect(),
                dropped_attributes: e.dropped_attributes_count,
            })
            .collect(),
        links: p
            .links
            .iter()
            .map(|l| {
                // An empty id is not on the wire at all, so it is none rather than one of the wrong length.
                Some(Link {
                    trace_id: if l.trace_id.is_empty() { Uuid::nil() } else { Uuid::from_slice(&l.trace_id).ok()? },
                    span_id: if l.span_id.is_empty() { Uuid::nil() } else { id(&l.span_id)? },
                    trace_state: l.trace_state.as_str().into(),
                    attributes: l.attributes.iter().map(attribute).collect(),
                    dropped_attributes: l.dropped_attributes_count,
                    flags: l.flags,
                })
            })
            .collect::<Option<_>>()?,
        dropped_attributes: p.dropped_attributes_count,
        dropped_events: p.dropped_events_count,
        dropped_links: p.dropped_links_count,
        ..Span::default()
    };
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
            let pairs =
                m.values.iter().map(|p| format!("{}:{}", serde_json::to_string(&p.key).unwrap(), nested(&p.value)));
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

/// Makes requests that use everything OTLP has, some of it wrongly.
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
            kind: self.0.random_range(0..8),
            start_time_unix_nano: self.0.random(),
            end_time_unix_nano: self.0.random(),
            attributes: self.pairs(3),
            dropped_attributes_count: self.0.random(),
            events: (0..events)
                .map(|_| span::Event {
                    time_unix_nano: self.0.random(),
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
            status: (self.some(2) > 0).then(|| ProtoStatus { message: self.text(), code: self.0.random_range(0..4) }),
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

/// Compares span by span: a whole request would be a page.
fn same(found: &Found, expected: &Found, request: usize) {
    for (i, (found, expected)) in found.spans.iter().zip(&expected.spans).enumerate() {
        assert_eq!(found, expected, "request {request}, span {i}");
    }
    let counts = |f: &Found| (f.spans.len(), f.set_aside);
    assert_eq!(counts(found), counts(expected), "request {request}: spans and spans set aside");
}

#[test]
fn generated_requests_are_read_alike() {
    let mut maker = Maker(StdRng::seed_from_u64(11));
    let (mut spans, mut set_aside) = (0, 0);
    for i in 0..600 {
        let request = maker.request();
        let found = walked(&request.encode_to_vec()).unwrap();
        same(&found, &expected(&request), i);
        spans += found.spans.len();
        set_aside += found.set_aside;
    }
    assert!(spans > 1_000 && set_aside > 20, "the generator makes too little: {spans} spans, {set_aside} bad ones");
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
            // A flip that makes text invalid costs us one span, prost the request.
            (Err(error), Ok(found)) => {
                assert!(found.set_aside > 0 || unread_field(&error.to_string()), "only prost refuses: {error}");
            }
            // Groups have no place in OTLP; prost skips them.
            (Ok(_), Err(error)) => {
                assert!(error.contains("group") || error.contains("field number"), "only we refuse: {error}")
            }
        }
    }
    assert!(both_refused > 50 && both_read > 50, "the breaker is one-sided: {both_refused} refused, {both_read} read");
}

/// Whether prost stumbled over a field that the walker has no use for and skips.
fn unread_field(error: &str) -> bool {
    ["dropped_attributes_count", "entity_refs", "key_strindex", "Entity"].iter().any(|field| error.contains(field))
}

#[test]
fn json_is_read_like_protobuf() {
    let body = r#"{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"svc"}}]},
        "scopeSpans":[{"scope":{"name":"s","version":"1"},"spans":[{"traceId":"0102030405060708090A0B0C0D0E0F10",
        "spanId":"0102030405060708","name":"n","kind":"SPAN_KIND_CLIENT","startTimeUnixNano":"5","endTimeUnixNano":6,
        "attributes":[{"key":"i","value":{"intValue":"7"}},{"key":"j","value":{"intValue":8}},
          {"key":"d","value":{"doubleValue":0.5}},{"key":"a","value":{"arrayValue":{"values":[{"intValue":1},{"stringValue":"x"}]}}},
          {"key":"m","value":{"kvlistValue":{"values":[{"key":"k","value":{"boolValue":true}}]}}},
          {"key":"y","value":{"bytesValue":"AAH/"}},{"key":"e","value":{}}],
        "status":{"code":"STATUS_CODE_ERROR","message":"m"},"unknownField":[1,{"x":null}]}]}]}]}"#;
    let value = |v| Some(AnyValue { value: Some(v) });
    let pair = |key: &str, value| KeyValue { key: key.into(), value, ..Default::default() };
    let array =
        ArrayValue { values: vec![value(Any::IntValue(1)).unwrap(), value(Any::StringValue("x".into())).unwrap()] };
    let map = KeyValueList { values: vec![pair("k", value(Any::BoolValue(true)))] };
    let span = Proto {
        trace_id: (1..=16).collect(),
        span_id: (1..=8).collect(),
        name: "n".into(),
        kind: 3,
        start_time_unix_nano: 5,
        end_time_unix_nano: 6,
        attributes: vec![
            pair("i", value(Any::IntValue(7))),
            pair("j", value(Any::IntValue(8))),
            pair("d", value(Any::DoubleValue(0.5))),
            pair("a", value(Any::ArrayValue(array))),
            pair("m", value(Any::KvlistValue(map))),
            pair("y", value(Any::BytesValue(vec![0, 1, 255]))),
            pair("e", None),
        ],
        status: Some(ProtoStatus { message: "m".into(), code: 2 }),
        ..Default::default()
    };
    let service = pair("service.name", value(Any::StringValue("svc".into())));
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes: vec![service], ..Default::default() }),
            scope_spans: vec![ScopeSpans {
                scope: Some(InstrumentationScope { name: "s".into(), version: "1".into(), ..Default::default() }),
                spans: vec![span],
                ..Default::default()
            }],
            ..Default::default()
        }],
    };
    let mut found = Found::default();
    decode_json(body.as_bytes(), &mut found).unwrap();
    assert_eq!(found, walked(&request.encode_to_vec()).unwrap());
}

#[test]
fn nesting_is_bounded() {
    let mut value = AnyValue { value: Some(Any::IntValue(1)) };
    for _ in 0..80 {
        value = AnyValue { value: Some(Any::ArrayValue(ArrayValue { values: vec![value] })) };
    }
    let span = Proto {
        trace_id: vec![1; 16],
        span_id: vec![1; 8],
        attributes: vec![KeyValue { key: "deep".into(), value: Some(value), ..Default::default() }],
        ..Default::default()
    };
    let scope_spans = vec![ScopeSpans { spans: vec![span], ..Default::default() }];
    let request =
        ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans, ..Default::default() }] };
    let found = walked(&request.encode_to_vec()).unwrap();
    assert_eq!((found.spans.len(), found.set_aside), (0, 1));
}

/// A request of one span in both encodings.
fn both(span: &Proto, json_span: &str) -> [Found; 2] {
    let scope_spans = vec![ScopeSpans { spans: vec![span.clone()], ..Default::default() }];
    let request =
        ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans, ..Default::default() }] };
    let ids = r#""traceId":"01010101010101010101010101010101","spanId":"0101010101010101""#;
    let json = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{{ids},{json_span}}}]}}]}}]}}"#);
    let mut found = Found::default();
    decode_json(json.as_bytes(), &mut found).unwrap();
    [walked(&request.encode_to_vec()).unwrap(), found]
}

#[test]
fn what_is_too_much_is_left_out_and_counted() {
    use ingest_api::otlp::limits::{ATTRIBUTES_MAX, EVENTS_MAX, ITEM_ATTRIBUTES_MAX, LINKS_MAX};
    let pair = KeyValue { key: "k".into(), ..Default::default() };
    let event = span::Event { attributes: vec![pair.clone(); ITEM_ATTRIBUTES_MAX + 1], ..Default::default() };
    let link = span::Link { trace_id: vec![1; 16], span_id: vec![1; 8], ..Default::default() };
    let proto = Proto {
        trace_id: vec![1; 16],
        span_id: vec![1; 8],
        attributes: vec![pair; ATTRIBUTES_MAX + 3],
        dropped_attributes_count: 7,
        events: [vec![event], vec![span::Event::default(); EVENTS_MAX]].concat(),
        links: vec![link; LINKS_MAX + 2],
        ..Default::default()
    };
    let list = |item: &str, n: usize| vec![item; n].join(",");
    let json = format!(
        r#""attributes":[{}],"droppedAttributesCount":7,"events":[{{"attributes":[{}]}},{}],"links":[{}]"#,
        list(r#"{"key":"k"}"#, ATTRIBUTES_MAX + 3),
        list(r#"{"key":"k"}"#, ITEM_ATTRIBUTES_MAX + 1),
        list("{}", EVENTS_MAX),
        list(r#"{"traceId":"01010101010101010101010101010101","spanId":"0101010101010101"}"#, LINKS_MAX + 2),
    );
    let [protobuf, json] = both(&proto, &json);
    same(&protobuf, &json, 0);
    let text = &protobuf.spans[0].1;
    for wanted in ["dropped_attributes: 10", "dropped_events: 1", "dropped_links: 2", "dropped_attributes: 1 }"] {
        assert!(text.contains(wanted), "{wanted}");
    }
    assert_eq!(text.matches("key: \"k\"").count(), ATTRIBUTES_MAX + ITEM_ATTRIBUTES_MAX);
}

#[test]
fn a_resource_says_what_was_left_out_of_it() {
    use ingest_api::otlp::limits::{ATTRIBUTES_MAX, DROPPED};
    let pair = KeyValue { key: "k".into(), ..Default::default() };
    let resource = Resource { attributes: vec![pair; ATTRIBUTES_MAX + 5], ..Default::default() };
    let span = Proto { trace_id: vec![1; 16], span_id: vec![1; 8], ..Default::default() };
    let scope_spans = vec![ScopeSpans { spans: vec![span], ..Default::default() }];
    let resource_spans = vec![ResourceSpans { resource: Some(resource), scope_spans, ..Default::default() }];
    let found = walked(&ExportTraceServiceRequest { resource_spans }.encode_to_vec()).unwrap();
    assert!(found.spans[0].0.contains(&format!("key: {DROPPED:?}, value: Int(5)")));
}

#[test]
fn a_span_that_is_none_costs_only_itself_in_json() {
    let good = r#"{"traceId":"01010101010101010101010101010101","spanId":"0101010101010101"}"#;
    let deep = format!("{}{}", r#"{"arrayValue":{"values":["#.repeat(60), "]}}".repeat(60));
    let bad = [
        r#"{"traceId":7}"#.to_owned(),
        r#"{"name":["x"]}"#.to_owned(),
        "null".to_owned(),
        good.replace("}", &format!(r#","attributes":[{{"key":"deep","value":{deep}}}]}}"#)),
        good.replace("}", r#","attributes":{}}"#),
    ];
    for bad in bad {
        let json = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{good},{bad},{good}]}}]}}]}}"#);
        let mut found = Found::default();
        decode_json(json.as_bytes(), &mut found).unwrap();
        assert_eq!((found.spans.len(), found.set_aside), (2, 1), "{bad}");
    }
}
