//! The parts that the nodes of a testnet play in one quorum.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_api::{QuorumDetail, QuorumInfo, SubmitInfo};
use quorate_protocols::ids::{PeerId, QuorumId};
use quorate_testnet::{Testnet, TestnetNodeState};

use crate::connection::Target;
use crate::error::BenchError;
use crate::jobs::nothing;
use crate::through::Through;

/// How long a quorum may take to have a primary that all can name.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two polls of something that should happen soon.
pub const POLL: Duration = Duration::from_millis(25);

/// One quorum, and which of the nodes that run are what to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roles {
    pub quorum: QuorumId,
    pub primary: usize,
    /// The other voters.
    pub members: Vec<usize>,
    pub outsiders: Vec<usize>,
}

impl Roles {
    /// The parts in a quorum that there is; if there is none, in one that is formed for a job that does nothing.
    pub async fn find(testnet: &Testnet) -> Result<Self, BenchError> {
        let first = running(testnet).first().copied().ok_or_else(|| BenchError::Plan("no node runs".to_owned()))?;
        let client = testnet.client(first)?;
        let quorums: Vec<QuorumInfo> = client.list("/v1/quorums").await?.items;
        let quorum = match quorums.iter().find(|row| row.paused.is_none() && row.primary.is_some()) {
            Some(row) => row.quorum,
            None => client.post::<_, SubmitInfo>("/v1/jobs", &nothing()).await?.job.quorum,
        };
        Self::of(testnet, quorum).await
    }

    /// The parts in this quorum, once a node that does not lead it names a primary that runs.
    pub async fn of(testnet: &Testnet, quorum: QuorumId) -> Result<Self, BenchError> {
        let deadline = Instant::now() + PATIENCE;
        let path = format!("/v1/quorums/{quorum}");
        loop {
            let running = running(testnet);
            for index in &running {
                let detail = testnet.client(*index)?.get::<QuorumDetail>(&path).await;
                let Ok(QuorumDetail { info, .. }) = detail else { continue };
                let Some(primary) = info.primary.filter(|_| info.paused.is_none()) else { continue };
                let primary = index_of(testnet, primary)?;
                // Whoever leads may be the last to hear that it does not.
                if running.contains(&primary) && (primary != *index || running.len() == 1) {
                    let members = info.members.iter().filter_map(|member| testnet.index_of(*member)).collect();
                    return Ok(Self::new(quorum, primary, members, &running));
                }
            }
            if Instant::now() > deadline {
                return Err(BenchError::NoPrimary { quorum, after: PATIENCE });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn new(quorum: QuorumId, primary: usize, members: Vec<usize>, running: &[usize]) -> Self {
        let (members, outsiders) =
            running.iter().copied().filter(|index| *index != primary).partition(|index| members.contains(index));
        Self { quorum, primary, members, outsiders }
    }

    /// The nodes that are meant. An error when there is none of them.
    pub fn nodes(&self, through: Through) -> Result<Vec<usize>, BenchError> {
        let mut nodes = match through {
            Through::Primary => vec![self.primary],
            Through::Member => self.members.clone(),
            Through::Outsider => self.outsiders.clone(),
            Through::All => [&[self.primary], &*self.members, &*self.outsiders].concat(),
            Through::Node(index) => vec![index],
        };
        nodes.sort_unstable();
        match nodes.is_empty() {
            true => Err(BenchError::NoNodes { quorum: self.quorum, through }),
            false => Ok(nodes),
        }
    }
}

/// Where these nodes are reached.
pub fn targets(testnet: &Testnet, nodes: &[usize]) -> Result<Vec<Arc<Target>>, BenchError> {
    nodes.iter().map(|index| Target::of_node(testnet, *index)).collect()
}

pub fn running(testnet: &Testnet) -> Vec<usize> {
    let nodes = testnet.status().into_iter().filter(|node| node.state == TestnetNodeState::Running);
    nodes.map(|node| node.index).collect()
}

fn index_of(testnet: &Testnet, peer: PeerId) -> Result<usize, BenchError> {
    testnet.index_of(peer).ok_or(BenchError::NotANode { peer })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_running_node_has_one_part() {
        // Node 6 is a member and away.
        let roles = Roles::new(QuorumId([1; 16]), 2, vec![6, 4, 2], &[1, 2, 3, 4, 5, 7]);
        assert_eq!(roles.nodes(Through::Primary).unwrap(), [2]);
        assert_eq!(roles.nodes(Through::Member).unwrap(), [4]);
        assert_eq!(roles.nodes(Through::Outsider).unwrap(), [1, 3, 5, 7]);
        assert_eq!(roles.nodes(Through::All).unwrap(), [1, 2, 3, 4, 5, 7]);
        assert_eq!(roles.nodes(Through::Node(3)).unwrap(), [3]);
        let small = Roles::new(QuorumId([1; 16]), 1, vec![1, 2, 3], &[1, 2, 3]);
        let error = small.nodes(Through::Outsider).unwrap_err();
        assert!(error.to_string().contains("outsider") && error.hint().is_some(), "{error}");
    }
}
