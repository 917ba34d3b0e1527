//! One stream, read into a borrowed buffer and written from an outbox, as far as it goes without waiting.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::{AsyncRead, AsyncWrite};
use quorate_protocols::mux::Outbox;

/// Taken from an outbox for one write: two of the muxer's frames.
const WRITE_BYTES: usize = 32 * 1024;

/// A buffer that has grown beyond this is given back once it was written.
const KEPT_BYTES: usize = 4 * 1024;

pub(super) struct Io<S> {
    stream: S,
    /// Parts that are being written, and how much of them is.
    out: Vec<u8>,
    written: usize,
    flush_due: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Io<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, out: Vec::new(), written: 0, flush_due: false }
    }

    /// How many bytes arrived. The end of the stream is an error.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            read => read,
        }
    }

    /// Writes what the outbox has; `sent` is told the messages whose last part was taken from it.
    pub fn write(&mut self, cx: &mut Context<'_>, outbox: &mut Outbox, mut sent: impl FnMut(u64)) -> io::Result<()> {
        loop {
            if self.written == self.out.len() {
                self.out.clear();
                self.written = 0;
                outbox.fill(&mut self.out, WRITE_BYTES, &mut sent);
                if self.out.is_empty() {
                    break;
                }
            }
            match Pin::new(&mut self.stream).poll_write(cx, &self.out[self.written..]) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(bytes)) => {
                    self.written += bytes;
                    self.flush_due = true;
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        if self.out.is_empty() && self.out.capacity() > KEPT_BYTES {
            self.out = Vec::new();
        }
        if self.flush_due {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.flush_due = false,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => (),
            }
        }
        Ok(())
    }
}
