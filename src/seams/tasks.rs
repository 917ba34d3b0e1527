//! Tasks belong to a node. A [`TaskGroup`] travels with every spawned future in a task-local, so that code with only
//! static methods (openraft's runtime) still starts its tasks inside the right node, and a simulated crash drops
//! every future of exactly one node at its next await.

use std::any::Any;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::{Mutex, MutexGuard};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::failpoints::{self, Failpoint, Failpoints};

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
    /// Who changes what this node is about to act on. Of a real node, nobody.
    failpoints: Option<Arc<dyn Failpoints>>,
    pause: Pause,
}

/// A stop of a whole simulated process, as the machine that it runs on may impose: nothing of it runs, while time, its
/// timers and its peers go on.
#[derive(Default)]
struct Pause {
    is_paused: AtomicBool,
    /// Whoever became ready meanwhile. A task that is not polled arms nothing new, so each is in here a few times at
    /// most.
    ready: Mutex<Vec<Waker>>,
}

impl Pause {
    /// Runs `future` whenever the process is not paused.
    async fn gate<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        std::future::poll_fn(|context: &mut Context<'_>| {
            if self.is_paused.load(Ordering::Relaxed) {
                self.ready().push(context.waker().clone());
                return Poll::Pending;
            }
            future.as_mut().poll(context)
        })
        .await
    }
    fn ready(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.ready.lock()
    }
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
    /// As [`Self::inline`], with somebody at the node's failpoints.
    pub fn inline_with(failpoints: Arc<dyn Failpoints>) -> Self {
        failpoints::enable();
        Self::new(true, Some(failpoints))
    }
    /// Hands a value to whoever stands at a failpoint of the node whose task calls this.
    pub(super) fn reach(point: Failpoint, value: &mut dyn Any) {
        let failpoints = CURRENT.try_with(|group| group.inner.failpoints.clone()).ok().flatten();
        if let Some(failpoints) = failpoints {
            failpoints.reach(point, value);
        }
    }
    fn new(inline_blocking: bool, failpoints: Option<Arc<dyn Failpoints>>) -> Self {
        Self {
            inner: Arc::new(Inner {
                shutdown: CancellationToken::new(),
                crash: CancellationToken::new(),
                tracker: TaskTracker::new(),
                inline_blocking,
                failpoints,
                pause: Pause::default(),
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
    /// Stops every task of a simulated node where it waits, until [`Self::resume`].
    pub fn pause(&self) {
        self.inner.pause.is_paused.store(true, Ordering::Relaxed);
    }
    /// Lets the tasks go on, with everything that became due meanwhile.
    pub fn resume(&self) {
        self.inner.pause.is_paused.store(false, Ordering::Relaxed);
        let ready = std::mem::take(&mut *self.inner.pause.ready());
        ready.into_iter().for_each(Waker::wake);
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
        let inner = self.inner.clone();
        let scoped = CURRENT.scope(self.clone(), async move {
            // Only simulated processes are paused from inside.
            let running = async {
                match inner.inline_blocking {
                    true => inner.pause.gate(future).await,
                    false => future.await,
                }
            };
            tokio::select! {
                biased;
                () = inner.crash.cancelled() => None,
                output = running => Some(output),
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
