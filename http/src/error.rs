//! Errors as clients see them: one table from what failed to a code, one from a code to a status.

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use quorate_api::{ErrorBody, ErrorCode};
use quorate_protocols::object::RangeFault;
use quorate_protocols::quorum::Rejection;
use quorate_protocols::trigger::outbox::EmitError;

use quorate_node::events::EventError;
use quorate_node::objects::{GetError, PutError};
use quorate_node::quorums::logs::LogError;
use quorate_node::quorums::submit::SubmitError;
use quorate_node::quorums::{ClientError, PlacementError};
use quorate_protocols::text::chain;

/// An answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    pub body: ErrorBody,
    /// Size of the object, for `Content-Range` of an unsatisfiable range.
    size: Option<u64>,
}

/// The one status of each code.
pub const fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::BadRequest => StatusCode::BAD_REQUEST,
        ErrorCode::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorCode::Forbidden => StatusCode::FORBIDDEN,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        ErrorCode::TooSlow => StatusCode::REQUEST_TIMEOUT,
        ErrorCode::Conflict => StatusCode::CONFLICT,
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::RangeNotSatisfiable => StatusCode::RANGE_NOT_SATISFIABLE,
        ErrorCode::TooFewPeers => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Busy => StatusCode::TOO_MANY_REQUESTS,
        // Not 404: others may know it, and what it keeps is not gone for that.
        ErrorCode::UnknownQuorum | ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Unknown => StatusCode::GATEWAY_TIMEOUT,
        ErrorCode::Internal | ErrorCode::Other => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl ApiError {
    pub fn new(error: ErrorCode, message: impl std::fmt::Display) -> Self {
        Self { body: ErrorBody { error, message: message.to_string(), hint: None }, size: None }
    }
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.body.hint = Some(hint.into());
        self
    }
    pub fn bad_request(message: impl std::fmt::Display) -> Self {
        Self::new(ErrorCode::BadRequest, message)
    }
    pub fn not_found(message: impl std::fmt::Display) -> Self {
        Self::new(ErrorCode::NotFound, message)
    }
    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(ErrorCode::Internal, message)
    }
    pub fn code(&self) -> ErrorCode {
        self.body.error
    }
    /// A whole answer, for a connection that has no request to answer.
    pub fn to_http(&self) -> Vec<u8> {
        let body = serde_json::to_string(&self.body).unwrap_or_else(|error| {
            tracing::error!(%error, "an error body cannot be written");
            "{}".to_owned()
        });
        let (status, length) = (status(self.body.error), body.len());
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (status(self.body.error), axum::Json(&self.body)).into_response();
        // For the audit log.
        response.extensions_mut().insert(self.body.error);
        if let Some(size) = self.size
            && let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}"))
        {
            response.headers_mut().insert(header::CONTENT_RANGE, value);
        }
        if self.body.error == ErrorCode::Unauthorized {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

fn code_of(rejection: &Rejection) -> ErrorCode {
    match rejection {
        Rejection::UnknownJob { .. } | Rejection::UnknownObject { .. } => ErrorCode::NotFound,
        Rejection::IllegalState { .. }
        | Rejection::WrongKind { .. }
        | Rejection::UnknownWorker { .. }
        | Rejection::NoTrigger { .. }
        | Rejection::HasTrigger { .. }
        | Rejection::EventGap { .. }
        | Rejection::Superseded { .. }
        | Rejection::Conflict { .. }
        | Rejection::InUse { .. }
        | Rejection::StaleAttempt { .. }
        | Rejection::DifferentContent { .. } => ErrorCode::Conflict,
        Rejection::NotUploader { .. } | Rejection::NotSigned { .. } => ErrorCode::Forbidden,
        Rejection::Full { .. } | Rejection::Level { .. } => ErrorCode::Unavailable,
        Rejection::TooLarge { .. } => ErrorCode::TooLarge,
        Rejection::Invalid { .. } => ErrorCode::BadRequest,
    }
}

impl From<ClientError> for ApiError {
    fn from(error: ClientError) -> Self {
        let said = |hint: &str| Some(hint.to_owned());
        let (code, hint) = match &error {
            ClientError::Rejected(rejection @ Rejection::InUse { .. }) => (
                code_of(rejection),
                said("cancel what needs it with `quorate job cancel JOB`, or remove it all the same with --force"),
            ),
            ClientError::Rejected(rejection @ Rejection::UnknownJob { .. }) => {
                (code_of(rejection), said("`quorate job ls` lists the jobs; those that ended long ago are forgotten"))
            }
            ClientError::Rejected(rejection @ Rejection::Full { .. }) => (
                code_of(rejection),
                said(
                    "try again without --quorum: this node passes the quorum over for a minute. One owner has half of \
                     what a quorum holds; `quorate quorum show` says what room it has in all",
                ),
            ),
            ClientError::Rejected(rejection @ Rejection::Superseded { job, controlled }) => {
                let why = match controlled {
                    true => "somebody else commands it at the same time",
                    false => "it changes by itself just now: repeat the command in a moment",
                };
                (code_of(rejection), Some(format!("{why}; `quorate job show {job}` shows where it stands")))
            }
            ClientError::Rejected(rejection) => (code_of(rejection), None),
            ClientError::QuorumUnknown { .. } => (
                ErrorCode::UnknownQuorum,
                said(
                    "check the id: no node that this one hears knows such a quorum; `quorate quorum ls` lists those known",
                ),
            ),
            ClientError::Unreachable { .. } => {
                (ErrorCode::Unavailable, said("its members are down, or not reachable from here: see `quorate peers`"))
            }
            ClientError::Paused { quorum, .. } => (
                ErrorCode::Unavailable,
                Some(format!(
                    "a majority of its members must answer and have room on their disks: see `quorate quorum show \
                     {quorum}`"
                )),
            ),
            ClientError::NoPrimary { quorum, .. } => (
                ErrorCode::Unavailable,
                Some(format!("try again in a moment; `quorate quorum show {quorum}` says what its members see")),
            ),
            ClientError::Busy { .. } => (ErrorCode::Busy, said("try again in a moment")),
            ClientError::Unknown { .. } => {
                (ErrorCode::Unknown, said("look at the state before trying again; repeating the command is safe"))
            }
            // The reason says who may.
            ClientError::Forbidden { .. } => (ErrorCode::Forbidden, None),
            ClientError::Protocol { .. } => {
                (ErrorCode::Internal, said("the two nodes may run different versions of quorate"))
            }
        };
        Self { body: ErrorBody { error: code, message: chain(&error), hint }, size: None }
    }
}

impl From<PlacementError> for ApiError {
    fn from(error: PlacementError) -> Self {
        Self::new(ErrorCode::TooFewPeers, chain(&error)).hint(
            "start more nodes, or free disk on those that are full; `quorate peers` shows who is there and what each \
                   has left",
        )
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        let text = chain(&error);
        match error {
            SubmitError::Placement(error) => error.into(),
            SubmitError::Client(ClientError::Rejected(Rejection::Conflict { job })) => {
                Self::new(ErrorCode::Conflict, text).hint(format!(
                    "`quorate job show {job}` shows what was submitted; another job needs another key, or none"
                ))
            }
            SubmitError::Client(error) => error.into(),
            SubmitError::KeyElsewhere { recorded, .. } => Self::new(ErrorCode::Conflict, text)
                .hint(format!("give --quorum {recorded}, no quorum at all, or another key")),
            SubmitError::Key { .. } | SubmitError::Contradiction { .. } => Self::bad_request(text),
            SubmitError::Disk(_) => Self::internal(text).hint("`quorate doctor` looks at this node's disk"),
        }
    }
}

impl From<EventError> for ApiError {
    fn from(error: EventError) -> Self {
        let text = chain(&error);
        match error {
            EventError::Refused(EmitError::Invalid(_)) => Self::bad_request(text),
            EventError::Refused(EmitError::Full { .. }) => Self::new(ErrorCode::Busy, text).hint(
                "nothing was taken; `quorate job ls` shows whether the jobs that listen keep up, and `quorate quorum ls` \
                 whether their quorums answer. Then emit again",
            ),
            EventError::Disk(_) => Self::internal(text).hint("`quorate doctor` looks at this node's disk"),
            EventError::Closing => Self::new(ErrorCode::Unknown, text).hint("emit it again under the same id"),
        }
    }
}

impl From<LogError> for ApiError {
    fn from(error: LogError) -> Self {
        let text = chain(&error);
        match error {
            LogError::Client(error) => error.into(),
            LogError::None { .. } => Self::not_found(text).hint(
                "the worker that ran the task keeps its log for a week at most, and nobody else has it: start that \
                     worker if it is down",
            ),
            LogError::Forbidden { task, .. } => Self::new(ErrorCode::Forbidden, text).hint(format!(
                "ask through the node that submitted the job; `quorate job show {}` names its owner",
                task.id.job
            )),
        }
    }
}

/// Nodes that storing anything takes: a quorum has as many members, and each of them keeps the record of a file whose
/// pieces are on others.
const HOLDERS_MIN: usize = quorate_protocols::quorum::limits::VOTERS_MIN;

impl From<PutError> for ApiError {
    fn from(error: PutError) -> Self {
        let text = chain(&error);
        match error {
            PutError::Placement(error) => error.into(),
            PutError::Client(error) => error.into(),
            PutError::TooFewHolders(shortage) => {
                let remedy = shortage.remedy();
                let hint = match shortage.fitting.filter(|fitting| *fitting != shortage.profile) {
                    Some(fitting) => format!("{remedy}, or choose a profile that fits with --profile {fitting}"),
                    None => {
                        let more = HOLDERS_MIN.saturating_sub(shortage.holders);
                        format!(
                            "a file is kept on at least {HOLDERS_MIN} nodes with room, {more} more than there are now: \
                             {remedy} (`quorate init --join LINE` on another machine, then `quorate node`); \
                             `quorate peers` shows what each has left"
                        )
                    }
                };
                Self::new(ErrorCode::TooFewPeers, text).hint(hint)
            }
            PutError::NoRoom { .. } => Self::new(ErrorCode::TooFewPeers, text).hint(
                "free disk on full nodes or raise their `resources.disk_max`, start nodes that do not answer, or add \
                 nodes; `quorate peers` shows who is there and what each has left",
            ),
            PutError::Body { .. } => Self::bad_request(text).hint(
                "put the same file again on this node, or with --resume JOB from another: only what is missing is sent",
            ),
            PutError::Length { .. } => Self::bad_request(text),
            PutError::TooLarge { .. } => Self::new(ErrorCode::TooLarge, text),
            PutError::DifferentContent { .. } => {
                Self::new(ErrorCode::Conflict, text).hint("put it without --resume to store it as an object of its own")
            }
            PutError::Ended { job, .. } => Self::new(ErrorCode::Conflict, text)
                .hint(format!("`quorate job show {job}` says why; put the file again to start anew")),
        }
    }
}

impl From<GetError> for ApiError {
    fn from(error: GetError) -> Self {
        let text = chain(&error);
        match error {
            GetError::Unknown { .. } => Self::not_found(text).hint("`quorate object ls` lists what is stored"),
            GetError::Client(error) => error.into(),
            GetError::Unreadable { object, .. } => Self::new(ErrorCode::Unavailable, text).hint(format!(
                "`quorate object show {object}` names the holders; start those that are down and try again"
            )),
            GetError::Interrupted { .. } => Self::new(ErrorCode::Unavailable, text)
                .hint("read it through another node, or again when this one has started"),
            GetError::Range(RangeFault::PastEnd { size, .. } | RangeFault::NoBytes { size }) => {
                let mut error = Self::new(ErrorCode::RangeNotSatisfiable, text);
                error.size = Some(size);
                error
            }
        }
    }
}

fn of_rejection(status: StatusCode, message: String) -> ApiError {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(ErrorCode::TooLarge, message),
        _ => ApiError::bad_request(message),
    }
}

/// Whether the client stopped sending before its body was whole.
fn is_stalled(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::TimedOut) {
            return true;
        }
        next = error.source();
    }
    false
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        match is_stalled(&rejection) {
            true => Self::new(ErrorCode::TooSlow, rejection.body_text()),
            false => of_rejection(rejection.status(), rejection.body_text()),
        }
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        of_rejection(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        of_rejection(rejection.status(), rejection.body_text())
    }
}

#[cfg(test)]
mod tests {
    use quorate_protocols::object::{HolderShortage, Profile, Reachable};

    use super::*;

    fn hint(holders: usize, full: usize, profile: Profile) -> String {
        let known = Reachable { full, ..Reachable::default() };
        let shortage = HolderShortage::new(Some(1 << 30), 1 << 29, profile, holders, known);
        ApiError::from(PutError::TooFewHolders(shortage)).body.hint.unwrap()
    }

    #[test]
    fn a_put_that_finds_too_few_peers_says_what_to_do_about_it() {
        let small = Profile { data: 2, parity: 1 };
        for (holders, more) in [(0, "3 more than"), (1, "2 more than"), (2, "1 more than")] {
            let hint = hint(holders, 0, small);
            assert!(hint.contains(more) && !hint.contains("--profile") && !hint.contains("disk_max"), "{hint}");
        }
        let full = hint(0, 3, small);
        assert!(full.contains("free disk on the full nodes or raise their `resources.disk_max`"), "{full}");
        let hint = hint(4, 0, Profile::DEFAULT);
        assert!(hint.contains("--profile 2+2"), "{hint}");
    }
}
