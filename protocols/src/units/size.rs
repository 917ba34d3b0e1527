//! Sizes as people write them: `10 GiB`, `512MiB`, `1.5 TiB`.

use std::fmt;
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Binary units only: a disk "of 10 GB" is read as a mistake rather than guessed at.
const UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a number and a unit (B, KiB, MiB, GiB or TiB), such as \"10 GiB\"")]
pub struct ParseSizeError;

impl FromStr for ByteSize {
    type Err = ParseSizeError;
    fn from_str(text: &str) -> Result<Self, ParseSizeError> {
        let text = text.trim();
        let (number, unit) = UNITS
            .iter()
            .find_map(|(name, unit)| text.strip_suffix(name).map(|number| (number.trim(), *unit)))
            .ok_or(ParseSizeError)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty()
            || fraction.len() > 6
            || !(whole.bytes().chain(fraction.bytes())).all(|b| b.is_ascii_digit())
        {
            return Err(ParseSizeError);
        }
        let whole: u64 = whole.parse().map_err(|_| ParseSizeError)?;
        let part = match fraction {
            "" => 0,
            digits => {
                let numerator: u64 = digits.parse().map_err(|_| ParseSizeError)?;
                // At most 10^6 x 2^40, well inside 64 bits.
                numerator * unit / 10u64.pow(digits.len() as u32)
            }
        };
        whole.checked_mul(unit).and_then(|bytes| bytes.checked_add(part)).map(Self).ok_or(ParseSizeError)
    }
}

/// The largest unit that says it exactly, so that it reads back the same.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit) =
            UNITS.iter().find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit)).copied().unwrap_or(("B", 1));
        write!(f, "{} {name}", self.0 / unit)
    }
}

/// Sentences round: two digits too many hide the size. To the lower and the upper tenth of the unit, so that of two
/// sizes the smaller one rounded down and the larger one rounded up never read the same.
impl ByteSize {
    pub fn rounded_down(self) -> String {
        self.in_tenths(|bytes, tenth| bytes / tenth)
    }
    pub fn rounded_up(self) -> String {
        self.in_tenths(u128::div_ceil)
    }
    fn in_tenths(self, divide: impl Fn(u128, u128) -> u128) -> String {
        let (name, unit) = UNITS.iter().find(|(_, unit)| self.0 >= *unit).copied().unwrap_or(("B", 1));
        let tenths = divide(u128::from(self.0) * 10, u128::from(unit));
        match (tenths / 10, tenths % 10) {
            (whole, 0) => format!("{whole} {name}"),
            (whole, tenth) => format!("{whole}.{tenth} {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        assert_eq!("10 GiB".parse(), Ok(ByteSize(10 << 30)));
        assert_eq!("1.5MiB".parse(), Ok(ByteSize(3 << 19)));
        assert_eq!("0 B".parse(), Ok(ByteSize(0)));
        for text in ["", "10", "GiB", "-1 GiB", "10 GB", "1e3 B", ". B", "99999999 TiB", "1.0000001 TiB", "٣ B"] {
            assert_eq!(text.parse::<ByteSize>(), Err(ParseSizeError), "{text}");
        }
    }

    #[test]
    fn sizes_in_sentences_are_rounded() {
        let both = |bytes| (ByteSize(bytes).rounded_down(), ByteSize(bytes).rounded_up());
        let pair = |down: &str, up: &str| (down.to_owned(), up.to_owned());
        assert_eq!(both(0), pair("0 B", "0 B"));
        assert_eq!(both(1023), pair("1023 B", "1023 B"));
        assert_eq!(both(256 << 20), pair("256 MiB", "256 MiB"));
        assert_eq!(both((256 << 20) + 1), pair("256 MiB", "256.1 MiB"));
        assert_eq!(both(3 << 29), pair("1.5 GiB", "1.5 GiB"));
    }

    proptest! {
        #[test]
        fn a_size_that_is_too_small_never_reads_like_the_one_needed(has: u64, more in 1..10_000_000_000_u64) {
            let needs = has.saturating_add(more);
            prop_assume!(has < needs);
            prop_assert_ne!(ByteSize(has).rounded_down(), ByteSize(needs).rounded_up());
        }
        #[test]
        fn sizes_read_back_what_they_print(bytes: u64) {
            prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }
    }
}
