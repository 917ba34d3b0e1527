//! What is true of every state, whatever commands made it. Checked by tests after every command, and once when a
//! snapshot is read, so that the rest of the core may rely on it.

use std::collections::BTreeSet;

use super::object::{ObjectRecord, ObjectState};
use super::state::QuorumState;
use crate::ids::{Attempt, JobId, ManifestHash, PeerId};
use crate::job::limits::{HISTORY_MAX, HOLDERS_FAILED_MAX, JOBS_LIVE_MAX, SPARES_MAX};
use crate::job::plan::Plan;
use crate::job::record::{JobRecord, RunState};
use crate::job::store::ColumnState;
use crate::object::layout::Profile;
use crate::quorum::limits::{NAMES_MAX, OBJECTS_MAX, OWNERS_MAX, STANDBYS_MAX};
use crate::task::limits::{AVOIDED_MAX, COPIES_MAX, DEAD_NAMED_MAX, PRIORITY_MAX, PRIORITY_MIN, WORKERS_MAX};
use crate::task::record::{TaskRecord, TaskState};
use crate::trigger::limits::{
    DELIVERY_BYTES_MAX, EMITTERS_MAX, FIRES_KEPT_MAX, QUEUE_MAX, RUNS_LIVE_MAX, SEEN_MAX, SEEN_PER_TRIGGER_MAX,
    TRIGGERS_MAX, WAITING_BYTES_MAX,
};
use crate::trigger::record::{Cause, Clock, FireRow, Fired};
use crate::trigger::reopen::RANGES_MAX;
use crate::trigger::spec::{Overlap, When};

pub(super) type Checked = Result<(), String>;

pub(super) fn ensure(holds: bool, what: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(what()) }
}

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

impl QuorumState {
    /// The first invariant that does not hold, in words. Looks at everything: not for every entry.
    pub fn check_invariants(&self) -> Checked {
        let mut rebuilt = Self { index: Default::default(), ..self.clone() };
        rebuilt.rebuild_index();
        ensure(rebuilt.index == self.index, || format!("index {:?} should be {:?}", self.index, rebuilt.index))?;
        ensure(self.index.live.len() <= JOBS_LIVE_MAX, || format!("{} live jobs", self.index.live.len()))?;
        let triggers = &self.index.triggers;
        ensure(triggers.live.len() <= TRIGGERS_MAX, || format!("{} triggers", triggers.live.len()))?;
        ensure(triggers.seen.len() <= SEEN_MAX, || format!("{} ids of events", triggers.seen.len()))?;
        ensure(triggers.finished.is_empty(), || "jobs ended and nobody was told".to_owned())?;
        ensure(self.emitters.len() <= EMITTERS_MAX, || format!("{} emitters", self.emitters.len()))?;
        ensure(self.objects.len() <= OBJECTS_MAX, || format!("{} objects", self.objects.len()))?;
        ensure(self.standbys.len() <= STANDBYS_MAX, || format!("{} standbys", self.standbys.len()))?;
        for (job, record) in &self.jobs {
            self.check_job(*job, record).map_err(|what| format!("job {job}: {what}"))?;
        }
        for (manifest, object) in &self.objects {
            self.check_object(*manifest, object).map_err(|what| format!("object {manifest}: {what}"))?;
        }
        self.check_workers()?;
        let orphan = self.tables.keys().find(|job| self.jobs.get(job).is_none_or(|record| record.compute().is_none()));
        ensure(orphan.is_none(), || format!("tasks of {orphan:?} belong to no job"))?;
        let orphan = self.manifests.keys().find(|hash| !self.objects.contains_key(hash));
        ensure(orphan.is_none(), || format!("manifest {orphan:?} belongs to no object"))
    }

    fn check_job(&self, job: JobId, record: &JobRecord) -> Checked {
        ensure(record.job == job && job.quorum == self.quorum, || "kept under another id".to_owned())?;
        if record.trigger().is_some() {
            return self.check_trigger(job, record);
        }
        let Some((spec, run)) = record.store() else { return self.check_compute(job, record) };
        let columns = run.columns.len();
        let Profile { data, parity } = spec.profile;
        ensure(Profile::new(data, parity).is_some(), || "impossible profile".to_owned())?;
        ensure(columns == spec.profile.columns(), || format!("{columns} columns"))?;
        ensure(run.failed.len() <= HOLDERS_FAILED_MAX, || format!("{} failed holders", run.failed.len()))?;
        ensure(run.spares.len() <= SPARES_MAX, || format!("{} spares", run.spares.len()))?;
        ensure(record.history.len() <= HISTORY_MAX, || format!("{} lines of history", record.history.len()))?;
        ensure(record.state.is_final() == record.finished_at.is_some(), || "ended without an end".to_owned())?;
        for column in &run.columns {
            let assigned = column.state == ColumnState::Filling;
            ensure(column.grant.is_some() == assigned, || format!("{column:?} is assigned and is not"))?;
            ensure(matches!(column.state, ColumnState::Open | ColumnState::Filling), || "sealed in a run".to_owned())?;
        }
        if record.state.is_final() {
            let left = run.columns.iter().any(|column| column.grant.is_some() || !column.stored.is_empty());
            ensure(!left && run.spares.is_empty() && run.segments.is_empty(), || "ended and holds on".to_owned())?;
            return Ok(());
        }
        let failed: BTreeSet<PeerId> = run.failed.iter().map(|(grant, _)| grant.holder.peer).collect();
        let mut peers = BTreeSet::new();
        for grant in run.columns.iter().filter_map(|column| column.grant).chain(run.spares.iter().copied()) {
            let peer = grant.holder.peer;
            ensure(peers.insert(peer), || format!("{peer} was given two columns"))?;
            ensure(!failed.contains(&peer), || format!("{peer} failed and was given a column again"))?;
        }
        for column in &run.columns {
            ensure(column.stored.len() == run.segments.len(), || "stored bits do not match the segments".to_owned())?;
        }
        ensure(run.segments.len() <= spec.profile.segments_max(), || "too many segments".to_owned())?;
        let whole = run.segments.iter().all(|pieces| pieces.is_empty() || pieces.len() == columns);
        ensure(whole, || "a segment has too few pieces".to_owned())?;
        ensure(run.manifest.is_none(), || "committed and not ended".to_owned())
    }

    fn check_trigger(&self, job: JobId, record: &JobRecord) -> Checked {
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
            let by = self.jobs.get(made).filter(|record| !record.state.is_final()).and_then(|record| record.compute());
            let by = by.and_then(|(_, run)| run.fired_by).filter(|by| by.job == job);
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
        ensure(moved || self.index.triggers.moves(job, spec), || "nothing will ever fire it".to_owned())
    }

    fn check_compute(&self, job: JobId, record: &JobRecord) -> Checked {
        let (spec, run) = record.compute().ok_or("its run is not of its kind")?;
        spec.check().map_err(|fault| fault.to_string())?;
        let plan = Plan::of(spec);
        let state = record.state;
        ensure(plan.step(run.step).is_some(), || format!("no step {}", run.step))?;
        ensure(run.settings.resources.check().is_ok(), || "impossible resources".to_owned())?;
        ensure((PRIORITY_MIN..=PRIORITY_MAX).contains(&run.settings.priority), || "impossible priority".to_owned())?;
        ensure(run.avoided.len() <= AVOIDED_MAX && run.dead.len() <= DEAD_NAMED_MAX, || "too many notes".to_owned())?;
        ensure(run.durations.len() <= 64, || "too many durations".to_owned())?;
        ensure(record.history.len() <= HISTORY_MAX, || format!("{} lines of history", record.history.len()))?;
        ensure(state.is_final() == record.finished_at.is_some(), || "ended without an end".to_owned())?;
        let kept = !state.is_final() || state == RunState::Succeeded;
        let Some(table) = self.tables.get(&job) else { return ensure(!kept, || "its tasks are gone".to_owned()) };
        let over = state.is_final() && table.steps().any(|step| step != run.step);
        ensure(!over, || "ended and keeps tasks of other steps than its last".to_owned())?;
        for step in table.steps() {
            let tasks = plan.step(step).ok_or("a step that the plan lacks")?.tasks as usize;
            ensure(table.tasks(step).len() == tasks, || format!("step {step} has not {tasks} tasks"))?;
        }
        for (step, task, record) in table.all() {
            check_task(record).map_err(|what| format!("step {step} task {task}: {what}"))?;
            let present = step == run.step && !state.is_final();
            ensure(present || record.live.is_empty(), || format!("step {step} is over and task {task} runs"))?;
            let known = record.live.iter().all(|live| self.workers.contains_key(&live.worker));
            ensure(known, || format!("task {task} runs at a peer that is no worker"))?;
        }
        let orphan = table.blobs.keys().find(|(step, task, _)| table.get(*step, *task).is_none());
        ensure(orphan.is_none(), || format!("bytes of {orphan:?} belong to no task"))?;
        if state.is_final() {
            return Ok(());
        }
        let index = table.of(run.step).ok_or("its step has no tasks")?;
        ensure(index.tally == run.tally, || format!("{:?} should be {:?}", run.tally, index.tally))?;
        // No silent idle: what is not for a person to move has something that moves it.
        let moved = match state {
            RunState::Paused | RunState::AwaitingResolution => true,
            RunState::Cancelling => self.stopping_of(job).next().is_some(),
            _ => {
                let waits = self.index.work.is_queued(job) || !index.delayed.is_empty();
                waits || !index.live.is_empty() || self.stopping_of(job).next().is_some()
            }
        };
        ensure(moved, || format!("{state} and nothing moves it: {:?}", run.tally))?;
        ensure(state == RunState::Cancelling || !self.timers(record).is_empty(), || format!("{state} without a timer"))
    }

    fn check_workers(&self) -> Checked {
        ensure(self.workers.len() <= WORKERS_MAX, || format!("{} workers", self.workers.len()))?;
        self.paces.check(self)?;
        for (peer, worker) in &self.workers {
            ensure(worker.grant.holder.peer == *peer, || format!("{peer} is kept under another name"))?;
        }
        for (task, stopping) in &self.stopping {
            ensure(self.workers.contains_key(&stopping.worker), || format!("{task:?} stops at a peer that is gone"))?;
            let table = self.tables.get(&task.id.job);
            let record = table.and_then(|table| table.get(task.id.step, task.id.task));
            let both = record.is_some_and(|record| record.attempt(task.attempt).is_some());
            ensure(!both, || format!("{task:?} is stopped and runs"))?;
        }
        Ok(())
    }

    fn check_object(&self, manifest: ManifestHash, object: &ObjectRecord) -> Checked {
        let columns = object.columns.len();
        ensure(columns == object.profile.columns() && columns == object.newest.len(), || format!("{columns} columns"))?;
        let claims = &object.claims;
        ensure(claims.owners() <= OWNERS_MAX, || format!("{} owners", claims.owners()))?;
        let named = claims.iter().filter(|claim| claim.name.is_some()).count();
        ensure(named <= NAMES_MAX + OWNERS_MAX, || format!("{named} names"))?;
        let distinct: BTreeSet<_> = claims.iter().map(|claim| (claim.owner, &claim.name)).collect();
        ensure(distinct.len() == claims.iter().count(), || "a claim is there twice".to_owned())?;
        ensure(claims.is_empty() == (object.state == ObjectState::Removing), || {
            "kept by nobody, or removed".to_owned()
        })?;
        let run = self.jobs.get(&object.job).and_then(|record| record.store()).map(|(_, run)| run);
        ensure(run.is_some_and(|run| run.manifest == Some(manifest)), || "its run is forgotten".to_owned())?;
        let live = object.state == ObjectState::Live;
        ensure(live == self.manifests.contains_key(&manifest), || "manifest and state differ".to_owned())?;
        let inside = |index: &crate::ids::PieceIndex| (index.0 as usize) < columns;
        ensure(object.owed.keys().all(inside) && object.repairs.keys().all(inside), || "no such column".to_owned())?;
        let mut peers = BTreeSet::new();
        for (index, column) in object.columns.iter().enumerate() {
            let index = crate::ids::PieceIndex(index as u8);
            ensure(column.stored.is_empty(), || "stored bits in an object".to_owned())?;
            let held = matches!(column.state, ColumnState::Sealed | ColumnState::Confirmed);
            ensure(column.grant.is_some() == held && column.state != ColumnState::Filling, || format!("{column:?}"))?;
            ensure(!live || held || object.owed.contains_key(&index), || format!("column {index} is owed to nobody"))?;
            ensure(live || !held, || format!("column {index} is held though removed"))?;
            let newest = object.newest[index.0 as usize];
            let rebuild = object.repairs.get(&index);
            ensure(column.attempt <= newest, || format!("column {index} is newer than its newest"))?;
            if let Some(repair) = rebuild {
                let newer = repair.attempt > column.attempt && repair.attempt <= newest;
                ensure(live && newer, || format!("column {index} is rebuilt under an old attempt"))?;
                ensure(object.owed.contains_key(&index), || format!("column {index} is rebuilt and not owed"))?;
            }
            // The same peer may rebuild its own column; no peer may have two.
            let peer = |grant: crate::job::store::Grant| grant.holder.peer;
            let own: BTreeSet<_> = column.grant.map(peer).into_iter().chain(rebuild.map(|r| peer(r.grant))).collect();
            for peer in own {
                ensure(peers.insert(peer), || format!("{peer} has two columns"))?;
            }
        }
        Ok(())
    }
}

fn check_task(task: &TaskRecord) -> Checked {
    let mut workers = BTreeSet::new();
    for live in &task.live {
        ensure(live.attempt > Attempt(0) && live.attempt <= task.newest, || format!("{live:?} was never given"))?;
        ensure(workers.insert(live.worker), || format!("{} has two attempts", live.worker))?;
    }
    let numbers: BTreeSet<_> = task.live.iter().map(|live| live.attempt).collect();
    ensure(numbers.len() == task.live.len(), || "an attempt is there twice".to_owned())?;
    ensure(task.live.len() <= COPIES_MAX as usize, || "too many copies".to_owned())?;
    let given = task.won.as_ref().is_none_or(|won| won.attempt > Attempt(0) && won.attempt <= task.newest);
    ensure(given, || "won by an attempt that was never given".to_owned())?;
    match task.state {
        TaskState::Running => ensure(!task.live.is_empty(), || "runs nowhere".to_owned()),
        TaskState::Ready => ensure(!task.is_revealing(), || "shows results and wants copies".to_owned()),
        _ => ensure(task.live.is_empty(), || format!("{:?} and runs", task.state)),
    }
}
