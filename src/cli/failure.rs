//! How a command fails: a code for scripts, words for people.

use quorate_testnet::chaos::ChaosError;
use quorate_testnet::{ClientError, LayoutError, TestnetError};

/// The request failed.
pub const FAILED: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 2;
/// No node answers.
pub const NO_NODE: u8 = 3;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub code: u8,
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

impl Failure {
    fn new(code: u8, message: impl std::fmt::Display) -> Self {
        Self { code, message: message.to_string(), hint: None }
    }
    pub fn failed(message: impl std::fmt::Display) -> Self {
        Self::new(FAILED, message)
    }
    pub fn usage(message: impl std::fmt::Display) -> Self {
        Self::new(USAGE, message)
    }
    pub fn no_node(message: impl std::fmt::Display) -> Self {
        Self::new(NO_NODE, message)
    }
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
    /// An error with all its sources.
    pub fn of(error: &dyn std::error::Error) -> Self {
        Self::failed(crate::api::error::chain(error))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "error: {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  {hint}"),
            None => Ok(()),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::NoAnswer { url, reason } => Self::no_node(format!("no node answers at {url}: {reason}"))
                .hint("start it with `quorate node`, or a testnet with `quorate testnet up`; --node chooses another"),
            ClientError::Refused { message, hint, .. } => Self { code: FAILED, message, hint },
            ClientError::Transfer { .. } => Self::of(&error)
                .hint("the node may have stopped; whether it acted is unknown. Look at the state, then try again"),
            other => Self::of(&other),
        }
    }
}

impl From<LayoutError> for Failure {
    fn from(error: LayoutError) -> Self {
        match error {
            // A node that does not exist is a slip of the hand; a testnet that is not there has nobody to answer.
            LayoutError::NoNode { .. } => Self::usage(error),
            LayoutError::Missing { .. } => Self::no_node(error),
            other => Self::of(&other),
        }
    }
}

impl From<ChaosError> for Failure {
    fn from(error: ChaosError) -> Self {
        match error {
            ChaosError::Testnet(error) => error.into(),
            ChaosError::Client(error) => error.into(),
            ChaosError::NoKills | ChaosError::TooFewNodes { .. } => Self::usage(error),
            other => Self::of(&other),
        }
    }
}

impl From<TestnetError> for Failure {
    fn from(error: TestnetError) -> Self {
        match error {
            TestnetError::Client(error) => error.into(),
            TestnetError::Layout(LayoutError::Missing { dir }) => LayoutError::Missing { dir }.into(),
            TestnetError::TwoGroups { .. } | TestnetError::OneGroup | TestnetError::SameNode { .. } => {
                Self::usage(error)
            }
            TestnetError::NotTesting => Self::of(&error).hint(
                "start the testnet without --plain: `quorate testnet down`, then `quorate testnet up`; only nodes \
                 started with --testing take faults",
            ),
            other => Self::of(&other),
        }
    }
}
