//! Jobs that compute, through the API of a node that has the quorum's state machine and nothing around it.

use quorate_api::{
    FileContent, HistoryEntry, JobIdInfo, JobIdRequest, LogInfo, NOTHING_WAT, OutputInfo, PlanInfo, ReceiptBundle,
    RunState, StepRole, SubmitRequest, TaskInfo, TaskStateInfo, WhyInfo,
};
use quorate_protocols::approval::Grant;
use quorate_protocols::capacity::Capacity;
use quorate_protocols::engine::Engine;
use quorate_protocols::ids::{Attempt, Digest, LeaseId, MemberId, StepIndex, TaskIndex};
use quorate_protocols::task::limits::OUTPUT_BYTES_MAX;
use quorate_protocols::task::message::{Report, TaskResult};
use quorate_protocols::task::record::{Output, Place, TaskAttempt, TaskId, WorkerRecord};
use serde_json::{Value, json};

use quorate_protocols::quorum::TaskCommand;

use super::*;
use crate::limits::{PAGE_OUTPUT_BYTES, SUBMIT_BYTES_MAX};

pub(super) const SPEC: &str = "name = \"two words\"\nengine = \"wasm\"\nmodule = \"a.wat\"\nmap.count = 2\n";

pub(super) fn request(spec: &str) -> SubmitRequest {
    let files = [("a.wat".to_owned(), FileContent::Text(NOTHING_WAT.to_owned()))];
    SubmitRequest {
        spec: spec.to_owned(),
        file: Some("job.toml".to_owned()),
        files: files.into(),
        ..SubmitRequest::default()
    }
}

impl Edge {
    async fn submit(&self, request: &SubmitRequest) -> SubmitInfo {
        self.client.post("/v1/jobs", request).await.unwrap_or_else(|error| panic!("{error:?}"))
    }
    async fn refused(&self, path: &str, request: &impl serde::Serialize) -> ErrorBody {
        let response = self.client.request(Method::POST, path).json(request).send().await.unwrap();
        assert!(!response.status().is_success(), "{path} is taken");
        response.json().await.unwrap()
    }
    async fn command_job(&self, job: JobId, verb: &str, body: Value) -> JobInfo {
        self.client.post(&format!("/v1/jobs/{job}/{verb}"), &body).await.unwrap_or_else(|error| panic!("{error:?}"))
    }
}

/// A job that nobody runs.
pub(super) async fn submitted(edge: &Edge) -> JobId {
    edge.submit(&request(SPEC)).await.job
}

#[tokio::test]
async fn a_submit_can_be_repeated_and_another_job_under_its_id_is_a_conflict() {
    let edge = Edge::start().await;
    let wanted = JobIdRequest { key: Some("monday".to_owned()), ..JobIdRequest::default() };
    let JobIdInfo { job } = edge.client.post("/v1/jobs/ids", &wanted).await.unwrap();
    let first = edge.submit(&SubmitRequest { job: Some(job), ..request(SPEC) }).await;
    // On whose word it rests: a member by its name, and the voters that answer for it.
    let acknowledged_by = views::speaker_info(speaker(), Some("attic".to_owned()));
    assert_eq!(first, SubmitInfo { job, state: RunState::Pending, existed: false, acknowledged_by });
    // Under the id, and under the key that stands for it.
    let by_id = edge.submit(&SubmitRequest { job: Some(job), ..request(SPEC) }).await;
    let by_key = edge.submit(&SubmitRequest { key: Some("monday".to_owned()), ..request(SPEC) }).await;
    let again = SubmitInfo { existed: true, ..first };
    assert_eq!((&by_id, &by_key), (&again, &again));
    let other = SubmitRequest { key: Some("monday".to_owned()), ..request(&format!("{SPEC}priority = 7\n")) };
    let conflict = edge.refused("/v1/jobs", &other).await;
    assert_eq!(conflict.error, ErrorCode::Conflict);
    assert!(conflict.hint.unwrap().contains(&format!("quorate job show {job}")));
    let both = SubmitRequest { job: Some(job), key: Some("monday".to_owned()), ..request(SPEC) };
    assert_eq!(edge.refused("/v1/jobs", &both).await.error, ErrorCode::BadRequest);
}

/// Goal: whatever is wrong with a submit is told by line or name, and nothing is submitted.
#[tokio::test]
async fn what_is_wrong_with_a_submit_is_told_where_it_stands() {
    let edge = Edge::start().await;
    let with_file = |content| SubmitRequest { files: [("a.wat".to_owned(), content)].into(), ..request(SPEC) };
    let cases = [
        (request(&format!("{SPEC}prioriti = 3\n")), vec!["job.toml:5", "prioriti", "priority"]),
        (request(&format!("{SPEC}priority = 300\ntimeouts.task = \"1 parsec\"\n")), vec!["job.toml:5", "job.toml:6"]),
        (request(&format!("{SPEC}name")), vec!["job.toml:5"]),
        (SubmitRequest { files: Default::default(), ..request(SPEC) }, vec!["job.toml:3", "a.wat", "files"]),
        (with_file(FileContent::Base64("*".to_owned())), vec!["job.toml:3", "base64"]),
        (with_file(FileContent::Text(String::new())), vec!["job.toml:3", "empty"]),
        (with_file(FileContent::Text("(module)".to_owned())), vec!["job.toml:3", "a.wat", "`_start`"]),
        (with_file(FileContent::Base64("AGFzbQ0AAQA=".to_owned())), vec!["job.toml:3", "component"]),
        (with_file(FileContent::Object(OBJECT)), vec!["job.toml:3", "object"]),
        (SubmitRequest { set: [("x".to_owned(), "1".to_owned())].into(), ..request(SPEC) }, vec!["--set x"]),
    ];
    for (wrong, words) in cases {
        for path in ["/v1/jobs", "/v1/jobs/plan"] {
            let refused = edge.refused(path, &wrong).await;
            assert_eq!(refused.error, ErrorCode::BadRequest, "{wrong:?}");
            for word in &words {
                assert!(refused.message.contains(word), "{} does not name {word}", refused.message);
            }
        }
    }
    let large = request(&format!("{SPEC}# {}", "x".repeat(SUBMIT_BYTES_MAX)));
    assert_eq!(edge.refused("/v1/jobs", &large).await.error, ErrorCode::TooLarge);
    // Longer than any other request may be, and taken.
    edge.submit(&request(&format!("{SPEC}# {}", "x".repeat(JSON_BYTES_MAX)))).await;
    assert_eq!(edge.fake.commits.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_plan_says_who_would_and_submits_nothing() {
    let edge = Edge::start().await;
    let spec = format!("{SPEC}[reduce]\nfan_in = 2\n[resources]\nmemory = \"64 MiB\"\nslots = 3\n");
    let plan: PlanInfo = edge.client.post("/v1/jobs/plan", &request(&spec)).await.unwrap();
    let steps: Vec<_> = plan.steps.iter().map(|step| (step.step.0, step.role, step.tasks)).collect();
    assert_eq!(steps, [(0, StepRole::Map, 2), (1, StepRole::Reduce, 1)]);
    assert_eq!((plan.resources.memory_bytes, plan.peers[0].tasks), (64 << 20, 3));
    assert_eq!(plan.peers[0].refusal, None);
    let command = SubmitRequest { files: Default::default(), ..request("engine = \"command\"\nprogram = \"true\"\n") };
    let plan: PlanInfo = edge.client.post("/v1/jobs/plan", &command).await.unwrap();
    assert!(plan.peers[0].refusal.as_ref().unwrap().contains("command"));
    assert_eq!(edge.fake.commits.load(Ordering::Relaxed), 0);
}

/// Goal: a wait is as long as its client said, whatever its quorum says meanwhile, and ends with the job. Method:
/// nobody knows the quorum of an ended job, for the whole of one wait and for half of the next.
#[tokio::test]
async fn a_wait_outlasts_a_quorum_that_is_not_to_be_found_and_ends_in_time() {
    let edge = Edge::start().await;
    let SubmitInfo { job, .. } = edge.submit(&request(SPEC)).await;
    edge.command_job(job, "cancel", json!({})).await;
    edge.fake.is_unknown.store(true, Ordering::Relaxed);
    let wait = |timeout_ms: u64| format!("/v1/jobs/{job}/wait?timeout_ms={timeout_ms}");
    let began = std::time::Instant::now();
    let refused: ErrorBody = edge.client.request(Method::GET, &wait(600)).send().await.unwrap().json().await.unwrap();
    assert_eq!(refused.error, ErrorCode::UnknownQuorum);
    assert!(began.elapsed().as_millis() >= 600, "{:?}", began.elapsed());
    let found = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        edge.fake.is_unknown.store(false, Ordering::Relaxed);
    };
    let path = wait(60_000);
    let (ended, ()) = tokio::join!(edge.client.get::<JobInfo>(&path), found);
    assert_eq!(ended.unwrap().state, RunState::Cancelled);
    assert!(began.elapsed().as_secs() < 30, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_person_pauses_changes_and_cancels_a_job() {
    let edge = Edge::start().await;
    let spec = format!("{SPEC}[resources]\nmemory = \"64 MiB\"\nlabels = {{ zone = \"attic\" }}\n");
    let SubmitInfo { job, .. } = edge.submit(&request(&spec)).await;
    let why: WhyInfo = edge.client.get(&format!("/v1/jobs/{job}/why")).await.unwrap();
    assert!(why.why.contains("no workers yet"), "{}", why.why);
    assert_eq!(edge.command_job(job, "pause", json!({})).await.state, RunState::Paused);
    assert_eq!(edge.command_job(job, "resume", json!(null)).await.state, RunState::Pending);
    let changed =
        edge.command_job(job, "update", json!({ "priority": 9, "memory_bytes": 32 << 20 })).await.batch.unwrap();
    assert_eq!((changed.priority, changed.resources.memory_bytes), (9, 32 << 20));
    assert_eq!(changed.resources.labels["zone"], "attic", "what was not named stays");
    let update = format!("/v1/jobs/{job}/update");
    assert_eq!(edge.refused(&update, &json!({})).await.error, ErrorCode::BadRequest);
    let refused = edge.refused(&update, &json!({ "priority": 101 })).await;
    assert!(refused.message.contains("between 1 and 100"), "{}", refused.message);
    let early = edge.refused(&format!("/v1/jobs/{job}/resolve"), &json!({ "resolution": "skip" })).await;
    assert_eq!(early.error, ErrorCode::Conflict);
    assert!(early.message.contains("pending") && early.message.contains("resolve"), "{}", early.message);
    assert_eq!(edge.refused(&format!("/v1/jobs/{job}/resolve"), &json!({})).await.error, ErrorCode::BadRequest);
    let cancelled = edge.command_job(job, "cancel", json!({})).await;
    assert_eq!(cancelled.state, RunState::Cancelled);
    assert_eq!(edge.refused(&format!("/v1/jobs/{job}/pause"), &json!({})).await.error, ErrorCode::Conflict);
    let history: Listing<HistoryEntry> = edge.client.get(&format!("/v1/jobs/{job}/history")).await.unwrap();
    assert!(history.items.len() >= 5 && history.cursor.is_none(), "{history:?}");
    assert!(history.items.is_sorted_by_key(|entry| entry.recorded_at), "{history:?}");
}

/// A worker that has room for so many tasks.
fn worker(slots: u32) -> WorkerRecord {
    let holder = MemberId { peer: PeerId([9; 32]), incarnation: Incarnation(7) };
    WorkerRecord {
        grant: Grant { holder, lease: LeaseId([5; 16]) },
        capacity: Capacity { slots, memory_bytes: u64::from(slots) << 29, disk_bytes: 0 },
        engines: vec![Engine::Wasm],
        labels: Default::default(),
    }
}

/// The report of a task of the first step that put out `bytes`.
fn done(job: JobId, task: u32, bytes: Bytes) -> Report {
    let digest = Digest(*blake3::hash(&bytes).as_bytes());
    Report {
        task: TaskAttempt { id: TaskId { job, step: StepIndex(0), task: TaskIndex(task) }, attempt: Attempt(1) },
        result: TaskResult::Done {
            output: Output { digest, bytes: bytes.len() as u64, place: Place::Record },
            bytes: Some(bytes),
        },
    }
}

#[tokio::test]
async fn tasks_and_outputs_are_shown_as_they_come() {
    let edge = Edge::start().await;
    let SubmitInfo { job, .. } = edge.submit(&request(SPEC)).await;
    edge.fake.commit(Command::Task(TaskCommand::SetWorker { worker: worker(2) })).unwrap();
    let Listing { items: tasks, .. } =
        edge.client.get::<Listing<TaskInfo>>(&format!("/v1/jobs/{job}/tasks")).await.unwrap();
    assert_eq!(tasks.iter().map(|task| task.state).collect::<Vec<_>>(), [TaskStateInfo::Running; 2]);
    assert_eq!(tasks[1].running[0].worker, PeerId([9; 32]));
    let log: LogInfo = edge.client.get(&format!("/v1/jobs/{job}/logs?task=1")).await.unwrap();
    assert_eq!(
        (log.worker, log.attempt, log.offset, log.next_offset, log.ended),
        (PeerId([9; 32]), Attempt(1), 0, 14, true)
    );
    assert_eq!(log.text, "first\nsecond\u{fffd}\n");
    let worker = PeerId([9; 32]);
    let on = format!("/v1/jobs/{job}/logs?step=0&task=1&attempt=1&worker={worker}&from=6");
    assert_eq!(edge.client.get::<LogInfo>(&on).await.unwrap().text, "second\u{fffd}\n");
    for (wrong, word) in [("task=2", "no task 0.2"), ("task=1&attempt=2", "no attempt 2"), ("task=1&attempt=0", "")] {
        let error = edge.client.get::<LogInfo>(&format!("/v1/jobs/{job}/logs?{wrong}")).await.unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
    let path = format!("/v1/jobs/{job}/outputs");
    let none: Listing<OutputInfo> = edge.client.get(&path).await.unwrap();
    assert_eq!(none, Listing::default());
    let reports = vec![done(job, 0, Bytes::from("hello")), done(job, 1, Bytes::from("world"))];
    edge.fake.commit(Command::Task(TaskCommand::Report { reports })).unwrap();
    let info: JobInfo = edge.client.get(&format!("/v1/jobs/{job}")).await.unwrap();
    assert_eq!(info.state, RunState::Succeeded);
    let Listing { items: outputs, cursor, .. } = edge.client.get::<Listing<OutputInfo>>(&path).await.unwrap();
    assert_eq!(cursor, None);
    let texts: Vec<_> = outputs.iter().map(|output| output.text.as_deref().unwrap()).collect();
    assert_eq!(texts, ["hello", "world"]);
    let first: Listing<OutputInfo> = edge.client.get(&format!("{path}?limit=1")).await.unwrap();
    assert_eq!((first.items.as_slice(), first.cursor.as_deref()), (&outputs[..1], Some("0.0")));
    let second: Listing<OutputInfo> = edge.client.get(&format!("{path}?limit=1&cursor=0.0")).await.unwrap();
    assert_eq!((second.items.as_slice(), &second.cursor), (&outputs[1..], &None));
    let of_task: Listing<OutputInfo> = edge.client.get(&format!("{path}?task=1")).await.unwrap();
    assert_eq!(of_task, second);
    let missing: Listing<OutputInfo> = edge.client.get(&format!("{path}?task=2")).await.unwrap();
    assert_eq!(missing, Listing::default());
    for wrong in ["limit=0", "cursor=0", "cursor=0.x", "step=1&cursor=0.0"] {
        let refused = edge.status(edge.get(&format!("{path}?{wrong}"))).await;
        assert_eq!(refused, (StatusCode::BAD_REQUEST, ErrorCode::BadRequest), "{wrong}");
    }
    // Who ran it is known for as long as the job is.
    let Listing { items: tasks, .. } =
        edge.client.get::<Listing<TaskInfo>>(&format!("/v1/jobs/{job}/tasks")).await.unwrap();
    assert_eq!(tasks.iter().map(|task| task.worker).collect::<Vec<_>>(), [Some(PeerId([9; 32])); 2]);
    let log: LogInfo = edge.client.get(&format!("/v1/jobs/{job}/logs?task=1")).await.unwrap();
    assert_eq!((log.worker, log.attempt), (PeerId([9; 32]), Attempt(1)));
    let receipts = edge.client.get::<ReceiptBundle>(&format!("/v1/jobs/{job}/receipts")).await.unwrap_err();
    assert!(receipts.to_string().contains("not verified"), "{receipts}");
    for path in ["tasks", "outputs", "receipts", "why"] {
        let missing = JobId { local: [0; 16], ..job };
        let unknown = edge.status(edge.get(&format!("/v1/jobs/{missing}/{path}"))).await;
        assert_eq!(unknown, (StatusCode::NOT_FOUND, ErrorCode::NotFound), "{path}");
    }
}

/// Goal: an answer does not grow with what the tasks of a job put out. Method: outputs that are together longer than a
/// page may be.
#[tokio::test]
async fn a_page_of_long_outputs_ends_early_and_the_list_is_whole() {
    const TASKS: u32 = 40;
    let edge = Edge::start().await;
    let SubmitInfo { job, .. } = edge.submit(&request(&SPEC.replace("map.count = 2", "map.count = 40"))).await;
    edge.fake.commit(Command::Task(TaskCommand::SetWorker { worker: worker(TASKS) })).unwrap();
    for task in 0..TASKS {
        let text = Bytes::from(vec![b'0' + task as u8; OUTPUT_BYTES_MAX]);
        edge.fake.commit(Command::Task(TaskCommand::Report { reports: vec![done(job, task, text)] })).unwrap();
    }
    let path = format!("/v1/jobs/{job}/outputs");
    let first: Listing<OutputInfo> = edge.client.get(&path).await.unwrap();
    let rows = first.items.len() as u64;
    assert!(rows * OUTPUT_BYTES_MAX as u64 > PAGE_OUTPUT_BYTES && rows < u64::from(TASKS), "{rows}");
    assert_eq!(first.cursor, Some(format!("0.{}", rows - 1)));
    let whole: Listing<OutputInfo> = edge.client.list(&path).await.unwrap();
    assert_eq!(whole.items.iter().map(|row| row.task.0).collect::<Vec<_>>(), (0..TASKS).collect::<Vec<_>>());
}

/// Goal: a list is whole however short its pages are, and a page says whether something follows.
#[tokio::test]
async fn a_list_is_whole_however_short_its_pages() {
    let edge = Edge::start().await;
    let mut jobs = Vec::new();
    for key in ["a", "b", "c", "d", "e"] {
        jobs.push(edge.submit(&SubmitRequest { key: Some(key.to_owned()), ..request(SPEC) }).await.job);
    }
    // All are of one instant, so that the ids decide.
    jobs.sort_by(|one, other| other.cmp(one));
    let first: Listing<JobInfo> = edge.client.get("/v1/jobs?limit=2&name=two").await.unwrap();
    assert_eq!(first.items.iter().map(|row| row.job).collect::<Vec<_>>(), jobs[..2]);
    assert!(first.cursor.is_some());
    let query = [("limit", "2".to_owned()), ("name", "two".to_owned())];
    let whole: Listing<JobInfo> = edge.client.list_where("/v1/jobs", &query).await.unwrap();
    assert_eq!(whole.items.iter().map(|row| row.job).collect::<Vec<_>>(), jobs);
    let last: Listing<JobInfo> = edge.client.get("/v1/jobs?limit=5").await.unwrap();
    assert_eq!((last.items.len(), last.cursor), (5, None));
    for wrong in ["limit=0", "limit=5001", "limit=-1", "cursor=", "cursor=1-2", "cursor=%00"] {
        let wrong = edge.get(&format!("/v1/jobs?{wrong}"));
        assert_eq!(edge.status(wrong).await, (StatusCode::BAD_REQUEST, ErrorCode::BadRequest));
    }
}

#[tokio::test]
async fn a_listing_is_filtered_by_what_was_asked() {
    let edge = Edge::start().await;
    let asked = async |query: &str| {
        let _: Listing<JobInfo> = edge.client.get(&format!("/v1/jobs{query}")).await.unwrap();
        edge.fake.filter.lock().take().unwrap()
    };
    assert_eq!(asked("").await, JobFilter::default());
    let filter = asked("?state=failed,cancelled&kind=batch&owner=me&name=count").await;
    assert_eq!(filter.states, [RunState::Failed, RunState::Cancelled]);
    assert_eq!((filter.kind, filter.owner), (Some(Kind::Batch), Some(PeerId([9; 32]))));
    assert_eq!(filter.name.as_deref(), Some("count"));
    for wrong in ["?state=happy", "?kind=magic", "?owner=somebody"] {
        let refused = edge.status(edge.get(&format!("/v1/jobs{wrong}"))).await;
        assert_eq!(refused, (StatusCode::BAD_REQUEST, ErrorCode::BadRequest), "{wrong}");
    }
}

#[tokio::test]
async fn a_wait_ends_with_its_job_or_its_time_and_at_once_for_a_job_that_is_not_there() {
    let edge = Edge::start().await;
    let SubmitInfo { job, .. } = edge.submit(&request(SPEC)).await;
    let early: JobInfo = edge.client.get(&format!("/v1/jobs/{job}/wait?timeout_ms=20")).await.unwrap();
    assert_eq!(early.state, RunState::Pending);
    edge.command_job(job, "cancel", json!({})).await;
    let started = std::time::Instant::now();
    let ended: JobInfo = edge.client.get(&format!("/v1/jobs/{job}/wait")).await.unwrap();
    assert_eq!(ended.state, RunState::Cancelled);
    let missing = JobId { local: [0xee; 16], ..job };
    let unknown = edge.status(edge.get(&format!("/v1/jobs/{missing}/wait"))).await;
    assert_eq!(unknown, (StatusCode::NOT_FOUND, ErrorCode::NotFound));
    assert!(started.elapsed() < super::super::limits::WAIT_MAX / 2, "neither waited for its time");
}
