//! Submissions: all that an owner's signature on a job depends on, and the memo of those that were found genuine.
//!
//! Whether a submission is genuine is a fact that never changes, and finding it out costs more than all else that a
//! submit costs. So a process remembers it: the memo has what was signed here and what was verified here, and nothing
//! that somebody only said ([`Genuine`] comes from a key or from a verification). Every member verifies by the same
//! rule, one signature at a time. The batch verification of ed25519 is not used: it accepts signatures that a single
//! one refuses, so members that met the same submit in other company would differ.

use std::collections::{BTreeSet, VecDeque};

use ed25519_dalek::SigningKey;

use super::signed::{JOB_DOMAIN, Statement};
use super::spec::JobSpec;
use crate::approval::Signature;
use crate::ids::{Digest, JobId, PeerId};
use crate::wire;

/// A job that somebody says its owner signed.
#[derive(Clone)]
pub struct Submission {
    owner: PeerId,
    statement: Statement,
    signature: Signature,
}

/// The name of a submission that is genuine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Genuine(Digest);

impl Submission {
    pub fn new(owner: PeerId, job: JobId, spec: &JobSpec, signature: &Signature) -> Self {
        Self { owner, statement: spec.statement(job), signature: *signature }
    }

    /// Signs the job as its owner.
    pub fn sign(key: &SigningKey, job: JobId, spec: &JobSpec) -> (Signature, Genuine) {
        let statement = spec.statement(job);
        let signature = Signature::sign(key, JOB_DOMAIN, &statement);
        let signed = Self { owner: PeerId(key.verifying_key().to_bytes()), statement, signature };
        (signature, Genuine(signed.digest()))
    }

    pub fn verify(&self) -> Option<Genuine> {
        let is_genuine = self.signature.verifies(self.owner, JOB_DOMAIN, &self.statement);
        is_genuine.then(|| Genuine(self.digest()))
    }

    /// Stands for all of it.
    fn digest(&self) -> Digest {
        let all = wire::encode(&(self.owner, &self.statement, self.signature));
        Digest(*blake3::hash(&all).as_bytes())
    }
}

/// The memo: the last submissions that were found genuine. Bounded: the oldest is forgotten first, and then verified
/// again.
#[derive(Debug)]
pub struct SubmissionMemo {
    known: BTreeSet<Digest>,
    order: VecDeque<Digest>,
    limit: usize,
}

impl SubmissionMemo {
    pub fn new(limit: usize) -> Self {
        Self { known: BTreeSet::new(), order: VecDeque::new(), limit }
    }

    pub fn insert(&mut self, Genuine(digest): Genuine) {
        if self.limit == 0 || !self.known.insert(digest) {
            return;
        }
        self.order.push_back(digest);
        if self.order.len() > self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    pub fn find(&self, submission: &Submission) -> Option<Genuine> {
        let digest = submission.digest();
        self.known.contains(&digest).then_some(Genuine(digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::QuorumId;
    use crate::job::spec::StoreSpec;
    use crate::object::Profile;

    fn key(number: u8) -> SigningKey {
        SigningKey::from_bytes(&[number; 32])
    }

    fn peer(number: u8) -> PeerId {
        PeerId(key(number).verifying_key().to_bytes())
    }

    fn job(number: u8) -> JobId {
        JobId { quorum: QuorumId([1; 16]), local: [number; 16] }
    }

    fn spec(size: u64) -> JobSpec {
        JobSpec::store(StoreSpec { name: None, size: Some(size), profile: Profile { data: 1, parity: 0 } })
    }

    /// Goal: what is remembered of one submission says nothing of any other. Method: change each part of one.
    #[test]
    fn a_remembered_submission_is_known_by_all_that_was_signed_and_by_nothing_less() {
        let (signature, genuine) = Submission::sign(&key(1), job(1), &spec(1));
        let honest = Submission::new(peer(1), job(1), &spec(1), &signature);
        assert_eq!(honest.verify(), Some(genuine));
        let mut memo = SubmissionMemo::new(8);
        assert_eq!(memo.find(&honest), None);
        memo.insert(genuine);
        assert_eq!(memo.find(&honest), Some(genuine));
        let mut other = signature;
        other.1[0] ^= 1;
        for forged in [
            Submission::new(peer(2), job(1), &spec(1), &signature),
            Submission::new(peer(1), job(2), &spec(1), &signature),
            Submission::new(peer(1), job(1), &spec(2), &signature),
            Submission::new(peer(1), job(1), &spec(1), &other),
        ] {
            assert_eq!(memo.find(&forged), None);
            assert_eq!(forged.verify(), None);
        }
    }

    #[test]
    fn the_memo_forgets_the_oldest_beyond_its_limit() {
        let signed: Vec<_> = (1..=3).map(|number| Submission::sign(&key(1), job(number), &spec(1))).collect();
        let mut memo = SubmissionMemo::new(2);
        signed.iter().for_each(|(_, genuine)| memo.insert(*genuine));
        // A repeat takes no room.
        memo.insert(signed[2].1);
        let known = (1..=3).zip(&signed).map(|(number, (signature, _))| {
            memo.find(&Submission::new(peer(1), job(number), &spec(1), signature)).is_some()
        });
        assert_eq!(known.collect::<Vec<_>>(), [false, true, true]);
    }
}
