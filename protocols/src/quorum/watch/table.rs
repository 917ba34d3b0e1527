//! The watches that a primary's node holds: a session for each asker and quorum, within bounds.
//!
//! A request is served in this order: [`WatchTable::enter`], confirm the lead, [`WatchTable::confirm`]; then, again and
//! again, [`WatchTable::take_due`], [`judge`] by the state, [`WatchTable::settle`], until there is something to answer,
//! the request is no longer its session's newest, or its time is up; at last [`WatchTable::leave`]. Events that come at
//! any time make the entries due that they concern ([`WatchTable::touch`]), and name the sessions to wake.
//!
//! An entry is due until it was judged not to hold; one that holds stays due until its asker drops it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{EntryId, Until, WatchRequest, Watched};
use crate::ids::{JobId, PeerId, QuorumId};
use crate::job::limits::{
    PAGE_BYTES_MAX, WATCH_ENTRIES_OF_PEERS_MAX, WATCH_ENTRIES_OWN_MAX, WATCH_ENTRIES_PER_SESSION_MAX,
    WATCH_SESSION_IDLE_MAX, WATCH_SESSIONS_OF_PEERS_MAX, WATCH_SESSIONS_PER_PEER_MAX,
};
use crate::quorum::event::Event;
use crate::quorum::state::QuorumState;
use crate::wire;

/// A session's place: one for each quorum and asker.
pub type WatchKey = (QuorumId, PeerId);

/// Sessions of this node and of its peers. `W` wakes whoever serves a session's requests; what ends with the session.
#[derive(Default)]
pub struct WatchTable<W> {
    sessions: BTreeMap<WatchKey, Session<W>>,
    by_job: BTreeSet<(JobId, PeerId, EntryId)>,
    sessions_of: BTreeMap<PeerId, usize>,
    sessions_of_peers: usize,
    entries_of_peers: usize,
    entries_own: usize,
    opened: u64,
}

struct Session<W> {
    session: u64,
    /// Counts the sessions of this table: an asker may open one under a number that ended here before.
    opened: u64,
    /// Of this node itself: counted apart from its peers'.
    own: bool,
    newest: u64,
    /// Grows with every request that enters, also when one is repeated.
    turn: u64,
    entries: BTreeMap<EntryId, Entry>,
    /// Entries that were not judged since they came, by the request with which they did.
    unconfirmed: BTreeSet<(u64, EntryId)>,
    due: BTreeSet<EntryId>,
    /// Requests that are served now, and since when there is none.
    served: usize,
    idle_since: Duration,
    waker: W,
}

struct Entry {
    job: JobId,
    until: Until,
    /// The request with which it came.
    number: u64,
    confirmed: bool,
}

/// An entry to be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    pub id: EntryId,
    pub job: JobId,
    pub until: Until,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Entered {
    /// Its entries are in the session, but for those refused.
    Served(Seat),
    /// There is no room for a session: its entries are judged once.
    Refused(Vec<Due>),
    /// A newer one has come, or no entry is left: it is answered with nothing.
    Nothing,
    /// [`super::WatchAnswer::Reopen`].
    Unknown,
}

/// The place of a request that is served.
#[derive(Debug)]
pub struct Seat {
    pub key: WatchKey,
    opened: u64,
    number: u64,
    turn: u64,
    /// Entries that found no room.
    pub refused: Vec<Due>,
}

/// What a state says of entries.
#[derive(Debug, Default)]
pub struct Judged {
    pub met: Vec<(EntryId, Watched)>,
    /// Those, and those that were not judged because the answer is full.
    pub still_due: Vec<EntryId>,
}

/// Judges as many entries as fit into one answer.
pub fn judge(state: &QuorumState, due: &[Due]) -> Judged {
    let (mut judged, mut bytes) = (Judged::default(), 0);
    for Due { id, job, until } in due {
        if bytes > PAGE_BYTES_MAX {
            judged.still_due.push(*id);
        } else if let Some(watched) = until.judge(state, *job) {
            bytes += wire::encode(&watched).len();
            judged.still_due.push(*id);
            judged.met.push((*id, watched));
        }
    }
    judged
}

impl<W: Default> WatchTable<W> {
    /// Takes in what the request changes. `own`: it is this node's.
    pub fn enter(&mut self, by: PeerId, own: bool, request: &WatchRequest) -> Entered {
        let key = (request.quorum, by);
        let due = |entry: &super::WatchEntry| Due { id: entry.id, job: request.job(entry), until: entry.until };
        match self.sessions.get(&key).filter(|open| open.session == request.session) {
            Some(open) if open.newest > request.number => return Entered::Nothing,
            Some(open) if open.newest < request.base => return Entered::Unknown,
            Some(_) => (),
            None if request.base > 0 => return Entered::Unknown,
            None => {
                if request.added.is_empty() {
                    return Entered::Nothing;
                }
                self.end(key);
                if !self.open(key, own, request.session) {
                    return Entered::Refused(request.added.iter().map(due).collect());
                }
            }
        }
        if request.base == 0 {
            let told: BTreeSet<_> = request.added.iter().map(|entry| entry.id).collect();
            let gone = self.sessions[&key].entries.keys().filter(|id| !told.contains(id));
            for id in gone.copied().collect::<Vec<_>>() {
                self.remove(key, id);
            }
        }
        for id in &request.dropped {
            self.remove(key, *id);
        }
        let mut refused = Vec::new();
        for entry in request.added.iter().map(due) {
            if !self.insert(key, entry, request.number) {
                refused.push(entry);
            }
        }
        let Some(open) = self.sessions.get_mut(&key) else { return Entered::Nothing };
        if open.entries.is_empty() && refused.is_empty() {
            self.end(key);
            return Entered::Nothing;
        }
        open.newest = request.number;
        open.turn += 1;
        open.served += 1;
        Entered::Served(Seat { key, opened: open.opened, number: request.number, turn: open.turn, refused })
    }

    /// The lead was confirmed after the request had entered: its entries, and those of older requests, can be judged.
    pub fn confirm(&mut self, seat: &Seat) {
        let Some(open) = self.open_session(seat) else { return };
        let later = open.unconfirmed.split_off(&(seat.number + 1, EntryId(0)));
        for (_, id) in std::mem::replace(&mut open.unconfirmed, later) {
            if let Some(entry) = open.entries.get_mut(&id) {
                entry.confirmed = true;
                open.due.insert(id);
            }
        }
    }

    /// The entries that may hold. Who takes them judges them and says so with [`Self::settle`].
    pub fn take_due(&mut self, seat: &Seat) -> Vec<Due> {
        let Some(open) = self.open_session(seat) else { return Vec::new() };
        let entry = |id: EntryId| open.entries.get(&id).map(|entry| Due { id, job: entry.job, until: entry.until });
        std::mem::take(&mut open.due).into_iter().filter_map(entry).collect()
    }

    pub fn settle(&mut self, seat: &Seat, still_due: &[EntryId]) {
        let Some(open) = self.open_session(seat) else { return };
        let entries = &open.entries;
        open.due.extend(still_due.iter().filter(|id| entries.contains_key(id)));
    }

    /// Whether no newer request of the session has come, nor this one again.
    pub fn is_newest(&self, seat: &Seat) -> bool {
        let open = self.sessions.get(&seat.key).filter(|open| open.opened == seat.opened);
        open.is_some_and(|open| open.turn == seat.turn)
    }

    /// Whether the request's session goes on.
    pub fn is_open(&self, seat: &Seat) -> bool {
        self.sessions.get(&seat.key).is_some_and(|open| open.opened == seat.opened)
    }

    /// The request is answered.
    pub fn leave(&mut self, seat: &Seat, now: Duration) {
        let Some(open) = self.open_session(seat) else { return };
        open.served -= 1;
        open.idle_since = now;
    }

    /// Makes the entries due that the events concern. Returns the sessions to wake.
    pub fn touch(&mut self, events: &[Event]) -> BTreeSet<WatchKey> {
        let mut woken = BTreeSet::new();
        if self.by_job.is_empty() {
            return woken;
        }
        for (event, job) in events.iter().flat_map(|event| event.jobs().into_iter().map(move |job| (event, job))) {
            let of_job = (job, PeerId([0; 32]), EntryId(0))..=(job, PeerId([u8::MAX; 32]), EntryId(u64::MAX));
            for (_, by, id) in self.by_job.range(of_job) {
                let key = (job.quorum, *by);
                let Some(open) = self.sessions.get_mut(&key) else { continue };
                // An entry that is not confirmed yet is judged anyway, after this.
                let concerned = |entry: &&Entry| entry.confirmed && entry.until.concerns(event);
                if open.entries.get(id).filter(concerned).is_some() {
                    open.due.insert(*id);
                    woken.insert(key);
                }
            }
        }
        woken
    }

    /// Events were missed: anything may hold. Returns the sessions to wake.
    pub fn touch_all(&mut self) -> BTreeSet<WatchKey> {
        for open in self.sessions.values_mut() {
            let confirmed = open.entries.iter().filter(|(_, entry)| entry.confirmed);
            open.due.extend(confirmed.map(|(id, _)| *id));
        }
        self.sessions.keys().copied().collect()
    }

    /// This node does not lead the quorum any more: its sessions go on elsewhere.
    pub fn end_quorum(&mut self, quorum: QuorumId) {
        let all = (quorum, PeerId([0; 32]))..=(quorum, PeerId([u8::MAX; 32]));
        for key in self.sessions.range(all).map(|(key, _)| *key).collect::<Vec<_>>() {
            self.end(key);
        }
    }

    /// Ends the sessions whose askers have gone.
    pub fn end_idle(&mut self, now: Duration) {
        let is_idle =
            |open: &Session<W>| open.served == 0 && now.saturating_sub(open.idle_since) >= WATCH_SESSION_IDLE_MAX;
        let idle = self.sessions.iter().filter(|(_, open)| is_idle(open)).map(|(key, _)| *key);
        for key in idle.collect::<Vec<_>>() {
            self.end(key);
        }
    }

    pub fn waker(&self, key: WatchKey) -> Option<&W> {
        self.sessions.get(&key).map(|open| &open.waker)
    }
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }
    pub fn entries(&self) -> usize {
        self.entries_of_peers + self.entries_own
    }

    #[cfg(test)]
    pub(super) fn by_job_len(&self) -> usize {
        self.by_job.len()
    }

    fn open_session(&mut self, seat: &Seat) -> Option<&mut Session<W>> {
        self.sessions.get_mut(&seat.key).filter(|open| open.opened == seat.opened)
    }

    fn open(&mut self, key: WatchKey, own: bool, session: u64) -> bool {
        if !own {
            let of_peer = self.sessions_of.get(&key.1).copied().unwrap_or_default();
            if of_peer >= WATCH_SESSIONS_PER_PEER_MAX || self.sessions_of_peers >= WATCH_SESSIONS_OF_PEERS_MAX {
                return false;
            }
            self.sessions_of.insert(key.1, of_peer + 1);
            self.sessions_of_peers += 1;
        }
        self.opened += 1;
        let open = Session {
            session,
            opened: self.opened,
            own,
            newest: 0,
            turn: 0,
            entries: BTreeMap::new(),
            unconfirmed: BTreeSet::new(),
            due: BTreeSet::new(),
            served: 0,
            idle_since: Duration::ZERO,
            waker: W::default(),
        };
        self.sessions.insert(key, open);
        true
    }

    fn end(&mut self, key: WatchKey) {
        let Some(open) = self.sessions.remove(&key) else { return };
        for (id, entry) in &open.entries {
            self.by_job.remove(&(entry.job, key.1, *id));
        }
        if open.own {
            self.entries_own -= open.entries.len();
            return;
        }
        self.entries_of_peers -= open.entries.len();
        self.sessions_of_peers -= 1;
        if let Some(of_peer) = self.sessions_of.get_mut(&key.1) {
            *of_peer -= 1;
            if *of_peer == 0 {
                self.sessions_of.remove(&key.1);
            }
        }
    }

    /// False: there is no room. An entry that is there stays as it is.
    fn insert(&mut self, key: WatchKey, due: Due, number: u64) -> bool {
        let Some(open) = self.sessions.get_mut(&key) else { return false };
        if open.entries.contains_key(&due.id) {
            return true;
        }
        let (count, max) = match open.own {
            true => (&mut self.entries_own, WATCH_ENTRIES_OWN_MAX),
            false => (&mut self.entries_of_peers, WATCH_ENTRIES_OF_PEERS_MAX),
        };
        if open.entries.len() >= WATCH_ENTRIES_PER_SESSION_MAX || *count >= max {
            return false;
        }
        *count += 1;
        open.entries.insert(due.id, Entry { job: due.job, until: due.until, number, confirmed: false });
        open.unconfirmed.insert((number, due.id));
        self.by_job.insert((due.job, key.1, due.id));
        true
    }

    fn remove(&mut self, key: WatchKey, id: EntryId) {
        let Some(open) = self.sessions.get_mut(&key) else { return };
        let Some(entry) = open.entries.remove(&id) else { return };
        match open.own {
            true => self.entries_own -= 1,
            false => self.entries_of_peers -= 1,
        }
        open.due.remove(&id);
        open.unconfirmed.remove(&(entry.number, id));
        self.by_job.remove(&(entry.job, key.1, id));
    }
}
