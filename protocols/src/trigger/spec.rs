//! The specification of a trigger, as plain data that anyone may have written.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::limits::{DEDUPE_WINDOW_DEFAULT, QUEUE_DEFAULT};
use crate::ids::{JobId, Millis, ObjectId};
use crate::task::spec::Verify;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerSpec {
    pub when: When,
    pub overlap: Overlap,
    pub missed: Missed,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum When {
    At(Millis),
    /// At `start` and each `period` after it. Without a start, it counts from the submit, the first a period later.
    Every {
        period: Duration,
        bounds: Bounds,
    },
    /// Whenever a line says so on the clocks of `timezone`.
    Cron {
        lines: Vec<String>,
        timezone: String,
        bounds: Bounds,
    },
    Event(EventSpec),
    Condition(ConditionSpec),
    /// When each of these jobs has ended since the last time.
    After(Vec<AfterJob>),
}

/// The first and last moment of a schedule, and how its instants are spread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    pub start: Option<Millis>,
    /// No instant is later.
    pub until: Option<Millis>,
    /// Each instant is due up to this much later, by a share drawn from the job and the instant.
    pub jitter: Duration,
    /// Instants in all, skipped ones included.
    pub count: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventSpec {
    pub name: String,
    /// An expression over `event` and `data`; none takes every event of the name.
    pub filter: Option<String>,
    /// Fire only when no further event came for so long, with the newest.
    pub debounce: Duration,
    /// An id that was seen within this time is the same event.
    pub dedupe_window: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConditionSpec {
    pub source: Source,
    /// An expression over `value`.
    pub when: String,
    /// An expression over `value` for when the trigger may be armed again; none: when `when` does not hold.
    pub reset: Option<String>,
    /// Time between two looks.
    pub every: Duration,
    /// How long the condition must hold, look after look, before it fires.
    pub hold_for: Duration,
    /// How long the reset must hold, after a fire, before the condition counts again.
    pub hysteresis: Duration,
    /// Have this many peers look, and believe what enough of them say.
    pub verify: Option<Verify>,
}

/// Where a condition's value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// JSON over HTTP or HTTPS. Each node asks only hosts that its operator lists.
    Http { url: String },
    /// An object's content, as JSON.
    Object(ObjectId),
    /// `{state, ended_at}` of the job's last run that ended.
    Job(JobId),
    /// A number that the node measures, by its name in `/metrics`.
    Metric { name: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AfterJob {
    /// Of the same quorum. When it has a trigger itself, each of its runs counts.
    pub job: JobId,
    pub on: After,
}

/// Which ends count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum After {
    Success,
    Failure,
    Any,
}

/// What becomes of a fire while an earlier run is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Overlap {
    /// It runs beside it.
    Allow,
    /// It is skipped.
    Forbid,
    /// The earlier run is cancelled; the fire runs once that has ended. Of several that wait, the newest does.
    Replace,
    /// It waits its turn; beyond so many it is skipped.
    Queue(u32),
}

/// What becomes of instants that nobody could commit in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    pub policy: MissedPolicy,
    /// An instant that is committed later than this after it was due never fires.
    pub deadline: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MissedPolicy {
    Skip,
    /// The newest of them fires.
    Once,
    /// The newest so many fire, in order.
    CatchUp(u32),
}

impl TriggerSpec {
    /// With the defaults: what a clock fires does not overlap, what others cause waits its turn; of missed instants the
    /// newest fires.
    pub fn new(when: When) -> Self {
        let overlap = match when {
            When::At(_) | When::Every { .. } | When::Cron { .. } | When::Condition(_) => Overlap::Forbid,
            When::Event(_) | When::After(_) => Overlap::Queue(QUEUE_DEFAULT),
        };
        Self { when, overlap, missed: Missed { policy: MissedPolicy::Once, deadline: None } }
    }

    /// Whether instants follow from a clock.
    pub const fn is_timed(&self) -> bool {
        matches!(self.when, When::At(_) | When::Every { .. } | When::Cron { .. })
    }

    /// Whether it is due as time passes, rather than when a wall clock says so.
    pub const fn is_steady(&self) -> bool {
        matches!(self.when, When::Every { .. })
    }

    /// Fires in a thousand seconds that its own periods may come to. What others cause is not known.
    pub fn fires_per_kilosecond(&self) -> u64 {
        let each = |period: Duration| 1_000_000_u128.checked_div(period.as_millis()).unwrap_or(0) as u64;
        let line = |line: &String| match line.split_whitespace().count() {
            // With seconds.
            6 => each(Duration::from_secs(1)),
            _ => each(Duration::from_secs(60)),
        };
        match &self.when {
            When::Every { period, .. } => each(*period),
            When::Cron { lines, .. } => lines.iter().map(line).sum(),
            When::Condition(condition) => each(condition.every),
            When::At(_) | When::Event(_) | When::After(_) => 0,
        }
    }

    /// As people name it.
    pub const fn name(&self) -> &'static str {
        match self.when {
            When::At(_) => "at",
            When::Every { .. } => "every",
            When::Cron { .. } => "cron",
            When::Event(_) => "event",
            When::Condition(_) => "condition",
            When::After(_) => "after",
        }
    }
}

impl EventSpec {
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), filter: None, debounce: Duration::ZERO, dedupe_window: DEDUPE_WINDOW_DEFAULT }
    }
}

impl Bounds {
    pub const NONE: Self = Self { start: None, until: None, jitter: Duration::ZERO, count: None };
}

impl When {
    /// How its instants are bounded; triggers that no clock fires have none.
    pub const fn bounds(&self) -> &Bounds {
        match self {
            Self::Every { bounds, .. } | Self::Cron { bounds, .. } => bounds,
            _ => &Bounds::NONE,
        }
    }
}

impl After {
    pub const fn counts(self, succeeded: bool) -> bool {
        match self {
            Self::Success => succeeded,
            Self::Failure => !succeeded,
            Self::Any => true,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Any => "any",
        }
    }
}
