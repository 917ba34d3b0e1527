//! The ending of an attempt, and what follows from it: whether another attempt may do better, and whether the ending
//! says something about the task (a vote) or only about this machine and moment.

use quorate_protocols::units::ByteSize;

/// How an attempt ended. The texts are for the job's owner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ending {
    #[error("succeeded")]
    Succeeded,
    #[error("exited with code {code}")]
    Exited { code: i32 },
    /// A program ended by a signal that the node did not send.
    #[error("was ended by signal {signal}")]
    Signalled { signal: i32 },
    #[error("trapped: {reason}")]
    Trapped { reason: String },
    #[error("used up its {what}")]
    OutOfFuel { what: &'static str },
    #[error("needed more than its {} of memory", ByteSize(*limit))]
    OutOfMemory { limit: u64 },
    #[error("wrote more than the {} of output that it may", ByteSize(*limit))]
    OutputTooLarge { limit: u64 },
    /// More files than a program may have, or so that nobody can say how much it wrote.
    #[error("left more than it may: {reason}")]
    TooManyFiles { reason: String },
    #[error("did not end within {after:?}")]
    DeadlinePassed { after: std::time::Duration },
    /// A module that was still being compiled, or waited for its turn, when the task's time was over.
    #[error(
        "had not begun within {after:?}: its module was still being compiled; the next attempt finds that further on"
    )]
    NotReady { after: std::time::Duration },
    #[error("was cancelled")]
    Cancelled,
    /// The module or the task is wrong wherever it runs.
    #[error("cannot run: {reason}")]
    Invalid { reason: String },
    /// This node does not run it; another may.
    #[error("refused: {reason}")]
    Refused { reason: String },
    /// An input could not be read to its end.
    #[error("its input broke: {reason}")]
    InputBroken { reason: String },
    #[error("the node failed: {reason}")]
    HostFailed { reason: String },
}

/// Endings as retry policies and votes see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    Success,
    Exit,
    Trap,
    Fuel,
    Memory,
    Output,
    Timeout,
    Cancelled,
    Invalid,
    Refused,
    Input,
    Host,
}

impl Ending {
    pub fn class(&self) -> Class {
        match self {
            Self::Succeeded => Class::Success,
            Self::Exited { .. } | Self::Signalled { .. } => Class::Exit,
            Self::Trapped { .. } => Class::Trap,
            Self::OutOfFuel { .. } => Class::Fuel,
            Self::OutOfMemory { .. } => Class::Memory,
            Self::OutputTooLarge { .. } | Self::TooManyFiles { .. } => Class::Output,
            Self::DeadlinePassed { .. } | Self::NotReady { .. } => Class::Timeout,
            Self::Cancelled => Class::Cancelled,
            Self::Invalid { .. } => Class::Invalid,
            Self::Refused { .. } => Class::Refused,
            Self::InputBroken { .. } => Class::Input,
            Self::HostFailed { .. } => Class::Host,
        }
    }
}

impl Class {
    /// Whether a verified copy that ended so has said what it thinks the outcome is. A copy that time, memory, the
    /// machine or a person stopped has not.
    pub fn is_vote(self) -> bool {
        matches!(self, Self::Success | Self::Exit | Self::Trap | Self::Fuel | Self::Output)
    }
}
