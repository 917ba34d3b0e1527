//! Submits of jobs that compute.

use super::*;

#[test]
fn submitting_again_is_the_same_job_and_another_specification_a_conflict() {
    let mut quorum = Quorum::new(&[]);
    quorum.submit(1, spec(1));
    let again = Command::submit(&key(5), job(1), JobSpec::batch(spec(1)));
    let other = Command::submit(&owner_key(), job(1), JobSpec::batch(spec(2)));
    assert!(matches!(quorum.apply(peer(5), again), Ok(CommandReply::Submitted { existed: true, .. })));
    assert_eq!(quorum.state.jobs[&job(1)].owner, OWNER);
    assert_eq!(quorum.apply(OWNER, other), Err(Rejection::Conflict { job: job(1) }));
    let wrong = quorum.apply(OWNER, Command::store(job(1), StoreCommand::Attach));
    assert!(matches!(wrong, Err(Rejection::WrongKind { .. })), "{wrong:?}");
}
