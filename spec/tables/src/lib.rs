//! The reader of TOML tables that people write: each getter yields a value, or records a fault that names the line, the
//! key, what was found and what is accepted there.
//!
//! Job specifications and the node's configuration are read with it, so both speak of a mistake in the same way, and
//! of up to [`FAULTS_MAX`] mistakes at once. A key that is not a setting is a fault too, with the setting that was
//! most likely meant. Strings may stand for other strings first ([`Strings`]): a specification has parameters, a
//! configuration has none ([`Verbatim`]). What the values mean together is for the caller to check.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use quorate_protocols::units::{ByteSize, ParseSpanError, Span};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Faults of one file that are reported; the rest will show when these are mended.
pub const FAULTS_MAX: usize = 20;

/// Characters of a wrong value that are shown.
const SHOWN_MAX: usize = 80;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// From 1; 0 when it is in no line: a parameter from the command line.
    pub line: usize,
    /// Names the key, what was found and what is accepted.
    pub problem: String,
}

/// Everything that is wrong with a file, by line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    pub file: String,
    pub faults: Vec<Fault>,
}

impl Faults {
    /// A line for each fault.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.faults.iter().map(|Fault { line, problem }| match line {
            0 => problem.clone(),
            line => format!("{}:{line}: {problem}", self.file),
        })
    }
}

impl Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().collect::<Vec<_>>().join("\n"))
    }
}

impl std::error::Error for Faults {}

/// What is wrong with a string, in words that follow its key: "needs the parameter `text`".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadString(pub String);

impl From<String> for BadString {
    fn from(problem: String) -> Self {
        Self(problem)
    }
}

/// What the strings of a file stand for.
pub trait Strings {
    /// The string that this one stands for.
    fn expand(&self, text: &str) -> Result<String, BadString>;
}

/// Strings stand for themselves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Verbatim;

impl Strings for Verbatim {
    fn expand(&self, text: &str) -> Result<String, BadString> {
        Ok(text.to_owned())
    }
}

/// One reading of one text: the faults found so far, and the lines of the keys that were opened.
pub struct Reader<S = Verbatim> {
    pub strings: S,
    pub faults: Vec<Fault>,
    pub lines: BTreeMap<String, usize>,
    /// Where the lines end.
    breaks: Vec<usize>,
}

impl<S: Strings + Default> Reader<S> {
    /// Of a text, with its TOML; or what keeps it from being TOML.
    pub fn parse(text: &str) -> Result<(Self, Spanned<DeTable<'_>>), Fault> {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect();
        let reader = Self { strings: S::default(), faults: Vec::new(), lines: BTreeMap::new(), breaks };
        match DeTable::parse(text) {
            Ok(document) => Ok((reader, document)),
            Err(error) => {
                let line = reader.line_at(error.span().map_or(0, |span| span.start));
                Err(Fault { line, problem: error.message().to_owned() })
            }
        }
    }
}

impl<S: Strings> Reader<S> {
    /// The line of a byte of the text.
    pub fn line_at(&self, offset: usize) -> usize {
        1 + self.breaks.partition_point(|end| *end < offset)
    }

    /// The line of a key of an opened table; of a key that is not there, the first.
    pub fn line_of(&self, key: &str) -> usize {
        self.lines.get(key).copied().unwrap_or(1)
    }

    pub fn fault(&mut self, line: usize, problem: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(Fault { line, problem });
        }
    }

    /// Opens a table whose keys are `accepted`; others are faults, and are passed over. `path` ends in a dot or is
    /// empty.
    pub fn open<'t>(&mut self, path: &str, table: &'t DeTable<'t>, accepted: &[&'static str]) -> Table<'t> {
        for (key, _) in table {
            let line = self.line_at(key.span().start);
            let name: &str = key.get_ref();
            self.lines.insert(format!("{path}{name}"), line);
            if !accepted.contains(&name) {
                let hint = match nearest(name, accepted.iter().copied()) {
                    Some(known) => format!("did you mean `{path}{known}`?"),
                    None => format!("accepted here: {}", accepted.join(", ")),
                };
                self.fault(line, format!("`{path}{}` is not a setting; {hint}", cut(name)));
            }
        }
        Table { path: path.to_owned(), table }
    }

    /// What a string stands for; `None` after recording a fault.
    fn expand(&mut self, key: &str, line: usize, text: &str) -> Option<String> {
        match self.strings.expand(text) {
            Ok(text) => Some(text),
            Err(BadString(problem)) => {
                self.fault(line, format!("`{key}` {problem}"));
                None
            }
        }
    }
}

/// A table being read.
pub struct Table<'t> {
    pub path: String,
    table: &'t DeTable<'t>,
}

impl<'t> Table<'t> {
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub fn get(&self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    /// Records that a value is not what is needed.
    pub fn refuse<S: Strings>(&self, reader: &mut Reader<S>, key: &str, found: impl Display, needed: impl Display) {
        let key = format!("{}{key}", self.path);
        let line = reader.line_of(&key);
        reader.fault(line, format!("`{key}` is {found}, but {needed} is needed"));
    }

    /// A key that must be there; records its absence at the table's line.
    pub fn require<S: Strings>(&self, reader: &mut Reader<S>, key: &str, needed: &str) -> Option<()> {
        if self.has(key) {
            return Some(());
        }
        let line = reader.line_of(self.path.trim_end_matches('.'));
        reader.fault(line, format!("`{}{key}` is missing: {needed} is needed", self.path));
        None
    }

    /// A string that must be there.
    pub fn require_text<S: Strings>(&self, reader: &mut Reader<S>, key: &str, needed: &str) -> Option<String> {
        self.require(reader, key, needed)?;
        self.text(reader, key, needed)
    }

    /// A string.
    pub fn text<S: Strings>(&self, reader: &mut Reader<S>, key: &str, needed: &str) -> Option<String> {
        let value = self.get(key)?;
        let at = format!("{}{key}", self.path);
        let line = reader.line_at(value.span().start);
        match value.get_ref() {
            DeValue::String(text) => reader.expand(&at, line, text),
            other => {
                self.refuse(reader, key, shown(other), needed);
                None
            }
        }
    }

    /// A string that reads as a value of this type.
    pub fn parsed<S: Strings, T: FromStr>(&self, reader: &mut Reader<S>, key: &str, needed: &str) -> Option<T> {
        let text = self.text(reader, key, needed)?;
        let value = text.parse().ok();
        if value.is_none() {
            self.refuse(reader, key, quoted(&text), needed);
        }
        value
    }

    /// A list of up to `most` strings that read as values of this type. Those that do not are left out.
    pub fn parsed_list<S: Strings, T: FromStr>(
        &self,
        reader: &mut Reader<S>,
        key: &str,
        most: usize,
        needed: &str,
    ) -> Option<Vec<T>> {
        let entries = self.list(reader, key, "a list of strings")?;
        if entries.len() > most {
            self.refuse(reader, key, format!("{} entries long", entries.len()), format!("at most {most}"));
            return None;
        }
        let parsed = entries.into_iter().filter_map(|entry| {
            let text = entry.text(reader)?;
            let value = text.parse().ok();
            if value.is_none() {
                entry.refuse(reader, quoted(&text), needed);
            }
            value
        });
        Some(parsed.collect())
    }

    /// One of a few words.
    pub fn word<S: Strings, T: Copy>(&self, reader: &mut Reader<S>, key: &str, words: &[(&str, T)]) -> Option<T> {
        let names: Vec<_> = words.iter().map(|(name, _)| format!("{name:?}")).collect();
        let needed = match names.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
            _ => names.concat(),
        };
        let text = self.text(reader, key, &needed)?;
        match words.iter().find(|(name, _)| *name == text) {
            Some((_, value)) => Some(*value),
            None => {
                self.refuse(reader, key, quoted(&text), needed);
                None
            }
        }
    }

    /// A whole number; as a string only where one stands for it.
    pub fn number<S: Strings>(&self, reader: &mut Reader<S>, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let needed = format!("a whole number from {} to {}", range.start(), range.end());
        self.number_needed(reader, key, range, &needed)
    }

    /// The same, or the word *auto*, which is as good as no value.
    pub fn number_or_auto<S: Strings>(
        &self,
        reader: &mut Reader<S>,
        key: &str,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        if matches!(self.get(key)?.get_ref(), DeValue::String(text) if text == "auto") {
            return None;
        }
        let needed = format!("\"auto\" or a whole number from {} to {}", range.start(), range.end());
        self.number_needed(reader, key, range, &needed)
    }

    fn number_needed<S: Strings>(
        &self,
        reader: &mut Reader<S>,
        key: &str,
        range: RangeInclusive<u64>,
        needed: &str,
    ) -> Option<u64> {
        let (found, number) = match self.get(key)?.get_ref() {
            DeValue::Integer(number) => {
                let text = number.as_str();
                (cut(text), u64::from_str_radix(text, number.radix()).ok())
            }
            DeValue::String(text) if text.contains("${") => {
                let text = self.text(reader, key, needed)?;
                (quoted(&text), text.parse().ok())
            }
            other => (shown(other), None),
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            self.refuse(reader, key, found, needed);
        }
        number
    }

    pub fn flag<S: Strings>(&self, reader: &mut Reader<S>, key: &str) -> Option<bool> {
        let (found, flag) = match self.get(key)?.get_ref() {
            DeValue::Boolean(flag) => (String::new(), Some(*flag)),
            DeValue::String(text) if text.contains("${") => {
                let text = self.text(reader, key, "true or false")?;
                (quoted(&text), text.parse().ok())
            }
            other => (shown(other), None),
        };
        if flag.is_none() {
            self.refuse(reader, key, found, "true or false");
        }
        flag
    }

    pub fn duration<S: Strings>(
        &self,
        reader: &mut Reader<S>,
        key: &str,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        self.duration_or(reader, key, range, "")
    }

    /// The same; `calendar` says what to write instead where months or years were meant.
    pub fn duration_or<S: Strings>(
        &self,
        reader: &mut Reader<S>,
        key: &str,
        range: RangeInclusive<Duration>,
        calendar: &str,
    ) -> Option<Duration> {
        let (from, to) = (Span(*range.start()), Span(*range.end()));
        let needed = format!("a time from {from} to {to} with its unit, such as \"500ms\" or \"10m\"");
        let text = self.text(reader, key, &needed)?;
        match text.parse() {
            Ok(Span(duration)) if range.contains(&duration) => Some(duration),
            Err(unit @ ParseSpanError::Calendar { .. }) => {
                self.refuse(reader, key, format!("{}: {unit}{calendar}", quoted(&text)), needed);
                None
            }
            _ => {
                self.refuse(reader, key, quoted(&text), needed);
                None
            }
        }
    }

    pub fn size<S: Strings>(&self, reader: &mut Reader<S>, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let (from, to) = (ByteSize(*range.start()), ByteSize(*range.end()));
        let needed = format!("a size from {from} to {to} in B, KiB, MiB, GiB or TiB, such as \"256 MiB\"");
        let text = self.text(reader, key, &needed)?;
        match text.parse::<ByteSize>() {
            Ok(ByteSize(bytes)) if range.contains(&bytes) => Some(bytes),
            _ => {
                self.refuse(reader, key, quoted(&text), needed);
                None
            }
        }
    }

    /// A list; each entry comes with its key and its line.
    pub fn list<S: Strings>(&self, reader: &mut Reader<S>, key: &str, needed: &str) -> Option<Vec<Entry<'t>>> {
        match self.get(key)?.get_ref() {
            DeValue::Array(values) => {
                let entries = values.iter().enumerate().map(|(index, value)| {
                    let key = format!("{}{key}.{index}", self.path);
                    let line = reader.line_at(value.span().start);
                    reader.lines.insert(key.clone(), line);
                    Entry { key, line, value: value.get_ref() }
                });
                Some(entries.collect())
            }
            other => {
                self.refuse(reader, key, shown(other), needed);
                None
            }
        }
    }

    /// A list of strings.
    pub fn texts<S: Strings>(&self, reader: &mut Reader<S>, key: &str) -> Option<Vec<String>> {
        let entries = self.list(reader, key, "a list of strings")?;
        Some(entries.into_iter().filter_map(|entry| entry.text(reader)).collect())
    }

    /// A table within, whatever its keys are.
    pub fn entries<S: Strings>(
        &self,
        reader: &mut Reader<S>,
        key: &str,
        needed: &str,
    ) -> Option<Vec<(String, Entry<'t>)>> {
        match self.get(key)?.get_ref() {
            DeValue::Table(table) => {
                let entries = table.iter().map(|(name, value)| {
                    let key = format!("{}{key}.{}", self.path, name.get_ref());
                    let line = reader.line_at(name.span().start);
                    reader.lines.insert(key.clone(), line);
                    (name.get_ref().to_string(), Entry { key, line, value: value.get_ref() })
                });
                Some(entries.collect())
            }
            other => {
                self.refuse(reader, key, shown(other), needed);
                None
            }
        }
    }

    /// A table of strings.
    pub fn pairs<S: Strings>(&self, reader: &mut Reader<S>, key: &str) -> Option<BTreeMap<String, String>> {
        let entries = self.entries(reader, key, "a table of strings, such as { name = \"value\" }")?;
        Some(entries.into_iter().filter_map(|(name, entry)| Some((name, entry.text(reader)?))).collect())
    }

    /// A table within, with these keys.
    pub fn table<S: Strings>(&self, reader: &mut Reader<S>, key: &str, accepted: &[&'static str]) -> Option<Table<'t>> {
        match self.get(key)?.get_ref() {
            DeValue::Table(table) => Some(reader.open(&format!("{}{key}.", self.path), table, accepted)),
            other => {
                self.refuse(reader, key, shown(other), format!("a table with {}", accepted.join(", ")));
                None
            }
        }
    }
}

/// A value in a list or a table.
pub struct Entry<'t> {
    pub key: String,
    pub line: usize,
    pub value: &'t DeValue<'t>,
}

impl Entry<'_> {
    pub fn refuse<S: Strings>(&self, reader: &mut Reader<S>, found: impl Display, needed: &str) {
        reader.fault(self.line, format!("`{}` is {found}, but {needed} is needed", self.key));
    }

    pub fn text<S: Strings>(&self, reader: &mut Reader<S>) -> Option<String> {
        match self.value {
            DeValue::String(text) => reader.expand(&self.key, self.line, text),
            other => {
                self.refuse(reader, shown(other), "a string");
                None
            }
        }
    }
}

/// Changes a setting that was given.
pub fn set<T>(setting: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *setting = value;
    }
}

/// A value as an error shows it.
pub fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(number) => cut(number.as_str()),
        DeValue::Float(number) => cut(number.as_str()),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

pub fn quoted(text: &str) -> String {
    format!("{:?}", cut(text))
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// The known word that a person most likely meant.
pub fn nearest<'k>(found: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    // Longer words bear more errors; what is farther off is another word. Long keys are not worth the comparison.
    let close = |(distance, known): &(usize, &str)| *distance <= 1.max(known.len() / 3);
    let found = (found.len() <= SHOWN_MAX).then_some(found)?;
    known.map(|known| (strsim::damerau_levenshtein(found, known), known)).filter(close).min().map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: several mistakes are told at once, each at its own line. Method: one of each sort.
    #[test]
    fn every_mistake_is_told_with_its_line_and_what_is_accepted() {
        let text = "[node]\nports = [\"80\",\n  \"x\"]\nlisen = 1\nwait = \"1M\"\nslots = \"many\"\n[[node.peer]]\n";
        let (mut reader, document) = <Reader>::parse(text).unwrap();
        let root = reader.open("", document.get_ref(), &["node"]);
        let node = root.table(&mut reader, "node", &["ports", "listen", "wait", "slots", "name", "peer"]).unwrap();
        let ports: Vec<u16> = node.parsed_list(&mut reader, "ports", 2, "a port").unwrap();
        assert_eq!(ports, [80], "what is sound is read");
        assert_eq!(node.parsed_list::<_, u16>(&mut reader, "ports", 1, "a port"), None);
        let waits = Duration::ZERO..=Duration::MAX;
        assert_eq!(node.duration_or(&mut reader, "wait", waits, ", or use `cron`"), None);
        assert_eq!(node.number_or_auto(&mut reader, "slots", 1..=8), None);
        assert_eq!(node.require(&mut reader, "name", "a name"), None);
        assert!(node.text(&mut reader, "peer", "a string").is_none());
        let told: Vec<_> = reader.faults.iter().map(|fault| (fault.line, fault.problem.as_str())).collect();
        assert_eq!(told[0], (4, "`node.lisen` is not a setting; did you mean `node.listen`?"));
        assert_eq!(told[1], (3, "`node.ports.1` is \"x\", but a port is needed"));
        assert_eq!(told[2], (2, "`node.ports` is 2 entries long, but at most 1 is needed"));
        assert!(told[3].0 == 5 && told[3].1.contains("\"M\"") && told[3].1.contains("or use `cron`"), "{told:?}");
        assert_eq!(told[4], (6, "`node.slots` is \"many\", but \"auto\" or a whole number from 1 to 8 is needed"));
        assert_eq!(told[5], (1, "`node.name` is missing: a name is needed"));
        assert_eq!(told[6].1, "`node.peer` is a list, but a string is needed");
        assert_eq!(told.len(), 7);
        assert_eq!(<Reader>::parse("a = 1\n[b\n").err().map(|fault| fault.line), Some(2));
    }

    #[test]
    fn auto_is_no_number_and_no_mistake() {
        let (mut reader, document) = <Reader>::parse("slots = \"auto\"\nmore = 3\n").unwrap();
        let root = reader.open("", document.get_ref(), &["slots", "more"]);
        assert_eq!(root.number_or_auto(&mut reader, "slots", 1..=8), None);
        assert_eq!(root.number_or_auto(&mut reader, "more", 1..=8), Some(3));
        assert_eq!(reader.faults, []);
    }
}
