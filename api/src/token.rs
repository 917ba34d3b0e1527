//! Tokens of the API: what their holders may do, and the one table of which route needs what.
//!
//! The token in a node's data folder is the operator's and may do everything. Others are minted from it: each names its
//! owner, what it may, and when it ends. A *verb* is one kind of thing that a caller may do; every route needs exactly
//! one ([`ROUTES`]), and what is not in the table is for the operator alone.

use std::fmt;
use std::str::FromStr;

use quorate_protocols::ids::Millis;
use serde::{Deserialize, Serialize};

use super::schema;

/// Longest name of an owner.
pub const TOKEN_OWNER_BYTES_MAX: usize = 64;

/// How long a minted token may hold: a minute to a year. One that nobody remembers ends by itself.
pub const TOKEN_FOR_MS_MIN: u64 = 60 * 1000;
pub const TOKEN_FOR_MS_MAX: u64 = 366 * 24 * 3600 * 1000;

macro_rules! verbs {
    ($($(#[doc = $doc:tt])* $variant:ident = $word:tt, $reads:tt;)*) => {
        /// What a caller may do.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
        )]
        pub enum Verb {
            $($(#[doc = $doc])* #[serde(rename = $word)] $variant,)*
        }

        impl Verb {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
            /// Whether it changes nothing.
            pub const fn reads(self) -> bool {
                match self {
                    $(Self::$variant => $reads,)*
                }
            }
            /// For people, as the table of the documentation has it.
            pub fn meaning(self) -> String {
                match self {
                    $(Self::$variant => [$($doc),*].concat().trim().to_owned(),)*
                }
            }
        }
    };
}

verbs! {
    /// See the node, its peers, its resources, and quorums
    NodeRead = "node.read", true;
    /// Read the metrics
    MetricsRead = "metrics.read", true;
    /// Follow what the node sees
    EventRead = "event.read", true;
    /// Emit events, which run the jobs that wait for them
    EventEmit = "event.emit", false;
    /// See jobs: what they were asked, where they stand, their outputs, logs and receipts
    JobRead = "job.read", true;
    /// Submit jobs, and ask what a submit would do
    JobSubmit = "job.submit", false;
    /// Cancel, pause, retry, resolve, update and fire jobs
    JobControl = "job.control", false;
    /// List and read objects
    ObjectRead = "object.read", true;
    /// Store objects
    ObjectWrite = "object.write", false;
    /// Remove objects
    ObjectRemove = "object.remove", false;
    /// Mint and revoke tokens, measure and break a node under test: the operator's alone
    Operate = "node.operate", false;
}

impl Verb {
    /// Those that a token can be given.
    pub fn grantable() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(|verb| *verb != Self::Operate)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is nothing that a token may do: write {known}")]
pub struct VerbError {
    word: String,
    known: String,
}

impl FromStr for Verb {
    type Err = VerbError;
    fn from_str(word: &str) -> Result<Self, VerbError> {
        let known = || Self::grantable().map(Self::name).collect::<Vec<_>>().join(", ");
        let found = Self::grantable().find(|verb| verb.name() == word);
        found.ok_or_else(|| VerbError { word: word.to_owned(), known: known() })
    }
}

/// One route, and what it asks of its caller and of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub method: &'static str,
    /// As the description has it.
    pub path: &'static str,
    pub verb: Verb,
    /// Whether its requests may take as long as their clients like: they wait, follow, or move content.
    pub is_long: bool,
}

const fn brief(method: &'static str, path: &'static str, verb: Verb) -> Route {
    Route { method, path, verb, is_long: false }
}

const fn long(method: &'static str, path: &'static str, verb: Verb) -> Route {
    Route { method, path, verb, is_long: true }
}

pub const ROUTES: &[Route] = &[
    brief("GET", "/openapi.json", Verb::NodeRead),
    brief("GET", "/v1/node", Verb::NodeRead),
    brief("GET", "/v1/peers", Verb::NodeRead),
    brief("GET", "/v1/contact", Verb::NodeRead),
    brief("GET", "/v1/resources", Verb::NodeRead),
    brief("GET", "/v1/quorums", Verb::NodeRead),
    brief("GET", "/v1/quorums/{quorum}", Verb::NodeRead),
    brief("GET", "/v1/quorums/{quorum}/members", Verb::NodeRead),
    brief("GET", "/metrics", Verb::MetricsRead),
    long("GET", "/v1/events", Verb::EventRead),
    brief("POST", "/v1/events", Verb::EventEmit),
    brief("GET", "/v1/jobs", Verb::JobRead),
    brief("GET", "/v1/jobs/{job}", Verb::JobRead),
    long("GET", "/v1/jobs/{job}/wait", Verb::JobRead),
    brief("GET", "/v1/jobs/{job}/why", Verb::JobRead),
    brief("GET", "/v1/jobs/{job}/history", Verb::JobRead),
    brief("GET", "/v1/jobs/{job}/tasks", Verb::JobRead),
    brief("GET", "/v1/jobs/{job}/fires", Verb::JobRead),
    brief("GET", "/v1/jobs/{job}/next", Verb::JobRead),
    brief("GET", "/v1/jobs/{job}/outputs", Verb::JobRead),
    brief("GET", "/v1/jobs/{job}/receipts", Verb::JobRead),
    long("GET", "/v1/jobs/{job}/logs", Verb::JobRead),
    brief("POST", "/v1/jobs", Verb::JobSubmit),
    long("POST", "/v1/jobs:batch", Verb::JobSubmit),
    brief("POST", "/v1/jobs/ids", Verb::JobSubmit),
    brief("POST", "/v1/jobs/plan", Verb::JobSubmit),
    brief("POST", "/v1/jobs/{job}/cancel", Verb::JobControl),
    brief("POST", "/v1/jobs/{job}/pause", Verb::JobControl),
    brief("POST", "/v1/jobs/{job}/resume", Verb::JobControl),
    brief("POST", "/v1/jobs/{job}/retry", Verb::JobControl),
    brief("POST", "/v1/jobs/{job}/resolve", Verb::JobControl),
    brief("POST", "/v1/jobs/{job}/update", Verb::JobControl),
    brief("POST", "/v1/jobs/{job}/fire", Verb::JobControl),
    brief("POST", "/v1/jobs/{job}/suspend", Verb::JobControl),
    brief("POST", "/v1/jobs/{job}/unsuspend", Verb::JobControl),
    brief("GET", "/v1/objects", Verb::ObjectRead),
    brief("GET", "/v1/objects/{object}", Verb::ObjectRead),
    long("GET", "/v1/objects/{object}/content", Verb::ObjectRead),
    long("POST", "/v1/objects", Verb::ObjectWrite),
    brief("DELETE", "/v1/objects/{object}", Verb::ObjectRemove),
    brief("GET", "/v1/tokens", Verb::Operate),
    brief("POST", "/v1/tokens", Verb::Operate),
    brief("DELETE", "/v1/tokens/{token}", Verb::Operate),
    long("POST", "/v1/bench/noop", Verb::Operate),
    long("POST", "/v1/bench/form", Verb::Operate),
    long("POST", "/v1/bench/triggers", Verb::Operate),
    brief("GET", "/v1/testing/faults", Verb::Operate),
    brief("PUT", "/v1/testing/faults", Verb::Operate),
];

/// The route of a request, by the path that it matched. Whoever may read a route may ask for its head alone.
pub fn route(method: &str, path: &str) -> Option<&'static Route> {
    let method = if method == "HEAD" { "GET" } else { method };
    ROUTES.iter().find(|route| route.method == method && route.path == path)
}

/// A token to be minted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MintRequest {
    /// Who is to have it, for people.
    pub owner: String,
    pub may: Vec<Verb>,
    /// How long it holds: a minute to a year.
    pub for_ms: u64,
}

/// A new token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MintInfo {
    #[serde(flatten)]
    pub info: TokenInfo,
    /// The bearer token itself. The node keeps its hash only: it cannot be shown again.
    pub secret: String,
}

/// A token, without the secret that it stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokenInfo {
    /// Names it, and opens nothing.
    #[schema(pattern = "^[0-9a-f]{16}$")]
    pub token: String,
    pub owner: String,
    pub may: Vec<Verb>,
    #[schema(value_type = schema::Millis)]
    pub created_at: Millis,
    #[schema(value_type = schema::Millis)]
    pub expires_at: Millis,
    /// When this node last took it, since it started.
    #[schema(value_type = Option<schema::Millis>)]
    pub used_at: Option<Millis>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_once_in_the_table_and_what_is_not_there_is_no_route() {
        for (at, one) in ROUTES.iter().enumerate() {
            let again = ROUTES[at + 1..].iter().any(|other| (other.method, other.path) == (one.method, one.path));
            assert!(!again, "{} {}", one.method, one.path);
        }
        assert_eq!(route("HEAD", "/v1/node"), route("GET", "/v1/node"));
        assert_eq!(route("POST", "/v1/node"), None);
        assert_eq!(route("GET", "/v1/jobs/ids"), None);
    }

    #[test]
    fn verbs_read_back_and_the_operators_own_is_not_given_away() {
        for verb in Verb::grantable() {
            assert_eq!(verb.name().parse(), Ok(verb));
            assert!(!verb.meaning().is_empty());
        }
        for word in ["node.operate", "job", "", "job.submit "] {
            let error = word.parse::<Verb>().unwrap_err().to_string();
            assert!(error.contains("job.submit, job.control"), "{error}");
        }
    }

    /// What changes something is told from what does not by its route's method, but for plans and ids, which are part
    /// of a submit.
    #[test]
    fn verbs_that_only_read_have_routes_that_only_read() {
        for route in ROUTES.iter().filter(|route| route.verb != Verb::Operate) {
            assert_eq!(route.verb.reads(), route.method == "GET", "{} {}", route.method, route.path);
        }
    }
}
