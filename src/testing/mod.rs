//! Test doubles that tests of more than one module use.

pub(crate) mod memory;
pub(crate) mod metrics;
pub(crate) mod quorums;
