//! Parts of messages on a stream that questions share, written a second time from their description, so that the two
//! must agree.
//!
//! ```text
//! part:       [u8 kind][u64 LE id][u32 LE length][length bytes]
//! 0 question  [u32 LE patience in ms][u32 LE head length][u32 LE payload length][first bytes of head and payload]
//! 1 answer    [u32 LE head length][u32 LE payload length][first bytes]
//! 2 more      bytes that follow
//! 3 busy      4 cancel
//! ```

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt};

use super::frame::{Frame, Lane, millis};

/// Bytes of a message in one part.
const PART_BYTES: usize = 16 * 1024;

/// Longest body of a part that is read.
const BODY_BYTES_MAX: usize = PART_BYTES + 12;

/// The bytes of one part, whatever they are.
pub fn part(kind: u8, id: u64, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &id.to_le_bytes(), &(body.len() as u32).to_le_bytes(), body].concat()
}

fn message(kind: u8, id: u64, patience: &[u8], frame: &Frame) -> Vec<u8> {
    let lengths = [(frame.head.len() as u32).to_le_bytes(), (frame.payload.len() as u32).to_le_bytes()].concat();
    in_parts(kind, id, &[patience, &lengths].concat(), &[&frame.head[..], &frame.payload].concat())
}

/// `start` and `body` as one part, and as many more as the body takes.
fn in_parts(kind: u8, id: u64, start: &[u8], body: &[u8]) -> Vec<u8> {
    let (first, rest) = body.split_at(body.len().min(PART_BYTES));
    let mut out = part(kind, id, &[start, first].concat());
    rest.chunks(PART_BYTES).for_each(|more| out.extend(part(2, id, more)));
    out
}

/// A question with these first bytes, whatever its start says of their number.
pub fn begun(id: u64, start: &[u8], body: &[u8]) -> Vec<u8> {
    in_parts(0, id, start, body)
}

pub fn question(id: u64, patience: Duration, frame: &Frame) -> Vec<u8> {
    message(0, id, &millis(patience), frame)
}

pub fn answer(id: u64, frame: &Frame) -> Vec<u8> {
    message(1, id, &[], frame)
}

pub fn cancel(id: u64) -> Vec<u8> {
    part(4, id, &[])
}

/// A part that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    kind: u8,
    id: u64,
    body: Vec<u8>,
}

/// The next part, with the stream it was read from.
pub async fn read<T: AsyncRead + Unpin>(mut io: T) -> io::Result<(T, Part)> {
    let mut start = [0; 13];
    io.read_exact(&mut start).await?;
    let [kind, a, b, c, d, e, f, g, h, l0, l1, l2, l3] = start;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if length > BODY_BYTES_MAX {
        return Err(io::Error::other(format!("a part of {length} bytes")));
    }
    let mut body = vec![0; length];
    io.read_exact(&mut body).await?;
    Ok((io, Part { kind, id: u64::from_le_bytes([a, b, c, d, e, f, g, h]), body }))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Question { id: u64, frame: Frame },
    Answer { id: u64, frame: Frame },
    Busy { id: u64 },
    Cancel { id: u64 },
}

/// Messages whose parts are still coming.
#[derive(Debug)]
pub struct Messages {
    lane: Lane,
    open: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    is_question: bool,
    head: usize,
    total: usize,
    bytes: Vec<u8>,
}

impl Messages {
    pub fn new(lane: Lane) -> Self {
        Self { lane, open: BTreeMap::new() }
    }

    /// The message that this part completes, if it does.
    pub fn take_part(&mut self, part: Part) -> io::Result<Option<Message>> {
        let Part { kind, id, body } = part;
        let short = || io::Error::other("a part that is too short");
        let at = |at: usize| Some(u32::from_le_bytes(*body.get(at..)?.first_chunk()?) as usize);
        match kind {
            0 | 1 => {
                let lengths = if kind == 0 { 4 } else { 0 };
                let (head, payload) = (at(lengths).ok_or_else(short)?, at(lengths + 4).ok_or_else(short)?);
                if head > self.lane.head_bytes_max() || payload > self.lane.payload_bytes_max() {
                    return Err(io::Error::other(format!("a frame of {head} and {payload} bytes")));
                }
                let bytes = body[lengths + 8..].to_vec();
                self.open.insert(id, Open { is_question: kind == 0, head, total: head + payload, bytes });
            }
            2 => {
                if let Some(open) = self.open.get_mut(&id) {
                    open.bytes.extend(body);
                }
            }
            3 => return Ok(Some(Message::Busy { id })),
            4 => {
                self.open.remove(&id);
                return Ok(Some(Message::Cancel { id }));
            }
            other => return Err(io::Error::other(format!("a part of kind {other}"))),
        }
        if self.open.get(&id).is_none_or(|open| open.bytes.len() < open.total) {
            return Ok(None);
        }
        let Some(open) = self.open.remove(&id) else { return Ok(None) };
        if open.bytes.len() > open.total {
            return Err(io::Error::other("more bytes than were announced"));
        }
        let mut head = Bytes::from(open.bytes);
        let payload = head.split_off(open.head);
        let frame = Frame { head, payload };
        Ok(Some(if open.is_question { Message::Question { id, frame } } else { Message::Answer { id, frame } }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::io::Cursor;

    async fn messages(bytes: Vec<u8>) -> Vec<Message> {
        let (mut io, mut messages, mut found) = (Cursor::new(bytes), Messages::new(Lane::Raft), Vec::new());
        while let Ok((rest, part)) = read(io).await {
            found.extend(messages.take_part(part).unwrap());
            io = rest;
        }
        found
    }

    /// Goal: what a node's own code writes is read here, and what is written here is read there.
    #[tokio::test]
    async fn both_descriptions_of_the_wire_agree() {
        use quorate_protocols::mux::{Event, Lengths, Outbox, Parser, Side};
        let frame = Frame { head: vec![1; 50_000].into(), payload: vec![2; 20_000].into() };
        let small = Frame { head: vec![3; 5].into(), payload: Bytes::new() };
        let mut outbox = Outbox::default();
        outbox.ask(7, 500, frame.head.clone(), frame.payload.clone());
        outbox.ask(8, 500, small.head.clone(), small.payload.clone());
        outbox.cancel(9);
        let mut bytes = Vec::new();
        outbox.fill(&mut bytes, usize::MAX, |_| ());
        let asked = |id, frame: &Frame| Message::Question { id, frame: frame.clone() };
        assert_eq!(messages(bytes).await, [Message::Cancel { id: 9 }, asked(8, &small), asked(7, &frame)]);

        let bytes = [question(7, Duration::from_millis(500), &frame), cancel(7)].concat();
        let largest = Lengths { head: 100_000, payload: 100_000 };
        let (mut parser, mut input) = (Parser::new(Side::Asking, largest), &bytes[..]);
        let lengths = Lengths { head: 50_000, payload: 20_000 };
        let begun = parser.next(&mut input).unwrap();
        assert_eq!(begun, Some(Event::Question { id: 7, patience_ms: 500, lengths }));
        let mut found = Vec::new();
        while let Some(event) = parser.next(&mut input).unwrap() {
            match event {
                Event::Bytes { id: 7, bytes } => found.extend_from_slice(bytes),
                Event::Complete { id: 7 } => assert_eq!(found, [&frame.head[..], &frame.payload].concat()),
                Event::Cancel { id: 7 } => return,
                other => panic!("{other:?}"),
            }
        }
        panic!("it was not cancelled");
    }
}
