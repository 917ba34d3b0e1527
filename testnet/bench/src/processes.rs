//! Processor time of the client and of what it measures, per operation.

use std::collections::BTreeMap;

use quorate_testnet::Testnet;
use quorate_testnet::measure::{cpu_seconds, own_cpu};

/// Processes by the names that rows call them. The client is always one of them.
#[derive(Clone, Debug)]
pub struct Processes(Vec<(String, u32)>);

/// Seconds of processor time that each process had used at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CpuTimes(BTreeMap<String, f64>);

/// The row of the sum.
const ALL: &str = "all";
const CLIENT: &str = "client";

impl Processes {
    /// The nodes that run.
    pub fn of_nodes(testnet: &Testnet) -> Self {
        let nodes = testnet.status().into_iter();
        Self(nodes.filter_map(|node| Some((format!("node-{}", node.index), node.pid?))).collect())
    }

    pub const fn new(named: Vec<(String, u32)>) -> Self {
        Self(named)
    }

    pub fn cpu_times(&self) -> CpuTimes {
        let others = self.0.iter().filter_map(|(name, pid)| Some((name.clone(), cpu_seconds(*pid)?)));
        CpuTimes(others.chain([(CLIENT.to_owned(), own_cpu())]).collect())
    }
}

impl CpuTimes {
    /// Milliseconds that each process used per operation since `before`, and all of them together. Nothing of no
    /// operations; a process that was not there both times is left out.
    pub fn ms_per_operation(&self, before: &Self, operations: u64) -> BTreeMap<String, f64> {
        if operations == 0 {
            return BTreeMap::new();
        }
        let each = self.0.iter().filter_map(|(name, after)| {
            let used = after - before.0.get(name)?;
            Some((name.clone(), used * 1000.0 / operations as f64))
        });
        let mut each: BTreeMap<String, f64> = each.collect();
        each.insert(ALL.to_owned(), each.values().sum());
        each
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_has_its_part_of_an_operation() {
        let times = |values: &[(&str, f64)]| {
            CpuTimes(values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect())
        };
        let before = times(&[("node-1", 1.0), ("node-2", 2.0), ("client", 0.5)]);
        let after = times(&[("node-1", 1.5), ("client", 0.75), ("node-3", 9.0)]);
        let each = after.ms_per_operation(&before, 250);
        let expected: BTreeMap<String, f64> =
            [("all", 3.0), ("client", 1.0), ("node-1", 2.0)].map(|(name, ms)| (name.to_owned(), ms)).into();
        assert_eq!(each, expected);
        assert!(after.ms_per_operation(&before, 0).is_empty());
        assert!(Processes::new(Vec::new()).cpu_times().0.contains_key("client"));
    }
}
