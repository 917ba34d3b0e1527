//! Jobs with a trigger, through the API of a node that has the quorum's state machine and nothing around it.

use quorate_api::{
    FileContent, FireCause, FireInfo, FireOutcome, FireRequest, NOTHING_WAT, NextInfo, PlanInfo, RunState, SkipReason,
    SubmitRequest, WhyInfo,
};
use quorate_protocols::ids::{LogIndex, Nonce};
use quorate_protocols::quorum::TriggerCommand;
use quorate_protocols::trigger::Planner;
use quorate_protocols::trigger::limits::SPANS_MAX;
use serde_json::json;

use super::*;

fn request(trigger: &str) -> SubmitRequest {
    let spec = format!("name = \"beat\"\nengine = \"wasm\"\nmodule = \"a.wat\"\n[trigger]\n{trigger}\n");
    let files = [("a.wat".to_owned(), FileContent::Text(NOTHING_WAT.to_owned()))];
    let file = Some("beat.toml".to_owned());
    SubmitRequest { spec, file, files: files.into(), ..SubmitRequest::default() }
}

impl Edge {
    async fn arm(&self, trigger: &str) -> JobId {
        let submitted: SubmitInfo = self.client.post("/v1/jobs", &request(trigger)).await.unwrap();
        assert_eq!(submitted.state, RunState::Running);
        submitted.job
    }
    /// Has everything fire that is due when a clock says `now`.
    fn due(&self, now: u64) {
        let now = Millis(now);
        let spans = Planner::default().spans(&*self.fake.state.lock(), now, now, SPANS_MAX);
        let index = LogIndex(self.fake.commits.fetch_add(1, Ordering::Relaxed) + 1);
        let batch = Batch::at(now, vec![(PeerId([9; 32]), Command::Trigger(TriggerCommand::Due { spans }))]);
        let (replies, _) = self.fake.state.lock().apply(index, &batch);
        replies.replies[0].as_ref().unwrap();
    }
    async fn fires(&self, job: JobId) -> Vec<FireInfo> {
        let listing = self.client.list(&format!("/v1/jobs/{job}/fires?limit=2")).await.unwrap();
        // As they were recorded.
        listing.items.into_iter().rev().collect()
    }
    async fn told_nothing(&self, path: String) -> ErrorBody {
        let response = self.client.request(Method::POST, &path).json(&json!({})).send().await.unwrap();
        assert!(!response.status().is_success(), "{path} is taken");
        response.json().await.unwrap()
    }
}

#[tokio::test]
async fn a_trigger_shows_what_it_fired_and_what_it_will() {
    let edge = Edge::start().await;
    let job = edge.arm("every = \"1s\"").await;
    let plan: PlanInfo = edge.client.post("/v1/jobs/plan", &request("every = \"1s\"")).await.unwrap();
    assert_eq!(plan.trigger.as_deref(), Some("every 1s"));
    edge.due(1_000);
    edge.due(2_000);
    edge.due(4_500);
    let rows = edge.fires(job).await;
    let shown: Vec<_> = rows.iter().map(|row| (row.instant_at.0, row.outcome, row.skipped, row.reason)).collect();
    let skipped = (3_000, FireOutcome::Skipped, 2, Some(SkipReason::Overlap));
    assert_eq!(shown, [(2_000, FireOutcome::Running, 0, None), skipped]);
    assert_eq!((rows[1].last_at, rows[1].run, rows[0].cause), (Some(Millis(4_000)), None, FireCause::Instant));
    let run = rows[0].run.unwrap();
    let info: JobInfo = edge.client.get(&format!("/v1/jobs/{run}")).await.unwrap();
    assert_eq!(info.fired_by.map(|by| (by.job, by.number)), Some((job, 1)));
    let info: JobInfo = edge.client.get(&format!("/v1/jobs/{job}")).await.unwrap();
    let trigger = info.trigger.unwrap();
    assert_eq!((trigger.form.as_str(), trigger.overlap.as_str(), trigger.missed.as_str()), ("every", "forbid", "once"));
    assert_eq!((trigger.started_at, trigger.next_at), (Some(Millis(1_000)), Some(Millis(5_000))));
    assert_eq!((trigger.instants, trigger.rows, trigger.live), (3, 2, vec![run]));
    let next: NextInfo = edge.client.get(&format!("/v1/jobs/{job}/next?count=2")).await.unwrap();
    assert_eq!(next.next.iter().map(|next| next.instant_at.0).collect::<Vec<_>>(), [5_000, 6_000]);
    assert!(next.next[0].text.starts_with("1970-01-01T00:00:05Z"), "{:?}", next.next);
    let refused = edge.status(edge.get(&format!("/v1/jobs/{job}/next?count=0"))).await;
    assert_eq!(refused, (StatusCode::BAD_REQUEST, ErrorCode::BadRequest));
    let why: WhyInfo = edge.client.get(&format!("/v1/jobs/{job}/why")).await.unwrap();
    assert!(why.why.contains("waiting until 1970-01-01T00:00:05Z"), "{}", why.why);
    let tasks = edge.client.get::<serde_json::Value>(&format!("/v1/jobs/{job}/tasks")).await.unwrap_err().to_string();
    assert!(tasks.contains("has a trigger"), "{tasks}");
}

#[tokio::test]
async fn a_person_fires_suspends_and_cancels_a_trigger() {
    let edge = Edge::start().await;
    let job = edge.arm("cron = \"0 9 * * *\"\ntimezone = \"Europe/Berlin\"").await;
    edge.due(1_000);
    let fire = async |respect_overlap, nonce: u8| {
        let request = FireRequest { respect_overlap, nonce: Some(Nonce([nonce; 16])) };
        edge.client.post::<_, FireInfo>(&format!("/v1/jobs/{job}/fire"), &request).await.unwrap()
    };
    let first = fire(false, 1).await;
    assert_eq!((first.cause, first.outcome), (FireCause::Manual, FireOutcome::Running));
    assert_eq!(fire(false, 1).await, first, "the same nonce is the same fire");
    assert_eq!(fire(true, 2).await.reason, Some(SkipReason::Overlap));
    assert_ne!(fire(false, 3).await.run, first.run);
    let tell = async |verb: &str| edge.client.post::<_, JobInfo>(&format!("/v1/jobs/{job}/{verb}"), &json!({})).await;
    let suspended = tell("suspend").await.unwrap();
    assert_eq!((suspended.state, suspended.trigger.unwrap().suspended), (RunState::Paused, true));
    assert_eq!(tell("unsuspend").await.unwrap().state, RunState::Running);
    for verb in ["pause", "retry"] {
        let error = edge.told_nothing(format!("/v1/jobs/{job}/{verb}")).await;
        assert!(error.message.contains("has a trigger") && error.message.contains("job fires"), "{}", error.message);
    }
    assert_eq!(tell("cancel").await.unwrap().state, RunState::Cancelled);
    let ended: Vec<_> = edge.fires(job).await.iter().map(|row| row.outcome).collect();
    assert_eq!(ended, [FireOutcome::Cancelled, FireOutcome::Skipped, FireOutcome::Cancelled]);
    let next: NextInfo = edge.client.get(&format!("/v1/jobs/{job}/next")).await.unwrap();
    assert!(next.next.is_empty());
    assert_eq!(edge.told_nothing(format!("/v1/jobs/{job}/fire")).await.error, ErrorCode::Conflict);
}

#[tokio::test]
async fn what_is_for_triggers_is_refused_of_other_jobs() {
    let edge = Edge::start().await;
    let job = edge.arm("every = \"1s\"").await;
    edge.due(1_000);
    edge.due(2_000);
    let run = edge.fires(job).await[0].run.unwrap();
    for verb in ["fire", "suspend", "unsuspend"] {
        let error = edge.told_nothing(format!("/v1/jobs/{run}/{verb}")).await;
        assert!(error.error == ErrorCode::Conflict && error.message.contains("has no trigger"), "{}", error.message);
    }
    let missing = JobId { local: [0; 16], ..job };
    for path in ["fires", "next"] {
        let refused = edge.status(edge.get(&format!("/v1/jobs/{run}/{path}"))).await;
        assert_eq!(refused, (StatusCode::CONFLICT, ErrorCode::Conflict), "{path}");
        let unknown = edge.status(edge.get(&format!("/v1/jobs/{missing}/{path}"))).await;
        assert_eq!(unknown, (StatusCode::NOT_FOUND, ErrorCode::NotFound), "{path}");
    }
    let keyed = |request| SubmitRequest { key: Some("another".to_owned()), ..request };
    let after = |job: JobId| keyed(request(&format!("after = [\"{job}\"]")));
    let error = edge.client.post::<_, SubmitInfo>("/v1/jobs", &after(missing)).await.unwrap_err().to_string();
    assert!(error.contains("knows no job"), "{error}");
    let elsewhere = JobId { quorum: QuorumId([3; 16]), ..job };
    let both = keyed(request(&format!("after = [\"{job}\", \"{elsewhere}\"]")));
    let error = edge.client.post::<_, SubmitInfo>("/v1/jobs", &both).await.unwrap_err().to_string();
    assert!(error.contains("trigger.after") && error.contains("another quorum"), "{error}");
}
