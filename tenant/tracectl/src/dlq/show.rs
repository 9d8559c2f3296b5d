//! Prints everything known about one dead letter.

use std::collections::HashMap;
use std::fmt::Write as _;

use queue::dlq::{DeadLetter, DeadLetterId, DeadLetters};
use registry::Registry;
use registry::event::EventType;
use serde_json::{Value, json};
use time::OffsetDateTime;
use wire::envelope::{Envelope, EnvelopeKey};
use wire::tables::Table;

use super::{AuditTrail, since, slug};
use crate::failure::Failure;
use crate::output::{Answer, NONE, moment, or_none};

/// How many bytes of an envelope are shown.
const SHOWN_BYTES: usize = 256;
/// How many bytes one line shows.
const LINE_BYTES: usize = 16;

pub(super) async fn show(
    registry: &Registry,
    dead_letters: &DeadLetters,
    id: DeadLetterId,
    mut trail: AuditTrail<'_>,
) -> Result<Answer, Failure> {
    let letter = dead_letters.read(id).await?;
    let letter = letter.ok_or_else(|| {
        Failure::new(format!("there is no dead letter {id}"), "tracectl dlq ls shows those that there are")
    })?;
    let (listed, description) = (&letter.listed, &letter.listed.description);
    trail.write(EventType::DlqShow, "show", &[(id, description.org)]).await?;
    let slug = slug(registry, description.org, &mut HashMap::new()).await?;
    let lacking: Vec<&str> = description.tables.iter().map(|number| table_name(*number)).collect();
    let dump = hexdump(&letter.content);
    let mut json = serde_json::to_value(listed)?;
    json["slug"] = json!(slug);
    json["head"] = json!(dump);
    let mut fields = vec![
        ("id", id.to_string()),
        ("org", slug.or_else(|| description.org.map(|org| org.to_string())).unwrap_or_else(|| NONE.to_owned())),
        ("since", since(description.since_ms)),
        ("reason", description.reason.to_string()),
        ("code", description.code.to_string()),
        ("detail", description.detail.clone()),
        ("items", description.items.to_string()),
        ("bytes", listed.bytes.to_string()),
        ("lacking in", if lacking.is_empty() { "every table".to_owned() } else { lacking.join(", ") }),
    ];
    describe_envelope(&registry.envelope_key().await?, &letter, &mut json, &mut fields);
    fields.extend(dump.into_iter().map(|line| ("", line)));
    Answer::record(&json, &fields)
}

/// What a worker would decode from it.
fn describe_envelope(
    key: &EnvelopeKey,
    letter: &DeadLetter,
    json: &mut Value,
    fields: &mut Vec<(&'static str, String)>,
) {
    let envelope = match Envelope::decode(key, &letter.content) {
        Ok(envelope) => envelope,
        Err(error) => {
            json["unreadable"] = json!(error.to_string());
            fields.push(("unreadable", error.to_string()));
            return;
        }
    };
    let header = &envelope.header;
    let received = OffsetDateTime::from_unix_timestamp_nanos(header.received_at.into()).ok();
    let rows: Vec<String> =
        envelope.sections.iter().map(|section| format!("{} {}", section.table.name, section.rows)).collect();
    let per_table = envelope.sections.iter().map(|section| (section.table.name.to_owned(), json!(section.rows)));
    json["rows"] = Value::Object(per_table.collect());
    json["envelope"] = json!({
        "envelope_id": header.envelope_id, "workspace_id": header.workspace_id, "project_id": header.project_id,
        "api_key_id": header.api_key_id, "source": header.source.as_str(),
    });
    fields.extend([
        ("envelope", header.envelope_id.to_string()),
        ("workspace", header.workspace_id.to_string()),
        ("project", header.project_id.to_string()),
        ("api key", header.api_key_id.to_string()),
        ("received", or_none(received.map(moment))),
        ("source", header.source.as_str().to_owned()),
        ("rows", rows.join(", ")),
    ]);
}

fn table_name(number: u8) -> &'static str {
    Table::ALL.into_iter().find(|table| table.id == number).map_or("a table of another release", |table| table.name)
}

/// The first bytes, in the format of `hexdump -C`.
fn hexdump(bytes: &[u8]) -> Vec<String> {
    let shown = &bytes[..bytes.len().min(SHOWN_BYTES)];
    let line = |(number, some): (usize, &[u8])| {
        let mut hex = String::new();
        for byte in some {
            // Writing to a String cannot fail.
            let _ok = write!(hex, "{byte:02x} ").is_ok();
        }
        let text: String = some
            .iter()
            .map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' })
            .collect();
        format!("{:08x}  {hex:<48} |{text}|", number * LINE_BYTES)
    };
    shown.chunks(LINE_BYTES).enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_as_numbers_and_as_text() {
        let lines = hexdump(b"TBE2\x00\xff and more of it");
        assert_eq!(lines[0], "00000000  54 42 45 32 00 ff 20 61 6e 64 20 6d 6f 72 65 20  |TBE2.. and more |");
        assert_eq!(lines[1], format!("00000010  {:<48} |of it|", "6f 66 20 69 74 "));
        assert_eq!(hexdump(&[0; 1000]).len(), SHOWN_BYTES / LINE_BYTES);
    }
}
