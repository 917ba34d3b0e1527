//! The replacement of a member: when, and by which peer. Decided by its primary, from what it sees now and nothing
//! remembered.
//!
//! A member must have been suspected for a whole grace period, so that a restart moves nothing. One member is replaced
//! at a time, the one missing for longest first, and only while the others are a majority: a change of membership is
//! itself a commit. A joint configuration that a former primary left behind is finished before anything else, because
//! until then *two* majorities are needed for every commit.
//!
//! A voter that is there and not trusted any more is replaced as well: when no other is missing, so that a quorum is
//! never short of two; the one whose turn came first; one per [`DISTRUST_INTERVAL`]. It votes, and counts, until its
//! successor does.

use std::collections::BTreeMap;
use std::time::Duration;

use super::limits::DISTRUST_INTERVAL;
use crate::ids::{MemberId, Millis};
use crate::membership::Voters;

/// What the primary sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Situation {
    /// One configuration, or the old and the new while a joint one lasts.
    pub configurations: Vec<Voters>,
    /// Members that are suspected now, voters and standbys, and since when.
    pub suspected: BTreeMap<MemberId, Millis>,
    /// In the order of preference.
    pub standbys: Vec<MemberId>,
    /// Members that are not trusted, voters and standbys, and when a voter among them is to be replaced.
    pub distrusted: BTreeMap<MemberId, Millis>,
    /// When this primary last began to replace a distrusted voter.
    pub began_at: Option<Millis>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Complete the change that was begun.
    FinishJoint,
    /// Bring `with` in as a learner, then swap it for `lost`.
    Replace {
        lost: MemberId,
        with: MemberId,
    },
    /// `lost` is due and no standby is fit: win an approval from another peer.
    FindStandby {
        lost: MemberId,
    },
    /// Somebody is missing, but not for long enough: look again then.
    WaitUntil(Millis),
    /// Too few voters are left to commit anything. Only they can mend this, by coming back.
    NoMajority,
    Nothing,
}

pub fn decide(now: Millis, situation: &Situation, grace: Duration) -> Decision {
    let lost_majority = situation.configurations.iter().any(|voters| {
        let present = voters.iter().filter(|voter| !situation.suspected.contains_key(voter)).collect();
        !voters.is_majority(&present)
    });
    if lost_majority {
        return Decision::NoMajority;
    }
    let [voters] = situation.configurations.as_slice() else {
        return if situation.configurations.is_empty() { Decision::Nothing } else { Decision::FinishJoint };
    };
    let missing = voters.iter().filter_map(|voter| Some((*situation.suspected.get(&voter)?, voter)));
    let lost = missing.min().map(|(since, lost)| (since.plus(grace), lost));
    let Some((due, lost)) = lost.or_else(|| next_distrusted(voters, situation)) else { return Decision::Nothing };
    if now < due {
        return Decision::WaitUntil(due);
    }
    // A node of another incarnation is another member of the same machine: it may take its own place, but nobody
    // else's.
    let fit = |standby: &&MemberId| {
        let elsewhere = voters.iter().all(|voter| voter == lost || voter.peer != standby.peer);
        elsewhere && !situation.suspected.contains_key(standby) && !situation.distrusted.contains_key(standby)
    };
    match situation.standbys.iter().find(fit) {
        Some(&with) => Decision::Replace { lost, with },
        None => Decision::FindStandby { lost },
    }
}

/// The voter that is replaced next for want of trust, and when.
fn next_distrusted(voters: &Voters, situation: &Situation) -> Option<(Millis, MemberId)> {
    let distrusted = voters.iter().filter_map(|voter| Some((*situation.distrusted.get(&voter)?, voter)));
    let (due, lost) = distrusted.min()?;
    let rested = situation.began_at.map_or(due, |at| at.plus(DISTRUST_INTERVAL));
    Some((due.max(rested), lost))
}
