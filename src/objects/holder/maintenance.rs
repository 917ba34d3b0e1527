//! Maintenance of a holder: slow background work, one bounded unit at a time: scrub, report, collect, sweep.
//!
//! *Scrub* reads one piece back at a time and marks what has rotted; a resuming put learns of it by `ListPieces`.
//! *Report* tells the stewards which columns have damaged pieces, as a reader would that got none: each looks for
//! itself, and has the column rebuilt. What is lost of it is told again in the next round, for as long as the damage is
//! there. *Collect* looks for columns whose lease has ended without the object having been confirmed, and now and then
//! at confirmed ones, and asks the owning quorum whether it still wants them here. Only a definite no, from a
//! linearizable read, lets a column go; anything else means asking again later. *Sweep* is mark and sweep over the
//! piece files, with a quarantine.
//!
//! Nothing of it survives a restart, and nothing needs to: every round starts from the index.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_protocols::ids::{JobId, ManifestHash, Millis, ObjectId, PeerId, PieceHash, PieceIndex};
use quorate_protocols::job::limits::PAGE_MAX;
use quorate_protocols::job::store::ColumnRecord;
use quorate_protocols::piece::Slot;
use quorate_protocols::piece::limits::QUARANTINE;
use quorate_protocols::quorum::ObjectRecord;
use quorate_protocols::quorum::request::{Query, QueryAnswer};

use super::PieceService;
use crate::objects::events::Metrics;
use crate::objects::store::{ColumnRow, HoldState, StoreError};
use crate::quorums::Report;
use crate::seams::{Failpoint, TaskGroup, failpoint};

/// One piece is scrubbed per pause: 4 MiB in 2 s is a small part of any disk, and 100 GiB take 14 hours.
const SCRUB_PAUSE: Duration = Duration::from_secs(2);

/// Pause of a scrubber that found nothing to read.
const SCRUB_IDLE: Duration = Duration::from_secs(60);

const COLLECT_PAUSE: Duration = Duration::from_secs(30);

/// Columns looked at in one round.
const COLLECT_MAX: usize = 64;

/// Damaged pieces whose columns are reported in one round, and columns of one such piece: a disk that lost all is told
/// of in a few rounds, and no steward is flooded.
const REPORTED_MAX: usize = 64;
const REPORTED_COLUMNS_MAX: usize = 16;

/// How long an answer about a column is believed: an unconfirmed one is settled within minutes or resumed within the
/// hour, a confirmed one is released by message unless the message was lost for good.
const ASK_UNCONFIRMED: Duration = Duration::from_secs(120);
const ASK_CONFIRMED: Duration = Duration::from_secs(6 * 3600);

/// Columns whose last question is remembered; beyond that all are forgotten and asked about again.
const ASKED_MAX: usize = 64 * 1024;

const ASK_DEADLINE: Duration = Duration::from_secs(10);

/// How long the row of a released column stays to refuse late pieces: longer than any lease can live.
const RELEASED_KEPT: Duration = Duration::from_secs(2 * 3600);

/// Whether the owning quorum wants a column here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Yes,
    No,
    Unknown,
}

pub(super) async fn run(service: PieceService) {
    let shutdown = TaskGroup::current().shutdown_token();
    let mut maintenance = Maintenance::new(service);
    let mut scrub_at = tokio::time::Instant::now() + maintenance.jitter(SCRUB_PAUSE);
    let mut collect_at = tokio::time::Instant::now() + maintenance.jitter(COLLECT_PAUSE);
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep_until(collect_at) => {
                maintenance.collect_round().await;
                maintenance.sweep_round(QUARANTINE).await;
                maintenance.report_round().await;
                collect_at = tokio::time::Instant::now() + maintenance.jitter(COLLECT_PAUSE);
            }
            () = tokio::time::sleep_until(scrub_at) => {
                let pause = if maintenance.scrub_one().await { SCRUB_PAUSE } else { SCRUB_IDLE };
                scrub_at = tokio::time::Instant::now() + maintenance.jitter(pause);
            }
        }
    }
}

pub(in crate::objects) struct Maintenance {
    service: PieceService,
    scrubbed: Option<PieceHash>,
    collected: Option<(JobId, PieceIndex)>,
    swept: Option<PieceHash>,
    reported: Option<PieceHash>,
    asked: BTreeMap<(JobId, PieceIndex), Millis>,
}

impl Maintenance {
    pub(in crate::objects) fn new(service: PieceService) -> Self {
        Self { service, scrubbed: None, collected: None, swept: None, reported: None, asked: BTreeMap::new() }
    }

    /// Between three quarters and five quarters of the pause, so that nodes started together do not work in step.
    fn jitter(&self, pause: Duration) -> Duration {
        let half = pause.as_millis() as u64 / 2;
        pause * 3 / 4 + Duration::from_millis(self.service.inner.context.seams.entropy.below(half))
    }

    /// Reads the next piece back. False at the end of the store: the next call starts over.
    pub(in crate::objects) async fn scrub_one(&mut self) -> bool {
        let next = match self.service.inner.store.next_referred(self.scrubbed) {
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(%error, "scrub could not read the piece index");
                None
            }
        };
        self.scrubbed = next;
        let Some(hash) = next else { return false };
        match self.service.inner.store.is_damaged(hash) {
            // Known already, and said once.
            Ok(true) => {}
            _ => {
                if let Err(refusal) = self.service.check_piece(hash).await {
                    tracing::warn!(%hash, %refusal, "scrub could not read a piece");
                }
            }
        }
        Metrics::add(&self.service.inner.metrics.pieces_scrubbed, 1);
        true
    }

    /// One page of the mark and sweep.
    pub(in crate::objects) async fn sweep_round(&mut self, quarantine: Duration) {
        match self.service.inner.store.sweep(self.swept, quarantine).await {
            Ok((swept, next)) => {
                self.swept = next;
                Metrics::add(&self.service.inner.metrics.pieces_deleted, swept.deleted);
                Metrics::add(&self.service.inner.metrics.pieces_damaged, swept.missing);
            }
            Err(error) => {
                tracing::warn!(%error, "sweeping the piece store failed");
                self.swept = None;
            }
        }
    }

    /// Tells the stewards of the next columns with damaged pieces.
    pub(in crate::objects) async fn report_round(&mut self) {
        match self.damaged_columns().await {
            Ok(columns) => {
                for (object, column) in columns {
                    let suspect = Report::Suspect { manifest: object.manifest, column };
                    let told = self.service.inner.context.quorums.report(object.quorum, suspect, ASK_DEADLINE).await;
                    if let Err(error) = told {
                        tracing::debug!(%object, %column, %error, "the steward was not told of a damaged column");
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the damaged pieces could not be listed");
                self.reported = None;
            }
        }
    }

    /// Confirmed columns that a page of damaged pieces belongs to. The others have no object yet: whoever fills them
    /// learns by `ListPieces`.
    async fn damaged_columns(&mut self) -> Result<BTreeSet<(ObjectId, PieceIndex)>, StoreError> {
        let store = &self.service.inner.store;
        let damaged = store.damaged(self.reported, REPORTED_MAX)?;
        let mut columns = BTreeSet::new();
        for hash in &damaged {
            let with = store.columns_with(*hash, REPORTED_COLUMNS_MAX)?;
            if with.is_empty() {
                store.forget_damaged(*hash).await?;
            }
            for (job, column) in with {
                let row = store.column(job, column)?;
                if let Some(ColumnRow { state: HoldState::Confirmed { manifest }, .. }) = row {
                    columns.insert((ObjectId { quorum: job.quorum, manifest }, column));
                }
            }
        }
        self.reported = if damaged.len() < REPORTED_MAX { None } else { damaged.last().copied() };
        Ok(columns)
    }

    /// Looks at the next columns and lets go of those that nobody wants.
    pub(in crate::objects) async fn collect_round(&mut self) {
        let columns = match self.service.inner.store.columns(self.collected, COLLECT_MAX) {
            Ok(columns) => columns,
            Err(error) => {
                tracing::warn!(%error, "the collector could not read the piece index");
                return;
            }
        };
        self.collected =
            if columns.len() < COLLECT_MAX { None } else { columns.last().map(|(job, column, _)| (*job, *column)) };
        for (job, column, row) in columns {
            if let Err(error) = self.collect_column(job, column, row).await {
                tracing::warn!(%job, %column, %error, "collecting a column failed");
            }
        }
    }

    async fn collect_column(&mut self, job: JobId, column: PieceIndex, row: ColumnRow) -> Result<(), StoreError> {
        let context = self.service.inner.context.clone();
        let every = match row.state {
            HoldState::Released { at } => {
                // A column is let go before its lease ends, and power may have failed in between or before the end was
                // synced. A hold without an end would then stay for good.
                self.service.end_lease(row.lease);
                if context.seams.clock.wall().since(at) >= RELEASED_KEPT {
                    self.service.inner.store.forget(job, column).await?;
                    self.asked.remove(&(job, column));
                }
                return Ok(());
            }
            HoldState::Confirmed { .. } => ASK_CONFIRMED,
            HoldState::Filling | HoldState::Sealed if context.leases.is_alive(row.lease) => return Ok(()),
            HoldState::Filling | HoldState::Sealed => ASK_UNCONFIRMED,
        };
        let now = context.seams.clock.monotonic();
        if self.asked.get(&(job, column)).is_some_and(|at| now.since(*at) < every) {
            return Ok(());
        }
        if self.asked.len() >= ASKED_MAX {
            self.asked.clear();
        }
        self.asked.insert((job, column), now);
        let slot = PieceService::slot_of(job, column, &row);
        let mut is_wanted = self.wanted(slot, row).await != Wanted::No;
        failpoint(Failpoint::ColumnWanted, &mut is_wanted);
        if !is_wanted {
            self.service.let_go(slot, "the steward does not want it here").await?;
        }
        Ok(())
    }

    /// Asks the owning quorum. `No` only from linearizable answers that leave no room for this holder in this attempt.
    pub(super) async fn wanted(&self, slot: Slot, row: ColumnRow) -> Wanted {
        let here = self.service.peer();
        if let HoldState::Confirmed { manifest } = row.state {
            return self.wanted_by_object(manifest, slot, here).await;
        }
        match self.ask(slot, Query::Job { job: slot.job }).await {
            Some(QueryAnswer::Job(record)) => match record.store().map(|(_, run)| (run, run.manifest)) {
                Some((_, Some(manifest))) => self.wanted_by_object(manifest, slot, here).await,
                // Whatever an ended run without an object still lists is on its way to be released.
                Some((run, None)) if !record.state.is_final() && names(&run.columns, slot, here) => Wanted::Yes,
                Some(_) | None => Wanted::No,
            },
            // An ended run is forgotten before the object that it stored.
            Some(QueryAnswer::Unknown) => self.wanted_by_any_object(slot, here).await,
            _ => Wanted::Unknown,
        }
    }

    async fn wanted_by_object(&self, manifest: ManifestHash, slot: Slot, here: PeerId) -> Wanted {
        match self.ask(slot, Query::Object { manifest }).await {
            Some(QueryAnswer::Object(view)) if names_in_object(&view.record, slot, here) => Wanted::Yes,
            Some(QueryAnswer::Object(_) | QueryAnswer::Unknown) => Wanted::No,
            _ => Wanted::Unknown,
        }
    }

    async fn wanted_by_any_object(&self, slot: Slot, here: PeerId) -> Wanted {
        let mut after = None;
        loop {
            let page = match self.ask(slot, Query::Objects { after, limit: PAGE_MAX as u32 }).await {
                Some(QueryAnswer::Objects(page)) => page,
                _ => return Wanted::Unknown,
            };
            if page.iter().any(|view| names_in_object(&view.record, slot, here)) {
                return Wanted::Yes;
            }
            // A page may end early for its bytes: only an empty one is the last.
            match page.last() {
                Some(last) if after.is_none_or(|after| last.age() < after) => after = Some(last.age()),
                _ => return Wanted::No,
            }
        }
    }

    async fn ask(&self, slot: Slot, query: Query) -> Option<QueryAnswer> {
        match self.service.inner.context.quorums.query(slot.job.quorum, query, false, ASK_DEADLINE).await {
            Ok(answer) => Some(answer),
            Err(error) => {
                tracing::debug!(job = %slot.job, %error, "could not ask whether a column is wanted");
                None
            }
        }
    }
}

/// Whether these columns assign the slot to this holder, at this attempt or one that this holder has yet to hear of.
fn names(columns: &[ColumnRecord], slot: Slot, here: PeerId) -> bool {
    columns.get(slot.column.0 as usize).is_some_and(|column| {
        column.attempt >= slot.attempt && column.grant.is_some_and(|grant| grant.holder.peer == here)
    })
}

/// Whether the object keeps this column here, or has it rebuilt here. Slots carry the run that stored the object first.
fn names_in_object(record: &ObjectRecord, slot: Slot, here: PeerId) -> bool {
    let rebuilding = record
        .repairs
        .get(&slot.column)
        .is_some_and(|repair| repair.attempt >= slot.attempt && repair.grant.holder.peer == here);
    record.job == slot.job && (rebuilding || names(&record.columns, slot, here))
}
