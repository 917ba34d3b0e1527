//! Winning holders for a run, and giving a run up when there are too few.

use std::collections::BTreeSet;

use quorate_protocols::approval::Grant;
use quorate_protocols::approval::{Approval, Subject, Writer};
use quorate_protocols::capacity::{Capacity, Requirement};
use quorate_protocols::engine::NodeRole;
use quorate_protocols::ids::{JobId, MemberId, PeerId};
use quorate_protocols::job::{StoreRun, StoreSpec};
use quorate_protocols::object::limits::SEGMENT_BYTES;
use quorate_protocols::object::{HolderShortage, Layout, Profile, Reachable};
use quorate_protocols::piece::limits::LEASE;
use quorate_protocols::quorum::{Command, StoreCommand};

use super::context::{Context, DutyError, Tries};
use crate::quorums::RoundError;
use crate::quorums::approvals::{Gathered, Volunteers};

/// Asked for a stream of unknown length: twice what has come so far, and never less than this many segments, so that
/// the holders of most need not set more aside as it comes. A guess.
const UNKNOWN_SEGMENTS_MIN: u64 = 16;

/// Holders are asked to set disk aside and nothing else: the memory of a piece in flight is accounted by the
/// holder's transport, per frame, and a lease that held it as well would count it twice.
pub(super) fn column_requirement(bytes: u64) -> Requirement {
    Capacity::disk(bytes).into()
}

/// A promise as the quorum records it.
pub(super) fn grant_of(approval: &Approval) -> Grant {
    let statement = &approval.statement;
    let holder = MemberId { peer: statement.approver, incarnation: statement.incarnation };
    Grant { holder, lease: statement.lease }
}

/// What one column of this run takes.
fn column_bytes(spec: &StoreSpec, run: &StoreRun) -> (Profile, u64) {
    let bytes = match spec.size {
        Some(size) => size,
        None => (2 * run.segments.len() as u64).max(UNKNOWN_SEGMENTS_MIN) * SEGMENT_BYTES as u64,
    };
    (spec.profile, Layout::new(bytes, spec.profile).column_bytes())
}

/// Who fills the columns of this run, as its holders are told with the question. Another node that goes on with the
/// run is asked about by them.
fn writer_of(spec: &StoreSpec, run: &StoreRun) -> Writer {
    match spec.size {
        Some(_) => Writer::Uploader(run.uploader),
        None => Writer::Streamer(run.uploader),
    }
}

pub(super) async fn find(
    context: &Context,
    job: JobId,
    open: usize,
    spares: usize,
    tries: Tries,
) -> Result<(), DutyError> {
    let env = &context.env;
    let Some(record) = context.job(job).await?.filter(|record| !record.state.is_final()) else {
        env.wait_reasons.clear(job);
        return Ok(());
    };
    // Only runs that store have this duty.
    let Some((spec, run)) = record.store() else { return Ok(()) };
    let (profile, bytes) = column_bytes(spec, run);
    let filled = run.columns.len() - run.open_columns();
    let lacking = Lacking { context, spec, run };
    // A run can go on with fewer than all columns, degraded, but not with fewer than these.
    let floor = profile.columns_min().saturating_sub(filled).max(1);
    let exclude = run.known_holders().collect::<BTreeSet<PeerId>>().into_iter().collect();
    // With enough columns to go on, the run waits for peers that may come, not for the hope of some.
    let volunteers = if filled < profile.columns_min() { Volunteers::Wanted } else { Volunteers::FromStrangers };
    let subject = Subject::Holder { job, writer: writer_of(spec, run) };
    let requirement = column_requirement(bytes);
    let bounds = (floor, open + spares);
    match env.approvals.gather_from(subject, requirement, bounds, exclude, LEASE, volunteers).await {
        Ok(Gathered { approvals, exhausted }) => {
            let grants: Vec<Grant> = approvals.iter().map(grant_of).collect();
            let won = grants.len();
            context.propose(Command::store(job, StoreCommand::AddHolders { grants, exhausted })).await?;
            if won < open {
                env.wait_reasons.set(job, lacking.text(filled + won, None));
            } else {
                env.wait_reasons.clear(job);
            }
            Ok(())
        }
        // Whoever sends the pieces waits for no more columns. Said once: the record keeps it.
        Err(error @ RoundError::TooFew { exhausted: true, .. })
            if filled >= profile.columns_min() && !run.exhausted =>
        {
            let reason = lacking.text(filled, Some(&error));
            context
                .propose(Command::store(job, StoreCommand::AddHolders { grants: Vec::new(), exhausted: true }))
                .await?;
            if open > 0 {
                env.wait_reasons.set(job, reason.clone());
            }
            Err(DutyError::Other(reason))
        }
        // A run whose columns are filled is only short of spares.
        Err(error) if open == 0 => Err(DutyError::Other(format!("no spare holders: {error}"))),
        Err(error) => {
            let RoundError::TooFew { granted, .. } = &error;
            let reason = lacking.text(filled + granted, Some(&error));
            env.wait_reasons.set(job, reason.clone());
            if tries.failing_for >= env.settings.holders_wait && filled < profile.columns_min() {
                context.propose(Command::store(job, StoreCommand::Fail { upload_attempt: None, reason })).await?;
                env.wait_reasons.clear(job);
                return Ok(());
            }
            Err(DutyError::Other(reason))
        }
    }
}

/// For the user: how many holders there are, how many are needed, what keeps the other peers from being holders, and
/// what to do about it.
struct Lacking<'a> {
    context: &'a Context,
    spec: &'a StoreSpec,
    run: &'a StoreRun,
}

impl Lacking<'_> {
    fn text(&self, holders: usize, error: Option<&RoundError>) -> String {
        let (profile, column_bytes) = column_bytes(self.spec, self.run);
        let known = self.others_known(column_bytes);
        let shortage = HolderShortage::new(self.spec.size, column_bytes, profile, holders, known);
        format!("{shortage}: {}{}", shortage.remedy(), error.map(RoundError::reasons).unwrap_or_default())
    }

    /// Peers that hold nothing of this run, by what they announce: those with too little disk, and those with enough
    /// that do not answer.
    fn others_known(&self, column_bytes: u64) -> Reachable {
        let env = &self.context.env;
        let holders: BTreeSet<PeerId> = self.run.known_holders().collect();
        let others = |requirement: &Requirement| {
            let mut others = env.knowledge.candidates(NodeRole::Store, requirement);
            others.retain(|peer| !holders.contains(peer));
            others
        };
        let keepers = others(&Requirement::default()).len();
        let able = others(&column_requirement(column_bytes));
        let absent = able.iter().filter(|peer| env.net.is_absent(**peer)).count();
        Reachable { full: keepers.saturating_sub(able.len()), absent, ..Reachable::default() }
    }
}
