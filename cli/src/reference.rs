//! Ids as people type them: whole, or the first four or more characters of either half when only one thing has them.

use std::fmt::Display;
use std::str::FromStr;

use quorate_api::{JobInfo, Listing, NodeInfo, ObjectInfo, PeerInfo, QuorumInfo};
use quorate_protocols::ids::{JobId, ObjectId, PeerId, QuorumId};
use quorate_testnet::{Client, ClientError};

use super::failure::Failure;
use super::ids::PEER_MARK;

/// Fewer characters would soon fit several things.
const PREFIX_MIN: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference<T> {
    Whole(T),
    Prefix(String),
}

pub type JobRef = Reference<JobId>;
pub type ObjectRef = Reference<ObjectId>;
pub type QuorumRef = Reference<QuorumId>;
pub type PeerRef = Reference<PeerId>;

/// The ids of one sort that the asked node knows.
struct Known<T> {
    ids: Vec<T>,
    /// Nothing of the sort is left out.
    is_whole: bool,
}

impl<T> Known<T> {
    fn of<R>(listing: Listing<R>, id: impl Fn(R) -> T) -> Self {
        let is_whole = listing.unreachable.is_empty();
        Self { ids: listing.items.into_iter().map(id).collect(), is_whole }
    }
}

/// An id that may be typed by its beginning.
trait Typed: FromStr<Err: Display> + Display + Copy {
    const WHAT: &str;
    /// Lists all that there are.
    const LIST: &str;
    /// The prefix that the text is, if it is one.
    fn prefix(text: &str) -> Option<String> {
        text.chars().all(|c| c.is_ascii_hexdigit() || c == '.').then(|| text.to_ascii_lowercase())
    }
    /// Whether the prefix begins the id, or the half of it behind the dot.
    fn begins(&self, prefix: &str) -> bool {
        let id = self.to_string();
        id.starts_with(prefix) || id.split_once('.').is_some_and(|(_, local)| local.starts_with(prefix))
    }
    async fn known(client: &Client) -> Result<Known<Self>, ClientError>;
}

impl Typed for JobId {
    const WHAT: &str = "job";
    const LIST: &str = "quorate job ls";
    async fn known(client: &Client) -> Result<Known<Self>, ClientError> {
        Ok(Known::of(client.list("/v1/jobs").await?, |row: JobInfo| row.job))
    }
}

impl Typed for ObjectId {
    const WHAT: &str = "object";
    const LIST: &str = "quorate object ls";
    async fn known(client: &Client) -> Result<Known<Self>, ClientError> {
        Ok(Known::of(client.list("/v1/objects").await?, |row: ObjectInfo| row.object))
    }
}

impl Typed for QuorumId {
    const WHAT: &str = "quorum";
    const LIST: &str = "quorate quorum ls";
    async fn known(client: &Client) -> Result<Known<Self>, ClientError> {
        // Of a quorum that cannot be asked the id is known all the same.
        let known = Known::of(client.list("/v1/quorums").await?, |row: QuorumInfo| row.quorum);
        Ok(Known { is_whole: true, ..known })
    }
}

impl Typed for PeerId {
    const WHAT: &str = "peer";
    const LIST: &str = "quorate peers";
    fn prefix(text: &str) -> Option<String> {
        text.chars().all(|c| c.is_ascii_alphanumeric()).then(|| text.to_owned())
    }
    /// The beginning that all share is left out, as tables do.
    fn begins(&self, prefix: &str) -> bool {
        let id = self.to_string();
        (prefix.len() > PEER_MARK.len() && id.starts_with(prefix))
            || id.strip_prefix(PEER_MARK).is_some_and(|rest| rest.starts_with(prefix))
    }
    async fn known(client: &Client) -> Result<Known<Self>, ClientError> {
        let mut known = Known::of(client.list("/v1/peers").await?, |row: PeerInfo| row.peer);
        known.ids.push(client.get::<NodeInfo>("/v1/node").await?.peer);
        Ok(known)
    }
}

#[allow(private_bounds, reason = "the four sorts of ids are all there are")]
impl<T: Typed> FromStr for Reference<T> {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let error = match text.parse() {
            Ok(whole) => return Ok(Self::Whole(whole)),
            Err(error) => error,
        };
        match T::prefix(text).filter(|prefix| prefix.len() >= PREFIX_MIN) {
            Some(prefix) => Ok(Self::Prefix(prefix)),
            None => Err(format!("{error}; the first {PREFIX_MIN} or more characters will do")),
        }
    }
}

fn only_one<T: Typed>(prefix: &str, known: Known<T>) -> Result<T, Failure> {
    let (what, list) = (T::WHAT, T::LIST);
    let mut found: Vec<T> = known.ids.into_iter().filter(|id| id.begins(prefix)).collect();
    match (found.pop(), found.len()) {
        (Some(id), 0) => Ok(id),
        (Some(_), more) => Err(Failure::usage(format!("{} {what}s begin with {prefix}; give more of it", more + 1))),
        (None, _) if known.is_whole => Err(Failure::failed(format!("no {what} begins with {prefix}"))
            .hint(format!("`{list}` lists those that this node can reach"))),
        (None, _) => Err(Failure::failed(format!("no {what} that this node can reach begins with {prefix}"))
            .hint(format!("some quorums could not be asked: `{list}` names them; the whole id may lead further"))),
    }
}

#[allow(private_bounds, reason = "the four sorts of ids are all there are")]
impl<T: Typed> Reference<T> {
    pub async fn resolve(self, client: &Client) -> Result<T, Failure> {
        match self {
            Self::Whole(id) => Ok(id),
            Self::Prefix(prefix) => only_one(&prefix, T::known(client).await?),
        }
    }
}

/// The id that is meant, if one is given.
pub async fn resolve_optional(quorum: Option<QuorumRef>, client: &Client) -> Result<Option<QuorumId>, Failure> {
    match quorum {
        Some(quorum) => quorum.resolve(client).await.map(Some),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole<T>(ids: impl Into<Vec<T>>) -> Known<T> {
        Known { ids: ids.into(), is_whole: true }
    }

    #[test]
    fn a_prefix_names_one_thing_or_nothing() {
        let job = |last: u8| JobId { quorum: QuorumId([0xab; 16]), local: [last; 16] };
        let jobs = || whole([job(1), job(2)]);
        assert_eq!(only_one("01010101", jobs()), Ok(job(1)));
        assert_eq!(only_one("0202", jobs()), Ok(job(2)));
        assert_eq!(only_one(&job(2).to_string()[..40], jobs()), Ok(job(2)));
        assert_eq!(only_one("abababab", jobs()).unwrap_err().code, super::super::failure::USAGE);
        assert_eq!(only_one("99999999", jobs()).unwrap_err().code, super::super::failure::FAILED);
    }

    #[test]
    fn a_peer_is_named_by_what_follows_the_beginning_that_all_share() {
        let peers = || whole([PeerId([1; 32]), PeerId([9; 32])]);
        let text = PeerId([9; 32]).to_string();
        for prefix in [&text[8..16], &text[8..14], &text[..20]] {
            assert_eq!(only_one(prefix, peers()), Ok(PeerId([9; 32])), "{prefix}");
        }
        assert_eq!(only_one("12D3KooW", peers()).unwrap_err().code, super::super::failure::FAILED);
        assert_eq!(text[8..16].parse::<PeerRef>(), Ok(Reference::Prefix(text[8..16].to_owned())));
    }

    #[test]
    fn what_is_no_id_is_refused_before_anyone_is_asked() {
        assert!("nonsense".parse::<ObjectRef>().is_err());
        assert!("abc".parse::<ObjectRef>().is_err());
        assert_eq!("ABCDEF01".parse::<JobRef>(), Ok(Reference::Prefix("abcdef01".into())));
    }
}
