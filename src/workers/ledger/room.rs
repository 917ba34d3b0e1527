//! The room of a lease: its attempts begin in order, as soon as those before them have left enough.

use std::collections::VecDeque;

use quorate_protocols::capacity::Capacity;
use quorate_protocols::ids::LeaseId;
use quorate_protocols::task::message::StepContext;
use quorate_protocols::task::record::TaskAttempt;

use super::{Effect, Ledger, OnDisk, Stage};

/// What a lease has, and what runs under it.
pub(super) struct LeaseUsage {
    pub(super) room: Capacity,
    pub(super) taken: Capacity,
    pub(super) waiting: VecDeque<TaskAttempt>,
}

impl Ledger {
    pub(super) fn usage(&mut self, lease: LeaseId, room: Capacity) {
        let new = LeaseUsage { room, taken: Capacity::default(), waiting: VecDeque::new() };
        let usage = self.lease_usages.entry(lease).or_insert(new);
        let grew = usage.room != room;
        usage.room = room;
        if grew {
            self.begin_waiting(lease);
        }
    }

    /// Puts an attempt that may begin into the queue of its lease.
    pub(super) fn wait_for_room(&mut self, task: TaskAttempt) {
        let Some(entry) = self.entries.get(&task) else { return };
        let may = matches!(entry.stage, Stage::Waiting { may_begin: true });
        if !may || !(entry.context.idempotent || entry.assignment_on == OnDisk::Yes) {
            return;
        }
        let lease = entry.lease;
        if let Some(usage) = self.lease_usages.get_mut(&lease)
            && !usage.waiting.contains(&task)
        {
            usage.waiting.push_back(task);
            self.begin_waiting(lease);
        }
    }

    /// Begins what the lease has room for, in order. The quorum gives no more than that; what it gave for the place of
    /// something that has not ended yet waits here.
    pub(super) fn begin_waiting(&mut self, lease: LeaseId) {
        let Some(usage) = self.lease_usages.get_mut(&lease) else { return };
        while let Some(task) = usage.waiting.front().copied() {
            let entry = self.entries.get_mut(&task);
            let Some(entry) = entry.filter(|entry| matches!(entry.stage, Stage::Waiting { .. })) else {
                usage.waiting.pop_front();
                continue;
            };
            let taken = usage.taken.plus(&entry.context.resources.capacity);
            if usage.room.shortage(&taken).is_some() {
                return;
            }
            usage.taken = taken;
            usage.waiting.pop_front();
            entry.stage = Stage::Running;
            self.effects.push_back(Effect::Begin(task));
        }
    }
}

/// Why a task can never run under the lease, if it cannot.
pub(super) fn too_large(context: &StepContext, room: &Capacity) -> Option<String> {
    let shortage = room.shortage(&context.resources.capacity)?;
    Some(format!("its task needs more than this worker's whole lease, which has {shortage}"))
}
