//! Giving a column a new holder, and having it rebuilt from the others.

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_protocols::approval::Grant;
use quorate_protocols::approval::{Subject, Writer};
use quorate_protocols::ids::{Attempt, ManifestHash, PeerId, PieceHash, PieceIndex, SegmentIndex};
use quorate_protocols::job::ColumnState;
use quorate_protocols::object::Manifest;
use quorate_protocols::piece::limits::{DEADLINE, LEASE, REBUILD_SEGMENTS_MAX};
use quorate_protocols::piece::{PieceAnswer, PieceMessage, RebuildPart, Receipt, Slot};
use quorate_protocols::quorum::{Command, ObjectCommand, ObjectRecord, ObjectState};

use super::context::{Context, DutyError, HolderError, Tries};
use super::holders::{column_requirement, grant_of};
use crate::quorums::approvals::Volunteers;

/// A rebuild that failed this often is given to another holder.
const REBUILD_FAILURES_MAX: u32 = 4;

/// Wins a holder for a column that is owed a repair, and commits it; the rebuild is then a duty of its own.
pub(super) async fn start(
    context: &Context,
    manifest: ManifestHash,
    column: PieceIndex,
    tries: Tries,
) -> Result<(), DutyError> {
    let Some((record, decoded)) = live_object(context, manifest).await? else { return Ok(()) };
    let index = usize::from(column.0);
    let (Some(current), Some(reason)) = (record.columns.get(index), record.owed.get(&column)) else { return Ok(()) };
    let attempt = record.newest.get(index).copied().unwrap_or(current.attempt);
    let mut exclude: BTreeSet<PeerId> = record.holders_except(column).collect();
    // Whoever lost the column once is asked again only when nobody else will do: its disk may be going.
    if tries.failures == 0 {
        exclude.extend(current.grant.map(|grant| grant.holder.peer));
    }
    let requirement = column_requirement(decoded.layout().column_bytes());
    let subject = Subject::Holder { job: record.job, writer: Writer::Quorum };
    let exclude = exclude.into_iter().collect();
    // Objects may owe very many repairs while a node is away: none of them holds up the rest by waiting for volunteers.
    let volunteers = Volunteers::FromStrangers;
    let gathered = context.env.approvals.gather_from(subject, requirement, (1, 1), exclude, LEASE, volunteers).await;
    let approvals = gathered
        .map_err(|error| DutyError::Other(format!("no new holder for column {column} of {manifest}: {error}")))?
        .approvals;
    let Some(approval) = approvals.first() else {
        return Err(DutyError::Other(format!("no new holder for column {column} of {manifest}")));
    };
    let (grant, reason) = (grant_of(approval), reason.clone());
    context
        .propose(Command::Object(manifest, ObjectCommand::StartRepair { column, attempt, grant, reason }))
        .await
        .map(drop)
}

async fn live_object(context: &Context, manifest: ManifestHash) -> Result<Option<(ObjectRecord, Manifest)>, DutyError> {
    Ok(context.object(manifest).await?.filter(|(record, _)| record.state == ObjectState::Live))
}

/// Has the granted holder fetch, decode and store the whole column, seals it, and commits its receipt.
pub(super) async fn rebuild(
    context: &Context,
    manifest: ManifestHash,
    column: PieceIndex,
    grant: Grant,
    attempt: Attempt,
    tries: Tries,
) -> Result<(), DutyError> {
    let Some((record, decoded)) = live_object(context, manifest).await? else { return Ok(()) };
    match rebuild_once(context, &record, &decoded, column, grant, attempt).await {
        Ok(receipt) => {
            context.propose(Command::Object(manifest, ObjectCommand::FinishRepair { column, receipt })).await?;
            Ok(())
        }
        Err(DutyError::NotLeading) => Err(DutyError::NotLeading),
        Err(error) if tries.failures + 1 >= REBUILD_FAILURES_MAX => {
            let reason = error.to_string();
            context.propose(Command::Object(manifest, ObjectCommand::FailRepair { column, attempt, reason })).await?;
            Err(error)
        }
        Err(error) => Err(error),
    }
}

async fn rebuild_once(
    context: &Context,
    record: &ObjectRecord,
    manifest: &Manifest,
    column: PieceIndex,
    grant: Grant,
    attempt: Attempt,
) -> Result<Receipt, DutyError> {
    let holder = grant.holder.peer;
    let slot = Slot { job: record.job, column, attempt };
    let layout = manifest.layout();
    let mut missing: Vec<SegmentIndex> = (0..layout.segments()).map(SegmentIndex).collect();
    while !missing.is_empty() {
        let batch = &missing[..missing.len().min(REBUILD_SEGMENTS_MAX)];
        let part = |segment: &SegmentIndex| part(context, record, manifest, column, *segment);
        let parts = batch.iter().map(part).collect::<Result<_, _>>()?;
        let message = PieceMessage::Rebuild { slot, lease: grant.lease, profile: manifest.profile, parts };
        let rebuilt = match context.ask_holder(holder, message, DEADLINE).await? {
            (PieceAnswer::Rebuilt(segments), _) => segments,
            _ => return Err(context.confused(holder).into()),
        };
        let before = missing.len();
        missing.retain(|segment| !rebuilt.contains(segment));
        if missing.len() == before {
            return Err(context.confused(holder).into());
        }
        if context.quorum.leading().is_none() {
            return Err(DutyError::NotLeading);
        }
    }
    let pieces: Vec<PieceHash> = manifest.column(column).collect();
    let message = PieceMessage::Seal { slot, lease: grant.lease, pieces };
    match context.ask_holder(holder, message, DEADLINE).await? {
        (PieceAnswer::Sealed(receipt), _) if is_for(&receipt, slot, grant, manifest) => Ok(receipt),
        _ => Err(context.confused(holder).into()),
    }
}

/// Whether the receipt says what was asked, signed by whom it was asked of.
fn is_for(receipt: &Receipt, slot: Slot, grant: Grant, manifest: &Manifest) -> bool {
    let statement = &receipt.statement;
    statement.slot == slot
        && statement.holder == grant.holder.peer
        && statement.lease == grant.lease
        && statement.column == manifest.column_digest(slot.column)
        && statement.segments == manifest.layout().segments()
        && receipt.is_genuine()
}

/// Where the other pieces of the segment are. More than the profile needs, so that the holder has a choice. Columns
/// that are owed a repair themselves may still have good pieces, and are named where the others are too few.
fn part(
    context: &Context,
    record: &ObjectRecord,
    manifest: &Manifest,
    column: PieceIndex,
    segment: SegmentIndex,
) -> Result<RebuildPart, DutyError> {
    let piece = |column| {
        manifest.piece(segment, column).ok_or_else(|| DutyError::Other(format!("segment {segment} has no {column}")))
    };
    let (mut sources, mut owed) = (Vec::new(), Vec::new());
    for (index, other) in record.columns.iter().enumerate() {
        let index = PieceIndex(index as u8);
        let whole = matches!(other.state, ColumnState::Sealed | ColumnState::Confirmed);
        if let Some(grant) = other.grant.filter(|_| index != column && whole) {
            let list = if record.owed.contains_key(&index) { &mut owed } else { &mut sources };
            list.push((index, piece(index)?, grant.holder.peer));
        }
    }
    if sources.len() < usize::from(manifest.profile.data) {
        sources.append(&mut owed);
    }
    if sources.len() < usize::from(manifest.profile.data) {
        let (found, needed) = (sources.len(), manifest.profile.data);
        return Err(DutyError::Other(format!("only {found} of the {needed} columns needed are left")));
    }
    sources.sort_by_key(|(_, _, peer)| context.env.net.is_absent(*peer));
    let piece_bytes = manifest.layout().piece_bytes(segment.0) as u32;
    Ok(RebuildPart { segment, hash: piece(column)?, piece_bytes, sources })
}

/// What the auditor asks before it believes that a holder is gone: any answer will do.
pub(super) async fn answers(context: &Context, slot: Slot, grant: Grant) -> bool {
    let message = PieceMessage::ListPieces { slot, from: SegmentIndex(0) };
    match context.ask_holder(grant.holder.peer, message, Duration::from_secs(3)).await {
        Ok(_) | Err(HolderError::Refused { .. } | HolderError::Confused { .. }) => true,
        Err(HolderError::Net(_)) => false,
    }
}
