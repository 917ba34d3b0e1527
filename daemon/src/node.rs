//! `node`: runs one node in the foreground until Ctrl-C or SIGTERM.
//!
//! The order: configuration and identity, the disk (whose lock keeps a second node off the folder), the network, the
//! node's actors, the API last, so that whoever finds its address finds a node that works. Closing goes the other way.
//! The runtime has few threads on purpose: several nodes on one small machine is an ordinary case, and every thread
//! that allocates costs memory of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use quorate_api::{FAULTS_FILE, NodeFaults, TOKEN_FILE};
use quorate_cli::{Common, Failure, NodeArgs, Text, default_node_dir, print};
use quorate_http::{Backend, DoorLimits, ListenSettings, NodeBackend, Server, TestingHooks};
use quorate_node::compose::{Node, NodeExecutors, NodeParts, NodeSettings};
use quorate_node::config::{self, ApiSection, Config};
use quorate_node::executors::Executor;
use quorate_node::executors::command::{CommandConfig, CommandExecutor, GRACE};
use quorate_node::executors::wasm::{ArtifactConfig, WasmConfig, WasmExecutor};
use quorate_node::folder::{self, Tightened};
use quorate_node::identity::{self, Identity};
use quorate_node::network::{self, Link, LinkFault, NetFaults, NetworkConfig};
use quorate_node::resources::{Resources, machine};
use quorate_node::seams::clock::SystemClock;
use quorate_node::seams::entropy::OsEntropy;
use quorate_node::seams::{Clock, Seams, TaskGroup};
use quorate_node::storage::faults::DiskFaults;
use quorate_node::workers::faults::WorkerFaults;
use quorate_node::{incarnation, storage};
use quorate_protocols::engine::{Engine, NodeRole};
use quorate_protocols::resources::Limits;
use quorate_protocols::resources::limits::Overrides;
use tokio::signal::unix::{SignalKind, signal};

use super::log;

/// Threads that run tasks: all cores up to this many. Hashing, coding and files have threads of their own.
const WORKERS_MAX: usize = 4;

/// Threads for blocking work. A put needs a handful; each holds an allocator's arena.
const BLOCKING_THREADS_MAX: usize = 16;

/// Files that are refused, and not closed, when others can read them.
const SECRETS: [&str; 4] = [identity::KEY_FILE, identity::AUTHORITY_FILE, identity::SECRET_FILE, TOKEN_FILE];

/// Idle blocking threads go away after this long, and their memory with them.
const BLOCKING_KEEP_ALIVE: Duration = Duration::from_secs(3);

/// A node that does not close by itself is left behind: its disk is safe at every moment anyway.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);

pub fn run(common: &Common, args: &NodeArgs) -> Result<(), Failure> {
    let dir = common.dir.clone().unwrap_or_else(default_node_dir);
    // Programs that it starts have working folders of their own.
    let dir = std::path::absolute(&dir)
        .map_err(|error| Failure::failed(format!("{} cannot be a data folder: {error}", dir.display())))?;
    let config = match &args.config {
        Some(file) => config::load_file(file),
        None => config::load(&dir),
    };
    if args.print_config {
        return match config {
            Ok(config) => print(Text::paragraphs(&config.to_toml())),
            Err(config::ConfigError::Missing { .. }) if args.config.is_none() => {
                print(Text::paragraphs(&Config::default_toml()))
            }
            Err(error) => Err(unusable(&error)),
        };
    }
    let config = config.map_err(|error| unusable(&error))?;
    log::start(&config)?;
    folder::restrict_new_files();
    for Tightened { path, mode } in folder::tighten(&dir, &SECRETS).map_err(|error| Failure::of(&error))? {
        tracing::warn!(path = %path.display(), mode = %format!("{mode:03o}"), "others could read this; now they cannot");
    }
    super::allocator::tune();
    machine::raise_descriptor_limit();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(WORKERS_MAX))
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_keep_alive(BLOCKING_KEEP_ALIVE)
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
    let outcome = runtime.block_on(serve(dir, config, args.testing));
    runtime.shutdown_background();
    outcome
}

async fn serve(dir: PathBuf, config: Config, testing: bool) -> Result<(), Failure> {
    // Before anything can be interrupted.
    let signal = |kind| signal(kind).map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")));
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);

    let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(OsEntropy));
    let identity = identity::load(&dir, &*entropy).map_err(|error| Failure::of(&error))?;
    let secret = identity::load_secret(&dir).map_err(|error| Failure::of(&error))?;
    let folder = dir.clone();
    let disk = tokio::task::spawn_blocking(move || storage::open(&folder))
        .await
        .map_err(|error| Failure::of(&error))?
        .map_err(|error| Failure::of(&error))?;
    let settled = incarnation::settle(&dir, &disk, identity, &*entropy, clock.wall()).await;
    let identity = settled.map_err(|error| Failure::of(&error))?;
    let (disk, disk_faults) = match testing {
        true => {
            let (disk, faults) = DiskFaults::wrap(disk);
            (disk, Some(faults))
        }
        false => (disk, None),
    };
    let overrides = Overrides {
        memory_bytes: config.resources.memory_max.map(|size| size.0),
        disk_bytes: config.resources.disk_max.map(|size| size.0),
        slots: config.resources.slots.map(u64::from),
        connections: Some(config.network.connections_max.into()),
        descriptors: None,
    };
    let resources = Resources::new(Limits::for_machine(machine::read(&*disk.files), overrides));
    let tasks = TaskGroup::threaded();
    let seams = Seams { clock: clock.clone(), entropy: entropy.clone(), disk, tasks: tasks.clone() };

    let server = Server::bind(&dir, listen_settings(&config.api), &*entropy).await;
    let server = server.map_err(|error| Failure::of(&error))?;
    let address = server.address();
    let mut registry = Registry::default();
    server.register_metrics(&mut registry);
    let network_config = NetworkConfig::new(&config.network, secret, testing);
    let worker_faults = if testing { WorkerFaults::for_testing() } else { WorkerFaults::off() };
    let hooks = match disk_faults {
        Some(disk) => {
            Some(Hooks::new(&dir, clock.clone(), disk, network_config.faults.clone(), worker_faults.clone())?)
        }
        None => None,
    };
    let admission = network::admission(resources.clone());
    let (net, inbound) = tasks
        .scope(network::start(&seams, &identity, network_config, admission, &mut registry))
        .await
        .map_err(|error| Failure::of(&error))?;
    let peer = identity.peer();
    let mut settings = NodeSettings::from(&config);
    settings.is_measured = testing;
    settings.admission = identity::load_admission(&dir).map_err(|error| Failure::of(&error))?;
    if let Err(distrust) = settings.trust.check(peer, settings.admission.as_ref(), clock.wall()) {
        tracing::warn!(
            %distrust,
            "this node is no member, holder or worker of any quorum until it is admitted: run `quorate admit {peer}` \
             where the authority's key is, `quorate admit --install LINE` here, and start it again"
        );
    }
    if let Some(path) = &config.conditions.authorities {
        let unusable = |why: String| {
            Failure::failed(format!("conditions.authorities: {}: {why}", path.display()))
                .hint("it is to be a file of certificates in PEM (-----BEGIN CERTIFICATE-----)")
        };
        let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
        settings.hosts = settings.hosts.believing(&pem).map_err(unusable)?;
    }
    let folder = dir.join("work");
    let modules = dir.join("modules");
    let executors = executors(&config, &identity, &folder, modules, &seams, &resources).await?;
    let work = NodeExecutors { executors, folder: Some(folder), faults: worker_faults };
    let node = Node::start(NodeParts { seams, identity, settings, resources, net: net.clone(), inbound, work })
        .await
        .map_err(|error| Failure::of(&error))?;
    let mut fatal = node.storage().fatal();
    let hooks = hooks.map(|hooks| Arc::new(hooks) as Arc<dyn TestingHooks>);
    let backend = Arc::new(NodeBackend::new(node.clone(), registry, hooks));
    // Not to be kept alive by the node that it shows.
    let metrics = Arc::downgrade(&backend);
    node.sources().set_metrics(move || metrics.upgrade().map(|backend| backend.metrics()).unwrap_or_default());
    let serving = tasks.spawn(server.serve(backend));
    tracing::info!(%peer, api = %format!("http://{address}"), peers = ?net.listen_addresses(), folder = %dir.display(), "running");

    let outcome = tokio::select! {
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        served = serving => match served {
            Ok(Some(Err(error))) => Err(Failure::of(&error)),
            _ => Err(Failure::failed("the API stopped")),
        },
        Ok(failed) = fatal.wait_for(Option::is_some) => {
            let reason = failed.as_ref().map(ToString::to_string).unwrap_or_default();
            Err(Failure::failed(format!("the disk failed and nothing more can be promised: {reason}"))
                .hint("what was acknowledged is on the other members; repair the disk, then start this node again"))
        }
    };
    tracing::info!("closing");
    let closing = async {
        tokio::select! {
            closed = tokio::time::timeout(CLOSE_PATIENCE, node.close()) => {
                if closed.is_err() {
                    tracing::warn!("some work did not end within {CLOSE_PATIENCE:?} and was dropped");
                }
            }
            // A second Ctrl-C means now.
            _ = interrupt.recv() => (),
        }
    };
    closing.await;
    outcome
}

fn listen_settings(api: &ApiSection) -> ListenSettings {
    let limits =
        DoorLimits { connections_max: api.connections_max as usize, stall: api.stall_max, ..DoorLimits::default() };
    ListenSettings { address: api.listen, allow_remote: api.allow_remote, limits }
}

/// What this node runs tasks with: an executor for each engine that it has.
async fn executors(
    config: &Config,
    identity: &Identity,
    folder: &Path,
    modules: PathBuf,
    seams: &Seams,
    resources: &Resources,
) -> Result<BTreeMap<Engine, Arc<dyn Executor>>, Failure> {
    let mut executors = BTreeMap::<Engine, Arc<dyn Executor>>::new();
    let program = std::env::current_exe()
        .map_err(|error| Failure::failed(format!("finding this program's own file: {error}")))?;
    if config.node.roles.contains(&NodeRole::Wasm) {
        let bytes_max = config.resources.module_cache_max.0;
        let key = blake3::derive_key("quorate 1 compiled modules of a node", &identity.secret_bytes());
        // Opened with no room, too: what an earlier setting left goes.
        let artifacts = Some(ArtifactConfig { folder: modules, key, bytes_max });
        let config = WasmConfig { artifacts, ..WasmConfig::new(program.clone(), resources.clone()) };
        let wasm = WasmExecutor::new(config, seams.clock.clone(), seams.entropy.clone());
        executors.insert(Engine::Wasm, Arc::new(wasm.map_err(|error| Failure::of(&error))?));
    }
    if config.node.roles.contains(&NodeRole::Command) {
        let mut allowed = config.commands.clone();
        if !config.network.allow_peers.is_empty() {
            let admitted: BTreeSet<_> = config.network.allow_peers.iter().copied().chain([identity.peer()]).collect();
            for command in allowed.values_mut() {
                command.submitters = std::mem::take(&mut command.submitters).among(&admitted);
            }
        }
        let folder = folder.join("commands");
        let command = CommandConfig { allowed, folder, supervisor: program, grace: GRACE };
        let commands = CommandExecutor::new(command, seams.entropy.clone());
        let sweeping = commands.clone();
        let swept = tokio::task::spawn_blocking(move || sweeping.sweep()).await;
        let swept = swept.map_err(|error| Failure::of(&error))?;
        let swept = swept.map_err(|error| Failure::failed(format!("removing folders of earlier tasks: {error}")))?;
        if swept.folders > 0 {
            tracing::info!(
                folders = swept.folders,
                processes = swept.processes,
                "removed what tasks of an earlier run left"
            );
        }
        executors.insert(Engine::Command, Arc::new(commands));
    }
    Ok(executors)
}

/// The faults of a node started with `--testing`.
struct Hooks {
    clock: Arc<SystemClock>,
    disk: DiskFaults,
    net: NetFaults,
    worker: WorkerFaults,
    now: Mutex<NodeFaults>,
}

impl Hooks {
    /// With the faults that the node's folder says it begins with.
    fn new(
        dir: &Path,
        clock: Arc<SystemClock>,
        disk: DiskFaults,
        net: NetFaults,
        worker: WorkerFaults,
    ) -> Result<Self, Failure> {
        let path = dir.join(FAULTS_FILE);
        let fault = |reason: String| Failure::failed(format!("{}: {reason}", path.display()));
        let faults = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| fault(error.to_string()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => NodeFaults::default(),
            Err(error) => return Err(fault(error.to_string())),
        };
        let hooks = Self { clock, disk, net, worker, now: Mutex::default() };
        hooks.set_faults(faults);
        Ok(hooks)
    }
}

impl TestingHooks for Hooks {
    fn faults(&self) -> NodeFaults {
        self.now.lock().clone()
    }
    fn set_faults(&self, faults: NodeFaults) {
        // Held until all is set: of two that come at once, one is whole.
        let mut now = self.now.lock();
        self.clock.set_offset_ms(faults.clock_offset_ms);
        self.disk.set_full(faults.disk.full);
        self.disk.set_flip_bits(faults.disk.flip_bits);
        self.disk.set_sync_delay(Duration::from_millis(faults.disk.sync_delay_ms));
        let links = faults.links.iter().map(|link| {
            let one_way = |cut| match (cut, link.delay_ms) {
                (true, _) => Link::Cut,
                (false, 0) => Link::Open,
                (false, delay) => Link::Slow(Duration::from_millis(delay)),
            };
            (link.peer, LinkFault { to: one_way(link.cut_to), from: one_way(link.cut_from) })
        });
        let set = self.net.replace(links.collect()).and_then(|()| self.worker.set_lying(faults.lie));
        if let Err(error) = set {
            tracing::error!(%error, "faults were not set");
        }
        *now = faults;
    }
}

/// What is wrong with a configuration: a line for each mistake in its file.
fn unusable(error: &config::ConfigError) -> Failure {
    match error {
        config::ConfigError::Invalid(faults) => Failure::failed(Text::lines(faults.lines())),
        other => Failure::of(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_door_has_the_limits_of_the_settings() {
        let usual = listen_settings(&ApiSection::default()).limits;
        assert_eq!(usual, DoorLimits::default(), "the defaults of the settings are those of the API");
        let api = ApiSection { connections_max: 9, stall_max: Duration::from_secs(33), ..ApiSection::default() };
        let limits = listen_settings(&api).limits;
        assert_eq!((limits.connections_max, limits.stall), (9, Duration::from_secs(33)));
    }
}
