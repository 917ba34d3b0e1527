//! Performs a [`UploadPlan`]: reads and encodes segments, sends pieces, asks for rebuilds and receipts, records
//! progress, commits. One future owns everything; dropping it stops everything and leaves nothing half-changed.
//!
//! The loop is wait, step, perform. Nothing that the plan waits for is waited for inside an effect: each becomes a
//! future whose end is the next input. Progress records and failure reports run beside the pieces and are repeated
//! while the quorum is without a primary; only the commit at the end needs it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use quorate_protocols::approval::Grant;
use quorate_protocols::ids::{Attempt, JobId, LogIndex, Millis, PeerId, PieceHash, PieceIndex, SegmentIndex};
use quorate_protocols::job::limits::{STORE_EMPTY_MAX, STORE_IDLE_MAX};
use quorate_protocols::job::store::ColumnRecord;
use quorate_protocols::job::store::SegmentProgress;
use quorate_protocols::object::limits::SEGMENT_BYTES;
use quorate_protocols::object::{CheckedPiece, Manifest};
use quorate_protocols::piece::limits::DEADLINE;
use quorate_protocols::piece::{PieceAnswer, PieceMessage, PieceRefusal, RebuildPart, Receipt, Slot};
use quorate_protocols::quorum::watch::Until;
use quorate_protocols::quorum::{Command, CommandReply, Rejection, StoreCommand};
use quorate_protocols::upload::{Effect, Input, PlanFault, UploadPlan};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::holder_calls::{REBUILD_PAUSE, SealFault, ask_held, check_column, seal_column, send_piece};
use super::quorum_calls::{send_command, taken_over};
use super::reader::SegmentReader;
use super::{Run, Stored, UploadFault, ended, protocol};
use crate::buffers::Buffer;
use crate::objects::coding::Coder;
use crate::objects::events::{Metrics, ObjectEvent};
use crate::objects::holder::client::unexpected;
use crate::objects::{Objects, PieceCallError, PutError, PutPhase, PutProgress};
use crate::quorums::ClientError;
use crate::seams::run_blocking;

/// Progress is recorded at most this often: what a crash forgets is at most sent again, and `ListPieces` finds most of
/// it.
const RECORD_INTERVAL: Duration = Duration::from_millis(250);

/// Pause between two watches for news of the run while a column has no holder: what the upload records is news too.
const WATCH_PAUSE: Duration = Duration::from_millis(300);

/// Longest watch for news of the run.
const WATCH_PATIENCE: Duration = Duration::from_secs(60);

/// How often it is told that the run is alive while there is no progress to record: a commit each, and many times
/// before the run would be given up. A run that has stored nothing is given up sooner.
const ALIVE_INTERVAL: Duration = Duration::from_secs(STORE_IDLE_MAX.as_secs() / 20);
const ALIVE_INTERVAL_EMPTY: Duration = Duration::from_secs(STORE_EMPTY_MAX.as_secs() / 4);

/// How often it is looked whether a holder's node is absent by now.
const ABSENCE_INTERVAL: Duration = Duration::from_millis(250);

/// Shortest sleep for a timer of the plan: one that has passed and changes nothing must not spin.
const TICK_MIN: Duration = Duration::from_millis(20);

/// The file is not the one that the run was storing. With the first segment's pieces (and its length) when it is the
/// first that differs, so that nothing that was read is lost.
pub(super) struct OtherContent {
    pub(super) job: JobId,
    pub(super) segment: u32,
    pub(super) pieces: Option<(Vec<Bytes>, usize)>,
}

/// One segment in memory, counted.
struct Resident {
    metrics: Arc<Metrics>,
}

impl Resident {
    fn new(metrics: Arc<Metrics>) -> Self {
        let now = metrics.segments_in_memory.fetch_add(1, Ordering::Relaxed) + 1;
        metrics.segments_in_memory_peak.fetch_max(now, Ordering::Relaxed);
        Self { metrics }
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.metrics.segments_in_memory.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Segment {
    pieces: Vec<CheckedPiece>,
    length: usize,
    _resident: Resident,
}

/// Something that was under way has ended.
enum Done<'a> {
    Loaded {
        reader: &'a mut SegmentReader,
        loaded: Result<Option<Segment>, PutError>,
    },
    Sent {
        column: PieceIndex,
        attempt: Attempt,
        segment: SegmentIndex,
        sent: Result<(), String>,
    },
    Rebuilt {
        column: PieceIndex,
        attempt: Attempt,
        rebuilt: Result<Vec<SegmentIndex>, RebuildFault>,
    },
    Checked {
        column: PieceIndex,
        attempt: Attempt,
        missing: Result<Vec<SegmentIndex>, String>,
    },
    Sealed {
        column: PieceIndex,
        attempt: Attempt,
        sealed: Result<Receipt, SealFault>,
    },
    /// `recorded`: this was a `RecordProgress` of the plan, not a look around.
    Told {
        recorded: bool,
        columns: Result<Option<Vec<ColumnRecord>>, UploadFault>,
    },
    /// The run has changed, or could not be watched until it did.
    Watched {
        news: Result<Option<News>, UploadFault>,
    },
    /// The column was given up meanwhile.
    Cancelled,
}

/// What a watch says of the run.
struct News {
    columns: Vec<ColumnRecord>,
    /// The quorum expects no further holders.
    exhausted: bool,
    revision: LogIndex,
}

enum RebuildFault {
    /// The holder is busy.
    Busy,
    /// The holder could not get enough pieces from its sources.
    Sources,
    /// The holder failed.
    Failed(String),
}

pub(super) struct Pipeline<'a> {
    objects: &'a Objects,
    run: Run,
    expected: Option<u64>,
    reader: Option<&'a mut SegmentReader>,
    progress: &'a watch::Sender<PutProgress>,
    coder: Result<Arc<Coder>, PutError>,
    plan: UploadPlan,
    inputs: VecDeque<Input>,
    work: FuturesUnordered<BoxFuture<'a, Done<'a>>>,
    memory: BTreeMap<SegmentIndex, Segment>,
    /// Piece hashes of all segments cut so far, and their bytes.
    hashes: Vec<Vec<PieceHash>>,
    bytes: u64,
    receipts: BTreeMap<(PieceIndex, Attempt), Receipt>,
    /// What holders said that they have beyond what the quorum's record can name.
    held: BTreeMap<(PieceIndex, Attempt, SegmentIndex), PieceHash>,
    /// Ends everything under way for one assignment of a column.
    cancels: BTreeMap<(PieceIndex, Attempt), CancellationToken>,
    /// When the quorum last heard of the run.
    told_at: Instant,
    /// When the last watch of the run ended; `None` while one is under way.
    watched_at: Option<Instant>,
    /// When it was last looked whose node is absent.
    absence_at: Instant,
    /// The quorum knows of something stored.
    has_recorded: bool,
    /// Why the last column failed.
    last_failure: Option<String>,
}

impl<'a> Pipeline<'a> {
    pub(super) async fn new(
        objects: &'a Objects,
        mut run: Run,
        expected: Option<u64>,
        reader: &'a mut SegmentReader,
        progress: &'a watch::Sender<PutProgress>,
    ) -> Self {
        let held = if run.resumed { ask_held(objects.pieces(), &mut run).await } else { BTreeMap::new() };
        let now = objects.context.seams.clock.monotonic();
        let plan = UploadPlan::new(run.profile, &run.columns, run.segments.clone(), now);
        let (exhausted, has_recorded) = (run.exhausted, !run.segments.is_empty());
        let coder = objects.coders.get(run.profile).map_err(|error| protocol(run.job, &error.to_string()));
        Self {
            objects,
            run,
            expected,
            reader: Some(reader),
            progress,
            coder,
            plan,
            inputs: VecDeque::from([Input::Exhausted(exhausted)]),
            work: FuturesUnordered::new(),
            memory: BTreeMap::new(),
            hashes: Vec::new(),
            bytes: 0,
            receipts: BTreeMap::new(),
            held,
            cancels: BTreeMap::new(),
            told_at: Instant::now(),
            watched_at: Some(Instant::now()),
            absence_at: Instant::now(),
            has_recorded,
            last_failure: None,
        }
    }

    pub(super) async fn run(mut self) -> Result<Stored, UploadFault> {
        loop {
            while let Some(input) = self.inputs.pop_front() {
                for effect in self.plan.step(self.now(), input) {
                    match effect {
                        Effect::Commit { sealed, degraded } => return self.commit(sealed, degraded).await,
                        Effect::Fail(fault) => return Err(self.fault(fault)),
                        effect => self.perform(effect)?,
                    }
                }
            }
            self.keep_in_touch();
            if !self.inputs.is_empty() {
                continue;
            }
            let tick = self.next_tick();
            tokio::select! {
                biased;
                Some(done) = self.work.next() => self.on_done(done)?,
                () = sleep_until(tick) => self.inputs.push_back(Input::Tick),
            }
        }
    }

    fn now(&self) -> Millis {
        self.objects.context.seams.clock.monotonic()
    }

    fn next_tick(&self) -> Instant {
        let now = self.now();
        let plan = self.plan.wake_at().map(|at| Duration::from_millis(at.0.saturating_sub(now.0)).max(TICK_MIN));
        let alive = self.told_at + self.alive_interval();
        let next = self.watch_at().map_or(alive, |watch| watch.min(alive));
        let next = next.saturating_duration_since(Instant::now()).clamp(TICK_MIN, ABSENCE_INTERVAL);
        Instant::now() + plan.map_or(next, |plan| plan.min(next))
    }

    fn alive_interval(&self) -> Duration {
        match self.has_recorded {
            true => ALIVE_INTERVAL,
            false => ALIVE_INTERVAL_EMPTY,
        }
    }

    /// When the next watch of the run begins: none does while another is under way, or while each column has a holder.
    fn watch_at(&self) -> Option<Instant> {
        let is_open = self.run.columns.iter().any(|column| column.grant.is_none());
        self.watched_at.filter(|_| is_open).map(|ended| ended + WATCH_PAUSE)
    }

    /// Looks whose node is absent, says that the run is alive, and watches for holders. An empty progress record says
    /// that the run is alive, and its reply says who holds what now.
    fn keep_in_touch(&mut self) {
        if self.absence_at.elapsed() >= ABSENCE_INTERVAL {
            self.absence_at = Instant::now();
            let net = &self.objects.context.net;
            let holders = self.run.columns.iter().filter_map(|column| Some(column.grant?.holder.peer));
            let absent: BTreeSet<PeerId> = holders.filter(|peer| net.is_absent(*peer)).collect();
            if !absent.is_empty() {
                self.inputs.push_back(Input::Absent(absent));
            }
        }
        if self.told_at.elapsed() >= self.alive_interval() {
            self.record(Vec::new(), false);
        }
        if self.watch_at().is_some_and(|at| at <= Instant::now()) {
            self.watch();
        }
    }

    fn watch(&mut self) {
        self.watched_at = None;
        let (quorums, job, upload_attempt) =
            (self.objects.context.quorums.clone(), self.run.job, self.run.upload_attempt);
        let until = Until::Changed { since: self.run.revision };
        self.work.push(Box::pin(async move {
            let news = match quorums.watch(job, until, WATCH_PATIENCE).await {
                Ok(Some(record)) if record.state.is_final() => Err(ended(job, record.reason.as_deref()).into()),
                Ok(Some(record)) => {
                    let revision = record.revision;
                    match record.into_store() {
                        Some((_, run)) if run.upload_attempt > upload_attempt => Err(taken_over(job)),
                        Some((_, run)) if run.upload_attempt == upload_attempt => {
                            Ok(Some(News { columns: run.columns, exhausted: run.exhausted, revision }))
                        }
                        // What a former primary knew.
                        _ => Ok(None),
                    }
                }
                // No news, or no answer: the next command that is refused says what is the case.
                _ => Ok(None),
            };
            Done::Watched { news }
        }));
    }

    // ---- effects ----

    fn perform(&mut self, effect: Effect) -> Result<(), UploadFault> {
        match effect {
            Effect::Load { segment: _ } => self.load()?,
            Effect::Send { column, attempt, grant, segment, hash } => self.send(column, attempt, grant, segment, hash),
            Effect::Rebuild { column, attempt, grant, parts } => self.rebuild(column, attempt, grant, parts),
            Effect::Check { column, attempt, grant, pieces } => self.check(column, attempt, grant, pieces),
            Effect::RecordProgress(segments) => self.record(segments, true),
            Effect::ReportFailure { column, attempt, reason } => self.report(column, attempt, reason),
            Effect::DropSegment { segment } => drop(self.memory.remove(&segment)),
            Effect::Seal { column, attempt, grant, pieces } => self.seal(column, attempt, grant, pieces),
            Effect::Commit { .. } | Effect::Fail(_) => unreachable!("both end the loop"),
        }
        Ok(())
    }

    fn load(&mut self) -> Result<(), UploadFault> {
        let coder = self.coder.clone()?;
        let Some(reader) = self.reader.take() else { return Ok(()) };
        let (resident, expected) = (Resident::new(self.objects.metrics.clone()), self.expected);
        self.work.push(Box::pin(async move {
            let loaded = match reader.next().await {
                Err(error) => Err(PutError::Body { reason: error.to_string() }),
                Ok(read) => match length_fault(expected, reader.bytes, read.is_none()) {
                    Some(fault) => Err(fault),
                    None => Ok(encode(coder, read, resident).await),
                },
            };
            Done::Loaded { reader, loaded }
        }));
        Ok(())
    }

    fn send(&mut self, column: PieceIndex, attempt: Attempt, grant: Grant, segment: SegmentIndex, hash: PieceHash) {
        // The holder has it from an earlier life of the put: nothing to send.
        if self.held.remove(&(column, attempt, segment)) == Some(hash) {
            self.skipped(1);
            self.inputs.push_back(Input::PieceStored { column, attempt, segment });
            return;
        }
        let piece = self.memory.get(&segment).and_then(|segment| segment.pieces.get(column.0 as usize)).cloned();
        let Some(piece) = piece else {
            debug_assert!(false, "the plan sends only what is in memory");
            return;
        };
        let (client, slot) = (self.objects.pieces.clone(), self.slot(column, attempt));
        self.push_for(column, attempt, async move {
            let sent = send_piece(client, grant, slot, segment, piece).await;
            Done::Sent { column, attempt, segment, sent }
        });
    }

    fn rebuild(&mut self, column: PieceIndex, attempt: Attempt, grant: Grant, parts: Vec<RebuildPart>) {
        let (client, slot, profile) = (self.objects.pieces.clone(), self.slot(column, attempt), self.run.profile);
        self.push_for(column, attempt, async move {
            let message = PieceMessage::Rebuild { slot, lease: grant.lease, profile, parts };
            let holder = grant.holder.peer;
            let rebuilt = match client.ask(holder, message, Bytes::new(), DEADLINE).await {
                Ok((PieceAnswer::Rebuilt(segments), _)) if !segments.is_empty() => Ok(segments),
                Ok((PieceAnswer::Rebuilt(_), _)) => Err(RebuildFault::Sources),
                Ok((other, _)) => Err(RebuildFault::Failed(unexpected(holder, &other).to_string())),
                Err(error) if error.is_busy() => Err(RebuildFault::Busy),
                Err(PieceCallError::Refused { refusal: PieceRefusal::Sources { .. }, .. }) => {
                    Err(RebuildFault::Sources)
                }
                Err(error) => Err(RebuildFault::Failed(error.to_string())),
            };
            if let Err(RebuildFault::Busy | RebuildFault::Sources) = rebuilt {
                sleep(REBUILD_PAUSE).await;
            }
            Done::Rebuilt { column, attempt, rebuilt }
        });
    }

    fn check(&mut self, column: PieceIndex, attempt: Attempt, grant: Grant, pieces: BTreeMap<SegmentIndex, PieceHash>) {
        let (client, slot) = (self.objects.pieces.clone(), self.slot(column, attempt));
        self.push_for(column, attempt, async move {
            let missing = check_column(client, grant.holder.peer, slot, pieces).await;
            Done::Checked { column, attempt, missing }
        });
    }

    fn seal(&mut self, column: PieceIndex, attempt: Attempt, grant: Grant, pieces: Vec<PieceHash>) {
        self.progress.send_modify(|progress| progress.enter(PutPhase::Receipts));
        let (client, slot) = (self.objects.pieces.clone(), self.slot(column, attempt));
        self.push_for(column, attempt, async move {
            let sealed = seal_column(client, grant, slot, pieces).await;
            Done::Sealed { column, attempt, sealed }
        });
    }

    fn record(&mut self, segments: Vec<SegmentProgress>, recorded: bool) {
        self.told_at = Instant::now();
        self.has_recorded |= !segments.is_empty();
        let (quorums, job, upload_attempt) =
            (self.objects.context.quorums.clone(), self.run.job, self.run.upload_attempt);
        self.work.push(Box::pin(async move {
            let started = Instant::now();
            let command = Command::store(job, StoreCommand::Progress { upload_attempt, segments });
            let columns = send_command(&*quorums, job, upload_attempt, command).await;
            if recorded {
                sleep_until(started + RECORD_INTERVAL).await;
            }
            Done::Told { recorded, columns }
        }));
    }

    fn report(&mut self, column: PieceIndex, attempt: Attempt, reason: String) {
        if let Some(cancel) = self.cancels.remove(&(column, attempt)) {
            cancel.cancel();
        }
        let job = self.run.job;
        self.last_failure = Some(reason.clone());
        if let Some(grant) = self.run.columns.get(column.0 as usize).and_then(|column| column.grant) {
            tracing::warn!(%job, %column, holder = %grant.holder.peer, reason, "a holder failed during a put");
            let (holder, reason) = (grant.holder.peer, reason.clone());
            self.objects.events.send(ObjectEvent::ColumnFailed { job, column, holder, reason });
        }
        let (quorums, upload_attempt) = (self.objects.context.quorums.clone(), self.run.upload_attempt);
        self.work.push(Box::pin(async move {
            let command = Command::store(job, StoreCommand::ColumnFailed { upload_attempt, column, attempt, reason });
            let columns = send_command(&*quorums, job, upload_attempt, command).await;
            Done::Told { recorded: false, columns }
        }));
    }

    fn slot(&self, column: PieceIndex, attempt: Attempt) -> Slot {
        Slot { job: self.run.job, column, attempt }
    }

    /// Runs something for one assignment of a column, until it ends or the assignment does.
    fn push_for(&mut self, column: PieceIndex, attempt: Attempt, future: impl Future<Output = Done<'a>> + Send + 'a) {
        let cancel = self.cancels.entry((column, attempt)).or_default().clone();
        self.work.push(Box::pin(async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => Done::Cancelled,
                done = future => done,
            }
        }));
    }

    // ---- what came of them ----

    fn on_done(&mut self, done: Done<'a>) -> Result<(), UploadFault> {
        match done {
            Done::Loaded { reader, loaded } => {
                self.reader = Some(reader);
                self.loaded(loaded?);
            }
            Done::Sent { column, attempt, segment, sent: Ok(()) } => {
                Metrics::add(&self.objects.metrics.pieces_sent, 1);
                self.progress.send_modify(|progress| progress.pieces_sent += 1);
                self.inputs.push_back(Input::PieceStored { column, attempt, segment });
                self.note_stored();
            }
            Done::Sent { column, attempt, sent: Err(reason), .. } => {
                self.inputs.push_back(Input::ColumnFailed { column, attempt, reason });
            }
            Done::Rebuilt { column, attempt, rebuilt } => self.inputs.push_back(match rebuilt {
                Ok(segments) => Input::Rebuilt { column, attempt, segments },
                Err(RebuildFault::Busy) => Input::NotRebuilt { column, attempt, by_sources: false },
                Err(RebuildFault::Sources) => Input::NotRebuilt { column, attempt, by_sources: true },
                Err(RebuildFault::Failed(reason)) => Input::ColumnFailed { column, attempt, reason },
            }),
            Done::Checked { column, attempt, missing } => self.inputs.push_back(match missing {
                Ok(missing) => Input::Checked { column, attempt, missing },
                Err(reason) => Input::ColumnFailed { column, attempt, reason },
            }),
            Done::Sealed { column, attempt, sealed } => self.inputs.push_back(match sealed {
                Ok(receipt) => {
                    self.receipts.insert((column, attempt), receipt);
                    Input::Sealed { column, attempt }
                }
                Err(SealFault::Missing(segments)) => Input::Missing { column, attempt, segments },
                Err(SealFault::Failed(reason)) => Input::ColumnFailed { column, attempt, reason },
            }),
            Done::Told { recorded, columns } => {
                if let Some(columns) = columns? {
                    self.adopt(&columns);
                    self.inputs.push_back(Input::Columns(columns));
                }
                if recorded {
                    self.inputs.push_back(Input::Recorded);
                }
            }
            Done::Watched { news } => {
                self.watched_at = Some(Instant::now());
                if let Some(News { columns, exhausted, revision }) = news? {
                    self.run.revision = revision;
                    self.adopt(&columns);
                    self.inputs.push_back(Input::Columns(columns));
                    self.inputs.push_back(Input::Exhausted(exhausted));
                }
            }
            Done::Cancelled => (),
        }
        Ok(())
    }

    fn loaded(&mut self, loaded: Option<Segment>) {
        let segment = SegmentIndex(self.hashes.len() as u32);
        let Some(cut) = loaded else {
            self.inputs.push_back(Input::EndOfFile { segments: segment.0 });
            return;
        };
        self.bytes += cut.length as u64;
        let bytes = self.bytes;
        self.progress.send_modify(|progress| progress.bytes_read = bytes);
        let known = (0..self.run.columns.len()).filter(|c| self.plan.is_stored(PieceIndex(*c as u8), segment)).count();
        self.skipped(known as u64);
        let hashes: Vec<PieceHash> = cut.pieces.iter().map(CheckedPiece::hash).collect();
        let piece_bytes = cut.pieces.first().map_or(0, |piece| piece.bytes().len()) as u32;
        self.hashes.push(hashes.clone());
        self.memory.insert(segment, cut);
        self.inputs.push_back(Input::SegmentReady { segment, hashes, piece_bytes });
    }

    fn skipped(&self, pieces: u64) {
        if pieces > 0 {
            Metrics::add(&self.objects.metrics.pieces_skipped, pieces);
            self.progress.send_modify(|progress| progress.pieces_skipped += pieces);
        }
    }

    fn note_stored(&self) {
        let stored = (self.plan.segments_stored() as u64 * SEGMENT_BYTES as u64).min(self.bytes);
        self.progress.send_modify(|progress| progress.bytes_stored = progress.bytes_stored.max(stored));
    }

    /// Notes who holds what, for people and for the outcome.
    fn adopt(&mut self, records: &[ColumnRecord]) {
        for (index, record) in records.iter().enumerate() {
            let Some(known) = self.run.columns.get_mut(index) else { continue };
            if record.attempt > known.attempt || (record.attempt == known.attempt && record.grant != known.grant) {
                if let Some(grant) = record.grant.filter(|_| known.attempt > Attempt(0)) {
                    let (job, column, holder) = (self.run.job, PieceIndex(index as u8), grant.holder.peer);
                    self.objects.events.send(ObjectEvent::ColumnReplaced { job, column, holder });
                    Metrics::add(&self.objects.metrics.columns_replaced, 1);
                    self.progress.send_modify(|progress| progress.columns_replaced += 1);
                }
                (known.attempt, known.grant) = (record.attempt, record.grant);
            }
        }
    }

    // ---- the end ----

    async fn commit(self, sealed: Vec<(PieceIndex, Attempt)>, degraded: bool) -> Result<Stored, UploadFault> {
        self.progress.send_modify(|progress| progress.enter(PutPhase::Commit));
        let job = self.run.job;
        let manifest = Manifest {
            size: self.bytes,
            profile: self.run.profile,
            pieces: self.hashes.iter().flatten().copied().collect(),
        };
        let receipts: Vec<Receipt> = sealed.iter().filter_map(|key| self.receipts.get(key).copied()).collect();
        let columns: Vec<(PieceIndex, PeerId)> =
            receipts.iter().map(|receipt| (receipt.statement.slot.column, receipt.statement.holder)).collect();
        let command = Command::store(
            job,
            StoreCommand::Commit {
                upload_attempt: self.run.upload_attempt,
                manifest: manifest.encode().into(),
                receipts,
                degraded,
            },
        );
        match self.objects.insist(job, command).await {
            Ok((CommandReply::Committed { manifest }, by)) => {
                let bytes = self.bytes;
                self.progress.send_modify(|progress| progress.bytes_stored = bytes);
                Ok(Stored { manifest, bytes, degraded, columns, by })
            }
            Ok(_) => Err(protocol(job, "a commit was answered with something else").into()),
            Err(ClientError::Rejected(rejection @ Rejection::IllegalState { .. })) => {
                Err(ended(job, Some(&rejection.to_string())).into())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn fault(&mut self, fault: PlanFault) -> UploadFault {
        let job = self.run.job;
        match fault {
            PlanFault::DifferentContent { segment } => {
                let pieces = self.memory.remove(&segment).filter(|_| segment.0 == 0).map(|segment| {
                    let data = self.run.profile.data as usize;
                    (segment.pieces.into_iter().take(data).map(CheckedPiece::into_bytes).collect(), segment.length)
                });
                UploadFault::OtherContent(OtherContent { job, segment: segment.0, pieces })
            }
            PlanFault::Shorter { found, .. } => {
                UploadFault::OtherContent(OtherContent { job, segment: found, pieces: None })
            }
            PlanFault::TooLarge { .. } => PutError::TooLarge { limit: self.run.profile.bytes_max() }.into(),
            fault @ (PlanFault::Lost { .. } | PlanFault::Driver { .. }) => {
                let last = self.last_failure.iter().map(|reason| format!("; the last one failed because {reason}"));
                ended(job, Some(&last.fold(fault.to_string(), |text, last| text + &last))).into()
            }
        }
    }
}

fn length_fault(expected: Option<u64>, found: u64, at_end: bool) -> Option<PutError> {
    let expected = expected?;
    let wrong = found > expected || (at_end && found < expected);
    wrong.then_some(PutError::Length { expected, found })
}

async fn encode(coder: Arc<Coder>, read: Option<Buffer>, resident: Resident) -> Option<Segment> {
    let read = read?;
    let length = read.len();
    let pieces = run_blocking(move || coder.encode(read)).await;
    Some(Segment { pieces, length, _resident: resident })
}
