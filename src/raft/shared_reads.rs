//! Confirmations of one group's lead, shared by the reads that wait at the same time.
//!
//! openraft asks every member anew for each read. What goes over the network is shared by [`super::read_index`]; here
//! the asking is: reads that come while one confirmation is under way wait for the next, which begins when that one
//! ends, or after a share of its deadline: one that a lost message holds up must not hold up the others. A confirmation
//! speaks for whoever asked before it began, and for nobody else.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use quorate_protocols::ids::QuorumId;
use tokio::sync::oneshot;

use super::QuorumError;
use crate::seams::TaskGroup;

/// Confirmations that may be under way. One that takes longer is followed by the next after this share of its deadline.
const ROUNDS_MAX: u32 = 6;

/// Reads that wait for one confirmation; the next is told that the quorum is busy.
const WAITING_MAX: usize = 8 * 1024;

type Outcome = Result<(), QuorumError>;

/// Reads that wait for one confirmation.
type Round = Vec<oneshot::Sender<Outcome>>;

/// Cloneable; clones share it.
#[derive(Clone)]
pub struct SharedReads {
    quorum: QuorumId,
    tasks: TaskGroup,
    /// Reads that wait for the next confirmation; `None` while nobody asks for any.
    waiting: Arc<Mutex<Option<Round>>>,
}

impl SharedReads {
    pub fn new(quorum: QuorumId, tasks: TaskGroup) -> Self {
        Self { quorum, tasks, waiting: Arc::default() }
    }

    /// The outcome of a confirmation that began after this call. `confirm` makes one, within the deadline as it is
    /// then: reads may follow each other for hours.
    pub async fn confirm<F>(
        &self,
        deadline: impl Fn() -> Duration + Send + 'static,
        confirm: impl Fn(Duration) -> F + Send + 'static,
    ) -> Outcome
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let (send, receive) = oneshot::channel();
        let is_first = {
            let mut waiting = self.waiting.lock();
            let is_first = waiting.is_none();
            let waiting = waiting.get_or_insert_default();
            if waiting.len() >= WAITING_MAX {
                return Err(QuorumError::Busy { quorum: self.quorum });
            }
            waiting.push(send);
            is_first
        };
        if is_first {
            // A task of its own: who asked first may give up before the others.
            self.tasks.spawn(self.clone().run_rounds(deadline, confirm));
        }
        // The node ends, or a confirmation panicked.
        receive.await.unwrap_or(Err(QuorumError::Unknown { after: Duration::ZERO, reason: None }))
    }

    async fn run_rounds<F: Future<Output = Outcome>>(
        self,
        deadline: impl Fn() -> Duration,
        confirm: impl Fn(Duration) -> F,
    ) {
        let mut running = Running { reads: self, armed: true };
        let mut under_way = FuturesUnordered::new();
        loop {
            let deadline = deadline();
            match running.reads.next_round(under_way.is_empty()) {
                Some(waiting) => {
                    let confirmed = confirm(deadline);
                    under_way.push(async {
                        let outcome = confirmed.await;
                        waiting.into_iter().for_each(|waiting| drop(waiting.send(outcome.clone())));
                    });
                }
                None if under_way.is_empty() => return running.armed = false,
                None => (),
            }
            tokio::select! {
                biased;
                Some(()) = under_way.next() => (),
                () = tokio::time::sleep(deadline / ROUNDS_MAX) => (),
            }
        }
    }

    /// Those that wait now. With nothing left to do, whoever asks next begins anew.
    fn next_round(&self, is_idle: bool) -> Option<Round> {
        let mut next = self.waiting.lock();
        let mut waiting = next.as_mut().map(std::mem::take).unwrap_or_default();
        waiting.retain(|waiting| !waiting.is_closed());
        if waiting.is_empty() {
            if is_idle {
                *next = None;
            }
            return None;
        }
        Some(waiting)
    }
}

/// The task that confirms. Should it panic, those who wait hear that nothing is known, and the next begins anew.
struct Running {
    reads: SharedReads,
    armed: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.armed {
            *self.reads.waiting.lock() = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use tokio::time::Instant;

    use super::*;

    const DEADLINE: Duration = Duration::from_millis(600);

    fn reads() -> SharedReads {
        SharedReads::new(QuorumId([1; 16]), TaskGroup::inline())
    }

    /// Goal: many reads cost few confirmations, and each is answered by one that began after it asked.
    #[tokio::test(start_paused = true)]
    async fn reads_at_the_same_time_share_a_confirmation_that_began_after_they_asked() {
        const TRIP: Duration = Duration::from_millis(10);
        let (reads, begun) = (reads(), Arc::new(Mutex::new(Vec::new())));
        let asked = (0..1_000u64).map(|number| {
            let (reads, begun) = (reads.clone(), begun.clone());
            async move {
                tokio::time::sleep(Duration::from_micros(100 * number)).await;
                let (asked_at, rounds) = (Instant::now(), begun.clone());
                let confirm = move |_| {
                    rounds.lock().push(Instant::now());
                    async {
                        tokio::time::sleep(TRIP).await;
                        Ok(())
                    }
                };
                assert!(reads.confirm(|| DEADLINE, confirm).await.is_ok());
                let answered_at = Instant::now();
                let proof = |at: &Instant| *at >= asked_at && *at + TRIP <= answered_at;
                assert!(begun.lock().iter().any(proof), "asked {asked_at:?}, answered {answered_at:?}");
                // The timer of the runtime counts whole milliseconds.
                assert!(answered_at - asked_at <= 2 * TRIP + Duration::from_millis(3));
            }
        });
        join_all(asked).await;
        let rounds = begun.lock().len();
        assert!(rounds <= 13, "{rounds} confirmations for a tenth of a second of reads");
        assert!(reads.waiting.lock().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_confirmation_that_hangs_holds_up_no_later_one_and_a_panic_takes_nobody_with_it() {
        let reads = reads();
        let ask = |number: u64| {
            let reads = reads.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(number)).await;
                let begun = Arc::new(Mutex::new(0));
                let confirm = move |_| {
                    let mut begun = begun.lock();
                    *begun += 1;
                    let hangs = *begun == 1;
                    async move {
                        tokio::time::sleep(if hangs { DEADLINE } else { Duration::from_millis(1) }).await;
                        Ok(())
                    }
                };
                let asked_at = Instant::now();
                let outcome = reads.confirm(|| DEADLINE, confirm).await;
                (outcome.is_ok(), asked_at.elapsed())
            }
        };
        let (first, second) = tokio::join!(ask(0), ask(5));
        assert!(first.0 && first.1 >= DEADLINE);
        assert!(second.0 && second.1 <= DEADLINE / ROUNDS_MAX + Duration::from_millis(3), "{second:?}");
        let confirm = |panics: bool| async move {
            assert!(!panics, "planted");
            Ok(())
        };
        let panicked = reads.confirm(|| DEADLINE, move |_| confirm(true)).await;
        assert!(matches!(panicked, Err(QuorumError::Unknown { .. })));
        assert!(ask(0).await.0);
    }

    /// Goal: a link that became slower is given the time that it takes now, also while reads never cease.
    #[tokio::test(start_paused = true)]
    async fn a_confirmation_has_the_deadline_of_when_it_begins() {
        let reads = reads();
        let (now, given) = (Arc::new(Mutex::new(DEADLINE)), Arc::new(Mutex::new(Vec::new())));
        let ask = || {
            let (now, given) = (now.clone(), given.clone());
            let confirm = move |deadline| {
                given.lock().push(deadline);
                async {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    Ok(())
                }
            };
            reads.confirm(move || *now.lock(), confirm)
        };
        let later = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            *now.lock() = 10 * DEADLINE;
            // Before the first round ends, so that the task of the first asker goes on with this one.
            ask().await
        };
        let (first, later) = tokio::join!(ask(), later);
        assert!(first.is_ok() && later.is_ok());
        assert_eq!(*given.lock(), [DEADLINE, 10 * DEADLINE]);
    }
}
