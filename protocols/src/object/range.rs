//! The range of an object's bytes that a reader wants.

use std::ops::Range;

/// Why a range means no bytes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeFault {
    #[error("range starts at {start}, past the end of the object at {size}")]
    PastEnd { start: u64, size: u64 },
    #[error("a range of the last 0 bytes names none of the {size}")]
    NoBytes { size: u64 },
}

/// A part of an object, as a reader asks for it before it knows the object's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// From here, this many bytes or to the end; fewer when the object ends before.
    From { start: u64, length: Option<u64> },
    /// This many bytes from the end, or all when there are fewer.
    Last(u64),
}

impl ByteRange {
    /// The bytes that this means of an object of `size` bytes.
    ///
    /// As RFC 9110 (14.1.2) has it: what begins at or past the end cannot be satisfied, and so nothing of an empty
    /// object can but its last bytes, which are all of it; nor can the last none.
    pub fn of_size(self, size: u64) -> Result<Range<u64>, RangeFault> {
        match self {
            Self::Last(0) => Err(RangeFault::NoBytes { size }),
            Self::Last(count) => Ok(size.saturating_sub(count)..size),
            Self::From { start, length: Some(0) } if start <= size => Ok(start..start),
            Self::From { start, .. } if start >= size => Err(RangeFault::PastEnd { start, size }),
            Self::From { start, length } => Ok(start..start.saturating_add(length.unwrap_or(size)).min(size)),
        }
    }
}
