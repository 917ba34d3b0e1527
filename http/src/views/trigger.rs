//! Triggers, as the API shows them.

use quorate_api::{
    EventInfo, EventKind, FireCause, FireInfo, FireOutcome, FiredByInfo, InstantInfo, NextInfo, TriggerInfo,
};
use quorate_protocols::ids::{JobId, Millis, QuorumId};
use quorate_protocols::job::{JobRecord, RunState};
use quorate_protocols::trigger::spec::TriggerSpec;
use quorate_protocols::trigger::{Cause, FireRow, Fired, Schedule, TriggerRun, show_instant};

use quorate_spec::show;

pub fn trigger_info(record: &JobRecord) -> Option<TriggerInfo> {
    let (spec, run) = record.trigger()?;
    let trigger = &spec.trigger;
    Some(TriggerInfo {
        form: trigger.name().to_owned(),
        when: show::when(trigger),
        overlap: show::overlap(trigger.overlap),
        missed: show::missed(trigger.missed.policy),
        deadline_ms: trigger.missed.deadline.map(|deadline| deadline.as_millis() as u64),
        suspended: run.suspended,
        started_at: run.clock.from,
        next_at: run.clock.next.filter(|_| !record.state.is_final()).map(|next| next.instant),
        instants: run.clock.done,
        rows: run.rows,
        live: run.live.iter().copied().collect(),
        open_at: run.clock.open.iter().map(|range| [range.first, range.last]).collect(),
        head_at: run.clock.end().filter(|_| !record.state.is_final()),
    })
}

pub fn fired_by(record: &JobRecord) -> Option<FiredByInfo> {
    let by = record.fired_by?;
    Some(FiredByInfo { job: by.job, number: by.number })
}

pub fn fire_info(row: &FireRow) -> FireInfo {
    let cause = match row.cause {
        Cause::Instant(_) => FireCause::Instant,
        Cause::Event(_) => FireCause::Event,
        Cause::Manual(_) => FireCause::Manual,
        Cause::Condition(_) => FireCause::Condition,
        Cause::After(_) => FireCause::After,
    };
    let instant_at = match row.cause {
        Cause::Instant(instant) => instant,
        _ => row.at,
    };
    let blank = FireInfo {
        instant_at,
        run: None,
        outcome: FireOutcome::Waiting,
        skipped: 0,
        reason: None,
        last_at: None,
        number: row.number,
        cause,
        recorded_at: row.at,
    };
    match row.what {
        Fired::Waiting => blank,
        Fired::Run { run, end } => FireInfo { run: Some(run), outcome: outcome(end), ..blank },
        Fired::Withdrawn { last, count } => {
            FireInfo { outcome: FireOutcome::Withdrawn, skipped: count, last_at: (count > 1).then_some(last), ..blank }
        }
        Fired::Skipped { last, count, reason } => FireInfo {
            outcome: FireOutcome::Skipped,
            skipped: count,
            reason: Some(reason.into()),
            last_at: (count > 1).then_some(last),
            ..blank
        },
    }
}

fn outcome(end: Option<RunState>) -> FireOutcome {
    match end {
        Some(RunState::Succeeded) => FireOutcome::Succeeded,
        Some(RunState::Failed) => FireOutcome::Failed,
        Some(RunState::Reverted) => FireOutcome::Reverted,
        Some(RunState::Cancelled) => FireOutcome::Cancelled,
        // Only the four are ends.
        Some(_) | None => FireOutcome::Running,
    }
}

/// The next `count` instants; of what no clock fires, none.
pub fn next_info(
    trigger: &TriggerSpec,
    schedule: Option<&Schedule>,
    job: JobId,
    run: &TriggerRun,
    now: Millis,
    count: usize,
) -> NextInfo {
    let next = schedule.map(|schedule| {
        let preview = schedule.preview(job, &run.clock, now, count);
        let shown = preview.into_iter().map(|next| InstantInfo {
            instant_at: next.instant,
            due_at: next.due,
            text: schedule.show(next.instant),
        });
        shown.collect()
    });
    NextInfo { when: show::when(trigger), suspended: run.suspended, asked_at: now, next: next.unwrap_or_default() }
}

pub fn fired(quorum: QuorumId, job: JobId, row: &FireRow) -> EventInfo {
    let info = fire_info(row);
    let cause = match info.cause {
        FireCause::Instant => show_instant(info.instant_at),
        _ => super::word(&info.cause),
    };
    let what = match (info.run, info.reason) {
        (Some(run), _) => format!("run {run} is {}", super::word(&info.outcome)),
        (None, Some(reason)) => format!("{} skipped, because {}", info.skipped, reason.explain()),
        (None, None) if info.outcome == FireOutcome::Withdrawn => {
            format!("{} skipped by clocks that ran ahead, and open again", info.skipped)
        }
        (None, None) => "waits for an earlier run".to_owned(),
    };
    let message = format!("trigger {job}, {cause}: {what}");
    EventInfo { quorum: Some(quorum), job: Some(job), ..super::event(EventKind::TriggerFired, message) }
}
