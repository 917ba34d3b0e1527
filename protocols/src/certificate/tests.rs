//! Certificates: what one proves, what it does not, and how long it gets.

use ed25519_dalek::SigningKey;

use super::*;
use crate::ids::Incarnation;

fn key(n: u16) -> SigningKey {
    let mut seed = [0x51; 32];
    seed[..2].copy_from_slice(&n.to_le_bytes());
    SigningKey::from_bytes(&seed)
}

fn member(n: u16) -> MemberId {
    MemberId { peer: PeerId(key(n).verifying_key().to_bytes()), incarnation: Incarnation(1) }
}

fn members(numbers: &[u16]) -> Vec<MemberId> {
    Founding::new(PeerId::default(), Nonce::default(), numbers.iter().map(|n| member(*n))).voters
}

/// A chain, and the keys of all who were ever voters.
struct Quorum {
    chain: Chain,
    id: QuorumId,
    founding: Founding,
}

impl Quorum {
    fn founded(numbers: &[u16]) -> Self {
        let founding = Founding::new(member(numbers[0]).peer, Nonce([3; 16]), numbers.iter().map(|n| member(*n)));
        let (mut chain, id) = (Chain::default(), founding.quorum());
        chain.found(id, &founding).unwrap();
        Self { chain, id, founding }
    }

    fn sign(&self, base: u64, numbers: &[u16]) -> Vec<(PeerId, Signature)> {
        let statement = self.chain.statement(self.id, base).expect("something is pending");
        numbers.iter().map(|n| (member(*n).peer, statement.sign(&key(*n)))).collect()
    }

    /// As a primary does it: the oldest configuration that can sign signs.
    fn change(&mut self, numbers: &[u16], signers: &[u16]) {
        let number = self.chain.decide(&members(numbers)).unwrap();
        let base = self.chain.oldest_base(&signers.iter().map(|n| member(*n).peer).collect()).expect("a majority");
        let signatures = self.sign(base, signers);
        self.chain.certify(number, base, &signatures).unwrap();
    }

    /// Reads the whole certificate as a stranger does.
    fn read(&self, known: Option<Tip>) -> Result<Tip, CertificateFault> {
        let mut tip = known;
        loop {
            let part = self.chain.part(tip.as_ref().map(Tip::number));
            tip = Some(Tip::read(self.id, tip.as_ref(), &part)?);
            if !part.more {
                return Ok(tip.expect("it was read"));
            }
        }
    }
}

fn has(tip: &Tip, numbers: &[u16]) -> bool {
    tip.voters().len() == numbers.len() && numbers.iter().all(|n| tip.voters().contains(member(*n)))
}

#[test]
fn the_id_names_the_first_voters_and_each_change_is_theirs() {
    let mut quorum = Quorum::founded(&[1, 2, 3]);
    assert!(has(&quorum.read(None).unwrap(), &[1, 2, 3]));
    quorum.change(&[1, 2, 4], &[1, 2]);
    quorum.change(&[1, 5, 4], &[1, 4]);
    let tip = quorum.read(None).unwrap();
    assert!(has(&tip, &[1, 4, 5]) && tip.number() == 2);
    assert!(tip.has(member(5).peer) && !tip.has(member(2).peer));
}

#[test]
fn who_knows_a_configuration_reads_what_came_after_it() {
    let mut quorum = Quorum::founded(&[1, 2, 3]);
    let before = quorum.read(None).unwrap();
    quorum.change(&[1, 2, 4], &[1, 2]);
    let part = quorum.chain.part(Some(before.number()));
    assert!(part.founding.is_none() && part.links.len() == 1);
    let tip = quorum.read(Some(before.clone())).unwrap();
    assert!(has(&tip, &[1, 2, 4]));
    // The configuration that it knows left the certificate: it is read from the founding on.
    quorum.change(&[1, 2, 5], &[1, 2]);
    assert!(quorum.chain.part(Some(tip.number())).founding.is_some());
    assert!(has(&quorum.read(Some(tip)).unwrap(), &[1, 2, 5]));
    // What goes on behind something unknown proves nothing.
    let orphan = CertificatePart { founding: None, ..quorum.chain.part(None) };
    assert_eq!(Tip::read(quorum.id, None, &orphan), Err(CertificateFault::Gap));
    let other = Quorum::founded(&[7, 8, 9]).read(None).unwrap();
    assert_eq!(Tip::read(quorum.id, Some(&other), &orphan), Err(CertificateFault::Gap));
}

#[test]
fn newcomers_are_those_that_the_pending_change_adds() {
    let mut quorum = Quorum::founded(&[1, 2, 3]);
    quorum.change(&[1, 2, 4], &[1, 2]);
    assert!(quorum.chain.newcomers().is_empty());
    quorum.chain.decide(&members(&[1, 4, 5])).unwrap();
    assert_eq!(quorum.chain.newcomers(), [member(5)]);
}

#[test]
fn nothing_but_a_majority_of_the_voters_before_makes_a_voter() {
    let quorum = Quorum::founded(&[1, 2, 3]);
    let known = quorum.read(None).unwrap();
    let voters = members(&[1, 2, 9]);
    let statement = LinkStatement { quorum: quorum.id, base: 0, number: 1, voters: voters.clone() };
    let signed = |numbers: &[u16], by: &LinkStatement| -> Vec<(PeerId, Signature)> {
        numbers.iter().map(|n| (member(*n).peer, by.sign(&key(*n)))).collect()
    };
    let link = |signatures| Link { number: 1, voters: voters.clone(), signatures };
    assert!(known.follow(&link(signed(&[1, 3], &statement))).is_ok());
    let too_few = |signed| Err(CertificateFault::Signatures { base: 0, number: 1, signed, needed: 2 });
    assert_eq!(known.follow(&link(signed(&[1], &statement))), too_few(1));
    assert_eq!(known.follow(&link(signed(&[1, 1, 1], &statement))), too_few(1), "one voice said three times");
    assert_eq!(known.follow(&link(signed(&[1, 9, 8], &statement))), too_few(1), "strangers have no voice");
    let mut forged = signed(&[1, 3], &statement);
    forged[1].0 = member(2).peer;
    assert_eq!(known.follow(&link(forged)), too_few(1), "a voice of somebody else");
    // A signature for something else counts for nothing: every field is signed.
    let (other_quorum, other_voters) = (QuorumId([9; 16]), members(&[1, 2, 8]));
    for other in [
        LinkStatement { quorum: other_quorum, ..statement.clone() },
        LinkStatement { base: 1, ..statement.clone() },
        LinkStatement { number: 2, ..statement.clone() },
        LinkStatement { voters: other_voters, ..statement.clone() },
    ] {
        assert_eq!(known.follow(&link(signed(&[1, 2, 3], &other))), too_few(0), "{other:?}");
    }
}

#[test]
fn a_founding_of_another_quorum_or_without_order_proves_nothing() {
    let quorum = Quorum::founded(&[1, 2, 3]);
    let other = Founding { nonce: Nonce([4; 16]), ..quorum.founding.clone() };
    assert_eq!(Tip::of_founding(quorum.id, &other), Err(CertificateFault::Id { quorum: quorum.id }));
    for voters in [
        vec![],
        vec![member(1); 2],
        members(&[1, 2, 3]).into_iter().rev().collect(),
        members(&[1, 2, 3, 4, 5, 6, 7, 8]),
    ] {
        let founding = Founding { voters, ..quorum.founding.clone() };
        let refused = Tip::of_founding(founding.quorum(), &founding);
        assert!(matches!(refused, Err(CertificateFault::Voters { number: 0, .. })), "{refused:?}");
    }
    let part = CertificatePart {
        founding: Some(quorum.founding.clone()),
        links: vec![Link { number: 1, voters: vec![], signatures: vec![] }; LINKS_PER_PART_MAX + 1],
        more: false,
    };
    let found = LINKS_PER_PART_MAX + 1;
    assert_eq!(Tip::read(quorum.id, None, &part), Err(CertificateFault::TooLong { found }));
}

#[test]
fn numbers_only_rise_and_what_was_not_decided_is_not_certified() {
    let mut quorum = Quorum::founded(&[1, 2, 3]);
    assert!(quorum.chain.statement(quorum.id, 0).is_none(), "nothing is to be signed");
    let first = quorum.chain.decide(&members(&[1, 2, 4])).unwrap();
    assert_eq!(quorum.chain.decide(&members(&[1, 2, 4])).unwrap(), first, "once more is the same");
    let late = quorum.sign(0, &[1, 2]);
    let second = quorum.chain.decide(&members(&[1, 2, 5])).unwrap();
    assert!(second > first);
    let refused = quorum.chain.certify(first, 0, &late);
    assert_eq!(refused, Err(ChainFault::NotPending { number: first }), "another change took its place");
    let signatures = quorum.sign(0, &[1, 2]);
    assert_eq!(quorum.chain.certify(second, 0, &signatures[..1]), Err(ChainFault::Signatures { base: 0 }));
    quorum.chain.certify(second, 0, &signatures).unwrap();
    quorum.chain.certify(second, 0, &signatures).expect("once more is the same");
    assert!(has(&quorum.read(None).unwrap(), &[1, 2, 5]));
    // To where it is already.
    assert_eq!(quorum.chain.decide(&members(&[1, 2, 5])).unwrap(), second);
    assert!(quorum.chain.pending().is_none());
}

/// Goal: a certificate stays short while members come and go among the same peers. Method: ten thousand single changes
/// among nine peers, with one of each three voters unable to sign now and then.
#[test]
fn ten_thousand_changes_among_a_few_peers_make_a_short_certificate() {
    let mut quorum = Quorum::founded(&[1, 2, 3]);
    let (mut voters, mut longest, mut random) = (vec![1u16, 2, 3], 0, 0x9e37_79b9_7f4a_7c15u64);
    let mut draw = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    for change in 0..10_000 {
        let lost = draw(3) as usize;
        let newcomer = (1..=9).cycle().skip(draw(9) as usize).find(|n| !voters.contains(n)).expect("six are free");
        let signers: Vec<u16> =
            voters.iter().enumerate().filter(|(index, _)| *index != lost).map(|(_, voter)| *voter).collect();
        voters[lost] = newcomer;
        quorum.change(&voters.clone(), &signers);
        longest = longest.max(quorum.chain.links().len());
        if change % 1_000 == 0 {
            assert!(has(&quorum.read(None).unwrap(), &voters));
        }
    }
    assert!(longest <= 2 * LINKS_PER_PART_MAX, "{longest} links");
    assert_eq!(quorum.read(None).unwrap().number(), 10_000);
}

/// Goal: peers that never come back make the certificate long, and it is still read, part by part.
#[test]
fn a_long_certificate_is_read_in_parts() {
    let mut quorum = Quorum::founded(&[1, 2, 3]);
    for n in 4..600 {
        quorum.change(&[n - 2, n - 1, n], &[n - 2, n - 1]);
    }
    assert!(quorum.chain.links().len() > LINKS_PER_PART_MAX && quorum.chain.part(None).more);
    assert!(has(&quorum.read(None).unwrap(), &[597, 598, 599]));
}
