//! `bench etcd`: three nodes of etcd on this machine, on the testnet's disk, measured by the same client: what another
//! replicated store makes of it.
//!
//! A put commits one entry of 256 bytes on a majority, synced, as a command of ours does. The client speaks to etcd's
//! JSON gateway, which passes each request to the same process by gRPC: etcd's own clients are spared that step, so
//! these figures are a little worse than what they get. The nodes run in temporary folders on free ports and end with
//! the measurement.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::Method;
use quorate_testnet::{Testnet, free_ports};
use serde::Deserialize;

use crate::Progress;
use crate::connection::{Body, CallError, Connection, Target};
use crate::error::BenchError;
use crate::lanes::{Lanes, Sample, Turn, Until, on_one_thread};
use crate::processes::Processes;
use crate::report::{EtcdRow, Rates, RunFigures};
use crate::roles::POLL;

const NODES: usize = 3;

/// Bytes of a value: about those of a small command.
const VALUE_BYTES: usize = 256;

/// Different keys, put again and again, so that the store does not grow without bound.
const KEYS: u64 = 10_000;

/// How long the nodes may take to elect and answer.
const PATIENCE: Duration = Duration::from_secs(30);

const PUT: &str = "/v3/kv/put";

/// What is measured.
#[derive(Clone, Debug)]
pub struct EtcdPlan {
    pub outstanding: Vec<usize>,
    /// How long one run lasts.
    pub time: Duration,
    pub runs: usize,
}

/// Starts etcd, measures with the client on a thread of its own, and ends etcd.
pub async fn etcd(testnet: &Testnet, plan: &EtcdPlan, progress: Progress) -> Result<Vec<EtcdRow>, BenchError> {
    let binary = find_binary(std::env::var_os("PATH").as_deref()).ok_or(BenchError::NoEtcd)?;
    let cluster = Cluster::start(&binary, testnet.dir())?;
    let leader = cluster.wait_healthy().await?;
    let version = cluster.version(leader).await?;
    progress(&format!("etcd {version}: three nodes on {}", cluster.dir.path().display()));
    let (processes, targets) = (cluster.processes(), cluster.targets.clone());
    let plan = plan.clone();
    // The cluster stays with this future: whoever drops that ends the nodes.
    on_one_thread(async move || {
        let mut rows = Vec::new();
        for (through, targets) in [("leader", &targets[leader..=leader]), ("all", &targets[..])] {
            for &outstanding in &plan.outstanding {
                let mut lanes = Lanes::new(targets, outstanding)?;
                lanes.warm_up(put).await;
                let mut figures = Vec::new();
                for run in 1..=plan.runs {
                    let before = processes.cpu_times();
                    let tally = lanes.run(Until::time(plan.time), put).await;
                    let cpu_ms = processes.cpu_times().ms_per_operation(&before, tally.whole.len() as u64);
                    let run_figures = RunFigures::of(tally, cpu_ms)?;
                    progress(&format!(
                        "etcd puts through {through}, {outstanding} outstanding, run {run}/{}: {:.0} per second, p50 \
                         {:.2} ms",
                        plan.runs, run_figures.per_s, run_figures.latency.p50_ms
                    ));
                    figures.push(run_figures);
                }
                rows.push(EtcdRow {
                    version: version.clone(),
                    through,
                    protocol: "json-gateway",
                    value_bytes: VALUE_BYTES,
                    outstanding,
                    in_process: false,
                    rates: Rates::of(&figures),
                });
            }
        }
        Ok(rows)
    })
    .await
}

async fn put(turn: Turn, connection: &mut Connection) -> Result<Sample, CallError> {
    let body = put_request(turn.number);
    let began = Instant::now();
    connection.call(Method::POST, PUT, Body::json(body)).await?;
    Ok(Sample { first: None, whole: began.elapsed() })
}

/// Puts a value that is different each time.
fn put_request(number: u64) -> Bytes {
    let key = STANDARD.encode(format!("bench/{}", number % KEYS));
    let mut value = [b'v'; VALUE_BYTES];
    value[..8].copy_from_slice(&number.to_le_bytes());
    format!("{{\"key\":\"{key}\",\"value\":\"{}\"}}", STANDARD.encode(value)).into()
}

/// The program of this name in the folders of a `PATH`.
fn find_binary(path: Option<&std::ffi::OsStr>) -> Option<PathBuf> {
    std::env::split_paths(path?).map(|folder| folder.join("etcd")).find(|file| file.is_file())
}

/// The processes of one cluster, which end when it is dropped.
struct Cluster {
    children: Vec<Child>,
    targets: Vec<Arc<Target>>,
    /// Data and logs.
    dir: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in &mut self.children {
            // One that has ended by itself cannot be killed, and is reaped all the same.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn log_file(dir: &Path, node: usize) -> PathBuf {
    dir.join(format!("{node}.log"))
}

impl Cluster {
    fn start(binary: &Path, below: &Path) -> Result<Self, BenchError> {
        let starting = || BenchError::io("etcd cannot be started");
        let dir = tempfile::Builder::new().prefix("etcd-").tempdir_in(below).map_err(starting())?;
        let ports = free_ports(2 * NODES).map_err(starting())?;
        let (clients, peers) = ports.split_at(NODES);
        let url = |address: &std::net::SocketAddr| format!("http://{address}");
        let members: Vec<String> =
            peers.iter().enumerate().map(|(node, address)| format!("{node}={}", url(address))).collect();
        let targets = clients.iter().enumerate();
        let targets = targets.map(|(node, address)| Target::new(format!("etcd node {node}"), &url(address), None));
        let mut cluster = Self { children: Vec::new(), targets: targets.collect::<Result<_, _>>()?, dir };
        for node in 0..NODES {
            let log = std::fs::File::create(log_file(cluster.dir.path(), node)).map_err(starting())?;
            let (client, peer) = (url(&clients[node]), url(&peers[node]));
            let mut command = Command::new(binary);
            command
                .args(["--name", &node.to_string(), "--initial-cluster-state", "new", "--log-level", "warn"])
                .args(["--initial-cluster", &members.join(","), "--initial-cluster-token", "quorate-bench"])
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .arg("--data-dir")
                .arg(cluster.dir.path().join(node.to_string()))
                .stdin(Stdio::null())
                .stdout(log.try_clone().map_err(starting())?)
                .stderr(log);
            // In this process group, so that Ctrl-C ends them too.
            cluster.children.push(command.spawn().map_err(starting())?);
        }
        Ok(cluster)
    }

    fn processes(&self) -> Processes {
        let nodes = self.children.iter().enumerate();
        Processes::new(nodes.map(|(node, child)| (format!("etcd-{node}"), child.id())).collect())
    }

    /// The leader, once all nodes name the same one.
    async fn wait_healthy(&self) -> Result<usize, BenchError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut statuses = Vec::new();
            for target in &self.targets {
                statuses.extend(status(target).await.ok());
            }
            if let Some(leader) = leader(&statuses) {
                return Ok(leader);
            }
            if Instant::now() > deadline {
                let log = std::fs::read(log_file(self.dir.path(), 0)).unwrap_or_default();
                let log = String::from_utf8_lossy(&log);
                let lines: Vec<&str> = log.lines().collect();
                let log = lines[lines.len().saturating_sub(15)..].join("\n");
                return Err(BenchError::Etcd { after: PATIENCE, log });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn version(&self, node: usize) -> Result<String, CallError> {
        Ok(status(&self.targets[node]).await?.version)
    }
}

/// The part of a status that the measurement needs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    header: StatusHeader,
    version: String,
    /// Absent while there is none.
    leader: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct StatusHeader {
    member_id: String,
}

async fn status(target: &Arc<Target>) -> Result<Status, CallError> {
    let mut connection = Connection::new(target.clone());
    connection.post("/v3/maintenance/status", &serde_json::json!({})).await?.json()
}

/// Which of all the nodes leads, when all are there and say the same.
fn leader(statuses: &[Status]) -> Option<usize> {
    let named = &statuses.first()?.leader;
    let is_agreed = statuses.len() == NODES && statuses.iter().all(|status| status.leader == *named);
    statuses.iter().position(|status| is_agreed && status.header.member_id == *named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_is_the_member_that_all_name() {
        let status = |member: &str, leader: &str| {
            let text =
                format!(r#"{{"header":{{"member_id":"{member}","term":"2"}},"version":"3.4.23","leader":"{leader}"}}"#);
            serde_json::from_str::<Status>(&text).unwrap()
        };
        assert_eq!(leader(&[status("7", "8"), status("8", "8"), status("9", "8")]), Some(1));
        assert_eq!(leader(&[status("7", "8"), status("8", "8")]), None, "one is not there");
        assert_eq!(leader(&[status("7", "8"), status("8", "8"), status("9", "7")]), None);
        assert_eq!(leader(&[]), None);
        let electing: Status = serde_json::from_str(r#"{"header":{"member_id":"7"},"version":"3.4.23"}"#).unwrap();
        assert_eq!(leader(&[electing.clone(), electing.clone(), electing]), None);
    }

    #[test]
    fn a_put_has_its_key_and_256_bytes_of_value() {
        #[derive(Deserialize)]
        struct Put {
            key: String,
            value: String,
        }
        let put = |number| serde_json::from_slice::<Put>(&put_request(number)).unwrap();
        assert_eq!(STANDARD.decode(put(7).key).unwrap(), b"bench/7");
        assert_eq!(STANDARD.decode(put(7).value).unwrap().len(), VALUE_BYTES);
        assert_ne!(put(7).value, put(7 + KEYS).value);
        assert_eq!(put(7).key, put(7 + KEYS).key);
    }

    #[test]
    fn the_binary_is_looked_for_on_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = std::env::join_paths([Path::new("/nonexistent"), dir.path()]).unwrap();
        assert_eq!(find_binary(Some(&path)), None);
        std::fs::write(dir.path().join("etcd"), "").unwrap();
        assert_eq!(find_binary(Some(&path)), Some(dir.path().join("etcd")));
        assert_eq!(find_binary(None), None);
    }
}
