//! Kind *store*: a file becomes an object, as erasure-coded columns on many peers.
//!
//! `upload` is the life of a run from its submit to its end, `commit` what is checked before its columns become an
//! object. A run goes through *pending* and *running* only, and its cancel is immediate: nothing of it needs to be
//! undone before it may be called cancelled, and its holders are released afterwards as a duty of their own.

mod commit;
mod upload;

use super::context::{RunCx, RunView};
use super::{Kind, OwnCommand, Weight, not_for_this_kind};
use crate::approval::Grant;
use crate::ids::{Attempt, JobId, Millis, PeerId, PieceHash, PieceIndex};
use crate::job::limits::{HOLDERS_FAILED_MAX, SPARES_MAX, SPARES_WANTED};
use crate::job::record::RunState::*;
use crate::job::record::{JobRecord, Run};
use crate::job::spec::StoreSpec;
use crate::job::store::{ColumnRecord, ColumnState, Releasing, StoreRun};
use crate::job::transition::{Row, RunCommand};
use crate::job::why::{append, ended_or_resting, with};
use crate::object::layout::{Layout, Profile};
use crate::object::limits::NAME_BYTES_MAX;
use crate::quorum::author::Author;
use crate::quorum::check::{Checked, ensure};
use crate::quorum::command::{Control, StoreCommand};
use crate::quorum::duty::Duty;
use crate::quorum::jobs::JobBook;
use crate::quorum::limits::LEVEL_FIRST;
use crate::quorum::reply::Rejection;
use crate::quorum::reply::{Applied, invalid};
use crate::quorum::rights::Verb;
use crate::text::counted;
use std::collections::BTreeSet;

pub(crate) struct Store;

pub type Command = StoreCommand;

const ADD_HOLDERS: RunCommand = RunCommand::Own("add holders");
const ATTACH: RunCommand = RunCommand::Own("attach");
const PROGRESS: RunCommand = RunCommand::Own("progress");
const COLUMN_FAILED: RunCommand = RunCommand::Own("column failed");
const COMMIT: RunCommand = RunCommand::Own("commit object");
const FAIL: RunCommand = RunCommand::Own("fail");
const ABANDON: RunCommand = RunCommand::Own("abandon");
const RELEASED: RunCommand = RunCommand::Own("released");

impl OwnCommand for StoreCommand {
    fn name(&self) -> &'static str {
        let command = match self {
            Self::AddHolders { .. } => ADD_HOLDERS,
            Self::Attach => ATTACH,
            Self::Progress { .. } => PROGRESS,
            Self::ColumnFailed { .. } => COLUMN_FAILED,
            Self::Commit { .. } => COMMIT,
            Self::Fail { .. } => FAIL,
            Self::Abandon { .. } => ABANDON,
            Self::Released { .. } => RELEASED,
        };
        command.name()
    }

    fn level(&self) -> u16 {
        match self {
            Self::AddHolders { .. }
            | Self::Attach
            | Self::Progress { .. }
            | Self::ColumnFailed { .. }
            | Self::Commit { .. }
            | Self::Fail { .. }
            | Self::Abandon { .. }
            | Self::Released { .. } => LEVEL_FIRST,
        }
    }

    fn author(&self, job: JobId) -> Author<'_> {
        match self {
            Self::Attach => Author::Owner { job, verb: Verb::Attach },
            Self::Progress { .. } | Self::ColumnFailed { .. } | Self::Commit { .. } => Author::Worker,
            Self::Fail { upload_attempt: Some(_), .. } => Author::Worker,
            Self::Fail { upload_attempt: None, .. }
            | Self::AddHolders { .. }
            | Self::Abandon { .. }
            | Self::Released { .. } => Author::Primary,
        }
    }
}

impl Kind for Store {
    const LEVEL: u16 = LEVEL_FIRST;
    const TRANSITIONS: &'static [Row] = &[
        (Pending, ADD_HOLDERS, &[Pending, Running]),
        (Pending, ATTACH, &[Pending]),
        (Pending, PROGRESS, &[Pending]),
        (Pending, COLUMN_FAILED, &[Pending, Failed]),
        (Pending, FAIL, &[Failed]),
        (Pending, RunCommand::Cancel, &[Cancelled]),
        (Pending, ABANDON, &[Failed]),
        (Pending, RELEASED, &[Pending]),
        (Running, ADD_HOLDERS, &[Running]),
        (Running, ATTACH, &[Running]),
        (Running, PROGRESS, &[Running]),
        (Running, COLUMN_FAILED, &[Running, Failed]),
        (Running, COMMIT, &[Succeeded]),
        (Running, FAIL, &[Failed]),
        (Running, RunCommand::Cancel, &[Cancelled]),
        (Running, ABANDON, &[Failed]),
        (Running, RELEASED, &[Running]),
        (Succeeded, COMMIT, &[Succeeded]),
        (Succeeded, RELEASED, &[Succeeded]),
        (Failed, FAIL, &[Failed]),
        (Failed, ABANDON, &[Failed]),
        (Failed, RELEASED, &[Failed]),
        (Cancelled, RunCommand::Cancel, &[Cancelled]),
        (Cancelled, RELEASED, &[Cancelled]),
    ];
    /// A file is on one peer.
    const IS_OF_ITS_SUBMITTER: bool = true;

    type Spec = StoreSpec;
    type Run = StoreRun;
    type Command = StoreCommand;

    fn check(spec: &StoreSpec) -> Result<(), Rejection> {
        let name = spec.name.as_deref().unwrap_or_default().len();
        if name > NAME_BYTES_MAX {
            return Err(Rejection::TooLarge { what: "name".to_owned(), bytes: name, limit: NAME_BYTES_MAX });
        }
        let Profile { data, parity } = spec.profile;
        let profile =
            Profile::new(data, parity).ok_or_else(|| invalid(format!("profile {data}+{parity} is not possible")))?;
        match spec.size {
            Some(size) if size > profile.bytes_max() => {
                Err(invalid(format!("an object of {size} bytes is larger than the {} allowed", profile.bytes_max())))
            }
            _ => Ok(()),
        }
    }

    fn check_triggered(_: &StoreSpec) -> Result<(), Rejection> {
        Err(invalid("a trigger cannot run a job that stores: a file is sent by the node that has it"))
    }

    /// Its specification is a name and a size. What weighs is what comes in: as much as the size says, or a first
    /// segment.
    fn weight(spec: &StoreSpec, _: usize) -> Weight {
        let segments = spec.size.map_or(1, |size| Layout::new(size, spec.profile).segments() as usize);
        Weight { object: Some(segments * spec.profile.columns() * PieceHash::LEN), ..Weight::default() }
    }

    fn new_run(view: RunView<'_>, spec: &StoreSpec, by: PeerId) -> StoreRun {
        StoreRun::new(by, spec.profile.columns(), view.wall())
    }

    fn begin(_: &mut RunCx<'_>) {}

    fn control(cx: &mut RunCx<'_>, by: PeerId, control: &Control) -> Applied {
        match control {
            Control::Cancel => upload::cancel(cx, by),
            Control::Pause
            | Control::Resume
            | Control::Retry
            | Control::Resolve { .. }
            | Control::Update { .. }
            | Control::Suspend
            | Control::Unsuspend => Err(not_for_this_kind()),
        }
    }

    fn check_command(record: &JobRecord, by: PeerId, command: &StoreCommand) -> Result<(), Rejection> {
        let attempt = match command {
            StoreCommand::Progress { upload_attempt, .. } | StoreCommand::ColumnFailed { upload_attempt, .. } => {
                *upload_attempt
            }
            // Those that end a run may be repeated by whoever ended it, and are known then.
            StoreCommand::Commit { upload_attempt, .. } if record.state != Succeeded => *upload_attempt,
            StoreCommand::Fail { upload_attempt: Some(attempt), .. } if record.state != Failed => *attempt,
            _ => return Ok(()),
        };
        upload::check_uploader(record, (by, attempt))
    }

    fn command(cx: &mut RunCx<'_>, by: PeerId, command: &StoreCommand) -> Applied {
        match command {
            StoreCommand::AddHolders { grants, exhausted } => upload::add_holders(cx, grants, *exhausted),
            StoreCommand::Attach => upload::attach(cx, by),
            StoreCommand::Progress { segments, .. } => upload::progress(cx, segments),
            StoreCommand::ColumnFailed { column, attempt, reason, .. } => {
                upload::column_failed(cx, *column, *attempt, reason)
            }
            StoreCommand::Commit { manifest, receipts, degraded, .. } => {
                commit::commit(cx, manifest, receipts, *degraded)
            }
            StoreCommand::Fail { reason, .. } => upload::fail(cx, reason),
            StoreCommand::Abandon { upload_seq } => upload::abandon(cx, *upload_seq),
            StoreCommand::Released { column, grant, attempt } => {
                upload::released(cx, Releasing { column: *column, grant: *grant, attempt: *attempt })
            }
        }
    }

    /// Idleness is measured by the primary's monotonic clock, not by quorum time: `Duty::WatchIdle`.
    fn timer(_: &JobRecord) -> Option<Millis> {
        None
    }

    fn elapsed(_: &mut RunCx<'_>) {}

    fn task_event(_: &mut RunCx<'_>, _: RunCommand) {}

    fn has_duties(record: &JobRecord, run: &StoreRun) -> bool {
        !record.state.is_final() || !run.releasing.is_empty()
    }

    fn duties(record: &JobRecord, run: &StoreRun, duties: &mut Vec<Duty>) {
        let job = record.job;
        duties.extend(run.releasing.iter().map(|Releasing { column, grant, attempt }| Duty::Release {
            job,
            column: *column,
            grant: *grant,
            attempt: *attempt,
        }));
        if record.state.is_final() {
            return;
        }
        let open = run.open_columns();
        let spares = SPARES_WANTED.saturating_sub(run.spares.len());
        if open > 0 || spares > 0 {
            duties.push(Duty::FindHolders { job, open, spares });
        }
        let empty = run.segments.is_empty();
        duties.push(Duty::WatchIdle { job, upload_seq: run.upload_seq, since: run.upload_seen_at, empty });
    }

    fn name(spec: &StoreSpec) -> Option<&str> {
        spec.name.as_deref()
    }

    fn why(record: &JobRecord, spec: &StoreSpec, run: &StoreRun, _: Millis, wall: Millis) -> String {
        let reason = record.reason.as_deref();
        match record.state {
            Pending => {
                let assigned = run.columns.len() - run.open_columns();
                let needed = spec.profile.columns_min();
                let mut text = format!(
                    "waiting for holders: {assigned} of {} columns have one and {needed} are needed to begin",
                    run.columns.len()
                );
                append(&mut text, "; last setback: ", reason);
                text
            }
            Running => {
                let (stored, known) = run.pieces_stored();
                let mut text = if known == 0 {
                    format!("holders are found; {} has not reported any pieces yet", run.uploader)
                } else {
                    format!("{} is sending: {stored} of {known} pieces known so far are stored", run.uploader)
                };
                let idle = wall.since(run.upload_seen_at).as_secs();
                if idle >= 10 {
                    text.push_str(&format!("; no upload progress for {idle} s"));
                }
                let open = run.open_columns();
                if open > 0 {
                    text.push_str(&format!("; {} without a holder", counted(open, "column")));
                }
                append(&mut text, "; last setback: ", reason);
                text
            }
            Succeeded if run.degraded => with("done; the object was stored with columns still owed", reason),
            Cancelled => {
                let mut text = with("cancelled", reason);
                if !run.releasing.is_empty() {
                    text.push_str(&format!("; {} still to be released", counted(run.releasing.len(), "holder")));
                }
                text
            }
            state => ended_or_resting(state, reason),
        }
    }

    fn outline_spec(spec: &StoreSpec) -> StoreSpec {
        spec.clone()
    }

    fn outline_run(run: &StoreRun) -> StoreRun {
        StoreRun {
            upload_attempt: run.upload_attempt,
            columns: run.columns.iter().map(|column| ColumnRecord { stored: Vec::new(), ..*column }).collect(),
            spares: run.spares.clone(),
            failed: run.failed.clone(),
            releasing: run.releasing.clone(),
            manifest: run.manifest,
            degraded: run.degraded,
            upload_seq: run.upload_seq,
            ..StoreRun::new(run.uploader, 0, run.upload_seen_at)
        }
    }

    fn check_invariants(_: RunView<'_>, record: &JobRecord, spec: &StoreSpec, run: &StoreRun) -> Checked {
        let columns = run.columns.len();
        let Profile { data, parity } = spec.profile;
        ensure(Profile::new(data, parity).is_some(), || "impossible profile".to_owned())?;
        ensure(columns == spec.profile.columns(), || format!("{columns} columns"))?;
        ensure(run.failed.len() <= HOLDERS_FAILED_MAX, || format!("{} failed holders", run.failed.len()))?;
        ensure(run.spares.len() <= SPARES_MAX, || format!("{} spares", run.spares.len()))?;
        for column in &run.columns {
            let assigned = column.state == ColumnState::Filling;
            ensure(column.grant.is_some() == assigned, || format!("{column:?} is assigned and is not"))?;
            ensure(matches!(column.state, ColumnState::Open | ColumnState::Filling), || "sealed in a run".to_owned())?;
        }
        if record.state.is_final() {
            let left = run.columns.iter().any(|column| column.grant.is_some() || !column.stored.is_empty());
            ensure(!left && run.spares.is_empty() && run.segments.is_empty(), || "ended and holds on".to_owned())?;
            return Ok(());
        }
        let failed: BTreeSet<PeerId> = run.failed.iter().map(|(grant, _)| grant.holder.peer).collect();
        let mut peers = BTreeSet::new();
        for grant in run.columns.iter().filter_map(|column| column.grant).chain(run.spares.iter().copied()) {
            let peer = grant.holder.peer;
            ensure(peers.insert(peer), || format!("{peer} was given two columns"))?;
            ensure(!failed.contains(&peer), || format!("{peer} failed and was given a column again"))?;
        }
        for column in &run.columns {
            ensure(column.stored.len() == run.segments.len(), || "stored bits do not match the segments".to_owned())?;
        }
        ensure(run.segments.len() <= spec.profile.segments_max(), || "too many segments".to_owned())?;
        let whole = run.segments.iter().all(|pieces| pieces.is_empty() || pieces.len() == columns);
        ensure(whole, || "a segment has too few pieces".to_owned())?;
        ensure(run.manifest.is_none(), || "committed and not ended".to_owned())
    }

    fn hash_bytes(run: &StoreRun) -> usize {
        run.segments.iter().map(|pieces| pieces.len() * PieceHash::LEN).sum()
    }

    fn withdraw_stamps(run: &mut StoreRun, at: Millis) {
        run.upload_seen_at = run.upload_seen_at.min(at);
    }
}

// ---- the columns of objects, which carry the id of the run that stored them ----

impl JobBook {
    /// Holders that the run has yet to see let go.
    pub(in crate::quorum) fn releasing_of(&self, job: &JobId) -> usize {
        self.get(job).and_then(JobRecord::store).map_or(0, |(_, run)| run.releasing.len())
    }

    /// Has these holders told to let go. Returns nothing: a run that is gone has nobody to tell.
    pub(in crate::quorum) fn release(&mut self, job: &JobId, leaving: impl IntoIterator<Item = Releasing>) {
        if let Some(Run::Store(run)) = self.run_mut(job) {
            run.releasing.extend(leaving);
        }
    }
}

/// A grant that never got a column.
fn unused(grant: Grant) -> Releasing {
    Releasing { column: PieceIndex(0), grant, attempt: Attempt(0) }
}

/// The specification and the run. The frame has seen to the kind; should it be another, the command is refused on
/// every member alike.
fn of<'r>(cx: &'r RunCx<'_>) -> Result<(&'r StoreSpec, &'r StoreRun), Rejection> {
    cx.record()?.store().ok_or_else(not_for_this_kind)
}

fn run_mut<'r>(cx: &'r mut RunCx<'_>) -> Result<&'r mut StoreRun, Rejection> {
    match cx.run_mut()? {
        Run::Store(run) => Ok(run),
        _ => Err(not_for_this_kind()),
    }
}
