//! Calls of a put to its holders: a piece is sent until it is stored, a column sealed, and what a holder has is listed,
//! for a seal that found pieces missing and for a put that is resumed.

use std::collections::BTreeMap;

use quorate_protocols::approval::Grant;
use quorate_protocols::ids::{Attempt, PeerId, PieceHash, PieceIndex, SegmentIndex};
use quorate_protocols::object::CheckedPiece;
use quorate_protocols::object::manifest::column_digest;
use quorate_protocols::piece::limits::DEADLINE;
use quorate_protocols::piece::{PieceAnswer, PieceMessage, PieceRefusal, Receipt, Slot};
use tokio::time::{Duration, Instant, sleep, timeout};

use super::Run;
use crate::objects::holder::client::unexpected;
use crate::objects::{PieceCallError, PieceClient};
use crate::seams::NetError;

/// Pause before a busy holder is asked again, or a broken connection tried once more.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Pause before a rebuild whose sources failed is asked for again.
pub(super) const REBUILD_PAUSE: Duration = Duration::from_millis(250);

/// How long a holder may take to say what it has of a column, when a put is resumed.
const HELD_DEADLINE: Duration = Duration::from_secs(5);

pub(super) enum SealFault {
    Missing(Vec<SegmentIndex>),
    Failed(String),
}

/// Sends one piece until it is stored, the holder is clearly not able to, or the deadline passes.
pub(super) async fn send_piece(
    client: PieceClient,
    grant: Grant,
    slot: Slot,
    segment: SegmentIndex,
    piece: CheckedPiece,
) -> Result<(), String> {
    let (holder, lease, until) = (grant.holder.peer, grant.lease, Instant::now() + DEADLINE);
    let mut may_reconnect = true;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let error = match client.put(holder, slot, lease, segment, piece.clone(), left).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let lost = matches!(error, PieceCallError::Net(NetError::Broken { .. } | NetError::Unreachable { .. }));
        // A connection may have closed for reasons of its own: one more try tells. Storing twice does no harm.
        let again = error.is_busy() || (lost && std::mem::take(&mut may_reconnect));
        if !again || left <= RETRY_PAUSE {
            return Err(error.to_string());
        }
        sleep(RETRY_PAUSE).await;
    }
}

/// Asks for the column's receipt, and when the holder lacks pieces, which.
pub(super) async fn seal_column(
    client: PieceClient,
    grant: Grant,
    slot: Slot,
    pieces: Vec<PieceHash>,
) -> Result<Receipt, SealFault> {
    let (holder, lease) = (grant.holder.peer, grant.lease);
    let mut tries = 0;
    loop {
        tries += 1;
        let message = PieceMessage::Seal { slot, lease, pieces: pieces.clone() };
        match client.ask_again(holder, message, DEADLINE).await {
            Ok((PieceAnswer::Sealed(receipt), _)) => {
                let said = receipt.statement;
                let right = said.slot == slot && said.holder == holder && said.lease == lease;
                let whole =
                    said.segments as usize == pieces.len() && said.column == column_digest(pieces.iter().copied());
                return if right && whole && receipt.is_genuine() {
                    Ok(receipt)
                } else {
                    Err(SealFault::Failed("its receipt is not for this column".into()))
                };
            }
            Ok((other, _)) => return Err(SealFault::Failed(unexpected(holder, &other).to_string())),
            Err(PieceCallError::Refused { refusal: PieceRefusal::Incomplete { .. }, .. }) => {
                return Err(missing(&client, holder, slot, &pieces).await);
            }
            Err(error) => {
                let lost = matches!(error, PieceCallError::Net(NetError::Broken { .. } | NetError::Unreachable { .. }));
                if !(error.is_busy() || lost) || tries > 3 {
                    return Err(SealFault::Failed(error.to_string()));
                }
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

async fn missing(client: &PieceClient, holder: PeerId, slot: Slot, pieces: &[PieceHash]) -> SealFault {
    match held_of(client, holder, slot).await {
        Ok(held) => {
            let lacking = lacking(&held, (0..).map(SegmentIndex).zip(pieces.iter().copied()));
            // It filled up in between: asking for nothing again would go round for ever, so let the first be sent anew.
            SealFault::Missing(if lacking.is_empty() { vec![SegmentIndex(0)] } else { lacking })
        }
        Err(error) => SealFault::Failed(error.to_string()),
    }
}

fn lacking(
    held: &BTreeMap<SegmentIndex, PieceHash>,
    pieces: impl IntoIterator<Item = (SegmentIndex, PieceHash)>,
) -> Vec<SegmentIndex> {
    let gone = pieces.into_iter().filter(|(segment, hash)| held.get(segment) != Some(hash));
    gone.map(|(segment, _)| segment).collect()
}

/// Which of these pieces the holder lacks. A holder that is busy, restarting or out of reach is asked again, for as
/// long as the plan has patience with its column.
pub(super) async fn check_column(
    client: PieceClient,
    holder: PeerId,
    slot: Slot,
    pieces: BTreeMap<SegmentIndex, PieceHash>,
) -> Result<Vec<SegmentIndex>, String> {
    loop {
        match held_of(&client, holder, slot).await {
            Ok(held) => return Ok(lacking(&held, pieces)),
            Err(error) if error.is_busy() || matches!(error, PieceCallError::Net(_)) => sleep(REBUILD_PAUSE).await,
            Err(error) => return Err(error.to_string()),
        }
    }
}

async fn held_of(
    client: &PieceClient,
    holder: PeerId,
    slot: Slot,
) -> Result<BTreeMap<SegmentIndex, PieceHash>, PieceCallError> {
    let mut held = BTreeMap::new();
    let mut from = SegmentIndex(0);
    loop {
        let message = PieceMessage::ListPieces { slot, from };
        match client.ask_again(holder, message, HELD_DEADLINE).await?.0 {
            PieceAnswer::Pieces(page) => {
                // Pages must move on, whatever the holder says.
                let Some(last) = page.last().map(|holding| holding.segment).filter(|last| *last >= from) else {
                    return Ok(held);
                };
                held.extend(page.into_iter().map(|holding| (holding.segment, holding.hash)));
                from = SegmentIndex(last.0.saturating_add(1));
            }
            other => return Err(unexpected(holder, &other)),
        }
    }
}

/// Compares the quorum's record of a resumed run with what the holders say: bits of pieces that are gone are cleared,
/// and pieces that were stored after the last record are noted, to be skipped once their hash is known.
pub(super) async fn ask_held(
    client: &PieceClient,
    run: &mut Run,
) -> BTreeMap<(PieceIndex, Attempt, SegmentIndex), PieceHash> {
    let job = run.job;
    let asked = run.columns.iter().enumerate().filter_map(|(index, column)| {
        let (holder, index) = (column.grant?.holder.peer, PieceIndex(index as u8));
        let slot = Slot { job, column: index, attempt: column.attempt };
        Some(async move { (index, timeout(HELD_DEADLINE, held_of(client, holder, slot)).await) })
    });
    let mut beyond = BTreeMap::new();
    for (index, held) in futures::future::join_all(asked).await {
        // A silent holder keeps its bits for now: if it is gone, its column fails at the first piece or at the seal.
        let Ok(Ok(held)) = held else { continue };
        let column = &mut run.columns[index.0 as usize];
        column.stored.resize(run.segments.len(), false);
        for (segment, (stored, hashes)) in (0..).map(SegmentIndex).zip(column.stored.iter_mut().zip(&run.segments)) {
            let recorded = hashes.get(index.0 as usize);
            *stored = recorded.is_some() && held.get(&segment) == recorded;
        }
        for (segment, hash) in held {
            if !column.stored.get(segment.0 as usize).copied().unwrap_or(false) {
                beyond.insert((index, column.attempt, segment), hash);
            }
        }
    }
    beyond
}
