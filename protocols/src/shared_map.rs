//! A copy-on-write ordered map: a copy costs one reference per leaf, and a change after it copies one leaf.
//!
//! The state of a quorum is a few of these, so that a snapshot can be taken while entries are applied: the copy shares
//! every row with the state, and the state copies the few rows of a leaf when it next changes one of them. A `BTreeMap`
//! would have to be copied row by row. Rows lie in sorted leaves of at most [`LEAF_MAX`], each value behind a reference
//! of its own, so that a change copies the keys and references of a leaf and the value of one row. Where one leaf ends
//! depends on the history, and nothing that is read does: equal maps are equal whatever their leaves.
//!
//! Own code, because what is needed of a persistent map is this little, and the libraries for it are large and unsafe.

use std::fmt;
use std::ops::{Bound, Index};
use std::sync::Arc;

/// Rows of one leaf. More make a copy of the map cheaper and the first change after it dearer.
const LEAF_MAX: usize = 64;

/// A leaf that shrinks below this joins its neighbour, if both together fill half a leaf at most.
const LEAF_MIN: usize = LEAF_MAX / 8;

#[derive(Clone)]
struct Leaf<K, V> {
    /// Not greater than any key of the leaf, and greater than all keys before it.
    from: K,
    rows: Arc<Vec<(K, Arc<V>)>>,
}

#[derive(Clone)]
pub struct SharedMap<K, V> {
    leaves: Vec<Leaf<K, V>>,
    len: usize,
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self { leaves: Vec::new(), len: 0 }
    }
}

impl<K: Ord + Clone, V> SharedMap<K, V> {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The leaf that has the key, or would get it.
    fn leaf_of(&self, key: &K) -> usize {
        self.leaves.partition_point(|leaf| leaf.from <= *key).saturating_sub(1)
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        let rows = &self.leaves.get(self.leaf_of(key))?.rows;
        rows.binary_search_by(|row| row.0.cmp(key)).ok().map(|at| &*rows[at].1)
    }

    pub fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    pub fn last_key_value(&self) -> Option<(&K, &V)> {
        self.leaves.last()?.rows.last().map(|(key, value)| (key, &**value))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> + Clone {
        self.leaves.iter().flat_map(|leaf| leaf.rows.iter()).map(|(key, value)| (key, &**value))
    }

    pub fn keys(&self) -> impl Iterator<Item = &K> + Clone {
        self.iter().map(|(key, _)| key)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> + Clone {
        self.iter().map(|(_, value)| value)
    }

    /// Rows in order of their keys, from this one on.
    pub fn range_from(&self, from: Bound<&K>) -> impl Iterator<Item = (&K, &V)> {
        let is_before = |key: &K| match from {
            Bound::Included(from) => key < from,
            Bound::Excluded(from) => key <= from,
            Bound::Unbounded => false,
        };
        let leaf = match from {
            Bound::Included(key) | Bound::Excluded(key) => self.leaf_of(key),
            Bound::Unbounded => 0,
        };
        let at = self.leaves.get(leaf).map_or(0, |leaf| leaf.rows.partition_point(|row| is_before(&row.0)));
        let rest = self.leaves.iter().skip(leaf).flat_map(|leaf| leaf.rows.iter());
        rest.skip(at).map(|(key, value)| (key, &**value))
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// To change a row. If a copy of the map shares it, the row is copied first, and the references of its leaf.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let leaf = self.leaf_of(key);
        let rows = &mut self.leaves.get_mut(leaf)?.rows;
        let at = rows.binary_search_by(|row| row.0.cmp(key)).ok()?;
        Some(Arc::make_mut(&mut Arc::make_mut(rows)[at].1))
    }

    /// The row of the key, which it gets first if it has none.
    pub fn get_or_insert_with(&mut self, key: K, value: impl FnOnce() -> V) -> &mut V {
        if self.leaves.is_empty() {
            self.leaves.push(Leaf { from: key.clone(), rows: Arc::default() });
        }
        let mut leaf = self.leaf_of(&key);
        let found = self.leaves[leaf].rows.binary_search_by(|row| row.0.cmp(&key));
        let at = match found {
            Ok(at) => at,
            Err(mut at) => {
                if self.leaves[leaf].rows.len() >= LEAF_MAX {
                    self.split(leaf);
                    let kept = self.leaves[leaf].rows.len();
                    if at > kept {
                        (leaf, at) = (leaf + 1, at - kept);
                    }
                }
                let here = &mut self.leaves[leaf];
                if at == 0 && key < here.from {
                    here.from = key.clone();
                }
                Arc::make_mut(&mut here.rows).insert(at, (key, Arc::new(value())));
                self.len += 1;
                at
            }
        };
        Arc::make_mut(&mut Arc::make_mut(&mut self.leaves[leaf].rows)[at].1)
    }

    /// The value that the key had before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let leaf = self.leaf_of(&key);
        if let Some(rows) = self.leaves.get_mut(leaf).map(|leaf| &mut leaf.rows)
            && let Ok(at) = rows.binary_search_by(|row| row.0.cmp(&key))
        {
            let before = std::mem::replace(&mut Arc::make_mut(rows)[at].1, Arc::new(value));
            return Some(Arc::unwrap_or_clone(before));
        }
        self.get_or_insert_with(key, || value);
        None
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        let leaf = self.leaf_of(key);
        let rows = &mut self.leaves.get_mut(leaf)?.rows;
        let at = rows.binary_search_by(|row| row.0.cmp(key)).ok()?;
        let (_, value) = Arc::make_mut(rows).remove(at);
        self.len -= 1;
        self.join(leaf);
        Some(Arc::unwrap_or_clone(value))
    }

    /// Parts a full leaf. At the end of the map, where keys that grow arrive, it stays nearly full.
    fn split(&mut self, leaf: usize) {
        let at = if leaf + 1 == self.leaves.len() { LEAF_MAX - LEAF_MIN } else { LEAF_MAX / 2 };
        let rows = Arc::make_mut(&mut self.leaves[leaf].rows).split_off(at);
        let from = rows[0].0.clone();
        self.leaves.insert(leaf + 1, Leaf { from, rows: Arc::new(rows) });
    }

    /// Joins a leaf that has become small with the one behind it, or drops it when it is empty.
    fn join(&mut self, leaf: usize) {
        let len = self.leaves[leaf].rows.len();
        if len == 0 {
            self.leaves.remove(leaf);
            return;
        }
        let next = self.leaves.get(leaf + 1).map_or(LEAF_MAX, |next| next.rows.len());
        if len < LEAF_MIN && len + next <= LEAF_MAX / 2 {
            let next = self.leaves.remove(leaf + 1).rows;
            let next = Arc::try_unwrap(next).unwrap_or_else(|shared| (*shared).clone());
            Arc::make_mut(&mut self.leaves[leaf].rows).extend(next);
        }
    }
}

impl<K: Ord + Clone, V> Index<&K> for SharedMap<K, V> {
    type Output = V;
    fn index(&self, key: &K) -> &V {
        self.get(key).expect("the key is in the map")
    }
}

impl<K: Ord + Clone, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: Ord + Clone, V: Eq> Eq for SharedMap<K, V> {}

impl<K: Ord + Clone + fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn check(map: &SharedMap<u16, u32>, model: &BTreeMap<u16, u32>) {
        assert_eq!(map.len(), model.len());
        assert!(map.iter().eq(model.iter()));
        assert_eq!(map.last_key_value(), model.last_key_value());
        for leaf in &map.leaves {
            assert!(!leaf.rows.is_empty() && leaf.rows.len() <= LEAF_MAX, "{} rows", leaf.rows.len());
            assert!(leaf.from <= leaf.rows[0].0);
        }
    }

    proptest! {
        /// Goal: it is an ordered map, and a copy never changes, whatever is done to the original.
        #[test]
        fn it_is_an_ordered_map_and_its_copies_never_change(
            draws in prop::collection::vec((0u16..400, any::<u32>(), 0u8..8), 0..1_500),
        ) {
            let (mut map, mut model) = (SharedMap::new(), BTreeMap::new());
            let mut copies = Vec::new();
            for (key, value, what) in draws {
                match what {
                    0..=3 => prop_assert_eq!(map.insert(key, value), model.insert(key, value)),
                    4 | 5 => prop_assert_eq!(map.remove(&key), model.remove(&key)),
                    6 => {
                        let (mine, other) = (map.get_mut(&key), model.get_mut(&key));
                        prop_assert_eq!(mine.is_some(), other.is_some());
                        if let (Some(mine), Some(other)) = (mine, other) {
                            (*mine, *other) = (value, value);
                        }
                    }
                    _ => {
                        let from = Bound::Excluded(&key);
                        prop_assert!(map.range_from(from).eq(model.range((from, Bound::Unbounded))));
                        let from = Bound::Included(&key);
                        prop_assert!(map.range_from(from).eq(model.range((from, Bound::Unbounded))));
                        if copies.len() < 8 {
                            copies.push((map.clone(), model.clone()));
                        }
                    }
                }
                prop_assert_eq!(map.get(&key), model.get(&key));
            }
            check(&map, &model);
            copies.iter().for_each(|(map, model)| check(map, model));
        }
    }

    #[test]
    fn equal_maps_are_equal_whatever_their_history() {
        let rising: SharedMap<u16, u32> = (0..1_000).fold(SharedMap::new(), |mut map, key| {
            map.insert(key, u32::from(key));
            map
        });
        let mut falling = SharedMap::new();
        for key in (0..2_000u16).rev() {
            falling.insert(key, u32::from(key));
        }
        assert_ne!(rising, falling);
        (1_000..2_000).for_each(|key| assert_eq!(falling.remove(&key), Some(u32::from(key))));
        assert_eq!(rising, falling);
        assert!(falling.range_from(Bound::Unbounded).eq(rising.iter()));
    }

    #[test]
    fn a_change_after_a_copy_copies_one_leaf() {
        let mut map = SharedMap::new();
        (0..10_000u32).for_each(|key| assert_eq!(map.insert(key, key), None));
        let copy = map.clone();
        *map.get_mut(&5_000).unwrap() = 0;
        let shared = map.leaves.iter().zip(&copy.leaves).filter(|(mine, other)| Arc::ptr_eq(&mine.rows, &other.rows));
        assert_eq!(shared.count(), copy.leaves.len() - 1);
        assert_eq!((map[&5_000], copy[&5_000]), (0, 5_000));
    }
}
