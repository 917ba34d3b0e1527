//! The reader of a specification's text: each section's keys, and what they may be.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use quorate_protocols::engine::Engine;
use quorate_protocols::ids::ObjectId;
use quorate_protocols::job::batch::{BatchSpec, Map, OnFailure, Reduce};
use quorate_protocols::job::limits::{READERS_MAX, SPEC_BYTES_MAX};
use quorate_protocols::object::limits::SEGMENT_BYTES;
use quorate_protocols::task::error_class::ErrorClass;
use quorate_protocols::task::limits::*;
use quorate_protocols::task::spec::{Call, Content, OutputPlace, Program, RetryPolicy, Split, Stragglers, Verify};
use quorate_protocols::units::ByteSize;
use quorate_tables::{Entry, Table, quoted, set, shown};
use toml::de::DeValue;

use super::parameters::{PARAMETERS_MAX, Parameters};
use super::trigger::read_trigger;
use super::{Fault, Faults, Reader, Slot, Source, SpecFile, Step, awaited};

/// Settings of a job of any kind.
const COMMON: [&str; 25] = [
    "engine",
    "kind",
    "name",
    "args",
    "env",
    "inputs",
    "map",
    "reduce",
    "compensate",
    "on_failure",
    "output",
    "resources",
    "priority",
    "parallelism",
    "retry",
    "timeouts",
    "verify",
    "stragglers",
    "idempotent",
    "readers",
    "quorum",
    "trigger",
    "parameters",
    "module",
    "program",
];
const WASM_ONLY: [&str; 2] = ["fuel", "deterministic"];

const OBJECT_NEEDED: &str = "a whole object reference, as `quorate object put` prints it,";

/// Reads a specification. `file` is its name in errors; `given` are the values of `--set name=value`.
pub fn read(text: &str, file: &str, given: &[(String, String)]) -> Result<SpecFile, Faults> {
    let wrong = |faults| Faults { file: file.to_owned(), faults };
    if text.len() > SPEC_BYTES_MAX {
        let problem = format!(
            "the specification takes {}, and {} is allowed: store large inputs with `quorate object put`",
            ByteSize(text.len() as u64).rounded_up(),
            ByteSize(SPEC_BYTES_MAX as u64)
        );
        return Err(wrong(vec![Fault { line: 1, problem }]));
    }
    let (mut reader, document) = Reader::parse(text).map_err(|fault| wrong(vec![fault]))?;
    let root = reader.open("", document.get_ref(), &[&COMMON[..], &WASM_ONLY[..]].concat());
    read_parameters(&mut reader, &root, given);
    let mut open = BTreeMap::new();
    let spec = read_root(&mut reader, &root, &mut open);
    let dedicated = root
        .table(&mut reader, "quorum", &["dedicated"])
        .and_then(|quorum| quorum.flag(&mut reader, "dedicated"))
        .unwrap_or(false);
    let trigger = read_trigger(&mut reader, &root);
    // A parameter may be used in a value that a fault kept from being read: one thing at a time.
    if reader.faults.is_empty() {
        for problem in reader.strings.unknown() {
            reader.fault(0, problem);
        }
    }
    reader.faults.sort_by_key(|fault| fault.line);
    let Reader { faults, lines, .. } = reader;
    match spec {
        Some(spec) if faults.is_empty() => {
            let read = SpecFile { file: file.to_owned(), spec, trigger, open, lines, dedicated };
            // As far as it can be told before the contents are there.
            let checked = match read.triggered(&read.spec) {
                Some(triggered) => triggered.check_meaning(),
                None => read.spec.check(),
            };
            checked.map_err(|fault| read.error(vec![read.explain(fault)]))?;
            Ok(read)
        }
        _ => Err(wrong(faults)),
    }
}

fn read_parameters(reader: &mut Reader, root: &Table<'_>, given: &[(String, String)]) {
    let needed = "a table of defaults, such as { name = \"value\" }";
    let entries = root.entries(reader, "parameters", needed).unwrap_or_default();
    if entries.len() > PARAMETERS_MAX {
        let line = reader.line_of("parameters");
        reader.fault(line, format!("`parameters` has {} entries, and {PARAMETERS_MAX} are allowed", entries.len()));
        return;
    }
    let mut defaults = BTreeMap::new();
    for (name, entry) in &entries {
        match entry.value {
            DeValue::String(text) => drop(defaults.insert(name.clone(), text.to_string())),
            DeValue::Integer(_) | DeValue::Boolean(_) => drop(defaults.insert(name.clone(), shown(entry.value))),
            other => entry.refuse(reader, shown(other), "a string, a whole number, true or false"),
        }
    }
    let (parameters, faults) = Parameters::new(&defaults, given);
    for (name, problem) in faults {
        let key = format!("parameters.{name}");
        reader.fault(reader.line_of(&key), format!("`{key}` {problem}"));
    }
    reader.strings = parameters;
}

type Open = BTreeMap<Slot, Source>;

fn read_root(reader: &mut Reader, root: &Table<'_>, open: &mut Open) -> Option<BatchSpec> {
    let engine = read_engine(reader, root)?;
    let program = read_program(reader, root, engine, Step::Map, None, open);
    // Everything else is still looked at, so that all faults are told at once.
    let stand_in = Program::Command { name: "none".to_owned() };
    let call = read_call(reader, root, program.clone().unwrap_or(stand_in), Step::Map, open);
    let mut spec = BatchSpec::new(call);
    spec.name = root.text(reader, "name", "a string");
    spec.map = read_map(reader, root, open);
    let step_keys = |own: &[&'static str]| {
        let of_kind: &[&'static str] =
            if engine == Engine::Wasm { &["module", "fuel", "deterministic"] } else { &["program"] };
        [&["args", "env", "inputs"], of_kind, own].concat()
    };
    if let Some(table) = root.table(reader, "reduce", &step_keys(&["fan_in"])) {
        let program = read_program(reader, &table, engine, Step::Reduce, program.as_ref(), open);
        let call = program.map(|program| read_call(reader, &table, program, Step::Reduce, open));
        let fan_in = table.number(reader, "fan_in", 2..=FAN_IN_MAX.into()).unwrap_or(16) as u32;
        spec.reduce = call.map(|call| Box::new(Reduce { call, fan_in }));
    }
    if let Some(table) = root.table(reader, "compensate", &step_keys(&[])) {
        let program = read_program(reader, &table, engine, Step::Compensate, program.as_ref(), open);
        spec.compensate = program.map(|program| Box::new(read_call(reader, &table, program, Step::Compensate, open)));
    }
    // What a step takes over from the first it takes over with what is still to come.
    for step in [Step::Reduce, Step::Compensate] {
        let named = root.get(step.path().trim_end_matches('.')).and_then(|value| value.get_ref().get("module"));
        let there = if step == Step::Reduce { spec.reduce.is_some() } else { spec.compensate.is_some() };
        if let Some(source) = open.get(&Slot::Module(Step::Map)).filter(|_| there && named.is_none()).cloned() {
            open.insert(Slot::Module(step), source);
        }
    }
    let failure = [("fail", OnFailure::Fail), ("revert", OnFailure::Revert), ("park", OnFailure::Park)];
    set(&mut spec.on_failure, root.word(reader, "on_failure", &failure));
    let output = [("inline", OutputPlace::Inline), ("object", OutputPlace::Object)];
    set(&mut spec.output, root.word(reader, "output", &output));
    let priority = root.number(reader, "priority", PRIORITY_MIN.into()..=PRIORITY_MAX.into());
    set(&mut spec.priority, priority.map(|priority| priority as u8));
    let parallelism = root.number(reader, "parallelism", 0..=TASKS_PER_STEP_MAX.into());
    set(&mut spec.parallelism, parallelism.map(|tasks| tasks as u32));
    set(&mut spec.idempotent, root.flag(reader, "idempotent"));
    let readers = root.parsed_list(reader, "readers", READERS_MAX, "a peer id");
    set(&mut spec.readers, readers.map(BTreeSet::from_iter));
    read_resources(reader, root, &mut spec);
    read_retry(reader, root, &mut spec.retry);
    read_timeouts(reader, root, &mut spec);
    read_copies(reader, root, &mut spec);
    program.map(|_| spec)
}

/// What runs the tasks: `engine`, or `kind` with an engine's name, which is short for a batch job of that engine.
fn read_engine(reader: &mut Reader, root: &Table<'_>) -> Option<Engine> {
    let engines = [("wasm", Engine::Wasm), ("command", Engine::Command)];
    let kinds = [("batch", None), ("wasm", Some(Engine::Wasm)), ("command", Some(Engine::Command))];
    let given = (root.has("kind"), root.has("engine"));
    let kind = if given.0 { root.word(reader, "kind", &kinds)? } else { None };
    match (kind, given.1) {
        (None, true) => root.word(reader, "engine", &engines),
        (Some(engine), false) => Some(engine),
        (Some(engine), true) => {
            let line = reader.line_of("engine");
            let why = format!("`engine` has no meaning beside `kind = \"{engine}\"`, which names the engine already");
            reader.fault(line, why);
            None
        }
        (None, false) => {
            reader.fault(1, "`engine` is missing: \"wasm\" or \"command\" is needed".to_owned());
            None
        }
    }
}

/// What a step runs; one that does not say runs what the first step runs (`first`).
fn read_program(
    reader: &mut Reader,
    table: &Table<'_>,
    engine: Engine,
    step: Step,
    first: Option<&Program>,
    open: &mut Open,
) -> Option<Program> {
    let (own, foreign) = match engine {
        Engine::Wasm => ("module", &["program"][..]),
        _ => ("program", &["module", "fuel", "deterministic"][..]),
    };
    // In the other steps these are unknown keys, and have been named as such.
    for key in foreign.iter().filter(|key| step == Step::Map && table.has(key)) {
        let line = reader.line_of(key);
        reader.fault(line, format!("`{key}` has no meaning with engine {engine}, which runs a `{own}`"));
    }
    if !table.has(own) && step == Step::Map {
        let what = if engine == Engine::Wasm {
            "the file or object of a WASI module"
        } else {
            "the name of an allowed program"
        };
        reader.fault(1, format!("`{own}` is missing: engine {engine} needs {what}"));
        return None;
    }
    if engine == Engine::Command {
        let name =
            table.text(reader, "program", "the name of an allowed program").map(|name| Program::Command { name });
        return if table.has("program") { name } else { first.cloned() };
    }
    let (inherited_module, inherited_fuel, inherited_deterministic) = match first {
        Some(Program::Wasm { module, fuel, deterministic }) => (Some(module.clone()), *fuel, Some(*deterministic)),
        _ => (None, None, None),
    };
    let module = match table.get("module") {
        Some(value) => {
            let key = format!("{}module", table.path);
            let line = reader.line_at(value.span().start);
            read_content(reader, &Entry { key, line, value: value.get_ref() }, Slot::Module(step), open)
        }
        None => inherited_module,
    };
    let fuel = table.number(reader, "fuel", 1..=u64::MAX).or(inherited_fuel);
    // Equal inputs give equal outputs unless someone asks for the other mode; but that mode has to have fuel.
    let deterministic = table.flag(reader, "deterministic").or(inherited_deterministic).unwrap_or(fuel.is_some());
    module.map(|module| Program::Wasm { module, fuel, deterministic })
}

/// What a step's program is given.
fn read_call(reader: &mut Reader, table: &Table<'_>, program: Program, step: Step, open: &mut Open) -> Call {
    let mut call = Call::new(program);
    set(&mut call.args, table.texts(reader, "args"));
    set(&mut call.env, table.pairs(reader, "env"));
    let needed = "a table of contents, such as { name = \"file.txt\" }";
    for (name, entry) in table.entries(reader, "inputs", needed).unwrap_or_default() {
        if let Some(content) = read_content(reader, &entry, Slot::Input(step, name.clone()), open) {
            call.inputs.insert(name, content);
        }
    }
    call
}

/// A content: a string names a file; a table has one of `file`, `object` and `inline`.
fn read_content(reader: &mut Reader, entry: &Entry<'_>, slot: Slot, open: &mut Open) -> Option<Content> {
    let needed = "a file's name, { object = REF } or { inline = TEXT }";
    let table = match entry.value {
        DeValue::String(_) => {
            let path = entry.text(reader)?;
            return await_file(reader, entry, path, slot, open);
        }
        DeValue::Table(table) => reader.open(&format!("{}.", entry.key), table, &["file", "object", "inline"]),
        other => {
            entry.refuse(reader, shown(other), needed);
            return None;
        }
    };
    let named: Vec<_> = ["file", "object", "inline"].into_iter().filter(|key| table.has(key)).collect();
    match named[..] {
        ["file"] => {
            let path = table.text(reader, "file", "a file's name")?;
            await_file(reader, entry, path, slot, open)
        }
        ["inline"] => table.text(reader, "inline", "a string").map(|text| Content::Inline(Bytes::from(text))),
        ["object"] => {
            let object = read_object(reader, &table, "object")?;
            open.insert(slot, Source::Object(object));
            Some(awaited())
        }
        [] => {
            entry.refuse(reader, "a table without any of them", needed);
            None
        }
        _ => {
            entry.refuse(reader, format!("given as {}", named.join(" and ")), "one of them");
            None
        }
    }
}

fn await_file(reader: &mut Reader, entry: &Entry<'_>, path: String, slot: Slot, open: &mut Open) -> Option<Content> {
    if path.is_empty() {
        entry.refuse(reader, "empty", "a file's name");
        return None;
    }
    open.insert(slot, Source::File(path));
    Some(awaited())
}

fn read_object(reader: &mut Reader, table: &Table<'_>, key: &str) -> Option<ObjectId> {
    let text = table.text(reader, key, OBJECT_NEEDED)?;
    let line = reader.line_of(&format!("{}{key}", table.path));
    parse_object(reader, &format!("{}{key}", table.path), line, &text)
}

fn parse_object(reader: &mut Reader, key: &str, line: usize, text: &str) -> Option<ObjectId> {
    let object = text.parse().ok();
    if object.is_none() {
        reader.fault(line, format!("`{key}` is {}, but {OBJECT_NEEDED} is needed", quoted(text)));
    }
    object
}

fn read_map(reader: &mut Reader, root: &Table<'_>, open: &mut Open) -> Map {
    const FORMS: [&str; 4] = ["object", "items", "objects", "count"];
    let Some(map) = root.table(reader, "map", &["object", "items", "objects", "count", "bytes", "split"]) else {
        return Map::Single;
    };
    let line = reader.line_of("map");
    let named: Vec<_> = FORMS.into_iter().filter(|key| map.has(key)).collect();
    if named.len() != 1 {
        let found = if named.is_empty() { "none of them".to_owned() } else { named.join(" and ") };
        reader.fault(line, format!("`map` has {found}, but one of {} is needed", FORMS.join(", ")));
    }
    for key in ["bytes", "split"].into_iter().filter(|key| map.has(key) && !map.has("object")) {
        let line = reader.lines.get(&format!("map.{key}")).copied().unwrap_or(line);
        reader.fault(line, format!("`map.{key}` says how `map.object` is cut, and there is none"));
    }
    let needed = "a list of contents";
    match named.first() {
        Some(&"object") => {
            let object = read_object(reader, &map, "object");
            let bytes = map.size(reader, "bytes", MAP_BYTES_MIN..=MAP_BYTES_MAX).unwrap_or(SEGMENT_BYTES as u64);
            let splits = [("exact", Split::Exact), ("lines", Split::Lines), ("words", Split::Words)];
            let split = map.word(reader, "split", &splits).unwrap_or(Split::Exact);
            let Some(object) = object else { return Map::Single };
            open.insert(Slot::Segments, Source::Object(object));
            // One task, until the object's size is known.
            Map::Segments { object, size: bytes, bytes, split }
        }
        Some(&"items") => {
            let entries = map.list(reader, "items", needed).unwrap_or_default();
            let read = |(index, entry)| read_content(reader, &entry, Slot::Item(index), open).unwrap_or_else(awaited);
            Map::Items(entries.into_iter().enumerate().map(read).collect())
        }
        Some(&"objects") => {
            let entries = map.list(reader, "objects", "a list of object references").unwrap_or_default();
            for (index, entry) in entries.iter().enumerate() {
                let text = entry.text(reader);
                let object = text.and_then(|text| parse_object(reader, &entry.key, entry.line, &text));
                if let Some(object) = object {
                    open.insert(Slot::Item(index), Source::Object(object));
                }
            }
            Map::Items(entries.iter().map(|_| awaited()).collect())
        }
        Some(_) => {
            let count = map.number(reader, "count", 1..=TASKS_PER_STEP_MAX.into());
            count.map_or(Map::Single, |count| Map::Count(count as u32))
        }
        None => Map::Single,
    }
}

fn read_resources(reader: &mut Reader, root: &Table<'_>, spec: &mut BatchSpec) {
    let Some(table) = root.table(reader, "resources", &["memory", "disk", "slots", "labels"]) else { return };
    set(&mut spec.resources.capacity.memory_bytes, table.size(reader, "memory", MEMORY_BYTES_MIN..=MEMORY_BYTES_MAX));
    set(&mut spec.resources.capacity.disk_bytes, table.size(reader, "disk", 0..=DISK_BYTES_MAX));
    let slots = table.number(reader, "slots", 1..=SLOTS_PER_TASK_MAX.into());
    set(&mut spec.resources.capacity.slots, slots.map(|slots| slots as u32));
    set(&mut spec.resources.labels, table.pairs(reader, "labels"));
}

fn read_retry(reader: &mut Reader, root: &Table<'_>, retry: &mut RetryPolicy) {
    let keys = ["attempts", "base", "cap", "jitter_percent", "deadline", "on"];
    let Some(table) = root.table(reader, "retry", &keys) else { return };
    let attempts = table.number(reader, "attempts", 1..=ATTEMPTS_MAX.into());
    set(&mut retry.attempts, attempts.map(|attempts| attempts as u16));
    let waits = Duration::from_millis(1)..=TIMEOUT_MAX;
    set(&mut retry.base, table.duration(reader, "base", waits.clone()));
    match table.duration(reader, "cap", waits) {
        Some(cap) => retry.cap = cap,
        // A long first wait does not become a fault by a default that nobody wrote.
        None => retry.cap = retry.cap.max(retry.base),
    }
    let jitter = table.number(reader, "jitter_percent", 0..=100);
    set(&mut retry.jitter_percent, jitter.map(|jitter| jitter as u8));
    if let Some(deadline) = table.duration(reader, "deadline", TIMEOUT_MIN..=TIMEOUT_MAX) {
        retry.deadline = Some(deadline);
    }
    let needed = "a list of errors after which to try again";
    if let Some(entries) = table.list(reader, "on", needed) {
        retry.on.clear();
        for entry in entries {
            let Some(text) = entry.text(reader) else { continue };
            match ErrorClass::ALL.into_iter().find(|class| class.name() == text) {
                Some(class) if retry.on.contains(&class) => entry.refuse(reader, "named twice", "each error once"),
                Some(class) => retry.on.push(class),
                None => {
                    let known: Vec<_> = ErrorClass::ALL.iter().map(|class| class.name()).collect();
                    entry.refuse(reader, quoted(&text), &format!("one of {}", known.join(", ")));
                }
            }
        }
    }
}

fn read_timeouts(reader: &mut Reader, root: &Table<'_>, spec: &mut BatchSpec) {
    let Some(table) = root.table(reader, "timeouts", &["task", "step", "run"]) else { return };
    let range = TIMEOUT_MIN..=TIMEOUT_MAX;
    set(&mut spec.timeouts.task, table.duration(reader, "task", range.clone()));
    if let Some(step) = table.duration(reader, "step", range.clone()) {
        spec.timeouts.step = Some(step);
    }
    set(&mut spec.timeouts.run, table.duration(reader, "run", range));
}

fn read_copies(reader: &mut Reader, root: &Table<'_>, spec: &mut BatchSpec) {
    if let Some(table) = root.table(reader, "verify", &["copies", "agree"]) {
        let copies = table.number(reader, "copies", 2..=COPIES_MAX.into()).unwrap_or(3);
        let agree = table.number(reader, "agree", 1..=COPIES_MAX.into()).unwrap_or(copies / 2 + 1);
        spec.verify = Some(Verify { copies: copies as u8, agree: agree as u8 });
    }
    if let Some(table) = root.table(reader, "stragglers", &["slower_percent", "done_percent"]) {
        let slower = table.number(reader, "slower_percent", 110..=10_000).unwrap_or(200);
        let done = table.number(reader, "done_percent", 1..=99).unwrap_or(75);
        spec.stragglers = Some(Stragglers { slower_percent: slower as u32, done_percent: done as u8 });
    }
}
