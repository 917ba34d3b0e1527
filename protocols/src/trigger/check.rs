//! The check of a trigger: whether it may be recorded, and whether this build can tell what it means.
//!
//! Members check sizes and shapes alone ([`TriggeredSpec::check`]): that answer is the same in every build. Whether a
//! line of cron, a zone or an expression can be read is for those who take the job in:
//! [`TriggeredSpec::check_meaning`].

use crate::ids::INSTANT_MAX;
use std::collections::BTreeSet;
use std::time::Duration;

use super::event::check_name;
use super::instants::Schedule;
use super::limits::*;
use super::planner::{condition_expression, event_expression};
use super::spec::{Bounds, ConditionSpec, EventSpec, MissedPolicy, Overlap, Source, TriggerSpec, When};
use crate::fault::SpecFault;
use crate::fault::{Checked, ensure, lasting, within};
use crate::ids::Millis;
use crate::task::limits::{COPIES_MAX, PLAIN_NAME_BYTES_MAX};

impl TriggerSpec {
    /// The first thing that is wrong in size or shape, whatever the build.
    pub fn check(&self) -> Checked {
        match &self.when {
            When::At(at) => instant("at", *at)?,
            When::Every { period, bounds } => {
                lasting("trigger.every", *period, PERIOD_MIN, PERIOD_MAX)?;
                whole("trigger.every", *period)?;
                check_bounds(bounds)?;
                ensure(bounds.jitter <= *period, "trigger.jitter", || {
                    format!("{:?} is longer than the period of {period:?}", bounds.jitter)
                })?;
            }
            When::Cron { lines, timezone, bounds } => {
                within("trigger.cron", lines.len(), 1, CRON_LINES_MAX)?;
                for (index, line) in lines.iter().enumerate() {
                    sized(&format!("trigger.cron.{index}"), line, CRON_LINE_BYTES_MAX)?;
                }
                sized("trigger.timezone", timezone, TIMEZONE_BYTES_MAX)?;
                check_bounds(bounds)?;
            }
            When::Event(event) => check_event(event)?,
            When::Condition(condition) => check_condition(condition)?,
            When::After(jobs) => {
                within("trigger.after", jobs.len(), 1, AFTER_MAX)?;
                let distinct: BTreeSet<_> = jobs.iter().map(|after| after.job).collect();
                ensure(distinct.len() == jobs.len(), "trigger.after", || "a job is named twice".to_owned())?;
            }
        }
        if let Overlap::Queue(places) = self.overlap {
            within("trigger.overlap", places, 1, QUEUE_MAX)?;
        }
        if let MissedPolicy::CatchUp(instants) = self.missed.policy {
            within("trigger.missed", instants, 1, CATCH_UP_MAX)?;
        }
        if let Some(deadline) = self.missed.deadline {
            lasting("trigger.deadline", deadline, Duration::from_secs(1), PERIOD_MAX)?;
        }
        Ok(())
    }

    pub(crate) fn check_meaning(&self) -> Checked {
        let fault = |key: String, problem| SpecFault { key: format!("trigger.{key}"), problem };
        if let Some(schedule) = Schedule::compile(self).map_err(|(key, problem)| fault(key, problem))? {
            let first = schedule.first(Millis(0));
            ensure(first.is_some(), "trigger", || "it has no instant: its `until` comes before the first".to_owned())?;
        }
        let asked = match &self.when {
            When::Event(event) => vec![("event.where", event.filter.as_deref().map(event_expression))],
            When::Condition(condition) => vec![
                ("condition.when", Some(condition_expression(&condition.when))),
                ("condition.reset", condition.reset.as_deref().map(condition_expression)),
            ],
            _ => Vec::new(),
        };
        for (key, expression) in asked {
            expression.transpose().map_err(|problem| fault(key.to_owned(), problem))?;
        }
        Ok(())
    }
}

fn check_bounds(bounds: &Bounds) -> Checked {
    let Bounds { start, until, jitter, count } = bounds;
    start.map_or(Ok(()), |start| instant("start", start))?;
    until.map_or(Ok(()), |until| instant("until", until))?;
    if let (Some(start), Some(until)) = (start, until) {
        ensure(start <= until, "trigger.until", || "it is before `start`".to_owned())?;
    }
    lasting("trigger.jitter", *jitter, Duration::ZERO, JITTER_MAX)?;
    whole("trigger.jitter", *jitter)?;
    ensure(*count != Some(0), "trigger.count", || "0 is less than 1".to_owned())
}

fn check_event(event: &EventSpec) -> Checked {
    if let Err(error) = check_name(&event.name) {
        ensure(false, "trigger.event.name", || error.to_string())?;
    }
    event.filter.as_deref().map_or(Ok(()), |filter| sized("trigger.event.where", filter, EXPRESSION_BYTES_MAX))?;
    lasting("trigger.event.debounce", event.debounce, Duration::ZERO, DEBOUNCE_MAX)?;
    whole("trigger.event.debounce", event.debounce)?;
    lasting("trigger.event.dedupe_window", event.dedupe_window, Duration::ZERO, DEDUPE_WINDOW_MAX)
}

fn check_condition(condition: &ConditionSpec) -> Checked {
    match &condition.source {
        Source::Http { url } => {
            sized("trigger.condition.source.http", url, SOURCE_BYTES_MAX)?;
            let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or_default();
            let whole = !host.is_empty() && !host.starts_with(['/', ':', '?']);
            let plain = url.bytes().all(|byte| byte.is_ascii_graphic());
            ensure(whole && plain, "trigger.condition.source.http", || {
                format!("{url:?} is no address; http:// or https:// with a host is needed")
            })?;
        }
        Source::Metric { name } => sized("trigger.condition.source.metric", name, PLAIN_NAME_BYTES_MAX)?,
        Source::Object(_) | Source::Job(_) => {}
    }
    sized("trigger.condition.when", &condition.when, EXPRESSION_BYTES_MAX)?;
    condition.reset.as_deref().map_or(Ok(()), |reset| sized("trigger.condition.reset", reset, EXPRESSION_BYTES_MAX))?;
    lasting("trigger.condition.every", condition.every, POLL_MIN, POLL_MAX)?;
    lasting("trigger.condition.hold_for", condition.hold_for, Duration::ZERO, HOLD_MAX)?;
    lasting("trigger.condition.hysteresis", condition.hysteresis, Duration::ZERO, HOLD_MAX)?;
    if let Some(verify) = condition.verify {
        within("trigger.condition.verify.copies", verify.copies, 2, COPIES_MAX)?;
        within("trigger.condition.verify.agree", verify.agree, verify.copies / 2 + 1, verify.copies)?;
    }
    Ok(())
}

fn instant(key: &str, instant: Millis) -> Checked {
    ensure(instant.0 <= INSTANT_MAX, format!("trigger.{key}"), || "it is after the year 9000".to_owned())
}

fn whole(key: &str, duration: Duration) -> Checked {
    ensure(duration.subsec_nanos().is_multiple_of(1_000_000), key, || {
        format!("{duration:?} is not in whole milliseconds")
    })
}

fn sized(key: &str, text: &str, max: usize) -> Checked {
    let bytes = text.len();
    ensure((1..=max).contains(&bytes), key, || format!("{bytes} bytes, and 1 to {max} are accepted"))
}
