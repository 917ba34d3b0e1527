//! Runs that store: holders, uploader, progress, failure, and every end but the commit.

use super::{hash_bytes, unused};
use crate::ids::{Attempt, JobId, PeerId, PieceIndex, SegmentIndex};
use crate::job::limits::{HOLDERS_FAILED_MAX, RELEASING_MAX, SPARES_MAX, STORE_EMPTY_MAX, STORE_IDLE_MAX};
use crate::job::record::{JobRecord, RunState};
use crate::job::spec::StoreSpec;
use crate::job::store::{ColumnRecord, ColumnState, Grant, Releasing, StoreRun};
use crate::job::transition::RunCommand;
use crate::object::layout::{Layout, Profile};
use crate::quorum::apply::{Applied, invalid, releasing, short};
use crate::quorum::command::{Attached, CommandReply, Rejection, SegmentProgress};
use crate::quorum::limits::HASH_BYTES_MAX;
use crate::quorum::state::{Event, QuorumState};

/// Segments that the run may have: what its size says, or what its profile allows.
fn segments_max(store: &StoreSpec) -> usize {
    match store.size {
        Some(size) => Layout::new(size, store.profile).segments() as usize,
        None => store.profile.segments_max(),
    }
}

impl QuorumState {
    pub(in crate::quorum) fn add_holders(
        &mut self,
        job: JobId,
        grants: &[Grant],
        exhausted: bool,
        events: &mut Vec<Event>,
    ) -> Applied {
        let now = self.wall();
        let record = self.jobs.run_for(job, RunCommand::AddHolders)?;
        let was_exhausted = std::mem::replace(&mut record.stored_mut()?.exhausted, exhausted);
        if exhausted && !was_exhausted {
            events.push(Event::HoldersExhausted { job });
        }
        let mut known: std::collections::BTreeSet<PeerId> = record.stored()?.known_holders().collect();
        let mut assigned = 0;
        for grant in grants {
            let run = record.stored_mut()?;
            let here = |other: &Grant| other == grant;
            let repeat = run.columns.iter().filter_map(|column| column.grant.as_ref()).any(here)
                || run.spares.iter().any(here)
                || run.failed.iter().any(|(failed, _)| here(failed))
                || run.releasing.iter().any(|releasing| here(&releasing.grant));
            if repeat {
                continue;
            }
            // One column per peer, and never again one that failed. Its promise is given back rather than forgotten.
            if !known.insert(grant.holder.peer) {
                if run.releasing.len() < RELEASING_MAX {
                    run.releasing.push(unused(*grant));
                }
                continue;
            }
            let open = run.columns.iter_mut().enumerate().find(|(_, column)| column.grant.is_none());
            if let Some((index, column)) = open {
                column.assign(*grant);
                assigned += 1;
                let column = PieceIndex(index as u8);
                events.push(Event::ColumnReassigned { job, column, from: None, to: Some(*grant) });
            } else if run.spares.len() < SPARES_MAX {
                run.spares.push(*grant);
            } else if run.releasing.len() < RELEASING_MAX {
                run.releasing.push(unused(*grant));
            }
        }
        let held = record.stored()?.columns.len() - record.stored()?.open_columns();
        let ready = held >= record.profile().map_or(held, Profile::columns_min);
        if record.state == RunState::Pending && ready {
            let what = format!("{held} columns have a holder, {} peers are spare", record.stored()?.spares.len());
            record.move_to(now, RunState::Running, what);
            events.push(Event::JobChanged { job, state: RunState::Running });
        } else if assigned > 0 {
            record.move_to(now, record.state, format!("{assigned} more columns have a holder"));
        }
        let reply = record.column_summary();
        self.reindex_job(job);
        reply
    }

    pub(in crate::quorum) fn attach(&mut self, by: PeerId, job: JobId) -> Applied {
        let now = self.wall();
        let record = self.jobs.run_for(job, RunCommand::Attach)?;
        let run = record.stored_mut()?;
        run.uploader = by;
        run.upload_attempt.0 = run.upload_attempt.0.saturating_add(1);
        record.stored_mut()?.record_upload(now);
        record.move_to(now, record.state, format!("{by} feeds the run now"));
        let run = record.stored()?;
        Ok(CommandReply::Attached(Box::new(Attached {
            upload_attempt: run.upload_attempt,
            spec: record.spec.clone(),
            columns: run.columns.clone(),
            segments: run.segments.clone(),
        })))
    }

    pub(in crate::quorum) fn progress(
        &mut self,
        by: PeerId,
        job: JobId,
        upload_attempt: Attempt,
        segments: &[SegmentProgress],
        events: &mut Vec<Event>,
    ) -> Applied {
        let now = self.wall();
        let room = HASH_BYTES_MAX.saturating_sub(self.jobs.hash_bytes() + self.objects.manifest_bytes());
        let record = self.jobs.run_for(job, RunCommand::Progress)?;
        record.check_uploader((by, upload_attempt))?;
        let limit = record.store().map_or(0, |(spec, _)| segments_max(spec));
        let columns = record.stored()?.columns.len();
        let mut seen = std::collections::BTreeMap::new();
        for progress in segments {
            check_progress(record.stored()?, progress, columns, limit)?;
            if seen.insert(progress.segment, &progress.pieces).is_some_and(|pieces| *pieces != progress.pieces) {
                return Err(Rejection::DifferentContent { segment: progress.segment });
            }
        }
        // Counted before it is known which hashes are new: a little early is better than a little late.
        let most = segments.len() * columns * crate::ids::PieceHash::LEN;
        if most > room {
            return Err(Rejection::Full { what: "bytes of piece hashes".to_owned(), limit: HASH_BYTES_MAX });
        }
        let run = record.stored_mut()?;
        let before = hash_bytes(&run.segments);
        for progress in segments {
            let index = progress.segment.0 as usize;
            if run.segments.len() <= index {
                run.segments.resize(index + 1, Vec::new());
                run.columns.iter_mut().for_each(|column| column.stored.resize(index + 1, false));
            }
            if run.segments[index].is_empty() {
                run.segments[index].clone_from(&progress.pieces);
            }
            for (column, attempt) in &progress.stored {
                let column = &mut run.columns[column.0 as usize];
                // News of a holder that was replaced meanwhile.
                if column.attempt == *attempt && column.grant.is_some() {
                    column.stored[index] = true;
                }
            }
        }
        let grown = hash_bytes(&run.segments) - before;
        run.record_upload(now);
        let complete = |segment: &usize| run.columns.iter().all(|column| column.stored[*segment]);
        let complete = (0..run.segments.len()).filter(complete).count() as u32;
        record.changed_at = now;
        let reply = record.column_summary()?;
        self.jobs.index.hash_bytes += grown;
        events.push(Event::JobProgressed { job, segments: complete });
        Ok(reply)
    }

    pub(in crate::quorum) fn column_failed(
        &mut self,
        worker: (PeerId, Attempt),
        job: JobId,
        column: PieceIndex,
        attempt: Attempt,
        reason: &str,
        events: &mut Vec<Event>,
    ) -> Applied {
        let now = self.wall();
        let record = self.jobs.run_for(job, RunCommand::ColumnFailed)?;
        record.check_uploader(worker)?;
        let run = record.stored_mut()?;
        let target = run.columns.get_mut(column.0 as usize).ok_or_else(|| invalid(format!("no column {column}")))?;
        if attempt > target.attempt {
            return Err(Rejection::StaleAttempt { given: attempt, current: target.attempt });
        }
        let Some(lost) = target.grant.filter(|_| attempt == target.attempt) else {
            // A repeat, or the column has moved on: nothing to do but to say how things stand.
            return record.column_summary();
        };
        run.releasing.push(Releasing { column, grant: lost, attempt });
        run.failed.push((lost, short(reason)));
        let next = if run.spares.is_empty() { None } else { Some(run.spares.remove(0)) };
        match next {
            Some(spare) => target.assign(spare),
            None => target.vacate(),
        }
        if next.is_some() {
            target.stored.resize(run.segments.len(), false);
        }
        events.push(Event::ColumnReassigned { job, column, from: Some(lost), to: next });
        record.stored_mut()?.record_upload(now);
        let lost_peer = lost.holder.peer;
        let what = match next {
            Some(spare) => format!("column {column}: {} takes over from {lost_peer}: {reason}", spare.holder.peer),
            None => format!("column {column} lost {lost_peer} and no spare is left: {reason}"),
        };
        record.reason = Some(short(&format!("column {column} lost {lost_peer}: {reason}")));
        record.move_to(now, record.state, what);
        if record.stored()?.failed.len() >= HOLDERS_FAILED_MAX {
            let reason = format!("{HOLDERS_FAILED_MAX} holders failed, the last because: {reason}");
            self.end_run(
                job,
                RunState::Failed,
                Some(short(&reason)),
                "failed: too many holders failed".to_owned(),
                events,
            );
        }
        self.reindex_job(job);
        self.jobs.get(&job).map_or(Ok(CommandReply::Done), JobRecord::column_summary)
    }

    pub(in crate::quorum) fn fail_run(
        &mut self,
        worker: Option<(PeerId, Attempt)>,
        job: JobId,
        reason: &str,
        events: &mut Vec<Event>,
    ) -> Applied {
        let record = self.jobs.run_for(job, RunCommand::FailRun)?;
        if record.state == RunState::Failed {
            return Ok(CommandReply::Done);
        }
        if let Some(worker) = worker {
            record.check_uploader(worker)?;
        }
        self.end_run(job, RunState::Failed, Some(short(reason)), format!("failed: {reason}"), events);
        Ok(CommandReply::Done)
    }

    pub(in crate::quorum) fn cancel(&mut self, by: PeerId, job: JobId, events: &mut Vec<Event>) -> Applied {
        let record = self.jobs.run_for(job, RunCommand::Cancel)?;
        if record.compute().is_some() {
            return self.cancel_compute(by, job, events);
        }
        if record.trigger().is_some() {
            return self.cancel_trigger(by, job, events);
        }
        if record.state != RunState::Cancelled {
            self.end_run(job, RunState::Cancelled, Some(format!("by {by}")), format!("cancelled by {by}"), events);
        }
        Ok(CommandReply::Done)
    }

    pub(in crate::quorum) fn abandon(&mut self, job: JobId, upload_seq: u64, events: &mut Vec<Event>) -> Applied {
        let record = self.jobs.run_for(job, RunCommand::Abandon)?;
        if record.state == RunState::Failed {
            return Ok(CommandReply::Done);
        }
        if record.stored()?.upload_seq != upload_seq {
            return Err(invalid(format!("job {job} was fed again since it looked idle")));
        }
        let reason = match record.stored()?.segments.is_empty() {
            true => format!("its uploader was gone for {} s and nothing was stored", STORE_EMPTY_MAX.as_secs()),
            false => format!("no upload progress for {} minutes", STORE_IDLE_MAX.as_secs() / 60),
        };
        self.end_run(job, RunState::Failed, Some(reason.clone()), format!("abandoned: {reason}"), events);
        Ok(CommandReply::Done)
    }

    pub(in crate::quorum) fn released(&mut self, job: JobId, released: Releasing) -> Applied {
        let record = self.jobs.run_for(job, RunCommand::Released)?;
        let run = record.stored_mut()?;
        run.releasing.retain(|releasing| *releasing != released);
        // The last holder of a removed object has let go: the object is gone.
        let gone = run.manifest.filter(|_| run.releasing.is_empty());
        if let Some(manifest) = gone {
            self.forget_removed(job, manifest);
        }
        self.reindex_job(job);
        Ok(CommandReply::Done)
    }

    /// Ends a run that stores: its holders are to let go, its hashes are forgotten.
    pub(in crate::quorum) fn end_run(
        &mut self,
        job: JobId,
        state: RunState,
        reason: Option<String>,
        what: String,
        events: &mut Vec<Event>,
    ) {
        let now = self.wall();
        let Some(record) = self.jobs.get_mut(&job) else { return };
        let Some((_, run)) = record.store_mut() else { return };
        for (index, column) in run.columns.iter_mut().enumerate() {
            if let Some(grant) = column.grant.take() {
                run.releasing.push(releasing(index, grant, column.attempt));
            }
            column.state = ColumnState::Open;
        }
        let dropped = hash_bytes(&run.segments);
        run.segments = Vec::new();
        run.columns.iter_mut().for_each(|column| column.stored = Vec::new());
        let spares = std::mem::take(&mut run.spares);
        run.releasing.extend(spares.into_iter().map(unused));
        record.reason = reason;
        record.finished_at = Some(now);
        record.move_to(now, state, what);
        events.push(Event::JobChanged { job, state });
        self.jobs.index.hash_bytes -= dropped;
        self.job_finished(job);
        self.reindex_job(job);
    }
}

impl JobRecord {
    pub(in crate::quorum) fn check_uploader(&self, (by, attempt): (PeerId, Attempt)) -> Result<(), Rejection> {
        let run = self.stored()?;
        if by != run.uploader {
            return Err(Rejection::NotWorker { job: self.job, by });
        }
        if attempt != run.upload_attempt {
            return Err(Rejection::StaleAttempt { given: attempt, current: run.upload_attempt });
        }
        Ok(())
    }

    /// The columns as replies carry them: without their stored bits.
    fn column_summary(&self) -> Applied {
        let columns = self.stored()?.columns.iter().map(|column| ColumnRecord { stored: Vec::new(), ..*column });
        Ok(CommandReply::Columns(columns.collect()))
    }
}

fn check_progress(run: &StoreRun, progress: &SegmentProgress, columns: usize, limit: usize) -> Result<(), Rejection> {
    let SegmentIndex(segment) = progress.segment;
    if segment as usize >= limit {
        return Err(invalid(format!("segment {segment} is past the end: there are at most {limit}")));
    }
    if progress.pieces.len() != columns {
        return Err(invalid(format!("segment {segment} has {} pieces, not {columns}", progress.pieces.len())));
    }
    if let Some((column, _)) = progress.stored.iter().find(|(column, _)| column.0 as usize >= columns) {
        return Err(invalid(format!("no column {column}")));
    }
    match run.segments.get(segment as usize) {
        Some(known) if !known.is_empty() && *known != progress.pieces => {
            Err(Rejection::DifferentContent { segment: progress.segment })
        }
        _ => Ok(()),
    }
}

impl ColumnRecord {
    fn assign(&mut self, grant: Grant) {
        self.grant = Some(grant);
        self.attempt.0 = self.attempt.0.saturating_add(1);
        self.state = ColumnState::Filling;
        self.stored.iter_mut().for_each(|stored| *stored = false);
    }
    fn vacate(&mut self) {
        self.grant = None;
        self.state = ColumnState::Open;
        self.stored.iter_mut().for_each(|stored| *stored = false);
    }
}
