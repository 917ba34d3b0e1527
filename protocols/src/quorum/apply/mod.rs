//! The application of an entry: its commands one by one, then what follows from them.
//!
//! [`QuorumState::apply`] is the only way to change a state: it takes time from the entry ([`super::clock`]), hands
//! each command to the sub-state that owns it, does what follows for runs and triggers, and folds entry and replies
//! into the digest.
//!
//! Every function here checks everything before it changes anything, so that a refused command leaves no trace. None
//! looks at a clock, and none fails for a reason that could differ between members.

mod submit;

use std::collections::BTreeSet;

use self::submit::Submit;
use super::clock::{ClockStep, is_step, millis_between};
use super::command::{Control, JobCommand, ObjectCommand, QuorumCommand, TaskCommand};
use super::entry::{Batch, BatchReply, Command, GenuineSubmits};
use super::event::Event;
use super::limits::{LEVEL, STANDBYS_MAX};
use super::reply::{Applied, CommandReply, Rejection, invalid};
use super::state::QuorumState;
use super::tasks::FollowUp;
use super::uses::Uses;
use crate::approval::{Approval, Subject};
use crate::ids::{Digest, JobId, LogIndex, ManifestHash, Millis, ObjectId, PeerId};
use crate::job::transition::RunCommand;
use crate::task::limits::WAKES_MAX;
use crate::wire;

impl QuorumState {
    /// Applies one entry. Deterministic: the same entries give the same state, replies and events on every member.
    pub fn apply(&mut self, index: LogIndex, batch: &Batch) -> (BatchReply, Vec<Event>) {
        self.apply_verified(index, batch, &GenuineSubmits::default())
    }

    /// The same, with what is known of the signatures in the entry. What is not known is verified here.
    pub fn apply_verified(
        &mut self,
        index: LogIndex,
        batch: &Batch,
        genuine: &GenuineSubmits,
    ) -> (BatchReply, Vec<Event>) {
        let mut events = Vec::new();
        self.applied = index;
        self.advance(batch, &mut events);
        self.stamp_since(&events);
        let before = self.quiet_duties();
        let mut replies = Vec::with_capacity(batch.commands.len());
        for (place, (by, command)) in batch.commands.iter().enumerate() {
            let before = events.len();
            replies.push(self.apply_command(*by, command, genuine.contains(place), &mut events));
            // At once: the next command of the entry acts on what its sender saw before the entry.
            self.stamp_since(&events[before..]);
        }
        let commanded = events.len();
        self.serve_finished(&mut events);
        self.schedule(&mut events);
        self.tasks.report_halted(&mut events);
        self.forget_ended();
        if events.is_empty() && self.quiet_duties() != before {
            events.push(Event::DutiesChanged);
        }
        self.stamp_since(&events[commanded..]);
        self.stamp_revisions(index, &events);
        let reply = BatchReply { replies };
        self.rolling = self.next_digest(index, &wire::encode(batch), &reply);
        (reply, events)
    }

    fn stamp_revisions(&mut self, index: LogIndex, events: &[Event]) {
        for job in events.iter().flat_map(Event::jobs) {
            self.jobs.set_revision(&job, index);
        }
    }

    /// The jobs whose state the entry has changed stand so since the entry.
    fn stamp_since(&mut self, events: &[Event]) {
        for event in events {
            if let Event::JobChanged { job, .. } = event {
                self.jobs.set_since(job, self.applied);
            }
        }
    }

    fn next_digest(&self, index: LogIndex, encoded: &[u8], reply: &BatchReply) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.rolling.as_bytes());
        hasher.update(&index.0.to_le_bytes());
        hasher.update(&(encoded.len() as u64).to_le_bytes());
        hasher.update(encoded);
        hasher.update(&wire::encode(reply));
        Digest(*hasher.finalize().as_bytes())
    }

    /// Forgets ended jobs past their number or their time. A job stays while its object lives, because slots of the
    /// object's columns carry its id, and while it has holders to release.
    fn forget_ended(&mut self) {
        while let Some(job) = self.jobs.forget_first(self.wall(), self.tasks.has_too_much_ended()) {
            self.tasks.forget_table(job);
            self.pool_mut().reindex(job);
        }
    }

    // ---- one command ----

    /// `is_genuine`: the command is a submit that is known to be signed by its author.
    fn apply_command(&mut self, by: PeerId, command: &Command, is_genuine: bool, events: &mut Vec<Event>) -> Applied {
        let needed = command.level();
        if needed > self.level {
            return Err(Rejection::Level { needed, level: self.level });
        }
        match command {
            Command::Quorum(command) => self.apply_quorum(command, events),
            Command::Job(job, JobCommand::Submit { spec, signature }) => {
                let submit = Submit { by, job: *job, spec, signature, is_genuine };
                self.submit(submit, events)
            }
            Command::Job(job, JobCommand::Control { seen, control }) => self.control(by, *job, *seen, control, events),
            Command::Kind(job, command) => self.apply_kind(by, *job, command, events),
            Command::Task(command) => self.apply_task(by, command, events),
            Command::Object(manifest, command) => self.apply_object(*manifest, command, events),
            Command::Trigger(command) => self.apply_trigger(by, command, events),
        }
    }

    fn apply_quorum(&mut self, command: &QuorumCommand, events: &mut Vec<Event>) -> Applied {
        match command {
            QuorumCommand::Noop => Ok(CommandReply::Done),
            QuorumCommand::Elapsed { until } => Ok(self.elapsed(*until, events)),
            QuorumCommand::SetStandbys { standbys } => self.set_standbys(standbys),
            QuorumCommand::RaiseLevel { level } => self.raise_level(*level),
            QuorumCommand::RecordFounding { founding } => self
                .chain
                .found(self.quorum, founding)
                .map(|()| CommandReply::Done)
                .map_err(|fault| invalid(fault.to_string())),
            QuorumCommand::DecideVoters { voters } => self
                .chain
                .decide(voters)
                .map(|number| CommandReply::Decided { number })
                .map_err(|fault| invalid(fault.to_string())),
            QuorumCommand::CertifyVoters { number, base, signatures } => self
                .chain
                .certify(*number, *base, signatures)
                .map(|()| CommandReply::Done)
                .map_err(|fault| invalid(fault.to_string())),
        }
    }

    fn set_standbys(&mut self, standbys: &[Approval]) -> Applied {
        if standbys.len() > STANDBYS_MAX {
            return Err(Rejection::Full { what: "standbys".to_owned(), limit: STANDBYS_MAX });
        }
        let peers: BTreeSet<_> = standbys.iter().map(|standby| standby.statement.approver).collect();
        let subject = Subject::Member { quorum: self.quorum };
        if peers.len() < standbys.len() || standbys.iter().any(|standby| standby.statement.subject != subject) {
            return Err(invalid("a standby is named twice, or promised something else"));
        }
        self.standbys = standbys.to_vec();
        Ok(CommandReply::Done)
    }

    fn raise_level(&mut self, level: u16) -> Applied {
        // Proposed only when every member advertises the level, so a build that cannot apply it never sees it.
        if level > LEVEL {
            return Err(invalid(format!("level {level} is above {LEVEL}, the newest that this build applies")));
        }
        self.level = self.level.max(level);
        Ok(CommandReply::Done)
    }

    fn control(
        &mut self,
        by: PeerId,
        job: JobId,
        seen: LogIndex,
        control: &Control,
        events: &mut Vec<Event>,
    ) -> Applied {
        if let Some(reply) = self.jobs.check_control((by, seen, control), job)? {
            return Ok(reply);
        }
        let reply = match (self.trigger(job).is_some(), control) {
            (true, Control::Suspend) => self.suspend(by, job, events)?,
            (true, Control::Unsuspend) => self.unsuspend(by, job, events)?,
            // All else that the table of triggers has.
            (true, _) => self.cancel_trigger(by, job, events)?,
            (false, control) => self.control_run(by, job, control, events)?,
        };
        self.jobs.set_controlled(&job, (by, seen, control), self.applied);
        Ok(reply)
    }

    fn apply_object(&mut self, manifest: ManifestHash, command: &ObjectCommand, events: &mut Vec<Event>) -> Applied {
        let uses = match command {
            ObjectCommand::Remove { claims, seen, force: false }
                if self.objects.loses_last_claim(&manifest, claims, *seen) =>
            {
                self.uses_of(ObjectId { quorum: self.quorum, manifest })
            }
            _ => Uses::default(),
        };
        let job = self.objects.get(&manifest).map(|object| object.job);
        let applied = self.catalog_mut().apply(manifest, command, uses, events)?;
        // Its run has the holders that are to let go.
        job.into_iter().for_each(|job| self.reindex_job(job));
        Ok(applied)
    }

    // ---- tasks: what follows for their runs ----

    fn apply_task(&mut self, by: PeerId, command: &TaskCommand, events: &mut Vec<Event>) -> Applied {
        let (reply, follow_up) = self.pool_mut().apply(by, command, events)?;
        let FollowUp { settle, reindex, tells_progress, forgive } = follow_up;
        for job in settle {
            let before = self.pool().done_of(job);
            self.settle(job, RunCommand::Reported, events);
            let after = self.pool().done_of(job).filter(|after| tells_progress && before != Some(*after));
            if let Some((step, done, total)) = after {
                events.push(Event::JobAdvanced { job, step, done, total });
            }
        }
        reindex.into_iter().for_each(|job| self.reindex_job(job));
        forgive.into_iter().for_each(|peer| self.pool_mut().forgive_refusals(peer));
        Ok(reply)
    }

    /// Gives away what can be given away. Called once per entry, after its commands.
    fn schedule(&mut self, events: &mut Vec<Event>) {
        let Some(mut round) = self.pool().begin_round() else { return };
        while let Some(job) = self.pool_mut().place_next(&mut round) {
            self.settle(job, RunCommand::Assigned, events);
        }
        events.extend(round.into_events());
    }

    // ---- time ----

    fn elapsed(&mut self, until: Millis, events: &mut Vec<Event>) -> CommandReply {
        // Another timer was set meanwhile, or this one was seen to: nothing to do.
        if self.next_timer() != Some(until) {
            return CommandReply::Done;
        }
        self.time = self.time.max(until);
        for _ in 0..WAKES_MAX {
            let Some((due, job)) = self.tasks.first_due() else { break };
            if due > self.time {
                break;
            }
            self.wake(job, events);
        }
        CommandReply::Done
    }

    /// Serves every timer of the job that has run out.
    fn wake(&mut self, job: JobId, events: &mut Vec<Event>) {
        self.pool_mut().end_overdue_stops(job);
        if self.trigger(job).is_some() {
            return self.wake_trigger(job, events);
        }
        self.run_elapsed(job, events);
        self.pool_mut().serve_timers(job);
        self.settle(job, RunCommand::Elapsed, events);
    }

    /// Takes the time of an entry in.
    fn advance(&mut self, batch: &Batch, events: &mut Vec<Event>) {
        self.led_time = self.led_time.plus(batch.passed);
        let ahead = millis_between(self.wall(), batch.now);
        let (passed, step) = match batch.since {
            // Nobody counted: as much has passed as the clocks say.
            None if ahead >= 0 => (ahead as u64, 0),
            None => (0, if is_step(ahead) { ahead } else { 0 }),
            Some(since) => {
                let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
                let apart = ahead.saturating_sub_unsigned(since);
                if is_step(apart) { (since, apart) } else { (ahead.max(0) as u64, 0) }
            }
        };
        let room = u64::MAX - self.time.0;
        self.time.0 += passed.min(room);
        if step != 0 {
            let before = self.wall();
            self.clock_offset_ms = millis_between(self.time, batch.now);
            self.step_clock(before, step, events);
        }
    }

    /// `before`: what wall time would be without the step.
    fn step_clock(&mut self, before: Millis, by_ms: i64, events: &mut Vec<Event>) {
        let at = self.wall();
        self.stepped = Some(ClockStep { at, by_ms, reopened: 0 });
        if by_ms < 0 {
            // Stamps of a future that did not come become the moment of the correction.
            for job in self.jobs.withdraw_stamps(at) {
                self.reindex_job(job);
            }
            self.objects.withdraw_stamps(at);
        }
        let reopened = self.step_triggers(before, by_ms, events);
        self.stepped = Some(ClockStep { at, by_ms, reopened });
    }
}
