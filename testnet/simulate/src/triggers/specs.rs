//! The triggers of a run, of every form and with every policy, and the work that they start.

use super::*;

pub(super) fn work(millis: u64) -> BatchSpec {
    let module = Content::Inline(Bytes::from_static(b"simulated"));
    let mut call = Call::new(Program::Wasm { module, fuel: None, deterministic: false });
    call.args = vec![millis.to_string()];
    let mut spec = BatchSpec::new(call);
    spec.resources.capacity.memory_bytes = 1 << 20;
    spec.timeouts.task = Duration::from_secs(60);
    spec.retry.base = Duration::from_millis(200);
    spec
}

pub(super) fn triggers(at: Millis) -> Vec<TriggerSpec> {
    let every = |seconds, jitter| {
        let bounds = Bounds { jitter: Duration::from_secs(jitter), ..Bounds::NONE };
        When::Every { period: Duration::from_secs(seconds), bounds }
    };
    let cron = |line: &str, timezone: &str| When::Cron {
        lines: vec![line.to_owned()],
        timezone: timezone.to_owned(),
        bounds: Bounds::NONE,
    };
    let spec = |when, overlap, policy, deadline: Option<u64>| TriggerSpec {
        when,
        overlap,
        missed: Missed { policy, deadline: deadline.map(Duration::from_secs) },
    };
    // Long against the time in which an event is emitted again, and in which what was emitted before may be under way.
    // Clocks that are set by as much do not end it.
    let bell = EventSpec { dedupe_window: Duration::from_secs(3_600), ..EventSpec::new(event_workload::NAME) };
    vec![
        spec(every(10, 0), Overlap::Allow, MissedPolicy::CatchUp(10), None),
        spec(every(60, 20), Overlap::Forbid, MissedPolicy::Once, None),
        spec(cron("*/5 * * * *", "UTC"), Overlap::Queue(2), MissedPolicy::Skip, None),
        spec(cron("30 2 * * *", "Europe/Berlin"), Overlap::Replace, MissedPolicy::Once, None),
        spec(every(7, 0), Overlap::Replace, MissedPolicy::Skip, Some(30)),
        spec(When::At(at), Overlap::Forbid, MissedPolicy::Once, None),
        spec(When::Event(bell), Overlap::Allow, MissedPolicy::Once, None),
        spec(cron("*/20 * * * * *", "UTC"), Overlap::Allow, MissedPolicy::Once, None),
    ]
}
