use quorate_api::{Amounts, ColumnState, LeasesInfo, ObjectColumn, ObjectState, OwedRepair, ScopeInfo};
use quorate_protocols::ids::{
    Attempt, BootId, Digest, Incarnation, JobId, LogIndex, ManifestHash, Millis, PieceIndex, QuorumId, Term,
};
use quorate_protocols::object::Profile;

use super::*;

const QUORUM: QuorumId = QuorumId([7; 16]);
const NOW: u64 = 1_000_000_000;

fn peer(number: u8) -> PeerId {
    PeerId([number; 32])
}

fn disk(bytes: u64) -> Amounts {
    Amounts { disk_bytes: bytes, ..Amounts::default() }
}

fn asked(number: u8) -> Asked {
    let known = |other: u8| PeerInfo {
        peer: peer(other),
        name: None,
        addresses: vec![],
        connected: true,
        suspected: false,
        rtt_ms: None,
        roles: vec![],
        free: None,
        quorums: 1,
        last_seen_at: Some(Millis(NOW)),
        labels: Default::default(),
        load_permille: 0,
        draining: false,
    };
    Asked {
        name: format!("node {number}"),
        info: NodeInfo {
            peer: peer(number),
            name: None,
            incarnation: Incarnation(1),
            boot: BootId([0; 16]),
            version: "1.0.0".into(),
            addresses: vec![],
            pid: 1,
            uptime_ms: 1,
            answered_at: Millis(NOW),
            peers_known: 2,
            peers_connected: 2,
            quorums: 1,
            leading: 0,
            testing: false,
        },
        before: NOW - 1,
        after: NOW + 1,
        peers: (1..=3).filter(|other| *other != number).map(known).collect(),
        resources: ResourcesInfo {
            scopes: vec![ScopeInfo { scope: "leases of peer x".into(), used: disk(5), limit: disk(10) }],
            leases: vec![LeasesInfo { scope: "leases of peer x".into(), leases: 1, reserved: disk(5) }],
            disk_free_bytes: Some(100 << 30),
            disk_bytes: Some(200 << 30),
        },
        faults: NodeFaults::default(),
    }
}

fn info() -> QuorumInfo {
    QuorumInfo {
        quorum: QUORUM,
        primary: Some(peer(1)),
        members: (1..=3).map(peer).collect(),
        term: Term(2),
        jobs: 0,
        objects: 1,
        paused: None,
        unreachable: None,
    }
}

fn view() -> QuorumDetail {
    QuorumDetail {
        info: info(),
        learners: vec![],
        standbys: vec![],
        committed: LogIndex(5000),
        applied: LogIndex(5000),
        jobs_ended: 0,
        room: 9_000,
        level: 1,
        last_entry_at: Millis(NOW),
        clock_apart_ms: Some(0),
        clock_step: None,
        digest: Digest([1; 32]),
        digest_index: LogIndex(5000),
        own: None,
    }
}

fn object() -> ObjectInfo {
    let column = |index: u8| ObjectColumn {
        column: PieceIndex(index),
        holder: Some(peer(index + 1)),
        attempt: Attempt(1),
        state: ColumnState::Confirmed,
    };
    ObjectInfo {
        object: ObjectId { quorum: QUORUM, manifest: ManifestHash([2; 32]) },
        bytes: 10,
        name: None,
        profile: Profile { data: 2, parity: 1 },
        state: ObjectState::Live,
        job: JobId { quorum: QUORUM, local: [3; 16] },
        quorum: QUORUM,
        owner: peer(1),
        claims: vec![],
        created_at: Millis(NOW),
        degraded: false,
        columns: (0..3).map(column).collect(),
        owed: vec![],
    }
}

/// Three nodes, one quorum, one object, nothing wrong.
fn well() -> Facts {
    let member = |number| MemberView { member: peer(number), view: Some(view()), error: None };
    Facts {
        asked: (1..=3).map(asked).collect(),
        quorums: vec![QuorumFacts { info: info(), members: Ok((1..=3).map(member).collect()) }],
        objects: Listing { items: vec![object()], ..Listing::default() },
        reads: Some(vec![(object().object, Ok(()))]),
        ..Facts::default()
    }
}

fn member(facts: &mut Facts, at: usize) -> &mut MemberView {
    &mut facts.quorums[0].members.as_mut().unwrap()[at]
}

#[test]
fn a_well_network_is_healthy_and_says_what_was_looked_at() {
    let diagnosis = judge(&well());
    assert_eq!(diagnosis.findings, []);
    assert!(diagnosis.healthy);
    for (what, count) in [
        ("nodes", 3),
        ("quorums", 1),
        ("members", 3),
        ("objects", 1),
        ("columns", 3),
        ("objects read", 1),
        ("leases", 3),
    ] {
        assert_eq!(diagnosis.checked.get(what), Some(&count), "{what}");
    }
}

/// Goal: each trouble is found as what it is, with advice, and alone.
#[test]
fn each_trouble_is_found_as_what_it_is() {
    type Break = fn(&mut Facts);
    let troubles: [(Kind, Break); 21] = [
        (Kind::NodeDown, |facts| facts.silent.push(("node 9".into(), TestnetNodeState::Dead, Some(9), "dead".into()))),
        (Kind::Versions, |facts| facts.asked[1].info.version = "2.0.0".into()),
        (Kind::Faults, |facts| facts.asked[0].faults.disk.flip_bits = true),
        (Kind::Clock, |facts| facts.asked[0].info.answered_at = Millis(NOW + 3_600_000)),
        (Kind::Clock, |facts| facts.asked[2].info.answered_at = Millis(NOW - 60_000)),
        (Kind::Clock, |facts| member(facts, 1).view.as_mut().unwrap().clock_apart_ms = Some(-3_600_000)),
        (Kind::Clock, |facts| {
            // One wrong clock is told once.
            facts.asked[1].info.answered_at = Millis(NOW + 3_600_000);
            member(facts, 1).view.as_mut().unwrap().clock_apart_ms = Some(3_600_000);
        }),
        (Kind::Clock, |facts| member(facts, 0).view.as_mut().unwrap().last_entry_at = Millis(NOW + 60_000)),
        (Kind::DiskFull, |facts| facts.asked[0].resources.disk_free_bytes = Some(0)),
        (Kind::OverLimit, |facts| {
            let resources = &mut facts.asked[0].resources;
            (resources.scopes[0].used, resources.leases[0].reserved) = (disk(11), disk(11));
        }),
        (Kind::Leases, |facts| facts.asked[0].resources.leases.clear()),
        (Kind::PeerUnreachable, |facts| facts.asked[0].peers[0].connected = false),
        (Kind::QuorumPaused, |facts| facts.quorums[0].members = Err("no answer".into())),
        (Kind::QuorumPaused, |facts| member(facts, 1).view.as_mut().unwrap().info.paused = Some("alone".into())),
        (Kind::QuorumFull, |facts| {
            // One that lags says what was.
            (0..3).for_each(|index| member(facts, index).view.as_mut().unwrap().room = 0);
            let view = member(facts, 2).view.as_mut().unwrap();
            (view.room, view.applied, view.digest_index) = (9, LogIndex(4_900), LogIndex(4_000));
        }),
        (Kind::QuorumShort, |facts| member(facts, 2).view = None),
        (Kind::TwoPrimaries, |facts| member(facts, 2).view.as_mut().unwrap().info.primary = Some(peer(3))),
        (Kind::Diverged, |facts| member(facts, 2).view.as_mut().unwrap().digest = Digest([9; 32])),
        (Kind::MemberBehind, |facts| {
            let view = member(facts, 2).view.as_mut().unwrap();
            (view.applied, view.digest_index) = (LogIndex(3000), LogIndex(3000));
        }),
        (Kind::Degraded, |facts| {
            facts.objects.items[0].owed.push(OwedRepair { column: PieceIndex(0), reason: "rot".into() });
        }),
        (Kind::Unreadable, |facts| facts.reads = Some(vec![(object().object, Err("gone".into()))])),
    ];
    for (kind, break_it) in troubles {
        let mut facts = well();
        break_it(&mut facts);
        let diagnosis = judge(&facts);
        let kinds: Vec<Kind> = diagnosis.findings.iter().map(|finding| finding.kind).collect();
        assert_eq!(kinds, [kind], "{:#?}", diagnosis.findings);
        assert!(!diagnosis.healthy && !diagnosis.findings[0].advice.is_empty());
    }
}

#[test]
fn a_quorum_with_one_of_three_has_no_majority_and_an_object_with_one_of_two_columns_is_out_of_reach() {
    let mut facts = well();
    member(&mut facts, 1).view = None;
    member(&mut facts, 2).view = None;
    let kinds: Vec<Kind> = judge(&facts).findings.iter().map(|finding| finding.kind).collect();
    assert_eq!(kinds, [Kind::QuorumPaused]);
    let mut facts = well();
    for column in &mut facts.objects.items[0].columns[1..] {
        column.holder = None;
    }
    let kinds: Vec<Kind> = judge(&facts).findings.iter().map(|finding| finding.kind).collect();
    assert_eq!(kinds, [Kind::Unreadable]);
}

#[test]
fn a_peer_that_is_long_gone_and_that_nothing_relies_on_is_no_finding() {
    let mut facts = well();
    let gone = &mut facts.asked[0].peers[0].clone();
    (gone.peer, gone.connected, gone.last_seen_at) = (peer(9), false, Some(Millis(NOW - 2 * FORGOTTEN_MS)));
    facts.asked[0].peers.push(gone.clone());
    assert_eq!(judge(&facts).findings, []);
    facts.objects.items[0].columns[0].holder = Some(peer(9));
    assert_eq!(judge(&facts).findings[0].kind, Kind::PeerUnreachable);
}

#[test]
fn findings_count_in_the_singular_and_promise_nothing_of_versions() {
    let finding = |break_it: &dyn Fn(&mut Facts)| {
        let mut facts = well();
        break_it(&mut facts);
        judge(&facts).findings.remove(0)
    };
    let owed = OwedRepair { column: PieceIndex(0), reason: "rot".into() };
    let degraded = finding(&|facts| facts.objects.items[0].owed.push(owed.clone()));
    assert!(degraded.what.starts_with("a repair is owed to 1 object: "), "{}", degraded.what);
    let versions = finding(&|facts| facts.asked[1].info.version = "2.0.0".into());
    assert!(versions.advice.starts_with("run one version on all nodes"), "{}", versions.advice);
}
