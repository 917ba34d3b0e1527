//! The command line as typed, and its words.

use clap::{CommandFactory, Parser};
use quorate_bench::Through;

use super::args::{Args, BenchCommand, Command, ObjectCommand, TestnetCommand};
use super::failure::{FAILED, Failure, NO_NODE, USAGE};
use super::find::NodeChoice;
use super::output::table;

fn parse(line: &str) -> Result<Args, String> {
    Args::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string())
}

#[test]
fn the_definition_holds_together() {
    Args::command().debug_assert();
}

#[test]
fn global_options_stand_before_or_behind_the_command() {
    for line in ["quorate --node 3 --json peers", "quorate peers --json --node 3"] {
        let args = parse(line).unwrap();
        assert_eq!(args.common.node, Some(NodeChoice::Index(3)));
        assert!(args.common.json);
        assert!(matches!(args.command, Some(Command::Peers { .. })));
    }
    let args = parse("quorate --peers --node 3").unwrap();
    assert!(args.peers && args.command.is_none());
    let args = parse("quorate testnet kill 4 --dir /tmp/x").unwrap();
    assert!(matches!(args.command, Some(Command::Testnet(TestnetCommand::Kill { index: 4 }))));
    assert_eq!(args.common.dir.as_deref(), Some(std::path::Path::new("/tmp/x")));
}

#[test]
fn values_are_checked_before_anyone_is_asked() {
    for (line, word) in [
        ("quorate object get nonsense -o x", "nonsense"),
        ("quorate object put f --profile 4711", "4+2"),
        ("quorate object get abababab --range 5", "FIRST-LAST"),
        ("quorate object get abababab --range 7-3", "ends before it begins"),
        ("quorate object get abababab --range +1-3", "FIRST-LAST"),
        ("quorate object get abababab --range 1-3,5-6", "FIRST-LAST"),
        ("quorate peers --node somewhere", "testnet node"),
        ("quorate bench objects --size much", "256MiB"),
        ("quorate bench jobs --through leader", "outsider"),
        ("quorate bench jobs --runs 0", "--runs"),
        ("quorate testnet kill", "Usage"),
    ] {
        let error = parse(line).expect_err(line);
        assert!(error.contains(word), "{line}: {error}");
    }
    let objects = parse("quorate bench objects --size 2GiB,1KiB --runs 7").unwrap().command;
    let Some(Command::Bench(BenchCommand::Objects { size, repeated, .. })) = objects else { panic!("a bench") };
    assert_eq!((size, repeated.runs), (vec![2 << 30, 1 << 10], 7));
    let jobs = parse("quorate bench jobs --through outsider").unwrap().command;
    let Some(Command::Bench(BenchCommand::Jobs { through, outstanding, one_trip, .. })) = jobs else {
        panic!("a bench")
    };
    assert_eq!((through.through, outstanding, one_trip), (Some(Through::Outsider), vec![1, 64, 256], false));
    let Some(Command::Object(ObjectCommand::Get(get))) =
        parse("quorate object get abababab --range -5 -o -").unwrap().command
    else {
        panic!("a get");
    };
    assert_eq!(get.range.as_deref(), Some("-5"));
    let whole = "quorate object get abababab --range 0-18446744073709551615 -o -";
    assert!(parse(whole).is_ok(), "to the end, as HTTP clients write it");
    let Some(Command::Bench(BenchCommand::Commit { outstanding, .. })) = parse("quorate bench commit").unwrap().command
    else {
        panic!("a bench");
    };
    assert_eq!(outstanding, [1, 64, 512]);
}

#[test]
fn failures_say_what_to_do_next() {
    use quorate_testnet::{ClientError, LayoutError, TestnetError};
    let cases: [(Failure, u8, &str); 4] = [
        (
            ClientError::NoAnswer { url: "http://127.0.0.1:1".into(), reason: "connection refused".into() }.into(),
            NO_NODE,
            "error: no node answers at http://127.0.0.1:1: connection refused\n  start it with `quorate node`, or a \
             testnet with `quorate testnet up`; --node chooses another",
        ),
        (
            ClientError::Refused {
                status: 404,
                error: "not-found".into(),
                message: "no such thing".into(),
                hint: Some("look elsewhere".into()),
            }
            .into(),
            FAILED,
            "error: no such thing\n  look elsewhere",
        ),
        (
            LayoutError::NoNode { index: 9, nodes: 4 }.into(),
            USAGE,
            "error: there is no node 9: this testnet has nodes 1 to 4",
        ),
        (
            TestnetError::Layout(LayoutError::NoNode { index: 9, nodes: 4 }).into(),
            FAILED,
            "error: there is no node 9: this testnet has nodes 1 to 4",
        ),
    ];
    for (failure, code, text) in cases {
        assert_eq!(failure.to_string(), text);
        assert_eq!(failure.code, code);
    }
}

#[test]
fn tables_keep_ids_whole() {
    let id = "ab".repeat(48);
    let text = table(&["object", "size"], [vec![id.clone(), "1 B".to_owned()], vec!["x".into(), "2 B".into()]]);
    let text = text.as_str();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with("OBJECT") && lines[1].starts_with(&id), "{text}");
    assert_eq!(lines[1].find("1 B"), lines[2].find("2 B"), "{text}");
}

/// Text that would colour, move, retitle, reverse and make up a row.
const HOSTILE: &str = "evil\u{1b}[31m\u{1b}]0;title\u{7}\u{9b}2J\r\n00000000 made-up row\t\u{202e}\u{200b}\u{2028}";

/// Goal: whatever is printed for people, one thing is one line, and nothing in it acts on a terminal. Method: hostile
/// text through every way to make a text.
#[test]
fn text_of_others_neither_acts_nor_makes_up_rows() {
    use super::output::{Text, facts};
    let safe = |text: &Text, lines: usize| {
        let text = text.as_str();
        assert!(!text.chars().any(|c| c != '\n' && super::escape::is_unsafe(c)), "{text:?}");
        assert_eq!(text.lines().count(), lines, "{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("00000000")), "{text:?}");
    };
    let hostile = HOSTILE.to_owned();
    safe(&Text::from(HOSTILE), 1);
    safe(&table(&["name", "why"], [vec![hostile.clone(), hostile.clone()], vec!["x".into(), "y".into()]]), 3);
    safe(&facts(&[("name", hostile.clone()), ("why", hostile.clone())]), 2);
    safe(&Text::lines([hostile.clone(), hostile.clone()]).below(HOSTILE).and(HOSTILE), 5);
    let failure = Failure::failed(HOSTILE).hint(HOSTILE).and_hint(HOSTILE);
    safe(&failure.text(), 3);
    let refused = quorate_testnet::ClientError::Refused {
        status: 409,
        error: "conflict".into(),
        message: hostile.clone(),
        hint: Some(hostile.clone()),
    };
    safe(&Failure::from(refused).text(), 2);
    let common = super::Common { dir: Some(HOSTILE.into()), ..super::Common::default() };
    safe(&super::advice::complete(&common, &Text::from(format!("`quorate peers` {HOSTILE}"))), 1);
    let bar = indicatif::ProgressBar::hidden();
    super::output::set_message(&bar, HOSTILE);
    assert!(!bar.message().chars().any(super::escape::is_unsafe), "{:?}", bar.message());
    // What is shown for its own sake keeps its lines, and nothing else.
    let shown = Text::paragraphs("a\n\tb\u{1b}[0m\u{202e}");
    assert_eq!(shown.as_str(), "a\n\tb\\u{1b}[0m\\u{202e}");
}

/// Goal: a reader that has gone away is nothing to tell, and does not make a failure a success.
#[test]
fn a_reader_that_has_gone_decides_nothing_else() {
    use super::failure::unless_reader_gone;
    assert_eq!(Failure::reader_gone().code, 0);
    assert!(unless_reader_gone(Err(Failure::reader_gone())).is_ok());
    assert!(unless_reader_gone(Err(Failure::failed("a full disk"))).is_err());
    assert!(super::output::stdout_failure(&std::io::Error::from(std::io::ErrorKind::BrokenPipe)).is_reader_gone());
    let full = super::output::stdout_failure(&std::io::Error::from(std::io::ErrorKind::StorageFull));
    assert_eq!(full.code, FAILED);
}

#[test]
fn bytes_are_escaped_for_a_terminal_alone_and_raw_wins() {
    use super::output::Payload;
    for (raw, is_terminal, escaped) in [(false, true, true), (true, true, false), (false, false, false)] {
        assert_eq!(Payload::new(raw, is_terminal).is_escaped(), escaped, "raw: {raw}, a terminal: {is_terminal}");
    }
}
