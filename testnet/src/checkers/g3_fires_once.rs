//! G3: each due instant or event of a trigger has one record: one run, or one skip.
//!
//! What instants there are is worked out anew, from the specification; what was recorded comes from the quorum. Neither
//! side sees the other's clock.

use std::collections::BTreeSet;
use std::fmt::Debug;

use quorate_protocols::ids::Millis;
use quorate_protocols::trigger::audit::{self, Covered};
use quorate_protocols::trigger::record::{FireRow, SeenId};
use quorate_protocols::trigger::reopen::InstantRange;
use quorate_protocols::trigger::spec::TriggerSpec;

use super::{Guarantee, Violation};

/// Where a timed trigger's record begins and ends, as its quorum tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// From when its instants count.
    pub from: Millis,
    /// The first instant from which on there are no rows; none after the last of all.
    pub next: Option<Millis>,
    /// Instants before that without a row: their rows were withdrawn.
    pub open: Vec<InstantRange>,
    /// Instants whose rows were forgotten: those before the first row that is given.
    pub forgotten: u64,
}

/// The rows of a timed trigger, in their order.
pub fn check_rows<'r>(
    trigger: &TriggerSpec,
    reach: Reach,
    rows: impl IntoIterator<Item = &'r FireRow> + Clone,
) -> Vec<Violation> {
    let mut faults = check_covered(trigger, &reach, &audit::covered(rows.clone()));
    faults.extend(violations(audit::runs(rows)));
    faults
}

/// The same of rows that are known only by the instants that they stand for, as the HTTP API shows them.
pub fn check_covered(trigger: &TriggerSpec, reach: &Reach, covered: &[Covered]) -> Vec<Violation> {
    violations(audit::instants(trigger, reach.from, reach.next, &reach.open, reach.forgotten, covered))
}

/// All rows of an event trigger, and the events that it was to be fired by.
pub fn check_events(rows: &[FireRow], expected: &BTreeSet<SeenId>) -> Vec<Violation> {
    violations(audit::events(rows, expected))
}

fn violations(faults: Vec<String>) -> Vec<Violation> {
    faults.into_iter().map(|fault| Violation::new(Guarantee::G3, fault)).collect()
}

/// Where only keys are known. `records`: (job, instant or event id) of every run and every recorded skip, in any order.
/// `due`: those that must have one by now.
pub fn check<K: Ord + Debug>(records: &[K], due: &[K]) -> Vec<Violation> {
    let mut once = BTreeSet::new();
    let mut found: Vec<_> = records
        .iter()
        .filter(|fire| !once.insert(*fire))
        .map(|fire| Violation::new(Guarantee::G3, format!("{fire:?} is recorded twice")))
        .collect();
    let silent = due.iter().filter(|fire| !once.contains(fire));
    found.extend(silent.map(|fire| Violation::new(Guarantee::G3, format!("{fire:?} was due and has no record"))));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_protocols::ids::{JobId, QuorumId};
    use quorate_protocols::trigger::record::{Cause, Fired, SkipReason};
    use quorate_protocols::trigger::spec::{Bounds, When};
    use std::time::Duration;

    #[test]
    fn twice_and_never_are_both_wrong() {
        assert_eq!(check(&[("a", 1), ("a", 2), ("b", 1)], &[("a", 1)]), []);
        assert_eq!(check(&[("a", 1), ("a", 1)], &[("a", 1)]).len(), 1);
        assert_eq!(check(&[("a", 1)], &[("a", 1), ("a", 2)]).len(), 1);
    }

    fn minutely() -> TriggerSpec {
        TriggerSpec::new(When::Every { period: Duration::from_secs(60), bounds: Bounds::NONE })
    }

    fn run(number: u64, minute: u64) -> FireRow {
        let run = JobId { quorum: QuorumId([1; 16]), local: [number as u8; 16] };
        let cause = Cause::Instant(Millis(60_000 * minute));
        FireRow { number, cause, at: Millis(60_000 * minute), what: Fired::Run { run, end: None } }
    }

    fn skip(number: u64, first: u64, last: u64) -> FireRow {
        let last = Millis(60_000 * last);
        let count = last.0 / 60_000 - first + 1;
        let what = Fired::Skipped { last, count, reason: SkipReason::Missed };
        FireRow { what, ..run(number, first) }
    }

    fn faults(rows: &[FireRow], next: u64, forgotten: u64) -> usize {
        let reach = Reach { from: Millis(0), next: Some(Millis(60_000 * next)), open: Vec::new(), forgotten };
        check_rows(&minutely(), reach, rows).len()
    }

    #[test]
    fn every_instant_from_the_first_to_the_next_has_one_row() {
        let sound = [run(1, 1), skip(2, 2, 9), run(3, 10)];
        assert_eq!(faults(&sound, 11, 0), 0);
        assert_eq!(faults(&sound[1..], 11, 1), 0, "the first was forgotten");
        assert!(faults(&sound, 12, 0) > 0, "the last has no row");
        assert!(faults(&sound[1..], 11, 0) > 0, "the first has no row");
        assert!(faults(&[run(1, 1), run(2, 3)], 4, 0) > 0, "one between has no row");
        assert!(faults(&[run(1, 1), run(2, 1)], 2, 0) > 0, "one has two");
        assert!(faults(&[run(1, 1), skip(2, 1, 3)], 4, 0) > 0, "one ran and was skipped");
        assert!(faults(&[run(1, 1), FireRow { number: 2, ..skip(2, 2, 3) }, run(1, 4)], 5, 0) > 0, "two rows, one run");
    }

    #[test]
    fn every_event_has_one_row() {
        let [a, b] = [SeenId([1; 16]), SeenId([2; 16])];
        let row = |number, id| FireRow { cause: Cause::Event(id), ..run(number, 1) };
        let expected = BTreeSet::from([a, b]);
        assert_eq!(check_events(&[row(1, a), row(2, b)], &expected), []);
        assert!(!check_events(&[row(1, a)], &expected).is_empty());
        assert!(!check_events(&[row(1, a), row(2, b), row(3, a)], &expected).is_empty());
        assert!(!check_events(&[row(1, a), row(2, b)], &BTreeSet::from([a])).is_empty());
    }
}
