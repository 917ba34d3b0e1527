//! Everything that is fuzzed: a name, what its inputs are made from, and the function that takes them.

mod approval;
mod directory;
mod liveness;
mod modules;
mod mux;
mod quorum;
mod resources;
mod snapshot;
mod text;
mod triggers;
mod wire;

use crate::corpus;
use crate::script::{STEP_BYTES, STEPS_MAX};
use crate::trail::Trail;

pub struct Target {
    /// Also the name of its file in the corpus.
    pub name: String,
    /// Inputs are changed in blocks of this many bytes.
    pub grain: usize,
    /// Put into inputs as they are.
    pub words: Vec<&'static str>,
    pub bytes_max: usize,
    /// Tried first, and what the others are made from.
    pub seeds: Vec<Vec<u8>>,
    /// Panics when something is broken.
    pub run: Run,
}

/// Takes an input and says what it did.
pub type Run = Box<dyn Fn(&[u8]) -> Trail + Send + Sync>;

impl Target {
    /// A target that reads bytes.
    pub fn bytes(name: &str, run: impl Fn(&[u8]) -> Trail + Send + Sync + 'static) -> Self {
        let (name, run) = (name.to_owned(), Box::new(run));
        Self { name, grain: 1, words: Vec::new(), bytes_max: 64 * 1024, seeds: Vec::new(), run }
    }
    /// A target that reads text; other bytes are read as their nearest text.
    pub fn text(name: &str, words: &[&'static str], run: impl Fn(&str) -> Trail + Send + Sync + 'static) -> Self {
        let words = words.to_vec();
        Self { words, ..Self::bytes(name, move |bytes| run(&String::from_utf8_lossy(bytes))) }
    }
    /// A target whose bytes are a history.
    pub fn script(name: &str, run: fn(&[u8]) -> Trail) -> Self {
        Self { grain: STEP_BYTES, bytes_max: STEP_BYTES * STEPS_MAX, ..Self::bytes(name, run) }
    }
    fn with_seeds<B: AsRef<[u8]>>(mut self, seeds: impl IntoIterator<Item = B>) -> Self {
        self.seeds.extend(seeds.into_iter().map(|seed| seed.as_ref().to_vec()));
        self
    }
}

/// Every target, with its committed inputs.
pub fn all() -> Vec<Target> {
    let mut targets = wire::targets();
    targets.extend(text::targets());
    targets.extend([
        snapshot::target(),
        quorum::bytes_target(),
        quorum::commands_target(),
        triggers::target(),
        approval::target(),
        resources::tree_target(),
        resources::leases_target(),
        liveness::detector_target(),
        liveness::election_target(),
        directory::target(),
        modules::target(),
        mux::target(),
    ]);
    for target in &mut targets {
        target.seeds.extend(corpus::committed(&target.name).into_iter().map(|(_, bytes)| bytes));
    }
    targets
}
