//! Settings of the swarm, and the bounds of everything that a remote can fill.

use std::time::Duration;

use libp2p::StreamProtocol;
use quorate_protocols::backoff::Backoff;
use quorate_protocols::directory::limits::ADVERT_BYTES_MAX;

use super::faults::NetFaults;
use crate::config::NetworkSection;
use crate::identity::NetworkSecret;
use crate::seams::Protocol;

/// What identify says of this node. A peer that says another is not of this network, or of a newer major version.
pub const IDENTIFY_VERSION: &str = "quorate/1";
pub const KAD_PROTOCOL: StreamProtocol = StreamProtocol::new("/quorate/kad/1");

/// Connections per peer: two nodes that dial each other at once may end up with two, and both work.
pub const CONNECTIONS_PER_PEER_MAX: u32 = 2;

/// Handshakes at once in one direction. A testnet of fifty starts within it.
pub const PENDING_CONNECTIONS_MAX: u32 = 128;

/// Streams of one connection whose protocol is not settled yet.
pub const NEGOTIATING_STREAMS_MAX: usize = 128;

/// A connection nobody uses stays this long. Being meshed is what makes a quorum quick, so: long.
pub const IDLE_CONNECTION_MAX: Duration = Duration::from_secs(24 * 3600);

pub const PING_INTERVAL: Duration = Duration::from_secs(5);
pub const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Pings lost in a row until the connection counts as dead: its host vanished without a word.
pub const PINGS_LOST_MAX: u32 = 3;

/// Signature, author, key, topic and sequence number around an announcement.
const GOSSIP_ENVELOPE_BYTES: usize = 1024;

/// Announcements that a node names in one frame to a peer that may lack them, and bytes of each name: its author in
/// letters, and a number.
pub const GOSSIP_NAMED_MAX: usize = 128;
const GOSSIP_NAME_BYTES: usize = 76;

/// The largest frame of gossip that an honest node sends.
const GOSSIP_FRAME_BYTES_MAX: usize = 10 * 1024;

const _: () = assert!(ADVERT_BYTES_MAX + GOSSIP_ENVELOPE_BYTES <= GOSSIP_FRAME_BYTES_MAX);
const _: () = assert!(GOSSIP_NAMED_MAX * GOSSIP_NAME_BYTES + GOSSIP_ENVELOPE_BYTES / 4 <= GOSSIP_FRAME_BYTES_MAX);

/// What gossipsub reads of a stream at once.
const GOSSIP_READ_BYTES: usize = 8 * 1024;

/// Bytes of a stream of gossip that were read and not taken apart yet. gossipsub measures these where its setting
/// speaks of a frame: beyond them the stream counts as broken, and after five such streams a connection has no gossip
/// at all any more. Behind a frame that is not whole yet lies what one more read adds, so announcements that arrive
/// together would end the stream of an honest peer, were this the largest frame and no more.
pub const GOSSIP_UNREAD_BYTES_MAX: usize = GOSSIP_FRAME_BYTES_MAX + GOSSIP_READ_BYTES;

pub const KAD_QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// Providers of a quorum repeat their word four times within this.
pub const PROVIDER_TTL: Duration = Duration::from_secs(24 * 3600);
/// Its members and standbys, with room for those that were.
pub const PROVIDERS_PER_QUORUM_MAX: usize = 16;
/// Records that one peer may have here. Few members are in more quorums, and those that are can be found through the
/// announcements of the quorums as well. With a share for each connection, all records take some MiB.
pub const PROVIDED_PER_PEER_MAX: usize = 64;
/// Lookups at once; the next is answered with nothing found.
pub const LOOKUPS_MAX: usize = 256;

/// Questions of this node under way or waiting, over all peers; the next fails as busy.
pub const OUTBOUND_MAX: usize = 4 * 1024;
/// Commands from handles to the actor. At least `OUTBOUND_MAX`, so that a full queue is a storm of other commands.
pub const COMMANDS_MAX: usize = 2 * OUTBOUND_MAX;

/// Questions waiting for the actor that deals with them; the next is answered as busy.
pub const fn inbound_max(protocol: Protocol) -> usize {
    match protocol {
        // Each may hold 16 MiB, so few: the asker's window is small too.
        Protocol::Piece => 32,
        Protocol::Raft => 512,
        // Small, and of a few peers together.
        Protocol::Liveness | Protocol::Job => 1024,
        Protocol::Approval | Protocol::Task => 256,
    }
}
pub const GOSSIP_QUEUE_MAX: usize = 1024;
pub const EVENT_QUEUE_MAX: usize = 4 * 1024;

/// Addresses remembered: peers, and addresses for each.
pub const BOOK_PEERS_MAX: usize = 1_000;
pub const BOOK_ADDRESSES_MAX: usize = 8;
pub const BOOK_EXPIRY: Duration = Duration::from_secs(30 * 24 * 3600);
/// The same of a peer that was never reached; and how long it must stay connected to count as reached. Only so many can
/// stay at once.
pub const BOOK_UNREACHED_EXPIRY: Duration = Duration::from_secs(3600);
pub const REACHED_AFTER: Duration = Duration::from_secs(600);
/// The book is written at most this often, and once at the end.
pub const BOOK_SAVE_INTERVAL: Duration = Duration::from_secs(10);

/// Up to this many peers, every node keeps a connection to every other.
pub const MESH_PEERS_MAX: usize = 50;
/// In a larger network, a node dials on its own until it has this many; the rest are dialled when needed.
pub const MESH_PEERS_TARGET: usize = 32;

/// Dials of peers that this node never met, at once and one more per pause, whoever names them: enough for a testnet of
/// fifty to mesh at once and for lookups in a large network, too slow to search a network for open ports.
pub const STRANGERS_MAX: u32 = 256;
pub const STRANGER_PAUSE: Duration = Duration::from_millis(100);

/// How often the actor looks for peers that are due a dial.
pub const DIAL_TICK: Duration = Duration::from_millis(100);
pub const REDIAL_MIN: Duration = Duration::from_millis(100);
pub const REDIAL_MAX: Duration = Duration::from_secs(60);
pub const REDIAL: Backoff = Backoff::new(REDIAL_MIN, REDIAL_MAX);
/// Looking around starts at this pace, slows to the other, and starts over when a new peer appears.
pub const DISCOVERY_MIN: Duration = Duration::from_millis(100);
pub const DISCOVERY: Backoff = Backoff::new(DISCOVERY_MIN, Duration::from_secs(120));

/// Misdeeds of one peer until it is shut out, and for how long; one is forgiven per `PENALTY_DECAY`.
pub const PENALTIES_MAX: u32 = 20;
pub const PENALTY_DECAY: Duration = Duration::from_secs(30);
pub const SHUT_OUT: Duration = Duration::from_secs(600);
/// Peers whose misdeeds are counted; beyond that the one with the fewest is forgotten.
pub const PENALISED_MAX: usize = 1_000;

const _: () = assert!(COMMANDS_MAX >= OUTBOUND_MAX);

/// What the network needs to know to start.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    pub secret: NetworkSecret,
    pub section: NetworkSection,
    /// Faults injected into this node's links: [`NetFaults::off`] unless the command line says that this is a test.
    pub faults: NetFaults,
}

impl NetworkConfig {
    pub fn new(section: &NetworkSection, secret: NetworkSecret, testing: bool) -> Self {
        Self {
            secret,
            section: section.clone(),
            faults: if testing { NetFaults::for_testing() } else { NetFaults::off() },
        }
    }
}
