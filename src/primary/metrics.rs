//! Counters of the driver, for the operator.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Counters of one node's driver. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct DriverMetrics {
    pub duties_done: Counter,
    pub duties_failed: Counter,
    pub audits: Counter,
    pub audits_damaged: Counter,
    pub columns_gone: Counter,
    pub columns_distrusted: Counter,
    pub attempts_given: Counter,
    pub workers_lost: Counter,
    pub triggers_due: Counter,
    pub reports_recorded: Counter,
    pub reports_stale: Counter,
    pub reports_refused: Counter,
    pub watches_met: Counter,
    pub watches_refused: Counter,
}

impl DriverMetrics {
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("quorate_driver");
        registry.register("duties_done", "Duties of led quorums performed", self.duties_done.clone());
        registry.register("duties_failed", "Duties that failed and are tried again", self.duties_failed.clone());
        registry.register("audits", "Columns audited", self.audits.clone());
        registry.register("audits_damaged", "Audits that found damage", self.audits_damaged.clone());
        registry.register("columns_gone", "Columns whose holder was found gone for good", self.columns_gone.clone());
        registry.register(
            "columns_distrusted",
            "Columns to be rebuilt elsewhere because their holder is not trusted any more",
            self.columns_distrusted.clone(),
        );
        registry.register("attempts_given", "Attempts of tasks sent to workers", self.attempts_given.clone());
        registry.register("workers_lost", "Workers given up with their attempts", self.workers_lost.clone());
        registry.register("triggers_due", "Times that a trigger was due and moved on", self.triggers_due.clone());
        registry.register("reports_recorded", "Results of tasks that were recorded", self.reports_recorded.clone());
        registry.register(
            "reports_stale",
            "Results refused because their attempt was replaced, stopped or forgotten",
            self.reports_stale.clone(),
        );
        registry.register("reports_refused", "Results refused for other reasons", self.reports_refused.clone());
        registry.register("watches_met", "Watches of jobs that were answered", self.watches_met.clone());
        registry.register(
            "watches_refused",
            "Watches of jobs that were not held because there were too many",
            self.watches_refused.clone(),
        );
    }
}
