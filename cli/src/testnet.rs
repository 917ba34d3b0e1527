//! `testnet up|status|kill|…|down`: a thin face of the `quorate_testnet` library.

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_api::{LinkFaults, NodeFaults};
use quorate_testnet::{Testnet, TestnetInfo, TestnetUp, UpOptions};

use super::advice;
use super::args::{Common, TestnetCommand};
use super::failure::Failure;
use super::find::resolve_testnet;
use super::ids::Ids;
use super::output::{Text, or_dash, print, print_json, table, word};

pub async fn run(common: &Common, command: TestnetCommand) -> Result<(), Failure> {
    let dir = resolve_testnet(common);
    if let TestnetCommand::Up { nodes, plain } = command {
        let mut options = UpOptions::new(&dir, nodes, own_binary()?);
        options.testing = !plain;
        let (testnet, took) = Testnet::up(options).await?;
        let up = TestnetUp { testnet: testnet.info(), took_ms: took.as_millis() as u64 };
        return match common.json {
            true => print_json(&up),
            false => {
                let seconds = took.as_secs_f64();
                let seen = format!("{nodes} nodes see each other after {seconds:.1} s, in {}", up.testnet.dir);
                let next = format!("Try: {}", advice::command(common, "quorate --peers --node 1"));
                print(status_table(&up.testnet, &Ids::new(common)).below(seen).and(next))
            }
        };
    }
    if let TestnetCommand::Chaos(args) = command {
        return super::chaos::run(common, &dir, args).await;
    }
    let testnet = Testnet::open(&dir)?;
    let done = match command {
        TestnetCommand::Up { .. } | TestnetCommand::Chaos(_) => unreachable!("returned above"),
        TestnetCommand::Status => {
            return match common.json {
                true => print_json(&testnet.info()),
                false => print(status_table(&testnet.info(), &Ids::new(common))),
            };
        }
        TestnetCommand::Kill { index } => {
            testnet.kill(index)?;
            format!("node {index} was killed")
        }
        TestnetCommand::Pause { index } => {
            testnet.pause(index)?;
            format!("node {index} is paused")
        }
        TestnetCommand::Resume { index } => {
            testnet.resume(index).await?;
            format!("node {index} goes on")
        }
        TestnetCommand::Restart { index } => {
            testnet.restart(index).await?;
            format!("node {index} runs")
        }
        TestnetCommand::Partition { groups } => {
            let groups: Vec<Vec<usize>> = groups.into_iter().map(|group| group.0).collect();
            let sides = testnet.partition(&groups).await?;
            format!("nothing passes between {}", sides.iter().map(nodes_text).collect::<Vec<_>>().join(" | "))
        }
        TestnetCommand::Cut { from, to } => {
            testnet.cut(from, to).await?;
            format!("nothing that node {from} sends reaches node {to}")
        }
        TestnetCommand::Slow { index, delay } => {
            testnet.slow(index, delay).await?;
            format!("what node {index} sends or hears takes {delay:?} longer")
        }
        TestnetCommand::Corrupt { index } => {
            testnet.corrupt(index).await?;
            format!("every piece that node {index} reads has a flipped bit")
        }
        TestnetCommand::Fill { index } => {
            testnet.fill(index).await?;
            format!("the disk of node {index} is full")
        }
        TestnetCommand::Lie { index } => {
            testnet.lie(index).await?;
            format!("node {index} gives wrong results of verified tasks")
        }
        TestnetCommand::Clock { index, offset } => {
            testnet.clock(index, offset).await?;
            format!("the clock of node {index} is {}", clock_text(offset))
        }
        TestnetCommand::Heal => {
            testnet.heal().await?;
            "every fault is ended; what is paused or dead stays so".to_owned()
        }
        TestnetCommand::Down { remove } => {
            testnet.down()?;
            let info = testnet.info();
            if remove {
                testnet.remove()?;
            }
            if common.json {
                return print_json(&info);
            }
            return print(match remove {
                true => format!("all nodes are stopped and {} is cleared", dir.display()),
                false => format!("all nodes are stopped; their data is in {} until the next `up`", dir.display()),
            });
        }
    };
    match common.json {
        true => print_json(&testnet.info()),
        false => print(done),
    }
}

pub fn own_binary() -> Result<std::path::PathBuf, Failure> {
    std::env::current_exe().map_err(|error| Failure::failed(format!("cannot find this program's own file: {error}")))
}

pub fn status_table(info: &TestnetInfo, ids: &Ids) -> Text {
    let rows = info.nodes.iter().map(|node| {
        vec![
            node.index.to_string(),
            or_dash(node.peer.map(|peer| ids.peer(peer))),
            word(&node.state),
            or_dash(node.pid),
            or_dash(node.api.as_ref()),
            faults_text(info, &node.faults),
        ]
    });
    table(&["node", "peer", "state", "pid", "api", "faults"], rows)
}

fn nodes_text<'a>(nodes: impl IntoIterator<Item = &'a usize>) -> String {
    nodes.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn clock_text(offset_ms: i64) -> String {
    let span = humantime::format_duration(Duration::from_millis(offset_ms.unsigned_abs()));
    match offset_ms {
        0 => "right".to_owned(),
        1.. => format!("{span} ahead"),
        _ => format!("{span} behind"),
    }
}

fn faults_text(info: &TestnetInfo, faults: &NodeFaults) -> String {
    // Links with the same fault are told together, by the numbers of the nodes at their other ends.
    let to = |wanted: &dyn Fn(&LinkFaults) -> bool| {
        let peers = faults.links.iter().filter(|link| wanted(link)).map(|link| link.peer);
        let index = |peer| info.nodes.iter().find(|node| node.peer == Some(peer)).map(|node| node.index);
        peers.filter_map(index).collect::<BTreeSet<usize>>()
    };
    let mut words = Vec::new();
    for (name, nodes) in [
        ("cut off from", to(&|link| link.cut_to && link.cut_from)),
        ("cannot reach", to(&|link| link.cut_to && !link.cut_from)),
        ("cannot hear", to(&|link| !link.cut_to && link.cut_from)),
    ] {
        if !nodes.is_empty() {
            words.push(format!("{name} {}", nodes_text(&nodes)));
        }
    }
    for delay in faults.links.iter().map(|link| link.delay_ms).filter(|delay| *delay > 0).collect::<BTreeSet<_>>() {
        let nodes = to(&|link| link.delay_ms == delay);
        words.push(format!("slow by {delay} ms to {}", nodes_text(&nodes)));
    }
    if faults.disk.full {
        words.push("disk full".to_owned());
    }
    if faults.disk.flip_bits {
        words.push("reads flipped bits".to_owned());
    }
    if faults.disk.sync_delay_ms > 0 {
        words.push(format!("syncs {} ms slower", faults.disk.sync_delay_ms));
    }
    if faults.lie {
        words.push("lies".to_owned());
    }
    if faults.clock_offset_ms != 0 {
        words.push(format!("clock {}", clock_text(faults.clock_offset_ms)));
    }
    words.join(", ")
}
