//! Limits of a quorum, and the share of each owner in them: one owner reaches its share, and another has room still.

use super::*;

/// Goal: one owner fills half of a quorum, and another finds the rest. What ends makes room again.
#[test]
fn live_jobs_of_one_owner_are_a_half() {
    let mut state = QuorumState::new(QUORUM);
    let id = |number: u32| {
        let mut local = [0; 16];
        local[..4].copy_from_slice(&number.to_be_bytes());
        JobId { quorum: QUORUM, local }
    };
    let submit = |by, number| (peer(by), Command::submit(&key(by), id(number), spec()));
    let mut apply = |commands| state.apply(LogIndex(1), &Batch::at(Millis(1), commands)).0.replies;
    let replies = apply((0..OWNER_JOBS_MAX as u32).map(|number| submit(0, number)).collect());
    assert!(replies.iter().all(Result::is_ok));
    let next = OWNER_JOBS_MAX as u32;
    let replies = apply(vec![
        submit(0, next),
        submit(1, next),
        (peer(0), Command::Job(id(0), JobCommand::Cancel)),
        submit(0, next + 1),
    ]);
    let full = Rejection::Full { what: "live jobs of one owner".to_owned(), limit: OWNER_JOBS_MAX };
    assert_eq!(replies[0], Err(full));
    assert!(replies[1..].iter().all(Result::is_ok), "{replies:?}");
    state.check_invariants().unwrap();
}

#[test]
fn live_jobs_are_limited() {
    let mut state = QuorumState::new(QUORUM);
    let commands = (0..=JOBS_LIVE_MAX as u32).map(|number| {
        let mut local = [0; 16];
        local[..4].copy_from_slice(&number.to_be_bytes());
        let owner = (number % 2) as u8;
        (peer(owner), Command::submit(&key(owner), JobId { quorum: QUORUM, local }, spec()))
    });
    assert!(state.room() > 0);
    let (reply, _) = state.apply(LogIndex(1), &Batch::at(Millis(1), commands.collect()));
    let full = Rejection::Full { what: "live jobs".to_owned(), limit: JOBS_LIVE_MAX };
    assert_eq!((reply.replies.last(), state.room()), (Some(&Err(full)), 0));
    // Pages are capped, follow on each other and end.
    let (mut after, mut seen) = (None, 0);
    loop {
        let Some(QueryAnswer::Jobs(page)) = state.answer(&Query::Jobs { after, limit: u32::MAX }) else { panic!() };
        let Some(last) = page.last() else { break };
        let age = (last.created_at, last.job);
        assert!(page.len() <= PAGE_MAX && after.is_none_or(|after| age < after));
        (after, seen) = (Some(age), seen + page.len());
    }
    assert_eq!(seen, JOBS_LIVE_MAX);
}
