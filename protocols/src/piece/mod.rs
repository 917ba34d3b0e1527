//! The piece protocol: bytes of columns between the node that stores or reads an object, its holders, and the steward.
//!
//! A put sends the pieces of a column under the lease that the holder's approval named; the holder hashes, writes and
//! syncs each piece before it answers. It takes them from the peer that the approval names as the column's writer, or,
//! when another node uploads into the run by now, from the one that the quorum names: to know a lease is worth nothing.
//! The first piece binds the lease to its column and attempt, and no more bytes come under it than it reserves.
//!
//! When a column is complete the holder *seals* it: it checks that every piece is on its disk and signs a
//! [`message::Receipt`]. After the manifest is committed the steward *confirms*, which turns the lease into a lasting
//! hold. A sealed column changes only by a repair: a voter of the quorum has the holder rebuild it, under a lease that
//! no peer writes under. A holder deletes nothing of an ended lease before the steward's quorum has said, by a
//! linearizable read, that the column is not wanted.
//!
//! Wire: `/quorate/piece/1`, a [`message::PieceMessage`] head and, for `Put` and answers to `Get`, the piece's bytes
//! as payload.

pub mod limits;
pub mod message;

pub use message::{HeldPiece, PieceAnswer, PieceMessage, PieceRefusal, RebuildPart, Receipt, ReceiptStatement, Slot};
