//! From text to settings: TOML first, then each value against what it may be.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use quorate_protocols::directory::check_name;
use quorate_protocols::directory::limits::{LABEL_BYTES_MAX, LABELS_MAX, NAME_BYTES_MAX};
use quorate_protocols::engine::NodeRole;
use quorate_protocols::units::{ByteSize, ParseSpanError, Span};
use quorate_protocols::{approval, quorum};
use serde::Deserialize;
use toml::Spanned;

use super::commands::{self, RawCommand};
use super::{Config, ConfigError};

/// As many of each as a person would write by hand; the network's own bounds are elsewhere.
const BOOTSTRAP_MAX: usize = 64;
const ANNOUNCE_MAX: usize = 8;
const PEERS_MAX: usize = 1_000;
const HOSTS_MAX: usize = 256;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    network: RawNetwork,
    api: RawApi,
    node: RawNode,
    resources: RawResources,
    quorum: RawQuorum,
    objects: RawObjects,
    commands: BTreeMap<String, RawCommand>,
    conditions: RawConditions,
    log: RawLog,
}

type Text = Option<Spanned<String>>;
type Texts = Option<Spanned<Vec<String>>>;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawNetwork {
    listen: Text,
    announce: Texts,
    bootstrap: Texts,
    mdns: Option<bool>,
    quic: Option<Spanned<bool>>,
    allow_peers: Texts,
    connections_max: Option<Spanned<i64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawApi {
    listen: Text,
    allow_remote: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawNode {
    name: Text,
    labels: Option<Spanned<BTreeMap<String, String>>>,
    operators: Texts,
    roles: Texts,
    drain: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawResources {
    disk_max: Text,
    memory_max: Text,
    slots: Option<Spanned<AutoOr>>,
    module_cache_max: Text,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum AutoOr {
    Number(i64),
    Word(String),
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawQuorum {
    voters: Option<Spanned<i64>>,
    replace_grace: Text,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawObjects {
    audit_interval: Text,
    repair_interval: Text,
    lease: Text,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawConditions {
    hosts: Texts,
    authorities: Text,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawLog {
    filter: Text,
}

/// The text being read, for the line numbers of errors.
pub(super) struct Source<'a> {
    text: &'a str,
    file: &'a str,
}

impl Source<'_> {
    fn line_at(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
    }

    pub(super) fn fault<T>(
        &self,
        at: &Spanned<T>,
        key: impl Into<String>,
        found: impl Display,
        expected: impl Display,
    ) -> ConfigError {
        let found: String = found.to_string().chars().take(200).collect();
        ConfigError::Value {
            file: self.file.to_owned(),
            line: self.line_at(at.span().start),
            key: key.into(),
            found,
            expected: expected.to_string(),
        }
    }

    fn text<T: FromStr>(&self, key: &'static str, raw: Text, expected: &str, default: T) -> Result<T, ConfigError> {
        match raw {
            None => Ok(default),
            Some(raw) => raw.get_ref().parse().map_err(|_| self.fault(&raw, key, quoted(raw.get_ref()), expected)),
        }
    }

    fn list<T: FromStr>(
        &self,
        key: &'static str,
        raw: Texts,
        max: usize,
        expected: &str,
    ) -> Result<Vec<T>, ConfigError> {
        let Some(raw) = raw else { return Ok(Vec::new()) };
        if raw.get_ref().len() > max {
            return Err(self.fault(
                &raw,
                key,
                format!("{} entries long", raw.get_ref().len()),
                format!("at most {max}"),
            ));
        }
        raw.get_ref()
            .iter()
            .map(|text| text.parse().map_err(|_| self.fault(&raw, key, quoted(text), expected)))
            .collect()
    }

    fn number(
        &self,
        key: &'static str,
        raw: Option<Spanned<i64>>,
        range: std::ops::RangeInclusive<i64>,
        default: i64,
    ) -> Result<i64, ConfigError> {
        match raw {
            None => Ok(default),
            Some(raw) if range.contains(raw.get_ref()) => Ok(*raw.get_ref()),
            Some(raw) => {
                let expected = format!("a number from {} to {}", range.start(), range.end());
                Err(self.fault(&raw, key, raw.get_ref(), expected))
            }
        }
    }

    fn duration(
        &self,
        key: &'static str,
        raw: Text,
        range: std::ops::RangeInclusive<Duration>,
        default: Duration,
    ) -> Result<Duration, ConfigError> {
        let Some(raw) = raw else { return Ok(default) };
        let parsed = raw.get_ref().parse();
        match parsed {
            Ok(Span(duration)) if range.contains(&duration) => Ok(duration),
            _ => {
                let (from, to) = (Span(*range.start()), Span(*range.end()));
                let calendar = match parsed {
                    Err(calendar @ ParseSpanError::Calendar { .. }) => format!(" ({calendar})"),
                    _ => String::new(),
                };
                let found = format!("{}{calendar}", quoted(raw.get_ref()));
                Err(self.fault(&raw, key, found, format!("a time from {from} to {to}, such as \"90s\"")))
            }
        }
    }

    fn size(&self, key: &'static str, raw: Text, min: ByteSize) -> Result<Option<ByteSize>, ConfigError> {
        let Some(raw) = raw else { return Ok(None) };
        match raw.get_ref().as_str() {
            "auto" => Ok(None),
            text => match text.parse::<ByteSize>() {
                Ok(size) if size >= min => Ok(Some(size)),
                _ => {
                    let expected = format!("\"auto\" or a size of at least {min}, such as \"10 GiB\"");
                    Err(self.fault(&raw, key, quoted(text), expected))
                }
            },
        }
    }
}

pub(super) fn quoted(text: &str) -> String {
    format!("{text:?}")
}

pub(super) fn parse(text: &str, file: &str) -> Result<Config, ConfigError> {
    let source = Source { text, file };
    let raw: Raw = toml::from_str(text).map_err(|error| ConfigError::Syntax {
        file: file.to_owned(),
        line: source.line_at(error.span().map_or(0, |span| span.start)),
        reason: error.message().to_owned(),
    })?;
    let mut config = Config::default();
    read_network(&source, raw.network, &mut config)?;
    read_api(&source, raw.api, &mut config)?;
    read_node(&source, raw.node, &mut config)?;
    read_resources(&source, raw.resources, &mut config)?;

    let voters_range = quorum::limits::VOTERS_MIN as i64..=quorum::limits::VOTERS_MAX as i64;
    let voters_raw = raw.quorum.voters;
    if let Some(raw) = voters_raw.as_ref().filter(|raw| raw.get_ref() % 2 == 0) {
        return Err(source.fault(raw, "quorum.voters", raw.get_ref(), "an odd number (3, 5 or 7)"));
    }
    config.quorum.voters =
        source.number("quorum.voters", voters_raw, voters_range, config.quorum.voters as i64)? as usize;
    config.quorum.replace_grace = source.duration(
        "quorum.replace_grace",
        raw.quorum.replace_grace,
        Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3600),
        config.quorum.replace_grace,
    )?;

    let intervals = Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);
    let objects = &mut config.objects;
    objects.audit_interval = source.duration(
        "objects.audit_interval",
        raw.objects.audit_interval,
        intervals.clone(),
        objects.audit_interval,
    )?;
    objects.repair_interval =
        source.duration("objects.repair_interval", raw.objects.repair_interval, intervals, objects.repair_interval)?;
    let leases = Duration::from_secs(10)..=approval::limits::LEASE_DURATION_MAX;
    objects.lease = source.duration("objects.lease", raw.objects.lease, leases, objects.lease)?;

    config.commands = commands::read(&source, raw.commands)?;
    let host = "a host with or without a port, such as \"api.example.org\" or \"127.0.0.1:8080\"";
    config.conditions.hosts =
        source.list("conditions.hosts", raw.conditions.hosts, HOSTS_MAX, host)?.into_iter().collect();
    if let Some(raw) = raw.conditions.authorities.filter(|raw| !raw.get_ref().is_empty()) {
        let path = std::path::Path::new(raw.get_ref());
        if !path.is_absolute() {
            let expected = "the absolute path of a file of certificates, such as \"/etc/quorate/authorities.pem\"";
            return Err(source.fault(&raw, "conditions.authorities", quoted(raw.get_ref()), expected));
        }
        config.conditions.authorities = Some(path.to_owned());
    }

    if let Some(raw) = raw.log.filter {
        // The filter's own parser is where it is used; here an empty one is refused, which would log nothing at all.
        if raw.get_ref().trim().is_empty() {
            return Err(source.fault(&raw, "log.filter", "empty", "a level (error, warn, info, debug or trace)"));
        }
        if raw.get_ref().parse::<tracing_subscriber::EnvFilter>().is_err() {
            let expected = "a level (error, warn, info, debug or trace), or pairs such as \"info,quorate=debug\"";
            return Err(source.fault(&raw, "log.filter", quoted(raw.get_ref()), expected));
        }
        config.log.filter = raw.into_inner();
    }
    Ok(config)
}

fn read_network(source: &Source<'_>, raw: RawNetwork, config: &mut Config) -> Result<(), ConfigError> {
    let network = &mut config.network;
    network.listen = source.text::<SocketAddr>(
        "network.listen",
        raw.listen,
        "an IP address and port, such as \"0.0.0.0:7420\"",
        network.listen,
    )?;
    let public = "a host and port, such as \"box.example.org:7420\"";
    network.announce = source.list("network.announce", raw.announce, ANNOUNCE_MAX, public)?;
    let bootstrap = "host:port or a multiaddr, such as \"192.168.1.4:7420\"";
    network.bootstrap = source.list("network.bootstrap", raw.bootstrap, BOOTSTRAP_MAX, bootstrap)?;
    network.mdns = raw.mdns.unwrap_or(network.mdns);
    network.allow_peers =
        source.list("network.allow_peers", raw.allow_peers, PEERS_MAX, "peer ids")?.into_iter().collect();
    if let Some(quic) = raw.quic {
        if *quic.get_ref() && network.allow_peers.is_empty() {
            let expected = "false, or a list in `network.allow_peers`: QUIC has no place for the network's secret, so \
                            without the list anyone could join";
            return Err(source.fault(&quic, "network.quic", "true", expected));
        }
        network.quic = quic.into_inner();
    }
    let connections = i64::from(network.connections_max);
    network.connections_max =
        source.number("network.connections_max", raw.connections_max, 8..=100_000, connections)? as u32;
    Ok(())
}

fn read_api(source: &Source<'_>, raw: RawApi, config: &mut Config) -> Result<(), ConfigError> {
    let api = &mut config.api;
    api.allow_remote = raw.allow_remote.unwrap_or(api.allow_remote);
    let Some(listen) = raw.listen else { return Ok(()) };
    api.listen = listen.get_ref().parse().map_err(|_| {
        let expected = "an IP address and port, such as \"127.0.0.1:7421\"";
        source.fault(&listen, "api.listen", quoted(listen.get_ref()), expected)
    })?;
    if !api.listen.ip().is_loopback() && !api.allow_remote {
        let expected = "a loopback address such as \"127.0.0.1:7421\" (or `api.allow_remote = true`: the API is HTTP \
                        without encryption, so put a proxy with TLS in front of it)";
        return Err(source.fault(&listen, "api.listen", quoted(listen.get_ref()), expected));
    }
    Ok(())
}

fn read_node(source: &Source<'_>, raw: RawNode, config: &mut Config) -> Result<(), ConfigError> {
    let node = &mut config.node;
    if let Some(name) = raw.name.filter(|name| name.get_ref() != "auto") {
        if name.get_ref().trim().is_empty() || check_name(name.get_ref()).is_err() {
            let expected = format!("\"auto\" or 1 to {NAME_BYTES_MAX} bytes without control characters");
            return Err(source.fault(&name, "node.name", quoted(name.get_ref()), expected));
        }
        node.name = Some(name.into_inner());
    }
    if let Some(labels) = raw.labels {
        if labels.get_ref().len() > LABELS_MAX {
            let found = format!("{} labels", labels.get_ref().len());
            return Err(source.fault(&labels, "node.labels", found, format!("at most {LABELS_MAX}")));
        }
        let fits = |text: &str| !text.is_empty() && text.len() <= LABEL_BYTES_MAX;
        if let Some((key, value)) = labels.get_ref().iter().find(|(key, value)| !fits(key) || !fits(value)) {
            let expected = format!("keys and values of 1 to {LABEL_BYTES_MAX} bytes");
            return Err(source.fault(&labels, "node.labels", format!("{key:?} = {value:?}"), expected));
        }
        node.labels = labels.into_inner();
    }
    node.operators = source.list("node.operators", raw.operators, PEERS_MAX, "peer ids")?.into_iter().collect();
    if let Some(roles) = raw.roles {
        node.roles = roles
            .get_ref()
            .iter()
            .map(|text| match text.as_str() {
                "store" => Ok(NodeRole::Store),
                "wasm" => Ok(NodeRole::Wasm),
                "command" => Ok(NodeRole::Command),
                other => {
                    let expected = "a list of roles: \"store\", \"wasm\", \"command\"";
                    Err(source.fault(&roles, "node.roles", quoted(other), expected))
                }
            })
            .collect::<Result<BTreeSet<_>, _>>()?;
    }
    node.drain = raw.drain.unwrap_or(node.drain);
    Ok(())
}

fn read_resources(source: &Source<'_>, raw: RawResources, config: &mut Config) -> Result<(), ConfigError> {
    let resources = &mut config.resources;
    resources.disk_max = source.size("resources.disk_max", raw.disk_max, ByteSize(64 << 20))?;
    resources.memory_max = source.size("resources.memory_max", raw.memory_max, ByteSize(64 << 20))?;
    resources.module_cache_max = source.text(
        "resources.module_cache_max",
        raw.module_cache_max,
        "a size such as \"1 GiB\", or \"0 B\" to keep none",
        resources.module_cache_max,
    )?;
    resources.slots = match raw.slots {
        None => None,
        Some(raw) => match raw.get_ref() {
            AutoOr::Word(word) if word == "auto" => None,
            AutoOr::Number(slots @ 1..=4096) => Some(*slots as u32),
            AutoOr::Word(word) => {
                return Err(source.fault(&raw, "resources.slots", quoted(word), "\"auto\" or a number from 1 to 4096"));
            }
            AutoOr::Number(number) => {
                return Err(source.fault(&raw, "resources.slots", number, "\"auto\" or a number from 1 to 4096"));
            }
        },
    };
    Ok(())
}
