//! `/v1/jobs/{job}/fires`, `/next`, `/fire`, `/suspend` and `/unsuspend`: jobs that have a trigger.

use axum::Json;
use axum::extract::State;
use quorate_api::{
    ErrorBody, ErrorCode, FireInfo, FireRequest, JobInfo, Listing, NEXT_DEFAULT, NEXT_MAX, NextInfo, schema,
};
use quorate_protocols::ids::{JobId, Nonce};
use quorate_protocols::job::JobRecord;
use quorate_protocols::job::spec::TriggeredSpec;
use quorate_protocols::quorum::request::{Query as Question, QueryAnswer};
use quorate_protocols::quorum::{CommandReply, Control};
use quorate_protocols::trigger::{Schedule, TriggerRun};
use serde::Deserialize;

use super::backend::Shared;
use super::error::ApiError;
use super::extract::{self, Path, Query};
use super::jobs::control_job;
use super::page::{Gathered, PageParams};
use super::tasks::record;
use super::views;

/// What a trigger fired and what it skipped, the newest record first. Old rows are forgotten.
#[utoipa::path(get, path = "/v1/jobs/{job}/fires", tag = "triggers", params(("job" = schema::JobId, Path), PageParams),
    responses((status = 200, body = Listing<FireInfo>), (status = "default", body = ErrorBody)))]
pub async fn fires(
    State(backend): State<Shared>,
    Path(job): Path<JobId>,
    Query(params): Query<PageParams>,
) -> Result<Json<Listing<FireInfo>>, ApiError> {
    let mut found = Gathered::new(params.page()?);
    // A trigger remembers few rows, and the quorum answers with the oldest first.
    let mut from = 0;
    while let Some(last) = fires_from(&backend, job, from, &mut found).await? {
        from = last.saturating_add(1);
    }
    Ok(Json(found.into_listing()))
}

/// Adds rows from number `from` on; the number of the last, or `None` when there are no more.
async fn fires_from(
    backend: &Shared,
    job: JobId,
    from: u64,
    found: &mut Gathered<u64, FireInfo>,
) -> Result<Option<u64>, ApiError> {
    match backend.ask(job, Question::Fires { job, from, limit: u32::MAX }).await {
        Ok(QueryAnswer::Fires(rows)) => {
            rows.iter().for_each(|row| found.add(row.number, || views::fire_info(row)));
            // A page that does not lead on would be asked for ever.
            Ok(rows.last().map(|row| row.number).filter(|last| *last >= from))
        }
        Ok(other) => Err(ApiError::internal(format!("asked for fires the quorum answered with {other:?}"))),
        Err(error) if error.code() == ErrorCode::NotFound => {
            // The same answer is given of a job that has none.
            triggered(&*record(backend, job).await?)?;
            Err(error)
        }
        Err(error) => Err(error),
    }
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct NextParams {
    /// Instants wanted; 5 if not said.
    #[param(minimum = 1, maximum = 1_000)]
    count: Option<usize>,
}

/// The next instants of a trigger that a clock fires; none of others.
#[utoipa::path(get, path = "/v1/jobs/{job}/next", tag = "triggers", params(("job" = schema::JobId, Path), NextParams),
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
#[utoipa::path(post, path = "/v1/jobs/{job}/fire", tag = "triggers", params(("job" = schema::JobId, Path)),
    request_body = FireRequest,
    responses((status = 200, body = FireInfo), (status = "default", body = ErrorBody)))]
pub async fn fire(
    State(backend): State<Shared>,
    Path(job): Path<JobId>,
    extract::Json(request): extract::Json<FireRequest>,
) -> Result<Json<FireInfo>, ApiError> {
    let FireRequest { respect_overlap, nonce } = request;
    let nonce = nonce.unwrap_or_else(|| Nonce(backend.random()));
    match backend.fire(job, nonce, respect_overlap).await? {
        CommandReply::Fired(row) => Ok(Json(views::fire_info(&row))),
        CommandReply::Done => Err(ApiError::new(
            ErrorCode::Conflict,
            format!("job {job} was fired by this nonce before, and the row is forgotten"),
        )),
        other => Err(ApiError::internal(format!("asked for a fire the quorum answered with {other:?}"))),
    }
}

/// Has a trigger skip what falls due or arrives from now on. Runs go on.
#[utoipa::path(post, path = "/v1/jobs/{job}/suspend", tag = "triggers", params(("job" = schema::JobId, Path)),
    responses((status = 200, body = JobInfo), (status = "default", body = ErrorBody)))]
pub async fn suspend(State(backend): State<Shared>, Path(job): Path<JobId>) -> Result<Json<JobInfo>, ApiError> {
    control_job(&backend, job, Control::Suspend).await
}

/// Lets a suspended trigger fire again. What fell due meanwhile is recorded as skipped.
#[utoipa::path(post, path = "/v1/jobs/{job}/unsuspend", tag = "triggers", params(("job" = schema::JobId, Path)),
    responses((status = 200, body = JobInfo), (status = "default", body = ErrorBody)))]
pub async fn unsuspend(State(backend): State<Shared>, Path(job): Path<JobId>) -> Result<Json<JobInfo>, ApiError> {
    control_job(&backend, job, Control::Unsuspend).await
}

fn triggered(record: &JobRecord) -> Result<(&TriggeredSpec, &TriggerRun), ApiError> {
    record.trigger().ok_or_else(|| {
        let job = record.job;
        let error = ApiError::new(ErrorCode::Conflict, format!("job {job} has no trigger"));
        match record.fired_by {
            Some(by) => error.hint(format!("it is a run: job {} has the trigger that made it", by.job)),
            None => error.hint("a specification with [trigger] makes one: see docs/triggers.md"),
        }
    })
}
