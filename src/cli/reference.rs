//! Ids as people type them: whole, or the first eight or more digits of either half when only one thing has them.

use std::str::FromStr;

use quorate_protocols::api::{JobInfo, Listing, ObjectInfo};
use quorate_protocols::ids::{JobId, ObjectId};
use quorate_testnet::Client;

use super::failure::Failure;

/// Fewer digits would soon fit several things.
const PREFIX_MIN: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference<T> {
    Whole(T),
    Prefix(String),
}

pub type JobRef = Reference<JobId>;
pub type ObjectRef = Reference<ObjectId>;

impl<T: FromStr> FromStr for Reference<T>
where
    T::Err: std::fmt::Display,
{
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let error = match text.parse() {
            Ok(whole) => return Ok(Self::Whole(whole)),
            Err(error) => error,
        };
        let digits = |c: char| c.is_ascii_hexdigit() || c == '.';
        match text.len() >= PREFIX_MIN && text.chars().all(digits) {
            true => Ok(Self::Prefix(text.to_ascii_lowercase())),
            false => Err(format!("{error}; the first {PREFIX_MIN} or more digits will do")),
        }
    }
}

/// Whether `prefix` begins the id, or the half of it behind the dot.
fn begins(id: &str, prefix: &str) -> bool {
    id.starts_with(prefix) || id.split_once('.').is_some_and(|(_, local)| local.starts_with(prefix))
}

fn only_one<T: ToString>(what: &str, prefix: &str, ids: impl Iterator<Item = T>, is_whole: bool) -> Result<T, Failure> {
    let mut found: Vec<T> = ids.filter(|id| begins(&id.to_string(), prefix)).collect();
    match (found.pop(), found.len()) {
        (Some(id), 0) => Ok(id),
        (Some(_), more) => Err(Failure::usage(format!("{} {what}s begin with {prefix}; give more digits", more + 1))),
        (None, _) if is_whole => Err(Failure::failed(format!("no {what} begins with {prefix}"))
            .hint(format!("`quorate {what} ls` lists those that this node can reach"))),
        (None, _) => Err(Failure::failed(format!("no {what} that this node can reach begins with {prefix}")).hint(
            format!("some quorums could not be asked: `quorate {what} ls` names them; the whole id may lead further"),
        )),
    }
}

impl JobRef {
    pub async fn resolve(self, client: &Client) -> Result<JobId, Failure> {
        match self {
            Self::Whole(job) => Ok(job),
            Self::Prefix(prefix) => {
                let jobs: Listing<JobInfo> = client.list("/v1/jobs").await?;
                let is_whole = jobs.unreachable.is_empty();
                only_one("job", &prefix, jobs.items.into_iter().map(|job| job.job), is_whole)
            }
        }
    }
}

impl ObjectRef {
    pub async fn resolve(self, client: &Client) -> Result<ObjectId, Failure> {
        match self {
            Self::Whole(object) => Ok(object),
            Self::Prefix(prefix) => {
                let objects: Listing<ObjectInfo> = client.list("/v1/objects").await?;
                let is_whole = objects.unreachable.is_empty();
                only_one("object", &prefix, objects.items.into_iter().map(|object| object.object), is_whole)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_protocols::ids::QuorumId;

    #[test]
    fn a_prefix_names_one_thing_or_nothing() {
        let job = |last: u8| JobId { quorum: QuorumId([0xab; 16]), local: [last; 16] };
        let jobs = [job(1), job(2)];
        assert_eq!(only_one("job", "01010101", jobs.into_iter(), true), Ok(job(1)));
        assert_eq!(only_one("job", &job(2).to_string()[..40], jobs.into_iter(), true), Ok(job(2)));
        assert_eq!(only_one("job", "abababab", jobs.into_iter(), true).unwrap_err().code, super::super::failure::USAGE);
        assert_eq!(
            only_one("job", "99999999", jobs.into_iter(), true).unwrap_err().code,
            super::super::failure::FAILED
        );
    }

    #[test]
    fn what_is_no_id_is_refused_before_anyone_is_asked() {
        assert!("nonsense".parse::<ObjectRef>().is_err());
        assert!("abc".parse::<ObjectRef>().is_err());
        assert_eq!("ABCDEF01".parse::<JobRef>(), Ok(Reference::Prefix("abcdef01".into())));
    }
}
