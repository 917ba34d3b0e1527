//! Makes a failing run smaller: fewer kinds of faults, less time, while the same guarantee still breaks.
//!
//! A fault that is left out is still drawn, so that the rest of the schedule stays as it was for as long as the nodes
//! do the same.

use std::time::{Duration, Instant};

use crate::run::{Plan, Report, run};

/// Runs the smaller plans of a failing one, for about `budget` of real time, and returns the smallest that breaks the
/// same guarantee. The report given is returned when none does.
pub fn minimise(found: Report, budget: Duration) -> std::io::Result<Report> {
    let end = Instant::now() + budget;
    let Some(guarantee) = found.violations.first().map(|violation| violation.guarantee) else { return Ok(found) };
    let mut least = found;
    let attempt = |least: &mut Report, plan: Plan| -> std::io::Result<bool> {
        if Instant::now() >= end {
            return Ok(false);
        }
        let report = run(plan)?;
        let is_same = report.violations.first().is_some_and(|violation| violation.guarantee == guarantee);
        if is_same {
            *least = report;
        }
        Ok(is_same)
    };
    for fault in least.plan.faults.0.clone() {
        let mut plan = least.plan.clone();
        plan.without.0.insert(fault);
        attempt(&mut least, plan)?;
    }
    // What broke in the second phase may break after a shorter first one.
    for _ in 0..4 {
        let half = least.plan.duration / 2;
        let shorter = half.min(least.simulated);
        let plan = Plan { duration: Duration::from_secs(shorter.as_secs()), ..least.plan.clone() };
        if plan.duration.is_zero() || !attempt(&mut least, plan)? {
            break;
        }
    }
    Ok(least)
}
