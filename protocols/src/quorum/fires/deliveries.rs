//! Causes that come from outside: events that emitters deliver, and observations of conditions.
//!
//! A delivery names the emitter's events in the order of their numbers, and each event at most once per trigger. An
//! event with an id of its own fires a trigger once within its window, whoever sends it.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{JobId, PeerId};
use crate::job::limits::JOBS_LIVE_MAX;
use crate::quorum::event::Event;
use crate::quorum::reply::{Applied, invalid, short};
use crate::quorum::reply::{CommandReply, Rejection};
use crate::quorum::state::QuorumState;
use crate::trigger::condition::{ConditionState, Observation, Seen};
use crate::trigger::event::{Delivery, Match};
use crate::trigger::input::{Values, render};
use crate::trigger::limits::*;
use crate::trigger::record::{Cause, Debounced, Fired, SeenId, SkipReason};
use crate::trigger::spec::When;

impl QuorumState {
    pub(in crate::quorum) fn deliver(
        &mut self,
        emitter: PeerId,
        (follows, reaches, lost): (u64, u64, u64),
        deliveries: &[Delivery],
        events: &mut Vec<Event>,
    ) -> Applied {
        check_delivery(follows, reaches, deliveries)?;
        let known = self.triggers.sequence_of(&emitter).unwrap_or(follows);
        if follows > known {
            return Err(Rejection::EventGap { known, follows });
        }
        self.forget_old_seen();
        let fresh = || deliveries.iter().filter(|delivery| delivery.sequence > known);
        let matches = || fresh().flat_map(|delivery| delivery.matches.iter().map(move |found| (delivery, found)));
        self.check_delivery_room(matches())?;
        self.triggers.make_room_for(emitter, self.time)?;
        for (delivery, found) in matches() {
            self.on_event(emitter, delivery, found, events);
        }
        let now = self.time;
        // A repeat says again what was lost.
        let lost = if reaches > known { lost } else { 0 };
        let reaches = known.max(reaches);
        self.triggers.advance_emitter(emitter, reaches, lost, now);
        if lost > 0 {
            let jobs: Vec<_> = self.triggers.listening().copied().collect();
            for job in jobs {
                self.count_lost(job, lost, events);
            }
        }
        Ok(CommandReply::Delivered { reaches })
    }

    /// Records that events were lost, of which nobody can tell whether they were for the trigger. They are counted in
    /// the row of others that were lost, whoever emitted those: nobody's word that something was lost takes the places
    /// of fires in the list.
    fn count_lost(&mut self, job: JobId, lost: u64, events: &mut Vec<Event>) {
        let now = self.wall();
        let counted = self.with_trigger(job, |run| {
            let mut recent = run.fires.iter_mut().rev().take_while(|row| now.since(row.at) < LOST_ROW_SPAN);
            recent.find_map(|row| match &mut row.what {
                Fired::Skipped { last, count, reason: SkipReason::Lost } => {
                    (*last, *count) = (now, count.saturating_add(lost));
                    Some(row.clone())
                }
                _ => None,
            })
        });
        match counted.flatten() {
            Some(row) => events.push(Event::Fired { job, row }),
            None => {
                let what = Fired::Skipped { last: now, count: lost, reason: SkipReason::Lost };
                self.write_row(job, Cause::Event(SeenId([0; 16])), what, events);
            }
        }
    }

    /// Refuses a delivery that the quorum has no room for, before any of it is taken.
    fn check_delivery_room<'d>(
        &self,
        matches: impl Iterator<Item = (&'d Delivery, &'d Match)>,
    ) -> Result<(), Rejection> {
        let (mut starts, mut bytes) = (0, 0);
        let mut seen = BTreeMap::<JobId, usize>::new();
        for (delivery, found) in matches.filter(|(_, found)| found.fault.is_none()) {
            starts += 1;
            bytes += delivery.event.data.len() + self.tasks.specification_bytes(found.job);
            *seen.entry(found.job).or_default() += usize::from(delivery.event.id.is_some());
        }
        if starts > 0 && self.jobs.live_len() + starts > JOBS_LIVE_MAX {
            return Err(Rejection::Full { what: "live jobs".to_owned(), limit: JOBS_LIVE_MAX });
        }
        if starts > 0 {
            // Shares of owners are not counted here: a fire that has no room in its owner's is skipped, and does not
            // keep the events from the triggers of others.
            self.tasks.check_all_bytes(bytes)?;
        }
        let all: usize = seen.values().sum();
        if all > 0 && self.triggers.ids_len() + all > SEEN_MAX {
            return Err(Rejection::Full { what: "ids of events within their windows".to_owned(), limit: SEEN_MAX });
        }
        seen.into_iter().try_for_each(|(job, more)| self.check_seen(job, more))
    }

    /// One event for one trigger.
    fn on_event(&mut self, emitter: PeerId, delivery: &Delivery, found: &Match, events: &mut Vec<Event>) {
        let (job, event, now) = (found.job, &delivery.event, self.time);
        let Some(record) = self.jobs.get(&job).filter(|record| !record.state.is_final()) else { return };
        let Some((spec, run)) = record.trigger() else { return };
        let When::Event(wanted) = &spec.trigger.when else { return };
        let id = event.seen_id(emitter, delivery.sequence);
        if wanted.name != event.name || run.seen.contains_key(&id) {
            return;
        }
        let (debounce, window, suspended) = (wanted.debounce, wanted.dedupe_window, run.suspended);
        let cause = Cause::Event(id);
        // What has no id of its own is told apart by its place at its emitter, and no place is taken twice.
        if event.id.is_some() && !window.is_zero() {
            self.remember_id(job, id, window);
        }
        if let Some(fault) = &found.fault {
            self.jobs.set_reason(&job, Some(fault));
            self.skip(job, cause, SkipReason::Fault, events);
        } else if suspended {
            self.skip(job, cause, SkipReason::Suspended, events);
        } else if debounce.is_zero() {
            let input = render(job, &Values::Event { event, from: emitter });
            self.fire(job, cause, input, true, events);
        } else {
            let input = render(job, &Values::Event { event, from: emitter });
            let before = self.with_trigger(job, |run| run.debounced.take()).flatten();
            let since = before.as_ref().map_or(now, |before| before.since);
            if let Some(before) = before {
                self.skip(job, before.cause, SkipReason::Debounced, events);
            }
            let until = now.plus(debounce).min(since.plus(debounce * DEBOUNCE_STRETCH));
            self.with_trigger(job, |run| run.debounced = Some(Box::new(Debounced { cause, input, since, until })));
        }
        self.reindex_job(job);
    }

    /// The stream of events has come to rest.
    pub(in crate::quorum) fn wake_trigger(&mut self, job: JobId, events: &mut Vec<Event>) {
        let now = self.time;
        let rested = self.with_trigger(job, |run| run.debounced.take_if(|debounced| debounced.until <= now)).flatten();
        let suspended = self.trigger(job).is_some_and(|(_, run)| run.suspended);
        if let Some(Debounced { cause, input, .. }) = rested.map(|rested| *rested) {
            if suspended {
                self.skip(job, cause, SkipReason::Suspended, events);
            } else {
                self.fire(job, cause, input, true, events);
            }
        }
        self.settle_trigger(job, events);
    }

    pub(in crate::quorum) fn observe(
        &mut self,
        job: JobId,
        observation: &Observation,
        events: &mut Vec<Event>,
    ) -> Applied {
        let now = self.time;
        let record = self.jobs.get(&job).ok_or(Rejection::UnknownJob { job })?;
        let command = || "observe".to_owned();
        let Some((spec, run)) = record.trigger() else { return Err(Rejection::NoTrigger { job, command: command() }) };
        let When::Condition(condition) = &spec.trigger.when else {
            return Err(invalid(format!("the trigger of job {job} is {} and has no condition", spec.trigger.name())));
        };
        if record.state.is_final() || run.suspended {
            return Err(Rejection::IllegalState { job, state: record.state, command: command() });
        }
        if let Ok(seen) = &observation.seen {
            let distinct = seen.witnesses.iter().collect::<BTreeSet<_>>().len();
            let needed = condition.verify.map_or(0, |verify| verify.agree as usize);
            if distinct < needed || seen.witnesses.len() > WITNESSES_MAX {
                return Err(invalid(format!("{distinct} peers saw it and {needed} must")));
            }
            if seen.value.len() > OBSERVED_BYTES_MAX {
                let bytes = seen.value.len();
                return Err(Rejection::TooLarge { what: "value".to_owned(), bytes, limit: OBSERVED_BYTES_MAX });
            }
        }
        let condition = condition.clone();
        // The record keeps enough of the value for people; the run is given the whole.
        let kept = Observation {
            seen: match &observation.seen {
                Ok(seen) => Ok(Seen { value: short(&seen.value), ..seen.clone() }),
                Err(why) => Err(short(why)),
            },
        };
        let observed = |state: &mut ConditionState| (state.observe(&condition, now, &kept), state.number);
        let (fires, number) = self.with_trigger(job, |run| observed(&mut run.condition)).unwrap_or_default();
        if let (true, Ok(seen)) = (fires, &observation.seen) {
            let input = render(job, &Values::Condition { value: &seen.value });
            self.fire(job, Cause::Condition(number), input, true, events);
        }
        self.reindex_job(job);
        Ok(CommandReply::Done)
    }

    pub(super) fn remember_id(&mut self, job: JobId, id: SeenId, window: std::time::Duration) {
        // A clock that is set forward must not end the window.
        let until = self.led_time.plus(window);
        self.with_trigger(job, |run| run.seen.insert(id, until));
        self.triggers.insert_id(until, job, id);
    }

    pub(super) fn check_seen(&self, job: JobId, more: usize) -> Result<(), Rejection> {
        let seen = self.trigger(job).map_or(0, |(_, run)| run.seen.len());
        if seen + more > SEEN_PER_TRIGGER_MAX {
            let what = format!("ids within their window for job {job}");
            return Err(Rejection::Full { what, limit: SEEN_PER_TRIGGER_MAX });
        }
        Ok(())
    }

    pub(super) fn forget_old_seen(&mut self) {
        while let Some((job, id)) = self.triggers.take_old_id(self.led_time) {
            self.with_trigger(job, |run| run.seen.remove(&id));
        }
    }
}

fn check_delivery(follows: u64, reaches: u64, deliveries: &[Delivery]) -> Result<(), Rejection> {
    if deliveries.len() > EVENTS_PER_DELIVERY_MAX {
        return Err(Rejection::Full { what: "events in one delivery".to_owned(), limit: EVENTS_PER_DELIVERY_MAX });
    }
    let bytes: usize = deliveries.iter().map(|delivery| delivery.event.data.len()).sum();
    if bytes > DELIVERY_BYTES_MAX {
        return Err(Rejection::TooLarge { what: "delivery".to_owned(), bytes, limit: DELIVERY_BYTES_MAX });
    }
    let mut before = follows;
    for Delivery { sequence, event, matches } in deliveries {
        if *sequence <= before || *sequence > reaches {
            return Err(invalid(format!("event {sequence} is out of order between {follows} and {reaches}")));
        }
        before = *sequence;
        event.check_size().map_err(|fault| invalid(fault.to_string()))?;
        let distinct: BTreeSet<_> = matches.iter().map(|found| found.job).collect();
        if matches.len() > MATCHES_MAX || distinct.len() != matches.len() {
            return Err(invalid(format!("event {sequence} names a trigger twice, or more than {MATCHES_MAX}")));
        }
    }
    if reaches < follows {
        return Err(invalid(format!("a delivery cannot reach from {follows} back to {reaches}")));
    }
    Ok(())
}
