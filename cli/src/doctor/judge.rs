//! The findings of the doctor from the gathered facts: a pure function, so that each finding has a test.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_api::{
    Listing, MemberView, NodeFaults, NodeInfo, ObjectInfo, PeerInfo, QuorumDetail, QuorumInfo, ResourcesInfo,
};
use quorate_protocols::ids::{ObjectId, PeerId, QuorumId};
use quorate_protocols::quorum::clock::CLOCK_STEP_MIN;
use quorate_protocols::text::counted;
use quorate_testnet::checkers::g2_one_primary::Leaders;
use quorate_testnet::checkers::g5_agreement::Digests;
use quorate_testnet::checkers::g8_reservations;
use quorate_testnet::{TestnetNodeState, reservations};

use quorate_protocols::units::Span;

use crate::doctor::report::{Diagnosis, DoctorFinding, DoctorKind as Kind};

/// Wall clocks decide when `at` and `cron` fire and nothing else; a machine that keeps time is within a second.
const CLOCK_SKEW_MS_MAX: u64 = 2_000;

/// A record may be ahead of the clocks by as much as does not count as a step of theirs, and they of this machine's.
const RECORD_AHEAD_MS_MAX: u64 = CLOCK_STEP_MIN.as_millis() as u64 + 2 * CLOCK_SKEW_MS_MAX;

/// Less free disk than this and the node soon takes nothing more.
const DISK_FREE_BYTES_MIN: u64 = 1 << 30;

/// Entries that a member may be behind while it catches up; a digest is compared every thousand.
const BEHIND_MAX: u64 = 1_000;

/// A peer that nobody saw for this long is no more, unless something still relies on it.
const FORGOTTEN_MS: u64 = 3_600_000;

/// Ids named in one finding.
const NAMED_MAX: usize = 3;

/// A node that was asked, and what it said.
pub struct Asked {
    pub name: String,
    pub info: NodeInfo,
    /// This machine's clock before and after the node told its own.
    pub before: u64,
    pub after: u64,
    pub peers: Vec<PeerInfo>,
    pub resources: ResourcesInfo,
    pub faults: NodeFaults,
}

pub struct QuorumFacts {
    pub info: QuorumInfo,
    pub members: Result<Vec<MemberView>, String>,
}

#[derive(Default)]
pub struct Facts {
    pub asked: Vec<Asked>,
    /// Nodes of a testnet that gave no answer: name, state, number, why.
    pub silent: Vec<(String, TestnetNodeState, Option<usize>, String)>,
    pub quorums: Vec<QuorumFacts>,
    pub objects: Listing<ObjectInfo>,
    /// With `--deep`.
    pub reads: Option<Vec<(ObjectId, Result<(), String>)>>,
    pub not_checked: Vec<String>,
}

#[derive(Default)]
struct Judge {
    findings: Vec<DoctorFinding>,
    /// Peers whose clock was found to be wrong.
    wrong_clocks: BTreeSet<PeerId>,
    /// This machine's clock, at the latest that it was looked at.
    now: Option<u64>,
    checked: BTreeMap<String, u64>,
}

impl Judge {
    fn find(&mut self, kind: Kind, what: impl Into<String>, advice: impl Into<String>) {
        self.findings.push(DoctorFinding { kind, what: what.into(), advice: advice.into() });
    }
    fn count(&mut self, what: &str, count: usize) {
        *self.checked.entry(what.to_owned()).or_default() += count as u64;
    }
}

pub fn judge(facts: &Facts) -> Diagnosis {
    let mut judge = Judge::default();
    judge.nodes(facts);
    judge.peers(facts);
    for quorum in &facts.quorums {
        judge.quorum(quorum);
    }
    judge.objects(facts);
    for what in &facts.not_checked {
        judge.find(Kind::NotChecked, what, "try again, or ask another node with --node");
    }
    Diagnosis { healthy: judge.findings.is_empty(), findings: judge.findings, checked: judge.checked }
}

/// `a, b, c and 4 more`.
fn names<T: ToString>(items: &[T]) -> String {
    let named = items.iter().take(NAMED_MAX).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match items.len() {
        count if count > NAMED_MAX => format!("{named} and {} more", count - NAMED_MAX),
        _ => named,
    }
}

impl Judge {
    fn nodes(&mut self, facts: &Facts) {
        for (name, state, index, why) in &facts.silent {
            let index = index.map_or_else(|| "N".to_owned(), |index| index.to_string());
            let (what, advice) = match state {
                TestnetNodeState::Dead => (format!("{name} is dead"), format!("`quorate testnet restart {index}`")),
                TestnetNodeState::Paused => (format!("{name} is paused"), format!("`quorate testnet resume {index}`")),
                TestnetNodeState::Running => (
                    format!("{name} does not answer: {why}"),
                    format!("its log says what it is doing; `quorate testnet restart {index}` starts it again"),
                ),
            };
            self.find(Kind::NodeDown, what, advice);
        }
        self.count("nodes", facts.asked.len());
        let versions: BTreeSet<&str> = facts.asked.iter().map(|asked| asked.info.version.as_str()).collect();
        if versions.len() > 1 {
            let versions = versions.into_iter().collect::<Vec<_>>().join(" and ");
            let advice = "run one version on all nodes: nodes of different versions are not tested together";
            self.find(Kind::Versions, format!("nodes run versions {versions}"), advice);
        }
        for asked in &facts.asked {
            self.node(asked);
        }
    }

    fn node(&mut self, asked: &Asked) {
        let name = &asked.name;
        if !asked.faults.is_none() {
            let what = format!("faults are injected into {name} on purpose");
            self.find(Kind::Faults, what, "`quorate testnet status` shows them, `quorate testnet heal` ends them");
        }
        let (earliest, latest) = (asked.before.saturating_sub(CLOCK_SKEW_MS_MAX), asked.after + CLOCK_SKEW_MS_MAX);
        self.count("clocks", 1);
        self.now = self.now.max(Some(asked.after));
        if !(earliest..=latest).contains(&asked.info.answered_at.0) {
            self.wrong_clocks.insert(asked.info.peer);
            let away = asked.info.answered_at.0.abs_diff(asked.after);
            let side = if asked.info.answered_at.0 < earliest { "behind" } else { "ahead of" };
            let away = Span(Duration::from_secs(away / 1000));
            let what = format!("the clock of {name} is {away} {side} this machine's");
            self.find(
                Kind::Clock,
                what,
                "let its machine keep time (NTP); `at` and `cron` go by the clocks of each quorum's majority",
            );
        }
        if let Some(free) = asked.resources.disk_free_bytes.filter(|free| *free < DISK_FREE_BYTES_MIN) {
            let what = format!("the disk of {name} has {} left", super::super::output::bytes(free));
            let advice = "free some disk, or move its data folder to a larger one: soon it takes nothing more";
            self.find(Kind::DiskFull, what, advice);
        }
        let accounts = reservations::limited(&asked.resources);
        self.count("limits", accounts.len());
        for violation in g8_reservations::check(&accounts) {
            let advice = "if other programs fill its disk, free some: the limit falls with the free disk. Else this is a bug: report it";
            self.find(Kind::OverLimit, format!("on {name}, {}", violation.what), advice);
        }
        let (accounts, stays) = reservations::leased(&asked.resources);
        self.count("leases", asked.resources.leases.iter().map(|row| row.leases as usize).sum());
        for violation in g8_reservations::check_at_rest(&accounts, &stays) {
            let what = format!("on {name}, {}: leases and reservations differ", violation.what);
            self.find(
                Kind::Leases,
                what,
                "restart the node: it reserves anew what its leases say. This is a bug: report it",
            );
        }
    }

    /// Peers that something relies on, or that were seen lately, must be connected to the nodes that were asked.
    fn peers(&mut self, facts: &Facts) {
        let members = facts.quorums.iter().flat_map(|quorum| quorum.info.members.iter().copied());
        let columns = facts.objects.items.iter().flat_map(|object| &object.columns);
        let relied: BTreeSet<PeerId> = members.chain(columns.filter_map(|column| column.holder)).collect();
        let mut missing: BTreeMap<PeerId, Vec<&str>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for asked in &facts.asked {
            for peer in &asked.peers {
                seen.insert(peer.peer);
                let ago = peer.last_seen_at.map_or(u64::MAX, |at| asked.info.answered_at.0.saturating_sub(at.0));
                if !peer.connected && (relied.contains(&peer.peer) || ago < FORGOTTEN_MS) {
                    missing.entry(peer.peer).or_default().push(&asked.name);
                }
            }
        }
        self.count("peers", seen.len());
        // A testnet's dead nodes were told already.
        let answered: BTreeSet<PeerId> = facts.asked.iter().map(|asked| asked.info.peer).collect();
        for (peer, from) in missing {
            if !facts.silent.is_empty() && !answered.contains(&peer) {
                continue;
            }
            let what = format!("peer {peer} is not connected to {}", names(&from));
            let advice = match relied.contains(&peer) {
                true => "start it, or see that its address can be reached: quorums or objects rely on it",
                false => "start it, or see that its address can be reached; nothing relies on it",
            };
            self.find(Kind::PeerUnreachable, what, advice);
        }
    }

    fn quorum(&mut self, facts: &QuorumFacts) {
        let quorum = facts.info.quorum;
        self.count("quorums", 1);
        let members = match &facts.members {
            Ok(members) => members,
            Err(why) => {
                let what = format!("quorum {quorum} does not answer: {why}");
                let advice =
                    "start its members: `quorate quorum ls` names them; nothing of it is lost while they are away";
                self.find(Kind::QuorumPaused, what, advice);
                return;
            }
        };
        let views: Vec<(PeerId, &QuorumDetail)> =
            members.iter().filter_map(|row| Some((row.member, row.view.as_ref()?))).collect();
        self.count("members", views.len());
        let silent: Vec<PeerId> = members.iter().filter(|row| row.view.is_none()).map(|row| row.member).collect();
        if 2 * views.len() <= members.len() {
            let what = format!("quorum {quorum} has no majority: {} of {} members answer", views.len(), members.len());
            let advice = format!("start {}; it goes on by itself when a majority is back", names(&silent));
            self.find(Kind::QuorumPaused, what, advice);
        } else if !silent.is_empty() {
            let what = format!("quorum {quorum} lacks {} of its {} members", silent.len(), members.len());
            let advice = format!("start {}, or wait: a member that stays away is replaced", names(&silent));
            self.find(Kind::QuorumShort, what, advice);
        }
        for (member, view) in &views {
            if let Some(reason) = &view.info.paused {
                let what = format!("member {member} of quorum {quorum} cannot commit: {reason}");
                self.find(
                    Kind::QuorumPaused,
                    what,
                    "if it stays so, restart that node; `quorate events` on it shows what happens",
                );
            } else if view.info.primary.is_none() {
                let what = format!("member {member} of quorum {quorum} knows no primary");
                self.find(
                    Kind::QuorumPaused,
                    what,
                    "an election takes a moment; if it stays so, `quorate peers` on each member shows whom it cannot reach",
                );
            }
        }
        // By whoever has come furthest: what others say of its room is older.
        let newest = views.iter().max_by_key(|(_, view)| view.applied);
        if newest.is_some_and(|(_, view)| view.room == 0 && view.info.paused.is_none()) {
            let what = format!("quorum {quorum} has reached one of its limits and refuses new jobs and objects");
            let advice =
                "other quorums take them, or one is formed; jobs that end and objects that are removed make room";
            self.find(Kind::QuorumFull, what, advice);
        }
        self.clocks(quorum, &views);
        self.agreement(&views);
    }

    /// Members whose clock a majority does not bear out, and a record that is ahead of this machine's clock.
    fn clocks(&mut self, quorum: QuorumId, views: &[(PeerId, &QuorumDetail)]) {
        for (member, view) in views {
            let apart = view.clock_apart_ms.unwrap_or(0);
            if apart.unsigned_abs() > CLOCK_SKEW_MS_MAX && self.wrong_clocks.insert(*member) {
                let side = if apart < 0 { "behind" } else { "ahead of" };
                let apart = Span(Duration::from_secs(apart.unsigned_abs() / 1000));
                let what = format!(
                    "the clock of member {member} is {apart} {side} those of a majority of quorum {quorum}, and is not used"
                );
                self.find(Kind::Clock, what, "let its machine keep time (NTP)");
            }
        }
        let ahead = views.iter().map(|(_, view)| view.last_entry_at.0).max().zip(self.now);
        let ahead = ahead.map_or(0, |(time, now)| time.saturating_sub(now));
        // With a wrong clock among the nodes the cause is told already.
        if ahead > RECORD_AHEAD_MS_MAX && self.wrong_clocks.is_empty() {
            let ahead = Span(Duration::from_secs(ahead / 1000));
            let what = format!("the time of quorum {quorum} is {ahead} ahead of this machine's clock");
            let advice =
                "if this machine's clock is right, the record follows within a minute; else let it keep time (NTP)";
            self.find(Kind::Clock, what, advice);
        }
    }

    fn agreement(&mut self, views: &[(PeerId, &QuorumDetail)]) {
        let mut leaders = Leaders::default();
        let mut digests = Digests::default();
        let furthest = views.iter().map(|(_, view)| view.applied.0).max().unwrap_or(0);
        for (member, view) in views {
            let quorum = view.info.quorum;
            if let Some(primary) = view.info.primary
                && let Some(violation) = leaders.check(quorum, view.info.term.0, primary)
            {
                let advice = "two views a moment apart may differ: run the doctor again; if it stays, stop the nodes and report it";
                self.find(Kind::TwoPrimaries, violation.what, advice);
            }
            if let Some(violation) = digests.check(quorum, view.digest_index.0, *member, view.digest.0) {
                let advice = "the one that differs from a majority takes their state at the next comparison; if it stays, keep its folder for the report";
                self.find(Kind::Diverged, violation.what, advice);
            }
            if view.applied.0 + BEHIND_MAX < furthest {
                let behind = furthest - view.applied.0;
                let what = format!("member {member} of quorum {quorum} is {} behind", counted(behind, "log entry"));
                self.find(
                    Kind::MemberBehind,
                    what,
                    "it catches up by itself; if it does not, look at its disk and its network",
                );
            }
        }
        self.count("digests compared", digests.compared() as usize);
    }

    fn objects(&mut self, facts: &Facts) {
        for missing in &facts.objects.unreachable {
            let what = format!("the objects of quorum {} could not be looked at: {}", missing.quorum, missing.reason);
            let advice =
                format!("`quorate quorum show {}` shows what keeps its members from answering", missing.quorum);
            self.find(Kind::NotChecked, what, advice);
        }
        let mut reachable: BTreeSet<PeerId> = facts.asked.iter().map(|asked| asked.info.peer).collect();
        let connected = facts.asked.iter().flat_map(|asked| &asked.peers).filter(|peer| peer.connected);
        reachable.extend(connected.map(|peer| peer.peer));
        let (mut lost, mut owed, mut reasons) = (Vec::new(), Vec::new(), BTreeSet::new());
        for object in &facts.objects.items {
            self.count("objects", 1);
            self.count("columns", object.columns.len());
            let bad: BTreeSet<_> = object.owed.iter().map(|owed| owed.column).collect();
            let good = object.columns.iter().filter(|column| {
                !bad.contains(&column.column) && column.holder.is_some_and(|holder| reachable.contains(&holder))
            });
            if good.count() < usize::from(object.profile.data) {
                lost.push(object.object);
            }
            if !object.owed.is_empty() {
                owed.push(object.object);
                reasons.extend(object.owed.iter().map(|owed| owed.reason.as_str()));
            }
        }
        if !lost.is_empty() {
            let what = format!(
                "{} cannot be read, for too few columns can be reached: {}",
                counted(lost.len(), "object"),
                names(&lost)
            );
            let first = lost[0];
            self.find(
                Kind::Unreadable,
                what,
                format!("start their holders: `quorate object show {first}` names those of the first"),
            );
        }
        if !owed.is_empty() {
            let reasons: Vec<&str> = reasons.into_iter().collect();
            let what = format!(
                "a repair is owed to {}: {} ({})",
                counted(owed.len(), "object"),
                names(&owed),
                names(&reasons)
            );
            self.find(
                Kind::Degraded,
                what,
                "repairs go on by themselves; if they do not end, free disk on the full nodes or add nodes",
            );
        }
        for (object, read) in facts.reads.iter().flatten() {
            self.count("objects read", 1);
            if let Err(why) = read {
                self.find(
                    Kind::Unreadable,
                    format!("object {object} could not be read: {why}"),
                    format!("`quorate object show {object}` names its holders"),
                );
            }
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
