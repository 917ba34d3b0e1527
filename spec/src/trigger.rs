//! The section `[trigger]`: when the job runs.
//!
//! ```toml
//! [trigger]                            # one of at, every, cron, event, condition, after
//! at = "2027-01-01T09:00:00+01:00"
//! every = "10s"                        # with: start, until, jitter, count
//!                                      # a unit of fixed length: no month, no year
//! cron = ["0 9 * * MON-FRI"]           # with: timezone (IANA; UTC by default), start, until, jitter, count
//!                                      # lines of crontab(5), @daily and its like, a second in front, L, W and #
//! event = { name = "door.open", where = "data.level > 3", debounce = "2s", dedupe_window = "10m" }
//! condition = { source = { http = "https://..." }, when = "value > 3", reset = "value < 2", every = "10s",
//!               hold_for = "1m", hysteresis = "30s", verify = { copies = 3, agree = 2 } }
//!                                      # source: one of http, object, job, metric
//! after = [{ job = "ID", on = "success" }]   # or "failure", "any"; a bare "ID" is success
//! overlap = "forbid"                   # or "allow", "replace", "queue(5)"
//! missed = "once"                      # or "skip", "catch_up(5)"
//! deadline = "1h"                      # what is later than this after it was due never fires
//! ```

use std::time::Duration;

use quorate_protocols::ids::{JobId, Millis, ObjectId};
use quorate_protocols::task::limits::COPIES_MAX;
use quorate_protocols::task::spec::Verify;
use quorate_protocols::trigger::limits::*;
use quorate_protocols::trigger::parse_instant;
use quorate_protocols::trigger::spec::{
    After, AfterJob, Bounds, ConditionSpec, EventSpec, Missed, MissedPolicy, Overlap, Source, TriggerSpec, When,
};
use quorate_tables::{Entry, Table, quoted, shown};
use toml::de::DeValue;

use super::Reader;

const FORMS: [&str; 6] = ["at", "every", "cron", "event", "condition", "after"];
const SCHEDULE: [&str; 4] = ["start", "until", "jitter", "count"];
const POLICIES: [&str; 3] = ["overlap", "missed", "deadline"];

const INSTANT_NEEDED: &str = "an instant with its offset from UTC, such as \"2027-01-01T09:00:00+01:00\"";
const JOB_NEEDED: &str = "a whole job id, as `quorate job submit` prints it";

/// `None` when the file has no trigger, or after noting what is wrong with it.
pub fn read_trigger(reader: &mut Reader, root: &Table<'_>) -> Option<TriggerSpec> {
    let accepted = [&FORMS[..], &SCHEDULE[..], &["timezone"], &POLICIES[..]].concat();
    let table = root.table(reader, "trigger", &accepted)?;
    let line = reader.line_of("trigger");
    let named: Vec<_> = FORMS.into_iter().filter(|key| table.has(key)).collect();
    if named.len() != 1 {
        let found = if named.is_empty() { "none of them".to_owned() } else { named.join(" and ") };
        reader.fault(line, format!("`trigger` has {found}, but one of {} is needed", FORMS.join(", ")));
        return None;
    }
    let form = named[0];
    let is_schedule = matches!(form, "every" | "cron");
    let foreign = SCHEDULE.into_iter().filter(|_| !is_schedule).chain((form != "cron").then_some("timezone"));
    for key in foreign.filter(|key| table.has(key)) {
        let line = reader.lines.get(&format!("trigger.{key}")).copied().unwrap_or(line);
        reader.fault(line, format!("`trigger.{key}` has no meaning for `trigger.{form}`"));
    }
    let when = match form {
        "at" => When::At(read_instant(reader, &table, "at")?),
        "every" => {
            let calendar = ", or use `cron` (\"@monthly\", \"0 9 1 * *\")";
            let period = table.duration_or(reader, "every", PERIOD_MIN..=PERIOD_MAX, calendar);
            let bounds = read_bounds(reader, &table);
            When::Every { period: period?, bounds }
        }
        "cron" => {
            let lines = read_lines(reader, &table);
            let timezone = table.text(reader, "timezone", "the IANA name of a time zone");
            let bounds = read_bounds(reader, &table);
            let timezone = if table.has("timezone") { timezone? } else { "UTC".to_owned() };
            When::Cron { lines: lines?, timezone, bounds }
        }
        "event" => When::Event(read_event(reader, &table)?),
        "condition" => When::Condition(read_condition(reader, &table)?),
        _ => When::After(read_after(reader, &table)?),
    };
    let mut trigger = TriggerSpec::new(when);
    if let Some((word, number)) = read_policy(reader, &table, "overlap", &["allow", "forbid", "replace"], "queue") {
        trigger.overlap = match word.as_str() {
            "allow" => Overlap::Allow,
            "forbid" => Overlap::Forbid,
            "replace" => Overlap::Replace,
            _ => Overlap::Queue(number),
        };
    }
    let mut missed = Missed { deadline: None, ..trigger.missed };
    if let Some((word, number)) = read_policy(reader, &table, "missed", &["skip", "once"], "catch_up") {
        missed.policy = match word.as_str() {
            "skip" => MissedPolicy::Skip,
            "once" => MissedPolicy::Once,
            _ => MissedPolicy::CatchUp(number),
        };
    }
    missed.deadline = table.duration(reader, "deadline", Duration::from_secs(1)..=PERIOD_MAX);
    Some(TriggerSpec { missed, ..trigger })
}

/// A date and time as TOML has them, or the same as a string.
fn read_instant(reader: &mut Reader, table: &Table<'_>, key: &str) -> Option<Millis> {
    let text = match table.get(key)?.get_ref() {
        DeValue::Datetime(time) => time.to_string(),
        _ => table.text(reader, key, INSTANT_NEEDED)?,
    };
    match parse_instant(&text) {
        Ok(instant) => Some(instant),
        Err(why) => {
            let key = format!("{}{key}", table.path);
            let line = reader.line_of(&key);
            reader.fault(line, format!("`{key}` is {}: {why}", quoted(&text)));
            None
        }
    }
}

fn read_bounds(reader: &mut Reader, table: &Table<'_>) -> Bounds {
    Bounds {
        start: read_instant(reader, table, "start"),
        until: read_instant(reader, table, "until"),
        jitter: table.duration(reader, "jitter", Duration::ZERO..=JITTER_MAX).unwrap_or_default(),
        count: table.number(reader, "count", 1..=u64::from(u32::MAX)),
    }
}

/// One line of cron, or several.
fn read_lines(reader: &mut Reader, table: &Table<'_>) -> Option<Vec<String>> {
    let needed = "a line of cron such as \"0 9 * * MON-FRI\", or a list of them";
    match table.get("cron")?.get_ref() {
        DeValue::String(_) => table.text(reader, "cron", needed).map(|line| vec![line]),
        _ => {
            let entries = table.list(reader, "cron", needed)?;
            Some(entries.into_iter().filter_map(|entry| entry.text(reader)).collect())
        }
    }
}

fn read_event(reader: &mut Reader, table: &Table<'_>) -> Option<EventSpec> {
    let table = table.table(reader, "event", &["name", "where", "debounce", "dedupe_window"])?;
    let name = table.require_text(reader, "name", "the name of an event");
    let mut event = EventSpec::new(name?);
    event.filter = table.text(reader, "where", "an expression over `event` and `data`");
    event.debounce = table.duration(reader, "debounce", Duration::ZERO..=DEBOUNCE_MAX).unwrap_or_default();
    if let Some(window) = table.duration(reader, "dedupe_window", Duration::ZERO..=DEDUPE_WINDOW_MAX) {
        event.dedupe_window = window;
    }
    Some(event)
}

fn read_condition(reader: &mut Reader, table: &Table<'_>) -> Option<ConditionSpec> {
    let keys = ["source", "when", "reset", "every", "hold_for", "hysteresis", "verify"];
    let table = table.table(reader, "condition", &keys)?;
    let source = read_source(reader, &table);
    let when = table.require_text(reader, "when", "an expression over `value`");
    let reset = table.text(reader, "reset", "an expression over `value`");
    let every = table.duration(reader, "every", POLL_MIN..=POLL_MAX);
    let hold_for = table.duration(reader, "hold_for", Duration::ZERO..=HOLD_MAX).unwrap_or_default();
    let hysteresis = table.duration(reader, "hysteresis", Duration::ZERO..=HOLD_MAX).unwrap_or_default();
    let verify = table.table(reader, "verify", &["copies", "agree"]).map(|table| {
        let copies = table.number(reader, "copies", 2..=COPIES_MAX.into()).unwrap_or(3);
        let agree = table.number(reader, "agree", 1..=COPIES_MAX.into()).unwrap_or(copies / 2 + 1);
        Verify { copies: copies as u8, agree: agree as u8 }
    });
    let every = every.unwrap_or(Duration::from_secs(60));
    Some(ConditionSpec { source: source?, when: when?, reset, every, hold_for, hysteresis, verify })
}

fn read_source(reader: &mut Reader, table: &Table<'_>) -> Option<Source> {
    const SOURCES: [&str; 4] = ["http", "object", "job", "metric"];
    let key = format!("{}source", table.path);
    let line = reader.lines.get(&key).or_else(|| reader.lines.get(table.path.trim_end_matches('.'))).copied();
    let line = line.unwrap_or(1);
    if !table.has("source") {
        reader.fault(line, format!("`{key}` is missing: one of {} is needed", SOURCES.join(", ")));
        return None;
    }
    let source = table.table(reader, "source", &SOURCES)?;
    let named: Vec<_> = SOURCES.into_iter().filter(|key| source.has(key)).collect();
    let [form] = named[..] else {
        let found = if named.is_empty() { "none of them".to_owned() } else { named.join(" and ") };
        reader.fault(line, format!("`{key}` has {found}, but one of {} is needed", SOURCES.join(", ")));
        return None;
    };
    let text = source.text(reader, form, "a string")?;
    let mut parsed = |needed: &str| {
        reader.fault(line, format!("`{key}.{form}` is {}, but {needed} is needed", quoted(&text)));
        None
    };
    match form {
        "http" => Some(Source::Http { url: text }),
        "metric" => Some(Source::Metric { name: text }),
        "object" => match text.parse::<ObjectId>() {
            Ok(object) => Some(Source::Object(object)),
            Err(_) => parsed("a whole object reference, as `quorate object put` prints it,"),
        },
        _ => match text.parse::<JobId>() {
            Ok(job) => Some(Source::Job(job)),
            Err(_) => parsed(JOB_NEEDED),
        },
    }
}

fn read_after(reader: &mut Reader, table: &Table<'_>) -> Option<Vec<AfterJob>> {
    let needed = "a list of jobs, such as [{ job = ID, on = \"success\" }]";
    let entries = table.list(reader, "after", needed)?;
    let jobs = entries.iter().map(|entry| read_upstream(reader, entry)).collect::<Vec<_>>();
    jobs.into_iter().collect()
}

fn read_upstream(reader: &mut Reader, entry: &Entry<'_>) -> Option<AfterJob> {
    let (text, on) = match entry.value {
        DeValue::String(_) => (entry.text(reader)?, After::Success),
        DeValue::Table(table) => {
            let table = reader.open(&format!("{}.", entry.key), table, &["job", "on"]);
            let words = [After::Success, After::Failure, After::Any].map(|on| (on.name(), on));
            let on = table.word(reader, "on", &words);
            let on = if table.has("on") { on? } else { After::Success };
            (table.require_text(reader, "job", JOB_NEEDED)?, on)
        }
        other => {
            entry.refuse(reader, shown(other), "a job id, or { job = ID, on = \"success\" }");
            return None;
        }
    };
    match text.parse() {
        Ok(job) => Some(AfterJob { job, on }),
        Err(_) => {
            entry.refuse(reader, quoted(&text), JOB_NEEDED);
            None
        }
    }
}

/// One of a few words, or `counted(N)`; the word and its number.
fn read_policy(
    reader: &mut Reader,
    table: &Table<'_>,
    key: &str,
    words: &[&str],
    counted: &str,
) -> Option<(String, u32)> {
    let names: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
    let needed = format!("{} or \"{counted}(5)\"", names.join(", "));
    let text = table.text(reader, key, &needed)?;
    if words.contains(&text.as_str()) {
        return Some((text, 0));
    }
    let number = text.strip_prefix(counted).and_then(|rest| rest.trim().strip_prefix('(')?.strip_suffix(')'));
    match number.and_then(|number| number.trim().parse().ok()) {
        Some(number) => Some((counted.to_owned(), number)),
        None => {
            table.refuse(reader, key, quoted(&text), needed);
            None
        }
    }
}
