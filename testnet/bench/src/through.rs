//! The nodes that a client asks, by the part they play in the quorum that is measured.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// Which nodes the lanes of a measurement are spread over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// The quorum's primary.
    Primary,
    /// The quorum's other members.
    Member,
    /// Nodes that are no members.
    Outsider,
    /// Every node that runs.
    All,
    /// One node, whatever it is.
    Node(usize),
}

impl Through {
    const NAMED: [Self; 4] = [Self::Primary, Self::Member, Self::Outsider, Self::All];
}

impl fmt::Display for Through {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary => f.write_str("primary"),
            Self::Member => f.write_str("member"),
            Self::Outsider => f.write_str("outsider"),
            Self::All => f.write_str("all"),
            Self::Node(index) => write!(f, "node {index}"),
        }
    }
}

impl Serialize for Through {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is none of primary, member, outsider, all")]
pub struct ParseThroughError {
    given: String,
}

impl FromStr for Through {
    type Err = ParseThroughError;
    fn from_str(text: &str) -> Result<Self, ParseThroughError> {
        let named = Self::NAMED.into_iter().find(|through| through.to_string() == text);
        named.ok_or_else(|| ParseThroughError { given: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_named_by_their_part() {
        for through in Through::NAMED {
            assert_eq!(through.to_string().parse(), Ok(through));
        }
        let error = "leader".parse::<Through>().unwrap_err().to_string();
        assert!(error.contains("leader") && error.contains("outsider"), "{error}");
        assert!("node 3".parse::<Through>().is_err(), "--node says that");
    }
}
