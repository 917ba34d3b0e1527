//! `/v1/jobs/{job}/fires`, `/next`, `/fire`, `/suspend` and `/unsuspend`: jobs that have a trigger.

use axum::Json;
use axum::extract::State;
use quorate_protocols::api::{ErrorBody, ErrorCode, FireInfo, FireRequest, JobInfo, NextInfo};
use quorate_protocols::ids::{JobId, Nonce};
use quorate_protocols::job::JobRecord;
use quorate_protocols::job::message::{Query as Question, QueryAnswer};
use quorate_protocols::quorum::{Command, CommandReply};
use quorate_protocols::trigger::spec::TriggeredSpec;
use quorate_protocols::trigger::{Schedule, TriggerRun};
use serde::Deserialize;

use super::backend::Shared;
use super::error::ApiError;
use super::extract::{self, Path, Query};
use super::jobs::command_job;
use super::limits::{NEXT_DEFAULT, NEXT_MAX};
use super::tasks::record;
use super::views;

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FireRows {
    /// The first row wanted, by number.
    from: Option<u64>,
    /// Rows wanted at most. An answer may have fewer; the last has none.
    limit: Option<u32>,
}

/// What a trigger fired and what it skipped, in the order of the records. Old rows are forgotten.
#[utoipa::path(get, path = "/v1/jobs/{job}/fires", tag = "triggers", params(("job" = JobId, Path), FireRows),
    responses((status = 200, body = Vec<FireInfo>), (status = "default", body = ErrorBody)))]
pub async fn fires(
    State(backend): State<Shared>,
    Path(job): Path<JobId>,
    Query(rows): Query<FireRows>,
) -> Result<Json<Vec<FireInfo>>, ApiError> {
    let question = Question::Fires { job, from: rows.from.unwrap_or(0), limit: rows.limit.unwrap_or(u32::MAX) };
    match backend.ask(job, question).await {
        Ok(QueryAnswer::Fires(rows)) => Ok(Json(rows.iter().map(views::fire_info).collect())),
        Ok(other) => Err(ApiError::internal(format!("asked for fires the quorum answered with {other:?}"))),
        Err(error) if error.code() == ErrorCode::NotFound => {
            // The same answer is given of a job that has none.
            triggered(&*record(&backend, job).await?)?;
            Err(error)
        }
        Err(error) => Err(error),
    }
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct NextParams {
    /// Instants wanted; 5 if not said.
    count: Option<usize>,
}

/// The next instants of a trigger that a clock fires; none of others.
#[utoipa::path(get, path = "/v1/jobs/{job}/next", tag = "triggers", params(("job" = JobId, Path), NextParams),
    responses((status = 200, body = NextInfo), (status = "default", body = ErrorBody)))]
pub async fn next(
    State(backend): State<Shared>,
    Path(job): Path<JobId>,
    Query(params): Query<NextParams>,
) -> Result<Json<NextInfo>, ApiError> {
    let count = params.count.unwrap_or(NEXT_DEFAULT);
    if !(1..=NEXT_MAX).contains(&count) {
        return Err(ApiError::bad_request(format!("count: {count} is not between 1 and {NEXT_MAX}")));
    }
    let record = record(&backend, job).await?;
    let (spec, run) = triggered(&record)?;
    let schedule = Schedule::compile(&spec.trigger)
        .map_err(|(key, problem)| ApiError::internal(format!("trigger.{key}: {problem}")))?;
    let now = backend.node().answered_at;
    let count = if record.state.is_final() { 0 } else { count };
    Ok(Json(views::next_info(&spec.trigger, schedule.as_ref(), job, run, now, count)))
}

/// Has a trigger fire now, and says what became of it.
#[utoipa::path(post, path = "/v1/jobs/{job}/fire", tag = "triggers", params(("job" = JobId, Path)),
    request_body = FireRequest,
    responses((status = 200, body = FireInfo), (status = "default", body = ErrorBody)))]
pub async fn fire(
    State(backend): State<Shared>,
    Path(job): Path<JobId>,
    extract::Json(request): extract::Json<FireRequest>,
) -> Result<Json<FireInfo>, ApiError> {
    let FireRequest { respect_overlap, nonce } = request;
    let nonce = nonce.unwrap_or_else(|| Nonce(backend.random()));
    match backend.command(job, Command::Fire { job, nonce, respect_overlap }).await? {
        CommandReply::Fired(row) => Ok(Json(views::fire_info(&row))),
        CommandReply::Done => Err(ApiError::new(
            ErrorCode::Conflict,
            format!("job {job} was fired by this nonce before, and the row is forgotten"),
        )),
        other => Err(ApiError::internal(format!("asked for a fire the quorum answered with {other:?}"))),
    }
}

/// Has a trigger skip what falls due or arrives from now on. Runs go on.
#[utoipa::path(post, path = "/v1/jobs/{job}/suspend", tag = "triggers", params(("job" = JobId, Path)),
    responses((status = 200, body = JobInfo), (status = "default", body = ErrorBody)))]
pub async fn suspend(State(backend): State<Shared>, Path(job): Path<JobId>) -> Result<Json<JobInfo>, ApiError> {
    command_job(&backend, job, Command::Suspend { job }).await
}

/// Lets a suspended trigger fire again. What fell due meanwhile is recorded as skipped.
#[utoipa::path(post, path = "/v1/jobs/{job}/unsuspend", tag = "triggers", params(("job" = JobId, Path)),
    responses((status = 200, body = JobInfo), (status = "default", body = ErrorBody)))]
pub async fn unsuspend(State(backend): State<Shared>, Path(job): Path<JobId>) -> Result<Json<JobInfo>, ApiError> {
    command_job(&backend, job, Command::Unsuspend { job }).await
}

fn triggered(record: &JobRecord) -> Result<(&TriggeredSpec, &TriggerRun), ApiError> {
    record.trigger().ok_or_else(|| {
        let job = record.job;
        let error = ApiError::new(ErrorCode::Conflict, format!("job {job} has no trigger"));
        match record.compute().and_then(|(_, run)| run.fired_by) {
            Some(by) => error.hint(format!("it is a run: job {} has the trigger that made it", by.job)),
            None => error.hint("a specification with [trigger] makes one: see docs/triggers.md"),
        }
    })
}
