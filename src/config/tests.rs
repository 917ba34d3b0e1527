use quorate_protocols::ids::Millis;

use super::commands::Submitters;
use super::*;

fn fault(text: &str) -> String {
    Config::parse(text, "quorate.toml").unwrap_err().to_string()
}

#[test]
fn the_default_file_reads_as_the_defaults() {
    let text = Config::default_toml();
    assert_eq!(Config::parse(&text, "default").unwrap(), Config::default(), "{text}");
    assert_eq!(Config::parse("", "empty").unwrap(), Config::default());
}

/// Goal: both settings of trust act. What trust does is tested where peers are chosen.
#[test]
fn listed_peers_and_authorities_are_whom_a_node_relies_on() {
    let (peer, stranger) = (PeerId([5; 32]), PeerId([6; 32]));
    let trust = |network: NetworkSection| network.trust().check(stranger, None, Millis(0)).is_ok();
    assert!(trust(NetworkSection::default()), "everybody");
    let one = BTreeSet::from([peer]);
    assert!(!trust(NetworkSection { trusted_peers: one.clone(), ..NetworkSection::default() }));
    assert!(!trust(NetworkSection { authorities: one.clone(), ..NetworkSection::default() }));
    let listed = NetworkSection { trusted_peers: one, ..NetworkSection::default() };
    assert!(listed.trust().check(peer, None, Millis(0)).is_ok());
}

/// Goal: no setting is forgotten in the file that `init` writes, and none is lost on the way through it.
/// Method: every setting takes a value other than its default, is written, and is read back.
#[test]
fn every_setting_survives_the_file() {
    let peer = PeerId([5; 32]);
    let config = Config {
        network: NetworkSection {
            listen: "[::1]:9000".parse().unwrap(),
            announce: vec!["box.example.org:7420".parse().unwrap()],
            bootstrap: vec![
                "10.0.0.1:7420".parse().unwrap(),
                format!("/ip4/10.0.0.2/tcp/1/p2p/{peer}").parse().unwrap(),
            ],
            mdns: false,
            quic: true,
            allow_peers: BTreeSet::from([peer]),
            trusted_peers: BTreeSet::from([peer]),
            authorities: BTreeSet::from([peer]),
            connections_max: 99,
        },
        api: ApiSection {
            listen: "0.0.0.0:0".parse().unwrap(),
            allow_remote: true,
            connections_max: 9,
            stall_max: Duration::from_secs(33),
        },
        node: NodeSection {
            name: Some("attic, the \"old\" one".to_owned()),
            labels: BTreeMap::from([("site".to_owned(), "the \"attic\"".to_owned())]),
            operators: BTreeSet::from([peer]),
            roles: BTreeSet::new(),
            drain: true,
        },
        resources: ResourcesSection {
            disk_max: Some(ByteSize(10 << 30)),
            memory_max: Some(ByteSize(100_000_001)),
            slots: Some(3),
            module_cache_max: ByteSize(0),
        },
        quorum: QuorumSection { voters: 5, replace_grace: Duration::from_secs(90) },
        objects: ObjectsSection {
            audit_interval: Duration::from_secs(61),
            repair_interval: Duration::from_secs(2),
            lease: Duration::from_secs(700),
        },
        commands: BTreeMap::from([(
            "convert.v2".to_owned(),
            AllowedCommand {
                path: "/opt/a \"b\"/convert".into(),
                args: vec!["-limit".to_owned(), "'x'\n".to_owned()],
                submitters: Submitters { network: true, peers: BTreeSet::from([peer]) },
                env: BTreeSet::from(["LANG".to_owned()]),
            },
        )]),
        conditions: ConditionsSection {
            hosts: BTreeSet::from(["api.example.org".parse().unwrap(), "[::1]:8080".parse().unwrap()]),
            authorities: Some("/etc/quorate/authorities.pem".into()),
        },
        log: LogSection { filter: "warn,quorate=debug".to_owned() },
    };
    let text = config.to_toml();
    assert_eq!(Config::parse(&text, "rendered").unwrap(), config, "{text}");
}

#[test]
fn a_refused_value_names_file_line_key_and_what_is_accepted() {
    assert_eq!(
        fault("[network]\nmdns = true\nconnections_max = 3\n"),
        "quorate.toml:3: `network.connections_max` is 3, but a whole number from 8 to 100000 is needed"
    );
    let cases = [
        ("[quorum]\nvoters = 4", "`quorum.voters` is 4, but an odd number (3, 5 or 7)"),
        ("[quorum]\nvoters = 9", "`quorum.voters` is 9, but a whole number from 3 to 7"),
        ("[quorum]\nreplace_grace = \"1M\"", "`quorum.replace_grace` is \"1M\": \"M\" has no fixed length: write days"),
        ("[quorum]\nreplace_grace = \"1ms\"", "`quorum.replace_grace` is \"1ms\", but a time from 1s to 7days"),
        ("[resources]\ndisk_max = \"10 GB\"", "\"auto\" or a size of at least 64 MiB"),
        ("[resources]\nslots = 0", "\"auto\" or a whole number from 1 to 4096"),
        ("[api]\nlisten = \"0.0.0.0:1\"", "a loopback address"),
        ("[network]\nlisten = \"here\"", "an IP address and port"),
        ("[network]\nbootstrap = [\"::::\"]", "host:port or a multiaddr"),
        ("[network]\nquic = true", "`network.allow_peers`"),
        ("[network]\nallow_peers = [\"bob\"]", "a peer id"),
        ("[node]\nroles = [\"magic\"]", "`node.roles.0` is \"magic\", but one of \"store\", \"wasm\", \"command\""),
        ("[node]\nname = \"\"", "`node.name` is \"\", but \"auto\" or 1 to 64 bytes"),
        ("[node]\nname = \"a\\u001b[31m\"", "without control characters"),
        ("[node]\nlabels = { a = \"\" }", "keys and values of 1 to 64 bytes"),
        ("[objects]\nlease = \"2h\"", "a time from 10s to 1h"),
        ("[commands]\na = { path = \"cat\", submitters = [] }", "`commands.a.path` is \"cat\", but an absolute path"),
        ("[commands]\na = { path = \"/bin/cat\", submitters = [] }", "`commands.a.submitters` is 0 entries long"),
        (
            "[commands]\na = { path = \"/bin/cat\", submitters = [\"bob\"] }",
            "`commands.a.submitters.0` is \"bob\", but a peer id, or \"network\"",
        ),
        (
            "[commands]\na = { path = \"/x\", submitters = [], env = [\"LD_PRELOAD\"] }",
            "`commands.a.env.0` is \"LD_PRELOAD\"",
        ),
        ("[commands]\na = { submitters = [] }", "`commands.a.path` is missing: an absolute path"),
        (
            "[commands]\n\"a b\" = { path = \"/x\", submitters = [] }",
            "`commands.a b` is \"a b\", but a name of 1 to 64 letters",
        ),
        ("[conditions]\nhosts = [\"a/b\"]", "`conditions.hosts.0`"),
        ("[conditions]\nauthorities = \"ca.pem\"", "the absolute path of a file of certificates"),
        ("[log]\nfilter = \"\"", "`log.filter` is \"\", but a level"),
    ];
    for (text, expected) in cases {
        let error = fault(text);
        assert!(error.starts_with("quorate.toml:2: ") && error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn unknown_keys_and_wrong_types_are_named_with_their_line() {
    let error = fault("[network]\n\nlissten = \"0.0.0.0:1\"\n");
    assert!(error.starts_with("quorate.toml:3: ") && error.contains("did you mean `network.listen`?"), "{error}");
    let error = fault("[network]\nlisten = 7420\n");
    assert!(error.starts_with("quorate.toml:2: ") && error.contains("an IP address and port"), "{error}");
    let error = fault("[network\n");
    assert!(error.starts_with("quorate.toml:1: "), "{error}");
    // Fault injection is never switched on by a file.
    assert!(fault("testing = true\n").contains("testing"));
}

/// Goal: who edits the file by hand is told of every mistake in it, in the order of the lines.
#[test]
fn every_mistake_is_told_at_once() {
    let error = fault("[log]\nfilter = 3\n[quorum]\nvoters = 4\n[network]\nmdns = \"yes\"\nlissten = \"x\"\n");
    let told: Vec<_> = error.lines().map(|line| line.split_once(": ").unwrap().0).collect();
    assert_eq!(told, ["quorate.toml:2", "quorate.toml:4", "quorate.toml:6", "quorate.toml:7"], "{error}");
}

#[test]
fn a_folder_without_a_configuration_says_how_to_get_one() {
    let dir = tempfile::tempdir().unwrap();
    let error = load(dir.path()).unwrap_err();
    assert!(error.to_string().contains("quorate init"), "{error}");
    std::fs::write(dir.path().join(FILE_NAME), Config::default_toml()).unwrap();
    assert_eq!(load(dir.path()).unwrap(), Config::default());
}
