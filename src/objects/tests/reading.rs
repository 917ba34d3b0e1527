//! Gets.

use quorate_protocols::ids::ManifestHash;
use quorate_protocols::object::RangeFault;

use quorate_testkit::disk::Rot;

use super::*;
use crate::objects::ObjectEvent;

async fn stored(cluster: &Cluster, content: &Bytes) -> PutOutcome {
    let outcome = put(cluster, &cluster.nodes[0], PutRequest::default(), content).await.unwrap();
    cluster.settle().await;
    outcome
}

#[tokio::test(start_paused = true)]
async fn a_range_equals_the_same_slice_of_the_whole() {
    let cluster = Cluster::start(7).await;
    let size = SEGMENT_BYTES + 1_000_003;
    let content = content(size);
    let object = stored(&cluster, &content).await.object;
    let segment = SEGMENT_BYTES;
    let piece = segment / 4;
    let ranges = [
        (0, 1),
        (0, 0),
        (1, piece),
        (piece - 1, 2),
        (segment - 5, 10),
        (segment, 1_000_003),
        (segment + 999_999, 100),
        (size - 1, 1),
        (3 * piece + 7, piece + 11),
    ];
    for (start, length) in ranges {
        let expected = content.slice(start..(start + length).min(size));
        let range = Some((start as u64, Some(length as u64)));
        assert_eq!(get(&cluster, &cluster.nodes[6], object, range).await.unwrap(), expected, "{start}+{length}");
    }
    let tail = get(&cluster, &cluster.nodes[6], object, Some((segment as u64, None))).await.unwrap();
    assert_eq!(tail, content.slice(segment..));
    let past = get(&cluster, &cluster.nodes[6], object, Some((size as u64, None))).await;
    assert!(matches!(past, Err(GetError::Range(RangeFault::PastEnd { .. }))), "{past:?}");
}

#[tokio::test(start_paused = true)]
async fn any_two_columns_may_be_lost() {
    let cluster = Cluster::start(7).await;
    let content = content(200_000);
    let outcome = stored(&cluster, &content).await;
    let holders: Vec<_> = outcome.columns.iter().map(|(_, holder)| *holder).collect();
    for first in 0..holders.len() {
        for second in first + 1..holders.len() {
            for lost in [first, second] {
                cluster.world.manners.lock().insert(holders[lost], Manner::Dead);
            }
            assert_eq!(get(&cluster, &cluster.nodes[6], outcome.object, None).await.unwrap(), content);
            cluster.world.manners.lock().clear();
        }
    }
}

/// A piece that rotted on its holder's disk is not returned, and its holder is named.
#[tokio::test(start_paused = true)]
async fn a_flipped_byte_is_found_and_its_holder_named() {
    let cluster = Cluster::start(7).await;
    let content = content(200_000);
    let outcome = stored(&cluster, &content).await;
    let (_, holder) = outcome.columns[1];
    let disk = cluster.disk_of(holder);
    disk.rot(disk.pieces()[0], Rot::Flipped);
    let mut events = cluster.nodes[6].events();
    assert_eq!(get(&cluster, &cluster.nodes[6], outcome.object, None).await.unwrap(), content);
    let named = std::iter::from_fn(|| events.try_recv().ok())
        .any(|event| matches!(event, ObjectEvent::PieceFault { holder: named, .. } if named == holder));
    assert!(named, "the holder was not named");
    assert_eq!(*cluster.world.suspected.lock(), [(outcome.object, outcome.columns[1].0)]);
}

#[tokio::test(start_paused = true)]
async fn lying_and_stalling_holders_only_delay() {
    for manner in [Manner::Lying, Manner::Stalling, Manner::Refusing] {
        let cluster = Cluster::start(7).await;
        let content = content(300_000);
        let outcome = stored(&cluster, &content).await;
        for (_, holder) in &outcome.columns[1..3] {
            cluster.world.manners.lock().insert(*holder, manner);
        }
        let started = tokio::time::Instant::now();
        assert_eq!(get(&cluster, &cluster.nodes[6], outcome.object, None).await.unwrap(), content, "{manner:?}");
        // Hedged, not waited for.
        assert!(started.elapsed() < std::time::Duration::from_secs(9), "{manner:?} took {:?}", started.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn with_fewer_than_k_columns_the_error_says_why() {
    let cluster = Cluster::start(7).await;
    let content = content(300_000);
    let outcome = stored(&cluster, &content).await;
    for (_, holder) in &outcome.columns[..3] {
        cluster.world.manners.lock().insert(*holder, Manner::Dead);
    }
    // From a node that holds nothing of it.
    let failed = get(&cluster, &cluster.nodes[6], outcome.object, None).await;
    let Err(GetError::Unreadable { needed, found, faults, .. }) = failed else { panic!("{failed:?}") };
    assert_eq!((needed, found), (4, 3));
    assert!(faults.contains("nothing listens"), "{faults}");
    for (column, holder) in &outcome.columns[..3] {
        let told = faults.matches(&format!("column {}", column.0)).count();
        assert!(told == 1 && faults.contains(&holder.to_string()), "column {column} once, with its holder: {faults}");
    }
}

/// Goal: a get that cannot succeed fails before it has promised anything, whole or in part; one that can is not made to
/// read more than its first segment for that.
#[tokio::test(start_paused = true)]
async fn a_get_that_cannot_succeed_is_refused_before_its_first_byte() {
    let cluster = Cluster::start(7).await;
    let content = content(2 * SEGMENT_BYTES);
    let outcome = stored(&cluster, &content).await;
    let (object, reader) = (outcome.object, &cluster.nodes[6]);
    let lose = |holders: &[(quorate_protocols::ids::PieceIndex, quorate_protocols::ids::PeerId)]| {
        for (_, holder) in holders {
            cluster.world.manners.lock().insert(*holder, Manner::Dead);
        }
    };
    // The rest of what is under way is lost to it: that can only be found out on the way.
    let mut begun = cluster.tasks.scope(reader.get(object, None)).await.expect("all holders are there");
    let first = begun.bytes.next().await.expect("its first bytes are at hand").unwrap();
    assert_eq!(first, content.slice(..first.len()));
    lose(&outcome.columns[..3]);
    // Each needs the first column, or enough of the others.
    for range in [
        None,
        Some(ByteRange::Last(SEGMENT_BYTES as u64)),
        Some(ByteRange::From { start: SEGMENT_BYTES as u64 + 5, length: Some(1) }),
    ] {
        let refused = cluster.tasks.scope(reader.get(object, range)).await.map(|stream| stream.length);
        assert!(matches!(refused, Err(GetError::Unreadable { found: 3, needed: 4, .. })), "{range:?}: {refused:?}");
    }
    // A data piece that is there needs no others.
    let last = Some(ByteRange::Last(1));
    assert_eq!(get_part(&cluster, reader, object, last).await.unwrap(), content.slice(content.len() - 1..));
}

/// Goal: a reader whose node stops has not read an empty object.
#[tokio::test(start_paused = true)]
async fn a_get_that_a_stop_of_its_node_cuts_short_is_an_error() {
    let cluster = Cluster::start(7).await;
    let content = content(300_000);
    let outcome = stored(&cluster, &content).await;
    for (_, holder) in &outcome.columns {
        cluster.world.manners.lock().insert(*holder, Manner::Stalling);
    }
    let stop = async {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        cluster.tasks.shutdown_token().cancel();
    };
    let (cut, ()) = tokio::join!(get(&cluster, &cluster.nodes[6], outcome.object, None), stop);
    assert!(matches!(cut, Err(GetError::Interrupted { read: 0, length: 300_000, .. })), "{cut:?}");
}

/// Goal: every range of an object of every size is the part that RFC 9110 (14.1.2) names, or cannot be satisfied.
#[tokio::test(start_paused = true)]
async fn a_range_is_the_bytes_that_there_are_or_cannot_be_satisfied() {
    let cluster = Cluster::start(3).await;
    let (empty, ten) = (content(0), content(10));
    let objects = [stored(&cluster, &empty).await.object, stored(&cluster, &ten).await.object];
    let from = |start, length| ByteRange::From { start, length };
    let huge = u64::MAX;
    let beyond = [
        (0, from(0, Some(1))),
        (0, from(0, None)),
        (0, from(0, Some(huge))),
        (0, from(7, Some(3))),
        (0, ByteRange::Last(0)),
        (1, from(10, None)),
        (1, from(10, Some(1))),
        (1, from(huge, None)),
        (1, from(huge, Some(huge))),
        (1, ByteRange::Last(0)),
    ];
    for (which, range) in beyond {
        let refused = get_part(&cluster, &cluster.nodes[1], objects[which], Some(range)).await;
        let size = [0, 10][which];
        let right = matches!(refused, Err(GetError::Range(RangeFault::PastEnd { size: of, .. } | RangeFault::NoBytes { size: of })) if of == size);
        assert!(right, "{range:?} of {size} bytes: {refused:?}");
    }
    let inside = [
        (0, ByteRange::Last(5), 0..0),
        (0, ByteRange::Last(huge), 0..0),
        (1, from(0, Some(1)), 0..1),
        (1, from(9, None), 9..10),
        (1, from(9, Some(1)), 9..10),
        (1, from(4, Some(97)), 4..10),
        (1, from(0, Some(huge)), 0..10),
        (1, from(4, Some(huge)), 4..10),
        (1, ByteRange::Last(3), 7..10),
        (1, ByteRange::Last(10), 0..10),
        (1, ByteRange::Last(huge), 0..10),
    ];
    for (which, range, bytes) in inside {
        let read = get_part(&cluster, &cluster.nodes[1], objects[which], Some(range)).await.unwrap();
        assert_eq!(read, [&empty, &ten][which].slice(bytes), "{range:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_whole_read_fetches_data_pieces_only() {
    let cluster = Cluster::start(7).await;
    let content = content(2 * SEGMENT_BYTES);
    let outcome = stored(&cluster, &content).await;
    get(&cluster, &cluster.nodes[6], outcome.object, None).await.unwrap();
    let traffic = cluster.world.traffic.lock();
    assert_eq!(traffic.gets.values().sum::<u32>(), 2 * 4);
    assert_eq!(cluster.nodes[6].metrics().pieces_hedged.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_object_is_unknown() {
    let cluster = Cluster::start(3).await;
    let object = ObjectId { quorum: cluster::QUORUM, manifest: ManifestHash([9; 32]) };
    assert!(matches!(get(&cluster, &cluster.nodes[0], object, None).await, Err(GetError::Unknown { .. })));
}
