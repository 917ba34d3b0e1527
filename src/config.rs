//! Configuration: `quorate.toml`, parsed, then validated into a type that cannot hold nonsense.
//!
//! Every setting has its default in one place ([`Config::default`]), and [`Config::to_toml`] writes a file in which
//! every setting stands with its meaning: what `quorate init` leaves behind and `--print-config` shows. A key that is
//! not known, a value of the wrong type or out of range, and two settings that exclude each other are errors that
//! name the file, the line, the key and what would be accepted; all of them are reported at once. Nothing of this is
//! read again while a node runs.
//!
//! Whether a node runs with fault injection is not a setting: it comes from the command line alone, so that no file
//! left behind by a test weakens a node.

pub mod address;
pub mod commands;
mod name;
mod parse;
mod render;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_protocols::admission::Trust;
use quorate_protocols::engine::NodeRole;
use quorate_protocols::ids::PeerId;
use quorate_protocols::units::ByteSize;
use quorate_protocols::{approval, piece, quorum};
use quorate_tables::Faults;

use self::address::{Bootstrap, PublicAddress};
use self::commands::AllowedCommand;
use crate::hosts::AllowedHost;

/// The configuration's file name inside a data folder.
pub const FILE_NAME: &str = "quorate.toml";

/// Far above any configuration a person writes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("there is no configuration at {}. {}", path.display(), creation(path))]
    Missing { path: PathBuf },
    #[error("reading {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, keys that are no settings, values of the wrong type or out of range: each with its line.
    #[error(transparent)]
    Invalid(#[from] Faults),
}

/// How to get one there: a data folder has it under a name of its own, anything else is a file of the user's.
fn creation(path: &Path) -> String {
    match path.parent().filter(|_| path.ends_with(FILE_NAME)) {
        Some(dir) => format!("Create one with `quorate init --dir {}`", dir.display()),
        None => format!("`quorate node --print-config > {}` begins one with every default", path.display()),
    }
}

/// A node's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    pub network: NetworkSection,
    pub api: ApiSection,
    pub node: NodeSection,
    pub resources: ResourcesSection,
    pub quorum: QuorumSection,
    pub objects: ObjectsSection,
    /// Programs that jobs may run here, by name.
    pub commands: BTreeMap<String, AllowedCommand>,
    pub conditions: ConditionsSection,
    pub log: LogSection,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSection {
    pub listen: SocketAddr,
    /// Addresses told to others beside those seen by the node itself: behind a port forwarding, say.
    pub announce: Vec<PublicAddress>,
    pub bootstrap: Vec<Bootstrap>,
    /// Find nodes on the local network by multicast.
    pub mdns: bool,
    /// Listen on QUIC too. Only with `allow_peers`: QUIC has no place for the network's secret.
    pub quic: bool,
    /// When not empty, only these peers are let in, on every transport.
    pub allow_peers: BTreeSet<PeerId>,
    /// With either not empty, only these peers, and those that one of these keys has admitted, are relied on as
    /// members, holders and workers.
    pub trusted_peers: BTreeSet<PeerId>,
    pub authorities: BTreeSet<PeerId>,
    pub connections_max: u32,
}

impl NetworkSection {
    pub fn trust(&self) -> Trust {
        Trust { peers: self.trusted_peers.clone(), authorities: self.authorities.clone() }
    }
}

impl Default for NetworkSection {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 7420)),
            announce: Vec::new(),
            bootstrap: Vec::new(),
            mdns: true,
            quic: false,
            allow_peers: BTreeSet::new(),
            trusted_peers: BTreeSet::new(),
            authorities: BTreeSet::new(),
            connections_max: 512,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiSection {
    /// Port 0 picks a free one; the chosen address is in `api.addr` of the data folder.
    pub listen: SocketAddr,
    /// Whether `listen` may be an address that other machines reach. The API is HTTP without TLS.
    pub allow_remote: bool,
    /// Connections of callers with a token.
    pub connections_max: u32,
    /// How long a client may neither send the rest of its body nor read its answer.
    pub stall_max: Duration,
}

impl Default for ApiSection {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7421)),
            allow_remote: false,
            connections_max: 256,
            stall_max: Duration::from_secs(120),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSection {
    /// What the node is called; `None` is the machine's name.
    pub name: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// Peers that may act on every job and object, beside their owners.
    pub operators: BTreeSet<PeerId>,
    /// Kinds of work this node takes on.
    pub roles: BTreeSet<NodeRole>,
    /// Take nothing new on. What is here stays.
    pub drain: bool,
}

impl NodeSection {
    /// What the node is called; empty when nobody says it and the machine has no name.
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(name::of_machine)
    }
}

impl Default for NodeSection {
    fn default() -> Self {
        Self {
            name: None,
            labels: BTreeMap::new(),
            operators: BTreeSet::new(),
            roles: BTreeSet::from([NodeRole::Store, NodeRole::Wasm, NodeRole::Command]),
            drain: false,
        }
    }
}

/// What the node may lend to others. `None` is *auto*: a share of what the machine has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourcesSection {
    pub disk_max: Option<ByteSize>,
    pub memory_max: Option<ByteSize>,
    pub slots: Option<u32>,
    /// Of the disk: for compiled modules. Zero keeps none.
    pub module_cache_max: ByteSize,
}

impl Default for ResourcesSection {
    fn default() -> Self {
        Self { disk_max: None, memory_max: None, slots: None, module_cache_max: ByteSize(1 << 30) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumSection {
    /// Voters of a quorum that this node forms.
    pub voters: usize,
    /// How long a member must be away before it is replaced.
    pub replace_grace: Duration,
}

impl Default for QuorumSection {
    fn default() -> Self {
        Self { voters: quorum::limits::VOTERS_DEFAULT, replace_grace: approval::limits::REPLACE_GRACE }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectsSection {
    /// Every holder of every object is asked for a random piece once per this time.
    pub audit_interval: Duration,
    /// How often a steward looks for columns to rebuild.
    pub repair_interval: Duration,
    /// How long a holder keeps room for a column without renewal or traffic.
    pub lease: Duration,
}

impl Default for ObjectsSection {
    fn default() -> Self {
        Self {
            audit_interval: Duration::from_secs(3600),
            repair_interval: Duration::from_secs(30),
            lease: piece::limits::LEASE,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConditionsSection {
    /// Hosts that this node asks for the sake of triggers.
    pub hosts: BTreeSet<AllowedHost>,
    /// Authorities that are believed over HTTPS beside those that the machine trusts: a file of certificates in PEM.
    pub authorities: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSection {
    /// A level, or `target=level` pairs; `QUORATE_LOG` overrides it.
    pub filter: String,
}

impl Default for LogSection {
    fn default() -> Self {
        Self { filter: "info".to_owned() }
    }
}

impl Config {
    /// The file that `quorate init` writes when nothing else was asked for.
    pub fn default_toml() -> String {
        Self::default().to_toml()
    }

    /// Reads settings from text; `file` is the name used in errors. Settings that are left out have their defaults.
    pub fn parse(text: &str, file: &str) -> Result<Self, ConfigError> {
        parse::parse(text, file)
    }

    /// A file that reads back as these settings, each with its meaning and what it accepts.
    pub fn to_toml(&self) -> String {
        render::render(self)
    }
}

/// Reads the configuration of a data folder.
pub fn load(dir: &Path) -> Result<Config, ConfigError> {
    load_file(&dir.join(FILE_NAME))
}

/// Reads a configuration file.
pub fn load_file(path: &Path) -> Result<Config, ConfigError> {
    use std::io::Read;
    let fault = |source| ConfigError::Read { path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(ConfigError::Missing { path: path.to_owned() });
        }
        other => other.map_err(fault)?,
    };
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(fault)?;
    Config::parse(&text, &path.display().to_string())
}

#[cfg(test)]
mod tests;
