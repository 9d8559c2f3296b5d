//! The hand-written protobuf walker against `prost`, on any bytes: both accept or both refuse, and read the same spans.
//!
//! `schema/otlp/tests/against_prost/` compares every field, on requests that it makes itself.

use std::collections::HashSet;

use model::trace::{Attribute, Origin, Span};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::Span as Proto;
use otlp::limits::{ATTRIBUTES_MAX, EVENTS_MAX, ITEM_ATTRIBUTES_MAX, LINKS_MAX};
use otlp::{Sink, SpanError, decode_protobuf};
use prost::Message;

/// What the walker finds.
#[derive(Default)]
struct Found {
    spans: Vec<Read>,
    rejected: usize,
    /// Whether a list is as long as it may be: what is beyond is not looked at.
    at_a_limit: bool,
}

/// What is compared of a span.
#[derive(Debug, PartialEq)]
struct Read {
    name: String,
    times: [u64; 2],
    status: (bool, String),
    resource: Vec<String>,
    attributes: Vec<String>,
    events: Vec<(String, Vec<String>)>,
    links: Vec<Vec<String>>,
}

impl<'a> Sink<'a> for Found {
    fn origin(&mut self) {}

    fn span(&mut self, origin: &Origin<'a>, span: &mut Span<'a>) {
        let of_items =
            span.events.iter().map(|e| e.attributes.len()).chain(span.links.iter().map(|l| l.attributes.len()));
        self.at_a_limit |= span.attributes.len().max(origin.resource_attributes.len()) >= ATTRIBUTES_MAX
            || origin.scope_attributes.len() >= ATTRIBUTES_MAX
            || span.events.len() >= EVENTS_MAX
            || span.links.len() >= LINKS_MAX
            || of_items.max().is_some_and(|most| most >= ITEM_ATTRIBUTES_MAX);
        // What no column can take follows the client's own attributes.
        let keys = |attributes: &[Attribute<'_>]| -> Vec<String> {
            attributes.iter().map(|a| a.key.to_string()).filter(|key| !is_ours(key)).collect()
        };
        self.spans.push(Read {
            name: span.name.to_string(),
            times: [span.start_time as u64, span.end_time as u64],
            status: (span.status == model::trace::Status::Error, span.status_message.to_string()),
            resource: keys(&origin.resource_attributes),
            attributes: keys(&span.attributes),
            events: span.events.iter().map(|e| (e.name.to_string(), keys(&e.attributes))).collect(),
            links: span.links.iter().map(|l| keys(&l.attributes)).collect(),
        });
    }

    fn reject(&mut self, _: &Span<'a>, _: SpanError) {
        self.rejected += 1;
    }
}

/// Whether an attribute's name is one that the walker itself gives: those are not compared.
fn is_ours(key: &str) -> bool {
    key.starts_with("otlp.") || key.starts_with("tracebility.")
}

/// The same, of what prost has decoded.
fn read(span: &Proto, resource: &[KeyValue]) -> Read {
    let keys = |pairs: &[KeyValue]| -> Vec<String> {
        pairs.iter().map(|pair| pair.key.clone()).filter(|key| !is_ours(key)).collect()
    };
    let mut resource = keys(resource);
    let mut seen = HashSet::new();
    resource.retain(|key| seen.insert(key.clone()));
    let status = span.status.clone().unwrap_or_default();
    Read {
        name: span.name.clone(),
        times: [span.start_time_unix_nano, span.end_time_unix_nano].map(|nanos| nanos.min(i64::MAX as u64)),
        status: (status.code == 2, status.message),
        resource,
        attributes: keys(&span.attributes),
        events: span.events.iter().map(|e| (e.name.clone(), keys(&e.attributes))).collect(),
        links: span.links.iter().map(|l| keys(&l.attributes)).collect(),
    }
}

/// Panics where they differ.
pub(crate) fn check(body: &[u8]) {
    let mut found = Found::default();
    let walked = decode_protobuf(body, &mut found);
    if found.at_a_limit {
        return;
    }
    match (ExportTraceServiceRequest::decode(body), walked) {
        (Ok(request), Ok(())) if has_a_long_list(&request) => {}
        (Ok(request), Ok(())) => {
            let resources = request.resource_spans.iter();
            let expected: Vec<Read> = resources
                .flat_map(|rs| {
                    let resource = rs.resource.as_ref().map_or(&[][..], |r| &r.attributes);
                    let spans = rs.scope_spans.iter().flat_map(|ss| &ss.spans);
                    spans.map(move |span| read(span, resource))
                })
                .collect();
            assert_eq!(found.spans.len() + found.rejected, expected.len(), "spans");
            if found.rejected == 0 {
                assert_eq!(found.spans, expected);
            }
        }
        (Err(_), Err(_)) => {}
        (Err(error), Ok(())) => {
            assert!(only_prost(&error.to_string()), "only prost refuses: {error}");
        }
        // Groups have no place in OTLP; prost skips them. And it leaves out bits of a field's number that do not fit.
        (Ok(_), Err(error)) => {
            let reason = error.reason;
            assert!(reason.contains("group") || reason.contains("field number"), "only we refuse: {error}");
        }
    }
}

/// Whether there are more attributes somewhere than a list takes: of those, some are left out.
fn has_a_long_list(request: &ExportTraceServiceRequest) -> bool {
    request.resource_spans.iter().any(|rs| {
        let resource = rs.resource.as_ref().map_or(0, |resource| resource.attributes.len());
        let scope = rs.scope_spans.iter().filter_map(|ss| ss.scope.as_ref()).map(|scope| scope.attributes.len()).max();
        let mut spans = rs.scope_spans.iter().flat_map(|ss| &ss.spans);
        resource.max(scope.unwrap_or(0)) > ATTRIBUTES_MAX
            || spans.any(|span| {
                let of_events = span.events.iter().map(|event| event.attributes.len());
                let of_items = of_events.chain(span.links.iter().map(|link| link.attributes.len())).max();
                span.attributes.len() > ATTRIBUTES_MAX || of_items.unwrap_or(0) > ITEM_ATTRIBUTES_MAX
            })
    })
}

/// Whether prost stumbled over a field that the walker has no use for and skips, over nesting, of which it takes less,
/// or over text that is not UTF-8, of which the walker mends the wrong bytes.
fn only_prost(error: &str) -> bool {
    let skipped = ["dropped_attributes_count", "entity_refs", "key_strindex", "Entity", "recursion limit", "UTF-8"];
    // A value's index into the dictionary of profiles, which prost calls by the name of all kinds of values.
    let index = error.contains("AnyValue.value: ") && error.contains("(expected Varint)");
    index || skipped.iter().any(|reason| error.contains(reason))
}
