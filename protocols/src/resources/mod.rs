//! Reservation first, then use: a tree of scopes that accounts memory, slots, disk, connections and descriptors.
//!
//! Everything that costs the machine something is reserved before it is used, in the narrowest scope that fits; the
//! need is then counted in that scope and in every one above it, up to the node as a whole. A reservation is granted
//! along the whole path or not at all, and a refusal names the scope and the resource that stood in its way, so that
//! a person can act on it. [`tree`] is the accounting, [`limits`] turns a machine into limits, [`leases`] are
//! reservations with an end, which is what an approval is.
//!
//! It does not wait: a need that does not fit is refused at once, and the asker decides whether to come back.

pub mod amounts;
pub mod leases;
pub mod limits;
pub mod tree;

pub use crate::capacity::Resource;
pub use amounts::Amounts;
pub use leases::{GrantError, Lease, Leases};
pub use limits::{Limits, Machine};
pub use tree::{Refused, Scope, Service, SpanId, Tree};

#[cfg(test)]
mod tests;
