//! LangSmith's own ingest protocol, as its SDKs speak it when they are not in OpenTelemetry mode.
//!
//! A request consists of writes: posts that open runs and patches that change them, in JSON or as
//! `multipart/form-data`, with feedback and attachments beside them. Each write becomes a row of its own; the view
//! `run_of` puts a run together from its rows.

mod feedback;
mod info;
mod items;
mod multipart;
mod parts;
mod run;
mod time;
mod tree;
mod usage;

use std::fmt;

use serde_json::Value;
use translate::batch::Batch;
use translate::fields::ItemError;
use uuid::Uuid;
use wire::envelope::{Header, SECTION_ROWS_MAX};

use crate::body;
use crate::body::Budget;
use crate::error::ApiError;

/// What a write does with a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Opens a run, or contains a whole run that has ended.
    Post,
    /// Changes a run that another write opens.
    Patch,
}

impl Op {
    const fn as_str(self) -> &'static str {
        match self {
            Op::Post => "post",
            Op::Patch => "patch",
        }
    }
}

/// What LangSmith's clients can ask for at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// `GET /info`: how the SDKs should send, which they read once.
    Info,
    /// `POST /runs`: one run is created.
    Runs,
    /// `PATCH /runs/{id}`; `None` if the last segment of the path is not an id.
    Run(Option<Uuid>),
    /// `POST /runs/batch`: lists of posts and patches in one JSON object.
    Batch,
    /// `POST /runs/multipart`: posts, patches, feedback and attachments, each as a part.
    Multipart,
    /// `POST /feedback`: one score of a run.
    Feedback,
}

impl Route {
    /// The label of the route in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Route::Info => "/info",
            Route::Runs => "/runs",
            Route::Run(_) => "/runs/{id}",
            Route::Batch => "/runs/batch",
            Route::Multipart => "/runs/multipart",
            Route::Feedback => "/feedback",
        }
    }

    /// The one HTTP method that the route takes.
    pub const fn method(self) -> &'static str {
        match self {
            Route::Info => "GET",
            Route::Run(_) => "PATCH",
            Route::Runs | Route::Batch | Route::Multipart | Route::Feedback => "POST",
        }
    }

    /// What the body of a request to this route contains. Only a multipart body depends on its content type.
    pub fn body(self, content_type: &str) -> Result<BodyKind, ApiError> {
        match self {
            Route::Info => Err(ApiError::NotFound),
            Route::Runs => Ok(BodyKind::Run(Op::Post, None)),
            Route::Run(Some(id)) => Ok(BodyKind::Run(Op::Patch, Some(id))),
            Route::Run(None) => Err(ApiError::Invalid("the run id in the path is not a UUID".to_owned())),
            Route::Batch => Ok(BodyKind::Batch),
            Route::Feedback => Ok(BodyKind::Feedback),
            Route::Multipart => multipart::boundary(content_type).map(BodyKind::Multipart).ok_or_else(|| {
                let wanted = "multipart/form-data; boundary=...";
                ApiError::ContentType { found: content_type.to_owned(), wanted }
            }),
        }
    }
}

/// What a body contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// One run object, with its operation and the id from the path.
    Run(Op, Option<Uuid>),
    /// Lists of posts and patches.
    Batch,
    /// One feedback object, which becomes a row of `eval_score`.
    Feedback,
    /// Parts, delimited by this boundary.
    Multipart(String),
}

/// Every detail of the kind that decides what a body means; part of the content id.
impl fmt::Display for BodyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(op, None) => f.write_str(op.as_str()),
            Self::Run(op, Some(id)) => write!(f, "{} {id}", op.as_str()),
            Self::Batch => f.write_str("batch"),
            Self::Feedback => f.write_str("feedback"),
            Self::Multipart(boundary) => write!(f, "multipart {boundary}"),
        }
    }
}

/// The answer to `GET /info`. `body_max` is the most bytes that a body may have.
pub fn info(body_max: usize) -> Value {
    info::answer(body_max)
}

/// Decodes a body into rows, and its rejected items into rows of `set_aside`. Fails if the body cannot be read as a
/// whole, or if its only item is rejected.
pub fn decode(
    kind: &BodyKind,
    body: &[u8],
    header: &Header,
    budget: &Budget,
    batch: &mut Batch,
) -> Result<(), ApiError> {
    match kind {
        BodyKind::Multipart(boundary) => {
            let parts = multipart::parts(body, boundary).map_err(|e| ApiError::Malformed(e.to_string()))?;
            parts::store(&parts, &mut body::Parts::new(budget), header, batch)
        }
        BodyKind::Batch => {
            let mut count = 0;
            items::each(translate::lenient::without_bom(body), |op, i, item| {
                if count == SECTION_ROWS_MAX {
                    let what = "number of runs in the request";
                    return Err(ApiError::TooLarge { what, limit: SECTION_ROWS_MAX as usize, unit: "" });
                }
                if item == b"null" {
                    return Ok(());
                }
                count += 1;
                if let Err(error) = run::store(op, None, item, header, batch) {
                    batch.reject_and_keep(format!("{}[{i}]", op.as_str()), error.to_string(), item);
                }
                Ok(())
            })
        }
        BodyKind::Run(op, id) => {
            run::store(*op, *id, translate::lenient::without_bom(body), header, batch).map_err(refused)
        }
        BodyKind::Feedback => {
            feedback::store(None, translate::lenient::without_bom(body), header.project_id, batch).map_err(refused)
        }
    }
}

/// The error for a request whose one item is rejected. The client learns it from the answer, so the item is not kept.
fn refused(error: ItemError) -> ApiError {
    match error {
        ItemError::NotAnObject(e) if !e.is_data() => ApiError::Malformed(format!("malformed JSON: {e}")),
        error => ApiError::Invalid(error.to_string()),
    }
}
