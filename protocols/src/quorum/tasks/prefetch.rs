//! Prefetch: quick tasks are assigned ahead of a free slot, as many as an additive-increase window allows.
//!
//! A small task takes less time than its result needs to be recorded and the next one to be sent. So a worker may be
//! given more of them than its lease runs at a time; they wait there, and its slots stay busy. How many depends on the
//! program: the number grows by one with each task that was done soon after it was given, its wait at the worker
//! included, and is halved when one took longer. So what waits at a worker is about [`AHEAD_TIME`] of work, whatever
//! the program, and a program that was never seen to be quick gets nothing ahead. A worker that has reported nothing
//! for as long, as one that has died, gets nothing ahead either.
//!
//! It is part of the state, because it decides who gets what: every member must come to the same.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::PoolView;
use crate::ids::{Digest, JobId, Millis, PeerId};
use crate::quorum::check::{Checked, ensure};
use crate::task::limits::{AHEAD_MAX, AHEAD_TIME, PROGRAMS_MAX};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::quorum) struct PrefetchWindows {
    programs: BTreeMap<Digest, PrefetchWindow>,
    /// When each worker last reported anything. Only of peers that have a lease.
    reported: BTreeMap<PeerId, Millis>,
}

/// How quick tasks of one program are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct PrefetchWindow {
    /// Tasks that a worker may have beyond its slots.
    ahead: u16,
    /// When it was last halved: what was given before that says nothing new.
    halved_at: Millis,
    used_at: Millis,
}

impl PrefetchWindows {
    /// A task of the program was done, so long after it was given.
    pub(super) fn record_done(&mut self, program: Digest, assigned_at: Millis, now: Millis) {
        if self.programs.len() >= PROGRAMS_MAX && !self.programs.contains_key(&program) {
            let oldest = self.programs.iter().min_by_key(|(program, window)| (window.used_at, **program));
            if let Some(oldest) = oldest.map(|(program, _)| *program) {
                self.programs.remove(&oldest);
            }
        }
        let window = self.programs.entry(program).or_default();
        window.used_at = now;
        if now.since(assigned_at) <= AHEAD_TIME {
            window.ahead = (window.ahead + 1).min(AHEAD_MAX);
        } else if assigned_at >= window.halved_at {
            window.ahead /= 2;
            window.halved_at = now;
        }
    }

    pub(super) fn record_report(&mut self, worker: PeerId, now: Millis) {
        self.reported.insert(worker, now);
    }

    pub(super) fn forget(&mut self, worker: PeerId) {
        self.reported.remove(&worker);
    }

    fn of(&self, program: Digest) -> u32 {
        self.programs.get(&program).map_or(0, |window| u32::from(window.ahead))
    }

    /// The most that any program gets.
    pub(super) fn most(&self) -> u32 {
        self.programs.values().map(|window| u32::from(window.ahead)).max().unwrap_or(0)
    }

    pub(super) fn is_lively(&self, worker: PeerId, now: Millis) -> bool {
        self.reported.get(&worker).is_some_and(|at| now.since(*at) <= AHEAD_TIME)
    }

    /// `is_worker`: whether a peer has a lease.
    pub(super) fn check(&self, is_worker: impl Fn(&PeerId) -> bool) -> Checked {
        ensure(self.programs.len() <= PROGRAMS_MAX, || format!("the paces of {} programs", self.programs.len()))?;
        ensure(self.programs.values().all(|window| window.ahead <= AHEAD_MAX), || "an impossible pace".to_owned())?;
        ensure(self.reported.keys().all(is_worker), || "a peer that is no worker reported".to_owned())
    }
}

impl PoolView<'_> {
    /// Tasks of the run that a worker may have beyond its slots. None of those that must not begin twice, because one
    /// that waits may have begun; none of copies, which wait for each other anyway.
    pub(super) fn ahead_of(&self, job: JobId) -> u32 {
        let record = self.jobs.get(&job);
        let Some((record, run)) = record.and_then(|record| Some((record, record.tasks()?))) else { return 0 };
        let may = record.terms(run.step).is_some_and(|terms| terms.idempotent && terms.verify.is_none());
        if may { self.tasks.prefetch_windows.of(run.program) } else { 0 }
    }
}
