//! Bytes of a stream as events, whatever pieces they arrive in.

use std::collections::BTreeMap;

use super::{
    ANSWER, ANSWER_BYTES, BUSY, CANCEL, HEADER_BYTES, Lengths, MORE, PART_BYTES_MAX, QUESTION, QUESTION_BYTES, Side,
};

/// What a stream said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A question begins, whose asker waits for so many milliseconds.
    Question {
        id: u64,
        patience_ms: u32,
        lengths: Lengths,
    },
    /// The answer to the question with this id begins.
    Answer {
        id: u64,
        lengths: Lengths,
    },
    /// The next bytes of a message that has begun and is not forgotten; never empty.
    Bytes {
        id: u64,
        bytes: &'a [u8],
    },
    /// All bytes of the message have been told.
    Complete {
        id: u64,
    },
    Busy {
        id: u64,
    },
    Cancel {
        id: u64,
    },
}

/// Why the bytes of a stream mean nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("a part of kind {0}, which its writer does not write")]
    Kind(u8),
    #[error("a part of {length} bytes, which its kind does not have")]
    Length { length: usize },
    #[error("a message of {head} and {payload} bytes is larger than the protocol carries")]
    TooLarge { head: usize, payload: usize },
    #[error("message {id} began twice")]
    Again { id: u64 },
    #[error("message {id} has more bytes than it announced")]
    Beyond { id: u64 },
}

/// Reads one direction of a stream.
#[derive(Debug)]
pub struct Parser {
    writer: Side,
    largest: Lengths,
    /// The beginning of a part, as far as it has arrived.
    start: [u8; HEADER_BYTES + QUESTION_BYTES],
    arrived: usize,
    /// Bytes of a message that the present part still brings.
    body: Option<(u64, usize)>,
    /// Messages that are not complete, with the bytes that they lack.
    open: BTreeMap<u64, usize>,
    /// The message that is complete, and of which that was not told.
    complete: Option<u64>,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

impl Parser {
    /// Reads what `writer` writes, in messages no larger than `largest`.
    pub fn new(writer: Side, largest: Lengths) -> Self {
        let start = [0; HEADER_BYTES + QUESTION_BYTES];
        Self { writer, largest, start, arrived: 0, body: None, open: BTreeMap::new(), complete: None }
    }

    /// The next event in the bytes, which are taken off the front of `input`. `None` once all of them are used up.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Fault> {
        loop {
            if let Some(id) = self.complete.take() {
                return Ok(Some(Event::Complete { id }));
            }
            if let Some((id, left)) = self.body.filter(|(_, left)| *left > 0) {
                if input.is_empty() {
                    return Ok(None);
                }
                let (bytes, rest) = input.split_at(left.min(input.len()));
                *input = rest;
                self.body = Some((id, left - bytes.len()));
                // Nobody wants the bytes of one that is forgotten.
                let Some(lacking) = self.open.get_mut(&id) else { continue };
                *lacking = lacking.saturating_sub(bytes.len());
                if *lacking == 0 {
                    self.open.remove(&id);
                    self.complete = Some(id);
                }
                return Ok(Some(Event::Bytes { id, bytes }));
            }
            self.body = None;
            if !self.fill_start(HEADER_BYTES, input) {
                return Ok(None);
            }
            let extra = self.check_header()?;
            if !self.fill_start(HEADER_BYTES + extra, input) {
                return Ok(None);
            }
            self.arrived = 0;
            if let Some(event) = self.begin_part()? {
                return Ok(Some(event));
            }
        }
    }

    /// The rest of this message is of no interest. Unknown ones are forgotten already.
    pub fn forget(&mut self, id: u64) {
        self.open.remove(&id);
        self.complete = self.complete.filter(|complete| *complete != id);
    }

    fn fill_start(&mut self, wanted: usize, input: &mut &[u8]) -> bool {
        let missing = wanted.saturating_sub(self.arrived).min(input.len());
        let (bytes, rest) = input.split_at(missing);
        self.start[self.arrived..self.arrived + missing].copy_from_slice(bytes);
        self.arrived += missing;
        *input = rest;
        self.arrived >= wanted
    }

    fn header(&self) -> (u8, u64, usize) {
        let id = self.start[1..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        (self.start[0], id, u32_at(&self.start, 9) as usize)
    }

    /// How many bytes its kind has before those of a message.
    fn check_header(&self) -> Result<usize, Fault> {
        let (kind, _, length) = self.header();
        let (extra, may_be) = match (kind, self.writer) {
            (QUESTION, Side::Asking) => (QUESTION_BYTES, QUESTION_BYTES..=QUESTION_BYTES + PART_BYTES_MAX),
            (ANSWER, Side::Serving) => (ANSWER_BYTES, ANSWER_BYTES..=ANSWER_BYTES + PART_BYTES_MAX),
            (MORE, _) => (0, 1..=PART_BYTES_MAX),
            (BUSY, Side::Serving) | (CANCEL, Side::Asking) => (0, 0..=0),
            _ => return Err(Fault::Kind(kind)),
        };
        if may_be.contains(&length) { Ok(extra) } else { Err(Fault::Length { length }) }
    }

    /// What the part says before its bytes of a message, if that is anything.
    fn begin_part<'a>(&mut self) -> Result<Option<Event<'a>>, Fault> {
        let (kind, id, length) = self.header();
        let event = match kind {
            QUESTION => {
                let lengths = self.begin_message(id, HEADER_BYTES + 4, length - QUESTION_BYTES)?;
                Event::Question { id, patience_ms: u32_at(&self.start, HEADER_BYTES), lengths }
            }
            ANSWER => Event::Answer { id, lengths: self.begin_message(id, HEADER_BYTES, length - ANSWER_BYTES)? },
            MORE => {
                if self.open.get(&id).is_some_and(|lacking| *lacking < length) {
                    return Err(Fault::Beyond { id });
                }
                self.body = Some((id, length));
                return Ok(None);
            }
            BUSY => Event::Busy { id },
            _ => Event::Cancel { id },
        };
        Ok(Some(event))
    }

    fn begin_message(&mut self, id: u64, at: usize, first: usize) -> Result<Lengths, Fault> {
        let (head, payload) = (u32_at(&self.start, at) as usize, u32_at(&self.start, at + 4) as usize);
        if head > self.largest.head || payload > self.largest.payload {
            return Err(Fault::TooLarge { head, payload });
        }
        let lengths = Lengths { head, payload };
        if self.open.contains_key(&id) {
            return Err(Fault::Again { id });
        }
        if first > lengths.total() {
            return Err(Fault::Beyond { id });
        }
        match lengths.total() {
            0 => self.complete = Some(id),
            total => drop(self.open.insert(id, total)),
        }
        self.body = Some((id, first));
        Ok(lengths)
    }
}
