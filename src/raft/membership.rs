//! Membership driver: replaces lost members of the groups that this node leads. One per node.
//!
//! A voter is replaced in four cases:
//!
//! - its node has been away for the grace (`quorum.replace_grace`: a blip moves nothing);
//! - it has refused to take part for as long, for its disk is full or it left too early;
//! - its peer answers in another incarnation: that disk is gone, and the same peer is taken in again as a new member;
//! - this node has not trusted its peer for as long ([`TrustWatch`]). The present primary is none of those that it
//!   replaces itself: voters that do not trust it elect another (`liveness`).
//!
//! The newcomer is one of the standbys that the quorum keeps (`standbys`). When none of them is there, or its promise
//! has run out, the primary asks for a fresh promise. The newcomer creates the group on the strength of its own signed
//! promise, catches up as a learner, and then swaps places with the lost voter through a joint configuration. A group
//! has one change at a time. A primary finishes a joint configuration that another left behind, and removes a learner
//! that no change needs any more.
//!
//! A member that was replaced while away finds out when it is back: a majority of the voters it knows say, signed,
//! that it is none of them ([`check_own_membership`]). It then leaves, and keeps a note on where the quorum went.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::{ChangeMembers, EmptyNode, LogIdOptionExt};
use quorate_protocols::admission::TrustWatch;
use quorate_protocols::approval::Approval;
use quorate_protocols::approval::replacement::{Decision, Situation, decide};
use quorate_protocols::ids::{MemberId, Millis, PeerId, QuorumId};
use quorate_protocols::quorum::limits::VOTERS_MAX;
use quorate_protocols::quorum::request::{JobAnswer, JobMessage};
use quorate_protocols::quorum::{RaftMessage, Voters};
use quorate_protocols::wire;

use super::QuorumError;
use super::certify::{certify, is_certified};
use super::group::Group;
use super::host::Inner;
use super::standbys::{self, Standbys};
use super::types::members_of;
use crate::seams::{Frame, Protocol};

/// How often the driver looks. Replacing takes seconds anyway.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Standbys are looked at every so many looks.
const STANDBY_CHECKS: u32 = (standbys::CHECK_INTERVAL.as_secs() / CHECK_INTERVAL.as_secs()) as u32;

/// A learner that has not caught up by then is not a good replacement now; the next look tries again.
const CATCH_UP_MAX: Duration = Duration::from_secs(60);

/// One commit of a configuration, with a failover in the middle.
const CHANGE_MAX: Duration = Duration::from_secs(10);

/// A member that has had no primary or no majority for this long asks the others whether it still is one.
const ESTRANGED_AFTER: Duration = Duration::from_secs(30);

/// A group on which nothing was ever agreed is an abandoned founding. Long, because the others may have agreed while
/// this member was out of reach: if it left then, it would be lost to them until they have replaced it.
const BLANK_MAX: Duration = Duration::from_secs(1800);

pub struct Driver {
    host: Arc<Inner>,
    /// Looks since a group was last seen in good order, by what is wrong with it.
    blank: BTreeMap<QuorumId, u32>,
    estranged: BTreeMap<QuorumId, u32>,
    changing: BTreeMap<QuorumId, tokio::task::JoinHandle<Option<()>>>,
    standbys: Standbys,
    /// Of all members of groups here.
    trust: TrustWatch,
    /// When this node last began to replace a voter of each group that it does not trust.
    began: BTreeMap<QuorumId, Millis>,
}

impl Driver {
    pub async fn run(host: Arc<Inner>) {
        let shutdown = host.seams.tasks.shutdown_token();
        let mut this = Self {
            trust: TrustWatch::new(host.replace_grace),
            began: BTreeMap::new(),
            host,
            blank: BTreeMap::new(),
            estranged: BTreeMap::new(),
            changing: BTreeMap::new(),
            standbys: Standbys::default(),
        };
        let mut rounds = 0u32;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(CHECK_INTERVAL) => this.review_groups().await,
            }
            if rounds.is_multiple_of(STANDBY_CHECKS) {
                let led: Vec<_> = this.host.groups().into_iter().filter(|group| group.leading().is_some()).collect();
                this.standbys.start_rounds(&this.host, &led);
            }
            rounds = rounds.wrapping_add(1);
        }
    }

    async fn review_groups(&mut self) {
        let groups = self.host.groups();
        let running: BTreeSet<_> = groups.iter().map(|group| group.id).collect();
        self.changing.retain(|_, task| !task.is_finished());
        self.blank.retain(|quorum, _| running.contains(quorum));
        self.estranged.retain(|quorum, _| running.contains(quorum));
        self.began.retain(|quorum, _| running.contains(quorum));
        self.watch_trust(&groups);
        let denied = self.host.denied.lock().clone();
        for group in groups {
            if count(&mut self.blank, group.id, group.is_blank()) > BLANK_MAX {
                tracing::info!(quorum = %group.id, "a founding was abandoned");
                self.start(group, |host, group| async move { leave(&host, &group).await });
                continue;
            }
            let estranged = !group.is_blank()
                && !group.is_stopped()
                && (denied.contains(&group.id) || group.is_paused() || !group.members().contains(&group.me));
            if count(&mut self.estranged, group.id, estranged) > ESTRANGED_AFTER {
                self.estranged.remove(&group.id);
                self.start(group.clone(), |host, group| async move { check_own_membership(&host, &group).await });
            }
            if group.leading().is_some() {
                let Ok(turn) = group.changing.clone().try_lock_owned() else { continue };
                let Some(change) = self.decide(&group) else { continue };
                self.start(group, |host, group| async move {
                    if let Err(error) = perform(&host, &group, change).await {
                        tracing::warn!(quorum = %group.id, %error, "a change of the members failed; it is tried again");
                    }
                    drop(turn);
                });
            }
        }
    }

    /// Notes which members this node does not trust any more, and tells the liveness layer.
    fn watch_trust(&mut self, groups: &[Arc<Group>]) {
        let (now, me) = (self.host.seams.clock.monotonic(), self.host.identity.peer());
        let members = groups.iter().flat_map(|group| group.members()).map(|member| member.peer);
        let members: BTreeSet<PeerId> = members.filter(|peer| *peer != me).collect();
        self.trust.retain(|peer| members.contains(&peer));
        for peer in members {
            self.trust.observe(now, peer, self.host.check_trust(peer));
        }
        let due = self.trust.distrusted().filter(|peer| self.trust.due(now, *peer).is_some());
        *self.host.distrusted.lock() = due.collect();
    }

    fn start<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        group: Arc<Group>,
        change: impl FnOnce(Arc<Inner>, Arc<Group>) -> F,
    ) {
        if !self.changing.contains_key(&group.id) {
            let quorum = group.id;
            self.changing.insert(quorum, crate::seams::spawn(change(self.host.clone(), group)));
        }
    }

    /// The next change that this group needs, most urgent first.
    fn decide(&mut self, group: &Group) -> Option<Change> {
        let membership = group.membership();
        let joint = membership.get_joint_config();
        if joint.len() > 1 {
            return joint.last().map(|voters| Change::Settle { voters: voters.clone() });
        }
        let (voters, learners) = members_of(&membership);
        let record = group.record();
        let now = self.host.seams.clock.monotonic();
        let trusted = |voter: &&MemberId| self.trust.due(now, voter.peer).is_none();
        for &lost in voters.iter().filter(trusted) {
            let Some(incarnation) = self.host.links.reborn(group.id, lost) else { continue };
            let with = MemberId { peer: lost.peer, incarnation };
            let approval = record.approvals().find(|approval| approval.statement.approver == lost.peer);
            if let Some(approval) = approval {
                return Some(Change::Swap { lost, with, approval: approval.clone() });
            }
        }
        let since = self.host.suspected.lock().clone();
        let recorded = group.machine.read(|applied| applied.state.standbys().to_vec());
        // Those of the founding come last: most of them are recorded, and the promises of the others may have run out.
        let approvals: Vec<Approval> = recorded.into_iter().chain(record.standbys).collect();
        let standbys: Vec<MemberId> = approvals.iter().map(Approval::member).collect();
        // A member whose disk is gone, and whose promise is not known here, has been away for ever.
        let reborn = |member: &MemberId| self.host.links.reborn(group.id, *member).map(|_| Millis(0));
        let refuses = |member: &MemberId| {
            let refused = self.host.links.refuses(group.id, *member)?;
            Some(Millis(now.0.saturating_sub(refused.as_millis() as u64)))
        };
        let away = |member: &MemberId| {
            let since = since.get(&member.peer).copied();
            Some((*member, reborn(member).or(since).or_else(|| refuses(member))?))
        };
        // Standbys are not watched; one without a connection is as good as away.
        let reachable = |standby: &MemberId| self.host.net.is_connected(standby.peer);
        let lapsed = voters.iter().filter_map(|voter| Some((*voter, self.trust.lapse(voter.peer)?.due)));
        let unfit = standbys.iter().filter(|standby| self.host.check_trust(standby.peer).is_err());
        let situation = Situation {
            configurations: vec![Voters::new(voters.iter().copied())],
            suspected: voters.iter().chain(&standbys).filter_map(away).collect(),
            standbys: standbys.iter().copied().filter(reachable).collect(),
            distrusted: unfit.map(|standby| (*standby, now)).chain(lapsed).collect(),
            began_at: self.began.get(&group.id).copied(),
        };
        let decision = decide(now, &situation, self.host.replace_grace);
        if let Decision::Replace { lost, .. } | Decision::FindStandby { lost } = decision
            && !situation.suspected.contains_key(&lost)
            && let Some(reason) = self.trust.due(now, lost.peer)
        {
            tracing::info!(quorum = %group.id, %lost, %reason, "a member is not trusted any more: replacing it");
            self.began.insert(group.id, now);
        }
        match decision {
            Decision::Replace { lost, with } => {
                let approval = approvals.iter().find(|approval| approval.member() == with)?;
                Some(Change::Swap { lost, with, approval: approval.clone() })
            }
            Decision::FindStandby { lost } => Some(Change::Recruit { lost }),
            Decision::NoMajority => None,
            _ if !group.machine.read(|applied| is_certified(applied.state.chain(), &voters)) => {
                Some(Change::Certify { voters: voters.into_iter().collect() })
            }
            Decision::WaitUntil(_) => None,
            Decision::FinishJoint | Decision::Nothing => (!learners.is_empty()).then_some(Change::Release { learners }),
        }
    }
}

/// Adds up looks at which `wrong` held; the time that it has held for.
fn count(rounds: &mut BTreeMap<QuorumId, u32>, quorum: QuorumId, wrong: bool) -> Duration {
    if !wrong {
        rounds.remove(&quorum);
        return Duration::ZERO;
    }
    let rounds = rounds.entry(quorum).or_default();
    *rounds = rounds.saturating_add(1);
    CHECK_INTERVAL * *rounds
}

enum Change {
    /// Finish what another primary began.
    Settle {
        voters: BTreeSet<MemberId>,
    },
    Swap {
        lost: MemberId,
        with: MemberId,
        approval: Approval,
    },
    /// Win somebody new and swap it in.
    Recruit {
        lost: MemberId,
    },
    /// Have the voters certified: nobody has recorded the founding, or a change came to nothing after it was signed.
    Certify {
        voters: BTreeSet<MemberId>,
    },
    Release {
        learners: Vec<MemberId>,
    },
}

async fn perform(host: &Arc<Inner>, group: &Arc<Group>, change: Change) -> Result<(), QuorumError> {
    match change {
        Change::Settle { voters } => change_voters(group, voters).await,
        Change::Swap { lost, with, approval } => match swap(host, group, lost, with, approval).await {
            Err(error @ QuorumError::Paused { .. }) if group.leading().is_some() => {
                tracing::info!(quorum = %group.id, %with, %error, "a standby cannot be taken in; asking others");
                recruit(host, group, lost).await
            }
            swapped => swapped,
        },
        Change::Recruit { lost } => recruit(host, group, lost).await,
        Change::Certify { voters } => certify(host, group, &voters).await,
        Change::Release { learners } => {
            let learners = ChangeMembers::RemoveNodes(learners.into_iter().collect());
            bounded(group, group.raft.change_membership(learners, false)).await
        }
    }
}

/// Replaces `lost` by a peer that promises now. Its own peer may come back too, as another member.
async fn recruit(host: &Arc<Inner>, group: &Arc<Group>, lost: MemberId) -> Result<(), QuorumError> {
    let failed = |reason: String| QuorumError::Paused { quorum: group.id, reason };
    let Some(membership_leases) = host.membership_leases.get() else {
        return Err(failed("no standby is there".to_owned()));
    };
    let (voters, _) = members_of(&group.membership());
    let exclude = voters.iter().filter(|voter| **voter != lost).map(|voter| voter.peer).collect();
    let level = group.machine.read(|applied| applied.state.level());
    let approval = membership_leases.win_member(group.id, exclude, level).await.map_err(failed)?;
    swap(host, group, lost, approval.member(), approval).await
}

/// Takes in `with` in the place of `lost`. Every step may be repeated after a failure.
pub async fn swap(
    host: &Arc<Inner>,
    group: &Arc<Group>,
    lost: MemberId,
    with: MemberId,
    approval: Approval,
) -> Result<(), QuorumError> {
    group.check_leading()?;
    let failed = |reason: String| QuorumError::Paused { quorum: group.id, reason };
    let (voters, _) = members_of(&group.membership());
    if !voters.contains(&lost) && voters.contains(&with) {
        return Ok(());
    }
    let mut record = group.record();
    // The newest promise of a peer counts. Its earlier one may have run out, or been made in another life of its disk.
    if !record.approvals().any(|known| *known == approval) {
        let mut known = record.members.iter_mut().chain(&mut record.standbys);
        if let Some(known) = known.find(|known| known.statement.approver == with.peer) {
            *known = approval;
        } else {
            record.standbys.truncate(VOTERS_MAX - 1);
            record.standbys.push(approval);
        }
    }
    let (members, standbys) = (record.members.clone(), record.standbys.clone());
    let founding = record.founding.clone();
    let invitation = RaftMessage::Found { founding, members, standbys, initialize: false };
    host.ask_to_found(with.peer, invitation)
        .await
        .map_err(|reason| failed(format!("{} does not take part: {reason}", with.peer)))?;
    super::records::write_record(&host.storage, group.id, &record).await.map_err(|error| failed(error.to_string()))?;
    group.set_record(record);
    tracing::info!(quorum = %group.id, %lost, %with, "replacing a member");
    bounded(group, group.raft.add_learner(with, EmptyNode {}, false)).await?;
    catch_up(group, with).await?;
    // Looked at again: the configuration may have moved while the learner caught up.
    let (voters, _) = members_of(&group.membership());
    let voters = voters.into_iter().filter(|voter| *voter != lost).chain([with]).collect();
    if let Err(error) = certify(host, group, &voters).await {
        // Voters that do not trust it refuse it for good: it is not left behind as a learner, one for each try.
        if matches!(error, QuorumError::Paused { .. }) {
            let learner = ChangeMembers::RemoveNodes([with].into());
            let _ = bounded(group, group.raft.change_membership(learner, false)).await;
        }
        return Err(error);
    }
    change_voters(group, voters).await
}

/// Waits until the learner has everything that the log held when the wait began.
async fn catch_up(group: &Group, learner: MemberId) -> Result<(), QuorumError> {
    let end = group.raft.metrics().borrow().last_log_index;
    let wait = group.raft.wait(Some(CATCH_UP_MAX));
    let caught_up = wait.metrics(
        move |metrics| match &metrics.replication {
            Some(replication) => {
                replication.get(&learner).is_some_and(|matched| matched.is_some() && matched.index() >= end)
            }
            // Not the primary any more: the change after this is refused.
            None => true,
        },
        "a learner catching up",
    );
    caught_up.await.map(drop).map_err(|_| QuorumError::Unknown { after: CATCH_UP_MAX, reason: None })
}

async fn change_voters(group: &Group, voters: BTreeSet<MemberId>) -> Result<(), QuorumError> {
    bounded(group, group.raft.change_membership(voters, false)).await
}

async fn bounded<T, E: std::fmt::Display>(
    group: &Group,
    change: impl Future<Output = Result<T, E>>,
) -> Result<(), QuorumError> {
    match tokio::time::timeout(CHANGE_MAX, change).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => {
            group.check_leading()?;
            Err(QuorumError::Paused { quorum: group.id, reason: error.to_string() })
        }
        Err(_) => Err(QuorumError::Unknown { after: CHANGE_MAX, reason: None }),
    }
}

/// Asks the other voters, as far as this member knows them, who the members are. One peer's word only routes; when a
/// majority of the voters known here say that this member is none, it is none.
async fn check_own_membership(host: &Arc<Inner>, group: &Arc<Group>) {
    let question = Frame::head(wire::encode(&JobMessage::Membership { quorum: group.id }));
    for voters in group.configurations() {
        let others: Vec<MemberId> = voters.iter().filter(|member| *member != group.me).collect();
        let asked = others.iter().map(|member| {
            let deadline = Protocol::Job.deadline_max();
            host.net.request(member.peer, Protocol::Job, question.clone(), deadline)
        });
        let mut disowning = BTreeSet::new();
        for (member, answer) in others.iter().zip(futures::future::join_all(asked).await) {
            let Ok(frame) = answer else { continue };
            let Ok(answer) = wire::decode(&frame.head, Protocol::Job.head_bytes_max()) else { continue };
            let members = match answer {
                JobAnswer::Membership(signed)
                    if signed.is_genuine()
                        && signed.statement.quorum == group.id
                        && signed.statement.by.peer == member.peer =>
                {
                    signed.statement.voters
                }
                JobAnswer::Moved { voters } => voters,
                _ => continue,
            };
            if !members.is_empty() && !members.contains(&group.me) {
                disowning.insert(*member);
            }
        }
        if Voters::new(voters.iter()).is_majority(&disowning) {
            tracing::info!(quorum = %group.id, "the other members have replaced this one");
            return leave(host, group).await;
        }
    }
}

async fn leave(host: &Arc<Inner>, group: &Group) {
    if let Err(error) = host.leave(group.id).await {
        tracing::warn!(quorum = %group.id, %error, "what this node kept of a quorum could not be removed; it is tried again");
    }
}
