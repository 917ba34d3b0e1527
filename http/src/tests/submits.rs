//! Submits that wait for the end, and many submits in one request.

use quorate_api::{
    RunState, SUBMIT_MANY_BYTES_MAX, SUBMIT_MANY_JOBS_MAX, SubmitAnswer, SubmitManyInfo, SubmitOutcome, SubmitRequest,
    Verb, WaitedInfo,
};
use serde_json::{Value, json};

use super::jobs::{SPEC, request};
use super::*;
use crate::limits::SUBMIT_MANY_MAX;

const MANY: &str = "/v1/jobs:batch";

fn keyed(key: &str) -> SubmitRequest {
    SubmitRequest { key: Some(key.to_owned()), ..request(SPEC) }
}

impl Edge {
    fn submitting(&self, query: &str) -> reqwest::RequestBuilder {
        self.client.request(Method::POST, &format!("/v1/jobs{query}")).json(&request(SPEC))
    }
    async fn answered(&self, query: &str) -> SubmitAnswer {
        self.submitting(query).send().await.unwrap().json().await.unwrap()
    }
    /// Ends the job as soon as it is there.
    async fn ends(&self, job: JobId) {
        while self.fake.job(job).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.fake.commit(Command::control(job, LogIndex(u64::MAX), Control::Cancel)).unwrap();
    }
    async fn many(&self, requests: &impl serde::Serialize) -> Vec<SubmitOutcome> {
        let answer: SubmitManyInfo = self.client.post(MANY, requests).await.unwrap_or_else(|error| panic!("{error:?}"));
        answer.jobs
    }
}

/// What became of each: its job, or its error.
fn became(outcomes: &[SubmitOutcome]) -> Vec<Result<JobId, ErrorCode>> {
    let one = |outcome: &SubmitOutcome| match outcome {
        SubmitOutcome::Submitted(info) => Ok(info.job),
        SubmitOutcome::Refused(body) => Err(body.error),
    };
    outcomes.iter().map(one).collect()
}

/// Goal: one request is told what the job came to, and one that said nothing of waiting is answered as ever.
#[tokio::test]
async fn a_submit_that_waits_is_answered_with_the_end_of_its_job() {
    let edge = Edge::start().await;
    let job = keyed_job(QUORUM, "any");
    let (answer, ()) = tokio::join!(edge.answered("?wait=60s"), edge.ends(job));
    let SubmitAnswer::Waited(waited) = answer else { panic!("{answer:?}") };
    let WaitedInfo { info, existed, acknowledged_by } = *waited;
    assert_eq!((info.job, info.state, existed), (job, RunState::Cancelled, false));
    assert!(!acknowledged_by.voters.is_empty(), "{acknowledged_by:?}");
    let alone: JobInfo = edge.client.get(&format!("/v1/jobs/{job}/wait")).await.unwrap();
    assert_eq!(info, alone);
    // Submitted again, it has ended already.
    let again: Value = edge.submitting("?wait=60s").send().await.unwrap().json().await.unwrap();
    assert_eq!((&again["state"], &again["existed"]), (&json!("cancelled"), &json!(true)));
    let plain = edge.submitting("").send().await.unwrap();
    assert!(plain.headers().get("preference-applied").is_none());
    let plain: Value = plain.json().await.unwrap();
    let acknowledged_by = &again["acknowledged_by"];
    assert_eq!(plain, json!({ "job": job, "state": "cancelled", "existed": true, "acknowledged_by": acknowledged_by }));
}

#[tokio::test]
async fn a_submit_whose_wait_ends_first_is_answered_with_the_job_as_it_is() {
    let edge = Edge::start().await;
    for (query, prefer, applied) in [
        ("?wait=20ms", None, None),
        ("?wait=0s", None, None),
        ("", Some("respond-async, wait=1"), Some("wait=1")),
        ("?wait=20ms", Some("wait=60"), None),
    ] {
        let request = match prefer {
            Some(prefer) => edge.submitting(query).header("prefer", prefer),
            None => edge.submitting(query),
        };
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let said = answer.headers().get("preference-applied").map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(said.as_deref(), applied, "{query} {prefer:?}");
        let answer: SubmitAnswer = answer.json().await.unwrap();
        assert!(
            matches!(&answer, SubmitAnswer::Waited(waited) if waited.info.state == RunState::Pending),
            "{answer:?}"
        );
    }
    let commits = edge.fake.commits.load(Ordering::Relaxed);
    let refused = (StatusCode::BAD_REQUEST, ErrorCode::BadRequest);
    assert_eq!(edge.status(edge.submitting("?wait=soon")).await, refused);
    assert_eq!(edge.fake.commits.load(Ordering::Relaxed), commits, "nothing was submitted");
}

/// Goal: that a job is submitted is told, whatever else is not known.
#[tokio::test]
async fn a_quorum_that_is_silent_after_the_submit_does_not_hide_it() {
    let edge = Edge::start().await;
    edge.fake.is_unknown.store(true, Ordering::Relaxed);
    let answer = edge.answered("?wait=50ms").await;
    assert!(matches!(&answer, SubmitAnswer::Submitted(info) if !info.existed), "{answer:?}");
}

/// Goal: a submit that waits has no claim to what is kept for requests that end by themselves.
#[tokio::test]
async fn a_full_node_takes_submits_and_keeps_none_that_waits() {
    let limits = DoorLimits { connections_max: 1, kept_places: 1, ..DoorLimits::default() };
    let edge = Edge::limited(Fake::new(false), limits).await;
    let mut open = edge.client.send(edge.get("/v1/events")).await.unwrap();
    assert!(open.chunk().await.unwrap().is_some());
    let busy = (StatusCode::TOO_MANY_REQUESTS, ErrorCode::Busy);
    for query in ["?wait=1s", "?%77ait=1s"] {
        assert_eq!(edge.status(edge.submitting(query)).await, busy, "{query}");
    }
    assert_eq!(edge.status(edge.submitting("").header("prefer", "wait=1")).await, busy);
    let taken = edge.submitting("").send().await.unwrap();
    assert_eq!(taken.status(), StatusCode::OK);
}

/// Goal: whoever may submit and not read learns no more of the job by waiting for it.
#[tokio::test]
async fn a_token_that_may_not_read_jobs_may_submit_and_not_wait() {
    let edge = Edge::start().await;
    let client = edge.with_token(&edge.minted("alice", &[Verb::JobSubmit]).await.secret);
    let submitting = |query: &str| client.request(Method::POST, &format!("/v1/jobs{query}")).json(&request(SPEC));
    let forbidden = (StatusCode::FORBIDDEN, ErrorCode::Forbidden);
    assert_eq!(edge.status(submitting("?wait=0s")).await, forbidden);
    let refused: ErrorBody = submitting("").header("prefer", "wait=1").send().await.unwrap().json().await.unwrap();
    assert!(refused.message.contains("job.read"), "{}", refused.message);
    assert_eq!(edge.fake.commits.load(Ordering::Relaxed), 0);
    assert_eq!(submitting("").send().await.unwrap().status(), StatusCode::OK);
    let client = edge.with_token(&edge.minted("bob", &[Verb::JobSubmit, Verb::JobRead]).await.secret);
    let waiting = client.request(Method::POST, "/v1/jobs?wait=0s").json(&request(SPEC));
    assert_eq!(waiting.send().await.unwrap().status(), StatusCode::OK);
}

/// Goal: each of many submits is answered as if it had come alone, and none is a matter of another.
#[tokio::test]
async fn each_of_many_submits_has_its_answer_in_its_place() {
    let edge = Edge::start().await;
    let other = SubmitRequest { job: Some(keyed_job(QUORUM, "a")), ..request(&SPEC.replace("map.count = 2", "")) };
    let contradiction = SubmitRequest { job: Some(JOB), ..keyed("z") };
    let requests = json!([
        keyed("a"),
        request("kind = \"magic\""),
        { "spec": 7 },
        keyed("b"),
        contradiction,
        keyed("b"),
    ]);
    let outcomes = edge.many(&requests).await;
    let id = |key: &str| Ok(keyed_job(QUORUM, key));
    let wrong = Err(ErrorCode::BadRequest);
    assert_eq!(became(&outcomes), [id("a"), wrong, wrong, id("b"), wrong, id("b")]);
    let existed = outcomes.iter().filter(|outcome| matches!(outcome, SubmitOutcome::Submitted(info) if info.existed));
    assert_eq!(existed.count(), 1, "one key is one job, also within a request");
    let SubmitOutcome::Refused(body) = &outcomes[1] else { panic!("{outcomes:?}") };
    assert!(body.message.contains("job.toml:1") && body.message.contains("magic"), "{}", body.message);
    // Repeated, they are the same jobs; another under the id of one is a conflict.
    let repeated = edge.many(&json!([keyed("b"), other, keyed("a")])).await;
    assert_eq!(became(&repeated), [id("b"), Err(ErrorCode::Conflict), id("a")]);
    let existed = |outcome: &SubmitOutcome| matches!(outcome, SubmitOutcome::Submitted(info) if info.existed);
    assert!(existed(&repeated[0]) && existed(&repeated[2]));
    assert_eq!(edge.many(&json!([])).await, []);
}

#[tokio::test]
async fn many_submits_are_lines_for_those_who_send_and_want_lines() {
    let edge = Edge::start().await;
    let line = |request: &SubmitRequest| serde_json::to_string(request).unwrap();
    let body = format!("{}\n\nno json\n{}\r\n", line(&keyed("a")), line(&keyed("b")));
    let request = edge.client.request(Method::POST, MANY).header("content-type", "application/x-ndjson").body(body);
    let whole: SubmitManyInfo = request.try_clone().unwrap().send().await.unwrap().json().await.unwrap();
    let expected = [Ok(keyed_job(QUORUM, "a")), Err(ErrorCode::BadRequest), Ok(keyed_job(QUORUM, "b"))];
    assert_eq!(became(&whole.jobs), expected);
    let answer = request.header("accept", "application/x-ndjson").send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
    let text = answer.text().await.unwrap();
    let lines: Vec<SubmitOutcome> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(became(&lines), expected);
}

/// Goal: a thousand jobs are one request, and what is beyond a bound is refused before anything is submitted.
#[tokio::test]
async fn many_submits_have_bounds() {
    let edge = Edge::start().await;
    let requests = |count: usize| (0..count).map(|n| keyed(&n.to_string())).collect::<Vec<_>>();
    let too_large = (StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::TooLarge);
    let post = || edge.client.request(Method::POST, MANY);
    let more = serde_json::to_string(&requests(SUBMIT_MANY_JOBS_MAX + 1)).unwrap();
    assert_eq!(edge.status(post().header("content-type", "application/json").body(more)).await, too_large);
    let long = vec![b' '; SUBMIT_MANY_BYTES_MAX + 1];
    for kind in ["application/json", "application/x-ndjson"] {
        assert_eq!(edge.status(post().header("content-type", kind).body(long.clone())).await, too_large, "{kind}");
    }
    let bad = (StatusCode::BAD_REQUEST, ErrorCode::BadRequest);
    for (kind, body) in [("application/json", "[{"), ("application/json", "{}"), ("text/plain", "[]")] {
        assert_eq!(edge.status(post().header("content-type", kind).body(body)).await, bad, "{kind} {body}");
    }
    assert_eq!(edge.fake.commits.load(Ordering::Relaxed), 0);
    let outcomes = edge.many(&requests(SUBMIT_MANY_JOBS_MAX)).await;
    let jobs: std::collections::BTreeSet<_> = became(&outcomes).into_iter().map(Result::unwrap).collect();
    assert_eq!((outcomes.len(), jobs.len()), (SUBMIT_MANY_JOBS_MAX, SUBMIT_MANY_JOBS_MAX));
}

/// Goal: few bodies of many submits are in memory at once. Method: as many requests as may be, none of which sends its
/// body; the next is told so, until one of them has gone.
#[tokio::test]
async fn requests_for_many_submits_beyond_their_bound_are_told() {
    let edge = Edge::start().await;
    let silent = || {
        let body = stream::pending::<Result<Bytes, std::io::Error>>();
        let request = edge.client.request(Method::POST, MANY).header("content-type", "application/json");
        tokio::spawn(request.body(reqwest::Body::wrap_stream(body)).send())
    };
    let mut open: Vec<_> = (0..SUBMIT_MANY_MAX).map(|_| silent()).collect();
    let answers = async |wanted: StatusCode| {
        let reached = async {
            while edge.client.request(Method::POST, MANY).json(&json!([])).send().await.unwrap().status() != wanted {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), reached).await.unwrap_or_else(|_| panic!("never {wanted}"));
    };
    answers(StatusCode::TOO_MANY_REQUESTS).await;
    open.pop().expect("one of them").abort();
    answers(StatusCode::OK).await;
    open.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Goal: the audit log has a line for each job, as if each had been submitted by itself, whatever came of it.
#[tokio::test]
async fn each_of_many_submits_has_its_line_in_the_audit_log() {
    let edge = Edge::start().await;
    edge.many(&json!([keyed("a"), request("kind = \"magic\""), keyed("b")])).await;
    edge.many(&json!([])).await;
    let refused = edge.client.request(Method::POST, MANY).json(&json!({})).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    let lines = edge.audited().await;
    assert!(lines.iter().all(|line| line["path"] == MANY && line["verb"] == "job.submit"), "{lines:?}");
    let said: Vec<_> = lines
        .iter()
        .map(|line| (line["status"].as_u64().unwrap(), line["subject"].as_str(), line["error"].as_str()))
        .collect();
    let (a, b) = (keyed_job(QUORUM, "a").to_string(), keyed_job(QUORUM, "b").to_string());
    assert_eq!(
        said,
        [
            (200, Some(a.as_str()), None),
            (400, None, Some("bad-request")),
            (200, Some(b.as_str()), None),
            (200, None, None),
            (400, None, Some("bad-request")),
        ]
    );
}
