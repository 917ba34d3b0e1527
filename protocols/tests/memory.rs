//! The memory that a quorum's state takes of a member, counted by the allocator itself. Alone in its process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use quorate_protocols::ids::{JobId, LogIndex, Millis, PeerId, QuorumId};
use quorate_protocols::job::JobSpec;
use quorate_protocols::job::batch::BatchSpec;
use quorate_protocols::job::spec::TriggeredSpec;
use quorate_protocols::quorum::limits::LEVEL_TRIGGERS;
use quorate_protocols::quorum::{Batch, Command, QuorumState, TriggerCommand};
use quorate_protocols::task::spec::{Call, Content, Program};
use quorate_protocols::trigger::Planner;
use quorate_protocols::trigger::limits::{OWNER_TRIGGERS_MAX, SPANS_MAX, TRIGGERS_MAX};
use quorate_protocols::trigger::spec::{Bounds, TriggerSpec, When};

const QUORUM: QuorumId = QuorumId([1; 16]);
/// Who submits, each with the key that signs for it: no owner may have more than its share of triggers.
fn owners() -> [(PeerId, SigningKey); TRIGGERS_MAX / OWNER_TRIGGERS_MAX] {
    std::array::from_fn(|number| {
        let key = SigningKey::from_bytes(&[number as u8 + 1; 32]);
        (PeerId(key.verifying_key().to_bytes()), key)
    })
}

/// Bytes that are allocated and not freed, as they were asked for.
static IN_USE: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[allow(unsafe_code)] // An allocator cannot be written otherwise.
// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A job as it comes over the wire: with blocks of its own.
fn trigger() -> JobSpec {
    let module = Content::Inline(Bytes::from(b"(module (memory 1))".to_vec()));
    let call = Call::new(Program::Wasm { module, fuel: None, deterministic: false });
    let bounds = Bounds { start: Some(Millis(10_000)), ..Bounds::NONE };
    let trigger = TriggerSpec::new(When::Every { period: Duration::from_secs(60), bounds });
    JobSpec::Triggered(Box::new(TriggeredSpec::new(trigger, BatchSpec::new(call))))
}

/// Goal: ten thousand triggers that wait for their instants take less than 2.5 KiB each at every member, the owner's
/// signature and the primary's planner included.
#[test]
fn a_waiting_trigger_takes_less_than_two_and_a_half_kibibytes() {
    let mut state = QuorumState::at_level(QUORUM, LEVEL_TRIGGERS);
    let mut planner = Planner::default();
    let before = IN_USE.load(Ordering::Relaxed);
    let mut index = 0;
    let mut apply = |state: &mut QuorumState, asker, command| {
        index += 1;
        let (reply, _) = state.apply(LogIndex(index), &Batch::at(Millis(1_000), vec![(asker, command)]));
        assert!(reply.replies[0].is_ok(), "{reply:?}");
    };
    let owners = owners();
    let (first, _) = owners[0];
    for number in 0..TRIGGERS_MAX {
        // Ids are random, and come in no order.
        let mut local = [0; 16];
        local.copy_from_slice(&blake3::hash(&number.to_le_bytes()).as_bytes()[..16]);
        let (owner, key) = &owners[number % owners.len()];
        apply(&mut state, *owner, Command::submit(key, JobId { quorum: QUORUM, local }, trigger()));
    }
    loop {
        let spans = planner.spans(&state, Millis(1_000), Millis(1_000), SPANS_MAX);
        if spans.is_empty() {
            break;
        }
        apply(&mut state, first, Command::Trigger(TriggerCommand::Due { spans }));
    }
    assert_eq!(state.next_trigger_due().0.or(state.next_trigger_due().1), Some(Millis(10_000)));
    let each = (IN_USE.load(Ordering::Relaxed) - before) / TRIGGERS_MAX;
    println!("{each} bytes each");
    assert!(each < 2_560, "{each} bytes each");
}
