//! Reservations and leases against naive accounts of the same: nothing is lost, made, or given back twice.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_protocols::approval::limits::{LEASE_DURATION_MAX, UNUSED_LEASE_MAX};
use quorate_protocols::approval::{Subject, Writer};
use quorate_protocols::capacity::Requirement;
use quorate_protocols::ids::{JobId, LeaseId, Millis, Nonce, PeerId, QuorumId};
use quorate_protocols::resources::{Amounts, Lease, Leases, Limits, Scope, Service, SpanId, Tree};

use super::Target;
use crate::script::{Step, steps};
use crate::trail::Trail;

pub fn tree_target() -> Target {
    Target::script("resource-tree", run_tree)
}

pub fn leases_target() -> Target {
    Target::script("leases", run_leases)
}

fn job(index: u8) -> JobId {
    JobId { quorum: QuorumId([1; 16]), local: [index; 16] }
}

fn amounts(step: Step<'_>) -> Amounts {
    match step.byte(4) {
        // What no machine has, and sums that overflow.
        250.. => Amounts { memory_bytes: step.wide(5), disk_bytes: u64::MAX - step.wide(6), ..Amounts::ZERO },
        _ => Amounts {
            memory_bytes: u64::from(step.byte(5) % 64),
            disk_bytes: u64::from(step.byte(6) % 64),
            slots: u64::from(step.byte(7) % 2),
            ..Amounts::ZERO
        },
    }
}

fn run_tree(bytes: &[u8]) -> Trail {
    let mut limits = Limits::unlimited();
    limits.system = Amounts { memory_bytes: 150, disk_bytes: 120, slots: 9, ..Amounts::UNLIMITED };
    limits.services.insert(Service::Network, Amounts { memory_bytes: 100, ..Amounts::UNLIMITED });
    limits.peer.memory_bytes = 70;
    limits.job.disk_bytes = 80;
    let (mut tree, mut trail) = (Tree::new(limits), Trail::default());
    let fixed = [
        Scope::System,
        Scope::Service(Service::Network),
        Scope::Protocol("/a/1"),
        Scope::Peer("/a/1", PeerId([1; 32])),
        Scope::Peer("/a/1", PeerId([2; 32])),
        Scope::Job(job(1)),
        Scope::Task(job(1), 1),
        Scope::Task(job(1), 2),
        Scope::Lender(PeerId([9; 32])),
    ];
    let mut held: Vec<(Scope, Amounts)> = Vec::new();
    let mut spans: BTreeMap<SpanId, Scope> = BTreeMap::new();
    // Closed ones too: guards outlive their span.
    let mut opened: Vec<SpanId> = Vec::new();
    for step in steps(bytes) {
        let scope = match opened.get(step.below(2, opened.len() + 1)) {
            Some(span) if step.is_set(1, 0) => Scope::Span(*span),
            _ => step.pick(1, &fixed),
        };
        match step.below(0, 8) {
            0..=3 => {
                let (need, before) = (amounts(step), tree.scopes().collect::<Vec<_>>());
                let free = tree.free(scope);
                match tree.reserve(scope, need) {
                    Ok(()) => {
                        assert!(need.is_within(&free), "{scope} had {free:?} left and gave {need:?}");
                        held.push((scope, need));
                        trail.mark_variant("reserved", &scope);
                    }
                    Err(refused) => {
                        assert_eq!(before, tree.scopes().collect::<Vec<_>>(), "a refusal changed something");
                        trail.mark_words("refused", &refused.to_string());
                    }
                }
            }
            4 | 5 if !held.is_empty() => {
                let (scope, amounts) = held.swap_remove(step.below(2, held.len()));
                tree.release(scope, amounts);
            }
            6 => match tree.open_span(scope, amounts(step)) {
                Ok(span) => {
                    spans.insert(span, scope);
                    opened.push(span);
                }
                Err(refused) => trail.mark_words("not opened", &refused.to_string()),
            },
            7 if !opened.is_empty() => {
                let closed = opened[step.below(2, opened.len())];
                tree.close_span(closed);
                let inside = |mut scope: Scope| loop {
                    match scope {
                        Scope::Span(span) if span == closed => return true,
                        Scope::Span(span) => match spans.get(&span) {
                            Some(parent) => scope = *parent,
                            None => return false,
                        },
                        _ => return false,
                    }
                };
                // What a closed span held is given back with it; its guards then release into nothing.
                let gone: Vec<_> = held.extract_if(.., |(scope, _)| inside(*scope)).collect();
                let gone_spans: Vec<_> = spans.keys().copied().filter(|span| inside(Scope::Span(*span))).collect();
                spans.retain(|span, _| !gone_spans.contains(span));
                gone.into_iter().for_each(|(scope, amounts)| tree.release(scope, amounts));
                trail.mark(("closed", gone_spans.len()));
            }
            _ => {}
        }
        tree.assert_invariants();
        for (scope, used, limit) in tree.scopes() {
            assert!(used.is_within(&limit), "{scope} is over its limit");
        }
        let total = held.iter().fold(Amounts::ZERO, |sum, (_, amounts)| sum.saturating_add(*amounts));
        assert_eq!(tree.used(Scope::System), total, "what is counted is not what is held");
    }
    held.drain(..).for_each(|(scope, amounts)| tree.release(scope, amounts));
    opened.drain(..).for_each(|span| tree.close_span(span));
    assert_eq!(
        (tree.scopes().count(), tree.used(Scope::System)),
        (1, Amounts::ZERO),
        "not empty when all was released"
    );
    trail
}

fn run_leases(bytes: &[u8]) -> Trail {
    let (mut leases, mut trail, mut now) = (Leases::new(), Trail::default(), Millis(0));
    // Each with its end; `None` lasts.
    let mut known: BTreeMap<LeaseId, (PeerId, Duration, Option<Millis>)> = BTreeMap::new();
    let mut fresh = 0u32;
    for step in steps(bytes) {
        let asker = PeerId([step.byte(1) % 4; 32]);
        let existing = known.keys().copied().nth(step.below(2, known.len().max(1)));
        let (duration, id) = (Duration::from_millis(step.wide(5) >> 20), existing.unwrap_or(LeaseId([255; 16])));
        match step.below(0, 8) {
            0..=2 => {
                let mut name = [0; 16];
                name[..4].copy_from_slice(&fresh.to_le_bytes());
                fresh += 1;
                let subject = match step.is_set(3, 0) {
                    true => Subject::Member { quorum: QuorumId([step.byte(3) % 8; 16]) },
                    false => Subject::Holder { job: job(step.byte(3) % 8), writer: Writer::Uploader(asker) },
                };
                let (nonce, requirement) = (Nonce([step.byte(4) % 16; 16]), Requirement::default());
                let lease = Lease { asker, subject, requirement, nonce, duration, used: false, expires: None };
                let foreseen = leases.check(asker, subject, nonce);
                let granted = leases.grant(now, LeaseId(name), lease);
                assert_eq!(foreseen, granted);
                match granted {
                    Ok(()) => {
                        let duration = duration.min(LEASE_DURATION_MAX);
                        known.insert(LeaseId(name), (asker, duration, Some(now.plus(duration.min(UNUSED_LEASE_MAX)))));
                    }
                    Err(error) => trail.mark_words("refused", &error.to_string()),
                }
            }
            3 => {
                let renewed = leases.renew(now, id, duration);
                assert_eq!(renewed, existing.is_some());
                if let Some((_, _, Some(end))) = known.get_mut(&id) {
                    *end = (*end).max(now.plus(duration.min(LEASE_DURATION_MAX)));
                    trail.mark("renewed");
                }
            }
            4 => {
                assert_eq!(leases.touch(now, id), existing.is_some());
                if let Some((_, duration, Some(end))) = known.get_mut(&id) {
                    *end = (*end).max(now.plus(*duration));
                    trail.mark("touched");
                }
            }
            5 => {
                assert_eq!(leases.convert(id), existing.is_some());
                if let Some((_, _, end)) = known.get_mut(&id) {
                    trail.mark(("converted", end.take().is_some()));
                }
            }
            6 => {
                assert_eq!(leases.end(id).is_some(), known.remove(&id).is_some());
                trail.mark(("ended", existing.is_some()));
            }
            _ => {
                now = Millis(now.0.saturating_add(step.wide(1) >> 20));
                let mut due: Vec<_> = known
                    .iter()
                    .filter_map(|(id, (_, _, end))| Some(((*end)?, *id)))
                    .filter(|(end, _)| *end <= now)
                    .collect();
                due.sort_unstable();
                let ended: Vec<_> = leases.expire(now).into_iter().map(|(id, _)| id).collect();
                assert_eq!(ended, due.iter().map(|(_, id)| *id).collect::<Vec<_>>(), "others ended than were due");
                known.retain(|id, _| !ended.contains(id));
                trail.mark(("expired", ended.len().min(8)));
            }
        }
        assert!(
            leases.iter().map(|(id, lease)| (id, lease.expires)).eq(known.iter().map(|(id, (_, _, end))| (*id, *end)))
        );
        assert_eq!(leases.next_end(), known.values().filter_map(|(_, _, end)| *end).min());
        for asker in (0..4).map(|index| PeerId([index; 32])) {
            let counted = known.values().filter(|(by, _, end)| *by == asker && end.is_some()).count();
            assert_eq!(leases.held_by(asker), counted);
        }
    }
    trail
}
