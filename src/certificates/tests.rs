//! Certificates over a scripted network: who is believed, and what a liar costs.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};

use quorate_protocols::approval::Signature;
use quorate_protocols::certificate::{CertificatePart, Founding, Link, LinkStatement};
use quorate_protocols::ids::Nonce;
use quorate_testkit::{MemoryDisk, Reaction, ScriptedNet, seams};

use super::*;
use crate::testing::identity;

fn peer(n: u8) -> PeerId {
    identity(n).peer()
}

fn founding() -> Founding {
    Founding::new(peer(1), Nonce([1; 16]), [1, 2, 3].map(|n| identity(n).member()))
}

/// The certificate after 4 has taken the place of 3.
fn changed() -> CertificatePart {
    let voters = Founding::new(peer(1), Nonce([1; 16]), [1, 2, 4].map(|n| identity(n).member())).voters;
    let statement = LinkStatement { quorum: founding().quorum(), base: 0, number: 1, voters: voters.clone() };
    let sign = |n: u8| -> (PeerId, Signature) { (peer(n), statement.sign(identity(n).signing_key())) };
    CertificatePart {
        founding: Some(founding()),
        links: vec![Link { number: 1, voters, signatures: vec![sign(1), sign(2)] }],
        more: false,
    }
}

fn first() -> CertificatePart {
    CertificatePart { founding: Some(founding()), ..CertificatePart::default() }
}

fn certificates(
    shown: impl Fn(PeerId) -> JobAnswer + Send + Sync + 'static,
) -> (Certificates, Arc<ScriptedNet>, Arc<dyn Clock>) {
    let net = ScriptedNet::new(peer(100), move |peer, protocol, frame| {
        assert_eq!(protocol, Protocol::Job);
        let asked: JobMessage = wire::decode(&frame.head, Protocol::Job.head_bytes_max()).unwrap();
        assert!(matches!(asked, JobMessage::Certificate { .. }), "{asked:?}");
        Reaction::Answer(Frame::head(wire::encode(&shown(peer))))
    });
    let clock = seams(1, MemoryDisk::default().disk()).clock;
    (Certificates::new(net.clone(), clock.clone()), net, clock)
}

#[tokio::test(start_paused = true)]
async fn a_voter_shows_its_certificate_once() {
    let (certificates, net, _) = certificates(|_| JobAnswer::Certificate(first()));
    let quorum = founding().quorum();
    assert!(!certificates.has_voter(quorum, peer(1)), "nothing is known yet");
    assert_eq!(certificates.standing(quorum, peer(1)).await, Standing::Voter);
    // The others are in it.
    for n in [1, 2, 3] {
        assert!(certificates.has_voter(quorum, peer(n)));
        assert_eq!(certificates.standing(quorum, peer(n)).await, Standing::Voter);
    }
    assert_eq!(net.asked(), [peer(1)]);
}

#[tokio::test(start_paused = true)]
async fn whoever_shows_a_certificate_of_others_is_a_stranger_and_is_not_asked_again_at_once() {
    let (certificates, net, _) = certificates(|_| JobAnswer::Certificate(first()));
    let quorum = founding().quorum();
    for _ in 0..3 {
        assert_eq!(certificates.standing(quorum, peer(9)).await, Standing::Stranger);
    }
    assert_eq!(net.asked(), [peer(9)]);
    tokio::time::sleep(REFUSED_FOR).await;
    assert_eq!(certificates.standing(quorum, peer(9)).await, Standing::Stranger);
    assert_eq!(net.asked(), [peer(9), peer(9)]);
    assert!(net.penalised.lock().is_empty(), "what it showed is true");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_of_another_quorum_proves_nothing() {
    let (certificates, net, _) = certificates(|_| JobAnswer::Certificate(first()));
    let quorum = QuorumId([7; 16]);
    assert_eq!(certificates.standing(quorum, peer(1)).await, Standing::Stranger);
    assert_eq!(net.penalised.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_change_is_learnt_from_the_new_voter_and_an_older_certificate_takes_nothing_back() {
    let (certificates, _, _) = certificates(|from| match from == peer(4) {
        true => JobAnswer::Certificate(changed()),
        false => JobAnswer::Certificate(first()),
    });
    let quorum = founding().quorum();
    let voters = |numbers: [u8; 3]| Some(numbers.map(peer).into_iter().collect::<BTreeSet<_>>());
    let known_with = |n: u8| certificates.voters_with(quorum, peer(n)).map(BTreeSet::from_iter);
    assert_eq!(certificates.standing(quorum, peer(3)).await, Standing::Voter);
    assert_eq!(known_with(1), voters([1, 2, 3]));
    assert_eq!(certificates.standing(quorum, peer(4)).await, Standing::Voter);
    assert_eq!(known_with(1), voters([1, 2, 4]));
    assert_eq!(known_with(3), None, "4 has taken its place");
    // It shows what it had.
    assert_eq!(certificates.standing(quorum, peer(3)).await, Standing::Stranger);
    assert!(certificates.has_voter(quorum, peer(4)));
}

/// Goal: a certificate of several parts is read to its end by a node whose configuration has left it.
#[tokio::test(start_paused = true)]
async fn a_long_certificate_is_read_from_its_founding_on_when_it_has_to_be() {
    let link = |base: u64, number: u64, numbers: [u8; 3]| {
        let voters = Founding::new(peer(1), Nonce([1; 16]), numbers.map(|n| identity(n).member())).voters;
        let statement = LinkStatement { quorum: founding().quorum(), base, number, voters: voters.clone() };
        let signatures = [1, 2].map(|n| (peer(n), statement.sign(identity(n).signing_key()))).to_vec();
        Link { number, voters, signatures }
    };
    // The node knows configuration 5, which the others have left out since.
    let known = CertificatePart { founding: Some(founding()), links: vec![link(0, 5, [1, 2, 4])], more: false };
    let (beginning, end) = (link(0, 3, [1, 2, 6]), link(3, 9, [1, 2, 7]));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let sinces = asked.clone();
    let net = ScriptedNet::new(peer(100), move |from, _, frame| {
        let message = wire::decode(&frame.head, Protocol::Job.head_bytes_max()).unwrap();
        let JobMessage::Certificate { since, .. } = message else { panic!("{message:?}") };
        sinces.lock().push(since);
        let part = match since {
            _ if from == peer(4) => known.clone(),
            Some(3) => CertificatePart { founding: None, links: vec![end.clone()], more: false },
            _ => CertificatePart { founding: Some(founding()), links: vec![beginning.clone()], more: true },
        };
        Reaction::Answer(Frame::head(wire::encode(&JobAnswer::Certificate(part))))
    });
    let certificates = Certificates::new(net, seams(1, MemoryDisk::default().disk()).clock);
    assert_eq!(certificates.standing(founding().quorum(), peer(4)).await, Standing::Voter);
    assert_eq!(certificates.standing(founding().quorum(), peer(7)).await, Standing::Voter);
    assert_eq!(*asked.lock(), [None, Some(5), Some(3)]);
}

#[tokio::test(start_paused = true)]
async fn who_has_moved_or_is_busy_or_silent_is_no_voter_for_now() {
    let voters = vec![identity(5).member()];
    let moved = voters.clone();
    let (certificates, _, _) = certificates(move |from| match from {
        from if from == peer(1) => JobAnswer::Moved { voters: moved.clone() },
        from if from == peer(2) => JobAnswer::Busy,
        _ => JobAnswer::NotMember,
    });
    let quorum = founding().quorum();
    assert_eq!(certificates.standing(quorum, peer(1)).await, Standing::Moved { voters });
    assert_eq!(certificates.standing(quorum, peer(2)).await, Standing::Silent);
    assert_eq!(certificates.standing(quorum, peer(3)).await, Standing::Stranger);
}

struct Own;

impl OwnQuorums for Own {
    fn voters(&self, quorum: QuorumId) -> Vec<PeerId> {
        if quorum == founding().quorum() { vec![peer(1)] } else { Vec::new() }
    }
}

#[tokio::test(start_paused = true)]
async fn quorums_of_this_node_need_no_proof() {
    let (certificates, net, _) = certificates(|_| JobAnswer::NotMember);
    certificates.set_own(Arc::new(Own));
    assert_eq!(certificates.standing(founding().quorum(), peer(1)).await, Standing::Voter);
    assert_eq!(certificates.voters_with(founding().quorum(), peer(1)), Some(vec![peer(1)]));
    assert!(net.asked().is_empty());
}

/// Goal: what is kept is bounded, and the quorum used longest ago goes first.
#[tokio::test(start_paused = true)]
async fn the_quorum_used_longest_ago_is_forgotten() {
    let nonce = Arc::new(AtomicU32::new(0));
    let of = |n: u32| {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&n.to_le_bytes());
        Founding::new(peer(1), Nonce(bytes), [identity(1).member()])
    };
    let shown = nonce.clone();
    let (certificates, _, _) = certificates(move |_| {
        JobAnswer::Certificate(CertificatePart {
            founding: Some(of(shown.load(Ordering::Relaxed))),
            ..CertificatePart::default()
        })
    });
    for n in 0..=KEPT_MAX as u32 {
        nonce.store(n, Ordering::Relaxed);
        assert_eq!(certificates.standing(of(n).quorum(), peer(1)).await, Standing::Voter);
        // The first is used all the while.
        assert!(certificates.has_voter(of(0).quorum(), peer(1)));
    }
    assert!(!certificates.has_voter(of(1).quorum(), peer(1)));
    assert!(certificates.has_voter(of(KEPT_MAX as u32).quorum(), peer(1)));
}
