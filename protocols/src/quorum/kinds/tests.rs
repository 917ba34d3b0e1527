//! The seam, by a kind that only tests have: submit, show, why, pause, cancel, a command of its own, a trigger and a
//! snapshot; `failover` kills primaries. And what must hold for the tables of every kind.

mod failover;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;

use super::counter::CounterCommand;
use crate::ids::*;
use crate::job::batch::{BatchSpec, Map};
use crate::job::counter::{CounterRun, CounterSpec};
use crate::job::kind::{Kind, WorkSpec};
use crate::job::record::JobRecord;
use crate::job::record::RunState::{self, *};
use crate::job::spec::TriggeredSpec;
use crate::job::spec::{JobSpec, StoreSpec};
use crate::job::transition::{Row, RunCommand, targets};
use crate::object::layout::Profile;
use crate::quorum::author::Author;
use crate::quorum::authority::Authorship;
use crate::quorum::command::{Control, QuorumCommand, StoreCommand, TriggerCommand};
use crate::quorum::duty::Duty;
use crate::quorum::entry::{Batch, Command};
use crate::quorum::event::Event;
use crate::quorum::kinds::KindCommand;
use crate::quorum::limits::{LEVEL_FIRST, LEVEL_TRIGGERS};
use crate::quorum::reply::{CommandReply, Rejection};
use crate::quorum::request::{Query, QueryAnswer};
use crate::quorum::rights::Verb;
use crate::quorum::state::QuorumState;
use crate::quorum::triggers;
use crate::task::limits::{TASKS_MAX, TASKS_PER_STEP_MAX};
use crate::task::spec::{Call, Program};
use crate::trigger::record::Fired;
use crate::trigger::spec::{Bounds, Overlap, TriggerSpec, When};
use crate::trigger::{Planner, limits::INPUT_NAME};

const QUORUM: QuorumId = QuorumId([1; 16]);
/// The peer whose key is made of 9s: it signs what it submits.
const OWNER: PeerId = PeerId([
    0xfd, 0x17, 0x24, 0x38, 0x5a, 0xa0, 0xc7, 0x5b, 0x64, 0xfb, 0x78, 0xcd, 0x60, 0x2f, 0xa1, 0xd9, 0x91, 0xfd, 0xeb,
    0xf7, 0x6b, 0x13, 0xc5, 0x8e, 0xd7, 0x02, 0xea, 0xc8, 0x35, 0xe9, 0xf6, 0x18,
]);

fn owner_key() -> SigningKey {
    SigningKey::from_bytes(&[9; 32])
}
const SECOND: u64 = 1_000;

fn job(index: u8) -> JobId {
    JobId { quorum: QUORUM, local: [index; 16] }
}

fn counter(ticks: u32) -> WorkSpec {
    CounterSpec { ticks, every: Duration::from_secs(10), input: Bytes::new() }.into()
}

/// A member, and its primary's clock.
struct Member {
    state: QuorumState,
    index: u64,
    now: u64,
}

impl Member {
    fn new() -> Self {
        let state = QuorumState::at_level(QUORUM, LEVEL_TRIGGERS);
        Self { state, index: 0, now: 1_000 * SECOND }
    }

    fn apply_all(&mut self, command: Command) -> (Result<CommandReply, Rejection>, Vec<Event>) {
        self.index += 1;
        let batch = Batch::at(Millis(self.now), vec![(OWNER, command)]);
        let before = self.state.clone();
        let (reply, events) = self.state.apply(LogIndex(self.index), &batch);
        let reply = reply.replies.into_iter().next().unwrap();
        self.state.check_invariants().unwrap();
        before.check_step(&self.state, &batch.commands[0].1, &reply).unwrap();
        (reply, events)
    }

    fn apply(&mut self, command: Command) -> Result<CommandReply, Rejection> {
        self.apply_all(command).0
    }

    fn submit(&mut self, index: u8, spec: JobSpec) -> Result<CommandReply, Rejection> {
        self.apply(Command::submit(&owner_key(), job(index), spec))
    }

    /// By who has looked at the job.
    fn control(&mut self, index: u8, control: Control) -> Result<CommandReply, Rejection> {
        let seen = self.state.jobs.get(&job(index)).map(JobRecord::seen).unwrap_or_default();
        self.apply(Command::control(job(index), seen, control))
    }

    fn bump(&mut self, index: u8, by: u32) -> Result<CommandReply, Rejection> {
        self.apply(Command::Kind(job(index), KindCommand::Counter(CounterCommand::Bump { by })))
    }

    /// What a primary does: waits for the earliest timer, and says that it has.
    fn wait(&mut self) -> Vec<Event> {
        let due = self.state.duties().into_iter().find_map(|duty| match duty {
            Duty::Wake { due, .. } => Some(due),
            _ => None,
        });
        let due = due.expect("a timer");
        self.now += due.since(self.state.time).as_millis() as u64;
        self.apply_all(Command::Quorum(QuorumCommand::Elapsed { until: due })).1
    }

    fn run(&self, index: u8) -> (RunState, CounterRun) {
        let record = &self.state.jobs[&job(index)];
        (record.state, record.counter().unwrap().1.clone())
    }

    fn why(&self, index: u8) -> String {
        self.state.why(job(index)).unwrap()
    }

    /// Another member, from a snapshot.
    fn copy_by_snapshot(&self) -> Self {
        let chunks = self.state.encode_snapshot();
        let state = QuorumState::decode_snapshot(chunks.iter().map(|(_, chunk)| chunk)).unwrap();
        assert_eq!(state, self.state);
        assert_eq!(state.duties(), self.state.duties(), "it derives the same duties");
        Self { state, index: self.index, now: self.now }
    }
}

/// A command that came after its kind must not meet a member that has the kind and not the command.
#[test]
fn a_kinds_command_of_a_later_level_waits_for_that_level() {
    let mut member = Member::new();
    member.state.level = LEVEL_FIRST;
    member.submit(1, JobSpec::Once(counter(3))).unwrap();
    let refused = Rejection::Level { needed: LEVEL_TRIGGERS, level: LEVEL_FIRST };
    assert_eq!(member.bump(1, 1), Err(refused));
    member.apply(Command::Quorum(QuorumCommand::RaiseLevel { level: LEVEL_TRIGGERS })).unwrap();
    assert_eq!(member.bump(1, 1), Ok(CommandReply::Done));
}

#[test]
fn a_counter_ticks_to_its_end_and_says_why_it_is_where_it_is() {
    let mut member = Member::new();
    assert!(matches!(member.submit(1, JobSpec::Once(counter(0))), Err(Rejection::Invalid { .. })));
    let submitted = member.submit(1, JobSpec::Once(counter(3))).unwrap();
    assert_eq!(submitted, CommandReply::Submitted { existed: false, state: Pending });
    let again = member.submit(1, JobSpec::Once(counter(3))).unwrap();
    assert_eq!(again, CommandReply::Submitted { existed: true, state: Pending });
    assert_eq!(member.submit(1, JobSpec::Once(counter(4))), Err(Rejection::Conflict { job: job(1) }));
    assert_eq!(member.why(1), "0 of 3 ticks are done; the next is in 10 s");

    let events = member.wait();
    assert_eq!(events, [Event::JobChanged { job: job(1), state: Running }]);
    assert_eq!(member.run(1).1.ticked, 1);
    assert_eq!(member.bump(1, 1), Ok(CommandReply::Done));
    assert_eq!((member.run(1).0, member.run(1).1.ticked), (Running, 2));
    member.wait();
    assert_eq!(member.run(1), (Succeeded, CounterRun { ticked: 3, next_at: None }));
    assert_eq!(member.why(1), "done");
    let ended = Rejection::IllegalState { job: job(1), state: Succeeded, command: "bump".to_owned() };
    assert_eq!(member.bump(1, 1), Err(ended));

    // It is shown like any other, and listed without what it was given.
    let Some(QueryAnswer::Job(shown)) = member.state.answer(&Query::Job { job: job(1) }) else { panic!("no job") };
    assert_eq!((shown.spec.kind().name(), shown.history.len()), ("counter", 4));
    let Some(QueryAnswer::Jobs(listed)) = member.state.answer(&Query::Jobs { after: None, limit: 10 }) else {
        panic!("no list")
    };
    assert_eq!(listed.len(), 1);
}

#[test]
fn a_paused_counter_stands_still_and_a_cancelled_one_has_ended() {
    let mut member = Member::new();
    member.submit(1, JobSpec::Once(counter(3))).unwrap();
    member.control(1, Control::Pause).unwrap();
    member.control(1, Control::Pause).unwrap();
    assert_eq!(member.run(1), (Paused, CounterRun { ticked: 0, next_at: None }));
    assert_eq!(member.state.next_timer(), None);
    assert!(member.why(1).starts_with("paused by its owner"), "{}", member.why(1));
    assert!(matches!(member.bump(1, 1), Err(Rejection::IllegalState { .. })));
    member.control(1, Control::Resume).unwrap();
    member.wait();
    assert_eq!(member.run(1).1.ticked, 1);
    let unknown = member.control(1, Control::Retry);
    let refusal = Rejection::WrongKind { kind: Kind::Counter, command: "retry".to_owned() };
    assert_eq!(unknown, Err(refusal));
    member.control(1, Control::Cancel).unwrap();
    member.control(1, Control::Cancel).unwrap();
    assert_eq!(member.run(1).0, Cancelled);
    assert_eq!(member.state.counts().0, 0, "no job is live");
}

#[test]
fn a_member_goes_on_from_a_snapshot_with_the_timers_and_the_commands_of_the_old() {
    let mut member = Member::new();
    member.submit(1, JobSpec::Once(counter(4))).unwrap();
    member.wait();
    let mut other = member.copy_by_snapshot();
    other.wait();
    other.bump(1, 1).unwrap();
    let mut third = other.copy_by_snapshot();
    third.wait();
    assert_eq!(third.run(1), (Succeeded, CounterRun { ticked: 4, next_at: None }));
}

#[test]
fn a_trigger_runs_a_counter_and_gives_it_what_fired_it() {
    let mut member = Member::new();
    let when = When::Every { period: Duration::from_secs(60), bounds: Bounds::NONE };
    let trigger = TriggerSpec { overlap: Overlap::Forbid, ..TriggerSpec::new(when) };
    member.submit(1, JobSpec::Triggered(Box::new(TriggeredSpec::new(trigger, counter(2))))).unwrap();
    let mut planner = Planner::default();
    let mut made = None;
    for _ in 0..3 {
        member.now += 61 * SECOND;
        let spans = planner.spans(&member.state, Millis(member.now), Millis(member.now), 100);
        let events = member.apply_all(Command::Trigger(TriggerCommand::Due { spans })).1;
        made = made.or(events.iter().find_map(|event| match event {
            Event::Fired { row, .. } => match row.what {
                Fired::Run { run, .. } => Some(run),
                _ => None,
            },
            _ => None,
        }));
    }
    let run = made.expect("it fired");
    let (spec, _) = member.state.jobs[&run].counter().unwrap();
    assert!(String::from_utf8_lossy(&spec.input).contains(&job(1).to_string()), "{:?} {INPUT_NAME}", spec.input);
    let mut other = member.copy_by_snapshot();
    while !other.state.jobs[&run].state.is_final() {
        other.wait();
    }
    let (_, trigger) = other.state.trigger(job(1)).unwrap();
    assert!(!trigger.live.contains(&run), "the trigger knows that its run has ended");
}

/// Goal: what a kind says that a run weighs is held against the quorum's room. Method: batches fill the room for tasks;
/// a counter, which has none, is taken still.
#[test]
fn a_run_that_weighs_more_than_the_room_left_is_refused() {
    let mut state = QuorumState::at_level(QUORUM, LEVEL_TRIGGERS);
    let mut submit = |index: u8, spec: JobSpec| {
        // Each owner has a half.
        let owner = SigningKey::from_bytes(&[9 - index % 2; 32]);
        let submit = Command::submit(&owner, job(index), spec);
        let by = PeerId(owner.verifying_key().to_bytes());
        let (reply, _) = state.apply(LogIndex(index.into()), &Batch::at(Millis(SECOND), vec![(by, submit)]));
        reply.replies.into_iter().next().unwrap()
    };
    let batch = || {
        let call = Call::new(Program::Command { name: "work".to_owned() });
        JobSpec::batch(BatchSpec { map: Map::Count(TASKS_PER_STEP_MAX), ..BatchSpec::new(call) })
    };
    let full = TASKS_MAX / TASKS_PER_STEP_MAX as usize;
    for index in 0..full as u8 {
        submit(index, batch()).unwrap();
    }
    let refusal = Rejection::Full { what: "tasks of live jobs".to_owned(), limit: TASKS_MAX };
    assert_eq!(submit(101, batch()), Err(refusal));
    submit(102, JobSpec::Once(counter(3))).unwrap();
}

#[test]
fn commands_of_one_kind_are_for_its_jobs_and_its_owner_alone() {
    let mut member = Member::new();
    let call = Call::new(Program::Command { name: "work".to_owned() });
    member.submit(1, JobSpec::batch(BatchSpec::new(call))).unwrap();
    member.submit(2, JobSpec::Once(counter(3))).unwrap();
    let refusal = Rejection::WrongKind { kind: Kind::Batch, command: "bump".to_owned() };
    assert_eq!(member.bump(1, 1), Err(refusal));
    let wrong = member.apply(Command::store(job(2), StoreCommand::Attach));
    assert_eq!(wrong, Err(Rejection::WrongKind { kind: Kind::Counter, command: "attach".to_owned() }));
    let command = Command::Kind(job(2), KindCommand::Counter(CounterCommand::Bump { by: 1 }));
    assert_eq!(command.author(), Author::Owner { job: job(2), verb: Verb::Update });
    let by = |by: PeerId| Authorship { by, is_primary: false, is_operator: false };
    assert!(
        member.state.check_author(by(OWNER), &command).is_ok()
            && member.state.check_author(by(PeerId([8; 32])), &command).is_err()
    );
}

#[test]
fn a_file_is_stored_by_the_node_that_has_it_and_not_by_a_trigger() {
    let mut member = Member::new();
    let when = When::Every { period: Duration::from_secs(60), bounds: Bounds::NONE };
    let store = StoreSpec { name: None, size: Some(1), profile: Profile::DEFAULT };
    let spec = JobSpec::Triggered(Box::new(TriggeredSpec::new(TriggerSpec::new(when), store)));
    let refused = member.submit(1, spec).unwrap_err().to_string();
    assert!(refused.contains("a trigger cannot run a job that stores"), "{refused}");
}

// ---- the tables ----

/// Every table, with the states in which its jobs are born.
fn tables() -> Vec<(&'static str, &'static [Row], RunState)> {
    let kinds = Kind::ALL.iter().map(|kind| (kind.name(), kind.transitions(), Pending));
    kinds.chain([("trigger", triggers::TRANSITIONS, Running)]).collect()
}

#[test]
fn every_state_that_is_not_final_has_a_way_out_and_can_be_cancelled() {
    for (name, table, _) in tables() {
        let states: BTreeSet<_> = table.iter().map(|(from, ..)| *from).filter(|state| !state.is_final()).collect();
        for state in states {
            let to = targets(table, state, RunCommand::Cancel).unwrap_or_default();
            assert!(to.iter().any(|to| matches!(to, Cancelled | Cancelling)), "{name}: {state:?}");
        }
    }
}

#[test]
fn a_final_state_is_never_left() {
    for (name, table, _) in tables() {
        for (from, command, to) in table.iter().filter(|(from, ..)| from.is_final()) {
            assert_eq!(*to, &[*from][..], "{name}: {command:?}");
        }
    }
}

#[test]
fn every_state_of_a_table_is_reached_and_no_row_is_there_twice() {
    for (name, table, first) in tables() {
        let pairs: BTreeSet<_> = table.iter().map(|(from, by, _)| (*from, *by)).collect();
        assert_eq!(pairs.len(), table.len(), "{name}");
        let mut reached = BTreeSet::from([first]);
        while table
            .iter()
            .filter(|(from, ..)| reached.contains(from))
            .any(|(_, _, to)| !to.iter().all(|to| reached.contains(to)))
        {
            let more: Vec<_> = table
                .iter()
                .filter(|(from, ..)| reached.contains(from))
                .flat_map(|(_, _, to)| to.iter().copied())
                .collect();
            reached.extend(more);
        }
        for (from, ..) in table {
            assert!(reached.contains(from), "{name}: nothing leads to {from:?}");
        }
    }
}

#[test]
fn names_of_kinds_are_those_of_the_json_form() {
    for kind in Kind::ALL {
        assert_eq!(serde_json::to_string(kind).unwrap(), format!("\"{}\"", kind.name()));
    }
}
