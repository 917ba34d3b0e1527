//! The intake of events at a primary: which triggers a dispatch fires, and the commit of that.
//!
//! Nothing is committed for events that fire nothing. What is committed is taken from the emitter's budget at this
//! primary, and so are the rows that tell triggers of what was lost. The state is read after the lead was confirmed, so
//! that a trigger whose submit was acknowledged by an earlier primary is never overlooked. Expressions are evaluated
//! beside the actors, on copies of what the triggers want.
//!
//! **Whose word counts.** Any peer emits events under names of users. Those under the network's own names count from
//! peers alone that this primary trusts; what others send of them is passed over. A peer of which nothing was heard may
//! have an admission: it is refused, and comes again. In the table of emitters those that are not trusted have a share
//! ([`HeardEmitters`]); one beyond it is refused too, and keeps its events.
//!
//! **Which events are too old.** A trigger hears of what is emitted after its submit. Clocks of nodes differ, so the
//! emitter says how old each event is, and the age is counted back from the quorum's time. While that stands still,
//! because the clocks of a majority were set back, nothing can be told from it, and the event counts. So does one that
//! was emitted before the clocks were last stepped, for a trigger that was there by then: see [`Listener::hears`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_protocols::admission::Distrust;
use quorate_protocols::ids::{Millis, PeerId, QuorumId};
use quorate_protocols::job::limits::DEADLINE;
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::quorum::{Command, CommandReply, HeardEmitters, Rejection, TriggerCommand};
use quorate_protocols::trigger::Planner;
use quorate_protocols::trigger::event::{Delivery, DeliveryAck, Dispatch, Dispatched, is_own_name};
use quorate_protocols::trigger::limits::{LOST_ROW_BYTES, MATCHES_PER_DELIVERY};
use quorate_protocols::trigger::planner::Listener;

use crate::quorums::ports::{Knowledge, LocalQuorum, LocalQuorums};
use crate::raft::QuorumError;
use crate::seams::run_blocking;

/// Evaluations after which a dispatch is cut; the emitter sends the rest anew. A guess at what does not keep others
/// from this thread for long: most take some microseconds.
const EVALUATIONS_MAX: usize = 4_096;

/// How far the clocks may be behind quorum time before that counts as standing still.
const BEHIND_MAX: Duration = Duration::from_secs(1);

/// Cloneable; all clones share what they have read of expressions.
#[derive(Clone)]
pub struct EventIntake {
    quorums: Arc<dyn LocalQuorums>,
    knowledge: Arc<dyn Knowledge>,
    planners: Arc<Mutex<BTreeMap<QuorumId, Arc<Mutex<Planner>>>>>,
    /// Held by whoever takes a place in a table of emitters without being trusted: each finds those before it there.
    newcomer: Arc<tokio::sync::Mutex<()>>,
}

impl EventIntake {
    pub fn new(quorums: Arc<dyn LocalQuorums>, knowledge: Arc<dyn Knowledge>) -> Self {
        Self { quorums, knowledge, planners: Arc::default(), newcomer: Arc::default() }
    }

    /// Takes a dispatch of `from`, which the transport vouches for and [`Dispatch::check`] has passed, for a quorum
    /// that `this_node` leads.
    pub async fn deliver_events(
        &self,
        local: &dyn LocalQuorum,
        this_node: PeerId,
        from: PeerId,
        dispatch: Dispatch,
    ) -> Result<Result<DeliveryAck, Rejection>, QuorumError> {
        let Dispatch { follows, reaches, lost, events } = dispatch;
        let listening = local.query(Query::Subscription { emitter: from }, false).await?;
        let QueryAnswer::Subscription { known, mut names } = listening else {
            return Ok(Ok(DeliveryAck { reaches: follows, recorded: None }));
        };
        if let Some(known) = known.filter(|known| follows > *known) {
            return Ok(Err(Rejection::EventGap { known, follows }));
        }
        let mut fresh: Vec<Dispatched> =
            events.into_iter().filter(|sent| known.is_none_or(|known| sent.sequence > known)).collect();
        let trust = self.knowledge.check_trust(from);
        if let Err(distrust) = trust {
            let wants_own = names.iter().any(|name| is_own_name(name));
            let tells_own = lost > 0 || fresh.iter().any(|sent| sent.event.is_own());
            if distrust == Distrust::Unheard && wants_own && tells_own {
                let reason = format!("{from} is not trusted here with the network's own events: {distrust}");
                return Ok(Err(Rejection::Invalid { reason }));
            }
            fresh.retain(|sent| !sent.event.is_own());
            names.retain(|name| !is_own_name(name));
        }
        if names.is_empty() {
            return Ok(Ok(DeliveryAck { reaches, recorded: known }));
        }
        let mut listeners = BTreeMap::<String, Vec<Listener>>::new();
        let mut time = Millis(0);
        let wanted: BTreeSet<&str> = fresh.iter().map(|sent| &*sent.event.name).collect();
        local.with_state(&mut |state| {
            time = state.wall();
            listeners = wanted.iter().map(|name| ((*name).to_owned(), state.listeners(name))).collect();
        });
        // Not known for a moment, right after a start: then nothing can be told, and the event counts.
        let clocks = local.clock().map(|judged| judged.time);
        let stands_still = clocks.is_none_or(|clocks| clocks.plus(BEHIND_MAX) < time);
        let time = clocks.map_or(time, |clocks| time.max(clocks));
        let planner = self.planner(local.id());
        let work = move || {
            let mut planner = planner.lock();
            let (mut deliveries, mut found, mut evaluated) = (Vec::new(), 0, 0);
            for Dispatched { sequence, age, event } in fresh {
                if found >= MATCHES_PER_DELIVERY || evaluated >= EVALUATIONS_MAX {
                    // Everything before this one.
                    return (deliveries, sequence - 1);
                }
                let emitted = Millis(time.0.saturating_sub(age.as_millis() as u64));
                let all = listeners.get(&event.name).map_or(&[][..], Vec::as_slice);
                let hears = |listener: &&Listener| stands_still || listener.hears(emitted);
                let listeners: Vec<Listener> = all.iter().filter(hears).cloned().collect();
                evaluated += listeners.len();
                let matches = planner.matches(&listeners, from, &event);
                found += matches.len();
                if !matches.is_empty() {
                    deliveries.push(Delivery { sequence, event, matches });
                }
            }
            (deliveries, reaches)
        };
        let (deliveries, reaches) = run_blocking(work).await;
        if deliveries.is_empty() && lost == 0 {
            return Ok(Ok(DeliveryAck { reaches, recorded: known }));
        }
        let mut rows = 0;
        if lost > 0 {
            local.with_state(&mut |state| rows = state.listening_len());
        }
        // The emitter's, though this node proposes it.
        let data = deliveries.iter().map(|delivery| delivery.event.data.len()).sum::<usize>();
        local.charge(from, data + rows * LOST_ROW_BYTES)?;
        // Until its place is on record.
        let _alone = match trust {
            Ok(()) => None,
            Err(_) => match self.check_newcomer(local, from)? {
                Ok(alone) => alone,
                Err(rejection) => return Ok(Err(rejection)),
            },
        };
        let command = Command::Trigger(TriggerCommand::Deliver { emitter: from, follows, reaches, lost, deliveries });
        Ok(match local.propose(this_node, command, DEADLINE).await? {
            Ok(CommandReply::Delivered { reaches }) => Ok(DeliveryAck { reaches, recorded: Some(reaches) }),
            // No other reply is given to it.
            Ok(_) => Ok(DeliveryAck { reaches: follows, recorded: None }),
            Err(rejection) => Err(rejection),
        })
    }

    /// Whether an emitter that is not trusted has a place in the quorum's table, or may take one. It takes it alone.
    fn check_newcomer(
        &self,
        local: &dyn LocalQuorum,
        from: PeerId,
    ) -> Result<Result<Option<tokio::sync::MutexGuard<'_, ()>>, Rejection>, QuorumError> {
        let alone = self.newcomer.try_lock();
        let mut heard = HeardEmitters::default();
        local.with_state(&mut |state| heard = state.heard_emitters());
        if heard.contains(&from) {
            return Ok(Ok(None));
        }
        let Ok(alone) = alone else { return Err(QuorumError::Busy { quorum: local.id() }) };
        let room = heard.check_untrusted_room(|peer| self.knowledge.check_trust(peer).is_ok());
        Ok(room.map(|()| Some(alone)))
    }

    /// What was read for this quorum; nothing is kept for those that are not led here any more.
    fn planner(&self, quorum: QuorumId) -> Arc<Mutex<Planner>> {
        let mut planners = self.planners.lock();
        if !planners.contains_key(&quorum) {
            planners.retain(|id, _| self.quorums.quorum(*id).is_some_and(|local| local.leading().is_some()));
        }
        planners.entry(quorum).or_default().clone()
    }
}
