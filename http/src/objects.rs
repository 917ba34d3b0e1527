//! `/v1/objects`: streams in and out.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use futures::stream::BoxStream;
use quorate_api::{ErrorBody, Listing, ObjectInfo, PutInfo, PutProgressInfo, PutUpdate, RemovalInfo, range, schema};
use quorate_node::objects::{PutPhase, PutProgress, PutRequest};
use quorate_node::{seams, streams};
use quorate_protocols::ids::{JobId, ObjectId, QuorumId};
use quorate_protocols::object::Profile;
use quorate_protocols::object::limits::NAME_BYTES_MAX;
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::backend::Shared;
use super::error::ApiError;
use super::extract::{Path, Query};
use super::limits::{DOWNLOAD_CHUNKS_MAX, PROGRESS_INTERVAL, PROGRESS_SILENCE_MAX, TEXT_BYTES_MAX};
use super::lines::{self, NDJSON};
use super::page::PageParams;
use super::removal::Removal;
use super::views;

/// Objects of every quorum that this node knows, the newest first.
#[utoipa::path(get, path = "/v1/objects", tag = "objects", params(PageParams),
    responses((status = 200, body = Listing<ObjectInfo>), (status = "default", body = ErrorBody)))]
pub async fn list(
    State(backend): State<Shared>,
    Query(params): Query<PageParams>,
) -> Result<axum::Json<Listing<ObjectInfo>>, ApiError> {
    Ok(axum::Json(backend.objects(params.page()?).await))
}

/// One object: who holds what.
#[utoipa::path(get, path = "/v1/objects/{object}", tag = "objects", params(("object" = schema::ObjectId, Path)),
    responses((status = 200, body = ObjectInfo), (status = "default", body = ErrorBody)))]
pub async fn show(
    State(backend): State<Shared>,
    Path(object): Path<ObjectId>,
) -> Result<axum::Json<ObjectInfo>, ApiError> {
    Ok(axum::Json(backend.object(object).await?))
}

/// Gives up this node's claim on an object, or others. With the last claim the object is removed, and its pieces are
/// given back by their holders; until then it is as readable as before.
#[utoipa::path(delete, path = "/v1/objects/{object}", tag = "objects", params(("object" = schema::ObjectId, Path), Removal),
    responses((status = 200, body = RemovalInfo), (status = "default", body = ErrorBody)))]
pub async fn remove(
    State(backend): State<Shared>,
    Path(object): Path<ObjectId>,
    Query(removal): Query<Removal>,
) -> Result<axum::Json<RemovalInfo>, ApiError> {
    if removal.name.as_ref().is_some_and(|name| name.len() > NAME_BYTES_MAX) {
        return Err(ApiError::bad_request(format!("name is longer than {NAME_BYTES_MAX} bytes")));
    }
    Ok(axum::Json(backend.remove(object, removal).await?))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PutParams {
    /// The file's name, for people.
    name: Option<String>,
    /// How many bytes will come; the Content-Length otherwise.
    bytes: Option<u64>,
    /// data+parity, such as 4+2 (the plus as %2B). Chosen by the number of peers otherwise.
    profile: Option<String>,
    /// The quorum that shall own the run.
    #[param(value_type = Option<schema::QuorumId>)]
    quorum: Option<QuorumId>,
    /// Go on with this run: only what is missing is sent.
    #[param(value_type = Option<schema::JobId>)]
    resume: Option<JobId>,
    /// Names the same file when it is put again on this node, so that an interrupted run is gone on with.
    fingerprint: Option<String>,
}

impl PutParams {
    fn check(self, headers: &HeaderMap) -> Result<PutRequest, ApiError> {
        let too_long = |what: &str, limit: usize| ApiError::bad_request(format!("{what} is longer than {limit} bytes"));
        if self.name.as_ref().is_some_and(|name| name.len() > NAME_BYTES_MAX) {
            return Err(too_long("name", NAME_BYTES_MAX));
        }
        if self.fingerprint.as_ref().is_some_and(|text| text.len() > TEXT_BYTES_MAX) {
            return Err(too_long("fingerprint", TEXT_BYTES_MAX));
        }
        let announced = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.parse().ok());
        // In a query a bare plus is a space.
        let profile = self.profile.map(|text| text.replace(' ', "+").parse::<Profile>());
        Ok(PutRequest {
            name: self.name.filter(|name| !name.is_empty()),
            size: self.bytes.or(announced),
            profile: profile.transpose().map_err(|error| ApiError::bad_request(error.to_string()))?,
            quorum: self.quorum,
            resume: self.resume,
            fingerprint: self.fingerprint,
        })
    }
}

/// Stores the body as an object. Nothing is staged: the body is read as fast as its pieces are stored.
///
/// With `Accept: application/x-ndjson` the answer begins at once and reports progress, one JSON value per line; its
/// last line is `done` or `error`. Otherwise the answer comes when the object is committed. A client that goes away
/// leaves the run to be resumed.
#[utoipa::path(post, path = "/v1/objects", tag = "objects", params(PutParams),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, content((PutInfo = "application/json"), (PutUpdate = "application/x-ndjson"))),
        (status = "default", body = ErrorBody)))]
pub async fn put(
    State(backend): State<Shared>,
    Query(params): Query<PutParams>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let request = params.check(&headers)?;
    let wants_progress = lines::are_wanted(&headers);
    let body = pumped(body);
    let (report, progress) = watch::channel(PutProgress::default());
    let began = Instant::now();
    let put = backend.put(request, body, report);
    // A task of its own: a client that goes away must not stop a commit half way.
    let put = seams::spawn(async move {
        let outcome = put.await?;
        let name = backend.peer_name(outcome.by.peer);
        Ok(views::put_info(outcome, name, began.elapsed()))
    });
    let outcome = async move {
        match put.await {
            Ok(Some(outcome)) => outcome,
            // The task was dropped with its node, or panicked.
            Ok(None) | Err(_) => Err(ApiError::internal("the node stopped while storing")),
        }
    };
    if !wants_progress {
        return Ok(axum::Json(outcome.await?).into_response());
    }
    let (send, receive) = mpsc::channel::<Bytes>(1);
    seams::spawn(follow(outcome, progress, send));
    let lines = streams::receiver(receive).map(Ok::<_, Infallible>);
    Ok(([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(lines)).into_response())
}

/// The body, read by a task that outlives the put.
fn pumped(body: Body) -> BoxStream<'static, Result<Bytes, std::io::Error>> {
    let mut body = body.into_data_stream();
    let (send, receive) = mpsc::channel(1);
    seams::spawn(async move {
        while let Some(chunk) = body.next().await {
            if send.send(chunk.map_err(std::io::Error::other)).await.is_err() {
                return;
            }
        }
    });
    streams::receiver(receive).boxed()
}

/// Reports progress until the put has ended, then its end. Every phase gets a line, at once and in order, however short
/// it was, and so does the first piece; what else changes within a phase is told at intervals.
async fn follow(
    outcome: impl Future<Output = Result<PutInfo, ApiError>>,
    mut progress: watch::Receiver<PutProgress>,
    lines: mpsc::Sender<Bytes>,
) {
    let mut outcome = std::pin::pin!(outcome);
    let mut teller = Teller { lines, passed: 0, last: None };
    loop {
        let now = progress.borrow_and_update().clone();
        // If the client goes away, the put ends by itself, with or without its body.
        if !teller.progress(&now).await {
            return;
        }
        let next = async {
            // The first piece counts as news too: from here on there is something to lose.
            let news = progress
                .wait_for(|progress| progress.phase != now.phase || (now.pieces_sent == 0 && progress.pieces_sent > 0));
            if matches!(tokio::time::timeout(PROGRESS_INTERVAL, news).await, Ok(Ok(_))) {
                return;
            }
            let changed = progress.wait_for(|progress| *progress != now);
            if matches!(tokio::time::timeout(PROGRESS_SILENCE_MAX, changed).await, Ok(Err(_))) {
                // Whoever reported has ended, so the outcome is about to come.
                tokio::time::sleep(PROGRESS_SILENCE_MAX).await;
            }
        };
        tokio::select! {
            biased;
            result = &mut outcome => {
                let last = match result {
                    Ok(info) => PutUpdate::Done(info),
                    Err(error) => PutUpdate::Error(error.body),
                };
                let now = progress.borrow().clone();
                // Nobody to tell is no fault.
                let _ = teller.progress(&now).await && teller.send(&last).await;
                return;
            }
            () = next => (),
        }
    }
}

/// Where progress lines go, and what they have said.
struct Teller {
    lines: mpsc::Sender<Bytes>,
    /// How many of the phases passed were told, and the phase of the last line.
    passed: usize,
    last: Option<PutPhase>,
}

impl Teller {
    /// A line for each phase that was passed untold, and one for now. False when the client is gone.
    async fn progress(&mut self, now: &PutProgress) -> bool {
        let current = views::put_progress(now);
        for &passed in now.passed.iter().skip(self.passed) {
            self.passed += 1;
            let phase = views::put_phase(passed);
            let untold = self.last != Some(passed);
            if untold && !self.send(&PutUpdate::Progress(PutProgressInfo { phase, ..current.clone() })).await {
                return false;
            }
        }
        self.last = Some(now.phase);
        self.send(&PutUpdate::Progress(current)).await
    }

    async fn send(&self, update: &PutUpdate) -> bool {
        self.lines.send(lines::line(update)).await.is_ok()
    }
}

/// The object's bytes, each checked. Takes a Range of bytes, and If-Range with the object's ETag.
///
/// An object whose first bytes cannot be read is refused with the reason before anything is sent. If the rest cannot be
/// read, the connection breaks before the announced length has been sent.
#[utoipa::path(get, path = "/v1/objects/{object}/content", tag = "objects", params(("object" = schema::ObjectId, Path)),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = "default", body = ErrorBody)))]
pub async fn content(
    State(backend): State<Shared>,
    Path(object): Path<ObjectId>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let etag = format!("\"{}\"", object.manifest);
    let describe = |status, length: u64| {
        Response::builder()
            .status(status)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, length)
            .header(header::ACCEPT_RANGES, "bytes")
            .header(header::ETAG, &etag)
    };
    if method == Method::HEAD {
        // A range means nothing here (RFC 9110, 14.2), and nobody fetches pieces for an answer without bytes.
        let length = backend.object(object).await?.bytes;
        return describe(StatusCode::OK, length).body(Body::empty()).map_err(ApiError::internal);
    }
    let range = match headers.get(header::RANGE) {
        // The rest of something else is no use to whoever has the beginning of that.
        Some(_) if headers.get(header::IF_RANGE).is_some_and(|known| known.as_bytes() != etag.as_bytes()) => None,
        Some(value) => {
            let header = value.to_str().map_err(|_| ApiError::bad_request("unreadable Range header"))?;
            range::parse(header).map_err(|fault| ApiError::bad_request(fault.to_string()).hint(range::RANGE_HINT))?
        }
        None => None,
    };
    let read = backend.get(object, range).await?;
    let mut bytes = read.bytes;
    // The reader works as a task of the node; the connection only takes what it produced.
    let (send, receive) = mpsc::channel(DOWNLOAD_CHUNKS_MAX);
    seams::spawn(async move {
        while let Some(chunk) = bytes.next().await {
            if let Err(error) = &chunk {
                // Its client sees no more than that the connection broke.
                tracing::warn!(%object, %error, "a download breaks off");
            }
            let broken = chunk.is_err();
            if send.send(chunk).await.is_err() || broken {
                return;
            }
        }
    });
    let stream = streams::receiver(receive);
    let response = match range {
        // The last bytes of an empty object are the whole of it, and no Content-Range can name them.
        Some(_) if read.length > 0 => {
            let last = read.start + read.length - 1;
            describe(StatusCode::PARTIAL_CONTENT, read.length)
                .header(header::CONTENT_RANGE, format!("bytes {}-{last}/{}", read.start, read.size))
        }
        _ => describe(StatusCode::OK, read.length),
    };
    response.body(Body::from_stream(stream)).map_err(ApiError::internal)
}
