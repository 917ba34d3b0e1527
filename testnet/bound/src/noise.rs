//! One Noise session with itself: what encrypting and decrypting costs, with libp2p's own code and without a network.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade};
use libp2p::{identity, noise};
use parking_lot::Mutex;

/// Plain bytes given to the session at once: what yamux hands to it is of this order.
const WRITE_BYTES: usize = 256 * 1024;

/// Both ends of an encrypted connection in memory.
pub struct Loopback {
    runtime: tokio::runtime::Runtime,
    sender: noise::Output<Pipe>,
    receiver: noise::Output<Pipe>,
}

impl Loopback {
    /// Shakes hands with itself.
    pub fn new() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let config = || noise::Config::new(&identity::Keypair::generate_ed25519()).map_err(io::Error::other);
        let (ours, theirs) = (config()?, config()?);
        let (a, b) = Pipe::pair();
        let (sender, receiver) = runtime.block_on(async {
            let outbound = ours.upgrade_outbound(a, PROTOCOL);
            let inbound = theirs.upgrade_inbound(b, PROTOCOL);
            futures::try_join!(outbound, inbound).map_err(io::Error::other)
        })?;
        Ok(Self { runtime, sender: sender.1, receiver: receiver.1 })
    }

    /// Encrypts `plain`, decrypts it again, and leaves it in `out` (which must be as long).
    pub fn pass(&mut self, plain: &[u8], out: &mut [u8]) -> io::Result<()> {
        let Self { runtime, sender, receiver } = self;
        runtime.block_on(async {
            for (plain, out) in plain.chunks(WRITE_BYTES).zip(out.chunks_mut(WRITE_BYTES)) {
                let send = async {
                    sender.write_all(plain).await?;
                    sender.flush().await
                };
                futures::try_join!(send, receiver.read_exact(out))?;
            }
            Ok(())
        })
    }
}

const PROTOCOL: &str = "/noise";

/// One direction of a connection in memory.
#[derive(Default)]
struct Channel {
    bytes: VecDeque<u8>,
    reader: Option<Waker>,
}

struct Pipe {
    read: Arc<Mutex<Channel>>,
    write: Arc<Mutex<Channel>>,
}

impl Pipe {
    fn pair() -> (Self, Self) {
        let (there, back) = (Arc::new(Mutex::new(Channel::default())), Arc::new(Mutex::new(Channel::default())));
        (Self { read: back.clone(), write: there.clone() }, Self { read: there, write: back })
    }
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut channel = self.read.lock();
        if channel.bytes.is_empty() {
            channel.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        // A ring has two halves; the next call takes the second.
        let (first, _) = channel.bytes.as_slices();
        let count = first.len().min(out.len());
        out[..count].copy_from_slice(&first[..count]);
        channel.bytes.drain(..count);
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // Unbounded, but `pass` reads what it wrote before it writes more.
        let mut channel = self.write.lock();
        channel.bytes.extend(bytes);
        if let Some(reader) = channel.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let mut session = Loopback::new().unwrap();
        let plain: Vec<u8> = (0..WRITE_BYTES * 2 + 17).map(|at| at as u8).collect();
        let mut out = vec![0; plain.len()];
        for _ in 0..2 {
            out.fill(0);
            session.pass(&plain, &mut out).unwrap();
            assert!(out == plain);
        }
    }
}
