//! Calls of a put to the quorum of its run: what it is told, across failovers, and what a refusal means.

use quorate_protocols::ids::{Attempt, JobId};
use quorate_protocols::job::record::JobRecord;
use quorate_protocols::job::store::ColumnRecord;
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::quorum::{Command, CommandReply, Rejection};
use tokio::time::{Duration, sleep};

use super::pipeline::OtherContent;
use super::{QUORUM_DEADLINE, UploadFault, ended, is_passing};
use crate::quorums::{ClientError, QuorumPort};

/// Pause between two attempts to tell a quorum that cannot answer now.
const QUORUM_PAUSE: Duration = Duration::from_millis(500);

/// Tells the quorum something about the run, across failovers and for as long as it takes: the pieces do not wait for
/// this. The reply says who holds what now.
pub(super) async fn send_command(
    quorums: &dyn QuorumPort,
    job: JobId,
    upload_attempt: Attempt,
    command: Command,
) -> Result<Option<Vec<ColumnRecord>>, UploadFault> {
    loop {
        match quorums.propose(job.quorum, command.clone(), QUORUM_DEADLINE).await {
            Ok((CommandReply::Columns(columns), _)) => return Ok(Some(columns)),
            Ok(_) => return Ok(None),
            Err(ClientError::Rejected(rejection)) => {
                return after_rejection(quorums, job, upload_attempt, rejection).await;
            }
            Err(error) if is_passing(&error) || error.is_out_of_reach() => {
                tracing::debug!(%job, %error, "telling the quorum again");
                sleep(QUORUM_PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Another worker uploads into the run now.
pub(super) fn taken_over(job: JobId) -> UploadFault {
    ended(job, Some("another node took it over")).into()
}

/// Whether that worker still uploads into the run.
fn is_uploaded_by(record: &JobRecord, upload_attempt: Attempt) -> bool {
    record.store().is_some_and(|(_, run)| run.upload_attempt == upload_attempt)
}

/// A stale attempt may be the worker's (then another node uploads into the run) or a column's (then look at the
/// columns).
async fn after_rejection(
    quorums: &dyn QuorumPort,
    job: JobId,
    upload_attempt: Attempt,
    rejection: Rejection,
) -> Result<Option<Vec<ColumnRecord>>, UploadFault> {
    match rejection {
        Rejection::DifferentContent { segment } => {
            Err(UploadFault::OtherContent(OtherContent { job, segment: segment.0, pieces: None }))
        }
        Rejection::StaleAttempt { .. } => {
            match quorums.query(job.quorum, Query::Job { job }, false, QUORUM_DEADLINE).await {
                Ok(QueryAnswer::Job(record)) if is_uploaded_by(&record, upload_attempt) => {
                    Ok(record.into_store().map(|(_, run)| run.columns))
                }
                Ok(_) => Err(taken_over(job)),
                Err(error) if is_passing(&error) => Ok(None),
                Err(error) => Err(error.into()),
            }
        }
        rejection => Err(ended(job, Some(&rejection.to_string())).into()),
    }
}
