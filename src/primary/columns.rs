//! Telling holders what became of their columns: keep it for good, or let go.

use std::time::Duration;

use quorate_protocols::approval::Grant;
use quorate_protocols::ids::{Attempt, JobId, ManifestHash, PieceIndex};
use quorate_protocols::piece::limits::LEASE;
use quorate_protocols::piece::{PieceAnswer, PieceMessage, PieceRefusal, Slot};
use quorate_protocols::quorum::{Command, ObjectCommand, StoreCommand};

use super::context::{Context, DutyError, HolderError, Tries};

/// A holder answers these from its index, and syncs what it notes; longer, also over slow links and on slow disks,
/// means that it is not there.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// The object is committed: the lease becomes a lasting hold.
pub(super) async fn confirm(
    context: &Context,
    manifest: ManifestHash,
    slot: Slot,
    grant: Grant,
) -> Result<(), DutyError> {
    let message = PieceMessage::Confirm { slot, lease: grant.lease, manifest };
    let lost = match context.ask_holder(grant.holder.peer, message, ANSWER_DEADLINE).await {
        Ok((PieceAnswer::Acknowledged, _)) => {
            let confirmed =
                Command::Object(manifest, ObjectCommand::Confirmed { column: slot.column, attempt: slot.attempt });
            return context.propose(confirmed).await.map(drop);
        }
        Ok(_) => return Err(context.confused(grant.holder.peer).into()),
        Err(HolderError::Refused { refusal, .. }) if means_lost(&refusal) => refusal.to_string(),
        Err(_) if context.has_lost_its_disk(grant.holder) => "its disk was lost".to_owned(),
        // Away for now. The auditor decides whether it is gone for good.
        Err(error) => return Err(error.into()),
    };
    let reason = format!("holder {} could not confirm: {lost}", grant.holder.peer);
    let owe =
        Command::Object(manifest, ObjectCommand::OweRepair { column: slot.column, attempt: slot.attempt, reason });
    context.propose(owe).await.map(drop)
}

/// A refusal after which waiting will not help: what was promised is not there.
fn means_lost(refusal: &PieceRefusal) -> bool {
    matches!(refusal, PieceRefusal::UnknownLease | PieceRefusal::NotHeld | PieceRefusal::Incomplete { .. })
}

/// The column is not wanted there any more.
pub(super) async fn release(
    context: &Context,
    job: JobId,
    column: PieceIndex,
    attempt: Attempt,
    grant: Grant,
    tries: Tries,
) -> Result<(), DutyError> {
    let released = Command::store(job, StoreCommand::Released { column, grant, attempt });
    // It never got a column: there is a lease to give back, and nothing else.
    if attempt == Attempt(0) {
        let patience = context.env.settings.release_wait;
        if !context.env.approvals.give_back(grant.holder.peer, grant.lease).await
            && !context.has_lost_its_disk(grant.holder)
            && tries.failing_for < LEASE.min(patience)
        {
            return Err(DutyError::Other(format!("holder {} did not take its lease back", grant.holder.peer)));
        }
        return context.propose(released).await.map(drop);
    }
    let slot = Slot { job, column, attempt };
    match context.ask_holder(grant.holder.peer, PieceMessage::Release { slot }, ANSWER_DEADLINE).await {
        Ok((PieceAnswer::Acknowledged, _)) => (),
        Ok(_) => return Err(context.confused(grant.holder.peer).into()),
        // Nothing there to let go of but the room that was set aside: it never got a piece. Best effort, for the lease
        // ends by itself; a holder that keeps a column for good says no.
        Err(HolderError::Refused {
            refusal: PieceRefusal::UnknownLease | PieceRefusal::NotHeld | PieceRefusal::StaleAttempt { .. },
            ..
        }) => {
            let _ = context.env.approvals.give_back(grant.holder.peer, grant.lease).await;
        }
        Err(_) if context.has_lost_its_disk(grant.holder) => (),
        // Should it come back, it asks the steward about columns with ended leases and collects them on its own.
        Err(_) if tries.failing_for >= context.env.settings.release_wait => (),
        Err(error) => return Err(error.into()),
    }
    context.propose(released).await.map(drop)
}
