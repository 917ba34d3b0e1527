//! Cuts a body into segments: gathers chunks into one buffer of a segment's size, which the coder then slices.

use std::io;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{BoxStream, Fuse};
use quorate_protocols::object::Profile;
use quorate_protocols::object::limits::SEGMENT_BYTES;

use crate::buffers::Buffer;

pub(super) struct SegmentReader {
    /// Fused, because a segment that is short is followed by a look for the next.
    body: Fuse<BoxStream<'static, Result<Bytes, io::Error>>>,
    /// What was received beyond the end of the last segment.
    rest: Bytes,
    /// Room for the padding of the last piece, so that the coder does not move the buffer.
    capacity: usize,
    pub(super) bytes: u64,
}

impl SegmentReader {
    pub(super) fn new(body: BoxStream<'static, Result<Bytes, io::Error>>) -> Self {
        Self { body: body.fuse(), rest: Bytes::new(), capacity: SEGMENT_BYTES, bytes: 0 }
    }

    /// The profile is settled after the reader exists: a resumed run brings its own.
    pub(super) fn set_profile(&mut self, profile: Profile) {
        let data = (profile.data as usize).max(1);
        self.capacity = SEGMENT_BYTES.div_ceil(data) * data;
    }

    /// The next segment; `None` at the end. A segment shorter than `SEGMENT_BYTES` is the last.
    pub(super) async fn next(&mut self) -> Result<Option<Buffer>, io::Error> {
        let (mut segment, mut filled) = (Buffer::with_length(0), 0);
        while filled < SEGMENT_BYTES {
            if self.rest.is_empty() {
                match self.body.next().await {
                    Some(chunk) => self.rest = chunk?,
                    None => break,
                }
                continue;
            }
            let taken = self.rest.split_to(self.rest.len().min(SEGMENT_BYTES - filled));
            if filled + taken.len() > segment.len() {
                // Small objects are common: they get no 16 MiB. The first chunk of a large one is large.
                let small = filled == 0 && taken.len() <= SMALL_CHUNK;
                let mut larger = Buffer::with_length(if small { SMALL_CHUNK } else { self.capacity });
                larger[..filled].copy_from_slice(&segment[..filled]);
                segment = larger;
            }
            segment[filled..filled + taken.len()].copy_from_slice(&taken);
            filled += taken.len();
        }
        self.bytes += filled as u64;
        segment.truncate(filled);
        Ok((filled > 0).then_some(segment))
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
        let body = std::mem::replace(&mut self.body, futures::stream::empty().boxed().fuse());
        self.body = futures::stream::iter(front).chain(body).boxed().fuse();
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
        assert!(reader.next().await.unwrap().is_none());
        assert_eq!(reader.bytes, total as u64);
    }

    #[tokio::test]
    async fn an_empty_body_has_no_segment() {
        let chunks = vec![Ok(Bytes::new()), Ok(Bytes::new())];
        let mut reader = SegmentReader::new(futures::stream::iter(chunks).boxed());
        assert!(reader.next().await.unwrap().is_none());
    }

    /// A body that panics when it is asked again after its end, as callers' may.
    #[expect(clippy::disallowed_methods, reason = "the sort of stream that is meant")]
    fn strict(content: Vec<u8>, chunk: usize) -> BoxStream<'static, io::Result<Bytes>> {
        let next = move |mut rest: Bytes| async move {
            let first = rest.split_to(rest.len().min(chunk));
            (!first.is_empty()).then_some((Ok(first), rest))
        };
        futures::stream::unfold(Bytes::from(content), next).boxed()
    }

    /// Goal: a body is read to its end whatever its size, and not asked once more than it allows.
    #[tokio::test]
    async fn a_body_of_any_size_is_read_to_its_end() {
        let around = |bytes: usize| [bytes - 1, bytes, bytes + 1];
        let sizes = [SMALL_CHUNK, 1 << 20, SEGMENT_BYTES].map(around).concat();
        for size in [0, 1].into_iter().chain(sizes) {
            let mut reader = SegmentReader::new(strict(vec![7; size], 1 << 20));
            reader.set_profile(Profile::DEFAULT);
            let mut read = 0;
            while let Some(segment) = reader.next().await.unwrap() {
                assert!(segment.iter().all(|byte| *byte == 7));
                read += segment.len();
            }
            assert_eq!((read, reader.bytes), (size, size as u64));
        }
    }
}
