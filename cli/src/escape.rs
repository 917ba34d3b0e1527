//! Escaping: text that others wrote cannot act on the terminal that shows it.
//!
//! Names, reasons, logs and error texts come from whoever may submit a job, and are read on other people's terminals.
//! A control character in them could colour or move what is on the screen, set its title or make up a row; a character
//! that turns the direction of writing, or that has no width, makes one name look like another. All of these are
//! shown as escapes (`\n`, `\u{1b}`), wherever text is for people. What is escaped already stays as it is, so text may
//! pass through here twice; a backslash is therefore not doubled.
//!
//! This is the only place that says which characters these are. It is used by [`super::output::Text`], through which
//! everything that the command line prints passes, and by the node's log.

use std::fmt::Write;

/// Characters without a control function that are still no part of what a reader sees: those that Unicode has
/// renderers ignore (`Default_Ignorable_Code_Point`), separators of lines and paragraphs, and format controls. In
/// order. Left out are U+FE0E and U+FE0F, which choose between the two pictures of one emoji.
const INVISIBLE: [(char, char); 18] = [
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    // Zero width, and the two marks of direction.
    ('\u{200b}', '\u{200f}'),
    // Separators of lines and paragraphs, embeddings and overrides of direction.
    ('\u{2028}', '\u{202e}'),
    // Word joiner, invisible operators, isolates of direction.
    ('\u{2060}', '\u{206f}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fe00}', '\u{fe0d}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fffb}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    // Tags, which spell a text that nobody sees, and more selectors.
    ('\u{e0000}', '\u{e0fff}'),
];

/// Whether a terminal may do with this character something else than show it.
pub fn is_unsafe(c: char) -> bool {
    // Nearly all text is this.
    if matches!(c, ' '..='~') {
        return false;
    }
    c.is_control() || INVISIBLE.iter().any(|(first, last)| (*first..=*last).contains(&c))
}

fn escape(text: &str, keeps: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match is_unsafe(c) && !keeps(c) {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    out
}

/// Text as one line: line breaks and tabs are escaped too.
pub fn line(text: &str) -> String {
    escape(text, |_| false)
}

/// Text with its line breaks and tabs.
pub fn paragraphs(text: &str) -> String {
    escape(text, |c| matches!(c, '\n' | '\t'))
}

/// JSON that says the same, without a character that acts on a terminal: serde escapes the first 32 of them only.
pub fn json(text: &str) -> String {
    // Outside of strings JSON has none of these but line breaks.
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) && c != '\n' {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String does not fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// A stream of bytes as text with its line breaks and tabs, however the chunks cut its characters. Bytes that are no
/// UTF-8 are shown as `\xff`.
#[derive(Default)]
pub struct ByteEscaper {
    /// The beginning of a character whose end has not come.
    rest: Vec<u8>,
}

impl ByteEscaper {
    pub fn push(&mut self, bytes: &[u8]) -> String {
        let mut all = std::mem::take(&mut self.rest);
        all.extend_from_slice(bytes);
        let mut out = String::new();
        let mut chunks = all.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            out.push_str(&paragraphs(chunk.valid()));
            // At the very end it may be a character of which more is to come.
            let open = chunks.peek().is_none() && is_open(chunk.invalid());
            match open {
                true => self.rest = chunk.invalid().to_vec(),
                false => push_invalid(&mut out, chunk.invalid()),
            }
        }
        out
    }

    /// What is left when no more comes.
    pub fn finish(self) -> String {
        let mut out = String::new();
        push_invalid(&mut out, &self.rest);
        out
    }
}

/// Whether these bytes are a character's beginning and not its whole.
fn is_open(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

fn push_invalid(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(out, "\\x{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_acts_on_a_terminal_is_shown_as_an_escape() {
        let hostile = "a\u{1b}[31mb\u{7}\u{9b}0m\r\nc\td\u{202e}e\u{200b}f\u{feff}g\u{7f}\0\u{2028}\u{e0041}";
        assert_eq!(
            line(hostile),
            "a\\u{1b}[31mb\\u{7}\\u{9b}0m\\r\\nc\\td\\u{202e}e\\u{200b}f\\u{feff}g\\u{7f}\\u{0}\\u{2028}\\u{e0041}"
        );
        assert_eq!(paragraphs("a\r\n\tb\u{1b}"), "a\\r\n\tb\\u{1b}");
    }

    #[test]
    fn no_control_or_invisible_character_passes() {
        for c in (0..=0x10ffff).filter_map(char::from_u32).filter(|c| c.is_control() || is_unsafe(*c)) {
            assert!(!line(&format!("x{c}y")).contains(c), "{c:?}");
        }
        for c in ['\u{200e}', '\u{2066}', '\u{2069}', '\u{200d}', '\u{2060}', '\u{ad}', '\u{61c}', '\u{fff9}'] {
            assert!(is_unsafe(c), "{c:?}");
        }
    }

    #[test]
    fn what_people_write_stays_as_it_is() {
        for text in ["e\u{301} é 日本語 👍🏽 ❤\u{fe0f} שלום عربي", "C:\\dir\\new \"quoted\" 'it'", "a b~"]
        {
            assert_eq!(line(text), text);
        }
    }

    #[test]
    fn what_is_escaped_stays_so_when_it_is_escaped_again() {
        let once = line("\u{1b}[0m\n\u{202e}");
        assert_eq!(line(&once), once);
        assert_eq!(paragraphs(&once), once);
    }

    #[test]
    fn json_says_the_same_without_characters_that_act() {
        let value = serde_json::json!({ "name": "a\u{1b}\u{9b}\u{7f}\u{202e}\u{e0041}\n\"é" });
        let text = json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(!text.chars().any(|c| c != '\n' && is_unsafe(c)), "{text:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn bytes_are_escaped_however_they_are_cut() {
        let bytes = "é\u{1b}日\n\t👍".bytes().chain([0xff, b'x', 0xe6, 0x97]).collect::<Vec<u8>>();
        for cut in 0..=bytes.len() {
            let mut escaper = ByteEscaper::default();
            let (one, other) = bytes.split_at(cut);
            let text = escaper.push(one) + &escaper.push(other) + &escaper.finish();
            assert_eq!(text, "é\\u{1b}日\n\t👍\\xffx\\xe6\\x97", "cut at {cut}");
        }
    }
}
