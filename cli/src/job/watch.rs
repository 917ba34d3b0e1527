//! Waiting for the end of a job, with its progress on the way.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use quorate_api::{ErrorCode, JobInfo, RunState, WhyInfo};
use quorate_protocols::backoff::Backoff;
use quorate_protocols::ids::JobId;
use quorate_testnet::{Client, ClientError};

use super::super::args::Common;
use super::super::failure::{Failure, unless_reader_gone};
use super::super::ids::Ids;
use super::super::output::{counter, instant, print_to_stderr, set_message, word};
use super::super::reader;
use super::{history, show_info, text};

/// How long one question waits for the end before the progress is shown again, of a job that has just changed.
pub const WAIT_MS: u64 = 500;

/// The same of a job at rest, for any change: the quorum is not asked again and again for what has not happened.
const REST_MS: u64 = 2_000;

/// Waits until the job has ended or waits for a person, shows it, and says by the result whether it succeeded. With
/// `follow` what happens is told line by line, on stderr: standard output gets the job alone. `seen`: the job as it was
/// a moment ago, if that is known.
pub async fn until_end(
    common: &Common,
    client: &Client,
    job: JobId,
    follow: bool,
    seen: Option<JobInfo>,
) -> Result<(), Failure> {
    let bar = counter(common.json || follow);
    let ids = Ids::ask(common, client).await;
    let mut told = Told::default();
    let ended = tokio::select! {
        ended = wait(client, job, seen, &bar, follow.then_some(&mut told), &ids) => Ok(ended),
        _ = tokio::signal::ctrl_c() => Err("interrupted"),
        // Not quietly: how the job ended is not known, so the exit code cannot say that it succeeded.
        () = reader::until_gone() => Err("nobody reads standard output any more"),
    };
    bar.finish_and_clear();
    let ended = match ended {
        Ok(ended) => ended?,
        Err(left) => {
            return Err(Failure::failed(format!("{left}; job {job} goes on"))
                .hint(format!("`quorate job wait {job}` comes back to it, `quorate job cancel {job}` ends it")));
        }
    };
    unless_reader_gone(show_info(common, client, &ended).await)?;
    let reason = ended.why.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
    match ended.state {
        RunState::Succeeded => Ok(()),
        RunState::AwaitingResolution => {
            Err(Failure::failed(format!("job {job} waits for a decision{reason}")).hint(format!(
                "`quorate job tasks {job}` shows what went wrong; then `quorate job retry {job}`, or `quorate job \
                 resolve {job}` with --skip, --fail or --revert"
            )))
        }
        state => Err(Failure::failed(format!("job {job} is {state}{reason}"))
            .hint(format!("`quorate job history {job}` says how it came to that"))),
    }
}

/// A job at rest for so long is asked why; then ever less often, up to the maximum.
const WHY_AFTER: Duration = Duration::from_secs(3);
const WHY_PAUSES: Backoff = Backoff::new(WHY_AFTER, Duration::from_secs(60));

/// Says on stderr why a job does not go on: once, and when the reason is another.
struct Reasons<'a> {
    job: JobId,
    ids: &'a Ids,
    due: Instant,
    pause: Duration,
    told: String,
}

impl<'a> Reasons<'a> {
    fn new(job: JobId, ids: &'a Ids) -> Self {
        Self { job, ids, due: Instant::now() + WHY_AFTER, pause: WHY_AFTER, told: String::new() }
    }

    /// The job was seen to be as `info` says.
    async fn ask_why_if_at_rest(&mut self, client: &Client, info: &JobInfo, bar: &ProgressBar) {
        let rests = info.batch.as_ref().is_some_and(|batch| batch.step.tasks.running == 0) && !info.state.is_final();
        if !rests {
            self.due = Instant::now() + self.pause;
        } else if Instant::now() >= self.due {
            // Without an answer there is nothing to tell, and the job is waited for all the same.
            if let Ok(why) = client.get::<WhyInfo>(&format!("/v1/jobs/{}/why", self.job)).await {
                self.print_reason_if_new(why.why, bar);
            }
        }
    }

    /// For a moment the quorum did not answer.
    fn unanswered(&mut self, error: &ClientError, bar: &ProgressBar) {
        if Instant::now() >= self.due {
            self.print_reason_if_new(error.to_string(), bar);
        }
    }

    fn print_reason_if_new(&mut self, why: String, bar: &ProgressBar) {
        if why != self.told {
            bar.suspend(|| print_to_stderr(format!("job {}: {}", self.job, self.ids.sentence(&why))));
            self.told = why;
            self.pause = WHY_PAUSES.next(self.pause);
        }
        self.due = Instant::now() + self.pause;
    }
}

/// What was told already.
#[derive(Default)]
struct Told {
    entries: usize,
    progress: String,
}

async fn wait(
    client: &Client,
    job: JobId,
    mut first: Option<JobInfo>,
    bar: &ProgressBar,
    mut told: Option<&mut Told>,
    ids: &Ids,
) -> Result<JobInfo, Failure> {
    let mut reasons = Reasons::new(job, ids);
    let mut unknown = Unknown::default();
    // The last revision seen, and whether it was news.
    let mut seen = None;
    loop {
        let answer = match first.take() {
            Some(info) => Ok(info),
            None => client.get::<JobInfo>(&question(job, seen)).await,
        };
        seen = answer.as_ref().ok().map(|info| (info.revision, seen.is_none_or(|(before, _)| before != info.revision)));
        let is_given_up = unknown.has_lasted(Instant::now(), answer.as_ref().is_err_and(is_unknown_quorum));
        match answer {
            Ok(info) => {
                if let Some(told) = &mut told {
                    print_news(client, &info, told, ids).await?;
                }
                show(bar, &info);
                if info.state.is_final() || info.state == RunState::AwaitingResolution {
                    return Ok(info);
                }
                reasons.ask_why_if_at_rest(client, &info, bar).await;
            }
            Err(error) if is_given_up => {
                return Err(Failure::from(error).hint(format!(
                    "no node that this one hears has known its quorum for {} s: check the id with `quorate job ls`, or \
                     ask through another node with --node",
                    UNKNOWN_MAX.as_secs()
                )));
            }
            // A quorum between two primaries: the job is none the worse.
            Err(error) if passes(&error) => reasons.unanswered(&error, bar),
            // The job does not depend on whoever watches it.
            Err(error @ (ClientError::NoAnswer { .. } | ClientError::Transfer { .. })) => {
                return Err(Failure::from(error)
                    .hint(format!("the job goes on without this node: `quorate job wait {job}` through another one")));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// A job that changes is shown twice a second, and its end at once; one at rest when it changes.
fn question(job: JobId, seen: Option<(u64, bool)>) -> String {
    match seen {
        Some((revision, false)) => format!("/v1/jobs/{job}/wait?timeout_ms={REST_MS}&since={revision}"),
        _ => format!("/v1/jobs/{job}/wait?timeout_ms={WAIT_MS}"),
    }
}

/// Whether the same question may well be answered in a moment: the quorum is between two primaries, or busy, or this
/// node has only just started and heard of few others.
pub fn passes(error: &ClientError) -> bool {
    PASSING.iter().any(|code| has_code(error, *code))
}

/// The errors that pass.
pub const PASSING: [ErrorCode; 4] =
    [ErrorCode::Busy, ErrorCode::Unknown, ErrorCode::Unavailable, ErrorCode::UnknownQuorum];

fn is_unknown_quorum(error: &ClientError) -> bool {
    has_code(error, ErrorCode::UnknownQuorum)
}

fn has_code(error: &ClientError, code: ErrorCode) -> bool {
    matches!(error, ClientError::Refused { error, .. } if word(&code) == *error)
}

/// A quorum that nobody knows is waited for so long: a node that has just started finds those of others in less. One
/// that is known and silent is waited for as long as the user likes.
const UNKNOWN_MAX: Duration = Duration::from_secs(30);

/// Since when every answer has been that nobody knows the quorum.
#[derive(Default)]
struct Unknown {
    since: Option<Instant>,
}

impl Unknown {
    /// Takes an answer into account. Whether it has been the same one for too long.
    fn has_lasted(&mut self, now: Instant, is_unknown: bool) -> bool {
        if !is_unknown {
            self.since = None;
            return false;
        }
        now.duration_since(*self.since.get_or_insert(now)) >= UNKNOWN_MAX
    }
}

/// Shows how far the present step is.
pub fn show(bar: &ProgressBar, info: &JobInfo) {
    if let Some(batch) = &info.batch {
        bar.set_length(batch.step.tasks.total.into());
        bar.set_position(batch.step.tasks.done.into());
    }
    set_message(bar, format!("{} {}", word(&info.state), text::step_name(info)));
    bar.tick();
}

/// Says on stderr what the history and the progress have that was not told yet.
async fn print_news(client: &Client, info: &JobInfo, told: &mut Told, ids: &Ids) -> Result<(), Failure> {
    let entries = history(client, info.job).await?;
    for entry in entries.iter().skip(told.entries) {
        print_to_stderr(format!("{} {} {}", instant(entry.recorded_at), word(&entry.state), ids.sentence(&entry.what)));
    }
    told.entries = entries.len().max(told.entries);
    let progress = text::progress(info);
    if progress != told.progress && !progress.is_empty() {
        print_to_stderr(format!("{} {progress}", instant(info.changed_at)));
        told.progress = progress;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quorum_is_given_up_once_nobody_has_known_it_for_half_a_minute() {
        let (began, mut unknown) = (Instant::now(), Unknown::default());
        let mut after = |seconds, is_unknown| unknown.has_lasted(began + Duration::from_secs(seconds), is_unknown);
        assert!(!after(0, true) && !after(29, true));
        // It was found, or known and silent: the time begins anew.
        assert!(!after(30, false) && !after(31, true) && !after(60, true));
        assert!(after(61, true));
    }

    #[test]
    fn a_job_at_rest_is_waited_for_longer_and_for_any_change() {
        let job = JobId { quorum: quorate_protocols::ids::QuorumId([1; 16]), local: [2; 16] };
        for seen in [None, Some((7, true))] {
            assert!(question(job, seen).ends_with("/wait?timeout_ms=500"));
        }
        assert!(question(job, Some((7, false))).ends_with("/wait?timeout_ms=2000&since=7"));
    }

    #[test]
    fn only_a_quorum_that_nobody_knows_counts_as_unknown_and_all_that_pass_are_asked_again() {
        let refused = |code: ErrorCode| ClientError::Refused {
            status: 0,
            error: word(&code),
            message: String::new(),
            hint: None,
        };
        for (code, passing, unknown) in [
            (ErrorCode::UnknownQuorum, true, true),
            (ErrorCode::Unavailable, true, false),
            (ErrorCode::NotFound, false, false),
        ] {
            assert_eq!((passes(&refused(code)), is_unknown_quorum(&refused(code))), (passing, unknown), "{code:?}");
        }
    }
}
