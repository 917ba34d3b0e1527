//! Listings over every quorum that this node knows.
//!
//! A quorum answers with its newest rows behind the cursor, and a listing is in the order of age, the newest first:
//! each quorum is asked for as many rows as the page has, and those of the page are held. So a list has no length at
//! which it ends, and a page costs its rows, however many there are. A filter makes it cost those that it passes over.
//!
//! Each quorum is asked for a fresh answer, from its primary after a linearizable read. A quorum whose primary does not
//! answer is named in the listing, with the reason; what a member still has of it is listed all the same, and said to
//! be old. So nobody takes the rows of a node that is cut off, or of one that was until a moment ago, for the present
//! state.
//!
//! A listing is for a person who waits: a quorum has [`LISTING_DEADLINE`], once one was silent for that long the others
//! have [`super::limits::listing_deadline_short`], and a member that hears no majority does not ask at all, for it
//! knows the answer.

use quorate_protocols::ids::Millis;
use quorate_protocols::quorum::request::ObjectView;
use std::cmp::Ordering;
use std::fmt::Display;
use std::sync::atomic::{self, AtomicBool};
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

/// Where a walk over the rows of one quorum is: from its newest row to older ones.
struct Step<K> {
    after: Option<K>,
    rows: usize,
}

impl<K: Ord + Copy> Step<K> {
    fn new(after: Option<K>) -> Self {
        Self { after, rows: 0 }
    }
    /// Rows to ask for: what the page has room for and one more, which says that more follow. If that was not enough,
    /// because rows were passed over, twice as many, so that a filter that few rows fit does not take many questions.
    fn rows<R, T>(&mut self, gathered: &Gathered<R, T>) -> u32
    where
        R: Ord + Copy + Display,
    {
        self.rows = (gathered.room() + 1).max(2 * self.rows).min(PAGE_MAX);
        self.rows as u32
    }
    /// Moves behind the last row of a page. False if there is none, or none that leads on: such a page would be asked
    /// for for ever.
    fn goes_on_behind(&mut self, last: Option<K>) -> bool {
        let leads_on = last.is_some_and(|last| self.after.is_none_or(|after| last < after));
        self.after = last;
        leads_on
    }
}

/// What a quorum is asked to go on behind, if a list of all quorums goes on behind this row. Objects of one instant are
/// in order of their quorums, and one quorum knows its own alone.
fn behind(age: Age<ObjectId>, quorum: QuorumId) -> (Millis, ManifestHash) {
    let nothing = ManifestHash([0; 32]);
    match quorum.cmp(&age.id.quorum) {
        Ordering::Less => (Millis(age.created_at.0.saturating_add(1)), nothing),
        Ordering::Equal => (age.created_at, age.id.manifest),
        Ordering::Greater => (age.created_at, nothing),
    }
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
            let mut step = Step::new(page.after.map(|age| (age.created_at, age.id)));
            for _ in 0..LISTING_PAGES_MAX {
                let query = Query::Jobs { after: step.after, limit: step.rows(&rows) };
                let page = match pages.ask(query).await {
                    Some(QueryAnswer::Jobs(page)) => page,
                    other => return pages.end(rows, "jobs", other),
                };
                for job in page.iter().map(|record| views::job_info(record, primary)).filter(|job| filter.admits(job)) {
                    rows.add(Age { created_at: job.created_at, id: job.job }, || job);
                }
                let last = page.last().map(|record| (record.created_at, record.job));
                if rows.is_full() || !step.goes_on_behind(last) {
                    return (rows, pages.unreachable);
                }
            }
            pages.endless(rows)
        })
        .await
    }

    pub async fn objects(&self, page: Page<ObjectKey>) -> Listing<ObjectInfo> {
        self.gather(page, |mut pages| async move {
            let mut rows = Gathered::new(page);
            let mut step = Step::new(page.after.map(|age| behind(age, pages.quorum)));
            for _ in 0..LISTING_PAGES_MAX {
                let query = Query::Objects { after: step.after, limit: step.rows(&rows) };
                let page = match pages.ask(query).await {
                    Some(QueryAnswer::Objects(page)) => page,
                    other => return pages.end(rows, "objects", other),
                };
                for view in page.iter().filter(|view| view.record.state == ObjectState::Live) {
                    let id = ObjectId { quorum: pages.quorum, manifest: view.hash };
                    let key = Age { created_at: view.record.created_at, id };
                    rows.add(key, || views::object_info(pages.quorum, view));
                }
                if rows.is_full() || !step.goes_on_behind(page.last().map(ObjectView::age)) {
                    return (rows, pages.unreachable);
                }
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
        if self.silence.load(atomic::Ordering::Relaxed) {
            self.backend.listing_deadline_short()
        } else {
            LISTING_DEADLINE
        }
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
                        self.gathering.silence.fetch_or(!reached, atomic::Ordering::Relaxed);
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
    ContactInfo { known: known as u32, answering: heard as u32, isolated }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Goal: the pages of a list over several quorums, whose rows share instants, have every row once and the
        /// newest first, and a page has each quorum look at no more rows than it has itself, and one more.
        #[test]
        fn a_page_costs_its_rows(
            rows in prop::collection::btree_set((0..9u64, 0..3u8, any::<u8>()), 0..300),
            limit in 1..40usize,
        ) {
            let age = |(at, quorum, hash): (u64, u8, u8)| {
                let id = ObjectId { quorum: QuorumId([quorum; 16]), manifest: ManifestHash([hash; 32]) };
                Age { created_at: Millis(at), id }
            };
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page = Page { limit, after };
                let mut all = Gathered::new(page);
                for quorum in 0..3 {
                    let mut own = Gathered::new(page);
                    let mut step = Step::new(page.after.map(|age| behind(age, QuorumId([quorum; 16]))));
                    let mut looked = 0;
                    loop {
                        let asked = step.rows(&own) as usize;
                        let of_quorum = rows.iter().rev().filter(|row| row.1 == quorum);
                        let key = |row: &(u64, u8, u8)| (Millis(row.0), ManifestHash([row.2; 32]));
                        let behind = of_quorum.filter(|row| step.after.is_none_or(|after| key(row) < after));
                        let page: Vec<_> = behind.take(asked).collect();
                        looked += page.len();
                        page.iter().for_each(|row| own.add(age(**row), || **row));
                        if own.is_full() || !step.goes_on_behind(page.last().map(|row| key(row))) {
                            break;
                        }
                    }
                    prop_assert!(looked <= limit + 1, "{looked} rows for a page of {limit}");
                    all.merge(own);
                }
                let listing = all.into_listing();
                after = listing.items.last().map(|row| age(*row));
                seen.extend(listing.items);
                if listing.cursor.is_none() {
                    break;
                }
            }
            prop_assert_eq!(seen, rows.into_iter().rev().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_node_that_hears_few_of_its_peers_is_isolated() {
        for (heard, known, isolated) in [(0, 0, false), (4, 4, false), (2, 4, false), (1, 4, true), (0, 1, true)] {
            assert_eq!(contact(heard, known).isolated.is_some(), isolated, "{heard} of {known}");
        }
        assert!(contact(1, 4).isolated.unwrap().contains("hears 1 of the 4 peers"));
    }
}
