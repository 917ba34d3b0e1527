//! Events in a run of triggers: rung through any node, at any time, some twice, and which of them were acknowledged.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_protocols::ids::{Millis, PeerId};
use quorate_protocols::trigger::event::Event;
use quorate_protocols::trigger::record::SeenId;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::rng::SimRng;
use crate::world::World;

pub const NAME: &str = "bell";

/// Of a thousand rings, those with an id that was rung before, mostly through another node.
const AGAIN: u32 = 200;

/// The newest ids that are rung again, by when they were rung first: far within the trigger's dedupe window, so that a
/// ring that waits at a node without a connection is still within it.
const RECENT: usize = 20;

/// One event: who rang it, when, and whether any of them was told that it was taken.
#[derive(Default)]
struct Rung {
    rings: Vec<(Instant, usize)>,
    is_acknowledged: bool,
}

/// Every ring that was tried, by what makes it one event.
#[derive(Default)]
pub struct Bells {
    rung: BTreeMap<SeenId, Rung>,
    recent: Vec<String>,
    waiting: Vec<(SeenId, JoinHandle<Option<bool>>)>,
    pub again: u64,
}

impl Bells {
    /// Whatever becomes of it is heard later.
    pub fn ring(&mut self, world: &World, rng: &mut SimRng) {
        let Some(index) = rng.pick(&world.up()).copied() else { return };
        let Some(node) = world.node(index).cloned() else { return };
        let known: Option<String> = if rng.chance(AGAIN) { rng.pick(&self.recent).cloned() } else { None };
        self.again += u64::from(known.is_some());
        let id = known.unwrap_or_else(|| {
            let id = format!("ring {}", self.rung.len());
            self.recent.push(id.clone());
            if self.recent.len() > RECENT {
                self.recent.remove(0);
            }
            id
        });
        let data = Bytes::from_static(b"{\"door\": \"front\"}");
        let event = Event { name: NAME.to_owned(), id: Some(id.clone()), data: data.clone(), at: Millis(0) };
        let seen = event.seen_id(PeerId([0; 32]), 0);
        self.rung.entry(seen).or_default().rings.push((Instant::now(), index));
        let tasks = node.seams().tasks.clone();
        let ringing = tasks.spawn(async move { node.emitter().emit(NAME.to_owned(), Some(id), data).await.is_ok() });
        self.waiting.push((seen, ringing));
    }

    /// Waits for answers that are to come, no longer than until `end`. A node that crashed gives none: that ring may
    /// have been taken or not.
    pub async fn hear(&mut self, end: Instant) {
        for (seen, ringing) in std::mem::take(&mut self.waiting) {
            if let Ok(Ok(Some(true))) = tokio::time::timeout_at(end, ringing).await {
                self.rung.entry(seen).or_default().is_acknowledged = true;
            }
        }
    }

    pub fn acknowledged(&self) -> impl Iterator<Item = SeenId> + '_ {
        self.rung.iter().filter(|(_, rung)| rung.is_acknowledged).map(|(seen, _)| *seen)
    }

    pub fn is_rung(&self, seen: SeenId) -> bool {
        self.rung.contains_key(&seen)
    }

    /// Who rang it, and how long after its first ring: to tell why it is recorded twice.
    pub fn story(&self, seen: SeenId) -> String {
        let rings = self.rung.get(&seen).map(|rung| rung.rings.as_slice()).unwrap_or_default();
        let ring = |(at, node): &(Instant, usize)| format!("node {node} after {} s", (*at - rings[0].0).as_secs());
        rings.iter().map(ring).collect::<Vec<_>>().join(", ")
    }

    pub fn count(&self) -> usize {
        self.rung.len()
    }
}
