//! The layers of the sources, and the words that they left behind, read from the sources themselves: which crate may
//! name which, which room may import which, how wide a comment is, and what may only become rarer.
//!
//! A crate is named by its folder. A room is a file or folder right below `src/`, `protocols/src/` or
//! `protocols/src/quorum/`. Rows stand in order: a crate or a room imports only those of rows before its own, so no
//! cycle can be allowed by mistake. Tests may import what they like.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A crate or a room, and those that it imports.
type Row = (&'static str, &'static str);

/// The crates, from the ground up. The compiler holds them to their manifests, this table holds the manifests.
const CRATES: &[Row] = &[
    ("protocols", ""),
    ("api", "protocols"),
    ("modules", "protocols"),
    ("spec/tables", "protocols"),
    ("spec", "protocols spec/tables"),
    ("src/seams", "protocols"),
    ("src", "modules protocols spec/tables src/seams"),
    ("testnet", "api protocols"),
    ("testnet/kit", "protocols src/seams testnet"),
    ("testnet/bound", "protocols testnet"),
    // Nothing of a node: it sees one as its clients do.
    ("testnet/bench", "api protocols testnet testnet/bound"),
    ("http", "api modules protocols spec src"),
    // Nothing of a node: commands know of one what its API says.
    ("cli", "api modules protocols spec testnet testnet/bench"),
    ("daemon", "api cli http protocols src"),
    (".", "cli daemon"),
    ("testnet/simulate", "protocols src testnet testnet/kit"),
    ("testnet/fuzz", "api modules protocols spec src testnet"),
    // Nothing of a node: it must not trust what a node's own sender checks.
    ("testnet/hostile", "api protocols testnet"),
];

/// Libraries that few crates may name, and which.
const LIBRARIES: &[Row] = &[
    ("bincode", "protocols"),
    ("clap", "cli testnet/fuzz testnet/hostile testnet/simulate"),
    ("comfy-table", "cli"),
    // Connections of the API, and those of the client that measures it; everybody else speaks HTTP through axum or
    // reqwest.
    ("hyper", "http testnet/bench"),
    ("hyper-util", "http testnet/bench"),
    // The bound has what encryption costs without a network; the hostile peer a stack of its own.
    ("libp2p", "src testnet/bound testnet/hostile"),
    // The simulator names the log's types.
    ("openraft", "src testnet/simulate"),
    ("sled", "src"),
    ("toml", "spec spec/tables src testnet"),
    // The core does not know how its state is shown.
    ("utoipa", "api http"),
    ("wasmtime", "modules src"),
    ("yamux", "src"),
];

/// The rooms of the node that the crates above it import.
const ABOVE_THE_NODE: &[Row] = &[
    ("http", "approver compose directory events objects quorums raft resources seams streams utf8"),
    ("daemon", "compose config executors folder identity incarnation network resources seams storage workers"),
    ("testnet/fuzz", "config identity"),
];

/// The node, from the ground up.
const NODE: &[Row] = &[
    ("buffers", ""),
    ("error", ""),
    ("folder", ""),
    ("gauges", ""),
    ("seams", ""),
    ("streams", ""),
    ("utf8", ""),
    ("hosts", ""),
    ("resources", "gauges seams"),
    ("storage", "buffers seams"),
    ("config", "hosts"),
    ("executors", "config resources seams utf8"),
    ("signatures", "seams"),
    ("identity", "config folder seams signatures"),
    ("certificates", "seams"),
    ("directory", "certificates gauges identity resources seams"),
    ("network", "buffers config error gauges identity resources seams"),
    ("raft", "gauges identity seams signatures storage"),
    ("approver", "certificates directory gauges identity resources seams storage"),
    ("presence", "raft seams"),
    ("quorums", "certificates directory hosts identity raft seams signatures storage"),
    ("events", "gauges quorums seams storage"),
    ("objects", "buffers certificates gauges identity quorums seams storage streams"),
    ("primary", "directory quorums raft seams"),
    ("workers", "approver error executors gauges identity quorums seams storage streams utf8"),
    ("incarnation", "identity objects raft seams storage"),
    ("sources", "hosts quorums workers"),
    (
        "compose",
        "approver certificates config directory events executors gauges hosts identity objects presence primary \
         quorums raft resources seams sources storage workers",
    ),
];

/// The pure core.
const CORE: &[Row] = &[
    ("backoff", ""),
    ("engine", ""),
    ("fault", ""),
    ("mux", ""),
    ("run_state", ""),
    ("shared_map", ""),
    ("text", ""),
    ("ids", "text"),
    ("budget", "ids"),
    ("units", ""),
    ("capacity", "engine text units"),
    ("wire", ""),
    ("incarnation", "ids"),
    ("membership", "ids"),
    ("object", "ids text units wire"),
    ("liveness", "backoff ids membership"),
    ("approval", "backoff capacity ids liveness membership wire"),
    ("admission", "approval ids wire"),
    ("certificate", "approval ids membership shared_map wire"),
    ("directory", "admission approval budget capacity engine ids liveness membership wire"),
    ("piece", "approval ids object"),
    ("resources", "approval capacity ids"),
    ("task", "approval backoff capacity engine ids shared_map text wire"),
    ("trigger", "backoff fault ids run_state task text wire"),
    ("job", "approval capacity engine fault ids liveness object run_state task text trigger wire"),
    ("upload", "approval ids job object piece"),
    (
        "quorum",
        "approval backoff budget capacity certificate engine ids job liveness membership object piece shared_map task \
         text trigger units wire",
    ),
];

/// One quorum's state machine, room by room inside `protocols/src/quorum`. Four sub-states (`jobs`, `objects`, `tasks`,
/// `triggers`) know nothing of the frame around them (`state`), nor of what stands on it: kinds, fires, `apply`.
const QUORUM: &[Row] = &[
    ("agreement", ""),
    ("check", ""),
    ("clock", ""),
    ("duty", ""),
    ("event", ""),
    ("level", ""),
    ("limits", ""),
    ("message", ""),
    ("chunks", "limits"),
    ("claims", "limits"),
    ("door", "limits"),
    ("uses", "limits"),
    ("rights", ""),
    ("author", "claims rights"),
    ("command", "claims limits"),
    ("object", "claims"),
    ("shares", ""),
    ("reply", "claims uses"),
    ("jobs", "check chunks command duty reply shares"),
    ("objects", "check chunks claims command duty event jobs limits object reply uses"),
    ("tasks", "check chunks command duty event jobs reply shares"),
    ("triggers", "check chunks duty jobs reply shares"),
    ("state", "clock jobs limits objects reply tasks triggers uses"),
    ("duties", "duty state"),
    ("fires", "command event reply state"),
    ("invariants", "check limits state"),
    ("kinds", "author check command duty event jobs limits objects reply rights state triggers uses"),
    ("snapshot", "chunks clock jobs limits object objects state tasks triggers"),
    ("watch", "event state"),
    ("entry", "command kinds reply"),
    ("apply", "clock command entry event limits reply state tasks uses"),
    ("authority", "author command entry rights state"),
    ("precheck", "command entry reply state"),
    ("request", "clock entry object reply uses watch"),
    ("reading", "authority object request rights state watch"),
    ("steps", "check entry reply state"),
    ("queries", "object request state"),
];

/// `Result<_, String>` in code that is no test: an error that nothing but a person can tell from another. May only
/// fall.
const STRING_ERRORS_MAX: usize = 94;
/// The same bound must not be so high that new ones hide under it.
const STRING_ERRORS_SLACK: usize = 8;

/// Comment lines are at most this wide: the formatter does not wrap them.
const COLUMNS_MAX: usize = 120;

/// Names that gave way to the field's words, in any crate, and what stands in their place.
const RETIRED: &[(&str, &str)] = &[
    ("Beat", "Heartbeat"),
    ("BEAT_INTERVAL", "HEARTBEAT_INTERVAL"),
    ("DeadTask", "DeadLetter"),
    ("Errands", "WorkerInstructions"),
    ("Heard", "DeliveryAck"),
    ("Holding", "HeldPiece"),
    ("Looked", "ConditionProbed"),
    ("NodeWork", "NodeExecutors"),
    ("Noted", "Acknowledged"),
    ("NotWorker", "NotUploader"),
    ("NotYours", "NotAssigned"),
    ("Said", "an answer or a report"),
    ("Taken", "Accepted or Emitted"),
    ("TaskNotes", "TaskExtras"),
    ("Tend", "HoldSession"),
    ("WorkIndex", "SchedulerIndex"),
    ("bury", "move_to_dead_letters"),
    ("given_at", "assigned_at"),
    ("works", "steps"),
    ("Desk", "QuorumOutbox"),
    ("Hearing", "EventIntake"),
    ("Carrier", "QuorumPort"),
    ("Carried", "ReportAnswer"),
    ("Steward", "ReportIntake"),
    ("Stewards", "QuorumPort"),
    ("Pulse", "LastHeartbeat"),
    ("Pulses", "WorkerHeartbeats"),
    ("Suspects", "AuditHints"),
    ("Notes", "WaitReasons"),
    ("Patrol", "Auditor"),
    ("Bell", "Wakeup"),
    ("Surroundings", "DriverEnv"),
    ("Tender", "WorkerSessions"),
    ("Tending", "SessionsTask"),
    ("Hand", "WorkerSession"),
    ("Confirmations", "ReadIndex"),
    ("MarkKeeper", "RollbackGuard"),
    ("Keeper", "Maintenance"),
    ("Feed", "UploadFault"),
    ("NetworkFeed", "NetworkBridge"),
    ("QuorumFeed", "QuorumBridge"),
    ("tend", "worker_sessions"),
    ("patrol", "auditor"),
    ("neighbours", "adapters"),
    ("go_on", "verb and object"),
    ("pulses", "heartbeats"),
    ("Moments", "Coverage"),
    ("Bells", "EventWorkload"),
    ("Dice", "Rng"),
    ("dice", "rng"),
    ("SimRng", "Rng"),
    ("SimDisk", "MemoryDisk"),
    ("SimNet", "MemoryNet"),
    ("SimClock", "VirtualClock"),
    ("Fabric", "Network"),
];

/// The crates that are no test and no testnet, but for the core: their names keep to the field's words.
const PRODUCT: [&str; 7] = ["api", "cli", "daemon", "http", "modules", "spec", "src"];

/// The same in the product alone: to the checkers a promise is what a client was told.
const RETIRED_IN_PRODUCT: &[(&str, &str)] = &[("Promises", "MembershipLeases")];

/// Locks of the standard library, and what their poison is called.
const LOCKS: [&str; 3] = ["Mutex", "RwLock", "PoisonError"];

/// Verbs that say nothing without an object: no function is named by one alone.
const BARE_VERBS: [&str; 15] = [
    "take", "tell", "told", "hear", "heard", "note", "keep", "go_on", "see", "look", "beat", "beats", "say", "said",
    "tend",
];

/// Words that begin a clause: no head of a file does.
const CLAUSES: [&str; 12] =
    ["What", "Whatever", "Who", "Whoever", "Whose", "How", "When", "Where", "Which", "Whether", "Why", "From"];

/// The core and the testnet, whose names keep to the field's words as well.
const NAMED_BESIDE: [&str; 2] = ["protocols/src", "testnet"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Files below a folder, in order, with their names below the root.
fn sources(folder: &str) -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        let entries =
            std::fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("readable").path());
        for path in entries {
            match path.is_dir() {
                true if path.file_name().is_some_and(|name| name == "target") => (),
                true => walk(&path, found),
                false if path.extension().is_some_and(|end| end == "rs") => found.push(path),
                false => (),
            }
        }
    }
    let (root, mut found) = (root(), Vec::new());
    walk(&root.join(folder), &mut found);
    found.sort();
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root).expect("below the root").to_string_lossy().replace('\\', "/");
        (name, std::fs::read_to_string(path).expect("a source is text"))
    };
    found.into_iter().map(read).collect()
}

fn is_test(name: &str) -> bool {
    let mut parts = name.split('/');
    parts.any(|part| matches!(part, "tests" | "testing" | "benches") || part.ends_with("tests.rs"))
}

/// What of a source is code that is no test: without comments, and with empty strings. Test modules stand last.
fn code(text: &str) -> String {
    let is_inline = |(at, _): &(usize, &str)| text[*at..].lines().nth(1).is_some_and(|line| line.ends_with('{'));
    let tests = text.match_indices("#[cfg(test)]\nmod ").find(is_inline).map_or(text.len(), |(at, _)| at);
    let (mut code, mut rest) = (String::new(), &text[..tests]);
    while let Some(next) = rest.chars().next() {
        let end = match next {
            _ if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '"' => {
                code.push_str("\"\"");
                1 + end_of_string(&rest[1..])
            }
            'r' if raw_quotes(rest).is_some()
                && !code.ends_with(|last: char| last.is_alphanumeric() || last == '_') =>
            {
                let close = raw_quotes(rest).expect("asked a moment ago");
                let open = close.len() + 1;
                rest[open..].find(&close).map_or(rest.len(), |at| open + at + close.len())
            }
            '\'' if rest.starts_with("'\"'") || rest.starts_with("'\\'") => rest[2..].find('\'').map_or(1, |at| at + 3),
            _ => {
                code.push(next);
                next.len_utf8()
            }
        };
        rest = &rest[end..];
    }
    code
}

/// How long a string's text is, with the quote that ends it.
fn end_of_string(text: &str) -> usize {
    let mut escaped = false;
    for (at, next) in text.char_indices() {
        match next {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => (),
        }
    }
    text.len()
}

/// What ends the raw string that begins here, if one does.
fn raw_quotes(text: &str) -> Option<String> {
    let hashes = text[1..].chars().take_while(|next| *next == '#').count();
    text[1 + hashes..].starts_with('"').then(|| format!("\"{}", "#".repeat(hashes)))
}

/// The words of a code, each with whether `::` stands before it.
fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|next: char| !(next.is_alphanumeric() || next == '_')).filter(|word| !word.is_empty())
}

/// The rooms that a file's code names: by the path of what they stand in, or by as many `super::` as lead out of its
/// own.
fn imports(path: &str, file: &str, code: &str) -> BTreeSet<String> {
    let mut module: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
    if module.last() == Some(&"mod") {
        module.pop();
    }
    let out = format!("{}::", vec!["super"; module.len()].join("::"));
    let mut found = named_below(&[path, &out], code);
    // A path that leaves the folder names none of its rooms.
    found.remove("super");
    found
}

/// What code names right below these beginnings of paths.
fn named_below(starts: &[&str], code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for start in starts {
        for (at, _) in code.match_indices(*start) {
            let is_path = code[..at].ends_with(|last: char| last.is_alphanumeric() || matches!(last, '_' | ':' | '$'));
            if is_path {
                continue;
            }
            let rest = &code[at + start.len()..];
            match rest.strip_prefix('{') {
                None => found.extend(words(rest).next().map(str::to_owned)),
                // A group: the first word of each of its parts.
                Some(group) => {
                    let (mut depth, mut is_first) = (0, true);
                    let mut parts = group.split_inclusive(|next: char| !(next.is_alphanumeric() || next == '_'));
                    while let Some(part) = parts.next().filter(|_| depth >= 0) {
                        let word = words(part).next();
                        if let Some(word) = word.filter(|_| is_first && depth == 0) {
                            found.insert(word.to_owned());
                            is_first = false;
                        }
                        match part.chars().last() {
                            Some('{') => depth += 1,
                            Some('}') => depth -= 1,
                            Some(',') if depth == 0 => is_first = true,
                            _ => (),
                        }
                    }
                }
            }
        }
    }
    found
}

/// What the rooms of a folder stand in, as code names it.
fn path_of(folder: &str) -> String {
    let below = folder.split_once("src/").map_or(String::new(), |(_, below)| format!("{}::", below.replace('/', "::")));
    format!("crate::{below}")
}

/// What each room imports, with one file that does.
fn edges(folder: &str) -> BTreeMap<(String, String), String> {
    let files = sources(folder);
    let inside = |name: &str| name.strip_prefix(folder).map(|name| name.trim_start_matches('/').to_owned());
    let room = |name: &str| name.split('/').next().unwrap_or_default().trim_end_matches(".rs").to_owned();
    let names: Vec<String> = files.iter().filter_map(|(name, _)| inside(name)).collect();
    let rooms: BTreeSet<String> = names.iter().map(|name| room(name)).collect();
    let mut edges = BTreeMap::new();
    for (name, (_, text)) in names.iter().zip(&files) {
        let from = room(name);
        if is_test(name) || matches!(&*from, "lib" | "main" | "mod") {
            continue;
        }
        for to in imports(&path_of(folder), name, &code(text)) {
            if to != from && rooms.contains(&to) {
                edges.entry((from.clone(), to)).or_insert_with(|| format!("{folder}/{name}"));
            }
        }
    }
    edges
}

fn check(folder: &str, rows: &[Row]) {
    let edges = edges(folder);
    let mut wrong = Vec::new();
    let place = |room: &str| rows.iter().position(|(name, _)| *name == room);
    for (at, (room, may)) in rows.iter().enumerate() {
        for to in may.split_whitespace() {
            if place(to).is_none_or(|to| to >= at) {
                wrong.push(format!("the row of {room} names {to}, which has no row before it: the rows allow a cycle"));
            }
            if !edges.contains_key(&((*room).to_owned(), to.to_owned())) {
                wrong.push(format!("{room} may import {to} and does not: take it out of its row"));
            }
        }
    }
    for ((from, to), file) in &edges {
        match rows.iter().find(|(room, _)| room == from) {
            None => wrong.push(format!("{folder}/{from} has no row")),
            Some((_, may)) if !may.split_whitespace().any(|may| may == to) => {
                wrong.push(format!("{file}: {from} may not import {to}"))
            }
            Some(_) => (),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The names in a manifest's table of dependencies.
fn dependencies(manifest: &str) -> BTreeSet<&str> {
    let table = manifest.split("\n[").find_map(|table| table.strip_prefix("dependencies]\n")).unwrap_or_default();
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split(['.', ' ', '=']).next()).filter(|name| !name.is_empty()).collect()
}

/// Each crate's folder with its package's name and its manifest, as the workspace has them.
fn crates() -> Vec<(String, String, String)> {
    let read = |folder: &str| std::fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("a manifest");
    let workspace = read(".");
    let members = workspace.split_once("members = [").expect("members").1.split_once(']').expect("their end").0;
    let folders = members.split('"').skip(1).step_by(2);
    let package = |manifest: &str| {
        let table = manifest.split_once("[package]\n").expect("a package").1;
        table.split_once("name = \"").and_then(|(_, rest)| rest.split_once('"')).expect("a name").0.to_owned()
    };
    let member = |folder: &str| {
        let manifest = read(folder);
        (folder.to_owned(), package(&manifest), manifest)
    };
    folders.map(member).collect()
}

/// What a row has that is not so, and what is so and is not in the row.
fn differences(what: &str, row: &str, found: &BTreeSet<String>) -> Vec<String> {
    let may: BTreeSet<String> = row.split_whitespace().map(str::to_owned).collect();
    let forbidden = found.difference(&may).map(|name| format!("{what}: {name} is not in its row"));
    forbidden.chain(may.difference(found).map(|name| format!("{what}: {name} is in its row without need"))).collect()
}

/// Goal: what the compiler holds is what was meant. Method: the manifests against the table, and the code against the
/// manifests: a crate that is named and not used would be built before the one that names it, for nothing.
#[test]
fn crates_name_only_what_is_below_them() {
    let crates = crates();
    let folder_of = |package: &str| crates.iter().find(|(_, name, _)| name == package).map(|(folder, ..)| folder);
    let mut wrong = Vec::new();
    let rows: Vec<&str> = CRATES.iter().map(|(folder, _)| *folder).collect();
    for (folder, package, manifest) in &crates {
        let Some(at) = rows.iter().position(|row| row == folder) else {
            wrong.push(format!("{folder} has no row"));
            continue;
        };
        let named: BTreeSet<String> = dependencies(manifest).into_iter().filter_map(folder_of).cloned().collect();
        wrong.extend(differences(folder, CRATES[at].1, &named));
        wrong.extend(
            named
                .iter()
                .filter(|name| !rows[..at].contains(&name.as_str()))
                .map(|name| format!("{folder}: the row of {name} does not stand before its own")),
        );
        let code: String = match folder.as_str() {
            "." => std::fs::read_to_string(root().join("src/main.rs")).expect("the binary"),
            folder => {
                let below = format!("{folder}/src");
                let from = if root().join(&below).is_dir() { &below } else { folder };
                // A crate may stand in another's folder; what it names is its own.
                let inner = |name: &String| {
                    crates.iter().any(|(other, ..)| other.starts_with(&format!("{folder}/")) && name.starts_with(other))
                };
                sources(from).into_iter().filter(|(name, _)| !inner(name)).map(|(_, text)| code(&text)).collect()
            }
        };
        for (_, other, _) in crates.iter().filter(|(other, ..)| named.contains(other)) {
            let name = other.replace('-', "_");
            if !words(&code).any(|word| word == name) {
                wrong.push(format!("{package} depends on {other} and does not name it"));
            }
        }
    }
    assert_eq!(rows.len(), crates.len(), "a row without a crate");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Goal: whoever runs a program after the tests, or the other way round, waits for no second build of a library and of
/// all that stands on it. Method: cargo resolves each program alone and the whole workspace; a library that has other
/// features in one of them would be built twice.
#[test]
fn programs_and_tests_are_built_of_the_same_libraries() {
    let resolve = |arguments: &[&str]| -> BTreeSet<String> {
        let mut cargo = std::process::Command::new(env!("CARGO"));
        cargo.current_dir(root()).args(["tree", "--offline", "--locked", "--prefix", "none", "--format", "{p} [{f}]"]);
        let ran = cargo.args(arguments).output().expect("cargo runs");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let lines = String::from_utf8(ran.stdout).expect("text");
        lines
            .lines()
            .map(|line| line.trim_end_matches(" (*)").to_owned())
            .filter(|line| !line.contains(" (/"))
            .collect()
    };
    let whole = resolve(&["--workspace", "--edges", "normal,build,dev"]);
    assert!(whole.len() > 300, "{whole:?}");
    for program in ["quorate", "quorate-simulate", "quorate-fuzz"] {
        let alone = resolve(&["--package", program, "--edges", "normal,build"]);
        let twice: Vec<_> = alone.difference(&whole).collect();
        assert!(twice.is_empty(), "{program} alone builds these with other features than the tests do: {twice:?}");
    }
}

#[test]
fn libraries_are_named_only_where_they_belong() {
    let crates = crates();
    let mut wrong = Vec::new();
    for (library, row) in LIBRARIES {
        let naming = crates.iter().filter(|(_, _, manifest)| dependencies(manifest).contains(library));
        wrong.extend(differences(library, row, &naming.map(|(folder, ..)| folder.clone()).collect()));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn crates_above_the_node_import_only_the_rooms_of_their_rows() {
    let mut wrong = Vec::new();
    for (folder, row) in ABOVE_THE_NODE {
        let mut named = BTreeSet::new();
        for (name, text) in sources(&format!("{folder}/src")).into_iter().filter(|(name, _)| !is_test(name)) {
            let found = named_below(&["quorate_node::"], &code(&text));
            assert!(!found.contains("self"), "{name} imports the node whole");
            named.extend(found);
        }
        wrong.extend(differences(folder, row, &named));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Goal: what is below knows nothing of what is above it.
#[test]
fn rooms_of_the_node_import_only_what_is_below_them() {
    check("src", NODE);
}

#[test]
fn rooms_of_the_core_import_only_what_is_below_them() {
    check("protocols/src", CORE);
}

/// Goal: the same inside a quorum's state machine. Method: no file reaches a room through what `mod.rs` shows to
/// others, so the table has every import.
#[test]
fn rooms_of_a_quorum_import_only_what_is_below_them() {
    let folder = "protocols/src/quorum";
    check(folder, QUORUM);
    let mut wrong = Vec::new();
    for (name, text) in sources(folder).into_iter().filter(|(name, _)| !is_test(name)) {
        let file = name.strip_prefix("protocols/src/quorum/").expect("below the folder");
        let named = if file == "mod.rs" { BTreeSet::new() } else { imports(&path_of(folder), file, &code(&text)) };
        let is_room = |name: &String| name.starts_with(|first: char| first.is_lowercase());
        wrong.extend(named.iter().filter(|name| !is_room(name)).map(|item| format!("{name}: {item} has a room")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What docs/architecture.md says of a new kind of work: the first cells of its tables with that heading.
fn page_of_kinds(heading: &str) -> Vec<String> {
    let page = std::fs::read_to_string(root().join("docs/architecture.md")).expect("a page");
    let section = page.split("\n## ").find(|section| section.starts_with("A new kind of work\n")).expect("a section");
    let table = section.split("\n\n").find(|table| table.starts_with(&format!("| {heading} |"))).expect("a table");
    table.lines().skip(2).filter_map(|row| row.split('|').nth(1)).map(|cell| cell.trim().to_owned()).collect()
}

/// Goal: the page says truly what a kind may reach. Method: the methods of its context, and the cells of the table.
#[test]
fn the_page_of_kinds_names_each_method_of_the_context() {
    let context = std::fs::read_to_string(root().join("protocols/src/quorum/kinds/context.rs")).expect("a source");
    let methods =
        context.split_once("impl<'s> RunCx<'s> {").expect("the context").1.split_once("\n}").expect("its end").0;
    let methods = methods.split("pub(in crate::quorum) fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
    let methods: BTreeSet<String> = methods.map(str::to_owned).collect();
    let cells = page_of_kinds("`RunCx`").join(" ");
    let named: BTreeSet<String> = cells.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    assert_eq!(named, methods);
}

/// Goal: a new kind of work finds one place for everything that it is, and the page names the files. Method: the files
/// that name the kind which only tests have, its own tests apart.
#[test]
fn a_kind_is_added_by_touching_few_files() {
    let names = ["CounterSpec", "CounterRun", "CounterCommand", "mod counter", "Counter, counter"];
    let is_named = |text: &str| names.iter().any(|name| text.contains(name));
    let folders = ["protocols/src", "spec", "api", "http", "src", "cli", "daemon"];
    let files: BTreeSet<String> = folders
        .into_iter()
        .flat_map(sources)
        .filter(|(name, text)| !name.starts_with("protocols/src/quorum/kinds/tests") && is_named(text))
        .map(|(name, _)| format!("`{name}`"))
        .collect();
    assert_eq!(page_of_kinds("file").into_iter().collect::<BTreeSet<_>>(), files);
    assert!(files.len() <= 8, "a kind touches too many files: {files:?}");
}

/// Goal: the reading above sees every way to name a room. Method: a file with all of them.
#[test]
fn imports_are_read_whatever_their_form() {
    let text = "use crate::{a::{x, y}, b, c::z};\nuse crate::d;\n// crate::e\nlet f = \"crate::f\"; crate::g::h();\n\
                use super::super::i; use super::j; let k = r#\"crate::k \"crate::k\"#; 'l'; crate::m!();\n\
                #[cfg(test)]\nmod tests {\n    use crate::n;\n}\n";
    let found: Vec<String> = imports("crate::", "room/file.rs", &code(text)).into_iter().collect();
    assert_eq!(found, ["a", "b", "c", "d", "g", "i", "m"]);
    assert_eq!(path_of("src"), "crate::");
    assert_eq!(path_of("protocols/src"), "crate::");
    assert_eq!(path_of("protocols/src/quorum"), "crate::quorum::");
    let text = "use crate::quorum::a::x; use crate::b; use super::c::{y, z}; use super::super::d;";
    let found: Vec<String> = imports("crate::quorum::", "room/mod.rs", &code(text)).into_iter().collect();
    assert_eq!(found, ["a", "c"]);
    let results = "fn a() -> Result<Vec<(u8, String)>, String>; fn b() -> Result<Result<u8, String>, Fault>; \
                   fn c(of: impl Fn(u8) -> Result<String, Fault>); type D = Map<u8, String>;";
    assert_eq!(string_errors(results), 2);
}

const BESIDE: [&str; 5] = ["protocols", "testnet", "tests", "benches", "examples"];

#[test]
fn comments_are_no_wider_than_code() {
    let mut wide = Vec::new();
    for (name, text) in PRODUCT.iter().chain(&BESIDE).flat_map(|folder| sources(folder)) {
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim_start().starts_with("//") && line.chars().count() > COLUMNS_MAX {
                wide.push(format!("{name}:{number}"));
            }
        }
    }
    assert!(wide.is_empty(), "wider than {COLUMNS_MAX} columns:\n{}", wide.join("\n"));
}

/// Results whose error is a `String`.
fn string_errors(code: &str) -> usize {
    let is_text = |(at, start): (usize, &str)| {
        let (mut depth, mut comma) = (0, None);
        for (at, next) in code[at + start.len()..].char_indices().map(|(after, next)| (at + start.len() + after, next))
        {
            match next {
                '<' | '(' | '[' => depth += 1,
                '>' | ')' | ']' if depth == 0 => {
                    return comma.is_some_and(|comma: usize| code[comma + 1..at].trim() == "String");
                }
                '>' if code[..at].ends_with('-') => (),
                '>' | ')' | ']' => depth -= 1,
                ',' if depth == 0 => comma = Some(at),
                ';' => return false,
                _ => (),
            }
        }
        false
    };
    code.match_indices("Result<").filter(|found| is_text(*found)).count()
}

#[test]
fn errors_that_are_mere_text_do_not_grow_in_number() {
    let mut count = 0;
    for (name, text) in PRODUCT.iter().chain(&["protocols/src"]).flat_map(|folder| sources(folder)) {
        if !is_test(&name) {
            count += string_errors(&code(&text));
        }
    }
    assert!(count <= STRING_ERRORS_MAX, "{count} results have a String for an error: give the new one a type");
    assert!(count + STRING_ERRORS_SLACK > STRING_ERRORS_MAX, "only {count} are left: lower the bound");
}

#[test]
fn retired_names_do_not_come_back() {
    let mut wrong = Vec::new();
    let all: Vec<&str> = PRODUCT.into_iter().chain(NAMED_BESIDE).collect();
    for (folders, retired) in [(&all[..], RETIRED), (&PRODUCT[..], RETIRED_IN_PRODUCT)] {
        for (name, text) in folders.iter().flat_map(|folder| sources(folder)).filter(|(name, _)| !is_test(name)) {
            let code = code(&text);
            let used: BTreeSet<&str> = words(&code).collect();
            for (word, instead) in retired.iter().filter(|(word, _)| used.contains(word)) {
                wrong.push(format!("{name}: {word} is called {instead}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Goal: whoever panics while holding a lock does not stop the rest of the node: its locks are those of `parking_lot`,
/// which a panic does not poison.
#[test]
fn no_lock_of_a_node_can_be_poisoned() {
    let mut wrong = Vec::new();
    for (name, text) in ["src", "testnet"].iter().flat_map(|folder| sources(folder)).filter(|(name, _)| !is_test(name))
    {
        let code = code(&text);
        let imports = code.split("std::sync::").skip(1).map(|rest| rest.split(';').next().unwrap_or_default());
        wrong.extend(imports.filter(|rest| words(rest).any(|word| LOCKS.contains(&word))).map(|_| name.clone()));
    }
    assert!(wrong.is_empty(), "take Mutex and RwLock from parking_lot:\n{}", wrong.join("\n"));
}

#[test]
fn functions_are_named_by_verb_and_object() {
    let mut bare = Vec::new();
    for (name, text) in
        PRODUCT.iter().chain(&NAMED_BESIDE).flat_map(|folder| sources(folder)).filter(|(name, _)| !is_test(name))
    {
        let code = code(&text);
        let functions = code.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
        bare.extend(functions.filter(|name| BARE_VERBS.contains(name)).map(|verb| format!("{name}: fn {verb}")));
    }
    assert!(bare.is_empty(), "name what they act on:\n{}", bare.join("\n"));
}

/// Goal: whoever opens a file reads first what the thing is. Method: the first word of each head.
#[test]
fn heads_name_the_thing() {
    let mut clauses = Vec::new();
    for (name, text) in PRODUCT.iter().chain(&BESIDE).flat_map(|folder| sources(folder)) {
        let head = text.lines().find_map(|line| line.strip_prefix("//! "));
        let first = head.and_then(|head| words(head).next());
        clauses.extend(first.filter(|word| CLAUSES.contains(word)).map(|word| format!("{name}: {word} …")));
    }
    assert!(clauses.is_empty(), "begin with a noun of the field:\n{}", clauses.join("\n"));
}
