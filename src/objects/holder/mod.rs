//! This node as a holder: it keeps columns for others, under leases that it granted, and proves that it does.
//!
//! Who may what: `Put`, `Rebuild` and `Seal` are for whoever names the lease of the column, a secret between this node,
//! the quorum that asked for it and the node that feeds the run. `Confirm`, `Release` and `Audit` are for members of
//! the quorum that owns the run. `Get` and `ListPieces` are for everyone admitted to the network: a piece is asked for
//! by its hash.
//!
//! A lease that this node no longer knows still counts when its index names it for the column: a restart of the holder
//! loses leases but not promises, and the collector lets go of nothing that the steward still wants.
//!
//! What a fault leads to: wrong bytes, stale attempts and unknown leases are *refused* with the reason; a member check
//! that cannot be made is `Busy` (*retry*); a full disk is its own refusal, so that the asker takes another holder.

pub mod actor;
pub(super) mod client;
pub(super) mod maintenance;
mod rebuild;

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use quorate_protocols::ids::{JobId, LeaseId, PeerId, PieceHash, PieceIndex, SegmentIndex};
use quorate_protocols::object::CheckedPiece;
use quorate_protocols::object::limits::SEGMENTS_MAX;
use quorate_protocols::object::manifest::column_digest;
use quorate_protocols::piece::limits::PIECE_BYTES_MAX;
use quorate_protocols::piece::{HeldPiece, PieceAnswer, PieceMessage, PieceRefusal, Receipt, ReceiptStatement, Slot};

pub use client::{PieceCallError, PieceClient};

use super::ObjectsContext;
use super::coding::Coders;
use super::events::{Events, Metrics, ObjectEvent};
use super::store::{PieceStore, ReadPiece, StoreError};
use crate::certificates::Standing;
use crate::seams::{DiskError, Failpoint, failpoint, run_blocking};

/// Rows of one answer to `ListPieces`.
const HELD_MAX: usize = 4_096;

/// Bytes read for one answer to `Audit`, so that it answers well within the deadline on a slow disk.
const AUDIT_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Rebuilds at once: each holds a segment's worth of pieces in memory.
const REBUILDS_MAX: usize = 2;

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
}

impl PieceService {
    pub fn new(context: Arc<ObjectsContext>, events: Events, metrics: Arc<Metrics>) -> Self {
        let store = PieceStore::new(context.storage.clone(), context.seams.clock.clone());
        let rebuilds = tokio::sync::Semaphore::new(REBUILDS_MAX);
        let coders = Coders::default();
        Self { inner: Arc::new(Inner { context, store, coders, events, metrics, rebuilds }) }
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
            PieceMessage::Put { slot, lease, segment, hash } => self.put(slot, lease, segment, hash, payload).await,
            PieceMessage::ListPieces { slot, from } => self.list_pieces(slot, from),
            PieceMessage::Seal { slot, lease, pieces } => self.seal(slot, lease, pieces).await,
            PieceMessage::Rebuild { slot, lease, profile, parts } => self.rebuild(slot, lease, profile, parts).await,
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
        slot: Slot,
        lease: LeaseId,
        segment: SegmentIndex,
        hash: PieceHash,
        payload: Bytes,
    ) -> Result<PieceAnswer, PieceRefusal> {
        if payload.is_empty() || payload.len() > PIECE_BYTES_MAX || segment.0 as usize >= SEGMENTS_MAX {
            return Err(PieceRefusal::Failed { reason: "no piece has that place and length".into() });
        }
        self.allow_lease(slot, lease)?;
        let piece = run_blocking(move || CheckedPiece::check(hash, payload))
            .await
            .map_err(|_| PieceRefusal::WrongHash { expected: hash })?;
        self.put_checked(slot, lease, segment, piece).await
    }

    /// As `Put`, for a piece whose hash was computed in this process.
    pub async fn put_checked(
        &self,
        slot: Slot,
        lease: LeaseId,
        segment: SegmentIndex,
        piece: CheckedPiece,
    ) -> Result<PieceAnswer, PieceRefusal> {
        self.allow_lease(slot, lease)?;
        let bytes = piece.bytes().len() as u64;
        self.inner.store.put(slot, lease, segment, piece).await.map_err(refusal)?;
        Metrics::add(&self.inner.metrics.pieces_received, 1);
        Metrics::add(&self.inner.metrics.bytes_received, bytes);
        Ok(PieceAnswer::Stored)
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

    async fn seal(&self, slot: Slot, lease: LeaseId, pieces: Vec<PieceHash>) -> Result<PieceAnswer, PieceRefusal> {
        if pieces.len() > SEGMENTS_MAX {
            return Err(PieceRefusal::Failed { reason: "no object has so many segments".into() });
        }
        self.allow_lease(slot, lease)?;
        self.inner.store.seal(slot, lease, &pieces).await.map_err(refusal)?;
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
        self.inner.store.confirm(slot, manifest).await.map_err(refusal)?;
        let bytes = self.inner.store.column_bytes(slot.job, slot.column).map_err(refusal)?;
        self.inner.context.leases.settle(lease, bytes);
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
        if row.attempt != slot.attempt {
            return Err(PieceRefusal::StaleAttempt { given: slot.attempt, newest: row.attempt });
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

    fn allow_lease(&self, slot: Slot, lease: LeaseId) -> Result<(), PieceRefusal> {
        if self.inner.context.leases.touch(lease, slot.job) {
            return Ok(());
        }
        let known = self.inner.store.column(slot.job, slot.column).map_err(refusal)?;
        if known.is_some_and(|row| row.lease == lease) { Ok(()) } else { Err(PieceRefusal::UnknownLease) }
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

fn refusal(error: StoreError) -> PieceRefusal {
    match error {
        StoreError::StaleAttempt { given, newest } => PieceRefusal::StaleAttempt { given, newest },
        StoreError::Released => PieceRefusal::UnknownLease,
        StoreError::NotHeld => PieceRefusal::NotHeld,
        StoreError::Incomplete { missing, first } => PieceRefusal::Incomplete { missing, first },
        StoreError::Disk(DiskError::Full { .. }) => PieceRefusal::DiskFull,
        StoreError::Disk(error) => {
            tracing::error!(%error, "the piece store failed");
            PieceRefusal::Failed { reason: error.to_string() }
        }
    }
}
