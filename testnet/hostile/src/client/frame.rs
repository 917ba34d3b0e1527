//! Frames on a stream of their own, as approvals and pieces have them, written a second time from their description, so
//! that the two must agree.
//!
//! ```text
//! question: [u32 LE patience in ms][u32 LE head length][u32 LE payload length][head][payload]
//! answer:   [status 0]             [u32 LE head length][u32 LE payload length][head][payload]
//!           [status 1]             busy
//! ```
//!
//! [`Half`] writes lengths that its bytes do not have, on any stream.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use quorate_protocols as p;

use super::parts;

/// One of the protocols of questions and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    Approval,
    Raft,
    Liveness,
    Job,
    Piece,
    Task,
}

impl Lane {
    pub const ALL: [Self; 6] = [Self::Approval, Self::Raft, Self::Liveness, Self::Job, Self::Piece, Self::Task];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Approval => p::approval::limits::PROTOCOL,
            Self::Raft => p::quorum::limits::RAFT_PROTOCOL,
            Self::Liveness => p::liveness::limits::PROTOCOL,
            Self::Job => p::job::limits::PROTOCOL,
            Self::Piece => p::piece::limits::PROTOCOL,
            Self::Task => p::task::limits::PROTOCOL,
        }
    }
    pub const fn head_bytes_max(self) -> usize {
        match self {
            Self::Approval => p::approval::limits::MESSAGE_BYTES_MAX,
            Self::Raft => p::quorum::limits::RAFT_HEAD_BYTES_MAX,
            Self::Liveness => p::liveness::limits::MESSAGE_BYTES_MAX,
            Self::Job => p::job::limits::MESSAGE_BYTES_MAX,
            Self::Piece => p::piece::limits::HEAD_BYTES_MAX,
            Self::Task => p::task::limits::MESSAGE_BYTES_MAX,
        }
    }
    pub const fn payload_bytes_max(self) -> usize {
        match self {
            Self::Raft => p::quorum::limits::RAFT_PAYLOAD_BYTES_MAX,
            Self::Piece => p::piece::limits::PIECE_BYTES_MAX,
            Self::Approval | Self::Liveness | Self::Job | Self::Task => 0,
        }
    }
    /// Whether its questions share a stream.
    pub const fn is_shared(self) -> bool {
        match self {
            Self::Raft | Self::Liveness | Self::Job | Self::Task => true,
            Self::Approval | Self::Piece => false,
        }
    }
    /// How long a question of an attack waits. Short: a node that answers does so at once.
    pub const fn patience(self) -> Duration {
        Duration::from_secs(5)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    pub head: Bytes,
    pub payload: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub patience: Duration,
    pub frame: Frame,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Frame(Frame),
    Busy,
}

/// The beginning of a question: it announces more bytes than follow.
#[derive(Clone, Debug)]
pub struct Half {
    /// On a stream that questions share.
    pub id: u64,
    pub patience: Duration,
    pub head: u32,
    pub payload: u32,
    pub bytes: Bytes,
}

pub fn millis(patience: Duration) -> [u8; 4] {
    u32::try_from(patience.as_millis()).unwrap_or(u32::MAX).to_le_bytes()
}

impl Half {
    pub async fn write<T: AsyncWrite + Unpin>(&self, io: &mut T, lane: Lane) -> io::Result<()> {
        let start = [millis(self.patience), self.head.to_le_bytes(), self.payload.to_le_bytes()].concat();
        let bytes = match lane.is_shared() {
            true => parts::begun(self.id, &start, &self.bytes),
            false => [&start[..], &self.bytes].concat(),
        };
        io.write_all(&bytes).await?;
        io.flush().await
    }
}

async fn write_frame<T: AsyncWrite + Unpin>(io: &mut T, first: &[u8], frame: &Frame) -> io::Result<()> {
    let length = |bytes: &Bytes| u32::try_from(bytes.len()).map(u32::to_le_bytes).map_err(io::Error::other);
    let (head, payload) = (length(&frame.head)?, length(&frame.payload)?);
    io.write_all(&[first, &head, &payload, &frame.head].concat()).await?;
    io.write_all(&frame.payload).await?;
    io.flush().await
}

async fn read_frame<T: AsyncRead + Unpin>(io: &mut T, lane: Lane) -> io::Result<Frame> {
    let mut lengths = [0; 8];
    io.read_exact(&mut lengths).await?;
    let [a, b, c, d, e, f, g, h] = lengths;
    let (head, payload) = (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]) as usize);
    if head > lane.head_bytes_max() || payload > lane.payload_bytes_max() {
        return Err(io::Error::other(format!("a frame of {head} and {payload} bytes")));
    }
    let mut body = vec![0; head + payload];
    io.read_exact(&mut body).await?;
    let mut head_bytes = Bytes::from(body);
    let payload = head_bytes.split_off(head);
    Ok(Frame { head: head_bytes, payload })
}

impl Question {
    pub async fn write<T: AsyncWrite + Unpin>(&self, io: &mut T) -> io::Result<()> {
        write_frame(io, &millis(self.patience), &self.frame).await
    }

    pub async fn read<T: AsyncRead + Unpin>(io: &mut T, lane: Lane) -> io::Result<Self> {
        let mut patience = [0; 4];
        io.read_exact(&mut patience).await?;
        let patience = Duration::from_millis(u32::from_le_bytes(patience).into());
        Ok(Self { patience, frame: read_frame(io, lane).await? })
    }
}

impl Answer {
    pub async fn write<T: AsyncWrite + Unpin>(&self, io: &mut T) -> io::Result<()> {
        match self {
            Self::Frame(frame) => write_frame(io, &[0], frame).await,
            Self::Busy => {
                io.write_all(&[1]).await?;
                io.flush().await
            }
        }
    }

    pub async fn read<T: AsyncRead + Unpin>(io: &mut T, lane: Lane) -> io::Result<Self> {
        let mut status = [0];
        io.read_exact(&mut status).await?;
        match status {
            [0] => Ok(Self::Frame(read_frame(io, lane).await?)),
            [1] => Ok(Self::Busy),
            [other] => Err(io::Error::other(format!("an answer with status {other}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::io::Cursor;

    #[tokio::test]
    async fn frames_read_back_and_half_ones_do_not() {
        let frame = Frame { head: Bytes::from_static(b"head"), payload: Bytes::from_static(b"payload") };
        let question = Question { patience: Duration::from_millis(70), frame: frame.clone() };
        let mut io = Cursor::new(Vec::new());
        question.write(&mut io).await.unwrap();
        io.set_position(0);
        assert_eq!(Question::read(&mut io, Lane::Piece).await.unwrap(), question);
        for answer in [Answer::Frame(frame), Answer::Busy] {
            let mut io = Cursor::new(Vec::new());
            answer.write(&mut io).await.unwrap();
            io.set_position(0);
            assert_eq!(Answer::read(&mut io, Lane::Piece).await.unwrap(), answer);
        }
        let mut io = Cursor::new(Vec::new());
        let half = Half { id: 1, patience: Duration::ZERO, head: 9, payload: 0, bytes: Bytes::from_static(b"four") };
        half.write(&mut io, Lane::Piece).await.unwrap();
        io.set_position(0);
        assert!(Question::read(&mut io, Lane::Piece).await.is_err());
    }
}
