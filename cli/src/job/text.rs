//! Jobs as people read them.

use std::time::Duration;

use quorate_api::{
    BatchInfo, JobInfo, OutcomeInfo, OutputInfo, PlanInfo, PlannedStep, ReceiptBundle, TaskInfo, TaskResources,
    TriggerInfo, Verdict,
};
use quorate_protocols::ids::{JobId, PeerId};
use quorate_protocols::task::vote::{self, tally};
use quorate_protocols::text::counted;
use quorate_protocols::trigger::show_instant;

use quorate_spec::show;

use super::super::ids::Ids;
use super::super::output::{Text, bytes, facts, instant, or_dash, table, word};

/// Characters of an output that a row shows.
const SHOWN_MAX: usize = 72;

/// Rows of one sort that a page shows; the rest is counted.
const ROWS_SHOWN_MAX: usize = 16;

pub fn jobs_table(jobs: &[JobInfo], ids: &Ids) -> Text {
    let rows = jobs.iter().map(|job| {
        vec![
            ids.job(job.job),
            job.kind.to_string(),
            word(&job.state),
            match &job.trigger {
                Some(trigger) => trigger.form.clone(),
                None => or_dash(
                    job.batch.as_ref().map(|batch| format!("{}/{}", batch.step.tasks.done, batch.step.tasks.total)),
                ),
            },
            instant(job.created_at),
            or_dash(job.name.as_ref()),
            job.why.as_deref().map(|why| ids.sentence(why)).unwrap_or_default(),
        ]
    });
    table(&["job", "kind", "state", "tasks", "created", "name", "why"], rows)
}

pub fn job_text(job: &JobInfo, ids: &Ids) -> Text {
    let peer = |peer: PeerId| ids.peer(peer);
    let mut rows = vec![
        ("job", job.job.to_string()),
        ("kind", job.kind.to_string()),
        ("state", word(&job.state)),
        ("why", or_dash(job.why.as_deref().map(|why| ids.sentence(why)))),
        ("quorum", job.quorum.to_string()),
        ("primary", or_dash(job.primary.map(peer))),
        ("owner", peer(job.owner)),
        ("name", or_dash(job.name.as_ref())),
    ];
    if let Some(store) = &job.store {
        rows.extend([
            ("uploader", format!("{} (attempt {})", peer(store.uploader), store.attempts)),
            ("size", or_dash(store.bytes.map(bytes))),
            ("profile", format!("{}{}", store.profile, if store.degraded { ", degraded" } else { "" })),
        ]);
    }
    if let Some(trigger) = &job.trigger {
        rows.extend(trigger_rows(job, trigger));
    }
    if let Some(by) = job.fired_by {
        rows.push(("fired by", format!("{} (row {} of its fires)", by.job, by.number)));
    }
    rows.push(("created", instant(job.created_at)));
    rows.push(("finished", or_dash(job.finished_at.map(instant))));
    if let Some(store) = &job.store {
        rows.push(("object", or_dash(store.object)));
        // A run that has ended holds nothing: what became an object is told by `object show`.
        rows.extend(store.columns.iter().filter(|_| !job.state.is_final()).map(|column| {
            let holder = or_dash(column.holder.map(peer));
            let (state, stored, segments) = (word(&column.state), column.stored, store.segments);
            ("column", format!("{} {holder} {state} {stored}/{segments}", column.column))
        }));
        rows.extend(
            store.failed.iter().map(|one| ("failed", format!("{}: {}", peer(one.peer), ids.sentence(&one.reason)))),
        );
    }
    if let Some(batch) = &job.batch {
        rows.extend(batch_rows(job, batch, ids));
    }
    let outcome = job.batch.as_ref().and_then(|batch| batch.outcome.as_ref());
    rows.extend(outcome.into_iter().flat_map(|outcome| output_rows(job, outcome)));
    let hidden = job.batch.as_ref().and_then(|batch| batch.outcome_hidden.as_deref());
    rows.extend(hidden.map(|why| ("output", format!("not shown here: {}", ids.sentence(why)))));
    let text = facts(&rows);
    match outcome.and_then(only_text) {
        Some(alone) => text.below(Text::paragraphs(alone.trim_end_matches('\n'))),
        None => text,
    }
}

fn trigger_rows(job: &JobInfo, trigger: &TriggerInfo) -> Vec<(&'static str, String)> {
    let deadline = trigger.deadline_ms.map(Duration::from_millis);
    let deadline = deadline.map(|deadline| format!(", none later than {}", show::span(deadline))).unwrap_or_default();
    let mut rows = vec![
        ("trigger", trigger.when.clone()),
        ("overlap", trigger.overlap.clone()),
        ("missed", format!("{}{deadline}", trigger.missed)),
    ];
    if !job.state.is_final() {
        let suspended = if trigger.suspended { ", to be skipped: it is suspended" } else { "" };
        rows.extend(trigger.next_at.map(|next| ("next", format!("{}{suspended}", show_instant(next)))));
    }
    let fires = format!("`quorate job fires {}` shows them", job.job);
    rows.push((
        "fires",
        format!("{} recorded, {}: {fires}", counted(trigger.instants, "instant"), counted(trigger.rows, "row")),
    ));
    rows.extend(some("live run", trigger.live.iter().map(JobId::to_string)));
    rows
}

/// The text of a job's only output.
fn only_text(outcome: &OutcomeInfo) -> Option<&str> {
    match outcome.outputs.as_slice() {
        [only] if outcome.tasks == 1 => only.text.as_deref().filter(|text| !text.is_empty()),
        _ => None,
    }
}

fn batch_rows(job: &JobInfo, batch: &BatchInfo, ids: &Ids) -> Vec<(&'static str, String)> {
    let mut rows: Vec<_> = batch
        .steps
        .iter()
        .map(|planned| match batch.step.step == planned.step {
            true => ("step", format!("{}, {}", step_text(planned), progress(job))),
            false => ("step", format!("{}, {}", step_text(planned), tasks(planned.tasks))),
        })
        .collect();
    let limit = match batch.parallelism {
        0 => String::new(),
        limit => format!(", at most {limit} at once"),
    };
    rows.push(("task", format!("{}{limit}, priority {}", resources_text(&batch.resources), batch.priority)));
    if let Some(verify) = batch.verify {
        rows.push(("verify", format!("{} copies of each task, {} must agree", verify.copies, verify.agree)));
    }
    // The reason names the task.
    let dead = batch.dead_letters.iter().map(|dead| format!("step {}, {}", dead.step, ids.sentence(&dead.reason)));
    rows.extend(some("given up", dead));
    let refused = batch.refused.iter().map(|one| format!("{}: {}", ids.peer(one.peer), ids.sentence(&one.reason)));
    rows.extend(some("refused", refused));
    if batch.stale_reports > 0 {
        rows.push(("stale", format!("refused {} of replaced attempts", counted(batch.stale_reports, "report"))));
    }
    rows
}

/// The first rows, and how many more there are.
fn some(name: &'static str, values: impl ExactSizeIterator<Item = String>) -> Vec<(&'static str, String)> {
    let more = values.len().saturating_sub(ROWS_SHOWN_MAX);
    let mut rows: Vec<_> = values.take(ROWS_SHOWN_MAX).map(|value| (name, value)).collect();
    if more > 0 {
        rows.push((name, format!("and {more} more")));
    }
    rows
}

fn output_rows(job: &JobInfo, outcome: &OutcomeInfo) -> Vec<(&'static str, String)> {
    let alone = only_text(outcome).is_some();
    let mut rows: Vec<_> = outcome
        .outputs
        .iter()
        .map(|output| {
            let task = if outcome.tasks == 1 { String::new() } else { format!("task {}: ", output.task) };
            let what = if alone { format!("{}, below", bytes(output.bytes)) } else { output_text(output) };
            ("output", format!("{task}{what}"))
        })
        .collect();
    let more = (outcome.tasks as usize).saturating_sub(outcome.outputs.len());
    if more > 0 {
        rows.push(("output", format!("and of {more} more tasks: `quorate job output {}` writes them all", job.job)));
    }
    rows
}

fn output_text(output: &OutputInfo) -> String {
    let size = bytes(output.bytes);
    match (&output.text, output.object) {
        (_, Some(object)) => format!("{size}, object {object}"),
        (Some(text), _) if text.chars().count() <= SHOWN_MAX && !text.trim_end().contains('\n') => {
            format!("{size}, {:?}", text.trim_end())
        }
        _ => format!("{size}, in the record"),
    }
}

pub fn resources_text(needs: &TaskResources) -> String {
    let mut text = format!("{} memory", bytes(needs.memory_bytes));
    if needs.disk_bytes > 0 {
        text.push_str(&format!(", {} disk", bytes(needs.disk_bytes)));
    }
    text.push_str(&format!(", {}", counted(needs.slots, "slot")));
    for (name, value) in &needs.labels {
        text.push_str(&format!(", {name}={value}"));
    }
    text
}

fn step_text(planned: &PlannedStep) -> String {
    format!("{} {}", planned.step, word(&planned.role))
}

fn tasks(count: u32) -> String {
    counted(count, "task")
}

/// `step 1 reduce`, of the present step; empty for what has none.
pub fn step_name(job: &JobInfo) -> String {
    let planned = job.batch.as_ref().and_then(|batch| {
        let now = batch.step.step;
        batch.steps.iter().find(|planned| planned.step == now)
    });
    planned.map(|planned| format!("step {}", step_text(planned))).unwrap_or_default()
}

/// How the tasks of the present step stand; empty for what has none.
pub fn progress(job: &JobInfo) -> String {
    let Some(batch) = &job.batch else { return String::new() };
    let tally = batch.step.tasks;
    let mut text = format!("{} of {} done", tally.done, tasks(tally.total));
    for (count, what) in [
        (tally.running, "running"),
        (tally.ready, "waiting for a worker"),
        (tally.delayed, "waiting for another try"),
        (tally.dead_letters, "given up"),
        (tally.parked, "waiting for a decision"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text
}

pub fn tasks_table(tasks: &[TaskInfo], ids: &Ids) -> Text {
    let rows = tasks.iter().map(|task| {
        let running =
            task.running.iter().map(|attempt| format!("{} {}", ids.peer(attempt.worker), word(&attempt.phase)));
        let workers = task.worker.map(|worker| ids.peer(worker)).into_iter().chain(running);
        let why = match (&task.failure, task.retry_at) {
            (Some(failure), retry_at) => {
                let next = retry_at.map(|at| format!("; next try at {}", instant(at))).unwrap_or_default();
                format!("{}: {}{next}", failure.class, ids.sentence(&failure.reason))
            }
            (None, _) => String::new(),
        };
        vec![
            format!("{}.{}", task.step, task.task),
            word(&task.state),
            task.attempts.to_string(),
            or_dash(task.output_bytes.map(bytes)),
            workers.collect::<Vec<_>>().join(", "),
            why,
        ]
    });
    table(&["task", "state", "attempts", "output", "workers", "last failure"], rows)
}

pub fn plan_text(plan: &PlanInfo, ids: &Ids) -> Text {
    let mut rows = vec![("kind", plan.kind.to_string()), ("name", or_dash(plan.name.as_ref()))];
    let step = |planned| format!("{}, {}", step_text(planned), tasks(planned.tasks));
    rows.extend(plan.steps.iter().map(|planned| ("step", step(planned))));
    rows.push(("task", resources_text(&plan.resources)));
    if plan.compile_memory_bytes > 0 {
        let memory = bytes(plan.compile_memory_bytes);
        rows.push(("module", format!("each worker compiles it once, with up to {memory} of memory")));
    }
    rows.extend(plan.trigger.clone().map(|when| ("trigger", when)));
    let would = plan.peers.iter().filter(|peer| peer.refusal.is_none()).count();
    rows.push(("peers", format!("{would} of {} known would run it", plan.peers.len())));
    let peers = plan.peers.iter().map(|peer| {
        let answer = match &peer.refusal {
            None => format!("yes, {} at once", tasks(peer.tasks)),
            Some(reason) => format!("no: {}", ids.sentence(reason)),
        };
        vec![ids.peer(peer.peer), answer]
    });
    facts(&rows).below(table(&["peer", "would run it"], peers))
}

pub fn verdict_text(verdict: Verdict) -> String {
    match verdict {
        Verdict::Output(digest) => format!("output {digest}"),
        Verdict::Failed(class) => format!("failure ({class})"),
    }
}

pub fn receipts_text(bundle: &ReceiptBundle, ids: &Ids) -> Text {
    let rows = bundle.tasks.iter().flat_map(|task| {
        let signed: Vec<vote::ResultReceipt> = task.receipts.iter().copied().map(Into::into).collect();
        let agreed = tally(signed.iter().map(|receipt| &receipt.statement), bundle.agree.into());
        let agreed = agreed.map(|agreement| Verdict::from(agreement.verdict));
        task.receipts.iter().map(move |receipt| {
            let statement = receipt.statement;
            let stance = match agreed {
                Some(verdict) if verdict == statement.verdict => "agrees",
                Some(_) => "DISSENTS",
                None => "no agreement",
            };
            vec![
                format!("{}.{}", task.step, task.task),
                stance.to_owned(),
                ids.peer(statement.worker),
                verdict_text(statement.verdict),
            ]
        })
    });
    table(&["task", "", "worker", "signed"], rows)
}
