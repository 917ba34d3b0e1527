//! Scripted peers: the network of a node that is alone, and what each question meets there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use quorate_protocols::ids::{PeerId, QuorumId};
use quorate_protocols::wire;
use quorate_seams::{Frame, Net, NetError, PeerView, Protocol, Topic};

/// What a scripted peer does with a question.
pub enum Reaction {
    Answer(Frame),
    /// Answers with what this yields, when it does.
    Later(BoxFuture<'static, Frame>),
    /// Nobody listens there.
    Unreachable,
    /// Says nothing until the asker gives up.
    Silent,
}

impl Reaction {
    pub fn answer<T: serde::Serialize>(answer: &T) -> Self {
        Self::Answer(Frame::head(wire::encode(answer)))
    }
}

type Script = dyn Fn(PeerId, Protocol, &Frame) -> Reaction + Send + Sync;

/// A network whose peers follow a script.
pub struct ScriptedNet {
    local: PeerId,
    script: Box<Script>,
    pub asked: Mutex<Vec<(PeerId, Protocol)>>,
    pub providers: Mutex<Vec<PeerId>>,
    pub penalised: Mutex<Vec<(PeerId, &'static str)>>,
    pub connected: Mutex<BTreeSet<PeerId>>,
    pub absent: Mutex<BTreeSet<PeerId>>,
    /// What every answer takes; a millisecond at first.
    pub answers_after: Mutex<Duration>,
    /// What was measured of every peer.
    pub round_trip: Mutex<Option<Duration>>,
}

impl ScriptedNet {
    pub fn new(
        local: PeerId,
        script: impl Fn(PeerId, Protocol, &Frame) -> Reaction + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            local,
            script: Box::new(script),
            asked: Mutex::default(),
            providers: Mutex::default(),
            penalised: Mutex::default(),
            connected: Mutex::default(),
            absent: Mutex::default(),
            answers_after: Mutex::new(Duration::from_millis(1)),
            round_trip: Mutex::default(),
        })
    }
    pub fn asked(&self) -> Vec<PeerId> {
        self.asked.lock().iter().map(|(peer, _)| *peer).collect()
    }
}

impl Net for ScriptedNet {
    fn local_peer(&self) -> PeerId {
        self.local
    }
    fn request(
        &self,
        peer: PeerId,
        protocol: Protocol,
        frame: Frame,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Frame, NetError>> {
        self.asked.lock().push((peer, protocol));
        let reaction = (self.script)(peer, protocol, &frame);
        let after = *self.answers_after.lock();
        async move {
            match reaction {
                Reaction::Answer(frame) if after <= deadline => {
                    tokio::time::sleep(after).await;
                    Ok(frame)
                }
                Reaction::Later(answer) => {
                    let answer = tokio::time::timeout(deadline, answer).await;
                    answer.map_err(|_| NetError::Timeout { peer, after: deadline })
                }
                Reaction::Unreachable => Err(NetError::Unreachable { peer, reason: "connection refused".into() }),
                Reaction::Answer(_) | Reaction::Silent => {
                    tokio::time::sleep(deadline).await;
                    Err(NetError::Timeout { peer, after: deadline })
                }
            }
        }
        .boxed()
    }
    fn publish(&self, _topic: Topic, _bytes: Bytes) {}
    fn peers(&self) -> Vec<PeerView> {
        let view = |peer: &PeerId| PeerView {
            peer: *peer,
            addresses: Vec::new(),
            connected: true,
            rtt: None,
            last_seen: None,
        };
        self.connected.lock().iter().map(view).collect()
    }
    fn is_connected(&self, peer: PeerId) -> bool {
        self.connected.lock().contains(&peer)
    }
    fn is_absent(&self, peer: PeerId) -> bool {
        self.absent.lock().contains(&peer)
    }
    fn round_trip(&self, _peer: PeerId) -> Option<Duration> {
        *self.round_trip.lock()
    }
    fn dial(&self, _peer: PeerId) {}
    fn listen_addresses(&self) -> Vec<String> {
        Vec::new()
    }
    fn provide(&self, _quorum: QuorumId) {}
    fn stop_providing(&self, _quorum: QuorumId) {}
    fn find_providers(&self, _quorum: QuorumId) -> BoxFuture<'static, Vec<PeerId>> {
        let providers = self.providers.lock().clone();
        async move { providers }.boxed()
    }
    fn penalise(&self, peer: PeerId, reason: &'static str) {
        self.penalised.lock().push((peer, reason));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use quorate_protocols::liveness::patience::REPEAT_MIN;
    use quorate_seams::net::REQUEST_TRIES_MAX;
    use quorate_seams::request_again;
    use tokio::time::Instant;

    use super::*;

    const PEER: PeerId = PeerId([2; 32]);
    const DEADLINE: Duration = Duration::from_secs(30);

    /// A network that loses this many questions to the peer, and has each answer say which question it answers.
    fn losing(questions: usize) -> Arc<ScriptedNet> {
        let asked = AtomicUsize::new(0);
        ScriptedNet::new(PeerId([1; 32]), move |_, _, _| match asked.fetch_add(1, Ordering::Relaxed) {
            n if n < questions => Reaction::Silent,
            n => Reaction::answer(&n),
        })
    }

    async fn ask(net: &ScriptedNet) -> (Result<usize, NetError>, Duration) {
        let began = Instant::now();
        let answer = request_again(net, PEER, Protocol::Task, Frame::default(), DEADLINE).await;
        (answer.map(|frame| wire::decode(&frame.head, 64).unwrap()), began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_is_lost_is_asked_again_and_one_that_is_answered_is_not() {
        let net = losing(0);
        assert_eq!(ask(&net).await.0, Ok(0));
        tokio::time::sleep(DEADLINE).await;
        assert_eq!(net.asked().len(), 1);
        let (answer, took) = ask(&losing(1)).await;
        assert_eq!(answer, Ok(1));
        assert!(took >= REPEAT_MIN && took < 2 * REPEAT_MIN, "{took:?}");
    }

    /// Goal: an answer that only takes its time is still taken. Method: every answer takes longer than two tries.
    #[tokio::test(start_paused = true)]
    async fn the_first_answer_wins_though_the_question_was_repeated() {
        let net = losing(0);
        *net.answers_after.lock() = 4 * REPEAT_MIN;
        let (answer, took) = ask(&net).await;
        assert_eq!((answer, took.as_secs()), (Ok(0), 4 * REPEAT_MIN.as_secs()));
        assert_eq!(net.asked().len(), REQUEST_TRIES_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_far_away_is_given_the_time_that_its_link_takes() {
        let net = losing(0);
        *net.round_trip.lock() = Some(Duration::from_millis(600));
        *net.answers_after.lock() = 3 * REPEAT_MIN;
        assert_eq!(ask(&net).await.0, Ok(0));
        assert_eq!(net.asked().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_asked_a_few_times_for_the_deadline_and_no_longer_than_it_is_there() {
        let net = losing(usize::MAX);
        let (answer, took) = ask(&net).await;
        assert!(
            matches!(answer, Err(NetError::Timeout { .. })) && took.as_secs() == DEADLINE.as_secs(),
            "{answer:?} after {took:?}"
        );
        assert_eq!(net.asked().len(), REQUEST_TRIES_MAX);
        net.absent.lock().insert(PEER);
        let (answer, took) = ask(&net).await;
        assert!(matches!(answer, Err(NetError::Timeout { .. })) && took < 2 * REPEAT_MIN, "{answer:?} after {took:?}");
        let refusing = ScriptedNet::new(PeerId([1; 32]), |_, _, _| Reaction::Unreachable);
        let (answer, took) = ask(&refusing).await;
        assert!(matches!(answer, Err(NetError::Unreachable { .. })) && took.is_zero(), "{answer:?} after {took:?}");
    }
}
