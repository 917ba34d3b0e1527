//! The Range header: one range of bytes, or the whole.

use super::error::ApiError;

/// What part of an object is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Whole,
    /// From here, this many bytes or to the end.
    From(u64, Option<u64>),
    /// This many bytes from the end.
    Last(u64),
}

/// Reads a Range header. Units other than bytes and lists of ranges are answered with the whole, as HTTP allows; a
/// range that makes no sense is refused, so that a typing error does not download everything.
pub fn parse(header: &str) -> Result<Wanted, ApiError> {
    let fault = || {
        ApiError::bad_request(format!("cannot read the range {:?}", header.chars().take(80).collect::<String>()))
            .hint("a range is bytes=FIRST-LAST, bytes=FIRST- or bytes=-COUNT, counted from 0, both ends included")
    };
    let Some(spec) = header.trim().strip_prefix("bytes=") else { return Ok(Wanted::Whole) };
    if spec.contains(',') {
        return Ok(Wanted::Whole);
    }
    let (first, last) = spec.split_once('-').ok_or_else(fault)?;
    let number = |text: &str| text.trim().parse::<u64>().map_err(|_| fault());
    match (first.trim().is_empty(), last.trim().is_empty()) {
        (true, true) => Err(fault()),
        (true, false) => Ok(Wanted::Last(number(last)?)),
        (false, true) => Ok(Wanted::From(number(first)?, None)),
        (false, false) => {
            let (first, last) = (number(first)?, number(last)?);
            let length = last.checked_sub(first).ok_or_else(fault)?.checked_add(1).ok_or_else(fault)?;
            Ok(Wanted::From(first, Some(length)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_writes_them() {
        assert_eq!(parse("bytes=0-0"), Ok(Wanted::From(0, Some(1))));
        assert_eq!(parse("bytes=5-"), Ok(Wanted::From(5, None)));
        assert_eq!(parse("bytes=-7"), Ok(Wanted::Last(7)));
        assert_eq!(parse("lines=1-2"), Ok(Wanted::Whole));
        assert_eq!(parse("bytes=0-1,3-4"), Ok(Wanted::Whole));
        for wrong in ["bytes=", "bytes=-", "bytes=x-1", "bytes=3-2", "bytes=0-18446744073709551615", "bytes=9"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
