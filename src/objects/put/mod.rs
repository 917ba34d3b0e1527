//! Storing a file: one streamed pass, from the body to pieces on other peers' disks, with a quorum keeping the books.
//!
//! ```text
//! place → submit → holders won (by the quorum's primary) → read, encode, send, record progress → receipts → commit
//! ```
//!
//! What it promises: memory is bounded whatever the file's size (segments in flight, see
//! [`SEGMENTS_IN_MEMORY_MAX`](quorate_protocols::piece::limits::SEGMENTS_IN_MEMORY_MAX)); a returned outcome is
//! committed by the quorum, with signed receipts; a failing holder costs only its own column; a failover of the quorum
//! delays progress records and the commit, never the pieces; dropping the future leaves the run as it is, to be resumed
//! here or elsewhere, and collected if nobody does: after an hour, or after a minute if nothing was stored. What goes
//! where and when is decided by the pure [`UploadPlan`](quorate_protocols::upload::UploadPlan); this module performs
//! it.
//!
//! Nobody waits for a node that is known to be absent, nor for a distant one where nearer ones do as well. The profile
//! is the one that bears most losses on the peers that are there ([`Profile::for_reachable`]). When the quorum says
//! that whoever may come was asked, the put goes on with the holders that it has, if they bear a loss, and is
//! *degraded*: the quorum owes the repair. While it waits for room, it says what for ([`PutProgress::waiting`]).
//!
//! What it does not do: win holders (the primary's driver does), confirm or repair (the steward does).

mod holder_calls;
mod pipeline;
mod quorum_calls;
mod reader;
mod resume;

use quorate_protocols::quorum::watch::Until;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use quorate_protocols::ids::{Attempt, JobId, LogIndex, ManifestHash, ObjectId, PeerId, PieceHash, PieceIndex};
use quorate_protocols::job::WorkSpec;
use quorate_protocols::job::record::JobRecord;
use quorate_protocols::job::spec::{JobSpec, StoreSpec};
use quorate_protocols::job::store::ColumnRecord;
use quorate_protocols::object::limits::NAME_BYTES_MAX;
use quorate_protocols::object::{HolderShortage, Layout, Profile};
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::quorum::{Claim, Command, CommandReply, Rejection, StoreCommand};
use quorate_protocols::text::truncate;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use self::pipeline::Pipeline;
use self::reader::SegmentReader;
use super::events::ObjectEvent;
use super::{HoldersKnown, Objects, PutError, PutOutcome, PutPhase, PutProgress, PutRequest};
use crate::quorums::{ClientError, Speaker};
use crate::seams::PeerView;

/// One command or question to the quorum, across a failover.
const QUORUM_DEADLINE: Duration = Duration::from_secs(10);

/// How long a submit or commit is repeated while the quorum is paused or silent before the put gives up. The run stays.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long to wait for adverts of peers that are connected already: right after a start they are seconds apart.
const ADVERTS_WAIT: Duration = Duration::from_secs(3);

/// With enough holders for a degraded object, how long to wait for the rest before sending starts without them. Not at
/// all once the quorum expects no more.
const HOLDERS_WAIT: Duration = Duration::from_secs(2);

/// With fewer than that, or with a quorum that cannot take the run, how long before the put gives up. Nothing has been
/// read by then that could be lost.
const HOLDERS_PATIENCE: Duration = Duration::from_secs(20);

/// Quorums without room that a put tries, one after the other, before it gives up. Then one is formed soon: those that
/// refused are not chosen again.
const FULL_QUORUMS_MAX: usize = 8;

/// How long the end of a failed put waits for the quorum to record it, and for how long it is tried behind the user's
/// back.
const FAIL_DEADLINE: Duration = Duration::from_secs(2);
const FAIL_PAUSE: Duration = Duration::from_secs(2);
const FAIL_PATIENCE: Duration = Duration::from_secs(600);

/// Runs whose end is tried at once; beyond that they are left to be abandoned.
pub(super) const ENDINGS_MAX: usize = 64;

/// How often a put begins anew under another profile because peers turned out to be absent.
const REFITS_MAX: usize = 2;

/// After this the user is told what the put waits for.
const WAITING_TOLD_AFTER: Duration = Duration::from_secs(1);

/// Pause before a quorum that gave no answer is asked again, and before another look at who is there.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// While holders are awaited, how often the user is told how many there are, and whether peers have turned out to be
/// absent is judged.
const REVIEW_INTERVAL: Duration = Duration::from_millis(500);

/// The run that a put uploads into.
#[derive(Clone, Debug)]
struct Run {
    job: JobId,
    profile: Profile,
    size: Option<u64>,
    upload_attempt: Attempt,
    columns: Vec<ColumnRecord>,
    segments: Vec<Vec<PieceHash>>,
    /// The quorum expects no further holders.
    exhausted: bool,
    /// The job's revision of which this is; zero when it is not known.
    revision: LogIndex,
    resumed: bool,
}

impl Objects {
    pub(super) async fn put_object(
        &self,
        request: PutRequest,
        body: BoxStream<'static, Result<Bytes, std::io::Error>>,
        progress: watch::Sender<PutProgress>,
    ) -> Result<PutOutcome, PutError> {
        let mut reader = SegmentReader::new(body);
        let run = self.open_run(&request, &progress).await?;
        let by_fingerprint = run.resumed && request.resume.is_none();
        match self.upload(run, &request, &mut reader, &progress).await {
            // The file changed although its fingerprint did not. What was read so far can be put back only when the
            // very first segment differs; later the caller has to start over, and will then find no run.
            Err(UploadFault::OtherContent(segment)) if by_fingerprint => {
                self.forget(&request).await;
                match segment {
                    pipeline::OtherContent { job, segment: 0, pieces: Some((pieces, length)) } => {
                        tracing::info!(%job, "another file under a known fingerprint: storing it under a run of its own");
                        reader.unread(&pieces, length);
                        drop(pieces);
                        let run = self.open_new_run(&request, &progress).await?;
                        let uploaded = self.upload(run, &request, &mut reader, &progress).await;
                        self.finish(&request, uploaded.map_err(UploadFault::into_error)).await
                    }
                    other => Err(UploadFault::OtherContent(other).into_error()),
                }
            }
            uploaded => self.finish(&request, uploaded.map_err(UploadFault::into_error)).await,
        }
    }

    async fn finish(
        &self,
        request: &PutRequest,
        uploaded: Result<PutOutcome, PutError>,
    ) -> Result<PutOutcome, PutError> {
        match &uploaded {
            Ok(_) => self.forget(request).await,
            // A run that has ended can never be resumed.
            Err(PutError::Ended { .. } | PutError::TooLarge { .. } | PutError::Length { .. }) => {
                self.forget(request).await;
            }
            Err(_) => (),
        }
        uploaded
    }

    async fn forget(&self, request: &PutRequest) {
        if let Some(fingerprint) = &request.fingerprint
            && let Err(error) = resume::forget(&self.context.storage, fingerprint).await
        {
            // Harmless: the run is found ended next time.
            tracing::warn!(%error, "could not forget a finished put");
        }
    }

    // ---- finding or making the run ----

    async fn open_run(&self, request: &PutRequest, progress: &watch::Sender<PutProgress>) -> Result<Run, PutError> {
        if let Some(job) = request.resume {
            return self.attach(job).await;
        }
        if let Some(fingerprint) = &request.fingerprint {
            let known = resume::find(&self.context.storage, fingerprint).unwrap_or_else(|error| {
                tracing::warn!(%error, "could not look up an earlier put of this file");
                None
            });
            if let Some(job) = known {
                match self.job_in_time(job).await {
                    Ok(Some(record)) if !record.state.is_final() => match self.attach(job).await {
                        // It ended in between, or cannot take a worker now.
                        Err(PutError::Client(ClientError::Rejected(_))) => (),
                        attached => return attached,
                    },
                    Ok(_) => (),
                    Err(error) if error.is_out_of_reach() => (),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        self.open_new_run(request, progress).await
    }

    async fn open_new_run(&self, request: &PutRequest, progress: &watch::Sender<PutProgress>) -> Result<Run, PutError> {
        progress.send_modify(|progress| progress.enter(PutPhase::Placing));
        for _ in 0..REFITS_MAX {
            if let Some(run) = self.try_new_run(request, true, progress).await? {
                return Ok(run);
            }
        }
        let run = self.try_new_run(request, false, progress).await?;
        run.ok_or_else(|| self.too_few(request.size, 0, request.profile.unwrap_or(Profile::DEFAULT)))
    }

    /// One run with the profile for who is there now. `None`, if that `may_refit`: peers turned out to be absent, and
    /// for those that are there another profile fits.
    async fn try_new_run(
        &self,
        request: &PutRequest,
        may_refit: bool,
        progress: &watch::Sender<PutProgress>,
    ) -> Result<Option<Run>, PutError> {
        let profile = self.choose_profile(request).await?;
        if request.size.is_some_and(|size| size > profile.bytes_max()) {
            return Err(PutError::TooLarge { limit: profile.bytes_max() });
        }
        let job = self.place_run(request, profile, progress).await?;
        progress.send_modify(|progress| {
            progress.enter(PutPhase::Approval);
            progress.job = Some(job);
        });
        let may_refit = may_refit && request.profile.is_none();
        self.wait_for_holders(job, (profile, request.size), may_refit, progress).await
    }

    /// Has a quorum take the run. One without room for it, be it in its owner's share, is passed over for another,
    /// unless it was asked for by name.
    async fn place_run(
        &self,
        request: &PutRequest,
        profile: Profile,
        progress: &watch::Sender<PutProgress>,
    ) -> Result<JobId, PutError> {
        let name = request.name.as_deref().map(|name| truncate(name, NAME_BYTES_MAX).to_owned());
        let spec = StoreSpec { name, size: request.size, profile };
        let mut full = 0;
        loop {
            let quorum = match request.quorum {
                Some(quorum) => quorum,
                None => self.context.placement.place().await?,
            };
            let job = JobId { quorum, local: self.context.seams.entropy.bytes() };
            if let Some(fingerprint) = &request.fingerprint {
                let clock = &*self.context.seams.clock;
                if let Err(error) = resume::remember(&self.context.storage, clock, fingerprint, job).await {
                    // The put works without; only a crash would send everything again.
                    tracing::warn!(%error, "could not record the run of this file");
                }
            }
            let submitted = self.submit(job, spec.clone(), progress).await;
            let Err(PutError::Client(ClientError::Rejected(Rejection::Full { .. }))) = submitted else {
                return submitted.map(|()| job);
            };
            self.context.placement.record_full(quorum);
            full += 1;
            if request.quorum.is_some() || full >= FULL_QUORUMS_MAX {
                return submitted.map(|()| job);
            }
            tracing::info!(%quorum, "a quorum has no room for the object: another is chosen");
        }
    }

    /// Has the quorum take the run. Peers without room keep a quorum from committing as well: that is then the reason.
    async fn submit(&self, job: JobId, spec: StoreSpec, progress: &watch::Sender<PutProgress>) -> Result<(), PutError> {
        let (started, size, profile) = (Instant::now(), spec.size, spec.profile);
        let command = self.context.identity.sign_submit(job, JobSpec::store(spec));
        loop {
            let error = match self.context.quorums.propose(job.quorum, command.clone(), QUORUM_DEADLINE).await {
                Ok(_) => return Ok(()),
                Err(error) if !is_passing(&error) => return Err(error.into()),
                Err(error) => error,
            };
            if started.elapsed() >= HOLDERS_PATIENCE {
                let present = self.holders_known(size, profile).reachable.present();
                return Err(match present < profile.columns_min() {
                    true => self.too_few(size, present, profile),
                    false => error.into(),
                });
            }
            tracing::debug!(%job, %error, "asking the quorum again");
            progress.send_modify(|progress| progress.waiting = Some(error.to_string()));
            sleep(RETRY_PAUSE).await;
        }
    }

    fn holders_known(&self, size: Option<u64>, profile: Profile) -> HoldersKnown {
        self.context.placement.holders_known(column_bytes(size, profile))
    }

    /// The error of an object for which only so many holders were found.
    fn too_few(&self, size: Option<u64>, holders: usize, profile: Profile) -> PutError {
        let known = self.holders_known(size, profile).reachable;
        PutError::TooFewHolders(HolderShortage::new(size, column_bytes(size, profile), profile, holders, known))
    }

    async fn attach(&self, job: JobId) -> Result<Run, PutError> {
        let (reply, _) = self.insist(job, Command::store(job, StoreCommand::Attach)).await?;
        let CommandReply::Attached(attached) = reply else {
            return Err(protocol(job, "an attach was answered with something else"));
        };
        let JobSpec::Once(WorkSpec::Store(spec)) = attached.spec else {
            return Err(protocol(job, "an attach was answered with a job that computes"));
        };
        Ok(Run {
            job,
            profile: spec.profile,
            size: spec.size,
            upload_attempt: attached.upload_attempt,
            columns: attached.columns,
            segments: attached.segments,
            exhausted: false,
            revision: LogIndex(0),
            resumed: true,
        })
    }

    /// The profile asked for, or the best that the peers which are there now can carry.
    async fn choose_profile(&self, request: &PutRequest) -> Result<Profile, PutError> {
        let wide = request.profile.unwrap_or(Profile::DEFAULT);
        let waited = Instant::now();
        loop {
            let HoldersKnown { reachable, strangers } = self.holders_known(request.size, wide);
            let present = reachable.present();
            if present < wide.columns() && strangers > 0 && waited.elapsed() < ADVERTS_WAIT {
                sleep(RETRY_PAUSE / 2).await;
                continue;
            }
            let net = &self.context.net;
            let is_there = |peer: &PeerView| peer.connected && !net.is_absent(peer.peer);
            let connected = net.peers().iter().filter(|peer| is_there(peer)).count() + 1;
            let fitting = Profile::for_reachable(request.size, reachable);
            return match request.profile.or(fitting) {
                // An announcement may be old: whether there is room is for the peers themselves to say.
                Some(profile) if present.max(connected) >= profile.columns_min() => Ok(profile),
                profile => {
                    let profile = profile.unwrap_or(Profile { data: 2, parity: 1 });
                    let present = self.holders_known(request.size, profile).reachable.present();
                    Err(self.too_few(request.size, present, profile))
                }
            };
        }
    }

    /// Waits until the primary has won holders for the run: all, or enough for a degraded object when the primary
    /// expects no more, or does not find them in time. `None` as for [`Self::try_new_run`].
    async fn wait_for_holders(
        &self,
        job: JobId,
        (profile, size): (Profile, Option<u64>),
        may_refit: bool,
        progress: &watch::Sender<PutProgress>,
    ) -> Result<Option<Run>, PutError> {
        let started = Instant::now();
        let mut until = Until::Holders { columns: profile.columns() as u32 };
        loop {
            let review = match HOLDERS_WAIT.saturating_sub(started.elapsed()) {
                Duration::ZERO => REVIEW_INTERVAL,
                left => left.min(REVIEW_INTERVAL),
            };
            let record = match self.watch_run(job, until, review).await {
                Ok(Some(record)) => record,
                Ok(None) => return Err(ClientError::from(Rejection::UnknownJob { job }).into()),
                Err(error) if started.elapsed() >= PATIENCE => return Err(error.into()),
                Err(error) => {
                    progress.send_modify(|progress| progress.waiting = Some(error.to_string()));
                    sleep(RETRY_PAUSE).await;
                    continue;
                }
            };
            if record.state.is_final() {
                return Err(ended(job, record.reason.as_deref()));
            }
            let (reason, revision) = (record.reason.clone(), record.revision);
            let Some((_, run)) = record.into_store() else {
                return Err(protocol(job, "this is a job that computes"));
            };
            let granted = run.columns.iter().filter(|column| column.grant.is_some()).count();
            let no_more = run.exhausted || started.elapsed() >= HOLDERS_WAIT;
            let enough = granted >= profile.columns_min() && no_more;
            if granted == profile.columns() || enough {
                return Ok(Some(Run {
                    job,
                    profile,
                    size,
                    upload_attempt: run.upload_attempt,
                    columns: run.columns,
                    segments: Vec::new(),
                    exhausted: run.exhausted,
                    revision,
                    resumed: false,
                }));
            }
            if may_refit && granted < profile.columns_min() {
                let HoldersKnown { reachable, .. } = self.holders_known(size, Profile::DEFAULT);
                let (present, fitting) = (reachable.present(), Profile::for_reachable(size, reachable));
                if present < profile.columns_min() && fitting.is_some_and(|fitting| fitting != profile) {
                    self.fail_run(job, run.upload_attempt, &self.too_few(size, present, profile)).await;
                    return Ok(None);
                }
            }
            if started.elapsed() >= HOLDERS_PATIENCE {
                let failed = match reason {
                    Some(reason) => PutError::NoRoom { reason },
                    None => self.too_few(size, granted, profile),
                };
                self.fail_run(job, run.upload_attempt, &failed).await;
                return Err(failed);
            }
            if started.elapsed() >= WAITING_TOLD_AFTER {
                let waiting =
                    reason.unwrap_or_else(|| format!("{granted} of {} columns have a holder", profile.columns()));
                progress.send_if_modified(|progress| {
                    let is_news = progress.waiting.as_ref() != Some(&waiting);
                    progress.waiting = Some(waiting);
                    is_news
                });
            }
            until = match run.exhausted {
                // Until there is news: that no more holders are expected is known.
                true => Until::Changed { since: revision },
                false if no_more => Until::Holders { columns: profile.columns_min() as u32 },
                false => Until::Holders { columns: profile.columns() as u32 },
            };
        }
    }

    /// The run as soon as the condition holds, and as it is after `patience` if that does not; `None` when the quorum
    /// knows no such run.
    async fn watch_run(&self, job: JobId, until: Until, patience: Duration) -> Result<Option<JobRecord>, ClientError> {
        match self.context.quorums.watch(job, until, patience).await {
            Ok(Some(record)) => Ok(Some(*record)),
            Ok(None) => self.job(job).await,
            Err(ClientError::Rejected(Rejection::UnknownJob { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn fail_run(&self, job: JobId, upload_attempt: Attempt, why: &PutError) {
        let command =
            Command::store(job, StoreCommand::Fail { upload_attempt: Some(upload_attempt), reason: why.to_string() });
        match self.context.quorums.propose(job.quorum, command.clone(), FAIL_DEADLINE).await {
            Ok(_) => (),
            // What ended the put may keep its quorum from committing: the user does not wait for it.
            Err(error) if is_passing(&error) => self.fail_run_later(job, command),
            // The run is idle from now on, and abandoned in time.
            Err(error) => tracing::info!(%job, %error, "could not end the run of a failed put"),
        }
    }

    fn fail_run_later(&self, job: JobId, command: Command) {
        let Ok(permit) = self.endings.clone().try_acquire_owned() else {
            return tracing::info!(%job, "too many runs wait for their end; this one is abandoned in time");
        };
        let (context, until) = (self.context.clone(), Instant::now() + FAIL_PATIENCE);
        let shutdown = context.seams.tasks.shutdown_token();
        self.context.seams.tasks.spawn(async move {
            let ending = async {
                while let Err(error) = context.quorums.propose(job.quorum, command.clone(), QUORUM_DEADLINE).await
                    && is_passing(&error)
                    && Instant::now() < until
                {
                    sleep(FAIL_PAUSE).await;
                }
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => (),
                () = ending => (),
            }
            drop(permit);
        });
    }

    /// The run as its quorum has it now; `None` when the quorum knows no such run.
    async fn job(&self, job: JobId) -> Result<Option<JobRecord>, ClientError> {
        match self.context.quorums.query(job.quorum, Query::Job { job }, false, QUORUM_DEADLINE).await? {
            QueryAnswer::Job(record) => Ok(Some(*record)),
            _ => Ok(None),
        }
    }

    /// As [`Self::job`], asking again while the quorum is silent, paused or busy: after the crash that interrupted the
    /// put it may still be electing.
    async fn job_in_time(&self, job: JobId) -> Result<Option<JobRecord>, ClientError> {
        let started = Instant::now();
        loop {
            match self.job(job).await {
                Err(error) if is_passing(&error) && started.elapsed() < PATIENCE => {
                    tracing::debug!(%job, %error, "asking the quorum again");
                    sleep(RETRY_PAUSE).await;
                }
                answered => return answered,
            }
        }
    }

    /// Commits a command whose effect must be known: repeats it while the quorum is silent, paused or busy.
    async fn insist(&self, job: JobId, command: Command) -> Result<(CommandReply, Speaker), ClientError> {
        let started = Instant::now();
        loop {
            match self.context.quorums.propose(job.quorum, command.clone(), QUORUM_DEADLINE).await {
                Err(error) if is_passing(&error) && started.elapsed() < PATIENCE => {
                    tracing::debug!(%job, %error, "asking the quorum again");
                    sleep(RETRY_PAUSE).await;
                }
                answered => return answered,
            }
        }
    }

    // ---- the upload ----

    async fn upload(
        &self,
        run: Run,
        request: &PutRequest,
        reader: &mut SegmentReader,
        progress: &watch::Sender<PutProgress>,
    ) -> Result<PutOutcome, UploadFault> {
        progress.send_modify(|progress| {
            progress.enter(PutPhase::Sending);
            progress.job = Some(run.job);
        });
        let (job, profile, upload_attempt, resumed) = (run.job, run.profile, run.upload_attempt, run.resumed);
        let expected = request.size.or(run.size);
        reader.set_profile(profile);
        let uploaded = Pipeline::new(self, run, expected, reader, progress).await.run().await;
        match uploaded {
            Ok(stored) => {
                let object = ObjectId { quorum: job.quorum, manifest: stored.manifest };
                progress.send_modify(|progress| progress.enter(PutPhase::Done));
                let (bytes, placed) = (stored.bytes, self.placed(object, job, &stored).await);
                let Placed { degraded, columns, existed } = placed;
                self.events.send(ObjectEvent::Stored { object, job, bytes, degraded });
                let (by, progress) = (stored.by, progress.borrow().clone());
                Ok(PutOutcome { object, job, bytes, profile, degraded, columns, existed, by, progress })
            }
            Err(UploadFault::Error(error)) => {
                // Only what no repetition can mend ends the run; after anything else it waits to be resumed. A resumed
                // run is not ended by someone who came with the wrong file.
                let wrong_file = resumed && matches!(error, PutError::Length { .. });
                let final_ =
                    matches!(error, PutError::TooLarge { .. } | PutError::Length { .. } | PutError::Ended { .. });
                if final_ && !wrong_file {
                    self.fail_run(job, upload_attempt, &error).await;
                }
                Err(UploadFault::Error(error))
            }
            Err(other) => Err(other),
        }
    }
}

impl Objects {
    /// Where the object is, and what was there of it before this run.
    async fn placed(&self, object: ObjectId, job: JobId, stored: &Stored) -> Placed {
        // No answer changes nothing: the commit was acknowledged.
        let found = self.ask_object(object, false, QUORUM_DEADLINE).await.ok().flatten().map(|view| view.record);
        let claims = found.as_ref().into_iter().flat_map(|record| record.claims.iter());
        let existed = claims.filter(|claim| claim.job != job).cloned().collect();
        match found {
            Some(record) if record.job != job => {
                let columns = (0..).map(PieceIndex).zip(&record.columns);
                let held = columns.filter_map(|(index, column)| Some((index, column.grant?.holder.peer)));
                Placed { degraded: record.degraded(), columns: held.collect(), existed }
            }
            _ => Placed { degraded: stored.degraded, columns: stored.columns.clone(), existed },
        }
    }
}

/// Why the upload into a run stopped.
enum UploadFault {
    Error(PutError),
    OtherContent(pipeline::OtherContent),
}

impl UploadFault {
    fn into_error(self) -> PutError {
        match self {
            Self::Error(error) => error,
            Self::OtherContent(other) => PutError::DifferentContent { job: other.job, segment: other.segment },
        }
    }
}

impl<E: Into<PutError>> From<E> for UploadFault {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// Errors after which asking the same quorum again may help.
fn is_passing(error: &ClientError) -> bool {
    matches!(
        error,
        ClientError::Unknown { .. }
            | ClientError::Paused { .. }
            | ClientError::NoPrimary { .. }
            | ClientError::Busy { .. }
    )
}

fn ended(job: JobId, reason: Option<&str>) -> PutError {
    PutError::Ended { job, reason: reason.unwrap_or("no reason was given").to_owned() }
}

fn protocol(job: JobId, reason: &str) -> PutError {
    ClientError::Protocol { quorum: job.quorum, reason: reason.to_owned() }.into()
}

/// What a column of such an object takes; 0 when its size is not known.
fn column_bytes(size: Option<u64>, profile: Profile) -> u64 {
    Layout::new(size.unwrap_or(0), profile).column_bytes()
}

/// Where an object is: in the columns just sealed, unless the quorum found the same content stored before and kept
/// those.
struct Placed {
    degraded: bool,
    columns: Vec<(PieceIndex, PeerId)>,
    /// Claims of other runs.
    existed: Vec<Claim>,
}

/// Where a put's columns ended up.
struct Stored {
    manifest: ManifestHash,
    bytes: u64,
    degraded: bool,
    columns: Vec<(PieceIndex, PeerId)>,
    /// On whose word.
    by: Speaker,
}
