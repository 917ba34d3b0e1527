//! The terms of tasks: what a kind of work tells the pool of how its tasks are given out and judged.

use std::time::Duration;

use crate::engine::Engine;
use crate::task::spec::{OutputPlace, RetryPolicy, Stragglers, Verify};

/// Of the tasks of one step of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskTerms<'s> {
    pub engine: Engine,
    pub retry: &'s RetryPolicy,
    /// Of one attempt, from when it was given.
    pub timeout: Duration,
    /// Whether a task that may have begun may be begun again.
    pub idempotent: bool,
    pub output: OutputPlace,
    /// Tasks of the step run in copies; `None` when they do not.
    pub verify: Option<Verify>,
    pub stragglers: Option<Stragglers>,
}
