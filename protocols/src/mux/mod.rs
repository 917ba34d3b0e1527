//! Many questions and their answers on one stream: what its bytes mean, and in which order they go out.
//!
//! A stream belongs to one protocol and has one asking side. Each message (a question or an answer: a head and a
//! payload) has the id that its asker gave the question, and travels in *parts* of at most [`PART_BYTES_MAX`]:
//!
//! ```text
//! part:       [u8 kind][u64 LE id][u32 LE length][length bytes]
//! 0 question  [u32 LE patience in ms][u32 LE head length][u32 LE payload length][first bytes of head and payload]
//! 1 answer    [u32 LE head length][u32 LE payload length][first bytes of head and payload]
//! 2 more      the bytes of the message that follow
//! 3 busy      nothing: no request was taken
//! 4 cancel    nothing: nobody waits for the answer any more
//! ```
//!
//! The asking side writes 0, 2 and 4, the serving side 1, 2 and 3. Answers come in any order. Messages take turns, a
//! part each ([`Outbox`]), so that a large one holds up a small one by a part and not by its length. Bytes of a message
//! that the reader has forgotten are skipped: it was refused or cancelled while they were on their way. Anything else
//! that is not in order is a [`Fault`], after which nothing on the stream means anything.
//!
//! Pure: bytes in and events out, messages in and bytes out. Memory for what arrives is the reader's: a [`Parser`]
//! keeps a few bytes for each message that its owner has not forgotten.

mod outbox;
mod parser;

pub use outbox::Outbox;
pub use parser::{Event, Fault, Parser};

/// Bytes of a message in one part.
pub const PART_BYTES_MAX: usize = 16 * 1024;

/// Kind, id and length.
const HEADER_BYTES: usize = 13;

/// What a question's first part begins with, and an answer's.
const QUESTION_BYTES: usize = 12;
const ANSWER_BYTES: usize = 8;

const QUESTION: u8 = 0;
const ANSWER: u8 = 1;
const MORE: u8 = 2;
const BUSY: u8 = 3;
const CANCEL: u8 = 4;

/// The two ends of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Asking,
    Serving,
}

/// Bytes of a message's head and payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lengths {
    pub head: usize,
    pub payload: usize,
}

impl Lengths {
    pub fn total(self) -> usize {
        self.head + self.payload
    }
}

#[cfg(test)]
mod tests;
