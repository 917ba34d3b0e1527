//! The Range header (RFC 9110, section 14): one range of bytes, or the whole.
//!
//! Numbers of any length are taken: what is larger than any object means "to the end", "past the end" or "all of it".
//! Units other than bytes and lists of several ranges are answered with the whole, as HTTP allows; a range that makes
//! no sense is refused, so that a typing error does not download everything.

use quorate_protocols::object::ByteRange;

/// What a range is, for whoever wrote none.
pub const RANGE_HINT: &str =
    "a range is bytes=FIRST-LAST, bytes=FIRST- or bytes=-COUNT, counted from 0, both ends included";

/// Characters of an unreadable header that are shown.
const SHOWN_MAX: usize = 80;

/// A header that makes no sense: its beginning.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read the range {0:?}")]
pub struct Unreadable(String);

/// Reads a Range header; `None` is the whole.
pub fn parse(header: &str) -> Result<Option<ByteRange>, Unreadable> {
    let fault = || Unreadable(header.chars().take(SHOWN_MAX).collect());
    let (unit, spec) = header.trim().split_once('=').ok_or_else(fault)?;
    if !unit.eq_ignore_ascii_case("bytes") || spec.contains(',') {
        return Ok(None);
    }
    let (first, last) = spec.trim().split_once('-').ok_or_else(fault)?;
    let number = |text: &str| number(text).ok_or_else(fault);
    Ok(Some(match (first.is_empty(), last.is_empty()) {
        (true, true) => return Err(fault()),
        (true, false) => ByteRange::Last(number(last)?),
        (false, true) => ByteRange::From { start: number(first)?, length: None },
        (false, false) => {
            let (start, last) = (number(first)?, number(last)?);
            let length = last.checked_sub(start).ok_or_else(fault)?.saturating_add(1);
            ByteRange::From { start, length: Some(length) }
        }
    }))
}

/// Decimal digits, however many: a number too large for any object is the largest there is. `None` for what is no
/// number, signs included.
pub fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_writes_them() {
        let from = |start, length| Ok(Some(ByteRange::From { start, length }));
        assert_eq!(parse("bytes=0-0"), from(0, Some(1)));
        assert_eq!(parse("bytes=5-"), from(5, None));
        assert_eq!(parse("bytes=-7"), Ok(Some(ByteRange::Last(7))));
        assert_eq!(parse("Bytes=5-"), from(5, None), "names of units know no case");
        assert_eq!(parse("lines=1-2"), Ok(None));
        assert_eq!(parse("bytes=0-1,3-4"), Ok(None));
        assert_eq!(parse("bytes=0-18446744073709551615"), from(0, Some(u64::MAX)));
        assert_eq!(parse("bytes=1-99999999999999999999999"), from(1, Some(u64::MAX)));
        assert_eq!(parse("bytes=-18446744073709551615"), Ok(Some(ByteRange::Last(u64::MAX))));
        assert_eq!(parse("bytes=99999999999999999999999-"), from(u64::MAX, None));
        for wrong in [
            "bytes=",
            "bytes=-",
            "bytes=x-1",
            "bytes=3-2",
            "bytes=9",
            "bytes",
            "",
            "0-5",
            "bytes=+1-2",
            "bytes=1-+2",
            "bytes=1 - 2",
            "bytes=--5",
            "bytes=0x1-2",
            "bytes=1-2-3",
            "bytes=\u{663}-\u{664}",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
