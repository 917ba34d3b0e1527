//! Reservation first, then use: a tree of scopes that accounts memory, slots, disk, connections and descriptors.

pub mod limits;
