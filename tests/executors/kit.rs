//! A host that remembers, tasks with short ways to make them, and a runtime with the node's task group.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use quorate_node::executors::wasm::{WasmConfig, WasmExecutor};
use quorate_node::executors::{
    Content, Deterministic, Executor, Finished, Host, Limits, Program, Source, Stdout, Stream, Task,
};
use quorate_node::resources::Resources;
use quorate_node::seams::TaskGroup;
use quorate_node::seams::clock::SystemClock;
use quorate_node::seams::entropy::OsEntropy;
use quorate_protocols::ids::PeerId;
use tokio_util::sync::CancellationToken;

/// Far above what anything here takes on a busy machine: only a hang gets there.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub const SUBMITTER: PeerId = PeerId([7; 32]);

#[derive(Default)]
pub struct TestHost {
    pub progress: Mutex<Vec<(u16, String)>>,
    /// What was said before the module ran: what it waited for.
    pub waits: Mutex<Vec<String>>,
    pub checkpoints: Mutex<Vec<Bytes>>,
    pub logged: Mutex<Vec<u8>>,
    /// Cancelled at the first progress or log line: "the work has begun".
    pub begun: CancellationToken,
}

impl Host for TestHost {
    fn progress(&self, permille: u16, note: &str) {
        // The programs of these tests report more than nothing.
        if permille == 0 {
            self.waits.lock().unwrap().push(note.to_owned());
            return;
        }
        self.progress.lock().unwrap().push((permille, note.to_owned()));
        self.begun.cancel();
    }
    fn checkpoint(&self, bytes: Bytes) -> BoxFuture<'static, Result<(), String>> {
        self.checkpoints.lock().unwrap().push(bytes);
        // As the node's own host does: a task for it, which only a runtime can start.
        let saving = tokio::spawn(async { Ok(()) });
        async { saving.await.unwrap() }.boxed()
    }
    fn log(&self, _stream: Stream, bytes: &[u8]) {
        self.logged.lock().unwrap().extend_from_slice(bytes);
        self.begun.cancel();
    }
}

pub fn in_node<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let group = TaskGroup::threaded();
    let bounded = async { tokio::time::timeout(PATIENCE, group.scope(future)).await };
    runtime.block_on(bounded).expect("no test takes this long")
}

pub fn modules() -> WasmExecutor {
    modules_with(|_| ())
}

/// An executor with other settings than the usual ones.
pub fn modules_with(change: impl FnOnce(&mut WasmConfig)) -> WasmExecutor {
    let mut config = WasmConfig::new(env!("CARGO_BIN_EXE_quorate").into(), Resources::unlimited());
    change(&mut config);
    WasmExecutor::new(config, Arc::new(SystemClock::new()), Arc::new(OsEntropy)).unwrap()
}

pub fn task(program: Program) -> Task {
    Task {
        submitter: SUBMITTER,
        token: "token".to_owned(),
        position: (2, 7),
        program,
        args: Vec::new(),
        env: BTreeMap::new(),
        stdin: None,
        inputs: BTreeMap::new(),
        stdout: Stdout::Output,
        checkpoint: None,
        limits: Limits::default(),
    }
}

pub fn wasm(module: impl Into<Bytes>) -> Task {
    task(Program::Wasm { module: module.into(), deterministic: None })
}

pub fn deterministic(module: impl Into<Bytes>, seed: u64) -> Task {
    let from = Deterministic { seed, clock_ms: 1_700_000_000_000 };
    let mut task = task(Program::Wasm { module: module.into(), deterministic: Some(from) });
    task.limits.fuel = Some(50_000_000);
    task
}

pub fn bytes(source: impl Into<Bytes>) -> Option<Source> {
    Some(Source::Bytes(source.into()))
}

pub async fn run(executor: &impl Executor, task: Task) -> Finished {
    executor.run(task, Arc::new(TestHost::default()), CancellationToken::new()).await
}

pub fn content(content: &Content) -> Vec<u8> {
    match content {
        Content::Bytes(bytes) => bytes.to_vec(),
        Content::File { path, bytes } => {
            let read = std::fs::read(path).unwrap();
            assert_eq!(read.len() as u64, *bytes);
            read
        }
    }
}

pub fn stdout(finished: &Finished) -> String {
    let text = finished.stdout.as_ref().map(content);
    String::from_utf8(text.unwrap_or_else(|| panic!("{:?}: {}", finished.ending, finished.logs.stderr.text()))).unwrap()
}
