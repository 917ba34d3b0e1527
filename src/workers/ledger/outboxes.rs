//! Per-quorum outboxes: queued starts and reports, what is in flight, and how answers are applied.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use quorate_protocols::ids::{LeaseId, QuorumId, Term};
use quorate_protocols::task::error_class::ErrorClass;
use quorate_protocols::task::limits::{BATCH_MAX, REPORT_BYTES_MAX};
use quorate_protocols::task::message::{Report, ReportRefusal, TaskResult};
use quorate_protocols::task::record::{Output, TaskAttempt};
use tokio::time::Instant;

use super::super::limits::{PAUSE_MIN, PAUSES, RESULTS_KEPT};
use super::super::pending_result::{PendingResult, ReportPart};
use super::{Effect, Ledger, Stage};

/// What waits for one quorum, and what is on its way to it.
#[derive(Default)]
pub(super) struct QuorumOutbox {
    pub(super) term: Term,
    pub(super) lease: LeaseId,
    pub(super) starts: VecDeque<TaskAttempt>,
    pub(super) reports: VecDeque<TaskAttempt>,
    /// Stops to be confirmed of attempts that are not here.
    pub(super) orphans: BTreeSet<TaskAttempt>,
    pub(super) starts_away: bool,
    pub(super) reports_away: bool,
    /// After a failed try: not before this, and twice the wait after the next.
    pub(super) pause: Option<(Instant, Duration)>,
    /// Since when no report was answered.
    pub(super) silent_since: Option<Instant>,
    pub(super) used: u64,
    pub(super) entries: usize,
}

/// A batch on its way to a quorum: what of each attempt is said in it.
pub(in crate::workers) type Sent = Vec<(TaskAttempt, ReportPart)>;

/// What an answer of a quorum was good for, for the counters and the log.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::workers) struct RecordedCounts {
    pub recorded: u64,
    pub stale: u64,
    pub refused: Vec<(TaskAttempt, String)>,
}

impl Ledger {
    /// Starts to ask for now, if any are due and none are on their way.
    pub fn next_starts(&mut self, now: Instant, quorum: QuorumId) -> Vec<TaskAttempt> {
        let Some(outbox) = self.outboxes.get_mut(&quorum) else { return Vec::new() };
        if outbox.starts_away || outbox.is_pausing(now) {
            return Vec::new();
        }
        let entries = &self.entries;
        let waits = |task: &TaskAttempt| {
            entries.get(task).is_some_and(|entry| matches!(entry.stage, Stage::Waiting { may_begin: false }))
        };
        let batch: Vec<_> = outbox.starts.drain(..outbox.starts.len().min(BATCH_MAX)).filter(waits).collect();
        outbox.starts_away = !batch.is_empty();
        batch
    }

    pub fn started(
        &mut self,
        now: Instant,
        quorum: QuorumId,
        tasks: &[TaskAttempt],
        answers: Option<Vec<Result<(), ReportRefusal>>>,
        jitter: u64,
    ) {
        let outbox = self.outbox(quorum);
        outbox.starts_away = false;
        let Some(answers) = answers.filter(|answers| answers.len() == tasks.len()) else {
            tasks.iter().rev().for_each(|task| outbox.starts.push_front(*task));
            outbox.failed(now, jitter);
            return;
        };
        outbox.pause = None;
        for (task, answer) in tasks.iter().zip(answers) {
            let Some(entry) = self.entries.get_mut(task) else { continue };
            match (answer, &mut entry.stage) {
                (Ok(()), Stage::Waiting { may_begin }) => {
                    *may_begin = true;
                    self.wait_for_room(*task);
                }
                (Err(_), Stage::Waiting { .. }) => self.forget(*task),
                _ => (),
            }
        }
    }

    /// Reports to send now, if any are due and none are on their way.
    pub fn next_reports(&mut self, now: Instant, quorum: QuorumId) -> (Sent, Vec<Report>) {
        let (mut sent, mut reports, mut weight) = (Vec::new(), Vec::new(), 0);
        let Some(outbox) = self.outboxes.get_mut(&quorum) else { return (sent, reports) };
        if outbox.reports_away || outbox.is_pausing(now) {
            return (sent, reports);
        }
        while reports.len() < BATCH_MAX
            && let Some(task) = outbox.reports.front().copied()
        {
            let Some(Stage::Ended { held, .. }) = self.entries.get(&task).map(|entry| &entry.stage) else {
                outbox.reports.pop_front();
                continue;
            };
            weight += held.weight();
            if weight > REPORT_BYTES_MAX && !reports.is_empty() {
                break;
            }
            outbox.reports.pop_front();
            let Some(part) = held.next() else { continue };
            sent.push((task, part));
            reports.push(Report { task, result: held.report_of(task, part) });
        }
        for task in outbox.orphans.iter().take(BATCH_MAX - reports.len()) {
            sent.push((*task, ReportPart::Plain));
            reports.push(Report { task: *task, result: TaskResult::Stopped });
        }
        outbox.reports_away = !reports.is_empty();
        (sent, reports)
    }

    /// The quorum's answers to a batch; `None` when it could not be reached, or what it did is unknown.
    pub fn reported(
        &mut self,
        now: Instant,
        quorum: QuorumId,
        sent: Sent,
        answers: Option<Vec<Result<(), ReportRefusal>>>,
        jitter: u64,
    ) -> RecordedCounts {
        let mut told = RecordedCounts::default();
        let outbox = self.outbox(quorum);
        outbox.reports_away = false;
        let Some(answers) = answers.filter(|answers| answers.len() == sent.len()) else {
            outbox.failed(now, jitter);
            let is_silent = now - *outbox.silent_since.get_or_insert(now) >= RESULTS_KEPT;
            let lease = outbox.lease;
            if is_silent && !self.lease_usages.contains_key(&lease) {
                self.give_up(quorum);
                return told;
            }
            for (task, _) in sent.into_iter().rev() {
                if self.entries.contains_key(&task) {
                    self.outbox(quorum).reports.push_front(task);
                }
            }
            return told;
        };
        (outbox.pause, outbox.silent_since) = (None, None);
        for ((task, part), answer) in sent.into_iter().zip(answers) {
            let Some(entry) = self.entries.get_mut(&task) else {
                self.outbox(quorum).orphans.remove(&task);
                continue;
            };
            let Stage::Ended { held, under_way } = &mut entry.stage else { continue };
            *under_way = false;
            match answer {
                Ok(()) => {
                    told.recorded += 1;
                    match held {
                        PendingResult::Sealed(sealed) if part == ReportPart::Commitment => {
                            sealed.committed = true;
                            // It may have been asked for, or called off, while this was on its way.
                            self.queue_report(task);
                        }
                        held if held.next() == Some(part) => self.forget(task),
                        _ => self.queue_report(task),
                    }
                }
                Err(ReportRefusal::RecordFull) => {
                    *under_way = true;
                    self.effects.push_back(Effect::MoveOut(task));
                }
                Err(ReportRefusal::Invalid { reason }) if held.is_result() => {
                    // The quorum will not have this result, and still waits for one.
                    told.refused.push((task, reason.clone()));
                    let class =
                        if matches!(held, PendingResult::Plain(_)) { ErrorClass::Host } else { ErrorClass::Lost };
                    *held = PendingResult::failed(class, format!("its result was refused: {reason}"));
                    self.queue_report(task);
                }
                Err(refusal) => {
                    if matches!(refusal, ReportRefusal::Stale { .. }) {
                        told.stale += 1;
                    }
                    told.refused.push((task, refusal.to_string()));
                    self.forget(task);
                }
            }
        }
        told
    }

    /// Forgets what a quorum that is gone will never hear.
    fn give_up(&mut self, quorum: QuorumId) {
        let of_it = |task: &&TaskAttempt| task.id.job.quorum == quorum;
        let ended = |task: &&TaskAttempt| matches!(self.entries[*task].stage, Stage::Ended { .. });
        let lost: Vec<_> = self.entries.keys().filter(of_it).filter(ended).copied().collect();
        tracing::warn!(%quorum, results = lost.len(), "a quorum could not be reached for too long; results for it are dropped");
        lost.into_iter().for_each(|task| self.forget(task));
        self.outbox(quorum).orphans.clear();
    }

    /// An output was stored as an object, because the quorum's record was full; or could not be.
    pub fn moved(&mut self, task: TaskAttempt, moved: Result<Output, String>) {
        let Some(entry) = self.entries.get_mut(&task) else { return };
        let Stage::Ended { held, under_way } = &mut entry.stage else { return };
        *under_way = false;
        match moved {
            Ok(stored) => {
                if let Some((output, bytes)) = held.inline() {
                    (*output, *bytes) = (stored, None);
                }
                self.reweigh(task);
                // Storing it twice would cost more than a sync.
                self.save_result(task);
            }
            Err(reason) => {
                *held = PendingResult::failed(ErrorClass::Host, reason);
                self.queue_report(task);
            }
        }
    }

    /// Quorums that have something to hear, or will after a pause; and the end of the earliest pause.
    pub fn busy_outboxes(&self, now: Instant) -> (Vec<QuorumId>, Option<Instant>) {
        let (mut due, mut next) = (Vec::new(), None::<Instant>);
        for (quorum, outbox) in &self.outboxes {
            let nothing = outbox.reports.is_empty() && outbox.orphans.is_empty();
            let reports = !(outbox.reports_away || nothing);
            if !reports && (outbox.starts_away || outbox.starts.is_empty()) {
                continue;
            }
            match outbox.pause {
                Some((until, _)) if until > now => next = Some(next.map_or(until, |next| next.min(until))),
                _ => due.push(*quorum),
            }
        }
        (due, next)
    }

    /// Quorums to tell that this worker lives, each with its lease and the attempts it has here.
    pub fn heartbeats(&self) -> BTreeMap<QuorumId, (LeaseId, Vec<TaskAttempt>)> {
        let mut heartbeats = BTreeMap::<_, (LeaseId, Vec<_>)>::new();
        for (quorum, outbox) in &self.outboxes {
            if outbox.entries > 0 || self.lease_usages.contains_key(&outbox.lease) {
                heartbeats.insert(*quorum, (outbox.lease, Vec::new()));
            }
        }
        for task in self.entries.keys() {
            if let Some((_, tasks)) = heartbeats.get_mut(&task.id.job.quorum) {
                tasks.push(*task);
            }
        }
        heartbeats
    }

    pub(super) fn outbox(&mut self, quorum: QuorumId) -> &mut QuorumOutbox {
        self.outboxes.entry(quorum).or_default()
    }

    pub(super) fn outbox_of(&mut self, task: TaskAttempt) -> &mut QuorumOutbox {
        self.outbox(task.id.job.quorum)
    }
}

impl QuorumOutbox {
    fn is_pausing(&self, now: Instant) -> bool {
        self.pause.is_some_and(|(until, _)| until > now)
    }
    fn failed(&mut self, now: Instant, jitter: u64) {
        let wait = self.pause.map_or(PAUSE_MIN, |(_, wait)| PAUSES.next(wait));
        let more = Duration::from_millis(jitter % (wait.as_millis() as u64 / 2 + 1));
        self.pause = Some((now + wait + more, wait));
    }
}
