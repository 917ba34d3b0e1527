//! Events, and how far a quorum has come with each peer that emits them.
//!
//! An emitter numbers what it emits and keeps it until the quorum has committed it. A delivery names the number that it
//! follows: everything between that and its first event is not for this quorum, or is gone and counted as lost. So the
//! quorum can tell a repeat (behind its place), the next (at its place) and a gap (ahead of it, refused), and no event
//! is taken twice or passed over in silence, whoever leads and however often it is sent.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::limits::{
    DELIVERY_BYTES_MAX, EVENT_DATA_BYTES_MAX, EVENT_ID_BYTES_MAX, EVENT_NAME_BYTES_MAX, EVENTS_PER_DELIVERY_MAX,
    OWN_PREFIX,
};
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

/// What an emitter says to a quorum's primary, on the job protocol: all of its events up to `reaches` that may be for
/// this quorum and that it has not been told of, but for `lost` that could not be kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dispatch {
    /// The number of its last event that the quorum is known to have on record.
    pub follows: u64,
    pub reaches: u64,
    pub lost: u64,
    /// At most `EVENTS_PER_DELIVERY_MAX`, with at most `DELIVERY_BYTES_MAX` of data, in order of number.
    pub events: Vec<Dispatched>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dispatched {
    pub sequence: u64,
    /// How long ago it was emitted: a trigger hears of what comes after its submit, and clocks differ.
    pub age: Duration,
    pub event: Event,
}

/// What the primary says to that. The emitter need not keep what is up to `reaches` for this quorum's sake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryAck {
    /// At most what was said; less when there was more than one command takes.
    pub reaches: u64,
    /// What the quorum has on record of the emitter now; `None`: nothing of it was for anyone, and nothing was
    /// recorded.
    pub recorded: Option<u64>,
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

/// A name that no event has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no name: 1 to {EVENT_NAME_BYTES_MAX} letters, digits, '-', '_' and '.' are")]
pub struct EventNameError {
    name: String,
}

/// An event that cannot be taken, with the key that the emitter's user knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventFault {
    #[error("name: {0}")]
    Name(EventNameError),
    #[error("name: {name:?} begins with {OWN_PREFIX:?}, which is kept for the network's own events; choose another")]
    OwnName { name: String },
    #[error("id: 1 to {EVENT_ID_BYTES_MAX} bytes are accepted, and this has {bytes}")]
    Id { bytes: usize },
    #[error("data: {bytes} bytes of JSON, more than the {EVENT_DATA_BYTES_MAX} allowed")]
    TooLarge { bytes: usize },
    #[error("data: not JSON: {reason}")]
    NotJson { reason: String },
}

/// A dispatch that no emitter makes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DispatchFault {
    #[error("more than {EVENTS_PER_DELIVERY_MAX} events at once")]
    TooMany,
    #[error("more than {DELIVERY_BYTES_MAX} bytes of events at once")]
    TooLarge,
    #[error("event {sequence} is out of order")]
    OutOfOrder { sequence: u64 },
    #[error("it ends at {reaches} and goes on to {last}")]
    PastEnd { reaches: u64, last: u64 },
    #[error(transparent)]
    Event(#[from] EventFault),
}

impl Dispatch {
    pub fn check(&self) -> Result<(), DispatchFault> {
        if self.events.len() > EVENTS_PER_DELIVERY_MAX {
            return Err(DispatchFault::TooMany);
        }
        if self.events.iter().map(|sent| sent.event.data.len()).sum::<usize>() > DELIVERY_BYTES_MAX {
            return Err(DispatchFault::TooLarge);
        }
        let mut before = self.follows;
        for sent in &self.events {
            if sent.sequence <= before {
                return Err(DispatchFault::OutOfOrder { sequence: sent.sequence });
            }
            before = sent.sequence;
            sent.event.check()?;
        }
        match self.reaches {
            reaches if reaches < before => Err(DispatchFault::PastEnd { reaches, last: before }),
            _ => Ok(()),
        }
    }
}

/// Whether events of this name are the network's own.
pub fn is_own_name(name: &str) -> bool {
    name.starts_with(OWN_PREFIX)
}

impl Event {
    /// Whether it is the network's own.
    pub fn is_own(&self) -> bool {
        is_own_name(&self.name)
    }
    pub fn check(&self) -> Result<(), EventFault> {
        self.check_size()?;
        serde_json::from_slice::<serde::de::IgnoredAny>(&self.data)
            .map_err(|error| EventFault::NotJson { reason: error.to_string() })?;
        Ok(())
    }

    /// As far as members check it: they take the primary's word that the data is JSON.
    pub(crate) fn check_size(&self) -> Result<(), EventFault> {
        check_name(&self.name).map_err(EventFault::Name)?;
        if let Some(id) = &self.id
            && (id.is_empty() || id.len() > EVENT_ID_BYTES_MAX)
        {
            return Err(EventFault::Id { bytes: id.len() });
        }
        if self.data.len() > EVENT_DATA_BYTES_MAX {
            return Err(EventFault::TooLarge { bytes: self.data.len() });
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
pub(crate) fn check_name(name: &str) -> Result<(), EventNameError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > EVENT_NAME_BYTES_MAX || !name.bytes().all(plain) {
        return Err(EventNameError { name: name.to_owned() });
    }
    Ok(())
}
