//! Firing what a clock fires (`Duty::FireAt`, `Duty::FireAfter`): at the right moment, and by the record alone.
//!
//! One task per led quorum. It sleeps until the earliest trigger is due, has the planner make the spans of all that
//! are, and commits them; what they fire is decided where they are applied. It is woken by whatever is applied, for
//! that may have brought a trigger that is due sooner.
//!
//! **Two clocks.** `at` and `cron` are due when the clocks of a majority say so: this node's own as long as they bear
//! it out. While too few are known, nothing is due. `every` is also due when as much time has passed as was left, on
//! the monotonic clock and counted from the newest record time that this primary saw: so clocks that are set back do
//! not silence it. Sleeping follows the monotonic clock, so the clocks are looked at again at least every
//! [`CHECK_INTERVAL`] while anything is to come: a step in either direction is noticed within that, and an entry is
//! committed that tells the record of it.
//!
//! A proposal that is lost, doubled or too late does no harm: a span that was made from an older record changes
//! nothing.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use quorate_protocols::backoff::Backoff;
use quorate_protocols::ids::{JobId, Millis};
use quorate_protocols::quorum::{Command, QuorumCommand, QuorumState, TriggerCommand};
use quorate_protocols::trigger::limits::SPANS_MAX;
use quorate_protocols::trigger::{Planner, Span};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::context::{Context, DutyError};
use crate::seams::{Failpoint, failpoint};

/// The longest sleep while some trigger is to come.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How soon the clocks are looked at again while too few are known: heartbeats tell them.
const CLOCKS_INTERVAL: Duration = Duration::from_millis(100);

/// After an entry that told the record of a step.
const STEPPED_REST: Duration = Duration::from_millis(200);

/// Commands of due triggers that are proposed without waiting for each other: enough to keep the disk and the network
/// busy when thousands are due, and not so many that other commands wait long behind them.
const PROPOSED_MAX: usize = 8;

/// A proposal that failed is made anew after this, doubled by each failure up to the maximum. A failover takes about as
/// long as the first few.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));

/// A committed span moves its trigger on. Should one not do so this often, the task rests, lest it spins.
const REPEATS_MAX: u32 = 3;

/// Wakes the firing task of one led quorum: something was applied, or the lead was regained.
#[derive(Clone, Default)]
pub(super) struct Wakeup(Arc<Notify>);

impl Wakeup {
    pub fn wake_up(&self) {
        self.0.notify_one();
    }
}

/// What is about to be fired.
pub struct DueSpans {
    /// Since this node became primary.
    pub is_first: bool,
    pub spans: Vec<Span>,
}

/// Runs until it is dropped, when this node stops leading.
pub(super) async fn run(context: Context, wakeup: Wakeup) {
    let mut planner = Planner::default();
    let mut steady = None;
    let mut failures: u32 = 0;
    let mut is_first = true;
    let mut before: (Vec<Key>, u32) = Default::default();
    loop {
        match find_due(&context, &mut planner, &mut steady) {
            DueCheck::Nothing => wakeup.0.notified().await,
            DueCheck::Later(pause) => {
                tokio::select! {
                    () = sleep(pause) => (),
                    () = wakeup.0.notified() => (),
                }
            }
            DueCheck::Stepped => {
                tracing::warn!(quorum = %context.quorum.id(), "the clocks of a majority were set; the quorum's time follows");
                if let Err(error) = context.propose(Command::Quorum(QuorumCommand::Noop)).await {
                    tracing::debug!(quorum = %context.quorum.id(), %error, "the record is not told of a step of the clocks");
                }
                // Should the entry not mend it, this does not spin.
                sleep(STEPPED_REST).await;
            }
            DueCheck::Due(spans) => {
                let mut due = DueSpans { is_first: std::mem::take(&mut is_first), spans };
                failpoint(Failpoint::SpansDue, &mut due);
                let spans = due.spans;
                let keys: Vec<Key> = spans.iter().map(key).collect();
                let repeats = if keys == before.0 { before.1 + 1 } else { 0 };
                before = (keys, repeats);
                let (committed, failed) = propose(&context, spans).await;
                context.env.metrics.triggers_due.inc_by(committed);
                match failed {
                    None => {
                        failures = 0;
                        if repeats >= REPEATS_MAX {
                            tracing::warn!(quorum = %context.quorum.id(), repeats, "due triggers were recorded and are still due; this is a bug of quorate");
                            sleep(CHECK_INTERVAL).await;
                        }
                    }
                    Some(error) => {
                        tracing::debug!(quorum = %context.quorum.id(), failures, %error, "due triggers not committed");
                        sleep(BACKOFF.pause(failures)).await;
                        failures = failures.saturating_add(1);
                    }
                }
            }
        }
    }
}

/// How many spans were committed, and why others were not. A trigger is in one of the commands only, so their order
/// does not matter.
async fn propose(context: &Context, mut spans: Vec<Span>) -> (u64, Option<DutyError>) {
    let mut commands = Vec::new();
    while !spans.is_empty() {
        let rest = spans.split_off(spans.len().min(SPANS_MAX));
        let spans = std::mem::replace(&mut spans, rest);
        let count = spans.len() as u64;
        commands
            .push(async move { context.propose(Command::Trigger(TriggerCommand::Due { spans })).await.map(|_| count) });
    }
    let (mut committed, mut failed) = (0, None);
    for outcome in join_all(commands).await {
        match outcome {
            Ok(count) => committed += count,
            Err(error) => failed = Some(error),
        }
    }
    (committed, failed)
}

/// What a span moves on, and from where.
type Key = (JobId, Millis, Option<Millis>);

fn key(span: &Span) -> Key {
    (span.job, span.from, span.expected)
}

enum DueCheck {
    /// No trigger waits for a clock.
    Nothing,
    Later(Duration),
    Due(Vec<Span>),
    /// The clocks differ from the record by more than has passed.
    Stepped,
}

fn find_due(context: &Context, planner: &mut Planner, steady: &mut Option<Steady>) -> DueCheck {
    let (clocks, now) = (context.quorum.clock(), Instant::now());
    let mut seen = DueCheck::Nothing;
    context.quorum.with_state(&mut |state: &QuorumState| {
        let time = steady.get_or_insert(Steady { time: state.time(), at: now }).read(state.time(), now);
        if state.next_trigger_due() == (None, None) {
            return;
        }
        let Some(wall) = clocks.map(|judged| judged.time) else {
            seen = DueCheck::Later(CLOCKS_INTERVAL);
            return;
        };
        if state.is_stepped(wall, time) {
            seen = DueCheck::Stepped;
            return;
        }
        let steady = state.wall_at(time).max(wall);
        let left = match state.next_trigger_due() {
            (None, None) => return,
            (by_wall, by_steady) => {
                let left = [by_wall.map(|due| due.since(wall)), by_steady.map(|due| due.since(steady))];
                left.into_iter().flatten().min().unwrap_or(CHECK_INTERVAL)
            }
        };
        seen = match left.is_zero() {
            false => DueCheck::Later(left.min(CHECK_INTERVAL)),
            true => match planner.spans(state, wall, steady, PROPOSED_MAX * SPANS_MAX) {
                // Nothing is known that would bring it about; in a moment there may be.
                spans if spans.is_empty() => DueCheck::Later(CHECK_INTERVAL),
                spans => DueCheck::Due(spans),
            },
        };
    });
    seen
}

/// Record time as it goes on between entries.
struct Steady {
    time: Millis,
    at: Instant,
}

impl Steady {
    /// Never goes back: an entry that brings an earlier time than has passed tells nothing new.
    fn read(&mut self, record_time: Millis, now: Instant) -> Millis {
        let passed = self.time.plus(now - self.at);
        if record_time > passed {
            *self = Self { time: record_time, at: now };
        }
        passed.max(record_time)
    }
}
