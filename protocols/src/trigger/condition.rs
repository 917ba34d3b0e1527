//! The state of a condition. It fires once it has held for a while, and must be over for a while before it fires again.
//!
//! The primary looks, decides by the expression whether the condition holds, and has both committed; from there it is
//! arithmetic on quorum time. An observation that would change nothing is not worth an entry: see
//! [`ConditionState::is_news`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::spec::ConditionSpec;
use crate::ids::{Millis, PeerId};

/// Even a condition that never changes is committed this often, so that people see that somebody looks.
const SHOW_EVERY: Duration = Duration::from_secs(60);

/// One look at a condition's source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// What was seen and what follows from it, or why nothing was.
    pub seen: Result<Seen, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// JSON.
    pub value: String,
    /// What `when` and `reset` say of it.
    pub holds: bool,
    pub resets: bool,
    /// Peers that saw the same: for specifications that ask for several.
    pub witnesses: Vec<PeerId>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConditionState {
    /// Observations committed.
    pub number: u64,
    pub at: Millis,
    /// What was seen last, or why nothing was.
    pub last: Option<Result<String, String>>,
    /// Since when it holds, while armed.
    pub holds_since: Option<Millis>,
    /// It fired, and has not been over for long enough since.
    pub spent: bool,
    /// Since when it is over, while spent.
    pub over_since: Option<Millis>,
}

impl ConditionState {
    /// Takes an observation in; whether the condition fires. One that failed says nothing, so a hold begins anew after
    /// it: nobody knows what was true in between.
    pub fn observe(&mut self, spec: &ConditionSpec, now: Millis, observation: &Observation) -> bool {
        self.number = self.number.saturating_add(1);
        self.at = now;
        let seen = match &observation.seen {
            Ok(seen) => seen,
            Err(why) => {
                self.last = Some(Err(why.clone()));
                self.forget();
                return false;
            }
        };
        self.last = Some(Ok(seen.value.clone()));
        if self.spent {
            let since = seen.resets.then(|| self.over_since.unwrap_or(now));
            self.over_since = since;
            if since.is_some_and(|since| now.since(since) >= spec.hysteresis) {
                (self.spent, self.over_since) = (false, None);
            }
        }
        if !self.spent {
            let since = seen.holds.then(|| self.holds_since.unwrap_or(now));
            self.holds_since = since;
            if since.is_some_and(|since| now.since(since) >= spec.hold_for) {
                (self.spent, self.holds_since) = (true, None);
                return true;
            }
        }
        false
    }

    /// What was true before nobody looked counts no more.
    pub fn forget(&mut self) {
        (self.holds_since, self.over_since) = (None, None);
    }

    /// Whether committing it would change what the record says, or is due for people's sake.
    pub fn is_news(&self, spec: &ConditionSpec, now: Millis, observation: &Observation) -> bool {
        let mut after = self.clone();
        if after.observe(spec, now, observation) || self.last.is_none() || now.since(self.at) >= SHOW_EVERY {
            return true;
        }
        let known = self.last.as_ref().map(Result::is_ok) == after.last.as_ref().map(Result::is_ok);
        let (holds, over) = (self.holds_since == after.holds_since, self.over_since == after.over_since);
        !(known && holds && over && self.spent == after.spent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trigger::spec::Source;

    fn spec(hold: u64, hysteresis: u64) -> ConditionSpec {
        ConditionSpec {
            source: Source::Metric { name: "load".to_owned() },
            when: "value > 1".to_owned(),
            reset: None,
            every: Duration::from_secs(1),
            hold_for: Duration::from_secs(hold),
            hysteresis: Duration::from_secs(hysteresis),
            verify: None,
        }
    }

    /// The seconds at which a condition fires that holds (`+`), does not (`-`), or cannot be told (`?`), second by
    /// second.
    fn fires(spec: &ConditionSpec, looks: &str) -> Vec<usize> {
        let mut state = ConditionState::default();
        let mut fired = Vec::new();
        for (second, look) in looks.chars().enumerate() {
            let seen = Seen { value: "1".into(), holds: look == '+', resets: look == '-', witnesses: Vec::new() };
            let seen = if look == '?' { Err("no answer".to_owned()) } else { Ok(seen) };
            let now = Millis(second as u64 * 1_000);
            let observation = Observation { seen };
            let news = state.is_news(spec, now, &observation);
            let before = state.clone();
            let fires = state.observe(spec, now, &observation);
            let same = (before.spent, before.holds_since, before.over_since);
            assert!(
                news || (!fires && same == (state.spent, state.holds_since, state.over_since)),
                "no news changes none"
            );
            fired.extend(fires.then_some(second));
        }
        fired
    }

    #[test]
    fn a_condition_fires_once_per_time_that_it_holds() {
        assert_eq!(fires(&spec(0, 0), "--+++-+-"), [2, 6]);
    }

    #[test]
    fn it_must_hold_without_a_break_and_be_over_without_a_break() {
        assert_eq!(fires(&spec(2, 0), "++-+++++"), [5]);
        assert_eq!(fires(&spec(0, 2), "+-+--+---+"), [0, 9]);
    }

    #[test]
    fn what_cannot_be_told_is_neither() {
        assert_eq!(fires(&spec(2, 0), "++?++++"), [5]);
        assert_eq!(fires(&spec(0, 0), "+???+"), [0], "not knowing is not over");
    }
}
