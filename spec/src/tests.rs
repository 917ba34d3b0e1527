//! Tests of what a file may say, and of the errors when it says something else.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use quorate_protocols::capacity::Capacity;
use quorate_protocols::engine::Engine;
use quorate_protocols::ids::{JobId, ManifestHash, Millis, PeerId, QuorumId};
use quorate_protocols::job::WorkSpec;
use quorate_protocols::job::batch::OnFailure;
use quorate_protocols::task::error_class::ErrorClass;
use quorate_protocols::task::spec::{OutputPlace, Split, Stragglers, Verify};
use quorate_protocols::trigger::spec::{
    After, AfterJob, Bounds, EventSpec, Missed, MissedPolicy, Overlap, Source as Watched, When,
};

use super::*;

/// A sound file of few lines, for faults to be added to.
const SMALL: &str = "kind = \"wasm\"\nmodule = \"a.wat\"\n";

fn object(n: u8) -> ObjectId {
    ObjectId { quorum: QuorumId([1; 16]), manifest: ManifestHash([n; 32]) }
}

fn given(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

/// Every file is its own name, every object is 48 MiB.
fn content(source: &Source) -> Result<Content, String> {
    match source {
        Source::File(path) => Ok(Content::Inline(Bytes::from(path.clone()))),
        Source::Object(object) => Ok(Content::Object { object: *object, size: 48 << 20 }),
    }
}

fn built(text: &str, set: &[(&str, &str)]) -> BatchSpec {
    let read = read(text, "spec.toml", &given(set)).unwrap_or_else(|error| panic!("{error}"));
    computed(&read)
}

fn computed(read: &SpecFile) -> BatchSpec {
    match read.build(content).unwrap_or_else(|error| panic!("{error}")) {
        JobSpec::Once(WorkSpec::Batch(spec)) => *spec,
        other => panic!("{other:?} does not run at once"),
    }
}

fn refused(text: &str) -> String {
    match read(text, "spec.toml", &[]) {
        Err(error) => error.to_string(),
        Ok(read) => panic!("{text}\nis read as {read:?}"),
    }
}

fn module(call: &Call) -> &Content {
    match &call.program {
        Program::Wasm { module, .. } => module,
        Program::Command { name } => panic!("a module, not {name}"),
    }
}

#[test]
fn a_small_file_has_every_default() {
    let module = Content::Inline(Bytes::from_static(b"a.wat"));
    let program = Program::Wasm { module, fuel: None, deterministic: false };
    assert_eq!(built(SMALL, &[]), BatchSpec::new(Call::new(program)));
    // With fuel it is deterministic, for nothing else keeps it from being so.
    let fuelled = built(&format!("{SMALL}fuel = 9\n"), &[]).call.program;
    assert!(matches!(fuelled, Program::Wasm { fuel: Some(9), deterministic: true, .. }));
    let command = built("kind = \"command\"\nprogram = \"ffmpeg\"", &[]);
    assert_eq!(command, BatchSpec::new(Call::new(Program::Command { name: "ffmpeg".to_owned() })));
}

#[test]
fn every_setting_is_read() {
    let (reference, reader) = (object(7), PeerId([5; 32]));
    let text = format!(
        r#"
name = "all of it"
kind = "wasm"
module = {{ object = "{reference}" }}
args = ["--top", "${{top}}"]
fuel = 1_000_000
deterministic = false
idempotent = true
readers = ["{reader}"]
on_failure = "revert"
output = "inline"
priority = "${{priority}}"
parallelism = 8
env = {{ LANG = "C", PRICE = "5 $${{dollar}}" }}
inputs = {{ stop-words = "stop.txt", text = {{ inline = "a b" }}, "more.bin" = {{ file = "more.bin" }} }}

[map]
object = "{reference}"
bytes = "1.5 MiB"
split = "words"

[reduce]
args = ["--sum"]
fan_in = 4
fuel = 5

[compensate]
module = "undo.wat"

[resources]
memory = "256MiB"
disk = "1 GiB"
slots = 2
labels = {{ zone = "attic" }}

[retry]
attempts = 2
base = "500ms"
cap = "2m"
jitter_percent = 0
deadline = "1h"
on = ["exit", "trap"]

[timeouts]
task = "30s"
step = "1h"
run = "2h"

[stragglers]
slower_percent = 300
done_percent = 50

[quorum]
dedicated = true

[parameters]
top = 10
priority = 1
"#
    );
    let read = read(&text, "spec.toml", &given(&[("priority", "99")])).unwrap_or_else(|error| panic!("{error}"));
    assert!(read.is_dedicated());
    let files = ["more.bin", "stop.txt", "undo.wat"].map(|path| Source::File(path.to_owned()));
    let wanted: Vec<_> = files.iter().cloned().chain([Source::Object(reference)]).collect();
    assert_eq!(read.sources().into_iter().cloned().collect::<Vec<_>>(), wanted);

    let spec = computed(&read);
    assert_eq!(spec.name.as_deref(), Some("all of it"));
    assert_eq!(spec.call.args, ["--top", "10"]);
    let stored = Content::Object { object: reference, size: 48 << 20 };
    let program = |module, fuel| Program::Wasm { module, fuel, deterministic: false };
    assert_eq!(spec.call.program, program(stored.clone(), Some(1_000_000)));
    assert_eq!(spec.call.env["PRICE"], "5 ${dollar}");
    assert_eq!(spec.call.inputs["stop-words"], Content::Inline(Bytes::from_static(b"stop.txt")));
    assert_eq!(spec.call.inputs["text"], Content::Inline(Bytes::from_static(b"a b")));
    assert_eq!((spec.on_failure, spec.output), (OnFailure::Revert, OutputPlace::Inline));
    assert_eq!((spec.priority, spec.parallelism, spec.idempotent), (99, 8, true));
    assert_eq!(spec.readers, BTreeSet::from([reader]));
    let bytes = 3 << 19;
    assert_eq!(spec.map, Map::Segments { object: reference, size: 48 << 20, bytes, split: Split::Words });
    let reduce = spec.reduce.as_ref().expect("there is a reduce step");
    // What a step does not say it has from the first, but for arguments, environment and inputs.
    assert_eq!((reduce.fan_in, &reduce.call.program), (4, &program(stored, Some(5))));
    assert_eq!((reduce.call.args.len(), reduce.call.env.len(), reduce.call.inputs.len()), (1, 0, 0));
    let compensate = spec.compensate.as_ref().expect("there is a compensation");
    assert_eq!(module(compensate), &Content::Inline(Bytes::from_static(b"undo.wat")));
    assert_eq!(spec.resources.capacity, Capacity { memory_bytes: 256 << 20, disk_bytes: 1 << 30, slots: 2 });
    assert_eq!(spec.resources.labels["zone"], "attic");
    assert_eq!((spec.retry.attempts, spec.retry.jitter_percent), (2, 0));
    assert_eq!((spec.retry.base, spec.retry.cap), (Duration::from_millis(500), Duration::from_secs(120)));
    assert_eq!(spec.retry.deadline, Some(Duration::from_secs(3600)));
    assert_eq!(spec.retry.on, [ErrorClass::Exit, ErrorClass::Trap]);
    assert_eq!((spec.timeouts.task, spec.timeouts.run), (Duration::from_secs(30), Duration::from_secs(7200)));
    assert_eq!(spec.timeouts.step, Some(Duration::from_secs(3600)));
    assert_eq!(spec.stragglers, Some(Stragglers { slower_percent: 300, done_percent: 50 }));
}

/// The file in the module's opening comment is one that can be read.
#[test]
fn the_example_of_the_essay_is_sound() {
    let lines = include_str!("lib.rs").lines().map(|line| line.trim_start_matches("//!"));
    let example = lines.skip_while(|line| *line != " ```toml").skip(1).take_while(|line| *line != " ```");
    let example: String = example.map(|line| format!("{line}\n")).collect();
    let text = object(1).to_string();
    let read = read(&example, "spec.toml", &given(&[("text", &text)])).unwrap_or_else(|error| panic!("{error}"));
    let built = read.build(content).unwrap_or_else(|error| panic!("{error}"));
    let spec = built.as_batch().expect("it computes");
    assert!(matches!(built, JobSpec::Triggered(_)));
    assert!(spec.name.as_deref() == Some("word count") && spec.reduce.is_some() && spec.verify.is_some());
}

#[test]
fn the_other_forms_of_a_map_and_of_copies() {
    assert_eq!(built(&format!("{SMALL}map.count = 10"), &[]).map, Map::Count(10));
    let items = built(&format!("{SMALL}map.items = [\"x\", {{ inline = \"y\" }}]"), &[]).map;
    let text = |text| Content::Inline(Bytes::from_static(text));
    assert_eq!(items, Map::Items(vec![text(b"x"), text(b"y")]));
    let objects = built(&format!("{SMALL}map.objects = [\"{}\", \"{}\"]", object(1), object(2)), &[]).map;
    let stored = |n| Content::Object { object: object(n), size: 48 << 20 };
    assert_eq!(objects, Map::Items(vec![stored(1), stored(2)]));
    let verify = built(&format!("{SMALL}fuel = 1_000_000\ndeterministic = true\nverify.copies = 5"), &[]).verify;
    assert_eq!(verify, Some(Verify { copies: 5, agree: 3 }));
    assert_eq!(built("kind = \"command\"\nprogram = \"x\"\n[map]\ncount = 2\n[reduce]", &[]).engine(), Engine::Command);
}

#[test]
fn parameters_are_put_in_and_defaults_may_use_each_other() {
    let text =
        format!("{SMALL}args = [\"${{b}}\", \"$${{b}}\", \"$5\"]\n[parameters]\na = \"x\"\nb = \"${{a}}-${{a}}\"");
    assert_eq!(built(&text, &[]).call.args, ["x-x", "${b}", "$5"]);
    assert_eq!(built(&text, &[("a", "1")]).call.args[0], "1-1");
    // What comes from the command line is taken as it is.
    assert_eq!(built(&text, &[("b", "${a}")]).call.args[0], "${a}");
    // A parameter without a default must be given.
    assert_eq!(built(&format!("{SMALL}name = \"${{who}}\""), &[("who", "me")]).name.as_deref(), Some("me"));
    assert!(
        built(&format!("{SMALL}idempotent = \"${{i}}\"\non_failure = \"${{f}}\""), &[("i", "true"), ("f", "park")])
            .idempotent
    );
}

/// Goal: what is wrong, where, and what is right, in a person's words. One fault each; line 3 is the first after
/// `SMALL`.
#[test]
fn a_fault_names_the_line_the_key_and_what_is_accepted() {
    let reference = object(1);
    let kinds = "engine wasm, which runs a `module`";
    let cases: Vec<(String, String)> = vec![
        // Keys.
        ("priorty = 5".into(), "spec.toml:3: `priorty` is not a setting; did you mean `priority`?".into()),
        ("retry.atempts = 5".into(), "spec.toml:3: `retry.atempts` is not a setting; did you mean `retry.attempts`?".into()),
        (
            "verify.quux = 5".into(),
            "spec.toml:3: `verify.quux` is not a setting; accepted here: copies, agree".into(),
        ),
        (
            "\n[reduce]\nprogram = \"x\"\n[map]\ncount = 2".into(),
            "spec.toml:5: `reduce.program` is not a setting; accepted here: args, env, inputs, module, fuel, \
             deterministic, fan_in"
                .into(),
        ),
        ("program = \"ls\"".into(), format!("spec.toml:3: `program` has no meaning with {kinds}")),
        // Units and numbers.
        (
            "timeouts.task = \"10\"".into(),
            "spec.toml:3: `timeouts.task` is \"10\", but a time from 10ms to 30days with its unit, such as \"500ms\" or \
             \"10m\" is needed"
                .into(),
        ),
        (
            "timeouts.task = 10".into(),
            "spec.toml:3: `timeouts.task` is 10, but a time from 10ms to 30days with its unit, such as \"500ms\" or \
             \"10m\" is needed"
                .into(),
        ),
        (
            "resources.memory = \"256 MB\"".into(),
            "spec.toml:3: `resources.memory` is \"256 MB\", but a size from 1 MiB to 1 TiB in B, KiB, MiB, GiB or TiB, \
             such as \"256 MiB\" is needed"
                .into(),
        ),
        (
            "resources.memory = \"99999999999999999999 GiB\"".into(),
            "spec.toml:3: `resources.memory` is \"99999999999999999999 GiB\", but a size from 1 MiB to 1 TiB in B, KiB, \
             MiB, GiB or TiB, such as \"256 MiB\" is needed"
                .into(),
        ),
        (
            "priority = 123456789012345678901234567890".into(),
            "spec.toml:3: `priority` is 123456789012345678901234567890, but a whole number from 1 to 100 is needed".into(),
        ),
        ("priority = -1".into(), "spec.toml:3: `priority` is -1, but a whole number from 1 to 100 is needed".into()),
        ("priority = 1e3".into(), "spec.toml:3: `priority` is 1e3, but a whole number from 1 to 100 is needed".into()),
        ("priority = \"5\"".into(), "spec.toml:3: `priority` is \"5\", but a whole number from 1 to 100 is needed".into()),
        ("idempotent = \"yes\"".into(), "spec.toml:3: `idempotent` is \"yes\", but true or false is needed".into()),
        (
            "on_failure = \"retry\"".into(),
            "spec.toml:3: `on_failure` is \"retry\", but \"fail\", \"revert\" or \"park\" is needed".into(),
        ),
        (
            "retry.on = [\"exit\", \"explode\"]".into(),
            "spec.toml:3: `retry.on.1` is \"explode\", but one of exit, trap, fuel, output, program, memory, timeout, \
             input, host, refused, lost is needed"
                .into(),
        ),
        (
            "retry.on = [\"exit\", \"exit\"]".into(),
            "spec.toml:3: `retry.on.1` is named twice, but each error once is needed".into(),
        ),
        // Shapes.
        ("args = \"x\"".into(), "spec.toml:3: `args` is \"x\", but a list of strings is needed".into()),
        ("args = [1]".into(), "spec.toml:3: `args.0` is 1, but a string is needed".into()),
        ("retry = 3".into(), {
            "spec.toml:3: `retry` is 3, but a table with attempts, base, cap, jitter_percent, deadline, on is needed".into()
        }),
        ("env = { A = 1979-05-27 }".into(), "spec.toml:3: `env.A` is 1979-05-27, but a string is needed".into()),
        (
            "inputs.a = { file = \"x\", inline = \"y\" }".into(),
            "spec.toml:3: `inputs.a` is given as file and inline, but one of them is needed".into(),
        ),
        (
            "inputs.a = {}".into(),
            "spec.toml:3: `inputs.a` is a table without any of them, but a file's name, { object = REF } or { inline = \
             TEXT } is needed"
                .into(),
        ),
        (
            "inputs.a = { object = \"abc\" }".into(),
            "spec.toml:3: `inputs.a.object` is \"abc\", but a whole object reference, as `quorate object put` prints it, \
             is needed"
                .into(),
        ),
        (
            "inputs.\"../a\" = \"a\"".into(),
            "spec.toml:3: `inputs.../a`: an input's name has 1 to 64 letters, digits, '-', '_' and '.', and no '.' in front"
                .into(),
        ),
        // Settings that do not go together.
        (
            format!("map = {{ object = \"{reference}\", count = 3 }}"),
            "spec.toml:3: `map` has object and count, but one of object, items, objects, count is needed".into(),
        ),
        ("map = {}".into(), {
            "spec.toml:3: `map` has none of them, but one of object, items, objects, count is needed".into()
        }),
        (
            "map = { count = 3, split = \"words\" }".into(),
            "spec.toml:3: `map.split` says how `map.object` is cut, and there is none".into(),
        ),
        ("on_failure = \"revert\"".into(), "spec.toml:3: `on_failure`: to revert, say how in [compensate]".into()),
        ("[reduce]".into(), "spec.toml:3: `reduce`: there is nothing to fold: the job has a single task".into()),
        (
            "idempotent = false\n[verify]".into(),
            "spec.toml:4: `verify`: a task that is not idempotent must not run twice".into(),
        ),
        ("verify = { copies = 4, agree = 2 }".into(), "spec.toml:3: `verify.agree`: 2 is not between 3 and 4".into()),
        ("[verify]\n[stragglers]".into(), "spec.toml:4: `stragglers`: verified tasks run in copies already".into()),
        (
            "deterministic = false\n[verify]".into(),
            "spec.toml:3: `deterministic`: copies can agree only when equal inputs give equal outputs: set fuel and \
             deterministic = true"
                .into(),
        ),
        (
            "deterministic = true".into(),
            "spec.toml:3: `deterministic`: its end must be the same everywhere, and a deadline is not: set fuel too".into(),
        ),
        ("retry = { base = \"2m\", cap = \"1m\" }".into(), {
            "spec.toml:3: `retry.cap`: 60s is not between 120s and 2592000s".into()
        }),
        // Parameters.
        (
            "name = \"${who}\"".into(),
            "spec.toml:3: `name` needs the parameter `who`, which has no value: give it with `--set who=VALUE`".into(),
        ),
        (
            "name = \"${whp}\"\nparameters.who = \"me\"".into(),
            "spec.toml:3: `name` needs the parameter `whp`, which has no value: give it with `--set whp=VALUE`; did you \
             mean `${who}`?"
                .into(),
        ),
        (
            "name = \"${who\"".into(),
            "spec.toml:3: `name` has a `${` without its `}`; write `$${` for the characters themselves".into(),
        ),
        (
            "[parameters]\na = \"${b}\"\nb = \"${c}\"\nc = \"-${b}\"".into(),
            "spec.toml:4: `parameters.a` leads in a circle: b -> c -> b\nspec.toml:5: `parameters.b` leads in a circle: \
             b -> c -> b\nspec.toml:6: `parameters.c` leads in a circle: c -> b -> c"
                .into(),
        ),
        (
            "priority = \"${p}\"\nparameters.p = \"high\"".into(),
            "spec.toml:3: `priority` is \"high\", but a whole number from 1 to 100 is needed".into(),
        ),
    ];
    for (line, expected) in cases {
        assert_eq!(refused(&format!("{SMALL}{line}\n")), expected, "{line}");
    }
}

/// Goal: both axes can be said, and the short form says the same. The engine is never said twice.
#[test]
fn a_kind_with_the_name_of_an_engine_is_a_batch_of_that_engine() {
    let module = "module = { inline = '(module)' }\n";
    let long = built(&format!("kind = \"batch\"\nengine = \"wasm\"\n{module}"), &[]);
    assert_eq!(long, built(&format!("kind = \"wasm\"\n{module}"), &[]));
    assert_eq!(long, built(&format!("engine = \"wasm\"\n{module}"), &[]));
    let twice = refused(&format!("kind = \"wasm\"\nengine = \"command\"\n{module}"));
    assert!(twice.contains("which names the engine already"), "{twice}");
    assert!(refused("kind = \"batch\"\n").contains("`engine` is missing"));
}

#[test]
fn what_is_missing_is_said_as_well() {
    assert_eq!(refused(""), "spec.toml:1: `engine` is missing: \"wasm\" or \"command\" is needed");
    assert_eq!(
        refused("kind = \"store\""),
        "spec.toml:1: `kind` is \"store\", but \"batch\", \"wasm\" or \"command\" is needed"
    );
    let module = "spec.toml:1: `module` is missing: engine wasm needs the file or object of a WASI module";
    assert_eq!(refused("kind = \"wasm\""), module);
    let program = "spec.toml:1: `program` is missing: engine command needs the name of an allowed program";
    assert_eq!(refused("kind = \"command\""), program);
    let name = "spec.toml:2: `program`: \"/bin/ls\" is not the name of an allowed program: 1 to 64 letters, digits, '-', '_' and '.'";
    assert_eq!(refused("kind = \"command\"\nprogram = \"/bin/ls\""), name);
}

#[test]
fn every_fault_is_told_at_once_in_the_order_of_the_lines() {
    let faults = refused("kind = \"wasm\"\nmodul = \"a\"\npriority = 0\n[retry]\nbase = \"soon\"\n");
    let lines: Vec<_> = faults.lines().map(|line| line.split(": ").next().unwrap_or_default()).collect();
    assert_eq!(lines, ["spec.toml:1", "spec.toml:2", "spec.toml:3", "spec.toml:5"], "{faults}");
    let many: String = (0..1_000).map(|index| format!("x{index} = 1\n")).collect();
    assert_eq!(refused(&many).lines().count(), 20);
}

#[test]
fn text_that_is_not_toml_is_refused_with_its_line() {
    let refusal = refused("kind = \"wasm\"\nmodule = \n");
    assert!(refusal.starts_with("spec.toml:2: "), "{refusal}");
    let twice = refused(&format!("{SMALL}kind = \"wasm\"\n"));
    assert!(twice.starts_with("spec.toml:3: duplicate key"), "{twice}");
    // As deep as a file of the allowed size can go.
    refused(&format!("a = {}", "[".repeat(100_000)));
    refused(&format!("a = {}", "{ a = ".repeat(40_000)));
}

#[test]
fn a_file_and_what_its_parameters_make_of_it_are_bounded() {
    let refusal = refused(&format!("{SMALL}#{}", "x".repeat(300 * 1024)));
    assert!(refusal.contains("and 256 KiB is allowed"), "{refusal}");
    let doubling: String = (1..60).map(|n| format!("p{n} = \"${{p{}}}${{p{}}}\"\n", n - 1, n - 1)).collect();
    let refusal = refused(&format!("{SMALL}name = \"${{p59}}\"\n[parameters]\np0 = \"0123456789\"\n{doubling}"));
    assert!(refusal.contains("grows beyond 262144 bytes with its parameters"), "{refusal}");
    // Within the limit as text, beyond it with what is put in for its files.
    let read = read(SMALL, "spec.toml", &[]).expect("it is sound");
    let refusal = read.build(|_| Ok(Content::Inline(Bytes::from(vec![0; 300 * 1024])))).unwrap_err().to_string();
    assert!(refusal.contains("name them as objects"), "{refusal}");
}

#[test]
fn a_parameter_that_nobody_knows_is_refused() {
    let refused = |text: &str, set: &[(&str, &str)]| read(text, "spec.toml", &given(set)).unwrap_err().to_string();
    assert_eq!(refused(SMALL, &[("a", "1")]), "--set a: the specification has no parameters");
    let text = format!("{SMALL}[parameters]\ntext = \"x\"\nspare = 1");
    assert_eq!(refused(&text, &[("texd", "1")]), "--set texd: there is no such parameter; did you mean `text`?");
    assert_eq!(refused(&text, &[("quorum", "1")]), "--set quorum: there is no such parameter, only spare, text");
    // Declared and not used is a fault of nobody's.
    assert!(read(&text, "spec.toml", &given(&[("spare", "2")])).is_ok());
}

#[test]
fn a_content_that_cannot_be_had_is_named_with_its_line_and_so_is_an_object_of_the_wrong_size() {
    let read = read(&format!("{SMALL}inputs.a = \"b\"\n[map]\nobject = \"{}\"", object(1)), "spec.toml", &[]);
    let read = read.expect("it is sound");
    let refusal = read.build(|source| match source {
        Source::File(path) if path == "b" => Err("no such file".to_owned()),
        other => content(other),
    });
    assert_eq!(refusal.unwrap_err().to_string(), "spec.toml:3: `inputs.a`: b: no such file");
    let empty = read.build(|source| match source {
        Source::Object(object) => Ok(Content::Object { object: *object, size: 0 }),
        other => content(other),
    });
    assert_eq!(empty.unwrap_err().to_string(), "spec.toml:4: `map`: 0 is not between 1 and 65536");
}

proptest! {
    /// Goal: no text panics, and what is read is sound. Method: lines drawn from settings, right and wrong.
    #[test]
    fn any_mixture_of_lines_is_read_or_refused(lines in proptest::collection::vec((0usize..18, "[\\PC]{0,12}", 0u64..300), 0..12)) {
        let mut text = SMALL.to_owned();
        for (what, word, number) in lines {
            text += &match what {
                0 => format!("priority = {number}\n"),
                1 => format!("name = {word:?}\n"),
                2 => format!("args = [{word:?}, {number}]\n"),
                3 => format!("[retry]\nattempts = {number}\n"),
                4 => format!("[map]\ncount = {number}\n"),
                5 => format!("[timeouts]\ntask = \"{number}s\"\n"),
                6 => format!("[verify]\ncopies = {number}\n"),
                7 => "[reduce]\n".to_owned(),
                8 => format!("[parameters]\na = {word:?}\n"),
                9 => format!("[inputs]\n{word:?} = {word:?}\n"),
                10 => "on_failure = \"revert\"\n[compensate]\n".to_owned(),
                11 => format!("[resources]\nmemory = \"{number}{word}\"\n"),
                12 => format!("env = {{ {word:?} = \"${{a}}\" }}\n"),
                13 => "[stragglers]\n".to_owned(),
                14 => format!("{word}\n"),
                15 => format!("{word} = {number}\n"),
                16 => "deterministic = false\n".to_owned(),
                _ => "idempotent = false\n".to_owned(),
            };
        }
        match read(&text, "spec.toml", &[]) {
            Ok(read) => match read.build(content) {
                Ok(spec) => prop_assert_eq!(spec.as_batch().map(BatchSpec::check), Some(Ok(()))),
                Err(error) => prop_assert!(!error.faults.is_empty()),
            },
            Err(error) => prop_assert!(!error.faults.is_empty() && !error.to_string().is_empty()),
        }
    }
}

// ---- triggers ----

fn trigger(section: &str) -> TriggerSpec {
    let text = format!("{SMALL}[trigger]\n{section}\n[parameters]\nzone = \"UTC\"\n");
    let read = read(&text, "spec.toml", &given(&[("zone", "Europe/Berlin")]));
    read.unwrap_or_else(|error| panic!("{error}")).trigger().expect("a trigger").clone()
}

fn trigger_refused(section: &str) -> String {
    refused(&format!("{SMALL}[trigger]\n{section}"))
}

#[test]
fn every_form_of_a_trigger_is_read() {
    let morning = Millis(1_798_790_400_000);
    assert_eq!(trigger("at = \"2027-01-01T09:00:00+01:00\"").when, When::At(morning));
    assert_eq!(trigger("at = 2027-01-01T09:00:00+01:00").when, When::At(morning), "as TOML has it");
    let second = Duration::from_secs(1);
    let every = trigger("every = \"10s\"\nstart = 2027-01-01T08:00:00Z\njitter = \"1s\"\ncount = 5");
    let bounds = Bounds { start: Some(morning), until: None, jitter: second, count: Some(5) };
    assert_eq!(every.when, When::Every { period: 10 * second, bounds });
    let cron = trigger("cron = [\"0 9 * * MON-FRI\", \"@daily\"]\ntimezone = \"${zone}\"");
    let lines = vec!["0 9 * * MON-FRI".to_owned(), "@daily".to_owned()];
    assert_eq!(cron.when, When::Cron { lines, timezone: "Europe/Berlin".to_owned(), bounds: Bounds::NONE });
    assert!(matches!(trigger("cron = \"* * * * *\"").when, When::Cron { timezone, .. } if timezone == "UTC"));
    let event =
        trigger("event = { name = \"door\", where = \"data.x > 1\", debounce = \"2s\", dedupe_window = \"1m\" }");
    let wanted = EventSpec {
        filter: Some("data.x > 1".to_owned()),
        debounce: 2 * second,
        dedupe_window: 60 * second,
        ..EventSpec::new("door")
    };
    assert_eq!(event.when, When::Event(wanted));
    let condition = trigger(
        "condition = { source = { http = \"https://example.org/t\" }, when = \"value.t > 30\", reset = \"value.t < 25\", \
         every = \"10s\", hold_for = \"1m\", hysteresis = \"5s\", verify = { copies = 3 } }",
    );
    let When::Condition(condition) = condition.when else { panic!("{condition:?}") };
    assert_eq!(condition.source, Watched::Http { url: "https://example.org/t".to_owned() });
    assert_eq!((condition.hold_for, condition.hysteresis, condition.every), (60 * second, 5 * second, 10 * second));
    assert_eq!(condition.verify, Some(Verify { copies: 3, agree: 2 }));
    let [first, second] = [1, 2].map(|local| JobId { quorum: QuorumId([1; 16]), local: [local; 16] });
    let after = trigger(&format!("after = [\"{first}\", {{ job = \"{second}\", on = \"any\" }}]"));
    let jobs = vec![AfterJob { job: first, on: After::Success }, AfterJob { job: second, on: After::Any }];
    assert_eq!((after.when, after.overlap), (When::After(jobs), Overlap::Queue(16)));
}

#[test]
fn policies_have_defaults_and_numbers() {
    let plain = trigger("every = \"1s\"");
    assert_eq!((plain.overlap, plain.missed.policy), (Overlap::Forbid, MissedPolicy::Once));
    let chosen = trigger("every = \"1s\"\noverlap = \"queue(7)\"\nmissed = \"catch_up(9)\"\ndeadline = \"1h\"");
    let deadline = Some(Duration::from_secs(3_600));
    assert_eq!(
        (chosen.overlap, chosen.missed),
        (Overlap::Queue(7), Missed { policy: MissedPolicy::CatchUp(9), deadline })
    );
}

#[test]
fn every_fault_of_a_trigger_names_its_line_its_key_and_what_is_accepted() {
    for (section, expected) in [
        ("overlap = \"allow\"", "spec.toml:3: `trigger` has none of them, but one of at, every, cron"),
        ("at = 2027-01-01T00:00:00Z\nevery = \"1s\"", "spec.toml:3: `trigger` has at and every, but one of"),
        ("every = \"0s\"", "spec.toml:4: `trigger.every` is \"0s\", but a time from 100ms to"),
        (
            "every = \"1month\"",
            "spec.toml:4: `trigger.every` is \"1month\": \"month\" has no fixed length: write days, such as \"30days\", or use \
             `cron` (\"@monthly\", \"0 9 1 * *\"), but a time from 100ms to 366days with its unit",
        ),
        ("every = \"1M\"", "spec.toml:4: `trigger.every` is \"1M\": \"M\" has no fixed length"),
        ("every = \"1day\"\njitter = \"1y\"", "spec.toml:5: `trigger.jitter` is \"1y\": \"y\" has no fixed length"),
        ("every = \"1s\"\ndeadline = \"1year\"", "spec.toml:5: `trigger.deadline` is \"1year\": \"year\" has no fixed"),
        ("every = \"1ns\"", "spec.toml:4: `trigger.every` is \"1ns\", but a time from 100ms to"),
        ("at = \"2027-02-30T00:00:00Z\"", "spec.toml:4: `trigger.at` is \"2027-02-30T00:00:00Z\": "),
        ("at = 2027-01-01T09:00:00", "spec.toml:4: `trigger.at` is \"2027-01-01T09:00:00\": "),
        ("at = 2027-01-01T09:00:00Z\njitter = \"1s\"", "spec.toml:5: `trigger.jitter` has no meaning for `trigger.at`"),
        ("every = \"1s\"\ntimezone = \"UTC\"", "spec.toml:5: `trigger.timezone` has no meaning for `trigger.every`"),
        ("cron = \"0 9 * * *\"\ntimezone = \"Mars/Base\"", "spec.toml:5: `trigger.timezone`: there is no time zone"),
        (
            "cron = [\n\"0 9 * * *\",\n\"0 9 1 1 * * *\"]",
            "spec.toml:6: `trigger.cron.1`: \"0 9 1 1 * * *\" has 7 fields",
        ),
        ("cron = \"0 9 31 2 *\"", "spec.toml:4: `trigger.cron.0`: \"0 9 31 2 *\" names a time that never comes"),
        ("event = { where = \"true\" }", "spec.toml:4: `trigger.event.name` is missing: the name of an event"),
        ("event = { name = \"a\", where = \"x > 1\" }", "spec.toml:4: `trigger.event.where`: there is no \"x\" here"),
        ("condition = { when = \"value > 1\" }", "spec.toml:4: `trigger.condition.source` is missing: one of http"),
        (
            "condition = { source = { job = \"x\" }, when = \"value > 1\" }",
            "spec.toml:4: `trigger.condition.source.job` is \"x\", but a whole job id",
        ),
        (
            "condition = { source = { metric = \"m\" }, when = \"value > \" }",
            "spec.toml:4: `trigger.condition.when`: not an expression",
        ),
        ("after = [\"x\"]", "spec.toml:4: `trigger.after.0` is \"x\", but a whole job id"),
        (
            "every = \"1s\"\noverlap = \"queue\"",
            "spec.toml:5: `trigger.overlap` is \"queue\", but \"allow\", \"forbid\"",
        ),
        ("every = \"1s\"\noverlap = \"queue(0)\"", "spec.toml:5: `trigger.overlap`: 0 is not between 1 and 100"),
        ("every = \"1s\"\nmissed = \"catch_up(101)\"", "spec.toml:5: `trigger.missed`: 101 is not between 1 and 100"),
        ("evry = \"1s\"", "spec.toml:4: `trigger.evry` is not a setting; did you mean `trigger.every`?"),
    ] {
        let found = trigger_refused(section);
        assert!(found.lines().any(|line| line.starts_with(expected)), "{section}\n{found:?} has not {expected:?}");
    }
}

/// A job that should run every night must not run once and be done.
#[test]
fn a_job_with_a_trigger_is_not_taken_for_one_without() {
    let read = read(&format!("{SMALL}[trigger]\nevery = \"1s\""), "spec.toml", &[]).unwrap();
    let JobSpec::Triggered(spec) = read.build(content).unwrap() else { panic!("it would run at once") };
    assert_eq!((spec.trigger, spec.work), (trigger("every = \"1s\""), built(SMALL, &[]).into()));
}

/// Goal: a job that waits for others goes to their quorum, for only there is their end known.
#[test]
fn a_job_after_others_goes_to_their_quorum() {
    let quorum = |section: &str| read(&format!("{SMALL}[trigger]\n{section}"), "spec.toml", &[]).unwrap().quorum();
    let job = JobId { quorum: QuorumId([3; 16]), local: [4; 16] };
    assert_eq!(quorum(&format!("after = [\"{job}\"]")), Some(job.quorum));
    assert_eq!(quorum("every = \"1s\""), None);
}
