//! README.md and docs/ are true: their commands run, and their tables are those of the tree.
//!
//! In a block of `sh` each `quorate` command is run, in the order of its page, on a testnet of seven nodes; what
//! follows `>` is the file that its output goes to. A block of `sh shown: REASON` has commands that cannot run here,
//! for the reason given: their names and flags alone are checked. A block of `toml` is a specification that
//! `job validate` accepts; `toml shown: REASON` is anything else.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use quorate_api::ErrorCode;
use quorate_http as http;
use serde_json::Value;
use support::{Net, Ran, command, quorate, wait};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

struct Page {
    /// Relative to the root.
    name: String,
    text: String,
}

struct Block {
    info: String,
    lines: Vec<String>,
}

impl Page {
    fn named(name: &str) -> Self {
        pages().into_iter().find(|page| page.name == name).unwrap_or_else(|| panic!("there is no {name}"))
    }

    fn blocks(&self) -> Vec<Block> {
        let (mut found, mut open) = (Vec::new(), None::<Block>);
        for line in self.text.lines() {
            match (line.strip_prefix("```"), open.take()) {
                (Some(info), None) => open = Some(Block { info: info.to_owned(), lines: Vec::new() }),
                (Some(_), Some(block)) => found.push(block),
                (None, Some(mut block)) => {
                    block.lines.push(line.to_owned());
                    open = Some(block);
                }
                (None, None) => (),
            }
        }
        assert!(open.is_none(), "{}: a block does not end", self.name);
        found
    }

    /// Commands of the blocks that are run, and of those that are `shown` if these are asked for, as words.
    fn commands(&self, with_shown: bool) -> Vec<Vec<String>> {
        let is_wanted = |info: &str| info == "sh" || (with_shown && info.starts_with("sh shown"));
        let blocks = self.blocks().into_iter().filter(|block| is_wanted(&block.info));
        blocks.flat_map(|block| block.lines).filter(|line| !line.trim().is_empty()).map(|line| words(&line)).collect()
    }

    /// What stands between backticks outside of blocks.
    fn spans(&self) -> Vec<String> {
        let mut inside = false;
        let prose = self.text.lines().filter(|line| {
            let fence = line.starts_with("```");
            inside ^= fence;
            !inside && !fence
        });
        let prose: String = prose.flat_map(|line| [line, "\n"]).collect();
        prose.split('`').skip(1).step_by(2).map(|span| span.replace('\n', " ")).collect()
    }

    /// Rows of the tables whose first column has this heading, as cells.
    fn rows(&self, heading: &str) -> Vec<Vec<String>> {
        let (mut rows, mut wanted, mut before) = (Vec::new(), false, false);
        for line in self.text.lines() {
            let is_row = line.starts_with('|');
            if is_row {
                let cells: Vec<String> = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
                if !before {
                    wanted = cells[0] == heading;
                } else if wanted && !line.starts_with("|---") {
                    rows.push(cells);
                }
            }
            before = is_row;
        }
        rows
    }
}

/// The README and everything below `docs/`.
fn pages() -> Vec<Page> {
    let mut files = vec![PathBuf::from("README.md"), PathBuf::from("testnet/README.md")];
    let mut folders = vec![PathBuf::from("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).expect("a folder of pages").map(Result::unwrap) {
            let path = folder.join(entry.file_name());
            match entry.file_type().expect("a type").is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|end| end == "md") => files.push(path),
                false => (),
            }
        }
    }
    files.sort();
    let read = |path: PathBuf| Page {
        text: std::fs::read_to_string(root().join(&path)).expect("a page is text"),
        name: path.to_str().expect("a name").to_owned(),
    };
    files.into_iter().map(read).collect()
}

/// A line as a shell would cut it, as far as these pages need it.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.trim().chars() {
        match (c, quote) {
            (c, Some(q)) if c == q => quote = None,
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (' ', None) => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// What stands in backticks in a cell.
fn code(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`')
}

#[test]
fn the_first_two_commands_run_the_demo_and_the_tests() {
    let commands = Page::named("README.md").commands(false);
    assert_eq!(commands[0].join(" "), "cargo run --release -- demo");
    assert_eq!(commands[1].join(" "), "cargo test --release --workspace");
}

/// Goal: what is in a page and is not run has its reason beside it.
#[test]
fn every_block_that_is_only_shown_says_why() {
    let mut shown = 0;
    for page in pages() {
        for block in page.blocks().into_iter().filter(|block| block.info != "sh" && block.info != "toml") {
            let Some((mark, why)) = block.info.split_once(" shown") else {
                assert!(
                    ["", "text", "json"].contains(&block.info.as_str()),
                    "{}: who checks {}?",
                    page.name,
                    block.info
                );
                continue;
            };
            let has_reason = why.strip_prefix(": ").is_some_and(|why| why.split(' ').count() > 2);
            assert!(["sh", "toml"].contains(&mark) && has_reason, "{}: why is `{}` not run?", page.name, block.info);
            shown += 1;
        }
    }
    assert!(shown < 20, "{shown} blocks are not run");
}

/// Goal: nobody is told of a command or a flag that is not there. Method: the help of each, and the files of others.
#[test]
fn every_command_of_every_page_is_known_with_its_flags() {
    let workspace = std::fs::read_to_string(root().join("Cargo.lock")).expect("a lock file");
    let mut helps = BTreeMap::<Vec<String>, String>::new();
    let mut checked = 0;
    for page in pages() {
        let inline = page.spans().into_iter().filter(|span| {
            ["quorate ", "cargo ", "scripts/"].iter().any(|start| span.starts_with(start)) && !span.ends_with('/')
        });
        let commands = page.commands(true).into_iter().chain(inline.map(|span| words(&span)));
        for words in commands {
            let told = format!("{}: {}", page.name, words.join(" "));
            let after = |flag: &str| words.iter().skip_while(|word| *word != flag).nth(1);
            match words.iter().find(|word| !word.contains('=')).map(String::as_str) {
                Some("quorate") => {
                    let subcommand: Vec<String> = words[1..]
                        .iter()
                        .take(2)
                        .take_while(|word| word.chars().all(|c| c.is_ascii_lowercase()))
                        .cloned()
                        .collect();
                    let help = helps.entry(subcommand).or_insert_with_key(|subcommand| {
                        let arguments: Vec<&str> = subcommand.iter().map(String::as_str).chain(["--help"]).collect();
                        let ran = quorate(&arguments);
                        assert_eq!(ran.code, 0, "{told}: {}", ran.stderr);
                        ran.stdout
                    });
                    for flag in words[1..].iter().filter(|word| word.starts_with('-')) {
                        let is_there = help.split([' ', ',', '\n', '<', '=']).any(|word| word == flag);
                        assert!(is_there, "{told}: there is no {flag}");
                    }
                }
                Some("cargo") => {
                    if let Some(package) = after("-p") {
                        assert!(workspace.contains(&format!("name = \"{package}\"\n")), "{told}: no such package");
                    }
                    if let Some(test) = after("--test") {
                        let folders = ["tests", "testnet/simulate/tests", "testnet/fuzz/tests", "protocols/tests"];
                        let file = |folder: &&str| root().join(folder).join(format!("{test}.rs")).exists();
                        assert!(folders.iter().any(file), "{told}: no such test");
                    }
                }
                Some(script) if script.starts_with("scripts/") => {
                    assert!(root().join(script).is_file(), "{told}: no such script");
                }
                Some("curl") => (),
                _ => panic!("{told}: who checks this?"),
            }
            checked += 1;
        }
    }
    assert!(checked > 80, "the pages have only {checked} commands");
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

/// What a page's placeholders stand for.
#[derive(Default)]
struct Reader {
    object: Option<String>,
    job: Option<String>,
}

impl Reader {
    /// The command with what the reader puts in; `N` is the primary of the job's quorum.
    fn fill(&self, net: &Net, word: &str) -> String {
        let known = |value: &Option<String>| value.clone().unwrap_or_else(|| panic!("no command gave a {word} before"));
        match word {
            "REF" => known(&self.object),
            "JOB" => known(&self.job),
            "N" => {
                let job = net.get(1, &format!("/v1/jobs/{}", known(&self.job)));
                let primary = job["primary"].as_str().expect("a primary").parse().expect("a peer id");
                net.testnet.index_of(primary).expect("a node of the testnet").to_string()
            }
            other => other.to_owned(),
        }
    }

    /// Remembers the reference that was printed first.
    fn keep_reference(&mut self, words: &[String], ran: &Ran) {
        let is_reference = |word: &&str, digits: usize| {
            let hex = |part: &str, digits| part.len() == digits && part.bytes().all(|b| b.is_ascii_hexdigit());
            word.split_once('.').is_some_and(|(quorum, local)| hex(quorum, 32) && hex(local, digits))
        };
        let printed = ran.stdout.split_whitespace().chain(ran.stderr.split_whitespace());
        match [words[0].as_str(), words[1].as_str()] {
            ["object", "put"] => self.object = printed.clone().find(|word| is_reference(word, 64)).map(str::to_owned),
            ["job", "submit"] => self.job = printed.clone().find(|word| is_reference(word, 32)).map(str::to_owned),
            _ => (),
        }
    }
}

/// Goal: whoever types a page from its top to its end is told of no failure. Method: each page on a testnet of its own.
#[test]
fn the_commands_of_every_page_run_in_their_order() {
    let mut played = Vec::new();
    for page in pages() {
        let commands = page.commands(false).into_iter().filter(|words| words[0] == "quorate");
        let commands: Vec<Vec<String>> = commands.map(|words| words[1..].to_vec()).collect();
        if commands.is_empty() {
            continue;
        }
        let net = Net::with(7, |options| options.testing = true);
        let folder = net.dir.path().join("reader");
        std::fs::create_dir(&folder).expect("a folder");
        for name in ["README.md", "examples"] {
            std::os::unix::fs::symlink(root().join(name), folder.join(name)).expect("a link");
        }
        let mut reader = Reader::default();
        for words in &commands {
            // The testnet of this test is up, and goes down with it.
            if words[0] == "testnet" && ["up", "down"].contains(&words[1].as_str()) {
                continue;
            }
            let mut words: Vec<String> = words.iter().map(|word| reader.fill(&net, word)).collect();
            let to = words.iter().position(|word| word == ">").map(|at| words.split_off(at)[1].clone());
            let run = || {
                let mut command = command();
                command.current_dir(&folder).env("XDG_DATA_HOME", &folder);
                command.env("QUORATE_TESTNET_DIR", net.testnet.dir()).args(&words);
                Ran::from(command.output().expect("the binary runs"))
            };
            println!("{}: {}", page.name, words.join(" "));
            let ran = match words[0].as_str() {
                // What the page broke before takes a moment to heal.
                "doctor" => wait("the network to be healthy", || Some(run()).filter(|ran| ran.code == 0)),
                _ => run().ok(),
            };
            if let Some(to) = to {
                std::fs::write(folder.join(to), &ran.stdout).expect("a file");
            }
            if words.len() > 1 {
                reader.keep_reference(&words, &ran);
            }
        }
        played.push(page.name);
    }
    for name in ["README.md", "docs/jobs.md", "docs/triggers.md", "docs/objects.md"] {
        assert!(played.iter().any(|played| played == name), "{name} has nothing to run: {played:?}");
    }
}

/// Goal: the tables of states are those that every quorum asks.
#[test]
fn the_states_of_a_job_are_drawn_from_the_tables() {
    let text = Page::named("docs/jobs.md").text;
    for (kind, table) in quorate_protocols::quorum::kinds::transition_tables() {
        assert!(text.contains(&table), "put the table of {kind} into docs/jobs.md:\n{table}");
    }
}

/// Goal: the examples are ones that a node takes. Method: each is read as `job submit` reads it.
#[test]
fn every_example_is_a_sound_specification() {
    let folder = root().join("examples");
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

/// Goal: a specification in a page can be copied. Method: each is read as `job submit` reads it, with its files there.
#[test]
fn every_specification_in_a_page_is_sound() {
    let mut found = 0;
    for page in pages() {
        for block in page.blocks().into_iter().filter(|block| block.info == "toml") {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let text = block.lines.join("\n");
            for name in text.split('"').filter(|word| word.ends_with(".wasm") || word.ends_with(".txt")) {
                std::fs::write(folder.path().join(name), "(module (func (export \"_start\")))").expect("a file");
            }
            let file = folder.path().join("spec.toml");
            std::fs::write(&file, &text).expect("a file");
            let ran = quorate(&["job", "validate", file.to_str().expect("a name")]);
            assert_eq!(ran.code, 0, "{}:\n{text}\n{}", page.name, ran.stderr);
            found += 1;
        }
    }
    assert!(found >= 3, "the pages have only {found} specifications");
}

/// Goal: the tables of keys have each key that a specification may have, and no other. Method: a key that is unknown in
/// each section, and what the error says that is accepted there.
#[test]
fn the_keys_of_a_specification_are_those_that_are_accepted() {
    let rows = ["docs/jobs.md", "docs/triggers.md"].map(|name| Page::named(name).rows("key"));
    let keys: BTreeSet<String> =
        rows.iter().flatten().map(|row| code(&row[0]).expect("a key stands in backticks").to_owned()).collect();
    let parent = |key: &str| key.rsplit_once('.').map_or("", |(parent, _)| parent).to_owned();
    let parents: BTreeSet<String> = keys.iter().map(|key| parent(key)).collect();
    assert!(parents.len() > 10, "{parents:?}");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("spec.toml");
    for section in parents {
        let unknown = if section.is_empty() { "zzzzzz".to_owned() } else { format!("{section}.zzzzzz") };
        let mut accepted = BTreeSet::new();
        for kind in ["wasm", "command"] {
            std::fs::write(&file, format!("kind = \"{kind}\"\n{unknown} = 1\n")).expect("a file");
            let said = quorate(&["job", "validate", file.to_str().expect("a name")]).stderr;
            let start = format!("`{unknown}` is not a setting; accepted here: ");
            let list = said.lines().find_map(|line| line.split_once(&start));
            // A command has no module, and so on: what one engine does not read the other does.
            let Some((_, list)) = list else { continue };
            accepted.extend(list.split(", ").map(|name| match section.as_str() {
                "" => name.to_owned(),
                section => format!("{section}.{name}"),
            }));
        }
        let documented: BTreeSet<String> = keys.iter().filter(|key| parent(key) == section).cloned().collect();
        assert_eq!(documented, accepted, "the keys of section {section:?}, as the pages have them and as a node does");
    }
}

/// Goal: the table of settings has each setting with its default, and no other.
#[test]
fn the_settings_of_a_node_are_those_that_it_prints() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let printed = quorate(&["node", "--print-config", "--dir", folder.path().to_str().expect("a name")]).ok().stdout;
    let sections: toml::Table = printed.parse().expect("it prints TOML");
    let settings: BTreeMap<String, toml::Value> = sections
        .into_iter()
        .flat_map(|(section, keys)| {
            let keys = keys.as_table().expect("a section").clone();
            keys.into_iter().map(move |(key, value)| (format!("{section}.{key}"), value))
        })
        .collect();
    let documented: BTreeMap<String, toml::Value> = Page::named("docs/operating.md")
        .rows("key")
        .iter()
        .map(|row| {
            let default = code(&row[1]).expect("a default stands in backticks");
            let value: toml::Table = format!("value = {default}").parse().expect("a default is TOML");
            (code(&row[0]).expect("a key stands in backticks").to_owned(), value["value"].clone())
        })
        .collect();
    assert_eq!(documented, settings);
}

/// Goal: the pages of the API have each route and each error, and no other.
#[test]
fn the_routes_and_errors_of_the_api_are_those_that_it_describes() {
    let description = serde_json::to_value(http::description(true)).expect("it is JSON");
    let page = Page::named("docs/api.md");
    let routes: BTreeSet<String> = description["paths"]
        .as_object()
        .expect("paths")
        .iter()
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().expect("methods").keys();
            methods.map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    let is_route = |span: &String| ["GET", "POST", "PUT", "DELETE"].iter().any(|m| span.starts_with(&format!("{m} /")));
    let mut documented: BTreeSet<String> = page.spans().into_iter().filter(is_route).collect();
    // It describes the others, and not itself.
    assert!(documented.remove("GET /openapi.json"));
    assert_eq!(documented, routes);

    let codes = description["components"]["schemas"]["ErrorCode"]["enum"].as_array().expect("codes");
    let codes: BTreeSet<String> = codes.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let mut documented = BTreeSet::from(["other".to_owned()]);
    for row in page.rows("error") {
        let name = code(&row[0]).expect("a code stands in backticks");
        let code: ErrorCode = serde_json::from_value(name.into()).expect("a code");
        assert_eq!(row[1], http::error::status(code).as_u16().to_string(), "{name}");
        documented.insert(name.to_owned());
    }
    assert_eq!(documented, codes);
}

/// Goal: the table of what a token may do has each verb that there is to give, in the words of the API.
#[test]
fn the_verbs_of_tokens_are_those_that_can_be_given() {
    let rows = Page::named("docs/operating.md").rows("verb");
    let documented: Vec<(String, String)> = rows
        .iter()
        .map(|row| (code(&row[0]).expect("a verb stands in backticks").to_owned(), row[1].clone()))
        .collect();
    let given: Vec<_> = quorate_api::Verb::grantable().map(|verb| (verb.name().to_owned(), verb.meaning())).collect();
    assert_eq!(documented, given);
    let help = quorate(&["token", "mint", "--help"]).ok().stdout;
    for (verb, _) in given {
        assert!(help.contains(&verb), "{verb} is not in the help");
    }
}

/// Goal: the guarantees name tests that there are. Method: a function of that name, anywhere in the tree.
#[test]
fn every_test_that_a_page_names_exists() {
    let mut sources = String::new();
    let mut folders: Vec<PathBuf> =
        ["cli", "daemon", "http", "modules", "protocols", "spec", "src", "testnet", "tests"]
            .map(|name| root().join(name))
            .into();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                sources.push_str(&std::fs::read_to_string(path).expect("a source is text"));
            }
        }
    }
    // Sentences of five words and more: nothing else in these pages is written so.
    let is_sentence = |span: &String| {
        span.matches('_').count() >= 4
            && span.chars().all(|c| c.is_ascii_lowercase() || c == '_')
            && !span.starts_with("quorate_")
    };
    let mut named = 0;
    for page in pages() {
        for name in page.spans().into_iter().filter(is_sentence) {
            assert!(sources.contains(&format!("fn {name}(")), "{}: there is no test {name}", page.name);
            named += 1;
        }
    }
    assert!(named > 50, "the pages name only {named} tests");
}

#[test]
fn protocols_and_metrics_are_those_of_the_tree() {
    let protocols = Page::named("docs/architecture.md").rows("protocol");
    let documented: BTreeSet<&str> = protocols.iter().filter_map(|row| code(&row[0])).collect();
    let spoken = [
        quorate_protocols::approval::limits::PROTOCOL,
        quorate_protocols::quorum::limits::RAFT_PROTOCOL,
        quorate_protocols::liveness::limits::PROTOCOL,
        quorate_protocols::job::limits::PROTOCOL,
        quorate_protocols::task::limits::PROTOCOL,
        quorate_protocols::piece::limits::PROTOCOL,
    ];
    // The hash table is libp2p's; its name is the network's own.
    assert_eq!(documented, spoken.into_iter().chain(["/quorate/kad/1"]).collect());

    let net = Net::up(4);
    net.put(1, &net.file("data", 100_000, 1));
    let measured = |node| {
        let client = net.client(node);
        let text =
            net.runtime.block_on(async { client.request(reqwest::Method::GET, "/metrics").send().await?.text().await });
        text.expect("the node answers")
    };
    // Those of a quorum are there where a member is.
    let measured: String = (1..=4).map(measured).collect();
    for page in pages() {
        for name in page.spans().into_iter().filter(|span| span.starts_with("quorate_")) {
            assert!(measured.contains(&format!("\n{name}")), "{}: no node measures {name}", page.name);
        }
    }
}

/// Every crate, every folder and file at its top is in the map, and every path that a page names exists.
#[test]
fn the_map_and_the_house_agree() {
    let map = Page::named("docs/architecture.md").text;
    let workspace = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = workspace.split_once("members = [").expect("members").1.split_once(']').expect("their end").0;
    for member in members.split('"').skip(1).step_by(2).filter(|member| *member != ".") {
        assert!(map.contains(&format!("| `{member}/` | crate `")), "the map does not name the crate {member}");
    }
    let rows = Page::named("docs/architecture.md").rows("crate");
    for member in members.split('"').skip(1).step_by(2).filter(|member| *member != ".") {
        let folder = [format!("{member}/src"), member.to_owned()].into_iter().find(|name| root().join(name).is_dir());
        let folder = folder.expect("a crate has sources");
        let whole = ["src", "protocols"].contains(&member);
        let row = rows.iter().find(|row| row[0] == format!("`{member}/`")).map(|row| row[1].as_str());
        for name in rooms_at_the_top(&root().join(&folder)) {
            let named = match row {
                Some(row) => row.contains(&format!("`{name}`")),
                // The core and the node have rows of their own for each room.
                None if whole => ["/", ".rs"].iter().any(|end| map.contains(&format!("`{folder}/{name}{end}`"))),
                None => panic!("the second table of docs/architecture.md has no row for {member}"),
            };
            assert!(named, "the map in docs/architecture.md does not name {name} of {folder}");
        }
    }
    let top: Vec<String> = std::fs::read_dir(root())
        .unwrap()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().unwrap().is_dir() && entry.file_name() != "target")
        .map(|entry| format!("{}/", entry.file_name().to_string_lossy()))
        .collect();
    for page in pages() {
        for span in page.spans().into_iter().filter(|span| top.iter().any(|top| span.starts_with(top))) {
            let path = span.split(' ').next().expect("a word");
            assert!(root().join(path).exists(), "{} names {path}, which is not there", page.name);
        }
    }
}

/// The modules right below a folder of sources, tests and roots of crates apart.
fn rooms_at_the_top(folder: &Path) -> BTreeSet<String> {
    let names = std::fs::read_dir(folder).expect("a folder of sources").map(|entry| {
        let entry = entry.expect("readable");
        let name = entry.file_name().into_string().expect("a name is text");
        match entry.file_type().expect("a type").is_dir() {
            // A crate of its own has a row of its own.
            true => Some(name).filter(|_| !entry.path().join("Cargo.toml").exists()),
            false => name.strip_suffix(".rs").map(str::to_owned),
        }
    });
    names.flatten().filter(|name| !["lib", "main", "tests"].contains(&name.as_str())).collect()
}

/// Headings as links name them.
fn anchors(text: &str) -> BTreeSet<String> {
    let slug = |heading: &str| {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
    };
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| slug(line.trim_start_matches('#').trim())).collect()
}

/// Goal: a reader gets from the README to every page, and no link leads nowhere.
#[test]
fn every_link_leads_somewhere_and_every_page_is_linked() {
    let pages = pages();
    let mut linked = BTreeSet::from(["README.md".to_owned(), "testnet/README.md".to_owned()]);
    for page in &pages {
        for target in page.text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.starts_with("http") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = match file {
                "" => PathBuf::from(&page.name),
                file => Path::new(&page.name).parent().expect("a folder").join(file),
            };
            let path = root().join(path).canonicalize();
            let path = path.unwrap_or_else(|_| panic!("{} links to {target}, which is not there", page.name));
            let path = if path.is_dir() { path.join("README.md") } else { path };
            let name = path.strip_prefix(root().canonicalize().unwrap()).expect("within the tree").to_str().unwrap();
            if let Some(to) = pages.iter().find(|page| page.name == name) {
                let found = anchor.is_empty() || anchors(&to.text).contains(anchor);
                assert!(found, "{} links to {target}, and there is no such heading", page.name);
            }
            linked.insert(name.to_owned());
        }
    }
    for page in &pages {
        assert!(linked.contains(&page.name), "no page links to {}", page.name);
    }
}

#[test]
fn the_readme_is_short_and_lines_of_prose_end() {
    assert!(Page::named("README.md").text.lines().count() <= 100, "the README is for the first five minutes");
    for page in pages() {
        for (number, line) in (1..).zip(page.text.lines()).filter(|(_, line)| !line.starts_with('|')) {
            assert!(line.chars().count() <= 120, "{}:{number} has more than 120 columns", page.name);
        }
    }
}
