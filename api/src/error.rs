//! The body of a refused or failed request.

use serde::{Deserialize, Serialize};

/// Body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ErrorBody {
    /// For programs; the set may grow.
    pub error: ErrorCode,
    /// For people: what failed, and why.
    pub message: String,
    /// What to do next, when there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// One word per kind of failure. Each has one HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The request itself is wrong: a malformed id, a missing parameter, unreadable JSON.
    BadRequest,
    /// The bearer token is missing or wrong.
    Unauthorized,
    /// A Host or Origin that is not this machine, or an action that is not the asker's to take.
    Forbidden,
    NotFound,
    MethodNotAllowed,
    /// The rest of the request did not come in time.
    TooSlow,
    /// What is there already contradicts the request, or its state does not allow it.
    Conflict,
    TooLarge,
    RangeNotSatisfiable,
    /// Too few peers can or will take the work.
    TooFewPeers,
    /// Try again later; nothing was done.
    Busy,
    /// No node that could be asked knows the quorum.
    UnknownQuorum,
    /// The quorum has no majority, or its members do not answer.
    Unavailable,
    /// No answer in time: whether it was done is unknown.
    Unknown,
    Internal,
    /// A code that this build does not know.
    #[serde(other)]
    Other,
}

impl std::fmt::Display for ErrorBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n{hint}"),
            None => Ok(()),
        }
    }
}
