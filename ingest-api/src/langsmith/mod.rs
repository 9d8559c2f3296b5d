//! LangSmith's own ingest protocol, as its SDKs speak it when they are not in OpenTelemetry mode.
//!
//! A request is a number of writes: posts that open runs and patches that change them, in JSON or as `multipart/form-data`,
//! with feedback and attachments beside them. Each write becomes a row of its own; the view `run_of` puts a run together.

mod batch;
mod feedback;
mod info;
pub(crate) mod lenient;
mod multipart;
mod run;
mod time;
mod usage;

use schema::ids::ProjectId;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use self::run::Write;
use crate::batch::Batch;
use crate::error::ApiError;
use crate::fields::ItemError;

/// What a write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Opens a run, or tells of one that has ended.
    Post,
    /// Changes a run.
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

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// `GET /info`
    Info,
    /// `POST /runs`
    Runs,
    /// `PATCH /runs/{id}`; `None` if that is no id.
    Run(Option<Uuid>),
    /// `POST /runs/batch`
    Batch,
    /// `POST /runs/multipart`
    Multipart,
    /// `POST /feedback`
    Feedback,
}

impl Route {
    /// The route of a path. Users set the endpoint with and without `/api/v1`, so both are served.
    pub fn of(path: &str) -> Option<Self> {
        let path = path.strip_prefix("/api/v1").unwrap_or(path);
        match path {
            "/info" => Some(Route::Info),
            "/runs" => Some(Route::Runs),
            "/runs/batch" => Some(Route::Batch),
            "/runs/multipart" => Some(Route::Multipart),
            "/feedback" => Some(Route::Feedback),
            path => {
                let id = path.strip_prefix("/runs/").filter(|id| !id.contains('/'))?;
                Some(Route::Run(id.parse().ok()))
            }
        }
    }

    /// The name in metrics.
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

    /// The one method it takes.
    pub const fn method(self) -> &'static str {
        match self {
            Route::Info => "GET",
            Route::Run(_) => "PATCH",
            Route::Runs | Route::Batch | Route::Multipart | Route::Feedback => "POST",
        }
    }

    /// What its body is. Only a multipart body depends on its content type.
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

/// What a body is to be read as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// One run object.
    Run(Op, Option<Uuid>),
    /// Posts and patches.
    Batch,
    /// One feedback object.
    Feedback,
    /// Parts, delimited by this boundary.
    Multipart(String),
}

/// The answer to `GET /info`, where bodies may have so many bytes.
pub fn info(body_max: usize) -> Value {
    info::answer(body_max)
}

/// Reads a body into rows. An error means that it could not be read as a whole, or that the only thing in it is no good.
pub fn decode(kind: &BodyKind, body: &[u8], project: ProjectId, batch: &mut Batch) -> Result<(), ApiError> {
    let malformed = |e: serde_json::Error| ApiError::Malformed(format!("malformed JSON: {e}"));
    let invalid = |e: ItemError| ApiError::Invalid(e.to_string());
    match kind {
        BodyKind::Multipart(boundary) => {
            let parts = multipart::parts(body, boundary).map_err(|e| ApiError::Malformed(e.to_string()))?;
            self::batch::store(&parts, project, batch);
        }
        BodyKind::Batch => {
            let text = lenient::json(body).map_err(malformed)?;
            let runs: Runs<'_> = serde_json::from_str(&text).map_err(malformed)?;
            for (op, runs) in [(Op::Post, runs.post), (Op::Patch, runs.patch)] {
                for (i, raw) in runs.unwrap_or_default().into_iter().enumerate() {
                    let stored = Write::of_object(op, None, raw).and_then(|write| write.store(project, batch));
                    if let Err(error) = stored {
                        batch.set_aside(format!("{}[{i}]", op.as_str()), error.to_string());
                    }
                }
            }
        }
        BodyKind::Run(op, id) => {
            let text = lenient::json(body).map_err(malformed)?;
            let raw = serde_json::from_str(&text).map_err(malformed)?;
            Write::of_object(*op, *id, raw).and_then(|write| write.store(project, batch)).map_err(invalid)?;
        }
        BodyKind::Feedback => {
            let text = lenient::json(body).map_err(malformed)?;
            let raw = serde_json::from_str(&text).map_err(malformed)?;
            feedback::store(None, raw, project, batch).map_err(invalid)?;
        }
    }
    Ok(())
}

/// The body of `POST /runs/batch`.
#[derive(Deserialize)]
struct Runs<'a> {
    #[serde(borrow)]
    post: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    patch: Option<Vec<&'a RawValue>>,
}
