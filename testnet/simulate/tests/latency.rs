//! Slow links and slow disks: quorums are founded, led, and led anew, on whole simulated nodes.
//!
//! Goal: over links of any round trip up to 400 ms with jitter and loss, and on disks whose syncs take up to a second,
//! a killed primary is replaced within the time that a few round trips and syncs take, nobody founds a second quorum
//! meanwhile, and nobody elects without a cause. Method: five nodes found a quorum; its primary crashes while a client
//! asks for a place for its job; then nothing happens for ten minutes.

use std::time::Duration;

use quorate_protocols::ids::{QuorumId, Term};
use quorate_simulate::links::Links;
use quorate_simulate::runtime;
use quorate_simulate::transcript::Transcript;
use quorate_simulate::world::World;
use quorate_testnet::rng::Rng;
use tokio::time::Instant;

const NODES: usize = 5;

/// Crashes of a primary in one scene.
const KILLS: usize = 4;

/// Time without a cause for an election.
const QUIET: Duration = Duration::from_secs(600);

const SETTLE: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug)]
struct Scene {
    seed: u64,
    round_trip: Duration,
    sync: Duration,
    /// Only the last node is as slow as that; the others are on a LAN, with quick disks.
    is_one_slow: bool,
}

impl Scene {
    /// Within which a primary is elected after a crash.
    fn bound(&self) -> Duration {
        Duration::from_millis(150).max(8 * self.round_trip + 4 * self.sync)
    }
}

struct Stage {
    scene: Scene,
    world: World,
    quorum: QuorumId,
}

impl Stage {
    async fn new(scene: Scene) -> Self {
        let mut world = World::new(scene.seed, NODES, Transcript::new(false));
        let Scene { round_trip, sync, is_one_slow, .. } = scene;
        Links { round_trip, loss_per_mille: 10, sync: Some(sync), is_one_slow }.apply(&world);
        for index in 1..=NODES {
            world.start(index).await.expect("a new machine starts");
        }
        assert!(world.settle(SETTLE).await, "{scene:?}: the nodes see each other");
        let quorum = place(&world, 1).await.unwrap_or_else(|error| panic!("{scene:?}: founding: {error}"));
        let stage = Self { scene, world, quorum };
        stage.led(Term(0), None).await;
        stage
    }

    /// The node that leads the quorum, as openraft has it there, in a term after `after`; and in which.
    fn leader(&self, after: Term, without: Option<usize>) -> Option<(usize, Term)> {
        self.world.up().into_iter().filter(|index| Some(*index) != without).find_map(|index| {
            let node = self.world.node(index)?;
            let view = node.quorums().quorum(self.quorum)?.view();
            (view.primary == Some(node.identity().member()) && view.term > after).then_some((index, view.term))
        })
    }

    async fn led(&self, after: Term, without: Option<usize>) -> (usize, Term) {
        let began = Instant::now();
        loop {
            if let Some(led) = self.leader(after, without) {
                return led;
            }
            let scene = self.scene;
            assert!(
                began.elapsed() < Duration::from_secs(120),
                "{scene:?}: no primary after {after:?}\n{}",
                self.tail()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn tail(&self) -> String {
        self.world.transcript.tail(40).join("\n")
    }

    /// Crashes the primary, and returns after how long another was elected.
    async fn kill_primary(&mut self) -> Duration {
        let (primary, term) = self.led(Term(0), None).await;
        self.world.crash(primary);
        let began = Instant::now();
        let asker = self.world.up()[0];
        let (placed, took) = tokio::join!(place(&self.world, asker), async {
            self.led(term, Some(primary)).await;
            began.elapsed()
        });
        let placed = placed.unwrap_or_else(|error| panic!("{:?}: {error}\n{}", self.scene, self.tail()));
        assert_eq!(placed, self.quorum, "{:?}: a second quorum was founded", self.scene);
        self.world.start(primary).await.expect("it starts again");
        assert!(self.world.settle(SETTLE).await, "{:?}: the nodes see each other again", self.scene);
        took
    }

    async fn play(mut self) -> Vec<Duration> {
        let mut took = Vec::new();
        let mut rng = Rng::new(self.scene.seed, "kills");
        for _ in 0..KILLS {
            tokio::time::sleep(rng.duration(Duration::from_secs(5), Duration::from_secs(15))).await;
            took.push(self.kill_primary().await);
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        let (_, term) = self.led(Term(0), None).await;
        tokio::time::sleep(QUIET).await;
        let (_, later) = self.led(Term(0), None).await;
        assert_eq!(term, later, "{:?}: an election without a cause\n{}", self.scene, self.tail());
        let founded: usize = self
            .world
            .up()
            .iter()
            .filter_map(|index| self.world.node(*index))
            .fold(0, |most, node| most.max(node.quorums().quorums().len()));
        assert_eq!(founded, 1, "{:?}: quorums were founded in vain", self.scene);
        took
    }
}

async fn place(world: &World, index: usize) -> Result<QuorumId, String> {
    let node = world.node(index).expect("it runs").clone();
    let tasks = node.seams().tasks.clone();
    let placing = tasks.spawn(async move { node.placement().quorum_for_job().await });
    placing.await.expect("no panic").expect("no crash").map_err(|error| error.to_string())
}

fn play(round_trips: &[u64], syncs: &[u64], is_one_slow: bool) {
    let mut failed = Vec::new();
    for (at, (round_trip, sync)) in
        round_trips.iter().flat_map(|trip| syncs.iter().map(move |sync| (*trip, *sync))).enumerate()
    {
        let (round_trip, sync) = (Duration::from_millis(round_trip), Duration::from_millis(sync));
        let scene = Scene { seed: 1 + at as u64, round_trip, sync, is_one_slow };
        let took = runtime::run(scene.seed, async { Stage::new(scene).await.play().await }).expect("a runtime");
        println!("{round_trip:?} and {sync:?} per sync: {took:?}, of {:?}", scene.bound());
        // A lost message costs a repetition; of so many, one may need two.
        if took.iter().any(|took| *took > scene.bound()) {
            failed.push((scene, took));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn a_killed_primary_is_replaced_within_a_few_round_trips() {
    play(&[0, 20, 60, 100, 200, 400], &[0], false);
}

#[test]
fn a_killed_primary_is_replaced_within_a_few_syncs() {
    play(&[0], &[20, 60, 200, 1_000], false);
}

#[test]
fn slow_links_and_slow_disks_together_change_nothing() {
    play(&[100, 400], &[60, 1_000], false);
}

#[test]
fn one_slow_member_among_quick_ones_holds_up_nobody_for_longer_than_it_takes() {
    play(&[60, 400], &[0, 200, 1_000], true);
}
