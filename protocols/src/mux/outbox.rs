//! Messages that leave on a stream: they begin in the order in which they came, and take turns from part to part.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{ANSWER, ANSWER_BYTES, BUSY, CANCEL, HEADER_BYTES, MORE, PART_BYTES_MAX, QUESTION, QUESTION_BYTES};

/// See the module.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Parts without bytes, which go first.
    notices: VecDeque<(u8, u64)>,
    turns: VecDeque<Message>,
}

#[derive(Debug)]
struct Message {
    id: u64,
    /// Of a question.
    patience_ms: Option<u32>,
    head: Bytes,
    payload: Bytes,
    begun: bool,
}

impl Outbox {
    /// Lengths must fit into 32 bits.
    pub fn ask(&mut self, id: u64, patience_ms: u32, head: Bytes, payload: Bytes) {
        self.turns.push_back(Message { id, patience_ms: Some(patience_ms), head, payload, begun: false });
    }
    /// Lengths must fit into 32 bits.
    pub fn answer(&mut self, id: u64, head: Bytes, payload: Bytes) {
        self.turns.push_back(Message { id, patience_ms: None, head, payload, begun: false });
    }
    pub fn refuse(&mut self, id: u64) {
        self.notices.push_back((BUSY, id));
    }
    pub fn cancel(&mut self, id: u64) {
        self.notices.push_back((CANCEL, id));
    }

    /// Writes no more of this message. Returns whether nothing of it was written.
    pub fn remove(&mut self, id: u64) -> bool {
        let at = self.turns.iter().position(|message| message.id == id);
        at.and_then(|at| self.turns.remove(at)).is_some_and(|message| !message.begun)
    }

    /// Whether something of this message is still to be written.
    pub fn holds(&self, id: u64) -> bool {
        self.turns.iter().any(|message| message.id == id)
    }

    pub fn is_empty(&self) -> bool {
        self.notices.is_empty() && self.turns.is_empty()
    }

    /// Refusals and cancellations that wait to be written.
    pub fn notices(&self) -> usize {
        self.notices.len()
    }

    /// Appends parts to `out` until it has `bytes_min` or nothing is left, at most one part more than that; `sent` is
    /// told the messages whose last part is among them.
    pub fn fill(&mut self, out: &mut Vec<u8>, bytes_min: usize, mut sent: impl FnMut(u64)) {
        while out.len() < bytes_min {
            if let Some((kind, id)) = self.notices.pop_front() {
                write_header(out, kind, id, 0);
                continue;
            }
            let Some(mut message) = self.turns.pop_front() else { return };
            message.write_part(out);
            match message.is_written() {
                true => sent(message.id),
                false => self.turns.push_back(message),
            }
        }
    }
}

impl Message {
    fn is_written(&self) -> bool {
        self.begun && self.head.is_empty() && self.payload.is_empty()
    }

    fn write_part(&mut self, out: &mut Vec<u8>) {
        let head = self.head.split_to(self.head.len().min(PART_BYTES_MAX));
        let payload = self.payload.split_to(self.payload.len().min(PART_BYTES_MAX - head.len()));
        let bytes = head.len() + payload.len();
        if self.begun {
            write_header(out, MORE, self.id, bytes);
        } else {
            self.begun = true;
            match self.patience_ms {
                Some(patience_ms) => {
                    write_header(out, QUESTION, self.id, QUESTION_BYTES + bytes);
                    out.extend_from_slice(&patience_ms.to_le_bytes());
                }
                None => write_header(out, ANSWER, self.id, ANSWER_BYTES + bytes),
            }
            write_length(out, head.len() + self.head.len());
            write_length(out, payload.len() + self.payload.len());
        }
        out.extend_from_slice(&head);
        out.extend_from_slice(&payload);
    }
}

fn write_header(out: &mut Vec<u8>, kind: u8, id: u64, length: usize) {
    out.reserve(HEADER_BYTES + length);
    out.push(kind);
    out.extend_from_slice(&id.to_le_bytes());
    write_length(out, length);
}

fn write_length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}
