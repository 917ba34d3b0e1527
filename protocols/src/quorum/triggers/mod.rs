//! Triggers: from an instant, an event, a condition or a user to a run or a recorded skip.
//!
//! The record of a trigger is its job's ([`super::jobs`]); here is what a quorum knows of triggers beside the records:
//! how far it has come with each peer that sends events, and an index of which trigger is due, listens to what and
//! waits for whom. `fires` is the life of triggers and of each fire, `deliveries` the events and conditions that cause
//! one.

mod deliveries;
mod fires;
mod index;
mod invariants;
#[cfg(test)]
pub(super) mod model;
pub(super) mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::apply::Applied;
use super::command::TriggerCommand;
use super::state::{Duty, Event, QuorumState};
use crate::ids::{JobId, Millis, PeerId};
use crate::job::record::JobRecord;
use crate::job::record::RunState::*;
use crate::job::transition::{Row, RunCommand};
use crate::trigger::event::Emitter;
use crate::trigger::spec::When;
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
}

impl QuorumState {
    pub(super) fn apply_trigger(&mut self, by: PeerId, command: &TriggerCommand, events: &mut Vec<Event>) -> Applied {
        match command {
            TriggerCommand::Due { spans } => self.due(spans, events),
            TriggerCommand::Fire { job, nonce, respect_overlap } => {
                self.fire_now(by, *job, *nonce, *respect_overlap, events)
            }
            TriggerCommand::Suspend { job } => self.suspend(by, *job, events),
            TriggerCommand::Unsuspend { job } => self.unsuspend(by, *job, events),
            TriggerCommand::Deliver { emitter, follows, reaches, lost, deliveries } => {
                self.deliver(*emitter, (*follows, *reaches, *lost), deliveries, events)
            }
            TriggerCommand::Observe { job, observation } => self.observe(*job, observation, events),
        }
    }

    /// Instants that are due, and conditions to probe.
    pub(super) fn trigger_duties(&self, duties: &mut Vec<Duty>) {
        let (wall, steady) = self.triggers.next_due();
        duties.extend(wall.map(|due| Duty::FireAt { due }));
        duties.extend(steady.map(|due| Duty::FireAfter { due, after: due.since(self.wall()) }));
        let probed = self.triggers.index.conditions.iter().filter_map(|job| Some((*job, self.trigger(*job)?.0)));
        duties.extend(probed.filter_map(|(job, spec)| match &spec.trigger.when {
            When::Condition(condition) => Some(Duty::Poll { job, every: condition.every }),
            _ => None,
        }));
    }
}
