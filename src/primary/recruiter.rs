//! The recruiter: wins workers for tasks that wait, and gives back those that nothing waits for.
//!
//! A worker is won for what it has room for, peer by peer, and not in a round: one more worker is as good as another,
//! and the first that says yes is put to work at once. This node is asked first and members next, because what is near
//! costs the least to talk to; then whoever the directory ranks best; then, when nobody fits at all, volunteers.
//!
//! A lease takes what tasks of the sort that waits could use: at most half of what the peer has left while little is
//! wanted, all of it when more is. It can grow: a peer that works for the quorum already is asked again, for what it
//! has and for more. An idle worker is kept for a while (`DriverSettings::worker_idle`), so that a stream of small jobs
//! finds it there.

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::{FuturesUnordered, StreamExt};
use quorate_protocols::approval::Subject;
use quorate_protocols::approval::limits::VOLUNTEERS_WAIT;
use quorate_protocols::capacity::Requirement;
use quorate_protocols::directory::misfit;
use quorate_protocols::engine::Engine;
use quorate_protocols::ids::{JobId, LeaseId, PeerId};
use quorate_protocols::quorum::{Command, TaskCommand};
use quorate_protocols::task::limits::WORKER_SLOTS_MAX;
use quorate_protocols::task::record::WorkerRecord;
use tokio::time::{Instant, timeout_at};

use super::context::{Context, DutyError};
use super::holders::grant_of;
use super::worker_sessions::WorkerSessions;
use crate::directory::KnownPeer;

/// Peers asked at once.
const ASKED_AT_ONCE: usize = 8;

/// Peers asked in one go; the next go asks others.
const ASKED_MAX: usize = 64;

/// Peers of which the user is told what they lack.
const REFUSALS_TOLD: usize = 8;

/// Tasks that wait for workers, all of one sort.
pub(super) struct Wanted {
    pub job: JobId,
    pub engine: Engine,
    /// What one task needs.
    pub resources: Requirement,
    pub slots: u32,
}

/// A peer to ask, and for how much.
struct Offer {
    peer: PeerId,
    requirement: Requirement,
    /// Slots that it would add.
    more: u32,
    engines: Vec<Engine>,
    labels: BTreeMap<String, String>,
}

pub(super) async fn find(context: &Context, worker_sessions: &WorkerSessions, wanted: Wanted) -> Result<(), DutyError> {
    let env = &context.env;
    let mut workers = BTreeMap::new();
    let mut avoided = BTreeSet::new();
    context.quorum.with_state(&mut |state| {
        workers.clone_from(state.tasks().workers());
        avoided = state.avoided_for(wanted.job);
    });
    let one = requirement(&wanted, 1, None);
    let known: BTreeMap<PeerId, KnownPeer> =
        env.knowledge.peers().into_iter().map(|known| (known.peer, known)).collect();
    let mut ranked: Vec<PeerId> = env.knowledge.candidates(wanted.engine.into(), &one);
    let (this_node, view) = (env.net.local_peer(), context.quorum.view());
    let is_member = |peer: &PeerId| view.voters.iter().any(|member| member.peer == *peer);
    // An absent peer would hold up the others' answer for nothing; when it is back it is a candidate again.
    ranked.retain(|peer| !avoided.contains(peer) && !env.net.is_absent(*peer));
    ranked.sort_by_key(|peer| (*peer != this_node, !is_member(peer)));
    let offers = ranked.iter().take(ASKED_MAX).filter_map(|peer| {
        let known = known.get(peer).filter(|known| misfit(&known.advert, wanted.engine.into(), &one).is_none())?;
        offer(&wanted, known, workers.get(peer))
    });
    let mut refusals = Vec::new();
    let mut won = ask_all(context, worker_sessions, &wanted, offers.collect(), &mut refusals).await;
    // Peers that this node has not heard of may hear an announcement. Not while others are at work on it already.
    let served = workers.values().any(|worker| worker.unmet(wanted.engine, &wanted.resources).is_none());
    if won == 0 && !served {
        let until = Instant::now() + VOLUNTEERS_WAIT;
        let subject = Subject::Worker { quorum: context.quorum.id() };
        let mut volunteers = env.knowledge.ask_for_volunteers(subject, wanted.engine.into(), one.clone());
        while let Ok(Some(peer)) = timeout_at(until, volunteers.recv()).await
            && won == 0
        {
            if avoided.contains(&peer) || ranked.contains(&peer) || workers.contains_key(&peer) {
                continue;
            }
            let offer = Offer {
                peer,
                requirement: one.clone(),
                more: one.capacity.slots,
                engines: vec![wanted.engine],
                labels: wanted.resources.labels.clone(),
            };
            won = ask_all(context, worker_sessions, &wanted, vec![offer], &mut refusals).await;
        }
    }
    if won > 0 {
        env.wait_reasons.clear_workers(context.quorum.id());
        return Ok(());
    }
    let asked: BTreeSet<PeerId> = refusals.iter().map(|(peer, _)| *peer).collect();
    let unasked = unasked(context, &wanted, &one, &known, &avoided);
    refusals.extend(unasked.into_iter().filter(|(peer, _)| !asked.contains(peer)));
    let reason = lacking(&wanted, workers.len(), &refusals);
    env.wait_reasons.set_workers(context.quorum.id(), reason.clone());
    Err(DutyError::Other(reason))
}

/// What a lease for `tasks` tasks needs, on top of what the peer has for this quorum already.
fn requirement(wanted: &Wanted, tasks: u32, has: Option<&WorkerRecord>) -> Requirement {
    let has = has.map(|has| has.capacity).unwrap_or_default();
    let Requirement { capacity, labels } = &wanted.resources;
    Requirement { capacity: capacity.times(tasks).plus(&has), labels: labels.clone() }
}

/// What to ask of a peer with room for at least one task.
fn offer(wanted: &Wanted, known: &KnownPeer, has: Option<&WorkerRecord>) -> Option<Offer> {
    let slots = wanted.resources.capacity.slots.max(1);
    let leasable = WORKER_SLOTS_MAX.saturating_sub(has.map_or(0, |has| has.capacity.slots)) / slots;
    let room = known.advert.free.fits(&wanted.resources.capacity).min(leasable.into());
    // Half of what is left stays for others, unless more than that is wanted.
    let tasks = u64::from(wanted.slots.div_ceil(slots)).max(room.div_ceil(2)).min(room) as u32;
    if tasks == 0 {
        return None;
    }
    let advert = &known.advert;
    Some(Offer {
        peer: known.peer,
        requirement: requirement(wanted, tasks, has),
        more: tasks * slots,
        engines: advert.roles.iter().filter_map(|role| role.engine()).collect(),
        labels: advert.labels.clone(),
    })
}

/// Asks until as many slots were won as are wanted, in order but several at once. Returns how many were.
async fn ask_all(
    context: &Context,
    worker_sessions: &WorkerSessions,
    wanted: &Wanted,
    offers: Vec<Offer>,
    refusals: &mut Vec<(PeerId, String)>,
) -> u32 {
    let mut offers = offers.into_iter();
    let mut asking = FuturesUnordered::new();
    let (mut won, mut hoped) = (0u32, 0u32);
    loop {
        while hoped < wanted.slots
            && asking.len() < ASKED_AT_ONCE
            && let Some(offer) = offers.next()
        {
            hoped = hoped.saturating_add(offer.more);
            asking.push(async move { (offer.peer, offer.more, win(context, worker_sessions, offer).await) });
        }
        match asking.next().await {
            None => return won,
            Some((_, more, Ok(()))) => won = won.saturating_add(more),
            Some((peer, more, Err(reason))) => {
                hoped = hoped.saturating_sub(more);
                refusals.push((peer, reason));
            }
        }
    }
}

async fn win(context: &Context, worker_sessions: &WorkerSessions, offer: Offer) -> Result<(), String> {
    let env = &context.env;
    let Offer { peer, requirement, engines, labels, .. } = offer;
    let subject = Subject::Worker { quorum: context.quorum.id() };
    let lease_time = env.settings.worker_lease;
    let approval = env.approvals.win(peer, subject, requirement.clone(), lease_time).await?;
    let worker = WorkerRecord { grant: grant_of(&approval), capacity: requirement.capacity, engines, labels };
    let lease = worker.grant.lease;
    if let Err(error) = context.propose(Command::Task(TaskCommand::SetWorker { worker })).await {
        // Unknown is not no: a lease that the quorum counts on must not be given back, and one that it does not ends.
        if matches!(error, DutyError::Rejected(_)) {
            env.approvals.give_back(peer, lease).await;
        }
        return Err(error.to_string());
    }
    worker_sessions.touch(peer);
    // It may be given its first task later than an unused lease lasts. Best effort, beside its work.
    let approvals = env.approvals.clone();
    env.seams.tasks.spawn(async move { approvals.renew(peer, lease, lease_time).await });
    Ok(())
}

/// The worker has had nothing to do for a while: its lease goes back, unless it was given something meanwhile.
pub(super) async fn release(context: &Context, worker: PeerId, lease: LeaseId) -> Result<(), DutyError> {
    context.propose(Command::Task(TaskCommand::ReleaseWorker { peer: worker, lease })).await?;
    // Best effort: the lease ends by itself.
    context.env.approvals.give_back(worker, lease).await;
    Ok(())
}

/// Why the peers that were not asked were not. Of those with a reason of their own; who was asked has given its own.
fn unasked(
    context: &Context,
    wanted: &Wanted,
    one: &Requirement,
    known: &BTreeMap<PeerId, KnownPeer>,
    avoided: &BTreeSet<PeerId>,
) -> Vec<(PeerId, String)> {
    let reason = |known: &KnownPeer| match (known.peer, context.env.knowledge.check_trust(known.peer)) {
        (_, Err(distrust)) => Some(format!("it is not trusted: {distrust}")),
        (peer, Ok(())) if context.env.net.is_absent(peer) => Some("it does not answer".to_owned()),
        (peer, Ok(())) if avoided.contains(&peer) => Some("it refused a task of this job a moment ago".to_owned()),
        (_, Ok(())) => misfit(&known.advert, wanted.engine.into(), one).map(|misfit| misfit.to_string()),
    };
    known.values().filter_map(|known| Some((known.peer, reason(known)?))).collect()
}

/// For the user: what is looked for, and what each peer lacks for it.
fn lacking(wanted: &Wanted, workers: usize, refusals: &[(PeerId, String)]) -> String {
    let Wanted { engine, resources, .. } = wanted;
    let mut text = format!("no further peer takes a {engine} task, which needs {resources}");
    match workers {
        0 => (),
        1 => text.push_str("; 1 worker has a lease from the quorum already"),
        workers => text.push_str(&format!("; {workers} workers have leases from the quorum already")),
    }
    for (peer, reason) in refusals.iter().take(REFUSALS_TOLD) {
        text.push_str(&format!("; {peer}: {reason}"));
    }
    match refusals.len().saturating_sub(REFUSALS_TOLD) {
        0 => text,
        more => text + &format!("; and {more} more"),
    }
}
