//! A running testnet: up, look, break, down.

mod setup;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use quorate_protocols::ids::PeerId;
use rustix::process::Signal;
use serde::Deserialize;

use crate::client::{Client, ClientError};
use crate::layout::{Layout, LayoutError, LayoutNode, NODES_MAX, node_dir};
use crate::process::{Condition, Process, ProcessError};
use crate::report::{TestnetInfo, TestnetNode, TestnetNodeState as NodeState};
pub use setup::free_ports;
use setup::{configure, init_node};

/// How long `up` waits for every node to see every other.
const UP_DEADLINE: Duration = Duration::from_secs(60);

/// How long a node may take to close its files when asked to end.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks at something that should happen soon.
const POLL: Duration = Duration::from_millis(25);

#[derive(Debug, thiserror::Error)]
pub enum TestnetError {
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("a testnet runs in {} already ({running} of its nodes are up): `quorate testnet down` ends it", dir.display())]
    Running { dir: PathBuf, running: usize },
    #[error("a testnet has 1 to {NODES_MAX} nodes, not {given}")]
    Count { given: usize },
    #[error("{}: {source}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("setting up node {index} failed: {reason}")]
    Init { index: usize, reason: String },
    #[error("node {index} ended while starting; the end of its log says:\n{log}")]
    Died { index: usize, log: String },
    #[error("after {after:?} the nodes still do not all see each other: {missing}")]
    NotMeshed { after: Duration, missing: String },
    #[error("this testnet's nodes were started without --testing, so no fault can be injected into them")]
    NotTesting,
    #[error("node {index} is in two groups")]
    TwoGroups { index: usize },
    #[error("a partition needs two sides: every node is in the one group")]
    OneGroup,
    #[error("a cut is between two nodes, and {index} is one")]
    SameNode { index: usize },
    #[error("node {index} is {state}, so it cannot be {wanted}")]
    State { index: usize, state: &'static str, wanted: &'static str },
}

/// What `up` is asked for.
#[derive(Clone, Debug)]
pub struct UpOptions {
    pub dir: PathBuf,
    pub nodes: usize,
    /// The `quorate` binary.
    pub binary: PathBuf,
    /// Start nodes with `--testing`, so that faults can be injected.
    pub testing: bool,
    /// Settings put into every node's configuration: dotted key, value.
    pub settings: Vec<(String, toml::Value)>,
}

impl UpOptions {
    pub fn new(dir: impl Into<PathBuf>, nodes: usize, binary: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), nodes, binary: binary.into(), testing: false, settings: Vec::new() }
    }
}

const fn name(state: NodeState) -> &'static str {
    match state {
        NodeState::Running => "running",
        NodeState::Paused => "paused",
        NodeState::Dead => "dead",
    }
}

/// Handle to a testnet's folder and processes.
#[derive(Debug)]
pub struct Testnet {
    dir: PathBuf,
    layout: Layout,
    owned: bool,
}

impl Drop for Testnet {
    fn drop(&mut self) {
        if self.owned {
            for node in &self.layout.nodes {
                if let Some(process) = self.process(node.index) {
                    // Best effort while unwinding: a process that cannot be killed here is reported by nobody.
                    let _ = process.kill();
                }
            }
        }
    }
}

impl Testnet {
    /// Creates the folder's nodes, starts them, and returns when every node sees every other, with the time it took.
    /// A stopped testnet already in the folder is replaced.
    pub async fn up(options: UpOptions) -> Result<(Self, Duration), TestnetError> {
        let started = Instant::now();
        if options.nodes == 0 || options.nodes > NODES_MAX {
            return Err(TestnetError::Count { given: options.nodes });
        }
        if Layout::exists(&options.dir) {
            let old = Self::open(&options.dir)?;
            let running = old.status().iter().filter(|node| node.state != NodeState::Dead).count();
            if running > 0 {
                return Err(TestnetError::Running { dir: options.dir, running });
            }
            old.remove()?;
        }
        let file = |path: &Path, source| TestnetError::File { path: path.to_owned(), source };
        std::fs::create_dir_all(&options.dir).map_err(|error| file(&options.dir, error))?;
        let dir = options.dir.canonicalize().map_err(|error| file(&options.dir, error))?;
        let ports = free_ports(options.nodes).map_err(|error| file(&dir, error))?;
        let mut layout = Layout { binary: options.binary.clone(), nodes: Vec::new(), testing: options.testing };
        let mut join = None;
        for (position, listen) in ports.iter().enumerate() {
            let index = position + 1;
            let init = init_node(&options.binary, &node_dir(&dir, index), index, *listen, join.as_deref()).await?;
            join.get_or_insert(init.join);
            layout.nodes.push(LayoutNode { index, peer: init.peer, listen: listen.to_string() });
        }
        configure(&dir, &layout, &options.settings)?;
        layout.save(&dir)?;
        let testnet = Self { dir, layout, owned: false };
        let outcome = async {
            for node in &testnet.layout.nodes {
                testnet.start(node.index)?;
            }
            testnet.wait_meshed(UP_DEADLINE).await
        };
        match outcome.await {
            Ok(()) => Ok((testnet, started.elapsed())),
            Err(error) => {
                testnet.down()?;
                Err(error)
            }
        }
    }

    /// Finds the testnet of a folder, running or not.
    pub fn open(dir: &Path) -> Result<Self, TestnetError> {
        Ok(Self { dir: dir.to_owned(), layout: Layout::load(dir)?, owned: false })
    }

    /// Ends the processes when this handle is dropped, for tests and demonstrations.
    pub fn owned(mut self) -> Self {
        self.owned = true;
        self
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    pub fn indices(&self) -> Vec<usize> {
        self.layout.nodes.iter().map(|node| node.index).collect()
    }

    pub fn node_dir(&self, index: usize) -> PathBuf {
        node_dir(&self.dir, index)
    }

    pub fn peer_id(&self, index: usize) -> Result<PeerId, TestnetError> {
        Ok(self.layout.node(index)?.peer)
    }

    /// The node with this peer id.
    pub fn index_of(&self, peer: PeerId) -> Option<usize> {
        self.layout.nodes.iter().find(|node| node.peer == peer).map(|node| node.index)
    }

    pub fn client(&self, index: usize) -> Result<Client, TestnetError> {
        self.layout.node(index)?;
        Ok(Client::of_data_dir(&self.node_dir(index))?)
    }

    fn pid_file(&self, index: usize) -> PathBuf {
        self.node_dir(index).join("process.json")
    }

    pub fn log_file(&self, index: usize) -> PathBuf {
        self.node_dir(index).join("node.log")
    }

    pub(crate) fn process(&self, index: usize) -> Option<Process> {
        let text = std::fs::read_to_string(self.pid_file(index)).ok()?;
        serde_json::from_str(&text).ok()
    }

    pub(crate) fn state(&self, index: usize) -> (NodeState, Option<Process>) {
        match self.process(index) {
            None => (NodeState::Dead, None),
            Some(process) => match process.condition() {
                Condition::Running => (NodeState::Running, Some(process)),
                Condition::Paused => (NodeState::Paused, Some(process)),
                Condition::Gone => (NodeState::Dead, None),
            },
        }
    }

    pub fn status(&self) -> Vec<TestnetNode> {
        self.layout
            .nodes
            .iter()
            .map(|node| {
                let (state, process) = self.state(node.index);
                let api = match state {
                    NodeState::Dead => None,
                    _ => self.client(node.index).ok().map(|client| client.base().to_owned()),
                };
                let pid = process.map(|process| process.pid);
                let faults = self.faults(node.index).unwrap_or_default();
                TestnetNode { index: node.index, peer: Some(node.peer), api, pid, state, faults }
            })
            .collect()
    }

    pub fn info(&self) -> TestnetInfo {
        TestnetInfo { nodes: self.status(), dir: self.dir.display().to_string() }
    }

    pub(crate) fn start(&self, index: usize) -> Result<(), TestnetError> {
        let dir = self.node_dir(index);
        // A stale address must not be taken for the new process's.
        let address = dir.join("api.addr");
        match std::fs::remove_file(&address) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(TestnetError::File { path: address, source: error });
            }
            _ => (),
        }
        let mut arguments: Vec<&std::ffi::OsStr> = vec!["node".as_ref(), "--dir".as_ref(), dir.as_ref()];
        if self.layout.testing {
            arguments.push("--testing".as_ref());
        }
        let process = Process::start(&self.layout.binary, &arguments, &self.log_file(index))?;
        let path = self.pid_file(index);
        let text = serde_json::to_string(&process).expect("a process is plain data");
        std::fs::write(&path, text).map_err(|source| TestnetError::File { path, source })
    }

    /// SIGKILL: no goodbye, no flush. Returns when the process is gone.
    pub fn kill(&self, index: usize) -> Result<(), TestnetError> {
        self.layout.node(index)?;
        match self.state(index) {
            (NodeState::Dead, _) | (_, None) => {
                Err(TestnetError::State { index, state: name(NodeState::Dead), wanted: "killed" })
            }
            (_, Some(process)) => Ok(process.kill()?),
        }
    }

    /// SIGTERM: the node closes its files and ends; one that has not within ten seconds is killed. Returns when the
    /// process is gone.
    pub fn stop(&self, index: usize) -> Result<(), TestnetError> {
        self.layout.node(index)?;
        match self.state(index) {
            (NodeState::Dead, _) | (_, None) => {
                Err(TestnetError::State { index, state: name(NodeState::Dead), wanted: "stopped" })
            }
            (_, Some(process)) => Ok(process.stop(STOP_PATIENCE)?),
        }
    }

    /// SIGSTOP: the process keeps its connections and answers nothing.
    pub fn pause(&self, index: usize) -> Result<(), TestnetError> {
        self.switch(index, NodeState::Running, NodeState::Paused, Signal::STOP)
    }

    /// SIGCONT. What faults were set or healed in the meantime, the node is told now.
    pub async fn resume(&self, index: usize) -> Result<(), TestnetError> {
        self.switch(index, NodeState::Paused, NodeState::Running, Signal::CONT)?;
        match self.layout.testing {
            true => self.tell_faults(index).await,
            false => Ok(()),
        }
    }

    fn switch(&self, index: usize, from: NodeState, to: NodeState, signal: Signal) -> Result<(), TestnetError> {
        self.layout.node(index)?;
        let wanted = if to == NodeState::Paused { "paused" } else { "resumed" };
        let (state, process) = self.state(index);
        let Some(process) = process.filter(|_| state == from) else {
            return Err(TestnetError::State { index, state: name(state), wanted });
        };
        process.signal(signal)?;
        let deadline = Instant::now() + STOP_PATIENCE;
        while self.state(index).0 == from && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Starts a node that is down (stopping it first if it is not), and waits until its API answers.
    pub async fn restart(&self, index: usize) -> Result<(), TestnetError> {
        self.layout.node(index)?;
        if let (_, Some(process)) = self.state(index) {
            tokio::task::block_in_place(|| process.stop(STOP_PATIENCE))?;
        }
        self.start(index)?;
        self.wait_answering(index, UP_DEADLINE).await
    }

    async fn wait_answering(&self, index: usize, patience: Duration) -> Result<(), TestnetError> {
        let deadline = Instant::now() + patience;
        loop {
            if let Ok(client) = self.client(index)
                && client.get::<serde_json::Value>("/v1/node").await.is_ok()
            {
                return Ok(());
            }
            if self.state(index).0 == NodeState::Dead {
                return Err(TestnetError::Died { index, log: self.log_tail(index) });
            }
            if Instant::now() > deadline {
                return Err(TestnetError::NotMeshed {
                    after: patience,
                    missing: format!("node {index} does not answer"),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until every running node is connected to every other running node and knows what it offers.
    pub async fn wait_meshed(&self, patience: Duration) -> Result<(), TestnetError> {
        let deadline = Instant::now() + patience;
        let running: Vec<_> = self.status().into_iter().filter(|node| node.state == NodeState::Running).collect();
        for node in &running {
            self.wait_answering(node.index, deadline.saturating_duration_since(Instant::now())).await?;
        }
        loop {
            let mut missing = Vec::new();
            for node in &running {
                let peers: Vec<PeerRow> = self.client(node.index)?.list("/v1/peers").await?.items;
                let seen = running
                    .iter()
                    .filter(|other| other.index != node.index)
                    .filter(|other| {
                        peers
                            .iter()
                            .any(|peer| Some(peer.peer) == other.peer && peer.connected && !peer.roles.is_empty())
                    })
                    .count();
                if seen + 1 < running.len() {
                    missing.push(format!("node {} sees {seen} of {}", node.index, running.len() - 1));
                }
            }
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(TestnetError::NotMeshed { after: patience, missing: missing.join(", ") });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Ends every node: asks, then insists. All are asked before any is waited for.
    pub fn down(&self) -> Result<(), TestnetError> {
        let processes: Vec<Process> = self.layout.nodes.iter().filter_map(|node| self.state(node.index).1).collect();
        for process in &processes {
            process.signal(Signal::CONT)?;
            process.signal(Signal::TERM)?;
        }
        for process in &processes {
            process.stop(STOP_PATIENCE)?;
        }
        Ok(())
    }

    /// Deletes the nodes' folders. Only what `up` made is touched.
    pub fn remove(&self) -> Result<(), TestnetError> {
        for node in &self.layout.nodes {
            remove_dir(&self.node_dir(node.index))?;
        }
        let path = self.dir.join("testnet.json");
        std::fs::remove_file(&path).map_err(|source| TestnetError::File { path, source })
    }

    /// The last lines that a node wrote.
    pub fn log_tail(&self, index: usize) -> String {
        let text = std::fs::read(self.log_file(index)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

/// The part of `GET /v1/peers` that `up` waits for. A peer's roles are known once its announcement has arrived.
#[derive(Deserialize)]
struct PeerRow {
    peer: PeerId,
    connected: bool,
    #[serde(default)]
    roles: Vec<String>,
}

fn remove_dir(dir: &Path) -> Result<(), TestnetError> {
    match std::fs::remove_dir_all(dir) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(TestnetError::File { path: dir.to_owned(), source })
        }
        _ => Ok(()),
    }
}
