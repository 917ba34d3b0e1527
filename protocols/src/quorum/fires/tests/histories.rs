//! Random histories of triggers: every invariant holds, whatever is done in whatever order.

use crate::job::spec::TriggeredSpec;
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Submit(u8, u8, u8),
    Pass(u16),
    Back(u16),
    Lead,
    Replay(u8),
    Deliver(u8, u8, bool),
    Observe(u8, Option<i8>),
    Fire(u8, u8, bool),
    Suspend(u8),
    Unsuspend(u8),
    Cancel(u8),
    Work(bool),
    Elapse,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0u8..6, 0u8..6, 0u8..4).prop_map(|(job, when, overlap)| Step::Submit(job, when, overlap)),
        4 => (0u16..400).prop_map(Step::Pass),
        1 => (0u16..4_000).prop_map(Step::Back),
        4 => Just(Step::Lead),
        2 => any::<u8>().prop_map(Step::Replay),
        3 => (any::<u8>(), 0u8..4, any::<bool>()).prop_map(|(follows, id, fault)| Step::Deliver(follows, id, fault)),
        2 => (0u8..6, prop::option::of(any::<i8>())).prop_map(|(job, value)| Step::Observe(job, value)),
        1 => (0u8..6, 0u8..4, any::<bool>()).prop_map(|(job, nonce, respect)| Step::Fire(job, nonce, respect)),
        1 => (0u8..6).prop_map(Step::Suspend),
        1 => (0u8..6).prop_map(Step::Unsuspend),
        1 => (0u8..6).prop_map(Step::Cancel),
        2 => any::<bool>().prop_map(Step::Work),
        1 => Just(Step::Elapse),
    ]
}

fn random_trigger(when: u8, overlap: u8) -> TriggerSpec {
    let trigger = match when {
        0 => every(10),
        1 => TriggerSpec::new(When::Cron {
            lines: vec!["* * * * *".to_owned(), "*/7 * * * * *".to_owned()],
            timezone: "Europe/Berlin".to_owned(),
            bounds: Bounds { jitter: Duration::from_secs(20), count: Some(40), ..Bounds::NONE },
        }),
        2 => on_event(|_| ()),
        3 => on_event(|event| event.debounce = Duration::from_secs(7)),
        4 => on_condition(3, None),
        _ => TriggerSpec::new(When::After(vec![
            AfterJob { job: job(0), on: After::Success },
            AfterJob { job: job(1), on: After::Any },
        ])),
    };
    let overlap = [Overlap::Allow, Overlap::Forbid, Overlap::Replace, Overlap::Queue(2)][overlap as usize];
    TriggerSpec { overlap, missed: Missed { policy: MissedPolicy::CatchUp(3), deadline: None }, ..trigger }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 60 } else { 600 }))]
    /// Goal: whatever is proposed in whatever order, every invariant holds and the checker finds each instant once.
    /// Method: random commands, old ones again, and clocks that go back.
    #[test]
    fn random_histories_keep_every_invariant(steps in prop::collection::vec(step(), 1..80)) {
        let mut quorum = Quorum::with_worker();
        let mut old = Vec::new();
        let mut emitted = 0u64;
        for step in steps {
            match step {
                Step::Submit(index, when, overlap) => {
                    let spec = TriggeredSpec::new(random_trigger(when, overlap), work());
                    let _ = quorum.apply(Command::submit(&owner_key(), job(index), JobSpec::Triggered(Box::new(spec))));
                }
                Step::Pass(seconds) => quorum.now += seconds as u64 * SECOND,
                Step::Back(seconds) => quorum.now -= (seconds as u64 * SECOND).min(quorum.now - 500_000),
                Step::Lead => {
                    let steady = quorum.state.time.max(Millis(quorum.now));
                    let spans = quorum.planner.spans(&quorum.state, Millis(quorum.now), steady, SPANS_MAX);
                    let command = Command::Trigger(TriggerCommand::Due { spans });
                    old.push(command.clone());
                    quorum.apply(command).unwrap();
                }
                Step::Replay(which) => {
                    if let Some(command) = old.get(which as usize % old.len().max(1)).cloned() {
                        let _ = quorum.apply(command);
                    }
                }
                Step::Deliver(follows, id, fault) => {
                    let follows = emitted.saturating_sub(follows as u64 % 4);
                    let id = (id > 0).then(|| id.to_string());
                    let data = if fault { "[]" } else { "{\"t\": 31}" };
                    if quorum.deliver(follows, &[event(id.as_deref(), data)]).is_ok() {
                        emitted = emitted.max(follows + 1);
                    }
                }
                Step::Observe(index, value) => {
                    let value = value.map(|value| value.to_string());
                    let value = value.as_deref().ok_or("no answer");
                    if quorum.state.trigger(job(index)).is_some() {
                        let _ = quorum.observe(job(index), value, &[]);
                    }
                }
                Step::Fire(index, nonce, respect_overlap) => {
                    let _ = quorum.apply(Command::Trigger(TriggerCommand::Fire { job: job(index), seen: LogIndex(u64::MAX), nonce: Nonce([nonce; 16]), respect_overlap }));
                }
                Step::Suspend(index) => drop(quorum.apply(Command::control(job(index), LogIndex(u64::MAX), Control::Suspend))),
                Step::Unsuspend(index) => drop(quorum.apply(Command::control(job(index), LogIndex(u64::MAX), Control::Unsuspend))),
                Step::Cancel(index) => drop(quorum.apply(Command::control(job(index), LogIndex(u64::MAX), Control::Cancel))),
                Step::Work(true) => quorum.succeed(),
                Step::Work(false) => quorum.fail(),
                Step::Elapse => {
                    if let Some(until) = quorum.state.next_timer() {
                        quorum.apply(Command::Quorum(QuorumCommand::Elapsed { until })).unwrap();
                    }
                }
            }
        }
        for index in 0..6 {
            let Some((spec, run)) = quorum.state.trigger(job(index)) else { continue };
            if spec.trigger.is_timed() && run.clock.from.is_some() {
                prop_assert_eq!(quorum.audit(job(index)), Vec::<String>::new());
            }
        }
        prop_assert_eq!(audit::runs(quorum.rows.values()), Vec::<String>::new());
    }
}
