//! A message that arrives in parts. Memory for it is asked for as its bytes come, as for a question on a stream of its
//! own: a length that is announced and not sent holds next to nothing.

use bytes::Bytes;
use quorate_protocols::mux::Lengths;
use quorate_protocols::resources::Amounts;

use crate::buffers::Buffer;
use crate::network::codec::FIRST_BYTES;
use crate::seams::{Frame, Reservation};

/// There is no memory for the rest of the message.
#[derive(Debug)]
pub(super) struct NoMemory;

pub(super) struct Assembly {
    lengths: Lengths,
    body: Buffer,
    arrived: usize,
    /// Bytes that are paid for.
    reserved: usize,
    /// Of all but short answers.
    memory: Option<Reservation>,
}

impl Assembly {
    /// What is asked for before any byte of the message has arrived.
    pub fn first_bytes(lengths: Lengths) -> usize {
        lengths.total().min(FIRST_BYTES)
    }

    /// `memory` holds [`Self::first_bytes`].
    pub fn accounted(lengths: Lengths, memory: Reservation) -> Self {
        Self::new(lengths, Some(memory))
    }

    pub fn free(lengths: Lengths) -> Self {
        Self::new(lengths, None)
    }

    fn new(lengths: Lengths, memory: Option<Reservation>) -> Self {
        let reserved = Self::first_bytes(lengths);
        Self { lengths, body: Buffer::with_length(reserved), arrived: 0, reserved, memory }
    }

    /// Takes the next bytes, of which there are never more than were announced.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), NoMemory> {
        let total = self.lengths.total();
        let end = (self.arrived + bytes.len()).min(total);
        if end > self.reserved {
            let next = total.min(end.max(2 * self.reserved));
            if let Some(memory) = &mut self.memory {
                memory.resize(Amounts::memory(next as u64)).map_err(|_| NoMemory)?;
            }
            self.reserved = next;
        }
        if end > self.body.len() {
            // All at once: pages that nothing is written to cost none. What is paid for is what has arrived.
            let mut whole = Buffer::with_length(total);
            whole[..self.arrived].copy_from_slice(&self.body[..self.arrived]);
            self.body = whole;
        }
        self.body[self.arrived..end].copy_from_slice(&bytes[..end - self.arrived]);
        self.arrived = end;
        Ok(())
    }

    /// The whole message, and its memory.
    pub fn finish(self) -> (Frame, Option<Reservation>) {
        let mut body: Bytes = self.body.freeze();
        let head = body.split_to(self.lengths.head.min(body.len()));
        (Frame { head, payload: body }, self.memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::Resources;
    use quorate_protocols::resources::{Limits, Scope};

    /// Goal: a message that is announced and does not come holds next to nothing, one that comes no more than twice
    /// what has, and all of it at the end.
    #[test]
    fn memory_is_reserved_as_bytes_arrive() {
        let lengths = Lengths { head: 3, payload: 1_000_000 };
        let mut limits = Limits::unlimited();
        limits.protocol = Amounts::memory(1_200_000);
        let resources = Resources::new(limits);
        let used = || resources.used(Scope::Protocol("/test/1")).memory_bytes as usize;
        let first = || {
            let amount = Amounts::memory(Assembly::first_bytes(lengths) as u64);
            resources.reserve(Scope::Protocol("/test/1"), amount).expect("there is room")
        };
        let mut assembly = Assembly::accounted(lengths, first());
        let whole: Vec<u8> = (0..lengths.total()).map(|at| at as u8).collect();
        let mut arrived = 0;
        for bytes in whole.chunks(10_007) {
            assembly.push(bytes).expect("there is room");
            arrived += bytes.len();
            assert!(used() <= FIRST_BYTES.max(2 * arrived), "{} held of {arrived} bytes", used());
        }
        assert_eq!(used(), lengths.total());
        // Another one finds no more than what is left.
        let mut other = Assembly::accounted(lengths, first());
        assert!(whole.chunks(10_007).any(|bytes| other.push(bytes).is_err()));
        drop(other);
        let (frame, memory) = assembly.finish();
        assert_eq!((&frame.head[..], &frame.payload[..]), (&whole[..3], &whole[3..]));
        assert_eq!(used(), lengths.total());
        drop(memory);
        assert_eq!(used(), 0);
    }
}
