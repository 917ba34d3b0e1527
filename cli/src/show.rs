//! `peers`, `quorum ls`, `quorum show`.

use quorate_api::{ContactInfo, PeerInfo, QuorumDetail, QuorumInfo};
use quorate_protocols::ids::PeerId;
use quorate_protocols::text::counted;

use super::args::{Common, QuorumCommand};
use super::failure::Failure;
use super::find::client_of;
use super::ids::Ids;
use super::output::{Missing, Text, age_text, bytes, facts, instant, or_dash, print, print_json, table};

pub async fn peers(common: &Common, complete: bool) -> Result<(), Failure> {
    let client = client_of(common)?;
    let peers: Vec<PeerInfo> = client.list("/v1/peers").await?.items;
    let contact: ContactInfo = client.get("/v1/contact").await?;
    let ids = Ids::new(common);
    let whole = Missing { isolated: contact.isolated.as_deref(), ..Missing::default() }.warn(complete, &ids);
    match common.json {
        true => print_json(&peers),
        false => print(peers_table(&peers, &ids)),
    }?;
    whole
}

pub fn peers_table(peers: &[PeerInfo], ids: &Ids) -> Text {
    let rows = peers.iter().map(|peer| {
        vec![
            ids.peer(peer.peer),
            or_dash(peer.name.as_ref()),
            match (peer.connected, peer.suspected) {
                (false, _) => "no",
                (true, true) => "silent",
                (true, false) => "yes",
            }
            .to_owned(),
            or_dash(peer.rtt_ms.map(|rtt| format!("{rtt:.1} ms"))),
            match peer.roles.is_empty() {
                true => "-".to_owned(),
                false => peer.roles.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            },
            or_dash(peer.free.map(|free| bytes(free.disk_bytes))),
            peer.quorums.to_string(),
            or_dash(peer.addresses.first()),
        ]
    });
    table(&["peer", "name", "connected", "rtt", "roles", "free disk", "quorums", "address"], rows)
}

pub async fn quorums(common: &Common, command: QuorumCommand) -> Result<(), Failure> {
    let client = client_of(common)?;
    match command {
        QuorumCommand::Ls { complete } => {
            let quorums: Vec<QuorumInfo> = client.list("/v1/quorums").await?.items;
            let contact: ContactInfo = client.get("/v1/contact").await?;
            let unreachable = quorums.iter().filter_map(|quorum| quorum.unreachable.as_ref()).collect();
            let missing = Missing { unreachable, isolated: contact.isolated.as_deref() };
            let ids = Ids::ask(common, &client).await;
            let whole = missing.warn(complete, &ids);
            match common.json {
                true => print_json(&quorums),
                false => print(quorums_table(&quorums, &ids)),
            }?;
            whole
        }
        QuorumCommand::Show { quorum } => {
            let quorum = quorum.resolve(&client).await?;
            let detail: QuorumDetail = client.get(&format!("/v1/quorums/{quorum}")).await?;
            match common.json {
                true => print_json(&detail),
                false => print(quorum_text(&detail, &Ids::ask(common, &client).await)),
            }
        }
    }
}

pub fn quorums_table(quorums: &[QuorumInfo], ids: &Ids) -> Text {
    let rows = quorums.iter().map(|quorum| {
        vec![
            ids.quorum(quorum.quorum),
            or_dash(quorum.primary.map(|peer| ids.peer(peer))),
            quorum.members.len().to_string(),
            quorum.term.to_string(),
            quorum.jobs.to_string(),
            quorum.objects.to_string(),
            quorum.paused.as_deref().map(|why| ids.sentence(why)).unwrap_or_default(),
        ]
    });
    table(&["quorum", "primary", "members", "term", "jobs", "objects", ""], rows)
}

pub fn quorum_text(detail: &QuorumDetail, ids: &Ids) -> Text {
    let peer = |peer: &PeerId| ids.peer(*peer);
    let info = &detail.info;
    let mut rows = vec![
        ("quorum", info.quorum.to_string()),
        ("primary", or_dash(info.primary.as_ref().map(peer))),
        ("term", info.term.to_string()),
    ];
    rows.extend(info.members.iter().map(|member| ("member", peer(member))));
    rows.extend(detail.learners.iter().map(|learner| ("learner", peer(learner))));
    rows.extend(detail.standbys.iter().map(|standby| ("standby", peer(standby))));
    rows.push(("committed", detail.committed.to_string()));
    rows.push(("applied", detail.applied.to_string()));
    rows.push(("jobs", format!("{} live, {} ended", info.jobs, detail.jobs_ended)));
    rows.push(("objects", info.objects.to_string()));
    let room = match detail.room {
        0 => "none: new jobs and objects are refused".to_owned(),
        room => format!("for {}", counted(room, "more job")),
    };
    rows.push(("room", room));
    rows.push(("time", instant(detail.last_entry_at)));
    if let Some(paused) = &info.paused {
        rows.push(("paused", ids.sentence(paused)));
    }
    if let Some(missing) = &info.unreachable {
        rows.push(("old", age_text(missing)));
    }
    facts(&rows)
}
