//! Events, and how far a quorum has come with each peer that emits them.
//!
//! An emitter numbers what it emits and keeps it until the quorum has committed it. A delivery names the number that it
//! follows: everything between that and its first event is not for this quorum, or is gone and counted as lost. So the
//! quorum can tell a repeat (behind its place), the next (at its place) and a gap (ahead of it, refused), and no event
//! is taken twice or passed over in silence, whoever leads and however often it is sent.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::limits::{EVENT_DATA_BYTES_MAX, EVENT_ID_BYTES_MAX, EVENT_NAME_BYTES_MAX};
use super::record::SeenId;
use crate::ids::{JobId, Millis, Nonce, PeerId};
use crate::wire;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub name: String,
    /// Given by who emits it: events of one name and id are one, through whichever peer they come.
    pub id: Option<String>,
    /// JSON.
    pub data: Bytes,
    /// By the emitter's clock; for people.
    pub at: Millis,
}

/// An event on its way into the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Its number at the emitter.
    pub sequence: u64,
    pub event: Event,
    /// The triggers that it fires, by the primary's evaluation of their expressions.
    pub matches: Vec<Match>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    pub job: JobId,
    /// The expression could not be evaluated: a recorded skip.
    pub fault: Option<String>,
}

/// How far the quorum has come with one emitter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emitter {
    /// Everything up to here is recorded, or was not for this quorum.
    pub sequence: u64,
    /// Quorum time of the last delivery.
    pub at: Millis,
    /// Events that the emitter could not keep until they were taken.
    pub lost: u64,
}

impl Event {
    /// What is wrong with it, with the key that an emitter's user knows.
    pub fn check(&self) -> Result<(), String> {
        self.check_size()?;
        serde_json::from_slice::<serde::de::IgnoredAny>(&self.data)
            .map_err(|error| format!("data: not JSON: {error}"))?;
        Ok(())
    }

    /// As far as members check it: they take the primary's word that the data is JSON.
    pub(crate) fn check_size(&self) -> Result<(), String> {
        check_name(&self.name).map_err(|problem| format!("name: {problem}"))?;
        if let Some(id) = &self.id
            && (id.is_empty() || id.len() > EVENT_ID_BYTES_MAX)
        {
            return Err(format!("id: 1 to {EVENT_ID_BYTES_MAX} bytes are accepted, and this has {}", id.len()));
        }
        if self.data.len() > EVENT_DATA_BYTES_MAX {
            let bytes = self.data.len();
            return Err(format!("data: {bytes} bytes of JSON, more than the {EVENT_DATA_BYTES_MAX} allowed"));
        }
        Ok(())
    }

    /// What makes it one event: its id, or else its place at its emitter.
    pub fn seen_id(&self, emitter: PeerId, sequence: u64) -> SeenId {
        match &self.id {
            Some(id) => half_hash(&wire::encode(&(&self.name, id))),
            None => half_hash(&wire::encode(&(emitter, sequence))),
        }
    }
}

impl From<Nonce> for SeenId {
    fn from(nonce: Nonce) -> Self {
        Self(nonce.0)
    }
}

fn half_hash(bytes: &[u8]) -> SeenId {
    let mut half = [0; 16];
    half.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    SeenId(half)
}

/// An event's name, wherever it is written.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > EVENT_NAME_BYTES_MAX || !name.bytes().all(plain) {
        return Err(format!("{name:?} is no name: 1 to {EVENT_NAME_BYTES_MAX} letters, digits, '-', '_' and '.' are"));
    }
    Ok(())
}
