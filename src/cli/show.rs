//! `peers`, `quorum ls`, `quorum show`.

use quorate_protocols::api::{ContactInfo, PeerInfo, QuorumDetail, QuorumInfo};
use quorate_protocols::ids::QuorumId;

use super::args::{Common, QuorumCommand};
use super::failure::Failure;
use super::find::client_of;
use super::output::{Missing, Text, age_text, bytes, facts, instant, or_dash, print, print_json, table};

pub async fn peers(common: &Common, complete: bool) -> Result<(), Failure> {
    let client = client_of(common)?;
    let peers: Vec<PeerInfo> = client.list("/v1/peers").await?.items;
    let contact: ContactInfo = client.get("/v1/contact").await?;
    let whole = Missing { isolated: contact.isolated.as_deref(), ..Missing::default() }.warn(complete);
    match common.json {
        true => print_json(&peers),
        false => print(peers_table(&peers)),
    }?;
    whole
}

pub fn peers_table(peers: &[PeerInfo]) -> Text {
    let rows = peers.iter().map(|peer| {
        vec![
            peer.peer.to_string(),
            match (peer.connected, peer.suspected) {
                (false, _) => "no",
                (true, true) => "silent",
                (true, false) => "yes",
            }
            .to_owned(),
            or_dash(peer.rtt_ms.map(|rtt| format!("{rtt:.1} ms"))),
            match peer.kinds.is_empty() {
                true => "-".to_owned(),
                false => peer.kinds.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            },
            or_dash(peer.free.map(|free| bytes(free.disk_bytes))),
            peer.quorums.to_string(),
            or_dash(peer.addresses.first()),
        ]
    });
    table(&["peer", "connected", "rtt", "kinds", "free disk", "quorums", "address"], rows)
}

pub async fn quorums(common: &Common, command: QuorumCommand) -> Result<(), Failure> {
    let client = client_of(common)?;
    match command {
        QuorumCommand::Ls { complete } => {
            let quorums: Vec<QuorumInfo> = client.list("/v1/quorums").await?.items;
            let contact: ContactInfo = client.get("/v1/contact").await?;
            let unreachable = quorums.iter().filter_map(|quorum| quorum.unreachable.as_ref()).collect();
            let missing = Missing { unreachable, isolated: contact.isolated.as_deref() };
            let whole = missing.warn(complete);
            match common.json {
                true => print_json(&quorums),
                false => print(quorums_table(&quorums)),
            }?;
            whole
        }
        QuorumCommand::Show { quorum } => {
            let quorum = match quorum.parse::<QuorumId>() {
                Ok(quorum) => quorum,
                Err(error) => {
                    let hexadecimal = quorum.chars().all(|c| c.is_ascii_hexdigit());
                    if quorum.len() < 8 || !hexadecimal {
                        return Err(Failure::usage(format!("{error}; the first 8 or more digits will do")));
                    }
                    let all: Vec<QuorumInfo> = client.list("/v1/quorums").await?.items;
                    let prefix = quorum.to_ascii_lowercase();
                    let mut fitting = all.iter().filter(|row| row.quorum.to_string().starts_with(&prefix));
                    match (fitting.next(), fitting.next()) {
                        (Some(row), None) => row.quorum,
                        (Some(_), Some(_)) => {
                            return Err(Failure::usage(format!(
                                "several quorums begin with {prefix}; give more digits"
                            )));
                        }
                        (None, _) => {
                            return Err(Failure::failed(format!("no quorum begins with {prefix}"))
                                .hint("`quorate quorum ls` lists those that this node knows"));
                        }
                    }
                }
            };
            let detail: QuorumDetail = client.get(&format!("/v1/quorums/{quorum}")).await?;
            match common.json {
                true => print_json(&detail),
                false => print(quorum_text(&detail)),
            }
        }
    }
}

pub fn quorums_table(quorums: &[QuorumInfo]) -> Text {
    let rows = quorums.iter().map(|quorum| {
        vec![
            quorum.quorum.to_string(),
            or_dash(quorum.primary),
            quorum.members.len().to_string(),
            quorum.term.to_string(),
            quorum.jobs.to_string(),
            quorum.objects.to_string(),
            quorum.paused.clone().unwrap_or_default(),
        ]
    });
    table(&["quorum", "primary", "members", "term", "jobs", "objects", ""], rows)
}

pub fn quorum_text(detail: &QuorumDetail) -> Text {
    let info = &detail.info;
    let mut rows =
        vec![("quorum", info.quorum.to_string()), ("primary", or_dash(info.primary)), ("term", info.term.to_string())];
    rows.extend(info.members.iter().map(|member| ("member", member.to_string())));
    rows.extend(detail.learners.iter().map(|learner| ("learner", learner.to_string())));
    rows.extend(detail.standbys.iter().map(|standby| ("standby", standby.to_string())));
    rows.push(("committed", detail.committed.to_string()));
    rows.push(("applied", detail.applied.to_string()));
    rows.push(("jobs", format!("{} live, {} ended", info.jobs, detail.jobs_ended)));
    rows.push(("objects", info.objects.to_string()));
    rows.push(("time", instant(detail.last_entry_at)));
    if let Some(paused) = &info.paused {
        rows.push(("paused", paused.clone()));
    }
    if let Some(missing) = &info.unreachable {
        rows.push(("old", age_text(missing)));
    }
    facts(&rows)
}
