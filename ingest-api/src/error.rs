//! Every reason to refuse a request, with its status, its message for the client, and whether and when to retry.
//!
//! The message tells the client what to change; the cause stays in our log.

use std::sync::Arc;
use std::time::Duration;

use admission::Refused;
use auth::ResolveError;
use http::StatusCode;
use ledger::LedgerError;
use outcomes::Outcome;
use queue::appender::AppendError;
use stores::redis::ConnectError;
use stores::redis::ack::AckClass;
use translate::batch::TooLarge;

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ApiError {
    #[error("no API key: send it as `Authorization: Bearer <key>` or `x-api-key: <key>`")]
    NoKey,
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("not found")]
    NotFound,
    #[error("method not allowed: this path takes {allowed}")]
    MethodNotAllowed { allowed: &'static str },
    #[error("pages of this origin may not send here; an operator can list it in TRACEBILITY_CORS_ORIGINS")]
    Origin,
    #[error("unsupported content type {found:?}: expected one of {wanted}")]
    ContentType { found: String, wanted: &'static str },
    #[error(
        "this port takes gRPC alone, a POST over HTTP/2 with content type application/grpc, and got {found}; send OTLP/HTTP to the HTTP port"
    )]
    NotGrpc { found: String },
    #[error("unsupported content encoding {found:?}: expected one of identity, gzip, deflate, zstd")]
    ContentEncoding { found: String },
    #[error("the {what} is larger than {limit}{unit}; send less per request")]
    TooLarge { what: &'static str, limit: usize, unit: &'static str },
    #[error("{}", beginning(.0))]
    Malformed(String),
    #[error("{}", beginning(.0))]
    Invalid(String),
    #[error("the body did not arrive within {} s", .0.as_secs())]
    BodyTimeout(Duration),
    #[error("too many requests are under way; try again")]
    Overloaded,
    #[error("the organization is being moved to another shard, which takes seconds; try again")]
    Moving,
    #[error("internal error; quote this request id when you report it")]
    Defect,
    #[error("the data cannot be stored at the moment; try again")]
    Unavailable(#[source] redis::RedisError),
    #[error("the data cannot be kept as promised at the moment; try again")]
    NotDurable(#[source] Arc<ConnectError>),
    #[error("whether the data is {class} is unknown: it was not confirmed in time; send it again")]
    Unconfirmed { class: AckClass, why: String },
    #[error("the service has just started and cannot store data yet; try again")]
    Starting,
    #[error("the ledger cannot be read at the moment; try again")]
    NoLedger(#[source] LedgerError),
}

/// Most bytes of a message that quotes text of the client, which can have any length.
const MESSAGE_BYTES_MAX: usize = 1_024;

fn beginning(message: &str) -> &str {
    &message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)]
}

impl From<TooLarge> for ApiError {
    fn from(TooLarge { what, limit, unit }: TooLarge) -> Self {
        Self::TooLarge { what, limit, unit }
    }
}

impl ApiError {
    /// The error when an envelope could not be appended as its ack class promises.
    pub fn of_append(error: AppendError, class: AckClass) -> Self {
        match error {
            AppendError::Redis(error) => Self::Unavailable(error),
            AppendError::NotReady(reason) => Self::NotDurable(reason),
            AppendError::Unconfirmed(why) => Self::Unconfirmed { class, why },
            AppendError::Busy => Self::Overloaded,
        }
    }

    /// The HTTP status. Overload never gives 500, because SDKs do not send data again after a 500.
    pub fn status(&self) -> StatusCode {
        match self {
            ApiError::NoKey => StatusCode::UNAUTHORIZED,
            ApiError::Resolve(error) => match error {
                ResolveError::Unknown | ResolveError::Revoked | ResolveError::Expired => StatusCode::UNAUTHORIZED,
                ResolveError::Frozen { .. } | ResolveError::Archived { .. } | ResolveError::MissingScope { .. } => {
                    StatusCode::FORBIDDEN
                }
                ResolveError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            },
            ApiError::Refused(refused) => match refused {
                Refused::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
                Refused::TooCostly { .. } => StatusCode::PAYLOAD_TOO_LARGE,
                Refused::Forbidden { .. } => StatusCode::FORBIDDEN,
                Refused::OverQuota { .. } => StatusCode::PAYMENT_REQUIRED,
            },
            ApiError::NotFound => StatusCode::NOT_FOUND,
            ApiError::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            ApiError::Origin => StatusCode::FORBIDDEN,
            ApiError::ContentType { .. } | ApiError::NotGrpc { .. } | ApiError::ContentEncoding { .. } => {
                StatusCode::UNSUPPORTED_MEDIA_TYPE
            }
            ApiError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            ApiError::Malformed(_) => StatusCode::BAD_REQUEST,
            ApiError::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            ApiError::BodyTimeout(_) => StatusCode::REQUEST_TIMEOUT,
            ApiError::Overloaded | ApiError::Moving | ApiError::Starting => StatusCode::SERVICE_UNAVAILABLE,
            ApiError::Unavailable(_) | ApiError::NoLedger(_) => StatusCode::SERVICE_UNAVAILABLE,
            ApiError::NotDurable(_) | ApiError::Unconfirmed { .. } => StatusCode::SERVICE_UNAVAILABLE,
            ApiError::Defect => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The outcome in the ledger for the items of a request that is refused with this error.
    pub fn outcome(&self) -> Outcome {
        match self {
            ApiError::Refused(Refused::RateLimited { .. }) => Outcome::RateLimited,
            ApiError::Refused(Refused::OverQuota { .. }) => Outcome::OverQuota,
            error if error.status().is_server_error() => Outcome::Unavailable,
            _ => Outcome::Rejected,
        }
    }

    /// A stable name, for programs and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            ApiError::NoKey => "no_key",
            ApiError::Resolve(error) => match error {
                ResolveError::Unknown => "unknown_key",
                ResolveError::Revoked => "revoked_key",
                ResolveError::Expired => "expired_key",
                ResolveError::Frozen { .. } => "org_frozen",
                ResolveError::Archived { .. } => "archived",
                ResolveError::MissingScope { .. } => "missing_scope",
                ResolveError::Unavailable(_) => "registry_unavailable",
            },
            ApiError::Refused(refused) => match refused {
                Refused::RateLimited { .. } => "rate_limited",
                Refused::TooCostly { .. } => "too_costly",
                Refused::Forbidden { .. } => "rate_is_zero",
                Refused::OverQuota { .. } => "over_quota",
            },
            ApiError::NotFound => "not_found",
            ApiError::MethodNotAllowed { .. } => "method_not_allowed",
            ApiError::Origin => "origin_not_allowed",
            ApiError::ContentType { .. } => "content_type",
            ApiError::NotGrpc { .. } => "not_grpc",
            ApiError::ContentEncoding { .. } => "content_encoding",
            ApiError::TooLarge { .. } => "too_large",
            ApiError::Malformed(_) => "malformed",
            ApiError::Invalid(_) => "invalid",
            ApiError::BodyTimeout(_) => "body_timeout",
            ApiError::Overloaded => "overloaded",
            ApiError::Moving => "org_moving",
            ApiError::Starting => "starting",
            ApiError::Defect => "defect",
            ApiError::Unavailable(_) => "storage_unavailable",
            ApiError::NotDurable(_) => "storage_not_ready",
            ApiError::Unconfirmed { .. } => "storage_unconfirmed",
            ApiError::NoLedger(_) => "ledger_unavailable",
        }
    }

    /// The code of `google.rpc.Code`, for OTLP clients.
    pub fn grpc_code(&self) -> i32 {
        const INVALID_ARGUMENT: i32 = 3;
        const DEADLINE_EXCEEDED: i32 = 4;
        const NOT_FOUND: i32 = 5;
        const PERMISSION_DENIED: i32 = 7;
        const RESOURCE_EXHAUSTED: i32 = 8;
        const UNIMPLEMENTED: i32 = 12;
        const INTERNAL: i32 = 13;
        const UNAVAILABLE: i32 = 14;
        const UNAUTHENTICATED: i32 = 16;
        match self.status() {
            StatusCode::UNAUTHORIZED => UNAUTHENTICATED,
            StatusCode::FORBIDDEN => PERMISSION_DENIED,
            StatusCode::NOT_FOUND => NOT_FOUND,
            StatusCode::METHOD_NOT_ALLOWED => UNIMPLEMENTED,
            StatusCode::REQUEST_TIMEOUT => DEADLINE_EXCEEDED,
            StatusCode::SERVICE_UNAVAILABLE => UNAVAILABLE,
            // Clients retry this code only with a `RetryInfo`, which over gRPC is sent with it.
            StatusCode::TOO_MANY_REQUESTS => RESOURCE_EXHAUSTED,
            StatusCode::INTERNAL_SERVER_ERROR => INTERNAL,
            StatusCode::PAYMENT_REQUIRED => RESOURCE_EXHAUSTED,
            _ => INVALID_ARGUMENT,
        }
    }
}
