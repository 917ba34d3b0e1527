//! Sizes of objects.

/// A slice of an object that is encoded at once. Also the unit of progress and of a map over an object.
pub const SEGMENT_BYTES: usize = 16 * 1024 * 1024;

/// Objects up to this size are copied rather than coded: a piece per byte of data would cost more than it saves.
pub const COPY_BYTES_MAX: u64 = 64 * 1024;

/// Data and parity pieces of one segment together. Bounded by what one quorum command carries for a large object.
pub const COLUMNS_MAX: usize = 16;

/// Largest encoded manifest: it travels in one quorum command.
pub const MANIFEST_BYTES_MAX: usize = 448 * 1024;

/// Segments whose hashes fit a manifest at the default profile: 2,280 x 6 x 33 bytes. 35 GiB.
pub const SEGMENTS_MAX: usize = 2_280;

const _: () = assert!(SEGMENTS_MAX * 6 * 33 + 1024 <= MANIFEST_BYTES_MAX + 8 * 1024);

/// Longest name that a put may give its object.
pub const NAME_BYTES_MAX: usize = 512;
