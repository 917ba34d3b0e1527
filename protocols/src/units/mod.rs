//! Sizes and lengths of time as people write them: in settings, specifications and on the command line.

mod size;
mod span;

pub use size::ByteSize;
pub use span::{ParseSpanError, Span, parse_span};
