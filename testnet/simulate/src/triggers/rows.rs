//! The rows of one trigger as they were read while it ran, and which instants they stand for.
//!
//! A quorum forgets rows: settled ones that are too many, or too old by its clocks, which may be months ahead. So some
//! were never read, and of some nobody could read what became of them:
//! - What was open when it was forgotten has come to an end that is never known.
//! - What was skipped may have been withdrawn since, because the clocks were set back. It was, if its instants are open
//!   or have a newer row, for nothing else gives them one.
//! - An instant without a row may have had one that nobody read: as many rows in a row as are missing, no more.

use super::*;
use quorate_protocols::trigger::Schedule;
use quorate_protocols::trigger::audit::Covered;
use quorate_protocols::trigger::record::SkipReason;

/// A skip whose instants lie this far back at most may be withdrawn yet: clocks are wrong by half of it, and are put
/// right some time before the row is read.
const WITHDRAWN_WITHIN_MS: u64 = 2 * WRONG_MS_MAX as u64;

/// One trigger, and the rows of it that were read.
pub(super) struct Watched {
    pub job: JobId,
    pub spec: TriggerSpec,
    rows: BTreeMap<u64, FireRow>,
    /// Those of them that the quorum did not have any more when they were to be read again.
    forgotten: BTreeSet<u64>,
}

impl Watched {
    pub fn new(job: JobId, spec: TriggerSpec) -> Self {
        Self { job, spec, rows: BTreeMap::new(), forgotten: BTreeSet::new() }
    }

    pub fn rows(&self) -> impl Iterator<Item = &FireRow> {
        self.rows.values()
    }

    /// The number of the newest row that was read.
    pub fn newest(&self) -> u64 {
        self.rows.keys().next_back().copied().unwrap_or(0)
    }

    /// Takes a page of what the quorum has from row `from` on.
    pub fn take_page(&mut self, from: u64, page: Vec<FireRow>) {
        let Some(last) = page.last().map(|row| row.number) else { return };
        let there: BTreeSet<u64> = page.iter().map(|row| row.number).collect();
        let gone = self.rows.range(from..=last).map(|(number, _)| *number).filter(|number| !there.contains(number));
        self.forgotten.extend(gone);
        self.rows.extend(page.into_iter().map(|row| (row.number, row)));
    }

    fn remembered(&self) -> impl Iterator<Item = &FireRow> {
        self.rows.values().filter(|row| !self.forgotten.contains(&row.number))
    }

    /// The first row that may have changed since it was read: some are withdrawn when clocks are put right.
    pub fn unsettled(&self, now: Millis) -> u64 {
        let may_change = |row: &&FireRow| match row.what {
            Fired::Skipped { last, .. } => last.0 > now.0.saturating_sub(WITHDRAWN_WITHIN_MS),
            _ => is_open(row),
        };
        // What is skipped next may be counted in the last row.
        self.remembered().find(may_change).map_or(self.newest(), |row| row.number)
    }

    /// What was still open when it was forgotten is never known.
    pub fn is_settled(&self) -> bool {
        !self.remembered().any(is_open)
    }

    /// Rows of `recorded` that were forgotten before they could be read.
    pub fn missing(&self, recorded: u64) -> u64 {
        recorded.saturating_sub(self.rows.len() as u64)
    }

    /// What is wrong with the rows of a timed trigger that its quorum says is there.
    pub fn check(&self, run: &TriggerRun) -> Vec<Violation> {
        let from = run.clock.counts_from(Millis(0));
        let mut reach = Reach { from, next: run.clock.end(), open: run.clock.open.clone(), forgotten: 0 };
        let standing = self.standing(&reach.open);
        let gaps = self.gaps(&reach, &covered(standing.iter().copied()));
        if gaps.len() as u64 <= self.missing(run.rows.max(self.newest())) {
            reach.open.extend(gaps);
        }
        check_rows(&self.spec, reach, standing)
    }

    /// The rows but for those that were withdrawn after they were forgotten.
    fn standing(&self, open: &[InstantRange]) -> Vec<&FireRow> {
        let is_withdrawn = |row: &FireRow| {
            let Some(range) = leap(row).filter(|_| self.forgotten.contains(&row.number)) else { return false };
            let newer = self.rows.range(row.number + 1..).filter_map(|(_, newer)| instants(newer));
            newer.chain(open.iter().copied()).any(|other| other.first <= range.last && range.first <= other.last)
        };
        self.rows.values().filter(|row| !is_withdrawn(row)).collect()
    }

    /// Instants in a row that have none, and are not open.
    fn gaps(&self, reach: &Reach, covered: &[Covered]) -> Vec<InstantRange> {
        let Ok(Some(schedule)) = Schedule::compile(&self.spec) else { return Vec::new() };
        let told = covered.iter().map(|covered| InstantRange { first: covered.first, last: covered.last });
        let mut told: Vec<InstantRange> = told.chain(reach.open.iter().copied()).collect();
        told.sort_unstable();
        let mut gaps = Vec::new();
        let mut cursor = schedule.first(reach.from);
        for range in told {
            if let Some(first) = cursor.filter(|first| *first < range.first) {
                gaps.push(InstantRange { first, last: Millis(range.first.0 - 1) });
            }
            if cursor.is_some_and(|cursor| cursor <= range.last) {
                cursor = schedule.next(reach.from, range.last);
            }
        }
        let end = reach.next.unwrap_or(Millis(u64::MAX));
        if let Some(first) = cursor.filter(|first| *first < end) {
            gaps.push(InstantRange { first, last: Millis(end.0 - 1) });
        }
        gaps
    }
}

fn is_open(row: &FireRow) -> bool {
    matches!(row.what, Fired::Waiting | Fired::Run { end: None, .. })
}

/// The instants of a row, withdrawn or not.
fn instants(row: &FireRow) -> Option<InstantRange> {
    let Cause::Instant(first) = row.cause else { return None };
    match row.what {
        Fired::Skipped { last, .. } | Fired::Withdrawn { last, .. } => Some(InstantRange { first, last }),
        _ => Some(InstantRange { first, last: first }),
    }
}

/// The instants of a row that are open again once they turn out to lie ahead.
fn leap(row: &FireRow) -> Option<InstantRange> {
    let Fired::Skipped { reason: SkipReason::Missed | SkipReason::Suspended | SkipReason::Deadline, .. } = row.what
    else {
        return None;
    };
    instants(row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_protocols::run_state::RunState;
    use quorate_protocols::trigger::record::{Clock, Due};

    const JOB: JobId = JobId { quorum: QuorumId([1; 16]), local: [1; 16] };

    fn ten(n: u64) -> Millis {
        Millis(10_000 * n)
    }

    /// A trigger of every ten seconds.
    fn watched() -> Watched {
        let when = When::Every { period: Duration::from_secs(10), bounds: Bounds::NONE };
        Watched::new(JOB, TriggerSpec::new(when))
    }

    fn run(number: u64, at: u64, end: Option<RunState>) -> FireRow {
        let run = JobId { local: [number as u8; 16], ..JOB };
        FireRow { number, cause: Cause::Instant(ten(at)), at: ten(at), what: Fired::Run { run, end } }
    }

    fn ran(number: u64, at: u64) -> FireRow {
        run(number, at, Some(RunState::Succeeded))
    }

    fn skipped(number: u64, first: u64, last: u64) -> FireRow {
        let what = Fired::Skipped { last: ten(last), count: last + 1 - first, reason: SkipReason::Missed };
        FireRow { what, ..ran(number, first) }
    }

    fn record(rows: u64, next: u64, open: &[(u64, u64)]) -> TriggerRun {
        let open = open.iter().map(|(first, last)| InstantRange { first: ten(*first), last: ten(*last) });
        let due = |at| Some(Due { instant: ten(at), due: ten(at) });
        let (open, head) = (open.collect::<Vec<_>>(), ten(next));
        let next = open.first().map_or(due(next), |range| Some(Due { instant: range.first, due: range.first }));
        let clock = Clock { from: Some(Millis(0)), next, open, head: Some(head), ..Clock::default() };
        TriggerRun { clock, rows, ..TriggerRun::default() }
    }

    /// Goal: a skip that was read, then forgotten, then withdrawn is no second row of what is open or recorded anew.
    #[test]
    fn a_skip_that_was_withdrawn_after_it_was_forgotten_stands_for_nothing() {
        let mut watched = watched();
        watched.take_page(1, vec![ran(1, 1), skipped(2, 2, 9), ran(3, 10)]);
        assert_eq!(watched.check(&record(3, 11, &[])), []);
        let of_newer = |watched: &mut Watched| watched.take_page(2, vec![ran(3, 10), skipped(4, 2, 4), ran(5, 5)]);
        // As long as the quorum has the row, it stands for its instants.
        watched.take_page(1, vec![ran(1, 1), skipped(2, 2, 9), ran(3, 10), skipped(4, 2, 4), ran(5, 5)]);
        assert_ne!(watched.check(&record(5, 11, &[(6, 9)])), []);
        of_newer(&mut watched);
        assert_eq!(watched.check(&record(5, 11, &[(6, 9)])), []);
        assert_ne!(watched.check(&record(5, 11, &[(7, 9)])), [], "6 has no row and is not open");
        assert_ne!(watched.check(&record(5, 11, &[(5, 9)])), [], "5 has one and is open");
    }

    #[test]
    fn a_skip_that_was_forgotten_and_not_withdrawn_stands() {
        let mut watched = watched();
        watched.take_page(1, vec![ran(1, 1), skipped(2, 2, 9), ran(3, 10)]);
        watched.take_page(2, vec![ran(3, 10), ran(4, 11)]);
        assert_eq!(watched.check(&record(4, 12, &[])), []);
    }

    /// Goal: one row that nobody read excuses instants in a row, wherever they are, and no more.
    #[test]
    fn rows_that_were_never_read_may_stand_for_as_many_gaps() {
        let mut watched = watched();
        watched.take_page(1, vec![ran(1, 1), ran(3, 9), skipped(4, 6, 8)]);
        assert_eq!(watched.check(&record(4, 10, &[])), [], "2 to 5, of which row 2 was");
        assert_eq!(watched.check(&record(4, 11, &[(2, 5)])), [], "the last");
        assert_ne!(watched.check(&record(4, 10, &[(3, 3)])), [], "2, and 4 to 5: two rows");
        assert_ne!(watched.check(&record(4, 11, &[])), [], "2 to 5, and 10");
        watched.take_page(4, vec![skipped(4, 6, 8), ran(5, 8)]);
        assert_ne!(watched.check(&record(5, 10, &[])), [], "8 has two");
    }

    #[test]
    fn what_was_forgotten_while_it_was_open_is_waited_for_no_longer() {
        let mut watched = watched();
        watched.take_page(1, vec![run(1, 1, None), run(2, 2, None), ran(3, 3)]);
        assert_eq!((watched.is_settled(), watched.unsettled(ten(3))), (false, 1));
        watched.take_page(1, vec![run(1, 1, None), ran(3, 3)]);
        assert!(!watched.is_settled());
        watched.take_page(1, vec![ran(3, 3)]);
        assert_eq!((watched.is_settled(), watched.unsettled(ten(3))), (true, 3));
        assert_eq!((watched.newest(), watched.missing(4)), (3, 1));
    }

    #[test]
    fn a_skip_is_read_again_as_long_as_it_may_be_withdrawn() {
        let mut watched = watched();
        watched.take_page(1, vec![ran(1, 1), skipped(2, 2, 9), ran(3, 10)]);
        assert_eq!(watched.unsettled(ten(400)), 2);
        assert_eq!(watched.unsettled(ten(1_000)), 3);
    }
}
