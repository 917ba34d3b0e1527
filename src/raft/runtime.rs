//! openraft's view of a runtime: tokio's timers, tasks of the node's own task group.
//!
//! openraft spawns through static methods, so a spawned future finds its node in a task-local
//! ([`crate::seams::tasks`]). A crash of the node drops the future where it waits; its join handle then answers
//! [`JoinError::Crashed`]. Nothing here draws from the machine: see [`FixedRng`].
//!
//! openraft puts one constant deadline around every call of its network: right for a LAN, or right for a slow link.
//! Here such a deadline is stretched to [`CALL_DEADLINE`], and `network` ends each call by what was measured of its
//! target.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use openraft::async_runtime::{AsyncOneshotSendExt, AsyncRuntime};
use openraft::{OptionalSend, TokioInstant};
use quorate_protocols::quorum::limits::RAFT_DEADLINE_MAX;
use tokio::sync::oneshot;

/// Longer than `network` lets any call last. openraft's own deadlines end only what has hung beyond that.
const CALL_DEADLINE: Duration = RAFT_DEADLINE_MAX.saturating_mul(2);

/// Runs openraft inside the task group of whoever calls it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct GroupRuntime;

/// Why a task gave no result.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("the node crashed before the task ended")]
    Crashed,
    #[error(transparent)]
    Join(#[from] tokio::task::JoinError),
}

/// Waits for a task of the node's task group.
pub struct JoinHandle<T>(tokio::task::JoinHandle<Option<T>>);

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|result| match result {
            Ok(Some(value)) => Ok(value),
            Ok(None) => Err(JoinError::Crashed),
            Err(error) => Err(JoinError::Join(error)),
        })
    }
}

pub struct Sender<T>(oneshot::Sender<T>);

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

impl<T: OptionalSend> AsyncOneshotSendExt<T> for Sender<T> {
    fn send(self, value: T) -> Result<(), T> {
        self.0.send(value)
    }
}

/// The generator that openraft asks for. It draws from it in one place, a number in
/// `election_timeout_min..election_timeout_max`, which `types::config` narrows to a single value: so the generator
/// decides nothing, and a fixed one keeps a simulated history a function of its seed.
pub struct FixedRng(u64);

impl rand::RngCore for FixedRng {
    fn next_u32(&mut self) -> u32 {
        self.next_u64() as u32
    }
    fn next_u64(&mut self) -> u64 {
        // SplitMix64: sequential, well spread, and without state to share.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]);
        }
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rand::Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

impl AsyncRuntime for GroupRuntime {
    type JoinError = JoinError;
    type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = TokioInstant;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = tokio::time::Timeout<T>;
    type ThreadLocalRng = FixedRng;
    type OneshotSender<T: OptionalSend> = Sender<T>;
    type OneshotReceiverError = oneshot::error::RecvError;
    type OneshotReceiver<T: OptionalSend> = oneshot::Receiver<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        JoinHandle(crate::seams::spawn(future))
    }
    fn sleep(duration: Duration) -> Self::Sleep {
        tokio::time::sleep(duration)
    }
    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        tokio::time::sleep_until(deadline)
    }
    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        tokio::time::timeout(duration.max(CALL_DEADLINE), future)
    }
    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        tokio::time::timeout_at(deadline, future)
    }
    fn is_panic(error: &Self::JoinError) -> bool {
        matches!(error, JoinError::Join(error) if error.is_panic())
    }
    fn thread_rng() -> Self::ThreadLocalRng {
        FixedRng(0)
    }
    fn oneshot<T>() -> (Self::OneshotSender<T>, Self::OneshotReceiver<T>)
    where
        T: OptionalSend,
    {
        let (send, receive) = oneshot::channel();
        (Sender(send), receive)
    }
}
