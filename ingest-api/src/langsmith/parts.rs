//! Reads the parts of a multipart body and groups them into writes of runs.
//!
//! What cannot be stored is kept as a multipart body of its own, so that it can be read and sent again unchanged.

use std::borrow::Cow;
use std::collections::HashMap;

use model::trace::Attachment;
use translate::batch::Batch;
use translate::fields::{Fields, ItemError};
use translate::lenient::Document;
use uuid::Uuid;
use wire::envelope::Header;
use wire::tables::content_hash_of;

use super::multipart::{BadPart, Part};
use super::run::Write;
use super::{Op, feedback};
use crate::body;
use crate::body::ReadBody;
use crate::error::ApiError;

/// Most parts of one write of a run. SDKs send up to seven.
const FIELDS_MAX: usize = 64;
/// Most bytes of one attachment, decompressed.
const ATTACHMENT_BYTES_MAX: usize = 32 << 20;

/// The content of a part, as it was sent or decompressed.
enum Content<'a> {
    Sent(&'a [u8]),
    Decompressed(ReadBody),
}

impl Content<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Content::Sent(bytes) => bytes,
            Content::Decompressed(body) => &body.bytes,
        }
    }
}

/// One part of a write. The part with the run object itself has an empty name.
struct Field<'a> {
    name: &'a str,
    content: Content<'a>,
    part: &'a Part<'a>,
}

/// The parts of one write of a run, in any order.
struct Group<'a> {
    op: Op,
    id: Uuid,
    fields: Vec<Field<'a>>,
}

/// Stores what the parts contain. Each item that cannot be stored is rejected by itself. Fails only if the budget has
/// no memory to decompress a part.
pub(super) fn store<'a>(
    parts: &'a [Result<Part<'a>, BadPart<'a>>],
    decompressor: &mut body::Parts<'_>,
    header: &Header,
    batch: &mut Batch,
) -> Result<(), ApiError> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    let mut newest: HashMap<(Op, Uuid), usize> = HashMap::new();
    for part in parts {
        let part = match part {
            Ok(part) => part,
            Err(bad) => {
                reject_parts(batch, format!("part {}", bad.number), bad.reason.clone(), [bad.raw]);
                continue;
            }
        };
        let reject = |batch: &mut Batch, reason| reject_parts(batch, part.name.to_string(), reason, [part.raw]);
        let part_name = match parse_part_name(&part.name) {
            Ok(part_name) => part_name,
            Err(reason) => {
                reject(batch, reason);
                continue;
            }
        };
        let content = match part.encoding {
            None => Content::Sent(part.content),
            Some(encoding) => match decompressor.decompress(encoding, part.content) {
                Ok(body) => Content::Decompressed(body),
                Err(error @ ApiError::Overloaded) => return Err(error),
                Err(error) => {
                    reject(batch, error.to_string());
                    continue;
                }
            },
        };
        match part_name {
            PartName::Run { op, id, field } => {
                // A field that the group has already begins another write of the same run.
                let at = newest.get(&(op, id)).copied().filter(|at| groups[*at].fields.iter().all(|f| f.name != field));
                let at = at.unwrap_or_else(|| {
                    groups.push(Group { op, id, fields: Vec::new() });
                    groups.len() - 1
                });
                newest.insert((op, id), at);
                if groups[at].fields.len() == FIELDS_MAX {
                    reject(batch, format!("one write of a run has more than {FIELDS_MAX} parts (FIELDS_MAX)"));
                } else {
                    groups[at].fields.push(Field { name: field, content, part });
                }
            }
            PartName::Attachment { .. } if content.bytes().len() > ATTACHMENT_BYTES_MAX => {
                reject(
                    batch,
                    format!("an attachment of more than {ATTACHMENT_BYTES_MAX} bytes (ATTACHMENT_BYTES_MAX)"),
                );
            }
            PartName::Attachment { id, name } => {
                let mime_type = Cow::Borrowed(part.mime_type.as_str());
                let attachment = Attachment { run_id: id, name: name.into(), mime_type, content: content.bytes() };
                batch.attachments.push(header.project_id, &attachment);
            }
            PartName::Feedback { id } => {
                if let Err(error) = feedback::store(Some(id), content.bytes(), header.project_id, batch) {
                    reject(batch, error.to_string());
                }
            }
        }
    }
    for group in groups {
        if let Err(error) = group.store(header, batch) {
            let item = format!("{}.{}", group.op.as_str(), group.id);
            reject_parts(batch, item, error.to_string(), group.fields.iter().map(|field| field.part.raw));
        }
    }
    Ok(())
}

/// Keeps the parts of a rejected item unchanged. Their boundary is their hash, so that the same parts have the same
/// content.
fn reject_parts<'a>(
    batch: &mut Batch,
    item: String,
    reason: String,
    parts: impl IntoIterator<Item = &'a [u8]> + Clone,
) {
    let boundary = format!("{:016x}", content_hash_of(parts.clone()));
    let mut content = Vec::new();
    for part in parts {
        content.extend_from_slice(format!("--{boundary}\r\n").as_bytes());
        content.extend_from_slice(part);
        content.extend_from_slice(b"\r\n");
    }
    content.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    batch.reject_and_keep(item, reason, &content);
}

impl Group<'_> {
    fn store(&self, header: &Header, batch: &mut Batch) -> Result<(), ItemError> {
        let mut sent: Vec<_> = self.fields.iter().map(|field| (field.name, field.content.bytes())).collect();
        // The same write makes the same row, in whatever order its parts come.
        sent.sort_unstable_by_key(|(name, _)| *name);
        let hash = content_hash_of(sent.iter().flat_map(|(name, bytes)| [name.as_bytes(), b"\0", bytes, b"\0"]));
        let documents: Vec<_> = sent.iter().map(|(name, bytes)| (*name, Document::new(bytes))).collect();
        let mut fields = Fields(Vec::new());
        for (name, document) in &documents {
            match *name {
                // The run object comes first. If it is not JSON, the write is rejected.
                "" => fields = document.read(Fields::of_text)?,
                name => {
                    fields.0.retain(|(known, _)| known != name);
                    fields.0.push((name.into(), document.value().map_err(ItemError::NotAnObject)?));
                }
            }
        }
        Write { op: self.op, id: Some(self.id), fields, hash, parent: None }.store(header, batch)
    }
}

/// What a part contains, according to its name.
enum PartName<'a> {
    Run { op: Op, id: Uuid, field: &'a str },
    Attachment { id: Uuid, name: &'a str },
    Feedback { id: Uuid },
}

fn parse_part_name(name: &str) -> Result<PartName<'_>, String> {
    let mut words = name.splitn(3, '.');
    let (kind, id, rest) = (words.next().unwrap_or_default(), words.next().unwrap_or_default(), words.next());
    let known = ["post", "patch", "attachment", "feedback"];
    if !known.contains(&kind) {
        return Err(format!("a part is named {}, followed by an id", known.join(", ")));
    }
    let id = id.parse().map_err(|error| format!("{id:?} is not an id: {error}"))?;
    match (kind, rest) {
        ("post", field) => Ok(PartName::Run { op: Op::Post, id, field: field.unwrap_or_default() }),
        ("patch", field) => Ok(PartName::Run { op: Op::Patch, id, field: field.unwrap_or_default() }),
        ("feedback", _) => Ok(PartName::Feedback { id }),
        (_, Some(name)) => Ok(PartName::Attachment { id, name }),
        (_, None) => Err("an attachment without a name".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BodyKind, decode};
    use super::*;
    use crate::body::Budget;
    use model::ids::{ApiKeyId, EnvelopeId, OrgId, ProjectId, WorkspaceId};
    use rand::prelude::*;
    use rand::rngs::StdRng;
    use std::io::Write as _;
    use translate::batch::Counts;
    use wire::envelope::{ContentId, ENVELOPE_KEY_BYTES, Envelope, EnvelopeKey, Source};

    const ID: &str = "01a1fca2-6eb8-7760-82cf-990515cae231";

    /// A part in a test: its name, its other headers, and its bytes.
    type Sent = (String, String, Vec<u8>);

    fn plain(name: &str, content: &[u8]) -> Sent {
        (name.to_owned(), String::new(), content.to_vec())
    }

    fn encoded(name: &str, encoding: &str, content: &[u8]) -> Sent {
        let content = match encoding {
            "gzip" => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(content).unwrap();
                encoder.finish().unwrap()
            }
            "deflate" => {
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(content).unwrap();
                encoder.finish().unwrap()
            }
            "zstd" => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
                encoder.write_all(content).unwrap();
                encoder.finish().unwrap()
            }
            _ => content.to_vec(),
        };
        (name.to_owned(), format!("Content-Encoding: {encoding}\r\n"), content)
    }

    fn body(parts: &[Sent], boundary: &str) -> Vec<u8> {
        let mut body = Vec::new();
        for (name, headers, content) in parts {
            let head = format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n{headers}\r\n");
            body.extend_from_slice(head.as_bytes());
            body.extend_from_slice(content);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
        body
    }

    fn key() -> EnvelopeKey {
        EnvelopeKey::new(&[1; ENVELOPE_KEY_BYTES])
    }

    fn header() -> Header {
        let nil = Uuid::nil();
        Header {
            envelope_id: EnvelopeId(nil),
            org_id: OrgId(nil),
            workspace_id: WorkspaceId(nil),
            project_id: ProjectId(nil),
            api_key_id: ApiKeyId(nil),
            content_id: ContentId::NONE,
            received_at: 0,
            source: Source::LangSmith,
        }
    }

    /// Decodes the parts, with at most `body_max` bytes per body, and returns the counts and the envelope.
    fn stored(parts: &[Sent], boundary: &str, body_max: usize) -> Result<(Counts, Vec<u8>), ApiError> {
        let (body, budget) = (body(parts, boundary), Budget::new(body_max, 2 * body_max));
        Batch::with(|batch| {
            decode(&BodyKind::Multipart(boundary.to_owned()), &body, &header(), &budget, batch)?;
            // The billing row counts the body's bytes, which these tests do not compare.
            let envelope = batch.envelope(&header(), 0)?;
            Ok((batch.counts(), envelope.map(|envelope| envelope.finish(&key())).unwrap_or_default()))
        })
    }

    fn reasons_of(counts: &Counts) -> Vec<(&str, &str)> {
        counts.reasons.iter().map(|r| (r.item.as_str(), r.error.as_str())).collect()
    }

    #[test]
    fn field_parts_over_the_limit_of_a_write_are_rejected() {
        let parts: Vec<_> = (0..FIELDS_MAX + 3).map(|i| plain(&format!("post.{ID}.field{i}"), b"1")).collect();
        let (counts, _) = stored(&parts, "b", 1 << 20).unwrap();
        assert_eq!((counts.runs, counts.rejected), (1, 3));
    }

    #[test]
    fn a_part_may_have_its_own_content_encoding() {
        let run = br#"{"name":"n","run_type":"chain"}"#;
        let plain = [plain(&format!("post.{ID}"), run), plain(&format!("post.{ID}.inputs"), b"{\"q\":1}")];
        let wanted = stored(&plain, "b", 1 << 20).unwrap();
        for encoding in ["gzip", "deflate", "zstd", "GZip", "identity"] {
            let lower = encoding.to_lowercase();
            let mut parts = plain.clone();
            parts[1] = encoded(&format!("post.{ID}.inputs"), &lower, b"{\"q\":1}");
            parts[1].1 = format!("Content-Encoding: {encoding}\r\n");
            assert!(stored(&parts, "b", 1 << 20).unwrap() == wanted, "{encoding}");
        }
    }

    #[test]
    fn a_part_that_cannot_be_decompressed_is_rejected_alone() {
        let attachment = |name: &str, encoding: &str, bytes: usize| {
            encoded(&format!("attachment.{ID}.{name}"), encoding, &vec![b'x'; bytes])
        };
        let mut broken = attachment("broken", "gzip", 100);
        broken.2.truncate(20);
        let parts = [
            broken,
            attachment("unknown", "br", 5),
            attachment("first", "zstd", 600 << 10),
            attachment("second", "gzip", 600 << 10),
            attachment("third", "deflate", 10),
            plain(&format!("post.{ID}"), b"{}"),
        ];
        let (counts, _) = stored(&parts, "b", 1 << 20).unwrap();
        assert_eq!((counts.runs, counts.attachments, counts.rejected), (1, 1, 4));
        let reasons = reasons_of(&counts);
        assert!(reasons[0].1.starts_with("the part is not valid gzip"), "{reasons:?}");
        assert!(reasons[1].1.contains("\"br\""), "{reasons:?}");
        for (rejected, name) in reasons[2..].iter().zip(["second", "third"]) {
            assert_eq!(rejected.0, format!("attachment.{ID}.{name}"));
            assert!(rejected.1.contains("decompressed parts is larger than 1048576 bytes"), "{reasons:?}");
        }
    }

    #[test]
    fn rejected_parts_are_kept_as_a_multipart_body() {
        let parts = [
            plain(&format!("post.{ID}"), b"no JSON"),
            plain(&format!("post.{ID}.inputs"), b"{}"),
            plain("post.7", b"{}"),
            plain(&format!("attachment.{ID}.large"), &vec![0; ATTACHMENT_BYTES_MAX + 1]),
        ];
        let (counts, envelope) = stored(&parts, "b", 64 << 20).unwrap();
        assert_eq!(counts.accepted(), 0);
        let reasons = reasons_of(&counts);
        assert_eq!(
            reasons.iter().map(|(item, _)| *item).collect::<Vec<_>>(),
            ["post.7", &format!("attachment.{ID}.large"), &format!("post.{ID}"),]
        );
        assert!(reasons[1].1.contains("ATTACHMENT_BYTES_MAX"), "{reasons:?}");
        let boundary = format!(
            "{:016x}",
            content_hash_of(
                [
                    format!("Content-Disposition: form-data; name=\"post.{ID}\"\r\n\r\nno JSON"),
                    format!("Content-Disposition: form-data; name=\"post.{ID}.inputs\"\r\n\r\n{{}}"),
                ]
                .iter()
                .map(String::as_bytes)
            )
        );
        let kept = body(&parts[..2], &boundary);
        assert!(memchr::memmem::find(&envelope, &kept).is_some());
    }

    /// The rows of writes and attachments in an envelope. The hash of each is over everything that was sent for it.
    fn rows(envelope: &[u8]) -> Vec<Vec<u8>> {
        let envelope = Envelope::decode(&key(), envelope).unwrap();
        let mut rows = Vec::new();
        for section in &envelope.sections {
            let identity = section.table.columns.iter().zip(&section.columns).filter_map(|(spec, column)| {
                let width = [("run_id", 16), ("op", 1), ("op_hash", 8), ("content_hash", 16)];
                let (_, width) = width.iter().find(|(name, _)| *name == spec.name)?;
                Some((*width, column.segments[0]))
            });
            let identity: Vec<_> = identity.collect();
            rows.extend((0..section.rows as usize).map(|row| {
                let cells = identity.iter().map(|(width, segment)| {
                    let at = if segment.constant { 0 } else { row * width };
                    &segment.bytes[at..at + width]
                });
                [section.table.name.as_bytes(), &cells.collect::<Vec<_>>().concat()].concat()
            }));
        }
        rows.sort();
        rows
    }

    /// Whether the boundary cannot be used for a part, because its content contains that delimiter.
    fn has_delimiter(content: &[u8], boundary: &str) -> bool {
        let (delimiter, content) = (format!("\r\n--{boundary}"), [b"\r\n", content, b"\r\n"].concat());
        memchr::memmem::find_iter(&content, &delimiter).any(|at| {
            let after = &content[at + delimiter.len()..];
            after.starts_with(b"--") || after.trim_ascii_start().len() < after.len()
        })
    }

    /// Any order of parts, any boundary, contents that look like it, and any encoding give the same rows.
    #[test]
    fn the_same_parts_make_the_same_rows_in_any_order_and_encoding() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let random = &mut StdRng::seed_from_u64(seed);
        let ids = [1_u128, 2, 3].map(|n| Uuid::from_u128(n << 100 | n));
        for round in 0..200 {
            let boundary: String =
                (0..random.random_range(1..40)).map(|_| *b"ab-'=".choose(random).unwrap() as char).collect();
            let look_alike = ["\r\n--", "\r\n", "--", &boundary, "x", "\r", "\n", " "];
            let contents = |random: &mut StdRng| -> Vec<u8> {
                let pieces = random.random_range(0..9);
                (0..pieces).flat_map(|_| look_alike.choose(random).unwrap().bytes()).collect()
            };
            let part = |random: &mut StdRng, name: &str, content: &[u8]| {
                let encodings = ["identity", "gzip", "deflate", "zstd"];
                let mut tries = (0..20).map(|_| encoded(name, encodings.choose(random).unwrap(), content));
                tries.find(|part| !has_delimiter(&part.2, &boundary))
            };
            let mut sent = Vec::new();
            for id in ids {
                sent.push((format!("post.{id}"), br#"{"name":"n","run_type":"llm"}"#.to_vec()));
                for field in ["inputs", "outputs", "extra", "error"] {
                    if random.random_bool(0.7) {
                        sent.push((format!("post.{id}.{field}"), contents(random)));
                    }
                }
                sent.push((format!("patch.{id}"), br#"{"end_time":1795241750915}"#.to_vec()));
                sent.push((format!("attachment.{id}.a.b"), contents(random)));
            }
            let mut wanted = None;
            for _ in 0..4 {
                sent.shuffle(random);
                let parts = sent.iter().map(|(name, content)| part(random, name, content)).collect::<Option<Vec<_>>>();
                let Some(parts) = parts else { continue };
                let (counts, envelope) = stored(&parts, &boundary, 1 << 20).unwrap();
                assert_eq!((counts.runs, counts.attachments, counts.rejected), (6, 3, 0), "seed {seed}, round {round}");
                let found = rows(&envelope);
                assert!(
                    *wanted.get_or_insert_with(|| found.clone()) == found,
                    "seed {seed}, round {round}, boundary {boundary:?}"
                );
            }
        }
    }
}
