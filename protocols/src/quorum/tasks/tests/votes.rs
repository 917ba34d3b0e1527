//! Verified tasks: copies that commit, show, and are judged.

use super::*;

pub(super) struct Copies {
    quorum: Quorum,
    copies: Vec<(u8, TaskAttempt)>,
}

pub(super) const NONCE: Nonce = Nonce([5; 16]);

impl Copies {
    fn new(workers: u8) -> Self {
        let slots: Vec<_> = (0..workers).map(|index| (index, 4)).collect();
        let mut quorum = Quorum::new(&slots);
        quorum.submit(1, BatchSpec { verify: Some(Verify { copies: 3, agree: 2 }), ..spec(1) });
        let copies = (0..workers).flat_map(|by| quorum.attempts(by).into_iter().map(move |task| (by, task))).collect();
        Self { quorum, copies }
    }
    pub(super) fn verdict(text: &str) -> Verdict {
        Verdict::Output(output(text.as_bytes()).digest)
    }
    fn commit(&mut self, copy: usize, text: &str) -> Result<(), ReportRefusal> {
        let (by, task) = self.copies[copy];
        let digest = commitment(task, peer(by), Self::verdict(text), NONCE);
        self.quorum.report(by, task, TaskResult::Commitment(digest))
    }
    fn reveal(&mut self, copy: usize, text: &str) -> Result<(), ReportRefusal> {
        let (by, task) = self.copies[copy];
        let inputs = self.quorum.state.assignment(task).unwrap().inputs;
        let statement = ResultStatement { task, worker: peer(by), inputs, verdict: Self::verdict(text) };
        let receipt = ResultReceipt::sign(&key(by), statement);
        let (output, bytes) = (Some(output(text.as_bytes())), Some(Bytes::from(text.to_owned())));
        self.quorum.report(by, task, TaskResult::Reveal { nonce: NONCE, output, bytes, receipt })
    }
}

#[test]
fn copies_commit_before_anybody_shows_and_the_liar_is_named() {
    let mut world = Copies::new(3);
    assert_eq!(world.copies.iter().map(|(by, _)| *by).collect::<BTreeSet<_>>().len(), 3, "distinct peers");
    let (by, task) = world.copies[0];
    assert!(world.quorum.report(by, task, done("plain")).is_err(), "no result without a commitment");
    world.commit(0, "true").unwrap();
    assert!(world.reveal(0, "true").is_err(), "not before all have committed");
    world.commit(1, "lie").unwrap();
    assert!(world.quorum.state.reveals_of(peer(by)).is_empty());
    world.commit(2, "true").unwrap();
    assert_eq!(world.quorum.state.reveals_of(peer(by)), [task]);
    assert!(world.reveal(1, "true").is_err(), "nobody shows what it did not commit to");
    world.reveal(1, "lie").unwrap();
    world.reveal(0, "true").unwrap();
    world.reveal(0, "true").unwrap();
    world.reveal(2, "true").unwrap();
    assert_eq!(world.quorum.job_state(1), RunState::Succeeded);
    let record = world.quorum.task(task);
    let table = &world.quorum.state.tasks.tables[&job(1)];
    assert_eq!(table.blob((StepIndex(0), TaskIndex(0), Blob::Output)).unwrap(), &Bytes::from("true"));
    assert_eq!(table.rows().blobs.len(), 1, "what the others showed is forgotten");
    let receipts: Vec<_> = record.extras.as_ref().unwrap().votes.iter().map(|vote| vote.receipt).collect();
    let agreement = check_receipts(&receipts, 2).unwrap();
    assert_eq!(agreement.dissenting, [peer(world.copies[1].0)]);
}

#[test]
fn a_copy_without_a_vote_is_replaced_and_a_commitment_holds_no_slot() {
    let mut world = Copies::new(4);
    world.commit(0, "true").unwrap();
    let (by, task) = world.copies[1];
    world.quorum.report(by, task, failed(ErrorClass::Memory)).unwrap_or(());
    let classless = world.quorum.report(world.copies[2].0, world.copies[2].1, failed(ErrorClass::Fuel));
    assert!(classless.is_err(), "a verdict is committed to, not reported");
    let mut waiting = Copies::new(3);
    waiting.commit(0, "true").unwrap();
    let (by, _) = waiting.copies[0];
    waiting.quorum.submit(2, BatchSpec { parallelism: 1, ..spec(1) });
    let worker = &waiting.quorum.state.tasks.index.used[&peer(by)];
    assert_eq!(worker.taken.slots as usize, worker.tasks.len() - 1);
}

#[test]
fn a_replacement_is_sought_when_the_policy_allows_it() {
    let mut world = Copies::new(4);
    world.commit(0, "true").unwrap();
    let (by, task) = world.copies[1];
    world.quorum.report(by, task, failed(ErrorClass::Timeout)).unwrap();
    let live = &world.quorum.task(task).live;
    assert_eq!(live.len(), 3);
    assert!(live.iter().all(|live| live.worker != peer(by)), "another peer has it");
}

#[test]
fn rounds_without_agreement_end() {
    let mut world = Copies::new(3);
    for _ in 0..ROUNDS_MAX {
        for (copy, text) in ["a", "b", "c"].into_iter().enumerate() {
            world.commit(copy, text).unwrap();
        }
        for (copy, text) in ["a", "b", "c"].into_iter().enumerate() {
            world.reveal(copy, text).unwrap();
        }
        world.copies =
            (0..3).flat_map(|by| world.quorum.attempts(by).into_iter().map(move |task| (by, task))).collect();
    }
    assert_eq!(world.quorum.job_state(1), RunState::Failed);
    assert!(world.quorum.state.why(job(1)).unwrap().contains("without 2 that agree"));
}

#[test]
fn a_copy_that_does_not_show_in_time_has_no_vote() {
    let mut world = Copies::new(3);
    (0..3).for_each(|copy| world.commit(copy, "true").unwrap());
    (0..2).for_each(|copy| world.reveal(copy, "true").unwrap());
    world.quorum.elapse();
    assert_eq!(world.quorum.job_state(1), RunState::Succeeded);
}
