//! Instants on real calendars, and what a specification is told.

use crate::job::spec::TriggeredSpec;
use std::time::Duration;

use proptest::prelude::*;

use super::instants::{Schedule, parse_instant, show_instant};
use super::limits::*;
use super::record::{Clock, Due, Span};
use super::spec::*;
use crate::ids::{JobId, Millis, QuorumId};
use crate::job::batch::BatchSpec;
use crate::task::spec::{Call, Content, Program};

const JOB: JobId = JobId { quorum: QuorumId([1; 16]), local: [2; 16] };

fn at(text: &str) -> Millis {
    parse_instant(text).unwrap()
}

fn cron(lines: &[&str], timezone: &str) -> TriggerSpec {
    TriggerSpec::new(When::Cron {
        lines: lines.iter().map(|line| line.to_string()).collect(),
        timezone: timezone.to_owned(),
        bounds: Bounds::default(),
    })
}

fn every(seconds: f64, bounds: Bounds) -> TriggerSpec {
    TriggerSpec::new(When::Every { period: Duration::from_secs_f64(seconds), bounds })
}

fn schedule(spec: &TriggerSpec) -> Schedule {
    Schedule::compile(spec).unwrap().unwrap()
}

/// The next instants after `from`, in UTC.
fn next(spec: &TriggerSpec, from: &str, count: usize) -> Vec<String> {
    let clock = Clock::default();
    let found = schedule(spec).preview(JOB, &clock, at(from), count);
    found.into_iter().map(|due| show_instant(due.instant)).collect()
}

fn refused(when: When) -> String {
    let job = BatchSpec::new(Call::new(Program::Command { name: "work".to_owned() }));
    TriggeredSpec::new(TriggerSpec::new(when), job).check_meaning().unwrap_err().to_string()
}

// ---- the clock's face ----

#[test]
fn a_daily_time_that_the_clocks_skip_comes_right_after_the_gap() {
    // Berlin, 31 March 2024: 02:00 is followed by 03:00, at 01:00 UTC.
    let spec = cron(&["30 2 * * *"], "Europe/Berlin");
    let expected = ["2024-03-30T01:30:00Z", "2024-03-31T01:00:00Z", "2024-04-01T00:30:00Z"];
    assert_eq!(next(&spec, "2024-03-30T00:00:00Z", 3), expected);
    // Two times in the gap, and one at its end: one moment.
    let spec = cron(&["0,30 2 * * *", "0 3 * * *"], "Europe/Berlin");
    let expected = ["2024-03-31T01:00:00Z", "2024-04-01T00:00:00Z", "2024-04-01T00:30:00Z"];
    assert_eq!(next(&spec, "2024-03-30T22:00:00Z", 3), expected);
}

#[test]
fn a_daily_time_that_the_clocks_show_twice_counts_the_first_time() {
    // Berlin, 27 October 2024: 03:00 is followed by 02:00, at 01:00 UTC.
    let spec = cron(&["30 2 * * *"], "Europe/Berlin");
    let expected = ["2024-10-26T00:30:00Z", "2024-10-27T00:30:00Z", "2024-10-28T01:30:00Z"];
    assert_eq!(next(&spec, "2024-10-26T00:00:00Z", 3), expected);
    // From the second time on, the next is tomorrow's.
    assert_eq!(next(&spec, "2024-10-27T01:10:00Z", 1), ["2024-10-28T01:30:00Z"]);
    assert_eq!(next(&spec, "2024-10-27T01:30:00Z", 1), ["2024-10-28T01:30:00Z"]);
    // Every second of an hour that is named: 3600 of them, not 7200.
    let spec = cron(&["* * 2 * * *"], "Europe/Berlin");
    let found = next(&spec, "2024-10-26T23:00:00Z", 3_601);
    assert_eq!((&found[0][..], &found[3_599][..]), ("2024-10-27T00:00:00Z", "2024-10-27T00:59:59Z"));
    assert_eq!(found[3_600], "2024-10-28T01:00:00Z");
}

#[test]
fn what_runs_every_hour_follows_the_time_that_passes() {
    let spec = cron(&["15 * * * *"], "Europe/Berlin");
    let spring = next(&spec, "2024-03-30T23:30:00Z", 4);
    assert_eq!(
        spring,
        ["2024-03-31T00:15:00Z", "2024-03-31T01:15:00Z", "2024-03-31T02:15:00Z", "2024-03-31T03:15:00Z"]
    );
    let autumn = next(&spec, "2024-10-26T23:30:00Z", 4);
    assert_eq!(
        autumn,
        ["2024-10-27T00:15:00Z", "2024-10-27T01:15:00Z", "2024-10-27T02:15:00Z", "2024-10-27T03:15:00Z"]
    );
}

#[test]
fn zones_of_every_sort_have_their_days() {
    // Half an hour of daylight saving; a day that a whole country skipped; no daylight saving; south of the equator.
    let spec = cron(&["15 2 * * *"], "Australia/Lord_Howe");
    assert_eq!(next(&spec, "2024-10-05T00:00:00Z", 2), ["2024-10-05T15:30:00Z", "2024-10-06T15:15:00Z"]);
    let spec = cron(&["0 12 * * *"], "Pacific/Apia");
    assert_eq!(
        next(&spec, "2011-12-29T00:00:00Z", 3),
        ["2011-12-29T22:00:00Z", "2011-12-30T10:00:00Z", "2011-12-30T22:00:00Z"]
    );
    let spec = cron(&["0 9 * * MON-FRI"], "Asia/Kolkata");
    assert_eq!(next(&spec, "2024-06-07T04:00:00Z", 2), ["2024-06-10T03:30:00Z", "2024-06-11T03:30:00Z"]);
    let spec = cron(&["30 0 * * *"], "America/Santiago");
    assert_eq!(
        next(&spec, "2024-09-07T12:00:00Z", 2),
        ["2024-09-08T04:00:00Z", "2024-09-09T03:30:00Z"],
        "midnight is skipped"
    );
    let spec = cron(&["0 9 * * *"], "America/New_York");
    assert_eq!(next(&spec, "2037-11-01T00:00:00Z", 1), ["2037-11-01T14:00:00Z"], "beyond the tables the rule goes on");
    assert_eq!(next(&spec, "2093-07-01T00:00:00Z", 1), ["2093-07-01T13:00:00Z"]);
}

#[test]
fn leap_days_and_days_of_the_week_come_when_they_come() {
    let spec = cron(&["0 0 29 2 *"], "UTC");
    assert_eq!(
        next(&spec, "2096-03-01T00:00:00Z", 2),
        ["2104-02-29T00:00:00Z", "2108-02-29T00:00:00Z"],
        "2100 has none"
    );
    // When day of month and day of week are both restricted, either suffices.
    let spec = cron(&["0 0 13 * FRI"], "UTC");
    assert_eq!(
        next(&spec, "2024-09-10T00:00:00Z", 3),
        ["2024-09-13T00:00:00Z", "2024-09-20T00:00:00Z", "2024-09-27T00:00:00Z"]
    );
    let spec = cron(&["*/20 * * * * *"], "UTC");
    assert_eq!(
        next(&spec, "2024-01-01T00:00:05.5Z", 3),
        ["2024-01-01T00:00:20Z", "2024-01-01T00:00:40Z", "2024-01-01T00:01:00Z"]
    );
}

#[test]
fn several_lines_are_one_schedule() {
    let spec = cron(&["0 9 * * *", "0 9,17 * * MON", "@daily"], "UTC");
    let expected = ["2024-06-03T00:00:00Z", "2024-06-03T09:00:00Z", "2024-06-03T17:00:00Z", "2024-06-04T00:00:00Z"];
    assert_eq!(next(&spec, "2024-06-02T12:00:00Z", 4), expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Goal: in any zone, a daily time comes once each civil day; what runs each hour is never further apart than an
    /// hour.
    #[test]
    fn no_day_is_without_its_run_and_none_has_two(
        zone in prop::sample::select(vec![
            "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/St_Johns", "Asia/Tehran", "Africa/Cairo",
            "America/Sao_Paulo", "Antarctica/Troll", "Africa/Casablanca", "UTC",
        ]),
        day in 0u64..20_000,
        minute in 0u8..60,
        hour in 0u8..24,
    ) {
        let from = Millis(day * 86_400_000 + 1_234);
        let daily = schedule(&cron(&[&format!("{minute} {hour} * * *")], zone));
        let found: Vec<_> = daily.preview(JOB, &Clock::default(), from, 40).into_iter().map(|due| due.instant.0).collect();
        let gaps = found.windows(2).map(|pair| pair[1] - pair[0]);
        for gap in gaps {
            prop_assert!((22 * 3_600_000..=26 * 3_600_000).contains(&gap), "{} h {} in {}", gap / 3_600_000, gap, zone);
        }
        let hourly = schedule(&cron(&[&format!("{minute} * * * *")], zone));
        let found: Vec<_> = hourly.preview(JOB, &Clock::default(), from, 400).into_iter().map(|due| due.instant.0).collect();
        for pair in found.windows(2) {
            prop_assert!(pair[1] > pair[0] && pair[1] - pair[0] <= 2 * 3_600_000, "{} in {}", pair[1] - pair[0], zone);
        }
    }
}

// ---- periods, bounds, jitter ----

#[test]
fn a_period_counts_from_its_start_and_stops_where_it_should() {
    let bounds = |start: Option<&str>, until: Option<&str>, count| Bounds {
        start: start.map(at),
        until: until.map(at),
        jitter: Duration::ZERO,
        count,
    };
    let from = "2024-01-01T00:00:01Z";
    assert_eq!(next(&every(10.0, Bounds::default()), from, 2), ["2024-01-01T00:00:11Z", "2024-01-01T00:00:21Z"]);
    let started = every(10.0, bounds(Some("2023-12-31T23:59:55Z"), None, None));
    assert_eq!(next(&started, from, 1), ["2024-01-01T00:00:05Z"]);
    let later = every(10.0, bounds(Some("2024-02-01T00:00:00Z"), Some("2024-02-01T00:00:10Z"), None));
    assert_eq!(next(&later, from, 9), ["2024-02-01T00:00:00Z", "2024-02-01T00:00:10Z"]);
    assert_eq!(next(&every(0.5, bounds(None, None, Some(3))), from, 9).len(), 3);
}

#[test]
fn jitter_is_the_same_for_everyone_and_other_for_each_instant() {
    let jitter = Duration::from_secs(5);
    let due = |instant| Due::of(JOB, Millis(instant), jitter).due.0 - instant;
    let drawn: std::collections::BTreeSet<_> = (0..200u64).map(|minute| due(minute * 60_000)).collect();
    assert!(drawn.len() > 180 && drawn.iter().all(|late| *late <= 5_000), "{drawn:?}");
    assert_eq!(due(60_000), due(60_000));
    let other = JobId { local: [3; 16], ..JOB };
    assert_ne!(Due::of(other, Millis(60_000), jitter), Due::of(JOB, Millis(60_000), jitter));
}

// ---- spans ----

/// Applies spans to a clock until nothing is due; what they held.
fn catch_up(schedule: &Schedule, clock: &mut Clock, now: Millis) -> Vec<Span> {
    let mut spans = Vec::new();
    while let Some(span) = schedule.span(JOB, clock, false, now) {
        clock.from = Some(span.from);
        clock.next = span.next;
        clock.done += span.skipped.map_or(0, |skipped| skipped.count) + span.named.len() as u64;
        let held = span.skipped.is_some() || !span.named.is_empty();
        spans.push(span);
        assert!(spans.len() < 1_000, "it comes to an end");
        if !held && clock.next.is_none_or(|next| next.due > now) {
            break;
        }
    }
    spans
}

#[test]
fn a_span_names_what_may_fire_and_counts_what_may_not() {
    let schedule = schedule(&every(1.0, Bounds::default()));
    let mut clock = Clock::default();
    assert_eq!(catch_up(&schedule, &mut clock, Millis(500)).len(), 1);
    assert_eq!(clock.next.unwrap().instant, Millis(1_500));
    assert_eq!(schedule.span(JOB, &clock, false, Millis(1_499)), None, "nothing is due");
    assert!(schedule.span(JOB, &clock, true, Millis(1_499)).is_some(), "but one that resumes wants to hear it");
    let spans = catch_up(&schedule, &mut clock, Millis(3_500));
    assert_eq!(spans[0].named, [Millis(1_500), Millis(2_500), Millis(3_500)]);
    // A month later.
    let month = 30 * 24 * 3_600_000;
    let spans = catch_up(&schedule, &mut clock, Millis(3_500 + month));
    assert_eq!(spans.len(), 1, "a period is leapt over");
    assert_eq!(spans[0].named.len(), INSTANTS_NAMED_MAX);
    assert_eq!(spans[0].skipped.unwrap().count + INSTANTS_NAMED_MAX as u64, month / 1_000);
    assert_eq!(clock.next.unwrap().instant, Millis(4_500 + month));
}

#[test]
fn lines_of_cron_are_caught_up_with_in_bounded_steps() {
    let spec = cron(&["* * * * * *"], "Europe/Berlin");
    let schedule = schedule(&spec);
    let from = at("2024-10-26T20:00:00Z");
    let mut clock =
        Clock { from: Some(from), next: Some(schedule.due(JOB, Millis(from.0 + 1_000))), ..Clock::default() };
    let now = Millis(from.0 + 8 * 3_600_000);
    let spans = catch_up(&schedule, &mut clock, now);
    assert!(spans.len() >= 3 && spans.iter().rev().skip(1).all(|span| span.named.is_empty()), "{}", spans.len());
    assert_eq!(clock.done, 8 * 3_600, "every second once, through the hour that is shown twice");
    assert_eq!(clock.next.unwrap().instant, Millis(now.0 + 1_000));
    assert_eq!(spans.last().unwrap().named.len(), INSTANTS_NAMED_MAX);
}

proptest! {
    /// Goal: however long nobody looked and however the looks fall, every instant is in one span. Method: look at
    /// random times, and compare with a walk.
    #[test]
    fn spans_cover_every_instant_once(
        period in 100u64..400_000,
        jitter_percent in 0u64..=100,
        count in prop::option::of(1u64..3_000),
        until in prop::option::of(0u64..2_000_000_000),
        looks in prop::collection::vec(1u64..500_000_000, 1..12),
    ) {
        let bounds = Bounds {
            start: None,
            until: until.map(Millis),
            jitter: Duration::from_millis(period * jitter_percent / 100),
            count,
        };
        let schedule = schedule(&TriggerSpec::new(When::Every { period: Duration::from_millis(period), bounds }));
        let (mut clock, mut now) = (Clock::default(), 1_000_000);
        let (mut covered, mut last) = (0, Millis(now));
        for look in looks {
            for span in catch_up(&schedule, &mut clock, Millis(now)) {
                if let Some(skipped) = span.skipped {
                    prop_assert_eq!(skipped.first.0, last.0 + period);
                    prop_assert_eq!(skipped.last.0, last.0 + period * skipped.count);
                    (last, covered) = (skipped.last, covered + skipped.count);
                }
                for instant in &span.named {
                    prop_assert_eq!(instant.0, last.0 + period);
                    prop_assert!(schedule.due(JOB, *instant).due <= span.at);
                    (last, covered) = (*instant, covered + 1);
                }
            }
            prop_assert!(clock.next.is_none_or(|next| next.due > Millis(now)), "nothing due is left");
            prop_assert_eq!(clock.done, covered);
            now += look;
        }
        let over = count.is_some_and(|count| covered == count) || until.is_some_and(|until| last.0 + period > until);
        prop_assert_eq!(clock.next.is_none(), over);
    }
}

// ---- what is refused ----

#[test]
fn every_refusal_names_the_key_and_what_is_accepted() {
    let bounds = Bounds::default;
    let period = |period| When::Every { period, bounds: bounds() };
    let line = |line: &str| cron(&[line], "UTC").when;
    let event = |event: EventSpec| When::Event(event);
    let condition = |change: fn(&mut ConditionSpec)| {
        let mut spec = ConditionSpec {
            source: Source::Metric { name: "load".to_owned() },
            when: "value > 1".to_owned(),
            reset: None,
            every: Duration::from_secs(10),
            hold_for: Duration::ZERO,
            hysteresis: Duration::ZERO,
            verify: None,
        };
        change(&mut spec);
        When::Condition(spec)
    };
    for (when, expected) in [
        (period(Duration::ZERO), "trigger.every: 0ns is not between 100ms and"),
        (period(Duration::from_nanos(1)), "trigger.every: 1ns is not between 100ms"),
        (period(Duration::from_micros(100_500)), "trigger.every: 100.5ms is not in whole milliseconds"),
        (
            When::Every {
                period: Duration::from_secs(1),
                bounds: Bounds { jitter: Duration::from_secs(2), ..bounds() },
            },
            "trigger.jitter: 2s is longer than the period of 1s",
        ),
        (
            When::Every { period: Duration::from_secs(1), bounds: Bounds { count: Some(0), ..bounds() } },
            "trigger.count: 0 is less than 1",
        ),
        (
            When::Every {
                period: Duration::from_secs(1),
                bounds: Bounds { start: Some(Millis(9)), until: Some(Millis(8)), ..bounds() },
            },
            "trigger.until: it is before `start`",
        ),
        (When::At(Millis(u64::MAX)), "trigger.at: it is after the year 9000"),
        (
            cron(&["0 9 * * *"], "Europe/Bonn").when,
            "trigger.timezone: there is no time zone \"Europe/Bonn\"; an IANA name",
        ),
        (cron(&[], "UTC").when, "trigger.cron: 0 is not between 1 and 16"),
        (line("0 9 * *"), "trigger.cron.0: \"0 9 * *\" has 4 fields; a line has five fields"),
        (line("0 0 9 * * MON 2027"), "trigger.cron.0: \"0 0 9 * * MON 2027\" has 7 fields"),
        (line("61 * * * *"), "trigger.cron.0: \"61 * * * *\" is not a line of cron: "),
        (line("*/0 * * * *"), "trigger.cron.0: \"*/0 * * * *\" is not a line of cron: "),
        (line("0 9 * * FUNDAY"), "trigger.cron.0: \"0 9 * * FUNDAY\" is not a line of cron: "),
        (line("0 0 30 2 *"), "trigger.cron.0: \"0 0 30 2 *\" names a time that never comes"),
        (line("@reboot"), "trigger.cron.0: \"@reboot\" is not a line of cron here: a network does not boot"),
        (line("@every 5m"), "trigger.cron.0: \"@every 5m\" is not a line of cron: a period is `every = \"5m\"`"),
        (
            line("0,,5 * * * *"),
            "trigger.cron.0: \"0,,5 * * * *\" is not a line of cron: the list \"0,,5\" of the minute",
        ),
        (line("*/90 * * * *"), "trigger.cron.0: \"*/90 * * * *\" is not a line of cron: a step of 90 in \"*/90\" goes"),
        (event(EventSpec::new("")), "trigger.event.name: \"\" is no name"),
        (event(EventSpec::new("a b")), "trigger.event.name: \"a b\" is no name"),
        (
            event(EventSpec { filter: Some("datum.x > 1".to_owned()), ..EventSpec::new("a") }),
            "trigger.event.where: there is no \"datum\" here, only event, data",
        ),
        (condition(|spec| spec.when = "value >".to_owned()), "trigger.condition.when: not an expression"),
        (condition(|spec| spec.every = Duration::from_millis(5)), "trigger.condition.every: 5ms is not between 1s"),
        (
            condition(|spec| spec.source = Source::Http { url: "file:///etc/passwd".to_owned() }),
            "trigger.condition.source.http: \"file:///etc/passwd\" is no address; http:// or https://",
        ),
        (When::After(Vec::new()), "trigger.after: 0 is not between 1 and 32"),
        (When::After(vec![AfterJob { job: JOB, on: After::Any }; 2]), "trigger.after: a job is named twice"),
    ] {
        let found = refused(when);
        assert!(found.starts_with(expected), "{found:?} does not begin with {expected:?}");
    }
}

#[test]
fn a_job_may_not_bring_its_own_trigger_input() {
    let mut call = Call::new(Program::Command { name: "work".to_owned() });
    call.inputs.insert(INPUT_NAME.to_owned(), Content::Inline(bytes::Bytes::new()));
    let trigger = every(1.0, Bounds::default());
    let fault = TriggeredSpec::new(trigger, BatchSpec::new(call)).check().unwrap_err().to_string();
    assert!(fault.starts_with("inputs.trigger.json: a job with a trigger is given"), "{fault}");
}

#[test]
fn instants_read_back_and_impossible_ones_are_explained() {
    assert_eq!(at("2027-01-01T09:00:00+01:00"), Millis(1_798_790_400_000));
    assert_eq!(show_instant(at("2027-01-01T09:00:00.25+01:00")), "2027-01-01T08:00:00.25Z");
    for (text, expected) in [
        ("2027-02-30T00:00:00Z", "28"),
        ("2027-01-01T09:00:00", "with its offset from UTC"),
        ("tomorrow", "is needed"),
        ("1969-01-01T00:00:00Z", "before 1970"),
        ("9998-01-01T00:00:00Z", "after the year 9000"),
    ] {
        let found = parse_instant(text).unwrap_err().to_string();
        assert!(found.contains(expected) && found.contains("is needed"), "{found}");
    }
}

proptest! {
    #[test]
    fn no_line_and_no_zone_panics(
        text in ".{0,40}",
        fields in prop::collection::vec("[0-9*/,LW#?@A-Z-]{1,6}", 4..8),
        zone in ".{0,20}",
    ) {
        for line in [text, fields.join(" ")] {
            let _ = Schedule::compile(&cron(&[&line], "UTC"));
        }
        let _ = Schedule::compile(&cron(&["0 9 * * *"], &zone));
        let _ = parse_instant(&zone);
    }
}
