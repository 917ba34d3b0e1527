//! The lint of what a simulated node, and the world around it, may not reach past the seams: the machine's clocks, its
//! randomness, its threads, and maps whose order differs from run to run. Read from the sources, so that it is noticed
//! before a seed stops being a history.

use std::path::{Path, PathBuf};

/// What must not stand in a line of code, and what to use in its place.
const FORBIDDEN: [(&str, &str); 12] = [
    ("std::time::Instant", "tokio::time::Instant, or the monotonic clock of the seams"),
    ("Instant}", "tokio::time::Instant, or the monotonic clock of the seams"),
    ("SystemTime", "the wall clock of the seams"),
    ("thread_rng", "the entropy of the seams"),
    ("OsRng", "the entropy of the seams"),
    ("getrandom", "the entropy of the seams"),
    ("tokio::spawn", "seams::spawn"),
    ("task::spawn", "seams::spawn or seams::run_blocking"),
    ("std::thread", "seams::spawn or seams::run_blocking"),
    ("HashMap", "BTreeMap"),
    ("HashSet", "BTreeSet"),
    ("RandomState", "an ordered collection"),
];

/// Parts of `src/` that no simulated node runs, and why.
const NOT_SIMULATED: [(&str, &str); 5] = [
    ("config", "read once, before the node starts"),
    ("config.rs", "read once, before the node starts"),
    ("executors", "threads and processes that run the work of others; a simulated node brings executors of its own"),
    ("main.rs", "starts a real node"),
    ("network", "libp2p's sockets; the simulator brings a network of its own"),
];

/// Parts of the simulator that run around histories, not in them.
const AROUND: [&str; 3] = ["campaign.rs", "main.rs", "minimise.rs"];

/// The world's own tasks belong to no node: they run on the runtime of its one thread, in the order of its seed.
const OF_THE_WORLD: [&str; 2] = ["tokio::spawn", "task::spawn"];

/// Lines that may, by file and what they have.
const ALLOWED: [(&str, &str, &str); 8] = [
    (
        "protocols/src/trigger/expression.rs",
        "HashMap",
        "what the expression library's maps are made of; the primary alone evaluates, and what it found is committed",
    ),
    ("src/seams/clock.rs", "SystemTime", "the seam itself"),
    ("src/seams/entropy.rs", "getrandom", "the seam itself"),
    ("src/seams/tasks.rs", "tokio::spawn", "the seam itself"),
    ("src/seams/tasks.rs", "task::spawn", "the seam itself"),
    ("src/raft/runtime.rs", "thread_rng", "openraft's name for it: ours is seeded from the node's entropy"),
    ("src/resources/machine.rs", "std::thread", "counts the processors before the node starts"),
    (
        "src/storage/sled_kv.rs",
        "std::thread",
        "waits for a lock file while opening a real disk; the simulator has its own",
    ),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> =
        std::fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("readable").path()).collect();
    entries.sort();
    for path in entries {
        let is_test = path.file_name().is_some_and(|name| name == "tests.rs" || name == "tests" || name == "testing");
        if path.is_dir() && !is_test {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") && !is_test {
            found.push(path);
        }
    }
}

#[test]
fn simulated_code_reaches_the_world_through_its_seams() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = Vec::new();
    sources(&root.join("protocols/src"), &mut files);
    sources(&root.join("src"), &mut files);
    sources(&root.join("testnet/src/checkers"), &mut files);
    sources(&root.join("testnet/kit/src"), &mut files);
    sources(&root.join("testnet/simulate/src"), &mut files);
    let first_inside = |path: &Path, folder: &str| {
        let inside = path.strip_prefix(root.join(folder)).ok()?;
        inside.iter().next().map(|first| first.to_string_lossy().into_owned())
    };
    files.retain(|path| {
        let of_node =
            first_inside(path, "src").is_some_and(|first| NOT_SIMULATED.iter().any(|(name, _)| first == *name));
        let around = first_inside(path, "testnet/simulate/src").is_some_and(|first| AROUND.contains(&first.as_str()));
        !of_node && !around
    });
    assert!(files.len() > 80, "only {} files: is this the right folder?", files.len());
    let (mut wrong, mut used) = (Vec::new(), [false; ALLOWED.len()]);
    for path in &files {
        let name = path.strip_prefix(&root).expect("below the root").to_string_lossy().replace('\\', "/");
        let text = std::fs::read_to_string(path).expect("a source is text");
        // Test modules stand last, and nodes do not run them.
        let code = text.lines().take_while(|line| !line.starts_with("mod tests"));
        for (number, line) in (1..).zip(code).filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for (word, instead) in FORBIDDEN.iter().filter(|(word, _)| line.contains(word)) {
                // A group import of tokio's is tokio's.
                if *word == "Instant}" && !line.contains("std::time") {
                    continue;
                }
                if ["testnet/kit/", "testnet/simulate/"].iter().any(|of| name.contains(of))
                    && OF_THE_WORLD.contains(word)
                {
                    continue;
                }
                match ALLOWED.iter().position(|(file, allowed, _)| *file == name && allowed == word) {
                    Some(at) => used[at] = true,
                    None => wrong.push(format!("{name}:{number}: {word}; use {instead}\n    {}", line.trim())),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let stale: Vec<_> = ALLOWED.iter().zip(used).filter(|(_, used)| !used).map(|(entry, _)| entry).collect();
    assert!(stale.is_empty(), "allowed without need: {stale:?}");
}
