//! Raising a quorum's state level once every member can apply the next one.
//!
//! Members say in their announcements what they can apply. A primary looks from time to time, and commits a raise when
//! all of them, learners too, have announced it. Announcements are heard or not: a raise that waits for one only waits.

use std::time::Duration;

use quorate_protocols::backoff::Backoff;
use quorate_protocols::quorum::limits::LEVEL;
use quorate_protocols::quorum::{Command, QuorumCommand, level};
use tokio::time::sleep;

use super::context::Context;

/// Between two looks. The first ones follow each other quickly: the members of a new quorum may not have been heard of
/// yet. Later ones wait for the upgrade of the last machine, which takes longer.
const CHECK_SOON: Duration = Duration::from_millis(250);
const CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// Runs until it is dropped, when this node stops leading.
pub(super) async fn raise_level(context: Context) {
    for pause in Backoff::new(CHECK_SOON, CHECK_INTERVAL).pauses() {
        raise(&context).await;
        sleep(pause).await;
    }
}

async fn raise(context: &Context) {
    let view = context.quorum.view();
    // The usual case: this build knows nothing newer.
    if view.level >= LEVEL {
        return;
    }
    let this_node = context.env.net.local_peer();
    let peers = context.env.knowledge.peers();
    let advertised = view.voters.iter().chain(&view.learners).map(|member| {
        // Another incarnation may be another build.
        let known =
            peers.iter().find(|known| (known.peer, known.advert.incarnation) == (member.peer, member.incarnation));
        if member.peer == this_node { Some(LEVEL) } else { known.map(|known| known.advert.level) }
    });
    let Some(level) = level::raise(view.level, LEVEL, advertised) else { return };
    match context.propose(Command::Quorum(QuorumCommand::RaiseLevel { level })).await {
        Ok(_) => tracing::info!(quorum = %view.quorum, level, "every member can apply this state level: raised"),
        Err(error) => tracing::debug!(quorum = %view.quorum, level, %error, "the state level was not raised"),
    }
}
