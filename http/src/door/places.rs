//! Accounting of connections: who has a place, who waits in the lobby, and who gives way.
//!
//! A connection begins in the *lobby*, and gets a place with the first request that shows a token. So connections
//! without a token take the places of each other and nobody else's. It holds no socket and no clock: the door performs
//! what is decided here.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::super::limits::{DoorLimits, LOBBY_PAUSE};

/// A connection, in the order in which they were accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(u64);

/// A place that a request may be answered in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// One of the connection's own, kept between requests.
    Own,
    /// One of those kept for requests that end by themselves: given up with the answer.
    Kept,
}

/// How long a request can hold its place, as far as its head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It is whole, and waits for nothing.
    Brief,
    /// It waits for nothing but its own body, which its client sends.
    Body,
    /// It waits, follows, or moves content.
    Long,
}

/// A request that finds no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// All are held by requests that go on.
    Full,
    /// The connection was closed meanwhile.
    Closed,
}

#[derive(Debug)]
pub struct Places {
    connections_max: usize,
    lobby_max: usize,
    lobby_age_min: Duration,
    kept_max: usize,
    next: u64,
    /// With the instants at which they came.
    lobby: BTreeMap<ConnectionId, Instant>,
    /// Connections with a place of their own. Those between two requests have the instant of the last one's end.
    own: BTreeMap<ConnectionId, Option<u64>>,
    /// The same that are idle, the longest idle first.
    idle: BTreeMap<u64, ConnectionId>,
    /// At most so many of each need: clients that do not send their bodies keep nobody from a question.
    kept: BTreeMap<ConnectionId, Need>,
}

impl Places {
    pub fn new(limits: &DoorLimits) -> Self {
        Self {
            connections_max: limits.connections_max,
            lobby_max: limits.lobby_max,
            lobby_age_min: limits.lobby_age_min,
            kept_max: limits.kept_places,
            next: 0,
            lobby: BTreeMap::new(),
            own: BTreeMap::new(),
            idle: BTreeMap::new(),
            kept: BTreeMap::new(),
        }
    }

    fn tick(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// When the lobby opens again, for as long as it is full of connections that have not had their time.
    pub fn opens_at(&self, now: Instant) -> Option<Instant> {
        let (_, oldest) = self.lobby.first_key_value().filter(|_| self.lobby.len() >= self.lobby_max)?;
        let opens_at = *oldest + self.lobby_age_min;
        (now < opens_at).then_some(opens_at + LOBBY_PAUSE)
    }

    /// A new connection, and the one that has to be closed for it.
    pub fn enter(&mut self, now: Instant) -> (ConnectionId, Option<ConnectionId>) {
        let closed = match self.lobby.len() >= self.lobby_max {
            true => self.lobby.pop_first().map(|(id, _)| id),
            false => None,
        };
        let id = ConnectionId(self.tick());
        self.lobby.insert(id, now);
        (id, closed)
    }

    /// A request with a token begins. Also says which idle connection has to be closed for it.
    pub fn admit(&mut self, id: ConnectionId, need: Need) -> Result<(Place, Option<ConnectionId>), NoPlace> {
        if let Some(idle) = self.own.get_mut(&id) {
            if let Some(since) = idle.take() {
                self.idle.remove(&since);
            }
            return Ok((Place::Own, None));
        }
        if self.kept.contains_key(&id) {
            return Ok((Place::Kept, None));
        }
        if !self.lobby.contains_key(&id) {
            return Err(NoPlace::Closed);
        }
        let closed = match self.own.len() >= self.connections_max {
            true => self.idle.pop_first().map(|(_, idle)| idle),
            false => None,
        };
        if let Some(closed) = closed {
            self.own.remove(&closed);
        }
        let place = match self.own.len() < self.connections_max {
            true => {
                self.own.insert(id, None);
                Place::Own
            }
            false if need != Need::Long && self.kept_for(need) < self.kept_max => {
                self.kept.insert(id, need);
                Place::Kept
            }
            false => return Err(NoPlace::Full),
        };
        self.lobby.remove(&id);
        Ok((place, closed))
    }

    fn kept_for(&self, need: Need) -> usize {
        self.kept.values().filter(|kept| **kept == need).count()
    }

    /// The connection's request has ended.
    pub fn rest(&mut self, id: ConnectionId) {
        // Its connection closes with the answer, and whoever has that may ask again at once.
        self.kept.remove(&id);
        let now = self.tick();
        if let Some(idle @ None) = self.own.get_mut(&id) {
            *idle = Some(now);
            self.idle.insert(now, id);
        }
    }

    /// The connection is closed.
    pub fn leave(&mut self, id: ConnectionId) {
        self.lobby.remove(&id);
        self.kept.remove(&id);
        if let Some(Some(since)) = self.own.remove(&id) {
            self.idle.remove(&since);
        }
    }

    /// Connections without a token yet, with a place of their own, and in a kept place.
    pub fn counts(&self) -> [usize; 3] {
        [self.lobby.len(), self.own.len(), self.kept.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(connections_max: usize, lobby_max: usize, kept_places: usize) -> Places {
        Places::new(&DoorLimits { connections_max, lobby_max, kept_places, ..DoorLimits::default() })
    }

    /// Goal: connections without a token cost nobody who has one. Method: a lobby that is full many times over.
    #[test]
    fn a_flood_without_a_token_takes_only_the_places_of_its_own_kind() {
        let mut places = places(2, 3, 1);
        let (caller, _) = places.enter(Instant::now());
        assert_eq!(places.admit(caller, Need::Brief), Ok((Place::Own, None)));
        let mut closed = Vec::new();
        let flood: Vec<_> = (0..100).map(|_| places.enter(Instant::now())).collect();
        closed.extend(flood.iter().filter_map(|(_, closed)| *closed));
        assert_eq!(closed.len(), 97, "the oldest of them go");
        assert!(!closed.contains(&caller));
        assert_eq!(places.counts(), [3, 1, 0]);
        // The caller's place stays its own, and a new caller finds one.
        assert_eq!(places.admit(caller, Need::Long), Ok((Place::Own, None)));
        let (other, _) = places.enter(Instant::now());
        assert_eq!(places.admit(other, Need::Long), Ok((Place::Own, None)));
        assert_eq!(places.admit(closed[0], Need::Brief), Err(NoPlace::Closed));
    }

    /// Goal: a caller has its time to say who it is, however many come after it.
    #[test]
    fn a_full_lobby_opens_when_its_oldest_has_had_its_time() {
        let mut places = places(1, 2, 0);
        let began = Instant::now();
        let age_min = DoorLimits::default().lobby_age_min;
        let later = began + age_min / 2;
        let (first, _) = places.enter(began);
        assert_eq!(places.opens_at(later), None);
        places.enter(later);
        assert_eq!(places.opens_at(later), Some(began + age_min + LOBBY_PAUSE));
        assert_eq!(places.opens_at(began + age_min), None, "the oldest gives way");
        places.admit(first, Need::Brief).unwrap();
        assert_eq!(places.opens_at(later), None);
        places.enter(later);
        assert_eq!(places.opens_at(later), Some(later + age_min + LOBBY_PAUSE));
    }

    #[test]
    fn the_longest_idle_connection_gives_way_and_a_busy_one_never_does() {
        let mut places = places(2, 8, 0);
        let [first, second, third, fourth] = [(); 4].map(|()| places.enter(Instant::now()).0);
        for id in [first, second] {
            places.admit(id, Need::Brief).unwrap();
        }
        assert_eq!(places.admit(third, Need::Brief), Err(NoPlace::Full));
        places.rest(second);
        places.rest(first);
        // The second has been idle for longer, until it asks again.
        places.admit(second, Need::Brief).unwrap();
        assert_eq!(places.admit(third, Need::Brief), Ok((Place::Own, Some(first))));
        assert_eq!(places.admit(fourth, Need::Brief), Err(NoPlace::Full));
        assert_eq!(places.admit(first, Need::Brief), Err(NoPlace::Closed), "it was told to go");
    }

    #[test]
    fn kept_places_are_for_requests_that_end_by_themselves() {
        let mut places = places(1, 8, 1);
        let [waits, sends, asks, asks_too] = [(); 4].map(|()| places.enter(Instant::now()).0);
        places.admit(waits, Need::Long).unwrap();
        assert_eq!(places.admit(asks_too, Need::Long), Err(NoPlace::Full));
        assert_eq!(places.admit(sends, Need::Body), Ok((Place::Kept, None)));
        assert_eq!(places.admit(asks_too, Need::Body), Err(NoPlace::Full));
        assert_eq!(places.admit(asks, Need::Brief), Ok((Place::Kept, None)), "whoever sends slowly is not in its way");
        assert_eq!(places.admit(asks_too, Need::Brief), Err(NoPlace::Full));
        places.rest(asks);
        assert_eq!(places.admit(asks_too, Need::Brief), Ok((Place::Kept, None)));
        assert_eq!(places.admit(asks, Need::Brief), Err(NoPlace::Closed));
        for id in [waits, sends, asks_too] {
            places.leave(id);
        }
        assert_eq!(places.counts(), [0, 0, 0]);
    }
}
