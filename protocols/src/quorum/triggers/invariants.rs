//! Invariants of triggers, and of what is known beside their records.

use super::Triggers;
use crate::ids::JobId;
use crate::job::limits::HISTORY_MAX;
use crate::job::record::{JobRecord, RunState};
use crate::quorum::check::{Checked, ensure};
use crate::quorum::jobs::JobBook;
use crate::trigger::limits::{
    DELIVERY_BYTES_MAX, EMITTERS_MAX, FIRES_KEPT_MAX, QUEUE_MAX, RUNS_LIVE_MAX, SEEN_MAX, SEEN_PER_TRIGGER_MAX,
    TRIGGERS_MAX, WAITING_BYTES_MAX,
};
use crate::trigger::record::{Cause, Clock, FireRow, Fired};
use crate::trigger::reopen::RANGES_MAX;
use crate::trigger::spec::{Overlap, When};

/// What is open again is in order, and the trigger goes on with it.
fn check_clock(clock: &Clock) -> Checked {
    let ordered = clock.open.windows(2).all(|pair| pair[0].last < pair[1].first);
    let sound = ordered && clock.open.iter().all(|range| range.first <= range.last);
    ensure(sound, || "open ranges are out of order".to_owned())?;
    let ranges = clock.open.len() + clock.leaps.len();
    ensure(ranges <= RANGES_MAX, || format!("{ranges} ranges of instants"))?;
    let behind = clock.open.last().is_none_or(|last| clock.head.is_none_or(|head| last.last < head));
    ensure(behind, || "it is open past its head".to_owned())?;
    let goes_on = match (clock.open.first(), clock.next) {
        (Some(range), Some(next)) => range.first <= next.instant && next.instant <= range.last,
        (Some(_), None) => clock.from.is_none(),
        (None, _) => true,
    };
    ensure(goes_on, || "it does not go on where it is open".to_owned())
}

impl Triggers {
    pub(in crate::quorum) fn check_index(&self, rebuilt: &Self) -> Checked {
        let (index, right) = (&self.index, &rebuilt.index);
        ensure(index == right, || format!("index {index:?} should be {right:?}"))
    }

    pub(in crate::quorum) fn check(&self) -> Checked {
        let index = &self.index;
        ensure(index.live.len() <= TRIGGERS_MAX, || format!("{} triggers", index.live.len()))?;
        ensure(index.seen.len() <= SEEN_MAX, || format!("{} ids of events", index.seen.len()))?;
        ensure(index.finished.is_empty(), || "jobs ended and nobody was told".to_owned())?;
        ensure(self.emitters.len() <= EMITTERS_MAX, || format!("{} emitters", self.emitters.len()))
    }
}

impl Triggers {
    pub(in crate::quorum) fn check_record(&self, jobs: &JobBook, job: JobId, record: &JobRecord) -> Checked {
        let (spec, run) = record.trigger().ok_or("its run is not of its kind")?;
        spec.check().map_err(|fault| fault.to_string())?;
        let state = record.state;
        ensure(state.is_final() == record.finished_at.is_some(), || "ended without an end".to_owned())?;
        ensure(state.is_final() || (state == RunState::Paused) == run.suspended, || "suspended and not".to_owned())?;
        ensure(record.history.len() <= HISTORY_MAX, || format!("{} lines of history", record.history.len()))?;
        let alone = !matches!(spec.trigger.overlap, Overlap::Allow);
        let by_hand =
            |row: &&FireRow| matches!((row.cause, row.what), (Cause::Manual(_), Fired::Run { end: None, .. }));
        let besides = run.fires.iter().filter(by_hand).count();
        ensure(!alone || run.live.len() <= 1 + besides, || format!("{} runs overlap", run.live.len()))?;
        ensure(run.live.len() <= RUNS_LIVE_MAX, || format!("{} runs", run.live.len()))?;
        ensure(run.waiting.len() <= QUEUE_MAX as usize, || format!("{} fires wait", run.waiting.len()))?;
        ensure(run.rows < 1 << 62, || "impossibly many rows".to_owned())?;
        let waits_for =
            |job: &JobId| matches!(&spec.trigger.when, When::After(jobs) if jobs.iter().any(|after| after.job == *job));
        ensure(run.ended.keys().all(waits_for), || "it knows of ends that nobody asked for".to_owned())?;
        ensure(run.waiting.is_empty() || !run.live.is_empty(), || "fires wait for nothing".to_owned())?;
        ensure(run.seen.len() <= SEEN_PER_TRIGGER_MAX, || format!("{} ids", run.seen.len()))?;
        ensure(run.input_bytes() <= WAITING_BYTES_MAX + DELIVERY_BYTES_MAX, || "too much waits".to_owned())?;
        let rows = run.fires.len();
        ensure(rows <= FIRES_KEPT_MAX + RUNS_LIVE_MAX + QUEUE_MAX as usize, || format!("{rows} rows"))?;
        let ordered = run.fires.iter().zip(run.fires.iter().skip(1)).all(|(row, next)| row.number < next.number);
        let last = run.fires.back().map_or(0, |row| row.number);
        ensure(ordered && last <= run.rows, || "rows are out of order".to_owned())?;
        for row in &run.fires {
            let number = row.number;
            let waits = || run.waiting.iter().any(|waiting| waiting.number == number);
            match row.what {
                Fired::Waiting => ensure(waits(), || format!("row {number} waits and nobody knows"))?,
                Fired::Run { run: made, end: None } => {
                    ensure(run.live.contains(&made), || format!("row {number} runs and nobody knows"))?;
                }
                Fired::Run { run: made, .. } => {
                    ensure(!run.live.contains(&made), || format!("row {number} has ended and runs"))?;
                }
                Fired::Skipped { count, .. } | Fired::Withdrawn { count, .. } => {
                    ensure(count > 0, || format!("row {number} skips nothing"))?;
                }
            }
        }
        check_clock(&run.clock)?;
        for made in &run.live {
            let by = jobs.get(made).filter(|record| !record.state.is_final());
            let by = by.and_then(|record| record.fired_by).filter(|by| by.job == job);
            let known = by.and_then(|by| run.row(by.number)).is_some();
            ensure(known, || format!("run {made} is not its, has ended, or has no row"))?;
        }
        let known = run
            .waiting
            .iter()
            .all(|waiting| matches!(run.row(waiting.number), Some(row) if row.what == Fired::Waiting));
        ensure(known, || "a fire waits without a row".to_owned())?;
        if state.is_final() {
            return ensure(run.waiting.is_empty() && run.seen.is_empty(), || "ended and waits".to_owned());
        }
        let moved = state == RunState::Paused || run.is_busy() || run.debounced.is_some();
        ensure(moved || self.index.moves(job, spec), || "nothing will ever fire it".to_owned())
    }
}
