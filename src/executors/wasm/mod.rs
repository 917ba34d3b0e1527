//! Runs WASI preview 1 command modules, as compilers of C, Rust, Zig, AssemblyScript and others make them, unchanged.
//!
//! A module gets a memory with a limit, a stack with a limit, the arguments, variables and files that its task
//! declares, and nothing of the machine: [`files`] is a tree in memory, clocks read to the millisecond, there are no
//! sockets, no threads and no other module ([`wasi`] says what is absent). Names and open descriptors have limits of
//! their own ([`files`], [`FILES_OPEN_DEFAULT`](super::task::FILES_OPEN_DEFAULT)); the task's log names one that is
//! met. Each runs on a thread of its own ([`threads`]), at most [`WasmConfig::running_max`] at once; who comes later
//! waits, and its deadline runs.
//!
//! What ends a module that does not end by itself: fuel where the task gives it (an instruction count, the same on
//! every machine), and always the deadline and the `stop` token, through the engine's epoch ([`stop`]). A deterministic
//! task has its own clock and randomness and must have fuel; its outcome is the same bytes wherever it runs, unless
//! time, memory or the machine ended it, which its [`Ending`] then says.
//!
//! Before it runs, a module is checked ([`check`], the same check that a submit makes) and compiled by a process with
//! limits ([`compiler`]). The code is kept in memory and on disk ([`modules`], [`artifacts`]): once per node, for all
//! tasks and processes of that node. It is not taken from other nodes, since nothing proves that code is harmless.

mod artifacts;
pub mod compiler;
mod descriptors;
mod errno;
mod files;
mod guest;
mod input;
mod memory;
mod modules;
mod paths;
mod poll;
mod rights;
mod stop;
#[cfg(test)]
mod tests;
mod threads;
mod wasi;
mod world;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use quorate_modules::check;
use quorate_modules::engine::Flavour;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wasmtime::{Store, Trap, UpdateDeadline};

pub use self::artifacts::ArtifactConfig;
use self::artifacts::Artifacts;
use self::files::Files;
use self::guest::{Guest, Halt};
use self::input::Input;
use self::memory::{MachineFull, MemoryLimiter};
use self::modules::{Key, ModuleError, Modules, Ready, Stage};
use self::stop::{Stop, StopOnDrop, StopReason};
use self::world::World;
use super::log::LogBook;
use super::report::Lines;
use super::{Content, Ending, Executor, Finished, Host, Limits, Program, Stdout, Task, Usage, output, task};
use crate::resources::Resources;
use crate::seams::{Clock, Entropy};

/// How often a task whose module is not ready yet says how far that is.
const READY_INTERVAL: Duration = Duration::from_secs(1);

/// What all modules of a node share.
#[derive(Clone)]
pub struct WasmConfig {
    /// Modules that run at once.
    pub running_max: usize,
    /// Machine code kept in memory for modules that may come again.
    pub cache_bytes_max: u64,
    /// Machine code kept on disk; `None` keeps none.
    pub artifacts: Option<ArtifactConfig>,
    /// The program that compiles when it is started with [`compiler::COMPILE`]: this one.
    pub compiler: PathBuf,
    /// What compiling is charged to.
    pub resources: Resources,
}

impl WasmConfig {
    /// The usual bounds, and nothing on disk.
    pub fn new(compiler: PathBuf, resources: Resources) -> Self {
        Self { running_max: 256, cache_bytes_max: 256 << 20, artifacts: None, compiler, resources }
    }
}

/// Starting the runtime for modules failed: this machine lacks something that it needs.
#[derive(Debug, thiserror::Error)]
#[error("WebAssembly cannot run on this machine: {0}")]
pub struct StartError(String);

#[derive(Clone)]
pub struct WasmExecutor {
    inner: Arc<Inner>,
}

struct Inner {
    modules: Modules,
    running: Arc<Semaphore>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl WasmExecutor {
    pub fn new(config: WasmConfig, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Result<Self, StartError> {
        let WasmConfig { running_max, cache_bytes_max, artifacts, compiler, resources } = config;
        let artifacts = artifacts.map(|artifacts| Artifacts::open(artifacts, &resources)).transpose();
        let artifacts = artifacts.map_err(|error| StartError(format!("the folder of compiled modules: {error}")))?;
        let modules = Modules::new(compiler, artifacts, resources, cache_bytes_max)
            .map_err(|error| StartError(check::chain(&error)))?;
        let running = Arc::new(Semaphore::new(running_max));
        Ok(Self { inner: Arc::new(Inner { modules, running, clock, entropy }) })
    }
}

impl Executor for WasmExecutor {
    fn run(&self, task: Task, host: Arc<dyn Host>, stop: CancellationToken) -> BoxFuture<'static, Finished> {
        let inner = self.inner.clone();
        async move { inner.run(task, host, stop).await }.boxed()
    }
}

impl Inner {
    async fn run(&self, task: Task, host: Arc<dyn Host>, stop: CancellationToken) -> Finished {
        let started = Instant::now();
        let limits = task.limits;
        let ended = |ending| {
            let used = Usage { wall: started.elapsed(), ..Usage::default() };
            Finished::without_outputs(ending, super::Logs::default(), used)
        };
        let deadline = tokio::time::sleep_until(started + limits.time);
        tokio::pin!(deadline);
        // First what may be waited for without anything running: a place, and the compiled module.
        let (ready, place) = tokio::select! {
            biased;
            () = stop.cancelled() => return ended(Ending::Cancelled),
            () = &mut deadline => return ended(Ending::NotReady { after: limits.time }),
            prepared = self.prepare(&task, &*host) => match prepared {
                Ok(prepared) => prepared,
                Err(ending) => return ended(ending),
            },
        };
        let engine_stop = Stop::new(&ready.engine);
        let guest = match self.guest(task, host, engine_stop.clone()) {
            Ok(guest) => guest,
            Err(ending) => return ended(ending),
        };
        let stop_if_dropped = StopOnDrop::new(engine_stop.clone());
        let (answer, mut answered) = oneshot::channel();
        let running = threads::start("wasm", move || {
            let finished = execute(&ready, guest, limits);
            drop(place);
            // Nobody waits any more when the task was dropped.
            let _ = answer.send(finished);
        });
        if let Err(reason) = running {
            return ended(Ending::HostFailed { reason });
        }
        let mut finished = loop {
            tokio::select! {
                biased;
                finished = &mut answered => break finished,
                () = stop.cancelled(), if engine_stop.reason().is_none() => engine_stop.set(StopReason::Cancelled),
                () = &mut deadline, if engine_stop.reason().is_none() => engine_stop.set(StopReason::Deadline),
            }
        }
        .unwrap_or_else(|_| ended(Ending::HostFailed { reason: "the module's thread broke off".to_owned() }));
        stop_if_dropped.disarm();
        finished.used.wall = started.elapsed();
        finished
    }
    async fn prepare(
        &self,
        task: &Task,
        host: &dyn Host,
    ) -> Result<(Arc<Ready>, tokio::sync::OwnedSemaphorePermit), Ending> {
        task::check(task)?;
        let Program::Wasm { module, deterministic } = &task.program else {
            return Err(Ending::Refused { reason: "only WebAssembly modules run here".to_owned() });
        };
        if deterministic.is_some() && task.limits.fuel.is_none() {
            return Err(Ending::Invalid {
                reason: "a deterministic task needs fuel: only fuel ends a loop at the same place on every machine"
                    .to_owned(),
            });
        }
        let flavour = if task.limits.fuel.is_some() { Flavour::Metered } else { Flavour::Free };
        let place = self.running.clone().acquire_owned().await.expect("the semaphore is never closed");
        let key = Key::of(module, flavour);
        let getting = self.modules.get(key, module.clone());
        tokio::pin!(getting);
        let mut was_told = false;
        let got = loop {
            tokio::select! {
                biased;
                got = &mut getting => break got,
                () = tokio::time::sleep(READY_INTERVAL) => {
                    if let Some(stage) = self.modules.stage(&key) {
                        host.progress(0, &describe(stage, module.len()));
                        was_told = true;
                    }
                }
            }
        };
        if was_told {
            host.progress(0, "");
        }
        match got {
            Ok(ready) => Ok((ready, place)),
            Err(ModuleError::Invalid(reason)) => Err(Ending::Invalid { reason }),
            Err(ModuleError::Refused(reason)) => Err(Ending::Refused { reason }),
            Err(ModuleError::Host(reason)) => Err(Ending::HostFailed { reason }),
        }
    }
    fn guest(&self, task: Task, host: Arc<dyn Host>, stop: Stop) -> Result<Guest, Ending> {
        let broken = |error: std::io::Error| Ending::InputBroken { reason: error.to_string() };
        let (identity, is_metered) = (task.identity(), task.limits.fuel.is_some());
        let memory = MemoryLimiter::new(task.limits.memory_bytes);
        let world = match task.program {
            Program::Wasm { deterministic: Some(from), .. } => World::made(from),
            _ => World::real(self.clock.clone(), self.entropy.clone()),
        };
        let mut files = Files::new(task.inputs, task.checkpoint, task.limits.output_bytes, memory, world.file_ns())
            .map_err(broken)?;
        let stdin = task.stdin.map(Input::open).transpose().map_err(broken)?;
        let ended = |mut text: Vec<u8>| {
            text.push(0);
            text
        };
        // Every program expects its own name first.
        let args = std::iter::once("task".to_owned()).chain(task.args);
        let env = task.env.into_iter().chain(identity).map(|(name, value)| format!("{name}={value}"));
        Ok(Guest {
            args: args.map(|arg| ended(arg.into())).collect(),
            env: env.map(|variable| ended(variable.into())).collect(),
            world,
            descriptors: Guest::first_descriptors(&mut files),
            descriptors_max: task.limits.files_open as usize,
            descriptors_refused: false,
            names_refusal_logged: false,
            files,
            stdin,
            stdin_at: 0,
            stdout: (task.stdout == Stdout::Output).then(Vec::new),
            log: LogBook::new(host.clone(), task.limits.log_bytes),
            host,
            lines: Lines::default(),
            stop,
            runtime: Handle::current(),
            is_metered,
        })
    }
}

/// How far a module is, for people.
fn describe(stage: Stage, bytes: usize) -> String {
    let size = format!("{:.1} MB", bytes as f64 / 1e6);
    match stage {
        Stage::Checked => format!("checking the module ({size})"),
        Stage::WaitsForPlace => format!("the module ({size}) waits until others are compiled"),
        Stage::WaitsForMemory => format!("the module ({size}) waits for memory to be compiled with"),
        Stage::Compiled { since } => format!("compiling the module ({size}), {} s", since.elapsed().as_secs()),
    }
}

/// Runs a module to its end, on the thread that calls this.
fn execute(ready: &Ready, guest: Guest, limits: Limits) -> Finished {
    let stop = guest.stop.clone();
    let mut store = Store::new(&ready.engine, guest);
    store.limiter(|guest| &mut guest.files.memory);
    let watched = stop.clone();
    store.epoch_deadline_callback(move |_| match watched.reason() {
        Some(_) => Err(wasmtime::Error::new(Halt::Stopped)),
        // The epoch moved for another module.
        None => Ok(UpdateDeadline::Continue(1)),
    });
    store.set_epoch_deadline(1);
    let result = match (limits.fuel, stop.reason()) {
        // It came before the epoch was looked at.
        (_, Some(_)) => Err(wasmtime::Error::new(Halt::Stopped)),
        (Some(fuel), None) => store.set_fuel(fuel).and_then(|()| start(ready, &mut store)),
        (None, None) => start(ready, &mut store),
    };
    let fuel = limits.fuel.map(|given| given.saturating_sub(store.get_fuel().unwrap_or(0)));
    let guest = store.into_data();
    let ending = ending(result, &guest, limits);
    let used = Usage { wall: Duration::ZERO, fuel, memory_peak_bytes: guest.files.memory.peak as u64 };
    let logs = guest.log.take_logs();
    if ending != Ending::Succeeded {
        return Finished::without_outputs(ending, logs, used);
    }
    let stdout_bytes = guest.stdout.as_ref().map_or(0, Vec::len) as u64;
    let Some(outputs) = guest.files.into_outputs(stdout_bytes) else {
        return Finished::without_outputs(Ending::OutputTooLarge { limit: limits.output_bytes }, logs, used);
    };
    // What is delivered stays in memory until then, an archive of it beside it. The module's own memory is free by now.
    let sizes = outputs.iter().map(|(name, bytes)| (name.len() as u64, bytes.len() as u64));
    let kept = stdout_bytes + sizes.clone().map(|(_, bytes)| bytes).sum::<u64>();
    if kept + output::archive_bytes(stdout_bytes, sizes) > limits.memory_bytes {
        return Finished::without_outputs(Ending::OutOfMemory { limit: limits.memory_bytes }, logs, used);
    }
    let stdout = guest.stdout.map(|bytes| Content::Bytes(Bytes::from(bytes)));
    Finished { ending, stdout, outputs: contents(outputs), logs, used, folder: None }
}

fn start(ready: &Ready, store: &mut Store<Guest>) -> wasmtime::Result<()> {
    let instance = ready.instance.instantiate(&mut *store)?;
    instance.get_typed_func::<(), ()>(&mut *store, "_start")?.call(store, ())
}

fn contents(outputs: BTreeMap<String, Bytes>) -> BTreeMap<String, Content> {
    outputs.into_iter().map(|(name, bytes)| (name, Content::Bytes(bytes))).collect()
}

/// What the end of a call means.
fn ending(result: wasmtime::Result<()>, guest: &Guest, limits: Limits) -> Ending {
    let Err(error) = result else { return Ending::Succeeded };
    let unfit = match error.downcast_ref::<Halt>() {
        Some(Halt::Exit(0)) => return Ending::Succeeded,
        Some(Halt::Exit(code)) => Ending::Exited { code: *code },
        Some(Halt::Stopped) => {
            return match guest.stop.reason() {
                Some(StopReason::Deadline) => Ending::DeadlinePassed { after: limits.time },
                Some(StopReason::Cancelled) | None => Ending::Cancelled,
            };
        }
        Some(Halt::OutputTooLarge) => return Ending::OutputTooLarge { limit: limits.output_bytes },
        Some(Halt::InputBroken(reason)) => return Ending::InputBroken { reason: reason.clone() },
        Some(Halt::NoMemory) => return Ending::Invalid { reason: Halt::NoMemory.to_string() },
        None if error.is::<MachineFull>() => return Ending::HostFailed { reason: check::chain(&error) },
        None => match error.downcast_ref::<Trap>() {
            Some(Trap::OutOfFuel) => return Ending::OutOfFuel { what: "fuel" },
            Some(trap) => Ending::Trapped { reason: trap.to_string() },
            // Instantiation: a segment that does not fit, a memory larger than allowed.
            None => Ending::Trapped { reason: check::chain(&error) },
        },
    };
    // A program that was refused memory says so by failing in whatever way its language has.
    match guest.files.memory.refused {
        true => Ending::OutOfMemory { limit: limits.memory_bytes },
        false => unfit,
    }
}
