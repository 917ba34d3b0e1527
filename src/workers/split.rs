//! Cutting records out of a range of an object, so that every record is read once, by one task.
//!
//! A task skips through the first separator of its range, unless the range is the first, and reads on through the first
//! separator past its end. So a record that begins at the very border of two ranges is the earlier one's: to tell that
//! it begins there, the later one would have to fetch what lies before it.

use bytes::Bytes;
use quorate_protocols::task::spec::Split;

/// Fed the bytes of an object in order, from its range's start on, hands out those of the range's records.
pub(super) struct Splitter {
    split: Split,
    /// Where the next byte to be fed stands in the object.
    at: u64,
    end: u64,
    skipping: bool,
    done: bool,
}

impl Splitter {
    /// Of the range `offset..offset + length`, which is not empty.
    pub fn new(split: Split, offset: u64, length: u64) -> Self {
        let skipping = split != Split::Exact && offset > 0;
        Self { split, at: offset, end: offset + length, skipping, done: length == 0 }
    }
    /// Nothing more is needed.
    pub fn is_done(&self) -> bool {
        self.done
    }
    pub fn push(&mut self, chunk: &Bytes) -> Bytes {
        if self.done || chunk.is_empty() {
            return Bytes::new();
        }
        let (start, length) = (self.at, chunk.len());
        self.at += length as u64;
        if self.split == Split::Exact {
            self.done = self.at >= self.end;
            return chunk.slice(..length.min((self.end - start) as usize));
        }
        let mut from = 0;
        if self.skipping {
            match self.separator(chunk, 0) {
                Some(found) if start + (found as u64) < self.end => {
                    (self.skipping, from) = (false, found + 1);
                }
                // The next record begins past the border.
                Some(_) => {
                    self.done = true;
                    return Bytes::new();
                }
                None => {
                    self.done = self.at >= self.end;
                    return Bytes::new();
                }
            }
        }
        if self.at <= self.end {
            return chunk.slice(from..);
        }
        let search = from.max(self.end.saturating_sub(start) as usize);
        match self.separator(chunk, search) {
            Some(found) => {
                self.done = true;
                chunk.slice(from..=found)
            }
            None => chunk.slice(from..),
        }
    }
    fn separator(&self, chunk: &[u8], from: usize) -> Option<usize> {
        let found = match self.split {
            Split::Lines => chunk[from..].iter().position(|byte| *byte == b'\n'),
            // What programs take for space: the vertical tab too.
            Split::Words => chunk[from..].iter().position(|byte| byte.is_ascii_whitespace() || *byte == 0x0b),
            Split::Exact => None,
        };
        found.map(|found| from + found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the task of one range is given, when the object comes in pieces of `piece` bytes.
    fn given(text: &[u8], split: Split, offset: u64, length: u64, piece: usize) -> Vec<u8> {
        let mut splitter = Splitter::new(split, offset, length);
        let mut given = Vec::new();
        for chunk in text[offset as usize..].chunks(piece) {
            given.extend_from_slice(&splitter.push(&Bytes::copy_from_slice(chunk)));
            if splitter.is_done() {
                break;
            }
        }
        given
    }

    fn ranges(text: &[u8], bytes: usize) -> impl Iterator<Item = (u64, u64)> {
        let size = text.len();
        (0..size).step_by(bytes).map(move |offset| (offset as u64, bytes.min(size - offset) as u64))
    }

    proptest! {
        /// Goal: however an object is cut and however its bytes arrive, the ranges' parts are the object, in order, and
        /// no part but the last ends inside a record.
        #[test]
        fn every_record_is_given_once_and_whole(
            text in "[ab \n\t]{0,120}", bytes in 1usize..40, piece in 1usize..50, lines: bool,
        ) {
            let (text, split) = (text.as_bytes(), if lines { Split::Lines } else { Split::Words });
            let ends = |byte: &u8| if lines { *byte == b'\n' } else { byte.is_ascii_whitespace() };
            let mut whole = Vec::new();
            for (offset, length) in ranges(text, bytes) {
                let part = given(text, split, offset, length, piece);
                if !part.is_empty() {
                    let start = whole.len();
                    prop_assert!(start == 0 || (start as u64 > offset && start as u64 <= offset + length));
                    prop_assert!(start == 0 || ends(&text[start - 1]));
                }
                whole.extend_from_slice(&part);
                prop_assert!(part.last().is_none_or(ends) || whole.len() == text.len());
            }
            prop_assert_eq!(whole, text);
        }

        #[test]
        fn exact_ranges_are_cut_where_they_say(text in "[ab ]{1,100}", bytes in 1usize..40, piece in 1usize..50) {
            let text = text.as_bytes();
            for (offset, length) in ranges(text, bytes) {
                let part = given(text, Split::Exact, offset, length, piece);
                prop_assert_eq!(&part[..], &text[offset as usize..(offset + length) as usize]);
            }
        }
    }

    #[test]
    fn a_record_that_begins_at_the_border_belongs_to_the_earlier_range() {
        let text = b"one\ntwo\nthree\n";
        assert_eq!(given(text, Split::Lines, 0, 4, 64), b"one\ntwo\n");
        assert_eq!(given(text, Split::Lines, 4, 4, 64), b"three\n");
        assert_eq!(given(text, Split::Lines, 8, 6, 64), b"");
    }
}
