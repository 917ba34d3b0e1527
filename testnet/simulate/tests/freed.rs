//! A node that crashed leaves nothing in memory: a thousand runs in one process need room for the ones that run.

use std::time::Duration;

use quorate_simulate::runtime;
use quorate_simulate::transcript::Transcript;
use quorate_simulate::world::{World, content};

/// Goal: what a node kept is freed once it has crashed. Method: nodes store an object, so that each has quorums, leases
/// and promises; then all crash, and nobody holds the host of their quorums any more.
#[test]
fn a_node_that_crashed_is_freed() {
    let hosts = runtime::run(1, async {
        let mut world = World::new(1, 4, Transcript::new(false));
        for index in 1..=4 {
            world.start(index).await.expect("a new machine starts");
        }
        assert!(world.settle(Duration::from_secs(60)).await);
        let put = world.put(1, "object".to_owned(), content(1, "object", 5_000));
        assert!(put.await.expect("no panic").expect("no crash").is_ok());
        let host = |index| world.node(index).expect("it runs").quorums().downgrade();
        let hosts: Vec<_> = (1..=4).map(host).collect();
        assert!(hosts.iter().all(|host| host.upgrade().is_some()));
        for index in 1..=4 {
            world.crash(index);
        }
        // What was dropped in the middle of something may have passed it on to a task that ends only now.
        tokio::time::sleep(Duration::from_secs(120)).await;
        hosts
    })
    .expect("a runtime");
    let kept = hosts.iter().filter(|host| host.upgrade().is_some()).count();
    assert_eq!(kept, 0, "hosts of crashed nodes are still in memory");
}
