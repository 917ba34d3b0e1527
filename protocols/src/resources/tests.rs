//! Conservation first: whatever is asked in whatever order, no limit is passed and all that is released is free again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::limits::{Overrides, SCOPES_MAX};
use super::*;
use crate::approval::limits::{
    ASKER_DISK_PERCENT, LEASE_DURATION_MAX, LEASES_PER_ASKER_MAX, MEMBER_DISK_BYTES, MEMBER_MEMORY_BYTES,
    UNUSED_LEASE_MAX, UNUSED_MAX, UNUSED_PER_ASKER_MAX,
};
use crate::approval::{Refusal, Subject, Writer};
use crate::capacity::{Capacity, Requirement};
use crate::ids::{JobId, LeaseId, Millis, Nonce, PeerId, QuorumId};

fn memory_limits(system: u64, service: u64, peer: u64) -> Limits {
    let mut limits = Limits::unlimited();
    limits.system.memory_bytes = system;
    limits.services.insert(Service::Network, Amounts { memory_bytes: service, ..Amounts::UNLIMITED });
    limits.peer.memory_bytes = peer;
    limits
}

fn peer(n: u8) -> Scope {
    Scope::Peer("/a/1", PeerId([n; 32]))
}

fn job(n: u8) -> JobId {
    JobId { quorum: QuorumId([1; 16]), local: [n; 16] }
}

#[test]
fn a_refusal_names_the_narrowest_scope_in_the_way_and_charges_nobody() {
    let mut tree = Tree::new(memory_limits(100, 60, 50));
    tree.reserve(peer(1), Amounts::memory(40)).unwrap();
    let refused = tree.reserve(peer(2), Amounts::memory(30)).unwrap_err();
    let scope = Scope::Service(Service::Network);
    let expected = Refused::Limit { scope, resource: Resource::MemoryBytes, limit: 60, used: 40, needed: 30 };
    assert_eq!(refused, expected);
    assert_eq!(tree.used(peer(2)), Amounts::ZERO);
    assert_eq!(tree.used(Scope::System), Amounts::memory(40));
    assert!(matches!(Refusal::from(refused), Refusal::Resources { available: 20, needed: 30, limit: 60, .. }));
    tree.assert_invariants();
}

/// Goal: however many strangers send, and whatever is leased, frames of members find room.
#[test]
fn strangers_leave_room_to_members() {
    let mut limits = memory_limits(2000, 1200, 300);
    limits.protocol = Amounts::memory(1000);
    limits.members_memory_percent = 25;
    let empty = Tree::new(limits);
    let (member, another) = (PeerId([200; 32]), PeerId([201; 32]));
    let mut tree = empty.clone();
    tree.set_members(BTreeSet::from([member, another]));
    let mut held = Vec::new();
    for protocol in ["/a/1", "/b/1"] {
        for stranger in (1..=10).map(|n| Scope::Peer(protocol, PeerId([n; 32]))) {
            while tree.reserve(stranger, Amounts::memory(50)).is_ok() {
                held.push(stranger);
            }
        }
    }
    let used = |tree: &Tree, scope| tree.used(scope).memory_bytes;
    assert_eq!(used(&tree, Scope::Protocol("/a/1")), 750, "three quarters of a protocol");
    assert_eq!(used(&tree, Scope::Service(Service::Network)), 900, "and of the network");
    assert_eq!(tree.free(Scope::Peer("/a/1", PeerId([1; 32]))).memory_bytes, 0);
    // Members fill the rest, within their own bounds.
    let (one, other) = (Scope::Peer("/a/1", member), Scope::Peer("/b/1", another));
    assert_eq!(tree.free(one).memory_bytes, 250);
    tree.reserve(one, Amounts::memory(250)).unwrap();
    tree.reserve(other, Amounts::memory(50)).unwrap();
    tree.reserve(other, Amounts::memory(1)).unwrap_err();
    tree.assert_invariants();
    // A member that left holds what it held and gets no more of it.
    tree.release(one, Amounts::memory(100));
    tree.set_members(BTreeSet::from([another]));
    tree.reserve(one, Amounts::memory(1)).unwrap_err();
    held.into_iter().for_each(|stranger| tree.release(stranger, Amounts::memory(50)));
    tree.release(one, Amounts::memory(150));
    tree.release(other, Amounts::memory(50));
    assert_eq!(tree.used(Scope::System), Amounts::ZERO);

    let mut leased = empty;
    leased.set_members(BTreeSet::from([member]));
    leased.reserve(Scope::Job(job(1)), Amounts::memory(1900)).unwrap();
    leased.reserve(peer(1), Amounts::memory(1)).unwrap_err();
    leased.reserve(one, Amounts::memory(100)).unwrap();
}

/// A rollback that gives back in the parent what the parent never took would admit every second attempt at the limit.
#[test]
fn repeated_refusals_at_the_limit_never_let_one_through() {
    let mut tree = Tree::new(memory_limits(100, 60, 60));
    tree.reserve(peer(1), Amounts::memory(60)).unwrap();
    for _ in 0..10 {
        tree.reserve(peer(1), Amounts::memory(1)).unwrap_err();
        tree.reserve(peer(2), Amounts::memory(1)).unwrap_err();
    }
    assert_eq!(tree.used(Scope::System), Amounts::memory(60));
}

#[test]
fn a_need_that_would_overflow_the_count_is_refused() {
    let mut tree = Tree::new(memory_limits(100, 100, 100));
    tree.reserve(peer(1), Amounts::memory(1)).unwrap();
    tree.reserve(peer(1), Amounts::memory(u64::MAX)).unwrap_err();
    assert_eq!(tree.used(Scope::System), Amounts::memory(1));
}

#[test]
fn closing_a_span_gives_back_everything_in_it_once() {
    let mut tree = Tree::new(memory_limits(100, 100, 100));
    let outer = tree.open_span(Scope::Job(job(1)), Amounts::memory(50)).unwrap();
    let inner = tree.open_span(Scope::Span(outer), Amounts::UNLIMITED).unwrap();
    tree.reserve(Scope::Span(inner), Amounts::memory(30)).unwrap();
    tree.reserve(Scope::Span(outer), Amounts::memory(20)).unwrap();
    tree.reserve(Scope::Span(inner), Amounts::memory(1)).unwrap_err();
    assert_eq!(tree.used(Scope::Job(job(1))), Amounts::memory(50));
    tree.close_span(outer);
    tree.assert_invariants();
    assert_eq!(tree.scopes().count(), 1, "only the root is left");
    // Guards that outlive their span release into nothing.
    tree.release(Scope::Span(inner), Amounts::memory(30));
    tree.close_span(outer);
    assert_eq!(tree.used(Scope::System), Amounts::ZERO);
    assert_eq!(
        tree.reserve(Scope::Span(inner), Amounts::memory(1)),
        Err(Refused::Closed { scope: Scope::Span(inner) })
    );
}

#[test]
#[should_panic(expected = "releases more than it reserved")]
fn releasing_what_was_never_reserved_is_a_bug() {
    let mut tree = Tree::new(Limits::unlimited());
    tree.reserve(peer(1), Amounts::memory(1)).unwrap();
    tree.release(peer(1), Amounts::memory(2));
}

#[test]
fn scopes_that_remotes_can_make_are_bounded_and_vanish_when_empty() {
    let mut tree = Tree::new(Limits::unlimited());
    let scope = |n: usize| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&n.to_le_bytes());
        Scope::Peer("/a/1", PeerId(id))
    };
    for n in 0..SCOPES_MAX {
        tree.reserve(scope(n), Amounts::memory(1)).unwrap();
    }
    assert!(matches!(tree.reserve(scope(SCOPES_MAX), Amounts::memory(1)), Err(Refused::TooManyScopes { .. })));
    tree.release(scope(7), Amounts::memory(1));
    tree.reserve(scope(SCOPES_MAX), Amounts::memory(1)).unwrap();
    assert_eq!(tree.used(scope(7)), Amounts::ZERO);
}

#[test]
fn limits_follow_the_machine_and_the_operator_may_lower_them() {
    let gib = 1 << 30;
    let machine = Machine {
        memory_bytes: 8 * gib,
        cpus: 4,
        disk_free_bytes: 100 * gib,
        disk_bytes: 500 * gib,
        descriptors: 1024,
    };
    let limits = Limits::for_machine(machine, Overrides::default());
    assert_eq!(limits.system.memory_bytes, 4 * gib);
    assert_eq!(limits.system.slots, 4);
    assert_eq!(limits.system.disk_bytes, 99 * gib, "the margin stays free");
    let lowered = Overrides { memory_bytes: Some(gib), disk_bytes: Some(gib), ..Overrides::default() };
    let limits = Limits::for_machine(machine, lowered);
    assert_eq!((limits.system.memory_bytes, limits.system.disk_bytes), (gib, gib));
    let empty = Limits::for_machine(Machine::default(), Overrides::default());
    assert_eq!((empty.system.memory_bytes, empty.system.disk_bytes), (0, 0));
}

#[derive(Clone, Debug)]
enum Act {
    Reserve { scope: usize, memory: u64, disk: u64 },
    Release { which: usize },
    Open { scope: usize, limit: u64 },
    Close { which: usize },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..8usize, 0..60u64, 0..60u64).prop_map(|(scope, memory, disk)| Act::Reserve { scope, memory, disk }),
        3 => any::<usize>().prop_map(|which| Act::Release { which }),
        1 => (0..8usize, 0..60u64).prop_map(|(scope, limit)| Act::Open { scope, limit }),
        1 => any::<usize>().prop_map(|which| Act::Close { which }),
    ]
}

proptest! {
    /// Goal: conservation. Method: a second, naive account keeps every reservation in a list; after each act no scope
    /// is over its limit, and at the end everything released leaves only the root, at zero.
    #[test]
    fn nothing_is_lost_or_made_whatever_the_order(acts in proptest::collection::vec(act(), 1..120)) {
        let mut limits = memory_limits(150, 100, 70);
        limits.system.disk_bytes = 120;
        limits.job.disk_bytes = 80;
        let mut tree = Tree::new(limits);
        let fixed = [
            Scope::System, Scope::Service(Service::Network), Scope::Protocol("/a/1"), peer(1), peer(2),
            Scope::Job(job(1)), Scope::Task(job(1), 1), Scope::Lender(PeerId([9; 32])),
        ];
        let mut held: Vec<(Scope, Amounts)> = Vec::new();
        let mut spans: Vec<SpanId> = Vec::new();
        let mut parents: BTreeMap<SpanId, Scope> = BTreeMap::new();
        for act in acts {
            match act {
                Act::Reserve { scope, memory, disk } => {
                    let scope = spans.get(scope).map_or(fixed[scope], |span| Scope::Span(*span));
                    let need = Amounts { disk_bytes: disk, ..Amounts::memory(memory) };
                    let before: Vec<_> = tree.scopes().collect();
                    match tree.reserve(scope, need) {
                        Ok(()) => held.push((scope, need)),
                        Err(_) => prop_assert_eq!(before, tree.scopes().collect::<Vec<_>>()),
                    }
                }
                Act::Release { which } if !held.is_empty() => {
                    let (scope, amounts) = held.swap_remove(which % held.len());
                    tree.release(scope, amounts);
                }
                Act::Open { scope, limit } => {
                    let parent = spans.get(scope).map_or(fixed[scope], |span| Scope::Span(*span));
                    let span = tree.open_span(parent, Amounts::memory(limit)).unwrap();
                    parents.insert(span, parent);
                    spans.push(span);
                }
                Act::Close { which } if !spans.is_empty() => {
                    let closed = spans.swap_remove(which % spans.len());
                    tree.close_span(closed);
                    // A span opened inside goes with it.
                    let inside = |mut scope: Scope| loop {
                        match scope {
                            Scope::Span(span) if span == closed => return true,
                            Scope::Span(span) => scope = parents[&span],
                            _ => return false,
                        }
                    };
                    spans.retain(|span| !inside(Scope::Span(*span)));
                    held.retain(|(scope, _)| !inside(*scope));
                }
                _ => {}
            }
            tree.assert_invariants();
            for (scope, used, limit) in tree.scopes() {
                prop_assert!(used.is_within(&limit), "{} is over its limit", scope);
            }
            let total = held.iter().fold(Amounts::ZERO, |sum, (_, amounts)| sum.saturating_add(*amounts));
            prop_assert_eq!(tree.used(Scope::System), total);
        }
        held.drain(..).for_each(|(scope, amounts)| tree.release(scope, amounts));
        spans.drain(..).for_each(|span| tree.close_span(span));
        prop_assert_eq!(tree.scopes().count(), 1);
        prop_assert_eq!(tree.used(Scope::System), Amounts::ZERO);
    }
}

fn lease(asker: u8, subject: Subject, nonce: u8, seconds: u64) -> Lease {
    Lease {
        asker: PeerId([asker; 32]),
        subject,
        requirement: Requirement::default(),
        nonce: Nonce([nonce; 16]),
        duration: Duration::from_secs(seconds),
        used: false,
        expires: None,
    }
}

fn holder(n: u8) -> Subject {
    Subject::Holder { job: job(n), writer: Writer::Quorum }
}

#[test]
fn leases_end_in_order_and_traffic_renews_them() {
    let mut leases = Leases::new();
    leases.grant(Millis(0), LeaseId([1; 16]), lease(1, holder(1), 1, 10)).unwrap();
    leases.grant(Millis(0), LeaseId([2; 16]), lease(1, holder(2), 2, 20)).unwrap();
    assert!(leases.touch(Millis(9_000), LeaseId([1; 16])));
    assert!(leases.expire(Millis(18_999)).is_empty());
    assert_eq!(leases.expire(Millis(20_000)).iter().map(|(id, _)| id.0[0]).collect::<Vec<_>>(), [1, 2]);
    assert!(leases.is_empty() && leases.held_by(PeerId([1; 32])) == 0);
    assert!(!leases.touch(Millis(20_000), LeaseId([1; 16])));
}

#[test]
fn renewing_never_shortens_and_never_exceeds_the_longest() {
    let mut leases = Leases::new();
    leases.grant(Millis(0), LeaseId([1; 16]), lease(1, holder(1), 1, 100)).unwrap();
    leases.renew(Millis(0), LeaseId([1; 16]), Duration::from_secs(1));
    assert_eq!(leases.next_end(), Some(Millis(0).plus(UNUSED_LEASE_MAX)));
    leases.renew(Millis(0), LeaseId([1; 16]), Duration::MAX);
    assert_eq!(leases.next_end(), Some(Millis(0).plus(LEASE_DURATION_MAX)));
}

#[test]
fn a_converted_lease_lasts_until_it_is_ended() {
    let mut leases = Leases::new();
    leases.grant(Millis(0), LeaseId([1; 16]), lease(1, holder(1), 1, 10)).unwrap();
    assert!(leases.convert(LeaseId([1; 16])));
    assert!(leases.expire(Millis(u64::MAX)).is_empty());
    assert_eq!(leases.held_by(PeerId([1; 32])), 0, "a hold is not counted against its asker");
    assert!(leases.end(LeaseId([1; 16])).is_some() && leases.is_empty());
}

#[test]
fn the_same_question_is_told_from_a_second_promise_for_one_membership() {
    let mut leases = Leases::new();
    let member = Subject::Member { quorum: QuorumId([5; 16]) };
    let id = LeaseId([1; 16]);
    leases.grant(Millis(0), id, lease(1, member, 1, 10)).unwrap();
    let check = |asker, nonce| leases.check(PeerId([asker; 32]), member, Nonce([nonce; 16]));
    assert_eq!(check(1, 1), Err(GrantError::Repeated { lease: id }));
    assert_eq!(check(1, 2), Err(GrantError::Promised { lease: id }));
    assert_eq!(check(2, 1), Err(GrantError::Promised { lease: id }));
}

fn numbered(n: usize) -> LeaseId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&n.to_le_bytes());
    LeaseId(id)
}

fn grant_numbered(leases: &mut Leases, asker: u8, n: usize) -> Result<(), GrantError> {
    let lease = Lease { nonce: Nonce(numbered(n).0), ..lease(asker, holder(1), 0, 600) };
    leases.grant(Millis(0), numbered(n), lease)
}

/// Goal: what nobody uses ends soon, and neither one asker nor all of them fill a node with it.
#[test]
fn a_lease_that_nobody_uses_ends_soon_and_there_are_only_so_many() {
    let mut leases = Leases::new();
    for n in 0..UNUSED_PER_ASKER_MAX {
        grant_numbered(&mut leases, 1, n).unwrap();
    }
    let held = UNUSED_PER_ASKER_MAX;
    assert_eq!(grant_numbered(&mut leases, 1, held), Err(GrantError::TooMany { held }));
    // One that is used makes room for another, and lasts as long as it was asked for.
    leases.renew(Millis(0), numbered(0), Duration::from_secs(600));
    grant_numbered(&mut leases, 1, held).unwrap();
    let mut n = held + 1;
    while leases.len() <= UNUSED_MAX {
        grant_numbered(&mut leases, (n / UNUSED_PER_ASKER_MAX) as u8 + 1, n).unwrap();
        n += 1;
    }
    assert_eq!(grant_numbered(&mut leases, 200, n), Err(GrantError::Crowded { unused: UNUSED_MAX }));
    assert_eq!(leases.expire(Millis(0).plus(UNUSED_LEASE_MAX)).len(), UNUSED_MAX);
    assert!(leases.get(numbered(0)).is_some() && leases.len() == 1);
    assert_eq!(leases.held_by(PeerId([1; 32])), 1);
    grant_numbered(&mut leases, 200, n).unwrap();
}

/// Goal: leases that can end take a share of the disk per asker, and no more; a hold is not counted, and a lease that
/// takes another's place is not counted twice.
#[test]
fn the_disk_of_one_askers_leases_is_a_share() {
    let mut leases = Leases::new();
    let column = |asker, n, disk_bytes| Lease {
        requirement: Capacity::disk(disk_bytes).into(),
        ..lease(asker, holder(1), n, 10)
    };
    let share = 1_000 / 100 * ASKER_DISK_PERCENT;
    let id = LeaseId([1; 16]);
    leases.grant(Millis(0), id, column(1, 1, share)).unwrap();
    let refused = leases.check_disk(&column(1, 2, 1), None, 1_000).unwrap_err();
    assert!(matches!(refused, Refusal::Resources { needed: 1, available: 0, limit, .. } if limit == share));
    assert_eq!(leases.check_disk(&column(1, 2, 0), None, 1_000), Ok(()));
    assert_eq!(leases.check_disk(&column(2, 2, share), None, 1_000), Ok(()));
    assert_eq!(leases.check_disk(&column(1, 2, share), Some(id), 1_000), Ok(()));
    leases.convert(id);
    assert_eq!(leases.check_disk(&column(1, 2, share), None, 1_000), Ok(()));
}

/// Goal: an asker does not choose what a member takes.
#[test]
fn a_member_takes_what_a_member_takes_whatever_was_asked_for() {
    let quorum = QuorumId([1; 16]);
    for subject in [Subject::Founding { nonce: Nonce([1; 16]) }, Subject::Member { quorum }] {
        for asked in [0, u64::MAX] {
            let requirement = Capacity { disk_bytes: asked, memory_bytes: asked, slots: 7 }.into();
            let need = Lease { requirement, ..lease(1, subject, 1, 10) }.need();
            assert_eq!((need.disk_bytes, need.memory_bytes, need.slots), (MEMBER_DISK_BYTES, MEMBER_MEMORY_BYTES, 0));
        }
    }
}

#[test]
fn one_asker_cannot_hold_more_leases_than_its_share() {
    let mut leases = Leases::new();
    for n in 0..LEASES_PER_ASKER_MAX {
        grant_numbered(&mut leases, 1, n).unwrap();
        leases.renew(Millis(0), numbered(n), Duration::from_secs(10));
    }
    let one_more = lease(1, holder(2), 255, 10);
    let held = LEASES_PER_ASKER_MAX;
    assert_eq!(leases.grant(Millis(0), LeaseId([255; 16]), one_more), Err(GrantError::TooMany { held }));
    assert_eq!(leases.grant(Millis(0), LeaseId([255; 16]), lease(2, holder(2), 255, 10)), Ok(()));
}

/// Goal: whatever is leased, frames of consensus find memory.
#[test]
fn leases_leave_memory_to_the_network() {
    let memory_bytes = 1_000_000;
    let machine = Machine { memory_bytes, cpus: 4, disk_free_bytes: 1 << 40, disk_bytes: 1 << 40, descriptors: 1024 };
    let mut tree = Tree::new(Limits::for_machine(machine, Overrides::default()));
    for service in [Service::Jobs, Service::Quorums] {
        let all = tree.free(Scope::Service(service)).memory_bytes;
        tree.reserve(Scope::Service(service), Amounts::memory(all)).unwrap();
    }
    assert!(tree.free(Scope::Service(Service::Network)).memory_bytes >= memory_bytes / 2 / 5);
}
