//! Kind *batch*: a program is run over many inputs, its outputs are folded, and what went wrong is undone.
//!
//! A run goes through the steps of its plan ([`crate::job::plan`]). `life` is how it gets from one to the next and to
//! its end, `control` what its owner asks of it, `timers` when it asks to be looked at again.

mod control;
mod life;
mod timers;

use bytes::Bytes;

use super::context::{RunCx, RunView};
use super::{Kind, NoCommand, Weight, not_for_this_kind};
use crate::ids::{Millis, ObjectId, PeerId, StepIndex, TaskIndex};
use crate::job::batch::{BatchRun, Ending};
use crate::job::batch::{BatchSpec, Map};
use crate::job::plan::{Plan, Role};
use crate::job::record::RunState::*;
use crate::job::record::{JobRecord, Run};
use crate::job::transition::{Row, RunCommand};
use crate::job::why::{ended_or_resting, with};
use crate::quorum::check::{Checked, ensure};
use crate::quorum::command::Control;
use crate::quorum::duty::Duty;
use crate::quorum::limits::LEVEL_FIRST;
use crate::quorum::reply::Rejection;
use crate::quorum::reply::{Applied, invalid};
use crate::quorum::uses::Part;
use crate::task::limits::{PRIORITY_MAX, PRIORITY_MIN};
use crate::task::record::{RunTasks, Tally};
use crate::task::spec::TaskInput;
use crate::task::spec::{Call, Content, Program};
use crate::task::terms::TaskTerms;
use crate::text::counted;
use crate::trigger::limits::INPUT_NAME;

pub(crate) struct Batch;

pub type Command = NoCommand;

use RunCommand::{Assigned, Cancel, Elapsed, Pause, Reported, Resolve, Resume, Retry, Update};

impl Kind for Batch {
    const LEVEL: u16 = LEVEL_FIRST;
    const TRANSITIONS: &'static [Row] = &[
        (Pending, Cancel, &[Cancelled]),
        (Pending, Assigned, &[Running]),
        (Pending, Elapsed, &[Pending, Failed]),
        (Pending, Pause, &[Paused]),
        (Pending, Update, &[Pending]),
        (Running, Cancel, &[Cancelled, Cancelling, Reverting]),
        (Running, Assigned, &[Running]),
        (Running, Reported, &[Running, Succeeded, Failed, Reverting, AwaitingResolution]),
        (Running, Elapsed, &[Running, Succeeded, Failed, Reverting, AwaitingResolution]),
        (Running, Pause, &[Pausing, Paused]),
        (Running, Update, &[Running]),
        (Pausing, Cancel, &[Cancelled, Cancelling, Reverting]),
        (Pausing, Reported, &[Pausing, Paused, Succeeded, Failed, Reverting, Reverted, Cancelled, AwaitingResolution]),
        (Pausing, Elapsed, &[Pausing, Paused, Succeeded, Failed, Reverting, Reverted, Cancelled, AwaitingResolution]),
        (Pausing, Pause, &[Pausing]),
        (Pausing, Resume, &[Running, Reverting]),
        (Pausing, Update, &[Pausing]),
        (Paused, Cancel, &[Cancelled, Cancelling, Reverting]),
        (Paused, Elapsed, &[Paused, Failed, Reverting, AwaitingResolution]),
        (Paused, Pause, &[Paused]),
        (Paused, Resume, &[Pending, Running, Reverting]),
        (Paused, Update, &[Paused]),
        (Cancelling, Cancel, &[Cancelling]),
        (Cancelling, Reported, &[Cancelling, Cancelled]),
        (Cancelling, Elapsed, &[Cancelling, Cancelled]),
        (Reverting, Cancel, &[Cancelled, Cancelling]),
        (Reverting, Assigned, &[Reverting]),
        (Reverting, Reported, &[Reverting, Reverted, Cancelled, AwaitingResolution]),
        (Reverting, Elapsed, &[Reverting, Reverted, Cancelled, AwaitingResolution]),
        (Reverting, Pause, &[Pausing, Paused]),
        (Reverting, Update, &[Reverting]),
        (AwaitingResolution, Cancel, &[Cancelled, Cancelling, Reverting]),
        (AwaitingResolution, Elapsed, &[AwaitingResolution, Failed]),
        (AwaitingResolution, Retry, &[Running, Reverting]),
        (AwaitingResolution, Resolve, &[Running, Succeeded, Failed, Reverting, Reverted, Cancelled]),
        (AwaitingResolution, Update, &[AwaitingResolution]),
        (Cancelled, Cancel, &[Cancelled]),
    ];

    type Spec = BatchSpec;
    type Run = BatchRun;
    type Command = NoCommand;

    fn check(spec: &BatchSpec) -> Result<(), Rejection> {
        spec.check().map_err(|fault| invalid(fault.to_string()))
    }

    fn check_triggered(spec: &BatchSpec) -> Result<(), Rejection> {
        spec.check_triggered().map_err(|fault| invalid(fault.to_string()))
    }

    fn weight(spec: &BatchSpec, spec_bytes: usize) -> Weight {
        let tasks = Plan::of(spec).steps.iter().map(|step| step.tasks as usize).max().unwrap_or(0);
        Weight { tasks, bytes: spec_bytes, object: None }
    }

    fn new_run(view: RunView<'_>, spec: &BatchSpec, owner: PeerId) -> BatchRun {
        let mut run = BatchRun::new(spec, view.time());
        run.tasks.pass = view.first_pass(owner, &run.tasks.settings);
        run
    }

    fn begin(cx: &mut RunCx<'_>) {
        life::begin(cx);
    }

    fn control(cx: &mut RunCx<'_>, by: PeerId, control: &Control) -> Applied {
        match control {
            Control::Suspend | Control::Unsuspend => Err(not_for_this_kind()),
            Control::Cancel => control::cancel(cx, by),
            Control::Pause => control::pause(cx, by),
            Control::Resume => control::resume(cx, by),
            Control::Retry => control::retry(cx, by),
            Control::Resolve { resolution } => control::resolve(cx, by, *resolution),
            Control::Update { priority, parallelism, resources } => {
                control::update(cx, *priority, *parallelism, resources.as_ref())
            }
        }
    }

    fn command(_: &mut RunCx<'_>, _: PeerId, command: &NoCommand) -> Applied {
        match *command {}
    }

    fn timer(record: &JobRecord) -> Option<Millis> {
        timers::next(record)
    }

    fn elapsed(cx: &mut RunCx<'_>) {
        timers::serve(cx);
    }

    fn task_event(cx: &mut RunCx<'_>, by: RunCommand) {
        life::advance(cx, by);
    }

    /// Workers and timers are the pool's and the frame's.
    fn has_duties(_: &JobRecord, _: &BatchRun) -> bool {
        false
    }

    fn duties(_: &JobRecord, _: &BatchRun, _: &mut Vec<Duty>) {}

    fn name(spec: &BatchSpec) -> Option<&str> {
        spec.name.as_deref()
    }

    fn why(record: &JobRecord, _: &BatchSpec, run: &BatchRun, time: Millis, _: Millis) -> String {
        let (reason, tasks) = (record.reason.as_deref(), &run.tasks);
        let Tally { total, ready, delayed, running, done, .. } = tasks.tally;
        let step = format!(
            "step {}: {done} of {} done, {running} running, {ready} waiting for a worker",
            tasks.step,
            counted(total, "task")
        );
        // The workers among them say more for themselves while the job waits.
        let refusals = || match tasks.avoided.iter().next() {
            Some((peer, refusal)) => {
                let again = match tasks.refusal_over_at() {
                    Some(at) => format!("; the next is asked again within {} s", at.since(time).as_secs().max(1)),
                    None => String::new(),
                };
                format!("; {} refused ({peer}: {}){again}", counted(tasks.avoided.len(), "peer"), refusal.reason)
            }
            None => String::new(),
        };
        match record.state {
            Pending => {
                let tasks = if total == 1 { "its task".to_owned() } else { format!("one of its {total} tasks") };
                format!("waiting for workers: none has room for {tasks}{}", refusals())
            }
            Running if delayed > 0 => format!("{step}, {delayed} waiting for another try{}", refusals()),
            Running => step + &refusals(),
            Pausing => with(&format!("waiting for {} to stop, to be paused", counted(running, "task")), reason),
            Cancelling => with("waiting for its workers to say that they have stopped", reason),
            Reverting => {
                let why = match &run.ending {
                    Some(Ending::Reverted { reason }) => reason.as_str(),
                    _ => "it was cancelled",
                };
                format!("undoing what it did, because {why}; {step}")
            }
            AwaitingResolution => {
                let waits = time.since(run.clock_at).as_secs();
                let what = format!("waiting for a decision for {waits} s: `job retry` or `job resolve` makes it");
                with(&what, reason)
            }
            state => ended_or_resting(state, reason),
        }
    }

    fn outline_spec(spec: &BatchSpec) -> BatchSpec {
        spec.outline()
    }

    fn outline_run(run: &BatchRun) -> BatchRun {
        run.clone()
    }

    fn redacted_spec(spec: &BatchSpec) -> BatchSpec {
        spec.redacted()
    }

    fn check_invariants(view: RunView<'_>, record: &JobRecord, spec: &BatchSpec, run: &BatchRun) -> Checked {
        spec.check().map_err(|fault| fault.to_string())?;
        let (plan, step, state) = (Plan::of(spec), run.tasks.step, record.state);
        ensure(plan.step(step).is_some(), || format!("no step {step}"))?;
        let settings = &run.tasks.settings;
        ensure(settings.resources.check().is_ok(), || "impossible resources".to_owned())?;
        ensure((PRIORITY_MIN..=PRIORITY_MAX).contains(&settings.priority), || "impossible priority".to_owned())?;
        let kept = !state.is_final() || state == Succeeded;
        let Some(table) = view.table() else { return ensure(!kept, || "its tasks are gone".to_owned()) };
        let over = state.is_final() && table.steps().any(|other| other != step);
        ensure(!over, || "ended and keeps tasks of other steps than its last".to_owned())?;
        if state.is_final() {
            return Ok(());
        }
        let index = table.of(step).ok_or("its step has no tasks")?;
        // No silent idle: what is not for a person to move has something that moves it.
        let moved = match state {
            Paused | AwaitingResolution => true,
            Cancelling => view.is_stopping(),
            _ => view.is_queued() || !index.delayed.is_empty() || !index.live.is_empty() || view.is_stopping(),
        };
        ensure(moved, || format!("{state} and nothing moves it: {:?}", run.tasks.tally))?;
        ensure(state == Cancelling || view.has_timer(), || format!("{state} without a timer"))
    }

    fn part_of(spec: &BatchSpec, object: ObjectId) -> Option<Part> {
        let is_it = |content: &Content| matches!(content, Content::Object { object: named, .. } if *named == object);
        for call in spec.calls() {
            if let Program::Wasm { module, .. } = &call.program
                && is_it(module)
            {
                return Some(Part::Module);
            }
            if call.inputs.values().any(is_it) {
                return Some(Part::Input);
            }
        }
        let mapped = match &spec.map {
            Map::Items(items) => items.iter().any(is_it),
            Map::Segments { object: named, .. } => *named == object,
            Map::Single | Map::Count(_) => false,
        };
        mapped.then_some(Part::Input)
    }

    fn give_input(spec: &mut BatchSpec, input: Bytes) {
        spec.give(INPUT_NAME, &Content::Inline(input));
    }

    fn tasks(run: &BatchRun) -> Option<&RunTasks> {
        Some(&run.tasks)
    }

    fn tasks_mut(run: &mut BatchRun) -> Option<&mut RunTasks> {
        Some(&mut run.tasks)
    }

    fn terms(spec: &BatchSpec, step: StepIndex) -> Option<TaskTerms<'_>> {
        let role = Plan::of(spec).step(step)?.role;
        Some(TaskTerms {
            engine: spec.engine(),
            retry: &spec.retry,
            timeout: spec.timeouts.task,
            idempotent: spec.idempotent,
            output: spec.output,
            // What undoes must not be done several times.
            verify: spec.verify.filter(|_| role != Role::Compensate),
            stragglers: spec.stragglers,
        })
    }

    fn call(spec: &BatchSpec, step: StepIndex) -> Option<&Call> {
        Plan::of(spec).call(spec, step)
    }

    fn step_len(spec: &BatchSpec, step: StepIndex) -> Option<u32> {
        Plan::of(spec).step(step).map(|step| step.tasks)
    }

    fn input(spec: &BatchSpec, step: StepIndex, task: TaskIndex) -> Option<TaskInput> {
        Plan::of(spec).input(spec, step, task)
    }
}

fn of<'r>(cx: &'r RunCx<'_>) -> Option<(&'r BatchSpec, &'r BatchRun)> {
    cx.record().ok()?.batch()
}

fn with_run<R>(cx: &mut RunCx<'_>, change: impl FnOnce(&mut BatchRun) -> R) -> Option<R> {
    match cx.run_mut() {
        Ok(Run::Batch(run)) => Some(change(run)),
        _ => None,
    }
}
