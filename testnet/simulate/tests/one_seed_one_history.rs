//! The seams proven: three whole nodes, in memory, under virtual time, twice from one seed, with the same transcript.

use std::time::Duration;

use quorate_simulate::runtime;
use quorate_simulate::transcript::Transcript;
use quorate_simulate::world::{World, content};

const PATIENCE: Duration = Duration::from_secs(60);

/// Three nodes form a quorum and store an object; its primary crashes; another node reads the object back.
fn history(seed: u64) -> String {
    let story = async {
        let transcript = Transcript::new(true);
        let mut world = World::new(seed, 3, transcript.clone());
        for index in 1..=3 {
            world.start(index).await.expect("an empty disk opens");
        }
        assert!(world.settle(PATIENCE).await, "the nodes never saw each other:\n{}", transcript.text());

        let stored = content(seed, "object", 300_000);
        let put = tokio::time::timeout(PATIENCE, world.put(1, "object".into(), stored.clone())).await;
        let put = put.unwrap_or_else(|_| panic!("the put never ended:\n{}", transcript.tail(400).join("\n")));
        let put = put.expect("the put did not panic").expect("its node is up");
        let object = put.unwrap_or_else(|error| panic!("{error}:\n{}", transcript.tail(400).join("\n"))).object;

        let primary = |world: &World| world.leads().into_iter().find(|lead| lead.quorum == object.quorum);
        let first = primary(&world).expect("a quorum that has just committed has a primary");
        world.crash(first.node);
        let is_replaced =
            world.wait_until(PATIENCE, |world| primary(world).is_some_and(|lead| lead.member != first.member)).await;
        assert!(is_replaced, "no new primary:\n{}", transcript.tail(400).join("\n"));

        let reader = world.up()[0];
        let read = tokio::time::timeout(PATIENCE, world.get(reader, object)).await;
        let read = read.expect("the read ended").expect("the read did not panic").expect("its node is up");
        assert!(read.expect("two of three columns are there") == stored, "the object read back different");

        world.start(first.node).await.expect("the crashed node's disk opens");
        assert!(world.settle(PATIENCE).await, "the restarted node was not seen again");
        transcript.text()
    };
    runtime::run(seed, story).expect("a runtime starts")
}

/// Goal: nothing that a node does depends on anything but the seed. Method: every message, event and line of two runs.
#[test]
fn one_seed_is_one_history() {
    let (first, second) = (history(7), history(7));
    if let Some((line, (a, b))) = first.lines().zip(second.lines()).enumerate().find(|(_, (a, b))| a != b) {
        let before: Vec<_> = first.lines().take(line).collect();
        let context = before[before.len().saturating_sub(12)..].join("\n");
        panic!("the histories part at line {line}, after\n{context}\nfirst:  {a}\nsecond: {b}");
    }
    assert_eq!(first, second);
    assert_ne!(first, history(8), "another seed gave the same history: the transcript shows nothing");
}
