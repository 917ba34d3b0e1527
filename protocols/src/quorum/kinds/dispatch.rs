//! Dispatch to kinds: one `match` per question, written by the registry, and the frame's side of each.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::context::{RunCx, RunView};
use super::{Kind as KindOfWork, OwnCommand, Weight};
use crate::ids::{JobId, Millis, ObjectId, PeerId, StepIndex, TaskIndex};
use crate::job::kind::{Kind, Run, WorkSpec, for_each_kind};
use crate::job::record::{JobRecord, RunState};
use crate::job::spec::{JobSpec, TriggeredSpec};
use crate::job::transition::{Row, RunCommand, knows, markdown, targets};
use crate::quorum::author::Author;
use crate::quorum::check::{Checked, ensure};
use crate::quorum::command::Control;
use crate::quorum::duty::Duty;
use crate::quorum::event::Event;
use crate::quorum::reply::Applied;
use crate::quorum::reply::Rejection;
use crate::quorum::state::QuorumState;
use crate::quorum::triggers;
use crate::quorum::uses::Part;
use crate::task::record::RunTasks;
use crate::task::spec::Call;
use crate::task::spec::TaskInput;
use crate::task::terms::TaskTerms;

macro_rules! dispatch {
    ($($(#[$meta:meta])* $kind:ident, $get:ident, $name:literal, $spec:ty, $run:ty;)*) => {
        /// A command that only one kind has.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum KindCommand {
            $($(#[$meta])* $kind(super::$get::Command),)*
        }

        impl KindCommand {
            pub const fn kind(&self) -> Kind {
                match self {
                    $($(#[$meta])* Self::$kind(_) => Kind::$kind,)*
                }
            }
            /// As its kind's table names it.
            pub fn name(&self) -> &'static str {
                match self {
                    $($(#[$meta])* Self::$kind(command) => command.name(),)*
                }
            }
            /// The level that a quorum must have reached before this may be proposed.
            pub fn level(&self) -> u16 {
                match self {
                    $($(#[$meta])* Self::$kind(command) => command.level().max(super::$get::$kind::LEVEL),)*
                }
            }
            pub(in crate::quorum) fn author(&self, job: JobId) -> Author<'_> {
                match self {
                    $($(#[$meta])* Self::$kind(command) => command.author(job),)*
                }
            }
        }

        impl Kind {
            /// The level that a quorum must have reached before such a job may be proposed.
            pub const fn level(self) -> u16 {
                match self {
                    $($(#[$meta])* Self::$kind => super::$get::$kind::LEVEL,)*
                }
            }
            /// Which command leads where.
            pub const fn transitions(self) -> &'static [Row] {
                match self {
                    $($(#[$meta])* Self::$kind => super::$get::$kind::TRANSITIONS,)*
                }
            }
            const fn is_of_its_submitter(self) -> bool {
                match self {
                    $($(#[$meta])* Self::$kind => super::$get::$kind::IS_OF_ITS_SUBMITTER,)*
                }
            }
        }

        impl WorkSpec {
            pub fn name(&self) -> Option<&str> {
                match self {
                    $($(#[$meta])* Self::$kind(spec) => super::$get::$kind::name(spec),)*
                }
            }
            pub(in crate::quorum) fn check(&self) -> Result<(), Rejection> {
                match self {
                    $($(#[$meta])* Self::$kind(spec) => super::$get::$kind::check(spec),)*
                }
            }
            pub(in crate::quorum) fn weight(&self, spec_bytes: usize) -> Weight {
                match self {
                    $($(#[$meta])* Self::$kind(spec) => super::$get::$kind::weight(spec, spec_bytes),)*
                }
            }
            pub(in crate::quorum) fn check_triggered(&self) -> Result<(), Rejection> {
                match self {
                    $($(#[$meta])* Self::$kind(spec) => super::$get::$kind::check_triggered(spec),)*
                }
            }
            pub(in crate::quorum) fn give_input(&mut self, input: Bytes) {
                match self {
                    $($(#[$meta])* Self::$kind(spec) => super::$get::$kind::give_input(spec, input),)*
                }
            }
            pub(in crate::quorum) fn part_of(&self, object: ObjectId) -> Option<Part> {
                match self {
                    $($(#[$meta])* Self::$kind(spec) => super::$get::$kind::part_of(spec, object),)*
                }
            }
            pub(in crate::quorum) fn outline(&self) -> Self {
                match self {
                    $($(#[$meta])* Self::$kind(spec) => super::$get::$kind::outline_spec(spec).into(),)*
                }
            }
            pub(in crate::quorum) fn redacted(&self) -> Self {
                match self {
                    $($(#[$meta])* Self::$kind(spec) => super::$get::$kind::redacted_spec(spec).into(),)*
                }
            }
            fn terms(&self, step: StepIndex) -> Option<TaskTerms<'_>> {
                match self {
                    $($(#[$meta])* Self::$kind(spec) => super::$get::$kind::terms(spec, step),)*
                }
            }
            fn call(&self, step: StepIndex) -> Option<&Call> {
                match self {
                    $($(#[$meta])* Self::$kind(spec) => super::$get::$kind::call(spec, step),)*
                }
            }
            fn step_len(&self, step: StepIndex) -> Option<u32> {
                match self {
                    $($(#[$meta])* Self::$kind(spec) => super::$get::$kind::step_len(spec, step),)*
                }
            }
            fn input(&self, step: StepIndex, task: TaskIndex) -> Option<TaskInput> {
                match self {
                    $($(#[$meta])* Self::$kind(spec) => super::$get::$kind::input(spec, step, task),)*
                }
            }
        }

        impl Run {
            pub(in crate::quorum) fn hash_bytes(&self) -> usize {
                match self {
                    Self::Trigger(_) => 0,
                    $($(#[$meta])* Self::$kind(run) => super::$get::$kind::hash_bytes(run),)*
                }
            }
            pub(in crate::quorum) fn withdraw_stamps(&mut self, at: Millis) {
                match self {
                    Self::Trigger(run) => run.withdraw_stamps(at),
                    $($(#[$meta])* Self::$kind(run) => super::$get::$kind::withdraw_stamps(run, at),)*
                }
            }
            pub(in crate::quorum) fn outline(&self) -> Self {
                match self {
                    Self::Trigger(run) => Self::Trigger(Box::new(run.outline())),
                    $($(#[$meta])* Self::$kind(run) => Self::$kind(Box::new(super::$get::$kind::outline_run(run))),)*
                }
            }
        }

        impl JobRecord {
            /// What the pool keeps of the run, if it has tasks.
            pub fn tasks(&self) -> Option<&RunTasks> {
                match &self.run {
                    Run::Trigger(_) => None,
                    $($(#[$meta])* Run::$kind(run) => super::$get::$kind::tasks(run),)*
                }
            }
            pub(in crate::quorum) fn tasks_mut(&mut self) -> Option<&mut RunTasks> {
                match &mut self.run {
                    Run::Trigger(_) => None,
                    $($(#[$meta])* Run::$kind(run) => super::$get::$kind::tasks_mut(run),)*
                }
            }
            /// The earliest timer of the run itself.
            pub(in crate::quorum) fn timer(&self) -> Option<Millis> {
                match &self.run {
                    Run::Trigger(run) => run.debounced.as_ref().map(|debounced| debounced.until),
                    $($(#[$meta])* Run::$kind(_) => super::$get::$kind::timer(self),)*
                }
            }
            pub(in crate::quorum) fn has_duties(&self) -> bool {
                match &self.run {
                    Run::Trigger(_) => false,
                    $($(#[$meta])* Run::$kind(run) => super::$get::$kind::has_duties(self, run),)*
                }
            }
            pub(in crate::quorum) fn duties(&self, duties: &mut Vec<Duty>) {
                match &self.run {
                    Run::Trigger(_) => (),
                    $($(#[$meta])* Run::$kind(run) => super::$get::$kind::duties(self, run, duties),)*
                }
            }
            /// Why the job is where it is, in one sentence; `time` is quorum time, `wall` what the clocks say.
            pub fn why(&self, time: Millis, wall: Millis) -> String {
                match (&self.spec, &self.run) {
                    (JobSpec::Triggered(spec), Run::Trigger(run)) => self.why_armed(spec, run, time, wall),
                    $($(#[$meta])* (JobSpec::Once(WorkSpec::$kind(spec)), Run::$kind(run)) => {
                        super::$get::$kind::why(self, spec, run, time, wall)
                    })*
                    _ => "its record contradicts itself".to_owned(),
                }
            }
        }

        impl QuorumState {
            pub(in crate::quorum) fn new_run(&self, job: JobId, work: &WorkSpec, by: PeerId) -> Run {
                let view = RunView::new(self, job);
                match work {
                    $($(#[$meta])* WorkSpec::$kind(spec) => {
                        Run::$kind(Box::new(super::$get::$kind::new_run(view, spec, by)))
                    })*
                }
            }
            pub(in crate::quorum) fn check_run(&self, record: &JobRecord) -> Checked {
                let view = RunView::new(self, record.job);
                match (&record.spec, &record.run) {
                    $($(#[$meta])* (JobSpec::Once(WorkSpec::$kind(spec)), Run::$kind(run)) => {
                        super::$get::$kind::check_invariants(view, record, spec, run)
                    })*
                    _ => ensure(record.trigger().is_some(), || "its run is not of its kind".to_owned()),
                }
            }
            pub(in crate::quorum) fn begin_run(&mut self, job: JobId, events: &mut Vec<Event>) {
                let Some(kind) = self.kind_of_run(job) else { return };
                self.with_cx(job, events, |cx| match kind {
                    $($(#[$meta])* Kind::$kind => super::$get::$kind::begin(cx),)*
                });
            }
            pub(in crate::quorum) fn control_run(
                &mut self,
                by: PeerId,
                job: JobId,
                control: &Control,
                events: &mut Vec<Event>,
            ) -> Applied {
                let kind = self.kind_of_run(job).ok_or(Rejection::UnknownJob { job })?;
                self.with_cx(job, events, |cx| match kind {
                    $($(#[$meta])* Kind::$kind => super::$get::$kind::control(cx, by, control),)*
                })
            }
            /// Refuses a command that only one kind has, for what can be seen before it enters the log.
            pub(in crate::quorum) fn check_kind_command(
                &self,
                by: PeerId,
                job: JobId,
                command: &KindCommand,
            ) -> Result<(), Rejection> {
                let record = self.jobs.run_for(job, RunCommand::Own(command.name()))?;
                if record.spec.kind() != command.kind() {
                    return Err(record.is_not_for(RunCommand::Own(command.name())));
                }
                match command {
                    $($(#[$meta])* KindCommand::$kind(command) => {
                        super::$get::$kind::check_command(record, by, command)
                    })*
                }
            }
            /// A command that only one kind has.
            pub(in crate::quorum) fn apply_kind(
                &mut self,
                by: PeerId,
                job: JobId,
                command: &KindCommand,
                events: &mut Vec<Event>,
            ) -> Applied {
                self.check_kind_command(by, job, command)?;
                self.with_cx(job, events, |cx| match command {
                    $($(#[$meta])* KindCommand::$kind(command) => super::$get::$kind::command(cx, by, command),)*
                })
            }
            pub(in crate::quorum) fn run_elapsed(&mut self, job: JobId, events: &mut Vec<Event>) {
                let Some(kind) = self.kind_of_run(job) else { return };
                self.with_cx(job, events, |cx| match kind {
                    $($(#[$meta])* Kind::$kind => super::$get::$kind::elapsed(cx),)*
                });
            }
            /// Has the run make every move that follows from where its tasks stand, and brings the index up to date.
            pub(in crate::quorum) fn settle(&mut self, job: JobId, by: RunCommand, events: &mut Vec<Event>) {
                let Some(kind) = self.kind_of_run(job) else { return };
                self.with_cx(job, events, |cx| match kind {
                    $($(#[$meta])* Kind::$kind => super::$get::$kind::task_event(cx, by),)*
                });
            }
        }
    };
}

for_each_kind!(dispatch);

impl JobSpec {
    pub fn name(&self) -> Option<&str> {
        self.work().name()
    }

    /// Whether a repeated submit must come through the same peer to be the same job.
    pub(in crate::quorum) fn is_of_its_submitter(&self) -> bool {
        self.kind().is_of_its_submitter()
    }

    /// The same without inline bytes, as a listing shows it.
    pub(in crate::quorum) fn outline(&self) -> Self {
        self.with_work(WorkSpec::outline)
    }

    /// The outline, without arguments and environment: as those see it who may not read the specification.
    pub(in crate::quorum) fn redacted(&self) -> Self {
        self.with_work(WorkSpec::redacted)
    }

    fn with_work(&self, change: impl Fn(&WorkSpec) -> WorkSpec) -> Self {
        match self {
            Self::Once(work) => Self::Once(change(work)),
            Self::Triggered(spec) => {
                let TriggeredSpec { trigger, work } = &**spec;
                Self::Triggered(Box::new(TriggeredSpec { trigger: trigger.clone(), work: change(work) }))
            }
        }
    }
}

impl JobRecord {
    /// Which command leads where, of this job.
    pub fn transitions(&self) -> &'static [Row] {
        match &self.run {
            Run::Trigger(_) => triggers::TRANSITIONS,
            _ => self.spec.kind().transitions(),
        }
    }

    /// Where the command may lead; `None` when it is illegal where the job stands.
    pub fn targets(&self, command: RunCommand) -> Option<&'static [RunState]> {
        targets(self.transitions(), self.state, command)
    }

    /// How tasks of the present step are given out and judged.
    pub(in crate::quorum) fn terms(&self, step: StepIndex) -> Option<TaskTerms<'_>> {
        self.work_of_run()?.terms(step)
    }

    pub(in crate::quorum) fn call(&self, step: StepIndex) -> Option<&Call> {
        self.work_of_run()?.call(step)
    }

    pub(in crate::quorum) fn step_len(&self, step: StepIndex) -> Option<u32> {
        self.work_of_run()?.step_len(step)
    }

    pub(in crate::quorum) fn input(&self, step: StepIndex, task: TaskIndex) -> Option<TaskInput> {
        self.work_of_run()?.input(step, task)
    }

    fn work_of_run(&self) -> Option<&WorkSpec> {
        match &self.spec {
            JobSpec::Once(work) => Some(work),
            JobSpec::Triggered(_) => None,
        }
    }

    /// The command, if it is for jobs like this one where it stands; else why not.
    pub(in crate::quorum) fn admit(&self, command: RunCommand) -> Result<(), Rejection> {
        let (job, is_trigger) = (self.job, self.trigger().is_some());
        let name = || command.name().to_owned();
        if knows(self.transitions(), command) {
            return self.targets(command).map(drop).ok_or_else(|| self.refuses(command));
        }
        match (is_trigger, command.is_for_triggers()) {
            (true, _) if knows(self.spec.kind().transitions(), command) => {
                Err(Rejection::HasTrigger { job, command: name() })
            }
            (false, true) => Err(Rejection::NoTrigger { job, command: name() }),
            _ => Err(self.is_not_for(command)),
        }
    }

    pub(in crate::quorum) fn is_not_for(&self, command: RunCommand) -> Rejection {
        Rejection::WrongKind { kind: self.spec.kind(), command: command.name().to_owned() }
    }

    /// That the command is not allowed where the job stands.
    pub(in crate::quorum) fn refuses(&self, command: RunCommand) -> Rejection {
        Rejection::IllegalState { job: self.job, state: self.state, command: command.name().to_owned() }
    }
}

impl QuorumState {
    /// Records a job that was just made, and has its run begin.
    pub(in crate::quorum) fn open_job(&mut self, record: JobRecord, events: &mut Vec<Event>) {
        let (job, state) = (record.job, record.state);
        self.jobs.insert(job, record);
        events.push(Event::JobChanged { job, state });
        self.begin_run(job, events);
        self.reindex_job(job);
    }

    /// The kind of the run; `None` for a job that has a trigger, and for one that is not there.
    fn kind_of_run(&self, job: JobId) -> Option<Kind> {
        self.jobs.get(&job).filter(|record| record.trigger().is_none()).map(|record| record.spec.kind())
    }

    /// Refuses a run that weighs more than the quorum has room for, or its owner's share of it.
    pub(in crate::quorum) fn check_kind_room(
        &self,
        owner: PeerId,
        work: &WorkSpec,
        spec_bytes: usize,
    ) -> Result<(), Rejection> {
        let Weight { tasks, bytes, object } = work.weight(spec_bytes);
        if tasks > 0 {
            self.tasks.check_tasks(owner, tasks)?;
        }
        if let Some(hash_bytes) = object {
            // Looked at again when it is committed. Here, so that nothing is uploaded in vain.
            self.objects.check_object_room()?;
            self.objects.check_owner_room(owner)?;
            self.check_hash_room(owner, hash_bytes)?;
        }
        match bytes {
            0 => Ok(()),
            bytes => self.tasks.check_bytes(owner, bytes),
        }
    }

    /// Lends the run to its kind, and brings the index up to date afterwards.
    fn with_cx<R>(&mut self, job: JobId, events: &mut Vec<Event>, change: impl FnOnce(&mut RunCx<'_>) -> R) -> R {
        let result = change(&mut RunCx::new(self, job, events));
        self.reindex_job(job);
        result
    }
}

/// Every table of transitions as docs/jobs.md shows it, by the name of what it is for.
pub fn transition_tables() -> Vec<(&'static str, String)> {
    let kinds = Kind::ALL.iter().map(|kind| (kind.name(), markdown(kind.transitions())));
    kinds.chain([("trigger", markdown(triggers::TRANSITIONS))]).collect()
}
