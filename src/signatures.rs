//! Signatures on submits, each verified once in a process and outside of the lock of a quorum's state.
//!
//! A submit meets its signature up to three times on one node: where it is signed, at the primary before the log, and
//! when its entry is applied. The node remembers what was signed and verified here ([`SubmissionMemo`]). What an entry
//! brings that is not known is verified before the state is locked, in parallel if there is much of it. Nothing that
//! is decided depends on the memo: without it the same is found out, only later.

use std::sync::Arc;

use ed25519_dalek::SigningKey;
use futures::future::join_all;
use parking_lot::Mutex;
use quorate_protocols::ids::{JobId, PeerId};
use quorate_protocols::job::JobSpec;
use quorate_protocols::job::submission::{Genuine, Submission, SubmissionMemo};
use quorate_protocols::quorum::limits::PROPOSALS_MAX;
use quorate_protocols::quorum::{Batch, Command, Forbidden, GenuineSubmits, JobCommand};

use crate::seams::run_blocking;

/// Submissions that a node remembers: those that wait at two full primaries. About 100 bytes each.
const REMEMBERED_MAX: usize = 2 * PROPOSALS_MAX;

/// Signatures verified in a row, some 50 µs each. What is beyond them goes to other threads, so that one entry of many
/// submits holds up no other task.
const RUN_MAX: usize = 8;

/// What one node knows of signatures on submits. Clones share it.
#[derive(Clone)]
pub struct SubmitSignatures(Arc<Mutex<SubmissionMemo>>);

impl Default for SubmitSignatures {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(SubmissionMemo::new(REMEMBERED_MAX))))
    }
}

impl SubmitSignatures {
    /// The submit of a job by the peer whose key it is.
    pub fn sign(&self, key: &SigningKey, job: JobId, spec: JobSpec) -> Command {
        let (signature, genuine) = Submission::sign(key, job, &spec);
        self.0.lock().insert(genuine);
        Command::Job(job, JobCommand::Submit { spec, signature })
    }

    /// Whether a submit is signed by the peer that sends it. What is applied is checked again, by each member; this
    /// keeps a forged one out of the log.
    pub fn check(&self, by: PeerId, command: &Command) -> Result<(), Forbidden> {
        let Some((job, submission)) = command.submission(by) else { return Ok(()) };
        if self.find(&submission).is_some() {
            return Ok(());
        }
        let genuine = submission.verify().ok_or(Forbidden::NotSigned { job, by })?;
        self.0.lock().insert(genuine);
        Ok(())
    }

    fn find(&self, submission: &Submission) -> Option<Genuine> {
        self.0.lock().find(submission)
    }

    /// The submits of an entry that are signed by their authors. They are not remembered: an entry is applied once.
    pub async fn verify(&self, batch: &Batch) -> GenuineSubmits {
        let mut genuine = GenuineSubmits::default();
        let mut unknown = Vec::new();
        for (position, submission) in batch.submissions() {
            match self.find(&submission) {
                Some(known) => genuine.insert(position, known),
                None => unknown.push((position, submission)),
            }
        }
        if unknown.len() <= RUN_MAX {
            verify_run(&unknown).for_each(|(position, known)| genuine.insert(position, known));
            return genuine;
        }
        let runs = unknown.chunks(RUN_MAX).map(<[_]>::to_vec);
        let verified = runs.map(|run| run_blocking(move || verify_run(&run).collect::<Vec<_>>()));
        join_all(verified).await.into_iter().flatten().for_each(|(position, known)| genuine.insert(position, known));
        genuine
    }
}

fn verify_run(run: &[(usize, Submission)]) -> impl Iterator<Item = (usize, Genuine)> {
    run.iter().filter_map(|(position, submission)| Some((*position, submission.verify()?)))
}

#[cfg(test)]
mod tests {
    use quorate_protocols::ids::{LogIndex, Millis, QuorumId};
    use quorate_protocols::job::StoreSpec;
    use quorate_protocols::object::Profile;
    use quorate_protocols::quorum::{Control, QuorumState, Rejection};

    use super::*;
    use crate::seams::TaskGroup;

    const QUORUM: QuorumId = QuorumId([1; 16]);

    fn key(number: u8) -> SigningKey {
        SigningKey::from_bytes(&[number; 32])
    }

    fn peer(number: u8) -> PeerId {
        PeerId(key(number).verifying_key().to_bytes())
    }

    fn job(number: usize) -> JobId {
        JobId { quorum: QUORUM, local: [u8::try_from(number).unwrap(); 16] }
    }

    fn spec() -> JobSpec {
        JobSpec::store(StoreSpec { name: None, size: Some(1), profile: Profile { data: 1, parity: 0 } })
    }

    /// `count` submits of peer 1; each third is signed by peer 2.
    fn batch(signatures: &SubmitSignatures, count: usize) -> Batch {
        let signed = |number: usize| signatures.sign(&key(if number % 3 == 2 { 2 } else { 1 }), job(number), spec());
        Batch::at(Millis(1), (0..count).map(|number| (peer(1), signed(number))).collect())
    }

    /// Goal: a member says the same of an entry whatever it knows: with all of it remembered, with none of it, and
    /// without verifying beforehand. Method: entries on both sides of what is verified in a row.
    #[tokio::test]
    async fn what_is_remembered_changes_no_reply_and_no_digest() {
        for count in [0, 1, RUN_MAX, 5 * RUN_MAX] {
            let signer = SubmitSignatures::default();
            let batch = batch(&signer, count);
            let mut plain = QuorumState::new(QUORUM);
            let (told, _) = plain.apply(LogIndex(1), &batch);
            for signatures in [signer, SubmitSignatures::default()] {
                let genuine = TaskGroup::threaded().scope(signatures.verify(&batch)).await;
                let mut state = QuorumState::new(QUORUM);
                let (replies, _) = state.apply_verified(LogIndex(1), &batch, &genuine);
                assert_eq!(replies, told);
                assert_eq!(state.rolling(), plain.rolling());
            }
            for (number, reply) in told.replies.iter().enumerate() {
                let forged = Err(Rejection::NotSigned { job: job(number), by: peer(1) });
                assert_eq!(*reply == forged, number % 3 == 2, "{number}: {reply:?}");
            }
        }
    }

    #[test]
    fn a_forged_submit_is_refused_before_the_log_and_again_when_it_is_sent_again() {
        let signatures = SubmitSignatures::default();
        let honest = SubmitSignatures::default().sign(&key(1), job(1), spec());
        for _ in 0..2 {
            assert_eq!(signatures.check(peer(1), &honest), Ok(()));
            let forbidden = Forbidden::NotSigned { job: job(1), by: peer(2) };
            assert_eq!(signatures.check(peer(2), &honest), Err(forbidden));
        }
        assert_eq!(signatures.check(peer(2), &Command::control(job(1), LogIndex(1), Control::Cancel)), Ok(()));
    }
}
