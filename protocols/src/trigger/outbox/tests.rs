//! The outbox against scripted quorums, second by second.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::*;
use crate::trigger::event::DeliveryAck;

const THIS: PeerId = PeerId([9; 32]);
const ONE: QuorumId = QuorumId([1; 16]);
const OTHER: QuorumId = QuorumId([2; 16]);
const START: Millis = Millis(1_000_000_000);

/// An outbox with its disk, and quorums that take what is for them.
struct World {
    now: Millis,
    outbox: Outbox,
    disk: Vec<Change>,
    newest: u64,
    quorums: BTreeMap<QuorumId, Quorum>,
    questions: usize,
}

#[derive(Default)]
struct Quorum {
    names: BTreeSet<String>,
    known: Option<u64>,
    taken: Vec<u64>,
    lost: u64,
    is_down: bool,
    /// Events that it has room for at once.
    room: Option<usize>,
    /// Dispatches are taken, and their answers lost.
    is_mute: bool,
}

fn event(name: &str, id: Option<&str>) -> Event {
    Event { name: name.into(), id: id.map(str::to_owned), data: Bytes::from_static(b"{}"), at: Millis(5) }
}

impl World {
    fn new(quorums: &[(QuorumId, &[&str])]) -> Self {
        let listening = |names: &[&str]| Quorum {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Quorum::default()
        };
        let quorums = quorums.iter().map(|(quorum, names)| (*quorum, listening(names))).collect();
        Self { now: START, outbox: Outbox::new(THIS), disk: Vec::new(), newest: 0, quorums, questions: 0 }
    }

    fn emit(&mut self, name: &str) -> u64 {
        let taken = self.outbox.emit(self.now, event(name, None)).unwrap();
        self.save();
        taken.sequence
    }

    fn save(&mut self) {
        self.disk.extend(self.outbox.take_changes());
        self.newest = self.outbox.newest();
    }

    /// Another life, with what is on disk.
    fn restart(&mut self) {
        self.restart_aged(Duration::ZERO);
    }

    /// The same, when wall clocks say that everything is so old.
    fn restart_aged(&mut self, age: Duration) {
        let mut rows = BTreeMap::new();
        let (mut past, mut subscriptions) = (BTreeMap::new(), BTreeMap::new());
        for change in &self.disk {
            match change.clone() {
                Change::Keep(sequence, event) => drop(rows.insert(sequence, event)),
                Change::Outlive(sequence, id, _) => {
                    rows.remove(&sequence);
                    past.insert(sequence, id);
                }
                Change::Forget(sequence) => {
                    rows.remove(&sequence);
                    past.remove(&sequence);
                }
                Change::Subscribe(quorum, subscription) => drop(subscriptions.insert(quorum, subscription)),
                Change::Unsubscribe(quorum) => drop(subscriptions.remove(&quorum)),
                Change::Count => (),
            }
        }
        self.outbox = Outbox::new(THIS);
        for (sequence, event) in rows {
            self.outbox.restore_event(self.now, sequence, (*event).clone(), age);
        }
        for (sequence, id) in past {
            self.outbox.restore_id(self.now, sequence, id, age);
        }
        for (quorum, subscription) in subscriptions {
            self.outbox.restore_subscription(self.now, quorum, subscription);
        }
        self.outbox.restore_newest(self.newest);
    }

    /// Lets time pass, a tenth of a second at a time.
    fn pass(&mut self, time: Duration) {
        let end = self.now.plus(time);
        loop {
            let announced = self.quorums.iter().filter(|(_, quorum)| !quorum.is_down).map(|(id, _)| *id).collect();
            self.outbox.announced(self.now, &announced);
            self.outbox.tidy(self.now);
            loop {
                let (asks, _) = self.outbox.asks(self.now);
                self.save();
                if asks.is_empty() {
                    break;
                }
                for (quorum, ask) in asks {
                    self.answer(quorum, ask);
                }
            }
            if self.now >= end {
                return;
            }
            self.now = self.now.plus(Duration::from_millis(100)).min(end);
        }
    }

    fn settle(&mut self) {
        self.pass(Duration::from_secs(10));
    }

    fn answer(&mut self, id: QuorumId, ask: Ask) {
        let (now, outbox) = (self.now, &mut self.outbox);
        let Some(quorum) = self.quorums.get_mut(&id).filter(|quorum| !quorum.is_down) else {
            return outbox.failed(now, id);
        };
        match ask {
            Ask::Names { newest } => {
                self.questions += 1;
                outbox.heard_names(now, id, newest, quorum.known, quorum.names.clone());
            }
            Ask::Deliver(dispatch) => {
                dispatch.check().unwrap();
                let known = quorum.known.unwrap_or(dispatch.follows);
                if dispatch.follows > known {
                    return outbox.gap(now, id, known);
                }
                let fresh: Vec<_> = dispatch.events.iter().filter(|sent| sent.sequence > known).collect();
                let wanted: Vec<_> = fresh.iter().filter(|sent| quorum.names.contains(&sent.event.name)).collect();
                if quorum.room.is_some_and(|room| wanted.len() > room) {
                    return outbox.full(now, id);
                }
                if !wanted.is_empty() || dispatch.lost > 0 {
                    quorum.taken.extend(wanted.iter().map(|sent| sent.sequence));
                    quorum.lost += if dispatch.reaches > known { dispatch.lost } else { 0 };
                    quorum.known = Some(known.max(dispatch.reaches));
                }
                if quorum.is_mute {
                    return outbox.failed(now, id);
                }
                let heard = DeliveryAck { reaches: dispatch.reaches, recorded: quorum.known };
                outbox.delivered(now, id, &dispatch, heard);
            }
        }
    }

    fn taken(&self, quorum: QuorumId) -> &[u64] {
        &self.quorums[&quorum].taken
    }
    fn at(&mut self, quorum: QuorumId) -> &mut Quorum {
        self.quorums.get_mut(&quorum).unwrap()
    }
}

#[test]
fn each_quorum_hears_once_and_in_order_of_what_it_wants() {
    let mut world = World::new(&[(ONE, &["door", "bell"]), (OTHER, &["bell"])]);
    for name in ["door", "bell", "wind", "door"] {
        world.emit(name);
    }
    world.settle();
    assert_eq!((world.taken(ONE), world.taken(OTHER)), (&[1, 2, 4][..], &[2][..]));
    world.restart();
    world.settle();
    assert_eq!((world.taken(ONE), world.taken(OTHER)), (&[1, 2, 4][..], &[2][..]), "nothing is said twice");
}

#[test]
fn an_idle_network_asks_nothing_and_forgets_what_nobody_is_owed() {
    let mut world = World::new(&[(ONE, &["door"]), (OTHER, &[])]);
    world.emit("wind");
    world.pass(OUTBOX_GRACE + Duration::from_secs(1));
    let asked = world.questions;
    assert!(asked <= 4, "{asked} questions");
    assert!(world.outbox.is_idle(), "{:?}", world.outbox);
    world.pass(Duration::from_secs(100));
    assert_eq!(world.questions, asked);
}

/// Goal: whoever submits a trigger and then emits finds that it fired, though the quorum was asked just before.
#[test]
fn a_name_that_is_new_is_asked_for_after_the_event() {
    let mut world = World::new(&[(ONE, &[])]);
    world.emit("door");
    world.pass(Duration::from_millis(200));
    world.at(ONE).names.insert("door".to_owned());
    let sequence = world.emit("door");
    world.pass(ASK_INTERVAL);
    assert_eq!(world.taken(ONE), [sequence]);
}

#[test]
fn a_quorum_that_is_heard_of_late_gets_what_is_still_kept() {
    let mut world = World::new(&[(ONE, &[])]);
    let sequence = world.emit("door");
    world.pass(Duration::from_secs(5));
    world.quorums.insert(OTHER, Quorum { names: BTreeSet::from(["door".to_owned()]), ..Quorum::default() });
    world.settle();
    assert_eq!(world.taken(OTHER), [sequence]);
}

#[test]
fn a_quorum_that_was_down_for_hours_misses_nothing_even_if_the_emitter_restarts() {
    let mut world = World::new(&[(ONE, &["door"]), (OTHER, &["door"])]);
    world.emit("door");
    world.settle();
    world.at(ONE).is_down = true;
    for _ in 0..200 {
        world.emit("door");
    }
    world.pass(Duration::from_secs(3_600));
    world.restart();
    world.emit("door");
    world.pass(Duration::from_secs(60));
    world.at(ONE).is_down = false;
    world.settle();
    let all: Vec<u64> = (1..=202).collect();
    assert_eq!((world.taken(ONE), world.taken(OTHER)), (&all[..], &all[..]));
}

#[test]
fn what_is_taken_though_its_answer_was_lost_is_not_taken_again() {
    let mut world = World::new(&[(ONE, &["door"])]);
    world.at(ONE).is_mute = true;
    for _ in 0..100 {
        world.emit("door");
    }
    world.pass(Duration::from_secs(3));
    world.at(ONE).is_mute = false;
    world.settle();
    assert_eq!(world.taken(ONE), (1..=100).collect::<Vec<_>>());
}

#[test]
fn a_quorum_without_room_takes_less_at_once_and_loses_nothing() {
    let mut world = World::new(&[(ONE, &["door"])]);
    world.at(ONE).room = Some(3);
    for _ in 0..100 {
        world.emit("door");
    }
    world.pass(Duration::from_secs(20));
    world.at(ONE).room = Some(0);
    let so_far = world.taken(ONE).len();
    world.pass(Duration::from_secs(20));
    assert_eq!(world.taken(ONE).len(), so_far);
    world.at(ONE).room = None;
    world.settle();
    assert_eq!(world.taken(ONE), (1..=100).collect::<Vec<_>>());
}

#[test]
fn what_is_owed_for_too_long_is_given_up_and_said() {
    let mut world = World::new(&[(ONE, &["door"])]);
    world.emit("door");
    world.settle();
    world.at(ONE).is_down = true;
    for name in ["door", "door", "wind"] {
        world.emit(name);
    }
    world.pass(OUTBOX_RETENTION - Duration::from_secs(60));
    world.at(ONE).is_down = false;
    world.outbox.announced(world.now, &BTreeSet::from([ONE]));
    world.at(ONE).is_down = true;
    world.pass(Duration::from_secs(120));
    assert_eq!(world.outbox.counts(), (0, 0));
    world.restart();
    world.at(ONE).is_down = false;
    world.settle();
    assert_eq!((world.taken(ONE), world.quorums[&ONE].lost), (&[1][..], 3), "of the last nobody knows whom it was for");
    let sequence = world.emit("door");
    world.settle();
    assert_eq!(world.taken(ONE), [1, sequence]);
    assert_eq!(world.quorums[&ONE].lost, 3, "said once");
}

/// Goal: what is emitted while its node hears of no quorum waits for them, for however long, through restarts and
/// whatever wall clocks make of its age.
#[test]
fn a_node_that_is_cut_off_from_every_quorum_keeps_its_events() {
    let mut world = World::new(&[(ONE, &["door"])]);
    world.at(ONE).is_down = true;
    world.emit("door");
    world.pass(OUTBOX_GRACE * 2);
    world.restart_aged(Duration::from_secs(3_600));
    world.emit("door");
    world.pass(OUTBOX_GRACE * 2);
    world.at(ONE).is_down = false;
    world.settle();
    assert_eq!(world.taken(ONE), [1, 2]);
    world.pass(OUTBOX_GRACE);
    assert!(world.outbox.is_idle(), "{:?}", world.outbox);
}

/// Goal: the same while it hears of another quorum, though the one that it is cut off from wanted nothing before.
#[test]
fn a_node_that_is_cut_off_from_one_quorum_keeps_events_for_it() {
    let mut world = World::new(&[(ONE, &[]), (OTHER, &[])]);
    world.emit("wind");
    world.settle();
    world.at(ONE).is_down = true;
    world.pass(Duration::from_secs(1));
    world.at(ONE).names.insert("door".to_owned());
    let sequence = world.emit("door");
    for _ in 0..2 {
        world.pass(OUTBOX_GRACE * 2);
        world.restart();
    }
    world.at(ONE).is_down = false;
    world.settle();
    assert_eq!((world.taken(ONE), world.quorums[&ONE].lost), (&[sequence][..], 0));
}

/// Goal: a quorum that is gone and wanted nothing keeps no event from being taken; what it may have missed it is told.
#[test]
fn a_full_outbox_gives_up_what_is_owed_to_those_that_are_gone_and_wanted_nothing() {
    let mut world = World::new(&[(ONE, &[]), (OTHER, &["door"])]);
    world.emit("wind");
    world.settle();
    world.at(ONE).is_down = true;
    world.pass(Duration::from_secs(1));
    // The last of them takes the place of the first, which nobody wants.
    for _ in 0..OUTBOX_EVENTS_MAX {
        world.outbox.emit(world.now, event("door", None)).unwrap();
    }
    let refused = world.outbox.emit(world.now, event("door", None));
    assert!(refused.is_err(), "the other quorum is owed them: {refused:?}");
    world.settle();
    for _ in 0..2 {
        world.emit("door");
    }
    world.at(ONE).is_down = false;
    world.settle();
    assert_eq!(world.quorums[&ONE].lost, 2);
}

/// Goal: a node whose clock was set months ahead between two lives gives up nothing that it acknowledged.
#[test]
fn what_an_earlier_life_left_is_not_given_up_for_the_sake_of_a_clock() {
    let mut world = World::new(&[(ONE, &["door"])]);
    world.emit("door");
    world.settle();
    world.at(ONE).is_down = true;
    world.outbox.emit(world.now, event("door", Some("a"))).unwrap();
    world.pass(OUTBOX_GRACE);
    world.restart_aged(11 * 30 * OUTBOX_RETENTION);
    world.pass(OUTBOX_GRACE);
    assert!(world.outbox.emit(world.now, event("door", Some("a"))).unwrap().existed, "its id is known");
    world.at(ONE).is_down = false;
    world.settle();
    assert_eq!((world.taken(ONE), world.quorums[&ONE].lost), (&[1, 2][..], 0));
}

#[test]
fn one_id_is_one_event_for_as_long_as_ids_are_kept() {
    let mut world = World::new(&[(ONE, &["door"])]);
    let first = world.outbox.emit(world.now, event("door", Some("a"))).unwrap();
    let again = world.outbox.emit(world.now, event("door", Some("a"))).unwrap();
    let other = world.outbox.emit(world.now, event("bell", Some("a"))).unwrap();
    assert_eq!((first.existed, again.existed, other.existed), (false, true, false));
    assert_eq!(first.sequence, again.sequence);
    world.pass(OUTBOX_GRACE * 2);
    assert_eq!(world.outbox.counts().0, 0, "nothing is kept but ids");
    world.restart();
    assert!(world.outbox.emit(world.now, event("door", Some("a"))).unwrap().existed);
    assert_eq!(world.taken(ONE), [1]);
}

#[test]
fn a_full_outbox_refuses_what_comes_and_makes_room_of_what_nobody_is_owed() {
    let mut world = World::new(&[(ONE, &["door"])]);
    world.at(ONE).is_down = true;
    world.outbox.announced(world.now, &BTreeSet::from([ONE]));
    for _ in 0..OUTBOX_EVENTS_MAX {
        world.outbox.emit(world.now, event("door", None)).unwrap();
    }
    let full = EmitError::Full { events: OUTBOX_EVENTS_MAX, bytes: 2 * OUTBOX_EVENTS_MAX };
    assert_eq!(world.outbox.emit(world.now, event("door", None)), Err(full));
    world.at(ONE).is_down = false;
    world.settle();
    assert_eq!(world.taken(ONE).len(), OUTBOX_EVENTS_MAX);
    world.outbox.emit(world.now, event("door", None)).expect("what was taken makes room at once");
}

#[test]
fn bad_events_are_refused_with_the_key_that_is_wrong() {
    let mut world = World::new(&[]);
    let mut refused = |event: Event, key: &str| {
        let error = world.outbox.emit(START, event).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{key}:")), "{error}");
    };
    refused(event("", None), "name");
    refused(event("a b", None), "name");
    refused(event("quorate.peer.joined", None), "name");
    refused(event("door", Some("")), "id");
    refused(Event { data: Bytes::from_static(b"{"), ..event("door", None) }, "data");
    refused(Event { data: Bytes::from(vec![b'1'; EVENT_DATA_BYTES_MAX + 1]), ..event("door", None) }, "data");
}

#[test]
fn an_emitter_that_lost_its_disk_goes_on_behind_what_the_quorum_knows() {
    let mut world = World::new(&[(ONE, &["door"])]);
    world.at(ONE).known = Some(50);
    world.emit("door");
    world.settle();
    let sequence = world.emit("door");
    world.settle();
    assert!(sequence > 50);
    assert_eq!((world.taken(ONE), world.quorums[&ONE].lost), (&[sequence][..], 1), "the first passed for a repeat");
}

#[test]
fn a_quorum_that_went_back_gets_again_what_is_kept_and_the_rest_is_said_to_be_lost() {
    let mut world = World::new(&[(ONE, &["door"])]);
    for _ in 0..4 {
        world.emit("door");
        world.settle();
    }
    world.at(ONE).known = Some(2);
    world.emit("door");
    world.settle();
    assert_eq!(world.taken(ONE), [1, 2, 3, 4, 3, 4, 5]);
    assert_eq!(world.quorums[&ONE].lost, 0);
}

#[test]
fn events_of_the_network_are_kept_only_once_somebody_listens() {
    let mut world = World::new(&[(ONE, &["quorate.job.ended"]), (OTHER, &["door"])]);
    world.pass(Duration::from_secs(1));
    world.outbox.emit_own(world.now, event("quorate.job.ended", Some("a")));
    world.outbox.emit_own(world.now, event("quorate.peer.lost", Some("b")));
    world.settle();
    assert_eq!(world.taken(ONE), [1]);
    assert!(!world.disk.iter().any(|change| matches!(change, Change::Keep(_, event) if event.name.ends_with("lost"))));
    world.pass(OUTBOX_GRACE);
    assert!(world.outbox.is_idle(), "{:?}", world.outbox);
    // A storm of them is bounded, and what is left out is said.
    for _ in 0..5_000 {
        world.outbox.emit_own(world.now, event("quorate.job.ended", None));
    }
    world.settle();
    let (taken, lost) = (world.taken(ONE).len() as u64 - 1, world.quorums[&ONE].lost);
    assert_eq!(taken + lost, 5_000);
    assert!(taken <= OWN_PER_SECOND * 10 + 1, "{taken}");
}
