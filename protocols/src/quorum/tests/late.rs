//! Copies of controls that come late: whatever their first was answered, they change nothing.

use super::*;

fn cancel(index: u8, seen: LogIndex) -> Command {
    Command::control(job(index), seen, Control::Cancel)
}

fn superseded(index: u8, controlled: bool) -> Result<CommandReply, Rejection> {
    Err(Rejection::Superseded { job: job(index), controlled })
}

impl Quorum {
    fn seen(&self, index: u8) -> LogIndex {
        self.state.jobs[&job(index)].seen()
    }
}

/// Goal: what a client was told is still so when a copy of its message arrives late. The client was told that there is
/// no such job, then the job was submitted, and the copy must not cancel it.
#[test]
fn a_copy_of_a_refused_cancel_takes_no_job_that_is_submitted_later() {
    let mut quorum = Quorum::new();
    quorum.submit(1);
    let early = cancel(2, LogIndex(quorum.index));
    assert_eq!(quorum.apply(peer(0), early.clone()), Err(Rejection::UnknownJob { job: job(2) }));
    quorum.submit(2);
    let before = quorum.state.jobs[&job(2)].clone();
    assert_eq!(quorum.apply(peer(0), early.clone()), superseded(2, false));
    assert_eq!(quorum.state.jobs[&job(2)], before);
    assert_eq!(quorum.apply(peer(0), cancel(2, quorum.seen(2))), Ok(CommandReply::Done));
    assert_eq!(quorum.job_state(2), RunState::Cancelled);
}

/// The same when the copy is in the entry of the submit.
#[test]
fn nobody_has_seen_a_job_in_the_entry_that_makes_it() {
    let mut quorum = Quorum::new();
    let early = cancel(1, LogIndex(quorum.index));
    quorum.index += 1;
    let commands = vec![(peer(0), Command::submit(&key(0), job(1), spec())), (peer(0), early)];
    let replies = quorum.state.apply(LogIndex(quorum.index), &Batch::at(Millis(9), commands)).0.replies;
    assert!(replies[0].is_ok());
    assert_eq!(replies[1], superseded(1, false));
}

/// Goal: a client that sends its control again, for it has no answer, is answered alike; everybody else who has not
/// seen the first is told to look again.
#[test]
fn an_exact_copy_is_answered_alike_and_whoever_has_not_seen_the_first_is_refused() {
    let mut quorum = Quorum::new();
    quorum.submit(1);
    quorum.add(1, &[1, 2, 3]).unwrap();
    let first = cancel(1, quorum.seen(1));
    let late = first.clone();
    quorum.index += 1;
    let commands = vec![(peer(0), first.clone()), (peer(0), first), (peer(7), late.clone())];
    let replies = quorum.state.apply(LogIndex(quorum.index), &Batch::at(Millis(9), commands)).0.replies;
    assert_eq!(replies, [Ok(CommandReply::Done), Ok(CommandReply::Done), superseded(1, true)]);
    let before = quorum.state.jobs[&job(1)].clone();
    assert_eq!(quorum.apply(peer(0), late.clone()), Ok(CommandReply::Done));
    assert_eq!(quorum.apply(peer(7), late), superseded(1, true));
    assert_eq!(quorum.state.jobs[&job(1)], before);
    assert_eq!(quorum.apply(peer(7), cancel(1, quorum.seen(1))), Ok(CommandReply::Done), "who looks may");
}

/// Goal: a job that was forgotten and is submitted anew is another job to who saw the first.
#[test]
fn a_copy_that_outlives_its_job_takes_none_of_the_same_id() {
    let mut quorum = Quorum::new();
    quorum.submit(1);
    let first = cancel(1, quorum.seen(1));
    quorum.apply(peer(0), first.clone()).unwrap();
    let later = quorum.state.time.0 + JOBS_ENDED_RETENTION.as_millis() as u64 + 1;
    quorum.apply_at(peer(0), Command::Quorum(QuorumCommand::Noop), later).unwrap();
    assert!(!quorum.state.jobs.contains_key(&job(1)));
    quorum.submit(1);
    assert_eq!(quorum.apply(peer(0), first), superseded(1, false));
    assert_ne!(quorum.job_state(1), RunState::Cancelled);
}

/// Goal: what the last control was, and since when a job stands so, is known to a member that was sent a snapshot.
#[test]
fn a_copy_is_known_after_a_snapshot() {
    let mut quorum = Quorum::new();
    quorum.submit(1);
    quorum.submit(2);
    let (first, early) = (cancel(1, quorum.seen(1)), cancel(2, LogIndex(0)));
    quorum.apply(peer(0), first.clone()).unwrap();
    let chunks = quorum.state.encode_snapshot().into_iter().map(|(_, chunk)| chunk);
    quorum.state = QuorumState::decode_snapshot(chunks).unwrap();
    assert_eq!(quorum.apply(peer(0), first), Ok(CommandReply::Done));
    assert_eq!(quorum.apply(peer(0), early), superseded(2, false));
}
