//! Triggers: from an instant, an event, a condition or a user to a run or a recorded skip.
//!
//! The record of a trigger is its job's ([`super::jobs`]); here is what a quorum knows of triggers beside the records:
//! how far it has come with each peer that sends events, and an index of which trigger is due, listens to what and
//! waits for whom. What fires, and what comes of it, is above ([`super::fires`]): a fire makes a run, of any kind.

mod heard;
mod index;
mod invariants;
pub(super) mod snapshot;

use std::collections::BTreeMap;

use super::duty::Duty;
use super::jobs::{JobBook, check_room};
use super::reply::Rejection;
use crate::ids::{JobId, Millis, PeerId};
use crate::job::record::JobRecord;
use crate::job::record::RunState::*;
use crate::job::transition::{Row, RunCommand};
use crate::trigger::event::Emitter;
use crate::trigger::limits::{
    EMITTER_SILENT, EMITTERS_MAX, OWNER_FIRES_PER_SECOND_MAX, OWNER_TRIGGERS_MAX, TRIGGERS_MAX,
};
use crate::trigger::record::SeenId;
use crate::trigger::spec::{TriggerSpec, When};
pub use heard::HeardEmitters;
use index::TriggerIndex;

/// Which command leads where, of a job that has a trigger: it is *running* or, while suspended, *paused*, and ends when
/// its last run has. Its runs are jobs of their own.
pub(super) const TRANSITIONS: &[Row] = &[
    (Running, RunCommand::Fire, &[Running]),
    (Running, RunCommand::Suspend, &[Paused]),
    (Running, RunCommand::Unsuspend, &[Running]),
    (Running, RunCommand::Cancel, &[Cancelled]),
    (Paused, RunCommand::Fire, &[Paused]),
    (Paused, RunCommand::Suspend, &[Paused]),
    (Paused, RunCommand::Unsuspend, &[Running]),
    (Paused, RunCommand::Cancel, &[Cancelled]),
    (Cancelled, RunCommand::Cancel, &[Cancelled]),
];

/// What a quorum knows of its triggers beside their records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Triggers {
    /// Peers that send events, and how far the quorum has come with each.
    emitters: BTreeMap<PeerId, Emitter>,
    index: TriggerIndex,
}

impl Triggers {
    /// Peers that send events, and how far the quorum has come with each.
    pub fn emitters(&self) -> &BTreeMap<PeerId, Emitter> {
        &self.emitters
    }

    /// As a snapshot keeps it: without an index.
    pub(super) fn from_emitters(emitters: BTreeMap<PeerId, Emitter>) -> Self {
        Self { emitters, index: TriggerIndex::default() }
    }

    /// Jobs with a trigger that have not ended.
    pub(super) fn live(&self) -> impl Iterator<Item = &JobId> {
        self.index.live.iter()
    }

    pub(super) fn live_len(&self) -> usize {
        self.index.live.len()
    }

    /// Room for one more trigger of this owner.
    pub(super) fn check_room(&self, owner: PeerId, spec: &TriggerSpec) -> Result<(), Rejection> {
        check_room("triggers", self.live_len() + 1, TRIGGERS_MAX)?;
        check_room("triggers of one owner", self.index.live_of.of(&owner) as usize + 1, OWNER_TRIGGERS_MAX)?;
        let fires = spec.fires_per_kilosecond();
        let limit = OWNER_FIRES_PER_SECOND_MAX;
        match fires > 0 && self.index.fires_of.of(&owner) + fires > 1_000 * limit {
            true => {
                Err(Rejection::Full { what: "timed fires a second of one owner".to_owned(), limit: limit as usize })
            }
            false => Ok(()),
        }
    }

    /// When the next trigger is due: on wall clocks, and as time passes.
    pub(super) fn next_due(&self) -> (Option<Millis>, Option<Millis>) {
        self.index.next_due()
    }

    /// What the records do not say by themselves is kept by them all the same: ids of events that must not fire again.
    pub(super) fn rebuild_index<'j>(&mut self, jobs: impl Iterator<Item = (&'j JobId, &'j JobRecord)>) {
        self.index = TriggerIndex::default();
        let triggers = jobs.filter_map(|(job, record)| Some((*job, record.trigger()?.1)));
        self.index.seen =
            triggers.flat_map(|(job, run)| run.seen.iter().map(move |(id, until)| (*until, job, *id))).collect();
    }

    /// Instants that are due, and conditions to probe.
    pub(super) fn duties(&self, jobs: &JobBook, wall: Millis, duties: &mut Vec<Duty>) {
        let (due, steady) = self.next_due();
        duties.extend(due.map(|due| Duty::FireAt { due }));
        duties.extend(steady.map(|due| Duty::FireAfter { due, after: due.since(wall) }));
        let spec = |job: &JobId| Some((*job, jobs.get(job)?.trigger()?.0));
        duties.extend(self.index.conditions.iter().filter_map(spec).filter_map(
            |(job, spec)| match &spec.trigger.when {
                When::Condition(condition) => Some(Duty::Poll { job, every: condition.every }),
                _ => None,
            },
        ));
    }

    // ---- who waits for what ----

    /// Triggers that listen to events of this name.
    pub(super) fn listening_to(&self, name: &str) -> impl Iterator<Item = &JobId> {
        self.index.names.get(name).into_iter().flatten()
    }

    /// Triggers that listen to events, whatever their names.
    pub(super) fn listening(&self) -> impl Iterator<Item = &JobId> {
        self.index.names.values().flatten()
    }

    /// Names of the events that triggers listen to.
    pub(super) fn event_names(&self) -> impl Iterator<Item = &str> {
        self.index.names.keys().map(String::as_str)
    }

    /// Triggers that wait for the job's end.
    pub(super) fn waiting_for(&self, job: &JobId) -> impl Iterator<Item = &JobId> {
        self.index.after.get(job).into_iter().flatten()
    }

    /// Timed triggers that are due by either clock, the earliest first.
    pub(super) fn due(&self, wall: Millis, steady: Millis, limit: usize) -> Vec<JobId> {
        self.index.due(wall, steady, limit)
    }

    // ---- jobs that ended in the entry that is being applied ----

    /// Called wherever a job ends. `fired`: a trigger made it.
    pub(super) fn job_finished(&mut self, job: JobId, fired: bool) {
        if fired || self.index.after.contains_key(&job) {
            self.index.finished.insert(job);
        }
    }

    pub(super) fn take_finished(&mut self) -> Option<JobId> {
        self.index.finished.pop_first()
    }

    // ---- ids of events that must not fire again ----

    pub(super) fn ids_len(&self) -> usize {
        self.index.seen.len()
    }

    pub(super) fn insert_id(&mut self, until: Millis, job: JobId, id: SeenId) {
        self.index.seen.insert((until, job, id));
    }

    pub(super) fn remove_id(&mut self, until: Millis, job: JobId, id: SeenId) {
        self.index.seen.remove(&(until, job, id));
    }

    /// The next id that may fire again, once `led_time` has reached the end of its window.
    pub(super) fn take_old_id(&mut self, led_time: Millis) -> Option<(JobId, SeenId)> {
        let (_, job, id) = *self.index.seen.first().filter(|(until, ..)| *until <= led_time)?;
        self.index.seen.pop_first();
        Some((job, id))
    }

    // ---- emitters ----

    /// How far the quorum has come with the emitter: its numbers up to this one are taken.
    pub(super) fn sequence_of(&self, emitter: &PeerId) -> Option<u64> {
        self.emitters.get(emitter).map(|emitter| emitter.sequence)
    }

    /// Makes room for one emitter more, in place of one that was silent for long.
    pub(super) fn make_room_for(&mut self, emitter: PeerId, now: Millis) -> Result<(), Rejection> {
        if self.emitters.contains_key(&emitter) || self.emitters.len() < EMITTERS_MAX {
            return Ok(());
        }
        let silent = self.emitters.iter().map(|(peer, emitter)| (emitter.at, *peer)).min();
        match silent {
            Some((at, peer)) if now.since(at) >= EMITTER_SILENT => {
                self.emitters.remove(&peer);
                Ok(())
            }
            _ => Err(Rejection::Full { what: "emitters of events".to_owned(), limit: EMITTERS_MAX }),
        }
    }

    /// The quorum has come to `sequence` with the emitter, which lost that many events more.
    pub(super) fn advance_emitter(&mut self, emitter: PeerId, sequence: u64, lost: u64, now: Millis) {
        let record = self.emitters.entry(emitter).or_default();
        (record.sequence, record.at) = (sequence, now);
        record.lost = record.lost.saturating_add(lost);
    }
}
