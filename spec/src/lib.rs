//! The specification of a batch job as a person writes it: a TOML file, read into a [`JobSpec`].
//!
//! Reading has two halves, because a file may name other files and objects. [`read`] looks at the text alone and finds
//! everything that is wrong with it; [`SpecFile::build`] puts in the contents that were fetched meanwhile. What a
//! specification may say is not decided here but by [`BatchSpec::check`], which the owning quorum asks as well; this
//! module knows the words, the units and the lines. All that is wrong is reported at once, with the line, the key and
//! what is accepted.
//!
//! ```toml
//! name = "word count"
//! engine = "wasm"                      # or "command", with `program` in place of `module`
//! module = "wordcount.wat"             # a file beside this one; or { object = REF }, or { inline = TEXT }:
//!                                      # a command of WASI preview 1, up to 64 MiB without debug sections,
//!                                      # as text up to 4 MiB
//! fuel = 5_000_000_000                 # units of wasmtime's fuel per task; none: only the timeout
//! deterministic = true                 # equal inputs give equal outputs; needs fuel, and is the default with it
//! args = ["--lower"]
//! idempotent = true
//! on_failure = "fail"                  # or "revert" (with [compensate]), or "park"
//! output = "object"                    # or "inline": in the record, small outputs only
//! priority = 50                        # 1 to 100
//! parallelism = 0                      # tasks at once; 0: as many as there is room for
//! env = { LANG = "C" }
//! inputs.stop-words = "stop.txt"       # contents, as for the module; every task finds it by this name
//!
//! [map]                                # none: one task. Else one of:
//! object = "${text}"                   #   a task per `bytes` of an object, cut at `split` (exact, lines, words)
//! bytes = "16 MiB"
//! split = "words"                      #   or items = [contents], or objects = [REF], or count = N
//!
//! [reduce]                             # folds the map's outputs, `fan_in` at a time. Also: args, env, inputs, fuel
//! args = ["--sum"]
//! fan_in = 16
//!
//! [resources]
//! memory = "256 MiB"                   # of a module: with what it writes, twice, until that is delivered
//! slots = 1
//! labels = { zone = "attic" }
//!
//! [retry]
//! attempts = 4
//! base = "500ms"
//! cap = "1m"
//! on = ["timeout", "host"]
//!
//! [timeouts]
//! task = "10m"
//! run = "1day"
//!
//! [verify]
//! copies = 3
//! agree = 2
//!
//! [quorum]
//! dedicated = false                    # form a quorum for it
//!
//! [trigger]                            # when it runs, and how often: see `trigger`
//! every = "10s"
//!
//! [parameters]                         # `${name}` in any string; `--set name=value` takes the default's place
//! text = "REF"
//! ```

mod parameters;
mod read;
pub mod show;
mod trigger;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use quorate_protocols::fault::SpecFault;
use quorate_protocols::ids::{ObjectId, QuorumId};
use quorate_protocols::job::batch::{BatchSpec, Map};
use quorate_protocols::job::limits::SPEC_BYTES_MAX;
use quorate_protocols::job::spec::JobSpec;
use quorate_protocols::job::spec::TriggeredSpec;
use quorate_protocols::task::spec::{Call, Content, Program};
use quorate_protocols::trigger::spec::{TriggerSpec, When};
use quorate_protocols::units::ByteSize;
use quorate_protocols::wire;

pub use quorate_tables::{Fault, Faults};
pub use read::read;

use self::parameters::Parameters;

/// Something outside the file that its contents must be fetched from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A path as written; relative to the folder of the specification.
    File(String),
    Object(ObjectId),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.write_str(path),
            Self::Object(object) => write!(f, "object {object}"),
        }
    }
}

/// Reads specifications: their strings may name parameters.
type Reader = quorate_tables::Reader<Parameters>;

/// A specification that is sound as far as its text goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecFile {
    file: String,
    /// With a byte in place of each content that is still to come.
    spec: BatchSpec,
    /// What goes where.
    open: BTreeMap<Slot, Source>,
    /// Where each key stands.
    lines: BTreeMap<String, usize>,
    dedicated: bool,
    /// When it runs, if not once and at once.
    trigger: Option<TriggerSpec>,
}

/// A place in the specification for a content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Module(Step),
    Input(Step, String),
    Item(usize),
    /// The object that is cut into segments: only its size is missing.
    Segments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Map,
    Reduce,
    Compensate,
}

impl Step {
    /// In front of the step's keys.
    const fn path(self) -> &'static str {
        match self {
            Self::Map => "",
            Self::Reduce => "reduce.",
            Self::Compensate => "compensate.",
        }
    }
}

impl Slot {
    fn key(&self) -> String {
        match self {
            Self::Module(step) => format!("{}module", step.path()),
            Self::Input(step, name) => format!("{}inputs.{name}", step.path()),
            Self::Item(index) => format!("map.items.{index}"),
            Self::Segments => "map.object".to_owned(),
        }
    }
}

impl SpecFile {
    /// What must be fetched before the specification can be built.
    pub fn sources(&self) -> BTreeSet<&Source> {
        self.open.values().collect()
    }

    /// When the job runs, if not once and at once.
    pub fn trigger(&self) -> Option<&TriggerSpec> {
        self.trigger.as_ref()
    }

    /// The modules among the sources.
    pub fn module_sources(&self) -> BTreeSet<&Source> {
        self.open.iter().filter(|(slot, _)| matches!(slot, Slot::Module(_))).map(|(_, source)| source).collect()
    }

    fn triggered(&self, job: &BatchSpec) -> Option<TriggeredSpec> {
        Some(TriggeredSpec::new(self.trigger.clone()?, job.clone()))
    }

    /// The quorum that the job must go to, if it says: that of the jobs that it waits for.
    pub fn quorum(&self) -> Option<QuorumId> {
        match &self.trigger.as_ref()?.when {
            When::After(jobs) => jobs.first().map(|after| after.job.quorum),
            _ => None,
        }
    }

    /// Whether a quorum is to be formed for the job.
    pub fn is_dedicated(&self) -> bool {
        self.dedicated
    }

    /// The specification with its contents: of a job that runs once and at once, or each time its trigger fires.
    /// `content` gives what was fetched, or says why there is none.
    pub fn build(&self, mut content: impl FnMut(&Source) -> Result<Content, String>) -> Result<JobSpec, Faults> {
        let mut spec = self.spec.clone();
        let mut faults = Vec::new();
        for (slot, source) in &self.open {
            match content(source) {
                Ok(content) => fill(&mut spec, slot, content),
                Err(why) => {
                    let key = slot.key();
                    faults.push(Fault { line: self.line(&key), problem: format!("`{key}`: {source}: {why}") });
                }
            }
        }
        if !faults.is_empty() {
            return Err(self.error(faults));
        }
        let (spec, checked) = match self.triggered(&spec) {
            Some(triggered) => {
                let checked = triggered.check_meaning();
                (JobSpec::Triggered(Box::new(triggered)), checked)
            }
            None => {
                let checked = spec.check();
                (JobSpec::batch(spec), checked)
            }
        };
        checked.map_err(|fault| self.error(vec![self.explain(fault)]))?;
        let bytes = wire::encode(&spec).len();
        if bytes > SPEC_BYTES_MAX {
            let problem = format!(
                "the specification and what it holds inline take {}, and {} is allowed: store the large inputs with \
                 `quorate object put` and name them as objects",
                ByteSize(bytes as u64).rounded_up(),
                ByteSize(SPEC_BYTES_MAX as u64)
            );
            return Err(self.error(vec![Fault { line: 1, problem }]));
        }
        Ok(spec)
    }

    /// Checks the modules of what was built from this. `verdict` says of a content how many bytes of memory the module
    /// begins with, or why it cannot run; nothing of one whose bytes cannot be had here.
    pub fn check_modules<F: fmt::Display>(
        &self,
        spec: &JobSpec,
        verdict: impl Fn(&Content) -> Option<Result<u64, F>>,
    ) -> Result<(), Faults> {
        let Some(spec) = spec.as_batch() else { return Ok(()) };
        let (mut faults, mut checked) = (Vec::new(), Vec::new());
        for step in [Step::Map, Step::Reduce, Step::Compensate] {
            let call = match step {
                Step::Map => Some(&spec.call),
                Step::Reduce => spec.reduce.as_ref().map(|reduce| &reduce.call),
                Step::Compensate => spec.compensate.as_deref(),
            };
            let Some(Call { program: Program::Wasm { module, .. }, .. }) = call else { continue };
            // A step that says nothing else has the first one's module.
            if checked.contains(&module) {
                continue;
            }
            checked.push(module);
            let slot = Slot::Module(step);
            let (key, source) = (slot.key(), self.open.get(&slot));
            let named = source.map(|source| format!("{source}: ")).unwrap_or_default();
            match verdict(module) {
                Some(Err(fault)) => {
                    faults.push(Fault { line: self.line(&key), problem: format!("`{key}`: {named}{fault}") });
                }
                Some(Ok(bytes)) if bytes > spec.resources.capacity.memory_bytes => {
                    let key = "resources.memory";
                    let problem = format!(
                        "`{key}`: {named}the module begins with {} of memory, and the job gives it {}: raise it",
                        ByteSize(bytes).rounded_up(),
                        ByteSize(spec.resources.capacity.memory_bytes).rounded_down()
                    );
                    faults.push(Fault { line: self.line(key), problem });
                }
                Some(Ok(_)) | None => (),
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(self.error(faults)) }
    }

    fn error(&self, faults: Vec<Fault>) -> Faults {
        Faults { file: self.file.clone(), faults }
    }

    /// The line of a key, or of the nearest table around it that the file has; 1 when it has none.
    fn line(&self, key: &str) -> usize {
        let mut path = key;
        loop {
            if let Some(line) = self.lines.get(path) {
                return *line;
            }
            match path.rsplit_once('.') {
                Some((table, _)) => path = table,
                None => return 1,
            }
        }
    }

    fn explain(&self, SpecFault { key, problem }: SpecFault) -> Fault {
        Fault { line: self.line(&key), problem: format!("`{key}`: {problem}") }
    }
}

/// The call of a step; a slot is made only for steps that are there.
fn call_of(spec: &mut BatchSpec, step: Step) -> Option<&mut Call> {
    match step {
        Step::Map => Some(&mut spec.call),
        Step::Reduce => spec.reduce.as_mut().map(|reduce| &mut reduce.call),
        Step::Compensate => spec.compensate.as_deref_mut(),
    }
}

fn fill(spec: &mut BatchSpec, slot: &Slot, content: Content) {
    match slot {
        Slot::Module(step) => {
            if let Some(Call { program: Program::Wasm { module, .. }, .. }) = call_of(spec, *step) {
                *module = content;
            }
        }
        Slot::Input(step, name) => {
            if let Some(call) = call_of(spec, *step) {
                call.inputs.insert(name.clone(), content);
            }
        }
        Slot::Item(index) => {
            if let Map::Items(items) = &mut spec.map {
                items[*index] = content;
            }
        }
        Slot::Segments => {
            if let Map::Segments { size, .. } = &mut spec.map {
                *size = content.size();
            }
        }
    }
}

/// Stands for a content that is still to come; not empty, so that only what is really empty is called so.
fn awaited() -> Content {
    Content::Inline(Bytes::from_static(b"?"))
}

#[cfg(test)]
mod tests;
