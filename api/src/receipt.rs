//! Receipts of verified jobs, which anyone can check with nothing else at hand. The signature is over the core's own
//! encoding of a statement, so that whoever checks one makes it the core's again.

use quorate_protocols::approval::message::Signature;
use quorate_protocols::ids::{Attempt, Digest, JobId, PeerId, StepIndex, TaskIndex};
use quorate_protocols::task::{record, vote};
use serde::{Deserialize, Serialize};

use super::{ErrorClass, schema};

/// The receipts of a verified job, task by task: what `quorate receipt verify` checks with nothing else at hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ReceiptBundle {
    #[schema(value_type = schema::JobId)]
    pub job: JobId,
    /// How many copies of a task must say the same.
    pub agree: u8,
    pub tasks: Vec<TaskReceipts>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TaskReceipts {
    #[schema(value_type = schema::StepIndex)]
    pub step: StepIndex,
    #[schema(value_type = schema::TaskIndex)]
    pub task: TaskIndex,
    /// What was agreed on; `null` when the copies did not agree.
    pub verdict: Option<Verdict>,
    #[schema(value_type = Vec<schema::PeerId>)]
    pub dissenting: Vec<PeerId>,
    pub receipts: Vec<ResultReceipt>,
}

/// What copies can agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    #[schema(value_type = schema::Digest)]
    Output(Digest),
    Failed(ErrorClass),
}

/// One task, whatever the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TaskId {
    #[schema(value_type = schema::JobId)]
    pub job: JobId,
    #[schema(value_type = schema::StepIndex)]
    pub step: StepIndex,
    #[schema(value_type = schema::TaskIndex)]
    pub task: TaskIndex,
}

/// One try of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TaskAttempt {
    pub id: TaskId,
    #[schema(value_type = schema::Attempt)]
    pub attempt: Attempt,
}

/// What a worker signs: this attempt, given these inputs, came to this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ResultStatement {
    pub task: TaskAttempt,
    #[schema(value_type = schema::PeerId)]
    pub worker: PeerId,
    /// Over everything that the task was given.
    #[schema(value_type = schema::Digest)]
    pub inputs: Digest,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ResultReceipt {
    pub statement: ResultStatement,
    #[schema(value_type = schema::Signature)]
    pub signature: Signature,
}

impl From<vote::Verdict> for Verdict {
    fn from(verdict: vote::Verdict) -> Self {
        match verdict {
            vote::Verdict::Output(digest) => Self::Output(digest),
            vote::Verdict::Failed(class) => Self::Failed(class.into()),
        }
    }
}

impl From<Verdict> for vote::Verdict {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Output(digest) => Self::Output(digest),
            Verdict::Failed(class) => Self::Failed(class.into()),
        }
    }
}

impl From<vote::ResultReceipt> for ResultReceipt {
    fn from(receipt: vote::ResultReceipt) -> Self {
        let vote::ResultReceipt { statement, signature } = receipt;
        let vote::ResultStatement { task, worker, inputs, verdict } = statement;
        let record::TaskAttempt { id: record::TaskId { job, step, task }, attempt } = task;
        let task = TaskAttempt { id: TaskId { job, step, task }, attempt };
        Self { statement: ResultStatement { task, worker, inputs, verdict: verdict.into() }, signature }
    }
}

impl From<ResultReceipt> for vote::ResultReceipt {
    fn from(receipt: ResultReceipt) -> Self {
        let ResultReceipt { statement, signature } = receipt;
        let ResultStatement { task, worker, inputs, verdict } = statement;
        let TaskAttempt { id: TaskId { job, step, task }, attempt } = task;
        let task = record::TaskAttempt { id: record::TaskId { job, step, task }, attempt };
        Self { statement: vote::ResultStatement { task, worker, inputs, verdict: verdict.into() }, signature }
    }
}

#[cfg(test)]
mod tests {
    use quorate_protocols::ids::QuorumId;

    use super::*;

    /// Goal: a receipt is as good after it was JSON as before, whatever it says.
    #[test]
    fn a_receipt_goes_through_json_and_back() {
        let id = record::TaskId {
            job: JobId { quorum: QuorumId([1; 16]), local: [2; 16] },
            step: StepIndex(3),
            task: TaskIndex(4),
        };
        let failed = quorate_protocols::task::error_class::ErrorClass::ALL.map(vote::Verdict::Failed);
        for verdict in failed.into_iter().chain([vote::Verdict::Output(Digest([5; 32]))]) {
            let statement = vote::ResultStatement {
                task: record::TaskAttempt { id, attempt: Attempt(6) },
                worker: PeerId([7; 32]),
                inputs: Digest([8; 32]),
                verdict,
            };
            let receipt = vote::ResultReceipt { statement, signature: Signature([9; 32], [10; 32]) };
            let json = serde_json::to_string(&ResultReceipt::from(receipt)).unwrap();
            let read: ResultReceipt = serde_json::from_str(&json).unwrap();
            assert_eq!(vote::ResultReceipt::from(read), receipt, "{json}");
        }
    }
}
