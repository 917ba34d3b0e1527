//! Agreeing on a result: blinded commitments, votes, and receipts that anyone can check.
//!
//! A verified task runs on distinct peers. Each first sends a *commitment*: a digest over its verdict and a nonce. Only
//! when all copies have committed does anybody show a verdict, so nobody can copy another's. A shown verdict counts if
//! it is the one committed to and comes with a *receipt*: the worker's signature over job, task, attempt, inputs and
//! verdict. What enough copies say is the result; the others are named. A copy that a deadline, memory or the host
//! stopped has no vote; fuel exhaustion, a trap and an exit code are verdicts like any other.

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use super::error_class::ErrorClass;
use super::record::{Output, TaskAttempt};
use crate::approval::message::Signature;
use crate::ids::{Digest, Nonce, PeerId};
use crate::wire;

/// What copies can agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Output(Digest),
    Failed(ErrorClass),
}

/// What a worker signs: this attempt, given these inputs, came to this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultStatement {
    pub task: TaskAttempt,
    pub worker: PeerId,
    /// [`crate::task::inputs::inputs_digest`] of the task.
    pub inputs: Digest,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultReceipt {
    pub statement: ResultStatement,
    pub signature: Signature,
}

/// Keeps a receipt from being read as any other signature of the same key.
const RECEIPT_DOMAIN: &[u8] = b"quorate result receipt 1\0";

impl ResultReceipt {
    pub fn sign(key: &SigningKey, statement: ResultStatement) -> Self {
        Self { statement, signature: Signature::sign(key, RECEIPT_DOMAIN, &statement) }
    }
    pub fn is_genuine(&self) -> bool {
        self.signature.verifies(self.statement.worker, RECEIPT_DOMAIN, &self.statement)
    }
}

/// A shown verdict. `output` says where the bytes are; `None` for a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    pub output: Option<Output>,
    pub receipt: ResultReceipt,
}

impl Vote {
    pub fn verdict(&self) -> Verdict {
        self.receipt.statement.verdict
    }
    pub fn worker(&self) -> PeerId {
        self.receipt.statement.worker
    }
}

/// Binds a worker to a verdict without showing it. The worker's name is in it, so that repeating another's commitment
/// leads to nothing that can be shown.
pub fn commitment(task: TaskAttempt, worker: PeerId, verdict: Verdict, nonce: Nonce) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key("quorate 2026 result commitment 1");
    hasher.update(&wire::encode(&(task, worker, verdict, nonce)));
    Digest(*hasher.finalize().as_bytes())
}

/// How a vote ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    pub verdict: Verdict,
    pub agreeing: Vec<PeerId>,
    pub dissenting: Vec<PeerId>,
}

/// The verdict of at least `agree` voters, if there is one. `agree` is more than half of the copies, so there are not
/// two. Who speaks twice is heard once.
pub fn tally<'a>(votes: impl IntoIterator<Item = &'a ResultStatement>, agree: usize) -> Option<Agreement> {
    let mut heard = BTreeMap::new();
    for statement in votes {
        heard.entry(statement.worker).or_insert(statement.verdict);
    }
    let mut camps = BTreeMap::<Verdict, Vec<PeerId>>::new();
    heard.iter().for_each(|(worker, verdict)| camps.entry(*verdict).or_default().push(*worker));
    let (verdict, agreeing) = camps.into_iter().max_by_key(|(_, camp)| camp.len())?;
    let dissenting = heard.iter().filter(|(_, other)| **other != verdict).map(|(worker, _)| *worker).collect();
    (agreeing.len() >= agree.max(1)).then_some(Agreement { verdict, agreeing, dissenting })
}

/// Why a bundle of receipts proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptFault {
    #[error("there is no receipt")]
    Empty,
    #[error("the receipt of {worker} is not signed by it")]
    NotSigned { worker: PeerId },
    #[error("{worker} signed twice")]
    Twice { worker: PeerId },
    #[error("the receipts are about different tasks or different inputs")]
    Mixed,
    #[error("only {most} of {votes} agree and {agree} are needed")]
    NoAgreement { most: usize, votes: usize, agree: usize },
}

/// Checks the receipts of one task with nothing else at hand: genuine, about one task and equal inputs, by distinct
/// peers, `agree` of them of one mind.
pub fn check_receipts(receipts: &[ResultReceipt], agree: usize) -> Result<Agreement, ReceiptFault> {
    let first = receipts.first().ok_or(ReceiptFault::Empty)?.statement;
    let mut workers = BTreeSet::new();
    for receipt in receipts {
        let ResultStatement { task, worker, inputs, .. } = receipt.statement;
        if !receipt.is_genuine() {
            return Err(ReceiptFault::NotSigned { worker });
        }
        if task.id != first.task.id || inputs != first.inputs {
            return Err(ReceiptFault::Mixed);
        }
        if !workers.insert(worker) {
            return Err(ReceiptFault::Twice { worker });
        }
    }
    let statements = || receipts.iter().map(|receipt| &receipt.statement);
    tally(statements(), agree).ok_or_else(|| {
        let most = tally(statements(), 1).map_or(0, |agreement| agreement.agreeing.len());
        ReceiptFault::NoAgreement { most, votes: receipts.len(), agree }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Attempt, JobId, StepIndex, TaskIndex};
    use crate::task::record::TaskId;

    fn key(index: u8) -> SigningKey {
        SigningKey::from_bytes(&[index + 1; 32])
    }

    fn statement(index: u8, verdict: Verdict) -> ResultStatement {
        let id = TaskId { job: JobId::default(), step: StepIndex(0), task: TaskIndex(3) };
        let task = TaskAttempt { id, attempt: Attempt(index as u32 + 1) };
        let worker = PeerId(key(index).verifying_key().to_bytes());
        ResultStatement { task, worker, inputs: Digest([9; 32]), verdict }
    }

    fn receipt(index: u8, verdict: Verdict) -> ResultReceipt {
        ResultReceipt::sign(&key(index), statement(index, verdict))
    }

    const TRUE: Verdict = Verdict::Output(Digest([1; 32]));
    const LIE: Verdict = Verdict::Output(Digest([2; 32]));

    #[test]
    fn a_liar_is_outvoted_and_named() {
        let receipts = [receipt(0, TRUE), receipt(1, LIE), receipt(2, TRUE)];
        let agreement = check_receipts(&receipts, 2).unwrap();
        assert_eq!(agreement.verdict, TRUE);
        assert_eq!(agreement.dissenting, [receipts[1].statement.worker]);
        assert_eq!(agreement.agreeing.len(), 2);
    }

    #[test]
    fn receipts_that_prove_nothing_are_told_apart() {
        let worker = |index| statement(index, TRUE).worker;
        assert_eq!(check_receipts(&[], 1), Err(ReceiptFault::Empty));
        let two = [receipt(0, TRUE), receipt(1, LIE)];
        assert_eq!(check_receipts(&two, 2), Err(ReceiptFault::NoAgreement { most: 1, votes: 2, agree: 2 }));
        let twice = [receipt(0, TRUE), receipt(0, TRUE)];
        assert_eq!(check_receipts(&twice, 2), Err(ReceiptFault::Twice { worker: worker(0) }));
        let mut forged = receipt(1, LIE);
        forged.statement.verdict = TRUE;
        assert_eq!(check_receipts(&[receipt(0, TRUE), forged], 2), Err(ReceiptFault::NotSigned { worker: worker(1) }));
        let other = ResultStatement { inputs: Digest([8; 32]), ..statement(1, TRUE) };
        let other = ResultReceipt::sign(&key(1), other);
        assert_eq!(check_receipts(&[receipt(0, TRUE), other], 2), Err(ReceiptFault::Mixed));
        // A signature for another purpose is none for this one.
        let alien = Signature::sign(&key(0), b"quorate piece receipt 1\0", &statement(0, TRUE));
        assert!(!ResultReceipt { statement: statement(0, TRUE), signature: alien }.is_genuine());
    }

    /// Goal: what a person keeps in a file proves as much as what travelled.
    #[test]
    fn a_receipt_survives_being_written_as_json() {
        for verdict in [TRUE, Verdict::Failed(ErrorClass::Fuel)] {
            let text = serde_json::to_string(&receipt(2, verdict)).unwrap();
            let read: ResultReceipt = serde_json::from_str(&text).unwrap();
            assert_eq!(read, receipt(2, verdict));
            assert!(read.is_genuine(), "{text}");
        }
        assert!(serde_json::from_str::<Signature>("\"abcd\"").is_err());
    }

    #[test]
    fn a_commitment_fits_one_worker_one_verdict_and_one_nonce() {
        let [a, b] = [statement(0, TRUE), statement(1, TRUE)];
        let nonce = Nonce([7; 16]);
        let bound = commitment(a.task, a.worker, TRUE, nonce);
        assert_ne!(bound, commitment(a.task, b.worker, TRUE, nonce));
        assert_ne!(bound, commitment(a.task, a.worker, LIE, nonce));
        assert_ne!(bound, commitment(a.task, a.worker, TRUE, Nonce([8; 16])));
    }
}
