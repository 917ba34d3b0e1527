//! Submits: a specification becomes a job once.

use super::*;

#[test]
fn a_submit_repeated_is_the_same_job_and_another_spec_is_a_conflict() {
    let mut quorum = Quorum::new();
    let submit = |spec| Command::submit(&key(0), job(1), spec);
    let first = quorum.apply(peer(0), submit(spec()));
    assert_eq!(first, Ok(CommandReply::Submitted { existed: false, state: RunState::Pending }));
    let again = quorum.apply(peer(0), submit(spec()));
    assert_eq!(again, Ok(CommandReply::Submitted { existed: true, state: RunState::Pending }));
    let other = JobSpec::store(StoreSpec { name: None, size: Some(9), profile: PROFILE });
    assert_eq!(quorum.apply(peer(0), submit(other)), Err(Rejection::Conflict { job: job(1) }));
    let of_another = Command::submit(&key(1), job(1), spec());
    assert_eq!(quorum.apply(peer(1), of_another), Err(Rejection::Conflict { job: job(1) }));
    let elsewhere = JobId { quorum: QuorumId([2; 16]), local: [1; 16] };
    let refused = quorum.apply(peer(0), Command::submit(&key(0), elsewhere, spec()));
    assert!(matches!(refused, Err(Rejection::Invalid { .. })), "{refused:?}");
    let impossible = JobSpec::store(StoreSpec { name: None, size: None, profile: Profile { data: 0, parity: 3 } });
    let refused = quorum.apply(peer(0), Command::submit(&key(0), job(2), impossible));
    assert!(matches!(refused, Err(Rejection::Invalid { .. })), "{refused:?}");
}
