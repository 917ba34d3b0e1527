//! Polls of conditions (`Duty::Poll`): ask the source, judge, and commit what is news.
//!
//! A trigger that asks for several copies has that many members of its quorum look, this one included, and counts only
//! what enough of them say of the condition: whether it holds and whether it is over. Their values may differ. A source
//! that cannot be told is committed as that, once, and asked ever less often.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use quorate_protocols::backoff::Backoff;
use quorate_protocols::ids::{JobId, PeerId};
use quorate_protocols::job::limits::MESSAGE_BYTES_MAX;
use quorate_protocols::quorum::request::{JobAnswer, JobMessage};
use quorate_protocols::quorum::{Command, TriggerCommand};
use quorate_protocols::task::spec::Verify;
use quorate_protocols::trigger::Planner;
use quorate_protocols::trigger::condition::Observation;
use quorate_protocols::trigger::limits::SOURCE_DEADLINE;
use quorate_protocols::trigger::spec::{ConditionSpec, When};
use quorate_protocols::wire;

use super::context::{Context, DutyError};
use crate::seams::{Frame, Protocol};

/// Looks under way at once, on this node and for one quorum: the other duties of a quorum must find room too.
pub(super) const POLLS_MAX: usize = 16;
pub(super) const POLLS_PER_QUORUM_MAX: usize = 8;

/// After failures, looks are up to this many times as far apart, but never for that reason further than this.
const BACKOFF_TIMES: u32 = 10;
const BACKOFF_MAX: Duration = Duration::from_secs(600);

/// Another member's look, with the way there and back.
const ASK_DEADLINE: Duration = Duration::from_secs(SOURCE_DEADLINE.as_secs() + 1);

pub(super) fn pause(every: Duration, failures: u32) -> Duration {
    let longest = (every * BACKOFF_TIMES).min(BACKOFF_MAX).max(every);
    Backoff::new(every, longest).pause(failures)
}

pub(super) async fn probe(context: &Context, job: JobId) -> Result<(), DutyError> {
    let mut condition: Option<ConditionSpec> = None;
    context.quorum.with_state(&mut |state| {
        condition = state.trigger(job).and_then(|(spec, _)| match &spec.trigger.when {
            When::Condition(condition) => Some(condition.clone()),
            _ => None,
        });
    });
    // Gone since the duty was derived.
    let Some(condition) = condition else { return Ok(()) };
    let found = match condition.verify {
        None => vec![(context.env.net.local_peer(), context.env.sources.fetch(condition.source.clone()).await)],
        Some(verify) => probe_members(context, job, &condition, verify).await,
    };
    let mut news = None;
    let clocks = context.quorum.clock().map(|judged| judged.time);
    context.quorum.with_state(&mut |state| {
        let Some((_, run)) = state.trigger(job) else { return };
        // Record time as the entry would bring it.
        let now = state.time().plus(clocks.map_or(Duration::ZERO, |clocks| clocks.since(state.wall())));
        let Some(seen) = agreed(state, job, &found, condition.verify) else { return };
        let is_news = run.condition.is_news(&condition, now, &seen);
        news = Some((seen, is_news));
    });
    let Some((observation, is_news)) = news else { return Ok(()) };
    let failure = observation.seen.as_ref().err().cloned();
    if is_news {
        context.propose(Command::Trigger(TriggerCommand::Observe { job, observation })).await?;
    }
    failure.map_or(Ok(()), |why| Err(DutyError::Other(why)))
}

type Found = (PeerId, Result<String, String>);

/// What this node and other members found, as many as the trigger asks for and the quorum has.
async fn probe_members(context: &Context, job: JobId, condition: &ConditionSpec, verify: Verify) -> Vec<Found> {
    let local = context.env.net.local_peer();
    let voters = context.quorum.view().voters;
    let others = voters.iter().map(|voter| voter.peer).filter(|peer| *peer != local);
    let others: Vec<PeerId> = others.take(usize::from(verify.copies).saturating_sub(1)).collect();
    let own = async { (local, context.env.sources.fetch(condition.source.clone()).await) };
    let asked = others.into_iter().map(|peer| async move { (peer, ask(context, peer, job).await) });
    let (own, others) = tokio::join!(own, join_all(asked));
    std::iter::once(own).chain(others).collect()
}

async fn ask(context: &Context, peer: PeerId, job: JobId) -> Result<String, String> {
    let message = JobMessage::ProbeCondition { quorum: context.quorum.id(), job };
    let net = &context.env.net;
    let frame = net.request(peer, Protocol::Job, Frame::head(wire::encode(&message)), ASK_DEADLINE).await;
    let frame = frame.map_err(|error| error.to_string())?;
    match wire::decode(&frame.head, MESSAGE_BYTES_MAX) {
        Ok(JobAnswer::ConditionProbed(found)) => found,
        Ok(_) => Err("it does not probe for this quorum now".to_owned()),
        Err(_) => {
            net.penalise(peer, "an answer that cannot be read");
            Err("an answer that cannot be read".to_owned())
        }
    }
}

/// What enough of those who looked say; `None` when the job is gone.
fn agreed(
    state: &quorate_protocols::quorum::QuorumState,
    job: JobId,
    found: &[Found],
    verify: Option<Verify>,
) -> Option<Observation> {
    let mut planner = Planner::default();
    let Some(verify) = verify else {
        let (_, value) = found.first()?;
        return planner.judge(state, job, borrowed(value), Vec::new());
    };
    let mut camps = BTreeMap::<(bool, bool), (Vec<PeerId>, &str)>::new();
    let mut failures = Vec::new();
    for (peer, value) in found {
        match (planner.judge(state, job, borrowed(value), Vec::new())?.seen, value) {
            (Ok(seen), Ok(value)) => {
                camps.entry((seen.holds, seen.resets)).or_insert_with(|| (Vec::new(), value)).0.push(*peer);
            }
            (Err(why), _) => failures.push(why),
            (Ok(_), Err(why)) => failures.push(why.clone()),
        }
    }
    let most = camps.into_values().max_by_key(|(peers, _)| peers.len());
    let agree = usize::from(verify.agree);
    match most {
        Some((peers, value)) if peers.len() >= agree => planner.judge(state, job, Ok(value), peers),
        most => {
            let agreeing = most.map_or(0, |(peers, _)| peers.len());
            let failure = failures.first().map(|why| format!("; {} could not tell: {why}", failures.len()));
            let why = format!(
                "{agreeing} of the {} members that probed it say the same, and {agree} must{}",
                found.len(),
                failure.unwrap_or_default()
            );
            planner.judge(state, job, Err(&why), Vec::new())
        }
    }
}

fn borrowed(value: &Result<String, String>) -> Result<&str, &str> {
    value.as_deref().map_err(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_fails_is_asked_ever_less_often_but_not_never() {
        let second = Duration::from_secs(1);
        assert_eq!(pause(second, 0), second);
        assert_eq!(pause(second, 1), 2 * second);
        assert_eq!(pause(second, 30), 10 * second);
        assert_eq!(pause(Duration::from_secs(300), 9), BACKOFF_MAX);
        assert_eq!(pause(Duration::from_secs(3_600), 9), Duration::from_secs(3_600));
    }
}
