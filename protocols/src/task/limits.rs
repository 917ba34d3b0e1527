//! Sizes, times and quotas of tasks and of the task protocol.

use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Protocol name and major version. 1: first.
pub const PROTOCOL: &str = "/quorate/task/1";

/// Largest message: one specification's calls, or a full batch of reports with room.
pub const MESSAGE_BYTES_MAX: usize = MIB;

/// A report is answered once it is committed, so this is the deadline of a commit. Its expiry means *unknown*: the
/// worker keeps the result and reports again.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Assignments, reports, stops or heartbeats in one message or command.
pub const BATCH_MAX: usize = 256;

/// Bytes of results that a worker puts into one report, so that the command stays below its limit.
pub const REPORT_BYTES_MAX: usize = 384 * KIB;

/// Bytes of earlier outputs that one assignment carries; the worker asks the quorum for more.
pub const INLINE_OUTPUTS_BYTES_MAX: usize = 64 * KIB;

/// A worker holds a question for more of a log for so long at most. Short of `DEADLINE`.
pub const LOG_WAIT_MAX: Duration = Duration::from_secs(5);

/// Such questions that a worker holds for one peer, and in all; the next is answered at once. Each is one of the peer's
/// questions under way and takes a handler of the task protocol, so there are as many more of both.
pub const LOG_WAITS_PER_PEER_MAX: usize = 16;
pub const LOG_WAITS_MAX: usize = 128;

/// Bytes of a log in one answer.
pub const LOG_PAGE_BYTES_MAX: usize = 256 * KIB;

// ---- what a job may ask for ----

/// Tasks of one step. A guess at what one quorum can hold of many jobs: see `TASKS_MAX`.
pub const TASKS_PER_STEP_MAX: u32 = 65_536;

/// Tasks in the tables of all live runs of one quorum; the next submit is refused. At some 200 bytes each.
pub const TASKS_MAX: usize = 262_144;

/// Those of them of one owner.
pub const OWNER_TASKS_MAX: usize = TASKS_MAX / 2;

/// Outputs that one task folds: their bytes must fit into what one task can be given.
pub const FAN_IN_MAX: u32 = 256;

/// Bytes of an object per task. The least is a guess at what is worth a task at all.
pub const MAP_BYTES_MIN: u64 = 64 * KIB as u64;
pub const MAP_BYTES_MAX: u64 = 1024 * MIB as u64;

pub const PRIORITY_MIN: u8 = 1;
pub const PRIORITY_MAX: u8 = 100;

/// Tries of one task, and losses of its worker on top: a task that kills its workers cannot go on for ever.
pub const ATTEMPTS_MAX: u16 = 100;
pub const LOSSES_MAX: u16 = 8;

pub const TIMEOUT_MIN: Duration = Duration::from_millis(10);
pub const TIMEOUT_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Copies of one verified task.
pub const COPIES_MAX: u8 = 7;

/// Rounds of copies that may end without agreement before the task is given up.
pub const ROUNDS_MAX: u16 = 3;

/// A module without its custom sections. The largest interpreters with their libraries have half of it.
pub const MODULE_BYTES_MAX: u64 = 64 * MIB as u64;

/// Memory that a worker sets aside to compile a module: so much, so many bytes for each of the module's, and for each
/// unit of what its largest function costs (locals times blocks). The interpreters of Python and Ruby were measured to
/// take from two thirds to nine tenths of it.
pub const COMPILE_MEMORY_BYTES_MIN: u64 = 24 * MIB as u64;
pub const COMPILE_MEMORY_PER_BYTE: u64 = 20;
pub const COMPILE_MEMORY_PER_COST: u64 = 1024;

/// Processor time that a compilation may take: so many seconds, and one for each so many bytes of the module. On the
/// machine that it was measured on, a compiler takes an eighth of it.
pub const COMPILE_CPU_SECONDS_MIN: u64 = 30;
pub const COMPILE_CPU_BYTES_PER_SECOND: u64 = 64 * KIB as u64;
pub const MEMORY_BYTES_MIN: u64 = MIB as u64;
pub const MEMORY_BYTES_MAX: u64 = 1 << 40;
pub const DISK_BYTES_MAX: u64 = 1 << 44;
pub const SLOTS_PER_TASK_MAX: u32 = 256;
pub const LABELS_MAX: usize = 16;
pub const ARGS_MAX: usize = 256;
pub const INPUTS_MAX: usize = 64;
/// Arguments and environment of one call together.
pub const TEXT_BYTES_MAX: usize = 64 * KIB;
pub const PLAIN_NAME_BYTES_MAX: usize = 64;

// ---- what a quorum keeps ----

/// One output in the record; a larger one becomes an object.
pub const OUTPUT_BYTES_MAX: usize = 64 * KIB;

/// One checkpoint in the record; a larger one becomes an object.
pub const CHECKPOINT_BYTES_MAX: usize = 64 * KIB;

/// Specifications, outputs and checkpoints of live runs in the record of one quorum, in bytes. Beyond that outputs
/// must be objects, and submits are refused.
pub const RECORD_BYTES_MAX: usize = 64 * MIB;

/// Those of them of one owner.
pub const OWNER_RECORD_BYTES_MAX: usize = RECORD_BYTES_MAX / 2;

/// The same of ended jobs, and their tasks: past it the oldest are forgotten before their time.
pub const ENDED_BYTES_MAX: usize = 32 * MIB;
pub const ENDED_TASKS_MAX: usize = TASKS_MAX / 2;

/// Tasks of a job that ended without success: when there are more, none is kept. What wide jobs that were cancelled
/// came to is worth less than the records of the many that the quorum would forget for them.
pub const UNDONE_TASKS_MAX: usize = 4_096;

/// Workers with a standing lease of one quorum.
pub const WORKERS_MAX: usize = 256;
pub const WORKER_SLOTS_MAX: u32 = 1024;

/// Peers that refused one run, with their reason.
pub const AVOIDED_MAX: usize = 64;

/// How long a peer that refused a run is not asked again: the first time, and at most, doubling between. An offer costs
/// a message and an entry of the log, so the most is what a person who has just put the cause right still waits for.
pub const REFUSAL_WAIT_MIN: Duration = Duration::from_secs(5);
pub const REFUSAL_WAIT_MAX: Duration = Duration::from_secs(120);

/// Tasks that were given up, kept by name with their reason; the rest are counted.
pub const DEAD_LETTERS_MAX: usize = 32;

/// Tasks of one snapshot row. The largest task is some 20 KiB (seven copies, each with sixteen labels and a receipt).
pub const PAGE_TASKS: usize = 32;

// ---- driving ----

/// Tasks that a worker may be given beyond the slots of its lease, when their program is known to be quick, and how
/// long one of those may wait and run. Long against a commit and a round trip, also on a machine that is busy with
/// other things (or small batches would make it busier still); short against a wait that a person minds, and so far
/// below `TIMEOUT_GRACE` that waiting at a worker is never taken for a timeout. The number is a guess at what keeps a
/// slot busy through a commit.
pub const AHEAD_MAX: u16 = 64;
pub const AHEAD_TIME: Duration = Duration::from_millis(500);

/// Programs whose pace is remembered; the one used longest ago is forgotten.
pub const PROGRAMS_MAX: usize = 64;

/// Slots that are looked for at once, per sort of task.
pub const SLOTS_SOUGHT_MAX: u32 = 1024;

/// A worker must confirm by then that stopped work has ended; after that its slots are counted as free again.
pub const STOP_WAIT: Duration = Duration::from_secs(10);

/// An attempt may outlive its timeout by this much before the quorum gives it up: the worker measures the timeout
/// itself, and its report must have time to arrive.
pub const TIMEOUT_GRACE: Duration = Duration::from_secs(15);

/// Workers of the copies of one task, once all others have committed to an answer, have this long to reveal theirs.
pub const REVEAL_WAIT: Duration = Duration::from_secs(15);

/// Runs whose timers are served by one entry; the rest by the next.
pub const WAKES_MAX: usize = 256;

/// Ready tasks of one job, and jobs in all, that are passed over in one turn because their own conditions (distinct
/// peers, peers that refused) leave no worker: those behind wait until something moves.
pub const TRIES_MAX: usize = 16;
pub const SKIPS_MAX: usize = 1024;

/// What one task of priority 1 and one slot costs its job's turn; higher priorities pay less.
pub const STRIDE: u64 = 1 << 20;

/// A job that could not use its turns for a while gets at most this much ahead of the others.
pub const PASS_SLACK: u64 = 16 * STRIDE;

/// Memory that compiling a module may take, by its size and the cost of its largest function.
pub const fn compile_memory_bytes(module_bytes: u64, function_cost: u64) -> u64 {
    COMPILE_MEMORY_BYTES_MIN + COMPILE_MEMORY_PER_BYTE * module_bytes + COMPILE_MEMORY_PER_COST * function_cost
}

const _: () = assert!(INLINE_OUTPUTS_BYTES_MAX * 2 < MESSAGE_BYTES_MAX);
