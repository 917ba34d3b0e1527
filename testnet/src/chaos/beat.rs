//! A trigger that fires every few seconds, whatever is broken: once all clocks are right it must fire again soon.
//!
//! Wrong clocks of single nodes come and go while others die. Whatever the trigger's quorum recorded meanwhile,
//! instants of the true time must run within a minute after the faults.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use quorate_api::{FireInfo, FireOutcome, JobInfo, Listing, SubmitInfo, SubmitRequest};
use quorate_protocols::ids::JobId;

use super::RECOVERY_MAX;
use super::world::World;
use crate::checkers::{Guarantee, Violation};
use crate::client::ClientError;

/// What it runs.
const SPEC: &str = include_str!("../../../examples/hello.toml");
const TRIGGER: &str = "\n[trigger]\ncron = \"*/5 * * * * *\"\noverlap = \"allow\"\n";

/// Once all clocks are right, instants of the true time fire again within this.
const HEALED_WITHIN: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(500);

/// Submits it while nothing is broken yet. A quorum that was formed a moment ago may not take triggers yet.
pub async fn submit(world: &World) -> Result<JobId, ClientError> {
    let began = Instant::now();
    loop {
        match submit_once(world).await {
            Err(_) if began.elapsed() < RECOVERY_MAX => tokio::time::sleep(POLL).await,
            submitted => return submitted,
        }
    }
}

async fn submit_once(world: &World) -> Result<JobId, ClientError> {
    let request = SubmitRequest {
        spec: format!("{SPEC}{TRIGGER}"),
        set: [("who".to_owned(), "the clock".to_owned())].into(),
        ..SubmitRequest::default()
    };
    Ok(world.client(1)?.post::<_, SubmitInfo>("/v1/jobs", &request).await?.job)
}

/// The clocks are right. Waits for a run at an instant that comes from now on, and ends the trigger.
pub async fn check(world: &World, job: JobId) {
    let (right_at, began) = (now_ms(), Instant::now());
    world.count(Guarantee::G3, 1);
    let mut last = None;
    while began.elapsed() < HEALED_WITHIN {
        match fetch_newest_fires(world, job).await {
            Ok(rows) => {
                let ran = |row: &&FireInfo| row.run.is_some() && (right_at..=now_ms()).contains(&row.instant_at.0);
                if rows.iter().any(|row| ran(&row)) {
                    return end(world, job).await;
                }
                let counts = rows.iter().filter(|row| row.outcome != FireOutcome::Withdrawn);
                last = counts.map(|row| row.instant_at.0).max();
            }
            Err(error) => world.log_step(format!("the trigger {job} is not to be looked at: {error}")),
        }
        tokio::time::sleep(POLL).await;
    }
    let away = last.map_or("no instant".to_owned(), |last| format!("{} s", (last as i64 - right_at as i64) / 1000));
    let what = format!(
        "trigger {job} ran at no instant of {HEALED_WITHIN:?} after the clocks were right; its newest row is at {away}"
    );
    world.find(Violation::new(Guarantee::G3, what), format!("quorate job why {job}; quorate job fires {job}"));
}

async fn fetch_newest_fires(world: &World, job: JobId) -> Result<Vec<FireInfo>, ClientError> {
    let client = world.client(1)?;
    Ok(client.get::<Listing<FireInfo>>(&format!("/v1/jobs/{job}/fires?limit=50")).await?.items)
}

async fn end(world: &World, job: JobId) {
    let began = Instant::now();
    while began.elapsed() < RECOVERY_MAX {
        let cancelled =
            async { world.client(1)?.post::<_, JobInfo>(&format!("/v1/jobs/{job}/cancel"), &()).await.map(drop) };
        if cancelled.await.is_ok() {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64)
}
