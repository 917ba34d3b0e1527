//! Orders to workers by who may give none: tasks in a listed submitter's name, and terms that fence off the primary.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use quorate_protocols::approval::{ApprovalAnswer, ApprovalMessage, ApprovalRequest, Subject};
use quorate_protocols::capacity::{Capacity, Requirement};
use quorate_protocols::ids::{
    Attempt, Digest, JobId, LeaseId, Millis, Nonce, PeerId, QuorumId, StepIndex, TaskIndex, Term,
};
use quorate_protocols::job::batch::BatchSpec;
use quorate_protocols::job::{JobSpec, WorkSpec};
use quorate_protocols::quorum::request::{JobAnswer, JobMessage, Query, QueryAnswer};
use quorate_protocols::task::inputs::idempotency_token;
use quorate_protocols::task::message::{Assignment, OwnerProof, StepContext, TaskAnswer, TaskMessage};
use quorate_protocols::task::record::{TaskAttempt, TaskId};
use quorate_protocols::task::spec::{Call, OutputPlace, Program, TaskInput};
use quorate_protocols::wire;

use crate::arena::{Arena, Fault};
use crate::client::Client;

/// A file that the command leaves shows that it ran.
const COMMAND: &str = "mark";

/// Long enough for a worker to start what it has accepted.
const STARTED_MAX: Duration = Duration::from_secs(5);

/// An honest task ends within this beside the attack.
const TASK_MAX: Duration = Duration::from_secs(10);

/// An order in the owner's name, with the best word for it that a stranger has: its own, on the very same work.
fn assignment(key: &SigningKey, job: JobId, owner: PeerId) -> (StepContext, Assignment) {
    let call = Call {
        program: Program::Command { name: COMMAND.to_owned() },
        args: Vec::new(),
        env: BTreeMap::new(),
        inputs: BTreeMap::new(),
    };
    let work = WorkSpec::from(BatchSpec::new(call.clone()));
    let signature = JobSpec::Once(work.clone()).sign(key, job);
    let proof = OwnerProof { signature, trigger: None, work: wire::encode(&work).into(), fire: None };
    let step = StepContext {
        job,
        step: StepIndex(0),
        owner,
        readers: BTreeSet::new(),
        submitted_at: Millis(0),
        call,
        resources: Requirement::from(Capacity { disk_bytes: 0, memory_bytes: 1 << 20, slots: 1 }),
        timeout: Duration::from_secs(600),
        output: OutputPlace::Object,
        idempotent: true,
        verified: false,
        proof: Some(proof),
    };
    let id = TaskId { job, step: StepIndex(0), task: TaskIndex(0) };
    let assignment = Assignment {
        task: TaskAttempt { id, attempt: Attempt(1) },
        of: 1,
        input: TaskInput::None,
        outputs: Vec::new(),
        inputs: Digest([0; 32]),
        token: idempotency_token(id),
        checkpoint: None,
    };
    (step, assignment)
}

async fn lease(arena: &mut Arena, client: &Client, peer: PeerId, quorum: QuorumId) -> Option<LeaseId> {
    let mut nonce = Nonce::default();
    arena.rng.fill(&mut nonce.0);
    let requirement = Requirement::from(Capacity { disk_bytes: 0, memory_bytes: 8 << 20, slots: 1 });
    let subject = Subject::Worker { quorum };
    let request = ApprovalRequest { subject, requirement, nonce, duration: Duration::from_secs(60) };
    match client.approval(peer, &ApprovalMessage::Ask(request)).await {
        Ok(ApprovalAnswer::Granted(approval)) => Some(approval.statement.lease),
        _ => None,
    }
}

/// Lists every node as a submitter of one command at every node, and restarts them.
async fn allow_command(arena: &mut Arena) -> Result<std::path::PathBuf, Fault> {
    let mark = arena.testnet.dir().join("marked");
    let submitters: Vec<String> = arena.peers().iter().map(|peer| format!("\"{peer}\"")).collect();
    for node in arena.testnet.indices() {
        let path = arena.testnet.node_dir(node).join("quorate.toml");
        let text = std::fs::read_to_string(&path)?;
        let submitters = submitters.join(", ");
        let entry = format!(
            "{text}\n[commands.{COMMAND}]\npath = \"/usr/bin/touch\"\nargs = [{:?}]\nsubmitters = [{submitters}]\n",
            mark.display().to_string()
        );
        std::fs::write(&path, entry)?;
        arena.testnet.restart(node).await?;
    }
    arena.testnet.wait_meshed(Duration::from_secs(20)).await?;
    Ok(mark)
}

/// A stranger has a listed submitter's command run: under the lease of an invented quorum, and of a true one whose
/// primary it is not.
pub async fn run_in_a_name(arena: &mut Arena) -> Result<(), Fault> {
    let mark = allow_command(arena).await?;
    let client = arena.stranger().await?;
    let owner = arena.peers()[0];
    let mut invented = QuorumId::default();
    arena.rng.fill(&mut invented.0);
    let mut accepted = 0;
    for quorum in [invented, arena.quorum] {
        for (number, peer) in arena.peers().into_iter().enumerate() {
            let lease = lease(arena, &client, peer, quorum).await.unwrap_or_default();
            let job = JobId { quorum, local: [number as u8; 16] };
            let (step, assignment) = assignment(client.key(), job, owner);
            for term in [Term(1), Term(u64::MAX)] {
                let (steps, assignments) = (vec![step.clone()], vec![assignment.clone()]);
                let message = TaskMessage::Assign { quorum, term, lease, steps, assignments };
                if let Ok(TaskAnswer::Accepted { accepted: taken, .. }) = client.task(peer, &message).await {
                    accepted += taken.len();
                }
            }
        }
    }
    arena.require(accepted == 0, || format!("{accepted} orders of a stranger were accepted"));
    let ran = Arena::wait(STARTED_MAX, || std::future::ready(mark.exists().then_some(()))).await;
    arena.require(ran.is_none(), || "a command ran in a listed submitter's name".to_owned());
    Ok(())
}

/// A stranger that is no member tells workers to stop, at the highest term; the true primary's next order is taken.
pub async fn fence_off_primary(arena: &mut Arena) -> Result<(), Fault> {
    let client = arena.stranger().await?;
    let quorum = arena.quorum;
    let mut leases = BTreeMap::new();
    for peer in arena.peers() {
        let message = JobMessage::Query { quorum, query: Query::Workers, stale: true };
        if let Ok(JobAnswer::Answer(QueryAnswer::Workers(workers))) = client.job(peer, &message).await {
            leases.extend(workers.iter().map(|worker| (worker.grant.holder.peer, worker.grant.lease)));
        }
    }
    arena.note_text(format!("the stranger learnt {} leases", leases.len()));
    for peer in arena.peers() {
        let lease = leases.get(&peer).copied().unwrap_or_default();
        let id = TaskId { job: JobId { quorum, local: [1; 16] }, step: StepIndex(0), task: TaskIndex(0) };
        let tasks = vec![TaskAttempt { id, attempt: Attempt(1) }];
        let term = Term(u64::MAX);
        let stop = TaskMessage::Stop { quorum, term, lease, tasks: tasks.clone(), keep_checkpoint: false };
        for message in [stop, TaskMessage::Reveal { quorum, term, lease, tasks }] {
            let answer = client.task(peer, &message).await;
            let taken = matches!(answer, Ok(TaskAnswer::Acknowledged));
            arena.require(!taken, || format!("a worker took an order of a stranger: {answer:?}"));
        }
        let renew = ApprovalMessage::Renew { lease, duration: Duration::from_secs(3600) };
        for message in [renew, ApprovalMessage::Release { lease }] {
            let answer = client.approval(peer, &message).await;
            let taken = matches!(answer, Ok(ApprovalAnswer::Acknowledged | ApprovalAnswer::Granted(_)));
            arena.require(!taken || lease == LeaseId::default(), || format!("a lease was changed: {answer:?}"));
        }
    }
    let began = Instant::now();
    let ended = arena.run_job(3_000_000, TASK_MAX).await;
    arena.require(ended, || format!("an honest job did not end within {TASK_MAX:?} after the attack"));
    arena.note_text(format!("an honest job took {:?} after the attack", began.elapsed()));
    Ok(())
}
