//! Triggers, their rows and their events.

use quorate_protocols::trigger::reopen::{InstantRange, Leap};

use super::*;

pub(super) fn schedules() -> Vec<When> {
    let start = Some(Millis(1_700_000_000_000));
    let bounds =
        Bounds { start, until: Some(Millis(1_800_000_000_000)), jitter: Duration::from_secs(5), count: Some(300) };
    let event = EventSpec {
        name: "door.open".to_owned(),
        filter: Some("data.level > 3".to_owned()),
        debounce: Duration::from_secs(2),
        dedupe_window: Duration::from_secs(600),
    };
    let condition = ConditionSpec {
        source: Source::Http { url: "https://example.org/level".to_owned() },
        when: "value > 3".to_owned(),
        reset: Some("value < 2".to_owned()),
        every: Duration::from_secs(10),
        hold_for: Duration::from_secs(60),
        hysteresis: Duration::from_secs(30),
        verify: Some(Verify { copies: 3, agree: 2 }),
    };
    vec![
        When::At(Millis(1_700_000_000_000)),
        When::Every { period: Duration::from_secs(10), bounds: bounds.clone() },
        When::Cron { lines: vec!["0 9 * * MON-FRI".to_owned()], timezone: "Europe/Berlin".to_owned(), bounds },
        When::Event(event),
        When::Condition(condition),
        When::After(vec![AfterJob { job: JOB, on: After::Failure }]),
    ]
}

pub(super) fn triggered() -> JobSpec {
    let missed = Missed { policy: MissedPolicy::CatchUp(9), deadline: Some(Duration::from_secs(3_600)) };
    let trigger = TriggerSpec { when: schedules().remove(1), overlap: Overlap::Queue(9), missed };
    JobSpec::Triggered(Box::new(TriggeredSpec::new(trigger, compute())))
}

fn causes() -> Vec<Cause> {
    vec![
        Cause::Instant(Millis(1_700_000_000_000)),
        Cause::Event(SeenId([0x45; 16])),
        Cause::Manual(Nonce([0x44; 16])),
        Cause::Condition(300),
        Cause::After(JOB),
    ]
}

fn outcomes() -> Vec<Fired> {
    let last = Millis(1_700_000_000_500);
    vec![
        Fired::Run { run: JOB, end: Some(RunState::Succeeded) },
        Fired::Waiting,
        Fired::Skipped { last, count: 300, reason: SkipReason::Deadline },
        Fired::Withdrawn { last, count: 300 },
    ]
}

pub(super) fn fire_rows() -> Vec<FireRow> {
    let at = Millis(1_700_000_000_900);
    let rows = causes().into_iter().zip(outcomes()).zip(300..);
    rows.map(|((cause, what), number)| FireRow { number, cause, at, what }).collect()
}

fn due() -> Due {
    Due { instant: Millis(1_700_000_020_000), due: Millis(1_700_000_020_700) }
}

pub(super) fn span() -> Span {
    let skipped = Skipped { first: Millis(1_700_000_000_000), last: Millis(1_700_000_005_000), count: 6 };
    Span {
        job: JOB,
        from: Millis(1_700_000_000_000),
        expected: Some(Millis(1_700_000_000_000)),
        skipped: Some(skipped),
        named: vec![Millis(1_700_000_010_000)],
        next: Some(due()),
        at: Millis(1_700_000_011_000),
        fault: Some(text()),
    }
}

pub(super) fn delivery() -> Delivery {
    let data = Bytes::from_static(br#"{"level": 4}"#);
    let event = Event { name: "door.open".to_owned(), id: Some("a".to_owned()), data, at: Millis(1_700_000_000_000) };
    Delivery { sequence: 301, event, matches: vec![Match { job: JOB, fault: Some(text()) }] }
}

pub(super) fn dispatch() -> Dispatch {
    let sent = Dispatched { sequence: 301, age: Duration::from_millis(250), event: delivery().event };
    Dispatch { follows: 300, reaches: 302, lost: 1, events: vec![sent] }
}

pub(super) fn observation() -> Observation {
    let seen = Seen { value: "4.5".to_owned(), holds: true, resets: false, witnesses: vec![peer(1), peer(2)] };
    Observation { seen: Ok(seen) }
}

pub(super) fn trigger_record() -> JobRecord {
    let (input, at) = (Bytes::from_static(b"{}"), Millis(1_700_000_000_000));
    let cause = Cause::Event(SeenId([0x45; 16]));
    let run = TriggerRun {
        clock: Clock {
            from: Some(at),
            next: Some(due()),
            done: 300,
            rest_until: Some(at),
            open: vec![InstantRange { first: due().instant, last: at }],
            head: Some(at),
            since: Some(at),
            leaps: vec![Leap { row: 300, range: InstantRange { first: at, last: at }, count: 1, suspended: true }],
            lag: std::time::Duration::from_secs(1),
        },
        suspended: true,
        resuming: true,
        live: BTreeSet::from([JOB]),
        waiting: VecDeque::from([Waiting { number: 301, input: input.clone() }]),
        fires: fire_rows().into(),
        rows: 302,
        seen: BTreeMap::from([(SeenId([0x45; 16]), at)]),
        debounced: Some(Box::new(Debounced { cause, input, since: at, until: at })),
        condition: ConditionState {
            number: 9,
            at,
            last: Some(Err(text())),
            holds_since: Some(at),
            spent: true,
            over_since: Some(at),
        },
        ended: BTreeMap::from([(JOB, Ended { run: JOB, state: RunState::Failed, at })]),
    };
    JobRecord { spec: triggered(), run: Run::Trigger(Box::new(run)), ..record() }
}

pub(super) fn trigger_samples(samples: &mut Samples) {
    let limit = job::limits::MESSAGE_BYTES_MAX;
    samples.all("trigger", "when", limit, schedules());
    let object = Source::Object(reference());
    let http = Source::Http { url: "https://example.org/level".to_owned() };
    let metric = Source::Metric { name: "load".to_owned() };
    samples.all("trigger", "source", limit, vec![http, object, Source::Job(JOB), metric]);
    samples.all("trigger", "after", limit, vec![After::Success, After::Failure, After::Any]);
    let overlaps = vec![Overlap::Allow, Overlap::Forbid, Overlap::Replace, Overlap::Queue(300)];
    samples.all("trigger", "overlap", limit, overlaps);
    samples.all("trigger", "missed", limit, vec![MissedPolicy::Skip, MissedPolicy::Once, MissedPolicy::CatchUp(9)]);
    samples.all("trigger", "cause", limit, causes());
    samples.all("trigger", "outcome", limit, outcomes());
    samples.all("trigger", "skip-reason", limit, {
        use SkipReason::*;
        vec![
            Missed, Deadline, Overlap, QueueFull, Replaced, Suspended, Debounced, Full, Fault, Outcome, Lost, Cancelled,
        ]
    });
    let emitter = Emitter { sequence: 300, at: Millis(1_700_000_000_000), lost: 2 };
    samples.one("trigger", "emitter", limit, &emitter);
}
