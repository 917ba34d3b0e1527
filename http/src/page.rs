//! Pages of lists: how many rows a request wants, and where it goes on.
//!
//! Each row has a key, and a list is in the order of the keys, the greatest first. A cursor is the key of the last row
//! of a page, so that a list that changes between two pages neither repeats a row nor leaves out one that was there all
//! the time. A page that is gathered row by row holds no more rows than it will have ([`Gathered`]).

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::str::FromStr;

use quorate_api::Listing;
use quorate_protocols::ids::Millis;
use serde::Deserialize;

use super::error::ApiError;
use super::limits::{CURSOR_BYTES_MAX, PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX};

/// Which rows a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page<K> {
    pub limit: usize,
    /// The key of the last row that the client has.
    pub after: Option<K>,
}

impl<K: FromStr> Page<K> {
    /// From the parameters `limit` and `cursor`.
    pub fn parse(limit: Option<u32>, cursor: Option<&str>) -> Result<Self, ApiError> {
        let limit = limit.map_or(PAGE_ROWS_DEFAULT, |limit| limit as usize);
        if !(1..=PAGE_ROWS_MAX).contains(&limit) {
            return Err(ApiError::bad_request(format!("limit: {limit} is not between 1 and {PAGE_ROWS_MAX}")));
        }
        let read = |text: &str| match text.len() > CURSOR_BYTES_MAX {
            true => None,
            false => text.parse().ok(),
        };
        let after = match cursor {
            None => None,
            Some(text) => Some(read(text).ok_or_else(foreign_cursor)?),
        };
        Ok(Self { limit, after })
    }
}

/// The cursor is of another list, or of none.
pub fn foreign_cursor() -> ApiError {
    ApiError::bad_request("cursor: this is none that an answer to the same question had")
}

/// The parameters of lists that have no others.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageParams {
    /// Rows wanted at most: 1 to 5,000; 1,000 if not said.
    #[param(minimum = 1, maximum = 5_000)]
    limit: Option<u32>,
    /// Where to go on: the `cursor` of the page before.
    cursor: Option<String>,
}

impl PageParams {
    pub fn page<K: FromStr>(&self) -> Result<Page<K>, ApiError> {
        Page::parse(self.limit, self.cursor.as_deref())
    }
}

/// The key of a row that has an age: a later row is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age<I> {
    pub created_at: Millis,
    pub id: I,
}

impl<I: Display> Display for Age<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.created_at.0, self.id)
    }
}

impl<I: FromStr> FromStr for Age<I> {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (at, id) = text.split_once('-').ok_or(())?;
        Ok(Self { created_at: Millis(at.parse().map_err(|_| ())?), id: id.parse().map_err(|_| ())? })
    }
}

/// The key of a row that has none but its id: the least id comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ById<I>(pub Reverse<I>);

impl<I: Display> Display for ById<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.0.fmt(f)
    }
}

impl<I: FromStr> FromStr for ById<I> {
    type Err = I::Err;
    fn from_str(text: &str) -> Result<Self, I::Err> {
        text.parse().map(|id| Self(Reverse(id)))
    }
}

/// The row of one task of a step: the step is in it, so that a list goes on in the step in which it began, whatever
/// step the run is in by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InStep {
    pub step: u16,
    pub task: u32,
}

impl Display for InStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.step, self.task)
    }
}

impl FromStr for InStep {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (step, task) = text.split_once('.').ok_or(())?;
        Ok(Self { step: step.parse().map_err(|_| ())?, task: task.parse().map_err(|_| ())? })
    }
}

/// The rows of a page, gathered from rows in any order.
pub struct Gathered<K, T> {
    page: Page<K>,
    rows: BTreeMap<K, T>,
    /// Rows follow that have no room on the page.
    more: bool,
}

impl<K: Ord + Copy + Display, T> Gathered<K, T> {
    pub fn new(page: Page<K>) -> Self {
        Self { page, rows: BTreeMap::new(), more: false }
    }
    /// Takes the row, if it belongs on the page as far as is known.
    pub fn add(&mut self, key: K, row: impl FnOnce() -> T) {
        if self.page.after.is_some_and(|after| key >= after) {
            return;
        }
        let is_full = self.rows.len() >= self.page.limit;
        self.more |= is_full && !self.rows.contains_key(&key);
        if is_full && self.rows.first_key_value().is_some_and(|(last, _)| key < *last) {
            return;
        }
        self.rows.insert(key, row());
        if self.rows.len() > self.page.limit {
            self.rows.pop_first();
        }
    }
    pub fn merge(&mut self, other: Self) {
        self.more |= other.more;
        for (key, row) in other.rows {
            self.add(key, || row);
        }
    }
    /// Rows that the page has room for.
    pub fn room(&self) -> usize {
        self.page.limit - self.rows.len()
    }
    /// Whether a row was added that the page has no room for: of rows in order, no further one is of use.
    pub fn is_full(&self) -> bool {
        self.more
    }
    /// Ends the page before it has all its rows; others follow it.
    pub fn end_early(&mut self) {
        self.more = true;
    }
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
    pub fn into_listing(self) -> Listing<T> {
        let cursor = self.rows.first_key_value().filter(|_| self.more).map(|(last, _)| last.to_string());
        Listing { items: self.rows.into_values().rev().collect(), cursor, ..Listing::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use quorate_protocols::ids::{JobId, QuorumId};

    type Key = Age<JobId>;

    fn key(created_at: u64, local: u8) -> Key {
        Age { created_at: Millis(created_at), id: JobId { quorum: QuorumId([1; 16]), local: [local; 16] } }
    }

    proptest! {
        /// Goal: whoever follows the cursors sees each row once, the newest first, however the rows are spread over
        /// quorums and however short the pages; and a page never holds more than its limit on the way.
        #[test]
        fn pages_in_turn_are_the_whole_list(
            rows in prop::collection::btree_set((0..40u64, any::<u8>()), 0..120),
            limit in 1..20u32,
            quorums in 1..5usize,
        ) {
            let keys: Vec<Key> = rows.iter().map(|(at, local)| key(*at, *local)).collect();
            let (mut seen, mut cursor) = (Vec::new(), None::<String>);
            loop {
                let page = Page::<Key>::parse(Some(limit), cursor.as_deref()).unwrap();
                let mut all = Gathered::new(page);
                for quorum in 0..quorums {
                    let mut own = Gathered::new(page);
                    for key in keys.iter().skip(quorum).step_by(quorums) {
                        own.add(*key, || *key);
                        prop_assert!(own.rows.len() <= limit as usize);
                    }
                    all.merge(own);
                }
                let listing = all.into_listing();
                prop_assert!(listing.items.len() <= limit as usize);
                prop_assert!(listing.cursor.is_none() || !listing.items.is_empty());
                seen.extend(listing.items);
                cursor = listing.cursor;
                if cursor.is_none() {
                    break;
                }
            }
            prop_assert_eq!(seen, keys.into_iter().rev().collect::<Vec<_>>());
        }
    }

    /// Goal: no number of rows is the end of a list.
    #[test]
    fn a_list_of_many_thousand_rows_is_whole() {
        let (mut seen, mut cursor) = (0, None::<String>);
        loop {
            let mut rows = Gathered::new(Page::<u64>::parse(Some(5_000), cursor.as_deref()).unwrap());
            (0..25_001).for_each(|key| rows.add(key, || key));
            let listing = rows.into_listing();
            seen += listing.items.len();
            cursor = listing.cursor;
            if cursor.is_none() {
                return assert_eq!(seen, 25_001);
            }
        }
    }

    #[test]
    fn a_cursor_and_a_limit_that_are_none_are_refused() {
        for (limit, cursor) in [(Some(0), None), (Some(u32::MAX), None), (None, Some("")), (None, Some("7"))] {
            assert!(Page::<Key>::parse(limit, cursor).is_err(), "{limit:?} {cursor:?}");
        }
        assert!(Page::<u64>::parse(None, Some(&"7".repeat(10_000))).is_err());
        let text = key(5, 6).to_string();
        assert_eq!(Page::parse(None, Some(&text)), Ok(Page { limit: PAGE_ROWS_DEFAULT, after: Some(key(5, 6)) }));
    }
}
