//! `job logs`: what tasks wrote for people, as far as their workers still have it.
//!
//! That is standard error. An attempt that failed left no output, so its standard output follows, as such: many
//! programs give their reasons there.

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_api::{JobInfo, LogInfo, LogStreamInfo, RunState, TaskInfo, TaskStateInfo};
use quorate_protocols::ids::{Attempt, JobId, PeerId};
use quorate_testnet::{Client, ClientError};

use super::super::advice;
use super::super::args::{Common, LogArgs};
use super::super::failure::Failure;
use super::super::output::{Payload, print_json, print_to_stderr};
use super::all_tasks;

/// Tasks whose logs are read at once; of wider jobs one is named.
const TASKS_MAX: usize = 256;

/// Tasks whose logs are followed at once; a job that has more running is looked at again after the pause.
const FOLLOWED_MAX: usize = 16;

/// Before a worker is asked again that has no more and did not wait for it.
const PAUSE: Duration = Duration::from_millis(300);

/// Waits of one request: for the job to change, and for a task to write. Short of the client's own deadline.
const CHANGE_WAIT: Duration = Duration::from_secs(10);
const LOG_WAIT: Duration = Duration::from_secs(5);

/// How far one task was read.
struct Cursor {
    attempt: Option<Attempt>,
    worker: Option<PeerId>,
    next: u64,
    ended: bool,
    /// The last line, while its end has not come.
    rest: String,
    /// A line above the first of what is read.
    heading: Option<String>,
    /// Standard output of the attempt was shown below.
    output_shown: bool,
}

impl Cursor {
    fn new(attempt: Option<Attempt>) -> Self {
        Self { attempt, worker: None, next: 0, ended: false, rest: String::new(), heading: None, output_shown: false }
    }
}

pub async fn run(common: &Common, client: &Client, args: LogArgs) -> Result<(), Failure> {
    let LogArgs { job, follow, task, step, stdout, raw } = args;
    let job = job.resolve(client).await?;
    let mut cursors: BTreeMap<(u16, u32), Cursor> = BTreeMap::new();
    let mut last_fault = None;
    let mut succeeded;
    loop {
        // Before the tasks: what was ended now had ended when they were looked at.
        let info: JobInfo = client.get(&format!("/v1/jobs/{job}")).await?;
        succeeded = info.state == RunState::Succeeded;
        let (wanted, several) = wanted(client, &info, task, step).await?;
        let shown = Shown { stdout, named: several, raw };
        if wanted.len() > TASKS_MAX {
            let count = wanted.len();
            return Err(Failure::usage(format!("the job has logs of {count} tasks; name one of them with --task")));
        }
        // What is not wanted any more in the end has nothing more to tell.
        if info.state.is_final() {
            let present: BTreeSet<_> = wanted.iter().map(|row| (row.step, row.task)).collect();
            let past = cursors.iter_mut().filter(|(task, _)| !present.contains(task));
            past.for_each(|(_, cursor)| cursor.ended = true);
        }
        for row in wanted {
            let cursor = cursors.entry((row.step, row.task)).or_insert_with(|| Cursor::new(row.attempt));
            if row.attempt.is_some_and(|newest| cursor.attempt.is_some_and(|read| read < newest)) {
                show_output(common, client, job, &row, shown, cursor).await?;
                print_to_stderr(format!("task {}.{} is tried again", row.step, row.task));
                *cursor = Cursor::new(row.attempt);
            }
            match read(common, client, job, &row, shown, cursor).await {
                Ok(()) if cursor.ended && row.failed => {
                    show_output(common, client, job, &row, shown, cursor).await?;
                }
                Ok(()) => (),
                // A worker that has not begun, or is gone: others have theirs.
                Err(Read::None(fault)) => {
                    cursor.ended = !follow || info.state.is_final();
                    last_fault = Some(fault);
                }
                Err(Read::Failed(failure)) => return Err(failure),
            }
        }
        if !follow || (info.state.is_final() && cursors.values().all(|cursor| cursor.ended)) {
            break;
        }
        tokio::select! {
            followed = follow_until_change(common, client, &info, shown, &mut cursors) => followed?,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
    match last_fault {
        // What was read of it while it ran is there as well, and whole.
        Some(_) if stdout && succeeded && cursors.values().any(|cursor| cursor.worker.is_some()) => {
            let whole = format!("standard output of a task that succeeded is its output: `quorate job output {job}`");
            print_to_stderr(advice::complete(common, &whole.into()));
            Ok(())
        }
        // Something was read: what is missing is worth a word and no more.
        Some(fault) if cursors.values().any(|cursor| cursor.worker.is_some()) => {
            print_to_stderr(format!("warning: {}", fault.message.as_str()));
            Ok(())
        }
        Some(fault) if stdout => {
            let hint = format!("standard output of a task that succeeded is its output: `quorate job output {job}`");
            Err(fault.hint(hint))
        }
        Some(fault) => Err(fault),
        None if cursors.is_empty() => {
            let what = task.map_or("none of its tasks".to_owned(), |task| format!("no task {task}"));
            Err(Failure::failed(format!("job {job}: {what} was begun in this step"))
                .hint(format!("`quorate job why {job}` says what it waits for")))
        }
        None => Ok(()),
    }
}

/// A task whose log is wanted. Which attempt is the newest is not known of one whose step is over.
struct Wanted {
    step: u16,
    task: u32,
    attempt: Option<Attempt>,
    /// Its newest attempt failed, or it was given up.
    failed: bool,
}

/// The tasks that were begun, and whether the step has several. Of a job that failed: those that made it fail.
async fn wanted(
    client: &Client,
    info: &JobInfo,
    task: Option<u32>,
    step: Option<u16>,
) -> Result<(Vec<Wanted>, bool), Failure> {
    let tasks: Vec<TaskInfo> = all_tasks(client, info.job, step).await?;
    let dead = |row: &&TaskInfo| row.state == TaskStateInfo::DeadLetter;
    let failed = info.state == RunState::Failed && tasks.iter().any(|row| dead(&row));
    let meant = |row: &&TaskInfo| task.map_or(!failed || dead(row), |task| row.task.0 == task);
    let begun = tasks.iter().filter(|row| meant(row) && row.attempts.0 > 0);
    let begun = begun.map(|row| {
        let failed = row.failure.is_some() && row.running.is_empty() && row.state != TaskStateInfo::Done;
        Wanted { step: row.step.0, task: row.task.0, attempt: Some(row.attempts), failed }
    });
    // What made it revert was in a step that is over.
    let present = info.batch.as_ref().map(|batch| batch.step.step);
    let dead = info.batch.iter().flat_map(|batch| &batch.dead_letters).filter(|dead| Some(dead.step) != present);
    let dead = dead.filter(|dead| step.is_none_or(|step| dead.step.0 == step));
    let dead = dead.filter(|dead| task.is_none_or(|task| dead.task.0 == task));
    let dead = dead.map(|dead| Wanted { step: dead.step.0, task: dead.task.0, attempt: None, failed: true });
    let wanted: Vec<_> = dead.chain(begun).collect();
    let several = wanted.len() > 1 || (tasks.len() > 1 && task.is_none());
    Ok((wanted, several))
}

enum Read {
    None(Failure),
    Failed(Failure),
}

/// Waits until the job has changed or a log has ended, and prints meanwhile what its tasks write.
async fn follow_until_change(
    common: &Common,
    client: &Client,
    info: &JobInfo,
    shown: Shown,
    cursors: &mut BTreeMap<(u16, u32), Cursor>,
) -> Result<(), Failure> {
    let job = info.job;
    let open = |cursor: &Cursor| !cursor.ended;
    let wait = match cursors.values().filter(|cursor| open(cursor)).count() > FOLLOWED_MAX {
        true => PAUSE,
        false => CHANGE_WAIT,
    };
    let path = format!("/v1/jobs/{job}/wait?since={}&timeout_ms={}", info.revision, wait.as_millis());
    let mut change = std::pin::pin!(client.get::<JobInfo>(&path));
    let followed = cursors.iter().filter(|(_, cursor)| open(cursor)).take(FOLLOWED_MAX);
    let mut pages: FuturesUnordered<_> =
        followed.map(|(task, cursor)| next_page(client, log_path(job, *task, shown, cursor), *task)).collect();
    loop {
        tokio::select! {
            change = &mut change => return change.map(drop).map_err(Failure::from),
            Some((task, page)) = pages.next() => {
                let Some(cursor) = cursors.get_mut(&task) else { continue };
                match page {
                    Ok(page) => show_page(common, task, shown, &page, cursor)?,
                    // What is wanted now may be another attempt.
                    Err(ClientError::Refused { status: 404, .. }) => return Ok(()),
                    Err(error) => return Err(error.into()),
                };
                if cursor.ended {
                    return Ok(());
                }
                pages.push(next_page(client, log_path(job, task, shown, cursor), task));
            }
        }
    }
}

/// What a task writes next, as soon as it does.
async fn next_page(client: &Client, path: String, task: (u16, u32)) -> ((u16, u32), Result<LogInfo, ClientError>) {
    let began = tokio::time::Instant::now();
    let page = client.get::<LogInfo>(&format!("{path}&wait_ms={}", LOG_WAIT.as_millis())).await;
    if page.as_ref().is_ok_and(|page| !page.ended && page.text.is_empty()) || page.is_err() {
        tokio::time::sleep_until(began + PAUSE).await;
    }
    (task, page)
}

fn log_path(job: JobId, (step, task): (u16, u32), shown: Shown, cursor: &Cursor) -> String {
    let worker = cursor.worker.map(|worker| format!("&worker={worker}")).unwrap_or_default();
    let attempt = cursor.attempt.map(|attempt| format!("&attempt={attempt}")).unwrap_or_default();
    let (from, stdout) = (cursor.next, shown.stdout);
    format!("/v1/jobs/{job}/logs?step={step}&task={task}&from={from}&stdout={stdout}{attempt}{worker}")
}

/// Prints the standard output of the attempt that the cursor has read, which failed; once, and only below its standard
/// error.
async fn show_output(
    common: &Common,
    client: &Client,
    job: JobId,
    row: &Wanted,
    shown: Shown,
    cursor: &mut Cursor,
) -> Result<(), Failure> {
    if shown.stdout || std::mem::replace(&mut cursor.output_shown, true) {
        return Ok(());
    }
    // Lines of several tasks say themselves what they are.
    let heading = (!shown.named).then(|| format!("--- standard output of task {}.{} ---", row.step, row.task));
    let mut output = Cursor { worker: cursor.worker, heading, ..Cursor::new(cursor.attempt) };
    match read(common, client, job, row, Shown { stdout: true, ..shown }, &mut output).await {
        // What is not there any more was not asked for.
        Ok(()) | Err(Read::None(_)) => Ok(()),
        Err(Read::Failed(failure)) => Err(failure),
    }
}

/// Prints what there is beyond the cursor.
async fn read(
    common: &Common,
    client: &Client,
    job: JobId,
    row: &Wanted,
    shown: Shown,
    cursor: &mut Cursor,
) -> Result<(), Read> {
    while !cursor.ended {
        let task = (row.step, row.task);
        let page: LogInfo = match client.get(&log_path(job, task, shown, cursor)).await {
            Ok(page) => page,
            Err(error @ ClientError::Refused { status: 404, .. }) => return Err(Read::None(error.into())),
            Err(error) => return Err(Read::Failed(error.into())),
        };
        if !show_page(common, task, shown, &page, cursor).map_err(Read::Failed)? {
            break;
        }
    }
    Ok(())
}

/// Prints a page and moves the cursor behind it. Returns whether there may be more.
fn show_page(
    common: &Common,
    task: (u16, u32),
    shown: Shown,
    page: &LogInfo,
    cursor: &mut Cursor,
) -> Result<bool, Failure> {
    let is_first = cursor.worker.is_none();
    (cursor.worker, cursor.attempt) = (Some(page.worker), Some(page.attempt));
    let read_on = page.next_offset > cursor.next;
    // Who follows prints what there is, and not that there was nothing.
    if !common.json {
        show(task, shown, page, cursor)?;
    } else if read_on || page.ended || is_first {
        print_json(page)?;
    }
    (cursor.next, cursor.ended) = (page.next_offset, page.ended);
    Ok(read_on)
}

/// What is shown of a log, and how.
#[derive(Clone, Copy)]
struct Shown {
    stdout: bool,
    /// Each line with its task's name.
    named: bool,
    raw: bool,
}

/// Prints whole lines, each with its task's name if there are several; the rest waits for its end. Where something was
/// not kept, the text says so itself, or it would look whole in a file.
fn show((step, task): (u16, u32), shown: Shown, page: &LogInfo, cursor: &mut Cursor) -> Result<(), Failure> {
    let is_output = page.stream == LogStreamInfo::Stdout;
    let name = match (shown.named, is_output) {
        (true, true) => format!("[{step}.{task} stdout] "),
        (true, false) => format!("[{step}.{task}] "),
        (false, _) => String::new(),
    };
    if page.offset > cursor.next {
        let missing = page.offset - cursor.next;
        print_to_stderr(format!("task {step}.{task}: {missing} bytes were not kept"));
        if !cursor.rest.is_empty() {
            show_line(&name, &std::mem::take(&mut cursor.rest), shown.raw)?;
        }
        show_line(&name, &format!("[{missing} bytes were not kept]"), shown.raw)?;
    }
    cursor.rest.push_str(&page.text);
    if let Some(heading) = cursor.heading.take_if(|_| !cursor.rest.is_empty()) {
        show_line("", &heading, shown.raw)?;
    }
    while let Some(end) = cursor.rest.find('\n') {
        let line: String = cursor.rest.drain(..=end).collect();
        show_line(&name, line.trim_end_matches('\n'), shown.raw)?;
    }
    if page.ended && !cursor.rest.is_empty() {
        show_line(&name, &std::mem::take(&mut cursor.rest), shown.raw)?;
    }
    Ok(())
}

fn show_line(name: &str, line: &str, raw: bool) -> Result<(), Failure> {
    let mut payload = Payload::to_stdout(raw);
    // Elsewhere a carriage return is part of the end of a line.
    let line = if payload.is_escaped() { line.trim_end_matches('\r') } else { line };
    payload.write(format!("{name}{line}\n").as_bytes())?;
    payload.finish()
}
