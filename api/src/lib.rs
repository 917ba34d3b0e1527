//! The JSON of the HTTP API, shared by the node that serves it, the command line and the testnet.
//!
//! A contract with scripts: fields may be added, none is renamed or dropped. Ids are text in their full form and
//! peers are always named by peer id, in `peer` or in a word for what the peer does. Instants are milliseconds since
//! the Unix epoch, in fields that end in `_at`, and nothing else ends so; spans end in `_ms`; sizes are bytes, in
//! `bytes` or in fields that end in `_bytes`. What a node cannot know now is `null`, never a made-up value. What only
//! one kind of job has stands in an object of its own.
//!
//! What a node keeps and what it says are two things: the core's types are not here, but for its ids and numbers, which
//! are as text what they are everywhere ([`schema`] describes them). A word or a field here stays when the core renames
//! its own.

mod bench;
mod error;
mod event;
mod faults;
mod job;
mod node;
mod object;
mod quorum;
pub mod range;
mod receipt;
pub mod schema;
mod token;
mod trigger;
mod words;

pub use bench::limits as bench_limits;
pub use bench::{CommitBench, NOTHING_WAT, TriggersBench, percentile};
pub use error::{ErrorBody, ErrorCode};
pub use event::{EmitInfo, EmitRequest, EventInfo, EventKind};
pub use faults::{DiskFaults, LinkFaults, NodeFaults};
pub use job::{
    AttemptInfo, AttemptPhase, BatchInfo, ColumnProgress, DeadLetter, FailureInfo, FileContent, HistoryEntry,
    JobIdInfo, JobIdRequest, JobInfo, LogInfo, LogStreamInfo, OutcomeInfo, OutputInfo, PeerReason, PlanInfo, PlanPeer,
    PlannedStep, ResolutionInfo, ResolveRequest, SUBMIT_MANY_BYTES_MAX, SUBMIT_MANY_JOBS_MAX, StepInfo, StepRole,
    StoreInfo, SubmitAnswer, SubmitInfo, SubmitManyInfo, SubmitOutcome, SubmitRequest, Tally, TaskInfo, TaskResources,
    TaskStateInfo, UpdateRequest, VerifyInfo, WaitedInfo, WhyInfo,
};
pub use node::{Amounts, Capacity, ContactInfo, LeasesInfo, NodeInfo, PeerInfo, ResourcesInfo, ScopeInfo};
pub use object::{
    Claim, ColumnHolder, ObjectColumn, ObjectInfo, OwedRepair, PutInfo, PutPhaseInfo, PutProgressInfo, PutUpdate,
    RemovalInfo,
};
pub use quorum::{
    BenchCommit, BenchForm, BenchTriggers, Listing, MemberView, OwnState, QuorumDetail, QuorumInfo, SpeakerInfo,
    Unreachable,
};
pub use receipt::{ReceiptBundle, ResultReceipt, ResultStatement, TaskAttempt, TaskId, TaskReceipts, Verdict};
pub use token::{
    MintInfo, MintRequest, ROUTES, Route, TOKEN_FOR_MS_MAX, TOKEN_FOR_MS_MIN, TOKEN_OWNER_BYTES_MAX, TokenInfo, Verb,
    VerbError, route,
};
pub use trigger::{
    FireCause, FireInfo, FireOutcome, FireRequest, FiredByInfo, InstantInfo, NEXT_DEFAULT, NEXT_MAX, NextInfo,
    TriggerInfo,
};
pub use words::{ColumnState, Engine, ErrorClass, Kind, NodeRole, ObjectState, RunState, SkipReason};

/// Names of the files in a node's data folder through which local clients find it.
pub const TOKEN_FILE: &str = "api.token";
/// Holds the bound address of the API as `host:port`, written when the node listens and removed when it closes.
pub const ADDRESS_FILE: &str = "api.addr";
/// Faults that a node started with `--testing` begins with: a [`NodeFaults`] as JSON.
pub const FAULTS_FILE: &str = "faults.json";

/// Serializes a value as the text a person would type.
pub(crate) mod as_text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }
    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr,
        T::Err: Display,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
