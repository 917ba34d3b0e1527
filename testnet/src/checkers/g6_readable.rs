//! G6: an object reads back identical to what was stored.

use std::fmt::Debug;

use super::{Guarantee, Violation};

/// What was stored, and what a read that succeeded gave: each as length and digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    pub bytes: u64,
    pub blake3: [u8; 32],
}

pub fn check(object: impl Debug, stored: Content, read: Content) -> Option<Violation> {
    (stored != read).then(|| {
        let what = match stored.bytes == read.bytes {
            true => format!("{object:?} read back different"),
            false => format!("{object:?} read back with {} bytes, {} were stored", read.bytes, stored.bytes),
        };
        Violation::new(Guarantee::G6, what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_and_content_both_count() {
        let stored = Content { bytes: 4, blake3: [1; 32] };
        assert_eq!(check("o", stored, stored), None);
        assert!(check("o", stored, Content { blake3: [2; 32], ..stored }).is_some());
        assert!(check("o", stored, Content { bytes: 5, ..stored }).is_some());
    }
}
