//! Certificates of quorums: who of those that speak for a quorum is one of its voters.
//!
//! Whoever speaks for a quorum shows its certificate once, when it is asked for it ([`Certificates::standing`]); what
//! was checked is kept, and asked for again only when a peer speaks that was no voter then. This node's own quorums
//! need no proof. A peer that proved nothing is not asked again for a moment, so that a liar costs one question in that
//! time.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use quorate_protocols::certificate::Tip;
use quorate_protocols::ids::{MemberId, Millis, PeerId, QuorumId};
use quorate_protocols::quorum::request::{JobAnswer, JobMessage};
use quorate_protocols::wire;
use tokio::sync::Semaphore;

use crate::seams::{Clock, Frame, Net, Protocol};

/// Quorums whose voters are kept; beyond that the one used longest ago is forgotten, and proves itself anew.
const KEPT_MAX: usize = 4_096;

/// Parts of one certificate that are read in a row. They have more links than a quorum makes in years.
const PARTS_MAX: usize = 128;

/// A peer that proved nothing is not asked again for so long.
const REFUSED_FOR: Duration = Duration::from_secs(2);
const REFUSED_MAX: usize = 4_096;

/// Certificates that are asked for at once; a further peer is not believed now, and says the same again.
const QUESTIONS_MAX: usize = 64;

/// What a peer is to a quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    Voter,
    /// It was a member, and names others. Good for asking them, and for nothing else.
    Moved {
        voters: Vec<MemberId>,
    },
    /// It is no voter, as far as it can show.
    Stranger,
    /// It gave no answer.
    Silent,
}

/// Tells what peers are to quorums.
pub trait Standings: Send + Sync + 'static {
    /// The voters by what is known here, without a question, if the peer is one of them.
    fn voters_with(&self, quorum: QuorumId, peer: PeerId) -> Option<Vec<PeerId>>;
    /// Whether the peer is a voter by what is known here, without a question.
    fn has_voter(&self, quorum: QuorumId, peer: PeerId) -> bool {
        self.voters_with(quorum, peer).is_some()
    }
    /// As the peer can show.
    fn standing(&self, quorum: QuorumId, peer: PeerId) -> BoxFuture<'static, Standing>;
}

/// The quorums of this node, as it knows them without proof.
pub trait OwnQuorums: Send + Sync + 'static {
    /// Who votes in a quorum that this node is a member of; nobody in any other.
    fn voters(&self, quorum: QuorumId) -> Vec<PeerId>;
}

/// See the module. Cloneable; clones share what is known.
#[derive(Clone)]
pub struct Certificates(Arc<Inner>);

struct Inner {
    net: Arc<dyn Net>,
    clock: Arc<dyn Clock>,
    own: OnceLock<Arc<dyn OwnQuorums>>,
    known: Mutex<Known>,
    questions: Semaphore,
}

#[derive(Default)]
struct Known {
    /// Counts uses; a tip remembers the count of its last.
    used: u64,
    tips: BTreeMap<QuorumId, (u64, Tip)>,
    /// Until when a peer is not asked again.
    refused: BTreeMap<(QuorumId, PeerId), Millis>,
}

impl Certificates {
    pub fn new(net: Arc<dyn Net>, clock: Arc<dyn Clock>) -> Self {
        let questions = Semaphore::new(QUESTIONS_MAX);
        Self(Arc::new(Inner { net, clock, own: OnceLock::new(), known: Mutex::default(), questions }))
    }

    /// Tells of this node's own quorums; the first call counts.
    pub fn set_own(&self, own: Arc<dyn OwnQuorums>) {
        // A second call is a mistake that changes nothing.
        let _ = self.0.own.set(own);
    }

    fn tip(&self, quorum: QuorumId) -> Option<Tip> {
        self.0.known.lock().tips.get(&quorum).map(|(_, tip)| tip.clone())
    }

    /// Keeps what was checked, unless more is known; what is known then.
    fn keep_newest(&self, tip: Tip) -> Tip {
        let mut known = self.0.known.lock();
        known.used += 1;
        let (now, quorum) = (known.used, tip.quorum());
        let newest = match known.tips.remove(&quorum) {
            Some((_, before)) if before.number() > tip.number() => before,
            _ => tip,
        };
        known.tips.insert(quorum, (now, newest.clone()));
        if known.tips.len() > KEPT_MAX
            && let Some(oldest) = known.tips.iter().min_by_key(|(_, (used, _))| *used).map(|(quorum, _)| *quorum)
        {
            known.tips.remove(&oldest);
        }
        newest
    }

    fn is_refused(&self, quorum: QuorumId, peer: PeerId) -> bool {
        let now = self.0.clock.monotonic();
        self.0.known.lock().refused.get(&(quorum, peer)).is_some_and(|until| now < *until)
    }

    fn refuse(&self, quorum: QuorumId, peer: PeerId) {
        let now = self.0.clock.monotonic();
        let mut known = self.0.known.lock();
        if known.refused.len() >= REFUSED_MAX {
            known.refused.retain(|_, until| now < *until);
            // All are of the last moments: a few questions more are asked.
            if known.refused.len() >= REFUSED_MAX {
                known.refused.clear();
            }
        }
        known.refused.insert((quorum, peer), now.plus(REFUSED_FOR));
    }

    /// Has the peer show the certificate.
    async fn ask(self, quorum: QuorumId, peer: PeerId) -> Standing {
        if self.is_refused(quorum, peer) {
            return Standing::Stranger;
        }
        let Ok(_one_of_few) = self.0.questions.try_acquire() else { return Standing::Silent };
        let mut tip = self.tip(quorum);
        for _ in 0..PARTS_MAX {
            let message = JobMessage::Certificate { quorum, since: tip.as_ref().map(Tip::number) };
            let frame = Frame::head(wire::encode(&message));
            let deadline = Protocol::Job.deadline_max();
            let Ok(answer) = self.0.net.request(peer, Protocol::Job, frame, deadline).await else {
                return Standing::Silent;
            };
            let part = match wire::decode(&answer.head, Protocol::Job.head_bytes_max()) {
                Ok(JobAnswer::Certificate(part)) => part,
                Ok(JobAnswer::Moved { voters }) => return Standing::Moved { voters },
                Ok(JobAnswer::Busy) => return Standing::Silent,
                Ok(_) => break,
                Err(_) => {
                    self.0.net.penalise(peer, "a certificate that cannot be read");
                    break;
                }
            };
            let more = part.more && !part.links.is_empty();
            match Tip::read(quorum, tip.as_ref(), &part) {
                // Read on from here, also when more is known: the configuration known may have left the certificate.
                Ok(read) => tip = Some(read),
                Err(fault) => {
                    tracing::debug!(%quorum, %peer, %fault, "a certificate");
                    self.0.net.penalise(peer, "a certificate that proves nothing");
                    break;
                }
            }
            if !more {
                break;
            }
        }
        if tip.is_some_and(|read| self.keep_newest(read).has(peer)) {
            return Standing::Voter;
        }
        self.refuse(quorum, peer);
        Standing::Stranger
    }
}

impl Standings for Certificates {
    fn voters_with(&self, quorum: QuorumId, peer: PeerId) -> Option<Vec<PeerId>> {
        let own = self.0.own.get().map(|own| own.voters(quorum)).unwrap_or_default();
        if own.contains(&peer) {
            return Some(own);
        }
        let mut known = self.0.known.lock();
        known.used += 1;
        let now = known.used;
        let (used, tip) = known.tips.get_mut(&quorum)?;
        *used = now;
        tip.has(peer).then(|| tip.voters().iter().map(|voter| voter.peer).collect())
    }

    fn standing(&self, quorum: QuorumId, peer: PeerId) -> BoxFuture<'static, Standing> {
        if peer == self.0.net.local_peer() || self.has_voter(quorum, peer) {
            return futures::future::ready(Standing::Voter).boxed();
        }
        self.clone().ask(quorum, peer).boxed()
    }
}

#[cfg(test)]
mod tests;
