//! Coalesced writes: what the muxer writes is gathered into full encrypted frames.
//!
//! Yamux flushes after every frame of its own (16 KiB): each would become an encrypted frame, a system call and a
//! packet by itself, and a wake-up at the other end. Here a flush that follows a write is put off until the
//! connection's task comes round again, which it is asked to do at once: by then it has written all that was ready, and
//! the encryption below filled its frames (64 KiB) and its buffer (128 KiB). Nothing waits for a timer: a lone message
//! leaves one turn of the task later.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::{AsyncRead, AsyncWrite, FutureExt, TryFutureExt};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::{PeerId, noise};

pub(super) struct Gathered<T> {
    inner: T,
    /// Something was written since the last flush was asked for.
    written: bool,
}

impl<T> Gathered<T> {
    fn new(inner: T) -> Self {
        Self { inner, written: false }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gathered<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_read(cx, out)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gathered<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written = true;
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.written) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

/// Noise, with writes gathered in front of it.
#[derive(Clone)]
pub(super) struct GatheredNoise(pub noise::Config);

impl UpgradeInfo for GatheredNoise {
    type Info = <noise::Config as UpgradeInfo>::Info;
    type InfoIter = <noise::Config as UpgradeInfo>::InfoIter;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.protocol_info()
    }
}

type Sealed<T> = (PeerId, Gathered<noise::Output<T>>);

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> InboundConnectionUpgrade<T> for GatheredNoise {
    type Output = Sealed<T>;
    type Error = noise::Error;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, socket: T, info: Self::Info) -> Self::Future {
        self.0.upgrade_inbound(socket, info).map_ok(|(peer, output)| (peer, Gathered::new(output))).boxed()
    }
}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> OutboundConnectionUpgrade<T> for GatheredNoise {
    type Output = Sealed<T>;
    type Error = noise::Error;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, socket: T, info: Self::Info) -> Self::Future {
        self.0.upgrade_outbound(socket, info).map_ok(|(peer, output)| (peer, Gathered::new(output))).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    use futures::AsyncWriteExt;

    /// Counts flushes, and what had been written by then.
    #[derive(Default)]
    struct Sink {
        bytes: usize,
        flushed: Vec<usize>,
    }

    impl AsyncWrite for Sink {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.bytes += bytes.len();
            Poll::Ready(Ok(bytes.len()))
        }
        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            let bytes = self.bytes;
            self.flushed.push(bytes);
            Poll::Ready(Ok(()))
        }
        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_one_turn_writes_is_flushed_together_on_the_next() {
        let mut io = Gathered::new(Sink::default());
        // One turn, as the muxer does it: write, flush, write, flush, whatever the flushes say.
        poll_fn(|cx| {
            for _ in 0..3 {
                assert!(Pin::new(&mut io).poll_write(cx, &[7; 10]).is_ready());
                assert!(Pin::new(&mut io).poll_flush(cx).is_pending());
            }
            Poll::Ready(())
        })
        .await;
        assert!(io.inner.flushed.is_empty());
        // Who waits for the flush gets it without anyone else waking the task.
        io.flush().await.unwrap();
        assert_eq!(io.inner.flushed, [30]);
        io.write_all(&[7]).await.unwrap();
        io.flush().await.unwrap();
        assert_eq!(io.inner.flushed, [30, 31]);
    }
}
