//! Ids as people read them: short in tables and beside names, whole with `--full-ids`.
//!
//! A short form is the beginning of the part in which ids differ, and the command line takes it back wherever it takes
//! the id ([`super::reference`]). JSON has ids whole.

use std::collections::BTreeMap;

use quorate_api::{NodeInfo, PeerInfo};
use quorate_protocols::ids::{JobId, ObjectId, PeerId, QuorumId};
use quorate_testnet::Client;

use super::args::Common;

/// Characters of a short form.
const SHORT: usize = 8;

/// The first characters of every peer id, which tell nothing apart.
pub const PEER_MARK: &str = "12D3KooW";

/// How ids are shown, and what peers are called.
#[derive(Clone, Debug, Default)]
pub struct Ids {
    full: bool,
    names: BTreeMap<PeerId, String>,
}

impl Ids {
    pub fn new(common: &Common) -> Self {
        Self { full: common.full_ids, names: BTreeMap::new() }
    }
    /// With the names that the asked node knows. Without them if it does not say: what they stand beside is there.
    pub async fn ask(common: &Common, client: &Client) -> Self {
        let mut ids = Self::new(common);
        if let Ok(peers) = client.list::<PeerInfo>("/v1/peers").await {
            ids = ids.with_peers(&peers.items);
        }
        if let Ok(NodeInfo { peer, name: Some(name), .. }) = client.get("/v1/node").await {
            ids.names.insert(peer, name);
        }
        ids
    }
    pub fn with_peers(mut self, peers: &[PeerInfo]) -> Self {
        self.names.extend(peers.iter().filter_map(|peer| Some((peer.peer, peer.name.clone()?))));
        self
    }
    fn cut(&self, whole: String, from: usize) -> String {
        match self.full {
            true => whole,
            false => whole.chars().skip(from).take(SHORT).collect(),
        }
    }
    /// The name, if there is one, and the id.
    pub fn peer(&self, peer: PeerId) -> String {
        let id = self.cut(peer.to_string(), PEER_MARK.len());
        match self.names.get(&peer) {
            Some(name) => format!("{name} {id}"),
            None => id,
        }
    }
    pub fn quorum(&self, quorum: QuorumId) -> String {
        self.cut(quorum.to_string(), 0)
    }
    pub fn job(&self, job: JobId) -> String {
        self.second_half(job.to_string())
    }
    pub fn object(&self, object: ObjectId) -> String {
        self.second_half(object.to_string())
    }
    /// The first half is the quorum's, which many share.
    fn second_half(&self, whole: String) -> String {
        let from = whole.find('.').map_or(0, |dot| dot + 1);
        self.cut(whole, from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common(full_ids: bool) -> Common {
        Common { full_ids, ..Common::default() }
    }

    #[test]
    fn a_short_id_is_the_beginning_of_what_tells_ids_apart() {
        let quorum = QuorumId([0xab; 16]);
        let (job, peer) = (JobId { quorum, local: [0x12; 16] }, PeerId([7; 32]));
        let ids = Ids::new(&common(false));
        assert_eq!((ids.quorum(quorum), ids.job(job)), ("abababab".to_owned(), "12121212".to_owned()));
        assert_eq!(ids.peer(peer), peer.to_string()[8..16]);
        let full = Ids::new(&common(true));
        assert_eq!((full.job(job), full.peer(peer)), (job.to_string(), peer.to_string()));
    }

    #[test]
    fn every_peer_id_begins_with_the_mark() {
        for byte in 0..=255 {
            assert!(PeerId([byte; 32]).to_string().starts_with(PEER_MARK), "{byte}");
        }
    }
}
