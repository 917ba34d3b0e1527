//! Asking holders: over the network, or in process when the holder is this node.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_protocols::ids::{LeaseId, PeerId, PieceHash, SegmentIndex};
use quorate_protocols::object::{CheckedPiece, PieceFault};
use quorate_protocols::piece::limits::HEAD_BYTES_MAX;
use quorate_protocols::piece::{PieceAnswer, PieceMessage, PieceRefusal, Slot};
use quorate_protocols::wire;

use super::PieceService;
use crate::seams::{Failpoint, Frame, Net, NetError, Protocol, failpoint, request_again, run_blocking};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PieceCallError {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("{peer} refused: {refusal}")]
    Refused { peer: PeerId, refusal: PieceRefusal },
    #[error("{peer} gave an answer that cannot be read: {reason}")]
    Malformed { peer: PeerId, reason: String },
    #[error("{peer} gave bytes that are not the piece: {fault}")]
    Wrong { peer: PeerId, fault: PieceFault },
}

impl PieceCallError {
    /// Whether asking the same holder again may help.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Net(NetError::Busy { .. }) | Self::Refused { refusal: PieceRefusal::Busy, .. })
    }
}

/// Asks any holder, this node included.
#[derive(Clone)]
pub struct PieceClient {
    net: Arc<dyn Net>,
    local: PieceService,
}

impl PieceClient {
    pub fn new(net: Arc<dyn Net>, local: PieceService) -> Self {
        Self { net, local }
    }

    pub fn is_local(&self, peer: PeerId) -> bool {
        peer == self.local.peer()
    }

    /// One question, one answer; refusals are errors.
    pub async fn ask(
        &self,
        peer: PeerId,
        message: PieceMessage,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<(PieceAnswer, Bytes), PieceCallError> {
        let (answer, payload) = if self.is_local(peer) {
            match tokio::time::timeout(deadline, self.local.handle(peer, message, payload)).await {
                Ok(answered) => answered,
                Err(_) => return Err(NetError::Timeout { peer, after: deadline }.into()),
            }
        } else {
            let frame = Frame::new(wire::encode(&message), payload);
            decode_answer(peer, self.net.request(peer, Protocol::Piece, frame, deadline).await?)?
        };
        match answer {
            PieceAnswer::Refused(refusal) => Err(PieceCallError::Refused { peer, refusal }),
            answer => Ok((answer, payload)),
        }
    }

    /// As [`Self::ask`], for a message without bytes that may be carried out twice: one that is lost is missed soon,
    /// and sent again.
    pub async fn ask_again(
        &self,
        peer: PeerId,
        message: PieceMessage,
        deadline: Duration,
    ) -> Result<(PieceAnswer, Bytes), PieceCallError> {
        if self.is_local(peer) {
            return self.ask(peer, message, Bytes::new(), deadline).await;
        }
        let frame = Frame::head(wire::encode(&message));
        match decode_answer(peer, request_again(&*self.net, peer, Protocol::Piece, frame, deadline).await?)? {
            (PieceAnswer::Refused(refusal), _) => Err(PieceCallError::Refused { peer, refusal }),
            answered => Ok(answered),
        }
    }

    /// Stores one piece. On `Ok` it is synced at the holder.
    pub async fn put(
        &self,
        peer: PeerId,
        slot: Slot,
        lease: LeaseId,
        segment: SegmentIndex,
        piece: CheckedPiece,
        deadline: Duration,
    ) -> Result<(), PieceCallError> {
        if self.is_local(peer) {
            // Hashed in this process already.
            let stored = self.local.put_checked(slot, lease, segment, piece);
            return match tokio::time::timeout(deadline, stored).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(refusal)) => Err(PieceCallError::Refused { peer, refusal }),
                Err(_) => Err(NetError::Timeout { peer, after: deadline }.into()),
            };
        }
        let message = PieceMessage::Put { slot, lease, segment, hash: piece.hash() };
        match self.ask(peer, message, piece.into_bytes(), deadline).await?.0 {
            PieceAnswer::Stored => Ok(()),
            other => Err(unexpected(peer, &other)),
        }
    }

    /// Fetches a whole piece and checks it.
    pub async fn get(
        &self,
        peer: PeerId,
        hash: PieceHash,
        piece_bytes: usize,
        deadline: Duration,
    ) -> Result<CheckedPiece, PieceCallError> {
        let message = PieceMessage::Get { hash, offset: 0, length: u32::MAX };
        match self.ask(peer, message, Bytes::new(), deadline).await? {
            (PieceAnswer::Piece { .. }, bytes) if bytes.len() == piece_bytes => {
                let mut fetched = (hash, bytes);
                failpoint(Failpoint::PieceFetched, &mut fetched);
                let (hash, bytes) = fetched;
                let checked = run_blocking(move || CheckedPiece::check(hash, bytes)).await;
                checked.map_err(|fault| PieceCallError::Wrong { peer, fault })
            }
            (PieceAnswer::Piece { .. }, bytes) => {
                let fault = PieceFault::Length { expected: piece_bytes, found: bytes.len() };
                Err(PieceCallError::Wrong { peer, fault })
            }
            (other, _) => Err(unexpected(peer, &other)),
        }
    }
}

fn decode_answer(peer: PeerId, frame: Frame) -> Result<(PieceAnswer, Bytes), PieceCallError> {
    match wire::decode(&frame.head, HEAD_BYTES_MAX) {
        Ok(answer) => Ok((answer, frame.payload)),
        Err(error) => Err(PieceCallError::Malformed { peer, reason: error.to_string() }),
    }
}

pub(in crate::objects) fn unexpected(peer: PeerId, answer: &PieceAnswer) -> PieceCallError {
    let what = match answer {
        PieceAnswer::Stored => "stored",
        PieceAnswer::Piece { .. } => "a piece",
        PieceAnswer::Pieces(_) => "a list of pieces",
        PieceAnswer::Sealed(_) => "a receipt",
        PieceAnswer::Rebuilt(_) => "rebuilt",
        PieceAnswer::Acknowledged => "an acknowledgement",
        PieceAnswer::Audited { .. } => "an audit",
        PieceAnswer::Refused(_) => "a refusal",
    };
    PieceCallError::Malformed { peer, reason: format!("{what} answers another question") }
}
