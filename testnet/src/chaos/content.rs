//! Contents of the objects of a run.

/// Content that no other number of this seed has.
pub fn content(seed: u64, number: u64, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    let mut hasher = blake3::Hasher::new_derive_key("quorate chaos 2026 content");
    hasher.update(&seed.to_le_bytes());
    hasher.update(&number.to_le_bytes());
    hasher.finalize_xof().fill(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_different_contents() {
        assert_ne!(content(1, 1, 8), content(1, 2, 8));
        assert_ne!(content(1, 1, 8), content(2, 1, 8));
    }
}
