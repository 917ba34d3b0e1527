//! The README's first commands are the ones that work, and its tour's commands exist.

mod support;

use support::{command, quorate};

fn readme() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("there is a README")
}

fn commands() -> Vec<String> {
    let text = readme();
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines() {
        match (line.starts_with("```"), inside) {
            (true, _) => inside = !inside && line == "```sh",
            (false, true) if !line.trim().is_empty() => found.push(line.trim().to_owned()),
            _ => (),
        }
    }
    found
}

#[test]
fn the_first_two_commands_run_the_demo_and_the_tests() {
    let commands = commands();
    assert_eq!(commands[0], "cargo run --release -- demo");
    assert_eq!(commands[1], "cargo test --release --workspace");
}

#[test]
fn every_command_of_the_tour_is_known_to_the_binary() {
    let tour: Vec<String> = commands().into_iter().filter(|line| line.starts_with("quorate ")).collect();
    assert!(tour.len() > 5, "the tour shrank: {tour:?}");
    for line in tour {
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        if words[0].starts_with("--") {
            continue;
        }
        let subcommand: Vec<&str> =
            words.iter().copied().take(2).take_while(|word| word.chars().all(|c| c.is_ascii_lowercase())).collect();
        let mut arguments = subcommand.clone();
        arguments.push("--help");
        quorate(&arguments).ok();
    }
}

/// Goal: the main job works as a newcomer runs it. Method: the demo, whole, through the binary.
#[test]
fn the_demo_ends_with_an_identical_file() {
    let output = command().arg("demo").output().expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("identical"), "{text}");
    assert!(text.to_lowercase().contains("failover"), "{text}");
}

/// Goal: the README's table of states is the one that every quorum asks.
#[test]
fn the_states_of_a_job_are_drawn_from_the_table() {
    let table = quorate_protocols::job::transition::markdown();
    assert!(readme().contains(&table), "put this into the README:\n{table}");
}

/// Goal: the examples are ones that a node takes. Method: each is read as `job submit` reads it.
#[test]
fn every_example_is_a_sound_specification() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let reference = format!("{}.{}", "ab".repeat(16), "cd".repeat(32));
    let mut found = 0;
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "toml") {
                let path = path.to_str().unwrap();
                let text = std::fs::read_to_string(path).unwrap();
                let text = text.contains("${text}").then(|| format!("--set=text={reference}"));
                let arguments: Vec<String> =
                    ["job", "validate", path].map(str::to_owned).into_iter().chain(text).collect();
                quorate(&arguments).ok();
                found += 1;
            }
        }
    }
    assert!(found >= 2, "the examples are gone");
}

/// Every module that the map names exists, and every folder of `src` is in the map.
#[test]
fn the_map_and_the_house_agree() {
    let text = readme();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for entry in std::fs::read_dir(root.join("src")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            let name = format!("`src/{}/`", entry.file_name().to_string_lossy());
            assert!(text.contains(&name), "the README's map does not name {name}");
        }
    }
    for word in text.split('`').skip(1).step_by(2).filter(|word| word.ends_with('/') && !word.contains(' ')) {
        assert!(root.join(word).is_dir(), "the README names {word}, which is not there");
    }
}
