//! Output: the one way from the command line to a terminal.
//!
//! What is for people is a [`Text`], and a [`Text`] is made of escaped text only ([`super::escape`]): [`table`],
//! [`facts`] and [`Text::lines`] make one of many, and anything that can be displayed is one line. So a new line of
//! output goes through [`print`] (standard output) or [`note`] (standard error), and nothing else is to be done; the
//! macros of the standard library that print are denied in this crate, and so is a progress bar's own way to say
//! something ([`set_message`] is ours). Bytes that somebody asked for (an object, an output, a log) go through
//! [`Payload`], which escapes them for a terminal only.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use quorate_api::{Listing, Unreachable};
use quorate_protocols::ids::Millis;
use quorate_testnet::Client;
use serde::Serialize;

use super::args::Common;
use super::escape::{self, ByteEscaper};
use super::failure::Failure;
use super::ids::Ids;

/// Text for people, without a character that acts on a terminal. Anything that can be displayed becomes a text of one
/// line: a line break in it is shown as `\n`, so that a name cannot make up a row. For this to hold for whatever can be
/// displayed, a text itself cannot: it is handed on as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(String);

impl<T: std::fmt::Display> From<T> for Text {
    fn from(line: T) -> Self {
        Self(escape::line(&line.to_string()))
    }
}

impl Text {
    /// Several lines. A line break within one of them is escaped.
    pub fn lines<T: Into<Self>>(lines: impl IntoIterator<Item = T>) -> Self {
        Self(lines.into_iter().map(|line| line.into().0).collect::<Vec<_>>().join("\n"))
    }
    /// A text that is shown for its own sake (a job's output, a file) with its line breaks and tabs. It can look like
    /// anything, so that it belongs at the end of a page.
    pub fn paragraphs(text: &str) -> Self {
        Self(escape::paragraphs(text))
    }
    /// With this on the next line.
    pub fn and(self, next: impl Into<Self>) -> Self {
        Self(self.0 + "\n" + &next.into().0)
    }
    /// With this below, after an empty line.
    pub fn below(self, next: impl Into<Self>) -> Self {
        self.and("").and(next)
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Prints on stdout. A reader that has gone away (`| head`) ends the command, see [`Failure::reader_gone`].
pub fn print(text: impl Into<Text>) -> Result<(), Failure> {
    write_stdout(text.into().0.as_bytes(), b"\n")
}

/// Prints what is told on the way: with `--json`, nothing.
pub fn print_unless_json(common: &Common, text: impl Into<Text>) -> Result<(), Failure> {
    match common.json {
        true => Ok(()),
        false => print(text),
    }
}

pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::of(&error))?;
    print_json_text(&text)
}

/// Prints one value on one line, for those that read many of them.
pub fn print_json_line(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::of(&error))?;
    print_json_text(&text)
}

/// Prints JSON that was written elsewhere.
pub fn print_json_text(text: &str) -> Result<(), Failure> {
    write_stdout(escape::json(text).as_bytes(), b"\n")
}

fn write_stdout(bytes: &[u8], end: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(bytes).and_then(|()| out.write_all(end)).and_then(|()| out.flush());
    written.map_err(|error| stdout_failure(&error))
}

/// What became of standard output.
pub fn stdout_failure(error: &std::io::Error) -> Failure {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => Failure::reader_gone(),
        _ => Failure::failed(format!("writing to standard output: {error}")),
    }
}

/// Says something on stderr, beside what was asked for. Nobody may be there to read it, which is no fault.
pub fn print_to_stderr(text: impl Into<Text>) {
    let _ = writeln!(std::io::stderr().lock(), "{}", text.into().0);
}

/// What was asked for byte for byte: raw in a pipe or a file, escaped on a terminal unless raw is asked for.
pub struct Payload {
    escaper: Option<ByteEscaper>,
}

impl Payload {
    pub fn to_stdout(raw: bool) -> Self {
        Self::new(raw, std::io::stdout().is_terminal())
    }
    pub fn new(raw: bool, is_terminal: bool) -> Self {
        Self { escaper: (!raw && is_terminal).then(ByteEscaper::default) }
    }
    /// Whether it is shown to a person.
    pub fn is_escaped(&self) -> bool {
        self.escaper.is_some()
    }
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match &mut self.escaper {
            Some(escaper) => write_stdout(escaper.push(bytes).as_bytes(), b""),
            None => write_stdout(bytes, b""),
        }
    }
    pub fn finish(self) -> Result<(), Failure> {
        match self.escaper {
            Some(escaper) => write_stdout(escaper.finish().as_bytes(), b""),
            None => Ok(()),
        }
    }
}

/// A table without lines, wide enough for its content: ids must stay whole to be copied.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Text {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().map(|cell| cell.to_uppercase()));
    for row in rows {
        table.add_row(row.iter().map(|cell| escape::line(cell)));
    }
    Text::lines(table.lines().map(|line| line.trim_end().trim_start_matches(' ').to_owned()))
}

/// `name: value` lines, aligned.
pub fn facts(rows: &[(&str, String)]) -> Text {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    Text::lines(rows.iter().map(|(name, value)| format!("{name:width$}  {value}")))
}

pub fn or_dash(value: Option<impl std::fmt::Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

pub fn bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// An instant as a person reads it, in UTC.
pub fn instant(at: Millis) -> String {
    let at = std::time::UNIX_EPOCH + Duration::from_millis(at.0);
    humantime::format_rfc3339_seconds(at).to_string()
}

/// The serialized name of a plain enum value.
pub fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        _ => "?".to_owned(),
    }
}

/// How old what is shown of a quorum is that could not be asked.
pub fn age_text(missing: &Unreachable) -> String {
    match (missing.stale, missing.age_ms) {
        (false, _) => "its rows are missing".to_owned(),
        (true, None) => "what is shown of it may be old".to_owned(),
        (true, Some(age)) => format!("what is shown of it is {} s old", age / 1000),
    }
}

/// What a listing lacks.
#[derive(Default)]
pub struct Missing<'a> {
    pub unreachable: Vec<&'a Unreachable>,
    pub isolated: Option<&'a str>,
}

impl<'a> Missing<'a> {
    pub fn of<T>(listing: &'a Listing<T>) -> Self {
        let Listing { unreachable, isolated, .. } = listing;
        Self { unreachable: unreachable.iter().collect(), isolated: isolated.as_deref() }
    }

    /// What peers are called, if a warning is to come.
    pub async fn ids(&self, common: &Common, client: &Client) -> Ids {
        match self.unreachable.is_empty() {
            true => Ids::new(common),
            false => Ids::ask(common, client).await,
        }
    }

    /// Says on stderr what is missing or old. With `complete` anything of it is a failure, told once the rows are
    /// printed.
    pub fn warn(&self, complete: bool, ids: &Ids) -> Result<(), Failure> {
        let Self { unreachable, isolated } = self;
        for missing in unreachable {
            let Unreachable { quorum, reason, .. } = missing;
            let (age, reason) = (age_text(missing), ids.sentence(reason));
            print_to_stderr(format!("warning: quorum {quorum} could not be asked; {age}: {reason}"));
        }
        if let Some(isolated) = isolated {
            print_to_stderr(format!("warning: {isolated}"));
        }
        match complete && (!unreachable.is_empty() || isolated.is_some()) {
            true => Err(Failure::failed("the listing is not complete")
                .hint("`quorate peers` shows whom this node hears; another node may know more (--node)")),
            false => Ok(()),
        }
    }
}

/// Counts things on stderr when that is a terminal and the user wants text, else nothing.
pub fn counter(json: bool) -> ProgressBar {
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    match ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {elapsed}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// What a bar says beside its progress.
pub fn set_message(bar: &ProgressBar, message: impl Into<Text>) {
    #[expect(clippy::disallowed_methods, reason = "a text is escaped")]
    bar.set_message(message.into().0);
}

/// A bar on stderr when that is a terminal and the user wants text, else nothing.
pub fn progress(total: Option<u64>, json: bool) -> ProgressBar {
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()),
            "{msg:16} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        ),
        None => (
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()),
            "{msg:16} {spinner} {bytes} {bytes_per_sec}",
        ),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
