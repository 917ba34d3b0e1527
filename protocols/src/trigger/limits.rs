//! Sizes, times and numbers of triggers.

use std::time::Duration;

const KIB: usize = 1024;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Live triggers of one quorum; the next submit is refused.
pub const TRIGGERS_MAX: usize = 10_000;

/// Those of them of one owner.
pub const OWNER_TRIGGERS_MAX: usize = TRIGGERS_MAX / 2;

/// Fires a second that the timed triggers and conditions of one owner may come to, by their periods. A guess at half of
/// what a quorum of small machines starts and ends beside its other work.
pub const OWNER_FIRES_PER_SECOND_MAX: u64 = 100;

// ---- what a trigger may ask for ----

/// The shortest period. A guess at what a commit across an ordinary network can keep up with.
pub const PERIOD_MIN: Duration = Duration::from_millis(100);
pub const PERIOD_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

pub const JITTER_MAX: Duration = DAY;
pub const CRON_LINES_MAX: usize = 16;
pub const CRON_LINE_BYTES_MAX: usize = 128;
pub const TIMEZONE_BYTES_MAX: usize = 64;

pub const EXPRESSION_BYTES_MAX: usize = KIB;
/// Levels of an expression's tree. A level takes up to 50 KiB of stack in builds without optimisation, and threads have
/// 2 MiB.
pub const EXPRESSION_DEPTH_MAX: usize = 20;
pub const EXPRESSION_NODES_MAX: usize = 512;
/// Most that an evaluation may cost, in the units of [`super::expression`]: about a tenth of a second at worst.
pub const EXPRESSION_WORK_MAX: u64 = 1_000_000;

pub const EVENT_NAME_BYTES_MAX: usize = 64;
pub const EVENT_ID_BYTES_MAX: usize = 128;
/// JSON that comes with an event.
pub const EVENT_DATA_BYTES_MAX: usize = 16 * KIB;
/// JSON that a condition's source gave. What is longer is an error of the observation.
pub const OBSERVED_BYTES_MAX: usize = 4 * KIB;

pub const DEBOUNCE_MAX: Duration = DAY;
/// A stream of events that never rests is waited for this many debounces, no longer.
pub const DEBOUNCE_STRETCH: u32 = 10;
pub const DEDUPE_WINDOW_MAX: Duration = DAY;
pub const DEDUPE_WINDOW_DEFAULT: Duration = Duration::from_secs(600);

pub const POLL_MIN: Duration = Duration::from_secs(1);
pub const POLL_MAX: Duration = DAY;
pub const HOLD_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
pub const SOURCE_BYTES_MAX: usize = 1024;
/// A look at a source that takes longer is given up.
pub const SOURCE_DEADLINE: Duration = Duration::from_secs(5);

/// Jobs that one waits for.
pub const AFTER_MAX: usize = 32;

/// Fires that wait behind a live run.
pub const QUEUE_MAX: u32 = 100;
pub const QUEUE_DEFAULT: u32 = 16;

/// Missed instants that are caught up with, one run each.
pub const CATCH_UP_MAX: u32 = 100;

/// An instant that is committed at most this late was not missed: a failover, a slow disk. It fires whatever the
/// policy.
pub const MISSED_AFTER: Duration = Duration::from_secs(10);

// ---- what one command carries ----

/// Instants that a command names one by one: all that could still fire.
pub const INSTANTS_NAMED_MAX: usize = 100;
/// Instants that are looked for at once. What was missed beyond that is left to the next command.
pub const INSTANTS_PER_SPAN_MAX: usize = 10_000;
/// Triggers that one command moves on.
pub const SPANS_MAX: usize = 256;
/// Events of one delivery, and their bytes.
pub const EVENTS_PER_DELIVERY_MAX: usize = 64;
pub const DELIVERY_BYTES_MAX: usize = 256 * KIB;
/// Triggers of a quorum that listen to one name: all that one event may fire.
pub const MATCHES_MAX: usize = 256;
/// Peers whose word on a condition's value counts together.
pub const WITNESSES_MAX: usize = 7;

// ---- what a quorum keeps ----

/// Rows of one trigger's fires. Rows of fires that wait or run are kept beside them.
pub const FIRES_KEPT_MAX: usize = 1_000;
/// Rows of all triggers: with many of them each keeps its share, but at least `FIRES_KEPT_MIN`.
pub const FIRES_KEPT_TOTAL: usize = 100_000;
pub const FIRES_KEPT_MIN: usize = 8;
/// Rows that are older are forgotten when the next one comes.
pub const FIRES_RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);

/// Runs of one trigger at once; fires beyond are skipped.
pub const RUNS_LIVE_MAX: usize = 1_000;

/// Bytes of what waiting fires will give their tasks, per trigger. It must fit a snapshot's chunk with all the rest.
pub const WAITING_BYTES_MAX: usize = 256 * KIB;

/// What is lost within so long of a row that says so is counted in that row: a trigger has one such row a day at most,
/// whoever says that something was lost. An emitter gives events up after a day, so a day tells enough.
pub const LOST_ROW_SPAN: Duration = DAY;

/// Bytes that a row counts for in the budget of an emitter that has it written. A guess.
pub const LOST_ROW_BYTES: usize = 256;

/// Ids of events that are remembered so that none fires twice, over all triggers and of one. When it is full,
/// deliveries are refused until windows have passed: the emitters keep what was refused.
pub const SEEN_MAX: usize = 65_536;
pub const SEEN_PER_TRIGGER_MAX: usize = 8_192;

/// Manual fires are remembered for this long, so that asking again is the same fire.
pub const MANUAL_WINDOW: Duration = Duration::from_secs(3600);

/// Emitters whose place is remembered; the one that was silent for longest is forgotten, if that was `EMITTER_SILENT`.
pub const EMITTERS_MAX: usize = 1_024;
/// An emitter that runs sends again what it is not sure of, for as long as it keeps it. Its place must not be forgotten
/// before, or its events would fire twice.
pub const EMITTER_SILENT: Duration = DAY;
const _: () = assert!(EMITTER_SILENT.as_secs() >= OUTBOX_RETENTION.as_secs());
/// Those of them, heard within `EMITTER_SILENT`, that the primary does not trust.
pub const UNTRUSTED_EMITTERS_MAX: usize = EMITTERS_MAX / 2;

/// How long a trigger rests whose next instant the primary could not tell.
pub const FAULT_REST: Duration = Duration::from_secs(300);

// ---- what a node keeps of the events that it emits ----

/// Events that wait for quorums to take them, their bytes of data, and for how long. Past either bound no more are
/// taken; past the time they are given up, and that is recorded.
pub const OUTBOX_EVENTS_MAX: usize = 100_000;
pub const OUTBOX_BYTES_MAX: usize = 64 * KIB * KIB;
pub const OUTBOX_RETENTION: Duration = DAY;
/// What an earlier life of the node left is kept for as long again at least, whatever wall clocks make of its age.
pub const RESTORED_AGE_MAX: Duration = Duration::from_secs(DAY.as_secs() / 2);
/// An event that every quorum known has, or does not want, is kept this long for one that is not known yet, unless the
/// room is needed: only the time counts in which some quorum was announced to this node. Announcements of a new quorum
/// take a few seconds.
pub const OUTBOX_GRACE: Duration = Duration::from_secs(60);
/// Ids of events that are gone, so that none is taken twice; each is kept as long as an event may be.
pub const OUTBOX_IDS_MAX: usize = OUTBOX_EVENTS_MAX;
/// Quorums that an emitter keeps an eye on.
pub const SUBSCRIBERS_MAX: usize = 16_384;
/// Questions and deliveries that one emitter has under way.
pub const ASKED_AT_ONCE_MAX: usize = 32;
/// A quorum is asked which events it wants at most this often for the sake of users' events, and of the network's own.
pub const ASK_INTERVAL: Duration = Duration::from_secs(1);
pub const ASK_OWN_INTERVAL: Duration = Duration::from_secs(5);
/// A quorum that does not answer, or has no room, is tried again after this, doubled up to the maximum.
pub const DELIVERY_RETRY_MIN: Duration = Duration::from_millis(250);
pub const DELIVERY_RETRY_MAX: Duration = Duration::from_secs(5);
/// The same for one that is not announced any more: finding it costs a search of the network.
pub const DELIVERY_RETRY_GONE: Duration = Duration::from_secs(60);
/// The network's own events of which nobody knows yet whether they are wanted, and for how long they wait to be.
pub const OWN_UNSURE_MAX: usize = 1_024;
pub const OWN_UNSURE: Duration = Duration::from_secs(15);
/// The network's own events that are kept, and taken per second after a burst of as many as ten seconds have. What is
/// beyond is counted as lost: users' events must find room.
pub const OWN_KEPT_MAX: usize = 10_000;
pub const OWN_PER_SECOND: u64 = 100;
/// Matches after which the primary ends a delivery early.
pub const MATCHES_PER_DELIVERY: usize = 1_024;
/// Names that begin with this are the network's own.
pub const OWN_PREFIX: &str = "quorate.";

/// The file by which a task finds what fired it.
pub const INPUT_NAME: &str = "trigger.json";

// Every instant within the time of grace is named, so that none of them is skipped for lack of room.
const _: () = assert!(MISSED_AFTER.as_millis() <= PERIOD_MIN.as_millis() * INSTANTS_NAMED_MAX as u128);
const _: () = assert!(CATCH_UP_MAX as usize <= INSTANTS_NAMED_MAX && INSTANTS_NAMED_MAX < INSTANTS_PER_SPAN_MAX);
const _: () = assert!(EVENT_DATA_BYTES_MAX * 4 <= DELIVERY_BYTES_MAX);
