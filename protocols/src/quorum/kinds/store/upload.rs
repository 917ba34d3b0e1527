//! The life of a store run: holders, uploader, progress, failure, and every end but the commit.

use std::collections::{BTreeMap, BTreeSet};

use super::{ABANDON, ADD_HOLDERS, COLUMN_FAILED, FAIL, of, run_mut, unused};
use crate::approval::Grant;
use crate::ids::{Attempt, PeerId, PieceHash, PieceIndex, SegmentIndex};
use crate::job::limits::{
    HOLDERS_FAILED_MAX, RELEASING_MAX, SPARES_MAX, STORE_EMPTY_MAX, STORE_IDLE_MAX, UPLOAD_SILENT_MAX,
};
use crate::job::record::{JobRecord, RunState};
use crate::job::spec::StoreSpec;
use crate::job::store::SegmentProgress;
use crate::job::store::{ColumnRecord, ColumnState, Releasing, StoreRun};
use crate::job::transition::RunCommand;
use crate::object::layout::Layout;
use crate::quorum::event::Event;
use crate::quorum::kinds::context::RunCx;
use crate::quorum::reply::{Applied, invalid, releasing, short};
use crate::quorum::reply::{Attached, CommandReply, Rejection};
use crate::text::counted;

/// Segments that the run may have: what its size says, or what its profile allows.
fn segments_max(store: &StoreSpec) -> usize {
    match store.size {
        Some(size) => Layout::new(size, store.profile).segments() as usize,
        None => store.profile.segments_max(),
    }
}

pub(super) fn add_holders(cx: &mut RunCx<'_>, grants: &[Grant], exhausted: bool) -> Applied {
    let job = cx.job();
    let was_exhausted = std::mem::replace(&mut run_mut(cx)?.exhausted, exhausted);
    if exhausted && !was_exhausted {
        cx.emit(Event::HoldersExhausted { job });
    }
    let mut known: BTreeSet<PeerId> = of(cx)?.1.known_holders().collect();
    let mut assigned = Vec::new();
    let run = run_mut(cx)?;
    for grant in grants {
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
            assigned.push((PieceIndex(index as u8), *grant));
        } else if run.spares.len() < SPARES_MAX {
            run.spares.push(*grant);
        } else if run.releasing.len() < RELEASING_MAX {
            run.releasing.push(unused(*grant));
        }
    }
    let added = assigned.len();
    for (column, grant) in assigned {
        cx.emit(Event::ColumnReassigned { job, column, from: None, to: Some(grant) });
    }
    let (spec, run) = of(cx)?;
    let held = run.columns.len() - run.open_columns();
    let ready = held >= spec.profile.columns_min();
    let spares = run.spares.len();
    if cx.record()?.state == RunState::Pending && ready {
        let what = format!("holders found for {}, and {}", counted(held, "column"), counted(spares, "spare peer"));
        cx.enter(ADD_HOLDERS, RunState::Running, &what);
    } else if added > 0 {
        cx.write_history(format!("holders found for {} more", counted(added, "column")));
    }
    column_summary(cx)
}

pub(super) fn attach(cx: &mut RunCx<'_>, by: PeerId) -> Applied {
    let (now, owner) = (cx.wall(), cx.record()?.owner);
    let (_, run) = of(cx)?;
    let silent = now.since(run.upload_seen_at);
    if by != owner && by != run.uploader && silent < UPLOAD_SILENT_MAX {
        return Err(invalid(format!(
            "{} uploads job {} and was heard {} s ago: another peer than {owner}, which submitted it, takes over after {} s \
             without a sign of it",
            run.uploader,
            cx.job(),
            silent.as_secs(),
            UPLOAD_SILENT_MAX.as_secs()
        )));
    }
    let run = run_mut(cx)?;
    run.uploader = by;
    run.upload_attempt.0 = run.upload_attempt.0.saturating_add(1);
    run.record_upload(now);
    cx.write_history(format!("{by} uploads from now on"));
    let (_, run) = of(cx)?;
    Ok(CommandReply::Attached(Box::new(Attached {
        upload_attempt: run.upload_attempt,
        spec: cx.record()?.spec.clone(),
        columns: run.columns.clone(),
        segments: run.segments.clone(),
    })))
}

pub(super) fn progress(cx: &mut RunCx<'_>, segments: &[SegmentProgress]) -> Applied {
    let now = cx.wall();
    let (spec, run) = of(cx)?;
    let (limit, columns) = (segments_max(spec), run.columns.len());
    let mut seen = BTreeMap::new();
    for progress in segments {
        check_progress(run, progress, columns, limit)?;
        if seen.insert(progress.segment, &progress.pieces).is_some_and(|pieces| *pieces != progress.pieces) {
            return Err(Rejection::DifferentContent { segment: progress.segment });
        }
    }
    // Counted before it is known which hashes are new: a little early is better than a little late.
    cx.objects().check_hash_room(segments.len() * columns * PieceHash::LEN)?;
    let run = run_mut(cx)?;
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
    run.record_upload(now);
    let complete = |segment: &usize| run.columns.iter().all(|column| column.stored[*segment]);
    let complete = (0..run.segments.len()).filter(complete).count() as u32;
    cx.touch();
    cx.emit(Event::JobProgressed { job: cx.job(), segments: complete });
    column_summary(cx)
}

pub(super) fn column_failed(cx: &mut RunCx<'_>, column: PieceIndex, attempt: Attempt, reason: &str) -> Applied {
    let (job, now) = (cx.job(), cx.wall());
    let run = run_mut(cx)?;
    let target = run.columns.get_mut(column.0 as usize).ok_or_else(|| invalid(format!("no column {column}")))?;
    if attempt > target.attempt {
        return Err(Rejection::StaleAttempt { given: attempt, current: target.attempt });
    }
    let Some(lost) = target.grant.filter(|_| attempt == target.attempt) else {
        // A repeat, or the column has moved on: nothing to do but to say how things stand.
        return column_summary(cx);
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
    run.record_upload(now);
    let failed = run.failed.len();
    cx.emit(Event::ColumnReassigned { job, column, from: Some(lost), to: next });
    let lost_peer = lost.holder.peer;
    let what = match next {
        Some(spare) => format!("column {column}: {} takes over from {lost_peer}: {reason}", spare.holder.peer),
        None => format!("column {column} lost {lost_peer} and no spare is left: {reason}"),
    };
    cx.set_reason(Some(&format!("column {column} lost {lost_peer}: {reason}")));
    cx.write_history(what);
    if failed >= HOLDERS_FAILED_MAX {
        let reason = format!("{HOLDERS_FAILED_MAX} holders failed; the last: {reason}");
        end(cx, COLUMN_FAILED, RunState::Failed, Some(reason), "failed: too many holders failed");
    }
    column_summary(cx)
}

pub(super) fn fail(cx: &mut RunCx<'_>, reason: &str) -> Applied {
    if cx.record()?.state == RunState::Failed {
        return Ok(CommandReply::Done);
    }
    end(cx, FAIL, RunState::Failed, Some(reason.to_owned()), &format!("failed: {reason}"));
    Ok(CommandReply::Done)
}

pub(super) fn cancel(cx: &mut RunCx<'_>, by: PeerId) -> Applied {
    if cx.record()?.state != RunState::Cancelled {
        end(cx, RunCommand::Cancel, RunState::Cancelled, Some(format!("by {by}")), &format!("cancelled by {by}"));
    }
    Ok(CommandReply::Done)
}

pub(super) fn abandon(cx: &mut RunCx<'_>, upload_seq: u64) -> Applied {
    if cx.record()?.state == RunState::Failed {
        return Ok(CommandReply::Done);
    }
    let (_, run) = of(cx)?;
    if run.upload_seq != upload_seq {
        return Err(invalid(format!("job {} has had upload progress since it looked idle", cx.job())));
    }
    let reason = match run.segments.is_empty() {
        true => format!("its uploader was gone for {} s and nothing was stored", STORE_EMPTY_MAX.as_secs()),
        false => format!("no upload progress for {} minutes", STORE_IDLE_MAX.as_secs() / 60),
    };
    end(cx, ABANDON, RunState::Failed, Some(reason.clone()), &format!("abandoned: {reason}"));
    Ok(CommandReply::Done)
}

pub(super) fn released(cx: &mut RunCx<'_>, released: Releasing) -> Applied {
    let run = run_mut(cx)?;
    run.releasing.retain(|releasing| *releasing != released);
    // The last holder of a removed object has let go: the object is gone.
    let gone = run.manifest.filter(|_| run.releasing.is_empty());
    if let Some(manifest) = gone {
        cx.objects().forget_removed(manifest);
    }
    Ok(CommandReply::Done)
}

/// Ends the run: its holders are to let go, its hashes are forgotten.
pub(super) fn end(cx: &mut RunCx<'_>, by: RunCommand, to: RunState, reason: Option<String>, what: &str) {
    let Ok(run) = run_mut(cx) else { return };
    for (index, column) in run.columns.iter_mut().enumerate() {
        if let Some(grant) = column.grant.take() {
            run.releasing.push(releasing(index, grant, column.attempt));
        }
        column.state = ColumnState::Open;
        column.stored = Vec::new();
    }
    run.segments = Vec::new();
    let spares = std::mem::take(&mut run.spares);
    run.releasing.extend(spares.into_iter().map(unused));
    cx.end(by, to, reason, what);
}

pub(super) fn check_uploader(record: &JobRecord, (by, attempt): (PeerId, Attempt)) -> Result<(), Rejection> {
    let job = record.job;
    let (_, run) = record.store().ok_or(Rejection::UnknownJob { job })?;
    if by != run.uploader {
        return Err(Rejection::NotUploader { job, by });
    }
    if attempt != run.upload_attempt {
        return Err(Rejection::StaleAttempt { given: attempt, current: run.upload_attempt });
    }
    Ok(())
}

/// The columns as replies carry them: without their stored bits.
fn column_summary(cx: &RunCx<'_>) -> Applied {
    let columns = of(cx)?.1.columns.iter().map(|column| ColumnRecord { stored: Vec::new(), ..*column });
    Ok(CommandReply::Columns(columns.collect()))
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
