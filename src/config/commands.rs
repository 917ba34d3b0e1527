//! `[commands]`: the programs that jobs may run on this node. Each entry is checked here for what can be seen without
//! the machine; whether the program is there is asked when it is run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use quorate_protocols::ids::PeerId;
use serde::Deserialize;
use toml::Spanned;

use super::ConfigError;
use super::parse::{Source, quoted};

/// Programs of one node, and words of one entry. More than a person would list.
const COMMANDS_MAX: usize = 256;
const WORDS_MAX: usize = 256;

/// In a list of submitters, every peer of the network.
const NETWORK: &str = "network";

/// Longest name of an entry.
const NAME_BYTES_MAX: usize = 64;

/// One program that jobs may run here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedCommand {
    /// Absolute.
    pub path: PathBuf,
    /// Come before the task's own arguments.
    pub args: Vec<String>,
    pub submitters: Submitters,
    /// Variables that a task may set.
    pub env: BTreeSet<String>,
}

/// Whose tasks may run a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Submitters {
    /// Every peer that is admitted to the network.
    pub network: bool,
    pub peers: BTreeSet<PeerId>,
}

impl Submitters {
    pub fn contains(&self, peer: &PeerId) -> bool {
        self.network || self.peers.contains(peer)
    }
    /// The same where a list, and not the network's secret alone, says who is admitted.
    pub fn among(self, admitted: &BTreeSet<PeerId>) -> Self {
        match self.network {
            true => Self { network: false, peers: self.peers.union(admitted).copied().collect() },
            false => self,
        }
    }
}

impl From<PeerId> for Submitters {
    fn from(peer: PeerId) -> Self {
        Self { network: false, peers: BTreeSet::from([peer]) }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCommand {
    path: Spanned<String>,
    #[serde(default)]
    args: Option<Spanned<Vec<String>>>,
    submitters: Spanned<Vec<String>>,
    #[serde(default)]
    env: Option<Spanned<Vec<String>>>,
}

pub(super) fn read(
    source: &Source<'_>,
    raw: BTreeMap<String, RawCommand>,
) -> Result<BTreeMap<String, AllowedCommand>, ConfigError> {
    if let Some(raw) = raw.values().nth(COMMANDS_MAX) {
        return Err(source.fault(&raw.path, "commands", "longer", format!("a list of at most {COMMANDS_MAX}")));
    }
    raw.into_iter().map(|(name, raw)| read_one(source, &name, raw).map(|command| (name, command))).collect()
}

fn read_one(source: &Source<'_>, name: &str, raw: RawCommand) -> Result<AllowedCommand, ConfigError> {
    let key = |field: &str| format!("commands.{name}.{field}");
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(plain) {
        let expected = format!("a name of 1 to {NAME_BYTES_MAX} letters, digits, \"-\", \"_\" and \".\"");
        return Err(source.fault(&raw.path, "commands", format!("a list with the name {name:?}"), expected));
    }
    let path = PathBuf::from(raw.path.get_ref());
    if !path.is_absolute() || raw.path.get_ref().contains('\0') {
        let expected = "an absolute path, such as \"/usr/bin/convert\"";
        return Err(source.fault(&raw.path, key("path"), quoted(raw.path.get_ref()), expected));
    }
    let args = words(source, key("args"), raw.args, |arg| !arg.contains('\0'), "arguments without zero bytes")?;
    // With these, whoever sets the variable decides what runs, and the list decides nothing.
    let loads = |variable: &str| variable.starts_with("LD_") || variable.starts_with("DYLD_");
    let fits = |variable: &str| !variable.is_empty() && !variable.contains(['=', '\0']) && !loads(variable);
    let expected = "names of variables, none of which makes the system load other code (LD_...)";
    let env = words(source, key("env"), raw.env, fits, expected)?;
    if raw.submitters.get_ref().is_empty() || raw.submitters.get_ref().len() > WORDS_MAX {
        let found = format!("{} entries long", raw.submitters.get_ref().len());
        let expected = format!(
            "1 to {WORDS_MAX} peer ids (this node's own is one, if its jobs may run it), or {NETWORK:?} for every peer"
        );
        return Err(source.fault(&raw.submitters, key("submitters"), found, expected));
    }
    let mut submitters = Submitters::default();
    for text in raw.submitters.get_ref() {
        if text == NETWORK {
            submitters.network = true;
            continue;
        }
        let expected = || format!("peer ids, or {NETWORK:?} for every peer of the network");
        let peer = text.parse();
        submitters
            .peers
            .insert(peer.map_err(|_| source.fault(&raw.submitters, key("submitters"), quoted(text), expected()))?);
    }
    Ok(AllowedCommand { path, args, submitters, env: env.into_iter().collect() })
}

fn words(
    source: &Source<'_>,
    key: String,
    raw: Option<Spanned<Vec<String>>>,
    fits: impl Fn(&str) -> bool,
    expected: &str,
) -> Result<Vec<String>, ConfigError> {
    let Some(raw) = raw else { return Ok(Vec::new()) };
    if raw.get_ref().len() > WORDS_MAX {
        let found = format!("{} entries long", raw.get_ref().len());
        return Err(source.fault(&raw, key, found, format!("at most {WORDS_MAX}")));
    }
    match raw.get_ref().iter().find(|word| !fits(word)) {
        Some(word) => Err(source.fault(&raw, key, quoted(word), expected)),
        None => Ok(raw.into_inner()),
    }
}

/// An entry as it stands in the file.
pub(super) fn render(command: &AllowedCommand) -> toml::Value {
    let text = |text: &dyn ToString| toml::Value::String(text.to_string());
    let mut table = toml::Table::new();
    table.insert("path".to_owned(), text(&command.path.display()));
    table.insert("args".to_owned(), command.args.iter().map(|arg| text(arg)).collect::<Vec<_>>().into());
    let Submitters { network, peers } = &command.submitters;
    let submitters = network.then(|| text(&NETWORK)).into_iter().chain(peers.iter().map(|peer| text(peer)));
    table.insert("submitters".to_owned(), submitters.collect::<Vec<_>>().into());
    table.insert("env".to_owned(), command.env.iter().map(|name| text(name)).collect::<Vec<_>>().into());
    toml::Value::Table(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_as_submitter_is_every_peer_that_is_admitted() {
        let [listed, admitted, stranger] = [1, 2, 3].map(|byte| PeerId([byte; 32]));
        let network = Submitters { network: true, ..listed.into() };
        assert!(network.contains(&listed) && network.contains(&stranger));
        let among = network.among(&BTreeSet::from([admitted]));
        assert!(among.contains(&listed) && among.contains(&admitted) && !among.contains(&stranger));
        let listed_alone = Submitters::from(listed);
        assert_eq!(listed_alone.clone().among(&BTreeSet::from([admitted])), listed_alone);
    }
}
