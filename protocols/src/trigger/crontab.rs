//! A line of cron as crontab(5) has it, read before the library that searches for its times reads it.
//!
//! The library takes more than crontab(5) and less: it joins day of month and day of week in one way for all lines,
//! puts a number for a name wherever the name stands, passes over empty entries of a list, takes no `*` beside others
//! in a list, knows names by their first three letters only, and names no field in its errors. So [`read`] checks the
//! fields, replaces every name by its number and every nickname by its five fields, and says whether a day must satisfy
//! both fields of days.
//!
//! **Day of month and day of week.** When both are restricted, a day that satisfies either is taken. A field that
//! begins with `*` restricts nothing by itself, so then a day must satisfy both: `0 9 */2 * 1` is odd days that are
//! Mondays.

/// What the library is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    /// Five or six fields without names.
    pub text: String,
    /// Whether a day must satisfy day of month and day of week.
    pub both_days: bool,
}

const NEEDED: &str = "a line has five fields (minute, hour, day of month, month, day of week), or six with \
                                 the second in front";

/// A nickname stands for a whole line.
const NICKNAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

const WEEKDAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];

/// One field: its name, its least and greatest number, and the names and letters that it takes.
struct Field {
    name: &'static str,
    least: u16,
    greatest: u16,
    names: &'static [&'static str],
    /// The number of the first name.
    first_name: u16,
    /// Words that mean something to the library in this field.
    letters: &'static [&'static str],
}

const FIELDS: [Field; 6] = [
    Field { name: "second", least: 0, greatest: 59, names: &[], first_name: 0, letters: &[] },
    Field { name: "minute", least: 0, greatest: 59, names: &[], first_name: 0, letters: &[] },
    Field { name: "hour", least: 0, greatest: 23, names: &[], first_name: 0, letters: &[] },
    Field { name: "day of month", least: 1, greatest: 31, names: &[], first_name: 0, letters: &["l", "w", "lw"] },
    Field { name: "month", least: 1, greatest: 12, names: &MONTHS, first_name: 1, letters: &[] },
    // 0 and 7 are both Sunday.
    Field { name: "day of week", least: 0, greatest: 7, names: &WEEKDAYS, first_name: 0, letters: &["l"] },
];

/// A line that is none of cron, with what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CronError {
    #[error("{line:?} has {found} fields; {NEEDED}")]
    FieldCount { line: String, found: usize },
    #[error("{line:?} is not a line of cron: a period is `every = \"{period}\"` in place of `cron`")]
    Period { line: String, period: String },
    #[error(
        "{line:?} is not a line of cron here: a network does not boot; have the machine run `quorate job fire JOB` \
         or `quorate event emit NAME` when it has started, or use `event = {{ name = \"quorate.peer.joined\" }}`"
    )]
    Reboot { line: String },
    #[error("{line:?} is not a line of cron: the nicknames are {}; {NEEDED}", known_nicknames())]
    Nickname { line: String },
    #[error("{line:?} is not a line of cron: {fault}")]
    Field { line: String, fault: FieldFault },
    #[error("{line:?} is not a line of cron: {reason}; {NEEDED}")]
    Unreadable { line: String, reason: String },
    #[error("{line:?} names a time that never comes; {NEEDED}")]
    NeverDue { line: String },
}

/// A fault in one field of a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FieldFault {
    #[error("the list {list:?} of the {field} has an empty entry")]
    EmptyEntry { field: &'static str, list: String },
    #[error(
        "a step of {step} in {entry:?} goes beyond the {field} ({least} to {greatest}): it is at most {}",
        .greatest - .least
    )]
    Step { field: &'static str, entry: String, step: String, least: u16, greatest: u16 },
    #[error("{entry:?} goes beyond the {field} ({least} to {greatest})")]
    Number { field: &'static str, entry: String, least: u16, greatest: u16 },
    #[error("the range {entry:?} of the {field} runs backwards: write \"{instead}\"")]
    Backwards { field: &'static str, entry: String, instead: String },
    #[error("the step in {entry:?} of the {field} has no range: write \"{instead}\"")]
    StepWithoutRange { field: &'static str, entry: String, instead: String },
    #[error("{word:?} in {entry:?} is no {field}: it takes {known}")]
    Word { field: &'static str, entry: String, word: String, known: String },
}

fn known_nicknames() -> String {
    NICKNAMES.map(|(nickname, _)| nickname).join(", ")
}

/// Reads the line's shape.
pub(super) fn read(line: &str) -> Result<Fields, CronError> {
    let line = line.trim();
    if line.starts_with('@') {
        let known = NICKNAMES.iter().find(|(nickname, _)| nickname.eq_ignore_ascii_case(line));
        let (_, text) = known.ok_or_else(|| refuse_nickname(line))?;
        return Ok(Fields { text: (*text).to_owned(), both_days: true });
    }
    let fields: Vec<&str> = line.split_whitespace().collect();
    if !(5..=6).contains(&fields.len()) {
        return Err(CronError::FieldCount { line: line.to_owned(), found: fields.len() });
    }
    let kinds = &FIELDS[FIELDS.len() - fields.len()..];
    let read = fields.iter().zip(kinds).map(|(text, kind)| kind.read(text));
    let read =
        read.collect::<Result<Vec<_>, _>>().map_err(|fault| CronError::Field { line: line.to_owned(), fault })?;
    let is_free = |field: &&str| field.starts_with(['*', '?']);
    let days = [fields[fields.len() - 3], fields[fields.len() - 1]];
    Ok(Fields { text: read.join(" "), both_days: days.iter().any(is_free) })
}

fn refuse_nickname(text: &str) -> CronError {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let (line, rest) = (text.to_owned(), rest.trim());
    match word.to_ascii_lowercase().as_str() {
        "@every" => {
            let period = if rest.is_empty() || rest.contains('"') { "5m" } else { rest };
            CronError::Period { line, period: period.to_owned() }
        }
        "@reboot" => CronError::Reboot { line },
        _ => CronError::Nickname { line },
    }
}

impl Field {
    fn read(&self, text: &str) -> Result<String, FieldFault> {
        let is_list = text.contains(',');
        let entries = text.split(',').map(|entry| match entry {
            "*" if is_list => Ok(format!("{}-{}", self.least, self.greatest)),
            _ => self.read_entry(entry, text),
        });
        Ok(entries.collect::<Result<Vec<_>, _>>()?.join(","))
    }

    fn read_entry(&self, entry: &str, list: &str) -> Result<String, FieldFault> {
        if entry.is_empty() {
            return Err(FieldFault::EmptyEntry { field: self.name, list: list.to_owned() });
        }
        if let Some((_, step)) = entry.split_once('/') {
            let span = self.greatest - self.least;
            // What is no number is refused by the library.
            if step.bytes().all(|byte| byte.is_ascii_digit()) && step.parse().map_or(true, |step: u16| step > span) {
                return Err(FieldFault::Step {
                    field: self.name,
                    entry: entry.to_owned(),
                    step: step.to_owned(),
                    least: self.least,
                    greatest: self.greatest,
                });
            }
        }
        let mut read = String::new();
        let mut rest = entry;
        while let Some(first) = rest.chars().next() {
            let end = rest.find(|c: char| c.is_alphabetic() != first.is_alphabetic()).unwrap_or(rest.len());
            let (run, after) = rest.split_at(end);
            match first.is_alphabetic() {
                true => read.push_str(&self.number_of(run, entry, read.ends_with('-'))?),
                false => read.push_str(run),
            }
            rest = after;
        }
        self.check_numbers(&read, entry)?;
        Ok(read)
    }

    /// Whether the field has the numbers of an entry, as a number or a range of them. What is neither is left to the
    /// library.
    fn check_numbers(&self, numbers: &str, entry: &str) -> Result<(), FieldFault> {
        let &Self { name: field, least, greatest, .. } = self;
        let (range, step) = numbers.split_once('/').map_or((numbers, None), |(range, step)| (range, Some(step)));
        let number = |text: &str| match !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => Some(text.parse().unwrap_or(u16::MAX)),
            false => None,
        };
        let Some(found) = range.split('-').map(number).collect::<Option<Vec<u16>>>() else { return Ok(()) };
        let entry = || entry.to_owned();
        if found.iter().any(|number| !(least..=greatest).contains(number)) {
            return Err(FieldFault::Number { field, entry: entry(), least, greatest });
        }
        match (&found[..], step) {
            ([first, last], _) if first > last => {
                let instead = format!("{first}-{greatest},{least}-{last}");
                Err(FieldFault::Backwards { field, entry: entry(), instead })
            }
            ([first], Some(step)) => {
                let instead = format!("{first}-{greatest}/{step}");
                Err(FieldFault::StepWithoutRange { field, entry: entry(), instead })
            }
            _ => Ok(()),
        }
    }

    /// The number that the library knows a word by, or the word if it is one of its letters.
    fn number_of(&self, word: &str, entry: &str, ends_range: bool) -> Result<String, FieldFault> {
        let lower = word.to_lowercase();
        let named = |word: &str| {
            let position = self.names.iter().position(|name| *name == word || name.get(..3) == Some(word))?;
            let number = self.first_name + position as u16;
            // A range ends with the Sunday after it: FRI-SUN is 5-7.
            let is_last_sunday = ends_range && number == 0 && self.greatest == 7;
            Some(if is_last_sunday { 7 } else { number })
        };
        if let Some(number) = named(&lower) {
            return Ok(number.to_string());
        }
        if self.letters.contains(&lower.as_str()) {
            return Ok(lower.to_uppercase());
        }
        // The last of the weekdays in a month: MONL is 1L.
        let last = lower.strip_suffix('l').filter(|_| self.letters.contains(&"l")).and_then(named);
        last.map(|number| format!("{number}L")).ok_or_else(|| {
            let known = match self.names {
                [] => format!("numbers from {} to {}", self.least, self.greatest),
                names => format!("numbers from {} to {}, and names such as {}", self.least, self.greatest, names[1]),
            };
            FieldFault::Word { field: self.name, entry: entry.to_owned(), word: word.to_owned(), known }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: &str) -> String {
        read(line).unwrap().text
    }

    #[test]
    fn names_become_numbers_in_the_fields_that_have_them() {
        assert_eq!(text("0 9 * JAN-mar,December MONDAY-fri"), "0 9 * 1-3,12 1-5");
        assert_eq!(text("0 9 * APRIL FRI-SUN"), "0 9 * 4 5-7");
        assert_eq!(text("0 9 L * SUN,mon#2,fridayL,5L"), "0 9 L * 0,1#2,5L,5L");
        assert_eq!(text("0 9 lw,15W * *"), "0 9 LW,15W * *");
        for (line, expected) in [
            ("MON 9 * * *", "\"MON\" in \"MON\" is no minute: it takes numbers from 0 to 59"),
            (
                "0 9 * MON *",
                "\"MON\" in \"MON\" is no month: it takes numbers from 1 to 12, and names such as february",
            ),
            ("0 9 * * JAN", "\"JAN\" in \"JAN\" is no day of week"),
            ("0 9 * SEPTEMBERL *", "is no month"),
        ] {
            let found = read(line).unwrap_err().to_string();
            assert!(found.contains(expected), "{found}");
        }
    }

    #[test]
    fn a_star_in_a_list_is_every_number_of_its_field() {
        assert_eq!(text("0 9 *,1 * 1,*"), "0 9 1-31,1 * 1,0-7");
        assert!(read("0 9 *,1 * 1").unwrap().both_days, "it begins with a star");
    }

    #[test]
    fn numbers_that_a_field_does_not_have_are_refused_by_its_name() {
        for (line, expected) in [
            ("60 * * * *", "\"60\" goes beyond the minute (0 to 59)"),
            ("0 0 0 * *", "\"0\" goes beyond the day of month (1 to 31)"),
            ("0 0 * 1-13 *", "\"1-13\" goes beyond the month (1 to 12)"),
            ("0 99999999 * * *", "goes beyond the hour (0 to 23)"),
            ("0 22-2 * * *", "\"22-2\" of the hour runs backwards: write \"22-23,0-2\""),
            ("0 0 * NOV-feb *", "\"NOV-feb\" of the month runs backwards: write \"11-12,1-2\""),
            ("0 0 * * SAT-MON", "\"SAT-MON\" of the day of week runs backwards: write \"6-7,0-1\""),
            ("10/5 * * * *", "\"10/5\" of the minute has no range: write \"10-59/5\""),
        ] {
            let found = read(line).unwrap_err().to_string();
            assert!(found.contains(expected), "{found}");
        }
        for line in ["59 23 31 12 7", "0-59/1 0-23 1-31 1-12 0-7", "0 9 15W,L * 5L,1#2"] {
            assert_eq!(text(line), line);
        }
    }

    #[test]
    fn nicknames_are_lines_and_others_say_what_to_write() {
        assert_eq!(read("@Midnight"), read("@daily"));
        assert_eq!(read("@Midnight").unwrap().text, "0 0 * * *");
        for (line, expected) in [
            ("@every 5m", "`every = \"5m\"` in place of `cron`"),
            ("@EVERY", "`every = \"5m\"` in place of `cron`"),
            ("@reboot", "`quorate job fire JOB`"),
            ("@fortnightly", "the nicknames are @yearly"),
            ("@daily now", "the nicknames are @yearly"),
        ] {
            let found = read(line).unwrap_err().to_string();
            assert!(found.contains(expected) && found.contains(line), "{found}");
        }
    }

    #[test]
    fn empty_entries_and_steps_past_the_field_are_refused() {
        for line in ["0,,5 * * * *", ",5 * * * *", "5, * * * *", "0 0 1,,15 * *"] {
            assert!(read(line).unwrap_err().to_string().contains("has an empty entry"), "{line}");
        }
        for line in [
            "*/90 * * * *",
            "*/60 * * * *",
            "0 0-12/24 * * *",
            "0 0 */31 * *",
            "0 0 1 */12 *",
            "0 0 * * */8",
            "*/60 * * * * *",
            "*/99999999 * * * *",
        ] {
            assert!(read(line).unwrap_err().to_string().contains("goes beyond the"), "{line}");
        }
        for line in ["*/59 * * * *", "0 */23 * * *", "0 0 */30 * *", "0 0 1 */11 *", "0 0 * * */7", "*/59 * * * * *"] {
            assert_eq!(text(line), line);
        }
    }
}
