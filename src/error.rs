//! Errors of more than one module: the text of an error with all that caused it, and the refusal of every fault hook.

pub use quorate_protocols::text::chain;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("faults can be injected only into a node started with --testing")]
pub struct FaultsAreOff;

/// What every error that a person reads must keep to.
#[cfg(test)]
pub(crate) fn assert_reads_well(chain: &str) {
    for bad in ["; ;", ": :", ": ;", ";;", "::", "()", "  ", "0 refused"] {
        assert!(!chain.contains(bad), "{bad:?} in {chain:?}");
    }
    assert!(!chain.trim_end().ends_with(['.', ':', ';']) && chain.trim() == chain, "{chain:?}");
    let parts: Vec<&str> = chain.split(": ").collect();
    for (index, part) in parts.iter().enumerate() {
        assert!(!parts[..index].contains(part), "{part:?} is said twice in {chain:?}");
    }
}
