//! Tasks belong to a node. A [`TaskGroup`] travels with every spawned future in a task-local, so that code with only
//! static methods (openraft's runtime) still starts its tasks inside the right node, and a simulated crash drops
//! every future of exactly one node at its next await.

use std::future::Future;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::planted::Planted;

tokio::task_local! {
    static CURRENT: TaskGroup;
}

/// The tasks of one node, and how it runs blocking work.
#[derive(Clone)]
pub struct TaskGroup {
    inner: Arc<Inner>,
}

struct Inner {
    /// Graceful stop: actors see it in their `next_event` and close.
    shutdown: CancellationToken,
    /// Abrupt stop: every future is dropped where it waits. This is what a crash looks like to the node.
    crash: CancellationToken,
    tracker: TaskTracker,
    /// Whether blocking work runs on the caller's thread, where simulated time cannot overtake it.
    inline_blocking: bool,
    /// A deliberate bug of this node, to prove that the simulator finds it.
    planted: Option<Planted>,
}

impl TaskGroup {
    /// Tasks of a real node: blocking work goes to tokio's blocking threads.
    pub fn threaded() -> Self {
        Self::new(false, None)
    }
    /// Tasks of a simulated node: blocking work runs inline, so that one seed is one history.
    pub fn inline() -> Self {
        Self::new(true, None)
    }
    /// As [`Self::inline`], for a node with a bug.
    pub fn inline_planted(bug: Option<Planted>) -> Self {
        Self::new(true, bug)
    }
    /// The bug planted in the node of the task that calls this.
    pub(super) fn planted() -> Option<Planted> {
        CURRENT.try_with(|group| group.inner.planted).ok().flatten()
    }
    fn new(inline_blocking: bool, planted: Option<Planted>) -> Self {
        Self {
            inner: Arc::new(Inner {
                shutdown: CancellationToken::new(),
                crash: CancellationToken::new(),
                tracker: TaskTracker::new(),
                inline_blocking,
                planted,
            }),
        }
    }
    /// Cancelled when the node should close: finish what is owed, then return.
    pub fn shutdown_token(&self) -> CancellationToken {
        self.inner.shutdown.clone()
    }
    /// Asks every actor to close, and waits until all tasks have ended.
    pub async fn close(&self) {
        self.inner.shutdown.cancel();
        self.inner.tracker.close();
        self.inner.tracker.wait().await;
    }
    /// Drops every task of the node where it waits, as a power loss would.
    pub fn crash(&self) {
        self.inner.crash.cancel();
    }
    /// Whether the node is closing or has crashed: what its tasks leave undone from now on says nothing.
    pub fn is_ending(&self) -> bool {
        self.inner.shutdown.is_cancelled() || self.inner.crash.is_cancelled()
    }
    /// Runs `future` as part of this group, without spawning it.
    pub async fn scope<F: Future>(&self, future: F) -> F::Output {
        CURRENT.scope(self.clone(), future).await
    }
    /// Starts a task in this group. Its handle yields `None` when the group crashed first.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let crash = self.inner.crash.clone();
        let scoped = CURRENT.scope(self.clone(), async move {
            tokio::select! {
                biased;
                () = crash.cancelled() => None,
                output = future => Some(output),
            }
        });
        tokio::spawn(self.inner.tracker.track_future(scoped))
    }
    /// The group of the task that calls this.
    ///
    /// Panics outside any group: that is a bug of ours, a task that was not started through this module.
    pub fn current() -> Self {
        CURRENT.try_with(Clone::clone).expect("every task of a node is started through its task group")
    }
}

/// Starts a task in the group of the caller.
pub fn spawn<F>(future: F) -> JoinHandle<Option<F::Output>>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    TaskGroup::current().spawn(future)
}

/// Runs work that blocks (hashing, coding, files) where it may block. A panic in it is resumed in the caller.
pub async fn run_blocking<T, F>(work: F) -> T
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    if TaskGroup::current().inner.inline_blocking {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is being dropped: this task is about to be dropped too.
            Err(_) => std::future::pending().await,
        },
    }
}
