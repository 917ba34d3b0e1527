//! The planner of triggers, at the primary alone: due instants, matching events, conditions that hold.
//!
//! It remembers nothing that matters: schedules and expressions that it has read already, so that they are not read for
//! every fire. A new primary begins with an empty one.

use std::collections::BTreeMap;

use super::condition::{Observation, Seen};
use super::event::{Event, Match};
use super::expression::Expression;
use super::instants::Schedule;
use super::limits::OBSERVED_BYTES_MAX;
use super::record::{Span, TriggerRun};
use super::spec::{TriggerSpec, When};
use crate::ids::{JobId, Millis, PeerId};
use crate::text::REASON_BYTES_MAX;
use crate::text::truncate;

/// Triggers that are kept read, at some kilobytes each. Past it all are read anew when next needed.
const READ_MAX: usize = 1_024;

/// None: every event of the name.
type Filter = Result<Option<Expression>, String>;

#[derive(Debug, Default)]
pub struct Planner {
    /// With what was read: an id that was forgotten can come again, with another specification.
    read: BTreeMap<JobId, (TriggerSpec, Result<Read, String>)>,
    /// What triggers want of an event beside its name.
    filters: BTreeMap<JobId, (Option<String>, Filter)>,
}

/// The records of triggers, as the planner reads them.
pub trait TriggerBook {
    /// The trigger of a job that has one, and where it stands.
    fn trigger(&self, job: JobId) -> Option<(&TriggerSpec, &TriggerRun)>;
    /// Timed triggers that are due when clocks read this, the earliest first.
    fn due_triggers(&self, wall: Millis, steady: Millis, limit: usize) -> Vec<JobId>;
}

/// A trigger that listens to an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub job: JobId,
    /// Wall time of its submit.
    pub since: Millis,
    /// The wall time at which the clocks were last stepped, if it listened by then.
    pub stepped: Option<Millis>,
    pub filter: Option<String>,
}

impl Listener {
    /// Whether an event is for it that was emitted then, by its age and the wall time of now.
    ///
    /// Wall time cannot tell which came first of two things before a step of the clocks: stamps that lay ahead became
    /// the moment of the step, and an age reaches back across it by what has passed. Then the event counts.
    pub fn hears(&self, emitted: Millis) -> bool {
        self.since <= emitted || self.stepped.is_some_and(|stepped| emitted < stepped)
    }
}

#[derive(Debug)]
enum Read {
    Timed(Schedule),
    Condition {
        when: Expression,
        reset: Option<Expression>,
    },
    /// By others.
    Caused,
}

impl Planner {
    /// What to propose as `TriggerCommand::Due`: triggers that are due by the wall clock, or by quorum time as it has
    /// gone on since the last entry (`steady`). At most `limit`, of which one command takes `SPANS_MAX`; ask again
    /// while there are any.
    pub fn spans(&mut self, book: &impl TriggerBook, wall: Millis, steady: Millis, limit: usize) -> Vec<Span> {
        let steady = steady.max(wall);
        let due = book.due_triggers(wall, steady, limit);
        due.into_iter().filter_map(|job| self.span(book, job, wall, steady)).collect()
    }

    fn span(&mut self, book: &impl TriggerBook, job: JobId, wall: Millis, steady: Millis) -> Option<Span> {
        let (spec, run) = book.trigger(job)?;
        let now = if spec.is_steady() { steady } else { wall };
        match self.read(job, spec) {
            Ok(Read::Timed(schedule)) => schedule.span(job, &run.clock, run.resuming, now),
            Ok(_) => None,
            Err(why) => Some(Span {
                job,
                from: run.clock.from.unwrap_or(now),
                expected: run.clock.next.map(|next| next.instant),
                skipped: None,
                named: Vec::new(),
                next: run.clock.next,
                at: now,
                fault: Some(short(why)),
            }),
        }
    }

    /// The triggers that an event fires, for `TriggerCommand::Deliver`, out of those that listen to its name
    /// (`QuorumState::listeners`). It may take some time; the state is not needed for it.
    pub fn matches(&mut self, listeners: &[Listener], from: PeerId, event: &Event) -> Vec<Match> {
        let data = serde_json::from_slice(&event.data).unwrap_or(serde_json::Value::Null);
        let whole = serde_json::json!({
            "name": event.name, "id": event.id, "from": from.to_string(), "emitted_at": event.at.0, "data": data,
        });
        // The end of its own runs would fire a trigger for ever.
        let own = event.is_own().then(|| data["trigger"].as_str().map(str::to_owned)).flatten();
        let mut matches = Vec::new();
        for Listener { job, filter, .. } in listeners {
            if own.as_ref().is_some_and(|own| *own == job.to_string()) {
                continue;
            }
            let bytes = event.data.len().saturating_mul(2);
            let holds = match self.filter(*job, filter.as_deref()) {
                Ok(Some(filter)) => filter.holds(&[("event", &whole), ("data", &data)], bytes),
                Ok(None) => Ok(true),
                Err(why) => Err(why.clone()),
            };
            match holds {
                Ok(false) => (),
                Ok(true) => matches.push(Match { job: *job, fault: None }),
                Err(why) => matches.push(Match { job: *job, fault: Some(short(&why)) }),
            }
        }
        matches
    }

    /// What a look at a condition's source says, for `TriggerCommand::Observe`. `value`: the JSON that was found, or
    /// why none was.
    pub fn judge(
        &mut self,
        book: &impl TriggerBook,
        job: JobId,
        value: Result<&str, &str>,
        witnesses: Vec<PeerId>,
    ) -> Option<Observation> {
        let (spec, _) = book.trigger(job)?;
        let read = self.read(job, spec);
        let seen = value.map_err(str::to_owned).and_then(|text| match read {
            Ok(Read::Condition { when, reset }) => evaluate(when, reset.as_ref(), text, witnesses),
            Ok(_) => Err("the trigger has no condition".to_owned()),
            Err(why) => Err(why.clone()),
        });
        Some(Observation { seen: seen.map_err(|why| short(&why)) })
    }

    fn read(&mut self, job: JobId, spec: &TriggerSpec) -> Result<&Read, &String> {
        if self.read.len() >= READ_MAX && !self.read.contains_key(&job) {
            self.read.clear();
        }
        let fresh = || (spec.clone(), read(spec));
        let kept = self.read.entry(job).or_insert_with(fresh);
        if kept.0 != *spec {
            *kept = fresh();
        }
        kept.1.as_ref()
    }

    fn filter(&mut self, job: JobId, text: Option<&str>) -> Result<Option<&Expression>, &String> {
        if self.filters.len() >= READ_MAX && !self.filters.contains_key(&job) {
            self.filters.clear();
        }
        let read = || text.map(event_expression).transpose().map_err(|why| format!("trigger.event.where: {why}"));
        let fresh = || (text.map(str::to_owned), read());
        let kept = self.filters.entry(job).or_insert_with(fresh);
        if kept.0.as_deref() != text {
            *kept = fresh();
        }
        kept.1.as_ref().map(Option::as_ref)
    }
}

fn read(spec: &TriggerSpec) -> Result<Read, String> {
    let fault = |key: &'static str| move |problem: String| format!("trigger.{key}: {problem}");
    match &spec.when {
        When::At(_) | When::Every { .. } | When::Cron { .. } => {
            let schedule = Schedule::compile(spec).map_err(|(key, problem)| format!("trigger.{key}: {problem}"))?;
            schedule.map(Read::Timed).ok_or_else(|| "the trigger has no schedule".to_owned())
        }
        When::Condition(condition) => {
            let when = condition_expression(&condition.when).map_err(fault("condition.when"))?;
            let reset = condition.reset.as_deref().map(condition_expression).transpose();
            Ok(Read::Condition { when, reset: reset.map_err(fault("condition.reset"))? })
        }
        When::Event(_) | When::After(_) => Ok(Read::Caused),
    }
}

pub(super) fn event_expression(text: &str) -> Result<Expression, String> {
    Expression::compile(text, &["event", "data"])
}

pub(super) fn condition_expression(text: &str) -> Result<Expression, String> {
    Expression::compile(text, &["value"])
}

fn evaluate(when: &Expression, reset: Option<&Expression>, text: &str, witnesses: Vec<PeerId>) -> Result<Seen, String> {
    if text.len() > OBSERVED_BYTES_MAX {
        return Err(format!("the source gave {} bytes, more than the {OBSERVED_BYTES_MAX} allowed", text.len()));
    }
    let value = serde_json::from_str(text).map_err(|error| format!("the source did not give JSON: {error}"))?;
    let ask = |expression: &Expression| expression.holds(&[("value", &value)], text.len());
    let holds = ask(when)?;
    let resets = reset.map_or(Ok(!holds), ask)?;
    Ok(Seen { value: text.to_owned(), holds, resets, witnesses })
}

fn short(text: &str) -> String {
    truncate(text, REASON_BYTES_MAX).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::QuorumId;

    /// Goal: a name of the network's own is no proof of who emitted an event, and a filter says whose word counts: the
    /// sender is the peer that the transport authenticated, whatever the event says of itself.
    #[test]
    fn a_filter_tells_the_sender_of_an_event_from_what_the_event_says() {
        let (trusted, stranger) = (PeerId([1; 32]), PeerId([2; 32]));
        let data = serde_json::json!({ "from": trusted.to_string(), "peer": "lost" }).to_string();
        let event =
            Event { name: "quorate.peer.lost".to_owned(), id: None, data: data.into_bytes().into(), at: Millis(5) };
        let job = |local: u8| JobId { quorum: QuorumId([3; 16]), local: [local; 16] };
        let listener = |local, filter| Listener { job: job(local), since: Millis(0), stepped: None, filter };
        let particular = format!("event.from == \"{trusted}\" && data.peer == \"lost\"");
        let listeners = [listener(1, None), listener(2, Some(particular))];
        let mut planner = Planner::default();
        let mut fired = |from| -> Vec<JobId> {
            let matches = planner.matches(&listeners, from, &event);
            assert!(matches.iter().all(|matched| matched.fault.is_none()), "{matches:?}");
            matches.iter().map(|matched| matched.job).collect()
        };
        assert_eq!(fired(trusted), [job(1), job(2)]);
        assert_eq!(fired(stranger), [job(1)]);
    }
}
