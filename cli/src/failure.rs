//! The failure of a command: a code for scripts, words for people.

use quorate_bench::BenchError;
use quorate_testnet::chaos::ChaosError;
use quorate_testnet::{ClientError, LayoutError, TestnetError};

use super::ids::{Ids, PEER_MARK};
use super::output::Text;

/// Nothing is wrong: see [`Failure::reader_gone`].
const READER_GONE: u8 = 0;
/// The request failed.
pub const FAILED: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 2;
/// No node answers.
pub const NO_NODE: u8 = 3;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub code: u8,
    pub message: Text,
    /// What to do next.
    pub hint: Option<Text>,
}

impl Failure {
    fn new(code: u8, message: impl Into<Text>) -> Self {
        Self { code, message: message.into(), hint: None }
    }
    pub fn failed(message: impl Into<Text>) -> Self {
        Self::new(FAILED, message)
    }
    pub fn usage(message: impl Into<Text>) -> Self {
        Self::new(USAGE, message)
    }
    pub fn no_node(message: impl Into<Text>) -> Self {
        Self::new(NO_NODE, message)
    }
    /// Whoever read standard output has had enough (`| head`). The command ends, and there is nothing to say and nobody
    /// to say it to.
    pub fn reader_gone() -> Self {
        Self::new(READER_GONE, "nobody reads standard output any more")
    }
    pub fn is_reader_gone(&self) -> bool {
        self.code == READER_GONE
    }
    pub fn hint(mut self, hint: impl Into<Text>) -> Self {
        self.hint = Some(hint.into());
        self
    }
    /// Another thing to do, on a line of its own.
    pub fn and_hint(mut self, hint: impl Into<Text>) -> Self {
        self.hint = Some(match self.hint {
            Some(first) => first.and(hint),
            None => hint.into(),
        });
        self
    }
    /// With the peers in it called as a person knows them.
    pub fn naming_peers(self, ids: &Ids) -> Self {
        let name = |text: Text| Text::lines(text.as_str().lines().map(|line| ids.sentence(line)));
        Self { message: name(self.message), hint: self.hint.map(name), ..self }
    }
    /// Whether a peer is in it.
    pub fn has_peers(&self) -> bool {
        self.text().as_str().contains(PEER_MARK)
    }
    /// An error with all its sources.
    pub fn of(error: &dyn std::error::Error) -> Self {
        Self::failed(quorate_protocols::text::chain(error))
    }
}

impl Failure {
    /// The message, and below it, indented, what to do next.
    pub fn text(&self) -> Text {
        let message = self.message.as_str().lines().enumerate();
        let message = message.map(|(line, text)| if line == 0 { format!("error: {text}") } else { text.to_owned() });
        let hints = self.hint.iter().flat_map(|hint| hint.as_str().lines()).map(|hint| format!("  {hint}"));
        Text::lines(message.chain(hints))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text().as_str())
    }
}

/// What a command that has more to say than its output comes to: a reader that has gone does not decide that.
pub fn unless_reader_gone(printed: Result<(), Failure>) -> Result<(), Failure> {
    printed.or_else(|failure| if failure.is_reader_gone() { Ok(()) } else { Err(failure) })
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::NoAnswer { url, reason } => Self::no_node(format!("no node answers at {url}: {reason}"))
                .hint("start it with `quorate node`, or a testnet with `quorate testnet up`; --node chooses another"),
            ClientError::Refused { message, hint, .. } => {
                Self { code: FAILED, message: message.into(), hint: hint.map(Text::from) }
            }
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

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Self {
        let hint = error.hint();
        let failure: Self = match error {
            BenchError::Testnet(error) => error.into(),
            BenchError::Client(error) => error.into(),
            // The end of its log is told as it is.
            error @ BenchError::Etcd { .. } => Self::failed(Text::paragraphs(&error.to_string())),
            error if error.is_plan() => Self::usage(error),
            error => Self::of(&error),
        };
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
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
            // The end of its log is told as it is.
            died @ TestnetError::Died { .. } => Self::failed(Text::paragraphs(&died.to_string())),
            TestnetError::NotTesting => Self::of(&error).hint(
                "start the testnet without --plain: `quorate testnet down`, then `quorate testnet up`; only nodes \
                 started with --testing take faults",
            ),
            other => Self::of(&other),
        }
    }
}
