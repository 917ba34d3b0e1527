//! The auditor: looks for what the state cannot know, holders that are gone or not trusted and pieces that rot.
//!
//! One task per led quorum. Each round looks at one page of objects, never at all of them, and now and then audits one
//! column: its holder reads every piece back from its disk and lists what it has, which must be the manifest's pieces
//! in the attempt that the quorum recorded; and one piece, drawn at random, is fetched whole and checked by hash here,
//! so that a holder that merely claims to have read is found out. A column of another attempt, or with other pieces, is
//! damage like rot. What a round finds is committed as an owed repair; the duties do the rest. A column that a reader
//! complained of ([`super::audit_hints`]) is audited out of turn.
//!
//! A holder is *gone* when it is neither connected nor announced itself for a grace, and then does not answer a
//! question either; or when it announced another life of its disk. Times are measured on the monotonic clock.
//!
//! The columns of a holder that this node does not trust any more are moved one object's at a time: the repair has
//! another make the column, and only its end releases the one that was there, which readers use until then.

use quorate_protocols::ids::Millis;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_protocols::admission::TrustWatch;
use quorate_protocols::approval::Grant;
use quorate_protocols::engine::NodeRole;
use quorate_protocols::ids::{Attempt, ManifestHash, PeerId, PieceIndex, SegmentIndex};
use quorate_protocols::job::ColumnState;
use quorate_protocols::object::{CheckedPiece, Layout, Manifest};
use quorate_protocols::piece::limits::DEADLINE;
use quorate_protocols::piece::{PieceAnswer, PieceMessage, PieceRefusal, Slot};
use quorate_protocols::quorum::request::{ObjectView, Query, QueryAnswer};
use quorate_protocols::quorum::{Command, ObjectCommand, ObjectState};
use tokio::time::{Instant, sleep, timeout_at};

use super::context::{Context, DutyError, HolderError};
use super::holders::column_requirement;
use super::repair;
use crate::seams::run_blocking;

/// Objects looked at per round.
const PAGE: u32 = 100;

/// Columns found gone that one round reports; the next rounds find the rest. A quorum that lost many holders at once
/// must not fill its own log.
const REPORTS_PER_ROUND_MAX: usize = 32;

/// Absent holders that are watched; beyond that further ones are noticed when others have returned.
const ABSENT_MAX: usize = 4_096;

/// Between two audits at least, however many columns there are.
const AUDIT_PAUSE_MIN: Duration = Duration::from_secs(1);

pub(super) struct Auditor {
    context: Context,
    /// Where the next page starts.
    page_after: Option<(Millis, ManifestHash)>,
    /// Holders that were not there when last looked for, and since when.
    absent: BTreeMap<PeerId, Instant>,
    /// Holders that this node does not trust.
    trust: TrustWatch,
    audit: AuditCursor,
}

struct AuditCursor {
    due: Instant,
    object: Option<(Millis, ManifestHash)>,
    column: u8,
    /// Columns seen in the present round over all objects, and in the last whole one.
    seen: u32,
    columns: u32,
}

/// One column, as the auditor looks at it.
struct Watched {
    manifest: ManifestHash,
    column: PieceIndex,
    attempt: Attempt,
    grant: Grant,
    slot: Slot,
}

impl Auditor {
    pub fn new(context: Context) -> Self {
        // The first audit comes at a random moment of the interval: primaries that rose together spread out.
        let interval = context.env.settings.audit_interval;
        let due = Instant::now() + jittered(&context, interval / 2);
        let audit = AuditCursor { due, object: None, column: 0, seen: 0, columns: 0 };
        let trust = TrustWatch::new(context.env.settings.trust_grace);
        Self { context, page_after: None, absent: BTreeMap::new(), trust, audit }
    }

    /// Runs until it is dropped, when this node stops leading.
    pub async fn run(mut self) {
        loop {
            let interval = self.context.env.settings.round_interval;
            let due = Instant::now() + jittered(&self.context, interval);
            while let Ok((manifest, column)) =
                timeout_at(due, self.context.env.audit_hints.next(self.context.quorum.id())).await
            {
                if let Err(error) = self.audit_hinted(manifest, column).await {
                    tracing::debug!(quorum = ?self.context.quorum.id(), %manifest, %column, %error, "not audited");
                }
                // Complaints do not make holders read their disks without a pause.
                sleep(AUDIT_PAUSE_MIN).await;
            }
            if let Err(error) = self.round().await {
                tracing::debug!(quorum = ?self.context.quorum.id(), %error, "patrol round failed");
            }
        }
    }

    async fn round(&mut self) -> Result<(), DutyError> {
        if self.context.quorum.view().objects == 0 {
            self.absent.clear();
            return Ok(());
        }
        self.find_lost_holders().await?;
        if Instant::now() >= self.audit.due {
            let result = self.audit_next().await;
            let interval = self.context.env.settings.audit_interval;
            let pause = (interval / self.audit.columns.max(1)).max(AUDIT_PAUSE_MIN);
            self.audit.due = Instant::now() + jittered(&self.context, pause);
            result?;
        }
        Ok(())
    }

    async fn objects(&self, after: Option<(Millis, ManifestHash)>, limit: u32) -> Result<Vec<ObjectView>, DutyError> {
        match self.context.quorum.query(Query::Objects { after, limit }, true).await? {
            QueryAnswer::Objects(objects) => Ok(objects),
            _ => Ok(Vec::new()),
        }
    }

    async fn find_lost_holders(&mut self) -> Result<(), DutyError> {
        // Whoever is back was never gone.
        let present: Vec<PeerId> = self.absent.keys().copied().filter(|peer| self.is_present(*peer)).collect();
        for peer in present {
            self.absent.remove(&peer);
        }
        // Nor was a holder distrusted without a break that is trusted now, although the page does not name it.
        for peer in self.trust.distrusted().collect::<Vec<_>>() {
            self.observe_trust(peer);
        }
        let mut page = self.objects(self.page_after, PAGE).await?;
        // A page may end early for its bytes: only an empty one is behind the last object.
        if page.is_empty() && self.page_after.take().is_some() {
            page = self.objects(None, PAGE).await?;
        }
        let mut reports = 0;
        let mut answering: BTreeMap<PeerId, bool> = BTreeMap::new();
        for view in &page {
            let before = reports;
            for watched in watched_columns(view) {
                if reports >= REPORTS_PER_ROUND_MAX {
                    // The next round goes on with this object.
                    return Ok(());
                }
                let Some(reason) = self.gone(&watched, &mut answering).await else { continue };
                let Watched { manifest, column, attempt, .. } = watched;
                let owed = ObjectCommand::OweRepair { column, attempt, reason };
                self.context.propose(Command::Object(manifest, owed)).await?;
                self.context.env.metrics.columns_gone.inc();
                reports += 1;
            }
            // The view does not know of repairs that this round owes.
            if reports == before && self.move_column(view).await? {
                reports += 1;
            }
            self.page_after = Some(view.age());
        }
        Ok(())
    }

    fn observe_trust(&mut self, peer: PeerId) {
        let now = self.context.env.seams.clock.monotonic();
        self.trust.observe(now, peer, self.context.env.knowledge.check_trust(peer));
    }

    /// Has a column of a holder that is not trusted any more rebuilt elsewhere, if there is one to be moved now.
    async fn move_column(&mut self, view: &ObjectView) -> Result<bool, DutyError> {
        for grant in view.record.columns.iter().filter_map(|column| column.grant) {
            self.observe_trust(grant.holder.peer);
        }
        let now = self.context.env.seams.clock.monotonic();
        let Some(column) = view.record.column_to_move(|holder| self.trust.due(now, holder).is_some()) else {
            return Ok(false);
        };
        // Nothing is owed that nobody could do: were all admissions to end, each object would be in debt.
        let bytes = Layout::new(view.record.size, view.record.profile).column_bytes();
        let mut candidates = self.context.env.knowledge.candidates(NodeRole::Store, &column_requirement(bytes));
        let holders: BTreeSet<PeerId> = view.record.holders_except(column).collect();
        candidates.retain(|peer| !holders.contains(peer) && !self.context.env.net.is_absent(*peer));
        if candidates.is_empty() {
            return Ok(false);
        }
        let Some(current) = view.record.columns.get(usize::from(column.0)) else { return Ok(false) };
        let holder = current.grant.map(|grant| grant.holder.peer);
        let Some((holder, distrust)) = holder.and_then(|holder| Some((holder, self.trust.due(now, holder)?))) else {
            return Ok(false);
        };
        let reason = format!("holder {holder} is not trusted any more: {distrust}");
        tracing::info!(manifest = %view.hash, %column, %reason, "a column is to be rebuilt elsewhere");
        let owed = ObjectCommand::OweRepair { column, attempt: current.attempt, reason };
        self.context.propose(Command::Object(view.hash, owed)).await?;
        self.context.env.metrics.columns_distrusted.inc();
        Ok(true)
    }

    fn is_present(&self, peer: PeerId) -> bool {
        let env = &self.context.env;
        if peer == env.net.local_peer() || env.net.is_connected(peer) {
            return true;
        }
        // Nobody keeps a connection to everyone: a fresh announcement is as good a sign of life.
        let now = env.seams.clock.wall();
        let heard = env.knowledge.peers().into_iter().find(|known| known.peer == peer);
        heard.is_some_and(|known| now.since(known.heard_at) < env.settings.repair_grace)
    }

    /// Why the holder of this column is gone for good, if it is.
    async fn gone(&mut self, watched: &Watched, answering: &mut BTreeMap<PeerId, bool>) -> Option<String> {
        let peer = watched.grant.holder.peer;
        if self.context.has_lost_its_disk(watched.grant.holder) {
            return Some(format!("holder {peer} lost its disk"));
        }
        if self.is_present(peer) {
            return None;
        }
        let now = Instant::now();
        if !self.absent.contains_key(&peer) && self.absent.len() >= ABSENT_MAX {
            return None;
        }
        let since = *self.absent.entry(peer).or_insert(now);
        let grace = self.context.env.settings.repair_grace;
        if now - since < grace {
            return None;
        }
        let answers = match answering.get(&peer) {
            Some(answers) => *answers,
            None => {
                let answers = repair::answers(&self.context, watched.slot, watched.grant).await;
                answering.insert(peer, answers);
                answers
            }
        };
        if answers {
            self.absent.remove(&peer);
            return None;
        }
        Some(format!("holder {peer} has been gone for {} s", (now - since).as_secs()))
    }

    /// Audits one column and moves on to the next, whatever the outcome.
    async fn audit_next(&mut self) -> Result<(), DutyError> {
        let Some(view) = self.next_object().await? else { return Ok(()) };
        let columns = view.record.columns.len() as u8;
        let column = self.audit.column;
        self.audit.seen += 1;
        if column + 1 >= columns {
            self.audit.object = Some(view.age());
            self.audit.column = 0;
        } else {
            self.audit.column += 1;
        }
        let Some(watched) = watched_columns(&view).into_iter().find(|watched| watched.column.0 == column) else {
            return Ok(());
        };
        self.audit_column(watched).await
    }

    /// Audits a column that a reader complained of, if it is still where it was.
    async fn audit_hinted(&self, manifest: ManifestHash, column: PieceIndex) -> Result<(), DutyError> {
        let QueryAnswer::Object(view) = self.context.quorum.query(Query::Object { manifest }, true).await? else {
            return Ok(());
        };
        match watched_columns(&view).into_iter().find(|watched| watched.column == column) {
            Some(watched) => self.audit_column(watched).await,
            None => Ok(()),
        }
    }

    async fn audit_column(&self, watched: Watched) -> Result<(), DutyError> {
        let Some((_, manifest)) = self.context.object(watched.manifest).await? else { return Ok(()) };
        self.context.env.metrics.audits.inc();
        match audit(&self.context, &watched, &manifest).await {
            Ok(None) => Ok(()),
            Ok(Some(reason)) => {
                let Watched { manifest, column, attempt, .. } = watched;
                tracing::warn!(%manifest, %column, %reason, "audit found damage");
                self.context.env.metrics.audits_damaged.inc();
                self.context
                    .propose(Command::Object(manifest, ObjectCommand::OweRepair { column, attempt, reason }))
                    .await
                    .map(drop)
            }
            // Whether it is gone is for the other half of the auditor to say.
            Err(HolderError::Net(error)) => Err(HolderError::Net(error).into()),
            Err(error) => Err(error.into()),
        }
    }

    /// The object whose column is audited next: the one under way, or the one after it, or the first again.
    async fn next_object(&mut self) -> Result<Option<ObjectView>, DutyError> {
        if let Some(view) = self.objects(self.audit.object, 1).await?.pop() {
            return Ok(Some(view));
        }
        // Round and round: what was seen sets the pace of the next round.
        self.audit.columns = self.audit.seen;
        self.audit.seen = 0;
        self.audit.object = None;
        self.audit.column = 0;
        Ok(self.objects(None, 1).await?.pop())
    }
}

/// Columns of a live object that have a holder who should keep them, and are not owed or under repair.
fn watched_columns(view: &ObjectView) -> Vec<Watched> {
    let record = &view.record;
    if record.state != ObjectState::Live {
        return Vec::new();
    }
    let whole = |state| matches!(state, ColumnState::Sealed | ColumnState::Confirmed);
    let columns = record.columns.iter().enumerate().filter(|(_, column)| whole(column.state));
    columns
        .filter_map(|(index, column)| {
            let index = PieceIndex(index as u8);
            let grant = column.grant?;
            let busy = record.owed.contains_key(&index) || record.repairs.contains_key(&index);
            let slot = Slot { job: record.job, column: index, attempt: column.attempt };
            let manifest = view.hash;
            (!busy).then_some(Watched { manifest, column: index, attempt: column.attempt, grant, slot })
        })
        .collect()
}

/// What is wrong with the column, if anything is.
async fn audit(context: &Context, watched: &Watched, manifest: &Manifest) -> Result<Option<String>, HolderError> {
    let holder = watched.grant.holder.peer;
    let slot = watched.slot;
    let segments = manifest.layout().segments();
    let mut from = Some(SegmentIndex(0));
    while let Some(start) = from {
        let message = PieceMessage::Audit { slot, from: start };
        let (next, damaged) = match context.ask_holder(holder, message, DEADLINE).await {
            Ok((PieceAnswer::Audited { next, damaged }, _)) => (next, damaged),
            Ok(_) => return Err(context.confused(holder)),
            Err(HolderError::Refused { refusal, .. }) if is_damage(&refusal) => {
                return Ok(Some(format!("holder {holder}: {refusal}")));
            }
            Err(error) => return Err(error),
        };
        if let Some(segment) = damaged.first() {
            let count = damaged.len();
            return Ok(Some(format!("holder {holder} has {count} damaged pieces, the first of segment {segment}")));
        }
        // A holder that does not move on would keep an auditor for ever.
        if next.is_some_and(|next| next <= start || next.0 > segments) {
            return Err(context.confused(holder));
        }
        from = next;
    }
    if let Some(reason) = compare_pieces(context, watched, manifest).await? {
        return Ok(Some(reason));
    }
    spot_check(context, watched, manifest).await
}

/// Whether an audit that is refused so has found that the column is not there. A holder in another attempt has not the
/// quorum's column: were it the quorum's, the record would have moved on, and no repair is owed to the older.
fn is_damage(refusal: &PieceRefusal) -> bool {
    matches!(refusal, PieceRefusal::NotHeld | PieceRefusal::UnknownLease | PieceRefusal::StaleAttempt { .. })
}

/// Whether the holder lists the manifest's pieces of the column, each of them.
async fn compare_pieces(
    context: &Context,
    watched: &Watched,
    manifest: &Manifest,
) -> Result<Option<String>, HolderError> {
    let (holder, segments) = (watched.grant.holder.peer, manifest.layout().segments());
    let mut listed = BTreeMap::new();
    let mut from = Some(SegmentIndex(0));
    while let Some(start) = from {
        let message = PieceMessage::ListPieces { slot: watched.slot, from: start };
        let page = match context.ask_holder(holder, message, DEADLINE).await {
            Ok((PieceAnswer::Pieces(page), _)) => page,
            Ok(_) => return Err(context.confused(holder)),
            Err(HolderError::Refused { refusal, .. }) if is_damage(&refusal) => {
                return Ok(Some(format!("holder {holder}: {refusal}")));
            }
            Err(error) => return Err(error),
        };
        // Pages must move on, whatever the holder says; no column has more than the manifest's segments.
        let next = page.last().map(|last| SegmentIndex(last.segment.0.saturating_add(1)));
        from = next.filter(|next| *next > start && next.0 < segments);
        let of_object = page.into_iter().filter(|held| held.segment.0 < segments);
        listed.extend(of_object.map(|held| (held.segment, held.hash)));
    }
    let pieces = (0..).map(SegmentIndex).zip(manifest.column(watched.column));
    let wrong: Vec<SegmentIndex> =
        pieces.filter(|(segment, hash)| listed.get(segment) != Some(hash)).map(|(segment, _)| segment).collect();
    let Some(first) = wrong.first() else { return Ok(None) };
    let count = wrong.len();
    Ok(Some(format!("holder {holder} has another piece or none for {count} segments, the first of them {first}")))
}

/// Fetches one whole piece, drawn at random, and checks it by hash.
async fn spot_check(context: &Context, watched: &Watched, manifest: &Manifest) -> Result<Option<String>, HolderError> {
    let holder = watched.grant.holder.peer;
    let segment = SegmentIndex(context.env.seams.entropy.below(manifest.layout().segments().into()) as u32);
    let Some(hash) = manifest.piece(segment, watched.column) else { return Ok(None) };
    let length = manifest.layout().piece_bytes(segment.0) as u32;
    let message = PieceMessage::Get { hash, offset: 0, length };
    let bytes = match context.ask_holder(holder, message, DEADLINE).await {
        Ok((PieceAnswer::Piece { .. }, bytes)) => bytes,
        Ok(_) => return Err(context.confused(holder)),
        Err(HolderError::Refused { refusal: refusal @ PieceRefusal::NotHeld, .. }) => {
            return Ok(Some(format!("holder {holder}, segment {segment}: {refusal}")));
        }
        Err(error) => return Err(error),
    };
    let checked = run_blocking(move || CheckedPiece::check(hash, bytes)).await;
    Ok(checked.err().map(|fault| format!("holder {holder} gave a wrong piece of segment {segment}: {fault}")))
}

/// From one half to one and a half of the time.
fn jittered(context: &Context, time: Duration) -> Duration {
    let millis = time.as_millis() as u64;
    time / 2 + Duration::from_millis(context.env.seams.entropy.below(millis + 1))
}
