//! Room of others: asked for, promised, and never used.

use std::time::{Duration, Instant};

use quorate_api::ResourcesInfo;
use quorate_protocols::approval::limits::MEMBER_MEMORY_BYTES;
use quorate_protocols::approval::{ApprovalAnswer, ApprovalMessage, ApprovalRequest, Refusal, Subject, Writer};
use quorate_protocols::capacity::{Capacity, Requirement};
use quorate_protocols::ids::{JobId, Nonce, PeerId, QuorumId};

use crate::arena::{Arena, Fault};
use crate::client::Client;

/// The askers that come after the first.
const ASKERS: usize = 10;

/// What one asker may hold of a node's memory, of a hundred.
const SHARE_PERCENT: u64 = 10;

/// Asks of one kind until it is refused for another reason than its size.
const ASKS: usize = 40;

/// What an honest put may take beside it.
const PUT_MAX: Duration = Duration::from_secs(10);

fn subjects(arena: &mut Arena, nonce: Nonce, asker: PeerId) -> [Subject; 4] {
    let (mut quorum, mut job) = (QuorumId::default(), JobId::default());
    arena.rng.fill(&mut quorum.0);
    arena.rng.fill(&mut job.local);
    job.quorum = quorum;
    let holder = Subject::Holder { job, writer: Writer::Uploader(asker) };
    [Subject::Founding { nonce }, Subject::Member { quorum }, holder, Subject::Worker { quorum }]
}

/// Takes as much of a node as it gets: all that is said to be free, then half as much after each refusal. Returns the
/// memory that it holds.
async fn hoard(arena: &mut Arena, client: &Client, peer: PeerId) -> Result<u64, Fault> {
    let (mut held, mut memory_bytes, mut disk_bytes) = (0, 1 << 40, 1 << 44);
    for round in 0..ASKS {
        let mut nonce = Nonce::default();
        arena.rng.fill(&mut nonce.0);
        let subject = subjects(arena, nonce, client.peer())[round % 4];
        let requirement = Requirement::from(Capacity { disk_bytes, memory_bytes, slots: 0 });
        let request = ApprovalRequest { subject, requirement, nonce, duration: Duration::from_secs(3600) };
        match client.approval(peer, &ApprovalMessage::Ask(request)).await {
            // A member takes what a member takes, whatever was asked for.
            Ok(ApprovalAnswer::Granted(_)) => match subject {
                Subject::Founding { .. } | Subject::Member { .. } => held += MEMBER_MEMORY_BYTES,
                Subject::Holder { .. } | Subject::Worker { .. } => held += memory_bytes,
            },
            Ok(ApprovalAnswer::Refused(Refusal::Resources { available, .. })) if available < memory_bytes => {
                memory_bytes = available.max(1);
            }
            Ok(ApprovalAnswer::Refused(_)) => (memory_bytes, disk_bytes) = (memory_bytes / 2, disk_bytes / 2),
            _ => break,
        }
    }
    Ok(held)
}

async fn memory_limit(arena: &Arena, node: usize) -> Result<u64, Fault> {
    let resources: ResourcesInfo = arena.api(node)?.get("/v1/resources").await?;
    // The root of the tree of reservations comes first: the whole node.
    Ok(resources.scopes.first().ok_or("a node without resources")?.limit.memory_bytes)
}

/// One asker takes what it gets of every node and goes silent; then ten do. Honest work goes on, and a restart gives
/// everything back that was never used.
pub async fn take_everything(arena: &mut Arena) -> Result<(), Fault> {
    let peers = arena.peers();
    for round in 0..=ASKERS {
        let client = arena.stranger().await?;
        for (index, peer) in peers.iter().enumerate() {
            let held = hoard(arena, &client, *peer).await?;
            let share = memory_limit(arena, index + 1).await? / 100 * SHARE_PERCENT;
            arena.require(held <= share, || format!("asker {round} holds {held} bytes of node {}", index + 1));
        }
        if round == 0 {
            let began = Instant::now();
            let put = arena.put(1).await;
            arena.require(put.is_ok(), || format!("an honest put beside one asker failed: {put:?}"));
            arena.require(began.elapsed() <= PUT_MAX, || format!("an honest put took {:?}", began.elapsed()));
        }
    }
    for node in 1..=2 {
        let committed = arena.commit(node, arena.quorum, 20).await;
        let failed = committed.as_ref().map_or(20, |bench| bench.failed);
        arena.require(failed == 0, || format!("{failed} commands through node {node} failed: {committed:?}"));
    }
    arena.testnet.restart(1).await?;
    arena.testnet.wait_meshed(Duration::from_secs(20)).await?;
    Ok(())
}
