//! `[commands]`: the programs that jobs may run on this node. Each entry is checked here for what can be seen without
//! the machine; whether the program is there is asked when it is run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use quorate_protocols::ids::PeerId;
use quorate_tables::{Entry, Reader, Table, quoted, shown};
use toml::de::DeValue;

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

/// The entries that are sound; the others are faults.
pub(super) fn read(reader: &mut Reader, root: &Table<'_>) -> BTreeMap<String, AllowedCommand> {
    let needed =
        "a table of programs, such as { convert = { path = \"/usr/bin/convert\", submitters = [\"network\"] } }";
    let entries = root.entries(reader, "commands", needed).unwrap_or_default();
    if entries.len() > COMMANDS_MAX {
        root.refuse(reader, "commands", format!("{} entries long", entries.len()), format!("at most {COMMANDS_MAX}"));
        return BTreeMap::new();
    }
    let read = entries.into_iter().filter_map(|(name, entry)| read_one(reader, &name, &entry).map(|one| (name, one)));
    read.collect()
}

fn read_one(reader: &mut Reader, name: &str, entry: &Entry<'_>) -> Option<AllowedCommand> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(plain) {
        let needed = format!("a name of 1 to {NAME_BYTES_MAX} letters, digits, \"-\", \"_\" and \".\"");
        entry.refuse(reader, quoted(name), &needed);
        return None;
    }
    let DeValue::Table(table) = entry.value else {
        entry.refuse(reader, shown(entry.value), "a table with path and submitters");
        return None;
    };
    let table = reader.open(&format!("{}.", entry.key), table, &["path", "args", "submitters", "env"]);
    let path = read_path(reader, &table);
    let args = words(reader, &table, "args", |arg| !arg.contains('\0'), "an argument without zero bytes");
    // With these, whoever sets the variable decides what runs, and the list decides nothing.
    let loads = |variable: &str| variable.starts_with("LD_") || variable.starts_with("DYLD_");
    let fits = |variable: &str| !variable.is_empty() && !variable.contains(['=', '\0']) && !loads(variable);
    let needed = "the name of a variable that does not make the system load other code (LD_...)";
    let env = words(reader, &table, "env", fits, needed);
    let submitters = read_submitters(reader, &table);
    Some(AllowedCommand { path: path?, args, submitters: submitters?, env: env.into_iter().collect() })
}

fn read_path(reader: &mut Reader, table: &Table<'_>) -> Option<PathBuf> {
    let needed = "an absolute path, such as \"/usr/bin/convert\"";
    let path = table.require_text(reader, "path", needed)?;
    if !Path::new(&path).is_absolute() || path.contains('\0') {
        table.refuse(reader, "path", quoted(&path), needed);
        return None;
    }
    Some(path.into())
}

fn read_submitters(reader: &mut Reader, table: &Table<'_>) -> Option<Submitters> {
    let needed = format!(
        "1 to {WORDS_MAX} peer ids (this node's own is one, if its jobs may run it), or {NETWORK:?} for every peer"
    );
    table.require(reader, "submitters", &needed)?;
    let entries = table.list(reader, "submitters", &needed)?;
    if entries.is_empty() || entries.len() > WORDS_MAX {
        table.refuse(reader, "submitters", format!("{} entries long", entries.len()), needed);
        return None;
    }
    let mut submitters = Submitters::default();
    for entry in entries {
        let Some(text) = entry.text(reader) else { continue };
        match text.parse() {
            _ if text == NETWORK => submitters.network = true,
            Ok(peer) => {
                submitters.peers.insert(peer);
            }
            Err(_) => {
                let needed = format!("a peer id, or {NETWORK:?} for every peer of the network");
                entry.refuse(reader, quoted(&text), &needed);
            }
        }
    }
    Some(submitters)
}

fn words(reader: &mut Reader, table: &Table<'_>, key: &str, fits: impl Fn(&str) -> bool, needed: &str) -> Vec<String> {
    let entries = table.list(reader, key, "a list of strings").unwrap_or_default();
    if entries.len() > WORDS_MAX {
        table.refuse(reader, key, format!("{} entries long", entries.len()), format!("at most {WORDS_MAX}"));
        return Vec::new();
    }
    let sound = entries.into_iter().filter_map(|entry| {
        let text = entry.text(reader)?;
        if !fits(&text) {
            entry.refuse(reader, quoted(&text), needed);
            return None;
        }
        Some(text)
    });
    sound.collect()
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
