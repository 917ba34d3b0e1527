//! Lanes: connections that each send their next request when the one before was answered, all on one thread.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;

use crate::connection::{CallError, Connection, Target};
use crate::error::BenchError;

/// Most lanes to one node: as many connections as it takes from callers with a token.
pub const LANES_PER_NODE_MAX: usize = 256;

/// A lane whose operation failed pauses, so that a node that refuses everything is not asked at full speed.
const FAILURE_PAUSE: Duration = Duration::from_millis(50);

/// Operations of each lane before a measurement begins: connections are opened, modules compiled, workers found.
const WARM_UP_EACH: u64 = 3;

/// Runs a measurement on a thread of its own with a runtime of its own. The client shares the cores with what it
/// measures, and on one thread none of its requests wakes another thread.
pub async fn on_one_thread<T, F>(work: F) -> Result<T, BenchError>
where
    T: Send + 'static,
    F: AsyncFnOnce() -> Result<T, BenchError> + Send + 'static,
{
    let ran = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(BenchError::io("the client's runtime cannot start"))?;
        runtime.block_on(work())
    });
    ran.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// Those of the nodes that so many lanes ask: the first, where there are fewer lanes than nodes.
pub fn asked(nodes: &[usize], lanes: usize) -> Vec<usize> {
    nodes.iter().copied().take(lanes).collect()
}

/// Which operation of which lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    pub lane: usize,
    /// Of all lanes together, from 0.
    pub number: u64,
}

/// How long one operation took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Until its first answer, of an operation that has two.
    pub first: Option<Duration>,
    pub whole: Duration,
}

/// What became of the operations of one run.
#[derive(Debug, Default)]
pub struct Tally {
    pub first: Vec<Duration>,
    pub whole: Vec<Duration>,
    pub failed: u64,
    /// Of the first that failed.
    pub failure: Option<String>,
    /// From the first request to the last answer.
    pub took: Duration,
}

impl Tally {
    fn record(&mut self, outcome: Result<Sample, CallError>) {
        match outcome {
            Ok(sample) => {
                self.first.extend(sample.first);
                self.whole.push(sample.whole);
            }
            Err(error) => {
                self.failed += 1;
                self.failure.get_or_insert_with(|| error.to_string());
            }
        }
    }
}

/// When a run ends: no operation begins after the time, nor beyond the number.
#[derive(Clone, Copy, Debug)]
pub struct Until {
    pub time: Duration,
    pub operations: u64,
}

impl Until {
    pub const fn time(time: Duration) -> Self {
        Self { time, operations: u64::MAX }
    }
}

/// Connections that are kept open from run to run.
pub struct Lanes {
    connections: Vec<Connection>,
}

impl Lanes {
    /// So many lanes, spread over the targets in turn.
    pub fn new(targets: &[Arc<Target>], count: usize) -> Result<Self, BenchError> {
        let most = LANES_PER_NODE_MAX * targets.len();
        if count == 0 || count > most {
            let text =
                format!("--outstanding must be 1 to {most}: each of {} nodes takes 256 connections", targets.len());
            return Err(BenchError::Plan(text));
        }
        let connections = targets.iter().cycle().take(count).cloned().map(Connection::new).collect();
        Ok(Self { connections })
    }

    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Does with every lane, all at once, what `work` says.
    pub async fn each<F>(&mut self, work: F)
    where
        F: AsyncFn(usize, &mut Connection),
    {
        let work = &work;
        let lanes = self.connections.iter_mut().enumerate();
        join_all(lanes.map(|(lane, connection)| async move { work(lane, connection).await })).await;
    }

    /// Repeats the operation on every lane until the run ends.
    pub async fn run<F>(&mut self, until: Until, operation: F) -> Tally
    where
        F: AsyncFn(Turn, &mut Connection) -> Result<Sample, CallError>,
    {
        let (tally, started) = (RefCell::new(Tally::default()), Cell::new(0));
        let (began, operation) = (Instant::now(), &operation);
        self.each(async |lane, connection: &mut Connection| {
            while started.get() < until.operations && began.elapsed() < until.time {
                let number = started.replace(started.get() + 1);
                let outcome = operation(Turn { lane, number }, connection).await;
                let failed = outcome.is_err();
                tally.borrow_mut().record(outcome);
                if failed {
                    tokio::time::sleep(FAILURE_PAUSE).await;
                }
            }
        })
        .await;
        Tally { took: began.elapsed(), ..tally.into_inner() }
    }

    /// A few operations on every lane that nobody counts.
    pub async fn warm_up<F>(&mut self, operation: F) -> Tally
    where
        F: AsyncFn(Turn, &mut Connection) -> Result<Sample, CallError>,
    {
        let operations = WARM_UP_EACH * self.len() as u64;
        self.run(Until { time: Duration::MAX, operations }, operation).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(count: usize) -> Lanes {
        let target = |port: u16| Target::new(format!("{port}"), &format!("http://127.0.0.1:{port}"), None).unwrap();
        Lanes::new(&[target(1), target(2)], count).unwrap()
    }

    const QUICK: Sample = Sample { first: None, whole: Duration::from_millis(1) };

    /// Goal: each lane has one operation under way, and a run ends at its number of operations.
    #[tokio::test]
    async fn every_lane_has_one_operation_under_way() {
        let (under_way, most) = (Cell::new(0), Cell::new(0));
        let lanes_seen = RefCell::new(std::collections::BTreeSet::new());
        let tally = lanes(5)
            .run(Until { time: Duration::MAX, operations: 40 }, async |turn, _: &mut Connection| {
                under_way.set(under_way.get() + 1);
                most.set(most.get().max(under_way.get()));
                lanes_seen.borrow_mut().insert(turn.lane);
                tokio::task::yield_now().await;
                under_way.set(under_way.get() - 1);
                Ok(QUICK)
            })
            .await;
        assert_eq!((tally.whole.len(), tally.failed, most.get(), lanes_seen.borrow().len()), (40, 0, 5, 5));
    }

    #[tokio::test]
    async fn failures_are_counted_and_the_first_is_told() {
        let tally = lanes(1)
            .run(Until { time: Duration::MAX, operations: 3 }, async |turn, _: &mut Connection| match turn.number {
                1 => Ok(Sample { first: Some(Duration::ZERO), ..QUICK }),
                number => Err(CallError::Outcome { what: format!("operation {number}") }),
            })
            .await;
        assert_eq!((tally.whole.len(), tally.first.len(), tally.failed), (1, 1, 2));
        assert_eq!(tally.failure.as_deref(), Some("operation 0"));
        let ended = lanes(3).run(Until::time(Duration::ZERO), async |_, _: &mut Connection| Ok(QUICK)).await;
        assert!(ended.whole.is_empty());
    }

    #[test]
    fn a_node_takes_so_many_lanes_and_no_more() {
        let target = Target::new("one".into(), "http://127.0.0.1:1", None).unwrap();
        assert!(Lanes::new(&[target.clone(), target.clone()], 512).is_ok());
        for count in [0, 513] {
            assert!(Lanes::new(&[target.clone(), target.clone()], count).err().unwrap().is_plan());
        }
    }
}
