//! Invariants of the job book's index.

use super::JobBook;
use crate::quorum::check::{Checked, ensure};

impl JobBook {
    pub(in crate::quorum) fn check_index(&self, rebuilt: &Self) -> Checked {
        let (index, right) = (&self.index, &rebuilt.index);
        ensure(index == right, || format!("index {index:?} should be {right:?}"))
    }
}
