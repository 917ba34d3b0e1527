//! Measurements of a running testnet by an outside client: what users of the HTTP API get, over connections of its own
//! that stay open.
//!
//! A *lane* is one connection that sends its next request when the one before was answered, so that the number of lanes
//! is the number of requests outstanding. Lanes are spread over chosen nodes ([`Through`]), and all of them run on one
//! thread, because the client shares the machine with the nodes. Each figure is taken several times; a row has the
//! median of these runs with the least and the greatest ([`Spread`]), and the processor time that each process used per
//! operation. [`Limits`] is what the machine itself reaches in the same minutes.
//!
//! Two measurements ask a node to work for itself and say how that went, because no client can see it: commits with
//! many in flight, and how late triggers fire. Their rows say `in_process`.
//!
//! Nothing here prints, and nothing judges a figure.

mod commits;
mod connection;
mod error;
mod etcd;
mod failover;
mod figures;
mod idle;
mod jobs;
mod lanes;
mod machine;
mod map;
mod objects;
mod processes;
mod report;
mod roles;
mod through;
mod transfer;
mod triggers;

pub use commits::{CommitsPlan, commits};
pub use error::BenchError;
pub use etcd::{EtcdPlan, etcd};
pub use failover::{FailoverPlan, failover};
pub use figures::Spread;
pub use idle::{IdlePlan, idle};
pub use jobs::{JobsPlan, jobs};
pub use lanes::on_one_thread;
pub use machine::{Limits, limits};
pub use map::{MapPlan, map};
pub use objects::{ObjectsPlan, objects};
pub use report::{
    BoundRow, CommitsRow, EtcdRow, FailoverRow, IdleNode, IdleRow, JobsRow, MapRow, ObjectsRow, Rates, Row, TriggersRow,
};
pub use through::{ParseThroughError, Through};
pub use triggers::{TriggersPlan, triggers};

/// Where a measurement says how far it is, a line at a time.
pub type Progress = fn(&str);
