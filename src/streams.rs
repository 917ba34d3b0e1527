//! Streams that may be asked again after their end: each of these answers "nothing" then, however often it is asked.
//!
//! `futures::stream::unfold` panics instead, and a reader that looks for one more chunk after a last, short one is an
//! ordinary reader. So streams of our own are made here; `clippy.toml` refuses the other way to make one.

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;

/// How much of a file is read at once.
const FILE_CHUNK_BYTES: usize = 1024 * 1024;

/// As `futures::stream::unfold`: each item comes with the state that the next is made from, `None` ends it.
#[expect(clippy::disallowed_methods, reason = "fused here")]
pub fn unfold<T, F, Fut, Item>(state: T, next: F) -> impl Stream<Item = Item>
where
    F: FnMut(T) -> Fut,
    Fut: Future<Output = Option<(Item, T)>>,
{
    stream::unfold(state, next).fuse()
}

/// What a channel's senders send, until all of them are gone.
pub fn receiver<T>(mut receiver: mpsc::Receiver<T>) -> impl Stream<Item = T> + Unpin {
    stream::poll_fn(move |context| receiver.poll_recv(context))
}

/// A file in chunks, read on tokio's threads for blocking work: not for a simulated node.
pub fn file(file: std::fs::File) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
    ReaderStream::with_capacity(tokio::fs::File::from_std(file), FILE_CHUNK_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ends_and_stays_ended<T>(stream: impl Stream<Item = T>) -> usize {
        let mut stream = std::pin::pin!(stream);
        let mut items = 0;
        while stream.next().await.is_some() {
            items += 1;
        }
        for _ in 0..3 {
            assert!(stream.next().await.is_none(), "an end is an end");
        }
        items
    }

    #[tokio::test]
    async fn a_stream_that_has_ended_may_be_asked_again() {
        let counted = unfold(0, |count| async move { (count < 3).then_some((count, count + 1)) });
        assert_eq!(ends_and_stays_ended(counted).await, 3);
        let (send, receive) = mpsc::channel(2);
        send.send(1).await.unwrap();
        drop(send);
        assert_eq!(ends_and_stays_ended(receiver(receive)).await, 1);
    }

    #[tokio::test]
    async fn a_file_of_any_size_is_read_to_its_end_and_may_be_asked_again() {
        let folder = tempfile::tempdir().unwrap();
        for bytes in [0, 1, FILE_CHUNK_BYTES - 1, FILE_CHUNK_BYTES, FILE_CHUNK_BYTES + 1, 3 * FILE_CHUNK_BYTES] {
            let path = folder.path().join(bytes.to_string());
            let content: Vec<u8> = (0..bytes).map(|i| (i % 251) as u8).collect();
            std::fs::write(&path, &content).unwrap();
            let open = || std::fs::File::open(&path).unwrap();
            let chunks: Vec<_> = file(open()).map(Result::unwrap).collect().await;
            assert!(chunks.concat() == content, "{bytes} bytes");
            ends_and_stays_ended(file(open())).await;
        }
    }
}
