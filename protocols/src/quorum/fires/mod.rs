//! Fires: the life of a trigger, and of each fire from its cause to the end of its run.
//!
//! Every way to a fire ends in [`QuorumState::fire`], which applies the overlap policy and writes the row. Runs tell
//! their trigger that they ended through `finished`, at the end of the entry: so a run that ends while another command
//! is half applied changes nothing under it.
//!
//! These handlers stand on the frame: a fire makes a run of any kind, and may cancel others. They change records and
//! the index through the operations of [`JobBook`](super::JobBook) and [`Triggers`](super::Triggers).

mod deliveries;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;

use bytes::Bytes;

use crate::ids::{JobId, LogIndex, Millis, Nonce, PeerId};
use crate::job::record::{JobRecord, RunState};
use crate::job::spec::JobSpec;
use crate::job::spec::TriggeredSpec;
use crate::job::transition::RunCommand;
use crate::quorum::command::{Control, TriggerCommand};
use crate::quorum::event::Event;
use crate::quorum::reply::{Applied, invalid};
use crate::quorum::reply::{CommandReply, Rejection};
use crate::quorum::state::QuorumState;
use crate::text::REASON_BYTES_MAX;
use crate::trigger::input::{Values, render};
use crate::trigger::limits::*;
use crate::trigger::record::{
    Cause, Clock, Due, Ended, FireRow, Fired, FiredBy, SeenId, SkipReason, Skipped, Span, TriggerRun, Waiting,
};
use crate::trigger::reopen::{InstantRange, Leap};
use crate::trigger::spec::{MissedPolicy, Overlap, When};

/// What one row stands for, until others of its sort join it.
const ONE: u64 = 1;

impl QuorumState {
    pub(in crate::quorum) fn apply_trigger(
        &mut self,
        by: PeerId,
        command: &TriggerCommand,
        events: &mut Vec<Event>,
    ) -> Applied {
        match command {
            TriggerCommand::Due { spans } => self.due(spans, events),
            TriggerCommand::Fire { job, seen, nonce, respect_overlap } => {
                self.fire_now(by, (*job, *seen), *nonce, *respect_overlap, events)
            }
            TriggerCommand::Deliver { emitter, follows, reaches, lost, deliveries } => {
                self.deliver(*emitter, (*follows, *reaches, *lost), deliveries, events)
            }
            TriggerCommand::Observe { job, observation } => self.observe(*job, observation, events),
        }
    }

    // ---- the trigger's own life ----

    pub(in crate::quorum) fn check_trigger_room(&self, owner: PeerId, spec: &TriggeredSpec) -> Result<(), Rejection> {
        self.triggers.check_room(owner, &spec.trigger)?;
        if let When::Event(event) = &spec.trigger.when
            && self.triggers.listening_to(&event.name).count() >= MATCHES_MAX
        {
            let what = format!("triggers that listen to {:?}", event.name);
            return Err(Rejection::Full { what, limit: MATCHES_MAX });
        }
        if let When::After(jobs) = &spec.trigger.when {
            for after in jobs {
                if after.job.quorum != self.quorum {
                    return Err(invalid(format!(
                        "trigger.after: job {} belongs to another quorum; its end is an event there: use `event`",
                        after.job
                    )));
                }
                if !self.jobs.contains_key(&after.job) {
                    return Err(Rejection::UnknownJob { job: after.job });
                }
            }
        }
        Ok(())
    }

    /// Right after its record was made: jobs that it waits for may have ended long ago.
    pub(in crate::quorum) fn begin_trigger(&mut self, job: JobId, events: &mut Vec<Event>) {
        self.triggers.reindex(job, self.jobs.get(&job));
        let Some((spec, _)) = self.trigger(job) else { return };
        let When::After(jobs) = &spec.trigger.when else { return };
        let ended = |upstream: JobId| {
            let record =
                self.jobs.get(&upstream).filter(|record| record.state.is_final() && record.trigger().is_none())?;
            let at = record.finished_at.unwrap_or_default();
            Some((upstream, Ended { run: upstream, state: record.state, at }))
        };
        let ended: Vec<_> = jobs.iter().filter_map(|after| ended(after.job)).collect();
        for (upstream, ended) in ended {
            self.upstream_ended(job, upstream, ended, events);
        }
        self.settle_trigger(job, events);
    }

    pub(in crate::quorum) fn suspend(&mut self, by: PeerId, job: JobId, events: &mut Vec<Event>) -> Applied {
        let state = self.jobs.run_for(job, RunCommand::Suspend)?.state;
        if state == RunState::Paused {
            return Ok(CommandReply::Done);
        }
        self.with_trigger(job, |run| {
            run.suspended = true;
            run.condition.forget();
        });
        self.enter_trigger(job, RunState::Paused, &format!("suspended by {by}"), events);
        Ok(CommandReply::Done)
    }

    pub(in crate::quorum) fn unsuspend(&mut self, by: PeerId, job: JobId, events: &mut Vec<Event>) -> Applied {
        let state = self.jobs.run_for(job, RunCommand::Unsuspend)?.state;
        if state == RunState::Running {
            return Ok(CommandReply::Done);
        }
        self.with_trigger(job, |run| {
            run.suspended = false;
            run.resuming = run.clock.next.is_some();
        });
        self.enter_trigger(job, RunState::Running, &format!("unsuspended by {by}"), events);
        self.settle_trigger(job, events);
        Ok(CommandReply::Done)
    }

    /// Ends the trigger, and its runs with it.
    pub(in crate::quorum) fn cancel_trigger(&mut self, by: PeerId, job: JobId, events: &mut Vec<Event>) -> Applied {
        if self.jobs.get(&job).is_some_and(|record| record.state.is_final()) {
            return Ok(CommandReply::Done);
        }
        self.drop_waiting(job, SkipReason::Cancelled, events);
        if let Some(debounced) = self.with_trigger(job, |run| run.debounced.take()).flatten() {
            self.skip(job, debounced.cause, SkipReason::Cancelled, events);
        }
        self.stop_runs(by, job, events);
        self.end_trigger(job, RunState::Cancelled, Some(format!("by {by}")), &format!("cancelled by {by}"), events);
        Ok(CommandReply::Done)
    }

    fn enter_trigger(&mut self, job: JobId, to: RunState, what: &str, events: &mut Vec<Event>) {
        let now = self.wall();
        self.jobs.enter(&job, now, to, what.to_owned());
        events.push(Event::JobChanged { job, state: to });
        self.reindex_job(job);
    }

    fn end_trigger(&mut self, job: JobId, to: RunState, reason: Option<String>, what: &str, events: &mut Vec<Event>) {
        let now = self.wall();
        // What it remembered of events goes with it.
        for (id, until) in self.with_trigger(job, |run| std::mem::take(&mut run.seen)).unwrap_or_default() {
            self.triggers.remove_id(until, job, id);
        }
        self.with_trigger(job, |run| {
            (run.suspended, run.resuming) = (false, false);
            run.ended.clear();
        });
        self.jobs.end(&job, now, reason.as_deref());
        self.enter_trigger(job, to, what, events);
        // Whoever waits for its runs learns that there will be no more.
        self.triggers.job_finished(job, false);
    }

    /// Ends a trigger that has nothing more to fire and nothing that runs; brings the index up to date.
    pub(super) fn settle_trigger(&mut self, job: JobId, events: &mut Vec<Event>) {
        let over = self.jobs.get(&job).filter(|record| !record.state.is_final()).and_then(|record| {
            let (spec, run) = record.trigger()?;
            (!run.is_busy() && run.debounced.is_none() && self.is_exhausted(spec, run)).then_some(run.rows)
        });
        if let Some(rows) = over {
            let what = format!("nothing is left to fire after {rows} records");
            self.end_trigger(job, RunState::Succeeded, None, &what, events);
        }
        self.reindex_job(job);
    }

    fn is_exhausted(&self, spec: &TriggeredSpec, run: &TriggerRun) -> bool {
        match &spec.trigger.when {
            When::At(_) | When::Every { .. } | When::Cron { .. } => {
                run.clock.from.is_some() && run.clock.next.is_none()
            }
            When::Event(_) | When::Condition(_) => false,
            When::After(jobs) => {
                let may_end = |job: JobId| match self.jobs.get(&job) {
                    Some(record) if !record.state.is_final() => true,
                    Some(record) => record.trigger().is_some_and(|(_, run)| run.is_busy()),
                    None => false,
                };
                !jobs.iter().all(|after| run.ended.contains_key(&after.job) || may_end(after.job))
            }
        }
    }

    pub(super) fn with_trigger<R>(&mut self, job: JobId, change: impl FnOnce(&mut TriggerRun) -> R) -> Option<R> {
        self.jobs.trigger_mut(&job).map(|(_, run)| change(run))
    }

    // ---- what fires ----

    pub(in crate::quorum) fn due(&mut self, spans: &[Span], events: &mut Vec<Event>) -> Applied {
        if spans.len() > SPANS_MAX {
            return Err(Rejection::Full { what: "triggers in one command".to_owned(), limit: SPANS_MAX });
        }
        spans.iter().try_for_each(check_span)?;
        for span in spans {
            self.move_on(span, events);
        }
        Ok(CommandReply::Done)
    }

    /// Records every instant of the span, unless the record has moved since the span was made.
    fn move_on(&mut self, span: &Span, events: &mut Vec<Event>) {
        let job = span.job;
        let Some(record) = self.jobs.get(&job).filter(|record| !record.state.is_final()) else { return };
        let Some((spec, run)) = record.trigger().filter(|(spec, run)| spec.trigger.is_timed() && !run.suspended) else {
            return;
        };
        let clock = &run.clock;
        let fresh =
            clock.next.map(|next| next.instant) == span.expected && clock.from.is_none_or(|from| from == span.from);
        // Nothing that has a row gets another, wherever the primary believes that the record is open.
        let ends = span.skipped.into_iter().flat_map(|skipped| [skipped.first, skipped.last]);
        let mut named = ends.chain(span.named.iter().copied()).chain(span.next.map(|next| next.instant));
        let fresh = fresh && named.all(|instant| clock.is_open(instant));
        let over = clock.from.is_some() && clock.next.is_none();
        #[cfg(test)]
        let fresh = fresh || model_tests::PLANTED.get();
        if !fresh || over {
            return;
        }
        let (steady, jitter, missed) =
            (spec.trigger.is_steady(), spec.trigger.when.bounds().jitter, spec.trigger.missed);
        let (resuming, lag, now) = (run.resuming, clock.lag, self.wall());
        if let Some(fault) = &span.fault {
            self.with_trigger(job, |run| run.clock.rest_until = Some(now.plus(FAULT_REST)));
            self.jobs.set_reason(&job, Some(fault));
            self.reindex_job(job);
            return;
        }
        let recorded = span.skipped.map_or(0, |skipped| skipped.count) + span.named.len() as u64;
        self.with_trigger(job, |run| {
            let clock = &mut run.clock;
            (clock.from, clock.rest_until) = (Some(span.from), None);
            clock.done = clock.done.saturating_add(recorded);
            // A span that is followed by one that is due already does not end the making up.
            run.resuming = resuming && span.next.is_some_and(|next| next.due <= span.at);
        });
        let reason = |reason| if resuming { SkipReason::Suspended } else { reason };
        if let Some(skipped) = span.skipped {
            self.leap(job, skipped, reason(SkipReason::Missed), events);
        }
        let late = |instant: &Millis| span.at.plus(lag).since(Due::of(job, *instant, jitter).due);
        let is_late = |instant: &&Millis| late(instant) > MISSED_AFTER;
        let missing = span.named.iter().filter(is_late).count();
        // The newest few that were missed; none, if once is enough and there is one that was not missed.
        let kept = match missed.policy {
            MissedPolicy::Skip => 0,
            MissedPolicy::Once => usize::from(missing == span.named.len()),
            MissedPolicy::CatchUp(instants) => instants as usize,
        };
        let first_kept = missing.saturating_sub(kept);
        let mut passed = 0;
        for instant in &span.named {
            let was_late = is_late(&instant);
            let given_up = was_late && passed < first_kept;
            passed += usize::from(was_late);
            let expired = missed.deadline.is_some_and(|deadline| late(instant) > deadline);
            let skip = match (resuming, given_up, expired) {
                (true, ..) => Some(SkipReason::Suspended),
                (_, true, _) => Some(SkipReason::Missed),
                (_, _, true) => Some(SkipReason::Deadline),
                _ => None,
            };
            match skip {
                Some(reason) => {
                    self.leap(job, Skipped { first: *instant, last: *instant, count: ONE }, reason, events);
                }
                None => {
                    let input = render(job, &Values::Instant(*instant));
                    self.fire(job, Cause::Instant(*instant), input, true, events);
                }
            }
        }
        self.with_trigger(job, |run| run.clock.move_to(span.next));
        // As a timer does: time has passed in the quorum, whatever a wall clock that was set back says.
        if let Some(last) = span.named.last().filter(|_| steady) {
            let due = Due::of(job, *last, jitter).due.0.saturating_sub(lag.as_millis() as u64);
            let passed = Millis(due).min(span.at).since(self.wall());
            self.time = self.time.plus(passed);
        }
        self.settle_trigger(job, events);
    }

    /// Skips instants that had passed when they were recorded, and remembers them: clocks that are set back give them
    /// back.
    fn leap(&mut self, job: JobId, skipped: Skipped, reason: SkipReason, events: &mut Vec<Event>) {
        let Skipped { first, last, count } = skipped;
        let row = self.write_row(job, Cause::Instant(first), Fired::Skipped { last, count, reason }, events);
        let (range, suspended) = (InstantRange { first, last }, reason == SkipReason::Suspended);
        self.with_trigger(job, |run| run.clock.note_leap(Leap { row, range, count, suspended }));
    }

    /// The clocks were stepped, and wall time was `before`. How many instants are open again.
    pub(in crate::quorum) fn step_triggers(&mut self, before: Millis, by_ms: i64, events: &mut Vec<Event>) -> u64 {
        let now = self.wall();
        let jobs: Vec<JobId> = self.triggers.live().copied().collect();
        let mut reopened = 0u64;
        for job in jobs {
            let Some((spec, run)) = self.jobs.trigger_mut(&job) else { continue };
            if !spec.trigger.is_timed() {
                continue;
            }
            if by_ms > 0 {
                run.clock.set_forward(std::time::Duration::from_millis(by_ms.unsigned_abs()));
                self.reindex_job(job);
                continue;
            }
            let withdrawn = run.clock.set_back(job, &spec.trigger, before, now);
            run.resuming |= withdrawn.leaps.iter().any(|leap| leap.suspended);
            for leap in &withdrawn.leaps {
                reopened = reopened.saturating_add(leap.count);
                let InstantRange { first, last } = leap.range;
                let is_whole = |row: &&FireRow| row.cause == Cause::Instant(first);
                // A row that was forgotten is not missed.
                if self.trigger(job).and_then(|(_, run)| run.row(leap.row)).filter(is_whole).is_some() {
                    self.change_row(job, leap.row, Fired::Withdrawn { last, count: leap.count }, events);
                }
            }
            self.reindex_job(job);
        }
        reopened
    }

    /// By a person.
    pub(in crate::quorum) fn fire_now(
        &mut self,
        by: PeerId,
        (job, seen): (JobId, LogIndex),
        nonce: Nonce,
        respect_overlap: bool,
        events: &mut Vec<Event>,
    ) -> Applied {
        let since = self.jobs.run_for(job, RunCommand::Fire)?.since;
        self.forget_old_seen();
        let (id, cause) = (SeenId::from(nonce), Cause::Manual(nonce));
        let Some((_, run)) = self.trigger(job) else { return Err(Rejection::UnknownJob { job }) };
        if run.seen.contains_key(&id) {
            let row = run.fires.iter().rev().find(|row| row.cause == cause);
            return Ok(row.map_or(CommandReply::Done, |row| CommandReply::Fired(Box::new(row.clone()))));
        }
        if seen < since {
            // The nonce would be known if a try of it had fired.
            return Err(Rejection::Superseded { job, controlled: false });
        }
        self.check_seen(job, 1)?;
        self.remember_id(job, id, MANUAL_WINDOW);
        let number = self.fire(job, cause, render(job, &Values::Manual { by }), respect_overlap, events);
        let row = self.trigger(job).and_then(|(_, run)| run.row(number)).cloned();
        self.reindex_job(job);
        Ok(row.map_or(CommandReply::Done, |row| CommandReply::Fired(Box::new(row))))
    }

    // ---- one fire ----

    /// Runs, queues or skips, as the overlap policy says, and writes the row; its number.
    pub(super) fn fire(
        &mut self,
        job: JobId,
        cause: Cause,
        input: Bytes,
        respect_overlap: bool,
        events: &mut Vec<Event>,
    ) -> u64 {
        let Some((spec, run)) = self.trigger(job) else { return 0 };
        let (busy, waiting, owner) = (run.is_busy(), run.waiting.len(), self.jobs.get(&job).map(|record| record.owner));
        let room = run.input_bytes() + input.len() <= WAITING_BYTES_MAX;
        let overlap = if respect_overlap { spec.trigger.overlap } else { Overlap::Allow };
        match overlap {
            Overlap::Allow => self.run_now(job, cause, input, events),
            _ if !busy => self.run_now(job, cause, input, events),
            Overlap::Forbid => self.skip(job, cause, SkipReason::Overlap, events),
            Overlap::Queue(places) if waiting >= places as usize || !room => {
                self.skip(job, cause, SkipReason::QueueFull, events)
            }
            Overlap::Queue(_) => self.enqueue_fire(job, cause, input, events),
            Overlap::Replace => {
                self.drop_waiting(job, SkipReason::Replaced, events);
                let number = self.enqueue_fire(job, cause, input, events);
                self.stop_runs(owner.unwrap_or_default(), job, events);
                number
            }
        }
    }

    fn run_now(&mut self, job: JobId, cause: Cause, input: Bytes, events: &mut Vec<Event>) -> u64 {
        let number = self.trigger(job).map_or(0, |(_, run)| run.rows) + 1;
        match self.make_run(FiredBy { job, number }, input, events) {
            Some(run) => self.write_row(job, cause, Fired::Run { run, end: None }, events),
            None => self.skip(job, cause, SkipReason::Full, events),
        }
    }

    fn enqueue_fire(&mut self, job: JobId, cause: Cause, input: Bytes, events: &mut Vec<Event>) -> u64 {
        let number = self.write_row(job, cause, Fired::Waiting, events);
        self.with_trigger(job, |run| run.waiting.push_back(Waiting { number, input }));
        number
    }

    pub(super) fn skip(&mut self, job: JobId, cause: Cause, reason: SkipReason, events: &mut Vec<Event>) -> u64 {
        let last = match cause {
            Cause::Instant(instant) => instant,
            _ => self.wall(),
        };
        self.write_row(job, cause, Fired::Skipped { last, count: ONE, reason }, events)
    }

    /// Writes a row; its number. What is skipped for the reason of the row before is counted there.
    pub(super) fn write_row(&mut self, job: JobId, cause: Cause, what: Fired, events: &mut Vec<Event>) -> u64 {
        let (now, share) = (self.wall(), FIRES_KEPT_TOTAL / self.triggers.live_len().max(1));
        let share = share.clamp(FIRES_KEPT_MIN, FIRES_KEPT_MAX);
        let row = self.with_trigger(job, |run| {
            let before = run.fires.back_mut().filter(|before| may_join(&run.clock, before, cause, what));
            if let Some(joined) = before.and_then(|before| join(before, cause, what, now)) {
                return joined;
            }
            run.rows += 1;
            let row = FireRow { number: run.rows, cause, at: now, what };
            run.push(row.clone(), share, now);
            row
        });
        let Some(row) = row else { return 0 };
        let number = row.number;
        events.push(Event::Fired { job, row });
        number
    }

    fn change_row(&mut self, job: JobId, number: u64, what: Fired, events: &mut Vec<Event>) {
        let row = self.with_trigger(job, |run| {
            let row = run.row_mut(number)?;
            row.what = what;
            Some(row.clone())
        });
        if let Some(row) = row.flatten() {
            events.push(Event::Fired { job, row });
        }
    }

    /// Makes a run of the trigger; `None` when the quorum has no room for it.
    fn make_run(&mut self, by: FiredBy, input: Bytes, events: &mut Vec<Event>) -> Option<JobId> {
        let record = self.jobs.get(&by.job)?;
        let (owner, signed) = (record.owner, record.signed);
        let (triggered, trigger) = record.trigger()?;
        if trigger.live.len() >= RUNS_LIVE_MAX || self.jobs.check_live_room(owner).is_err() {
            return None;
        }
        let mut work = triggered.work.clone();
        let (job, now) = (by.run(), self.wall());
        let bytes = self.tasks.specification_bytes(by.job) + input.len();
        self.check_kind_room(owner, &work, bytes).ok()?;
        if self.jobs.contains_key(&job) {
            return None;
        }
        work.give_input(input);
        let run = self.new_run(job, &work, owner);
        let what = format!("fired by {}", by.job);
        let mut record = JobRecord::begin((job, owner, signed), now, JobSpec::Once(work), run, what);
        record.fired_by = Some(by);
        self.open_job(record, events);
        self.with_trigger(by.job, |trigger| trigger.live.insert(job));
        Some(job)
    }

    fn stop_runs(&mut self, by: PeerId, job: JobId, events: &mut Vec<Event>) {
        let live = self.trigger(job).map(|(_, run)| run.live.clone()).unwrap_or_default();
        for run in live {
            // One that is being undone already goes its way.
            let undoing = self.jobs.get(&run).is_some_and(|record| {
                matches!(record.state, RunState::Reverting | RunState::Cancelling) || record.state.is_final()
            });
            if !undoing {
                let _ = self.control_run(by, run, &Control::Cancel, events);
            }
        }
    }

    fn drop_waiting(&mut self, job: JobId, reason: SkipReason, events: &mut Vec<Event>) {
        let waiting = self.with_trigger(job, |run| std::mem::take(&mut run.waiting)).unwrap_or_default();
        for Waiting { number, .. } in waiting {
            let row = self.trigger(job).and_then(|(_, run)| run.row(number));
            let last = match row.map(|row| row.cause) {
                Some(Cause::Instant(instant)) => instant,
                _ => self.wall(),
            };
            self.change_row(job, number, Fired::Skipped { last, count: ONE, reason }, events);
        }
    }

    // ---- what ended ----

    /// Tells triggers what ended in this entry. Called once per entry, after its commands.
    pub(in crate::quorum) fn serve_finished(&mut self, events: &mut Vec<Event>) {
        while let Some(job) = self.triggers.take_finished() {
            let Some(record) = self.jobs.get(&job) else { continue };
            let by = record.fired_by;
            let ended = Ended { run: job, state: record.state, at: record.finished_at.unwrap_or_default() };
            let defined = record.trigger().is_some();
            if let Some(by) = by {
                self.run_ended(by, ended, events);
            }
            for upstream in [Some(job), by.map(|by| by.job)].into_iter().flatten() {
                let waiting: Vec<_> = self.triggers.waiting_for(&upstream).copied().collect();
                for waiting in waiting {
                    if !defined {
                        self.upstream_ended(waiting, upstream, ended, events);
                    }
                    self.settle_trigger(waiting, events);
                }
            }
        }
    }

    fn run_ended(&mut self, by: FiredBy, Ended { run, state, .. }: Ended, events: &mut Vec<Event>) {
        let FiredBy { job, number } = by;
        if self.with_trigger(job, |trigger| trigger.live.remove(&run)) != Some(true) {
            return;
        }
        self.change_row(job, number, Fired::Run { run, end: Some(state) }, events);
        // Those that waited have their turn, one after the other.
        while let Some(next) = self
            .with_trigger(job, |trigger| {
                let free = trigger.live.is_empty();
                if free { trigger.waiting.pop_front() } else { None }
            })
            .flatten()
        {
            let by = FiredBy { job, number: next.number };
            let what = match self.make_run(by, next.input, events) {
                Some(run) => Fired::Run { run, end: None },
                None => {
                    let last = self.wall();
                    Fired::Skipped { last, count: ONE, reason: SkipReason::Full }
                }
            };
            let what = self.with_instant(job, next.number, what);
            self.change_row(job, next.number, what, events);
        }
        self.settle_trigger(job, events);
    }

    /// The row of an instant that is skipped late still says which instant.
    fn with_instant(&self, job: JobId, number: u64, what: Fired) -> Fired {
        let row = self.trigger(job).and_then(|(_, run)| run.row(number));
        match (row.map(|row| row.cause), what) {
            (Some(Cause::Instant(last)), Fired::Skipped { count, reason, .. }) => {
                Fired::Skipped { last, count, reason }
            }
            (_, what) => what,
        }
    }

    fn upstream_ended(&mut self, job: JobId, upstream: JobId, ended: Ended, events: &mut Vec<Event>) {
        if self.jobs.get(&job).is_none_or(|record| record.state.is_final()) {
            return;
        }
        let Some((spec, run)) = self.jobs.trigger_mut(&job) else { return };
        let When::After(jobs) = &spec.trigger.when else { return };
        run.ended.insert(upstream, ended);
        if !jobs.iter().all(|after| run.ended.contains_key(&after.job)) {
            return;
        }
        let all = jobs.iter().filter_map(|after| Some((after, *run.ended.get(&after.job)?)));
        let wanted = all.clone().all(|(after, ended)| after.on.counts(ended.state == RunState::Succeeded));
        let ends: Vec<_> = all.map(|(after, ended)| (after.job, ended)).collect();
        let suspended = run.suspended;
        run.ended.clear();
        let cause = Cause::After(ended.run);
        if suspended {
            self.skip(job, cause, SkipReason::Suspended, events);
        } else if wanted {
            let input = render(job, &Values::After { ended: ends });
            self.fire(job, cause, input, true, events);
        } else {
            self.skip(job, cause, SkipReason::Outcome, events);
        }
    }
}

/// Whether a skip may be counted in the row before it: a row stands for instants in a row, and one whose instants may
/// be given back is given back in whole.
fn may_join(clock: &Clock, before: &FireRow, cause: Cause, what: Fired) -> bool {
    let (Cause::Instant(first), Cause::Instant(next), Fired::Skipped { reason, .. }) = (before.cause, cause, what)
    else {
        return true;
    };
    let is_leap = matches!(reason, SkipReason::Missed | SkipReason::Suspended | SkipReason::Deadline);
    clock.continues(first, next) && (!is_leap || clock.leaps.last().is_some_and(|leap| leap.row == before.number))
}

/// Counts a skip in the row before it, if that is of the same sort.
fn join(before: &mut FireRow, cause: Cause, what: Fired, now: Millis) -> Option<FireRow> {
    let Fired::Skipped { last: new_last, count: more, reason } = what else { return None };
    let alike = std::mem::discriminant(&before.cause) == std::mem::discriminant(&cause);
    let Fired::Skipped { last, count, reason: known } = &mut before.what else { return None };
    if !alike || *known != reason {
        return None;
    }
    (*last, *count) = (new_last, count.saturating_add(more));
    before.at = now;
    Some(before.clone())
}

/// Whether a span could be one, whatever the record says.
fn check_span(span: &Span) -> Result<(), Rejection> {
    let ensure =
        |holds: bool, what: &str| if holds { Ok(()) } else { Err(invalid(format!("job {}: {what}", span.job))) };
    ensure(span.named.len() <= INSTANTS_NAMED_MAX, "too many instants are named")?;
    ensure(span.fault.as_ref().is_none_or(|fault| fault.len() <= REASON_BYTES_MAX), "the fault is too long")?;
    if let Some(Skipped { first, last, count }) = span.skipped {
        ensure(first <= last && count > 0 && (count == 1) == (first == last), "an impossible range is skipped")?;
        ensure(span.named.first().is_none_or(|named| *named > last), "instants are out of order")?;
    }
    ensure(span.named.windows(2).all(|pair| pair[0] < pair[1]), "instants are out of order")?;
    let first = span.skipped.map(|skipped| skipped.first).or(span.named.first().copied());
    let last = span.named.last().copied().or(span.skipped.map(|skipped| skipped.last));
    let begins = first.is_none() || span.expected.is_none() || first == span.expected;
    ensure(begins, "the first instant is not the one that was expected")?;
    // It may fall due before it: see `Clock::lag`.
    let onward = span.next.is_none_or(|next| last.is_none_or(|last| next.instant > last));
    ensure(onward, "the next instant is not later")
}
