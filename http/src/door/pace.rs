//! The pace of one connection: a socket that notes what its client does, and the deadline that follows from it.
//!
//! A client must send a request's head within a deadline, must not rest for too long between two requests, and must
//! read what it is answered. A request that is being handled has no deadline here: the body has its own
//! ([`super::super::body`]), and how long an answer takes is the handler's business.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::super::limits::DoorLimits;

/// A client that was too slow, and in what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    /// The head of a request, of which something has come.
    Head,
    /// The next request, or the first.
    Idle,
    /// It does not read its answer.
    Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No request yet, or part of a head; `bytes` of it have come.
    Head {
        since: Instant,
        bytes: usize,
    },
    Idle {
        since: Instant,
    },
    Handling,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Requests that are not over. The rest of one's body may still be thrown away while the next one begins.
    turns: u32,
    /// The socket has taken nothing since then, and something waits to be written.
    blocked: Option<Instant>,
    stall: Duration,
    /// The deadline that is slept for.
    armed: Option<Instant>,
}

#[derive(Debug)]
pub struct Pace {
    head: Duration,
    idle: Duration,
    state: Mutex<State>,
    /// The deadline has come nearer.
    nearer: Notify,
}

impl Pace {
    pub fn new(limits: &DoorLimits) -> Self {
        let phase = Phase::Head { since: Instant::now(), bytes: 0 };
        Self {
            head: limits.head,
            idle: limits.idle,
            state: Mutex::new(State { phase, turns: 0, blocked: None, stall: limits.stall, armed: None }),
            nearer: Notify::new(),
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        if let Some((due, _)) = self.due(&state)
            && state.armed.is_none_or(|armed| due < armed)
        {
            self.nearer.notify_one();
        }
    }

    fn due(&self, state: &State) -> Option<(Instant, Overdue)> {
        let phase = match state.phase {
            Phase::Head { since, bytes: 0 } => Some((since + self.head, Overdue::Idle)),
            Phase::Head { since, .. } => Some((since + self.head, Overdue::Head)),
            Phase::Idle { since } => Some((since + self.idle, Overdue::Idle)),
            Phase::Handling => None,
        };
        let answer = state.blocked.map(|since| (since + state.stall, Overdue::Answer));
        phase.into_iter().chain(answer).min_by_key(|(at, _)| *at)
    }

    /// A request's head is whole.
    pub fn begin(&self) {
        self.change(|state| {
            state.turns += 1;
            state.phase = Phase::Handling;
        });
    }

    /// A request's body is read, or given up, and its answer is written. Says whether it was the last one.
    pub fn end(&self) -> bool {
        let mut is_last = false;
        self.change(|state| {
            state.turns = state.turns.saturating_sub(1);
            is_last = state.turns == 0;
            if is_last {
                state.phase = Phase::Idle { since: Instant::now() };
            }
        });
        is_last
    }

    pub fn is_handling(&self) -> bool {
        self.state.lock().phase == Phase::Handling
    }

    /// How long the client may neither send nor read.
    pub fn stall(&self) -> Duration {
        self.state.lock().stall
    }

    pub fn set_stall(&self, stall: Duration) {
        self.change(|state| state.stall = stall);
    }

    fn on_read(&self, read: usize) {
        self.change(|state| match &mut state.phase {
            Phase::Idle { .. } if read > 0 => state.phase = Phase::Head { since: Instant::now(), bytes: read },
            Phase::Head { bytes, .. } => *bytes += read,
            Phase::Idle { .. } | Phase::Handling => (),
        });
    }

    /// `is_blocked` if the socket took nothing of what waits.
    fn on_write(&self, is_blocked: bool) {
        self.change(|state| match is_blocked {
            true => _ = state.blocked.get_or_insert_with(Instant::now),
            false => state.blocked = None,
        });
    }

    /// Returns once the client has been too slow.
    pub async fn overdue(&self) -> Overdue {
        loop {
            let due = {
                let mut state = self.state.lock();
                let due = self.due(&state);
                state.armed = due.map(|(at, _)| at);
                due
            };
            let nearer = self.nearer.notified();
            match due {
                Some((at, overdue)) if at <= Instant::now() => return overdue,
                Some((at, _)) => tokio::select! {
                    () = nearer => (),
                    () = tokio::time::sleep_until(at) => (),
                },
                None => nearer.await,
            }
        }
    }
}

/// A socket that tells its pace.
pub struct Paced {
    pub stream: TcpStream,
    pub pace: std::sync::Arc<Pace>,
}

impl AsyncRead for Paced {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if polled.is_ready() {
            self.pace.on_read(buf.filled().len() - before);
        }
        polled
    }
}

impl AsyncWrite for Paced {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.pace.on_write(polled.is_pending());
        polled
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A socket keeps nothing back.
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.pace.on_write(polled.is_pending());
        polled
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace() -> Pace {
        let second = Duration::from_secs(1);
        Pace::new(&DoorLimits { head: second, idle: 10 * second, stall: 5 * second, ..DoorLimits::default() })
    }

    async fn overdue_after(pace: &Pace) -> (u64, Overdue) {
        let began = Instant::now();
        let overdue = pace.overdue().await;
        (began.elapsed().as_secs(), overdue)
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_is_whole_in_time_however_its_bytes_trickle() {
        let silent = pace();
        assert_eq!(overdue_after(&silent).await, (1, Overdue::Idle));
        let trickling = pace();
        let trickle = async {
            loop {
                trickling.on_read(1);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            found = overdue_after(&trickling) => assert_eq!(found, (1, Overdue::Head)),
            () = trickle => (),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn between_requests_is_more_time_and_a_request_in_hand_has_all_it_takes() {
        let pace = pace();
        pace.on_read(10);
        pace.begin();
        let hour = tokio::time::timeout(Duration::from_secs(3600), pace.overdue());
        assert!(hour.await.is_err(), "a request that waits is not overdue");
        // The next one begins before the one before it is quite over.
        pace.begin();
        assert!(!pace.end());
        assert!(pace.is_handling());
        assert!(pace.end());
        assert_eq!(overdue_after(&pace).await, (10, Overdue::Idle));
        // While somebody sleeps for the later deadline, a nearer one comes.
        pace.begin();
        assert!(pace.end());
        let begins = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            pace.on_read(1);
        };
        let ((after, overdue), ()) = tokio::join!(overdue_after(&pace), begins);
        assert_eq!((after, overdue), (3, Overdue::Head));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_overdue_and_one_that_reads_slowly_is_not() {
        let pace = pace();
        pace.begin();
        let reads_slowly = async {
            for _ in 0..5 {
                pace.on_write(true);
                tokio::time::sleep(Duration::from_secs(4)).await;
                pace.on_write(false);
            }
            pace.on_write(true);
            pace.on_write(true);
        };
        let (found, ()) = tokio::join!(overdue_after(&pace), reads_slowly);
        assert_eq!(found, (25, Overdue::Answer));
    }
}
