//! The one place that turns values into bytes and back, on the wire and on disk.
//!
//! bincode 2 with fixed settings (little endian, variable-length integers). Decoding takes a size limit, refuses
//! trailing bytes, and allocates in proportion to the input, whatever lengths the input declares. On the wire
//! the version is the protocol's name (`/quorate/<protocol>/<major>`); on disk it is the first byte of a record.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest input that `decode` will look at: the largest message head plus room. Bulk bytes never pass through here.
pub const DECODE_BYTES_MAX: usize = 4 * 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("message of {bytes} bytes is larger than the {limit} allowed")]
    TooLarge { bytes: usize, limit: usize },
    #[error("malformed message: {reason}")]
    Malformed { reason: String },
    #[error("{extra} bytes left over after the message")]
    Trailing { extra: usize },
    #[error("record version {found} is not known here (this build reads up to {newest})")]
    Version { found: u8, newest: u8 },
    #[error("empty record")]
    Empty,
}

/// Decodes with what the value may claim in memory bounded by `CLAIM`. bincode takes that bound as a type.
fn decode_within<T: DeserializeOwned, const CLAIM: usize>(
    bytes: &[u8],
) -> Result<(T, usize), bincode::error::DecodeError> {
    bincode::serde::decode_from_slice(bytes, bincode::config::standard().with_limit::<CLAIM>())
}

/// A byte of input may stand for eight in memory (a small number of a wide type), so a value may claim eight times its
/// length, rounded up to the next of these. Beyond 1 MiB come only raw bytes, which claim what they are.
fn decode_bounded<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), bincode::error::DecodeError> {
    const KIB: usize = 1024;
    match bytes.len().saturating_mul(8).div_ceil(KIB) {
        0..=32 => decode_within::<T, { 32 * KIB }>(bytes),
        33..=512 => decode_within::<T, { 512 * KIB }>(bytes),
        _ => decode_within::<T, { 2 * DECODE_BYTES_MAX }>(bytes),
    }
}

/// Encodes a value. Panics only if a `Serialize` implementation of ours fails, which none does.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, bincode::config::standard()).expect("our types always serialize")
}

/// Decodes a value that takes up the whole of `bytes`, which may be at most `limit` long.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, DecodeError> {
    let limit = limit.min(DECODE_BYTES_MAX);
    if bytes.len() > limit {
        return Err(DecodeError::TooLarge { bytes: bytes.len(), limit });
    }
    let (value, read) = decode_bounded(bytes).map_err(|error| DecodeError::Malformed { reason: error.to_string() })?;
    if read != bytes.len() {
        return Err(DecodeError::Trailing { extra: bytes.len() - read });
    }
    Ok(value)
}

/// A type kept on disk. The tag byte in front of its bytes says which version wrote it.
pub trait Record: Serialize + DeserializeOwned {
    /// The version that this build writes.
    const VERSION: u8;
    /// Reads the body of an older version; called only for tags below `VERSION`.
    fn migrate(version: u8, body: &[u8]) -> Result<Self, DecodeError> {
        let _ = body;
        Err(DecodeError::Version { found: version, newest: Self::VERSION })
    }
}

pub fn encode_record<T: Record>(value: &T) -> Vec<u8> {
    let mut bytes = vec![T::VERSION];
    bytes.extend_from_slice(&encode(value));
    bytes
}

pub fn decode_record<T: Record>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (&version, body) = bytes.split_first().ok_or(DecodeError::Empty)?;
    match version {
        version if version == T::VERSION => decode(body, DECODE_BYTES_MAX),
        version if version < T::VERSION => T::migrate(version, body),
        found => Err(DecodeError::Version { found, newest: T::VERSION }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_declared_length_beyond_the_limit_is_refused_without_allocating() {
        // A vector that claims 2^60 elements.
        let mut bytes = vec![253];
        bytes.extend_from_slice(&(1u64 << 60).to_le_bytes());
        assert!(matches!(decode::<Vec<u8>>(&bytes, 1024), Err(DecodeError::Malformed { .. })));
    }

    #[test]
    fn trailing_bytes_are_refused() {
        assert_eq!(decode::<u8>(&[1, 2], 10), Err(DecodeError::Trailing { extra: 1 }));
    }

    proptest! {
        #[test]
        fn any_value_reads_back(value: (u64, Vec<u8>, Option<String>)) {
            let bytes = encode(&value);
            prop_assert_eq!(decode::<(u64, Vec<u8>, Option<String>)>(&bytes, DECODE_BYTES_MAX).unwrap(), value);
        }
    }
}
