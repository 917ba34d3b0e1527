//! Conformance of a record store: see [`quorate_seams::Kv`].

use std::collections::BTreeMap;

use quorate_seams::disk::{KvOp, KvPair};
use quorate_seams::{Kv, KvBatch};
use quorate_testnet::rng::Rng;

use super::Machine;

/// One test of each property, of the record store of the machine that the expression makes.
#[macro_export]
macro_rules! kv_suite {
    ($machine:expr) => {
        $crate::properties! { $machine, kv:
            a_batch_applies_in_order_and_stays_in_its_trees,
            a_range_ends_at_its_limits_and_gives_at_least_one,
            a_tree_is_there_while_it_has_records,
            random_batches_leave_what_they_say,
            what_was_synced_outlives_the_power,
            a_batch_is_there_whole_or_not_at_all,
            values_of_a_megabyte_are_kept,
            keys_may_be_any_bytes,
        }
    };
}

fn put(tree: &str, key: &[u8], value: &[u8]) -> KvBatch {
    let mut batch = KvBatch::new();
    batch.put(tree, key, value);
    batch
}

/// A key above all that these tests use.
const END: [u8; 40] = [0xff; 40];

const NONE: [u8; 0] = [];

fn all(kv: &dyn Kv, tree: &str) -> Vec<KvPair> {
    kv.range(tree, &[], &END, usize::MAX, usize::MAX).expect("readable")
}

fn row(key: u8, value: &str) -> KvPair {
    (vec![key], value.as_bytes().to_vec())
}

pub fn a_batch_applies_in_order_and_stays_in_its_trees(machine: &mut dyn Machine) {
    let kv = machine.open().kv;
    let mut batch = KvBatch::new();
    batch.put("log", [1], "a").put("log", [2], "b").put("log", [3], "c").put("logs", [2], "other").put("lo", [2], "x");
    kv.apply(batch).expect("applied");
    let mut batch = KvBatch::new();
    batch.put("log", [9], "gone").delete_range("log", [2], [255]).put("log", [4], "d").delete("log", [7]);
    kv.apply(batch).expect("applied");
    assert_eq!(all(&*kv, "log"), [row(1, "a"), row(4, "d")]);
    assert_eq!(kv.last("log").expect("read"), Some(row(4, "d")));
    assert_eq!(kv.last("logs").expect("read"), Some(row(2, "other")));
    assert_eq!(kv.get("lo", &[2]).expect("read").as_deref(), Some(&b"x"[..]));
    assert_eq!(kv.get("lo", &[1]).expect("read"), None);

    let mut batch = KvBatch::new();
    // What a batch puts after it dropped the tree is there.
    batch.drop_tree("log").put("log", [5], "e");
    kv.apply(batch).expect("applied");
    assert_eq!(all(&*kv, "log"), [row(5, "e")]);
    let mut batch = KvBatch::new();
    batch.put("log", [6], "f").drop_tree("log").delete("nowhere", [1]).drop_tree("nowhere").delete_range(
        "lo",
        [9],
        [1],
    );
    kv.apply(batch).expect("an end that lies before its beginning holds no keys");
    assert_eq!(kv.last("log").expect("read"), None);
    assert_eq!(all(&*kv, "lo"), [row(2, "x")]);
}

pub fn a_range_ends_at_its_limits_and_gives_at_least_one(machine: &mut dyn Machine) {
    let kv = machine.open().kv;
    for key in 0..10u8 {
        kv.apply(put("t", &[key], &[key; 100])).expect("applied");
    }
    let keys = |from: u8, to: u8, limit, bytes_max| {
        let rows = kv.range("t", &[from], &[to], limit, bytes_max).expect("readable");
        rows.into_iter().map(|(key, _)| key[0]).collect::<Vec<_>>()
    };
    assert_eq!(keys(2, 5, usize::MAX, usize::MAX), [2, 3, 4], "the end is excluded");
    assert_eq!(keys(2, 200, 3, usize::MAX), [2, 3, 4]);
    assert_eq!(keys(2, 200, usize::MAX, 250), [2, 3]);
    assert_eq!(keys(2, 200, usize::MAX, 300), [2, 3, 4]);
    assert_eq!(keys(2, 200, usize::MAX, 1), [2], "one is given whatever its size");
    assert_eq!(keys(2, 200, 0, usize::MAX), NONE);
    assert_eq!(keys(5, 5, 9, 9), NONE);
    assert_eq!(keys(5, 2, 9, 9), NONE, "an end before its beginning is no error");
    assert!(kv.range("nowhere", &[], &END, 9, 9).expect("readable").is_empty());
}

pub fn a_tree_is_there_while_it_has_records(machine: &mut dyn Machine) {
    let kv = machine.open().kv;
    assert_eq!(kv.trees().expect("read"), Vec::<String>::new());
    for tree in ["zebra", "a", "ab", "raft.07.log"] {
        kv.apply(put(tree, b"k", b"v")).expect("applied");
    }
    assert_eq!(kv.trees().expect("read"), ["a", "ab", "raft.07.log", "zebra"]);
    let mut batch = KvBatch::new();
    batch.delete("a", "k").drop_tree("zebra").delete_range("raft.07.log", [], END);
    kv.apply(batch).expect("applied");
    assert_eq!(kv.trees().expect("read"), ["ab"]);
}

/// Trees of few names and keys, so that operations meet.
fn random_op(rng: &mut Rng) -> KvOp {
    let tree = ["a", "ab", "b"][rng.below(3) as usize].to_owned();
    let mut key = || (0..1 + rng.below(2)).map(|_| rng.below(6) as u8).collect::<Vec<_>>();
    let (one, other) = (key(), key());
    match rng.below(10) {
        0..=5 => {
            let mut value = vec![0; rng.below(40) as usize];
            rng.fill(&mut value);
            KvOp::Put { tree, key: one, value }
        }
        6..=7 => KvOp::Delete { tree, key: one },
        8 => KvOp::DeleteRange { tree, from: one, to: other },
        _ => KvOp::DropTree { tree },
    }
}

type Model = BTreeMap<(String, Vec<u8>), Vec<u8>>;

fn change(model: &mut Model, op: &KvOp) {
    match op.clone() {
        KvOp::Put { tree, key, value } => drop(model.insert((tree, key), value)),
        KvOp::Delete { tree, key } => drop(model.remove(&(tree, key))),
        KvOp::DeleteRange { tree, from, to } => {
            model.retain(|(name, key), _| *name != tree || *key < from || *key >= to)
        }
        KvOp::DropTree { tree } => model.retain(|(name, _), _| *name != tree),
    }
}

fn require_same(kv: &dyn Kv, model: &Model, when: &str) {
    let names: std::collections::BTreeSet<&String> = model.keys().map(|(tree, _)| tree).collect();
    assert_eq!(kv.trees().expect("read").iter().collect::<Vec<_>>(), names.into_iter().collect::<Vec<_>>(), "{when}");
    for tree in ["a", "ab", "b"] {
        let rows = model.iter().filter(|((name, _), _)| name == tree);
        let rows: Vec<KvPair> = rows.map(|((_, key), value)| (key.clone(), value.clone())).collect();
        assert_eq!(kv.last(tree).expect("read"), rows.last().cloned(), "{when}");
        assert_eq!(all(kv, tree), rows, "{when}");
    }
}

/// Goal: any series of batches leaves what the same operations leave of a map, at once and after a restart.
pub fn random_batches_leave_what_they_say(machine: &mut dyn Machine) {
    let mut rng = Rng::new(1, "batches");
    let mut model = Model::new();
    for life in 0..3 {
        let kv = machine.open().kv;
        require_same(&*kv, &model, &format!("at the begin of life {life}"));
        for round in 0..120 {
            let ops: Vec<KvOp> = (0..1 + rng.below(6)).map(|_| random_op(&mut rng)).collect();
            ops.iter().for_each(|op| change(&mut model, op));
            let when = format!("life {life}, round {round}, after {ops:?}");
            kv.apply(KvBatch { ops }).expect("applied");
            require_same(&*kv, &model, &when);
            let key: Vec<u8> = (0..2).map(|_| rng.below(6) as u8).collect();
            assert_eq!(kv.get("a", &key).expect("read").as_ref(), model.get(&("a".to_owned(), key)), "{when}");
        }
        kv.sync().expect("synced");
        drop(kv);
        machine.lose_power();
    }
}

/// Goal: what a sync returned for is there after a power loss; of what came later a prefix is, in order.
pub fn what_was_synced_outlives_the_power(machine: &mut dyn Machine) {
    for life in 0..4u8 {
        let kv = machine.open().kv;
        let first = life * 20;
        for key in first..first + 10 {
            kv.apply(put("t", &[key], &[key])).expect("applied");
        }
        kv.sync().expect("synced");
        for key in first + 10..first + 20 {
            kv.apply(put("t", &[key], &[key])).expect("applied");
            assert_eq!(kv.get("t", &[key]).expect("read"), Some(vec![key]), "it is visible before it is synced");
        }
        machine.lose_power();
        drop(kv);
        let kv = machine.open().kv;
        let kept = |key: u8| kv.get("t", &[key]).expect("read").is_some();
        assert!((first..first + 10).all(kept), "something synced is lost");
        let late: Vec<bool> = (first + 10..first + 20).map(kept).collect();
        assert!(late.is_sorted_by(|one, other| one >= other), "not a prefix: {late:?}");
        drop(kv);
        machine.lose_power();
    }
}

/// Goal: a batch over several trees comes back whole or not at all, however the process ends.
pub fn a_batch_is_there_whole_or_not_at_all(machine: &mut dyn Machine) {
    for life in 0..4u8 {
        let kv = machine.open().kv;
        for index in 0..30 {
            let mut batch = KvBatch::new();
            batch.put("left", [life, index], vec![index; 3000]).put("right", [life, index], [index]);
            kv.apply(batch).expect("applied");
            if index == 7 * life {
                kv.sync().expect("synced");
            }
        }
        machine.lose_power();
        drop(kv);
        let kv = machine.open().kv;
        let keys = |tree| all(&*kv, tree).into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(keys("left"), keys("right"), "a batch came back in part");
        assert!(keys("left").contains(&vec![life, 7 * life]), "something synced is lost");
        drop(kv);
        machine.lose_power();
    }
}

pub fn values_of_a_megabyte_are_kept(machine: &mut dyn Machine) {
    let large = |key: u8| vec![key; 1024 * 1024];
    let kv = machine.open().kv;
    for key in 0..4u8 {
        kv.apply(put("log", &[key], &large(key))).expect("applied");
    }
    kv.sync().expect("synced");
    machine.lose_power();
    drop(kv);
    let kv = machine.open().kv;
    assert_eq!(all(&*kv, "log"), (0..4).map(|key| (vec![key], large(key))).collect::<Vec<_>>());
}

pub fn keys_may_be_any_bytes(machine: &mut dyn Machine) {
    let kv = machine.open().kv;
    let keys = [vec![], vec![0], vec![0, 0], vec![0, 255], b"log".to_vec(), vec![255; 30]];
    for key in &keys {
        kv.apply(put("t", key, key)).expect("applied");
    }
    let rows: Vec<KvPair> = keys.iter().map(|key| (key.clone(), key.clone())).collect();
    assert_eq!(all(&*kv, "t"), rows, "in the order of their bytes");
    assert_eq!(kv.last("t").expect("read"), rows.last().cloned());
}
