//! Raft messages of those who may not lead: founders, standbys, members that were replaced, and voters that lie.

use std::collections::BTreeMap;

use openraft::entry::RaftEntry;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use openraft::{CommittedLeaderId, EmptyNode, LeaderId, Membership};
use quorate_protocols::ids::{Digest, LogIndex};
use quorate_protocols::liveness::{LivenessAnswer, LivenessMessage, LogPosition, PreVote};
use quorate_protocols::quorum::limits::{SNAPSHOT_CHUNKS_MAX, TERM_JUMP_MAX, TERM_MAX};
use quorate_protocols::quorum::{RaftAnswer, Refusal};

use super::*;
use crate::raft::copies::BYTES_MAX;
use crate::raft::door::{check_answer, check_voted};
use crate::raft::network::{AppendBody, SnapshotBody};
use crate::raft::snapshot::Trees;
use crate::raft::snapshot::name_of;
use crate::raft::types::{Entry, LogId, SnapshotList, SnapshotMeta, Vote};
use crate::seams::{NetError, Protocol};

/// An honest network's answer takes milliseconds.
const SOON: Duration = Duration::from_secs(5);

pub fn vote_of(by: MemberId, term: u64, committed: bool) -> Vote {
    Vote { leader_id: LeaderId { term, voted_for: Some(by) }, committed }
}

/// An entry that a primary of that vote would have written.
fn log_id_of(vote: Vote, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(vote.leader_id.term, MemberId::default()), index)
}

/// An append to `to` in the name of whom the vote names.
pub fn append(to: MemberId, vote: Vote, entries: Vec<Entry>, digest: (LogIndex, Digest)) -> RaftMessage {
    let request = AppendEntriesRequest { vote, prev_log_id: None, entries, leader_commit: None };
    RaftMessage::Append { quorum: quorum_id(), to, body: wire::encode(&AppendBody { request, digest }) }
}

pub fn asks_vote(to: MemberId, vote: Vote) -> RaftMessage {
    let last_log_id = Some(log_id_of(vote, 1 << 40));
    RaftMessage::Vote { quorum: quorum_id(), to, body: wire::encode(&VoteRequest { vote, last_log_id }) }
}

fn snapshot(to: MemberId, vote: Vote, chunks: Vec<Digest>) -> RaftMessage {
    let last_log_id = Some(log_id_of(vote, 1 << 40));
    let meta = SnapshotMeta { last_log_id, ..SnapshotMeta::default() };
    let list = SnapshotList { chunks, ..SnapshotList::default() };
    RaftMessage::Snapshot { quorum: quorum_id(), to, body: wire::encode(&SnapshotBody { vote, meta, list }) }
}

impl TestNet {
    /// The node's answer to a message that comes over a connection of `from`.
    pub async fn answer_to(&self, at: usize, from: PeerId, message: RaftMessage) -> RaftAnswer {
        let (host, tasks) = self.nodes[at].running.as_ref().expect("the node runs");
        tasks.scope(host.0.answer(from, message)).await.0
    }

    /// The votes on the disks of the members.
    fn votes(&self, members: &[usize]) -> Vec<Vote> {
        members.iter().map(|at| self.nodes[*at].group().log.vote().unwrap().expect("they voted")).collect()
    }

    /// Voters 0, 1 and 2 with standby 3, founded by 4, which is no member; 5 has no part in it.
    async fn founded_by_a_stranger() -> Self {
        let net = Self::new(6).await;
        let asker = net.nodes[4].member().peer;
        let members: Vec<_> = net.nodes[..3].iter().map(|node| node.approve(asker)).collect();
        let founding = founding(&members);
        let standbys = vec![net.nodes[3].stand_by(asker)];
        net.nodes[4].host().found(founding, members, standbys).await.expect("founded");
        net.commit(submit(0)).await.unwrap();
        net
    }
}

/// Goal: no message of one that is no voter moves a vote, a term or a primary, whatever its part in the quorum was
/// once; and the members elect after a restart. Method: a founder, a standby, a member that was replaced and a stranger
/// send all three messages, with terms near and far, to each member; one of those was taken in on an invitation that
/// names them all.
#[tokio::test(start_paused = true)]
async fn only_voters_speak_raft_to_a_member() {
    let mut net = TestNet::founded_by_a_stranger().await;
    let primary = net.led().await;
    let replaced = (primary + 1) % 3;
    let asker = net.nodes[primary].member().peer;
    let (lost, approval) = (net.nodes[replaced].member(), net.nodes[5].stand_by(asker));
    net.nodes[primary].quorum().replace(lost, approval).await.unwrap();
    net.commit(submit(1)).await.unwrap();
    let members = [primary, (primary + 2) % 3, 5];
    net.converged(&members).await;
    let (votes, term) = (net.votes(&members), net.nodes[primary].quorum().term());
    for attacker in [3, 4, replaced] {
        let by = net.nodes[attacker].member();
        for to in members {
            let member = net.nodes[to].member();
            for far in [term.0 + 1, term.0 + (1 << 32), u64::MAX] {
                for committed in [false, true] {
                    let vote = vote_of(by, far, committed);
                    let itself = Membership::new(vec![[by].into()], BTreeMap::from([(by, EmptyNode {})]));
                    let entry = Entry::new_membership(log_id_of(vote, 0), itself);
                    for message in [
                        append(member, vote, vec![], Default::default()),
                        append(member, vote, vec![entry], Default::default()),
                        asks_vote(member, vote),
                        snapshot(member, vote, vec![]),
                    ] {
                        let answer = net.answer_to(to, by.peer, message).await;
                        let refused = RaftAnswer::Failed { reason: Refusal::NotMember.to_string() };
                        assert_eq!(answer, refused, "{attacker} to {to}");
                    }
                }
            }
            let attest = RaftMessage::Attest { quorum: quorum_id(), index: LogIndex(0) };
            let copy = RaftMessage::Copy { quorum: quorum_id(), least: LogIndex(0) };
            for message in [attest, copy, RaftMessage::Chunk { quorum: quorum_id(), hash: Digest([1; 32]) }] {
                assert!(matches!(net.answer_to(to, by.peer, message).await, RaftAnswer::Failed { .. }));
            }
        }
    }
    assert_eq!(net.votes(&members), votes);
    assert_eq!((net.led().await, net.nodes[primary].quorum().term()), (primary, term));
    net.commit(submit(2)).await.unwrap();
    members.into_iter().for_each(|index| net.crash(index));
    for index in members {
        net.start(index).await;
    }
    // Also what was on disk of the invitation admits nobody any more.
    let vote = vote_of(net.nodes[3].member(), term.0 + 1, true);
    let answer =
        net.answer_to(5, net.nodes[3].member().peer, append(net.nodes[5].member(), vote, vec![], Default::default()));
    assert!(matches!(answer.await, RaftAnswer::Failed { .. }));
    net.commit(submit(3)).await.unwrap();
    net.converged(&members).await;
    assert!(members.iter().all(|index| jobs(&net.nodes[*index]) == 4));
}

/// Goal: what even a voter may not do: speak for another, take a term that no elections reach, be a second primary of
/// one term (at which openraft would panic), append without having been elected, or out of order.
#[tokio::test(start_paused = true)]
async fn a_voter_that_lies_takes_no_term_and_stops_nobody() {
    let mut net = TestNet::founded(3, 3).await;
    net.commit(submit(0)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    let (term, votes) = (net.terms()[0].0, net.votes(&[0, 1, 2]));
    let (liar, other) = (net.nodes[1].member(), net.nodes[2].member());
    let reborn = MemberId { incarnation: Incarnation(99), ..liar };
    for to in [0, 2] {
        let member = net.nodes[to].member();
        for (vote, why) in [
            (vote_of(other, term + 1, true), Refusal::OtherName),
            (vote_of(reborn, term + 1, true), Refusal::NotVoter),
            (vote_of(liar, term, true), Refusal::SecondPrimary { term: Term(term) }),
            (vote_of(liar, term + 1, false), Refusal::NotElected),
        ] {
            let refused = RaftAnswer::Failed { reason: why.to_string() };
            let told = net.answer_to(to, liar.peer, append(member, vote, vec![], Default::default())).await;
            assert_eq!(told, refused);
            assert_eq!(net.answer_to(to, liar.peer, snapshot(member, vote, vec![])).await, refused);
        }
        for far in [term + TERM_JUMP_MAX + 1, term + (1 << 32), u64::MAX] {
            let vote = vote_of(liar, far, true);
            for message in [
                append(member, vote, vec![], Default::default()),
                asks_vote(member, Vote { committed: false, ..vote }),
                snapshot(member, vote, vec![]),
            ] {
                let told = net.answer_to(to, liar.peer, message).await;
                assert!(matches!(&told, RaftAnswer::Failed { reason } if reason.contains("beyond")), "{told:?}");
            }
        }
    }
    assert_eq!(net.votes(&[0, 1, 2]), votes);
    net.commit(submit(1)).await.unwrap();
    net.crash(0);
    net.commit(submit(2)).await.unwrap();
    net.converged(&[1, 2]).await;
}

/// Goal: no answer takes this member's term where no elections lead, or makes it a primary.
#[tokio::test(start_paused = true)]
async fn votes_in_answers_are_believed_as_far_as_elections_reach() {
    let net = TestNet::founded(3, 3).await;
    let (group, other) = (net.nodes[0].group(), net.nodes[1].member());
    let (known, term) = (&group.log.known_vote, group.term().0);
    assert_eq!(known.get(), group.log.vote().unwrap().unwrap());
    let believed = check_answer(group.me, known, vote_of(other, term + 1, true));
    assert_eq!(believed, Ok(vote_of(other, term + 1, false)));
    assert!(check_answer(group.me, known, vote_of(group.me, term + 1, true)).is_err());
    let asked = vote_of(group.me, term + 1, false);
    let answer = |vote| VoteResponse { vote, vote_granted: false, last_log_id: None };
    assert!(check_voted(group.me, known, asked, answer(asked)).is_ok());
    for far in [term + (1 << 32), u64::MAX] {
        assert!(check_answer(group.me, known, vote_of(other, far, false)).is_err());
        assert!(check_voted(group.me, known, asked, answer(vote_of(other, far, false))).is_err());
    }
    assert!(check_answer(group.me, known, vote_of(other, TERM_MAX + 1, false)).is_err());
}

/// Goal: the same through a primary that has such an answer. Method: a member's place on the network is taken by one
/// that answers each append with the highest vote there is.
#[tokio::test(start_paused = true)]
async fn a_primary_that_is_answered_with_a_term_beyond_belief_leads_on() {
    let mut net = TestNet::founded(3, 3).await;
    net.commit(submit(0)).await.unwrap();
    let (term, liar) = (net.terms()[0], net.nodes[2].member());
    net.crash(2);
    let (_net, mut inbound) =
        net.world.network.attach(3, liar.peer, Arc::new(VirtualClock::boot(net.clock, &net.nodes[2].offset)));
    let lying = tokio::spawn(async move {
        let mut asked = 0;
        while let Some(request) = inbound.raft.recv().await {
            let higher = AppendEntriesResponse::HigherVote(vote_of(liar, u64::MAX, true));
            request.reply.send(Frame::head(wire::encode(&RaftAnswer::Ok { body: wire::encode(&higher) })));
            asked += 1;
            if asked == 5 {
                break;
            }
        }
    });
    for number in 1..30 {
        net.commit(submit(number)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(lying.is_finished(), "it was asked again and again");
    assert_eq!((net.led().await, net.nodes[0].quorum().term()), (0, term));
}

/// Goal: a newcomer follows the quorum that takes it in, and nobody else who knows of it.
#[tokio::test(start_paused = true)]
async fn a_newcomer_follows_the_peers_of_its_invitation_only() {
    let net = TestNet::founded_by_a_stranger().await;
    let primary = net.led().await;
    let group = net.nodes[primary].group();
    let approval = net.nodes[5].stand_by(group.me.peer);
    let mut standbys = group.record().standbys;
    standbys.push(approval.clone());
    let (founding, members) = (group.record().founding, group.record().members);
    let invitation = RaftMessage::Found { founding, members, standbys, initialize: false };
    assert_eq!(net.answer_to(5, group.me.peer, invitation).await, RaftAnswer::Founded);
    assert!(net.nodes[5].group().is_blank());
    let (founder, newcomer) = (net.nodes[4].member(), net.nodes[5].member());
    for (from, message) in [
        (founder.peer, append(newcomer, vote_of(founder, 1, true), vec![], Default::default())),
        (founder.peer, asks_vote(newcomer, vote_of(founder, 1, false))),
        // Nobody needs its vote yet.
        (group.me.peer, asks_vote(newcomer, vote_of(group.me, 9, false))),
    ] {
        assert!(matches!(net.answer_to(5, from, message).await, RaftAnswer::Failed { .. }));
    }
    assert!(net.nodes[5].group().log.vote().unwrap().is_none(), "no message moved its vote");
    let lost = net.nodes[(primary + 1) % 3].member();
    net.nodes[primary].quorum().replace(lost, approval).await.unwrap();
    net.commit(submit(1)).await.unwrap();
    net.converged(&[primary, 5]).await;
}

/// Goal: a member that was away while another became primary, which it never heard of, follows it on the word of a
/// voter that it knows.
#[tokio::test(start_paused = true)]
async fn a_member_that_was_away_follows_a_primary_that_came_meanwhile() {
    let mut net = TestNet::founded(6, 5).await;
    net.commit(submit(0)).await.unwrap();
    net.converged(&[0, 1, 2, 3, 4]).await;
    net.world.cut_off([net.nodes[4].member().peer]);
    let (asker, lost) = (net.nodes[0].member().peer, net.nodes[1].member());
    net.nodes[0].quorum().replace(lost, net.nodes[5].stand_by(asker)).await.unwrap();
    net.commit(submit(1)).await.unwrap();
    net.converged(&[0, 2, 3, 5]).await;
    net.crash(0);
    while net.nodes[5].quorum().leading().is_none() {
        net.nodes[5].group().raft.trigger().elect().await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    net.world.heal();
    net.converged(&[2, 3, 4, 5]).await;
    net.commit(submit(2)).await.unwrap();
    net.converged(&[2, 3, 4, 5]).await;
    assert!(net.nodes[4].quorum().view().voters.contains(&net.nodes[5].member()));
}

/// Goal: the same when its vote is what a majority lacks.
#[tokio::test(start_paused = true)]
async fn a_member_that_was_away_votes_for_a_candidate_that_came_meanwhile() {
    let mut net = TestNet::founded(4, 3).await;
    net.commit(submit(0)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    net.world.cut_off([net.nodes[2].member().peer]);
    let (asker, lost) = (net.nodes[0].member().peer, net.nodes[1].member());
    net.nodes[0].quorum().replace(lost, net.nodes[3].stand_by(asker)).await.unwrap();
    net.commit(submit(1)).await.unwrap();
    net.converged(&[0, 3]).await;
    net.crash(0);
    net.world.heal();
    net.commit(submit(2)).await.unwrap();
    net.converged(&[2, 3]).await;
    assert_eq!(jobs(&net.nodes[2]), 3);
}

/// Goal: pre-votes make a primary speak up a few times a second, and those of strangers not at all.
#[tokio::test(start_paused = true)]
async fn pre_votes_without_end_cost_a_primary_few_heartbeats() {
    const ASKED: u32 = 1_000;
    let net = TestNet::founded(5, 3).await;
    net.commit(submit(0)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    // What a founding leaves to do (its record, the certificate, the standbys) is done.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (primary, terms) = (net.nodes[0].member().peer, net.terms());
    // What goes to a member anyway, in the time that the questions below take.
    let before = net.world.raft_asked(3);
    tokio::time::sleep(2 * ASKED * Duration::from_millis(1)).await;
    let quiet = net.world.raft_asked(3) - before;
    assert!(quiet < 10, "{quiet} messages in a quiet quorum");
    for (asker, is_voter) in [(3, false), (1, true)] {
        let candidate = net.nodes[asker].member();
        let question = PreVote {
            quorum: quorum_id(),
            term: Term(1 << 40),
            candidate,
            missing: None,
            last_log: LogPosition::default(),
        };
        let frame = Frame::head(wire::encode(&LivenessMessage::PreVote(question)));
        let (asking, began) = (net.world.net(candidate.peer), tokio::time::Instant::now());
        let before = net.world.raft_asked(3);
        for _ in 0..ASKED {
            let answer = asking.request(primary, Protocol::Liveness, frame.clone(), SOON).await.unwrap();
            let answer: LivenessAnswer = wire::decode(&answer.head, 1 << 20).unwrap();
            match is_voter {
                true => assert!(matches!(answer, LivenessAnswer::PreVote { granted: false, .. }), "{answer:?}"),
                false => assert_eq!(answer, LivenessAnswer::NotMember),
            }
        }
        let sent = net.world.raft_asked(3) - before;
        // What comes anyway now and then is not counted exactly: the questions are a thousand.
        let most = if is_voter { began.elapsed().as_millis() as usize / 50 + 2 } else { 4 };
        let least = if is_voter { quiet + 1 } else { 0 };
        assert!((least..=quiet + most).contains(&sent), "{sent} messages in {:?}, and {quiet} anyway", began.elapsed());
    }
    assert_eq!((net.led().await, net.terms()), (0, terms));
}

/// Goal: a sender of snapshots costs its receiver one snapshot's bytes at most, however many it begins. Method: a
/// member's place on the network is taken by one that gives any chunk it named, and sends list after list.
#[tokio::test(start_paused = true)]
async fn a_snapshot_that_is_too_large_is_refused_and_given_up_ones_are_deleted() {
    const CHUNK: usize = 1024 * 1024;
    let bytes = |number: usize| {
        let mut bytes = vec![7; CHUNK];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        bytes
    };
    let mut net = TestNet::founded(3, 3).await;
    net.commit(submit(0)).await.unwrap();
    net.converged(&[0, 1, 2]).await;
    let (liar, target) = (net.nodes[2].member(), net.nodes[1].member());
    net.crash(2);
    let clock = Arc::new(VirtualClock::boot(net.clock, &net.nodes[2].offset));
    let (sender, mut inbound) = net.world.network.attach(3, liar.peer, clock);
    let numbers: BTreeMap<Digest, usize> = (0..100).map(|number| (name_of(&bytes(number)), number)).collect();
    let serving = tokio::spawn(async move {
        while let Some(request) = inbound.raft.recv().await {
            let Ok(RaftMessage::Chunk { hash, .. }) = wire::decode(&request.frame.head, 1 << 22) else { continue };
            request.reply.send(Frame::new(wire::encode(&RaftAnswer::Chunk), bytes(numbers[&hash]).into()));
        }
    });
    let vote = vote_of(liar, net.terms()[0].0 + 1, true);
    let send = async |numbers: std::ops::Range<usize>| {
        let chunks = numbers.map(|number| name_of(&bytes(number))).collect();
        let frame = Frame::head(wire::encode(&snapshot(target, vote, chunks)));
        let answer = sender.request(target.peer, Protocol::Raft, frame, SOON).await?;
        let RaftAnswer::Failed { reason } = wire::decode(&answer.head, 1 << 22).unwrap() else { panic!("refused") };
        Ok::<_, NetError>(reason)
    };
    let kept = |net: &TestNet| {
        let (kv, tree) = (net.nodes[1].disk.disk().kv, Trees::of(quorum_id()).chunks);
        let chunks = kv.range(&tree, &[], &[0xff; 33], usize::MAX, usize::MAX).unwrap();
        chunks.iter().map(|(_, chunk)| chunk.len()).sum::<usize>()
    };
    let most = BYTES_MAX / CHUNK;
    for round in 0..3 {
        let reason = send(round * 2 * most..(round + 1) * 2 * most).await.unwrap();
        assert!(reason.contains("more than"), "{reason}");
        let kept = kept(&net);
        assert!((BYTES_MAX..=BYTES_MAX + 8 * CHUNK).contains(&kept), "{kept} bytes are kept in round {round}");
    }
    // Chunks that are what they are named for, and make no state.
    let reason = send(5..7).await.unwrap();
    assert!(reason.contains("damaged"), "{reason}");
    assert!(!net.nodes[1].group().is_stopped() && net.votes(&[1])[0].leader_id.term < vote.leader_id.term);
    let names = (0..=SNAPSHOT_CHUNKS_MAX as u64).map(|number| Digest(*blake3::hash(&number.to_le_bytes()).as_bytes()));
    let answer = net.answer_to(1, liar.peer, snapshot(target, vote, names.collect())).await;
    assert!(matches!(&answer, RaftAnswer::Failed { reason } if reason.contains("chunks are more")), "{answer:?}");
    assert_eq!(net.led().await, 0, "what is refused changes nothing");
    serving.abort();
}
