//! Sessions of watches over a network that loses, repeats and reorders, between primaries that lose their lead.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use proptest::prelude::*;

use super::super::*;
use super::{PROFILE, QUORUM};
use crate::approval::Grant;
use crate::ids::{LeaseId, MemberId, Millis, PeerId};
use crate::job::limits::{
    WATCH_ENTRIES_OF_PEERS_MAX, WATCH_ENTRIES_PER_SESSION_MAX, WATCH_PAUSE_MAX, WATCH_PAUSE_MIN, WATCH_REQUESTS_MAX,
    WATCH_SESSION_IDLE_MAX, WATCH_SESSIONS_OF_PEERS_MAX, WATCH_SESSIONS_PER_PEER_MAX,
};
use crate::job::spec::{JobSpec, StoreSpec};
use crate::quorum::{Batch, Command, Control, StoreCommand};

const JOBS: u8 = 4;
/// The peer whose key is made of 9s: it signs what it submits.
const ASKER: PeerId = PeerId([
    0xfd, 0x17, 0x24, 0x38, 0x5a, 0xa0, 0xc7, 0x5b, 0x64, 0xfb, 0x78, 0xcd, 0x60, 0x2f, 0xa1, 0xd9, 0x91, 0xfd, 0xeb,
    0xf7, 0x6b, 0x13, 0xc5, 0x8e, 0xd7, 0x02, 0xea, 0xc8, 0x35, 0xe9, 0xf6, 0x18,
]);

fn job(n: u8) -> JobId {
    JobId { quorum: QUORUM, local: [n % JOBS; 16] }
}

/// Every entry that the quorum commits: the state after it, and its events.
struct Log(Vec<(QuorumState, Vec<Event>)>);

impl Log {
    fn new() -> Self {
        let mut log = Self(vec![(QuorumState::new(QUORUM), Vec::new())]);
        for n in 0..JOBS {
            let spec = JobSpec::store(StoreSpec { name: None, size: None, profile: PROFILE });
            log.commit(Command::submit(&SigningKey::from_bytes(&[9; 32]), job(n), spec));
        }
        log
    }
    fn len(&self) -> usize {
        self.0.len()
    }
    fn newest(&self) -> &QuorumState {
        &self.0[self.len() - 1].0
    }
    fn commit(&mut self, command: Command) {
        let (mut state, index) = (self.newest().clone(), self.len() as u64);
        let (_, events) = state.apply(LogIndex(index), &Batch::at(Millis(index), vec![(ASKER, command)]));
        self.0.push((state, events));
    }
    fn add_holder(&mut self, n: u8, holder: u8, exhausted: bool) {
        let holder = MemberId { peer: PeerId([holder; 32]), ..MemberId::default() };
        let grants = vec![Grant { holder, lease: LeaseId([1; 16]) }];
        self.commit(Command::store(job(n), StoreCommand::AddHolders { grants, exhausted }));
    }
    fn cancel(&mut self, n: u8) {
        self.commit(Command::control(job(n), LogIndex(u64::MAX), Control::Cancel));
    }
}

/// A member with its own idea of who leads.
#[derive(Default)]
struct Member {
    applied: usize,
    /// Events of applied entries, on their way to the table.
    events: VecDeque<Vec<Event>>,
    table: WatchTable<()>,
    serving: Vec<Serving>,
    leads: bool,
}

/// A request that a member serves.
struct Serving {
    request: WatchRequest,
    seat: Seat,
    confirmed: bool,
    woken: bool,
}

struct Answer {
    session: u64,
    number: u64,
    answer: WatchAnswer,
    /// How much had been applied where it was given.
    applied: usize,
}

struct World {
    log: Log,
    members: [Member; 2],
    /// Who leads in truth.
    primary: usize,
    asker: WatchAsker,
    /// Who waits, and what had been committed when it began to.
    waiting: BTreeMap<EntryId, (JobId, Until, usize)>,
    asked: BTreeMap<(u64, u64), WatchRequest>,
    requests: Vec<(usize, WatchRequest)>,
    answers: Vec<Answer>,
    now: Duration,
}

impl World {
    fn new() -> Self {
        let log = Log::new();
        let member = |leads| Member { applied: log.len(), leads, ..Member::default() };
        Self {
            members: [member(true), member(false)],
            log,
            primary: 0,
            asker: WatchAsker::new(QUORUM, 1),
            waiting: BTreeMap::new(),
            asked: BTreeMap::new(),
            requests: Vec::new(),
            answers: Vec::new(),
            now: Duration::ZERO,
        }
    }

    fn wait_for(&mut self, n: u8, kind: u8) {
        let until = match kind % 4 {
            0 => Until::Ended,
            1 => Until::EndedOnceSubmitted,
            2 => Until::Holders { columns: 1 + u32::from(kind / 4 % 3) },
            _ => Until::Changed { since: self.log.newest().jobs.get(&job(n)).unwrap().revision },
        };
        let id = self.asker.add(job(n), until);
        self.waiting.insert(id, (job(n), until, self.log.len()));
    }

    fn send(&mut self, to: usize) {
        if let Some(request) = self.asker.next_request(self.now) {
            request.check().unwrap();
            self.asked.insert((request.session, request.number), request.clone());
            assert!(self.asked.len() <= WATCH_REQUESTS_MAX);
            self.requests.push((to, request));
        }
    }

    /// What the asker's side does when a member gave no answer to the request, or is none to ask.
    fn ask_again(&mut self, request: &WatchRequest, to: usize) {
        if self.asked.contains_key(&(request.session, request.number)) {
            self.requests.push((to, request.clone()));
        }
    }

    fn deliver_request(&mut self, (to, request): (usize, WatchRequest)) {
        let member = &mut self.members[to];
        if !member.leads {
            return self.ask_again(&request, 1 - to);
        }
        let (session, number, applied) = (request.session, request.number, member.applied);
        let answer = match member.table.enter(ASKER, false, &request) {
            Entered::Served(seat) => {
                // As the waker of the session does.
                member.serving.iter_mut().for_each(|serving| serving.woken = true);
                return member.serving.push(Serving { request, seat, confirmed: false, woken: true });
            }
            Entered::Nothing => WatchAnswer::Update { met: Vec::new(), refused: Vec::new() },
            Entered::Unknown => WatchAnswer::Reopen,
            Entered::Refused(_) => panic!("there is room for one session"),
        };
        self.answers.push(Answer { session, number, answer, applied });
    }

    /// One step of a request that is served: its lead is confirmed, or its entries are judged.
    fn serve(&mut self, at: usize, which: usize, is_over: bool) {
        let is_primary = at == self.primary;
        let member = &mut self.members[at];
        let serving = &mut member.serving[which];
        if !serving.confirmed {
            if !is_primary {
                let Serving { request, seat, .. } = member.serving.remove(which);
                member.table.leave(&seat, self.now);
                return self.ask_again(&request, 1 - at);
            }
            serving.confirmed = true;
            self.apply(at, usize::MAX);
            let member = &mut self.members[at];
            return member.table.confirm(&member.serving[which].seat);
        }
        if !(serving.woken || is_over) {
            return;
        }
        serving.woken = false;
        let seat = &serving.seat;
        let judged = judge(&self.log.0[member.applied - 1].0, &member.table.take_due(seat));
        member.table.settle(seat, &judged.still_due);
        let (is_open, is_newest) = (member.table.is_open(seat), member.table.is_newest(seat));
        if judged.met.is_empty() && is_newest && !is_over {
            return;
        }
        let applied = member.applied;
        let Serving { request, seat, .. } = member.serving.remove(which);
        member.table.leave(&seat, self.now);
        if !is_open && !member.leads {
            return self.ask_again(&request, 1 - at);
        }
        let answer = match is_open {
            true => WatchAnswer::Update { met: judged.met, refused: Vec::new() },
            false => WatchAnswer::Reopen,
        };
        self.answers.push(Answer { session: request.session, number: request.number, answer, applied });
    }

    fn deliver_answer(&mut self, Answer { session, number, answer, applied }: Answer) {
        if self.asked.remove(&(session, number)).is_none() {
            return;
        }
        assert!(self.asker.may_believe(&answer));
        let told = self.asker.take_answer(session, number, answer, self.now, 0);
        if !self.asker.is_current(session) || told.is_empty() {
            let asker = &self.asker;
            self.asked.retain(|(session, _), _| asker.is_current(*session));
        }
        for (id, watched) in told {
            let (job, until, asked_at) = self.waiting.remove(&id).expect("told once");
            assert!(watched.may_answer(job, &until) && matches!(watched, Watched::Met(_)));
            assert!(applied >= asked_at, "the answer is older than the question");
        }
    }

    fn apply(&mut self, at: usize, entries: usize) {
        let member = &mut self.members[at];
        for (_, events) in self.log.0.iter().skip(member.applied).take(entries) {
            member.applied += 1;
            member.events.push_back(events.clone());
        }
    }

    fn see_events(&mut self, at: usize, are_lost: bool) {
        let member = &mut self.members[at];
        let woken = match member.events.pop_front() {
            None => return,
            Some(_) if are_lost => {
                member.events.clear();
                member.table.touch_all()
            }
            Some(events) => member.table.touch(&events),
        };
        let serving = member.serving.iter_mut().filter(|serving| woken.contains(&serving.seat.key));
        serving.for_each(|serving| serving.woken = true);
    }

    fn step_down(&mut self, at: usize) {
        let member = &mut self.members[at];
        member.leads = false;
        member.table.end_quorum(QUORUM);
        member.serving.iter_mut().for_each(|serving| serving.woken = true);
    }

    /// Something happens that may happen at any time.
    fn disturb(&mut self, what: u8, which: u8) {
        let at = usize::from(which & 1);
        let pick = |count: usize| usize::from(which / 2) % count.max(1);
        match what % 20 {
            0 | 1 => self.wait_for(which % JOBS, which / JOBS),
            2 => {
                if let Some(id) = self.waiting.keys().nth(pick(self.waiting.len())).copied() {
                    self.waiting.remove(&id);
                    self.asker.cancel(id);
                }
            }
            3 => self.log.add_holder(which % JOBS, which / JOBS % 4 + 1, which & 64 > 0),
            4 if which < 96 => self.log.cancel(which),
            5 | 6 => self.send(at),
            7..=9 if !self.requests.is_empty() => {
                let request = self.requests.swap_remove(pick(self.requests.len()));
                self.deliver_request(request);
            }
            10 if !self.requests.is_empty() => {
                let (_, request) = self.requests.swap_remove(pick(self.requests.len()));
                self.ask_again(&request, at);
            }
            11 if !self.requests.is_empty() => {
                let (to, request) = self.requests[pick(self.requests.len())].clone();
                self.requests.push((to, request));
            }
            12 | 13 if !self.members[at].serving.is_empty() => {
                let which = pick(self.members[at].serving.len());
                self.serve(at, which, what == 133);
            }
            14 | 15 if !self.answers.is_empty() => {
                let answer = self.answers.swap_remove(pick(self.answers.len()));
                self.deliver_answer(answer);
            }
            16 if !self.answers.is_empty() => {
                let Answer { session, number, .. } = self.answers.swap_remove(pick(self.answers.len()));
                if let Some(request) = self.asked.get(&(session, number)).cloned() {
                    self.ask_again(&request, at);
                }
            }
            17 => self.apply(at, 1),
            18 => self.see_events(at, which & 128 > 0),
            19 => match which % 4 {
                0 => {
                    self.primary = 1 - self.primary;
                    self.apply(self.primary, usize::MAX);
                    self.members[self.primary].leads = true;
                }
                1 if self.primary != at => self.step_down(at),
                _ => self.now += Duration::from_millis(100),
            },
            _ => (),
        }
    }

    /// Everything that is on its way arrives, and nothing is lost, until nothing moves.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if let Some(at) = self.asker.next_at() {
                self.now = self.now.max(at);
                self.send(self.primary);
            } else if let Some(request) = self.requests.pop() {
                self.deliver_request(request);
            } else if let Some(answer) = self.answers.pop() {
                self.deliver_answer(answer);
            } else if let Some(at) = (0..2).find(|at| !self.members[*at].events.is_empty()) {
                self.see_events(at, false);
            } else if let Some((at, which)) = (0..2).find_map(|at| {
                let serving = &self.members[at].serving;
                serving.iter().position(|serving| serving.woken || !serving.confirmed).map(|which| (at, which))
            }) {
                self.serve(at, which, false);
            } else if self.members.iter().any(|member| member.applied < self.log.len()) {
                (0..2).for_each(|at| self.apply(at, usize::MAX));
            } else {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    fn unheard(&self) -> Vec<&(JobId, Until, usize)> {
        let holds = |(job, until, _): &&(JobId, Until, usize)| until.judge(self.log.newest(), *job).is_some();
        self.waiting.values().filter(holds).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    /// Goal: no wake-up is lost, whatever was lost, repeated or reordered, and whoever led; no answer is older than its
    /// question; and a node that waits has one request parked. Method: any history, then a network that works: what
    /// holds is told after the longest wait at the latest, and what comes to hold from then on without any.
    #[test]
    fn every_waiter_hears_of_what_it_waits_for(history in prop::collection::vec((any::<u8>(), any::<u8>()), 0..160)) {
        let mut world = World::new();
        for (what, which) in history {
            world.disturb(what, which);
        }
        let primary = world.primary;
        world.step_down(1 - primary);
        world.settle();
        // The wait of what is parked ends. What was answered beside it, and lost, is told now.
        while let Some(which) = world.members[primary].serving.iter().position(|serving| serving.confirmed) {
            world.serve(primary, which, true);
        }
        world.settle();
        prop_assert_eq!(world.unheard(), Vec::<&(JobId, Until, usize)>::new());
        let parked = world.members[0].serving.len() + world.members[1].serving.len();
        prop_assert!(parked >= usize::from(!world.waiting.is_empty()) && world.asked.len() <= 1);
        (0..JOBS).for_each(|n| world.log.cancel(n));
        world.settle();
        prop_assert_eq!(world.unheard(), Vec::<&(JobId, Until, usize)>::new());
    }
}

fn entry(id: u64, n: u64) -> WatchEntry {
    WatchEntry { id: EntryId(id), local: u128::from(n).to_le_bytes(), until: Until::Ended }
}

fn opening(session: u64, entries: impl IntoIterator<Item = u64>) -> WatchRequest {
    let added = entries.into_iter().map(|id| entry(id, id)).collect();
    WatchRequest { quorum: QUORUM, session, number: 1, base: 0, added, dropped: Vec::new(), wait_ms: 5_000 }
}

fn served<W: Default>(table: &mut WatchTable<W>, by: PeerId, request: &WatchRequest) -> Seat {
    match table.enter(by, false, request) {
        Entered::Served(seat) => seat,
        other => panic!("there is room: {other:?}"),
    }
}

#[test]
fn a_session_peers_and_their_sum_hold_so_much_and_what_is_dropped_or_idle_frees_its_place() {
    let mut table = WatchTable::<()>::default();
    let quorum = |n: usize| QuorumId((n as u128).to_le_bytes());
    let per_session = WATCH_ENTRIES_PER_SESSION_MAX as u64;
    // One session.
    let full = served(&mut table, ASKER, &opening(1, 1..=per_session));
    assert!(full.refused.is_empty());
    let more = WatchRequest {
        number: 2,
        base: 1,
        added: vec![entry(per_session + 1, 1), entry(per_session + 2, 2)],
        dropped: vec![EntryId(1)],
        ..opening(1, [])
    };
    let more = served(&mut table, ASKER, &more);
    assert_eq!(more.refused.iter().map(|due| due.id).collect::<Vec<_>>(), [EntryId(per_session + 2)]);
    assert!(table.is_newest(&more) && !table.is_newest(&full));
    // One peer, and all of them.
    for n in 1..WATCH_SESSIONS_PER_PEER_MAX {
        served(&mut table, ASKER, &WatchRequest { quorum: quorum(n), ..opening(1, [1]) });
    }
    let next = WatchRequest { quorum: quorum(999), ..opening(1, [1]) };
    assert!(matches!(table.enter(ASKER, false, &next), Entered::Refused(entries) if entries.len() == 1));
    let mut others = 0;
    while let Entered::Served(_) = table.enter(PeerId([others + 10; 32]), false, &next) {
        others += 1;
    }
    assert_eq!(usize::from(others) + WATCH_SESSIONS_PER_PEER_MAX, WATCH_SESSIONS_OF_PEERS_MAX);
    // This node's own clients have room beside them.
    assert!(matches!(table.enter(PeerId([1; 32]), true, &next), Entered::Served(_)));
    // A session that nobody asks for is forgotten, and one that is served is not.
    table.leave(&full, Duration::ZERO);
    table.leave(&more, Duration::ZERO);
    let (sessions, entries) = (table.sessions(), table.entries());
    table.end_idle(WATCH_SESSION_IDLE_MAX / 2);
    assert_eq!(table.sessions(), sessions);
    table.end_idle(WATCH_SESSION_IDLE_MAX);
    assert_eq!((table.sessions(), table.entries()), (sessions - 1, entries - WATCH_ENTRIES_PER_SESSION_MAX));
    assert!(matches!(table.enter(ASKER, false, &next), Entered::Served(_)));
    // The last entry that is dropped ends its session.
    let last = WatchRequest { number: 2, base: 1, added: Vec::new(), dropped: vec![EntryId(1)], ..next };
    let before = table.sessions();
    assert!(matches!(table.enter(ASKER, false, &last), Entered::Nothing));
    assert_eq!(table.sessions(), before - 1);
}

#[test]
fn the_entries_of_all_peers_together_are_bounded() {
    let mut table = WatchTable::<()>::default();
    let mut held = 0;
    for n in 0..2 * WATCH_ENTRIES_OF_PEERS_MAX / WATCH_ENTRIES_PER_SESSION_MAX {
        let quorum = QuorumId((n as u128).to_le_bytes());
        let all = 1..=WATCH_ENTRIES_PER_SESSION_MAX as u64;
        let request = WatchRequest { quorum, ..opening(1, all) };
        held += request.added.len() - served(&mut table, PeerId([n as u8; 32]), &request).refused.len();
    }
    assert_eq!((held, table.entries()), (WATCH_ENTRIES_OF_PEERS_MAX, WATCH_ENTRIES_OF_PEERS_MAX));
    (0..=u8::MAX).for_each(|n| table.end_quorum(QuorumId(u128::from(n).to_le_bytes())));
    assert_eq!((table.sessions(), table.entries(), table.by_job_len()), (0, 0, 0));
}

#[test]
fn an_event_wakes_the_sessions_that_watch_its_job_for_it_and_no_others() {
    let mut log = Log::new();
    let mut table = WatchTable::<()>::default();
    let peers = [PeerId([1; 32]), PeerId([2; 32]), PeerId([3; 32])];
    let watches = [(0, Until::Ended), (1, Until::Ended), (0, Until::Holders { columns: 3 })];
    for (by, (n, until)) in peers.iter().zip(watches) {
        let watch = WatchEntry { id: EntryId(1), local: job(n).local, until };
        let seat = served(&mut table, *by, &WatchRequest { added: vec![watch], ..opening(1, []) });
        // What was not judged yet needs no event.
        log.add_holder(n, 1, false);
        assert!(table.touch(&log.0.last().unwrap().1).iter().all(|(_, woken)| woken != by));
        table.confirm(&seat);
        let due = table.take_due(&seat);
        assert_eq!(due.len(), 1);
        let judged = judge(log.newest(), &due);
        assert!(judged.met.is_empty() && judged.still_due.is_empty());
        table.settle(&seat, &judged.still_due);
        assert!(table.take_due(&seat).is_empty());
    }
    log.add_holder(0, 2, false);
    assert_eq!(table.touch(&log.0.last().unwrap().1), [(QUORUM, peers[2])].into());
    log.cancel(0);
    assert_eq!(table.touch(&log.0.last().unwrap().1), [(QUORUM, peers[0]), (QUORUM, peers[2])].into());
}

#[test]
fn an_asker_pauses_longer_and_longer_before_what_was_refused_and_after_answers_that_bring_nothing() {
    let mut asker = WatchAsker::new(QUORUM, 7);
    let id = asker.add(job(1), Until::Ended);
    let (mut now, mut pauses) = (Duration::ZERO, Vec::new());
    for _ in 0..6 {
        let request = asker.next_request(now).expect("it is due");
        assert_eq!(asker.next_request(now), None, "it is asked once");
        let refused = WatchAnswer::Update { met: Vec::new(), refused: vec![id] };
        assert!(asker.take_answer(request.session, request.number, refused, now, 0).is_empty());
        let next = asker.next_at().expect("it is asked again");
        pauses.push(next - now);
        now = next;
    }
    assert_eq!(pauses[..3], [1, 2, 4].map(|times| times * WATCH_PAUSE_MIN));
    assert_eq!(pauses.last(), Some(&WATCH_PAUSE_MAX));
    // A primary that parks nothing is not asked in a loop either, nor one that knows no session.
    for answer in [WatchAnswer::Update { met: Vec::new(), refused: Vec::new() }, WatchAnswer::Reopen] {
        let began = now;
        for _ in 0..20 {
            let request = asker.next_request(now).expect("it is due");
            asker.take_answer(request.session, request.number, answer.clone(), now, 0);
            now = asker.next_at().expect("it is asked again");
        }
        assert!(now - began > 10 * WATCH_PAUSE_MAX, "{answer:?}: {:?}", now - began);
    }
}

#[test]
fn what_cannot_be_reached_is_given_up_with_those_who_asked_for_it() {
    let mut asker = WatchAsker::new(QUORUM, 7);
    let early = asker.add(job(1), Until::Ended);
    let first = asker.next_request(Duration::ZERO).unwrap();
    let late = asker.add(job(2), Until::Ended);
    let second = asker.next_request(Duration::ZERO).unwrap();
    assert_eq!(second.added.len(), 2, "nothing was answered yet: it says all");
    assert_eq!(asker.give_up(first.session, first.number), [early]);
    assert_eq!(asker.give_up(first.session, first.number), []);
    assert_eq!(asker.give_up(second.session, second.number), [late]);
    assert!(asker.is_empty());
    let last = asker.close().expect("the primary may have heard of it");
    assert!(last.base == 0 && last.added.is_empty() && last.check().is_ok());
}
