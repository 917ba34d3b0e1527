//! `/v1/jobs`.

use quorate_protocols::ids::LogIndex;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use quorate_api::{
    ErrorBody, ErrorCode, HistoryEntry, JobInfo, Kind, Listing, ResolutionInfo, ResolveRequest, RunState,
    UpdateRequest, WhyInfo, schema,
};
use quorate_protocols::capacity::{Capacity, Requirement};
use quorate_protocols::ids::{JobId, PeerId};
use quorate_protocols::job::limits::HISTORY_MAX;
use quorate_protocols::quorum::command::{Control, Resolution};
use quorate_protocols::quorum::request::{Query as Question, QueryAnswer};
use quorate_protocols::quorum::watch::Until;
use serde::Deserialize;
use tokio::time::Instant;

use super::backend::JobFilter;
use super::backend::Shared;
use super::error::ApiError;
use super::extract::{self, Path, Query};
use super::limits::{WAIT_MAX, WAIT_RETRY_PAUSE};
use super::page::Page;
use super::tasks;

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// States, parted by commas; `live` is all that are not final, `ended` all that are.
    state: Option<String>,
    kind: Option<Kind>,
    /// A peer id, or `me` for this node.
    owner: Option<String>,
    /// Part of the name.
    name: Option<String>,
    /// Rows wanted at most: 1 to 5,000; 1,000 if not said.
    #[param(minimum = 1, maximum = 5_000)]
    limit: Option<u32>,
    /// Where to go on: the `cursor` of the page before.
    cursor: Option<String>,
}

impl ListParams {
    fn filter(self, me: PeerId) -> Result<JobFilter, ApiError> {
        let owner = match self.owner.as_deref() {
            None => None,
            Some("me") => Some(me),
            Some(text) => Some(text.parse().map_err(|error| ApiError::bad_request(format!("owner: {error}")))?),
        };
        let states = self.state.as_deref().map(states).transpose()?.unwrap_or_default();
        Ok(JobFilter { states, kind: self.kind, owner, name: self.name })
    }
}

/// `running,paused`, `live`, `ended`.
fn states(text: &str) -> Result<Vec<RunState>, ApiError> {
    let mut states = Vec::new();
    for word in text.split(',').map(str::trim) {
        let before = states.len();
        states.extend(RunState::ALL.iter().copied().filter(|state| match word {
            "live" => !state.is_final(),
            "ended" => state.is_final(),
            word => state.name() == word,
        }));
        if states.len() == before {
            let names: Vec<_> = RunState::ALL.iter().map(|state| state.name()).collect();
            let names = names.join(", ");
            return Err(ApiError::bad_request(format!("state: {word:?} is none of live, ended, {names}")));
        }
    }
    Ok(states)
}

/// Jobs of every quorum that this node knows, the newest first.
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs", params(ListParams),
    responses((status = 200, body = Listing<JobInfo>), (status = "default", body = ErrorBody)))]
pub async fn list(
    State(backend): State<Shared>,
    Query(params): Query<ListParams>,
) -> Result<Json<Listing<JobInfo>>, ApiError> {
    let page = Page::parse(params.limit, params.cursor.as_deref())?;
    let filter = params.filter(backend.node().peer)?;
    Ok(Json(backend.jobs(filter, page).await))
}

/// One job.
#[utoipa::path(get, path = "/v1/jobs/{job}", tag = "jobs", params(("job" = schema::JobId, Path)),
    responses((status = 200, body = JobInfo), (status = "default", body = ErrorBody)))]
pub async fn show(State(backend): State<Shared>, Path(job): Path<JobId>) -> Result<Json<JobInfo>, ApiError> {
    Ok(Json(backend.job(job).await?))
}

// The description says how long a history is at most.
const _: () = assert!(HISTORY_MAX == 200);

/// What happened to a job, oldest first: 200 lines at most, on one page.
#[utoipa::path(get, path = "/v1/jobs/{job}/history", tag = "jobs", params(("job" = schema::JobId, Path)),
    responses((status = 200, body = Listing<HistoryEntry>), (status = "default", body = ErrorBody)))]
pub async fn history(
    State(backend): State<Shared>,
    Path(job): Path<JobId>,
) -> Result<Json<Listing<HistoryEntry>>, ApiError> {
    match backend.ask(job, Question::History { job }).await? {
        QueryAnswer::History(entries) => {
            Ok(Json(Listing { items: entries.into_iter().map(HistoryEntry::from).collect(), ..Listing::default() }))
        }
        other => Err(ApiError::internal(format!("asked for a history the quorum answered with {other:?}"))),
    }
}

/// Why a job is where it is, in a sentence for a person.
#[utoipa::path(get, path = "/v1/jobs/{job}/why", tag = "jobs", params(("job" = schema::JobId, Path)),
    responses((status = 200, body = WhyInfo), (status = "default", body = ErrorBody)))]
pub async fn why(State(backend): State<Shared>, Path(job): Path<JobId>) -> Result<Json<WhyInfo>, ApiError> {
    match backend.ask(job, Question::Why { job }).await? {
        QueryAnswer::Why(why) => Ok(Json(WhyInfo { job, why })),
        other => Err(ApiError::internal(format!("asked for a reason the quorum answered with {other:?}"))),
    }
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WaitParams {
    /// Milliseconds to wait at most; capped at a minute.
    timeout_ms: Option<u64>,
    /// Wait for the job to change instead: until its `revision` is greater than this.
    since: Option<u64>,
}

/// Waits until the job has ended, or has changed since a revision, or the time is up, and answers with the job as it is
/// then.
#[utoipa::path(get, path = "/v1/jobs/{job}/wait", tag = "jobs", params(("job" = schema::JobId, Path), WaitParams),
    responses((status = 200, body = JobInfo), (status = "default", body = ErrorBody)))]
pub async fn wait(
    State(backend): State<Shared>,
    Path(job): Path<JobId>,
    Query(params): Query<WaitParams>,
) -> Result<Json<JobInfo>, ApiError> {
    let patience = params.timeout_ms.map_or(WAIT_MAX, Duration::from_millis).min(WAIT_MAX);
    let until = params.since.map_or(Until::Ended, |since| Until::Changed { since: LogIndex(since) });
    match wait_until(&backend, job, until, patience).await? {
        Some(info) => Ok(Json(info)),
        None => Ok(Json(backend.job(job).await?)),
    }
}

/// The job as soon as the condition holds; `None` when it does not within `patience`, or the node closes. Fails when
/// the quorum has said nothing since it failed to answer.
pub async fn wait_until(
    backend: &Shared,
    job: JobId,
    until: Until,
    patience: Duration,
) -> Result<Option<JobInfo>, ApiError> {
    let deadline = Instant::now() + patience;
    let shutdown = backend.tasks().shutdown_token();
    // Why the quorum said nothing when it was asked last.
    let mut silence = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || shutdown.is_cancelled() {
            return match silence {
                // To ask once more would keep the client for longer than it said.
                Some(error) => Err(error),
                None => Ok(None),
            };
        }
        let ended = tokio::select! {
            ended = backend.watch(job, until, left) => ended,
            () = shutdown.cancelled() => continue,
        };
        match ended {
            Ok(Some(info)) => return Ok(Some(info)),
            Ok(None) => {
                silence = None;
                continue;
            }
            // A quorum between two primaries is no reason to send the waiter away, nor is one that this node has not
            // heard of yet.
            Err(error) if may_pass(error.code()) => silence = Some(error),
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = tokio::time::sleep_until((Instant::now() + WAIT_RETRY_PAUSE).min(deadline)) => (),
            () = shutdown.cancelled() => (),
        }
    }
}

/// Whether a quorum that answered so may well answer better in a moment.
const fn may_pass(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::Unavailable | ErrorCode::UnknownQuorum | ErrorCode::Busy | ErrorCode::Unknown)
}

/// Cancels a job. What it stored is given back; work that runs is stopped, and undone if the specification says how.
#[utoipa::path(post, path = "/v1/jobs/{job}/cancel", tag = "jobs", params(("job" = schema::JobId, Path)),
    responses((status = 200, body = JobInfo), (status = "default", body = ErrorBody)))]
pub async fn cancel(State(backend): State<Shared>, Path(job): Path<JobId>) -> Result<Json<JobInfo>, ApiError> {
    control_job(&backend, job, Control::Cancel).await
}

/// Stops the work of a job that computes, until it is resumed. Tasks go on from their checkpoints.
#[utoipa::path(post, path = "/v1/jobs/{job}/pause", tag = "jobs", params(("job" = schema::JobId, Path)),
    responses((status = 200, body = JobInfo), (status = "default", body = ErrorBody)))]
pub async fn pause(State(backend): State<Shared>, Path(job): Path<JobId>) -> Result<Json<JobInfo>, ApiError> {
    control_job(&backend, job, Control::Pause).await
}

/// Lets a paused job go on.
#[utoipa::path(post, path = "/v1/jobs/{job}/resume", tag = "jobs", params(("job" = schema::JobId, Path)),
    responses((status = 200, body = JobInfo), (status = "default", body = ErrorBody)))]
pub async fn resume(State(backend): State<Shared>, Path(job): Path<JobId>) -> Result<Json<JobInfo>, ApiError> {
    control_job(&backend, job, Control::Resume).await
}

/// Has the tasks that were given up, or parked, tried again: of a job that waits for a person.
#[utoipa::path(post, path = "/v1/jobs/{job}/retry", tag = "jobs", params(("job" = schema::JobId, Path)),
    responses((status = 200, body = JobInfo), (status = "default", body = ErrorBody)))]
pub async fn retry(State(backend): State<Shared>, Path(job): Path<JobId>) -> Result<Json<JobInfo>, ApiError> {
    control_job(&backend, job, Control::Retry).await
}

/// Decides about a job that waits for a person.
#[utoipa::path(post, path = "/v1/jobs/{job}/resolve", tag = "jobs", params(("job" = schema::JobId, Path)),
    request_body = ResolveRequest,
    responses((status = 200, body = JobInfo), (status = "default", body = ErrorBody)))]
pub async fn resolve(
    State(backend): State<Shared>,
    Path(job): Path<JobId>,
    extract::Json(request): extract::Json<ResolveRequest>,
) -> Result<Json<JobInfo>, ApiError> {
    let resolution = match request.resolution {
        ResolutionInfo::Skip => Resolution::Skip,
        ResolutionInfo::Fail => Resolution::Fail,
        ResolutionInfo::Revert => Resolution::Revert,
    };
    control_job(&backend, job, Control::Resolve { resolution }).await
}

/// Changes priority, parallelism or resources of a job that lives. Attempts that run keep what they have.
#[utoipa::path(post, path = "/v1/jobs/{job}/update", tag = "jobs", params(("job" = schema::JobId, Path)),
    request_body = UpdateRequest,
    responses((status = 200, body = JobInfo), (status = "default", body = ErrorBody)))]
pub async fn update(
    State(backend): State<Shared>,
    Path(job): Path<JobId>,
    extract::Json(request): extract::Json<UpdateRequest>,
) -> Result<Json<JobInfo>, ApiError> {
    let UpdateRequest { priority, parallelism, memory_bytes, disk_bytes, slots, labels } = request.clone();
    if request == UpdateRequest::default() {
        return Err(ApiError::bad_request("nothing to change: give priority, parallelism or resources"));
    }
    let mut resources = None;
    if memory_bytes.is_some() || disk_bytes.is_some() || slots.is_some() || labels.is_some() {
        // The quorum changes resources as a whole; what was not named stays as it is.
        let record = tasks::record(&backend, job).await?;
        let now = tasks::computing(&record)?.1.tasks.settings.resources.clone();
        let capacity = Capacity {
            memory_bytes: memory_bytes.unwrap_or(now.capacity.memory_bytes),
            disk_bytes: disk_bytes.unwrap_or(now.capacity.disk_bytes),
            slots: slots.unwrap_or(now.capacity.slots),
        };
        resources = Some(Requirement { capacity, labels: labels.unwrap_or(now.labels) });
    }
    control_job(&backend, job, Control::Update { priority, parallelism, resources }).await
}

/// Has the job do it; the job as it is afterwards.
pub async fn control_job(backend: &Shared, job: JobId, control: Control) -> Result<Json<JobInfo>, ApiError> {
    backend.control(job, control).await?;
    Ok(Json(backend.job(job).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_named_one_by_one_or_all_that_live() {
        assert_eq!(states("running, paused").unwrap(), [RunState::Running, RunState::Paused]);
        let live = states("live").unwrap();
        assert!(live.contains(&RunState::AwaitingResolution) && !live.contains(&RunState::Failed));
        assert_eq!(live.len() + states("ended").unwrap().len(), RunState::ALL.len());
        let error = states("runing").unwrap_err().body.message;
        assert!(error.contains("\"runing\"") && error.contains("awaiting-resolution"), "{error}");
    }
}
