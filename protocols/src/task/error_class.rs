//! Classes of failure: why an attempt ended without a result, and what that says of the next.

use serde::{Deserialize, Serialize};

/// Why an attempt failed. The first five are the task's own doing and, of a deterministic program, would happen again;
/// the others say nothing about what its result would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErrorClass {
    /// It ended with an exit code other than 0.
    Exit,
    /// The module trapped, or a signal ended the program.
    Trap,
    /// The module used up its fuel.
    Fuel,
    /// It wrote more than it may.
    Output,
    /// What it was told to run is not a program: the module does not compile or asks for what is not there.
    Program,
    /// It asked for more memory than it may have.
    Memory,
    Timeout,
    /// An input could not be had.
    Input,
    /// The worker's own trouble: a full disk, a failure to start.
    Host,
    /// This worker will not or cannot run the job: its operator does not list the program, or there is no room.
    Refused,
    /// The worker is gone, or forgot the attempt.
    Lost,
}

impl ErrorClass {
    pub const ALL: [Self; 11] = [
        Self::Exit,
        Self::Trap,
        Self::Fuel,
        Self::Output,
        Self::Program,
        Self::Memory,
        Self::Timeout,
        Self::Input,
        Self::Host,
        Self::Refused,
        Self::Lost,
    ];

    /// Whether the failure is a result that copies can agree on. What a deadline, memory or the host stopped is not.
    pub const fn is_vote(self) -> bool {
        matches!(self, Self::Exit | Self::Trap | Self::Fuel | Self::Output | Self::Program)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Trap => "trap",
            Self::Fuel => "fuel",
            Self::Output => "output",
            Self::Program => "program",
            Self::Memory => "memory",
            Self::Timeout => "timeout",
            Self::Input => "input",
            Self::Host => "host",
            Self::Refused => "refused",
            Self::Lost => "lost",
        }
    }
}

impl std::fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
