//! Jobs that compute, as the API shows them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quorate_api::{
    AttemptInfo, AttemptPhase, BatchInfo, DeadLetter, FailureInfo, OutputInfo, PeerReason, PlanPeer, PlannedStep,
    ResultReceipt, StepInfo, StepRole, TaskInfo, TaskReceipts, TaskResources, TaskStateInfo, VerifyInfo,
};
use quorate_protocols::capacity::{Capacity, Requirement};
use quorate_protocols::directory::misfit;
use quorate_protocols::engine::Engine;
use quorate_protocols::ids::{ObjectId, StepIndex, TaskIndex};
use quorate_protocols::job::batch::BatchRun;
use quorate_protocols::job::batch::BatchSpec;
use quorate_protocols::job::plan::{Plan, Role};
use quorate_protocols::task::message::OutputRef;
use quorate_protocols::task::record::{Phase, Place, TaskRecord, TaskState};
use quorate_protocols::task::vote::tally;

use quorate_node::directory::KnownPeer;

pub fn steps(spec: &BatchSpec) -> Vec<PlannedStep> {
    let role = |role| match role {
        Role::Map => StepRole::Map,
        Role::Reduce { .. } => StepRole::Reduce,
        Role::Compensate => StepRole::Compensate,
    };
    let plan = Plan::of(spec);
    let numbered = plan.steps.iter().zip(0u16..);
    numbered.map(|(step, at)| PlannedStep { step: StepIndex(at), role: role(step.role), tasks: step.tasks }).collect()
}

pub fn resources(resources: &Requirement) -> TaskResources {
    let Capacity { disk_bytes, memory_bytes, slots } = resources.capacity;
    TaskResources { memory_bytes, disk_bytes, slots, labels: resources.labels.clone() }
}

pub fn batch_info(spec: &BatchSpec, run: &BatchRun) -> BatchInfo {
    let dead_letter = |(step, task, reason): &(StepIndex, TaskIndex, String)| DeadLetter {
        step: *step,
        task: *task,
        reason: reason.clone(),
    };
    let tasks = &run.tasks;
    BatchInfo {
        engine: spec.engine().into(),
        step: StepInfo { step: tasks.step, tasks: tasks.tally.into() },
        steps: steps(spec),
        priority: tasks.settings.priority,
        parallelism: tasks.settings.parallelism,
        resources: resources(&tasks.settings.resources),
        dead_letters: tasks.dead_letters.iter().map(dead_letter).collect(),
        refused: tasks
            .avoided
            .iter()
            .map(|(peer, refusal)| PeerReason { peer: *peer, reason: refusal.reason.clone() })
            .collect(),
        stale_reports: tasks.stale_reports,
        verify: spec.verify.map(|verify| VerifyInfo { copies: verify.copies, agree: verify.agree }),
        outcome: None,
        outcome_hidden: None,
    }
}

pub fn output_info(given: &OutputRef) -> OutputInfo {
    let bytes = given.bytes.as_deref();
    let text = bytes.and_then(|bytes| std::str::from_utf8(bytes).ok());
    OutputInfo {
        task: given.task,
        bytes: given.output.bytes,
        digest: given.output.digest,
        text: text.map(str::to_owned),
        base64: bytes.filter(|_| text.is_none()).map(|bytes| STANDARD.encode(bytes)),
        object: match given.output.place {
            Place::Record => None,
            Place::Object { quorum, manifest } => Some(ObjectId { quorum, manifest }),
        },
    }
}

pub fn task_info(step: StepIndex, task: TaskIndex, record: &TaskRecord) -> TaskInfo {
    let (state, retry_at) = match record.state {
        TaskState::Ready => (TaskStateInfo::Ready, None),
        TaskState::Delayed { until } => (TaskStateInfo::Delayed, Some(until)),
        TaskState::Running => (TaskStateInfo::Running, None),
        TaskState::Done => (TaskStateInfo::Done, None),
        TaskState::DeadLetter => (TaskStateInfo::DeadLetter, None),
        TaskState::Parked => (TaskStateInfo::Parked, None),
    };
    let phase = |phase: &Phase| match phase {
        Phase::Assigned => AttemptPhase::Assigned,
        Phase::Started => AttemptPhase::Started,
        Phase::Committed(_) => AttemptPhase::Committed,
        Phase::Revealed(_) => AttemptPhase::Revealed,
    };
    let running = record.live.iter().map(|live| AttemptInfo {
        attempt: live.attempt,
        worker: live.worker,
        phase: phase(&live.phase),
        assigned_at: live.since,
    });
    let failure = record.extras.as_ref().and_then(|notes| notes.last.as_ref());
    TaskInfo {
        step,
        task,
        state,
        attempts: record.newest,
        failures: record.failures,
        losses: record.losses,
        running: running.collect(),
        retry_at,
        worker: record.won.as_ref().map(|won| won.worker),
        output_bytes: record.output().map(|output| output.bytes),
        output_digest: record.output().map(|output| output.digest),
        failure: failure.map(|failure| FailureInfo {
            worker: failure.worker,
            class: failure.class.into(),
            reason: failure.reason.clone(),
        }),
    }
}

/// What the copies of a task said, when they have; `None` of a task that was not voted on.
pub fn task_receipts(step: StepIndex, task: TaskIndex, record: &TaskRecord, agree: u8) -> Option<TaskReceipts> {
    let votes = &record.extras.as_ref()?.votes;
    let agreement = tally(votes.iter().map(|vote| &vote.receipt.statement), agree.into());
    let (verdict, dissenting) =
        agreement.map_or((None, Vec::new()), |agreed| (Some(agreed.verdict.into()), agreed.dissenting));
    let receipts: Vec<ResultReceipt> = votes.iter().map(|vote| vote.receipt.into()).collect();
    (!receipts.is_empty()).then_some(TaskReceipts { step, task, verdict, dissenting, receipts })
}

pub fn plan_peer(known: &KnownPeer, engine: Engine, requirement: &Requirement, compile_memory_bytes: u64) -> PlanPeer {
    let free = &known.advert.free;
    let refusal = misfit(&known.advert, engine.into(), requirement).map(|refusal| refusal.to_string());
    // A worker that has the module compiled needs no memory for it, but only that worker knows.
    let refusal = refusal.or_else(|| {
        (free.memory_bytes < compile_memory_bytes).then(|| {
            format!(
                "compiling the module takes up to {} MiB of memory, and it has {} MiB left",
                compile_memory_bytes >> 20,
                free.memory_bytes >> 20
            )
        })
    });
    let room = free.fits(&requirement.capacity);
    PlanPeer {
        peer: known.peer,
        tasks: if refusal.is_some() { 0 } else { u32::try_from(room).unwrap_or(u32::MAX) },
        refusal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use quorate_protocols::directory::PeerAdvert;
    use quorate_protocols::ids::{BootId, Digest, Incarnation, ManifestHash, Millis, PeerId, QuorumId};
    use quorate_protocols::task::record::Output;

    /// Goal: a plan says who would refuse a module for what compiling it takes, and does not count it per task.
    #[test]
    fn a_peer_with_too_little_memory_to_compile_would_run_nothing() {
        let advert = PeerAdvert {
            incarnation: Incarnation(1),
            boot_number: 1,
            boot: BootId([0; 16]),
            sequence: 1,
            roles: vec![quorate_protocols::engine::NodeRole::Wasm],
            name: String::new(),
            labels: Default::default(),
            free: Capacity { memory_bytes: 100 << 20, slots: 8, ..Capacity::default() },
            load_permille: 0,
            quorums: 0,
            draining: false,
            level: 1,
            admission: None,
        };
        let known = KnownPeer { peer: PeerId([1; 32]), advert, heard_at: Millis(0) };
        let need = Requirement::from(Capacity { memory_bytes: 20 << 20, slots: 1, disk_bytes: 0 });
        let planned = |compile: u64| plan_peer(&known, Engine::Wasm, &need, compile << 20);
        assert_eq!((planned(100).tasks, planned(100).refusal), (5, None));
        let refused = planned(101);
        assert_eq!(refused.tasks, 0);
        let refusal = refused.refusal.unwrap();
        assert!(refusal.contains("101 MiB") && refusal.contains("100 MiB left"), "{refusal}");
    }

    #[test]
    fn an_output_is_shown_as_what_it_is() {
        let given = |place, bytes: Option<&'static [u8]>| OutputRef {
            task: TaskIndex(3),
            output: Output { digest: Digest([1; 32]), bytes: 5, place },
            bytes: bytes.map(Bytes::from_static),
        };
        let shown = |given| {
            let OutputInfo { text, base64, object, .. } = output_info(&given);
            (text, base64, object)
        };
        assert_eq!(shown(given(Place::Record, Some(b"hello"))), (Some("hello".into()), None, None));
        assert_eq!(shown(given(Place::Record, Some(b"\xff\x00"))), (None, Some("/wA=".into()), None));
        assert_eq!(shown(given(Place::Record, Some(b""))), (Some(String::new()), None, None));
        let object = ObjectId { quorum: QuorumId([2; 16]), manifest: ManifestHash([3; 32]) };
        let place = Place::Object { quorum: object.quorum, manifest: object.manifest };
        assert_eq!(shown(given(place, None)), (None, None, Some(object)));
    }
}
