//! Text as it is kept and shown: cut to what may be kept, and an error with all that caused it.

/// Bytes of one line of a history, and of a reason: what comes after is cut.
pub const REASON_BYTES_MAX: usize = 256;

/// The beginning of `text`, at most `bytes_max` long and cut between characters.
pub fn truncate(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// The error and its sources, outermost first: a person needs all of it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        // Some `Display`s already include their source.
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::truncate;

    #[test]
    fn a_text_is_cut_between_characters_and_never_longer_than_allowed() {
        assert_eq!(truncate("short", 5), "short");
        assert_eq!(truncate("short", 64), "short");
        assert_eq!(truncate("shorter", 5), "short");
        // Two bytes each: an odd limit falls into one of them.
        assert_eq!(truncate("ééé", 3), "é");
        assert_eq!(truncate("é", 1), "");
        assert_eq!(truncate("", 0), "");
    }
}
