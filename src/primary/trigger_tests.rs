//! Triggers that a clock fires, over the real state machine and under virtual time.

use quorate_protocols::ids::{JobId, Millis, Term};
use quorate_protocols::job::JobSpec;
use quorate_protocols::job::batch::BatchSpec;
use quorate_protocols::job::spec::TriggeredSpec;
use quorate_protocols::quorum::limits::LEVEL;
use quorate_protocols::quorum::{Command, QuorumCommand};
use quorate_protocols::task::spec::{Call, Program};
use quorate_protocols::trigger::spec::{Bounds, Overlap, TriggerSpec, When};
use quorate_protocols::trigger::{Cause, Fired};
use quorate_testkit::VirtualClock;
use quorate_testkit::clock::EPOCH;

use super::*;
use crate::quorums::approvals::{Approvals, ApprovalsParts};
use crate::seams::Seams;
use crate::testing::quorums::{
    Approver, Known, QUORUM, Reaction, ScriptedNet, StateQuorum, StateQuorums, key, peer, seams,
};

const PRIMARY: u8 = 1;
const JOB: JobId = JobId { quorum: QUORUM, local: [1; 16] };
const START: u64 = EPOCH.0;

struct World {
    quorum: Arc<StateQuorum>,
    wall: Arc<VirtualClock>,
}

/// A primary that nobody works for: what fires stays pending.
fn world() -> World {
    let wall = Arc::new(VirtualClock::right());
    let seams = Seams { clock: wall.clone(), ..seams(1) };
    let net = ScriptedNet::new(peer(PRIMARY), |_, _, _| Reaction::Unreachable);
    let known = Arc::new(Known::default());
    let quorum = StateQuorum::with_clock(PRIMARY, wall.clone());
    let local = Arc::new(Approver(PRIMARY));
    let approvals =
        Approvals::new(ApprovalsParts { seams: seams.clone(), net: net.clone(), knowledge: known.clone(), local });
    start(DriverParts {
        quorums: Arc::new(StateQuorums(quorum.clone())),
        events: quorum.events(),
        env: DriverEnv {
            seams,
            net,
            knowledge: known,
            approvals,
            pieces: Arc::new(super::tests::NoPieces),
            worker: None,
            wait_reasons: WaitReasons::default(),
            audit_hints: AuditHints::default(),
            sources: Arc::new(crate::testing::quorums::NoSources),
            metrics: DriverMetrics::default(),
            settings: DriverSettings::default(),
        },
    });
    quorum.commit(peer(PRIMARY), Command::Quorum(QuorumCommand::RaiseLevel { level: LEVEL })).unwrap();
    World { quorum, wall }
}

impl World {
    fn submit(&self, job: JobId, when: When) {
        let call = Call::new(Program::Command { name: "true".to_owned() });
        let trigger = TriggerSpec { overlap: Overlap::Allow, ..TriggerSpec::new(when) };
        let spec = JobSpec::Triggered(Box::new(TriggeredSpec::new(trigger, BatchSpec::new(call))));
        self.quorum.commit(peer(2), Command::submit(&key(2), job, spec)).unwrap();
    }
    /// The instants that have a run, in order, and by how much each was late.
    fn fired(&self, job: JobId) -> Vec<(u64, u64)> {
        self.quorum.read(|state| {
            let (_, run) = state.trigger(job).expect("it was submitted");
            let row = |row: &quorate_protocols::trigger::FireRow| match (row.cause, row.what) {
                (Cause::Instant(at), Fired::Run { .. }) => (at.0 - START, row.at.0.saturating_sub(at.0)),
                other => panic!("{other:?} is no run of an instant"),
            };
            run.fires.iter().map(row).collect()
        })
    }
}

fn every(period: Duration) -> When {
    When::Every { period, bounds: Bounds::NONE }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn every_instant_fires_once_and_on_time() {
    world_scope(async {
        let world = world();
        pass(1).await;
        world.submit(JOB, every(Duration::from_millis(1_500)));
        let other = JobId { local: [2; 16], ..JOB };
        world.submit(other, When::At(Millis(START + 7_777)));
        pass(10).await;
        let instants: Vec<_> = world.fired(JOB);
        assert_eq!(instants.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [2_500, 4_000, 5_500, 7_000, 8_500, 10_000]);
        assert_eq!(world.fired(other).len(), 1);
        let latest = instants.iter().chain(&world.fired(other)).map(|(_, late)| *late).max();
        assert!(latest <= Some(2), "{latest:?} ms late");
    })
    .await;
}

/// Goal: a wall clock that is set back silences nothing that follows the time that passes, and one that is set forward
/// brings on what it says is due.
#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_is_set_wrong_is_noticed() {
    world_scope(async {
        let world = world();
        world.submit(JOB, every(Duration::from_secs(2)));
        let at = JobId { local: [2; 16], ..JOB };
        world.submit(at, When::At(Millis(START + 3_600_000)));
        pass(5).await;
        assert_eq!(world.fired(JOB).len(), 2);
        world.wall.offset().set(-3_600_000);
        pass(10).await;
        let instants: Vec<_> = world.fired(JOB).iter().map(|(at, _)| *at).collect();
        assert_eq!(instants, [2_000, 4_000, 6_000, 8_000, 10_000, 12_000, 14_000]);
        assert!(world.fired(at).is_empty());
        // It is noticed within a second, though the sleep that was begun was for longer.
        world.wall.offset().set(3_600_000);
        pass(2).await;
        assert_eq!(world.fired(at).len(), 1);
    })
    .await;
}

/// Goal: what fell due while nobody led is made up for by whoever leads next, once.
#[tokio::test(start_paused = true)]
async fn a_new_primary_goes_on_from_the_record() {
    world_scope(async {
        let world = world();
        world.submit(JOB, every(Duration::from_secs(1)));
        pass(3).await;
        world.quorum.set_term(None);
        pass(4).await;
        world.quorum.set_term(Some(Term(2)));
        // Past the last instant, not at it.
        tokio::time::sleep(Duration::from_millis(2_100)).await;
        let fired: Vec<_> = world.fired(JOB).iter().map(|(at, _)| *at).collect();
        assert_eq!(fired, (1..=9).map(|second| second * 1_000).collect::<Vec<_>>());
    })
    .await;
}

async fn world_scope(test: impl Future<Output = ()>) {
    crate::seams::TaskGroup::inline().scope(test).await;
}
