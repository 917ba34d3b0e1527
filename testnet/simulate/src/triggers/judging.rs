//! The end of a run of triggers: all that was recorded is read, and judged.

use super::*;

impl Scene {
    /// Suspends every trigger, and reads and checks all that is recorded of them.
    pub(super) async fn judge(&mut self) -> Result<(), String> {
        for at in 0..self.watched.len() {
            // Each has its own: one that does not come to its end says nothing of the others.
            let (job, end) = (self.watched[at].job, Instant::now() + PATIENCE);
            if !self.watched[at].spec.is_timed() {
                self.judge_events(at, end).await;
                continue;
            }
            let record = loop {
                // One that has nothing left to fire has ended.
                let told = self.control(1, job, Control::Suspend).await;
                match self.ask_quorum(job.quorum, Query::Job { job }).await {
                    Some(QueryAnswer::Job(record)) if told || record.state.is_final() => break Some(record),
                    // Thousands of jobs have ended after this one.
                    Some(QueryAnswer::Unknown) if matches!(self.watched[at].spec.when, When::At(_)) => break None,
                    _ if Instant::now() >= end => return Err(format!("trigger {job:?} is not to be suspended")),
                    _ => tokio::time::sleep(Duration::from_millis(500)).await,
                }
            };
            if record.is_none() && self.has_been_ahead {
                // It ended, and the clocks of the quorum ran past the time for which what has ended is kept.
                continue;
            }
            let run = record.as_ref().map(|record| record.trigger().map(|(_, run)| run.clone()));
            let Some(run) = run.unwrap_or_else(|| Some(TriggerRun::default())) else {
                let what = format!("{job:?} has no trigger any more");
                self.report.violations.push(Violation::new(Guarantee::G3, what));
                continue;
            };
            loop {
                self.read_rows().await;
                let rows = run.rows;
                let watched = &self.watched[at];
                // A person's fires may still add rows; instants may not.
                if watched.is_settled() && watched.newest() >= rows {
                    break;
                }
                if Instant::now() >= end {
                    return Err(format!("runs of trigger {job:?} do not come to their end"));
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            let found = self.check(at, &run);
            self.report.violations.extend(found);
        }
        Ok(())
    }

    /// Waits until what was acknowledged is recorded and has run, and checks that all of it is recorded once.
    async fn judge_events(&mut self, at: usize, end: Instant) {
        self.events.collect_answers(end).await;
        let (recorded, is_told) = loop {
            self.read_rows().await;
            let events = self.watched[at].rows().filter_map(|row| match row.cause {
                Cause::Event(id) => Some(id),
                _ => None,
            });
            let recorded: BTreeSet<SeenId> = events.collect();
            let untold = self.events.acknowledged().filter(|id| !recorded.contains(id)).count() as u64;
            let is_told = untold <= self.missing_rows(at).await;
            if (is_told && self.watched[at].is_settled()) || Instant::now() >= end {
                break (recorded, is_told);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        let unknown = recorded.iter().copied().filter(|id| self.events.was_emitted(*id));
        // A row that nobody could read may be that of any event.
        let is_known = |id: &SeenId| !is_told || recorded.contains(id);
        let expected: BTreeSet<SeenId> = self.events.acknowledged().filter(is_known).chain(unknown).collect();
        let watched = &self.watched[at];
        let rows: Vec<FireRow> = watched.rows().cloned().collect();
        let mut found = check_events(&rows, &expected);
        let mut once = BTreeSet::new();
        let id = |row: &FireRow| if let Cause::Event(id) = row.cause { Some(id) } else { None };
        let twice: Vec<SeenId> = rows.iter().filter_map(id).filter(|id| !once.insert(*id)).collect();
        if let Some(first) = found.first_mut() {
            let told = twice.iter().chain(expected.iter().filter(|id| !recorded.contains(id)));
            first.what.extend(told.map(|id| format!("; {id:?} was emitted by {}", self.events.story(*id))));
        }
        self.report.violations.extend(found);
        if !watched.is_settled() {
            let what = format!("runs of trigger {:?} do not come to their end", watched.job);
            self.report.violations.push(Violation::new(Guarantee::G4, what));
        }
        self.report.runs += rows.len() as u64;
        (self.report.events, self.report.again) = (self.events.count() as u64, self.events.again);
        self.report.acknowledged = self.events.acknowledged().count() as u64;
    }

    /// Rows that the quorum has made of a trigger and forgotten before they could be read.
    async fn missing_rows(&self, at: usize) -> u64 {
        let job = self.watched[at].job;
        match self.ask_quorum(job.quorum, Query::Job { job }).await {
            Some(QueryAnswer::Job(record)) => {
                let recorded = record.trigger().map_or(0, |(_, run)| run.rows);
                self.watched[at].missing(recorded)
            }
            _ => 0,
        }
    }

    fn check(&mut self, at: usize, run: &TriggerRun) -> Vec<Violation> {
        let watched = &self.watched[at];
        for row in watched.rows() {
            match row.what {
                Fired::Skipped { count, .. } => self.report.skipped += count,
                Fired::Withdrawn { .. } => (),
                _ => self.report.runs += 1,
            }
        }
        self.report.instants += run.clock.done;
        watched.check(run)
    }
}
