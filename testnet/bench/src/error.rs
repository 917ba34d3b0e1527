//! Errors of measurements, each with what to do about it.

use std::time::Duration;

use quorate_protocols::ids::{PeerId, QuorumId};
use quorate_testnet::{ClientError, LayoutError, TestnetError};

use crate::connection::CallError;
use crate::through::Through;

#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error(transparent)]
    Testnet(#[from] TestnetError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Call(#[from] CallError),
    /// The plan cannot be measured: the command line is wrong.
    #[error("{0}")]
    Plan(String),
    #[error("this testnet's nodes were started without --testing, and take no measurements")]
    NotTesting,
    #[error("{peer} is not a node of this testnet")]
    NotANode { peer: PeerId },
    #[error("quorum {quorum} has no primary after {after:?}")]
    NoPrimary { quorum: QuorumId, after: Duration },
    #[error("no node that runs is {through} of quorum {quorum}")]
    NoNodes { quorum: QuorumId, through: Through },
    #[error("node {index} has not caught up after {after:?}")]
    Behind { index: usize, after: Duration },
    #[error("no job was acknowledged within {after:?}")]
    Silence { after: Duration },
    #[error("node {index} did not run through the whole window")]
    Restarted { index: usize },
    #[error("nothing succeeded: {failure}")]
    Nothing { failure: String },
    #[error("{what}")]
    Io {
        what: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("there is no etcd on the PATH")]
    NoEtcd,
    #[error("etcd did not become healthy within {after:?}; the end of its log says:\n{log}")]
    Etcd { after: Duration, log: String },
}

impl From<LayoutError> for BenchError {
    fn from(error: LayoutError) -> Self {
        TestnetError::from(error).into()
    }
}

impl BenchError {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what, source }
    }

    /// Whether the command line is wrong, and not what was measured.
    pub const fn is_plan(&self) -> bool {
        matches!(self, Self::Plan(_))
    }

    /// What to do next.
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotTesting => {
                Some("start the testnet without --plain: `quorate testnet down`, then `quorate testnet up`")
            }
            Self::NoNodes { .. } => Some("measure through other nodes, or start a testnet with more of them"),
            Self::NoPrimary { .. } | Self::Silence { .. } | Self::Nothing { .. } => {
                Some("`quorate testnet status` shows who runs, `quorate doctor` says what is wrong")
            }
            Self::Behind { .. } | Self::Restarted { .. } => {
                Some("`quorate testnet status` names the folder of its log")
            }
            Self::NoEtcd => Some("install it (Debian: `apt-get install etcd-server`), or measure without it"),
            Self::Testnet(_)
            | Self::Client(_)
            | Self::Call(_)
            | Self::Plan(_)
            | Self::NotANode { .. }
            | Self::Io { .. }
            | Self::Etcd { .. } => None,
        }
    }
}
