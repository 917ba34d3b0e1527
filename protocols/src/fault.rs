//! Faults of specifications: which setting is wrong, and what is accepted.

use std::time::Duration;

/// What is wrong with a specification. `key` is the path of the setting as a file names it (`retry.attempts`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct SpecFault {
    pub key: String,
    pub problem: String,
}

pub(crate) type Checked = Result<(), SpecFault>;

pub(crate) fn ensure(holds: bool, key: impl Into<String>, problem: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(SpecFault { key: key.into(), problem: problem() }) }
}

pub(crate) fn within<T: PartialOrd + std::fmt::Display>(key: &str, value: T, min: T, max: T) -> Checked {
    ensure(value >= min && value <= max, key, || format!("{value} is not between {min} and {max}"))
}

pub(crate) fn lasting(key: &str, value: Duration, min: Duration, max: Duration) -> Checked {
    ensure(value >= min && value <= max, key, || format!("{value:?} is not between {min:?} and {max:?}"))
}
