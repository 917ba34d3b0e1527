//! Read-index rounds: the empty appends by which a primary makes sure that it still leads, shared by the reads that
//! wait for the same member.
//!
//! openraft sends one to every member for every read and goes on when a majority has answered. A member behind a slow
//! link would then have hundreds of them on their way, and the appends that carry entries would wait behind them until
//! their deadline: it would never catch up. So reads that arrive while one is on its way wait for the next, which goes
//! when that one is answered, or a share of the deadline after it: a lost message, or a round trip of a second, must
//! not cost a read its deadline. The answer to a message confirms the lead for whoever asked before it was sent, and
//! for nobody else.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::error::Unreachable;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use parking_lot::Mutex;
use quorate_protocols::ids::MemberId;
use tokio::sync::oneshot;

use super::types::TypeConfig;
use crate::seams::Protocol;

/// Messages on their way to one member. One that does not answer is sent the next after this share of the deadline.
const ROUNDS_MAX: u32 = 6;

/// Reads of one group that wait for the same message; the next has no answer from this member.
const WAITING_MAX: usize = 8 * 1024;

type Request = AppendEntriesRequest<TypeConfig>;
type Answer = Result<AppendEntriesResponse<MemberId>, Unreachable>;

#[derive(Debug, thiserror::Error)]
enum Unasked {
    #[error("the lead in which this was asked has ended")]
    OtherLead,
    #[error("{WAITING_MAX} reads wait for this member")]
    Full,
    #[error("the question was given up")]
    GivenUp,
}

/// What one group asks of its members. Clones share it. A member of whom nothing is asked takes no room.
#[derive(Clone, Default)]
pub struct ReadIndex(Arc<Mutex<Rounds>>);

type Rounds = BTreeMap<MemberId, Option<Round>>;

/// What is sent next to a member.
struct Round {
    request: Request,
    waiting: Vec<oneshot::Sender<Answer>>,
}

impl Round {
    fn new(request: Request, waiting: oneshot::Sender<Answer>) -> Self {
        Self { request, waiting: vec![waiting] }
    }

    /// A lead that was won again confirms nothing of what was read in the lead before.
    fn join(&mut self, request: Request, waiting: oneshot::Sender<Answer>) {
        let refuse = |waiting: oneshot::Sender<Answer>, why: Unasked| drop(waiting.send(Err(Unreachable::new(&why))));
        if request.vote > self.request.vote {
            let before = std::mem::replace(self, Self::new(request, waiting));
            before.waiting.into_iter().for_each(|waiting| refuse(waiting, Unasked::OtherLead));
        } else if request.vote != self.request.vote {
            refuse(waiting, Unasked::OtherLead);
        } else if self.waiting.len() >= WAITING_MAX {
            refuse(waiting, Unasked::Full);
        } else {
            // Whoever has the later entry has the earlier one too.
            self.request.prev_log_id = self.request.prev_log_id.max(request.prev_log_id);
            self.request.leader_commit = self.request.leader_commit.max(request.leader_commit);
            self.waiting.push(waiting);
        }
    }
}

impl ReadIndex {
    /// The member's answer to a message that was sent after this call. `call` sends one.
    pub async fn ask<F>(
        &self,
        to: MemberId,
        request: Request,
        deadline: Duration,
        call: impl Fn(Request) -> F + Send + 'static,
    ) -> Answer
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let (send, receive) = oneshot::channel();
        if self.enter(to, request, send) {
            // A task of its own: who asked first may give up before the others.
            crate::seams::spawn(self.clone().send_rounds(to, deadline / ROUNDS_MAX, call));
        }
        receive.await.unwrap_or_else(|_| Err(Unreachable::new(&Unasked::GivenUp)))
    }

    async fn send_rounds<F: Future<Output = Answer>>(
        self,
        to: MemberId,
        interval: Duration,
        call: impl Fn(Request) -> F,
    ) {
        let mut sending = Sending { rounds: self.0.clone(), to, armed: true };
        let mut under_way = FuturesUnordered::new();
        loop {
            match self.next(to, under_way.is_empty()) {
                Some(Round { request, waiting }) => {
                    let asked = call(request);
                    under_way.push(async {
                        let answer = asked.await;
                        waiting.into_iter().for_each(|waiting| drop(waiting.send(copy(&answer))));
                    });
                }
                None if under_way.is_empty() => return sending.armed = false,
                None => (),
            }
            tokio::select! {
                biased;
                Some(()) = under_way.next() => (),
                () = tokio::time::sleep(interval) => (),
            }
        }
    }

    /// Whether nobody sends to this member yet.
    fn enter(&self, to: MemberId, request: Request, waiting: oneshot::Sender<Answer>) -> bool {
        let mut rounds = self.0.lock();
        match rounds.entry(to) {
            Entry::Vacant(vacant) => {
                vacant.insert(Some(Round::new(request, waiting)));
                true
            }
            Entry::Occupied(mut occupied) => {
                match occupied.get_mut() {
                    Some(round) => round.join(request, waiting),
                    none => *none = Some(Round::new(request, waiting)),
                }
                false
            }
        }
    }

    /// What to send now. With nothing left to do, whoever asks next begins anew.
    fn next(&self, to: MemberId, is_idle: bool) -> Option<Round> {
        let mut rounds = self.0.lock();
        let mut next = rounds.get_mut(&to).and_then(Option::take);
        if let Some(round) = &mut next {
            round.waiting.retain(|waiting| !waiting.is_closed());
        }
        let next = next.filter(|round| !round.waiting.is_empty());
        if next.is_none() && is_idle {
            rounds.remove(&to);
        }
        next
    }
}

/// A task that sends to a member. Should it panic, those who wait hear that they are given up, and the next begins
/// anew.
struct Sending {
    rounds: Arc<Mutex<Rounds>>,
    to: MemberId,
    armed: bool,
}

impl Drop for Sending {
    fn drop(&mut self) {
        if self.armed {
            self.rounds.lock().remove(&self.to);
        }
    }
}

const _: () =
    assert!((ROUNDS_MAX as usize) < Protocol::Raft.in_flight_max() / 2, "appends with entries need the others");

/// openraft's answers cannot be cloned.
fn copy(answer: &Answer) -> Answer {
    Ok(match answer {
        Ok(AppendEntriesResponse::Success) => AppendEntriesResponse::Success,
        Ok(AppendEntriesResponse::PartialSuccess(matching)) => AppendEntriesResponse::PartialSuccess(*matching),
        Ok(AppendEntriesResponse::Conflict) => AppendEntriesResponse::Conflict,
        Ok(AppendEntriesResponse::HigherVote(vote)) => AppendEntriesResponse::HigherVote(*vote),
        Err(error) => return Err(error.clone()),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::future::join_all;
    use tokio::time::Instant;

    use super::super::types::Vote;
    use super::*;
    use crate::seams::TaskGroup;

    const DEADLINE: Duration = Duration::from_millis(1500);

    fn request(term: u64) -> Request {
        Request {
            vote: Vote::new_committed(term, MemberId::default()),
            prev_log_id: None,
            entries: vec![],
            leader_commit: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn reads_that_wait_for_a_slow_member_share_what_is_sent_after_they_asked() {
        const TRIP: Duration = Duration::from_millis(400);
        let sent: Arc<Mutex<Vec<Instant>>> = Arc::default();
        let read_index = ReadIndex::default();
        let call = |sent: Arc<Mutex<Vec<Instant>>>| {
            move |_| {
                sent.lock().push(Instant::now());
                async {
                    tokio::time::sleep(TRIP).await;
                    Ok(AppendEntriesResponse::Success)
                }
            }
        };
        let asked = (0..1_000u64).map(|number| {
            let (read_index, sent) = (read_index.clone(), sent.clone());
            async move {
                tokio::time::sleep(Duration::from_millis(number)).await;
                let asked_at = Instant::now();
                let answer = read_index.ask(MemberId::default(), request(1), DEADLINE, call(sent.clone())).await;
                assert!(matches!(answer, Ok(AppendEntriesResponse::Success)));
                let answered_at = Instant::now();
                // Some message went out after the question and was answered before the answer.
                let proof = |at: &Instant| *at >= asked_at && *at + TRIP <= answered_at;
                assert!(sent.lock().iter().any(proof), "asked {asked_at:?}, answered {answered_at:?}");
                assert!(answered_at - asked_at <= TRIP + DEADLINE / ROUNDS_MAX);
            }
        });
        TaskGroup::inline().scope(join_all(asked)).await;
        let sent = sent.lock().len();
        assert!(sent <= 8, "{sent} messages for a second of reads over {TRIP:?}");
        assert!(read_index.0.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_to_a_later_lead_confirms_nothing_of_an_earlier_one() {
        let read_index = ReadIndex::default();
        let call = |request: Request| async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok(AppendEntriesResponse::HigherVote(request.vote))
        };
        let ask = |term| read_index.ask(MemberId::default(), request(term), DEADLINE, call);
        let later = async {
            // The first is on its way by then.
            tokio::time::sleep(Duration::from_millis(1)).await;
            tokio::join!(ask(1), ask(3), ask(3), ask(2))
        };
        let asked = async { tokio::join!(ask(1), later) };
        let (first, (second, third, fourth, fifth)) = TaskGroup::inline().scope(asked).await;
        let voted = |answer: Answer| match answer {
            Ok(AppendEntriesResponse::HigherVote(vote)) => Some(vote.leader_id.term),
            _ => None,
        };
        let answers = [first, second, third, fourth, fifth].map(voted);
        assert_eq!(answers, [Some(1), None, Some(3), Some(3), None]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_without_an_answer_holds_up_no_later_one_and_at_most_a_few_are_under_way() {
        let under_way = Arc::new(Mutex::new((0, 0)));
        let read_index = ReadIndex::default();
        let ask = |number: u64| {
            let (read_index, under_way) = (read_index.clone(), under_way.clone());
            async move {
                tokio::time::sleep(Duration::from_millis(number)).await;
                let call = move |_| {
                    let under_way = under_way.clone();
                    async move {
                        {
                            let mut counted = under_way.lock();
                            counted.0 += 1;
                            counted.1 = counted.1.max(counted.0);
                        }
                        // The link is whole again after two seconds.
                        let lost = number < 2_000;
                        tokio::time::sleep(if lost { DEADLINE } else { Duration::from_millis(1) }).await;
                        under_way.lock().0 -= 1;
                        if lost { Err(Unreachable::new(&Unasked::GivenUp)) } else { Ok(AppendEntriesResponse::Success) }
                    }
                };
                tokio::time::timeout(DEADLINE, read_index.ask(MemberId::default(), request(1), DEADLINE, call)).await
            }
        };
        let asked = join_all((0..2_000).map(ask));
        let answers = TaskGroup::inline().scope(asked).await;
        assert!(answers.iter().all(|answer| !matches!(answer, Ok(Ok(_)))));
        let most = under_way.lock().1;
        assert!(most <= ROUNDS_MAX + 1, "{most} under way at once");
        let answered = TaskGroup::inline().scope(ask(2_000)).await;
        assert!(matches!(answered, Ok(Ok(AppendEntriesResponse::Success))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_that_panics_takes_nobody_with_it() {
        let read_index = ReadIndex::default();
        let ask = |panics: bool| {
            let call = move |_| async move {
                assert!(!panics, "planted");
                Ok(AppendEntriesResponse::Success)
            };
            read_index.ask(MemberId::default(), request(1), DEADLINE, call)
        };
        let (first, second) = TaskGroup::inline().scope(async { (ask(true).await, ask(false).await) }).await;
        assert!(first.is_err() && second.is_ok());
    }
}
