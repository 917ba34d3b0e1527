//! Objects: their layout, names and checks.
//!
//! An object is cut into segments of [`limits::SEGMENT_BYTES`], each encoded into k data and m parity pieces of equal
//! length. All pieces with one index are a column; a column goes to one holder. The [`Manifest`] lists size, profile
//! and every piece's BLAKE3 hash, and nothing that repair could change: no holders, no names, no times. Its own hash
//! is the content half of the object's name.
//!
//! Bytes from a peer or a disk become a [`CheckedPiece`] or are thrown away and their source is named.

pub mod layout;
pub mod limits;
pub mod manifest;
mod range;
mod shortage;

pub use layout::{Layout, Profile, Reachable};
pub use manifest::{CheckedPiece, Manifest, ManifestError, PieceFault};
pub use range::{ByteRange, RangeFault};
pub use shortage::HolderShortage;
