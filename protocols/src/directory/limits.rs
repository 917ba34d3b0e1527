//! Sizes and times of announcements.

use std::time::Duration;

use crate::budget::Rates;

/// Largest announcement that is accepted or forwarded.
pub const ADVERT_BYTES_MAX: usize = 4 * 1024;

/// Unchanged facts are repeated this often, with up to a quarter of jitter.
pub const ADVERT_INTERVAL: Duration = Duration::from_secs(120);

/// Changed facts are announced at most this often.
pub const ADVERT_CHANGE_INTERVAL: Duration = Duration::from_secs(2);

/// A fact not repeated for this long is forgotten.
pub const ADVERT_EXPIRY: Duration = Duration::from_secs(600);

// A silent peer is probed for as long as it is remembered.
const _: () = assert!(ADVERT_EXPIRY.as_secs() == crate::liveness::presence::PROBE_FOR.as_secs());

// What counts as unheard of is forgotten by now, and had that long to announce itself again.
const _: () = assert!(ADVERT_EXPIRY.as_secs() == crate::admission::UNHEARD_MAX.as_secs());

// Two announcements in a row may be lost before a living peer is forgotten.
const _: () = assert!(ADVERT_EXPIRY.as_secs() > 3 * ADVERT_INTERVAL.as_secs());

/// Peers and quorums remembered; beyond that the one heard of longest ago is forgotten.
pub const PEERS_MAX: usize = 10_000;
pub const QUORUMS_MAX: usize = 50_000;

/// Labels a peer may carry, and the length of a key or value.
pub const LABELS_MAX: usize = 16;
pub const LABEL_BYTES_MAX: usize = 64;

/// Longest name of a node.
pub const NAME_BYTES_MAX: usize = 64;

/// A changed capacity is news when it differs from the announced one by more than this share, in thousandths.
pub const CHANGE_PERMILLE: u64 = 125;

/// How long after a new connection a node repeats what it announces: subscriptions travel first, and gossip meshes
/// form at heartbeats of about a second.
pub const REPEAT_AFTER_CONNECT: [Duration; 3] =
    [Duration::from_millis(300), Duration::from_millis(1_200), Duration::from_millis(3_000)];

/// Led quorums repeated after a new connection; the rest follow at their usual times.
pub const QUORUMS_REPEATED_MAX: usize = 64;

/// Jobs for which volunteers are sought at once; beyond that the oldest search ends.
pub const SEARCHES_MAX: usize = 256;

/// Volunteers passed on per search.
pub const VOLUNTEERS_MAX: usize = 256;

/// A search repeats its announcement once, after this.
pub const SEARCH_REPEAT: Duration = Duration::from_secs(1);

/// Offers that a node makes at once; further announcements are passed over.
pub const OFFERS_MAX: usize = 16;

/// Offers are spread over this long, so that a large network does not answer an announcement in one instant.
pub const OFFER_SPREAD: Duration = Duration::from_millis(100);

/// The same announcement is answered once within this time, and this many are remembered.
pub const OFFER_REPEAT: Duration = Duration::from_secs(3);
pub const OFFERS_REMEMBERED_MAX: usize = 1024;

/// In a network larger than this, a peer heard of for the first time waits for everybody's usual repeats: telling it
/// at once would cost as many messages as there are peers, for every peer that joins.
pub const GREETED_PEERS_MAX: usize = 64;

/// A peer that nobody here was connected to for this long is not chosen for anything, whatever it announces, and what
/// it announced is forgotten: a key that only signs announcements is free, a connection is not. Longer than any restart
/// takes, so that a peer that is away for a while is still known.
pub const REACHED_EXPIRY: Duration = Duration::from_secs(3600);

// ---- budgets ----

/// What a node announces a second, and at once; it says the rest later. With the interval of changes, so much is enough
/// for 128 quorums that it leads and that change all the time. At once it repeats all that it does for a newcomer.
pub const ANNOUNCER_RATES: Rates =
    Rates { count_per_second: 64, count_burst: 512, bytes_per_second: 64 * 1024, bytes_burst: 512 * 1024 };

const _: () = assert!((1 + QUORUMS_REPEATED_MAX) * REPEAT_AFTER_CONNECT.len() <= ANNOUNCER_RATES.count_burst as usize);

/// Announcements arrive this late at most: over a mesh that was just repaired, or at a node that was held up. A
/// connection that is silent for longer is closed.
pub const ANNOUNCEMENT_LATE_MAX: Duration = Duration::from_secs(30);

/// What a node takes of one author: twice what an author announces, and at once all that may arrive together because
/// it was late. So no honest author comes to the end of it, and one that sent more to this node itself misbehaved.
pub const AUTHOR_RATES: Rates =
    Rates { count_per_second: 128, count_burst: 4_096, bytes_per_second: 128 * 1024, bytes_burst: 4 * 1024 * 1024 };

const _: () = {
    let (made, taken) = (ANNOUNCER_RATES, AUTHOR_RATES);
    let late = ANNOUNCEMENT_LATE_MAX.as_secs();
    assert!(2 * made.count_per_second <= taken.count_per_second && 2 * made.bytes_per_second <= taken.bytes_per_second);
    assert!(made.count_burst + late * made.count_per_second <= taken.count_burst);
    assert!(made.bytes_burst + late * made.bytes_per_second <= taken.bytes_burst);
};

/// Authors that announce all they may at the same moment, in a network that an operator starts at once. A guess; most
/// announce one thing every two minutes.
const AUTHORS_AT_ONCE: u64 = 40;

/// What a node takes of one sender, whoever the authors are, for a key that signs announcements costs nothing: all
/// that so many authors announce, had they no other way. A full directory repeats itself at a fifth of it.
pub const SENDER_RATES: Rates = Rates {
    count_per_second: AUTHORS_AT_ONCE * ANNOUNCER_RATES.count_per_second,
    count_burst: AUTHORS_AT_ONCE * ANNOUNCER_RATES.count_burst,
    bytes_per_second: AUTHORS_AT_ONCE * ANNOUNCER_RATES.bytes_per_second,
    bytes_burst: AUTHORS_AT_ONCE * ANNOUNCER_RATES.bytes_burst,
};

const _: () =
    assert!(5 * (PEERS_MAX + QUORUMS_MAX) as u64 / ADVERT_INTERVAL.as_secs() <= SENDER_RATES.count_per_second);

/// Authors, and senders, whose announcements are counted. At some 100 bytes each.
pub const COUNTED_MAX: usize = 4_096;
