//! TOML tables with their lines: every getter takes a value or notes what is wrong and what is accepted.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use quorate_protocols::units::{ByteSize, ParseSpanError, Span};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Fault;
use super::parameters::Parameters;

/// Faults of one file that are reported; the rest will show when these are mended.
const FAULTS_MAX: usize = 20;

/// Characters of a wrong value that are shown.
const SHOWN_MAX: usize = 80;

pub struct Reader<'a> {
    text: &'a str,
    pub parameters: Parameters,
    pub faults: Vec<Fault>,
    pub lines: BTreeMap<String, usize>,
}

impl<'a> Reader<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, parameters: Parameters::default(), faults: Vec::new(), lines: BTreeMap::new() }
    }

    pub fn line_at(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
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

    /// A string with its parameters in place; `None` after noting a fault.
    fn expand(&mut self, key: &str, line: usize, text: &str) -> Option<String> {
        match self.parameters.expand(text) {
            Ok(text) => Some(text),
            Err(problem) => {
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

    /// Notes that a value is not what is needed.
    pub fn refuse(&self, reader: &mut Reader<'_>, key: &str, found: impl Display, needed: impl Display) {
        let key = format!("{}{key}", self.path);
        let line = reader.lines.get(&key).copied().unwrap_or(1);
        reader.fault(line, format!("`{key}` is {found}, but {needed} is needed"));
    }

    /// A string, or a scalar that stands for one after its parameters are in place.
    pub fn text(&self, reader: &mut Reader<'_>, key: &str, needed: &str) -> Option<String> {
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

    /// One of a few words.
    pub fn word<T: Copy>(&self, reader: &mut Reader<'_>, key: &str, words: &[(&str, T)]) -> Option<T> {
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

    /// A whole number; as a string only where parameters made it one.
    pub fn number(&self, reader: &mut Reader<'_>, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let needed = format!("a whole number from {} to {}", range.start(), range.end());
        let (found, number) = match self.get(key)?.get_ref() {
            DeValue::Integer(number) => {
                let text = number.as_str();
                (cut(text), u64::from_str_radix(text, number.radix()).ok())
            }
            DeValue::String(text) if text.contains("${") => {
                let text = self.text(reader, key, &needed)?;
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

    pub fn flag(&self, reader: &mut Reader<'_>, key: &str) -> Option<bool> {
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

    pub fn duration(&self, reader: &mut Reader<'_>, key: &str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let (from, to) = (Span(*range.start()), Span(*range.end()));
        let needed = format!("a time from {from} to {to} with its unit, such as \"500ms\" or \"10m\"");
        let text = self.text(reader, key, &needed)?;
        match text.parse() {
            Ok(Span(duration)) if range.contains(&duration) => Some(duration),
            Err(calendar @ ParseSpanError::Calendar { .. }) => {
                let hint = if key == "every" { ", or use `cron` (\"@monthly\", \"0 9 1 * *\")" } else { "" };
                self.refuse(reader, key, format!("{}: {calendar}{hint}", quoted(&text)), needed);
                None
            }
            _ => {
                self.refuse(reader, key, quoted(&text), needed);
                None
            }
        }
    }

    pub fn size(&self, reader: &mut Reader<'_>, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
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
    pub fn list(&self, reader: &mut Reader<'_>, key: &str, needed: &str) -> Option<Vec<Entry<'t>>> {
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
    pub fn texts(&self, reader: &mut Reader<'_>, key: &str) -> Option<Vec<String>> {
        let entries = self.list(reader, key, "a list of strings")?;
        Some(entries.into_iter().filter_map(|entry| entry.text(reader)).collect())
    }

    /// A table within, whatever its keys are.
    pub fn entries(&self, reader: &mut Reader<'_>, key: &str, needed: &str) -> Option<Vec<(String, Entry<'t>)>> {
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
    pub fn pairs(&self, reader: &mut Reader<'_>, key: &str) -> Option<BTreeMap<String, String>> {
        let entries = self.entries(reader, key, "a table of strings, such as { name = \"value\" }")?;
        Some(entries.into_iter().filter_map(|(name, entry)| Some((name, entry.text(reader)?))).collect())
    }

    /// A table within, with these keys.
    pub fn table(&self, reader: &mut Reader<'_>, key: &str, accepted: &[&'static str]) -> Option<Table<'t>> {
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
    pub fn refuse(&self, reader: &mut Reader<'_>, found: impl Display, needed: &str) {
        reader.fault(self.line, format!("`{}` is {found}, but {needed} is needed", self.key));
    }

    pub fn text(&self, reader: &mut Reader<'_>) -> Option<String> {
        match self.value {
            DeValue::String(text) => reader.expand(&self.key, self.line, text),
            other => {
                self.refuse(reader, shown(other), "a string");
                None
            }
        }
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
