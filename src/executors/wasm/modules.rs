//! Compiled modules, by the hash of their bytes: compiled once however many tasks ask at the same moment, kept in
//! memory while there is room, and on disk for the next process ([`artifacts`](super::artifacts)).
//!
//! Compiling is work that others decide the amount of. A module is checked first ([`check`]); then its compilation
//! waits for a place, so that few run at once and a module waits for none that takes much longer than its like; then
//! for memory, which is reserved as any other; then a process compiles it, within limits ([`compiler`]). How long a
//! compilation takes cannot be told from a module, so one that looks quick has a short time to be so; when that is over
//! it begins anew among the slow. A compilation whose tasks are gone goes on, and its result is used if one comes
//! again.

use parking_lot::Mutex;
use parking_lot::MutexGuard;
use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_modules::check;
use quorate_modules::engine::Flavour;
use quorate_protocols::resources::{Amounts, Scope, Service};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::Instant;
use wasmtime::{Engine, InstancePre, Linker, Module};

use super::artifacts::Artifacts;
use super::compiler::{Allowance, CompileError};
use super::guest::Guest;
use super::{compiler, threads, wasi};
use crate::resources::Resources;
use crate::seams::Reservation;

/// Modules from this size on, or from this cost of their functions on, take long and have a place of their own.
const LARGE_BYTES: usize = 1 << 20;
const LARGE_COST: u64 = 1 << 18;

/// Compilations at once: of large modules, of small ones that take long, of others, and checks. A large one takes a
/// processor for a minute, and so may a small one that was made to: neither holds up the other, or what is quick.
const LARGE_MAX: usize = 1;
const SLOW_MAX: usize = 1;
const QUICK_MAX: usize = 2;
const CHECKS_MAX: usize = 2;

/// Processor time after which a module was not quick: it gives its place away and begins anew among the slow ones. So
/// many seconds, and one for each so many bytes, which is twice what ordinary modules take.
const QUICK_CPU_SECONDS_MIN: u64 = 1;
const QUICK_CPU_BYTES_PER_SECOND: u64 = 256 << 10;

/// Small modules that are known to be slow.
const SLOW_KNOWN_MAX: usize = 256;

/// How often a compilation that found no memory asks again.
const MEMORY_PAUSE: Duration = Duration::from_millis(500);

/// Modules kept, whatever their size; those that could not be compiled count too.
const MODULES_MAX: usize = 256;

/// A module that is ready to be started.
pub(super) struct Ready {
    pub(super) engine: Engine,
    pub(super) instance: InstancePre<Guest>,
    image_bytes: u64,
}

#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum ModuleError {
    /// Wherever it runs.
    #[error("{0}")]
    Invalid(String),
    /// This node has not what it takes; another may.
    #[error("{0}")]
    Refused(String),
    /// At this moment.
    #[error("{0}")]
    Host(String),
}

type Compiled = Result<Arc<Ready>, ModuleError>;

/// A module and how it is to be compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    hash: [u8; 32],
    flavour: Flavour,
}

impl Key {
    pub(super) fn of(module: &[u8], flavour: Flavour) -> Self {
        Self { hash: *blake3::hash(module).as_bytes(), flavour }
    }
}

/// How far a module is that is not ready yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Checked,
    WaitsForPlace,
    WaitsForMemory,
    Compiled { since: Instant },
}

struct Entry {
    /// Holds `None` until the compilation ends. Its sender is gone without a value when nobody compiles any more.
    result: watch::Receiver<Option<Compiled>>,
    stage: Stage,
    last_used: u64,
}

#[derive(Default)]
struct Cache {
    entries: BTreeMap<Key, Entry>,
    uses: u64,
    /// In the order in which they turned out to be slow.
    slow: VecDeque<Key>,
}

/// What a compilation waits behind: its like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Quick,
    Slow,
    Large,
}

impl Lane {
    fn cpu_seconds(self, module_bytes: u64) -> u64 {
        match self {
            Self::Quick => QUICK_CPU_SECONDS_MIN + module_bytes / QUICK_CPU_BYTES_PER_SECOND,
            Self::Slow | Self::Large => compiler::cpu_seconds(module_bytes),
        }
    }
}

pub(super) struct Modules {
    free: Arc<Parts>,
    metered: Arc<Parts>,
    cache: Arc<Mutex<Cache>>,
    checks: Arc<Semaphore>,
    quick: Arc<Semaphore>,
    slow: Arc<Semaphore>,
    large: Arc<Semaphore>,
    compiler: PathBuf,
    artifacts: Option<Arc<Artifacts>>,
    resources: Resources,
    cache_bytes_max: u64,
}

struct Parts {
    engine: Engine,
    linker: Linker<Guest>,
    /// Stands for the engine's version, its settings and this processor.
    version: u64,
}

impl Parts {
    fn new(flavour: Flavour) -> wasmtime::Result<Self> {
        let engine = flavour.engine()?;
        let mut linker = Linker::new(&engine);
        wasi::offer(&mut linker)?;
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self { engine, linker, version: hasher.finish() })
    }

    /// The name under which the code of a module is kept on disk.
    fn artifact_name(&self, key: &Key) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&key.hash).update(&self.version.to_le_bytes()).update(&[key.flavour as u8]);
        hasher.finalize().to_hex().to_string()
    }

    /// Makes code that a compiler of ours wrote ready to run.
    #[allow(unsafe_code)]
    fn load(&self, code: &[u8]) -> Compiled {
        let invalid = |error: wasmtime::Error| ModuleError::Invalid(check::chain(&error));
        // SAFETY: the bytes are what an engine with these settings serialized: they come from the pipe of a compiler
        // that this process started from its own program, or from a file that bears this node's keyed hash of them.
        // They are in memory that nobody else changes.
        let module = unsafe { Module::deserialize(&self.engine, code) }
            .map_err(|error| ModuleError::Host(format!("compiled code cannot be loaded: {}", check::chain(&error))))?;
        let instance = self.linker.instantiate_pre(&module).map_err(invalid)?;
        let image = module.image_range();
        let image_bytes = (image.end as usize - image.start as usize) as u64;
        Ok(Arc::new(Ready { engine: self.engine.clone(), instance, image_bytes }))
    }
}

/// What the first look at a module comes to.
enum ModuleCheck {
    /// Its code was on disk.
    Ready(Arc<Ready>),
    /// To be compiled.
    Sound { binary: Bytes, lane: Lane, memory_bytes: u64 },
}

fn sound(module: Bytes) -> Result<ModuleCheck, ModuleError> {
    let checked = check::check(&module).map_err(|fault| ModuleError::Invalid(fault.to_string()))?;
    let facts = checked.facts;
    let binary = match checked.binary {
        Cow::Borrowed(_) => module,
        Cow::Owned(binary) => binary.into(),
    };
    let lane = match binary.len() {
        LARGE_BYTES.. => Lane::Large,
        _ if facts.cost >= LARGE_COST => Lane::Slow,
        _ => Lane::Quick,
    };
    Ok(ModuleCheck::Sound { binary, lane, memory_bytes: facts.compile_memory_bytes })
}

impl Modules {
    pub(super) fn new(
        compiler: PathBuf,
        artifacts: Option<Artifacts>,
        resources: Resources,
        cache_bytes_max: u64,
    ) -> wasmtime::Result<Self> {
        Ok(Self {
            free: Arc::new(Parts::new(Flavour::Free)?),
            metered: Arc::new(Parts::new(Flavour::Metered)?),
            cache: Arc::default(),
            checks: Arc::new(Semaphore::new(CHECKS_MAX)),
            quick: Arc::new(Semaphore::new(QUICK_MAX)),
            slow: Arc::new(Semaphore::new(SLOW_MAX)),
            large: Arc::new(Semaphore::new(LARGE_MAX)),
            compiler,
            artifacts: artifacts.map(Arc::new),
            resources,
            cache_bytes_max,
        })
    }

    /// The compiled module: from memory, from a compilation under way, from disk, or from a new compilation.
    pub(super) async fn get(&self, key: Key, module: Bytes) -> Compiled {
        let compiled = loop {
            let (mut result, sender) = self.entry(key);
            if let Some(sender) = sender {
                self.compile(key, module.clone(), sender).await;
            }
            match result.wait_for(Option::is_some).await.map(|found| found.clone()) {
                Ok(found) => break found.expect("waited for"),
                // Whoever was to compile it was dropped before it began, or it was too slow for where it was.
                Err(_) => self.forget_abandoned(&key),
            }
        };
        self.forget_lack(&key);
        self.evict();
        compiled
    }

    /// Forgets an outcome that says something of this node and this moment: what it lacked it may have the next time.
    fn forget_lack(&self, key: &Key) {
        let mut cache = self.lock();
        let lacked =
            |result: &Option<Compiled>| matches!(result, Some(Err(ModuleError::Refused(_) | ModuleError::Host(_))));
        if cache.entries.get(key).is_some_and(|entry| lacked(&entry.result.borrow())) {
            cache.entries.remove(key);
        }
    }

    /// How far a module is whose tasks wait for it.
    pub(super) fn stage(&self, key: &Key) -> Option<Stage> {
        let cache = self.lock();
        cache.entries.get(key).filter(|entry| entry.result.borrow().is_none()).map(|entry| entry.stage)
    }

    fn set_stage(&self, key: &Key, stage: Stage) {
        if let Some(entry) = self.lock().entries.get_mut(key) {
            entry.stage = stage;
        }
    }

    /// The entry of a key, and its sender for the one who made it.
    fn entry(&self, key: Key) -> (watch::Receiver<Option<Compiled>>, Option<watch::Sender<Option<Compiled>>>) {
        let mut cache = self.lock();
        cache.uses += 1;
        let last_used = cache.uses;
        if let Some(entry) = cache.entries.get_mut(&key) {
            entry.last_used = last_used;
            return (entry.result.clone(), None);
        }
        let (sender, result) = watch::channel(None);
        cache.entries.insert(key, Entry { result: result.clone(), stage: Stage::Checked, last_used });
        (result, Some(sender))
    }

    fn forget_abandoned(&self, key: &Key) {
        let mut cache = self.lock();
        let abandoned = |entry: &Entry| entry.result.borrow().is_none() && entry.result.has_changed().is_err();
        if cache.entries.get(key).is_some_and(abandoned) {
            cache.entries.remove(key);
        }
    }

    /// Has a module compiled; the sender's receivers learn what came of it. Returns once the compiler was started, or
    /// there was no need for it.
    async fn compile(&self, key: Key, module: Bytes, sender: watch::Sender<Option<Compiled>>) {
        let parts = match key.flavour {
            Flavour::Free => self.free.clone(),
            Flavour::Metered => self.metered.clone(),
        };
        let (binary, lane, memory_bytes) = match self.check_module(&key, &parts, module).await {
            Ok(ModuleCheck::Ready(ready)) => return drop(sender.send_replace(Some(Ok(ready)))),
            Ok(ModuleCheck::Sound { binary, lane, memory_bytes }) => (binary, lane, memory_bytes),
            Err(error) => return drop(sender.send_replace(Some(Err(error)))),
        };
        self.set_stage(&key, Stage::WaitsForPlace);
        let lane = if lane == Lane::Quick && self.lock().slow.contains(&key) { Lane::Slow } else { lane };
        let places = match lane {
            Lane::Quick => &self.quick,
            Lane::Slow => &self.slow,
            Lane::Large => &self.large,
        };
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        self.set_stage(&key, Stage::WaitsForMemory);
        let memory = match self.reserve(memory_bytes).await {
            Ok(memory) => memory,
            Err(error) => return drop(sender.send_replace(Some(Err(error)))),
        };
        self.set_stage(&key, Stage::Compiled { since: Instant::now() });
        let (compiler, artifacts, cache) = (self.compiler.clone(), self.artifacts.clone(), self.cache.clone());
        let allowance = Allowance { memory_bytes, cpu_seconds: lane.cpu_seconds(binary.len() as u64) };
        let sender = Arc::new(sender);
        let telling = sender.clone();
        let started = threads::start("wasm-compile", move || {
            let work = AssertUnwindSafe(|| -> Result<Arc<Ready>, CompileError> {
                let code = compiler::compile(&compiler, &binary, key.flavour, allowance)?;
                let ready = parts.load(&code).map_err(CompileError::Failed)?;
                if let Some(artifacts) = artifacts {
                    artifacts.save(&parts.artifact_name(&key), &code);
                }
                Ok(ready)
            });
            // Its waiters would begin anew for ever if they heard nothing.
            let compiled = std::panic::catch_unwind(work).unwrap_or_else(|_| {
                let reason = "compiling it failed in the node; this is a bug of quorate".to_owned();
                Err(CompileError::Failed(ModuleError::Invalid(reason)))
            });
            // Given back before anybody hears of the end, so that who comes next finds it free.
            drop((place, memory));
            let compiled = match compiled {
                Ok(ready) => Ok(ready),
                Err(CompileError::Failed(error)) => Err(error),
                Err(CompileError::Slow) if lane == Lane::Quick => {
                    let slow = &mut cache.lock().slow;
                    slow.push_back(key);
                    let too_many = slow.len().saturating_sub(SLOW_KNOWN_MAX);
                    slow.drain(..too_many);
                    // Without a word: one of those who wait begins anew, among the slow.
                    return;
                }
                Err(CompileError::Slow) => Err(compiler::too_slow(binary.len() as u64)),
            };
            telling.send_replace(Some(compiled));
        });
        if let Err(error) = started {
            sender.send_replace(Some(Err(ModuleError::Host(error))));
        }
    }

    /// Loads a module's code from disk, or checks the module.
    async fn check_module(&self, key: &Key, parts: &Arc<Parts>, module: Bytes) -> Result<ModuleCheck, ModuleError> {
        let place = self.checks.clone().acquire_owned().await.expect("the semaphore is never closed");
        let memory = self.reserve(check::check_memory_bytes(&module)).await?;
        let (parts, artifacts, name) = (parts.clone(), self.artifacts.clone(), parts.artifact_name(key));
        let (answer, answered) = oneshot::channel();
        threads::start("wasm-check", move || {
            let _taken = (place, memory);
            let kept = artifacts.and_then(|artifacts| artifacts.load(&name)).and_then(|code| parts.load(&code).ok());
            let check = match kept {
                Some(ready) => Ok(ModuleCheck::Ready(ready)),
                None => sound(module),
            };
            // Nobody waits any more when the task was dropped.
            let _ = answer.send(check);
        })
        .map_err(ModuleError::Host)?;
        // A check that panics is our bug, and the module's author should hear of it all the same.
        let bug = || ModuleError::Invalid("checking it failed; this is a bug of quorate".to_owned());
        answered.await.map_err(|_| bug())?
    }

    /// Memory for a compilation, as soon as there is some.
    async fn reserve(&self, bytes: u64) -> Result<Reservation, ModuleError> {
        let scope = Scope::Service(Service::Jobs);
        let most = self.resources.limit(scope).min(self.resources.limit(Scope::System)).memory_bytes;
        if bytes > most {
            return Err(ModuleError::Refused(format!(
                "compiling the module takes up to {} MiB of memory, and this node spends at most {} on that",
                bytes >> 20,
                most >> 20
            )));
        }
        loop {
            match self.resources.reserve(scope, Amounts { memory_bytes: bytes, ..Amounts::ZERO }) {
                Ok(memory) => return Ok(memory),
                Err(_) => tokio::time::sleep(MEMORY_PAUSE).await,
            }
        }
    }

    /// Lets go of what was used longest ago, until the rest fits. Modules that run meanwhile live on by themselves.
    fn evict(&self) {
        let mut cache = self.lock();
        loop {
            let size = |entry: &Entry| match &*entry.result.borrow() {
                Some(Ok(ready)) => ready.image_bytes,
                _ => 0,
            };
            let bytes: u64 = cache.entries.values().map(size).sum();
            if bytes <= self.cache_bytes_max && cache.entries.len() <= MODULES_MAX {
                return;
            }
            // One that is being compiled has waiters, and takes the place it takes.
            let done = cache.entries.iter().filter(|(_, entry)| entry.result.borrow().is_some());
            let Some(oldest) = done.min_by_key(|(_, entry)| entry.last_used).map(|(key, _)| *key) else { return };
            cache.entries.remove(&oldest);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_modules::imports::FUNCTIONS;

    /// Goal: the list that modules are checked against is what workers offer. Method: a module that imports all of it
    /// is linked, with each function's own parameters.
    #[test]
    fn every_import_that_the_check_lets_through_can_be_linked() {
        let word = |letter: char| if letter == 'i' { "i32 " } else { "i64 " };
        let import = |(name, shape): &(&str, &str)| {
            let (params, results) = shape.split_once(':').unwrap();
            let words = |letters: &str| letters.chars().map(word).collect::<String>();
            let (params, results) = (words(params), words(results));
            format!("(import \"wasi_snapshot_preview1\" \"{name}\" (func (param {params}) (result {results})))")
        };
        let imports: String = FUNCTIONS.iter().map(import).collect();
        let text = format!("(module {imports} (memory (export \"memory\") 1) (func (export \"_start\")))");
        let checked = check::check(text.as_bytes()).unwrap();
        for flavour in [Flavour::Free, Flavour::Metered] {
            let parts = Parts::new(flavour).unwrap();
            let module = Module::new(&parts.engine, &checked.binary).unwrap();
            parts.linker.instantiate_pre(&module).unwrap();
        }
    }
}
