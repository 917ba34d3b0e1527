//! One segment of a read: which pieces to ask of whom, and what to do about those that do not come.
//!
//! The data pieces that the range touches are asked for first, since they need no decoding. A holder that fails, or is
//! slower than the others were, is backed up by the next best column; as soon as k pieces are there, whichever they
//! are, the rest is computed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use quorate_protocols::ids::{PeerId, PieceIndex, SegmentIndex};
use quorate_protocols::object::CheckedPiece;
use quorate_protocols::piece::PieceRefusal;
use tokio::time::{Instant, sleep, sleep_until};

use super::{ByPeer, Read};
use crate::objects::events::{Metrics, ObjectEvent};
use crate::objects::{GetError, PieceCallError};
use crate::quorums::Report;
use crate::seams::{run_blocking, spawn};

/// One piece from one holder; after that it counts as failed.
const PIECE_DEADLINE: Duration = Duration::from_secs(10);

/// A further piece is asked for after this multiple of what pieces took in this read so far, within these bounds: a
/// machine that is merely busy should not be asked for more.
const HEDGE_FACTOR: u32 = 4;
const HEDGE_MIN: Duration = Duration::from_millis(250);
const HEDGE_MAX: Duration = Duration::from_secs(2);

/// A busy holder is asked again after this.
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// How long a reader tries to reach the steward with news of a damaged column.
const SUSPECT_DEADLINE: Duration = Duration::from_secs(10);

/// Faults listed in an error.
const FAULTS_TOLD_MAX: usize = 12;

/// What a read learnt about its holders.
#[derive(Default)]
pub(super) struct Holders {
    faults: ByPeer<u32>,
    outstanding: ByPeer<u32>,
    /// Columns that the steward has been told of.
    suspected: BTreeSet<PieceIndex>,
    /// Average time of one piece, in milliseconds; zero when none came yet.
    piece_ms: u64,
}

impl Holders {
    fn took(&mut self, elapsed: Duration) {
        let elapsed = elapsed.as_millis() as u64 + 1;
        self.piece_ms = if self.piece_ms == 0 { elapsed } else { (self.piece_ms * 3 + elapsed) / 4 };
    }
    fn hedge_after(&self) -> Duration {
        match self.piece_ms {
            0 => HEDGE_MAX,
            average => (Duration::from_millis(average) * HEDGE_FACTOR).clamp(HEDGE_MIN, HEDGE_MAX),
        }
    }
}

impl Read {
    /// The bytes `range` of a segment, as slices of its data pieces.
    pub(super) async fn segment(&self, segment: SegmentIndex, range: Range<usize>) -> Result<Vec<Bytes>, GetError> {
        let layout = self.manifest.layout();
        let piece_bytes = layout.piece_bytes(segment.0);
        let touched = range.start / piece_bytes..range.end.div_ceil(piece_bytes);
        let pieces = self.fetch(segment, piece_bytes, touched.clone()).await?;
        let data = if touched.clone().all(|index| pieces[index].is_some()) {
            pieces
        } else {
            let coder = self.objects.coders.get(self.manifest.profile);
            let decoded = run_blocking(move || coder.and_then(|coder| coder.data(pieces, piece_bytes))).await;
            // `fetch` returned k checked pieces of one length: what it did not, it reported itself.
            let decoded =
                decoded.map_err(|error| self.unreadable(segment, 0, BTreeMap::from([(0, error.to_string())])))?;
            decoded.into_iter().map(Some).collect()
        };
        let parts = touched.filter_map(|index| {
            let (base, piece) = (index * piece_bytes, data.get(index)?.as_ref()?);
            let part = range.start.max(base) - base..range.end.min(base + piece_bytes) - base;
            (!part.is_empty()).then(|| piece.slice(part))
        });
        Ok(parts.collect())
    }

    /// All pieces in `touched`, or any k pieces of the segment.
    async fn fetch(
        &self,
        segment: SegmentIndex,
        piece_bytes: usize,
        touched: Range<usize>,
    ) -> Result<Vec<Option<Bytes>>, GetError> {
        let (columns, needed) = (self.manifest.profile.columns(), self.manifest.profile.data as usize);
        let mut pieces: Vec<Option<Bytes>> = vec![None; columns];
        let mut tried: Vec<Option<PeerId>> = vec![None; columns];
        // Of each column, why it gave no piece when last asked.
        let mut faults = BTreeMap::new();
        let mut running = FuturesUnordered::new();
        let mut placement = self.placement.lock().await.clone();
        // Pieces that should be there or on their way. At first only those touched; once one of these fails or is slow,
        // enough of any to compute it, and one more for every further delay.
        let (mut wanted, mut any, mut fresh) = (touched.len(), false, false);
        // A holder that is known to be absent is not waited for: the piece is computed from others' at once.
        if touched.clone().any(|index| placement.columns[index].is_none_or(|holder| self.is_absent(holder))) {
            (wanted, any) = (wanted.max(needed), true);
        }
        let mut hedge_at = Instant::now() + self.holders().hedge_after();
        loop {
            let found = pieces.iter().flatten().count();
            if touched.clone().all(|index| pieces[index].is_some()) || found >= needed {
                return Ok(pieces);
            }
            for index in self.order(&placement.columns, &touched, any) {
                if found + running.len() >= wanted {
                    break;
                }
                let Some(holder) = placement.columns[index] else { continue };
                if pieces[index].is_none() && tried[index] != Some(holder) {
                    tried[index] = Some(holder);
                    running.push(self.fetch_piece(segment, index, holder, piece_bytes));
                }
            }
            if running.is_empty() {
                if !any {
                    (wanted, any) = (needed, true);
                    continue;
                }
                // Nobody left to ask: perhaps columns have moved.
                if fresh {
                    let open = (0..columns).filter(|index| placement.columns[*index].is_none());
                    faults.extend(open.map(|index| (index, format!("column {index} has no holder now"))));
                    return Err(self.unreadable(segment, found, faults));
                }
                // And whoever failed for a moment gets a second chance.
                fresh = true;
                tried.fill(None);
                placement = self.fresh_placement(placement.generation).await;
                continue;
            }
            tokio::select! {
                biased;
                Some((index, fetched)) = running.next() => match fetched {
                    Ok(piece) => pieces[index] = Some(CheckedPiece::into_bytes(piece)),
                    Err(fault) => {
                        faults.insert(index, fault);
                        (wanted, any) = (wanted.max(needed), true);
                    }
                },
                () = sleep_until(hedge_at), if found + running.len() < columns => {
                    Metrics::add(&self.objects.metrics.pieces_hedged, 1);
                    (wanted, any) = ((found + running.len() + 1).max(needed), true);
                    hedge_at = Instant::now() + self.holders().hedge_after();
                }
            }
        }
    }

    fn is_absent(&self, holder: PeerId) -> bool {
        self.objects.context.net.is_absent(holder)
    }

    /// Columns in the order in which they should be asked: those without faults in this read first, present before
    /// absent, connected before unconnected, data before parity, then the quickest.
    fn order(&self, placement: &[Option<PeerId>], touched: &Range<usize>, any: bool) -> Vec<usize> {
        let views = self.objects.context.net.peers();
        let here = self.objects.service.peer();
        let holders = self.holders();
        let rank = |index: usize| {
            let peer = placement[index].unwrap_or_default();
            let view = views.binary_search_by_key(&peer, |view| view.peer).ok().map(|at| &views[at]);
            let connected = peer == here || view.is_some_and(|view| view.connected);
            let rtt = if peer == here { Duration::ZERO } else { view.and_then(|v| v.rtt).unwrap_or(HEDGE_MAX) };
            let busy = holders.outstanding.get(&peer).copied().unwrap_or_default();
            let faults = holders.faults.get(&peer).copied().unwrap_or_default();
            let parity = index >= self.manifest.profile.data as usize;
            (faults, self.is_absent(peer), !connected, !touched.contains(&index), parity, rtt * (busy + 1), index)
        };
        let mut order: Vec<usize> = (0..placement.len()).filter(|index| any || touched.contains(index)).collect();
        order.sort_by_cached_key(|index| rank(*index));
        order
    }

    async fn fetch_piece(
        &self,
        segment: SegmentIndex,
        index: usize,
        holder: PeerId,
        piece_bytes: usize,
    ) -> (usize, Result<CheckedPiece, String>) {
        let column = PieceIndex(index as u8);
        let Some(hash) = self.manifest.piece(segment, column) else {
            return (index, Err(format!("column {index} is outside the object")));
        };
        let _counted = Outstanding::new(self, holder);
        let (started, until) = (Instant::now(), Instant::now() + PIECE_DEADLINE);
        let fetched = loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.objects.pieces.get(holder, hash, piece_bytes, left).await {
                Err(error) if error.is_busy() && left > BUSY_PAUSE => sleep(BUSY_PAUSE).await,
                fetched => break fetched,
            }
        };
        match fetched {
            Ok(piece) => {
                self.holders().took(started.elapsed());
                (index, Ok(piece))
            }
            Err(error) => {
                *self.holders().faults.entry(holder).or_default() += 1;
                self.note_fault(segment, column, holder, &error);
                (index, Err(format!("column {index}: {error}")))
            }
        }
    }

    /// A holder that has not what it should is named; one that cannot be reached is the network's trouble.
    fn note_fault(&self, segment: SegmentIndex, column: PieceIndex, holder: PeerId, error: &PieceCallError) {
        let wrong = matches!(error, PieceCallError::Wrong { .. } | PieceCallError::Malformed { .. });
        let lacking = matches!(error, PieceCallError::Refused { refusal: PieceRefusal::NotHeld, .. });
        if !(wrong || lacking) {
            tracing::debug!(object = %self.object, %segment, %column, %holder, %error, "a piece did not come");
            return;
        }
        tracing::warn!(object = %self.object, %segment, %column, %holder, %error, "a holder has no good piece");
        Metrics::add(&self.objects.metrics.piece_faults, 1);
        if wrong && !self.objects.pieces.is_local(holder) {
            self.objects.context.net.penalise(holder, "gave a piece that does not hash");
        }
        let (object, reason) = (self.object, error.to_string());
        self.objects.events.send(ObjectEvent::PieceFault { object, segment, column, holder, reason });
        self.report_to_steward(column);
    }

    /// Once per column and read, beside the read: whoever looks after the object looks for itself and repairs.
    fn report_to_steward(&self, column: PieceIndex) {
        if !self.holders().suspected.insert(column) {
            return;
        }
        let object = self.object;
        let suspect = Report::Suspect { manifest: object.manifest, column };
        let told = self.objects.context.quorums.report(object.quorum, suspect, SUSPECT_DEADLINE);
        drop(spawn(async move {
            if let Err(error) = told.await {
                // Its own round of audits will find it.
                tracing::debug!(%object, %column, %error, "the steward was not told of a damaged column");
            }
        }));
    }

    fn unreadable(&self, segment: SegmentIndex, found: usize, faults: BTreeMap<usize, String>) -> GetError {
        let faults = faults.into_values().take(FAULTS_TOLD_MAX).collect::<Vec<_>>().join("; ");
        let needed = self.manifest.profile.data as usize;
        GetError::Unreadable { object: self.object, segment: segment.0, found, needed, faults }
    }
}

/// Counts a question that a holder has not answered yet.
struct Outstanding<'a> {
    read: &'a Read,
    holder: PeerId,
}

impl<'a> Outstanding<'a> {
    fn new(read: &'a Read, holder: PeerId) -> Self {
        *read.holders().outstanding.entry(holder).or_default() += 1;
        Self { read, holder }
    }
}

impl Drop for Outstanding<'_> {
    fn drop(&mut self) {
        if let Some(count) = self.read.holders().outstanding.get_mut(&self.holder) {
            *count = count.saturating_sub(1);
        }
    }
}
