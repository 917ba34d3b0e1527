//! The folder of a testnet: `testnet.json` and one folder per node.

use std::path::{Path, PathBuf};

use quorate_protocols::ids::PeerId;
use serde::{Deserialize, Serialize};

/// Overrides the default folder for every testnet command and for `--node N`.
pub const DIR_VARIABLE: &str = "QUORATE_TESTNET_DIR";

/// Largest testnet that one machine is asked to carry.
pub const NODES_MAX: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    #[error("no testnet in {}: start one with `quorate testnet up`, or name its folder with --dir or ${DIR_VARIABLE}", dir.display())]
    Missing { dir: PathBuf },
    #[error("{} cannot be read: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("cannot write {}: {source}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("there is no node {index}: this testnet has nodes 1 to {nodes}")]
    NoNode { index: usize, nodes: usize },
}

/// What `testnet.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// The binary that runs the nodes.
    pub binary: PathBuf,
    pub nodes: Vec<LayoutNode>,
    /// Whether nodes are started with `--testing`, which lets faults be injected.
    pub testing: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutNode {
    /// From 1.
    pub index: usize,
    pub peer: PeerId,
    /// Where the node listens for peers.
    pub listen: String,
}

/// The folder meant by a command: `--dir`, else `$QUORATE_TESTNET_DIR`, else the user's default.
pub fn resolve_dir(given: Option<&Path>) -> PathBuf {
    match (given, std::env::var_os(DIR_VARIABLE)) {
        (Some(dir), _) => dir.to_owned(),
        (None, Some(dir)) if !dir.is_empty() => PathBuf::from(dir),
        (None, _) => default_dir(),
    }
}

/// `$XDG_DATA_HOME/quorate/testnet`, or the same under `~/.local/share`.
pub fn default_dir() -> PathBuf {
    let data = std::env::var_os("XDG_DATA_HOME")
        .filter(|home| !home.is_empty())
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share")))
        .unwrap_or_else(std::env::temp_dir);
    data.join("quorate").join("testnet")
}

impl Layout {
    fn path(dir: &Path) -> PathBuf {
        dir.join("testnet.json")
    }

    pub fn exists(dir: &Path) -> bool {
        Self::path(dir).exists()
    }

    pub fn load(dir: &Path) -> Result<Self, LayoutError> {
        let path = Self::path(dir);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(LayoutError::Missing { dir: dir.to_owned() });
            }
            Err(error) => return Err(LayoutError::Damaged { path, reason: error.to_string() }),
        };
        serde_json::from_str(&text).map_err(|error| LayoutError::Damaged { path, reason: error.to_string() })
    }

    /// Writes beside and renames, so that a reader never sees half of it.
    pub fn save(&self, dir: &Path) -> Result<(), LayoutError> {
        let path = Self::path(dir);
        let draft = path.with_extension("json.new");
        let text = serde_json::to_string_pretty(self).expect("a layout is plain data");
        std::fs::write(&draft, text)
            .and_then(|()| std::fs::rename(&draft, &path))
            .map_err(|source| LayoutError::Write { path, source })
    }

    pub fn node(&self, index: usize) -> Result<&LayoutNode, LayoutError> {
        self.nodes.iter().find(|node| node.index == index).ok_or(LayoutError::NoNode { index, nodes: self.nodes.len() })
    }
}

pub fn node_dir(dir: &Path, index: usize) -> PathBuf {
    dir.join(format!("node-{index}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_reads_back_and_a_missing_one_says_how_to_start() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Layout::load(dir.path()).unwrap_err().to_string();
        assert!(missing.contains("quorate testnet up"), "{missing}");
        let layout = Layout {
            binary: "/bin/quorate".into(),
            nodes: vec![LayoutNode { index: 1, peer: PeerId([1; 32]), listen: "127.0.0.1:1".into() }],
            testing: false,
        };
        layout.save(dir.path()).unwrap();
        assert_eq!(Layout::load(dir.path()).unwrap(), layout);
        assert!(layout.node(2).unwrap_err().to_string().contains("nodes 1 to 1"));
        std::fs::write(dir.path().join("testnet.json"), "{").unwrap();
        assert!(matches!(Layout::load(dir.path()), Err(LayoutError::Damaged { .. })));
    }
}
