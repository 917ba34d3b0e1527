//! `POST /v1/jobs:batch`: many submits in one request, each with the answer that it would have by itself.
//!
//! Each is checked, gets its id and goes to its quorum as one that came alone, a bounded number at a time: commands
//! that are on their way together share messages and entries. Keys and ids make each repeatable. What is wrong with one
//! is no matter of the others; what cannot be read as a whole, or has too many, is refused before anything is
//! submitted.

use std::fmt;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures::stream::{self, StreamExt};
use quorate_api::{
    ErrorBody, ErrorCode, SUBMIT_MANY_JOBS_MAX, SubmitInfo, SubmitManyInfo, SubmitOutcome, SubmitRequest,
};
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::audit::Subjects;
use super::backend::Shared;
use super::error::ApiError;
use super::limits::{SUBMIT_MANY_DEADLINE, SUBMIT_MANY_IN_FLIGHT, SUBMIT_MANY_MAX};
use super::lines::{self, NDJSON};
use super::submit::prepare;

// The description says how many.
const _: () = assert!(SUBMIT_MANY_JOBS_MAX == 1_000);

/// Submits up to 1,000 jobs, each as `POST /v1/jobs` does: an array, or with `Content-Type: application/x-ndjson` one
/// per line. Each has an answer of its own, in the same order: what was submitted, or the error. With
/// `Accept: application/x-ndjson` these are lines too.
#[utoipa::path(post, path = "/v1/jobs:batch", tag = "jobs",
    request_body(content((Vec<SubmitRequest> = "application/json"), (SubmitRequest = "application/x-ndjson"))),
    responses(
        (status = 200, content((SubmitManyInfo = "application/json"), (SubmitOutcome = "application/x-ndjson"))),
        (status = "default", body = ErrorBody)))]
pub async fn submit_many(
    State(backend): State<Shared>,
    headers: HeaderMap,
    SubmitMany { requests, _place }: SubmitMany,
) -> Response {
    let (backend, end) = (&backend, Instant::now() + SUBMIT_MANY_DEADLINE);
    let submits = requests.into_iter().enumerate();
    let submits = submits.map(|(at, request)| async move { (at, submit_one(backend, request, end).await) });
    // In any order: one whose quorum is slow to answer holds up no other.
    let mut submitted: Vec<_> = stream::iter(submits).buffer_unordered(SUBMIT_MANY_IN_FLIGHT).collect().await;
    submitted.sort_by_key(|(at, _)| *at);
    let (mut jobs, mut subjects) = (Vec::new(), Vec::new());
    for (_, outcome) in submitted {
        subjects.push(outcome.as_ref().map(|info| info.job.to_string()).map_err(ApiError::code));
        jobs.push(match outcome {
            Ok(info) => SubmitOutcome::Submitted(info),
            Err(error) => SubmitOutcome::Refused(error.body),
        });
    }
    let answer = match lines::are_wanted(&headers) {
        true => {
            let body: Vec<u8> = jobs.iter().flat_map(lines::line).collect();
            ([(header::CONTENT_TYPE, NDJSON)], body).into_response()
        }
        false => Json(SubmitManyInfo { jobs }).into_response(),
    };
    (Extension(Subjects(subjects)), answer).into_response()
}

async fn submit_one(backend: &Shared, request: One, end: Instant) -> Result<SubmitInfo, ApiError> {
    let request = request?;
    if Instant::now() >= end {
        let text = format!("the submits before this one took {SUBMIT_MANY_DEADLINE:?}; nothing was done about it");
        return Err(ApiError::new(ErrorCode::Busy, text).hint("submit it again, among fewer"));
    }
    let (job, spec) = prepare(backend, &request).await?;
    backend.submit(job, spec).await
}

/// Requests for many submits that may be in hand at once.
#[derive(Clone)]
pub struct SubmitManyPlaces(Arc<Semaphore>);

impl Default for SubmitManyPlaces {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(SUBMIT_MANY_MAX)))
    }
}

impl SubmitManyPlaces {
    fn take_one(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.0.clone().try_acquire_owned().map_err(|_| {
            let text = format!("{SUBMIT_MANY_MAX} requests with many submits are in hand here, and no more may be");
            ApiError::new(ErrorCode::Busy, text).hint("wait until one of them ends")
        })
    }
}

/// One submit as it was sent, or why it cannot be read.
type One = Result<SubmitRequest, ApiError>;

/// The submits of a request, and its place among those in hand, which it has before its body is read.
pub struct SubmitMany {
    requests: Vec<One>,
    _place: OwnedSemaphorePermit,
}

impl<S: Send + Sync> FromRequest<S> for SubmitMany {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let places = request.extensions().get::<SubmitManyPlaces>();
        let place = places.ok_or_else(|| ApiError::internal("no places for many submits"))?.take_one()?;
        let (requests, sent) = match lines::are_sent(request.headers()) {
            true => {
                let body = Bytes::from_request(request, state).await;
                read_lines(&body.map_err(JsonRejection::from)?)
            }
            false => {
                let Json(Many { requests, sent }) = Json::<Many>::from_request(request, state).await?;
                (requests, sent)
            }
        };
        if sent > SUBMIT_MANY_JOBS_MAX {
            let text = format!("{sent} jobs in one request, and at most {SUBMIT_MANY_JOBS_MAX} may be; none was taken");
            return Err(ApiError::new(ErrorCode::TooLarge, text).hint("send them in several requests"));
        }
        Ok(Self { requests, _place: place })
    }
}

fn unreadable(error: serde_json::Error) -> ApiError {
    ApiError::bad_request(format!("not a submit: {error}"))
}

/// The first submits of the lines, and how many lines there are.
fn read_lines(body: &[u8]) -> (Vec<One>, usize) {
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    let read = |line: &[u8]| serde_json::from_slice(line).map_err(unreadable);
    (lines.clone().take(SUBMIT_MANY_JOBS_MAX).map(read).collect(), lines.count())
}

/// The first elements of an array, and how many it has.
struct Many {
    requests: Vec<One>,
    sent: usize,
}

impl<'de> Deserialize<'de> for Many {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements;

        impl<'de> Visitor<'de> for Elements {
            type Value = Many;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of submits")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Many, A::Error> {
                let mut requests = Vec::new();
                while requests.len() < SUBMIT_MANY_JOBS_MAX {
                    // An element of another form is wrong by itself; one that is no JSON hides where the next begins.
                    let Some(element) = elements.next_element::<serde_json::Value>()? else { break };
                    requests.push(SubmitRequest::deserialize(element).map_err(unreadable));
                }
                let mut sent = requests.len();
                while elements.next_element::<IgnoredAny>()?.is_some() {
                    sent += 1;
                }
                Ok(Many { requests, sent })
            }
        }

        deserializer.deserialize_seq(Elements)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_or_an_element_that_is_no_submit_is_wrong_by_itself() {
        let lines = b"{\"spec\":\"a\"}\n\n \r\n{\"spec\":7}\n{\"spec\":\n{\"spec\":\"b\",\"key\":\"k\"}";
        let (read, sent) = read_lines(lines);
        assert_eq!((read.len(), sent), (4, 4));
        assert_eq!(read.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, false, true]);
        assert_eq!(read[3].as_ref().unwrap().key.as_deref(), Some("k"));
        let many: Many = serde_json::from_str("[{\"spec\":\"a\"}, 5, {}, {\"spec\":\"b\"}]").unwrap();
        assert_eq!(many.requests.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, false, true]);
        for wrong in ["", "{}", "[", "[{\"spec\":\"a\"},", "[]]", "7"] {
            assert!(serde_json::from_str::<Many>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_more_is_kept_than_may_be_submitted_and_all_are_counted() {
        let (more, text) = (SUBMIT_MANY_JOBS_MAX + 7, "{\"spec\":\"a\"}");
        let many: Many = serde_json::from_str(&format!("[{}]", vec![text; more].join(","))).unwrap();
        assert_eq!((many.requests.len(), many.sent), (SUBMIT_MANY_JOBS_MAX, more));
        let (read, sent) = read_lines(vec![text; more].join("\n").as_bytes());
        assert_eq!((read.len(), sent), (SUBMIT_MANY_JOBS_MAX, more));
    }
}
