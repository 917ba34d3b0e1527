//! Rounds: the same target, seed and number are the same inputs, every time and everywhere.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use crate::mutate::{Random, Style, mutate};
use crate::targets::Target;
use crate::trail::Trail;

/// Inputs of one round: the pool grows within a round and is forgotten after it, so that none takes more memory.
pub const ROUND_INPUTS: u64 = 4_000;

/// Inputs kept in a round because of what they showed.
const POOL_MAX: usize = 1_024;

/// Attempts to make a failing input smaller.
const SHRINK_ATTEMPTS: usize = 4_000;

/// An input that broke something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The panic's message and place.
    pub what: String,
    pub input: Vec<u8>,
    /// Inputs tried before it.
    pub after: u64,
}

/// What a round without a failure did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub inputs: u64,
    /// Marks of all trails together: how much of the target's behaviour was seen.
    pub marks: usize,
}

/// Tries `inputs` inputs: the seeds themselves, then what is made of them. `before` sees each before it is run, and
/// says whether to go on: a round may be left early.
pub fn round(
    target: &Target,
    seed: u64,
    number: u64,
    inputs: u64,
    mut before: impl FnMut(&[u8]) -> bool,
) -> Result<Report, Box<Failure>> {
    let mut random = Random::new(seed ^ number.rotate_left(32) ^ hash(&target.name));
    let style = Style { grain: target.grain, words: &target.words, bytes_max: target.bytes_max };
    let mut pool = target.seeds.clone();
    let mut marks = BTreeSet::new();
    for index in 0..inputs {
        let input = match pool.get(index as usize).filter(|_| (index as usize) < target.seeds.len()) {
            Some(seed) => seed.clone(),
            None if pool.is_empty() => mutate(&mut random, style, &[], &[]),
            None => {
                let (one, other) = (random.below(pool.len()), random.below(pool.len()));
                mutate(&mut random, style, &pool[one], &pool[other])
            }
        };
        if !before(&input) {
            return Ok(Report { inputs: index, marks: marks.len() });
        }
        match try_once(target, &input) {
            Ok(trail) => {
                let known = marks.len();
                marks.extend(trail.marks());
                if marks.len() > known && pool.len() < POOL_MAX {
                    pool.push(input);
                }
            }
            Err(what) => {
                let input = shrink(target, input, &mut before);
                return Err(Box::new(Failure { what, input, after: index }));
            }
        }
    }
    Ok(Report { inputs, marks: marks.len() })
}

/// Runs one input; the panic's message and place if there was one.
pub fn try_once(target: &Target, input: &[u8]) -> Result<Trail, String> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let is_ours = CAUGHT.with_borrow_mut(|caught| match caught {
                Some(text) => {
                    *text = info.to_string();
                    true
                }
                None => false,
            });
            if !is_ours {
                loud(info);
            }
        }));
    });
    CAUGHT.set(Some(String::new()));
    let result = panic::catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let caught = CAUGHT.take().unwrap_or_default();
    result.map_err(|_| caught)
}

thread_local! {
    /// `Some` while this thread runs a target: its panics are results, not accidents.
    static CAUGHT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Drops blocks and zeroes bytes for as long as the input still fails, in whatever way.
fn shrink(target: &Target, mut input: Vec<u8>, before: &mut impl FnMut(&[u8]) -> bool) -> Vec<u8> {
    let mut attempts = 0;
    let mut fails = |candidate: &[u8]| {
        attempts += 1;
        before(candidate);
        (attempts <= SHRINK_ATTEMPTS).then(|| try_once(target, candidate).is_err())
    };
    let mut size = input.len().next_power_of_two().max(target.grain);
    while size >= target.grain {
        let mut at = 0;
        while at < input.len() {
            let mut shorter = input.clone();
            shorter.drain(at..(at + size).min(input.len()));
            match fails(&shorter) {
                Some(true) => input = shorter,
                Some(false) => at += size,
                None => return input,
            }
        }
        size /= 2;
    }
    for at in 0..input.len() {
        let before = std::mem::take(&mut input[at]);
        if before != 0 && fails(&input) != Some(true) {
            input[at] = before;
        }
    }
    input
}

fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
