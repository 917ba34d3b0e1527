//! CPU time of processes, from `/proc`.

/// Ticks per second of the times in `/proc`. The kernel has shown 100 to programs on every architecture for decades,
/// whatever it uses inside.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds that a process has used, all threads, user and system; `None` when it is gone.
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    parse_cpu(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_cpu(stat: &str) -> Option<f64> {
    // The name in parentheses may hold anything; fields count from behind its last parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some((ticks(11)? + ticks(12)?) as f64 / TICKS_PER_SECOND)
}

/// CPU seconds of this process.
pub fn own_cpu() -> f64 {
    cpu_seconds(std::process::id()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_the_strangest_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 100 0 0";
        assert_eq!(parse_cpu(stat), Some(3.0));
        assert_eq!(parse_cpu("nonsense"), None);
        assert!(cpu_seconds(std::process::id()).is_some());
    }
}
