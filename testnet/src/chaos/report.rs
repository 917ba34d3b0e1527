//! The report of a run, as data (JSON) and as a page (Markdown). It names no folder of this machine, so that
//! it can be kept beside the code.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::{Fault, Operation};
use crate::checkers::{Guarantee, Violation};

#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The command that makes a run like this one.
    pub command: String,
    pub version: String,
    pub seed: u64,
    pub nodes: usize,
    pub cores: usize,
    pub length_s: f64,
    /// Operations by kind.
    pub operations: BTreeMap<&'static str, Outcomes>,
    /// Puts without an answer that turned out to have happened.
    pub unknown_happened: u64,
    pub objects_acknowledged: usize,
    /// Objects whose commands and questions were judged as a history, and how many of these there were.
    pub histories: usize,
    pub calls: usize,
    /// Judgements that were given up as too hard.
    pub histories_undecided: u64,
    /// Faults injected, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// SIGKILLs by what the victim was at that moment; a node can be several things, and is counted as the first.
    pub kills_by_role: BTreeMap<&'static str, u64>,
    /// Jobs under way when nodes were killed.
    pub jobs_at_kills: JobsAtKills,
    /// What commands to a quorum that had lost its majority came to, by the code of the answer. None may be `done`.
    pub outage_answers: BTreeMap<String, u64>,
    /// From the fault that took a primary to the next command that its quorum committed.
    pub failover: Spread,
    /// From the end of a fault until the node was answering and had caught up.
    pub recovery: Spread,
    /// Longest time in which a quorum of which a majority was whole committed nothing, probed several times a second.
    pub longest_stall_ms: f64,
    pub rss_bytes_max: u64,
    pub guarantees: Vec<Checked>,
    pub violations: Vec<Finding>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outcomes {
    pub ok: u64,
    /// Refused: known not to have happened.
    pub failed: u64,
    /// No answer, or one that says so: it may have happened.
    pub unknown: u64,
}

/// How many jobs had been acknowledged and had not ended, kill by kill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JobsAtKills {
    /// Kills with at least one.
    pub kills: usize,
    pub median: u64,
    pub most: u64,
}

impl JobsAtKills {
    pub fn of(samples: &[u64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable();
        Self {
            kills: sorted.iter().filter(|count| **count > 0).count(),
            median: sorted.get(sorted.len() / 2).copied().unwrap_or(0),
            most: sorted.last().copied().unwrap_or(0),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    pub count: usize,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

impl Spread {
    pub fn of(samples: &[Duration]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable();
        let at = |share: f64| {
            let rank = (share * sorted.len() as f64).ceil() as usize;
            let sample = sorted.get(rank.clamp(1, sorted.len().max(1)) - 1);
            sample.map_or(0.0, |sample| sample.as_secs_f64() * 1000.0)
        };
        Self { count: sorted.len(), p50_ms: at(0.5), p90_ms: at(0.9), p99_ms: at(0.99), max_ms: at(1.0) }
    }
}

/// How much of a guarantee was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Checked {
    pub guarantee: Guarantee,
    pub checks: u64,
    pub what: &'static str,
}

/// A broken promise, and where to look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub guarantee: Guarantee,
    pub what: String,
    /// Into the run.
    pub at_s: u64,
    /// A command to look closer.
    pub look: String,
}

impl Finding {
    pub fn new(violation: Violation, at: Duration, look: impl Into<String>) -> Self {
        let Violation { guarantee, what } = violation;
        Self { guarantee, what, at_s: at.as_secs(), look: look.into() }
    }
}

impl Report {
    pub fn kills(&self) -> u64 {
        self.faults.get("kill").copied().unwrap_or(0)
    }

    /// As a page.
    pub fn to_markdown(&self) -> String {
        let mut text = String::new();
        let verdict = match self.violations.len() {
            0 => "No violation".to_owned(),
            1 => "One violation".to_owned(),
            more => format!("{more} violations"),
        };
        let length = humantime::format_duration(Duration::from_secs(self.length_s as u64));
        let mut line = |args: std::fmt::Arguments<'_>| {
            // Writing to a string cannot fail.
            let _ = text.write_fmt(args);
            text.push('\n');
        };
        line(format_args!("# Chaos: {verdict} in {length}, {} kills\n", self.kills()));
        line(format_args!("```sh\n{}\n```\n", self.command));
        line(format_args!(
            "quorate {}, {} nodes on {} cores, seed {}.\n",
            self.version, self.nodes, self.cores, self.seed
        ));
        line(format_args!("| Operation | ok | failed | unknown |\n| --- | ---: | ---: | ---: |"));
        for (name, Outcomes { ok, failed, unknown }) in &self.operations {
            line(format_args!("| {name} | {ok} | {failed} | {unknown} |"));
        }
        line(format_args!(""));
        if self.operations.keys().any(|name| *name != Operation::Job.name()) {
            line(format_args!(
                "{} acknowledgements of puts and removals; {} unknown puts had happened. The {} calls of {} objects fit \
                 one order each; {} undecided.\n",
                self.objects_acknowledged, self.unknown_happened, self.calls, self.histories, self.histories_undecided
            ));
        }
        line(format_args!("| Fault | injected |\n| --- | ---: |"));
        for (name, count) in &self.faults {
            line(format_args!("| {name} | {count} |"));
        }
        let roles: Vec<String> = self.kills_by_role.iter().map(|(role, count)| format!("{count} {role}")).collect();
        line(format_args!("\nKilled: {}.\n", roles.join(", ")));
        if self.operations.contains_key(Operation::Job.name()) {
            let JobsAtKills { kills, median, most } = self.jobs_at_kills;
            line(format_args!(
                "Jobs were under way at {kills} of these kills: {median} in the median, {most} at most.\n"
            ));
        }
        if let Some(outages) = self.faults.get(Fault::Majority.name()) {
            let answers: Vec<String> =
                self.outage_answers.iter().map(|(code, count)| format!("{count} {code}")).collect();
            line(format_args!(
                "{outages} times a quorum had no majority. Commands to it were answered meanwhile: {}.\n",
                answers.join(", ")
            ));
        }
        line(format_args!("| ms | count | median | p90 | p99 | worst |\n| --- | ---: | ---: | ---: | ---: | ---: |"));
        for (name, spread) in
            [("a primary was lost → next commit", self.failover), ("fault over → whole again", self.recovery)]
        {
            let Spread { count, p50_ms, p90_ms, p99_ms, max_ms } = spread;
            line(format_args!("| {name} | {count} | {p50_ms:.0} | {p90_ms:.0} | {p99_ms:.0} | {max_ms:.0} |"));
        }
        line(format_args!(
            "\nLongest stall of a quorum with a whole majority: {:.0} ms. Largest node: {:.0} MiB.\n",
            self.longest_stall_ms,
            self.rss_bytes_max as f64 / f64::from(1 << 20)
        ));
        line(format_args!("| Guarantee | checks | of what | violations |\n| --- | ---: | --- | ---: |"));
        for Checked { guarantee, checks, what } in &self.guarantees {
            let broken = self.violations.iter().filter(|found| found.guarantee == *guarantee).count();
            line(format_args!("| {guarantee:?} | {checks} | {what} | {broken} |"));
        }
        for Finding { guarantee, what, at_s, look } in &self.violations {
            line(format_args!("\n- **{guarantee:?}** after {at_s} s: {what}. Look closer: `{look}`"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_was_checked_and_what_was_broken() {
        let samples: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        let failover = Spread::of(&samples);
        assert_eq!((failover.p50_ms, failover.p99_ms, failover.max_ms, failover.count), (50.0, 99.0, 100.0, 100));
        assert_eq!(Spread::of(&[]), Spread::default());
        let violation = Violation::new(Guarantee::G1, "x was acknowledged and is gone");
        let report = Report {
            command: "quorate testnet chaos --seed 1".into(),
            failover,
            faults: [("kill", 7)].into(),
            guarantees: vec![Checked { guarantee: Guarantee::G1, checks: 12, what: "objects asked for" }],
            violations: vec![Finding::new(violation, Duration::from_secs(3), "quorate object show x")],
            ..Report::default()
        };
        let text = report.to_markdown();
        for words in ["One violation", "7 kills", "--seed 1", "| G1 | 12 | objects asked for | 1 |", "object show x"] {
            assert!(text.contains(words), "{words:?} is not in:\n{text}");
        }
    }
}
