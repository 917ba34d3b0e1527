//! Errors of more than one module: the text of an error with all that caused it, and the refusal of every fault hook.

/// The error and its sources, outermost first: a person needs all of it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        // Some `Display`s already include their source.
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}

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
