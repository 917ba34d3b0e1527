//! A stream that questions share, at both of its ends.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::io::{ReadHalf, WriteHalf};
use futures::stream::{FuturesUnordered, StreamExt};
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::Stream;
use parking_lot::Mutex;
use quorate_protocols::ids::PeerId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::frame::{Frame, Lane};
use super::parts::{self, Message, Messages};
use super::{Answerer, ClientError};

/// Messages that wait to be written.
const OUTGOING_MAX: usize = 1024;

type Waiting = Arc<Mutex<BTreeMap<u64, oneshot::Sender<Result<Frame, ClientError>>>>>;

/// The asking end.
pub struct Line {
    outgoing: mpsc::Sender<Vec<u8>>,
    waiting: Waiting,
    next: AtomicU64,
    has_ended: Arc<AtomicBool>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Line {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// A question whose caller still waits.
struct Asked<'a> {
    line: &'a Line,
    id: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if self.line.waiting.lock().remove(&self.id).is_some() {
            // A full queue is one of a stream that goes nowhere.
            let _ = self.line.outgoing.try_send(parts::cancel(self.id));
        }
    }
}

async fn write_all(mut io: WriteHalf<Stream>, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(bytes) = queue.recv().await {
        if io.write_all(&bytes).await.is_err() || io.flush().await.is_err() {
            return;
        }
    }
}

async fn read_answers(mut io: ReadHalf<Stream>, lane: Lane, waiting: &Waiting) -> io::Result<()> {
    let mut messages = Messages::new(lane);
    loop {
        let (rest, part) = parts::read(io).await?;
        io = rest;
        let (id, answer) = match messages.take_part(part)? {
            Some(Message::Answer { id, frame }) => (id, Ok(frame)),
            Some(Message::Busy { id }) => (id, Err(ClientError::Busy)),
            Some(Message::Question { .. } | Message::Cancel { .. }) | None => continue,
        };
        if let Some(reply) = waiting.lock().remove(&id) {
            let _ = reply.send(answer);
        }
    }
}

impl Line {
    pub fn new(stream: Stream, lane: Lane) -> Self {
        let (reader, writer) = stream.split();
        let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
        let (waiting, has_ended) = (Waiting::default(), Arc::new(AtomicBool::new(false)));
        let (answered, ended) = (Arc::clone(&waiting), Arc::clone(&has_ended));
        let reading = tokio::spawn(async move {
            let _ = read_answers(reader, lane, &answered).await;
            ended.store(true, Ordering::Relaxed);
            answered.lock().clear();
        });
        let tasks = [reading, tokio::spawn(write_all(writer, queue))];
        Self { outgoing, waiting, next: AtomicU64::new(0), has_ended, tasks }
    }

    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }

    /// Cancelled when it is dropped.
    pub async fn ask(&self, frame: &Frame, patience: Duration) -> Result<Frame, ClientError> {
        let broken = || ClientError::Broken(io::ErrorKind::UnexpectedEof.into());
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        self.waiting.lock().insert(id, reply);
        let _asked = Asked { line: self, id };
        if self.has_ended() {
            return Err(broken());
        }
        self.outgoing.send(parts::question(id, patience, frame)).await.map_err(|_| broken())?;
        answer.await.map_err(|_| broken())?
    }
}

/// The serving end: answers each question as `answerer` says, until the stream ends or one gets no answer.
pub async fn serve(stream: Stream, lane: Lane, from: PeerId, answerer: Answerer) {
    let (reader, mut writer) = stream.split();
    let (mut messages, mut answers) = (Messages::new(lane), FuturesUnordered::new());
    let mut reading = Box::pin(parts::read(reader));
    loop {
        tokio::select! {
            read = &mut reading => {
                let Ok((reader, part)) = read else { return };
                reading = Box::pin(parts::read(reader));
                match messages.take_part(part) {
                    Ok(Some(Message::Question { id, frame })) => {
                        let answer = answerer(from, lane, frame);
                        answers.push(async move { (id, answer.await) });
                    }
                    Ok(_) => (),
                    Err(_) => return,
                }
            }
            Some((id, answer)) = answers.next() => {
                let Some(frame) = answer else { return };
                let bytes = parts::answer(id, &frame);
                if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
                    return;
                }
            }
        }
    }
}
