//! What the primary works out, and the members never do: due instants, matching events, conditions that hold.
//!
//! It remembers nothing that matters: schedules and expressions that it has read already, so that they are not read for
//! every fire. A new primary begins with an empty one.

use std::collections::BTreeMap;

use super::condition::{Observation, Seen};
use super::event::{Event, Match};
use super::expression::Expression;
use super::instants::Schedule;
use super::limits::{MATCHES_MAX, OBSERVED_BYTES_MAX, SPANS_MAX};
use super::record::Span;
use super::spec::{TriggerSpec, When};
use crate::ids::{JobId, Millis, PeerId};
use crate::job::limits::REASON_BYTES_MAX;
use crate::quorum::QuorumState;

/// Triggers that are kept read, at some kilobytes each. Past it all are read anew when next needed.
const READ_MAX: usize = 1_024;

#[derive(Debug, Default)]
pub struct Planner {
    read: BTreeMap<JobId, Result<Read, String>>,
}

#[derive(Debug)]
enum Read {
    Timed(Schedule),
    Event { filter: Option<Expression> },
    Condition { when: Expression, reset: Option<Expression> },
    After,
}

impl Planner {
    /// What to propose as `Command::Due`: triggers that are due by the wall clock, or by quorum time as it has gone on
    /// since the last entry (`steady`). At most `SPANS_MAX`; ask again while there are any.
    pub fn spans(&mut self, state: &QuorumState, wall: Millis, steady: Millis) -> Vec<Span> {
        let steady = steady.max(wall);
        let due = state.due_triggers(wall, steady, SPANS_MAX);
        due.into_iter().filter_map(|job| self.span(state, job, wall, steady)).collect()
    }

    fn span(&mut self, state: &QuorumState, job: JobId, wall: Millis, steady: Millis) -> Option<Span> {
        let (spec, run) = state.trigger(job)?;
        let now = if spec.trigger.is_steady() { steady } else { wall };
        match self.read(job, &spec.trigger) {
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

    /// The triggers that an event fires, for `Command::Deliver`. Beyond `MATCHES_MAX` they are left out, with the number
    /// of those.
    pub fn matches(&mut self, state: &QuorumState, from: PeerId, event: &Event) -> (Vec<Match>, usize) {
        let data = serde_json::from_slice(&event.data).unwrap_or(serde_json::Value::Null);
        let whole = serde_json::json!({
            "name": event.name, "id": event.id, "from": from.to_string(), "at_ms": event.at.0, "data": data,
        });
        let mut matches = Vec::new();
        let mut beyond = 0;
        for job in state.listeners(&event.name) {
            let Some((spec, _)) = state.trigger(job) else { continue };
            let bytes = event.data.len().saturating_mul(2);
            let holds = match self.read(job, &spec.trigger) {
                Ok(Read::Event { filter: Some(filter) }) => filter.holds(&[("event", &whole), ("data", &data)], bytes),
                Ok(Read::Event { filter: None }) => Ok(true),
                Ok(_) => Ok(false),
                Err(why) => Err(why.clone()),
            };
            let fault = match holds {
                Ok(false) => continue,
                Ok(true) => None,
                Err(why) => Some(short(&why)),
            };
            if matches.len() < MATCHES_MAX {
                matches.push(Match { job, fault });
            } else {
                beyond += 1;
            }
        }
        (matches, beyond)
    }

    /// What a look at a condition's source says, for `Command::Observe`. `value`: the JSON that was found, or why none was.
    pub fn judge(
        &mut self,
        state: &QuorumState,
        job: JobId,
        value: Result<&str, &str>,
        witnesses: Vec<PeerId>,
    ) -> Option<Observation> {
        let (spec, _) = state.trigger(job)?;
        let read = self.read(job, &spec.trigger);
        let seen = value.map_err(str::to_owned).and_then(|text| match read {
            Ok(Read::Condition { when, reset }) => look(when, reset.as_ref(), text, witnesses),
            Ok(_) => Err("the trigger has no condition".to_owned()),
            Err(why) => Err(why.clone()),
        });
        Some(Observation { seen: seen.map_err(|why| short(&why)) })
    }

    fn read(&mut self, job: JobId, spec: &TriggerSpec) -> Result<&Read, &String> {
        if self.read.len() >= READ_MAX && !self.read.contains_key(&job) {
            self.read.clear();
        }
        self.read.entry(job).or_insert_with(|| read(spec)).as_ref()
    }
}

fn read(spec: &TriggerSpec) -> Result<Read, String> {
    let fault = |key: &'static str| move |problem: String| format!("trigger.{key}: {problem}");
    match &spec.when {
        When::At(_) | When::Every { .. } | When::Cron { .. } => {
            let schedule = Schedule::compile(spec).map_err(|(key, problem)| format!("trigger.{key}: {problem}"))?;
            schedule.map(Read::Timed).ok_or_else(|| "the trigger has no schedule".to_owned())
        }
        When::Event(event) => {
            let filter = event.filter.as_deref().map(event_expression).transpose().map_err(fault("event.where"))?;
            Ok(Read::Event { filter })
        }
        When::Condition(condition) => {
            let when = condition_expression(&condition.when).map_err(fault("condition.when"))?;
            let reset = condition.reset.as_deref().map(condition_expression).transpose();
            Ok(Read::Condition { when, reset: reset.map_err(fault("condition.reset"))? })
        }
        When::After(_) => Ok(Read::After),
    }
}

pub(super) fn event_expression(text: &str) -> Result<Expression, String> {
    Expression::compile(text, &["event", "data"])
}

pub(super) fn condition_expression(text: &str) -> Result<Expression, String> {
    Expression::compile(text, &["value"])
}

fn look(when: &Expression, reset: Option<&Expression>, text: &str, witnesses: Vec<PeerId>) -> Result<Seen, String> {
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
    let mut end = text.len().min(REASON_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
