//! The same span in both encodings, and values that cannot be read, by the rules in `docs/reference/limits.md`.

use otlp::decode_json;

use super::*;

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

/// A span with one attribute of `levels` nested arrays or maps, in protobuf and in JSON.
fn nested(levels: usize, maps: bool) -> (Proto, String) {
    let mut value = AnyValue { value: Some(Any::IntValue(1)) };
    let mut json = r#"{"intValue":"1"}"#.to_owned();
    for _ in 0..levels {
        let pair = KeyValue { key: "k".into(), value: Some(value.clone()), ..Default::default() };
        (value.value, json) = if maps {
            let values = format!(r#"{{"kvlistValue":{{"values":[{{"key":"k","value":{json}}}]}}}}"#);
            (Some(Any::KvlistValue(KeyValueList { values: vec![pair] })), values)
        } else {
            let values = format!(r#"{{"arrayValue":{{"values":[{json}]}}}}"#);
            (Some(Any::ArrayValue(ArrayValue { values: vec![value.clone()] })), values)
        };
    }
    let span = Proto {
        trace_id: vec![1; 16],
        span_id: vec![1; 8],
        attributes: vec![KeyValue { key: "deep".into(), value: Some(value), ..Default::default() }],
        ..Default::default()
    };
    (span, format!(r#""attributes":[{{"key":"deep","value":{json}}}]"#))
}

#[test]
fn a_too_deep_attribute_is_dropped_alone_in_both_encodings() {
    let max = usize::from(otlp::limits::NESTING_MAX);
    for maps in [false, true] {
        for (levels, dropped) in [(1, 0), (30, 0), (31, 0), (max, 0), (max + 1, 1), (max + 100, 1)] {
            let (proto, json) = nested(levels, maps);
            let [protobuf, json] = both(&proto, &json);
            same(&protobuf, &json, levels);
            assert_eq!((protobuf.spans.len(), protobuf.rejected), (1, 0), "{levels}");
            let text = &protobuf.spans[0].1;
            assert_eq!(text.contains("\"deep\""), dropped == 0, "{levels}: {text}");
            assert!(text.contains(&format!("dropped_attributes: {dropped}")), "{levels}: {text}");
        }
    }
}

/// Decodes a request with one span in both encodings.
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
fn attributes_events_and_links_over_their_limits_are_dropped_and_counted() {
    use otlp::limits::{ATTRIBUTES_MAX, EVENTS_MAX, ITEM_ATTRIBUTES_MAX, LINKS_MAX};
    let pairs = |n: usize| (0..n).map(|i| KeyValue { key: format!("k{i}"), ..Default::default() }).collect::<Vec<_>>();
    let event = span::Event { attributes: pairs(ITEM_ATTRIBUTES_MAX + 1), ..Default::default() };
    let link = span::Link { trace_id: vec![1; 16], span_id: vec![1; 8], ..Default::default() };
    let proto = Proto {
        trace_id: vec![1; 16],
        span_id: vec![1; 8],
        attributes: pairs(ATTRIBUTES_MAX + 3),
        dropped_attributes_count: 7,
        events: [vec![event], vec![span::Event::default(); EVENTS_MAX]].concat(),
        links: vec![link; LINKS_MAX + 2],
        ..Default::default()
    };
    let list = |item: &str, n: usize| vec![item; n].join(",");
    let keys = |n: usize| (0..n).map(|i| format!(r#"{{"key":"k{i}"}}"#)).collect::<Vec<_>>().join(",");
    let json = format!(
        r#""attributes":[{}],"droppedAttributesCount":7,"events":[{{"attributes":[{}]}},{}],"links":[{}]"#,
        keys(ATTRIBUTES_MAX + 3),
        keys(ITEM_ATTRIBUTES_MAX + 1),
        list("{}", EVENTS_MAX),
        list(r#"{"traceId":"01010101010101010101010101010101","spanId":"0101010101010101"}"#, LINKS_MAX + 2),
    );
    let [protobuf, json] = both(&proto, &json);
    same(&protobuf, &json, 0);
    let text = &protobuf.spans[0].1;
    for wanted in ["dropped_attributes: 10", "dropped_events: 1", "dropped_links: 2", "dropped_attributes: 1 }"] {
        assert!(text.contains(wanted), "{wanted}");
    }
    assert_eq!(text.matches("key: \"k").count(), ATTRIBUTES_MAX + ITEM_ATTRIBUTES_MAX);
}

#[test]
fn a_resource_reports_how_many_attributes_were_dropped() {
    use otlp::limits::{ATTRIBUTES_MAX, DROPPED};
    let pairs = (0..ATTRIBUTES_MAX + 5).map(|i| KeyValue { key: i.to_string(), ..Default::default() }).collect();
    let resource = Resource { attributes: pairs, ..Default::default() };
    let span = Proto { trace_id: vec![1; 16], span_id: vec![1; 8], ..Default::default() };
    let scope_spans = vec![ScopeSpans { spans: vec![span], ..Default::default() }];
    let resource_spans = vec![ResourceSpans { resource: Some(resource), scope_spans, ..Default::default() }];
    let found = walked(&ExportTraceServiceRequest { resource_spans }.encode_to_vec()).unwrap();
    assert!(found.spans[0].0.contains(&format!("key: {DROPPED:?}, value: Int(5)")));
}

#[test]
fn an_invalid_json_span_is_rejected_alone() {
    let good = r#"{"traceId":"01010101010101010101010101010101","spanId":"0101010101010101"}"#;
    let bad = [
        r#"{"traceId":7}"#.to_owned(),
        r#"{"name":"x"}"#.to_owned(),
        "null".to_owned(),
        "[]".to_owned(),
        good.replace("0101\"}", "010x\"}"),
        good.replace("}", r#","startTimeUnixNano":"yesterday"}"#),
    ];
    for bad in bad {
        let json = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{good},{bad},{good}]}}]}}]}}"#);
        let mut found = Found::default();
        decode_json(json.as_bytes(), &mut found).unwrap();
        assert_eq!((found.spans.len(), found.rejected), (2, 1), "{bad}");
    }
}

/// What is read from one span that has these members beside its ids.
fn read(members: &str) -> Result<String, Vec<String>> {
    let ids = r#""traceId":"0102030405060708090a0b0c0d0e0f10","spanId":"0102030405060708""#;
    let json = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{{ids},{members}}}]}}]}}]}}"#);
    let mut found = Found::default();
    decode_json(json.as_bytes(), &mut found).unwrap();
    match found.spans.pop() {
        Some((_, span)) if found.rejected == 0 => Ok(span),
        _ => Err(found.reasons),
    }
}

#[test]
fn a_link_or_parent_with_invalid_ids_is_stored_without_them() {
    for (trace_id, span_id, in_json) in [
        (vec![], vec![], "{}"),
        (vec![0; 16], vec![0; 8], r#"{"traceId":"00000000000000000000000000000000","spanId":"0000000000000000"}"#),
        (vec![1; 16], vec![], r#"{"traceId":"01010101010101010101010101010101"}"#),
    ] {
        let proto = Proto {
            trace_id: vec![1; 16],
            span_id: vec![1; 8],
            links: vec![span::Link { trace_id, span_id, ..Default::default() }],
            ..Default::default()
        };
        let [protobuf, json] = both(&proto, &format!(r#""links":[{in_json}]"#));
        assert_eq!((protobuf.spans.len(), protobuf.rejected), (1, 0), "{in_json}");
        same(&protobuf, &json, 0);
    }
    let bad = Proto {
        trace_id: vec![1; 16],
        span_id: vec![1; 8],
        parent_span_id: vec![2; 7],
        links: vec![span::Link { trace_id: vec![3; 4], span_id: vec![4; 9], ..Default::default() }],
        ..Default::default()
    };
    let scope_spans = vec![ScopeSpans { spans: vec![bad], ..Default::default() }];
    let request =
        ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans, ..Default::default() }] };
    let found = walked(&request.encode_to_vec()).unwrap();
    let text = &found.spans[0].1;
    for kept in [
        "otlp.parentSpanId\", value: Bytes([2, 2",
        "otlp.traceId\", value: Bytes([3, 3",
        "otlp.spanId\", value: Bytes([4",
    ] {
        assert!(text.contains(kept), "{kept}: {text}");
    }
    let text = read(r#""parentSpanId":"zz","links":[{"traceId":7,"spanId":"short"},{"spanId":null}]"#).unwrap();
    for kept in
        ["otlp.parentSpanId\", value: Str(\"zz", "otlp.traceId\", value: Int(7)", "otlp.spanId\", value: Str(\"short"]
    {
        assert!(text.contains(kept), "{kept}: {text}");
    }
    assert_eq!(text.matches("Link {").count(), 2, "{text}");
}

#[test]
fn malformed_attributes_events_and_links_are_dropped_and_counted() {
    let text = read(
        r#""attributes":[7,{"key":"a"},null,{"key":["no text"]}],"events":[{"name":"e","attributes":["x"]},[],"event"],
            "links":[true,{"attributes":[{"key":"reason"}]}]"#,
    )
    .unwrap();
    for wanted in [
        "attributes: [Attribute { key: \"a\", value: Empty }]",
        "dropped_attributes: 3, dropped_events: 2, dropped_links: 1",
        "name: \"e\", attributes: [], dropped_attributes: 1",
        "attributes: [Attribute { key: \"reason\", value: Empty }], dropped_attributes: 0",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}

#[test]
fn unreadable_values_are_kept_and_never_silently_defaulted() {
    for (members, wanted) in [
        (r#""endTimeUnixNano":"yesterday""#, r#"otlp.endTimeUnixNano", value: Str("yesterday")"#),
        (r#""endTimeUnixNano":-1"#, r#"otlp.endTimeUnixNano", value: Int(-1)"#),
        (r#""endTimeUnixNano":1.5"#, r#"otlp.endTimeUnixNano", value: Double(1.5)"#),
        (r#""events":[{"timeUnixNano":true}]"#, r#"otlp.timeUnixNano", value: Bool(true)"#),
        (r#""kind":"SPAN_KIND_ROBOT""#, r#"otlp.kind", value: Str("SPAN_KIND_ROBOT")"#),
        (r#""kind":17"#, r#"otlp.kind", value: Int(17)"#),
        (r#""status":{"code":"cancelled"}"#, r#"otlp.status.code", value: Str("cancelled")"#),
        (r#""status":"OK""#, r#"otlp.status", value: Str("OK")"#),
        (r#""status":[2]"#, r#"otlp.status", value: Array("[2]")"#),
        (r#""flags":4294967296"#, r#"otlp.flags", value: Int(4294967296)"#),
        (r#""droppedLinksCount":"few""#, r#"otlp.droppedLinksCount", value: Str("few")"#),
        (r#""name":{"first":"x"}"#, r#"otlp.name", value: Map("{\"first\":\"x\"}")"#),
        (r#""traceState":["a=b"]"#, r#"otlp.traceState", value: Array("[\"a=b\"]")"#),
        (r#""attributes":{"a":1}"#, r#"otlp.attributes", value: Map("{\"a\":1}")"#),
        (r#""events":7"#, r#"otlp.events", value: Int(7)"#),
        (r#""links":{}"#, r#"otlp.links", value: Map("{}")"#),
    ] {
        let text = read(members).unwrap();
        assert!(text.contains(wanted), "{members}: {text}");
    }
    for (members, reason) in [
        (r#""startTimeUnixNano":"yesterday""#, r#"`startTimeUnixNano` cannot be read: "yesterday""#),
        (r#""startTimeUnixNano":-1"#, "`startTimeUnixNano` cannot be read: -1"),
        (r#""startTimeUnixNano":"1e300""#, r#"`startTimeUnixNano` cannot be read: "1e300""#),
        (r#""startTimeUnixNano":{"low":1}"#, r#"`startTimeUnixNano` cannot be read: {"low":1}"#),
        (r#""spanId":"no id""#, r#"`spanId` cannot be read: "no id""#),
        (
            r#""traceId":"0102030405060708090a0b0c0d0e0f1g""#,
            r#"`traceId` cannot be read: "0102030405060708090a0b0c0d0e0f1g""#,
        ),
        (r#""traceId":"00000000000000000000000000000000""#, "trace id is all zeros or missing"),
    ] {
        assert_eq!(read(members).unwrap_err(), [reason], "{members}");
    }
}

#[test]
fn equivalent_forms_are_read() {
    let long = r#"{"low":1948385984,"high":418106000,"unsigned":true}"#;
    for (members, wanted) in [
        (r#""startTimeUnixNano":1.795787485061327e+18"#, "start_time: 1795787485061327104"),
        (&*format!(r#""start_time_unix_nano":{long}"#), "start_time: 1795751598209761984"),
        (r#""startTimeUnixNano":"1795787485061327000","start_time_unix_nano":null"#, "start_time: 1795787485061327000"),
        (r#""startTimeUnixNano":1,"start_time_unix_nano":2"#, "start_time: 2"),
        (r#""name":"first","name":"last","name":null"#, r#"name: "last""#),
        (r#""kind":"SPAN_KIND_SERVER""#, "span_kind: 2"),
        (r#""kind":"5""#, "span_kind: 5"),
        (r#""status":{"code":"STATUS_CODE_OK"}"#, r#"tracebility.status_code", value: Str("ok")"#),
        (r#""status":{"code":0}"#, "status: Ok, status_message: \"\""),
        (r#""status":{"code":"error","message":null}"#, "status: Error, status_message: \"\""),
        (r#""status":null"#, "attributes: []"),
        (r#""name":7"#, r#"name: "7""#),
        (r#""flags":"257""#, "flags: 257"),
        (r#""parentSpanId":"AAECAwQFBgc=""#, "parent_span_id: 00000000-0000-0000-0001-020304050607"),
        (r#""traceId":"AQIDBAUGBwgJCgsMDQ4PEA==""#, "run_id: 01020304-0506-0708-090a-0b0c0d0e0f10"),
        (r#""traceId":"0102030405060708090A0B0C0D0E0F10""#, "run_id: 01020304-0506-0708-090a-0b0c0d0e0f10"),
        (r#""events":null,"links":null,"attributes":null,"parentSpanId":null"#, "dropped_links: 0"),
    ] {
        let text = read(members).unwrap();
        assert!(text.contains(wanted), "{members}: {text}");
        assert!(!text.contains("otlp."), "{members}: {text}");
    }
}

#[test]
fn a_malformed_resource_or_scope_does_not_cost_its_spans() {
    let span = r#"{"traceId":"01010101010101010101010101010101","spanId":"0101010101010101"}"#;
    let scope_spans = format!(r#""scopeSpans":[{{"spans":[{span}]}}]"#);
    let read = |json: String| {
        let mut found = Found::default();
        decode_json(json.as_bytes(), &mut found).unwrap();
        (found.spans.into_iter().map(|(origin, _)| origin).collect::<Vec<_>>(), found.reasons)
    };
    for (resource, wanted) in [
        (r#""resource":7"#, r#"otlp.resource", value: Int(7)"#),
        (r#""resource":{"attributes":{"a":1}}"#, r#"otlp.attributes", value: Map("{\"a\":1}")"#),
        (r#""resource":{"attributes":[7]}"#, r#"tracebility.dropped_attributes", value: Int(1)"#),
        (r#""schemaUrl":{}"#, r#"otlp.schemaUrl", value: Map("{}")"#),
        (r#""resource":{"attributes":[{"key":"service.name","value":{"intValue":7}}]}"#, r#"service_name: "7""#),
        (
            r#""resource":{"attributes":[{"key":"service.name","value":{"arrayValue":{"values":[{"stringValue":"a"}]}}}]}"#,
            r#"service_name: "[\"a\"]""#,
        ),
        (
            r#""resource":{"attributes":[{"key":"service.name","value":{"stringValue":"old"}},
                {"key":"service.name","value":{"stringValue":"new"}}]}"#,
            r#"service_name: "new", resource_attributes: [Attribute { key: "service.name", value: Str("new") }]"#,
        ),
    ] {
        let (origins, reasons) = read(format!(r#"{{"resourceSpans":[{{{resource},{scope_spans}}}]}}"#));
        assert!(origins.len() == 1 && reasons.is_empty(), "{resource}: {reasons:?}");
        assert!(origins[0].contains(wanted), "{wanted}: {}", origins[0]);
    }
    for (scope, wanted) in [
        (r#""scope":"x""#, r#"otlp.scope", value: Str("x")"#),
        (r#""scope":{"name":[],"version":2}"#, r#"scope_name: "", scope_version: "2""#),
        (r#""scope":{"name":[],"version":2}"#, r#"otlp.name", value: Array("[]")"#),
    ] {
        let (origins, _) = read(format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{{scope},"spans":[{span}]}}]}}]}}"#));
        assert!(origins[0].contains(wanted), "{wanted}: {}", origins[0]);
    }
    // A value that should have contained spans counts as one rejected item; its neighbours are stored.
    for (bad, name) in [
        (r#"7"#, "resourceSpans"),
        (r#"null"#, "resourceSpans"),
        (r#"{"scopeSpans":{}}"#, "scopeSpans"),
        (r#"{"scopeSpans":[[]]}"#, "scopeSpans"),
        (r#"{"scopeSpans":[{"spans":"many"}]}"#, "spans"),
    ] {
        let (origins, reasons) = read(format!(r#"{{"resourceSpans":[{bad},{{{scope_spans}}}]}}"#));
        assert_eq!((origins.len(), reasons.len()), (1, 1), "{bad}");
        assert!(reasons[0].contains(&format!("`{name}`")), "{bad}: {}", reasons[0]);
    }
    for nothing in ["{}", r#"{"resourceSpans":null}"#, r#"{"resourceSpans":[{"scopeSpans":null},{"resource":null}]}"#] {
        assert_eq!(read(nothing.to_owned()), (vec![], vec![]), "{nothing}");
    }
    for refused in ["[]", "7", r#"{"resourceSpans":{}}"#, r#"{"resourceSpans":"x"}"#, "{"] {
        assert!(decode_json(refused.as_bytes(), &mut Found::default()).is_err(), "{refused}");
    }
}

#[test]
fn invalid_utf_8_is_repaired_in_every_text() {
    let text = |at: &str| format!("{at}#");
    let pair = || KeyValue {
        key: text("key"),
        value: Some(AnyValue {
            value: Some(Any::KvlistValue(KeyValueList {
                values: vec![KeyValue {
                    key: text("inner"),
                    value: Some(AnyValue { value: Some(Any::StringValue(text("value"))) }),
                    ..Default::default()
                }],
            })),
        }),
        ..Default::default()
    };
    let span = Proto {
        trace_id: vec![1; 16],
        span_id: vec![1; 8],
        name: text("name"),
        trace_state: text("state"),
        attributes: vec![pair()],
        events: vec![span::Event { name: text("event"), attributes: vec![pair()], ..Default::default() }],
        links: vec![span::Link { trace_state: text("link"), attributes: vec![pair()], ..Default::default() }],
        status: Some(ProtoStatus { message: text("message"), code: 2 }),
        ..Default::default()
    };
    let scope = InstrumentationScope {
        name: text("scope"),
        version: text("version"),
        attributes: vec![pair()],
        ..Default::default()
    };
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes: vec![pair()], ..Default::default() }),
            scope_spans: vec![ScopeSpans { scope: Some(scope), spans: vec![span], schema_url: text("url") }],
            schema_url: text("resource url"),
        }],
    };
    let mut bytes = request.encode_to_vec();
    let wanted = bytes.iter().filter(|byte| **byte == b'#').count();
    bytes.iter_mut().filter(|byte| **byte == b'#').for_each(|byte| *byte = 0xe9);
    let found = walked(&bytes).unwrap();
    assert_eq!((found.spans.len(), found.rejected), (1, 0));
    let (origin, span) = &found.spans[0];
    assert_eq!(format!("{origin}{span}").matches('\u{fffd}').count(), wanted, "{origin}{span}");
}
