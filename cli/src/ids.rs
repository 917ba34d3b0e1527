//! Ids as people read them: short in tables and beside names, whole with `--full-ids`.
//!
//! Sentences of a node have peers whole, for scripts: what a person reads of them goes through [`Ids::sentence`].
//!
//! A short form is the beginning of the part in which ids differ, and the command line takes it back wherever it takes
//! the id ([`super::reference`]). JSON has ids whole, and sentences beside it as the node wrote them.

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
    /// Sentences are for a program.
    json: bool,
    names: BTreeMap<PeerId, String>,
}

impl Ids {
    pub fn new(common: &Common) -> Self {
        Self { full: common.full_ids, json: common.json, names: BTreeMap::new() }
    }
    /// With the names that the asked node knows. Without them if it does not say, since what they stand
    /// beside is there, and for a program, which is given whole ids.
    pub async fn ask(common: &Common, client: &Client) -> Self {
        let mut ids = Self::new(common);
        if common.json {
            return ids;
        }
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
    /// With what is known of these nodes.
    pub fn with_name(mut self, peer: PeerId, name: Option<String>) -> Self {
        self.names.extend(name.map(|name| (peer, name)));
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
    /// A sentence of a node's, in which each peer is called by its name with its id behind it: `attic (QPZ7c4wH)`. A
    /// peer without a name is its id alone. Commands between backticks stay as they are, to be pasted.
    pub fn sentence(&self, text: &str) -> String {
        if self.json {
            return text.to_owned();
        }
        let parts = text.split('`').enumerate().map(|(position, part)| match position % 2 {
            0 => self.sentence_part(part),
            _ => part.to_owned(),
        });
        parts.collect::<Vec<_>>().join("`")
    }
    fn sentence_part(&self, text: &str) -> String {
        let (mut out, mut rest) = (String::new(), text);
        while let Some(at) = rest.find(PEER_MARK) {
            let (before, from) = rest.split_at(at);
            out.push_str(before);
            let word = from.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or(from);
            let begins_a_word = !before.ends_with(|c: char| c.is_ascii_alphanumeric());
            match word.parse::<PeerId>() {
                Ok(peer) if begins_a_word => {
                    let id = self.cut(peer.to_string(), PEER_MARK.len());
                    out.push_str(&match self.names.get(&peer) {
                        Some(name) => format!("{name} ({id})"),
                        None => id,
                    });
                }
                _ => out.push_str(word),
            }
            rest = &from[word.len()..];
        }
        out + rest
    }
    /// Whether the text has a peer whose name is not known.
    pub fn lacks_name_in(&self, text: &str) -> bool {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric());
        let mut peers = words.filter_map(|word| word.parse::<PeerId>().ok());
        peers.any(|peer| !self.names.contains_key(&peer))
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
    fn a_sentence_calls_peers_by_their_names() {
        let (known, other) = (PeerId([7; 32]), PeerId([8; 32]));
        let (short, short_other) = (known.to_string()[8..16].to_owned(), other.to_string()[8..16].to_owned());
        let text = format!("{known} and {other}: é{known}, x{known} or {PEER_MARK}; see `quorate x {known}`, {known}");
        let named = |common: &Common| Ids::new(common).with_name(known, Some("attic".to_owned()));
        let ids = named(&common(false));
        assert_eq!(
            ids.sentence(&text),
            format!(
                "attic ({short}) and {short_other}: éattic ({short}), x{known} or {PEER_MARK}; see `quorate x {known}`, \
                 attic ({short})"
            )
        );
        assert!(ids.lacks_name_in(&text) && !ids.lacks_name_in(&known.to_string()) && !ids.lacks_name_in("nobody"));
        let full = named(&common(true)).sentence(&format!("{known} and {other}"));
        assert_eq!(full, format!("attic ({known}) and {other}"));
        let json = named(&Common { json: true, ..Common::default() });
        assert_eq!(json.sentence(&text), text);
    }

    #[test]
    fn every_peer_id_begins_with_the_mark() {
        for byte in 0..=255 {
            assert!(PeerId([byte; 32]).to_string().starts_with(PEER_MARK), "{byte}");
        }
    }
}
