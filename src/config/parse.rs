//! The reader of settings: each section's keys, and what they may be.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use quorate_protocols::directory::check_name;
use quorate_protocols::directory::limits::{LABEL_BYTES_MAX, LABELS_MAX, NAME_BYTES_MAX};
use quorate_protocols::engine::NodeRole;
use quorate_protocols::ids::PeerId;
use quorate_protocols::units::ByteSize;
use quorate_protocols::{approval, quorum};
use quorate_tables::{Faults, Reader, Table, quoted, set};

use super::{
    ApiSection, ConditionsSection, Config, ConfigError, LogSection, NetworkSection, NodeSection, ObjectsSection,
    QuorumSection, ResourcesSection, commands,
};

/// As many of each as a person would write by hand; the network's own bounds are elsewhere.
const BOOTSTRAP_MAX: usize = 64;
const ANNOUNCE_MAX: usize = 8;
const PEERS_MAX: usize = 1_000;
const HOSTS_MAX: usize = 256;

/// Least of what a node may be told to lend.
const LENT_MIN: ByteSize = ByteSize(64 << 20);

const SECTIONS: [&str; 9] =
    ["network", "api", "node", "resources", "quorum", "objects", "commands", "conditions", "log"];

pub(super) fn parse(text: &str, file: &str) -> Result<Config, ConfigError> {
    let wrong = |faults| Faults { file: file.to_owned(), faults };
    let (mut reader, document) = Reader::parse(text).map_err(|fault| wrong(vec![fault]))?;
    let root = reader.open("", document.get_ref(), &SECTIONS);
    let mut config = Config::default();
    read_network(&mut reader, &root, &mut config.network);
    read_api(&mut reader, &root, &mut config.api);
    read_node(&mut reader, &root, &mut config.node);
    read_resources(&mut reader, &root, &mut config.resources);
    read_quorum(&mut reader, &root, &mut config.quorum);
    read_objects(&mut reader, &root, &mut config.objects);
    config.commands = commands::read(&mut reader, &root);
    read_conditions(&mut reader, &root, &mut config.conditions);
    read_log(&mut reader, &root, &mut config.log);
    let mut faults = reader.faults;
    faults.sort_by_key(|fault| fault.line);
    if faults.is_empty() { Ok(config) } else { Err(wrong(faults).into()) }
}

fn read_network(reader: &mut Reader, root: &Table<'_>, network: &mut NetworkSection) {
    let keys = [
        "listen",
        "announce",
        "bootstrap",
        "mdns",
        "quic",
        "allow_peers",
        "trusted_peers",
        "authorities",
        "connections_max",
    ];
    let Some(table) = root.table(reader, "network", &keys) else { return };
    set(&mut network.listen, table.parsed(reader, "listen", "an IP address and port, such as \"0.0.0.0:7420\""));
    let public = "a host and port, such as \"box.example.org:7420\"";
    set(&mut network.announce, table.parsed_list(reader, "announce", ANNOUNCE_MAX, public));
    let bootstrap = "host:port or a multiaddr, such as \"192.168.1.4:7420\"";
    set(&mut network.bootstrap, table.parsed_list(reader, "bootstrap", BOOTSTRAP_MAX, bootstrap));
    set(&mut network.mdns, table.flag(reader, "mdns"));
    set(&mut network.allow_peers, peers(reader, &table, "allow_peers"));
    set(&mut network.trusted_peers, peers(reader, &table, "trusted_peers"));
    set(&mut network.authorities, peers(reader, &table, "authorities"));
    set(&mut network.quic, table.flag(reader, "quic"));
    if network.quic && network.allow_peers.is_empty() {
        let needed = "a list in `network.allow_peers` (QUIC has no place for the network's secret, so without the list \
                      anyone could join)";
        table.refuse(reader, "quic", true, needed);
    }
    let connections = table.number(reader, "connections_max", 8..=100_000);
    set(&mut network.connections_max, connections.map(|connections| connections as u32));
}

fn read_api(reader: &mut Reader, root: &Table<'_>, api: &mut ApiSection) {
    let Some(table) = root.table(reader, "api", &["listen", "allow_remote", "connections_max", "stall_max"]) else {
        return;
    };
    set(&mut api.allow_remote, table.flag(reader, "allow_remote"));
    set(&mut api.listen, table.parsed(reader, "listen", "an IP address and port, such as \"127.0.0.1:7421\""));
    if !api.listen.ip().is_loopback() && !api.allow_remote {
        let needed = "a loopback address such as \"127.0.0.1:7421\" (or `api.allow_remote = true`: the API is HTTP \
                      without encryption, so put a proxy with TLS in front of it)";
        table.refuse(reader, "listen", quoted(&api.listen.to_string()), needed);
    }
    let connections = table.number(reader, "connections_max", 8..=10_000);
    set(&mut api.connections_max, connections.map(|connections| connections as u32));
    let stalls = Duration::from_secs(1)..=Duration::from_secs(3600);
    set(&mut api.stall_max, table.duration(reader, "stall_max", stalls));
}

fn read_node(reader: &mut Reader, root: &Table<'_>, node: &mut NodeSection) {
    let Some(table) = root.table(reader, "node", &["name", "labels", "operators", "roles", "drain"]) else { return };
    let needed = format!("\"auto\" or 1 to {NAME_BYTES_MAX} bytes without control characters");
    if let Some(name) = table.text(reader, "name", &needed).filter(|name| name != "auto") {
        match check_name(&name) {
            Ok(()) if !name.trim().is_empty() => node.name = Some(name),
            _ => table.refuse(reader, "name", quoted(&name), needed),
        }
    }
    if let Some(labels) = table.pairs(reader, "labels") {
        let fits = |text: &str| !text.is_empty() && text.len() <= LABEL_BYTES_MAX;
        if labels.len() > LABELS_MAX {
            table.refuse(reader, "labels", format!("{} entries long", labels.len()), format!("at most {LABELS_MAX}"));
        } else if let Some((key, value)) = labels.iter().find(|(key, value)| !fits(key) || !fits(value)) {
            let found = format!("{{ {} = {} }}", quoted(key), quoted(value));
            table.refuse(reader, "labels", found, format!("keys and values of 1 to {LABEL_BYTES_MAX} bytes"));
        }
        node.labels = labels;
    }
    set(&mut node.operators, peers(reader, &table, "operators"));
    if let Some(entries) = table.list(reader, "roles", "a list of roles") {
        node.roles.clear();
        for entry in entries {
            let Some(text) = entry.text(reader) else { continue };
            match NodeRole::ALL.into_iter().find(|role| role.name() == text) {
                Some(role) => {
                    node.roles.insert(role);
                }
                None => {
                    let known = NodeRole::ALL.map(|role| quoted(role.name())).join(", ");
                    entry.refuse(reader, quoted(&text), &format!("one of {known}"));
                }
            }
        }
    }
    set(&mut node.drain, table.flag(reader, "drain"));
}

fn read_resources(reader: &mut Reader, root: &Table<'_>, resources: &mut ResourcesSection) {
    let keys = ["disk_max", "memory_max", "slots", "module_cache_max"];
    let Some(table) = root.table(reader, "resources", &keys) else { return };
    resources.disk_max = size_or_auto(reader, &table, "disk_max");
    resources.memory_max = size_or_auto(reader, &table, "memory_max");
    resources.slots = table.number_or_auto(reader, "slots", 1..=4096).map(|slots| slots as u32);
    let needed = "a size such as \"1 GiB\", or \"0 B\" to keep none";
    set(&mut resources.module_cache_max, table.parsed(reader, "module_cache_max", needed));
}

fn read_quorum(reader: &mut Reader, root: &Table<'_>, quorum: &mut QuorumSection) {
    let Some(table) = root.table(reader, "quorum", &["voters", "replace_grace"]) else { return };
    let range = quorum::limits::VOTERS_MIN as u64..=quorum::limits::VOTERS_MAX as u64;
    match table.number(reader, "voters", range) {
        Some(even) if even % 2 == 0 => table.refuse(reader, "voters", even, "an odd number (3, 5 or 7)"),
        voters => set(&mut quorum.voters, voters.map(|voters| voters as usize)),
    }
    let grace = Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3600);
    set(&mut quorum.replace_grace, table.duration(reader, "replace_grace", grace));
}

fn read_objects(reader: &mut Reader, root: &Table<'_>, objects: &mut ObjectsSection) {
    let Some(table) = root.table(reader, "objects", &["audit_interval", "repair_interval", "lease"]) else { return };
    let intervals = Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);
    set(&mut objects.audit_interval, table.duration(reader, "audit_interval", intervals.clone()));
    set(&mut objects.repair_interval, table.duration(reader, "repair_interval", intervals));
    let leases = Duration::from_secs(10)..=approval::limits::LEASE_DURATION_MAX;
    set(&mut objects.lease, table.duration(reader, "lease", leases));
}

fn read_conditions(reader: &mut Reader, root: &Table<'_>, conditions: &mut ConditionsSection) {
    let Some(table) = root.table(reader, "conditions", &["hosts", "authorities"]) else { return };
    let host = "a host with or without a port, such as \"api.example.org\" or \"127.0.0.1:8080\"";
    let hosts = table.parsed_list(reader, "hosts", HOSTS_MAX, host);
    set(&mut conditions.hosts, hosts.map(BTreeSet::from_iter));
    let needed = "the absolute path of a file of certificates, such as \"/etc/quorate/authorities.pem\"";
    if let Some(path) = table.text(reader, "authorities", needed).filter(|path| !path.is_empty()) {
        match Path::new(&path) {
            file if file.is_absolute() => conditions.authorities = Some(file.to_owned()),
            _ => table.refuse(reader, "authorities", quoted(&path), needed),
        }
    }
}

fn read_log(reader: &mut Reader, root: &Table<'_>, log: &mut LogSection) {
    let Some(table) = root.table(reader, "log", &["filter"]) else { return };
    let needed = "a level (error, warn, info, debug or trace), or pairs such as \"info,quorate=debug\"";
    let Some(filter) = table.text(reader, "filter", needed) else { return };
    // An empty one would log nothing at all.
    if filter.trim().is_empty() || filter.parse::<tracing_subscriber::EnvFilter>().is_err() {
        return table.refuse(reader, "filter", quoted(&filter), needed);
    }
    log.filter = filter;
}

fn peers(reader: &mut Reader, table: &Table<'_>, key: &str) -> Option<BTreeSet<PeerId>> {
    table.parsed_list(reader, key, PEERS_MAX, "a peer id").map(BTreeSet::from_iter)
}

fn size_or_auto(reader: &mut Reader, table: &Table<'_>, key: &str) -> Option<ByteSize> {
    let needed = format!("\"auto\" or a size of at least {LENT_MIN}, such as \"10 GiB\"");
    let text = table.text(reader, key, &needed).filter(|text| text != "auto")?;
    let size = text.parse().ok().filter(|size| *size >= LENT_MIN);
    if size.is_none() {
        table.refuse(reader, key, quoted(&text), needed);
    }
    size
}
