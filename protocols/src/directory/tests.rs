//! Hearsay is ordered, aged, bounded, and ranked.

use std::collections::{BTreeMap, BTreeSet};

use super::limits::*;
use super::*;
use crate::admission::{Admission, Distrust, Trust};
use crate::capacity::{Capacity, Requirement};
use crate::engine::NodeRole;
use crate::ids::{BootId, Incarnation, MemberId, Millis, PeerId, QuorumId, Term};

const WALL: Millis = Millis(1_000);

fn peer(n: u32) -> PeerId {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&n.to_be_bytes());
    PeerId(id)
}

fn member(n: u32) -> MemberId {
    MemberId { peer: peer(n), incarnation: Incarnation(1) }
}

fn advert(boot: u8, sequence: u64) -> PeerAdvert {
    PeerAdvert {
        incarnation: Incarnation(1),
        boot: BootId([boot; 16]),
        boot_number: boot.into(),
        sequence,
        roles: vec![NodeRole::Store],
        name: "attic".to_owned(),
        labels: BTreeMap::new(),
        free: Capacity { disk_bytes: 1000, memory_bytes: 1000, slots: 2 },
        load_permille: 0,
        quorums: 0,
        draining: false,
        level: 1,
        admission: None,
    }
}

fn quorum(n: u8, term: u64, jobs: u32) -> QuorumAdvert {
    let members = vec![member(1), member(2), member(3)];
    QuorumAdvert { quorum: QuorumId([n; 16]), term: Term(term), members, standbys: 0, jobs, objects: 0, room: 5 }
}

fn note_advert(state: &mut DirectoryState, at: u64, n: u32, advert: PeerAdvert) -> AdvertOutcome {
    state.note_peer(Millis(at), Millis(at), peer(n), advert).unwrap()
}

#[test]
fn an_older_word_is_ignored_and_a_new_boot_believed_for_good() {
    let mut state = DirectoryState::new(Trust::default());
    assert_eq!(note_advert(&mut state, 0, 1, advert(1, 5)), AdvertOutcome::New);
    assert_eq!(note_advert(&mut state, 1, 1, advert(1, 5)), AdvertOutcome::Ignored);
    assert_eq!(note_advert(&mut state, 1, 1, advert(1, 4)), AdvertOutcome::Ignored);
    assert_eq!(note_advert(&mut state, 2, 1, advert(2, 1)), AdvertOutcome::Updated);
    assert_eq!(note_advert(&mut state, 3, 1, advert(1, 99)), AdvertOutcome::Ignored, "an echo of the former boot");
    assert_eq!(state.peer(peer(1)).unwrap().advert, advert(2, 1));
    assert_eq!(note_advert(&mut state, 4, 1, advert(4, 1)), AdvertOutcome::Updated);
    for boot in [1, 2, 3] {
        assert_eq!(note_advert(&mut state, 5, 1, advert(boot, 100)), AdvertOutcome::Ignored, "sent again by somebody");
    }
    assert_eq!(note_advert(&mut state, 6, 1, advert(4, 2)), AdvertOutcome::Updated, "and the honest one goes on");
}

#[test]
fn what_is_not_repeated_is_forgotten() {
    let mut state = DirectoryState::new(Trust::default());
    note_advert(&mut state, 0, 1, advert(1, 1));
    state.note_quorum(Millis(0), peer(1), quorum(1, 1, 0)).unwrap();
    let expiry = ADVERT_EXPIRY.as_millis() as u64;
    note_advert(&mut state, expiry, 2, advert(1, 1));
    assert_eq!(state.peers().count(), 2);
    state.expire(Millis(expiry + 1));
    assert_eq!((state.peers().count(), state.quorums().len()), (1, 0));
}

#[test]
fn beyond_the_bound_the_one_heard_of_longest_ago_goes() {
    let mut state = DirectoryState::new(Trust::default());
    for n in 0..PEERS_MAX as u32 {
        note_advert(&mut state, u64::from(n), n, advert(1, 1));
    }
    note_advert(&mut state, 20_000, 0, advert(1, 2));
    note_advert(&mut state, 20_001, u32::MAX, advert(1, 1));
    assert_eq!(state.peers().count(), PEERS_MAX);
    assert!(state.peer(peer(0)).is_some() && state.peer(peer(1)).is_none());
}

#[test]
fn adverts_that_break_a_limit_are_their_authors_fault() {
    let mut state = DirectoryState::new(Trust::default());
    let mut many = advert(1, 1);
    many.labels = (0..=LABELS_MAX).map(|n| (n.to_string(), String::new())).collect();
    let fault = state.note_peer(Millis(0), Millis(0), peer(1), many);
    assert!(matches!(fault, Err(AdvertFault::TooMany { what: "labels", .. })));
    let mut long = advert(1, 1);
    let too_long = PeerAdvert { name: "x".repeat(NAME_BYTES_MAX + 1), ..advert(1, 1) };
    let coloured = PeerAdvert { name: "\u{1b}[31mroot".to_owned(), ..advert(1, 1) };
    for unfit in [too_long, coloured] {
        assert!(state.note_peer(Millis(0), Millis(0), peer(1), unfit).is_err());
    }
    long.labels.insert("zone".into(), "x".repeat(LABEL_BYTES_MAX + 1));
    assert!(matches!(state.note_peer(Millis(0), Millis(0), peer(1), long), Err(AdvertFault::LabelTooLong { .. })));
    assert_eq!(state.note_quorum(Millis(0), peer(9), quorum(1, 1, 0)), Err(AdvertFault::NotAMember));
    assert_eq!(state.peers().count(), 0);
}

#[test]
fn the_later_term_speaks_for_a_quorum() {
    let mut state = DirectoryState::new(Trust::default());
    let id = QuorumId([1; 16]);
    state.note_quorum(Millis(0), peer(1), quorum(1, 5, 1)).unwrap();
    assert_eq!(state.note_quorum(Millis(1), peer(2), quorum(1, 4, 2)), Ok(AdvertOutcome::Ignored));
    assert_eq!(
        state.note_quorum(Millis(1), peer(2), quorum(1, 5, 2)),
        Ok(AdvertOutcome::Ignored),
        "one primary per term"
    );
    assert_eq!(state.note_quorum(Millis(1), peer(1), quorum(1, 5, 3)), Ok(AdvertOutcome::Updated));
    assert_eq!(state.note_quorum(Millis(1), peer(2), quorum(1, 6, 4)), Ok(AdvertOutcome::Updated));
    assert_eq!(state.quorum(id).unwrap().jobs, 4);
    state.set_own_quorum(quorum(1, 7, 9));
    assert_eq!(state.quorum(id).unwrap().jobs, 9, "a member knows better than hearsay");
    state.remove_own_quorum(id);
    assert_eq!(state.quorum(id).unwrap().jobs, 4);
}

#[test]
fn members_are_learnt_from_answers_until_an_advert_says_otherwise() {
    let mut state = DirectoryState::new(Trust::default());
    let id = QuorumId([1; 16]);
    state.learn_members(Millis(0), id, Some(member(2)), vec![member(1), member(2)]);
    assert_eq!(state.quorum(id).unwrap().members, [member(2), member(1)]);
    assert_eq!(state.pick_quorum(|| 0, |_| true), None, "nothing is known of its room");
    state.note_quorum(Millis(1), peer(1), quorum(1, 1, 1)).unwrap();
    assert_eq!(state.quorum(id).unwrap().members.len(), 3);
    state.learn_members(Millis(2), id, None, vec![member(7)]);
    let known = state.quorum(id).unwrap();
    assert_eq!((known.members.as_slice(), known.room), ([member(7)].as_slice(), 5));
}

#[test]
fn candidates_are_those_that_fit() {
    let mut state = DirectoryState::new(Trust::default());
    note_advert(&mut state, 0, 1, advert(1, 1));
    note_advert(&mut state, 0, 2, PeerAdvert { draining: true, ..advert(1, 1) });
    note_advert(&mut state, 0, 3, PeerAdvert { roles: Vec::new(), ..advert(1, 1) });
    note_advert(&mut state, 0, 4, PeerAdvert { free: Capacity::default(), ..advert(1, 1) });
    let labels = BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]);
    note_advert(&mut state, 0, 5, PeerAdvert { labels: labels.clone(), ..advert(1, 1) });
    (1..=5).for_each(|n| state.note_reached(Millis(0), peer(n), true));
    let small = Requirement::from(Capacity::disk(10));
    let mut found = state.candidates(WALL, NodeRole::Store, &small, || 0);
    found.sort();
    assert_eq!(found, [peer(1), peer(5)]);
    let picky = Requirement { labels, ..small };
    assert_eq!(state.candidates(WALL, NodeRole::Store, &picky, || 0), [peer(5)]);
}

/// Goal: of two drawn at random the less busy leads, so idle peers lead more often, but not always the same one.
#[test]
fn the_less_busy_lead_more_often_without_becoming_a_herd() {
    let mut state = DirectoryState::new(Trust::default());
    for n in 0..10 {
        note_advert(&mut state, 0, n, PeerAdvert { load_permille: n as u16 * 100, ..advert(1, 1) });
        state.note_reached(Millis(0), peer(n), true);
    }
    let mut random = 1u64;
    let mut first = BTreeMap::new();
    for _ in 0..2_000 {
        let ranked = state.candidates(WALL, NodeRole::Store, &Requirement::default(), || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            random >> 33
        });
        assert_eq!(ranked.len(), 10, "ranking loses nobody");
        *first.entry(ranked[0]).or_insert(0) += 1;
    }
    assert!(first[&peer(0)] > 250 && first[&peer(0)] < 600, "{first:?}");
    assert!(first.len() >= 8, "{first:?}");
    assert!(first[&peer(0)] > 3 * first.get(&peer(9)).copied().unwrap_or(0), "{first:?}");
}

#[test]
fn a_quorum_without_room_is_not_picked() {
    let mut state = DirectoryState::new(Trust::default());
    state.note_quorum(Millis(0), peer(1), QuorumAdvert { room: 0, ..quorum(1, 1, 0) }).unwrap();
    assert_eq!(state.pick_quorum(|| 7, |_| true), None);
    state.note_quorum(Millis(0), peer(1), quorum(2, 1, 8)).unwrap();
    state.note_quorum(Millis(0), peer(1), quorum(3, 1, 2)).unwrap();
    let mut draws = [0, 1].into_iter().cycle();
    assert_eq!(state.pick_quorum(|| draws.next().unwrap(), |_| true), Some(QuorumId([3; 16])));
    assert_eq!(state.pick_quorum(|| 1, |advert| advert.jobs > 5), Some(QuorumId([2; 16])));
}

/// Goal: keys that only sign announcements change nothing for anybody: they are not chosen, and make room first.
#[test]
fn a_peer_counts_once_it_was_reached() {
    let mut state = DirectoryState::new(Trust::default());
    let need = Requirement::default();
    note_advert(&mut state, 0, 1, advert(1, 1));
    state.note_reached(Millis(0), peer(1), true);
    for n in 2..20 {
        note_advert(&mut state, 0, n, advert(1, 1));
    }
    assert_eq!(state.candidates(WALL, NodeRole::Store, &need, || 1), [peer(1)]);
    state.note_reached(Millis(1), peer(7), true);
    state.note_reached(Millis(2), peer(7), false);
    let found: BTreeSet<_> = state.candidates(WALL, NodeRole::Store, &need, || 1).into_iter().collect();
    assert_eq!(found, BTreeSet::from([peer(1), peer(7)]), "one that was connected still counts");
    for n in 100..100 + PEERS_MAX as u32 {
        note_advert(&mut state, 3, n, advert(1, 1));
    }
    assert_eq!(state.peers().count(), PEERS_MAX);
    assert!(state.peer(peer(1)).is_some() && state.peer(peer(7)).is_some() && state.peer(peer(2)).is_none());
}

#[test]
fn a_peer_that_nobody_reaches_is_forgotten_whatever_it_announces() {
    let mut state = DirectoryState::new(Trust::default());
    let hour = REACHED_EXPIRY.as_millis() as u64;
    state.note_reached(Millis(0), peer(1), true);
    for (sequence, at) in (1..).zip((0..=hour).step_by(60_000)) {
        for n in 1..=3 {
            note_advert(&mut state, at, n, advert(1, sequence));
        }
        if at == hour / 2 {
            state.note_reached(Millis(at), peer(2), false);
        }
    }
    assert_eq!(state.peers().count(), 3);
    state.expire(Millis(hour + 60_001));
    let left: Vec<_> = state.peers().map(|(peer, _)| peer).collect();
    assert_eq!(left, [peer(1), peer(2)], "half an hour ago it was there");
}

/// Goal: a node relies only on peers that its operators listed or an authority admitted, and on those only for as long.
#[test]
fn only_trusted_peers_are_candidates() {
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let authority = PeerId(key.verifying_key().to_bytes());
    let mut state = DirectoryState::new(Trust { peers: [peer(1)].into(), authorities: [authority].into() });
    let admitted = |n, until| PeerAdvert { admission: Some(Admission::sign(&key, peer(n), until)), ..advert(1, 1) };
    let adverts =
        [(1, advert(1, 1)), (2, admitted(2, Millis(5_000))), (3, advert(1, 1)), (4, admitted(2, Millis(5_000)))];
    for (n, advert) in adverts {
        state.note_reached(Millis(0), peer(n), true);
        state.note_peer(Millis(0), WALL, peer(n), advert).unwrap();
    }
    let candidates = |state: &DirectoryState, wall| -> BTreeSet<PeerId> {
        state.candidates(wall, NodeRole::Store, &Requirement::default(), || 1).into_iter().collect()
    };
    assert_eq!(candidates(&state, WALL), [peer(1), peer(2)].into());
    assert_eq!(candidates(&state, Millis(5_000)), [peer(1)].into(), "an admission ends");
    assert_eq!(state.check_trust(Millis(5_000), peer(2)), Err(Distrust::Ended));
    assert_eq!(state.check_trust(WALL, peer(3)), Err(Distrust::Unknown));
    assert_eq!(state.check_trust(WALL, peer(4)), Err(Distrust::OtherPeer));
    assert_eq!(state.check_trust(WALL, peer(99)), Err(Distrust::Unheard), "nothing was heard of it");
    // It is admitted while it runs, and again before its time is over.
    for (sequence, until) in [(2, 3_000), (3, 9_000)] {
        let advert = PeerAdvert { sequence, ..admitted(3, Millis(until)) };
        state.note_peer(Millis(0), WALL, peer(3), advert).unwrap();
    }
    assert_eq!(state.check_trust(Millis(8_000), peer(3)), Ok(()));
    state.set_own_peer(Millis(0), WALL, peer(9), advert(1, 1));
    assert!(candidates(&state, WALL).contains(&peer(9)), "this node itself");
}
