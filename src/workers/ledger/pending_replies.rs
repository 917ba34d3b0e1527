//! Answers to assignments that wait until all of their attempts are safe.

use quorate_protocols::task::message::TaskAnswer;
use quorate_protocols::task::record::TaskAttempt;

use super::{Effect, Ledger, PendingReply};

/// An assignment whose attempts are not all safe yet.
pub(super) struct PendingAssign {
    pub(super) left: usize,
    pub(super) accepted: Vec<TaskAttempt>,
    pub(super) refused: Vec<(TaskAttempt, String)>,
}

impl Ledger {
    pub(super) fn settle_replies(&mut self, task: TaskAttempt) {
        let Some(entry) = self.entries.get_mut(&task).filter(|entry| entry.is_safe()) else { return };
        for pending_reply in std::mem::take(&mut entry.pending_replies) {
            self.one_safe(pending_reply);
        }
    }

    /// The attempt could not be made safe: its primary is to say it again.
    pub(super) fn refuse_replies(&mut self, task: TaskAttempt) {
        let Some(entry) = self.entries.get_mut(&task) else { return };
        for pending_reply in std::mem::take(&mut entry.pending_replies) {
            if self.pending_assigns.remove(&pending_reply).is_some() {
                self.effects.push_back(Effect::Answer(pending_reply, TaskAnswer::Busy));
            }
        }
    }

    pub(super) fn one_safe(&mut self, pending_reply: PendingReply) {
        if let Some(pending_assign) = self.pending_assigns.get_mut(&pending_reply) {
            pending_assign.left -= 1;
            self.answer_if_safe(pending_reply);
        }
    }

    pub(super) fn answer_if_safe(&mut self, pending_reply: PendingReply) {
        if self.pending_assigns.get(&pending_reply).is_some_and(|pending_assign| pending_assign.left == 0)
            && let Some(PendingAssign { accepted, refused, .. }) = self.pending_assigns.remove(&pending_reply)
        {
            self.effects.push_back(Effect::Answer(pending_reply, TaskAnswer::Accepted { accepted, refused }));
        }
    }
}
