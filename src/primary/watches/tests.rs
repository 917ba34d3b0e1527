//! Watches that a primary holds, with the real state machine, under virtual time.

use quorate_protocols::ids::{JobId, LogIndex};
use quorate_protocols::job::{JobSpec, RunState, StoreSpec};
use quorate_protocols::object::Profile;
use quorate_protocols::quorum::watch::{EntryId, WatchEntry};
use quorate_protocols::quorum::watch::{Until, Watched};
use quorate_protocols::quorum::{Command, Control};

use super::*;
use crate::quorums::ports::LocalQuorums;
use crate::testing::quorums::{QUORUM, StateQuorum, StateQuorums, key, peer, seams};

const JOB: JobId = JobId { quorum: QUORUM, local: [1; 16] };
const OTHER: JobId = JobId { quorum: QUORUM, local: [2; 16] };
const WAIT: Duration = Duration::from_secs(5);

struct World {
    quorum: Arc<StateQuorum>,
    local: Arc<dyn LocalQuorum>,
    watches: Watches,
    _seams: crate::seams::Seams,
}

fn world() -> World {
    let (quorum, watches, seams) = (StateQuorum::new(1), Watches::default(), seams(1));
    for job in [JOB, OTHER] {
        let spec = StoreSpec { name: None, size: None, profile: Profile { data: 2, parity: 1 } };
        quorum.commit(peer(1), Command::submit(&key(1), job, JobSpec::store(spec))).unwrap();
    }
    watches.start(&seams.tasks, quorum.events());
    let local = StateQuorums(quorum.clone()).quorum(QUORUM).unwrap();
    World { quorum, local, watches, _seams: seams }
}

fn request(number: u64, jobs: &[(u64, JobId)]) -> WatchRequest {
    let entry = |(id, job): &(u64, JobId)| WatchEntry { id: EntryId(*id), local: job.local, until: Until::Ended };
    WatchRequest {
        quorum: QUORUM,
        session: 1,
        number,
        base: number - 1,
        added: jobs.iter().map(entry).collect(),
        dropped: Vec::new(),
        wait_ms: WAIT.as_millis() as u32,
    }
}

fn met(answer: Result<WatchAnswer, QuorumError>) -> Vec<EntryId> {
    match answer {
        Ok(WatchAnswer::Update { met, refused }) if refused.is_empty() => met.into_iter().map(|(id, _)| id).collect(),
        other => panic!("{other:?}"),
    }
}

impl World {
    async fn ask(&self, by: u8, request: WatchRequest) -> Result<WatchAnswer, QuorumError> {
        self.watches.answer(&*self.local, peer(1), peer(by), &request).await
    }
    /// Once so many are held.
    async fn held(&self, entries: usize) {
        while self.watches.held().1 != entries {
            tokio::task::yield_now().await;
        }
    }
    fn cancel(&self, job: JobId) {
        self.quorum.commit(peer(1), Command::control(job, LogIndex(u64::MAX), Control::Cancel)).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_job_answers_the_sessions_that_watch_it_at_once_and_no_others() {
    let world = world();
    let started = Instant::now();
    let change = async {
        world.held(4).await;
        world.cancel(JOB);
    };
    let (one, own, other, ()) = tokio::join!(
        world.ask(2, request(1, &[(1, OTHER), (2, JOB)])),
        world.ask(1, request(1, &[(1, JOB)])),
        async { (world.ask(3, request(1, &[(1, OTHER)])).await, started.elapsed()) },
        change
    );
    assert_eq!((met(one), met(own)), (vec![EntryId(2)], vec![EntryId(1)]));
    let (other, after) = other;
    assert_eq!(met(other), []);
    assert_eq!(after.as_secs(), WAIT.as_secs(), "it was parked for its wait");
}

#[tokio::test(start_paused = true)]
async fn what_holds_already_and_what_is_unknown_is_answered_at_once() {
    let world = world();
    world.cancel(JOB);
    let started = Instant::now();
    let unknown = JobId { local: [9; 16], ..JOB };
    let answer = world.ask(2, request(1, &[(1, JOB), (2, unknown), (3, OTHER)])).await.unwrap();
    let WatchAnswer::Update { met, .. } = answer else { panic!("{answer:?}") };
    let [(EntryId(1), Watched::Met(met)), (EntryId(2), Watched::Unknown)] = &met[..] else { panic!("{met:?}") };
    assert_eq!(met.record.state, RunState::Cancelled);
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_newer_request_has_the_parked_one_return_and_is_told_of_its_entries() {
    let world = world();
    let started = Instant::now();
    let next = async {
        world.held(1).await;
        world.ask(2, request(2, &[(2, OTHER)])).await
    };
    let change = async {
        world.held(2).await;
        world.cancel(JOB);
    };
    let (first, second, ()) = tokio::join!(world.ask(2, request(1, &[(1, JOB)])), next, change);
    // The change may have come before the parked request was looked at again: then it is told of it as well.
    assert!(met(first).iter().all(|id| *id == EntryId(1)));
    assert_eq!(met(second), [EntryId(1)]);
    assert_eq!(started.elapsed(), Duration::ZERO);
    // Until it is dropped it is told again: the answer may have been lost.
    assert_eq!(met(world.ask(2, request(2, &[(2, OTHER)])).await), [EntryId(1)]);
    // What follows an answer that this primary has not given begins anew.
    assert_eq!(world.ask(2, request(9, &[(3, JOB)])).await.unwrap(), WatchAnswer::Reopen);
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_stops_leading_sends_its_watches_on() {
    let world = world();
    let started = Instant::now();
    let change = async {
        world.held(1).await;
        world.quorum.set_term(None);
    };
    let (answer, ()) = tokio::join!(world.ask(2, request(1, &[(1, JOB)])), change);
    assert!(matches!(answer, Err(QuorumError::NotPrimary { .. })), "{answer:?}");
    assert_eq!((started.elapsed(), world.watches.held()), (Duration::ZERO, (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn the_session_of_an_asker_that_went_away_is_forgotten() {
    let world = world();
    {
        let parked = std::pin::pin!(world.ask(2, request(1, &[(1, JOB)])));
        assert!(futures::poll!(parked).is_pending());
    }
    assert_eq!(world.watches.held(), (1, 1));
    tokio::time::sleep(2 * WATCH_SESSION_IDLE_MAX).await;
    assert_eq!(world.watches.held(), (0, 0));
}
