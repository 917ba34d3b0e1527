//! `/v1/jobs/{job}/tasks`, `/outputs`, `/receipts` and `/logs`: the inside of a job that computes.

use quorate_protocols::task::limits::LOG_WAIT_MAX;
use std::cmp::Reverse;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use quorate_api::{ErrorBody, ErrorCode, Listing, LogInfo, LogStreamInfo, OutputInfo, ReceiptBundle, TaskInfo, schema};
use quorate_node::quorums::logs::LogPage;
use quorate_node::utf8;
use quorate_protocols::ids::{Attempt, JobId, PeerId, StepIndex, TaskIndex};
use quorate_protocols::job::JobRecord;
use quorate_protocols::job::batch::BatchRun;
use quorate_protocols::job::batch::BatchSpec;
use quorate_protocols::job::plan::Plan;
use quorate_protocols::quorum::request::{Query as Question, QueryAnswer};
use quorate_protocols::task::message::{LogStream, OutputRef};
use quorate_protocols::task::record::{TaskAttempt, TaskId, TaskRecord};
use serde::Deserialize;

use super::backend::Shared;
use super::error::ApiError;
use super::extract::{Path, Query};
use super::limits::{PAGE_OUTPUT_BYTES, RECEIPT_TASKS_MAX};
use super::page::{ById, Gathered, InStep, Page, foreign_cursor};
use super::views;

/// Rows that one question to the quorum brings at most.
const ROWS_MAX: u32 = quorate_protocols::job::limits::PAGE_MAX as u32;

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RowParams {
    /// The present step otherwise, or the last.
    step: Option<u16>,
    /// The row of this task alone.
    task: Option<u32>,
    /// Rows wanted at most: 1 to 5,000; 1,000 if not said.
    #[param(minimum = 1, maximum = 5_000)]
    limit: Option<u32>,
    /// Where to go on: the `cursor` of the page before.
    cursor: Option<String>,
}

/// Which rows of which step are wanted.
struct Wanted {
    step: StepIndex,
    task: Option<u32>,
    page: Page<ById<InStep>>,
}

impl RowParams {
    /// Of the `usual` step, if neither the cursor nor the request names another.
    fn wanted(&self, usual: StepIndex) -> Result<Wanted, ApiError> {
        let page: Page<ById<InStep>> = Page::parse(self.limit, self.cursor.as_deref())?;
        let begun = page.after.map(|ById(Reverse(after))| after.step);
        if begun.is_some() && self.step.is_some() && begun != self.step {
            return Err(foreign_cursor());
        }
        let step = begun.or(self.step).map_or(usual, StepIndex);
        Ok(Wanted { step, task: self.task, page })
    }
}

/// A row of a list of tasks.
struct Row<T> {
    task: TaskIndex,
    /// How much it adds to the answer, beyond what every row does.
    bytes: u64,
    shown: T,
}

/// A page of rows in the order of their tasks. `ask` brings rows from a task on, so many at most.
async fn gather<T, F>(wanted: Wanted, ask: impl Fn(u32, u32) -> F) -> Result<Listing<T>, ApiError>
where
    F: Future<Output = Result<Vec<Row<T>>, ApiError>>,
{
    let Wanted { step, task, page } = wanted;
    if let Some(task) = task {
        let rows = ask(task, 1).await?.into_iter().filter(|row| row.task.0 == task);
        return Ok(Listing { items: rows.map(|row| row.shown).collect(), ..Listing::default() });
    }
    let mut found = Gathered::new(page);
    let mut from = page.after.map_or(0, |ById(Reverse(after))| after.task.saturating_add(1));
    let mut bytes = 0;
    loop {
        let is_long = bytes > PAGE_OUTPUT_BYTES;
        // One more than there is room for says whether any follow.
        let rows = ask(from, if is_long { 1 } else { found.room() as u32 + 1 }).await?;
        // Rows that do not lead on would be asked for ever.
        let Some(last) = rows.last().map(|row| row.task.0).filter(|last| *last >= from) else { break };
        if is_long {
            found.end_early();
            break;
        }
        for row in rows {
            bytes += row.bytes;
            found.add(ById(Reverse(InStep { step: step.0, task: row.task.0 })), || row.shown);
        }
        let Some(next) = last.checked_add(1).filter(|_| !found.is_full()) else { break };
        from = next;
    }
    Ok(found.into_listing())
}

/// Tasks of a step, in their order. A step is remembered until the one after the next begins, and the one that a job
/// ended in as long as the job.
#[utoipa::path(get, path = "/v1/jobs/{job}/tasks", tag = "jobs", params(("job" = schema::JobId, Path), RowParams),
    responses((status = 200, body = Listing<TaskInfo>), (status = "default", body = ErrorBody)))]
pub async fn tasks(
    State(backend): State<Shared>,
    Path(job): Path<JobId>,
    Query(params): Query<RowParams>,
) -> Result<Json<Listing<TaskInfo>>, ApiError> {
    let record = record(&backend, job).await?;
    let wanted = params.wanted(computing(&record)?.1.tasks.step)?;
    let (backend, step) = (&backend, wanted.step);
    let row = |(task, record)| Row { task, bytes: 0, shown: views::task_info(step, task, &record) };
    let ask =
        |from, limit| async move { Ok(page(backend, job, step, from, limit).await?.into_iter().map(row).collect()) };
    Ok(Json(gather(wanted, ask).await?))
}

/// Outputs of the tasks of a step, in their order; of the last step if none is named, which are the job's. A page ends
/// early when its outputs are long.
#[utoipa::path(get, path = "/v1/jobs/{job}/outputs", tag = "jobs", params(("job" = schema::JobId, Path), RowParams),
    responses((status = 200, body = Listing<OutputInfo>), (status = "default", body = ErrorBody)))]
pub async fn outputs(
    State(backend): State<Shared>,
    Path(job): Path<JobId>,
    Query(params): Query<RowParams>,
) -> Result<Json<Listing<OutputInfo>>, ApiError> {
    let record = record(&backend, job).await?;
    let wanted = params.wanted(Plan::of(computing(&record)?.0).last())?;
    let (backend, step) = (&backend, wanted.step);
    let row = |given: OutputRef| Row {
        task: given.task,
        bytes: given.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
        shown: views::output_info(&given),
    };
    let ask = |from, limit| async move {
        match backend.ask(job, Question::Outputs { job, step, from: TaskIndex(from), limit }).await? {
            QueryAnswer::Outputs(outputs) => Ok(outputs.into_iter().map(row).collect()),
            other => Err(ApiError::internal(format!("asked for outputs the quorum answered with {other:?}"))),
        }
    };
    Ok(Json(gather(wanted, ask).await?))
}

/// The signed receipts of a verified job: who said what of each task. They prove it to anyone who knows the workers by
/// their peer ids; `quorate receipt verify` checks them with nothing else at hand.
#[utoipa::path(get, path = "/v1/jobs/{job}/receipts", tag = "jobs", params(("job" = schema::JobId, Path)),
    responses((status = 200, body = ReceiptBundle), (status = "default", body = ErrorBody)))]
pub async fn receipts(State(backend): State<Shared>, Path(job): Path<JobId>) -> Result<Json<ReceiptBundle>, ApiError> {
    let record = record(&backend, job).await?;
    let (spec, _) = computing(&record)?;
    let Some(verify) = spec.verify else {
        return Err(ApiError::new(ErrorCode::Conflict, format!("job {job} was not verified: there are no receipts"))
            .hint("a specification with [verify] has each task run by several workers, which sign what came of it"));
    };
    let mut bundle = ReceiptBundle { job, agree: verify.agree, tasks: Vec::new() };
    for step in (0..).zip(Plan::of(spec).steps).map(|(step, _)| StepIndex(step)) {
        let mut from = 0;
        while from < RECEIPT_TASKS_MAX {
            let tasks = page(&backend, job, step, from, ROWS_MAX).await?;
            let Some((last, _)) = tasks.last() else { break };
            from = last.0.saturating_add(1);
            let of_task =
                |(task, record): &(TaskIndex, TaskRecord)| views::task_receipts(step, *task, record, verify.agree);
            bundle.tasks.extend(tasks.iter().filter_map(of_task));
        }
    }
    Ok(Json(bundle))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct LogParams {
    /// The present step otherwise, or the last.
    step: Option<u16>,
    task: u32,
    /// The newest otherwise.
    attempt: Option<u32>,
    /// Standard output in place of standard error: of what runs, and of what failed. Of a task that succeeded it is the
    /// output.
    #[serde(default)]
    stdout: bool,
    /// Byte of the stream to begin at.
    #[serde(default)]
    from: u64,
    /// Who has it, as an earlier answer said.
    #[param(value_type = Option<schema::PeerId>)]
    worker: Option<PeerId>,
    /// Milliseconds to wait for more while the attempt runs and there is none; capped at 5,000. A worker of whom too
    /// many wait answers at once.
    wait_ms: Option<u64>,
}

/// What an attempt of a task wrote for people. Who ran it has it, for a time, and shows it to the job's owner, to those
/// whom it names, to operators and to members of its quorum.
#[utoipa::path(get, path = "/v1/jobs/{job}/logs", tag = "jobs", params(("job" = schema::JobId, Path), LogParams),
    responses((status = 200, body = LogInfo), (status = "default", body = ErrorBody)))]
pub async fn logs(
    State(backend): State<Shared>,
    Path(job): Path<JobId>,
    Query(params): Query<LogParams>,
) -> Result<Json<LogInfo>, ApiError> {
    let (task, stream) = (TaskIndex(params.task), if params.stdout { LogStream::Stdout } else { LogStream::Stderr });
    let wait = params.wait_ms.map_or(Duration::ZERO, Duration::from_millis).min(LOG_WAIT_MAX);
    // Whoever reads on knows it all.
    if let (Some(step), Some(attempt), Some(worker)) = (params.step, params.attempt, params.worker) {
        let id = TaskId { job, step: StepIndex(step), task };
        let task = TaskAttempt { id, attempt: Attempt(attempt) };
        return Ok(Json(log_info(task, stream, backend.logs(task, Some(worker), stream, params.from, wait).await?)));
    }
    let record = record(&backend, job).await?;
    let (spec, run) = computing(&record)?;
    let step = params.step.map_or(run.tasks.step, StepIndex);
    let of = |attempt| TaskAttempt { id: TaskId { job, step, task }, attempt };
    let found = page(&backend, job, step, task.0, 1).await?.into_iter().find(|(found, _)| *found == task);
    let Some((_, found)) = found else {
        let mut missing = ApiError::not_found(format!("job {job} has no task {step}.{task}"))
            .hint(format!("`quorate job tasks {job}` lists those of the present step"));
        if Plan::of(spec).step(step).is_none_or(|planned| task.0 >= planned.tasks) {
            return Err(missing);
        }
        // Its record is not kept any more; what it wrote may be. The newest attempt that somebody has is the one meant.
        let attempts = match params.attempt {
            Some(attempt) => attempt..=attempt,
            None => 1..=u32::from(spec.retry.attempts).min(ATTEMPTS_TRIED_MAX),
        };
        for attempt in attempts.rev().map(Attempt) {
            match backend.logs(of(attempt), params.worker, stream, params.from, Duration::ZERO).await {
                Ok(page) => return Ok(Json(log_info(of(attempt), stream, page))),
                Err(error) if error.code() == ErrorCode::NotFound => missing = error,
                Err(error) => return Err(error),
            }
        }
        return Err(missing);
    };
    let attempt = params.attempt.map_or(found.newest, Attempt);
    if attempt.0 == 0 || attempt > found.newest {
        let given = found.newest;
        let fault = format!("task {step}.{task} had {given} attempts so far: there is no attempt {attempt}");
        return Err(ApiError::not_found(fault));
    }
    let holder = params.worker.or(found.worker_of(attempt));
    Ok(Json(log_info(of(attempt), stream, backend.logs(of(attempt), holder, stream, params.from, wait).await?)))
}

/// Attempts that are asked for of a task whose record is not kept, the newest first.
const ATTEMPTS_TRIED_MAX: u32 = 8;

fn log_info(task: TaskAttempt, stream: LogStream, page: LogPage) -> LogInfo {
    // What a page cuts in two comes whole with the next.
    let begun = if page.ended { 0 } else { utf8::unfinished(&page.bytes) };
    let bytes = &page.bytes[..page.bytes.len() - begun];
    LogInfo {
        step: task.id.step,
        task: task.id.task,
        attempt: task.attempt,
        worker: page.worker,
        stream: match stream {
            LogStream::Stdout => LogStreamInfo::Stdout,
            LogStream::Stderr => LogStreamInfo::Stderr,
        },
        offset: page.at,
        next_offset: page.at + bytes.len() as u64,
        text: String::from_utf8_lossy(bytes).into_owned(),
        ended: page.ended,
    }
}

async fn page(
    backend: &Shared,
    job: JobId,
    step: StepIndex,
    from: u32,
    limit: u32,
) -> Result<Vec<(TaskIndex, TaskRecord)>, ApiError> {
    match backend.ask(job, Question::Tasks { job, step, from: TaskIndex(from), limit }).await? {
        QueryAnswer::Tasks(tasks) => Ok(tasks),
        other => Err(ApiError::internal(format!("asked for tasks the quorum answered with {other:?}"))),
    }
}

pub async fn record(backend: &Shared, job: JobId) -> Result<Box<JobRecord>, ApiError> {
    match backend.ask(job, Question::Job { job }).await? {
        QueryAnswer::Job(record) => Ok(record),
        other => Err(ApiError::internal(format!("asked for a job the quorum answered with {other:?}"))),
    }
}

/// Only what computes has tasks.
pub fn computing(record: &JobRecord) -> Result<(&BatchSpec, &BatchRun), ApiError> {
    record.batch().ok_or_else(|| {
        let (job, kind) = (record.job, record.spec.kind());
        if record.trigger().is_some() {
            let fault = format!("job {job} has a trigger: its runs have tasks, each of its own");
            return ApiError::new(ErrorCode::Conflict, fault).hint(format!("`quorate job fires {job}` lists the runs"));
        }
        ApiError::new(ErrorCode::Conflict, format!("job {job} is of kind {kind}, which has no tasks"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use quorate_protocols::ids::QuorumId;

    /// Goal: wherever a page ends, its text ends between two characters, and the next goes on there.
    #[test]
    fn a_character_that_a_page_cuts_comes_whole_with_the_next() {
        let text = "aé€😀b".repeat(2);
        let id =
            TaskId { job: JobId { quorum: QuorumId([1; 16]), local: [1; 16] }, step: StepIndex(0), task: TaskIndex(0) };
        let page = |from: usize, to: usize| {
            let bytes = Bytes::copy_from_slice(&text.as_bytes()[from..to]);
            let ended = to == text.len();
            let page = LogPage { worker: PeerId([2; 32]), at: from as u64, bytes, ended };
            log_info(TaskAttempt { id, attempt: Attempt(1) }, LogStream::Stdout, page)
        };
        for cut in 0..text.len() {
            let first = page(0, cut);
            let rest = page(first.next_offset as usize, text.len());
            assert_eq!(first.text.clone() + &rest.text, text, "cut at {cut}");
            assert!(rest.ended && rest.next_offset as usize == text.len());
        }
    }
}
