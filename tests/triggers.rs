//! Triggers that a clock or the end of a job fires, through the front door: with primaries killed, and with every node
//! down for a while.

mod support;

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quorate_api::{FireInfo, FireOutcome, JobInfo, SkipReason};
use quorate_protocols::ids::Millis;
use quorate_protocols::trigger::audit::Covered;
use quorate_protocols::trigger::limits::MISSED_AFTER;
use quorate_protocols::trigger::reopen::InstantRange;
use quorate_protocols::trigger::spec::{Bounds, TriggerSpec, When};
use quorate_testnet::checkers::g3_fires_once::{Reach, check_covered};
use serde_json::Value;
use support::{Net, quorate, wait};

const HEARTBEAT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/heartbeat.toml");
const HELLO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/hello.toml");

/// Kills of a primary in a row: `QUORATE_TRIGGER_KILLS=10` takes two minutes.
const KILLS: u32 = 2;
/// Between two kills, so that ten of them are spread over two minutes.
const BETWEEN_KILLS: Duration = Duration::from_secs(12);

const NOTHING: &str = "";
const SPIN: &str = "(loop $l (br $l))";
const TRAP: &str = "(unreachable)";

/// A specification of one module that does `body`, with a trigger and more.
fn spec(net: &Net, name: &str, body: &str, more: &str) -> PathBuf {
    let module = format!("(module (memory (export \"memory\") 1) (func (export \"_start\") {body}))");
    let small = "output = \"inline\"\nresources.memory = \"4 MiB\"\nretry.attempts = 1";
    let text = format!(
        "name = \"{name}\"\nengine = \"wasm\"\nmodule = {{ inline = \"\"\"{module}\"\"\" }}\n{small}\n{more}\n"
    );
    let path = net.dir.path().join(format!("{name}.toml"));
    std::fs::write(&path, text).expect("a file can be written");
    path
}

fn submit(net: &Net, node: usize, path: &std::path::Path) -> String {
    net.at(node, &["job", "submit", path.to_str().unwrap(), "--detach"]).ok().stdout.trim().to_owned()
}

fn shown(net: &Net, node: usize, job: &str) -> JobInfo {
    serde_json::from_value(net.at(node, &["job", "show", job, "--json"]).json()).expect("a job")
}

/// `None` while the quorum is between two primaries.
fn fires(net: &Net, node: usize, job: &str) -> Option<Vec<FireInfo>> {
    let ran = net.at(node, &["job", "fires", job, "--json"]);
    (ran.code == 0).then(|| serde_json::from_str(&ran.stdout).expect("rows of fires"))
}

/// Suspends the trigger, and checks what its quorum has recorded until then against the specification: every instant
/// once, in a run or a skip.
fn check_every_second(net: &Net, node: usize, job: &str) -> Vec<FireInfo> {
    wait("the trigger to be suspended", || (net.at(node, &["job", "suspend", job]).code == 0).then_some(()));
    let trigger = shown(net, node, job).trigger.expect("it has a trigger");
    let rows = fires(net, node, job).expect("the quorum just answered");
    let mut covered: Vec<Covered> = rows
        .iter()
        .filter(|row| row.outcome != FireOutcome::Withdrawn)
        .map(|row| Covered {
            first: row.instant_at,
            last: row.last_at.unwrap_or(row.instant_at),
            count: row.skipped.max(1),
        })
        .collect();
    covered.sort_by_key(|row| row.first);
    let open = trigger.open_at.iter().map(|[first, last]| InstantRange { first: *first, last: *last }).collect();
    let from = trigger.started_at.expect("its primary has looked");
    let reach = Reach { from, next: trigger.head_at, open, forgotten: 0 };
    let every = TriggerSpec::new(When::Every { period: Duration::from_secs(1), bounds: Bounds::NONE });
    assert_eq!(check_covered(&every, &reach, &covered), []);
    assert_eq!(covered.iter().map(|row| row.count).sum::<u64>(), trigger.instants);
    rows
}

fn latest(rows: &[FireInfo]) -> Millis {
    rows.iter().map(|row| row.last_at.unwrap_or(row.instant_at)).max().unwrap_or_default()
}

fn wall() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

/// Goal: no second is missing and none is there twice, whichever primaries are killed, and each has a run that comes to
/// its end. Method: the example, primaries killed one after the other, and the checker of G3 over what is recorded.
#[test]
fn every_second_has_its_run_while_primaries_are_killed() {
    let kills = std::env::var("QUORATE_TRIGGER_KILLS").ok().and_then(|text| text.parse().ok());
    let (kills, between) = (kills.unwrap_or(KILLS), kills.map_or(Duration::ZERO, |_: u32| BETWEEN_KILLS));
    let net = Net::up(5);
    let submitted = net.at(1, &["job", "submit", HEARTBEAT]).ok();
    assert!(submitted.stdout.contains("every 1s") && submitted.stderr.contains("job fires"), "{}", submitted.stderr);
    let listed = net.at(1, &["job", "ls", "--json"]).json();
    let row = listed.as_array().unwrap().iter().find(|row| !row["trigger"].is_null()).expect("it is listed");
    let job = row["job"].as_str().unwrap().to_owned();
    let quorum = row["quorum"].as_str().unwrap().to_owned();
    let mut asked = 1;
    for _ in 0..kills {
        let before = wait("fires", || fires(&net, asked, &job).filter(|rows| rows.len() >= 2));
        let primary = net.primary(asked, &quorum);
        asked = 1 + primary % 5;
        let killed_at = wall();
        net.testnet(&["kill", &primary.to_string()]).ok();
        let goes_on = |rows: &Vec<FireInfo>| latest(rows) > latest(&before) && latest(rows).0 > killed_at;
        wait("a fire by another primary", || fires(&net, asked, &job).filter(goes_on));
        net.restart(primary);
        let next = killed_at + between.as_millis() as u64;
        wait("the next kill", || (wall() >= next).then_some(()));
    }
    let rows = check_every_second(&net, asked, &job);
    assert!(rows.iter().all(|row| row.run.is_some()), "some were skipped: {rows:?}");
    let late: Vec<u64> = rows.iter().map(|row| row.recorded_at.0.saturating_sub(row.instant_at.0)).collect();
    let most = late.iter().max().copied().unwrap_or_default();
    assert!(u128::from(most) <= MISSED_AFTER.as_millis(), "{most} ms late, and not skipped as missed");
    println!("{} instants, {kills} primaries killed, the latest was {most} ms late", rows.len());
    let ended = |row: &FireInfo| row.outcome == FireOutcome::Succeeded;
    wait("every run to succeed", || fires(&net, asked, &job).filter(|rows| rows.iter().all(ended)));
    let run = shown(&net, asked, &rows[0].run.unwrap().to_string());
    assert_eq!(run.fired_by.map(|by| (by.job.to_string(), by.number)), Some((job.clone(), 1)));
    let output = run.batch.expect("it computes").outcome.expect("it succeeded").outputs[0].text.clone().expect("JSON");
    let given: Value = serde_json::from_str(&output).expect("what fired it");
    assert_eq!((&given["instant_at"], &given["job"]), (&rows[0].instant_at.0.into(), &job.clone().into()));
    net.at(asked, &["job", "cancel", &job]).ok();
    net.at(asked, &["job", "fire", &job]).fails(1, &["cancelled"]);
}

/// Goal: after every node was down, each policy makes up for what was missed as it says, and each instant is recorded.
#[test]
fn what_was_missed_while_every_node_was_down_is_recorded_by_policy() {
    let net = Net::up(3);
    let policies = ["skip", "once", "catch_up(100)"];
    let jobs = policies.map(|policy| {
        let more = format!("[trigger]\nevery = \"1s\"\noverlap = \"allow\"\nmissed = \"{policy}\"");
        let name = policy.split('(').next().unwrap_or(policy);
        submit(&net, 1, &spec(&net, name, NOTHING, &more))
    });
    for job in &jobs {
        wait("a fire", || fires(&net, 2, job).filter(|rows| !rows.is_empty()));
    }
    for node in 1..=3 {
        net.testnet(&["kill", &node.to_string()]).ok();
    }
    // Longer than what counts as late but not missed.
    let up_at = wall() + MISSED_AFTER.as_millis() as u64 + 3_000;
    wait("enough to be missed", || (wall() >= up_at).then_some(()));
    for node in 1..=3 {
        net.restart(node);
    }
    for (job, policy) in jobs.iter().zip(policies) {
        wait("fires after the night", || fires(&net, 1, job).filter(|rows| latest(rows).0 > up_at));
        let rows = check_every_second(&net, 1, job);
        let missed: u64 = rows.iter().filter(|row| row.reason == Some(SkipReason::Missed)).map(|row| row.skipped).sum();
        match policy {
            "catch_up(100)" => assert!(rows.iter().all(|row| row.run.is_some()), "{rows:?}"),
            _ => assert!(missed >= 1, "{policy}: {rows:?}"),
        }
        println!("{policy}: {} rows, {missed} missed", rows.len());
    }
}

/// Goal: what falls due while an earlier run is not over is treated as the policy says; a person may fire, suspend and
/// cancel. Method: runs that never end.
#[test]
fn overlap_policies_and_a_person_decide_what_runs() {
    let net = Net::up(3);
    let armed = |overlap: &str, name: &str| {
        let more = format!("timeouts.task = \"10m\"\n[trigger]\nevery = \"500ms\"\noverlap = \"{overlap}\"");
        submit(&net, 1, &spec(&net, name, SPIN, &more))
    };
    let rows_of = |job: &str, what: &str, wish: &dyn Fn(&[FireInfo]) -> bool| {
        let rows = wait(what, || fires(&net, 2, job).filter(|rows| wish(rows)));
        wait("the trigger to be cancelled", || (net.at(2, &["job", "cancel", job]).code == 0).then_some(()));
        wait("its runs to be over", || {
            fires(&net, 2, job).filter(|rows| rows.iter().all(|row| row.outcome != FireOutcome::Running))
        });
        rows
    };
    let overlapped = |row: &FireInfo| row.reason == Some(SkipReason::Overlap);
    let forbid = armed("forbid", "forbid");
    wait("an overlap", || fires(&net, 2, &forbid).filter(|rows| rows.iter().any(overlapped)));
    let beside = net.at(3, &["job", "fire", &forbid]).ok().stdout;
    assert!(beside.contains("beside whatever runs") && beside.contains("run "), "{beside}");
    let refused = net.at(3, &["job", "fire", &forbid, "--respect-overlap"]).ok().stdout;
    assert!(refused.contains("not fired") && refused.contains("not over"), "{refused}");
    let info = shown(&net, 3, &forbid).trigger.unwrap();
    assert_eq!((info.live.len(), info.overlap.as_str()), (2, "forbid"));
    net.at(3, &["job", "pause", &forbid]).fails(1, &["has a trigger", "job fires"]);
    net.at(3, &["job", "suspend", &forbid]).ok();
    let next = net.at(3, &["job", "next", &forbid, "-n", "3", "--json"]).json();
    assert_eq!((next["next"].as_array().unwrap().len(), &next["suspended"]), (3, &true.into()));
    assert!(net.at(3, &["job", "why", &forbid]).ok().stdout.contains("suspended"));
    let since = wall();
    wait("something to fall due", || (wall() > since + 600).then_some(()));
    net.at(3, &["job", "unsuspend", &forbid]).ok();
    let suspended = |row: &FireInfo| row.reason == Some(SkipReason::Suspended) && row.skipped >= 1;
    rows_of(&forbid, "what fell due meanwhile", &|rows| rows.iter().any(suspended));

    let queue = armed("queue(1)", "queue");
    let full = |row: &FireInfo| row.reason == Some(SkipReason::QueueFull);
    let rows = rows_of(&queue, "a full queue", &|rows| rows.iter().any(full));
    let outcomes: Vec<_> = rows.iter().take(3).map(|row| row.outcome).collect();
    assert_eq!(outcomes, [FireOutcome::Running, FireOutcome::Waiting, FireOutcome::Skipped]);

    let replace = armed("replace", "replace");
    let replaced = |rows: &[FireInfo]| rows.iter().filter(|row| row.outcome == FireOutcome::Cancelled).count() >= 1;
    rows_of(&replace, "a run that was replaced", &replaced);

    let allow = armed("allow", "allow");
    let running = |rows: &[FireInfo]| rows.iter().filter(|row| row.outcome == FireOutcome::Running).count() >= 3;
    rows_of(&allow, "runs beside each other", &running);
}

/// Goal: a job after others runs when they have ended as it says, and says so when they did not.
#[test]
fn a_job_after_others_runs_when_they_have_ended_as_it_says() {
    let net = Net::up(4);
    let hello = submit(&net, 1, HELLO.as_ref());
    // Of another quorum: nobody here is told of its end.
    let alone = submit(&net, 1, &spec(&net, "alone", NOTHING, "quorum.dedicated = true"));
    let after = |name: &str, jobs: &str| spec(&net, name, NOTHING, &format!("[trigger]\nafter = {jobs}"));
    let submit_after = |name: &str, jobs: &str| submit(&net, 2, &after(name, jobs));
    let both = after("both", &format!("[\"{hello}\", \"{alone}\"]"));
    net.at(3, &["job", "submit", both.to_str().unwrap()]).fails(1, &["trigger.after", "another quorum"]);
    let missing = format!("{}.{}", hello.split_once('.').unwrap().0, "00".repeat(16));
    let unknown = after("unknown", &format!("[\"{missing}\"]"));
    net.at(3, &["job", "submit", unknown.to_str().unwrap()]).fails(1, &["no job", &missing]);

    let then = submit_after("then", &format!("[\"{hello}\"]"));
    let ended = net.at(3, &["job", "wait", &then, "--json"]).json();
    assert_eq!((&ended["state"], &ended["quorum"]), (&"succeeded".into(), &hello.split_once('.').unwrap().0.into()));
    let rows = fires(&net, 3, &then).unwrap();
    assert_eq!(rows.iter().map(|row| row.outcome).collect::<Vec<_>>(), [FireOutcome::Succeeded]);

    // Each run of one that has a trigger counts; the end of a job that fails counts as such.
    let twice = spec(&net, "twice", TRAP, "[trigger]\nevery = \"500ms\"\ncount = 2\noverlap = \"queue(5)\"");
    let twice = submit(&net, 1, &twice);
    let cleanup = submit_after("cleanup", &format!("[{{ job = \"{twice}\", on = \"failure\" }}]"));
    let celebrate = submit_after("celebrate", &format!("[{{ job = \"{twice}\", on = \"success\" }}]"));
    for job in [&cleanup, &celebrate] {
        net.at(4, &["job", "wait", job]).ok();
    }
    let cleaned = fires(&net, 4, &cleanup).unwrap();
    assert_eq!(cleaned.iter().map(|row| row.outcome).collect::<Vec<_>>(), [FireOutcome::Succeeded; 2]);
    let skipped = fires(&net, 4, &celebrate).unwrap();
    assert_eq!(
        skipped.iter().map(|row| (row.reason, row.skipped)).collect::<Vec<_>>(),
        [(Some(SkipReason::Outcome), 2)]
    );
}

/// Goal: what a schedule means is shown before it is submitted, and what has no meaning is told by line and key.
#[test]
fn a_schedule_is_shown_before_it_is_submitted_and_nonsense_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let write = |trigger: &str| {
        let path = dir.path().join("spec.toml");
        let text = format!("engine = \"wasm\"\nmodule = {{ inline = \"(module)\" }}\n[trigger]\n{trigger}\n");
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let next = |trigger: &str| -> Vec<String> {
        let info = quorate(&["job", "next", &write(trigger), "-n", "3", "--json"]).json();
        info["next"].as_array().unwrap().iter().map(|next| next["text"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(next("at = 2087-01-01T09:00:00+01:00"), ["2087-01-01T08:00:00Z"]);
    let nightly = "cron = \"30 2 * * *\"\ntimezone = \"Europe/Berlin\"";
    // The clocks leap from two to three.
    assert_eq!(
        next(&format!("{nightly}\nstart = 2087-03-29T12:00:00Z")),
        [
            "2087-03-30T03:00:00+02:00[Europe/Berlin]",
            "2087-03-31T02:30:00+02:00[Europe/Berlin]",
            "2087-04-01T02:30:00+02:00[Europe/Berlin]"
        ]
    );
    // The clocks show half past two twice.
    assert_eq!(
        next(&format!("{nightly}\nstart = 2087-10-25T12:00:00Z\ncount = 2")),
        ["2087-10-26T02:30:00+02:00[Europe/Berlin]", "2087-10-27T02:30:00+01:00[Europe/Berlin]"]
    );
    let heartbeat = quorate(&["job", "next", HEARTBEAT]).ok().stdout;
    assert_eq!(heartbeat.lines().count(), 6, "{heartbeat}");
    quorate(&["job", "next", HELLO]).fails(1, &["no [trigger]"]);
    quorate(&["job", "next", HEARTBEAT, "-n", "0"]).fails(2, &["from 1 to"]);
    quorate(&["job", "next", "nonsense"]).fails(2, &["no file", "no job"]);
    let sound = quorate(&["job", "validate", HEARTBEAT]).ok().stdout;
    assert!(sound.contains("every 1s"), "{sound}");
    for (trigger, words) in [
        ("cron = \"0 9 * * *\"\ntimezone = \"Mars/Base\"", ["spec.toml:5", "trigger.timezone", "Europe/Berlin"]),
        ("at = \"2027-02-30T00:00:00Z\"", ["spec.toml:4", "trigger.at", "2027-01-01T09:00:00+01:00"]),
        ("cron = \"0 9 1 1 * * *\"", ["spec.toml:4", "trigger.cron.0", "five fields"]),
        ("every = \"0s\"", ["spec.toml:4", "trigger.every", "100ms"]),
        ("every = \"1ns\"", ["spec.toml:4", "trigger.every", "100ms"]),
        ("every = \"1s\"\noverlap = \"sometimes\"", ["spec.toml:5", "trigger.overlap", "forbid"]),
    ] {
        let path = write(trigger);
        for verb in ["validate", "next"] {
            quorate(&["job", verb, &path]).fails(1, &words);
        }
    }
}
