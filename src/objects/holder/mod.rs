//! This node as a holder: it keeps columns for others, under leases that it granted, and proves that it does.
//!
//! Who may what: `Put`, `Rebuild` and `Seal` are for the writer of the column, as its lease has it: the uploader that
//! the quorum named when it asked for the lease. When another node uploads into the run by now, its first message has
//! this node ask the quorum, by a linearizable read, whether it is the run's uploader and the column, attempt and lease
//! are what the quorum has recorded. Under a lease that no peer writes under, `Rebuild` and `Seal` are a repair, for
//! voters of the quorum. So are `Confirm`, `Release` and `Audit`. `Get` and `ListPieces` are for everyone admitted to
//! the network: a piece is asked for by its hash. The name of a lease gives no right to anybody.
//!
//! No more bytes come under a lease than it reserves. A lease that has ended takes no further piece; what came under it
//! can still be sealed, and the collector lets go of nothing that the steward still wants.
//!
//! What a fault leads to: wrong bytes, stale attempts, unknown leases, peers that are not the writer and changes of
//! what was sealed are *refused* with the reason; a check that cannot be made is `Busy` (*retry*); a full disk and a
//! full lease are their own refusals, so that the asker takes another holder.

pub mod actor;
pub(super) mod client;
pub(super) mod maintenance;
mod rebuild;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use quorate_protocols::approval::Writer;
use quorate_protocols::ids::{JobId, LeaseId, PeerId, PieceHash, PieceIndex, SegmentIndex};
use quorate_protocols::job::JobRecord;
use quorate_protocols::object::CheckedPiece;
use quorate_protocols::object::limits::SEGMENTS_MAX;
use quorate_protocols::object::manifest::column_digest;
use quorate_protocols::piece::limits::{PIECE_BYTES_MAX, STALL};
use quorate_protocols::piece::{HeldPiece, PieceAnswer, PieceMessage, PieceRefusal, Receipt, ReceiptStatement, Slot};
use quorate_protocols::quorum::request::{Query, QueryAnswer};

pub use client::{PieceCallError, PieceClient};

use super::ObjectsContext;
use super::coding::Coders;
use super::events::{Events, Metrics, ObjectEvent};
use super::store::{HoldState, Permit, PieceStore, ReadPiece, StoreError};
use crate::certificates::Standing;
use crate::seams::{DiskError, Failpoint, failpoint, run_blocking};

/// Rows of one answer to `ListPieces`.
const HELD_MAX: usize = 4_096;

/// Bytes read for one answer to `Audit`, so that it answers well within the deadline on a slow disk.
const AUDIT_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Rebuilds at once: each holds a segment's worth of pieces in memory.
const REBUILDS_MAX: usize = 2;

/// Questions to quorums at once about who uploads into a run. Only who knows a lease without being its writer causes
/// one: a node that goes on with another's upload, once per column.
const QUESTIONS_MAX: usize = 8;

/// How long a quorum is asked for. Then the sender is told `Busy` and asks again, so that a quorum between two
/// primaries costs its put no column.
const QUESTION_DEADLINE: Duration = Duration::from_secs(2);

const _: () = assert!(QUESTION_DEADLINE.as_millis() < STALL.as_millis());

/// The holder's answers. Cloneable; all clones are the same holder.
#[derive(Clone)]
pub struct PieceService {
    inner: Arc<Inner>,
}

struct Inner {
    context: Arc<ObjectsContext>,
    store: PieceStore,
    coders: Coders,
    events: Events,
    metrics: Arc<Metrics>,
    rebuilds: tokio::sync::Semaphore,
    questions: tokio::sync::Semaphore,
}

impl PieceService {
    pub fn new(context: Arc<ObjectsContext>, events: Events, metrics: Arc<Metrics>) -> Self {
        let store = PieceStore::new(context.storage.clone(), context.seams.clock.clone());
        let rebuilds = tokio::sync::Semaphore::new(REBUILDS_MAX);
        let questions = tokio::sync::Semaphore::new(QUESTIONS_MAX);
        let coders = Coders::default();
        Self { inner: Arc::new(Inner { context, store, coders, events, metrics, rebuilds, questions }) }
    }

    pub fn peer(&self) -> PeerId {
        self.inner.context.identity.peer()
    }

    pub fn store(&self) -> &PieceStore {
        &self.inner.store
    }

    /// Answers one message. `from` is the transport's authenticated peer, or this node itself. Boxed, because a
    /// rebuild may ask this same service for a piece.
    pub fn handle(
        &self,
        from: PeerId,
        message: PieceMessage,
        payload: Bytes,
    ) -> BoxFuture<'static, (PieceAnswer, Bytes)> {
        let service = self.clone();
        Box::pin(async move { service.answer(from, message, payload).await })
    }

    async fn answer(&self, from: PeerId, message: PieceMessage, payload: Bytes) -> (PieceAnswer, Bytes) {
        let answer = match message {
            PieceMessage::Get { hash, offset, length } => match self.get(hash, offset, length).await {
                Ok((total, bytes)) => return (PieceAnswer::Piece { total }, bytes),
                Err(refusal) => Err(refusal),
            },
            PieceMessage::Put { slot, lease, segment, hash } => {
                self.put(from, slot, lease, segment, hash, payload).await
            }
            PieceMessage::ListPieces { slot, from } => self.list_pieces(slot, from),
            PieceMessage::Seal { slot, lease, pieces } => self.seal(from, slot, lease, pieces).await,
            PieceMessage::Rebuild { slot, lease, profile, parts } => {
                self.rebuild(from, slot, lease, profile, parts).await
            }
            PieceMessage::Confirm { slot, lease, manifest } => match self.allow_member(from, slot.job).await {
                Ok(()) => self.confirm(slot, lease, manifest).await,
                Err(refusal) => Err(refusal),
            },
            PieceMessage::Release { slot } => self.release(from, slot).await,
            PieceMessage::Audit { slot, from: first } => match self.allow_member(from, slot.job).await {
                Ok(()) => self.audit(slot, first).await,
                Err(refusal) => Err(refusal),
            },
        };
        let answer = answer.unwrap_or_else(|refusal| {
            Metrics::add(&self.inner.metrics.requests_refused, 1);
            if matches!(refusal, PieceRefusal::StaleAttempt { .. }) {
                Metrics::add(&self.inner.metrics.stale_attempts_refused, 1);
            }
            tracing::debug!(?from, %refusal, "piece request refused");
            PieceAnswer::Refused(refusal)
        });
        (answer, Bytes::new())
    }

    async fn put(
        &self,
        from: PeerId,
        slot: Slot,
        lease: LeaseId,
        segment: SegmentIndex,
        hash: PieceHash,
        payload: Bytes,
    ) -> Result<PieceAnswer, PieceRefusal> {
        if payload.is_empty() || payload.len() > PIECE_BYTES_MAX || segment.0 as usize >= SEGMENTS_MAX {
            return Err(PieceRefusal::Failed { reason: "no piece has that place and length".into() });
        }
        let permit = self.check_uploader(from, slot, lease).await?;
        let piece = run_blocking(move || CheckedPiece::check(hash, payload))
            .await
            .map_err(|_| PieceRefusal::WrongHash { expected: hash })?;
        self.receive_piece(slot, permit, segment, piece).await
    }

    /// As `Put`, for a piece of this node's own whose hash was computed in this process.
    pub async fn put_checked(
        &self,
        slot: Slot,
        lease: LeaseId,
        segment: SegmentIndex,
        piece: CheckedPiece,
    ) -> Result<PieceAnswer, PieceRefusal> {
        let permit = self.check_uploader(self.peer(), slot, lease).await?;
        self.receive_piece(slot, permit, segment, piece).await
    }

    async fn receive_piece(
        &self,
        slot: Slot,
        permit: Permit,
        segment: SegmentIndex,
        piece: CheckedPiece,
    ) -> Result<PieceAnswer, PieceRefusal> {
        let bytes = piece.bytes().len() as u64;
        self.store_piece(slot, permit, segment, piece).await?;
        Metrics::add(&self.inner.metrics.pieces_received, 1);
        Metrics::add(&self.inner.metrics.bytes_received, bytes);
        Ok(PieceAnswer::Stored)
    }

    /// Stores a piece within what its lease reserves.
    async fn store_piece(
        &self,
        slot: Slot,
        permit: Permit,
        segment: SegmentIndex,
        piece: CheckedPiece,
    ) -> Result<(), PieceRefusal> {
        let leases = &self.inner.context.leases;
        let has_room = |bytes| leases.reserve(permit.lease, bytes);
        match self.inner.store.put(slot, permit, segment, piece, has_room).await {
            Ok(replaced) => {
                self.end_replaced(replaced);
                Ok(())
            }
            Err(StoreError::OverLease) if !leases.is_alive(permit.lease) => Err(PieceRefusal::UnknownLease),
            Err(error) => Err(refusal(error)),
        }
    }

    /// The lease of an assignment whose column went to a newer one keeps nothing any more.
    fn end_replaced(&self, replaced: Option<LeaseId>) {
        if let Some(lease) = replaced {
            self.end_lease(lease);
        }
    }

    async fn get(&self, hash: PieceHash, offset: u32, length: u32) -> Result<(u32, Bytes), PieceRefusal> {
        let bytes = match self.inner.store.read(hash).await.map_err(refusal)? {
            ReadPiece::Bytes(bytes) => bytes,
            ReadPiece::NotHeld => return Err(PieceRefusal::NotHeld),
            ReadPiece::Damaged { reason } => {
                self.note_damaged(hash, reason);
                return Err(PieceRefusal::NotHeld);
            }
        };
        let start = (offset as usize).min(bytes.len());
        let end = start.saturating_add(length as usize).min(bytes.len());
        Metrics::add(&self.inner.metrics.pieces_served, 1);
        Metrics::add(&self.inner.metrics.bytes_served, (end - start) as u64);
        Ok((bytes.len() as u32, bytes.slice(start..end)))
    }

    fn list_pieces(&self, slot: Slot, from: SegmentIndex) -> Result<PieceAnswer, PieceRefusal> {
        let store = &self.inner.store;
        if let Some(row) = store.column(slot.job, slot.column).map_err(refusal)?
            && row.attempt > slot.attempt
        {
            return Err(PieceRefusal::StaleAttempt { given: slot.attempt, newest: row.attempt });
        }
        let mut pieces = Vec::new();
        for (segment, row) in store.held(slot.job, slot.column, from, HELD_MAX).map_err(refusal)? {
            if !store.is_damaged(row.hash).map_err(refusal)? {
                pieces.push(HeldPiece { segment, hash: row.hash });
            }
        }
        Ok(PieceAnswer::Pieces(pieces))
    }

    async fn seal(
        &self,
        from: PeerId,
        slot: Slot,
        lease: LeaseId,
        pieces: Vec<PieceHash>,
    ) -> Result<PieceAnswer, PieceRefusal> {
        if pieces.len() > SEGMENTS_MAX {
            return Err(PieceRefusal::Failed { reason: "no object has so many segments".into() });
        }
        let permit = self.check_writer(from, slot, lease).await?;
        let replaced = self.inner.store.seal(slot, permit, &pieces).await.map_err(refusal)?;
        self.end_replaced(replaced);
        let statement = ReceiptStatement {
            slot,
            holder: self.peer(),
            lease,
            column: column_digest(pieces.iter().copied()),
            segments: pieces.len() as u32,
        };
        Ok(PieceAnswer::Sealed(Receipt::sign(self.inner.context.identity.signing_key(), statement)))
    }

    async fn confirm(
        &self,
        slot: Slot,
        lease: LeaseId,
        manifest: quorate_protocols::ids::ManifestHash,
    ) -> Result<PieceAnswer, PieceRefusal> {
        let row = self.inner.store.confirm(slot, lease, manifest).await.map_err(refusal)?;
        self.inner.context.leases.settle(lease, row.bytes);
        Ok(PieceAnswer::Acknowledged)
    }

    async fn release(&self, from: PeerId, slot: Slot) -> Result<PieceAnswer, PieceRefusal> {
        // Nothing here, nothing to ask the quorum about.
        if self.inner.store.column(slot.job, slot.column).map_err(refusal)?.is_none() {
            return Ok(PieceAnswer::Acknowledged);
        }
        self.allow_member(from, slot.job).await?;
        self.let_go(slot, "the steward released it").await.map_err(refusal)?;
        Ok(PieceAnswer::Acknowledged)
    }

    async fn audit(&self, slot: Slot, from: SegmentIndex) -> Result<PieceAnswer, PieceRefusal> {
        let row = self.inner.store.column(slot.job, slot.column).map_err(refusal)?.ok_or(PieceRefusal::NotHeld)?;
        if row.attempt > slot.attempt {
            return Err(PieceRefusal::StaleAttempt { given: slot.attempt, newest: row.attempt });
        }
        if row.attempt < slot.attempt || matches!(row.state, HoldState::Released { .. }) {
            return Err(PieceRefusal::NotHeld);
        }
        let (mut damaged, mut read, mut next) = (Vec::new(), 0, None);
        for (segment, row) in self.inner.store.held(slot.job, slot.column, from, HELD_MAX).map_err(refusal)? {
            if read >= AUDIT_BYTES_MAX {
                next = Some(segment);
                break;
            }
            read += row.bytes as u64;
            if !self.check_piece(row.hash).await? {
                damaged.push(segment);
            }
        }
        Ok(PieceAnswer::Audited { next, damaged })
    }

    /// Reads a piece back and hashes it; says so when it is damaged.
    async fn check_piece(&self, hash: PieceHash) -> Result<bool, PieceRefusal> {
        match self.inner.store.verify(hash).await.map_err(refusal)? {
            ReadPiece::Bytes(_) => Ok(true),
            ReadPiece::NotHeld => Ok(false),
            ReadPiece::Damaged { reason } => {
                self.note_damaged(hash, reason);
                Ok(false)
            }
        }
    }

    fn note_damaged(&self, hash: PieceHash, reason: String) {
        tracing::warn!(%hash, reason, "a piece on this disk is damaged");
        Metrics::add(&self.inner.metrics.pieces_damaged, 1);
        self.inner.events.send(ObjectEvent::PieceDamaged { hash, reason });
    }

    /// Gives back what the lease of a column sets aside. Of a lease that has ended, nothing.
    fn end_lease(&self, mut lease: LeaseId) {
        failpoint(Failpoint::ColumnLeaseEnds, &mut lease);
        self.inner.context.leases.release(lease);
    }

    /// Lets go of a column: its pieces leave through the quarantine, its disk is given back.
    async fn let_go(&self, slot: Slot, reason: &str) -> Result<(), StoreError> {
        if let Some(row) = self.inner.store.release(slot).await? {
            // The end of the lease would refuse late pieces as well as the tombstone does.
            self.end_lease(row.lease);
            let (job, column, reason) = (slot.job, slot.column, reason.to_owned());
            self.inner.events.send(ObjectEvent::ColumnCollected { job, column, reason });
        }
        Ok(())
    }

    /// By what right `from` changes the column under the lease: it is the writer that the lease has, or that the
    /// quorum names, or a voter that orders a repair. What the writer does keeps the lease alive.
    async fn check_writer(&self, from: PeerId, slot: Slot, lease: LeaseId) -> Result<Permit, PieceRefusal> {
        let leases = &self.inner.context.leases;
        let writer = match leases.writer(lease, slot.job) {
            Some(writer) => writer,
            // It has ended, and what came under it is still here.
            None => {
                let row = self.inner.store.column(slot.job, slot.column).map_err(refusal)?;
                row.filter(|row| row.lease == lease).ok_or(PieceRefusal::UnknownLease)?.writer
            }
        };
        let writer = match writer.peer() {
            Some(peer) if peer == from => writer,
            Some(_) => {
                self.ask_uploader(from, slot, lease).await?;
                leases.set_writer(lease, slot.job, from);
                writer.with_peer(from)
            }
            None => {
                self.allow_member(from, slot.job).await?;
                writer
            }
        };
        leases.touch(lease);
        Ok(Permit { lease, writer })
    }

    /// As [`Self::check_writer`], for whoever sends pieces: in a repair nobody does.
    async fn check_uploader(&self, from: PeerId, slot: Slot, lease: LeaseId) -> Result<Permit, PieceRefusal> {
        let permit = self.check_writer(from, slot, lease).await?;
        if permit.writer == Writer::Quorum { Err(PieceRefusal::NotAllowed) } else { Ok(permit) }
    }

    /// Whether the quorum has `from` upload into the run, and gave this column to this node, at this attempt and under
    /// this lease.
    async fn ask_uploader(&self, from: PeerId, slot: Slot, lease: LeaseId) -> Result<(), PieceRefusal> {
        let Ok(_one_of_few) = self.inner.questions.try_acquire() else { return Err(PieceRefusal::Busy) };
        let query = Query::Job { job: slot.job };
        match self.inner.context.quorums.query(slot.job.quorum, query, false, QUESTION_DEADLINE).await {
            Ok(QueryAnswer::Job(record)) if assigns(&record, from, slot, lease, self.peer()) => Ok(()),
            Ok(_) => Err(PieceRefusal::NotAllowed),
            Err(error) => {
                tracing::debug!(job = %slot.job, %error, "could not ask who uploads into a run");
                Err(PieceRefusal::Busy)
            }
        }
    }

    /// Whether `from` is a voter of the quorum that owns the job. Asked only about columns that are held here, so that
    /// a stranger cannot make this node ask around.
    async fn allow_member(&self, from: PeerId, job: JobId) -> Result<(), PieceRefusal> {
        match self.inner.context.standings.standing(job.quorum, from).await {
            Standing::Voter => Ok(()),
            Standing::Moved { .. } | Standing::Stranger => Err(PieceRefusal::NotAllowed),
            // Not known is not "no": the asker repeats itself until it is answered.
            Standing::Silent => Err(PieceRefusal::Busy),
        }
    }

    /// This node's slot of a column, at the newest attempt it has seen.
    fn slot_of(job: JobId, column: PieceIndex, row: &super::store::ColumnRow) -> Slot {
        Slot { job, column, attempt: row.attempt }
    }
}

/// Whether the record has the peer upload into the run, and the slot and lease at this holder.
fn assigns(record: &JobRecord, uploader: PeerId, slot: Slot, lease: LeaseId, here: PeerId) -> bool {
    let Some((_, run)) = record.store().filter(|(_, run)| run.uploader == uploader) else { return false };
    let column = run.columns.get(usize::from(slot.column.0));
    let granted = column.filter(|column| column.attempt == slot.attempt).and_then(|column| column.grant);
    !record.state.is_final() && granted.is_some_and(|grant| grant.holder.peer == here && grant.lease == lease)
}

fn refusal(error: StoreError) -> PieceRefusal {
    match error {
        StoreError::StaleAttempt { given, newest } => PieceRefusal::StaleAttempt { given, newest },
        StoreError::Released | StoreError::LeaseUsed => PieceRefusal::UnknownLease,
        StoreError::Settled => PieceRefusal::Settled,
        StoreError::OverLease => PieceRefusal::OverLease,
        StoreError::NotHeld => PieceRefusal::NotHeld,
        StoreError::Incomplete { missing, first } => PieceRefusal::Incomplete { missing, first },
        StoreError::Disk(DiskError::Full { .. }) => PieceRefusal::DiskFull,
        StoreError::Disk(error) => {
            tracing::error!(%error, "the piece store failed");
            PieceRefusal::Failed { reason: error.to_string() }
        }
    }
}
