//! Bytes as a history: each few of them choose what happens next to a state machine.
//!
//! A step is [`STEP_BYTES`] long, so that the mutator can repeat, drop and swap whole steps. Numbers are read modulo
//! what is asked for: every script means something, and a small change of the bytes is a small change of the history.

/// Bytes of one step: what to do, and seven small arguments.
pub const STEP_BYTES: usize = 8;

/// Steps of one script: longer ones only cost time.
pub const STEPS_MAX: usize = 128;

#[derive(Clone, Copy, Debug)]
pub struct Step<'a>(&'a [u8]);

/// The steps in `bytes`; a last one that is cut off reads as if zeros followed.
pub fn steps(bytes: &[u8]) -> impl Iterator<Item = Step<'_>> {
    bytes.chunks(STEP_BYTES).take(STEPS_MAX).map(Step)
}

impl Step<'_> {
    pub fn byte(self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }
    /// A number below `bound`, which is at least 1.
    pub fn below(self, at: usize, bound: usize) -> usize {
        usize::from(self.byte(at)) % bound
    }
    pub fn pick<T: Copy>(self, at: usize, from: &[T]) -> T {
        from[self.below(at, from.len())]
    }
    pub fn is_set(self, at: usize, bit: u8) -> bool {
        self.byte(at) >> (bit % 8) & 1 == 1
    }
    /// Grows quickly with the byte: 0, 1, 2, 4 … 2^63, and what lies between.
    pub fn wide(self, at: usize) -> u64 {
        match self.byte(at) {
            0 => 0,
            byte => (1u64 << (byte / 4)) + u64::from(byte % 4),
        }
    }
}
