//! Making pieces that this holder should have from pieces that others have: repair, and catching up as a backup.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use quorate_protocols::ids::{LeaseId, PeerId, PieceHash, PieceIndex};
use quorate_protocols::object::limits::{COLUMNS_MAX, SEGMENTS_MAX};
use quorate_protocols::object::{CheckedPiece, Profile};
use quorate_protocols::piece::limits::{PIECE_BYTES_MAX, REBUILD_SEGMENTS_MAX, STALL};
use quorate_protocols::piece::{PieceAnswer, PieceRefusal, RebuildPart, Slot};

use super::{PieceClient, PieceService, refusal};
use crate::objects::events::Metrics;
use crate::objects::store::Permit;
use crate::seams::run_blocking;

impl PieceService {
    /// Rebuilds the parts one after the other, so that memory holds one segment. What could be done is answered; an
    /// error is answered only when nothing could.
    pub(super) async fn rebuild(
        &self,
        from: PeerId,
        slot: Slot,
        lease: LeaseId,
        profile: Profile,
        parts: Vec<RebuildPart>,
    ) -> Result<PieceAnswer, PieceRefusal> {
        check_shape(slot, profile, &parts)?;
        let permit = self.check_writer(from, slot, lease).await?;
        let Ok(_turn) = self.inner.rebuilds.try_acquire() else { return Err(PieceRefusal::Busy) };
        // Before it is looked at what is held already: what is foreign does not count.
        let replaced = self.inner.store.begin(slot, permit).await.map_err(refusal)?;
        self.end_replaced(replaced);
        let (mut done, mut failed) = (Vec::new(), None);
        for part in parts {
            let segment = part.segment;
            match self.rebuild_part(slot, permit, profile, part).await {
                Ok(()) => done.push(segment),
                // Whatever comes next meets the same disk and the same fence.
                Err(refusal) if !matches!(refusal, PieceRefusal::Sources { .. }) => {
                    failed = Some(refusal);
                    break;
                }
                Err(refusal) => failed = Some(refusal),
            }
        }
        match failed {
            Some(refusal) if done.is_empty() => Err(refusal),
            _ => Ok(PieceAnswer::Rebuilt(done)),
        }
    }

    async fn rebuild_part(
        &self,
        slot: Slot,
        permit: Permit,
        profile: Profile,
        part: RebuildPart,
    ) -> Result<(), PieceRefusal> {
        let RebuildPart { segment, hash: wanted, piece_bytes, sources } = part;
        if self.inner.store.holds(slot, segment, wanted).map_err(refusal)? {
            return Ok(());
        }
        let piece_bytes = piece_bytes as usize;
        let pieces = self.fetch_enough(profile, piece_bytes, sources).await?;
        let coder = self.inner.coders.get(profile).map_err(|e| PieceRefusal::Failed { reason: e.to_string() })?;
        let rebuilt = run_blocking(move || {
            let bytes = coder.rebuild(pieces, piece_bytes, slot.column).map_err(|error| error.to_string())?;
            // Good sources that give another piece mean that the asker named the wrong hash.
            CheckedPiece::check(wanted, bytes).map_err(|fault| fault.to_string())
        })
        .await
        .map_err(|reason| PieceRefusal::Sources { reason })?;
        self.store_piece(slot, permit, segment, rebuilt).await?;
        Metrics::add(&self.inner.metrics.pieces_rebuilt, 1);
        Ok(())
    }

    /// k good pieces of the segment: the first k sources at once, the others as those fail.
    async fn fetch_enough(
        &self,
        profile: Profile,
        piece_bytes: usize,
        sources: Vec<(PieceIndex, PieceHash, PeerId)>,
    ) -> Result<Vec<Option<Bytes>>, PieceRefusal> {
        let needed = profile.data as usize;
        let client = PieceClient::new(self.inner.context.net.clone(), self.clone());
        let mut sources = sources;
        sources.sort_by_key(|(_, _, peer)| self.inner.context.net.is_absent(*peer));
        let mut waiting: VecDeque<_> = sources.into();
        let mut running = FuturesUnordered::new();
        let mut pieces = vec![None; profile.columns()];
        let (mut found, mut faults) = (0, Vec::new());
        while found < needed {
            while running.len() < needed - found
                && let Some((index, hash, peer)) = waiting.pop_front()
            {
                let client = client.clone();
                running.push(async move { (index, client.get(peer, hash, piece_bytes, STALL * 2).await) });
            }
            match running.next().await {
                None => {
                    let reason = format!("{found} of {needed} pieces: {}", faults.join("; "));
                    return Err(PieceRefusal::Sources { reason });
                }
                Some((index, Ok(piece))) => {
                    pieces[index.0 as usize] = Some(CheckedPiece::into_bytes(piece));
                    found += 1;
                }
                Some((index, Err(error))) => {
                    tracing::debug!(%index, %error, "a source of a rebuild failed");
                    faults.push(error.to_string());
                }
            }
        }
        Ok(pieces)
    }
}

/// A rebuild makes this node fetch: its shape is checked before anything is asked of anyone.
fn check_shape(slot: Slot, profile: Profile, parts: &[RebuildPart]) -> Result<(), PieceRefusal> {
    let bad = |reason: &str| Err(PieceRefusal::Failed { reason: reason.into() });
    if Profile::new(profile.data, profile.parity).is_none() || slot.column.0 as usize >= profile.columns() {
        return bad("no such profile or column");
    }
    if parts.len() > REBUILD_SEGMENTS_MAX {
        return bad("more segments than one rebuild takes");
    }
    for part in parts {
        let bytes = part.piece_bytes as usize;
        if bytes == 0 || bytes > PIECE_BYTES_MAX || part.segment.0 as usize >= SEGMENTS_MAX {
            return bad("no piece has that place and length");
        }
        let mut seen = [false; COLUMNS_MAX];
        for (index, _, _) in &part.sources {
            match seen.get_mut(index.0 as usize) {
                Some(seen) if !*seen && (index.0 as usize) < profile.columns() && *index != slot.column => *seen = true,
                _ => return bad("a source that is no other column, or named twice"),
            }
        }
    }
    Ok(())
}
