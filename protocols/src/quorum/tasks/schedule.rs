//! The scheduler: after every entry, free slots of workers are given to the tasks whose turn it is.
//!
//! Stride scheduling: every job has a *pass*; the job with the least is next, and pays for each task in inverse
//! proportion to its priority, and for each job that its owner has waiting besides. So owners share the workers
//! whatever they have waiting, the jobs of one owner share its part by priority, no job starves however low its
//! priority, and a wide job does not keep others waiting. Within a job, tasks go in order. Among workers that fit, the
//! one with the most slots left is taken, the last that failed the task only if there is no other. Quick tasks may be
//! given to a worker whose slots are taken (see `prefetch`).
//!
//! It is part of applying an entry, so every member gives the same tasks to the same workers, and an assignment costs
//! no entry of its own. What is handed out is in `Event::Assigned`, and in [`PoolView::attempts_of`] after a
//! takeover.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use super::index::Demand;
use super::{PoolCx, PoolView, TaskPool};
use crate::capacity::{Shortage, Unmet};
use crate::engine::Engine;
use crate::ids::{Attempt, JobId, PeerId, StepIndex, TaskIndex};
use crate::job::record::RunState;
use crate::quorum::event::Event;
use crate::task::limits::{PASS_SLACK, SKIPS_MAX, SLOTS_SOUGHT_MAX, STRIDE, TIMEOUT_GRACE, TRIES_MAX};
use crate::task::record::{AttemptRecord, Phase, Settings, TaskAttempt, TaskId, TaskRecord, TaskState, WorkerRecord};
use crate::task::spec::Program;
use crate::text::counted;

enum Placed {
    Yes(PeerId, TaskAttempt),
    /// No worker has room for such tasks.
    NoRoom,
    /// Workers have room, but none that this job's tasks may use.
    NotHere,
}

/// One giving away of tasks, at the end of an entry.
#[derive(Default)]
pub(in crate::quorum) struct Round {
    demands: Vec<Demand>,
    /// The next run of each demand, by its pass.
    heads: BTreeSet<(u64, JobId, usize)>,
    given: BTreeMap<PeerId, Vec<TaskAttempt>>,
    skips: usize,
    /// The run that was given to a moment ago.
    served: Option<(u64, JobId, usize)>,
}

impl Round {
    /// What was handed out, by worker.
    pub(in crate::quorum) fn into_events(self) -> impl Iterator<Item = Event> {
        self.given.into_iter().map(|(worker, tasks)| Event::Assigned { worker, tasks })
    }
}

/// What a task adds to its job's pass.
pub(in crate::quorum) fn price_of_turn(settings: &Settings) -> u64 {
    (STRIDE * u64::from(settings.resources.capacity.slots) / u64::from(settings.priority.max(1))).max(1)
}

impl TaskPool {
    /// Where a new run stands in the turns: it pays for its first task before it comes to its turn. At the pass that
    /// the others are served at, whoever came earlier could be overtaken by all who come later.
    pub(in crate::quorum) fn first_pass(&self, owner: PeerId, settings: &Settings) -> u64 {
        // It will be one of those that wait.
        let price = price_of_turn(settings).saturating_mul(self.index.queued_of(&owner) + 1);
        self.pass.saturating_add(price)
    }
}

impl PoolCx<'_> {
    /// Gives the task away whose turn it is; its job. The frame settles the run before the next: it is queued again
    /// then, at its new pass.
    pub(in crate::quorum) fn place_next(&mut self, round: &mut Round) -> Option<JobId> {
        let mut turn = round.served.take();
        loop {
            if let Some((pass, job, number)) = turn {
                // Jobs skipped in this round stay skipped, since capacity only shrinks.
                let next = self.view().turn_after(&round.demands[number], Some((pass, job)));
                round.heads.extend(next.map(|(pass, job)| (pass, job, number)));
            }
            let head = round.heads.pop_first()?;
            let (_, job, number) = head;
            turn = match self.place(job, &round.demands[number]) {
                Placed::Yes(worker, task) => {
                    round.given.entry(worker).or_default().push(task);
                    round.served = Some(head);
                    return Some(job);
                }
                Placed::NoRoom => None,
                Placed::NotHere if round.skips >= SKIPS_MAX => None,
                Placed::NotHere => {
                    round.skips += 1;
                    Some(head)
                }
            };
        }
    }

    fn place(&mut self, job: JobId, demand: &Demand) -> Placed {
        let ahead = self.view().ahead_of(job);
        if !self.view().any_room(demand, ahead) {
            // A job that is further ahead may still find some.
            return if ahead >= self.tasks.prefetch_windows.most() { Placed::NoRoom } else { Placed::NotHere };
        }
        let Some((id, worker)) = self.view().choose(job, demand, ahead) else { return Placed::NotHere };
        Placed::Yes(worker, self.assign(id, worker, demand))
    }

    fn assign(&mut self, id: TaskId, worker: PeerId, demand: &Demand) -> TaskAttempt {
        let now = self.time;
        let terms = self.jobs.get(&id.job).and_then(|record| record.terms(id.step));
        let until = terms.as_ref().map(|terms| now.plus(terms.timeout).plus(TIMEOUT_GRACE));
        let copies = terms.and_then(|terms| terms.verify).map(|verify| verify.copies);
        let served = self.tasks.pass;
        let owner = self.jobs.get(&id.job).map(|record| record.owner).unwrap_or_default();
        let waiting = self.tasks.index.queued_of(&owner).max(1);
        let pass = self.with_tasks(id.job, |run| {
            // Turns that a job could not use are not saved up without end.
            let pass = run.pass.max(served.saturating_sub(PASS_SLACK));
            run.pass = pass.saturating_add(price_of_turn(&run.settings).saturating_mul(waiting));
            pass
        });
        self.tasks.pass = served.max(pass.unwrap_or(served));
        let attempt = self.change_task(id, |task| {
            task.newest = Attempt(task.newest.0.saturating_add(1));
            let resources = demand.resources.clone();
            task.live.push(AttemptRecord {
                attempt: task.newest,
                worker,
                phase: Phase::Assigned,
                since: now,
                until,
                resources,
            });
            let wanted = copies.map_or(0, usize::from);
            if task.live.len() >= wanted {
                task.state = TaskState::Running;
            }
            if task.newest == Attempt(1) {
                task.first_at = now;
            }
            task.newest
        });
        TaskAttempt { id, attempt: attempt.unwrap_or_default() }
    }

    /// The only way to change a task of this state.
    pub(in crate::quorum) fn change_task<R>(
        &mut self,
        id: TaskId,
        change: impl FnOnce(&mut TaskRecord) -> R,
    ) -> Option<R> {
        let table = self.tasks.tables.get_mut(&id.job)?;
        let work = &mut self.tasks.index;
        for live in &table.get(id.step, id.task)?.live {
            work.leave(live.worker, TaskAttempt { id, attempt: live.attempt }, live.taken());
        }
        let result = table.change(id.step, id.task, change);
        for live in &table.get(id.step, id.task)?.live {
            work.occupy(live.worker, TaskAttempt { id, attempt: live.attempt }, live.taken());
        }
        result
    }
}

impl<'s> PoolView<'s> {
    /// Begins to give away what can be given away, once per entry, after its commands. `None`: nothing can.
    pub(in crate::quorum) fn begin_round(&self) -> Option<Round> {
        if self.tasks.index.queue.is_empty() || self.tasks.workers.is_empty() {
            return None;
        }
        let most = self.tasks.prefetch_windows.most();
        let demands: Vec<Demand> =
            self.tasks.index.queue.keys().filter(|demand| self.any_room(demand, most)).cloned().collect();
        let mut heads = BTreeSet::new();
        for (number, demand) in demands.iter().enumerate() {
            heads.extend(self.turn_after(demand, None).map(|(pass, job)| (pass, job, number)));
        }
        Some(Round { demands, heads, ..Round::default() })
    }

    fn turn_after(&self, demand: &Demand, after: Option<(u64, JobId)>) -> Option<(u64, JobId)> {
        let turns = self.tasks.index.queue.get(demand)?;
        turns.range((after.map_or(Unbounded, Excluded), Unbounded)).next().copied()
    }

    fn any_room(&self, demand: &Demand, ahead: u32) -> bool {
        self.tasks.workers.iter().any(|(peer, worker)| self.room_at(*peer, worker, demand, ahead).is_some())
    }

    fn room_at(&self, peer: PeerId, worker: &WorkerRecord, demand: &Demand, ahead: u32) -> Option<i64> {
        if worker.unmet(demand.engine, &demand.resources).is_some() {
            return None;
        }
        let ahead = if ahead > 0 && self.tasks.prefetch_windows.is_lively(peer, self.time) { ahead } else { 0 };
        worker.room(self.tasks.index.used.get(&peer), demand, ahead)
    }

    /// The first ready task that some worker may have, and that worker.
    fn choose(&self, job: JobId, demand: &Demand, ahead: u32) -> Option<(TaskId, PeerId)> {
        let run = self.jobs.get(&job)?.tasks()?;
        let table = self.tasks.tables.get(&job)?;
        let index = table.of(run.step)?;
        // Tasks that have some of their copies come first, whatever the job's limit: the others wait for theirs.
        let fresh = index.ready.iter().filter(|task| !index.partial.contains(task));
        let ready = index.partial.iter().chain(fresh.take(index.room(run.settings.parallelism))).take(TRIES_MAX);
        ready.filter_map(|task| Some((*task, table.get(run.step, *task)?))).find_map(|(task, record)| {
            let failed = record.extras.as_ref().and_then(|extras| extras.last.as_ref()).map(|last| last.worker);
            let workers = self
                .tasks
                .workers
                .iter()
                .filter(|(peer, _)| !run.avoids(peer) && record.live.iter().all(|live| live.worker != **peer));
            let rooms = workers.filter_map(|(peer, worker)| {
                let left = self.room_at(*peer, worker, demand, ahead)?;
                Some((failed != Some(*peer), left, *peer))
            });
            let (_, _, peer) = rooms.max()?;
            Some((TaskId { job, step: run.step, task }, peer))
        })
    }

    /// Why a job's tasks are not given away, worker by worker; for people.
    pub(in crate::quorum) fn why_not(&self, job: JobId) -> Vec<String> {
        let Some(record) = self.jobs.get(&job) else { return Vec::new() };
        let (Some(demand), Some(run)) = (Demand::of(record), record.tasks()) else { return Vec::new() };
        let of_one = |(peer, worker): (&PeerId, &WorkerRecord)| {
            let refusal = run.avoided.get(peer).and_then(|refusal| Some((refusal.until?, &refusal.reason)));
            let why = match (worker.unmet(demand.engine, &demand.resources), refusal) {
                (Some(Unmet::Capacity(Shortage { what, has, needs })), _) => {
                    format!("its lease has {}, and {}", what.amount(has), what.needed(needs, false))
                }
                (Some(unmet), _) => unmet.to_string(),
                (None, Some((until, why))) => {
                    let seconds = until.since(self.time).as_secs();
                    format!("refused: {why}; it is asked again within {} s", seconds.max(1))
                }
                (None, None) if self.room_at(*peer, worker, &demand, self.ahead_of(job)).is_none() => {
                    let busy = self.tasks.index.used.get(peer).map_or(0, |used| used.tasks.len());
                    format!("busy with {}, and its lease has no room for another", counted(busy, "task"))
                }
                (None, None) => "runs another copy of each task that waits".to_owned(),
            };
            format!("{peer}: {why}")
        };
        self.tasks.workers.iter().map(of_one).collect()
    }

    /// That no worker is known to list the programs of a job of commands, which only their operators can change.
    pub(in crate::quorum) fn why_unlisted(&self, job: JobId) -> Option<String> {
        let record = self.jobs.get(&job)?;
        let run = record.tasks()?;
        record.terms(run.step).filter(|terms| terms.engine == Engine::Command)?;
        let lists = |(peer, worker): (&PeerId, &WorkerRecord)| {
            worker.engines.contains(&Engine::Command) && !run.avoided.contains_key(peer)
        };
        if self.tasks.workers.iter().any(lists) {
            return None;
        }
        let calls = (0..).map_while(|step| record.call(StepIndex(step)));
        let named = calls.filter_map(|call| match &call.program {
            Program::Command { name } => Some(format!("`{name}`")),
            Program::Wasm { .. } => None,
        });
        let programs: BTreeSet<String> = named.collect();
        let programs = programs.into_iter().collect::<Vec<_>>().join(", ");
        let owner = record.owner;
        Some(format!(
            "no peer is known to list {programs} under [commands] in its quorate.toml with {owner} as a submitter"
        ))
    }

    /// Peers that no run with tasks like the job's may offer anything at present: each of them was refused there.
    pub(in crate::quorum) fn avoided_for(&self, job: JobId) -> BTreeSet<PeerId> {
        let demand = self.jobs.get(&job).and_then(Demand::of);
        let turns = demand.and_then(|demand| self.tasks.index.queue.get(&demand));
        let jobs = turns.into_iter().flatten().take(SLOTS_SOUGHT_MAX as usize).map(|(_, job)| job);
        let mut runs = jobs.filter_map(|job| self.jobs.get(job)?.tasks());
        let Some(first) = runs.next() else { return BTreeSet::new() };
        let mut avoided: BTreeSet<_> = first.avoided.keys().filter(|peer| first.avoids(peer)).copied().collect();
        runs.take_while(|run| {
            avoided.retain(|peer| run.avoids(peer));
            !avoided.is_empty()
        })
        .for_each(drop);
        avoided
    }

    /// Slots that the job could use at once.
    pub(in crate::quorum) fn slots_wanted(&self, job: JobId) -> u32 {
        let wanted = || {
            let record = self.jobs.get(&job).filter(|record| record.state != RunState::Paused)?;
            let run = record.tasks()?;
            let index = self.tasks.tables.get(&job)?.of(run.step)?;
            let fresh = index.room(run.settings.parallelism).min(index.ready.len() - index.partial.len());
            let more = u32::try_from(index.partial.len() + fresh).unwrap_or(u32::MAX);
            Some(more.saturating_mul(run.settings.resources.capacity.slots))
        };
        wanted().unwrap_or(0)
    }

    /// Tasks of the present step that some worker has.
    pub(in crate::quorum) fn live_tasks(&self, job: JobId) -> Vec<TaskIndex> {
        let live = || {
            let run = self.jobs.get(&job)?.tasks()?;
            Some(self.tasks.tables.get(&job)?.of(run.step)?.live.iter().copied().collect())
        };
        live().unwrap_or_default()
    }
}
