//! Commands that a quorum must refuse, by the hundred MiB.

use std::time::Duration;

use bytes::Bytes;
use quorate_protocols::ids::{Attempt, Digest, JobId, StepIndex, TaskIndex};
use quorate_protocols::quorum::request::{JobAnswer, JobMessage};
use quorate_protocols::quorum::{Command, TaskCommand};
use quorate_protocols::task::record::{Output, Place, TaskAttempt, TaskId};

use super::pieces::size_of;
use crate::arena::{Arena, Fault};

/// Below the largest command, so that its size is no reason to refuse it.
const COMMAND_BYTES: usize = 256 << 10;
const COMMANDS: usize = 512;
const AT_ONCE: usize = 8;

/// What logs and snapshots of a member may take at the end.
const DISK_MAX: u64 = 96 << 20;

/// An honest commit takes twice as long at most, or this where that is longer.
const COMMIT_MAX_MS: f64 = 250.0;

/// Checkpoints of tasks that nobody has, from a stranger, to every member.
pub async fn useless(arena: &mut Arena) -> Result<(), Fault> {
    let client = arena.stranger().await?;
    let quorum = arena.quorum;
    let before = arena.commit(1, quorum, 50).await?;
    let sizes: Vec<u64> = arena.testnet.indices().iter().map(|node| size_of(&arena.testnet.node_dir(*node))).collect();
    let mut bytes = vec![0; COMMAND_BYTES];
    arena.rng.fill(&mut bytes);
    let bytes = Bytes::from(bytes);
    let digest = Digest(*blake3::hash(&bytes).as_bytes());
    let peers = arena.peers();
    let mut committed = 0;
    for round in (0..COMMANDS).step_by(AT_ONCE) {
        let asked = (0..AT_ONCE).map(|lane| {
            let mut local = [0; 16];
            local[..8].copy_from_slice(&((round + lane) as u64).to_le_bytes());
            let id = TaskId { job: JobId { quorum, local }, step: StepIndex(0), task: TaskIndex(0) };
            let checkpoint = Output { digest, bytes: bytes.len() as u64, place: Place::Record };
            let command = Command::Task(TaskCommand::SaveCheckpoint {
                task: TaskAttempt { id, attempt: Attempt(1) },
                checkpoint,
                bytes: Some(bytes.clone()),
            });
            let (client, peer) = (&client, peers[lane % peers.len()]);
            async move { client.job(peer, &JobMessage::Propose { quorum, command }).await }
        });
        for answer in futures::future::join_all(asked).await {
            committed += usize::from(matches!(answer, Ok(JobAnswer::Reply(Ok(_)))));
        }
    }
    arena.note_text(format!("{committed} of {COMMANDS} were answered with a reply"));
    let after = arena.commit(1, quorum, 50).await?;
    let bound = (2.0 * before.p99_ms).max(COMMIT_MAX_MS);
    arena.require(after.failed == 0 && after.p99_ms <= bound, || format!("commits took {after:?}, before {before:?}"));
    for (node, before) in arena.testnet.indices().into_iter().zip(sizes) {
        let grown = size_of(&arena.testnet.node_dir(node)).saturating_sub(before);
        arena.require(grown <= DISK_MAX, || format!("node {node} took {} MiB of disk", grown >> 20));
    }
    tokio::time::timeout(Duration::from_secs(20), arena.put(2)).await??;
    Ok(())
}
