//! Coverage: how often something worth testing happened. A run in which no primary ever died proved little.

/// Counts of one run, or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Faults injected.
    pub faults: u64,
    pub crashes: u64,
    /// Crashes of a node that led a quorum.
    pub primaries_crashed: u64,
    /// Of these, with an entry in the log that was not applied yet.
    pub primaries_crashed_mid_commit: u64,
    /// Crashes after which batches were gone that nobody had called durable.
    pub crashes_that_lost_writes: u64,
    /// Times when power failed everywhere just after something was acknowledged.
    pub blackouts_after_news: u64,
    pub disks_wiped: u64,
    /// Times when cut paths were joined again.
    pub partitions_healed: u64,
    /// Pairs of quorum and term that had a primary.
    pub terms_led: u64,
    /// Voters that left a quorum.
    pub members_replaced: u64,
    /// Members that took another's snapshot for their state.
    pub snapshots_installed: u64,
    /// Of the snapshots, those installed while paths were cut.
    pub snapshots_installed_under_partition: u64,
    pub leases_expired: u64,
    /// Columns that went from a failed holder to a spare one, by every member that saw it.
    pub backups_used: u64,
    /// As above, for rebuilds.
    pub columns_repaired: u64,
    /// Puts that found pieces of an earlier try.
    pub puts_resumed: u64,
    pub rotten_reads: u64,
    /// Writes refused by a full disk.
    pub refused_full: u64,
    /// Nodes that started on a disk which had kept part of what was not synced.
    pub torn_recovered: u64,
    /// Jobs that compute and were acknowledged.
    pub jobs_acknowledged: u64,
    /// Attempts of tasks that workers began, and tasks of which another attempt began after one that did.
    pub tasks_begun: u64,
    pub tasks_begun_again: u64,
    /// Workers that were given up with attempts on them, by every member that saw it.
    pub workers_lost: u64,
    /// Members compared at the same index.
    pub digests_compared: u64,
    /// Whole states compared, at the end.
    pub states_compared: u64,
    /// Runs at whose end everything was removed and nothing stayed reserved.
    pub rests: u64,
}

impl Coverage {
    /// Every count with its name, in order.
    pub fn named(&self) -> [(&'static str, u64); 26] {
        [
            ("faults", self.faults),
            ("crashes", self.crashes),
            ("primaries crashed", self.primaries_crashed),
            ("primaries crashed mid commit", self.primaries_crashed_mid_commit),
            ("crashes that lost writes", self.crashes_that_lost_writes),
            ("blackouts after an acknowledgement", self.blackouts_after_news),
            ("disks wiped", self.disks_wiped),
            ("partitions healed", self.partitions_healed),
            ("terms led", self.terms_led),
            ("members replaced", self.members_replaced),
            ("snapshots installed", self.snapshots_installed),
            ("snapshots installed under a partition", self.snapshots_installed_under_partition),
            ("leases expired", self.leases_expired),
            ("backups used", self.backups_used),
            ("columns repaired", self.columns_repaired),
            ("puts resumed", self.puts_resumed),
            ("rotten reads", self.rotten_reads),
            ("refused full", self.refused_full),
            ("torn logs recovered", self.torn_recovered),
            ("jobs acknowledged", self.jobs_acknowledged),
            ("tasks begun", self.tasks_begun),
            ("tasks begun again", self.tasks_begun_again),
            ("workers lost with attempts", self.workers_lost),
            ("digests compared", self.digests_compared),
            ("states compared", self.states_compared),
            ("rests with nothing reserved", self.rests),
        ]
    }
    /// What never happened.
    pub fn missing(&self) -> Vec<&'static str> {
        self.named().into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name).collect()
    }
}

impl std::ops::AddAssign for Coverage {
    fn add_assign(&mut self, other: Self) {
        self.faults += other.faults;
        self.crashes += other.crashes;
        self.primaries_crashed += other.primaries_crashed;
        self.primaries_crashed_mid_commit += other.primaries_crashed_mid_commit;
        self.crashes_that_lost_writes += other.crashes_that_lost_writes;
        self.blackouts_after_news += other.blackouts_after_news;
        self.disks_wiped += other.disks_wiped;
        self.partitions_healed += other.partitions_healed;
        self.terms_led += other.terms_led;
        self.members_replaced += other.members_replaced;
        self.snapshots_installed += other.snapshots_installed;
        self.snapshots_installed_under_partition += other.snapshots_installed_under_partition;
        self.leases_expired += other.leases_expired;
        self.backups_used += other.backups_used;
        self.columns_repaired += other.columns_repaired;
        self.puts_resumed += other.puts_resumed;
        self.rotten_reads += other.rotten_reads;
        self.refused_full += other.refused_full;
        self.torn_recovered += other.torn_recovered;
        self.jobs_acknowledged += other.jobs_acknowledged;
        self.tasks_begun += other.tasks_begun;
        self.tasks_begun_again += other.tasks_begun_again;
        self.workers_lost += other.workers_lost;
        self.digests_compared += other.digests_compared;
        self.states_compared += other.states_compared;
        self.rests += other.rests;
    }
}

impl std::fmt::Display for Coverage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words: Vec<_> = self.named().into_iter().map(|(name, count)| format!("{count} {name}")).collect();
        f.write_str(&words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_happened_is_named() {
        let mut sum = Coverage { crashes: 2, ..Coverage::default() };
        sum += Coverage { crashes: 1, faults: 1, ..Coverage::default() };
        assert_eq!(sum.crashes, 3);
        assert!(!sum.missing().contains(&"crashes"));
        assert!(sum.missing().contains(&"puts resumed"));
    }
}
