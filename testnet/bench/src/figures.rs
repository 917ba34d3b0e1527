//! Figures of several runs: percentiles within each, the spread over all.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_api::percentile;
use serde::Serialize;

/// The middle of several runs, and the least and the greatest of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// All three are 0 of no runs.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let median = match (sorted.len(), sorted.len() / 2) {
            (0, _) => 0.0,
            (length, middle) if length % 2 == 1 => sorted[middle],
            (_, middle) => (sorted[middle - 1] + sorted[middle]) / 2.0,
        };
        let (min, max) = (sorted.first().copied().unwrap_or(0.0), sorted.last().copied().unwrap_or(0.0));
        Self { median, min, max }
    }

    /// Of each name the spread over the runs that have it.
    pub fn of_each(runs: &[BTreeMap<String, f64>]) -> BTreeMap<String, Self> {
        let mut values = BTreeMap::<&String, Vec<f64>>::new();
        for (name, value) in runs.iter().flatten() {
            values.entry(name).or_default().push(*value);
        }
        values.into_iter().map(|(name, values)| (name.clone(), Self::of(&values))).collect()
    }
}

/// How long the operations of one run took, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

impl Latency {
    /// `None` of no operation. Sorts them.
    pub fn of(samples: &mut [Duration]) -> Option<Self> {
        samples.sort_unstable();
        let at = |share| percentile(samples, share).map(ms);
        Some(Self { p50_ms: at(0.5)?, p99_ms: at(0.99)?, max_ms: at(1.0)? })
    }
}

pub fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}

/// Bytes per second, in MiB.
pub fn mib_per_s(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / f64::from(1 << 20) / took.as_secs_f64().max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_the_middle_of_the_runs_with_their_ends() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of(&[4.0, 1.0]), Spread { median: 2.5, min: 1.0, max: 4.0 });
        assert_eq!(Spread::of(&[]), Spread { median: 0.0, min: 0.0, max: 0.0 });
    }

    #[test]
    fn each_name_has_a_spread_of_its_own_runs() {
        let run = |values: &[(&str, f64)]| values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let spreads = Spread::of_each(&[run(&[("a", 1.0), ("b", 5.0)]), run(&[("a", 3.0)])]);
        assert_eq!(spreads["a"], Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(spreads["b"], Spread { median: 5.0, min: 5.0, max: 5.0 });
    }

    #[test]
    fn latencies_are_percentiles_in_milliseconds() {
        let mut samples: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(Latency::of(&mut samples), Some(Latency { p50_ms: 50.0, p99_ms: 99.0, max_ms: 100.0 }));
        assert_eq!(Latency::of(&mut []), None);
        assert_eq!(mib_per_s(4 << 20, Duration::from_secs(2)), 2.0);
    }
}
