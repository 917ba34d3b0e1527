//! Text that came from elsewhere, cut to what may be kept or shown of it; the text of an error with its causes; and
//! counts of things in sentences.

use std::error::Error;
use std::fmt;

/// Bytes of one line of a history, and of a reason: what comes after is cut.
pub const REASON_BYTES_MAX: usize = 256;

/// The beginning of `text`, at most `bytes_max` long and cut between characters.
pub fn truncate(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// Characters of a text that an error shows.
const EXCERPT_CHARS: usize = 80;

/// The beginning of what was found in the place of something else, as an error shows it.
pub fn excerpt(text: &str) -> String {
    text.chars().take(EXCERPT_CHARS).collect()
}

/// A number of things as a sentence has it: `1 peer`, `3 peers`, `2 copies`.
pub fn counted<N: fmt::Display + PartialEq + From<u8>>(count: N, one: &str) -> String {
    let is_one = count == N::from(1);
    match one.strip_suffix('y') {
        _ if is_one => format!("{count} {one}"),
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{count} {stem}ies"),
        _ => format!("{count} {one}s"),
    }
}

/// The error and its sources, outermost first: a person needs all of it.
pub fn chain(error: &dyn Error) -> String {
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
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::num::ParseIntError);

    #[test]
    fn an_error_is_told_with_its_causes_and_each_once() {
        let inner = "x".parse::<u8>().expect_err("no number");
        assert_eq!(chain(&Outer(inner.clone())), format!("outer: {inner}"));
        assert_eq!(chain(&inner), inner.to_string());
    }

    #[test]
    fn one_thing_is_counted_in_the_singular() {
        assert_eq!(counted(1_usize, "peer"), "1 peer");
        assert_eq!((counted(0_u64, "peer"), counted(2_u32, "peer")), ("0 peers".to_owned(), "2 peers".to_owned()));
        assert_eq!((counted(3_u8, "copy"), counted(3_u8, "day")), ("3 copies".to_owned(), "3 days".to_owned()));
    }

    #[test]
    fn an_error_shows_the_beginning_of_what_was_found() {
        assert_eq!(excerpt("short"), "short");
        assert_eq!(excerpt(&"é".repeat(100)).chars().count(), EXCERPT_CHARS);
    }

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
