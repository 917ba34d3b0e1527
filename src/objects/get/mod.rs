//! Reading an object: from any node, any k pieces per segment, each checked, streamed in order.
//!
//! What it promises: the bytes are those that the manifest names, and the manifest is the one that the object's id
//! names, or the stream ends with an error that says which pieces were missing and why; memory is bounded by
//! [`SEGMENTS_AHEAD`] whatever the object's size; one bad or slow holder costs a little time, not the read. Where the
//! pieces are is asked of the steward: any member's word will do at first, because wrong bytes are found out, and a
//! fresh answer is asked for when holders fail.
//!
//! What it does not do: repair. It names a bad holder in an event, tells the steward which column it was, and goes on
//! with the next.

mod segment;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::{Mutex, MutexGuard};
use quorate_protocols::ids::{ObjectId, PeerId, SegmentIndex};
use quorate_protocols::job::store::ColumnState;
use quorate_protocols::object::limits::SEGMENT_BYTES;
use quorate_protocols::object::{ByteRange, Manifest};
use quorate_protocols::quorum::ObjectState;
use quorate_protocols::quorum::request::{ObjectView, Query, QueryAnswer};
use tokio::sync::mpsc;

use self::segment::Holders;
use super::{GetError, GetStream, Objects};
use crate::quorums::ClientError;
use crate::seams::{TaskGroup, spawn};
use crate::streams;

/// Segments that are fetched at once: the one that the reader waits for, and the next two, so that a holder that reads
/// its disk or a reader that hashes leaves no other idle.
pub const SEGMENTS_AHEAD: usize = 3;

/// Whole segments that wait for a slow reader, beside those being fetched.
const SEGMENTS_WAITING: usize = 1;

const QUERY_DEADLINE: Duration = Duration::from_secs(10);

/// How long the primary is waited for before any member will do: several failovers of a LAN. Where links or disks are
/// slow, one takes longer, and an old placement serves: a read that finds it wrong asks for a fresh one.
const FRESH_DEADLINE: Duration = Duration::from_secs(2);

/// How often at most one read asks the steward for a fresh placement.
const PLACEMENT_INTERVAL: Duration = Duration::from_secs(2);

/// One read of one object, shared by the segments that are fetched at once.
pub(super) struct Read {
    objects: Objects,
    object: ObjectId,
    manifest: Manifest,
    placement: tokio::sync::Mutex<Placement>,
    holders: Mutex<Holders>,
}

/// Who holds which column, as last heard; the generation tells whether it was asked for again since.
#[derive(Clone)]
struct Placement {
    columns: Vec<Option<PeerId>>,
    generation: u64,
    asked_at: tokio::time::Instant,
}

impl Objects {
    pub(super) async fn get_object(&self, object: ObjectId, range: Option<ByteRange>) -> Result<GetStream, GetError> {
        let (manifest, view) = self.find_object(object).await?;
        let size = manifest.size;
        let part = range.map_or(Ok(0..size), |range| range.of_size(size))?;
        let (start, length) = (part.start, part.end - part.start);
        let placement =
            Placement { columns: holders_of(&view, &manifest), generation: 0, asked_at: tokio::time::Instant::now() };
        let read = Arc::new(Read {
            objects: self.clone(),
            object,
            manifest,
            placement: tokio::sync::Mutex::new(placement),
            holders: Mutex::new(Holders::default()),
        });
        Ok(GetStream { size, start, length, bytes: read.stream(part).await? })
    }

    /// The manifest, checked against the object's id, and the steward's view.
    async fn find_object(&self, object: ObjectId) -> Result<(Manifest, ObjectView), GetError> {
        // What was removed is gone for readers at once, so the primary is asked first. A quorum that cannot answer in
        // time does not keep its objects from being read: any member's record names the holders, and every piece is
        // checked.
        let fresh = match self.ask_object(object, false, FRESH_DEADLINE).await {
            Ok(Some(view)) => return named(view, object),
            Ok(None) => return Err(GetError::Unknown { object }),
            Err(error) => error,
        };
        tracing::debug!(%object, error = %fresh, "the primary gave no answer about an object; asking any member");
        match self.ask_object(object, true, QUERY_DEADLINE).await {
            Ok(Some(view)) => named(view, object),
            // A member that lags may not know the object yet: its "unknown" is none.
            Ok(None) => Err(fresh.into()),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn ask_object(
        &self,
        object: ObjectId,
        stale: bool,
        deadline: Duration,
    ) -> Result<Option<ObjectView>, ClientError> {
        let query = Query::Object { manifest: object.manifest };
        match self.context.quorums.query(object.quorum, query, stale, deadline).await? {
            QueryAnswer::Object(view) if view.record.state == ObjectState::Live => Ok(Some(*view)),
            QueryAnswer::Object(_) | QueryAnswer::Unknown => Ok(None),
            // Whoever says something else has not said that there is no such object.
            _ => Err(ClientError::Protocol {
                quorum: object.quorum,
                reason: "a question about an object was answered with something else".into(),
            }),
        }
    }
}

/// The manifest that a member gave, checked against the object's own name.
fn named(view: ObjectView, object: ObjectId) -> Result<(Manifest, ObjectView), GetError> {
    match Manifest::decode_named(&view.manifest, object.manifest) {
        Ok(manifest) => Ok((manifest, view)),
        Err(error) => Err(ClientError::Protocol { quorum: object.quorum, reason: error.to_string() }.into()),
    }
}

/// The holders of whole columns. A column that is owed a repair may still have good pieces: its holder is asked last.
fn holders_of(view: &ObjectView, manifest: &Manifest) -> Vec<Option<PeerId>> {
    let whole = |column: &quorate_protocols::job::store::ColumnRecord| {
        let there = matches!(column.state, ColumnState::Sealed | ColumnState::Confirmed);
        column.grant.filter(|_| there).map(|grant| grant.holder.peer)
    };
    let mut columns: Vec<_> = view.record.columns.iter().map(whole).collect();
    columns.resize(manifest.profile.columns(), None);
    columns
}

impl Read {
    /// The bytes of `range`, in order, once the first of them are at hand: nobody can say anything to a client in the
    /// middle of its bytes, and a reader waits for the first ones anyhow. The work stops when the stream is dropped, or
    /// with the node.
    async fn stream(
        self: Arc<Self>,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, GetError>>, GetError> {
        let (object, length) = (self.object, range.end - range.start);
        let (send, mut receive) = mpsc::channel(SEGMENTS_WAITING);
        match range.is_empty() {
            // Nothing comes, which is what a closed channel says.
            true => drop(send),
            false => drop(spawn(self.produce(range, send))),
        }
        let first = match receive.recv().await.transpose()? {
            None if length > 0 => return Err(GetError::Interrupted { object, read: 0, length }),
            first => first,
        };
        let segments = futures::stream::iter(first.map(Ok)).chain(streams::receiver(receive)).boxed();
        Ok(whole(object, length, segments))
    }

    async fn produce(self: Arc<Self>, range: Range<u64>, send: mpsc::Sender<Segment>) {
        let shutdown = TaskGroup::current().shutdown_token();
        let last = (range.end - 1) / SEGMENT_BYTES as u64;
        let read = self.clone();
        let mut segments = futures::stream::iter(range.start / SEGMENT_BYTES as u64..=last)
            .map(move |segment| {
                let base = segment * SEGMENT_BYTES as u64;
                let from = range.start.saturating_sub(base) as usize;
                let to = (range.end - base).min(SEGMENT_BYTES as u64) as usize;
                let read = read.clone();
                async move { read.segment(SegmentIndex(segment as u32), from..to).await }
            })
            .buffered(SEGMENTS_AHEAD);
        loop {
            let segment = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = send.closed() => return,
                segment = segments.next() => segment,
            };
            let Some(segment) = segment else { return };
            let failed = segment.is_err();
            if send.send(segment).await.is_err() || failed {
                return;
            }
        }
    }

    /// Asks the steward again where the columns are, unless that was done after `seen` or a moment ago.
    async fn fresh_placement(&self, seen: u64) -> Placement {
        let mut placement = self.placement.lock().await;
        let wait = (placement.asked_at + PLACEMENT_INTERVAL).saturating_duration_since(tokio::time::Instant::now());
        if placement.generation == seen && (seen == 0 || wait.is_zero()) {
            placement.asked_at = tokio::time::Instant::now();
            placement.generation += 1;
            match self.objects.ask_object(self.object, false, QUERY_DEADLINE).await {
                Ok(Some(view)) => placement.columns = holders_of(&view, &self.manifest),
                Ok(None) => (),
                Err(error) => tracing::debug!(object = %self.object, %error, "no fresh placement"),
            }
        }
        placement.clone()
    }

    fn holders(&self) -> MutexGuard<'_, Holders> {
        self.holders.lock()
    }
}

/// What one read learnt about each holder.
type ByPeer<T> = BTreeMap<PeerId, T>;

/// The slices of one segment, or why there are none.
type Segment = Result<Vec<Bytes>, GetError>;

/// All `length` bytes of the segments, or an error behind those that came. Whoever fetches segments stops with the node
/// and says nothing: without the error a part of an object would look like the whole.
fn whole(
    object: ObjectId,
    length: u64,
    segments: BoxStream<'static, Segment>,
) -> BoxStream<'static, Result<Bytes, GetError>> {
    let parts = segments.flat_map(|segment| match segment {
        Ok(parts) => futures::stream::iter(parts.into_iter().map(Ok).collect::<Vec<_>>()),
        Err(error) => futures::stream::iter(vec![Err(error)]),
    });
    streams::unfold((parts.boxed(), 0), move |(mut parts, read)| async move {
        match parts.next().await {
            Some(Ok(part)) => {
                let read = read + part.len() as u64;
                Some((Ok(part), (parts, read)))
            }
            // An error is the last that is said.
            Some(Err(error)) => Some((Err(error), (parts, length))),
            None if read < length => Some((Err(GetError::Interrupted { object, read, length }), (parts, length))),
            None => None,
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a reader hears when these segments come, and no others.
    async fn heard(length: u64, segments: Vec<Segment>) -> Vec<Result<usize, GetError>> {
        let stream = whole(ObjectId::default(), length, futures::stream::iter(segments).boxed());
        stream.map(|part| part.map(|part| part.len())).collect().await
    }

    /// Goal: a stream that ends without an error has had every byte.
    #[tokio::test]
    async fn a_stream_ends_with_all_its_bytes_or_with_an_error() {
        let segment = || Ok(vec![Bytes::from_static(b"ab"), Bytes::from_static(b"c")]);
        assert!(heard(0, Vec::new()).await.is_empty());
        assert!(matches!(heard(6, vec![segment(), segment()]).await[..], [Ok(2), Ok(1), Ok(2), Ok(1)]));
        let cut = heard(6, vec![segment()]).await;
        assert!(matches!(cut[..], [Ok(2), Ok(1), Err(GetError::Interrupted { read: 3, length: 6, .. })]), "{cut:?}");
        let failed = GetError::Unknown { object: ObjectId::default() };
        let heard = heard(6, vec![segment(), Err(failed)]).await;
        assert!(matches!(heard[..], [Ok(2), Ok(1), Err(GetError::Unknown { .. })]), "{heard:?}");
    }
}
