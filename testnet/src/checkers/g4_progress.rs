//! G4: once faults have ended, everything that was asked for comes to an end within a bound.

use std::fmt::Display;
use std::time::Duration;

use super::{Guarantee, Violation};

/// `waits`: what was asked for after healing (or was still open then), and how long it took; `None` when it had not
/// ended when the bound was over.
pub fn check<T: Display>(waits: &[(T, Option<Duration>)], bound: Duration) -> Vec<Violation> {
    let late = waits.iter().filter(|(_, took)| took.is_none_or(|took| took > bound));
    late.map(|(what, took)| {
        let took = took.map_or("has not ended".to_owned(), |took| format!("took {took:?}"));
        Violation::new(Guarantee::G4, format!("{what} {took}, {bound:?} after the faults are allowed"))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_and_open_are_both_wrong() {
        let second = Duration::from_secs(1);
        let waits = [("quick", Some(second)), ("late", Some(3 * second)), ("open", None)];
        assert_eq!(check(&waits, 2 * second).len(), 2);
        assert_eq!(check(&waits[..1], second), []);
    }
}
