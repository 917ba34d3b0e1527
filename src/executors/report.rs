//! Lines that a task writes to `task/report`.
//!
//! ```text
//! progress 350 third of nine files     350 thousandths are done; the rest of the line is a note for people
//! checkpoint                           `task/checkpoint` is whole: keep it for the next attempt
//! ```
//!
//! Lines that say neither are passed over, and the first few are told in the log: a task that is too new for its node
//! still runs.
//! A module's write returns when the checkpoint is safe, or fails if it is not. A program that must know that a
//! checkpoint is whole writes it under another name in `task/` and renames it before it reports.

/// Longest line; what comes after is cut.
const LINE_BYTES_MAX: usize = 512;

/// Lines of one task that are told in its log because they say nothing that is known.
const UNKNOWN_LOGGED_MAX: u32 = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Progress { permille: u16, note: String },
    Checkpoint,
    Unknown(String),
}

impl Line {
    fn parse(text: &str) -> Self {
        let mut words = text.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("progress"), Some(number), note) => match number.parse::<u16>() {
                Ok(permille @ 0..=1000) => Self::Progress { permille, note: note.unwrap_or_default().to_owned() },
                _ => Self::Unknown(text.to_owned()),
            },
            (Some("checkpoint"), None, None) => Self::Checkpoint,
            _ => Self::Unknown(text.to_owned()),
        }
    }
}

/// Cuts bytes into lines, holding at most one of them.
#[derive(Default)]
pub(super) struct Lines {
    rest: Vec<u8>,
    unknown: u32,
}

impl Lines {
    /// Takes bytes away up to the end of the next line, and gives that line; `None` when all of them are taken. One at
    /// a time, because a few megabytes hold millions of lines.
    pub(super) fn next_line(&mut self, bytes: &mut &[u8]) -> Option<Line> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (part, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        let room = LINE_BYTES_MAX - self.rest.len();
        self.rest.extend_from_slice(&part[..part.len().min(room)]);
        *bytes = rest.get(1..).unwrap_or_default();
        end?;
        let line = Line::parse(String::from_utf8_lossy(&self.rest).trim_end());
        self.rest.clear();
        Some(line)
    }

    /// What the task's log says of a line that is not known; `None` when it has said enough.
    pub(super) fn describe_unknown(&mut self, text: &str) -> Option<String> {
        self.unknown = self.unknown.saturating_add(1);
        match self.unknown {
            ..UNKNOWN_LOGGED_MAX => Some(format!("task/report does not know {text:?}")),
            UNKNOWN_LOGGED_MAX => Some(format!("task/report does not know {text:?}; more such lines are not told")),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_however_they_are_cut() {
        let text = b"progress 350 third of nine\nprogress 1001\ncheckpoint\r\nprogress 0\nhello\nprogress";
        let expected = [
            Line::Progress { permille: 350, note: "third of nine".to_owned() },
            Line::Unknown("progress 1001".to_owned()),
            Line::Checkpoint,
            Line::Progress { permille: 0, note: String::new() },
            Line::Unknown("hello".to_owned()),
        ];
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for mut chunk in text.chunks(size) {
                found.extend(std::iter::from_fn(|| lines.next_line(&mut chunk)));
            }
            assert_eq!(found, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn lines_that_are_not_known_are_told_a_few_times() {
        let (mut lines, mut bytes, mut told) = (Lines::default(), &[b'\n'; 100_000][..], 0);
        while let Some(line) = lines.next_line(&mut bytes) {
            assert_eq!(line, Line::Unknown(String::new()));
            told += u32::from(lines.describe_unknown("").is_some());
        }
        assert_eq!(told, UNKNOWN_LOGGED_MAX);
    }

    #[test]
    fn an_endless_line_takes_no_memory() {
        let mut lines = Lines::default();
        for _ in 0..1000 {
            assert_eq!(lines.next_line(&mut &[b'x'; 4096][..]), None);
        }
        assert!(lines.rest.len() <= LINE_BYTES_MAX);
        assert!(lines.next_line(&mut &b"\n"[..]).is_some());
    }
}
