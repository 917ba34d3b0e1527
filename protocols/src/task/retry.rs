//! Retries of a failed task: a pure function of the policy, the task's past and its name.

use std::time::Duration;

use super::error_class::ErrorClass;
use super::limits::{LOSSES_MAX, REFUSAL_WAIT_MAX, REFUSAL_WAIT_MIN};
use super::record::TaskId;
use crate::backoff::Backoff;
use crate::ids::Millis;
use crate::task::spec::RetryPolicy;
use crate::text::counted;
use crate::wire;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    At(Millis),
    /// With the reason, for people.
    Never(String),
}

/// What a task has behind it, the failure in question included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    pub failures: u16,
    pub losses: u16,
    pub first_at: Millis,
}

/// Decides about a task that has just failed for the reason `class`.
pub fn decide(policy: &RetryPolicy, task: TaskId, past: Past, class: ErrorClass, now: Millis) -> Verdict {
    let at = match class {
        // Not the task's doing, so it waits for nothing; but a task that takes its workers down must end.
        ErrorClass::Lost if past.losses > LOSSES_MAX => {
            return Verdict::Never(format!("{} workers were lost while they ran it", past.losses));
        }
        ErrorClass::Lost => now.plus(wait(policy, task, past.losses)),
        // It did not run; the peer is not asked again for a while, and others may be at once.
        ErrorClass::Refused => now,
        class if !policy.on.contains(&class) => {
            return Verdict::Never(format!("the retry policy does not try again after {class}"));
        }
        _ if past.failures >= policy.attempts => {
            return Verdict::Never(format!(
                "failed {}, as often as the retry policy allows",
                counted(past.failures, "time")
            ));
        }
        _ => now.plus(wait(policy, task, past.failures)),
    };
    match policy.deadline {
        Some(deadline) if at > past.first_at.plus(deadline) => {
            Verdict::Never(format!("another try would begin later than {deadline:?} after the first"))
        }
        _ => Verdict::At(at),
    }
}

/// How long a peer that refused a job for the nth time is not asked again.
pub fn refusal_wait(times: u16) -> Duration {
    Backoff::new(REFUSAL_WAIT_MIN, REFUSAL_WAIT_MAX).pause(u32::from(times.saturating_sub(1)))
}

/// The wait before try `tries + 1`. The jitter is drawn from the task's name, so every member draws the same.
fn wait(policy: &RetryPolicy, task: TaskId, tries: u16) -> Duration {
    let full = Backoff::new(policy.base, policy.cap).pause(u32::from(tries.saturating_sub(1)));
    let drawn = blake3::hash(&wire::encode(&(task, tries)));
    let permille = u16::from_le_bytes([drawn.as_bytes()[0], drawn.as_bytes()[1]]) as u128 % 1_000;
    let off = full.as_millis() * policy.jitter_percent.min(100) as u128 * permille / 100_000;
    full.saturating_sub(Duration::from_millis(off.try_into().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Engine;
    use crate::ids::{JobId, StepIndex, TaskIndex};
    use proptest::prelude::*;

    fn task(index: u32) -> TaskId {
        TaskId { job: JobId::default(), step: StepIndex(0), task: TaskIndex(index) }
    }

    fn policy() -> RetryPolicy {
        RetryPolicy { attempts: 5, jitter_percent: 0, ..RetryPolicy::for_engine(Engine::Command) }
    }

    fn past(failures: u16) -> Past {
        Past { failures, losses: 0, first_at: Millis(1_000) }
    }

    #[test]
    fn waits_double_up_to_the_cap() {
        let policy = RetryPolicy { cap: Duration::from_secs(3), ..policy() };
        let waits: Vec<_> =
            (1..5).map(|n| decide(&policy, task(0), past(n), ErrorClass::Exit, Millis(1_000))).collect();
        let at = |millis: u64| Verdict::At(Millis(1_000 + millis));
        assert_eq!(waits, [at(1_000), at(2_000), at(3_000), at(3_000)]);
    }

    #[test]
    fn every_way_of_failing_ends() {
        let never = |past, class| matches!(decide(&policy(), task(0), past, class, Millis(9)), Verdict::Never(_));
        assert!(never(past(5), ErrorClass::Exit));
        assert!(never(past(1), ErrorClass::Fuel), "fuel is an outcome");
        assert!(!never(Past { losses: LOSSES_MAX, ..past(0) }, ErrorClass::Lost));
        assert!(never(Past { losses: LOSSES_MAX + 1, ..past(0) }, ErrorClass::Lost));
        let hurried = RetryPolicy { deadline: Some(Duration::from_millis(500)), ..policy() };
        let verdict = decide(&hurried, task(0), past(1), ErrorClass::Exit, Millis(1_000));
        assert!(matches!(verdict, Verdict::Never(reason) if reason.contains("500ms")));
    }

    proptest! {
        #[test]
        fn jitter_shortens_by_its_share_at_most_and_is_the_same_for_everyone(index: u32, percent in 0u8..=100) {
            let policy = RetryPolicy { jitter_percent: percent, ..policy() };
            let verdict = decide(&policy, task(index), past(3), ErrorClass::Exit, Millis(0));
            prop_assert_eq!(&verdict, &decide(&policy, task(index), past(3), ErrorClass::Exit, Millis(0)));
            let Verdict::At(at) = verdict else { panic!() };
            prop_assert!(at.0 <= 4_000 && at.0 >= 4_000 - 40 * percent as u64);
        }
    }

    #[test]
    fn tasks_that_fail_together_do_not_return_together() {
        let policy = RetryPolicy { jitter_percent: 50, ..policy() };
        let at = |index| decide(&policy, task(index), past(1), ErrorClass::Exit, Millis(0));
        let distinct: std::collections::BTreeSet<_> = (0..100).map(|index| format!("{:?}", at(index))).collect();
        assert!(distinct.len() > 50, "{}", distinct.len());
    }
}
