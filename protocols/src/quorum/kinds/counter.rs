//! Kind *counter*, of tests alone: a run that ticks N times and ends. It shows what the seam asks of a new kind.
//!
//! It has a timer (the next tick), a command of its own (*bump*, which ticks at once), a pause, and no tasks.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::context::{RunCx, RunView};
use super::{Kind, OwnCommand, Weight, not_for_this_kind};
use crate::ids::{JobId, Millis, PeerId};
use crate::job::counter::{CounterRun, CounterSpec};
use crate::job::record::RunState::*;
use crate::job::record::{JobRecord, Run};
use crate::job::transition::{Row, RunCommand};
use crate::job::why::ended_or_resting;
use crate::quorum::author::Author;
use crate::quorum::check::{Checked, ensure};
use crate::quorum::command::Control;
use crate::quorum::duty::Duty;
use crate::quorum::limits::{LEVEL_FIRST, LEVEL_TRIGGERS};
use crate::quorum::reply::{Applied, invalid};
use crate::quorum::reply::{CommandReply, Rejection};
use crate::quorum::rights::Verb;

pub(crate) struct Counter;

pub type Command = CounterCommand;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CounterCommand {
    /// Ticks at once, so many times.
    Bump { by: u32 },
}

const BUMP: RunCommand = RunCommand::Own("bump");

impl OwnCommand for CounterCommand {
    fn name(&self) -> &'static str {
        match self {
            Self::Bump { .. } => BUMP.name(),
        }
    }

    /// Later than the kind itself, as a command that came with a later build is.
    fn level(&self) -> u16 {
        match self {
            Self::Bump { .. } => LEVEL_TRIGGERS,
        }
    }

    fn author(&self, job: JobId) -> Author<'_> {
        match self {
            Self::Bump { .. } => Author::Owner { job, verb: Verb::Update },
        }
    }
}

impl Kind for Counter {
    const LEVEL: u16 = LEVEL_FIRST;
    const TRANSITIONS: &'static [Row] = &[
        (Pending, RunCommand::Elapsed, &[Running, Succeeded]),
        (Pending, BUMP, &[Running, Succeeded]),
        (Pending, RunCommand::Pause, &[Paused]),
        (Pending, RunCommand::Cancel, &[Cancelled]),
        (Running, RunCommand::Elapsed, &[Running, Succeeded]),
        (Running, BUMP, &[Running, Succeeded]),
        (Running, RunCommand::Pause, &[Paused]),
        (Running, RunCommand::Cancel, &[Cancelled]),
        (Paused, RunCommand::Pause, &[Paused]),
        (Paused, RunCommand::Resume, &[Running]),
        (Paused, RunCommand::Cancel, &[Cancelled]),
        (Cancelled, RunCommand::Cancel, &[Cancelled]),
    ];

    type Spec = CounterSpec;
    type Run = CounterRun;
    type Command = CounterCommand;

    fn check(spec: &CounterSpec) -> Result<(), Rejection> {
        if spec.ticks == 0 || spec.every.is_zero() {
            return Err(invalid("a counter ticks at least once, and not all the time"));
        }
        Ok(())
    }

    fn weight(_: &CounterSpec, spec_bytes: usize) -> Weight {
        Weight { bytes: spec_bytes, ..Weight::default() }
    }

    fn new_run(view: RunView<'_>, spec: &CounterSpec, _: PeerId) -> CounterRun {
        CounterRun { ticked: 0, next_at: Some(view.time().plus(spec.every)) }
    }

    fn begin(_: &mut RunCx<'_>) {}

    fn control(cx: &mut RunCx<'_>, by: PeerId, control: &Control) -> Applied {
        let state = cx.record()?.state;
        match control {
            Control::Cancel if state != Cancelled => {
                change(cx, |run| run.next_at = None);
                cx.end(RunCommand::Cancel, Cancelled, Some(format!("by {by}")), &format!("cancelled by {by}"));
            }
            Control::Pause if state != Paused => {
                change(cx, |run| run.next_at = None);
                cx.enter(RunCommand::Pause, Paused, &format!("paused by {by}"));
            }
            Control::Resume => {
                let next = cx.record()?.counter().map(|(spec, _)| cx.time().plus(spec.every));
                change(cx, |run| run.next_at = next);
                cx.enter(RunCommand::Resume, Running, &format!("resumed by {by}"));
            }
            Control::Cancel | Control::Pause => (),
            _ => return Err(not_for_this_kind()),
        }
        Ok(CommandReply::Done)
    }

    fn command(cx: &mut RunCx<'_>, _: PeerId, command: &CounterCommand) -> Applied {
        match command {
            CounterCommand::Bump { by } => tick(cx, BUMP, *by),
        }
        Ok(CommandReply::Done)
    }

    fn timer(record: &JobRecord) -> Option<Millis> {
        record.counter()?.1.next_at
    }

    fn elapsed(cx: &mut RunCx<'_>) {
        let due = cx.record().ok().and_then(Self::timer);
        if due.is_some_and(|due| due <= cx.time()) {
            tick(cx, RunCommand::Elapsed, 1);
        }
    }

    fn task_event(_: &mut RunCx<'_>, _: RunCommand) {}

    fn has_duties(_: &JobRecord, _: &CounterRun) -> bool {
        false
    }

    fn duties(_: &JobRecord, _: &CounterRun, _: &mut Vec<Duty>) {}

    fn name(_: &CounterSpec) -> Option<&str> {
        None
    }

    fn why(record: &JobRecord, spec: &CounterSpec, run: &CounterRun, time: Millis, _: Millis) -> String {
        match (record.state, run.next_at) {
            (Pending | Running, Some(next)) => {
                let seconds = next.since(time).as_secs();
                format!("{} of {} ticks are done; the next is in {seconds} s", run.ticked, spec.ticks)
            }
            (state, _) => ended_or_resting(state, record.reason.as_deref()),
        }
    }

    fn outline_spec(spec: &CounterSpec) -> CounterSpec {
        CounterSpec { input: Bytes::new(), ..spec.clone() }
    }

    fn outline_run(run: &CounterRun) -> CounterRun {
        run.clone()
    }

    fn check_invariants(_: RunView<'_>, record: &JobRecord, spec: &CounterSpec, run: &CounterRun) -> Checked {
        let ticks = matches!(record.state, Pending | Running);
        ensure(ticks == run.next_at.is_some(), || format!("{} with the next tick {:?}", record.state, run.next_at))?;
        ensure((record.state == Succeeded) == (run.ticked >= spec.ticks), || format!("{} ticks", run.ticked))
    }

    fn give_input(spec: &mut CounterSpec, input: Bytes) {
        spec.input = input;
    }
}

fn change(cx: &mut RunCx<'_>, change: impl FnOnce(&mut CounterRun)) {
    if let Ok(Run::Counter(run)) = cx.run_mut() {
        change(run);
    }
}

fn tick(cx: &mut RunCx<'_>, by: RunCommand, ticks: u32) {
    let now = cx.time();
    let Some((spec, run)) = cx.record().ok().and_then(JobRecord::counter) else { return };
    let (ticked, every, wanted) = (run.ticked.saturating_add(ticks), spec.every, spec.ticks);
    let over = ticked >= wanted;
    change(cx, |run| (run.ticked, run.next_at) = (ticked, (!over).then(|| now.plus(every))));
    match over {
        true => cx.end(by, Succeeded, None, &format!("ticked {ticked} times")),
        false => cx.enter(by, Running, &format!("tick {ticked} of {wanted}")),
    }
}
