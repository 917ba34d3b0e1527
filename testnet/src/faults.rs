//! Faults inside running nodes: links, disk, clock.
//!
//! Each node's faults stand in its folder ([`FAULTS_FILE`]) and are told to it over the API. A node reads the file when
//! it starts, before it opens a connection, so a restart does not leak through a partition; one that is paused is told
//! when it goes on. Faults add up until [`Testnet::heal`]. Killing and pausing are not among them: what is down stays
//! down. A cut link stays silent and its connections stay open, as with a firewall that drops.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_api::{FAULTS_FILE, NodeFaults};

use crate::report::TestnetNodeState as NodeState;

use crate::client::ClientError;
use crate::testnet::{Testnet, TestnetError};

/// How long a node may take to say that it has taken its faults.
const TELL_DEADLINE: Duration = Duration::from_secs(20);

impl Testnet {
    /// What is broken on purpose in a node, running or not.
    pub fn faults(&self, index: usize) -> Result<NodeFaults, TestnetError> {
        self.layout().node(index)?;
        let path = self.node_dir(index).join(FAULTS_FILE);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| TestnetError::File { path, source: std::io::Error::other(error) }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(NodeFaults::default()),
            Err(source) => Err(TestnetError::File { path, source }),
        }
    }

    /// Changes the faults of some nodes; `change` is given each in turn. All are written before any is told.
    async fn change(
        &self,
        indices: &[usize],
        mut change: impl FnMut(usize, &mut NodeFaults) -> Result<(), TestnetError>,
    ) -> Result<(), TestnetError> {
        if !self.layout().testing {
            return Err(TestnetError::NotTesting);
        }
        let mut changed = BTreeMap::new();
        for &index in indices {
            let mut faults = self.faults(index)?;
            change(index, &mut faults)?;
            changed.insert(index, faults);
        }
        for (index, faults) in &changed {
            self.write_faults(*index, faults)?;
        }
        let told = changed.keys().map(|index| self.tell_faults(*index));
        futures::future::join_all(told).await.into_iter().collect()
    }

    /// Beside and renamed: a node that starts this very moment reads the old or the new.
    fn write_faults(&self, index: usize, faults: &NodeFaults) -> Result<(), TestnetError> {
        let path = self.node_dir(index).join(FAULTS_FILE);
        let draft = path.with_extension("json.new");
        let text = serde_json::to_vec(faults).expect("faults are plain data");
        std::fs::write(&draft, text)
            .and_then(|()| std::fs::rename(&draft, &path))
            .map_err(|source| TestnetError::File { path, source })
    }

    /// Tells a running node what its file says. One that is down or paused learns it later by itself.
    pub(crate) async fn tell_faults(&self, index: usize) -> Result<(), TestnetError> {
        let Ok(client) = self.client(index) else { return Ok(()) };
        let request = client.request(reqwest::Method::PUT, "/v1/testing/faults").json(&self.faults(index)?);
        if self.state(index).0 != NodeState::Running {
            return Ok(());
        }
        match client.send(request.timeout(TELL_DEADLINE)).await {
            Ok(_) => Ok(()),
            // It ended meanwhile, or has not begun to listen: it reads its file.
            Err(ClientError::NoAnswer { .. } | ClientError::Transfer { .. })
                if self.state(index).0 != NodeState::Running =>
            {
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Nothing passes between nodes of different groups. Nodes in no group form one of their own.
    pub async fn partition(&self, groups: &[Vec<usize>]) -> Result<Vec<BTreeSet<usize>>, TestnetError> {
        let mut sides: Vec<BTreeSet<usize>> = Vec::new();
        let mut named = BTreeSet::new();
        for group in groups {
            for &index in group {
                self.layout().node(index)?;
                if !named.insert(index) {
                    return Err(TestnetError::TwoGroups { index });
                }
            }
            sides.push(group.iter().copied().collect());
        }
        let rest: BTreeSet<usize> = self.indices().into_iter().filter(|index| !named.contains(index)).collect();
        sides.push(rest);
        sides.retain(|side| !side.is_empty());
        if sides.len() < 2 {
            return Err(TestnetError::OneGroup);
        }
        let side_of = |index| sides.iter().position(|side| side.contains(&index));
        let all = self.indices();
        self.change(&all, |index, faults| {
            for &other in all.iter().filter(|other| side_of(**other) != side_of(index)) {
                let link = faults.link_mut(self.peer_id(other)?);
                (link.cut_to, link.cut_from) = (true, true);
            }
            Ok(())
        })
        .await?;
        Ok(sides)
    }

    /// Ends every fault of every node.
    pub async fn heal(&self) -> Result<(), TestnetError> {
        self.change(&self.indices(), |_, faults| {
            *faults = NodeFaults::default();
            Ok(())
        })
        .await
    }

    /// Replaces the faults of every node: those left out have none.
    pub async fn set_faults(&self, wanted: &BTreeMap<usize, NodeFaults>) -> Result<(), TestnetError> {
        self.change(&self.indices(), |index, faults| {
            *faults = wanted.get(&index).cloned().unwrap_or_default();
            Ok(())
        })
        .await
    }

    /// What `index` sends and what it hears takes `delay` longer, each way.
    pub async fn slow(&self, index: usize, delay: Duration) -> Result<(), TestnetError> {
        let others: Vec<usize> = self.indices().into_iter().filter(|other| *other != index).collect();
        self.change(&[index], |_, faults| {
            for &other in &others {
                faults.link_mut(self.peer_id(other)?).delay_ms = delay.as_millis() as u64;
            }
            Ok(())
        })
        .await
    }

    /// Nothing that `from` sends reaches `to`; the other way is left as it is.
    pub async fn cut(&self, from: usize, to: usize) -> Result<(), TestnetError> {
        if from == to {
            return Err(TestnetError::SameNode { index: from });
        }
        let (sender, hearer) = (self.peer_id(from)?, self.peer_id(to)?);
        self.change(&[from, to], |index, faults| {
            match index == from {
                true => faults.link_mut(hearer).cut_to = true,
                false => faults.link_mut(sender).cut_from = true,
            }
            Ok(())
        })
        .await
    }

    /// Every piece that `index` reads from its disk has a flipped bit.
    pub async fn corrupt(&self, index: usize) -> Result<(), TestnetError> {
        self.change(&[index], |_, faults| {
            faults.disk.flip_bits = true;
            Ok(())
        })
        .await
    }

    /// Tasks that several nodes run to compare their results end with a wrong one at `index`.
    pub async fn lie(&self, index: usize) -> Result<(), TestnetError> {
        self.change(&[index], |_, faults| {
            faults.lie = true;
            Ok(())
        })
        .await
    }

    /// The disk of `index` is full.
    pub async fn fill(&self, index: usize) -> Result<(), TestnetError> {
        self.change(&[index], |_, faults| {
            faults.disk.full = true;
            Ok(())
        })
        .await
    }

    /// The wall clock of `index` is wrong by this many milliseconds; 0 ends it.
    pub async fn clock(&self, index: usize, offset_ms: i64) -> Result<(), TestnetError> {
        self.change(&[index], |_, faults| {
            faults.clock_offset_ms = offset_ms;
            Ok(())
        })
        .await
    }
}
