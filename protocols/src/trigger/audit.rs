//! The audit of a record of fires against its specification: each instant once, each event once.
//!
//! It sees the specification and the rows alone, and works out for itself which instants there are. So whatever went
//! wrong between a clock and the record (an instant proposed twice, a primary that began anew, a leap too far) shows
//! here.

use std::collections::{BTreeMap, BTreeSet};

use super::instants::Schedule;
use super::record::{Cause, FireRow, Fired, SeenId};
use super::reopen::InstantRange;
use super::spec::TriggerSpec;
use crate::ids::{JobId, Millis};

/// Faults that are told; more of the same say nothing new.
const FAULTS_MAX: usize = 20;

/// Instants that one row stands for: one that ran or waits, or several that were skipped in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Covered {
    pub first: Millis,
    pub last: Millis,
    pub count: u64,
}

/// The instants that rows stand for, in their order. Manual fires are no instants, and rows that were withdrawn stand
/// for none.
pub fn covered<'r>(rows: impl IntoIterator<Item = &'r FireRow>) -> Vec<Covered> {
    let cover = |row: &FireRow| match (row.cause, row.what) {
        (_, Fired::Withdrawn { .. }) => None,
        (Cause::Instant(first), Fired::Skipped { last, count, .. }) => Some(Covered { first, last, count }),
        (Cause::Instant(first), _) => Some(Covered { first, last: first, count: 1 }),
        _ => None,
    };
    let mut covered: Vec<_> = rows.into_iter().filter_map(cover).collect();
    covered.sort_by_key(|covered| covered.first);
    covered
}

/// What is wrong with rows that reach from the first instant after `from` to `next` (exclusive; none: to the last of
/// all).
///
/// Instants in `open` have no row yet. When the first rows were forgotten, give `forgotten`: how many instants they
/// stood for.
pub fn instants(
    spec: &TriggerSpec,
    from: Millis,
    next: Option<Millis>,
    open: &[InstantRange],
    forgotten: u64,
    covered: &[Covered],
) -> Vec<String> {
    let schedule = match Schedule::compile(spec) {
        Ok(Some(schedule)) => schedule,
        Ok(None) => return vec!["the trigger has no schedule".to_owned()],
        Err((key, problem)) => return vec![format!("{key}: {problem}")],
    };
    let mut left = spec.when.bounds().count.unwrap_or(u64::MAX);
    let mut take = |cursor: &mut Option<Millis>| {
        while let Some(range) = cursor.and_then(|cursor| open.iter().find(|range| range.contains(cursor))) {
            if spec.when.bounds().count.is_none() {
                *cursor = schedule.next(from, range.last);
                continue;
            }
            // They are to be recorded yet, and counted then.
            while left > 0 && cursor.is_some_and(|cursor| range.contains(cursor)) {
                (left, *cursor) = (left - 1, cursor.and_then(|cursor| schedule.next(from, cursor)));
            }
            if left == 0 {
                break;
            }
        }
        let taken = cursor.filter(|_| left > 0)?;
        left -= 1;
        *cursor = schedule.next(from, taken);
        Some(taken)
    };
    let mut cursor = schedule.first(from);
    for _ in 0..forgotten {
        take(&mut cursor);
    }
    let mut faults = Vec::new();
    for row in covered {
        let mut seen = 0;
        let mut last = None;
        while seen < row.count {
            let Some(instant) = take(&mut cursor) else { break };
            if seen == 0 && instant != row.first {
                let what =
                    if instant > row.first { "is there twice, or is no instant" } else { "has none before it for" };
                faults.push(format!("the row of {:?} {what} {instant:?}", row.first));
                if instant > row.first || faults.len() > FAULTS_MAX {
                    return faults;
                }
                // Go on behind the gap, to tell what else is wrong.
                while cursor.is_some_and(|cursor| cursor < row.first) {
                    take(&mut cursor);
                }
                continue;
            }
            (seen, last) = (seen + 1, Some(instant));
        }
        if seen != row.count || last != Some(row.last) {
            faults.push(format!("{row:?} stands for {seen} instants, up to {last:?}"));
            return faults;
        }
    }
    let expected = take(&mut cursor);
    if expected != next {
        faults.push(format!("the next instant without a row is {expected:?}, and the record goes on with {next:?}"));
    }
    faults
}

/// What is wrong with rows of an event trigger, all of them, when these are the events that it was to be fired by.
pub fn events(rows: &[FireRow], expected: &BTreeSet<SeenId>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut once = BTreeMap::new();
    let mut recorded = 0;
    for row in rows {
        let Cause::Event(id) = row.cause else { continue };
        if !expected.contains(&id) {
            faults.push(format!("row {}: {id:?} was never emitted", row.number));
        }
        if let Some(before) = once.insert(id, row) {
            let later = row.at.since(before.at);
            faults.push(format!("row {}: {id:?} has row {} already, {later:?} older", row.number, before.number));
        }
        recorded += match row.what {
            Fired::Skipped { count, .. } => count,
            _ => 1,
        };
    }
    if recorded != expected.len() as u64 {
        faults.push(format!("{} events are recorded as {recorded}", expected.len()));
    }
    faults
}

/// Runs that two rows claim.
pub fn runs<'r>(rows: impl IntoIterator<Item = &'r FireRow>) -> Vec<String> {
    let mut once = BTreeSet::<JobId>::new();
    let run = |row: &FireRow| match row.what {
        Fired::Run { run, .. } => Some((row.number, run)),
        _ => None,
    };
    let twice = rows.into_iter().filter_map(run).filter(|(_, run)| !once.insert(*run));
    twice.map(|(number, run)| format!("row {number} claims run {run}, which another row has")).collect()
}
