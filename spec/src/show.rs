//! A trigger as its specification says it, for people.

use std::time::Duration;

use quorate_protocols::trigger::show_instant;
use quorate_protocols::trigger::spec::{AfterJob, Bounds, MissedPolicy, Overlap, Source, TriggerSpec, When};

/// When it fires: `every 10s`, `cron "0 9 * * MON-FRI" in Europe/Berlin`.
pub fn when(trigger: &TriggerSpec) -> String {
    match &trigger.when {
        When::At(at) => format!("at {}", show_instant(*at)),
        When::Every { period, bounds } => format!("every {}{}", span(*period), bounded(bounds)),
        When::Cron { lines, timezone, bounds } => {
            let lines: Vec<_> = lines.iter().map(|line| format!("{line:?}")).collect();
            format!("cron {} in {timezone}{}", lines.join(", "), bounded(bounds))
        }
        When::Event(event) => {
            let filter = event.filter.as_ref().map(|filter| format!(" where {filter}")).unwrap_or_default();
            format!("event {:?}{filter}", event.name)
        }
        When::Condition(condition) => {
            let source = match &condition.source {
                Source::Http { url } => url.clone(),
                Source::Object(object) => format!("object {object}"),
                Source::Job(job) => format!("job {job}"),
                Source::Metric { name } => format!("metric {name}"),
            };
            format!("condition {} of {source}, every {}", condition.when, span(condition.every))
        }
        When::After(jobs) => {
            let jobs: Vec<_> = jobs.iter().map(|AfterJob { job, on }| format!("{job} ({})", on.name())).collect();
            format!("after {}", jobs.join(", "))
        }
    }
}

fn bounded(bounds: &Bounds) -> String {
    let Bounds { start, until, jitter, count } = bounds;
    let start = start.map(|start| format!(", from {}", show_instant(start)));
    let until = until.map(|until| format!(", until {}", show_instant(until)));
    let jitter = (!jitter.is_zero()).then(|| format!(", up to {} later", span(*jitter)));
    let count = count.map(|count| format!(", {count} times"));
    [start, until, jitter, count].into_iter().flatten().collect()
}

pub fn overlap(overlap: Overlap) -> String {
    match overlap {
        Overlap::Allow => "allow".to_owned(),
        Overlap::Forbid => "forbid".to_owned(),
        Overlap::Replace => "replace".to_owned(),
        Overlap::Queue(places) => format!("queue({places})"),
    }
}

pub fn missed(policy: MissedPolicy) -> String {
    match policy {
        MissedPolicy::Skip => "skip".to_owned(),
        MissedPolicy::Once => "once".to_owned(),
        MissedPolicy::CatchUp(instants) => format!("catch_up({instants})"),
    }
}

/// `1m 30s`.
pub fn span(span: Duration) -> String {
    quorate_protocols::units::Span(span).to_string()
}
