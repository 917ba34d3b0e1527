//! Compiled modules, by the hash of their bytes: compiled once however many tasks ask at the same moment, kept while
//! there is room, and never on disk (a compiled module that someone could change is code that runs unchecked).
//!
//! Compiling is work that others decide the amount of. It has bounds: bytes of a module, compilations at once, and a
//! deadline for the answer. A compilation cannot be ended from outside; one that overruns goes on alone, holds its
//! place among [`COMPILATIONS_MAX`], and its result is used if it ever comes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use wasmtime::{Config, Engine, ExternType, InstancePre, Linker, Module, OptLevel, UnknownImportError};

use super::guest::Guest;
use super::{threads, wasi};

/// Compilations at once. Two leave room for a small module behind a huge one.
const COMPILATIONS_MAX: usize = 2;

/// Modules kept, whatever their size; those that could not be compiled count too.
const MODULES_MAX: usize = 256;

/// Stack of a module, inside that of its thread.
const WASM_STACK_BYTES: usize = 1 << 20;

/// How a module is compiled: with fuel counted and every result the same on every machine, or for speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Flavour {
    /// Only an epoch ends it.
    Free,
    /// Fuel is counted, NaNs have one form, relaxed SIMD one meaning.
    Metered,
}

/// A module that is ready to be started.
pub(super) struct Ready {
    pub(super) engine: Engine,
    pub(super) instance: InstancePre<Guest>,
    image_bytes: u64,
}

#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum ModuleError {
    #[error("{0}")]
    Invalid(String),
    #[error("the module was not compiled within {0:?}")]
    TooSlow(Duration),
    #[error("{0}")]
    Host(String),
}

type Compiled = Result<Arc<Ready>, ModuleError>;
type Key = (blake3::Hash, Flavour);

/// Ordered by bytes: hashes have no order of their own.
fn ordered(key: &Key) -> ([u8; 32], Flavour) {
    (*key.0.as_bytes(), key.1)
}

struct Entry {
    /// Holds `None` until the compilation ends. Its sender is gone without a value when nobody compiles any more.
    result: watch::Receiver<Option<Compiled>>,
    last_used: u64,
}

#[derive(Default)]
struct Cache {
    entries: BTreeMap<([u8; 32], Flavour), Entry>,
    uses: u64,
}

pub(super) struct Modules {
    free: Parts,
    metered: Parts,
    cache: Mutex<Cache>,
    compiling: Arc<Semaphore>,
    module_bytes_max: usize,
    cache_bytes_max: u64,
    deadline: Duration,
}

#[derive(Clone)]
struct Parts {
    engine: Engine,
    linker: Arc<Linker<Guest>>,
}

impl Parts {
    fn new(flavour: Flavour) -> wasmtime::Result<Self> {
        let mut config = Config::new();
        config
            .epoch_interruption(true)
            .max_wasm_stack(WASM_STACK_BYTES)
            .cranelift_opt_level(OptLevel::Speed)
            // Only the standard's 32-bit pointers mean anything to WASI preview 1.
            .wasm_memory64(false)
            .wasm_backtrace_max_frames(None)
            .generate_address_map(false);
        if flavour == Flavour::Metered {
            config.consume_fuel(true).cranelift_nan_canonicalization(true).relaxed_simd_deterministic(true);
        }
        let engine = Engine::new(&config)?;
        let mut linker = Linker::new(&engine);
        wasi::offer(&mut linker)?;
        Ok(Self { engine, linker: Arc::new(linker) })
    }
}

impl Modules {
    pub(super) fn new(module_bytes_max: usize, cache_bytes_max: u64, deadline: Duration) -> wasmtime::Result<Self> {
        Ok(Self {
            free: Parts::new(Flavour::Free)?,
            metered: Parts::new(Flavour::Metered)?,
            cache: Mutex::default(),
            compiling: Arc::new(Semaphore::new(COMPILATIONS_MAX)),
            module_bytes_max,
            cache_bytes_max,
            deadline,
        })
    }
    /// The compiled module: from the cache, from a compilation under way, or from a new one.
    pub(super) async fn get(&self, module: bytes::Bytes, flavour: Flavour) -> Compiled {
        if module.len() > self.module_bytes_max {
            let (bytes, limit) = (module.len(), self.module_bytes_max);
            return Err(ModuleError::Invalid(format!(
                "the module has {bytes} bytes, and at most {limit} are compiled"
            )));
        }
        let key = (blake3::hash(&module), flavour);
        let waiting = async {
            loop {
                let (mut result, sender) = self.entry(&key);
                if let Some(sender) = sender {
                    self.compile(module.clone(), flavour, sender).await;
                }
                match result.wait_for(Option::is_some).await.map(|found| found.clone()) {
                    Ok(found) => return found.expect("waited for"),
                    // Whoever was to compile it was dropped before it began.
                    Err(_) => self.forget(&key),
                }
            }
        };
        let answer = tokio::time::timeout(self.deadline, waiting).await;
        self.evict();
        answer.unwrap_or(Err(ModuleError::TooSlow(self.deadline)))
    }
    /// The entry of a key, and its sender for the one who made it.
    fn entry(&self, key: &Key) -> (watch::Receiver<Option<Compiled>>, Option<watch::Sender<Option<Compiled>>>) {
        let mut cache = self.cache.lock().expect("nothing panics with the cache in hand");
        cache.uses += 1;
        let last_used = cache.uses;
        if let Some(entry) = cache.entries.get_mut(&ordered(key)) {
            entry.last_used = last_used;
            return (entry.result.clone(), None);
        }
        let (sender, result) = watch::channel(None);
        cache.entries.insert(ordered(key), Entry { result: result.clone(), last_used });
        (result, Some(sender))
    }
    fn forget(&self, key: &Key) {
        let mut cache = self.cache.lock().expect("nothing panics with the cache in hand");
        let abandoned = |entry: &Entry| entry.result.borrow().is_none() && entry.result.has_changed().is_err();
        if cache.entries.get(&ordered(key)).is_some_and(abandoned) {
            cache.entries.remove(&ordered(key));
        }
    }
    /// Starts a compilation as soon as there is a place for it.
    async fn compile(&self, module: bytes::Bytes, flavour: Flavour, sender: watch::Sender<Option<Compiled>>) {
        let place = self.compiling.clone().acquire_owned().await.expect("the semaphore is never closed");
        let parts = match flavour {
            Flavour::Free => self.free.clone(),
            Flavour::Metered => self.metered.clone(),
        };
        let sender = Arc::new(sender);
        let telling = sender.clone();
        let started = threads::start("wasm-compile", move || {
            let _place = place;
            // A compiler that panics is our bug, and the module's author should hear of it all the same.
            let compiled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| compile(&parts, &module)));
            let compiled = compiled.unwrap_or_else(|_| {
                Err(ModuleError::Invalid("the compiler failed on this module; this is a bug of quorate".to_owned()))
            });
            telling.send_replace(Some(compiled));
        });
        if let Err(error) = started {
            sender.send_replace(Some(Err(ModuleError::Host(error))));
        }
    }
    /// Lets go of what was used longest ago, until the rest fits. Modules that run meanwhile live on by themselves.
    fn evict(&self) {
        let mut cache = self.cache.lock().expect("nothing panics with the cache in hand");
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
}

fn compile(parts: &Parts, bytes: &[u8]) -> Compiled {
    let invalid = |reason: String| ModuleError::Invalid(reason);
    let module = Module::new(&parts.engine, bytes).map_err(|error| invalid(chain(&error)))?;
    let is_command =
        |export| matches!(export, ExternType::Func(start) if start.params().len() + start.results().len() == 0);
    if !module.get_export("_start").is_some_and(is_command) {
        return Err(invalid("it exports no `_start`: build it as a command, not as a library (reactor)".to_owned()));
    }
    let instance = parts.linker.instantiate_pre(&module).map_err(|error| {
        invalid(match error.downcast_ref::<UnknownImportError>() {
            Some(unknown) => format!(
                "it imports `{}.{}`, which is not offered here: the functions of WASI preview 1 \
                 (wasi_snapshot_preview1) are",
                unknown.module(),
                unknown.name()
            ),
            None => chain(&error),
        })
    })?;
    let image = module.image_range();
    let image_bytes = (image.end as usize - image.start as usize) as u64;
    Ok(Arc::new(Ready { engine: parts.engine.clone(), instance, image_bytes }))
}

/// An error with its causes, in one line and bounded: a text module's errors quote the text.
pub(super) fn chain(error: &wasmtime::Error) -> String {
    let whole = error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ");
    let line = whole.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(500).collect()
}
