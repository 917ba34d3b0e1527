//! Owners' signatures: a job is its owner's because the owner signed it, and a command runs on its owner's word only.
//!
//! The peer that submits a job signs its id with its specification ([`JobSpec::sign`]). A member refuses a submit that
//! its author did not sign, so that nobody, not even a primary, submits in another's name. The record keeps the
//! signature ([`OwnerSignature`]), and a worker that is to run a command is given the work as it was signed
//! ([`OwnerProof`]) beside its order. It compares the order with that ([`check_order`]) and believes the quorum nothing
//! of what is run.
//!
//! On whose word each part of an order is:
//!
//! - the owner's signature: job id, program, arguments, environment, inputs, the task's own input, timeout, place of
//!   the output;
//! - what follows from the signed trigger and the number of the fire: the id of the run of a trigger, and that it is
//!   this trigger's;
//! - the quorum's: what fired it (`trigger.json`: an event or a clock is not the owner's text), that the task is to run
//!   now, and how often; its resources, within the lease (`job update` changes them, and operators may do that too);
//! - the workers' that made them, and the quorum's: outputs that a task folds, a checkpoint.
//!
//! An update changes nothing that was signed. Retries, steps and copies take all from the one signed specification.

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use super::batch::BatchSpec;
use super::kind::WorkSpec;
use super::limits::SPEC_BYTES_MAX;
use super::plan::{Plan, Role};
use super::record::JobRecord;
use super::spec::JobSpec;
use super::submission::Submission;
use crate::approval::Signature;
use crate::engine::Engine;
use crate::ids::{Digest, JobId, PeerId};
use crate::task::inputs::idempotency_token;
use crate::task::limits::{INLINE_OUTPUTS_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::task::message::{Assignment, FireProof, OwnerProof, StepContext};
use crate::task::spec::Content;
use crate::trigger::limits::{EVENT_DATA_BYTES_MAX, INPUT_NAME};
use crate::trigger::record::FiredBy;
use crate::wire;

/// Keeps a signature on a job from being read as one on something else.
pub(super) const JOB_DOMAIN: &[u8] = b"quorate job 1\0";

// The largest order is still one message: a call, the work that it was taken from, what fired it in both, and what
// earlier tasks left.
const _: () =
    assert!(2 * (SPEC_BYTES_MAX + EVENT_DATA_BYTES_MAX + INLINE_OUTPUTS_BYTES_MAX) + 64 * 1024 < MESSAGE_BYTES_MAX);

/// What an owner signs.
#[derive(Clone, Serialize)]
pub(super) struct Statement {
    job: JobId,
    /// The digest of the trigger, if the job has one.
    trigger: Option<Digest>,
    /// The digest of the work as it is encoded.
    work: Digest,
}

/// The owner's signature as a record keeps it. A run that a trigger made has the one of the trigger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerSignature {
    pub signature: Signature,
    /// The digest of the trigger that was signed with the work.
    pub trigger: Option<Digest>,
}

fn digest<T: Serialize>(value: &T) -> Digest {
    digest_of_bytes(&wire::encode(value))
}

fn digest_of_bytes(bytes: &[u8]) -> Digest {
    Digest(*blake3::hash(bytes).as_bytes())
}

impl JobSpec {
    /// The digest of the trigger, if it has one.
    fn trigger_digest(&self) -> Option<Digest> {
        match self {
            Self::Once(_) => None,
            Self::Triggered(spec) => Some(digest(&spec.trigger)),
        }
    }

    pub(super) fn statement(&self, job: JobId) -> Statement {
        Statement { job, trigger: self.trigger_digest(), work: digest(self.work()) }
    }

    /// The owner's signature: it asks for this under that id.
    pub fn sign(&self, key: &SigningKey, job: JobId) -> Signature {
        Submission::sign(key, job, self).0
    }

    /// The signature with what runs of the job need of it.
    pub(crate) fn keep_signature(&self, signature: Signature) -> OwnerSignature {
        OwnerSignature { signature, trigger: self.trigger_digest() }
    }
}

impl JobRecord {
    /// What shows a worker that the owner asked for this run. Only for commands: a module can do nothing to a worker.
    pub(crate) fn owner_proof(&self) -> Option<OwnerProof> {
        let JobSpec::Once(work) = &self.spec else { return None };
        let WorkSpec::Batch(spec) = work else { return None };
        if spec.engine() != Engine::Command {
            return None;
        }
        let OwnerSignature { signature, trigger } = self.signed;
        let Some(FiredBy { job, number }) = self.fired_by else {
            return Some(OwnerProof { signature, trigger, work: wire::encode(work).into(), fire: None });
        };
        let mut template = BatchSpec::clone(spec);
        let input = template.withdraw(INPUT_NAME)?;
        let work = wire::encode(&WorkSpec::from(template)).into();
        Some(OwnerProof { signature, trigger, work, fire: Some(FireProof { trigger: job, number, input }) })
    }
}

/// Why an order is not its owner's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderFault {
    #[error("the order brings no word of its owner")]
    NoProof,
    #[error("the work is not signed by {owner}, whose job it is said to be")]
    NotSigned { owner: PeerId },
    #[error("what was signed is another job")]
    OtherJob,
    #[error("what was signed cannot be read")]
    Unreadable,
    #[error("what was signed is no work of commands: {reason}")]
    Invalid { reason: String },
    #[error("the order differs from what its owner signed")]
    Differs,
}

/// Whether the order is what the peer signed whom it names as its owner.
pub fn check_order(context: &StepContext, assignment: &Assignment) -> Result<(), OrderFault> {
    let OwnerProof { signature, trigger, work, fire } = context.proof.as_ref().ok_or(OrderFault::NoProof)?;
    let signed = match (fire, trigger) {
        (None, None) => context.job,
        (Some(fire), Some(_)) => fire.trigger,
        // What a trigger runs is signed with it, and runs under no other id than a fire's.
        _ => return Err(OrderFault::OtherJob),
    };
    let statement = Statement { job: signed, trigger: *trigger, work: digest_of_bytes(work) };
    if !signature.verifies(context.owner, JOB_DOMAIN, &statement) {
        return Err(OrderFault::NotSigned { owner: context.owner });
    }
    if let Some(FireProof { trigger: job, number, .. }) = fire
        && (FiredBy { job: *job, number: *number }).run() != context.job
    {
        return Err(OrderFault::OtherJob);
    }
    let Ok(WorkSpec::Batch(mut spec)) = wire::decode(work, SPEC_BYTES_MAX) else { return Err(OrderFault::Unreadable) };
    // An owner may be careless or worse: what is derived from a specification holds of those that were checked.
    spec.check().map_err(|fault| OrderFault::Invalid { reason: fault.to_string() })?;
    if let Some(FireProof { input, .. }) = fire {
        spec.check_triggered().map_err(|fault| OrderFault::Invalid { reason: fault.to_string() })?;
        spec.give(INPUT_NAME, &Content::Inline(input.clone()));
    }
    match is_of(&spec, context, assignment) {
        true => Ok(()),
        false => Err(OrderFault::Differs),
    }
}

/// Whether the order follows from the specification.
fn is_of(spec: &BatchSpec, context: &StepContext, assignment: &Assignment) -> bool {
    let (plan, id) = (Plan::of(spec), assignment.task.id);
    let Some(step) = plan.step(context.step) else { return false };
    id.job == context.job
        && id.step == context.step
        && plan.call(spec, id.step) == Some(&context.call)
        && plan.input(spec, id.step, id.task).as_ref() == Some(&assignment.input)
        && assignment.of == step.tasks
        && assignment.token == idempotency_token(id)
        && context.timeout == spec.timeouts.task
        && context.output == spec.output
        && context.idempotent == spec.idempotent
        && context.readers == spec.readers
        && context.verified == (spec.verify.is_some() && step.role != Role::Compensate)
}
