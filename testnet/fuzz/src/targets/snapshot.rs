//! Snapshots from a damaged disk or a faulty member: refused, or a state that keeps every invariant and goes on
//! working.

use quorate_protocols::ids::{LogIndex, Millis};
use quorate_protocols::quorum::request::Query;
use quorate_protocols::quorum::{Batch, QuorumState, SnapshotError};

use super::{Target, quorum};
use crate::meter::metered;
use crate::samples::state;
use crate::trail::Trail;

pub fn target() -> Target {
    let empty = QuorumState::new(state().quorum());
    Target::bytes("snapshot", run).with_seeds([empty, state()].iter().map(|state| {
        let chunks = state.encode_snapshot();
        frame(chunks.iter().map(|(_, chunk)| &chunk[..]))
    }))
}

fn run(bytes: &[u8]) -> Trail {
    let mut trail = Trail::default();
    let chunks = frames(bytes);
    let mut state = match metered(bytes.len(), || QuorumState::decode_snapshot(&chunks)) {
        Ok(state) => state,
        Err(error) => {
            match &error {
                SnapshotError::Decode { source, .. } => trail.mark_words("decode", &source.to_string()),
                SnapshotError::Invariant { what } => trail.mark_words("invariant", what),
                other => trail.mark_variant("refused", other),
            }
            return trail;
        }
    };
    trail.mark(("read", state.counts()));
    quorum::check(&state);
    state.answer(&Query::Jobs { after: None, limit: 500 });
    state.answer(&Query::Objects { after: None, limit: 500 });
    let batch = Batch::at(Millis(state.time().0.saturating_add(1)), quorum::sample_commands());
    state.apply(LogIndex(2), &batch);
    quorum::check(&state);
    trail
}

/// Several byte strings as one: each after its length in two bytes.
pub fn frame<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend_from_slice(&u16::try_from(part.len()).expect("a part is short").to_le_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

/// The parts again; what a damaged length claims beyond the end is not there.
pub fn frames(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let (part, rest) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
        parts.push(part);
        bytes = rest;
    }
    parts
}
