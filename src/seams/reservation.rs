//! The guard of a reservation: part of a node's resources, given back when it is dropped.
//!
//! A request that arrives brings the memory that its frame takes, so the seam to the network knows the guard; the
//! accounts behind it are [`crate::resources`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use quorate_protocols::resources::{Amounts, Refused, Scope};

/// Where a reservation is accounted.
pub trait Account: Send + Sync + 'static {
    fn reserve(&self, scope: Scope, need: Amounts) -> Result<(), Refused>;
    fn release(&self, scope: Scope, amounts: Amounts);
}

/// A part of the node's resources, released when dropped.
#[derive(Default)]
pub struct Reservation {
    held: Option<Held>,
    place: Option<Place>,
}

/// Places of which so many may be taken at once. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Places(Arc<AtomicUsize>);

/// One of them, given back when dropped.
#[derive(Debug)]
pub struct Place(Places);

impl Places {
    /// `None` when `limit` are taken.
    pub fn take_place(&self, limit: usize) -> Option<Place> {
        let more = |taken: usize| (taken < limit).then_some(taken + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok().then(|| Place(self.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Held {
    account: Arc<dyn Account>,
    scope: Scope,
    amounts: Amounts,
}

impl Reservation {
    /// The guard of what was just reserved in the account.
    pub fn new(account: Arc<dyn Account>, scope: Scope, amounts: Amounts) -> Self {
        Self { held: Some(Held { account, scope, amounts }), place: None }
    }
    /// Gives the place back together with the reservation.
    pub fn with_place(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }
    /// A reservation of nothing, for frames of no weight and for tests.
    pub fn none() -> Self {
        Self::default()
    }
    pub fn amounts(&self) -> Amounts {
        self.held.as_ref().map_or(Amounts::ZERO, |held| held.amounts)
    }
    /// Gives back all but `rest`; what `rest` has beyond the reservation is not added.
    pub fn shrink_to(&mut self, rest: Amounts) {
        if let Some(held) = &mut self.held {
            let rest = rest.min(held.amounts);
            held.account.release(held.scope, held.amounts.saturating_sub(rest));
            held.amounts = rest;
        }
    }
    /// Makes the reservation exactly `amounts`; on refusal, as much of that as it already has.
    pub fn resize(&mut self, amounts: Amounts) -> Result<(), Refused> {
        self.shrink_to(amounts);
        let Some(held) = &mut self.held else { return Ok(()) };
        let more = amounts.saturating_sub(held.amounts);
        held.account.reserve(held.scope, more)?;
        held.amounts = held.amounts.saturating_add(more);
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(held) = &self.held {
            held.account.release(held.scope, held.amounts);
        }
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.held {
            Some(held) => write!(f, "Reservation({}: {:?})", held.scope, held.amounts),
            None => f.write_str("Reservation(none)"),
        }
    }
}
