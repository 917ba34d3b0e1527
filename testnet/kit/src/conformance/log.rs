//! Conformance of the log of raft groups: see [`quorate_seams::LogEngine`].

use quorate_protocols::ids::QuorumId;
use quorate_seams::{LogBatch, LogEngine, LogOp};
use quorate_testnet::rng::Rng;

use super::Machine;
use crate::logs::Logs;

/// One test of each property, of the log of the machine that the expression makes.
#[macro_export]
macro_rules! log_suite {
    ($machine:expr) => {
        $crate::properties! { $machine, log:
            a_batch_changes_its_group_in_order,
            a_range_of_entries_ends_at_its_limits_and_gives_at_least_one,
            a_group_is_there_while_there_is_anything_of_it,
            random_batches_of_groups_leave_what_they_say,
            a_crash_keeps_what_was_synced_and_a_prefix_of_the_rest,
            entries_and_votes_of_a_batch_are_there_together,
            entries_of_a_megabyte_are_kept,
            compacting_ends_and_changes_nothing,
        }
    };
}

const ALL: usize = usize::MAX;

fn group(number: u8) -> QuorumId {
    QuorumId([number; 16])
}

fn append(number: u8, first: u64, entries: &[&[u8]]) -> LogBatch {
    let mut batch = LogBatch::of(group(number));
    batch.append(first, entries.iter().map(|entry| entry.to_vec()).collect());
    batch
}

fn indices(log: &dyn LogEngine, number: u8) -> Vec<u64> {
    let entries = log.entries(group(number), 0, u64::MAX, ALL).expect("readable");
    entries.into_iter().map(|(index, _)| index).collect()
}

const NONE: [u64; 0] = [];

pub fn a_batch_changes_its_group_in_order(machine: &mut dyn Machine) {
    let log = machine.open().log;
    log.apply(append(1, 5, &[b"five", b"six", b"seven"])).expect("applied");
    log.apply(append(2, 5, &[b"other"])).expect("applied");
    let mut batch = LogBatch::of(group(1));
    batch
        .put("vote", "one")
        .truncate(6)
        .append(6, vec![b"SIX".to_vec(), b"SEVEN".to_vec()])
        .purge(5)
        .put("vote", "two");
    log.apply(batch).expect("applied");
    let entries = [(6, b"SIX".to_vec()), (7, b"SEVEN".to_vec())];
    assert_eq!(log.entries(group(1), 0, 99, ALL).expect("readable"), entries);
    assert_eq!(log.last(group(1)).expect("readable"), Some(entries[1].clone()));
    assert_eq!(log.get(group(1), b"vote").expect("readable").as_deref(), Some(&b"two"[..]));
    assert_eq!(log.get(group(2), b"vote").expect("readable"), None, "of another group");
    assert_eq!(log.last(group(2)).expect("readable"), Some((5, b"other".to_vec())));
    // An entry is replaced by one that is put in its place, and those behind it stay.
    log.apply(append(1, 6, &[b"anew"])).expect("applied");
    assert_eq!(log.entries(group(1), 6, 8, ALL).expect("readable"), [(6, b"anew".to_vec()), entries[1].clone()]);
    let mut batch = LogBatch::of(group(1));
    batch.drop_group().append(1, vec![Vec::new()]);
    log.apply(batch).expect("applied");
    assert_eq!(indices(&*log, 1), [1]);
    assert_eq!(log.get(group(1), b"vote").expect("readable"), None);
    // What deletes nothing is no error.
    let mut batch = LogBatch::of(group(9));
    batch.truncate(0).purge(u64::MAX).drop_group();
    log.apply(batch).expect("applied");
    assert_eq!(log.groups().expect("readable"), [group(1), group(2)]);
}

pub fn a_range_of_entries_ends_at_its_limits_and_gives_at_least_one(machine: &mut dyn Machine) {
    let log = machine.open().log;
    log.apply(append(1, 0, &[&[0; 100][..]; 10])).expect("applied");
    let read = |from, to, bytes_max| {
        let entries = log.entries(group(1), from, to, bytes_max).expect("readable");
        entries.into_iter().map(|(index, _)| index).collect::<Vec<_>>()
    };
    assert_eq!(read(2, 5, ALL), [2, 3, 4], "the end is excluded");
    assert_eq!(read(7, u64::MAX, ALL), [7, 8, 9], "a range may go past the end");
    assert_eq!(read(2, 9, 250), [2, 3]);
    assert_eq!(read(2, 9, 300), [2, 3, 4]);
    assert_eq!(read(2, 9, 0), [2], "one is given whatever its size");
    assert_eq!(read(5, 5, ALL), NONE);
    assert_eq!(read(5, 2, ALL), NONE, "an end before its beginning is no error");
    assert_eq!(log.entries(group(2), 0, 9, ALL).expect("readable"), []);
    assert_eq!(log.last(group(2)).expect("readable"), None);
}

pub fn a_group_is_there_while_there_is_anything_of_it(machine: &mut dyn Machine) {
    let log = machine.open().log;
    assert_eq!(log.groups().expect("readable"), []);
    let mut batch = LogBatch::of(group(3));
    batch.put("vote", "");
    log.apply(batch).expect("applied");
    log.apply(append(2, 1, &[b""])).expect("applied");
    log.apply(append(1, 1, &[b"a"])).expect("applied");
    assert_eq!(log.groups().expect("readable"), [group(1), group(2), group(3)]);
    for (number, op) in [(1, LogOp::Purge { upto: 1 }), (2, LogOp::Truncate { from: 1 }), (3, LogOp::Drop)] {
        log.apply(LogBatch { group: group(number), ops: vec![op] }).expect("applied");
    }
    assert_eq!(log.groups().expect("readable"), []);
    log.sync().expect("synced");
    machine.lose_power();
    drop(log);
    assert_eq!(machine.open().log.groups().expect("readable"), []);
}

/// A few groups and indices, so that operations meet; some entries are large, so that files fill up.
fn random_batch(rng: &mut Rng) -> LogBatch {
    let mut batch = LogBatch::of(group(rng.below(4) as u8));
    for _ in 0..1 + rng.below(3) {
        let index = rng.below(40);
        let mut bytes = |most: u64| {
            let mut bytes = vec![0; rng.below(most) as usize];
            rng.fill(&mut bytes);
            bytes
        };
        let op = match bytes(16).len() {
            0..=8 => LogOp::Append { first: index, entries: vec![bytes(60_000), bytes(300), bytes(2)] },
            9..=11 => LogOp::Put { key: vec![index as u8 % 3], value: bytes(50) },
            12 => LogOp::Truncate { from: index },
            13 | 14 => LogOp::Purge { upto: index },
            _ => LogOp::Drop,
        };
        batch.ops.push(op);
    }
    batch
}

fn require_same(log: &dyn LogEngine, model: &Logs, when: &str) {
    assert_eq!(log.groups().expect("readable"), model.0.keys().copied().collect::<Vec<_>>(), "{when}");
    for (group, kept) in &model.0 {
        let entries = log.entries(*group, 0, u64::MAX, ALL).expect("readable");
        assert!(entries.iter().map(|(index, entry)| (index, entry)).eq(&kept.entries), "{when}: {group:?}");
        let last = kept.entries.last_key_value().map(|(index, entry)| (*index, entry.clone()));
        assert_eq!(log.last(*group).expect("readable"), last, "{when}");
        for key in 0..3u8 {
            assert_eq!(log.get(*group, &[key]).expect("readable").as_ref(), kept.values.get(&vec![key]), "{when}");
        }
    }
}

/// Goal: any series of batches leaves what the same operations leave of maps, at once and after a restart, whatever is
/// compacted in between.
pub fn random_batches_of_groups_leave_what_they_say(machine: &mut dyn Machine) {
    let mut rng = Rng::new(1, "batches of groups");
    let mut model = Logs::default();
    for life in 0..4 {
        let log = machine.open().log;
        require_same(&*log, &model, &format!("at the begin of life {life}"));
        for round in 0..300 {
            let batch = random_batch(&mut rng);
            model.apply(batch.clone());
            log.apply(batch).expect("applied");
            if rng.chance(100) {
                log.compact().expect("compacted");
            }
            if round % 10 == 0 {
                require_same(&*log, &model, &format!("life {life}, round {round}"));
            }
        }
        log.sync().expect("synced");
        drop(log);
        machine.lose_power();
    }
}

/// Goal: what a sync returned for is there after a power loss; of what came later a prefix is, whichever groups it is
/// of, and whether it is an entry or a vote.
pub fn a_crash_keeps_what_was_synced_and_a_prefix_of_the_rest(machine: &mut dyn Machine) {
    for life in 0..6u64 {
        let log = machine.open().log;
        let first = life * 20;
        let write = |at: u64| {
            let mut batch = LogBatch::of(group((at % 3) as u8));
            match at % 2 {
                0 => batch.append(at, vec![at.to_le_bytes().to_vec()]),
                _ => batch.put(at.to_le_bytes(), "vote"),
            };
            log.apply(batch).expect("applied");
        };
        (first..first + 10).for_each(write);
        log.sync().expect("synced");
        (first + 10..first + 20).for_each(write);
        machine.lose_power();
        drop(log);
        let log = machine.open().log;
        let kept = |at: u64| {
            let group = group((at % 3) as u8);
            match at % 2 {
                0 => !log.entries(group, at, at + 1, ALL).expect("readable").is_empty(),
                _ => log.get(group, &at.to_le_bytes()).expect("readable").is_some(),
            }
        };
        assert!((first..first + 10).all(kept), "something synced is lost");
        let late: Vec<bool> = (first + 10..first + 20).map(kept).collect();
        assert!(late.is_sorted_by(|one, other| one >= other), "not a prefix: {late:?}");
        drop(log);
        machine.lose_power();
    }
}

/// Goal: a batch comes back whole or not at all, however the process ends.
pub fn entries_and_votes_of_a_batch_are_there_together(machine: &mut dyn Machine) {
    for life in 0..4u64 {
        let log = machine.open().log;
        for at in life * 30..life * 30 + 30 {
            let mut batch = LogBatch::of(group(1));
            batch.append(at, vec![vec![at as u8; 3000]]).put(at.to_le_bytes(), "vote");
            log.apply(batch).expect("applied");
            if at == life * 37 {
                log.sync().expect("synced");
            }
        }
        machine.lose_power();
        drop(log);
        let log = machine.open().log;
        let has_vote = |at: &u64| log.get(group(1), &at.to_le_bytes()).expect("readable").is_some();
        let voted: Vec<u64> = (0..200).filter(has_vote).collect();
        assert_eq!(indices(&*log, 1), voted, "a batch came back in part");
        assert!(voted.contains(&(life * 37)), "something synced is lost");
        drop(log);
        machine.lose_power();
    }
}

pub fn entries_of_a_megabyte_are_kept(machine: &mut dyn Machine) {
    let large = |at: u64| vec![at as u8; 1024 * 1024];
    let log = machine.open().log;
    for at in 0..3 {
        log.apply(append(1, at * 3, &[&large(at * 3), &large(at * 3 + 1), &large(at * 3 + 2)])).expect("applied");
    }
    log.sync().expect("synced");
    machine.lose_power();
    drop(log);
    let log = machine.open().log;
    assert_eq!(
        log.entries(group(1), 0, 99, ALL).expect("readable"),
        (0..9).map(|at| (at, large(at))).collect::<Vec<_>>()
    );
}

/// Goal: a log that is written and purged for long can be compacted until there is nothing more to be done, which
/// changes nothing of what is in it, then and after a restart. Method: one group is written once and then idle.
pub fn compacting_ends_and_changes_nothing(machine: &mut dyn Machine) {
    let log = machine.open().log;
    let mut model = Logs::default();
    let write = |model: &mut Logs, batch: LogBatch| {
        model.apply(batch.clone());
        log.apply(batch).expect("applied");
    };
    let mut idle = append(7, 1, &[b"one", b"two", b"three"]);
    idle.put("vote", "seven");
    write(&mut model, idle);
    for at in 1..400u64 {
        let mut batch = append(1, at, &[&vec![at as u8; 100_000]]);
        batch.purge(at.saturating_sub(3)).put("purged", at.to_le_bytes());
        write(&mut model, batch);
    }
    let mut steps = 0;
    while log.compact().expect("compacted") {
        steps += 1;
        assert!(steps < 1000, "compacting does not end");
    }
    assert!(!log.wants_compaction());
    require_same(&*log, &model, "compacted");
    log.sync().expect("synced");
    machine.lose_power();
    drop(log);
    require_same(&*machine.open().log, &model, "after a restart");
}
