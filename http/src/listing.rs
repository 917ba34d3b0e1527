//! Listings over every quorum that this node knows.
//!
//! A quorum answers in the order of ids, and a listing is in the order of age, the newest first: for each page all rows
//! are looked at and those of the page are held. So a list has no length at which it ends, and costs as many looks as
//! it has pages.
//!
//! Each quorum is asked for a fresh answer, from its primary after a linearizable read. A quorum whose primary does not
//! answer is named in the listing, with the reason; what a member still has of it is listed all the same, and said to
//! be old. So nobody takes the rows of a node that is cut off, or of one that was until a moment ago, for the present
//! state.
//!
//! A listing is for a person who waits: a quorum has [`LISTING_DEADLINE`], once one was silent for that long the others
//! have [`super::limits::listing_deadline_short`], and a member that hears no majority does not ask at all, for it
//! knows the answer.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use quorate_api::{ContactInfo, JobInfo, Listing, ObjectInfo, Unreachable};
use quorate_node::quorums::ClientError;
use quorate_protocols::ids::{ManifestHash, ObjectId, QuorumId};
use quorate_protocols::job::limits::PAGE_MAX;
use quorate_protocols::quorum::ObjectState;
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::text::chain;

use super::backend::{Backend, JobFilter, JobKey, ObjectKey};
use super::limits::{LISTING_DEADLINE, LISTING_FAN_OUT, LISTING_PAGES_MAX};
use super::live::{NodeBackend, unexpected};
use super::page::{Age, Gathered, Page};
use super::views;

/// One listing under way.
pub(super) struct Gathering<'a> {
    backend: &'a NodeBackend,
    /// A quorum was silent for the whole deadline.
    silence: AtomicBool,
}

/// The pages of one quorum.
struct Pages<'a> {
    gathering: &'a Gathering<'a>,
    quorum: QuorumId,
    /// Set once it gave no fresh answer.
    unreachable: Option<Unreachable>,
}

impl<'a> Gathering<'a> {
    pub fn new(backend: &'a NodeBackend) -> Self {
        Self { backend, silence: AtomicBool::new(false) }
    }

    pub async fn jobs(&self, filter: &JobFilter, page: Page<JobKey>) -> Listing<JobInfo> {
        self.gather(page, |mut pages| async move {
            let primary = self.backend.primary(pages.quorum).await;
            let mut rows = Gathered::new(page);
            let mut after = None;
            for _ in 0..LISTING_PAGES_MAX {
                let page = match pages.ask(Query::Jobs { after, limit: PAGE_MAX as u32 }).await {
                    Some(QueryAnswer::Jobs(page)) => page,
                    other => return pages.end(rows, "jobs", other),
                };
                // The next page begins behind this one: a page that does not lead on would be asked for ever.
                let last = page.last().map(|record| record.job);
                for job in page.iter().map(|record| views::job_info(record, primary)).filter(|job| filter.admits(job)) {
                    rows.add(Age { created_at: job.created_at, id: job.job }, || job);
                }
                if last <= after {
                    return (rows, pages.unreachable);
                }
                after = last;
            }
            pages.endless(rows)
        })
        .await
    }

    pub async fn objects(&self, page: Page<ObjectKey>) -> Listing<ObjectInfo> {
        self.gather(page, |mut pages| async move {
            let mut rows = Gathered::new(page);
            let mut after: Option<ManifestHash> = None;
            for _ in 0..LISTING_PAGES_MAX {
                let page = match pages.ask(Query::Objects { after, limit: PAGE_MAX as u32 }).await {
                    Some(QueryAnswer::Objects(page)) => page,
                    other => return pages.end(rows, "objects", other),
                };
                let last = page.last().map(|view| view.hash);
                for view in page.iter().filter(|view| view.record.state == ObjectState::Live) {
                    let id = ObjectId { quorum: pages.quorum, manifest: view.hash };
                    let key = Age { created_at: view.record.created_at, id };
                    rows.add(key, || views::object_info(pages.quorum, view));
                }
                if last <= after {
                    return (rows, pages.unreachable);
                }
                after = last;
            }
            pages.endless(rows)
        })
        .await
    }

    /// Gathers the rows of every quorum. What one has to say against it is noted, and the rows of the others stand.
    async fn gather<K, T, F>(&'a self, page: Page<K>, rows_of: impl Fn(Pages<'a>) -> F) -> Listing<T>
    where
        K: Ord + Copy + Display,
        F: Future<Output = (Gathered<K, T>, Option<Unreachable>)>,
    {
        let quorums: Vec<QuorumId> = self.backend.known_quorums().into_keys().collect();
        let is_none_known = quorums.is_empty();
        let (mut all, mut missing) = (Gathered::new(page), Vec::new());
        let pages = |quorum| Pages { gathering: self, quorum, unreachable: None };
        let mut answers = stream::iter(quorums).map(|quorum| rows_of(pages(quorum))).buffered(LISTING_FAN_OUT);
        while let Some((rows, unreachable)) = answers.next().await {
            all.merge(rows);
            missing.extend(unreachable);
        }
        let mut listing = Listing { unreachable: missing, ..all.into_listing() };
        // A fresh answer proves the contact. Without one there may be quorums that this node has not heard of.
        if is_none_known || !listing.unreachable.is_empty() {
            listing.isolated = self.backend.contact().await.isolated;
        }
        listing
    }

    fn patience(&self) -> Duration {
        if self.silence.load(Ordering::Relaxed) { self.backend.listing_deadline_short() } else { LISTING_DEADLINE }
    }
}

impl Pages<'_> {
    /// One page: fresh, else as any member has it, which is noted. `None`: there is neither.
    async fn ask(&mut self, query: Query) -> Option<QueryAnswer> {
        let jobs = self.gathering.backend.jobs_client();
        if self.unreachable.is_none() {
            let missing = match self.gathering.backend.unheard(self.quorum) {
                Some(unheard) => Unreachable { stale: true, ..unheard },
                None => match jobs.query(self.quorum, query.clone(), false, self.gathering.patience()).await {
                    Ok(answer) => return Some(answer),
                    Err(error) => {
                        let reached = matches!(error, ClientError::Busy { .. } | ClientError::Protocol { .. });
                        self.gathering.silence.fetch_or(!reached, Ordering::Relaxed);
                        Unreachable { quorum: self.quorum, reason: chain(&error), stale: true, age_ms: None }
                    }
                },
            };
            self.unreachable = Some(missing);
        }
        let patience = self.gathering.backend.listing_deadline_short();
        let answer = jobs.query(self.quorum, query, true, patience).await.ok();
        if let (None, Some(missing)) = (&answer, &mut self.unreachable) {
            (missing.stale, missing.age_ms) = (false, None);
        }
        answer
    }

    /// The end of a quorum's rows at a page that did not come, or was none.
    fn end<K, T>(
        self,
        rows: Gathered<K, T>,
        asked: &str,
        answer: Option<QueryAnswer>,
    ) -> (Gathered<K, T>, Option<Unreachable>)
    where
        K: Ord + Copy + Display,
    {
        let wrong = answer.map(|other| unexpected(self.quorum, asked, &other));
        let wrong = wrong.map(|error| Unreachable {
            quorum: self.quorum,
            reason: chain(&error),
            stale: !rows.is_empty(),
            age_ms: None,
        });
        (rows, wrong.or(self.unreachable))
    }

    /// The end of a quorum's rows at more pages than a quorum can have.
    fn endless<K, T>(self, rows: Gathered<K, T>) -> (Gathered<K, T>, Option<Unreachable>) {
        let reason = format!("it answered with more than {LISTING_PAGES_MAX} pages, which no quorum has");
        (rows, Some(Unreachable { quorum: self.quorum, reason, stale: true, age_ms: None }))
    }
}

/// What it means to hear so many of the peers known.
pub(super) fn contact(heard: usize, known: usize) -> ContactInfo {
    let isolated = (heard * 2 < known).then(|| {
        format!("this node hears {heard} of the {known} peers that it knows: what others do meanwhile is not in here")
    });
    ContactInfo { known: known as u32, heard: heard as u32, isolated }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_hears_few_of_its_peers_is_isolated() {
        for (heard, known, isolated) in [(0, 0, false), (4, 4, false), (2, 4, false), (1, 4, true), (0, 1, true)] {
            assert_eq!(contact(heard, known).isolated.is_some(), isolated, "{heard} of {known}");
        }
        assert!(contact(1, 4).isolated.unwrap().contains("hears 1 of the 4 peers"));
    }
}
