//! The setup of a new testnet's nodes: data folders, ports that are free, and the settings of a testnet.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use quorate_protocols::ids::PeerId;
use serde::Deserialize;

use super::TestnetError;
use crate::layout::{Layout, node_dir};
use crate::process::ProcessError;

#[derive(Deserialize)]
pub(super) struct InitAnswer {
    pub(super) peer: PeerId,
    pub(super) join: String,
}

pub(super) async fn init_node(
    binary: &Path,
    dir: &Path,
    index: usize,
    listen: SocketAddr,
    join: Option<&str>,
) -> Result<InitAnswer, TestnetError> {
    let mut command = tokio::process::Command::new(binary);
    command.arg("init").arg("--dir").arg(dir).arg("--listen").arg(listen.to_string()).arg("--json");
    if let Some(join) = join {
        command.arg("--join").arg(join);
    }
    let output = command
        .output()
        .await
        .map_err(|source| TestnetError::Process(ProcessError::Start { binary: binary.to_owned(), source }))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(TestnetError::Init { index, reason });
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| TestnetError::Init { index, reason: format!("its answer cannot be read: {error}") })
}

/// Gives every node the settings of a testnet: loopback only, no multicast, all nodes operators of each other, and a
/// few nodes to meet the others through.
pub(super) fn configure(dir: &Path, layout: &Layout, settings: &[(String, toml::Value)]) -> Result<(), TestnetError> {
    let strings = |values: Vec<String>| toml::Value::Array(values.into_iter().map(toml::Value::String).collect());
    let operators = strings(layout.nodes.iter().map(|node| node.peer.to_string()).collect());
    for node in &layout.nodes {
        let path = node_dir(dir, node.index).join("quorate.toml");
        let file = |source| TestnetError::File { path: path.clone(), source };
        let text = std::fs::read_to_string(&path).map_err(file)?;
        let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| TestnetError::Init {
            index: node.index,
            reason: format!("its configuration cannot be read: {error}"),
        })?;
        // The first nodes are where everyone starts; three, so that a node restarted while one is down still joins.
        let bootstrap = layout.nodes.iter().filter(|other| other.index != node.index).take(3);
        let bootstrap = strings(bootstrap.map(|other| other.listen.clone()).collect());
        let ours = [
            ("network.bootstrap".to_owned(), bootstrap),
            ("network.mdns".to_owned(), toml::Value::Boolean(false)),
            ("api.listen".to_owned(), toml::Value::String("127.0.0.1:0".to_owned())),
            ("node.operators".to_owned(), operators.clone()),
            ("node.name".to_owned(), toml::Value::String(format!("node-{}", node.index))),
        ];
        for (key, value) in ours.iter().chain(settings) {
            set(&mut table, key, value.clone());
        }
        std::fs::write(&path, table.to_string()).map_err(file)?;
    }
    Ok(())
}

/// Sets a dotted key, making the tables on the way.
fn set(table: &mut toml::Table, key: &str, value: toml::Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((first, rest)) => {
            let entry = table.entry(first).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if let toml::Value::Table(inner) = entry {
                set(inner, rest, value);
            }
        }
    }
}

/// Where the search for ports begins and ends: below the range from which Linux takes the local ports of outgoing
/// connections by default (32768 and up), so that a node that restarts finds its port still free.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Loopback addresses that are free now. All are held before any is let go, so that they differ.
pub fn free_ports(count: usize) -> std::io::Result<Vec<SocketAddr>> {
    // Testnets started at the same time begin their search in different places.
    let width = u32::from(PORTS.end - PORTS.start);
    let first = std::process::id().wrapping_mul(2_654_435_761) % width;
    let mut held = Vec::new();
    for step in 0..width {
        let port = PORTS.start + ((first + step) % width) as u16;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            held.push(listener);
            if held.len() == count {
                return held.iter().map(TcpListener::local_addr).collect();
            }
        }
    }
    Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, format!("fewer than {count} ports in {PORTS:?} are free")))
}
