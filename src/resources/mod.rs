//! The node's resources: reserve first, then use, release on drop. The tree of scopes is a pure core in
//! `quorate_protocols::resources`; this is its handle, its guards and the approver that lends from it.

/// A part of the node's resources, released when dropped.
#[derive(Debug, Default)]
pub struct Reservation(());

impl Reservation {
    /// A reservation of nothing, for frames of no weight and for tests.
    pub fn none() -> Self {
        Self(())
    }
}
