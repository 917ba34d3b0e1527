//! An executor that does what its first argument says, in virtual time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::executors::{Content, Ending, Executor, Finished, Host, Logs, Source, Stream, Task, Usage};

#[derive(Default)]
pub struct Double {
    /// By token: how often each task was begun.
    pub begun: Mutex<BTreeMap<String, usize>>,
    running: AtomicUsize,
    most: AtomicUsize,
}

struct Running(Arc<Double>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Double {
    pub fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }
    pub fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
    fn begin(self: &Arc<Self>, task: &Task) -> Running {
        *self.begun.lock().entry(task.token.clone()).or_default() += 1;
        let now = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        Running(self.clone())
    }
}

/// [`Double`] as an executor.
pub struct Scripted(pub Arc<Double>);

impl Executor for Scripted {
    fn run(&self, task: Task, host: Arc<dyn Host>, stop: CancellationToken) -> BoxFuture<'static, Finished> {
        let running = self.0.begin(&task);
        async move {
            let _running = running;
            let (ending, text) = tokio::select! {
                biased;
                () = stop.cancelled() => (Ending::Cancelled, Vec::new()),
                done = script(task, &*host) => match done {
                    Ok(text) => (Ending::Succeeded, text),
                    Err(ending) => (ending, Vec::new()),
                },
            };
            let stdout = (ending == Ending::Succeeded).then(|| Content::Bytes(Bytes::from(text)));
            let (logs, used) = (Logs::default(), Usage::default());
            Finished { ending, stdout, outputs: BTreeMap::new(), logs, used, folder: None }
        }
        .boxed()
    }
}

async fn script(task: Task, host: &dyn Host) -> Result<Vec<u8>, Ending> {
    let args: Vec<&str> = task.args.iter().map(String::as_str).collect();
    Ok(match args[..] {
        ["say", text] => text.into(),
        ["index"] => format!("{} of {}", task.position.0, task.position.1).into(),
        ["sleep", millis, text] => {
            tokio::time::sleep(Duration::from_millis(millis.parse().unwrap())).await;
            text.into()
        }
        ["fill", bytes] => vec![b'x'; bytes.parse().unwrap()],
        ["read"] => match task.stdin {
            None => Vec::new(),
            Some(Source::Bytes(bytes)) => bytes.into(),
            Some(Source::File(path)) => std::fs::read(path).unwrap(),
            Some(Source::Stream(mut chunks)) => {
                let mut text = Vec::new();
                while let Some(chunk) = chunks.recv().await {
                    let chunk = chunk.map_err(|error| Ending::InputBroken { reason: error.to_string() })?;
                    text.extend_from_slice(&chunk);
                }
                text
            }
        },
        ["wait"] => std::future::pending().await,
        ["fail"] => return Err(Ending::Exited { code: 3 }),
        ["trap"] => return Err(Ending::Trapped { reason: "unreachable".to_owned() }),
        ["panic"] => panic!("a bug in a handler"),
        ["log", text] => {
            host.log(Stream::Stderr, text.as_bytes());
            Vec::new()
        }
        ["resume", text] => match task.checkpoint {
            Some(from) => [b"went on from ".as_slice(), &from].concat(),
            None => {
                host.checkpoint(Bytes::copy_from_slice(text.as_bytes())).await.unwrap();
                std::future::pending().await
            }
        },
        ref other => panic!("no such script: {other:?}"),
    })
}
