//! Empty appends by which a primary makes sure that it still leads, once for all reads that wait for the same member.
//!
//! openraft sends one to every member for every read and goes on when a majority has answered. A member behind a slow
//! link would then have hundreds of them on their way, and the appends that carry entries would wait behind them until
//! their deadline: it would never catch up. So at most one of these is under way to a member; what is asked for
//! meanwhile waits and goes as the next one. The answer to a message confirms the lead for whoever asked before it was
//! sent, and for nobody else.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::future::Future;
use std::sync::{Arc, Mutex};

use openraft::error::Unreachable;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use quorate_protocols::ids::MemberId;
use tokio::sync::oneshot;

use super::types::TypeConfig;

type Request = AppendEntriesRequest<TypeConfig>;
type Answer = Result<AppendEntriesResponse<MemberId>, Unreachable>;

#[derive(Debug, thiserror::Error)]
enum Unasked {
    #[error("the lead in which this was asked has ended")]
    OtherLead,
    #[error("the node ends")]
    Ending,
}

/// What one group asks of its members. Clones share it. Members for whom nothing is asked take no room; whoever waits is
/// a read, or one of openraft's tasks, which give up after `APPEND_DEADLINE`.
#[derive(Clone, Default)]
pub struct Confirmations(Arc<Mutex<BTreeMap<MemberId, Option<Round>>>>);

/// What is sent next to a member, once the answer to what was sent before has come.
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
        let refuse = |waiting: oneshot::Sender<Answer>| drop(waiting.send(Err(Unreachable::new(&Unasked::OtherLead))));
        if request.vote == self.request.vote {
            self.request.leader_commit = self.request.leader_commit.max(request.leader_commit);
            self.waiting.push(waiting);
        } else if request.vote > self.request.vote {
            let before = std::mem::replace(self, Self::new(request, waiting));
            before.waiting.into_iter().for_each(refuse);
        } else {
            refuse(waiting);
        }
    }
}

impl Confirmations {
    /// The member's answer to a message that was sent after this call. `call` sends one.
    pub async fn ask<F>(&self, to: MemberId, request: Request, call: impl Fn(Request) -> F + Send + 'static) -> Answer
    where
        F: Future<Output = Answer> + Send,
    {
        let (send, receive) = oneshot::channel();
        if self.enter(to, request, send) {
            let this = self.clone();
            // A task of its own: who asked first may give up before the others.
            crate::seams::spawn(async move {
                while let Some(Round { request, waiting }) = this.next(to) {
                    let answer = call(request).await;
                    for waiting in waiting {
                        let _ = waiting.send(copy(&answer));
                    }
                }
            });
        }
        receive.await.unwrap_or_else(|_| Err(Unreachable::new(&Unasked::Ending)))
    }

    /// Whether nobody sends to this member yet.
    fn enter(&self, to: MemberId, request: Request, waiting: oneshot::Sender<Answer>) -> bool {
        let mut rounds = self.0.lock().expect("no panic under this lock");
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

    fn next(&self, to: MemberId) -> Option<Round> {
        let mut rounds = self.0.lock().expect("no panic under this lock");
        let next = rounds.get_mut(&to).and_then(Option::take);
        if next.is_none() {
            rounds.remove(&to);
        }
        next
    }
}

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
        let confirmations = Confirmations::default();
        let call = |sent: Arc<Mutex<Vec<Instant>>>| {
            move |_| {
                sent.lock().unwrap().push(Instant::now());
                async {
                    tokio::time::sleep(TRIP).await;
                    Ok(AppendEntriesResponse::Success)
                }
            }
        };
        let asked = (0..1_000u64).map(|number| {
            let (confirmations, sent) = (confirmations.clone(), sent.clone());
            async move {
                tokio::time::sleep(Duration::from_millis(number)).await;
                let asked_at = Instant::now();
                let answer = confirmations.ask(MemberId::default(), request(1), call(sent.clone())).await;
                assert!(matches!(answer, Ok(AppendEntriesResponse::Success)));
                let answered_at = Instant::now();
                // Some message went out after the question and was answered before the answer.
                let proof = |at: &Instant| *at >= asked_at && *at + TRIP <= answered_at;
                assert!(sent.lock().unwrap().iter().any(proof), "asked {asked_at:?}, answered {answered_at:?}");
                assert!(answered_at - asked_at <= 2 * TRIP);
            }
        });
        TaskGroup::inline().scope(join_all(asked)).await;
        let sent = sent.lock().unwrap().len();
        assert!(sent <= 5, "{sent} messages for a second of reads over {TRIP:?}");
        assert!(confirmations.0.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_to_a_later_lead_confirms_nothing_of_an_earlier_one() {
        let confirmations = Confirmations::default();
        let call = |request: Request| async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok(AppendEntriesResponse::HigherVote(request.vote))
        };
        let ask = |term| confirmations.ask(MemberId::default(), request(term), call);
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
}
