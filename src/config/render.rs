//! The rendering of settings as a file that explains itself.

use std::fmt::{Display, Write};
use std::time::Duration;

use quorate_protocols::units::{ByteSize, Span};

use super::{Config, commands};

/// Writes lines; writing to a `String` cannot fail.
struct Page(String);

impl Page {
    fn section(&mut self, name: &str) {
        let _ = write!(self.0, "\n[{name}]\n");
    }
    fn write_comment(&mut self, meaning: &str) {
        for line in meaning.lines() {
            let _ = writeln!(self.0, "# {line}");
        }
    }
    /// A line whose key a person chose.
    fn entry(&mut self, key: &str, value: toml::Value) {
        let _ = writeln!(self.0, "{} = {value}", text(key));
    }
    fn value(&mut self, meaning: &str, key: &str, value: impl Display) {
        self.write_comment(meaning);
        let _ = writeln!(self.0, "{key} = {value}");
    }
}

fn text(value: impl Display) -> toml::Value {
    toml::Value::String(value.to_string())
}

fn list<T: Display>(values: impl IntoIterator<Item = T>) -> toml::Value {
    toml::Value::Array(values.into_iter().map(text).collect())
}

fn time(duration: Duration) -> toml::Value {
    text(Span(duration))
}

fn auto_or(size: Option<ByteSize>) -> toml::Value {
    size.map_or_else(|| text("auto"), text)
}

pub(super) fn render(config: &Config) -> String {
    let mut page = Page(
        "# Settings of this quorate node. A setting that is left out has its default; a name that is not known is\n\
         # an error. Sizes are written as \"10 GiB\", times as \"90s\" or \"1h 30m\". Restart the node after a change.\n"
            .to_owned(),
    );
    let network = &config.network;
    page.section("network");
    page.value("Where other nodes reach this one: an IP address and port.", "listen", text(network.listen));
    page.value(
        "Further addresses to tell others, such as [\"box.example.org:7420\"], behind a port forwarding for example.",
        "announce",
        list(&network.announce),
    );
    page.value(
        "Nodes to start from, each as host:port or as a multiaddr. Those met later are remembered.",
        "bootstrap",
        list(&network.bootstrap),
    );
    page.value("Find nodes on the local network by multicast.", "mdns", network.mdns);
    page.value("Listen on QUIC as well. Needs allow_peers, since QUIC cannot check the secret.", "quic", network.quic);
    page.value(
        "When not empty: the only peers that are let in, by peer id, besides knowing the secret.",
        "allow_peers",
        list(&network.allow_peers),
    );
    page.value(
        "When not empty: the only peers that become members, holders or workers here, beside those of `authorities`.",
        "trusted_peers",
        list(&network.trusted_peers),
    );
    page.value(
        "Public keys of authorities: peers that one of them has admitted (`quorate admit`) are trusted as well.",
        "authorities",
        list(&network.authorities),
    );
    page.value("Connections to other nodes at once (8 to 100000).", "connections_max", network.connections_max);

    page.section("api");
    page.value(
        "Where this node's own API and command line reach it. Port 0 picks a free one; see the file api.addr.",
        "listen",
        text(config.api.listen),
    );
    page.value(
        "Whether listen may be reachable from other machines. The API is HTTP without encryption.",
        "allow_remote",
        config.api.allow_remote,
    );
    page.value(
        "Connections of callers with the token at once (8 to 10000); a few short requests are answered beyond them.",
        "connections_max",
        config.api.connections_max,
    );
    page.value(
        "How long a client may neither go on sending its request's body nor read its answer (1s to 1h).",
        "stall_max",
        time(config.api.stall_max),
    );

    page.section("node");
    page.value(
        "What this node is called where people look, up to 64 bytes; auto is the machine's name.",
        "name",
        config.node.name.as_ref().map_or_else(|| text("auto"), text),
    );
    page.value("Peers, by peer id, that may act on every job and object.", "operators", list(&config.node.operators));
    page.value(
        "Kinds of work this node takes on. \"command\" runs nothing but the programs under [commands].",
        "roles",
        list(&config.node.roles),
    );
    page.value("Take nothing new on. What is here stays.", "drain", config.node.drain);
    let labels: toml::Table = config.node.labels.iter().map(|(key, value)| (key.clone(), text(value))).collect();
    page.value(
        "Labels that jobs can ask for, such as { site = \"attic\", ssd = \"yes\" }.",
        "labels",
        toml::Value::Table(labels),
    );

    page.section("resources");
    let resources = &config.resources;
    page.value(
        "Disk that this node lends, such as \"10 GiB\"; auto is what is free but for a margin.",
        "disk_max",
        auto_or(resources.disk_max),
    );
    page.value("Memory for the work of others; auto is a share of the machine's.", "memory_max", {
        auto_or(resources.memory_max)
    });
    page.value("Tasks that run at once (1 to 4096); auto is one for each processor.", "slots", {
        resources.slots.map_or_else(|| text("auto"), |slots| toml::Value::Integer(slots.into()))
    });

    page.value(
        "Of the disk: for compiled modules, so that a restart does not compile them again; \"0 B\" keeps none.",
        "module_cache_max",
        text(resources.module_cache_max),
    );

    page.section("quorum");
    page.value("Voters of a quorum that this node forms: 3, 5 or 7.", "voters", config.quorum.voters);
    page.value(
        "How long a member must be away before another takes its place.",
        "replace_grace",
        time(config.quorum.replace_grace),
    );

    page.section("objects");
    let objects = &config.objects;
    page.value("Every holder is asked for a random piece once per this time.", "audit_interval", {
        time(objects.audit_interval)
    });
    page.value("How often a steward looks for pieces to rebuild.", "repair_interval", time(objects.repair_interval));
    page.value("How long room is kept for an upload without traffic (10s to 1h).", "lease", time(objects.lease));

    page.section("commands");
    page.write_comment(
        "Programs that jobs may run on this node, by name: none, unless they are listed here. A job names one and adds\n\
         arguments; there is no shell. They run as this node's user: list only what you would let the submitters run.\n\
         resize = { path = \"/usr/bin/convert\", args = [\"-limit\", \"disk\", \"1GiB\"], submitters = [\"PEER ID\"], env = [\"LANG\"] }\n\
         path is absolute; args come before the job's own; submitters are the peers whose jobs may run it, or \"network\" for\n\
         every peer of the network (of allow_peers, where that is set); env names the variables that a job may set (args and\n\
         env may be left out).",
    );
    for (name, command) in &config.commands {
        page.entry(name, commands::render(command));
    }

    page.section("conditions");
    page.value(
        "Hosts that this node may ask over HTTP or HTTPS for triggers with a condition, such as [\"api.example.org\",\n\
         \"127.0.0.1:8080\"]: none, unless they are listed. Whoever may submit jobs can then have this node ask them.",
        "hosts",
        list(&config.conditions.hosts),
    );
    let authorities = config.conditions.authorities.as_ref().map(|path| path.display().to_string());
    page.value(
        "A file of certificates in PEM, by its absolute path: authorities that are believed over HTTPS beside those that\n\
         this machine trusts. None when empty.",
        "authorities",
        text(authorities.unwrap_or_default()),
    );

    page.section("log");
    page.value(
        "A level (error, warn, info, debug, trace) or pairs such as \"info,quorate=debug\". QUORATE_LOG overrides it.",
        "filter",
        text(&config.log.filter),
    );
    page.0
}
