//! The node's log on standard error.
//!
//! What it says of peers is partly their own words (names, versions, reasons), so each value of a field is escaped as
//! all text of others is ([`escape`]): one event is one line, and nothing in it acts on the terminal that shows it. A
//! log that nobody reads any more is no reason for a node to stop.

use std::fmt::Debug;
use std::io::Write;

use quorate_cli::{Failure, escape};
use quorate_node::config::Config;
use tracing::field::Field;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

/// Overrides the configuration's `log.filter`.
const LOG_VARIABLE: &str = "QUORATE_LOG";

pub fn start(config: &Config) -> Result<(), Failure> {
    let variable = std::env::var(LOG_VARIABLE).ok().filter(|text| !text.is_empty());
    let (text, source) = match &variable {
        Some(text) => (text, "$QUORATE_LOG"),
        None => (&config.log.filter, "log.filter"),
    };
    let filter = EnvFilter::try_new(text)
        .map_err(|error| Failure::failed(format!("{source} is {text:?}, which is no log filter: {error}")))?;
    let filter = quiet_libraries(filter, text)?;
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(ansi)
        .fmt_fields(debug_fn(write_field).delimited(" "))
        .with_writer(|| Lenient(std::io::stderr()))
        .init();
    Ok(())
}

/// Libraries that say too much at levels that an operator reads, and the level from which on they are heard. Whoever
/// wants more names the library in the filter.
const LIBRARIES: [(&str, &str); 2] = [
    // It reports every member that cannot be reached, for each group and try, as an error, and its inner life as
    // information. That a member's node is suspected, that it is back, that an election starts and that a member has
    // stopped is told by our own quorum layer, once; what stops openraft reaches our log as the reason.
    ("openraft", "off"),
    // It warns of every message that reaches nobody or comes twice, and of every peer that is gone while its messages
    // wait. Announcements are repeated, and nothing depends on any one of them.
    ("libp2p_gossipsub", "error"),
];

fn quiet_libraries(filter: EnvFilter, text: &str) -> Result<EnvFilter, Failure> {
    LIBRARIES.iter().filter(|(library, _)| !text.contains(library)).try_fold(filter, |filter, (library, level)| {
        let directive = format!("{library}={level}").parse().map_err(|error| Failure::of(&error))?;
        Ok(filter.add_directive(directive))
    })
}

/// `name=value`, of the message the text alone.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> std::fmt::Result {
    let value = escape::line(&format!("{value:?}"));
    match (field.name(), writer.has_ansi_escapes()) {
        ("message", _) => writer.write_str(&value),
        // In italics and dimmed.
        (name, true) => write!(writer, "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m{value}"),
        (name, false) => write!(writer, "{name}={value}"),
    }
}

/// Writes what it can. The library would report a failed write where nobody reads either, and that ends a thread.
struct Lenient<W>(W);

impl<W: Write> Write for Lenient<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(self.0.write(bytes).unwrap_or(bytes.len()))
    }
    fn flush(&mut self) -> std::io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use parking_lot::Mutex;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(ansi: bool, act: impl FnOnce()) -> String {
        let memory = Memory::default();
        let writer = memory.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(ansi)
            .fmt_fields(debug_fn(write_field).delimited(" "))
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, act);
        let bytes = memory.0.lock().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn an_event_is_one_line_without_characters_that_act_whatever_is_in_it() {
        let hostile = "x\u{1b}[31m\u{9b}\n2026 INFO made up\r\u{202e}";
        let text = logged(false, || {
            let _span = tracing::info_span!("of", peer = %hostile).entered();
            tracing::warn!(agent = %hostile, said = ?hostile, name = hostile, "a peer said {hostile}");
        });
        assert_eq!(text.lines().count(), 1, "{text:?}");
        assert!(!text.trim_end().chars().any(escape::is_unsafe), "{text:?}");
        assert!(text.contains("a peer said x\\u{1b}[31m"), "{text:?}");
    }

    #[test]
    fn on_a_terminal_the_colours_are_ours_alone() {
        let hostile = "x\u{1b}[31m\u{1b}]0;title\u{7}";
        let text = logged(true, || tracing::warn!(agent = %hostile, "a peer"));
        // Ours are of the form ESC [ digits m and stand around names, never in a value.
        assert!(text.contains("x\\u{1b}[31m\\u{1b}]0;title\\u{7}"), "{text:?}");
        assert!(!text.contains("\u{1b}]") && !text.contains('\u{7}'), "{text:?}");
    }

    #[test]
    fn a_log_without_a_reader_is_no_error() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut writer = Lenient(writer);
        writer.write_all(b"said to nobody\n").unwrap();
        writer.flush().unwrap();
    }

    #[test]
    fn libraries_are_quiet_unless_the_filter_names_them() {
        let told = |text: &str| quiet_libraries(EnvFilter::new(text), text).unwrap().to_string();
        let usual = told("info");
        assert!(usual.contains("openraft=off") && usual.contains("libp2p_gossipsub=error"), "{usual}");
        let asked = told("info,openraft=debug");
        assert!(asked.contains("openraft=debug") && !asked.contains("openraft=off"), "{asked}");
    }
}
