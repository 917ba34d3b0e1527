//! Lengths of time as people write them: `90s`, `1h 30m`, `10days`. Only units of one length.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const DAY_SECONDS: u64 = 24 * 3600;

/// Units that a calendar gives different lengths. The library that reads spans takes them as 30.44 and 365.25 days.
const OF_THE_CALENDAR: [&str; 8] = ["months", "month", "M", "years", "year", "yrs", "yr", "y"];

/// A length of time; shown with days as its largest unit, so that what is shown can be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseSpanError {
    #[error("{unit:?} has no fixed length: write days, such as \"30days\"")]
    Calendar { unit: String },
    #[error("a number and a unit, such as \"90s\" or \"1h 30m\", is needed")]
    Malformed,
}

impl FromStr for Span {
    type Err = ParseSpanError;
    fn from_str(text: &str) -> Result<Self, ParseSpanError> {
        let mut words = text.split(|c: char| !c.is_alphabetic());
        if let Some(unit) = words.find(|word| OF_THE_CALENDAR.contains(word)) {
            return Err(ParseSpanError::Calendar { unit: unit.to_owned() });
        }
        humantime::parse_duration(text).map(Self).map_err(|_| ParseSpanError::Malformed)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = self.0.as_secs() / DAY_SECONDS;
        let rest = Duration::new(self.0.as_secs() % DAY_SECONDS, self.0.subsec_nanos());
        match days {
            0 => return write!(f, "{}", humantime::format_duration(rest)),
            1 => write!(f, "1day")?,
            days => write!(f, "{days}days")?,
        }
        if rest.is_zero() { Ok(()) } else { write!(f, " {}", humantime::format_duration(rest)) }
    }
}

/// As command lines take it.
pub fn parse_span(text: &str) -> Result<Duration, ParseSpanError> {
    text.parse::<Span>().map(|Span(span)| span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_and_years_have_no_length_in_any_spelling() {
        for unit in ["month", "months", "M", "year", "years", "yr", "yrs", "y"] {
            for text in [format!("1{unit}"), format!("2 {unit}"), format!("1day 3{unit}"), format!("1{unit} 2h")] {
                assert!(humantime::parse_duration(&text).is_ok(), "the library takes {text}");
                let fault = parse_span(&text).unwrap_err();
                assert_eq!(fault, ParseSpanError::Calendar { unit: unit.to_owned() }, "{text}");
            }
        }
        for (text, seconds) in [("1m", 60), ("1min", 60), ("2 minutes", 120), ("5weeks 1d", 36 * 86_400), ("0", 0)] {
            assert_eq!(parse_span(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse_span("1fortnight"), Err(ParseSpanError::Malformed));
    }

    #[test]
    fn what_is_shown_reads_back() {
        for (seconds, shown) in [
            (0, "0s"),
            (5_400, "1h 30m"),
            (86_400, "1day"),
            (366 * 86_400, "366days"),
            (86_400 * 10_000_000_000, "10000000000days"),
            (45 * 86_400 + 61, "45days 1m 1s"),
        ] {
            let span = Span(Duration::from_secs(seconds));
            assert_eq!(span.to_string(), shown);
            assert_eq!(shown.parse(), Ok(span));
        }
    }
}
