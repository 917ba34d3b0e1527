//! The pending result of an attempt, held until its quorum has recorded it.

use bytes::Bytes;
use quorate_protocols::ids::Nonce;
use quorate_protocols::task::error_class::ErrorClass;
use quorate_protocols::task::message::TaskResult;
use quorate_protocols::task::record::{Output, TaskAttempt};
use quorate_protocols::task::vote::{ResultReceipt, commitment};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum PendingResult {
    Plain(TaskResult),
    /// A verdict of one copy: first only bound to, then shown.
    Sealed(Sealed),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sealed {
    pub nonce: Nonce,
    pub output: Option<Output>,
    pub bytes: Option<Bytes>,
    pub receipt: ResultReceipt,
    /// The quorum has recorded the commitment. Not on disk: after a restart it is said again.
    #[serde(skip)]
    pub committed: bool,
    /// The quorum asked for the verdict.
    #[serde(skip)]
    pub shown: bool,
}

/// What of it was said: an answer belongs to that, not to what there is to say meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReportPart {
    Plain,
    Commitment,
    Reveal,
}

impl PendingResult {
    pub fn failed(class: ErrorClass, reason: impl Into<String>) -> Self {
        Self::Plain(TaskResult::Failed { class, reason: reason.into() })
    }

    /// What the quorum is to hear next; `None` while it is the quorum's turn.
    pub fn next(&self) -> Option<ReportPart> {
        match self {
            Self::Plain(_) => Some(ReportPart::Plain),
            Self::Sealed(sealed) if sealed.shown => Some(ReportPart::Reveal),
            Self::Sealed(sealed) if sealed.committed => None,
            Self::Sealed(_) => Some(ReportPart::Commitment),
        }
    }

    pub fn report_of(&self, task: TaskAttempt, part: ReportPart) -> TaskResult {
        match (self, part) {
            (Self::Plain(result), _) => result.clone(),
            (Self::Sealed(Sealed { nonce, output, bytes, receipt, .. }), ReportPart::Reveal) => {
                TaskResult::Reveal { nonce: *nonce, output: *output, bytes: bytes.clone(), receipt: *receipt }
            }
            (Self::Sealed(Sealed { nonce, receipt, .. }), _) => {
                let statement = receipt.statement;
                TaskResult::Commitment(commitment(task, statement.worker, statement.verdict, *nonce))
            }
        }
    }

    /// The output whose bytes are to be in the quorum's record.
    pub fn inline(&mut self) -> Option<(&mut Output, &mut Option<Bytes>)> {
        match self {
            Self::Plain(TaskResult::Done { output, bytes }) if bytes.is_some() => Some((output, bytes)),
            Self::Sealed(Sealed { output: Some(output), bytes, .. }) if bytes.is_some() => Some((output, bytes)),
            _ => None,
        }
    }

    /// Whether it says what the task came to, rather than that the attempt came to nothing.
    pub fn is_result(&self) -> bool {
        matches!(self, Self::Sealed(_) | Self::Plain(TaskResult::Done { .. }))
    }

    pub fn is_object(&self) -> bool {
        matches!(self, Self::Plain(TaskResult::Done { bytes: None, .. }))
    }

    /// Bytes that it takes in a message, about.
    pub fn weight(&self) -> usize {
        const FRAME: usize = 256;
        FRAME
            + match self {
                Self::Plain(TaskResult::Done { bytes, .. }) | Self::Sealed(Sealed { bytes, .. }) => {
                    bytes.as_ref().map_or(0, Bytes::len)
                }
                Self::Plain(TaskResult::Failed { reason, .. }) => reason.len(),
                Self::Plain(_) => 0,
            }
    }
}
