//! Lines that a task writes to `task/report`.
//!
//! ```text
//! progress 350 third of nine files     350 thousandths are done; the rest of the line is a note for people
//! checkpoint                           `task/checkpoint` is whole: keep it for the next attempt
//! ```
//!
//! Lines that say neither are passed over and told in the log: a task that is too new for its node still runs.
//! A module's write returns when the checkpoint is safe, or fails if it is not. A program that must know that a
//! checkpoint is whole writes it under another name in `task/` and renames it before it reports.

/// Longest line; what comes after is cut.
const LINE_BYTES_MAX: usize = 512;

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

/// Cuts bytes into lines, holding at most one unfinished one.
#[derive(Default)]
pub(super) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        for byte in bytes {
            match byte {
                b'\n' => {
                    lines.push(Line::parse(String::from_utf8_lossy(&self.rest).trim_end()));
                    self.rest.clear();
                }
                byte if self.rest.len() < LINE_BYTES_MAX => self.rest.push(*byte),
                _ => (),
            }
        }
        lines
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
            let found: Vec<_> = text.chunks(size).flat_map(|chunk| lines.push(chunk)).collect();
            assert_eq!(found, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn an_endless_line_takes_no_memory() {
        let mut lines = Lines::default();
        for _ in 0..1000 {
            assert!(lines.push(&[b'x'; 4096]).is_empty());
        }
        assert!(lines.rest.len() <= LINE_BYTES_MAX);
        assert_eq!(lines.push(b"\n").len(), 1);
    }
}
