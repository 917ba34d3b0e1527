//! `testnet up|status|kill|pause|resume|restart|down`: a thin face of the `quorate_testnet` library.

use quorate_protocols::api::{TestnetInfo, TestnetUp};
use quorate_testnet::{Testnet, UpOptions};

use super::args::{Common, TestnetCommand};
use super::failure::Failure;
use super::find::resolve_testnet;
use super::output::{or_dash, print, print_json, table, word};

pub async fn run(common: &Common, command: TestnetCommand) -> Result<(), Failure> {
    let dir = resolve_testnet(common);
    if let TestnetCommand::Up { nodes, testing } = command {
        let mut options = UpOptions::new(&dir, nodes, own_binary()?);
        options.testing = testing;
        let (testnet, took) = Testnet::up(options).await?;
        let up = TestnetUp { testnet: testnet.info(), took_ms: took.as_millis() as u64 };
        return match common.json {
            true => print_json(&up),
            false => print(format!(
                "{}\n\n{nodes} nodes see each other after {:.1} s, in {}\nTry: quorate --peers --node 1",
                status_table(&up.testnet),
                took.as_secs_f64(),
                up.testnet.dir
            )),
        };
    }
    let testnet = Testnet::open(&dir)?;
    let done = match command {
        TestnetCommand::Up { .. } => unreachable!("returned above"),
        TestnetCommand::Status => {
            return match common.json {
                true => print_json(&testnet.info()),
                false => print(status_table(&testnet.info())),
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
            testnet.resume(index)?;
            format!("node {index} goes on")
        }
        TestnetCommand::Restart { index } => {
            testnet.restart(index).await?;
            format!("node {index} runs")
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

pub fn status_table(info: &TestnetInfo) -> String {
    let rows = info.nodes.iter().map(|node| {
        vec![
            node.index.to_string(),
            or_dash(node.peer_id),
            word(&node.state),
            or_dash(node.pid),
            or_dash(node.api.as_ref()),
        ]
    });
    table(&["node", "peer", "state", "pid", "api"], rows)
}
