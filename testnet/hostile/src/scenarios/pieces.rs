//! Columns of others: replaced, let go, and filled beyond what was reserved for them.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use quorate_protocols::approval::{ApprovalAnswer, ApprovalMessage, ApprovalRequest, Subject, Writer};
use quorate_protocols::capacity::{Capacity, Requirement};
use quorate_protocols::ids::{Attempt, JobId, LeaseId, Nonce, PeerId, PieceHash, PieceIndex, SegmentIndex};
use quorate_protocols::job::store::ColumnRecord;
use quorate_protocols::job::{JobSpec, StoreSpec};
use quorate_protocols::object::Profile;
use quorate_protocols::piece::message::{PieceAnswer, PieceMessage, RebuildPart, Slot};
use quorate_protocols::quorum::Command;
use quorate_protocols::quorum::object::ObjectRecord;
use quorate_protocols::quorum::request::{JobAnswer, JobMessage, Query, QueryAnswer};

use crate::arena::{Arena, Fault};
use crate::client::Client;

/// Bytes of a piece that the stranger sends under a lease of one byte.
const PIECE_BYTES: usize = 1 << 20;

/// Pieces under each small lease: far more than any of them reserves.
const PIECES: u32 = 64;

/// How long an honest quorum takes at most to win holders for a run of one byte.
const HOLDERS_MAX: Duration = Duration::from_secs(20);

/// What the record store and the logs of a node may grow by meanwhile.
const DISK_GROWTH_MAX: u64 = 16 << 20;

fn hash(bytes: &[u8]) -> PieceHash {
    PieceHash(*blake3::hash(bytes).as_bytes())
}

/// Bytes of the files below a folder.
pub fn size_of(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => size_of(&entry.path()),
        _ => entry.metadata().map_or(0, |metadata| metadata.len()),
    });
    sizes.sum()
}

async fn record_of(client: &Client, arena: &Arena) -> Option<ObjectRecord> {
    let object = arena.first_object().object;
    let query = Query::Object { manifest: object.manifest };
    let message = JobMessage::Query { quorum: object.quorum, query, stale: true };
    for peer in arena.peers() {
        if let Ok(JobAnswer::Answer(QueryAnswer::Object(view))) = client.job(peer, &message).await {
            return Some(view.record);
        }
    }
    None
}

/// Whether the holder did as it was told.
fn is_done(answer: &PieceAnswer) -> bool {
    matches!(answer, PieceAnswer::Stored | PieceAnswer::Sealed(_) | PieceAnswer::Rebuilt(_) | PieceAnswer::Acknowledged)
}

/// Learns what it can of an object by queries, and sends every message of the piece protocol that changes a column, at
/// attempts that are old, equal, the next and the last.
pub async fn destroy_object(arena: &mut Arena) -> Result<(), Fault> {
    let client = arena.stranger().await?;
    let (job, manifest) = (arena.first_object().job, arena.first_object().object.manifest);
    let columns: Vec<PeerId> = arena.first_object().columns.iter().map(|column| column.holder).collect();
    // Without an answer the stranger guesses: the attempt is the first, and the lease's name is not known.
    let record = record_of(&client, arena).await;
    let grants = record.iter().flat_map(|record| record.columns.iter().filter_map(|column| column.grant));
    let named: Vec<LeaseId> = grants.map(|grant| grant.lease).filter(|lease| *lease != LeaseId::default()).collect();
    arena.require(named.is_empty(), || format!("a query named leases to a stranger: {named:?}"));
    arena.note_text(if record.is_some() {
        "the stranger may read the object's record"
    } else {
        "no record for strangers"
    });
    let before: u64 =
        arena.testnet.indices().iter().map(|node| size_of(&arena.testnet.node_dir(*node).join("pieces"))).sum();
    let garbage = Bytes::from_static(b"sixteen bytes...");
    for (index, holder) in columns.into_iter().enumerate() {
        let column = PieceIndex(index as u8);
        let known = record.as_ref().and_then(|record| record.columns.get(index));
        let lease = known.and_then(|column| column.grant).map_or(LeaseId::default(), |grant| grant.lease);
        let present = known.map_or(1, |column| column.attempt.0);
        for attempt in [0, present, present.saturating_add(1), u32::MAX] {
            let slot = Slot { job, column, attempt: Attempt(attempt) };
            let part = RebuildPart {
                segment: SegmentIndex(0),
                hash: hash(&garbage),
                piece_bytes: garbage.len() as u32,
                sources: vec![(PieceIndex(0), hash(&garbage), client.peer())],
            };
            let profile = Profile::new(1, 0).ok_or("a profile")?;
            let messages = [
                PieceMessage::Put { slot, lease, segment: SegmentIndex(0), hash: hash(&garbage) },
                PieceMessage::Seal { slot, lease, pieces: vec![hash(&garbage)] },
                PieceMessage::Rebuild { slot, lease, profile, parts: vec![part] },
                PieceMessage::Confirm { slot, lease, manifest },
                PieceMessage::Release { slot },
            ];
            for message in messages {
                let payload = match message {
                    PieceMessage::Put { .. } => garbage.clone(),
                    _ => Bytes::new(),
                };
                // A broken stream or no answer is a refusal as well.
                let answer = client.piece(holder, &message, payload).await;
                let done = answer.as_ref().is_ok_and(is_done);
                arena.require(!done, || format!("a stranger's {message:?} was answered {answer:?}"));
            }
        }
    }
    let after: u64 =
        arena.testnet.indices().iter().map(|node| size_of(&arena.testnet.node_dir(*node).join("pieces"))).sum();
    arena.require(after >= before, || format!("pieces took {before} bytes and take {after}"));
    Ok(())
}

/// Sends pieces of a column until one is refused, and says how many bytes were stored.
async fn fill_column(arena: &mut Arena, client: &Client, holder: PeerId, slot: Slot, lease: LeaseId) -> u64 {
    let mut stored = 0;
    for segment in 0..PIECES {
        let mut piece = vec![0; PIECE_BYTES];
        arena.rng.fill(&mut piece);
        let message = PieceMessage::Put { slot, lease, segment: SegmentIndex(segment), hash: hash(&piece) };
        match client.piece(holder, &message, piece.into()).await {
            Ok(PieceAnswer::Stored) => stored += PIECE_BYTES as u64,
            Ok(PieceAnswer::Refused(_)) => break,
            _ => (),
        }
    }
    stored
}

/// Submits a run of the stranger's own, of one byte, to an honest quorum, and returns its columns once they have
/// holders: the quorum names an uploader the leases of its columns.
async fn submit_small_run(arena: &mut Arena, client: &Client) -> Result<Option<(JobId, Vec<ColumnRecord>)>, Fault> {
    let quorum = arena.quorum;
    let mut job = JobId { quorum, local: [0; 16] };
    arena.rng.fill(&mut job.local);
    let profile = Profile::new(1, 2).ok_or("a profile")?;
    let spec = JobSpec::store(StoreSpec { name: None, size: Some(1), profile });
    let submit = JobMessage::Propose { quorum, command: Command::submit(client.key(), job, spec) };
    let query = JobMessage::Query { quorum, query: Query::Job { job }, stale: true };
    let peers = arena.peers();
    for peer in &peers {
        // Those that are no primary say so.
        let _ = client.job(*peer, &submit).await;
    }
    let won = Arena::wait(HOLDERS_MAX, || async {
        for peer in &peers {
            if let Ok(JobAnswer::Answer(QueryAnswer::Job(record))) = client.job(*peer, &query).await
                && let Some((_, run)) = record.store()
                && run.open_columns() == 0
            {
                return Some(run.columns.clone());
            }
        }
        None
    });
    Ok(won.await.map(|columns| (job, columns)))
}

/// Asks for leases of one byte and of one MiB, and has an honest quorum win some for a run of one byte; stores a
/// hundred times as much under each, and has another identity, which knows the leases, send pieces as well.
pub async fn fill_small_leases(arena: &mut Arena) -> Result<(), Fault> {
    let client = arena.stranger().await?;
    let mut stored: u64 = 0;
    let before: Vec<u64> = arena.testnet.indices().iter().map(|node| size_of(&arena.testnet.node_dir(*node))).collect();
    let mut reserved: u64 = 0;
    for peer in arena.peers() {
        for disk_bytes in [1, PIECE_BYTES as u64] {
            let mut job = JobId { quorum: arena.quorum, local: [0; 16] };
            arena.rng.fill(&mut job.local);
            let mut nonce = Nonce::default();
            arena.rng.fill(&mut nonce.0);
            let request = ApprovalRequest {
                // The writer is the stranger itself, so that the bytes alone are against it.
                subject: Subject::Holder { job, writer: Writer::Uploader(client.peer()) },
                requirement: Requirement::from(Capacity { disk_bytes, memory_bytes: 0, slots: 0 }),
                nonce,
                duration: Duration::from_secs(60),
            };
            // An approver that asks for more than a stranger has is a defence as well.
            let Ok(ApprovalAnswer::Granted(approval)) = client.approval(peer, &ApprovalMessage::Ask(request)).await
            else {
                continue;
            };
            reserved += disk_bytes;
            let slot = Slot { job, column: PieceIndex(0), attempt: Attempt(1) };
            stored += fill_column(arena, &client, peer, slot, approval.statement.lease).await;
        }
    }
    let accomplice = arena.stranger().await?;
    match submit_small_run(arena, &client).await? {
        Some((job, columns)) => {
            for (index, record) in columns.iter().enumerate() {
                let Some(grant) = record.grant else { continue };
                let slot = Slot { job, column: PieceIndex(index as u8), attempt: record.attempt };
                let (holder, lease) = (grant.holder.peer, grant.lease);
                reserved += 1;
                let foreign = fill_column(arena, &accomplice, holder, slot, lease).await;
                arena.require(foreign == 0, || format!("{foreign} bytes came from a peer that knows a lease"));
                stored += fill_column(arena, &client, holder, slot, lease).await;
            }
        }
        None => arena.note_text("the stranger's own run won no holders"),
    }
    arena.require(stored <= reserved, || format!("{stored} bytes were stored under leases of {reserved}"));
    for (node, before) in arena.testnet.indices().into_iter().zip(before) {
        let after = size_of(&arena.testnet.node_dir(node));
        let grown = after.saturating_sub(before);
        arena.require(grown <= DISK_GROWTH_MAX, || format!("node {node} took {grown} bytes of disk"));
    }
    Ok(())
}
