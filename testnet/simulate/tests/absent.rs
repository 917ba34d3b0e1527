//! Puts while one node is absent or far away, on whole simulated nodes, in exact virtual time.
//!
//! Goal: a node that is known to be absent costs nobody a wait, and a distant one only those who need it. Method: for
//! networks of three to nine nodes, objects are put through a healthy network and while one node is down, stands still,
//! is cut off, has a full disk, is reached over a slow link, or lets questions wait while it answers pings at once. The
//! first put may take as long as it takes to notice; those after it take no longer than one and a half times as long as
//! the healthy ones. What is stored reads back while the node is away, and what is owed is repaired once it is back.

use std::time::Duration;

use quorate_node::objects::{PutError, PutOutcome};
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_simulate::runtime;
use quorate_simulate::transcript::Transcript;
use quorate_simulate::world::{World, content};
use tokio::time::Instant;

/// Above the size of objects that are simply copied.
const BYTES: usize = 200_000;

/// Puts of which the median counts.
const PUTS: usize = 5;

/// Time to notice an absence that announces itself: a connection that closed, a disk that announced no room.
const NOTICED: Duration = Duration::from_secs(4);

/// Time in which one is noticed that only falls silent.
const SILENT: Duration = Duration::from_millis(1_500);

/// What a put may take meanwhile, when nothing has been asked of the absent node before.
const FIRST_MAX: Duration = Duration::from_millis(2_500);

/// Every disk takes as long for a sync, so that who holds what is no part of the comparison.
const SYNC: Duration = Duration::from_millis(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Killed,
    Paused,
    Partitioned,
    Full,
    Slow,
    /// Questions wait there as they do on a slow link, and pings do not: what the transport measures is short.
    Hesitant,
}

const FAULTS: [Fault; 6] =
    [Fault::Killed, Fault::Paused, Fault::Partitioned, Fault::Full, Fault::Slow, Fault::Hesitant];

/// What a slow link adds to a message, each way.
const SLOW_BY: Duration = Duration::from_millis(200);

struct Net {
    world: World,
    seed: u64,
    puts: usize,
}

impl Net {
    async fn new(nodes: usize) -> Self {
        let seed = nodes as u64;
        let mut world = World::new(seed, nodes, Transcript::new(false));
        for index in 1..=nodes {
            world.disk(index).set_sync_usual(SYNC);
            world.start(index).await.expect("a new machine starts");
        }
        assert!(world.settle(Duration::from_secs(60)).await, "the nodes see each other");
        Self { world, seed, puts: 0 }
    }

    async fn put(&mut self, through: usize) -> (Duration, Result<PutOutcome, PutError>) {
        self.puts += 1;
        let name = format!("object {}", self.puts);
        let bytes = content(self.seed, &name, BYTES);
        let began = Instant::now();
        let outcome = self.world.put(through, name, bytes).await.expect("no panic").expect("the node runs");
        (began.elapsed(), outcome)
    }

    /// The median of some puts, and what the last of them stored.
    async fn median(&mut self, through: usize) -> (Duration, PutOutcome) {
        let (mut times, mut last) = (Vec::new(), None);
        for _ in 0..PUTS {
            let (took, outcome) = self.put(through).await;
            last = Some(outcome.unwrap_or_else(|error| panic!("a put through node {through}: {error}")));
            times.push(took);
        }
        times.sort_unstable();
        (times[PUTS / 2], last.expect("there were puts"))
    }

    /// A node that leads nothing, and one through which to put.
    fn victim(&self) -> (usize, usize) {
        let leads: Vec<usize> = self.world.leads().into_iter().map(|lead| lead.node).collect();
        let mut others = (1..=self.world.nodes()).rev().filter(|node| !leads.contains(node));
        (others.next().expect("few lead"), others.next().expect("several do not lead"))
    }

    fn inject(&mut self, fault: Fault, node: usize) {
        match fault {
            Fault::Killed => self.world.crash(node),
            Fault::Paused => self.world.pause(node),
            Fault::Partitioned => {
                for other in (1..=self.world.nodes()).filter(|other| *other != node) {
                    let (here, there) = (self.world.peer(node), self.world.peer(other));
                    self.world.network.cut(here, there);
                    self.world.network.cut(there, here);
                }
            }
            Fault::Full => self.world.disk(node).set_full(true),
            Fault::Slow => self.world.network.slow(self.world.peer(node), SLOW_BY),
            Fault::Hesitant => self.world.network.set_hesitation(self.world.peer(node), 2 * SLOW_BY),
        }
    }

    async fn end(&mut self, node: usize) {
        self.world.network.heal();
        self.world.network.set_hesitation(self.world.peer(node), Duration::ZERO);
        self.world.resume(node);
        self.world.disk(node).set_full(false);
        self.world.start(node).await.expect("its disk has all that it had called durable");
        assert!(self.world.settle(Duration::from_secs(60)).await, "the nodes see each other again");
    }

    /// Waits until what was measured of a node that was slow is forgotten: until then nobody waits for it.
    async fn forgiven(&mut self, through: usize) {
        let end = Instant::now() + Duration::from_secs(300);
        while !self.put(through).await.1.is_ok_and(|stored| !stored.degraded) {
            assert!(Instant::now() < end, "a node is not waited for long after it is as near as the others");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn owed(&self, through: usize, stored: &PutOutcome) -> usize {
        let query = Query::Object { manifest: stored.object.manifest };
        let looked = self.world.spawn_query(through, stored.object.quorum, query, |answer| match answer {
            Ok(QueryAnswer::Object(view)) => Some(view.record.owed.len()),
            _ => None,
        });
        looked.await.expect("no panic").flatten().unwrap_or(usize::MAX)
    }

    async fn repaired(&self, through: usize, stored: &PutOutcome) {
        let end = Instant::now() + Duration::from_secs(300);
        while self.owed(through, stored).await > 0 {
            assert!(Instant::now() < end, "a repair is owed long after the node is back");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

async fn compare(nodes: usize) {
    let mut net = Net::new(nodes).await;
    let through = 1;
    net.put(through).await.1.expect("the first put founds the quorum");
    for fault in FAULTS {
        let (victim, through) = net.victim();
        net.forgiven(through).await;
        let (healthy, whole) = net.median(through).await;
        assert!(!whole.degraded, "{nodes} nodes before {fault:?}");
        net.inject(fault, victim);
        let began = Instant::now();
        if fault != Fault::Paused && fault != Fault::Partitioned {
            tokio::time::sleep(NOTICED).await;
        }
        // A silent node is known once a question of one of these puts has been open for a second.
        let mut longest = Duration::ZERO;
        while longest.is_zero() || began.elapsed() < SILENT {
            longest = longest.max(net.put(through).await.0);
        }
        let (absent, stored) = net.median(through).await;
        println!("{nodes} nodes, {fault:?}: {healthy:?}, at first {longest:?}, then {absent:?}, {}", stored.profile);
        assert!(longest <= FIRST_MAX, "{nodes} nodes, {fault:?}: a first put took {longest:?}");
        assert!(absent <= healthy * 3 / 2, "{nodes} nodes, {fault:?}: {absent:?} against {healthy:?}");
        let here = stored.columns.len();
        assert_eq!(stored.degraded, here < stored.profile.columns(), "the flag says what is");
        assert!(
            here > usize::from(stored.profile.data),
            "{nodes} nodes, {fault:?}: no loss is borne by {here} columns"
        );
        match fault {
            // What is owed to a distant node is brought to it at once, and nobody waits.
            Fault::Slow | Fault::Hesitant => net.repaired(through, &stored).await,
            _ => assert_eq!(net.owed(through, &stored).await, stored.profile.columns() - here),
        }
        let read = net.world.get(through, stored.object).await.expect("no panic").expect("the node runs");
        assert_eq!(read.expect("it reads back").len(), BYTES);
        net.end(victim).await;
        net.repaired(through, &stored).await;
    }
}

/// Puts while the node that leads their quorum is reached over a slow link.
async fn compare_slow_primary() {
    let mut net = Net::new(5).await;
    net.put(1).await.1.expect("the first put founds the quorum");
    let (_, through) = net.victim();
    let (healthy, _) = net.median(through).await;
    let leads = net.world.leads();
    assert_eq!(leads.len(), 1, "one quorum is enough for a healthy network");
    net.inject(Fault::Slow, leads[0].node);
    // Puts learn whom their quorum is led by, and that it is far away.
    let began = Instant::now();
    while began.elapsed() < SILENT {
        net.put(through).await.1.expect("a put through a quorum that is led from afar");
    }
    let (slow, stored) = net.median(through).await;
    println!("5 nodes, slow primary: {healthy:?}, then {slow:?}, {}", stored.profile);
    assert!(slow <= healthy * 3 / 2, "{slow:?} against {healthy:?}");
    assert_eq!(net.world.leads().len(), 2, "one nearer quorum is founded, and no more");
}

#[test]
fn puts_found_a_nearer_quorum_when_theirs_is_led_from_afar() {
    runtime::run(5, compare_slow_primary()).expect("a runtime");
}

#[test]
fn puts_wait_for_no_absent_node_whatever_became_of_it_and_however_many_there_are() {
    for nodes in 3..=9 {
        runtime::run(nodes as u64, compare(nodes)).expect("a runtime");
    }
}
