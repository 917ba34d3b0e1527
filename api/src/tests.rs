use quorate_protocols::ids::{Attempt, JobId, ManifestHash, Millis, ObjectId, PeerId, PieceIndex, QuorumId, Term};
use quorate_protocols::object::Profile;

use super::*;

fn keys(value: &impl serde::Serialize) -> Vec<String> {
    match serde_json::to_value(value).unwrap() {
        serde_json::Value::Object(map) => map.keys().cloned().collect(),
        other => panic!("not an object: {other}"),
    }
}

fn assert_has(value: &impl serde::Serialize, wanted: &[&str]) {
    let keys = keys(value);
    for key in wanted {
        assert!(keys.iter().any(|found| found == key), "{key} is missing among {keys:?}");
    }
}

/// Goal: scripts that read the documented fields keep working.
#[test]
fn documented_fields_are_there() {
    let quorum = QuorumId([1; 16]);
    let job = JobId { quorum, local: [2; 16] };
    let peer = PeerId([3; 32]);
    assert_has(
        &PeerInfo {
            peer,
            name: None,
            addresses: vec![],
            connected: true,
            suspected: false,
            rtt_ms: None,
            roles: vec![NodeRole::Store],
            free: None,
            quorums: 0,
            last_seen_at: None,
            labels: Default::default(),
            load_permille: 0,
            draining: false,
        },
        &["peer", "name", "addresses", "connected", "rtt_ms", "roles", "free", "quorums", "last_seen_at"],
    );
    let info = QuorumInfo {
        quorum,
        primary: None,
        members: vec![peer],
        term: Term(4),
        jobs: 0,
        objects: 0,
        paused: None,
        unreachable: None,
    };
    assert_has(&info, &["quorum", "primary", "members", "term", "jobs"]);
    let put = PutInfo {
        object: ObjectId { quorum, manifest: ManifestHash([9; 32]) },
        bytes: 1,
        job,
        quorum,
        profile: Profile::DEFAULT,
        degraded: false,
        columns: vec![ColumnHolder { column: PieceIndex(0), holder: peer }],
        pieces_sent: 6,
        pieces_skipped: 0,
        columns_replaced: 0,
        took_ms: 3,
        existed: vec![Claim { owner: peer, name: Some("a.txt".into()), job, claimed_at: Millis(1) }],
        acknowledged_by: SpeakerInfo { peer, name: None, voters: vec![peer] },
    };
    let fields = ["object", "bytes", "job", "quorum", "profile", "degraded", "columns", "existed", "acknowledged_by"];
    assert_has(&put, &fields);
    assert_has(&put.acknowledged_by, &["peer", "name", "voters"]);
    let removal = RemovalInfo { object: put.object, removed: put.existed.clone(), kept: vec![], gone: true };
    assert_has(&removal, &["object", "removed", "kept", "gone"]);
    assert_has(&put.existed[0], &["owner", "name", "job", "claimed_at"]);
    let json = serde_json::to_value(&put).unwrap();
    assert_eq!(json["profile"], "4+2");
    assert_eq!(json["columns"][0]["column"], 0);
    assert_eq!(json["columns"][0]["holder"], peer.to_string());
    assert_eq!(serde_json::from_value::<PutInfo>(json).unwrap(), put);
    let store = StoreInfo {
        uploader: peer,
        attempts: Attempt(1),
        bytes: None,
        profile: Profile::DEFAULT,
        object: None,
        degraded: false,
        segments: 0,
        columns: vec![],
        failed: vec![],
    };
    assert_has(&store, &["uploader", "attempts", "bytes", "profile", "object", "degraded", "columns", "failed"]);
    assert_has(
        &JobInfo {
            job,
            kind: Kind::Store,
            state: RunState::AwaitingResolution,
            quorum,
            primary: Some(peer),
            created_at: Millis(1),
            changed_at: Millis(1),
            revision: 1,
            finished_at: None,
            why: None,
            owner: peer,
            name: None,
            store: Some(store.clone()),
            batch: None,
            trigger: None,
            fired_by: None,
        },
        &["job", "kind", "state", "quorum", "primary", "created_at", "finished_at", "why", "store", "batch"],
    );
    let fire = FireInfo {
        instant_at: Millis(1),
        run: Some(job),
        outcome: FireOutcome::Succeeded,
        skipped: 0,
        reason: None,
        last_at: None,
        number: 1,
        cause: FireCause::Instant,
        recorded_at: Millis(2),
    };
    assert_has(&fire, &["instant_at", "run", "outcome", "skipped", "reason"]);
}

#[test]
fn an_unknown_error_code_is_still_an_error() {
    let body: ErrorBody = serde_json::from_str(r#"{"error":"from-the-future","message":"m"}"#).unwrap();
    assert_eq!(body.error, ErrorCode::Other);
    assert_eq!(body.hint, None);
}
