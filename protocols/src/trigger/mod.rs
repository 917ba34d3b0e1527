//! Triggers: when a job runs, decided so that each instant or event is one record.
//!
//! A job with a trigger is a *definition*: it lives in its quorum's record and runs nothing itself. Each *fire* makes a
//! run, which is a job of its own, or a recorded skip with its reason; the row that says so is keyed (definition,
//! instant or event id) and committed before anything happens.
//!
//! **Who decides what.** *Which* instants there are follows from the specification: [`instants`]. *When* one is due is
//! said by the primary's clock, and by nothing else. The primary proposes a [`record::Span`]: everything that became
//! due since the instant that the record names as next, and what comes after. The members apply it if the record still
//! names that instant, else it is an old primary's and changes nothing. So no clock, however wrong, can make an instant
//! fire twice or vanish; it can only make it early or late. When clocks that ran ahead are put right, instants that
//! were skipped for that are open again ([`reopen`]). Policies (overlap, missed instants) are applied with the span, by
//! all members alike.
//!
//! **What members never compute.** Time zones and expressions come from libraries whose answers change with their
//! version, and the members of one quorum may run different builds. So only the primary evaluates them, and what it
//! found is in the entry: instants, which triggers an event matched, whether a condition held. Applying is comparing
//! and counting.
//!
//! **Clocks.** A primary judges by its own wall clock as long as a majority of the members' clocks bears it out, else
//! by theirs ([`crate::liveness::clock`]). `at` and `cron` are due when that says so. `every` is due when it says so or
//! when as much time has passed as was left, whichever is first: clocks that were set back by an hour do not silence it
//! for an hour.
//!
//! **Events.** Emitters keep events until the quorum has committed them, in one sequence each ([`outbox`]); the quorum
//! remembers how far it has come with each ([`event::Emitter`]). Ids that users give are remembered for the trigger's
//! window.
//!
//! **What a task is given.** Every program of the run finds the file `trigger.json` among its inputs: see [`input`].

pub mod audit;
mod check;
pub mod condition;
mod crontab;
#[cfg(test)]
mod crontab_tests;
pub mod event;
pub mod expression;
pub mod input;
pub mod instants;
pub mod limits;
pub mod outbox;
pub mod planner;
pub mod record;
pub mod reopen;
pub mod spec;

pub use expression::Expression;
pub use instants::{InstantError, Schedule, parse_instant, show_instant};
pub use outbox::Outbox;
pub use planner::Planner;
pub use record::{Cause, FireRow, Fired, SkipReason, Span, TriggerRun};
pub use spec::{TriggerSpec, When};

#[cfg(test)]
mod tests;
