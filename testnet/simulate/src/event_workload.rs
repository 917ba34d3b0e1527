//! The event workload of a run of triggers: events emitted through any node, at any time, some twice, and which of them
//! were acknowledged.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_protocols::ids::{Millis, PeerId};
use quorate_protocols::trigger::event::Event;
use quorate_protocols::trigger::record::SeenId;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::world::World;
use quorate_testnet::rng::Rng;

pub const NAME: &str = "bell";

/// Of a thousand events, those with an id that was emitted before, mostly through another node.
const AGAIN: u32 = 200;

/// The newest ids that are emitted again, by when they were emitted first: far within the trigger's dedupe window, so
/// that an event that waits at a node without a connection is still within it.
const RECENT: usize = 20;

/// One event: when it was emitted through which node, and whether any of them acknowledged it.
#[derive(Default)]
struct Emitted {
    times: Vec<(Instant, usize)>,
    is_acknowledged: bool,
}

/// Every emit that was tried, by what makes it one event.
#[derive(Default)]
pub struct EventWorkload {
    emitted: BTreeMap<SeenId, Emitted>,
    recent: Vec<String>,
    waiting: Vec<(SeenId, JoinHandle<Option<bool>>)>,
    pub again: u64,
}

impl EventWorkload {
    /// Whatever becomes of it is collected later.
    pub fn emit(&mut self, world: &World, rng: &mut Rng) {
        let Some(index) = rng.pick(&world.up()).copied() else { return };
        let Some(node) = world.node(index).cloned() else { return };
        let known: Option<String> = if rng.chance(AGAIN) { rng.pick(&self.recent).cloned() } else { None };
        self.again += u64::from(known.is_some());
        let id = known.unwrap_or_else(|| {
            let id = format!("event {}", self.emitted.len());
            self.recent.push(id.clone());
            if self.recent.len() > RECENT {
                self.recent.remove(0);
            }
            id
        });
        let data = Bytes::from_static(b"{\"door\": \"front\"}");
        let event = Event { name: NAME.to_owned(), id: Some(id.clone()), data: data.clone(), at: Millis(0) };
        let seen = event.seen_id(PeerId([0; 32]), 0);
        self.emitted.entry(seen).or_default().times.push((Instant::now(), index));
        let (tasks, transcript) = (node.seams().tasks.clone(), world.transcript.clone());
        transcript.line(index, format_args!("emits {id}, {seen:?}"));
        let emitting = tasks.spawn(async move {
            let answer = node.emitter().emit(NAME.to_owned(), Some(id.clone()), data).await;
            transcript.line(index, format_args!("emitted {id}: {answer:?}"));
            answer.is_ok()
        });
        self.waiting.push((seen, emitting));
    }

    /// Waits for answers that are to come, no longer than until `end`. A node that crashed gives none: that event
    /// may have been taken or not.
    pub async fn collect_answers(&mut self, end: Instant) {
        for (seen, emitting) in std::mem::take(&mut self.waiting) {
            if let Ok(Ok(Some(true))) = tokio::time::timeout_at(end, emitting).await {
                self.emitted.entry(seen).or_default().is_acknowledged = true;
            }
        }
    }

    pub fn acknowledged(&self) -> impl Iterator<Item = SeenId> + '_ {
        self.emitted.iter().filter(|(_, event)| event.is_acknowledged).map(|(seen, _)| *seen)
    }

    pub fn was_emitted(&self, seen: SeenId) -> bool {
        self.emitted.contains_key(&seen)
    }

    /// Which nodes it was emitted through, and how long after the first time: to tell why it is recorded twice.
    pub fn story(&self, seen: SeenId) -> String {
        let times = self.emitted.get(&seen).map(|event| event.times.as_slice()).unwrap_or_default();
        let told = |(at, node): &(Instant, usize)| format!("node {node} after {} s", (*at - times[0].0).as_secs());
        times.iter().map(told).collect::<Vec<_>>().join(", ")
    }

    pub fn count(&self) -> usize {
        self.emitted.len()
    }
}
