//! The states that a run goes through, whatever its kind. Which leads where is the kind's to say.

use serde::{Deserialize, Serialize};

/// Where a run stands. The legal moves are data: `job::transition`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    Pending,
    Running,
    Pausing,
    Paused,
    Cancelling,
    Reverting,
    Succeeded,
    Failed,
    Reverted,
    Cancelled,
    AwaitingResolution,
}

impl std::fmt::Display for RunState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl RunState {
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Reverted | Self::Cancelled)
    }

    pub const ALL: [Self; 11] = [
        Self::Pending,
        Self::Running,
        Self::Pausing,
        Self::Paused,
        Self::Cancelling,
        Self::Reverting,
        Self::AwaitingResolution,
        Self::Succeeded,
        Self::Failed,
        Self::Reverted,
        Self::Cancelled,
    ];

    /// As people read it; the same words as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Cancelling => "cancelling",
            Self::Reverting => "reverting",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Reverted => "reverted",
            Self::Cancelled => "cancelled",
            Self::AwaitingResolution => "awaiting-resolution",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_those_of_the_json_form_and_every_state_is_listed() {
        for state in RunState::ALL {
            assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{}\"", state.name()));
        }
        assert_eq!(RunState::ALL.into_iter().collect::<BTreeSet<_>>().len(), 11);
    }
}
