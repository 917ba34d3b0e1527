//! Resending: a short question that nobody should wait long for is asked once more when its answer is late.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures::future::{Either, select};

/// No question is asked again sooner than this: a busy machine on a LAN answers within.
pub const RESEND_MIN: Duration = Duration::from_millis(20);

/// Asks, and asks once more if there is no answer after `late`. The first answer counts; with two failures the later
/// one is returned. For questions that may be carried out twice.
pub async fn ask_again<T, E, F>(late: Duration, ask: impl Fn() -> F) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let mut first = pin!(ask());
    if let Ok(answered) = tokio::time::timeout(late, first.as_mut()).await {
        return answered;
    }
    match select(first, pin!(ask())).await {
        Either::Left((Ok(answer), _)) | Either::Right((Ok(answer), _)) => Ok(answer),
        Either::Left((Err(_), second)) => second.await,
        Either::Right((Err(_), first)) => first.await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Answers what the plan says of each try: after how long, and how.
    async fn play(plan: &[(u64, Result<u32, u32>)]) -> (Result<u32, u32>, u64, u32) {
        let began = tokio::time::Instant::now();
        let tries = AtomicU32::new(0);
        let answer = ask_again(Duration::from_millis(100), || {
            let (after, answer) = plan[tries.fetch_add(1, Ordering::Relaxed) as usize];
            async move {
                tokio::time::sleep(Duration::from_millis(after)).await;
                answer
            }
        });
        (answer.await, began.elapsed().as_millis() as u64, tries.load(Ordering::Relaxed))
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_answer_counts_and_a_quick_failure_is_not_repeated() {
        assert_eq!(play(&[(90, Ok(1))]).await, (Ok(1), 90, 1));
        assert_eq!(play(&[(90, Err(1))]).await, (Err(1), 90, 1));
        assert_eq!(play(&[(9_000, Err(1)), (50, Ok(2))]).await, (Ok(2), 150, 2));
        assert_eq!(play(&[(120, Ok(1)), (50, Ok(2))]).await, (Ok(1), 120, 2));
        assert_eq!(play(&[(400, Ok(1)), (50, Err(2))]).await, (Ok(1), 400, 2));
        assert_eq!(play(&[(400, Err(1)), (500, Err(2))]).await, (Err(2), 600, 2));
    }
}
