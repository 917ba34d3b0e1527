//! Text that users type and programs send: the configuration, join lines, addresses, ids, JSON bodies.

use std::fmt::Display;
use std::str::FromStr;

use quorate_api as api;
use quorate_node::config::Config;
use quorate_node::config::address::{Bootstrap, PublicAddress};
use quorate_node::identity::JoinLine;
use quorate_protocols::ids::{JobId, ObjectId, PeerId, QuorumId};
use quorate_protocols::object::Profile;
use quorate_protocols::task::spec::Content;
use quorate_protocols::units::ByteSize;
use serde::de::DeserializeOwned;

use super::Target;
use crate::meter::{measure, metered};
use crate::trail::Trail;

const JOIN: &str =
    "quorate1-join:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff@192.168.1.4:7420,box:1";
const PEER: &str = "12D3KooWGjMCpYvNvXHLBSLxCC8PW6pGnAEdkEVB6JvQ1bVEtk3e";

const SETTINGS: [&str; 40] = [
    "kind",
    "\"wasm\"",
    "\"command\"",
    "module",
    "program",
    "args",
    "env",
    "inputs",
    "[map]\n",
    "[reduce]\n",
    "[compensate]\n",
    "[retry]\n",
    "[timeouts]\n",
    "[verify]\n",
    "[stragglers]\n",
    "[parameters]\n",
    "[quorum]\n",
    "[trigger]\n",
    "at",
    "every",
    "cron",
    "event",
    "condition",
    "after",
    "timezone",
    "where",
    "\"* * * * *\"",
    "2027-02-30T09:00:00Z",
    "queue(5)",
    "object",
    "inline",
    "file",
    "${a}",
    "$${",
    "}",
    "=",
    "99999999999999999999",
    "\"1 GiB\"",
    "\"1h\"",
    "\n",
];

const SPECS: [&str; 6] = [
    "engine = \"command\"\nprogram = \"ls\"\nargs = [\"${a}\"]\n[parameters]\na = \"${b}\"\nb = 1\n",
    "engine = \"wasm\"\nmodule = \"a.wat\"\ninputs.x = { inline = \"y\" }\n[map]\ncount = 5\n[reduce]\nfan_in = 2\n\
     [retry]\nbase = \"1s\"\non = [\"exit\"]\n[verify]\ncopies = 3\n",
    "engine = \"wasm\"\nmodule = { file = \"a\" }\non_failure = \"revert\"\n[compensate]\n[resources]\nmemory = \"1 GiB\"\n\
     [timeouts]\nrun = \"1h\"\n[stragglers]\ndone_percent = 9\n",
    "engine = \"command\"\nprogram = \"ls\"\n[trigger]\ncron = [\"0 9 * * MON\"]\ntimezone = \"UTC\"\nmissed = \"catch_up(3)\"\n",
    "engine = \"command\"\nprogram = \"ls\"\n[trigger]\nevent = { name = \"a\", where = \"data.x > 1\" }\noverlap = \"queue(2)\"\n",
    "engine = \"command\"\nprogram = \"ls\"\n[trigger]\ncondition = { source = { metric = \"m\" }, when = \"value > 1\" }\n",
];

pub fn targets() -> Vec<Target> {
    let keys = [
        "[network]",
        "[api]",
        "[node]",
        "[resources]",
        "[quorum]",
        "[objects]",
        "[log]",
        "listen",
        "announce",
        "bootstrap",
        "quic",
        "allow_peers",
        "labels",
        "kinds",
        "disk_max",
        "slots",
        "voters",
        "filter",
        "=",
        "\"",
        "[[",
        "{",
        "'''",
        "#",
        "\n",
        "auto",
        "99999999999999999999",
        "-1",
        "1e999",
        "nan",
        "1979-05-27T07:32:00Z",
        "10 GiB",
        "90s",
        "\\uD800",
        "\u{feff}",
        "\0",
    ];
    let quorum = "00112233445566778899aabbccddeeff";
    let ids = [quorum, ".", ":", "-", "00", "Q", "12D3KooW"];
    let addresses = ["/ip4/", "/ip6/::1", "/tcp/", "/udp/", "/quic-v1", "/p2p/", "/dns/", ":", "[::1]", "65536", PEER];
    let json = ["{", "}", "[", "]", ":", ",", "\"", "null", "1e999", "-1", "18446744073709551616", "\\ud800", "true"];
    vec![
        Target::text("config", &keys, config).with_seeds([Config::default_toml()]),
        Target::text("job-spec", &SETTINGS, job_spec).with_seeds(SPECS),
        Target::text("join-line", &["quorate1-join:", "@", ",", ":", "7420", "/ip4/", "/p2p/"], |text| {
            reads_back::<JoinLine>(text)
        })
        .with_seeds([JOIN]),
        Target::text("address", &addresses, |text| {
            let mut trail = Trail::default();
            trail.mark(("bootstrap", metered(text.len(), || text.parse::<Bootstrap>()).is_ok()));
            trail.mark(("public", metered(text.len(), || text.parse::<PublicAddress>()).is_ok()));
            trail
        })
        .with_seeds([
            "192.168.1.4:7420",
            "box.example.org:1",
            "[::1]:9",
            &format!("/ip4/1.2.3.4/tcp/7420/p2p/{PEER}"),
        ]),
        Target::text("ids", &ids, ids_and_units).with_seeds([
            quorum,
            &format!("{quorum}.{quorum}"),
            &format!("{quorum}.{quorum}{quorum}"),
            PEER,
            "4+2",
            "10 GiB",
        ]),
        Target::text("json-bodies", &json, bodies).with_seeds([
            r#"{"outstanding":512,"seconds":10}"#,
            r#"{"code":"bad_request","message":"no","hint":"do","details":null}"#,
            r#"{"items":[],"unreachable":[{"quorum":"00112233445566778899aabbccddeeff","reason":"x"}]}"#,
            r#"{"voters":3}"#,
        ]),
    ]
}

/// TOML is read into a tree before anything is known of its keys, so more is allocated than for a message.
fn config(text: &str) -> Trail {
    let mut trail = Trail::default();
    let (read, largest, allocated) = measure(|| Config::parse(text, "quorate.toml"));
    let bound = 1024 * text.len() + 4 * 1024 * 1024;
    assert!(
        largest <= bound && allocated <= 8 * bound,
        "{largest} bytes at once, {allocated} in all for {}",
        text.len()
    );
    match read {
        // What was read can be written, and means the same.
        Ok(config) => {
            assert_eq!(Config::parse(&config.to_toml(), "again").as_ref().ok(), Some(&config));
            trail.mark_words("read", &config.to_toml());
        }
        Err(error) => trail.mark_words("refused", &error.to_string()),
    }
    trail
}

/// What is read is sound once its contents are there.
fn job_spec(text: &str) -> Trail {
    let mut trail = Trail::default();
    let (read, largest, allocated) = measure(|| quorate_spec::read(text, "spec.toml", &[]));
    let bound = 1024 * text.len() + 4 * 1024 * 1024;
    assert!(
        largest <= bound && allocated <= 8 * bound,
        "{largest} bytes at once, {allocated} in all for {}",
        text.len()
    );
    if let Ok(read) = &read {
        trail.mark(("trigger", read.trigger().map(|trigger| trigger.name())));
    }
    let built = read.and_then(|read| read.build(|_| Ok(Content::Inline(bytes::Bytes::from_static(b"x")))));
    match built {
        Ok(spec) => {
            let spec = spec.as_batch().expect("no file makes a job that stores");
            assert_eq!(spec.check(), Ok(()));
            trail.mark((
                spec.reduce.is_some(),
                spec.compensate.is_some(),
                spec.verify.is_some(),
                spec.call.inputs.len(),
            ));
        }
        Err(error) => {
            assert!(!error.faults.is_empty());
            error.faults.iter().for_each(|fault| trail.mark_words("fault", &fault.problem));
        }
    }
    trail
}

fn reads_back<T: FromStr<Err: Display> + Display + PartialEq>(text: &str) -> Trail {
    let mut trail = Trail::default();
    match metered(text.len(), || text.parse::<T>()) {
        Ok(value) => {
            let written = value.to_string();
            assert!(written.parse::<T>().is_ok_and(|again| again == value), "{text:?} is written as {written:?}");
            trail.mark(("read", written.len()));
        }
        Err(error) => trail.mark_words("refused", &error.to_string()),
    }
    trail
}

fn ids_and_units(text: &str) -> Trail {
    let mut trail = Trail::default();
    for (index, one) in [
        reads_back::<QuorumId>(text),
        reads_back::<JobId>(text),
        reads_back::<ObjectId>(text),
        reads_back::<PeerId>(text),
        reads_back::<Profile>(text),
    ]
    .iter()
    .enumerate()
    {
        one.marks().for_each(|mark| trail.mark((index, mark)));
    }
    // A size is written rounded, so it need not read back; it must not overflow.
    trail.mark(("size", metered(text.len(), || text.parse::<ByteSize>()).is_ok()));
    trail
}

/// Every JSON document of the API, in both directions.
fn bodies(text: &str) -> Trail {
    let mut trail = Trail::default();
    let mut body = |name: &'static str, read: fn(&str) -> Result<(), serde_json::Error>| match metered(
        text.len(),
        || read(text),
    ) {
        Ok(()) => trail.mark((name, "read")),
        Err(error) => trail.mark_words(name, &error.to_string()),
    };
    body("bench-commit", read::<api::BenchCommit>);
    body("bench-form", read::<api::BenchForm>);
    body("error", read::<api::ErrorBody>);
    body("event", read::<api::EventInfo>);
    body("job", read::<api::JobInfo>);
    body("jobs", read::<api::Listing<api::JobInfo>>);
    body("node", read::<api::NodeInfo>);
    body("object", read::<api::ObjectInfo>);
    body("put", read::<api::PutUpdate>);
    body("quorum", read::<api::QuorumDetail>);
    body("testnet", read::<quorate_testnet::TestnetUp>);
    trail
}

fn read<T: DeserializeOwned>(text: &str) -> Result<(), serde_json::Error> {
    serde_json::from_str::<T>(text).map(drop)
}
