//! Executors run one attempt of one task: a WebAssembly module ([`wasm`]) or a program that this node's operator allows
//! ([`command`]).
//!
//! An executor knows nothing of quorums, leases or outboxes. It is handed everything an attempt needs as a [`Task`],
//! tells what happens meanwhile to a [`Host`], and answers with [`Finished`]: how it ended, what it made, what it used.
//! It reaches nothing that the task does not declare: no file, no variable and no network of this machine for modules;
//! a private folder and a cleared environment for programs.
//!
//! What a task sees is the same for both, relative to its current folder:
//!
//! | name | what |
//! |---|---|
//! | standard input | the task's own input, or nothing |
//! | `in/NAME` | the declared inputs; modules cannot write here |
//! | `out/NAME` | what is left here when the task succeeds is output, beside standard output |
//! | `tmp/` | scratch |
//! | `task/report` | a line written here tells the node something: see [`report`] |
//! | `task/checkpoint` | what the last attempt saved, if it did; write the next one here, then report it |
//!
//! Standard error is the log, kept at both ends and cut in the middle; standard output is output, or log if the task
//! says so. Both are told to the [`Host`] as they come, for of a task that fails there is no output.
//!
//! Stopping: when the `stop` token is cancelled or the deadline passes, a module stops at its next loop or call
//! (microseconds; one bulk memory instruction over the whole memory, or one host call, is the most that comes before),
//! a program's whole family of processes is told to end, then killed after a grace. The future of
//! [`Executor::run`] resolves when nothing of the task is left running. Dropping it stops the task as well.

pub mod command;
pub mod ending;
pub mod log;
mod output;
pub mod report;
pub mod task;
pub mod wasm;

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

pub use ending::{Class, Ending};
pub use log::Logs;
pub use output::output;
pub(crate) use task::open_regular;
pub use task::{Content, Deterministic, Finished, Limits, Program, Source, Stdout, Task, Usage};

pub trait Executor: Send + Sync + 'static {
    /// Runs one attempt to its end. The answer comes when nothing of it is left running.
    fn run(&self, task: Task, host: Arc<dyn Host>, stop: CancellationToken) -> BoxFuture<'static, Finished>;
}

/// A stream of a task that people read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// What a running task tells its node. Calls come from the task's own thread and must return at once; only `checkpoint`
/// may count on a runtime around it.
pub trait Host: Send + Sync + 'static {
    /// How far it is, in thousandths, and a note for people.
    fn progress(&self, permille: u16, note: &str);
    /// What the next attempt should start from. The future resolves when it is safe, or with why it is not; the task
    /// waits for it, so that a checkpoint it was told of survives.
    fn checkpoint(&self, bytes: Bytes) -> BoxFuture<'static, Result<(), String>>;
    /// Bytes of a stream as they come, before any of them is cut: of the log, and of standard output also when that is
    /// the task's output, which a task that fails does not leave.
    fn log(&self, stream: Stream, bytes: &[u8]);
}
