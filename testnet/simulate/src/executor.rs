//! Work that simulated nodes do in place of modules and programs: it takes virtual time, and what comes of it is known
//! beforehand.
//!
//! A call's first argument says how many milliseconds an attempt takes. Its output is the task's idempotency token, so
//! that a result can be told from that of any other task. Every begin is counted, over all nodes and their restarts:
//! what must not begin twice can be seen to have begun once.

use parking_lot::Mutex;
use parking_lot::MutexGuard;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use quorate_node::executors::{Content, Ending, Executor, Finished, Host, Logs, Task, Usage};

/// Cloneable; clones count together.
#[derive(Clone, Default)]
pub struct SimExecutor {
    begun: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl SimExecutor {
    /// How often each task was begun, by token.
    pub fn begun(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.begun.lock()
    }
}

impl Executor for SimExecutor {
    fn run(
        &self,
        task: Task,
        host: Arc<dyn Host>,
        stop: tokio_util::sync::CancellationToken,
    ) -> BoxFuture<'static, Finished> {
        *self.begun().entry(task.token.clone()).or_default() += 1;
        async move {
            let millis = task.args.first().and_then(|text| text.parse().ok()).unwrap_or_default();
            host.progress(500, "half way, as always");
            let ending = tokio::select! {
                biased;
                () = stop.cancelled() => Ending::Cancelled,
                () = tokio::time::sleep(task.limits.time) => Ending::DeadlinePassed { after: task.limits.time },
                () = tokio::time::sleep(Duration::from_millis(millis)) => Ending::Succeeded,
            };
            let stdout = (ending == Ending::Succeeded).then(|| Content::Bytes(Bytes::from(task.token)));
            let (logs, used) = (Logs::default(), Usage::default());
            Finished { ending, stdout, outputs: BTreeMap::new(), logs, used, folder: None }
        }
        .boxed()
    }
}
