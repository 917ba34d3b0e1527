//! Characters at the borders of cut text: where bytes are cut, no character is.

/// Bytes at the end that begin a character and do not end it: at most three. What is no UTF-8 anyway begins none.
pub fn unfinished(bytes: &[u8]) -> usize {
    let begins = |at: &usize| match std::str::from_utf8(&bytes[*at..]) {
        Ok(_) => false,
        Err(error) => error.valid_up_to() == 0 && error.error_len().is_none(),
    };
    (bytes.len().saturating_sub(3)..bytes.len()).find(begins).map_or(0, |at| bytes.len() - at)
}

/// Bytes at the beginning that go on with a character whose own beginning is not there: at most three.
pub fn continued<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> usize {
    bytes.into_iter().take(3).take_while(|byte| **byte & 0b1100_0000 == 0b1000_0000).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Goal: wherever a text is cut, what is left of it on either side is text.
        #[test]
        fn a_cut_at_any_byte_can_be_moved_to_a_border_of_characters(text: String, at: prop::sample::Index) {
            let bytes = text.as_bytes();
            let (before, after) = bytes.split_at(at.index(bytes.len() + 1));
            let left = before.len() - unfinished(before);
            prop_assert_eq!(std::str::from_utf8(&before[..left]), Ok(&text[..left]));
            let right = before.len() + continued(after);
            prop_assert_eq!(std::str::from_utf8(&after[continued(after)..]), Ok(&text[right..]));
            prop_assert!(before.len() - left < 4 && right - before.len() < 4);
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_left_alone() {
        for bytes in [&[0xff, 0xff, 0xff][..], &[0x80; 5], &[0xe2, 0x82, b'x'], b"plain", b""] {
            assert_eq!(unfinished(bytes), 0, "{bytes:?}");
        }
        assert_eq!(unfinished(&[b'a', 0xe2, 0x82]), 2);
        assert_eq!(continued(&[0x80; 9]), 3);
    }
}
