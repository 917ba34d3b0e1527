//! Provider records and adverts by the ten thousand, of identities that are nobody.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use quorate_protocols::capacity::Capacity;
use quorate_protocols::directory::PeerAdvert;
use quorate_protocols::engine::NodeRole;
use quorate_protocols::ids::{BootId, Incarnation, PeerId};

use crate::arena::{Arena, Fault};
use crate::client::{Client, TOPIC_PEERS, kad};

const IDENTITIES: usize = 10;
const RECORDS_PER_IDENTITY: usize = 10_000;

/// Records in one write, so that the node's streams and not the client's memory bound the pace.
const BATCH: usize = 500;

/// Adverts under keys that are connected to nobody, and repeats under the identities' own.
const ADVERTS_PER_IDENTITY: usize = 200;

/// Records of each identity and of a few honest members that a node keeps.
const RECORDS_MAX: f64 = 64.0 * (IDENTITIES + 10) as f64;

/// A quorum is found by its providers, and formed, within this after the flood.
const FORMED_MAX: Duration = Duration::from_secs(5);

fn advert(number: u64, sequence: u64) -> PeerAdvert {
    let mut boot = [0; 16];
    boot[..8].copy_from_slice(&number.to_le_bytes());
    PeerAdvert {
        incarnation: Incarnation(number),
        boot: BootId(boot),
        boot_number: number,
        sequence,
        roles: NodeRole::ALL.to_vec(),
        name: format!("ghost-{number}"),
        labels: BTreeMap::new(),
        free: Capacity { disk_bytes: 1 << 50, memory_bytes: 1 << 45, slots: 10_000 },
        load_permille: 0,
        quorums: 0,
        draining: false,
        level: 1,
        admission: None,
    }
}

async fn flood_records(client: &Client, peers: &[PeerId], keys: Vec<[u8; 40]>, keeps_to_form: bool) {
    let address = ["/ip4/10.1.2.3/tcp/9", "/dns/victim.example/tcp/22"].map(|text| text.parse().expect("an address"));
    for (round, batch) in keys.chunks(BATCH).enumerate() {
        // Keys of the length of a quorum's id; and longer ones, for which a node shuts a peer out.
        let length = if keeps_to_form || round == 0 { 16 } else { 40 };
        let bytes: Vec<u8> =
            batch.iter().flat_map(|key| kad::add_provider(&key[..length], client.peer(), &address)).collect();
        for peer in peers {
            // A node that breaks the stream or shuts the peer out has defended itself.
            let _ = client.write_kad(*peer, &bytes).await;
        }
    }
}

/// Fills the hash table's store and the directory; then the nodes' own announcements must work, honest peers be known,
/// and a quorum be formed.
pub async fn flood(arena: &mut Arena) -> Result<(), Fault> {
    let peers = arena.peers();
    let mut clients = Vec::new();
    for _ in 0..IDENTITIES {
        clients.push(arena.stranger().await?);
    }
    let mut all_keys = Vec::new();
    for _ in 0..IDENTITIES {
        let mut keys = vec![[0; 40]; RECORDS_PER_IDENTITY / peers.len()];
        keys.iter_mut().for_each(|key| arena.rng.fill(key));
        all_keys.push(keys);
    }
    for (number, client) in clients.iter().enumerate() {
        for sequence in 0..ADVERTS_PER_IDENTITY as u64 {
            // Gossip takes no more once it is full, which is the node's own defence.
            let boot = number as u64 * 1_000_000 + sequence % 7;
            let _ = client.announce(TOPIC_PEERS, &advert(boot, sequence)).await;
        }
    }
    let floods = clients
        .iter()
        .zip(all_keys)
        .enumerate()
        .map(|(number, (client, keys))| flood_records(client, &peers, keys, number % 2 == 0));
    futures::future::join_all(floods).await;
    // A quorum that is formed now announces itself, and every node finds it.
    let began = Instant::now();
    arena.put(3).await?;
    let took = began.elapsed();
    arena.require(took <= FORMED_MAX, || format!("a put took {took:?} beside the flood"));
    for node in arena.testnet.indices() {
        let refused = arena.logged(node, "cannot be found as a provider");
        arena.require(refused == 0, || format!("node {node} cannot announce its own quorums"));
    }
    arena.testnet.restart(5).await?;
    let began = Instant::now();
    arena.testnet.wait_meshed(Duration::from_secs(20)).await?;
    arena.note_text(format!("a node that restarted was known to all after {:?}", began.elapsed()));
    let kept = "quorate_network_provider_records";
    for node in arena.testnet.indices() {
        let metrics = arena.api(node)?.text("/metrics").await?;
        let records: f64 = metrics
            .lines()
            .filter(|line| line.starts_with(kept))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum();
        arena.require(records <= RECORDS_MAX, || format!("node {node} keeps {records} provider records"));
    }
    Ok(())
}
