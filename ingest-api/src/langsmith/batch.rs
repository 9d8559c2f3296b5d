//! What a multipart body holds, put together run by run.

use std::borrow::Cow;
use std::collections::HashMap;

use schema::ids::ProjectId;
use schema::model::Attachment;
use schema::tables::content_hash;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::multipart::Part;
use super::run::Write;
use super::{Op, feedback, lenient};
use crate::batch::Batch;
use crate::fields::{Fields, ItemError};

/// Parts of one write of a run. SDKs send up to seven.
const FIELDS_MAX: usize = 64;

/// The parts of one write of a run, in whatever order they came.
struct Group<'a> {
    op: Op,
    id: Uuid,
    /// The run object itself has no name.
    parts: Vec<(&'a str, &'a [u8])>,
}

/// Stores what the parts hold; what cannot be stored is set aside by itself.
pub(super) fn store<'a>(parts: &'a [Result<Part<'a>, String>], project: ProjectId, batch: &mut Batch) {
    let mut groups: Vec<Group<'a>> = Vec::new();
    let mut newest: HashMap<(Op, Uuid), usize> = HashMap::new();
    for part in parts {
        let part = match part {
            Ok(part) => part,
            Err(reason) => {
                let (item, reason) = reason.split_once(": ").unwrap_or(("part", reason));
                batch.set_aside(item.to_owned(), reason.to_owned());
                continue;
            }
        };
        match placed(part) {
            Ok(Place::Run { op, id, field }) => {
                // A field that is there already begins another write of the same run.
                let at = newest.get(&(op, id)).copied().filter(|at| groups[*at].parts.iter().all(|(f, _)| *f != field));
                let at = at.unwrap_or_else(|| {
                    groups.push(Group { op, id, parts: Vec::new() });
                    groups.len() - 1
                });
                newest.insert((op, id), at);
                if groups[at].parts.len() == FIELDS_MAX {
                    let reason = format!("one write of a run has more than {FIELDS_MAX} parts");
                    batch.set_aside(part.name.clone().into_owned(), reason);
                } else {
                    groups[at].parts.push((field, part.content));
                }
            }
            Ok(Place::Attachment { id, name }) => {
                let mime_type = Cow::Borrowed(part.mime_type.as_str());
                let attachment = Attachment { run_id: id, name: name.into(), mime_type, content: part.content };
                batch.attachments.push(project, &attachment);
            }
            Ok(Place::Feedback { id }) => {
                let stored = lenient::json(part.content).map_err(ItemError::NotAnObject);
                let stored = stored.and_then(|text| feedback::store(Some(id), raw(&text)?, project, batch));
                aside(batch, &part.name, stored);
            }
            Err(reason) => batch.set_aside(part.name.clone().into_owned(), reason),
        }
    }
    for group in groups {
        let stored = group.store(project, batch);
        aside(batch, &format!("{}.{}", group.op.as_str(), group.id), stored);
    }
}

fn aside(batch: &mut Batch, item: &str, stored: Result<(), ItemError>) {
    if let Err(error) = stored {
        batch.set_aside(item.to_owned(), error.to_string());
    }
}

fn raw(text: &str) -> Result<&RawValue, ItemError> {
    serde_json::from_str(text).map_err(ItemError::NotAnObject)
}

impl Group<'_> {
    fn store(&self, project: ProjectId, batch: &mut Batch) -> Result<(), ItemError> {
        let mut parts = self.parts.clone();
        // The same write is the same row, in whatever order its parts come.
        parts.sort_unstable_by_key(|(field, _)| *field);
        let hashed: Vec<_> =
            parts.iter().flat_map(|(field, content)| [field.as_bytes(), b"\0", content, b"\0"]).collect();
        let hash = content_hash(&hashed.concat());
        let texts = parts.iter().map(|(field, content)| Ok((*field, json(field, content)?)));
        let texts: Vec<(&str, Cow<'_, str>)> = texts.collect::<Result<_, ItemError>>()?;
        let mut fields = Fields(Vec::new());
        for (field, text) in &texts {
            match *field {
                "" => fields.0.extend(Fields::read(raw(text)?)?.0),
                field => {
                    fields.0.retain(|(name, _)| name != field);
                    fields.0.push((field.into(), raw(text)?));
                }
            }
        }
        Write { op: self.op, id: Some(self.id), fields, hash }.store(project, batch)
    }
}

/// A part's JSON. If it is none, the run object is lost; a field of it is kept as the text it is.
fn json<'a>(field: &str, content: &'a [u8]) -> Result<Cow<'a, str>, ItemError> {
    match lenient::json(content) {
        Ok(text) => Ok(text),
        Err(error) if field.is_empty() => Err(ItemError::NotAnObject(error)),
        Err(_) => Ok(serde_json::Value::from(String::from_utf8_lossy(content)).to_string().into()),
    }
}

/// What a part is, by its name.
enum Place<'a> {
    Run { op: Op, id: Uuid, field: &'a str },
    Attachment { id: Uuid, name: &'a str },
    Feedback { id: Uuid },
}

fn placed<'a>(part: &'a Part<'_>) -> Result<Place<'a>, String> {
    if let Some(encoding) = part.encoding {
        return Err(format!("a part with content encoding {encoding:?}; compress the whole body instead"));
    }
    let mut words = part.name.splitn(3, '.');
    let (kind, id, rest) = (words.next().unwrap_or_default(), words.next().unwrap_or_default(), words.next());
    let known = ["post", "patch", "attachment", "feedback"];
    if !known.contains(&kind) {
        return Err(format!("a part is named {}, followed by an id", known.join(", ")));
    }
    let id = id.parse().map_err(|error| format!("{id:?} is not an id: {error}"))?;
    match (kind, rest) {
        ("post", field) => Ok(Place::Run { op: Op::Post, id, field: field.unwrap_or_default() }),
        ("patch", field) => Ok(Place::Run { op: Op::Patch, id, field: field.unwrap_or_default() }),
        ("feedback", _) => Ok(Place::Feedback { id }),
        (_, Some(name)) => Ok(Place::Attachment { id, name }),
        (_, None) => Err("an attachment without a name".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_has_few_parts() {
        let id = Uuid::from_u128(1);
        let part = |i| Part {
            name: format!("post.{id}.field{i}").into(),
            mime_type: String::new(),
            encoding: None,
            content: b"1",
        };
        let parts: Vec<_> = (0..FIELDS_MAX + 3).map(|i| Ok(part(i))).collect();
        let counts = Batch::with(|batch| {
            store(&parts, ProjectId(id), batch);
            batch.counts()
        });
        assert_eq!((counts.runs, counts.set_aside), (1, 3));
    }

    #[test]
    fn a_part_that_is_encoded_by_itself_is_told() {
        let name = format!("attachment.{}.a", Uuid::nil()).into();
        let parts = [Ok(Part { name, mime_type: String::new(), encoding: Some("gzip"), content: b"" })];
        let counts = Batch::with(|batch| {
            store(&parts, ProjectId(Uuid::nil()), batch);
            batch.counts()
        });
        assert_eq!((counts.attachments, counts.set_aside), (0, 1));
        assert!(counts.reasons[0].error.contains("gzip"), "{:?}", counts.reasons);
    }
}
