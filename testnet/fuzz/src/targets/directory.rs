//! The directory under a stream of announcements: bounded, ordered, and never of an opinion that nobody announced.

use std::collections::BTreeMap;

use quorate_protocols::admission::Trust;
use quorate_protocols::capacity::{Capacity, Requirement};
use quorate_protocols::directory::limits::ADVERT_EXPIRY;
use quorate_protocols::directory::misfit;
use quorate_protocols::directory::{AdvertOutcome, DirectoryState, PeerAdvert, QuorumAdvert};
use quorate_protocols::engine::NodeRole;
use quorate_protocols::ids::{BootId, Incarnation, MemberId, Millis, PeerId, QuorumId, Term};

use super::Target;
use crate::script::{Step, steps};
use crate::trail::Trail;

pub fn target() -> Target {
    Target::script("directory", run)
}

fn peer(index: usize) -> PeerId {
    PeerId([index as u8; 32])
}

fn quorum(step: Step<'_>) -> QuorumAdvert {
    let member = |index: usize| MemberId { peer: peer(index), incarnation: Incarnation(1) };
    QuorumAdvert {
        quorum: QuorumId([step.below(2, 4) as u8; 16]),
        term: Term(u64::from(step.byte(3) % 8)),
        members: (0..step.below(4, 24)).map(member).collect(),
        standbys: step.byte(5),
        jobs: u32::from(step.byte(6)),
        objects: 0,
        room: u32::from(step.byte(7) % 3),
    }
}

fn advert(step: Step<'_>) -> PeerAdvert {
    let label = "x".repeat(step.below(4, 80));
    PeerAdvert {
        incarnation: Incarnation(1),
        boot: BootId([step.byte(2) % 4; 16]),
        boot_number: u64::from(step.byte(2) % 4),
        sequence: u64::from(step.byte(3) % 8),
        roles: vec![NodeRole::Store; step.below(5, 40)],
        name: label.clone(),
        labels: (0..step.below(6, 20)).map(|index| (format!("{index}{label}"), label.clone())).collect(),
        free: Capacity { disk_bytes: step.wide(7), memory_bytes: step.wide(6), slots: 4 },
        load_permille: u16::from(step.byte(7)),
        quorums: 0,
        draining: step.is_set(3, 7),
        level: 1,
        admission: None,
    }
}

fn run(bytes: &[u8]) -> Trail {
    let (mut trail, mut state, mut now) = (Trail::default(), DirectoryState::new(Trust::default()), Millis(0));
    let mut heard: BTreeMap<PeerId, (u64, u64, Millis)> = BTreeMap::new();
    for step in steps(bytes) {
        match step.below(0, 8) {
            0..=2 => {
                let (author, advert) = (peer(step.below(1, 12)), advert(step));
                let (boot, sequence) = (advert.boot_number, advert.sequence);
                match state.note_peer(now, now, author, advert.clone()) {
                    Ok(AdvertOutcome::Ignored) => trail.mark("peer ignored"),
                    Ok(noted) => {
                        trail.mark_variant("peer", &noted);
                        let known = heard.insert(author, (boot, sequence, now));
                        // One that nobody reached may have been forgotten earlier, and is new then.
                        let lives = |at: Millis| noted == AdvertOutcome::Updated && now.since(at) <= ADVERT_EXPIRY;
                        if let Some((before, last, _)) = known.filter(|(_, _, at)| lives(*at)) {
                            assert!((boot, sequence) > (before, last), "an older word of {author} was believed");
                        }
                        assert_eq!(state.peer(author).map(|entry| &entry.advert), Some(&advert));
                    }
                    Err(fault) => trail.mark_words("peer fault", &fault.to_string()),
                }
            }
            3 | 4 => {
                let (author, advert) = (peer(step.below(1, 12)), quorum(step));
                let before = state.quorum(advert.quorum).map(|known| known.term);
                match state.note_quorum(now, author, advert.clone()) {
                    Ok(noted) => {
                        trail.mark_variant("quorum", &noted);
                        let own = state.own_quorum(advert.quorum).is_some();
                        let taken = noted != AdvertOutcome::Ignored && !own;
                        assert!(!taken || state.quorum(advert.quorum) == Some(&advert));
                        assert!(!taken || noted == AdvertOutcome::New || before.is_none_or(|term| advert.term >= term));
                    }
                    Err(fault) => trail.mark_words("quorum fault", &fault.to_string()),
                }
            }
            5 if step.is_set(1, 0) => {
                let reached = peer(step.below(2, 12));
                state.note_reached(now, reached, step.is_set(1, 1));
                assert!(state.is_reached(reached));
            }
            5 => {
                let QuorumAdvert { quorum, members, .. } = quorum(step);
                state.learn_members(now, quorum, members.first().copied(), members);
            }
            6 if step.is_set(1, 0) => state.set_own_quorum(quorum(step)),
            6 => state.remove_own_quorum(quorum(step).quorum),
            _ => {
                now = Millis(now.0.saturating_add(step.wide(1)));
                state.expire(now);
            }
        }
        let mut random = u64::from(step.byte(7));
        let draw = || {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            random
        };
        let need = Requirement::from(Capacity::disk(step.wide(7)));
        let candidates = state.candidates(now, NodeRole::Store, &need, draw);
        let fit = state
            .peers()
            .filter(|(peer, entry)| state.is_reached(*peer) && misfit(&entry.advert, NodeRole::Store, &need).is_none());
        let fit: Vec<PeerId> = fit.map(|(peer, _)| peer).collect();
        let mut sorted = candidates;
        sorted.sort_unstable();
        assert_eq!(sorted, fit, "every reached peer that fits is a candidate once");
        let picked = state.pick_quorum(|| random, |_| true);
        assert_eq!(picked.is_some(), state.quorums().iter().any(|advert| advert.room > 0));
    }
    trail
}
