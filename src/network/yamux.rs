//! The multiplexer of a connection: Yamux, with a budget for what its streams hold unread.
//!
//! Yamux makes the window of a stream larger while its bytes are read faster than they come, by a round-trip time that
//! the peer chooses: it answers the ping. libp2p's own wrapper leaves the sum of all windows of a connection at 1 GiB
//! and has no setting for it. So this is a wrapper of this crate, with a budget and nothing else.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::iter::{Once, once};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use yamux::{Config, Connection, ConnectionError, Mode, Stream};

/// Its name on the wire, where the two ends agree on a multiplexer.
const NAME: &str = "/yamux/1.0.0";

/// Streams per connection. What honest nodes open stays well below it: a few that are kept, and one for each piece and
/// approval under way.
const STREAMS_MAX: usize = 256;

/// What all windows of a connection together may grow beyond the 256 KiB that each stream begins with. Full speed takes
/// the bandwidth times the round-trip time, and Yamux doubles a window until half of it is enough. At 1 Gbit/s and
/// 50 ms that are 6 MiB, so windows of 12.5 MiB, which 16 MiB allow to one stream or to several. On loopback, where a
/// round trip takes a tenth of a millisecond, the first 256 KiB are enough for 2 GB/s.
const WINDOW_GROWTH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes that the streams of one connection hold unread at most: 80 MiB.
pub(super) const RECEIVE_WINDOW_BYTES_MAX: usize =
    STREAMS_MAX * yamux::DEFAULT_CREDIT as usize + WINDOW_GROWTH_BYTES_MAX;

/// Makes a [`Muxer`] of an encrypted connection.
#[derive(Clone)]
pub(super) struct Yamux;

impl UpgradeInfo for Yamux {
    type Info = &'static str;
    type InfoIter = Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        once(NAME)
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> InboundConnectionUpgrade<C> for Yamux {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Muxer<C>, Infallible>>;

    fn upgrade_inbound(self, socket: C, _: &'static str) -> Self::Future {
        ready(Ok(Muxer::new(socket, Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> OutboundConnectionUpgrade<C> for Yamux {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Muxer<C>, Infallible>>;

    fn upgrade_outbound(self, socket: C, _: &'static str) -> Self::Future {
        ready(Ok(Muxer::new(socket, Mode::Client)))
    }
}

/// See the module.
pub(super) struct Muxer<C> {
    connection: Connection<C>,
    /// Streams that the peer opened and that nobody took yet. Yamux counts them until they are dropped and ends a
    /// connection with more than [`STREAMS_MAX`], so there are never more here.
    opened: VecDeque<Stream>,
    /// Of the task that waits for the next of them.
    taker: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    fn new(socket: C, mode: Mode) -> Self {
        let mut config = Config::default();
        config.set_max_num_streams(STREAMS_MAX).set_max_connection_receive_window(Some(RECEIVE_WINDOW_BYTES_MAX));
        Self { connection: Connection::new(socket, config, mode), opened: VecDeque::new(), taker: None }
    }

    /// Reads and writes what can be, until the peer opens a stream.
    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        self.connection.poll_next_inbound(cx).map(|next| next.unwrap_or(Err(ConnectionError::Closed)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = Stream;
    type Error = ConnectionError;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        if let Some(stream) = self.opened.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let next = self.poll_connection(cx);
        if next.is_pending() {
            self.taker = Some(cx.waker().clone());
        }
        next
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        self.connection.poll_new_outbound(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        self.connection.poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        while let Poll::Ready(stream) = self.poll_connection(cx)? {
            self.opened.push_back(stream);
            if let Some(taker) = self.taker.take() {
                taker.wake();
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Read, Write};
    use std::sync::Arc;
    use std::time::Duration;

    use futures::task::noop_waker_ref;
    use parking_lot::Mutex;

    const PIPE_BYTES: usize = 1024 * 1024;

    type Pipe = Arc<Mutex<VecDeque<u8>>>;

    /// One end of a connection in memory. It wakes nobody: the test polls by hand.
    struct End {
        from: Pipe,
        to: Pipe,
    }

    impl AsyncRead for End {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
            let mut from = self.from.lock();
            if from.is_empty() { Poll::Pending } else { Poll::Ready(from.read(out)) }
        }
    }

    impl AsyncWrite for End {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let mut to = self.to.lock();
            let room = bytes.len().min(PIPE_BYTES - to.len());
            if room == 0 { Poll::Pending } else { Poll::Ready(to.write(&bytes[..room])) }
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// The node's end, and that of its peer.
    fn ends() -> (Muxer<End>, Muxer<End>) {
        let (one, other) = (Pipe::default(), Pipe::default());
        let node = End { from: Arc::clone(&one), to: Arc::clone(&other) };
        (Muxer::new(node, Mode::Server), Muxer::new(End { from: other, to: one }, Mode::Client))
    }

    fn turn(muxer: &mut Muxer<End>, cx: &mut Context<'_>) {
        assert!(Pin::new(muxer).poll(cx).is_pending(), "the connection ended");
    }

    /// Writes until nothing more is taken; returns how much was.
    fn pour(stream: &mut Stream, cx: &mut Context<'_>) -> usize {
        let mut poured = 0;
        while let Poll::Ready(written) = Pin::new(&mut *stream).poll_write(cx, &[7; 16 * 1024]) {
            poured += written.unwrap();
        }
        poured
    }

    /// Goal: a peer that opens all streams and is read on none costs no more than the budget, even where it made the
    /// node believe in a long way between them.
    #[test]
    fn what_a_connection_holds_unread_keeps_to_its_budget() {
        let cx = &mut Context::from_waker(noop_waker_ref());
        let (mut node, mut peer) = ends();
        // The node's ping is answered late, so that each window seems too small for the way.
        turn(&mut node, cx);
        std::thread::sleep(Duration::from_millis(500));
        turn(&mut peer, cx);
        turn(&mut node, cx);

        let Poll::Ready(Ok(first)) = Pin::new(&mut peer).poll_outbound(cx) else { panic!("no stream") };
        let mut streams = vec![first];
        let (mut sent, mut read) = (0, 0);
        let mut reading = None;
        let mut out = vec![0; 64 * 1024];
        while read < RECEIVE_WINDOW_BYTES_MAX {
            sent += pour(&mut streams[0], cx);
            turn(&mut peer, cx);
            turn(&mut node, cx);
            if reading.is_none()
                && let Poll::Ready(stream) = Pin::new(&mut node).poll_inbound(cx)
            {
                reading = Some(stream.unwrap());
            }
            let Some(reading) = &mut reading else { continue };
            while let Poll::Ready(some) = Pin::new(&mut *reading).poll_read(cx, &mut out) {
                read += some.unwrap();
            }
        }

        // From here on nothing is read.
        while streams.len() < STREAMS_MAX {
            match Pin::new(&mut peer).poll_outbound(cx) {
                Poll::Ready(stream) => streams.push(stream.unwrap()),
                Poll::Pending => turn(&mut peer, cx),
            }
        }
        let mut idle_turns = 0;
        while idle_turns < 100 {
            let poured: usize = streams.iter_mut().map(|stream| pour(stream, cx)).sum();
            sent += poured;
            idle_turns = if poured > 0 { 0 } else { idle_turns + 1 };
            turn(&mut peer, cx);
            turn(&mut node, cx);
        }
        let unread = sent - read;
        assert!(unread <= RECEIVE_WINDOW_BYTES_MAX, "{unread} bytes are held");
        let least = STREAMS_MAX * yamux::DEFAULT_CREDIT as usize;
        assert!(unread > least, "{unread} bytes are held: no window grew, so this showed nothing");
    }
}
