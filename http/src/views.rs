//! Conversions of a node's records into the JSON of the API.

mod batch;
mod trigger;

use std::time::Duration;

use quorate_api::{
    Claim, ColumnHolder, ColumnProgress, EventInfo, EventKind, JobInfo, NodeRole, ObjectColumn, ObjectInfo, OwedRepair,
    PeerInfo, PeerReason, PutInfo, PutPhaseInfo, PutProgressInfo, QuorumDetail, QuorumInfo, RemovalInfo, SpeakerInfo,
    StoreInfo, Unreachable,
};
use quorate_protocols::approval::Grant;
use quorate_protocols::directory::QuorumAdvert;
use quorate_protocols::ids::{JobId, MemberId, Millis, ObjectId, PeerId, PieceIndex, QuorumId};
use quorate_protocols::job::{ColumnRecord, ColumnState, JobRecord, StoreRun, StoreSpec};
use quorate_protocols::quorum::request::{ObjectView, QuorumView};
use quorate_protocols::quorum::{self, Event};

use quorate_node::compose::NodeEvent;
use quorate_node::directory::KnownPeer;
use quorate_node::objects::{ObjectEvent, PutOutcome, PutPhase, PutProgress};
use quorate_node::quorums::Speaker;
use quorate_node::raft::HostEvent;
use quorate_node::seams::PeerView;

pub use batch::{output_info, plan_peer, resources, steps, task_info, task_receipts};
pub use trigger::{fire_info, next_info};

/// The serialized name of a plain enum value.
fn word(value: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).ok();
    value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn peers(members: &[MemberId]) -> Vec<PeerId> {
    members.iter().map(|member| member.peer).collect()
}

pub fn peer_info(peer: PeerId, seen: Option<&PeerView>, known: Option<&KnownPeer>) -> PeerInfo {
    let advert = known.map(|known| &known.advert);
    PeerInfo {
        peer,
        name: advert.map(|advert| advert.name.clone()).filter(|name| !name.is_empty()),
        addresses: seen.map(|seen| seen.addresses.clone()).unwrap_or_default(),
        connected: seen.is_some_and(|seen| seen.connected),
        suspected: false,
        rtt_ms: seen.and_then(|seen| seen.rtt).map(|rtt| (rtt.as_secs_f64() * 1e6).round() / 1e3),
        roles: advert.map(|advert| advert.roles.iter().copied().map(NodeRole::from).collect()).unwrap_or_default(),
        free: advert.map(|advert| advert.free.into()),
        quorums: advert.map_or(0, |advert| advert.quorums),
        last_seen_at: seen.and_then(|seen| seen.last_seen).max(known.map(|known| known.heard_at)),
        labels: advert.map(|advert| advert.labels.clone()).unwrap_or_default(),
        load_permille: advert.map_or(0, |advert| advert.load_permille),
        draining: advert.is_some_and(|advert| advert.draining),
    }
}

pub fn quorum_info(view: &QuorumView) -> QuorumInfo {
    QuorumInfo {
        quorum: view.quorum,
        primary: view.primary.map(|primary| primary.peer),
        members: peers(&view.voters),
        term: view.term,
        jobs: view.jobs_live,
        objects: view.objects,
        paused: view.paused.clone(),
        unreachable: None,
    }
}

/// A quorum that did not answer, as it was last announced.
pub fn announced(advert: &QuorumAdvert, why: String) -> QuorumInfo {
    QuorumInfo {
        quorum: advert.quorum,
        primary: None,
        members: peers(&advert.members),
        term: advert.term,
        jobs: advert.jobs,
        objects: advert.objects,
        unreachable: Some(Unreachable { quorum: advert.quorum, reason: why.clone(), stale: true, age_ms: None }),
        paused: Some(why),
    }
}

pub fn quorum_detail(view: &QuorumView) -> QuorumDetail {
    QuorumDetail {
        info: quorum_info(view),
        learners: peers(&view.learners),
        standbys: peers(&view.standbys),
        committed: view.committed,
        applied: view.applied,
        jobs_ended: view.jobs_ended,
        room: view.room,
        level: view.level,
        last_entry_at: view.time,
        clock_apart_ms: view.clock_apart_ms,
        clock_step: view.clock_step.map(|step| step.explain()),
        digest: view.digest.1,
        digest_index: view.digest.0,
        own: None,
    }
}

pub fn job_info(record: &JobRecord, primary: Option<PeerId>) -> JobInfo {
    JobInfo {
        job: record.job,
        kind: record.spec.kind().into(),
        state: record.state.into(),
        quorum: record.job.quorum,
        primary,
        created_at: record.created_at,
        changed_at: record.changed_at,
        revision: record.revision.0,
        finished_at: record.finished_at,
        why: record.reason.clone(),
        owner: record.owner,
        name: record.spec.name().map(str::to_owned),
        store: record.store().map(|(spec, run)| store_info(record.job.quorum, spec, run)),
        batch: record.batch().map(|(spec, run)| batch::batch_info(spec, run)),
        trigger: trigger::trigger_info(record),
        fired_by: trigger::fired_by(record),
    }
}

fn store_info(quorum: QuorumId, spec: &StoreSpec, run: &StoreRun) -> StoreInfo {
    let column = |(column, index): (&ColumnRecord, u8)| ColumnProgress {
        column: PieceIndex(index),
        holder: column.grant.map(|grant| grant.holder.peer),
        attempt: column.attempt,
        state: column.state.into(),
        stored: match column.state {
            // A sealed column is whole; its list may have been dropped.
            ColumnState::Sealed | ColumnState::Confirmed => run.segments.len() as u32,
            _ => column.stored.iter().filter(|stored| **stored).count() as u32,
        },
    };
    let failed = |(grant, reason): &(Grant, String)| PeerReason { peer: grant.holder.peer, reason: reason.clone() };
    StoreInfo {
        uploader: run.uploader,
        attempts: run.upload_attempt,
        bytes: spec.size,
        profile: spec.profile,
        object: run.manifest.map(|manifest| ObjectId { quorum, manifest }),
        degraded: run.degraded,
        segments: run.segments.len() as u32,
        columns: run.columns.iter().zip(0u8..).map(column).collect(),
        failed: run.failed.iter().map(failed).collect(),
    }
}

pub fn object_info(quorum: QuorumId, view: &ObjectView) -> ObjectInfo {
    let record = &view.record;
    let columns = record.columns.iter().zip(0u8..).map(|(column, index)| ObjectColumn {
        column: PieceIndex(index),
        holder: column.grant.map(|grant| grant.holder.peer),
        attempt: column.attempt,
        state: column.state.into(),
    });
    let oldest = record.claims.oldest();
    ObjectInfo {
        object: ObjectId { quorum, manifest: view.hash },
        bytes: record.size,
        name: oldest.and_then(|claim| claim.name.clone()),
        profile: record.profile,
        state: record.state.into(),
        job: record.job,
        quorum,
        owner: oldest.map(|claim| claim.owner).unwrap_or_default(),
        claims: record.claims.iter().cloned().map(Claim::from).collect(),
        created_at: record.created_at,
        degraded: !record.owed.is_empty(),
        columns: columns.collect(),
        owed: record
            .owed
            .iter()
            .map(|(column, reason)| OwedRepair { column: *column, reason: reason.clone() })
            .collect(),
    }
}

/// What became of a removal: the claims that were given up, and those that keep the object.
pub fn removal_info(object: ObjectId, removed: Vec<quorum::Claim>, kept: Vec<quorum::Claim>) -> RemovalInfo {
    let claims = |claims: Vec<quorum::Claim>| claims.into_iter().map(Claim::from).collect();
    RemovalInfo { object, gone: kept.is_empty(), removed: claims(removed), kept: claims(kept) }
}

pub fn put_phase(phase: PutPhase) -> PutPhaseInfo {
    match phase {
        PutPhase::Placing => PutPhaseInfo::Placing,
        PutPhase::Approval => PutPhaseInfo::Approval,
        PutPhase::Sending => PutPhaseInfo::Sending,
        PutPhase::Receipts => PutPhaseInfo::Receipts,
        PutPhase::Commit => PutPhaseInfo::Commit,
        PutPhase::Done => PutPhaseInfo::Done,
    }
}

pub fn put_progress(progress: &PutProgress) -> PutProgressInfo {
    PutProgressInfo {
        phase: put_phase(progress.phase),
        job: progress.job,
        bytes_read: progress.bytes_read,
        bytes_stored: progress.bytes_stored,
        pieces_sent: progress.pieces_sent,
        pieces_skipped: progress.pieces_skipped,
        columns_replaced: progress.columns_replaced,
        waiting: progress.waiting.clone(),
    }
}

/// `name`: as its operator calls the peer, if that was heard.
pub fn speaker_info(speaker: Speaker, name: Option<String>) -> SpeakerInfo {
    let Speaker { peer, voters } = speaker;
    SpeakerInfo { peer, name, voters }
}

/// `name`: of the member that acknowledged it.
pub fn put_info(outcome: PutOutcome, name: Option<String>, took: Duration) -> PutInfo {
    PutInfo {
        object: outcome.object,
        bytes: outcome.bytes,
        job: outcome.job,
        quorum: outcome.job.quorum,
        profile: outcome.profile,
        degraded: outcome.degraded,
        columns: outcome.columns.iter().map(|&(column, holder)| ColumnHolder { column, holder }).collect(),
        pieces_sent: outcome.progress.pieces_sent,
        pieces_skipped: outcome.progress.pieces_skipped,
        columns_replaced: outcome.progress.columns_replaced,
        took_ms: took.as_millis() as u64,
        existed: outcome.existed.into_iter().map(Claim::from).collect(),
        acknowledged_by: speaker_info(outcome.by, name),
    }
}

/// An event without a subject. Sequence and time are filled in when it is sent.
pub fn event(event: EventKind, message: impl Into<String>) -> EventInfo {
    EventInfo {
        sequence: 0,
        seen_at: Millis(0),
        event,
        message: message.into(),
        quorum: None,
        term: None,
        job: None,
        state: None,
        object: None,
        peer: None,
    }
}

/// What the node saw.
pub fn node_event(seen: &NodeEvent) -> EventInfo {
    match seen {
        NodeEvent::PeerConnected { peer } => {
            EventInfo { peer: Some(*peer), ..event(EventKind::PeerConnected, format!("{peer} is connected")) }
        }
        NodeEvent::PeerDisconnected { peer } => {
            EventInfo { peer: Some(*peer), ..event(EventKind::PeerDisconnected, format!("{peer} is gone")) }
        }
    }
}

/// What happened to objects through this node. A member's own quorum tells some of it, to everyone in it.
pub fn object_event(seen: &ObjectEvent, is_member: impl Fn(QuorumId) -> bool) -> Option<EventInfo> {
    let of_job = |kind, job: JobId, peer, message: String| EventInfo {
        quorum: Some(job.quorum),
        job: Some(job),
        peer,
        ..event(kind, message)
    };
    Some(match seen {
        ObjectEvent::Stored { job, .. } | ObjectEvent::ColumnReplaced { job, .. } if is_member(job.quorum) => {
            return None;
        }
        ObjectEvent::Stored { object, job, degraded, .. } => {
            let how = if *degraded { ", degraded" } else { "" };
            let text = format!("object {object} is stored{how}");
            EventInfo { object: Some(*object), ..of_job(EventKind::ObjectStored, *job, None, text) }
        }
        ObjectEvent::ColumnReplaced { job, column, holder } => {
            let text = format!("column {column} of job {job} goes to {holder}");
            of_job(EventKind::ColumnReassigned, *job, Some(*holder), text)
        }
        ObjectEvent::ColumnFailed { job, column, holder, reason } => {
            let text = format!("{holder} failed to hold column {column} of job {job}: {reason}");
            of_job(EventKind::ColumnFailed, *job, Some(*holder), text)
        }
        ObjectEvent::PieceFault { object, segment, column, holder, reason } => EventInfo {
            quorum: Some(object.quorum),
            object: Some(*object),
            peer: Some(*holder),
            ..event(
                EventKind::PieceFault,
                format!("{holder} did not give segment {segment} of column {column} of object {object}: {reason}"),
            )
        },
        ObjectEvent::PieceDamaged { hash, reason } => {
            event(EventKind::PieceDamaged, format!("piece {hash} on this node's disk is damaged: {reason}"))
        }
        ObjectEvent::ColumnCollected { job, column, reason } => {
            let text = format!("column {column} of job {job} was deleted here: {reason}");
            of_job(EventKind::ColumnCollected, *job, None, text)
        }
    })
}

/// What the quorum host saw. Applied entries are told one by one through [`applied`], and the comings and goings of
/// this node's own lead through the election that they follow.
pub fn host_event(host: &HostEvent) -> Option<EventInfo> {
    let of = |kind, quorum: QuorumId, message: String| EventInfo { quorum: Some(quorum), ..event(kind, message) };
    Some(match host {
        HostEvent::Leading { .. } | HostEvent::NotLeading { .. } | HostEvent::Applied { .. } => return None,
        HostEvent::Primary { quorum, term, primary } => EventInfo {
            term: Some(*term),
            peer: Some(primary.peer),
            ..of(
                EventKind::PrimaryElected,
                *quorum,
                format!("{} is primary of quorum {quorum} in term {term}", primary.peer),
            )
        },
        HostEvent::Joined { quorum } => of(EventKind::QuorumJoined, *quorum, format!("joined quorum {quorum}")),
        HostEvent::Left { quorum } => of(EventKind::QuorumLeft, *quorum, format!("left quorum {quorum}")),
        HostEvent::Paused { quorum, reason } => {
            of(EventKind::QuorumPaused, *quorum, format!("quorum {quorum} is paused: {reason}"))
        }
        HostEvent::Unpaused { quorum } => of(EventKind::QuorumUnpaused, *quorum, format!("quorum {quorum} goes on")),
    })
}

/// What an applied command changed; `None` for what only the primary's driver cares about.
pub fn applied(quorum: QuorumId, applied: &Event) -> Option<EventInfo> {
    let base = |kind, message: String| EventInfo { quorum: Some(quorum), ..event(kind, message) };
    let of_job = |kind, job: JobId, message: String| EventInfo { job: Some(job), ..base(kind, message) };
    let of_object = |kind, manifest, message: String| {
        let object = ObjectId { quorum, manifest };
        EventInfo { object: Some(object), ..base(kind, message) }
    };
    Some(match applied {
        Event::JobChanged { job, state } => {
            let text = format!("job {job} is {state}");
            EventInfo { state: Some((*state).into()), ..of_job(EventKind::JobChanged, *job, text) }
        }
        Event::JobProgressed { job, segments } => {
            of_job(EventKind::JobProgressed, *job, format!("job {job} has {segments} segments"))
        }
        Event::ObjectStored { manifest, job, degraded } => {
            let how = if *degraded { ", degraded" } else { "" };
            let text = format!("object {} is stored{how}", ObjectId { quorum, manifest: *manifest });
            EventInfo { job: Some(*job), ..of_object(EventKind::ObjectStored, *manifest, text) }
        }
        Event::ObjectRemoved { manifest } => {
            let text = format!("object {} is removed", ObjectId { quorum, manifest: *manifest });
            of_object(EventKind::ObjectRemoved, *manifest, text)
        }
        Event::ColumnReassigned { job, column, from, to } => {
            let name = |grant: &Option<quorate_protocols::approval::Grant>| {
                grant.map_or("nobody".to_owned(), |grant| grant.holder.peer.to_string())
            };
            let text = format!("column {column} of job {job} goes from {} to {}", name(from), name(to));
            let peer = to.map(|grant| grant.holder.peer);
            EventInfo { peer, ..of_job(EventKind::ColumnReassigned, *job, text) }
        }
        Event::ColumnOwed { manifest, column, reason } => {
            of_object(EventKind::ColumnOwed, *manifest, format!("column {column} is owed a repair: {reason}"))
        }
        Event::ColumnRepaired { manifest, column } => {
            of_object(EventKind::ColumnRepaired, *manifest, format!("column {column} is whole again"))
        }
        Event::JobAdvanced { job, step, done, total } => of_job(
            EventKind::JobProgressed,
            *job,
            format!("step {step} of job {job}: {done} of {total} tasks are done"),
        ),
        Event::WorkerLost { worker, attempts } => {
            let text = format!("worker {worker} is lost with {attempts} attempts");
            EventInfo { peer: Some(*worker), ..base(EventKind::WorkerLost, text) }
        }
        Event::Fired { job, row } => trigger::fired(quorum, *job, row),
        Event::Assigned { .. }
        | Event::StopWanted { .. }
        | Event::RevealWanted { .. }
        | Event::HoldersExhausted { .. }
        | Event::DutiesChanged => return None,
    })
}
