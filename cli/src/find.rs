//! The search for the node to ask.
//!
//! `--node`, else `$QUORATE_NODE`: a URL, or the number of a testnet node. Otherwise the node of `--dir`, else that of
//! the default data folder, else the first running node of the testnet. The token comes from the node's data folder,
//! so a URL must be that of a node of this user; `$QUORATE_TOKEN` overrides it.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use quorate_api::{ADDRESS_FILE, TOKEN_FILE};
use quorate_testnet::{Client, Testnet, TestnetNode, TestnetNodeState, resolve_dir};

use super::args::Common;
use super::failure::Failure;

/// Names the node when `--node` does not.
const NODE_VARIABLE: &str = "QUORATE_NODE";
const TOKEN_VARIABLE: &str = "QUORATE_TOKEN";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeChoice {
    Url(String),
    Index(usize),
}

impl FromStr for NodeChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(index) = text.parse() {
            return Ok(Self::Index(index));
        }
        match text.strip_prefix("http://").is_some_and(|rest| !rest.is_empty()) {
            true => Ok(Self::Url(text.trim_end_matches('/').to_owned())),
            false => Err(format!("{text:?} is neither a URL (http://127.0.0.1:7421) nor the number of a testnet node")),
        }
    }
}

/// `$XDG_DATA_HOME/quorate/node`: where a node lives that was given no folder.
pub fn default_node_dir() -> PathBuf {
    // The testnet's default lies beside it.
    quorate_testnet::default_dir().with_file_name("node")
}

/// The folder of the testnet that is meant.
pub fn resolve_testnet(common: &Common) -> PathBuf {
    resolve_dir(common.dir.as_deref())
}

/// The node that is meant.
pub fn client_of(common: &Common) -> Result<Client, Failure> {
    let choice = match (&common.node, std::env::var(NODE_VARIABLE)) {
        (Some(choice), _) => Some(choice.clone()),
        (None, Ok(text)) if !text.is_empty() => {
            Some(text.parse().map_err(|error| Failure::usage(format!("${NODE_VARIABLE}: {error}")))?)
        }
        _ => None,
    };
    match choice {
        Some(NodeChoice::Url(url)) => {
            let token = std::env::var(TOKEN_VARIABLE).ok().or_else(|| token_for(&url, common));
            Ok(Client::new(url, token))
        }
        Some(NodeChoice::Index(index)) => {
            let dir = resolve_testnet(common);
            let testnet = Testnet::open(&dir)?;
            testnet.layout().node(index)?;
            let is_dead = |node: &TestnetNode| node.index == index && node.state == TestnetNodeState::Dead;
            if testnet.status().iter().any(is_dead) {
                let what = format!("no node answers: node {index} of the testnet in {} does not run", dir.display());
                return Err(Failure::no_node(what).hint(format!(
                    "`quorate testnet status` shows who runs; `quorate testnet restart {index}` starts it"
                )));
            }
            Ok(Client::of_data_dir(&testnet.node_dir(index))?)
        }
        None => nearest(common),
    }
}

/// The testnet that a command is about which names no node; `None` when it names one, or when the node of this machine
/// is meant.
pub fn whole_testnet(common: &Common) -> Option<Testnet> {
    let names_a_node = common.node.is_some() || std::env::var(NODE_VARIABLE).is_ok_and(|text| !text.is_empty());
    let node_dir = common.dir.clone().unwrap_or_else(default_node_dir);
    if names_a_node || node_dir.join(ADDRESS_FILE).exists() {
        return None;
    }
    Testnet::open(&resolve_testnet(common)).ok()
}

fn nearest(common: &Common) -> Result<Client, Failure> {
    let named = common.dir.as_deref();
    let node_dir = named.map_or_else(default_node_dir, Path::to_owned);
    if node_dir.join(ADDRESS_FILE).exists() {
        return Ok(Client::of_data_dir(&node_dir)?);
    }
    let testnet_dir = resolve_testnet(common);
    if let Ok(testnet) = Testnet::open(&testnet_dir)
        && let Some(node) = testnet.status().into_iter().find(|node| node.state == TestnetNodeState::Running)
    {
        return Ok(testnet.client(node.index)?);
    }
    Err(Failure::no_node(format!(
        "no node answers: none runs on {} and no testnet in {}",
        node_dir.display(),
        testnet_dir.display()
    ))
    .hint("start one with `quorate testnet up` or `quorate node --dir DIR`, or name one with --node"))
}

/// The token of the local node with this address.
fn token_for(url: &str, common: &Common) -> Option<String> {
    let address = url.strip_prefix("http://")?;
    let mut folders: Vec<PathBuf> = common.dir.iter().cloned().collect();
    folders.push(default_node_dir());
    if let Ok(testnet) = Testnet::open(&resolve_testnet(common)) {
        folders.extend(testnet.indices().into_iter().map(|index| testnet.node_dir(index)));
    }
    let read = |path: PathBuf| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let same = |found: &str| {
        let localhost = |text: &str| text.replacen("localhost", "127.0.0.1", 1);
        localhost(found) == localhost(address)
    };
    let folder = folders.into_iter().find(|dir| read(dir.join(ADDRESS_FILE)).is_some_and(|found| same(&found)))?;
    read(folder.join(TOKEN_FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_a_url_or_a_number() {
        assert_eq!("3".parse(), Ok(NodeChoice::Index(3)));
        assert_eq!("http://127.0.0.1:9/".parse(), Ok(NodeChoice::Url("http://127.0.0.1:9".into())));
        assert!("127.0.0.1:9".parse::<NodeChoice>().is_err());
        assert!("http://".parse::<NodeChoice>().is_err());
        assert!("-1".parse::<NodeChoice>().is_err());
    }

    #[test]
    fn a_url_finds_the_token_in_the_folder_of_its_node() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(ADDRESS_FILE), "127.0.0.1:4711\n").unwrap();
        std::fs::write(dir.path().join(TOKEN_FILE), "secret\n").unwrap();
        let common = Common { dir: Some(dir.path().to_owned()), ..Common::default() };
        assert_eq!(token_for("http://127.0.0.1:4711", &common).as_deref(), Some("secret"));
        assert_eq!(token_for("http://localhost:4711", &common).as_deref(), Some("secret"));
        assert_eq!(token_for("http://127.0.0.1:4712", &common), None);
    }
}
