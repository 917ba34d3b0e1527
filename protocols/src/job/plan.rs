//! The planner of jobs that compute: which steps a run has, how many tasks each, and what every task is given.
//!
//! All of it follows from the specification alone, so a plan is never stored: whoever derives it, before a crash or
//! after, derives the same one. The first step maps; each further one folds up to `fan_in` outputs of the step before,
//! until one is left. Undoing is a step of its own, with one task for each task of the first.

use crate::task::spec::TaskInput;
use serde::{Deserialize, Serialize};

use super::batch::{BatchSpec, Map};
use crate::ids::{JobId, StepIndex, TaskIndex};
use crate::task::spec::Call;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    Map,
    /// The first level folds outputs of the map, the next those of the first level.
    Reduce {
        level: u16,
    },
    Compensate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepPlan {
    pub role: Role,
    pub tasks: u32,
}

/// The steps of a run, in order. The compensating one is last, and entered only to revert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<StepPlan>,
}

impl Plan {
    /// Of a checked specification. At most 18 steps: the smallest fan-in folds the most tasks in 16 levels.
    pub fn of(spec: &BatchSpec) -> Self {
        let mapped = match &spec.map {
            Map::Single => 1,
            Map::Count(count) => *count,
            Map::Items(items) => items.len() as u32,
            Map::Segments { size, bytes, .. } => size.div_ceil((*bytes).max(1)) as u32,
        };
        let mut steps = vec![StepPlan { role: Role::Map, tasks: mapped }];
        if let Some(reduce) = &spec.reduce {
            let mut left = mapped;
            // Even a single output is folded once: the user's program may change its form.
            while left > 1 || steps.len() == 1 {
                left = left.div_ceil(reduce.fan_in.max(2));
                steps.push(StepPlan { role: Role::Reduce { level: steps.len() as u16 }, tasks: left });
            }
        }
        if spec.compensate.is_some() {
            steps.push(StepPlan { role: Role::Compensate, tasks: mapped });
        }
        Self { steps }
    }

    pub fn step(&self, step: StepIndex) -> Option<StepPlan> {
        self.steps.get(step.0 as usize).copied()
    }

    /// The step after `step` on the way to success; `None` after the last.
    pub fn next(&self, step: StepIndex) -> Option<StepIndex> {
        let next = StepIndex(step.0.saturating_add(1));
        self.step(next).filter(|plan| plan.role != Role::Compensate).map(|_| next)
    }

    /// The step whose outputs are the run's.
    pub fn last(&self) -> StepIndex {
        let forward = self.steps.iter().filter(|step| step.role != Role::Compensate).count();
        StepIndex(forward.saturating_sub(1) as u16)
    }

    /// The step that undoes the first one.
    pub fn compensation(&self) -> Option<StepIndex> {
        let index = self.steps.iter().position(|step| step.role == Role::Compensate)?;
        Some(StepIndex(index as u16))
    }

    /// What tasks of a step run.
    pub fn call<'a>(&self, spec: &'a BatchSpec, step: StepIndex) -> Option<&'a Call> {
        match self.step(step)?.role {
            Role::Map => Some(&spec.call),
            Role::Reduce { .. } => spec.reduce.as_ref().map(|reduce| &reduce.call),
            Role::Compensate => spec.compensate.as_deref(),
        }
    }

    /// What a task is given; `None` when there is no such task.
    pub fn input(&self, spec: &BatchSpec, step: StepIndex, task: TaskIndex) -> Option<TaskInput> {
        let plan = self.step(step).filter(|plan| task.0 < plan.tasks)?;
        Some(match plan.role {
            // Whoever undoes a task is given what that task was given.
            Role::Map | Role::Compensate => match &spec.map {
                Map::Single | Map::Count(_) => TaskInput::None,
                Map::Items(items) => TaskInput::Item(items.get(task.0 as usize)?.clone()),
                Map::Segments { object, size, bytes, split } => {
                    let offset = task.0 as u64 * bytes;
                    let length = (*bytes).min(size - offset);
                    TaskInput::Range { object: *object, total: *size, offset, length, split: *split }
                }
            },
            Role::Reduce { .. } => {
                let fan_in = spec.reduce.as_ref()?.fan_in;
                let before = StepIndex(step.0 - 1);
                let from = task.0 * fan_in;
                let to = from.saturating_add(fan_in).min(self.step(before)?.tasks);
                TaskInput::Outputs { step: before, from: TaskIndex(from), to: TaskIndex(to) }
            }
        })
    }
}

/// The id of a job that is submitted under a key: the same through whichever peer.
pub fn keyed_job(quorum: crate::ids::QuorumId, key: &str) -> JobId {
    let mut hasher = blake3::Hasher::new_derive_key("quorate 2026 job key 1");
    hasher.update(quorum.as_bytes());
    hasher.update(key.as_bytes());
    let mut local = [0; 16];
    local.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    JobId { quorum, local }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Digest, ObjectId};
    use crate::ids::{ManifestHash, QuorumId};
    use crate::job::batch::Reduce;
    use crate::task::inputs::inputs_digest;
    use crate::task::spec::Program;
    use crate::task::spec::Split;
    use proptest::prelude::*;

    fn call(name: &str) -> Call {
        Call::new(Program::Command { name: name.to_owned() })
    }

    fn spec(map: Map, fan_in: Option<u32>, compensate: bool) -> BatchSpec {
        BatchSpec {
            map,
            reduce: fan_in.map(|fan_in| Box::new(Reduce { call: call("fold"), fan_in })),
            compensate: compensate.then(|| Box::new(call("undo"))),
            ..BatchSpec::new(call("map"))
        }
    }

    #[test]
    fn a_wide_map_is_folded_level_by_level() {
        let spec = spec(Map::Count(1_000), Some(10), true);
        let plan = Plan::of(&spec);
        let tasks: Vec<_> = plan.steps.iter().map(|step| step.tasks).collect();
        assert_eq!(tasks, [1_000, 100, 10, 1, 1_000]);
        assert_eq!((plan.last(), plan.compensation()), (StepIndex(3), Some(StepIndex(4))));
        assert_eq!((plan.next(StepIndex(2)), plan.next(StepIndex(3))), (Some(StepIndex(3)), None));
        assert_eq!(plan.call(&spec, StepIndex(3)), Some(&call("fold")));
        assert_eq!(plan.input(&spec, StepIndex(3), TaskIndex(1)), None);
    }

    proptest! {
        /// Goal: every output is folded once, and every byte of an object is some task's. Method: gather what the
        /// tasks of each step are given.
        #[test]
        fn nothing_is_left_out_and_nothing_given_twice(
            size in 1u64..100_000,
            bytes in 1u64..5_000,
            fan_in in 2u32..9,
        ) {
            let object = ObjectId { quorum: QuorumId([1; 16]), manifest: ManifestHash([2; 32]) };
            let spec = spec(Map::Segments { object, size, bytes, split: Split::Words }, Some(fan_in), true);
            let plan = Plan::of(&spec);
            prop_assert_eq!(&plan, &Plan::of(&spec.clone()), "derived again, the plan is the same");
            let mut end = 0;
            for task in 0..plan.steps[0].tasks {
                let input = plan.input(&spec, StepIndex(0), TaskIndex(task)).unwrap();
                let TaskInput::Range { offset, length, total, .. } = input else { panic!("{input:?}") };
                prop_assert!(offset == end && length > 0 && total == size);
                end += length;
            }
            prop_assert_eq!(end, size);
            for step in 1..=plan.last().0 {
                let mut end = 0;
                for task in 0..plan.steps[step as usize].tasks {
                    let input = plan.input(&spec, StepIndex(step), TaskIndex(task)).unwrap();
                    let TaskInput::Outputs { step: before, from, to } = input else { panic!("{input:?}") };
                    prop_assert!(before.0 == step - 1 && from.0 == end && to.0 > from.0 && to.0 - from.0 <= fan_in);
                    end = to.0;
                }
                prop_assert_eq!(end, plan.steps[step as usize - 1].tasks);
            }
            prop_assert_eq!(plan.steps[plan.last().0 as usize].tasks, 1);
        }
    }

    #[test]
    fn digests_tell_apart_what_differs() {
        let (a, b) = (call("a"), call("b"));
        let digest = inputs_digest(&a, &TaskInput::None, &[]);
        assert_ne!(digest, inputs_digest(&b, &TaskInput::None, &[]));
        assert_ne!(digest, inputs_digest(&a, &TaskInput::None, &[Digest([0; 32])]));
        let quorum = QuorumId([1; 16]);
        assert_ne!(keyed_job(quorum, "a"), keyed_job(quorum, "b"));
        assert_eq!(keyed_job(quorum, "a"), keyed_job(quorum, "a"));
    }
}
