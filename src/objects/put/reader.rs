//! Cuts a body into segments: gathers chunks into one buffer of a segment's size, which the coder then slices.

use std::io;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use quorate_protocols::object::Profile;
use quorate_protocols::object::limits::SEGMENT_BYTES;

pub(super) struct SegmentReader {
    body: BoxStream<'static, Result<Bytes, io::Error>>,
    /// What was received beyond the end of the last segment.
    rest: Bytes,
    /// Room for the padding of the last piece, so that the coder does not move the buffer.
    capacity: usize,
    pub(super) bytes: u64,
}

impl SegmentReader {
    pub(super) fn new(body: BoxStream<'static, Result<Bytes, io::Error>>) -> Self {
        Self { body, rest: Bytes::new(), capacity: SEGMENT_BYTES, bytes: 0 }
    }

    /// The profile is settled after the reader exists: a resumed run brings its own.
    pub(super) fn set_profile(&mut self, profile: Profile) {
        let data = (profile.data as usize).max(1);
        self.capacity = SEGMENT_BYTES.div_ceil(data) * data;
    }

    /// The next segment; `None` at the end. A segment shorter than `SEGMENT_BYTES` is the last.
    pub(super) async fn next(&mut self) -> Result<Option<BytesMut>, io::Error> {
        let mut segment = BytesMut::new();
        while segment.len() < SEGMENT_BYTES {
            if self.rest.is_empty() {
                match self.body.next().await {
                    Some(chunk) => self.rest = chunk?,
                    None => break,
                }
                continue;
            }
            if segment.capacity() == 0 {
                // Small objects are common: they get no 16 MiB. The first chunk of a large one is large.
                let small = self.rest.len() < SMALL_CHUNK;
                segment.reserve(if small { self.rest.len().max(SMALL_CHUNK) } else { self.capacity });
            }
            if segment.len() + self.rest.len() > segment.capacity() {
                segment.reserve(self.capacity - segment.len());
            }
            let taken = self.rest.split_to(self.rest.len().min(SEGMENT_BYTES - segment.len()));
            segment.extend_from_slice(&taken);
        }
        self.bytes += segment.len() as u64;
        Ok((!segment.is_empty()).then_some(segment))
    }

    /// Puts a segment back in front, as if it had not been read.
    pub(super) fn unread(&mut self, pieces: &[Bytes], length: usize) {
        let rest = std::mem::take(&mut self.rest);
        let mut left = length;
        let mut front: Vec<Result<Bytes, io::Error>> = Vec::new();
        for piece in pieces {
            let part = piece.slice(..piece.len().min(left));
            left -= part.len();
            front.push(Ok(part));
        }
        front.push(Ok(rest));
        let body = std::mem::replace(&mut self.body, futures::stream::empty().boxed());
        self.body = futures::stream::iter(front).chain(body).boxed();
        self.bytes -= length as u64;
    }
}

const SMALL_CHUNK: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn segments_have_their_size_whatever_the_chunks() {
        let total = SEGMENT_BYTES + 1000;
        let content: Vec<u8> = (0..total).map(|i| (i % 251) as u8).collect();
        let chunks: Vec<_> = content.chunks(300_001).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let mut reader = SegmentReader::new(futures::stream::iter(chunks).boxed());
        reader.set_profile(Profile::DEFAULT);
        let first = reader.next().await.unwrap().unwrap();
        assert_eq!(&first[..], &content[..SEGMENT_BYTES]);
        let second = reader.next().await.unwrap().unwrap();
        assert_eq!(&second[..], &content[SEGMENT_BYTES..]);
        reader.unread(&[second.freeze()], 1000);
        let again = reader.next().await.unwrap().unwrap();
        assert_eq!(&again[..], &content[SEGMENT_BYTES..]);
        assert_eq!(reader.next().await.unwrap(), None);
        assert_eq!(reader.bytes, total as u64);
    }

    #[tokio::test]
    async fn an_empty_body_has_no_segment() {
        let chunks = vec![Ok(Bytes::new()), Ok(Bytes::new())];
        let mut reader = SegmentReader::new(futures::stream::iter(chunks).boxed());
        assert_eq!(reader.next().await.unwrap(), None);
    }
}
