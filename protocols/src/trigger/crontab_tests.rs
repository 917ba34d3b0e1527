//! Lines of cron against a second reading of crontab(5): slow, by days, and without the library.

use std::collections::BTreeSet;

use super::instants::{Schedule, parse_instant, show_instant};
use super::record::Clock;
use super::spec::{Bounds, TriggerSpec, When};
use crate::ids::{JobId, Millis, QuorumId};

const JOB: JobId = JobId { quorum: QuorumId([1; 16]), local: [2; 16] };
const DAY_MS: u64 = 86_400_000;

fn schedule(line: &str) -> Schedule {
    let lines = vec![line.to_owned()];
    let cron = When::Cron { lines, timezone: "UTC".to_owned(), bounds: Bounds::default() };
    Schedule::compile(&TriggerSpec::new(cron)).unwrap_or_else(|fault| panic!("{line}: {fault:?}")).unwrap()
}

/// The calendar of a day since 1970: month, day of month, day of week from Sunday.
fn calendar(days: u64) -> (u32, u32, u32) {
    let (mut year, mut left) = (1970, days);
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if left < length {
            break;
        }
        (left, year) = (left - length, year + 1);
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        (left, month) = (left - length, month + 1);
    }
    (month, left as u32 + 1, ((days + 4) % 7) as u32)
}

/// The numbers that a field names.
fn numbers(field: &str, least: u32, greatest: u32, names: &str) -> BTreeSet<u32> {
    let number = |word: &str| {
        let short = word.to_lowercase().chars().take(3).collect::<String>();
        word.parse().unwrap_or_else(|_| least + names.split(' ').position(|name| name == short).unwrap() as u32)
    };
    let mut found = BTreeSet::new();
    for entry in field.split(',') {
        let (range, step) = entry.split_once('/').map_or((entry, 1), |(range, step)| (range, step.parse().unwrap()));
        let (first, last) = match range.split_once('-') {
            _ if range == "*" || range == "?" => (least, greatest),
            Some((first, last)) => (number(first), number(last)),
            None => (number(range), number(range)),
        };
        found.extend((first..=last).step_by(step));
    }
    found
}

/// Goal: whatever combination of day of month, month and day of week, the days are those of crontab(5).
#[test]
fn the_days_of_a_line_are_those_of_crontab() {
    const MONTHS: &str = "jan feb mar apr may jun jul aug sep oct nov dec";
    const WEEKDAYS: &str = "sun mon tue wed thu fri sat";
    let first = parse_instant("2027-01-01T00:00:00Z").unwrap();
    let days = 2 * 366;
    let from = Millis(first.0 - 1);
    let mut compared = 0;
    for day in ["*", "?", "*/2", "*/10", "1", "13", "31", "1-7", "1,15", "10-20/3", "28-31"] {
        for month in ["*", "*/3", "2", "JAN-mar", "december,May", "6-8/2"] {
            for weekday in ["*", "?", "*/2", "*/3", "0", "FRI", "1-5", "MONDAY-friday", "sun,WED", "1-5/2", "*/7"] {
                let line = format!("15 9,21 {day} {month} {weekday}");
                let (of_month, months) = (numbers(day, 1, 31, ""), numbers(month, 1, 12, MONTHS));
                let of_week: BTreeSet<_> =
                    numbers(weekday, 0, 7, WEEKDAYS).into_iter().map(|weekday| weekday % 7).collect();
                let is_free = |field: &str| field.starts_with(['*', '?']);
                let mut expected = Vec::new();
                for since in 0..days {
                    let start = first.0 + since * DAY_MS;
                    let (month, day_of_month, day_of_week) = calendar(start / DAY_MS);
                    let (by_month, by_week) = (of_month.contains(&day_of_month), of_week.contains(&day_of_week));
                    let taken = match is_free(day) || is_free(weekday) {
                        true => by_month && by_week,
                        false => by_month || by_week,
                    };
                    if taken && months.contains(&month) {
                        expected.extend([9, 21].map(|hour| start + (hour * 60 + 15) * 60_000));
                    }
                }
                if expected.is_empty() {
                    // 31 February is refused.
                    continue;
                }
                let found = schedule(&line).preview(JOB, &Clock::default(), from, expected.len());
                let found: Vec<_> = found.into_iter().map(|due| due.instant.0).collect();
                let differs = found.iter().zip(&expected).find(|(found, expected)| found != expected);
                let shown =
                    differs.map(|(found, expected)| (show_instant(Millis(*found)), show_instant(Millis(*expected))));
                assert!(shown.is_none() && found.len() == expected.len(), "{line}: found and expected {shown:?}");
                compared += found.len();
            }
        }
    }
    assert!(compared > 50_000, "{compared} instants");
}

/// Goal: the line of the textbook. Odd days that are Mondays, not odd days and Mondays.
#[test]
fn a_field_that_begins_with_a_star_restricts_nothing_by_itself() {
    let from = parse_instant("2027-01-01T00:00:00Z").unwrap();
    let next = |line: &str| {
        let found = schedule(line).preview(JOB, &Clock::default(), from, 4);
        found.into_iter().map(|due| show_instant(due.instant)[..10].to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(next("0 9 */2 * 1"), ["2027-01-11", "2027-01-25", "2027-02-01", "2027-02-15"]);
    assert_eq!(next("0 9 1 * */2"), ["2027-04-01", "2027-05-01", "2027-06-01", "2027-07-01"]);
    assert_eq!(next("0 9 1-31/2 * 1"), ["2027-01-01", "2027-01-03", "2027-01-04", "2027-01-05"]);
    assert_eq!(next("@midnight"), next("@daily"));
}
