//! `bench failover`: how long a client's submits are not acknowledged around the end of a quorum's primary.
//!
//! The client is one that a user would write to lose no time. It submits jobs one after the other through one node,
//! under ids of its own choice, so that the same job may be submitted twice. When its node is gone or refuses, it goes
//! to the next; when its node has not answered within [`HEDGE`], it submits through the next as well and takes the
//! answer that comes first. It stays with the node that answered.
//!
//! The figure is the longest time between two acknowledgements, from the last one before the signal to the first one of
//! a job that was begun when the primary's process was gone. An answer that was on its way when the signal was sent
//! does not end it.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use hyper::Method;
use quorate_api::{QuorumDetail, SubmitRequest, percentile};
use quorate_protocols::ids::{JobId, QuorumId};
use quorate_testnet::Testnet;
use tokio::sync::mpsc;

use crate::Progress;
use crate::connection::{Body, CallError, Connection, Target};
use crate::error::BenchError;
use crate::figures::ms;
use crate::jobs::nothing;
use crate::lanes::on_one_thread;
use crate::report::FailoverRow;
use crate::roles::{PATIENCE, POLL, Roles, running, targets};
use crate::through::Through;

/// A submit that was not answered for so long is sent through another node as well.
const HEDGE: Duration = Duration::from_millis(200);

/// Between two submits of one job, once every node was tried.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

/// Acknowledged jobs before the primary is ended: the client knows its way, as one that is at work does.
const SETTLED: usize = 20;

/// What is measured.
#[derive(Clone, Debug)]
pub struct FailoverPlan {
    /// Where the client begins, anew for each kill.
    pub through: Through,
    pub kills: u32,
    /// The primary is asked to end, not killed.
    pub planned: bool,
}

/// Measures with the client on a thread of its own.
pub async fn failover(testnet: &Testnet, plan: &FailoverPlan, progress: Progress) -> Result<FailoverRow, BenchError> {
    let FailoverPlan { through, kills, planned } = *plan;
    if kills == 0 {
        return Err(BenchError::Plan("--kills must be at least 1".to_owned()));
    }
    let quorum = Roles::find(testnet).await?.quorum;
    let (mut samples, mut hedged, mut retried) = (Vec::new(), 0, 0);
    for kill in 1..=kills {
        let roles = Roles::of(testnet, quorum).await?;
        let begins = roles.nodes(through)?;
        let begin = begins[kill as usize % begins.len()];
        let nodes = running(testnet);
        let first = nodes.iter().position(|node| *node == begin).unwrap_or_default();
        let mut client = Client::start(targets(testnet, &nodes)?, first, quorum);
        client.wait(|acknowledged| acknowledged.len() >= SETTLED).await?;
        let signalled = Instant::now();
        tokio::task::block_in_place(|| match planned {
            true => testnet.stop(roles.primary),
            false => testnet.kill(roles.primary),
        })?;
        let gone = Instant::now();
        client.wait(|acknowledged| acknowledged.last().is_some_and(|last| last.began >= gone)).await?;
        let counts = client.stop().await?;
        let gap =
            longest_silence(&client.acknowledged, signalled, gone).ok_or(BenchError::Silence { after: PATIENCE })?;
        hedged += counts.hedged;
        retried += counts.retried;
        progress(&format!(
            "{} {kill}/{kills}: node {}, {:.0} ms without an acknowledgement through node {begin}",
            if planned { "stop" } else { "kill" },
            roles.primary,
            ms(gap)
        ));
        samples.push(gap);
        testnet.restart(roles.primary).await?;
        wait_whole(testnet, quorum, roles.primary).await?;
    }
    let samples_ms = samples.iter().copied().map(ms).collect();
    samples.sort_unstable();
    let at = |share| percentile(&samples, share).map_or(0.0, ms);
    Ok(FailoverRow {
        through,
        quorum,
        planned,
        in_process: false,
        kills,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        max_ms: at(1.0),
        samples_ms,
        hedged,
        retried,
    })
}

/// One job that was acknowledged.
#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    /// When it was submitted first.
    began: Instant,
    at: Instant,
}

/// The longest time between two acknowledgements, from the last one before the signal to the first one of a job that
/// was begun when the process was gone. `None` while there is no such job. They stand in the order in which they came.
fn longest_silence(acknowledged: &[Acknowledged], signalled: Instant, gone: Instant) -> Option<Duration> {
    let before = acknowledged.iter().rposition(|job| job.at <= signalled)?;
    let after = acknowledged.iter().position(|job| job.began >= gone)?;
    let around = acknowledged.get(before..=after)?;
    around.windows(2).map(|pair| pair[1].at.duration_since(pair[0].at)).max()
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    hedged: u64,
    retried: u64,
}

/// The client as its measurement sees it.
struct Client {
    ends: Arc<AtomicBool>,
    news: mpsc::UnboundedReceiver<Acknowledged>,
    acknowledged: Vec<Acknowledged>,
    running: tokio::task::JoinHandle<Result<Counts, BenchError>>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

impl Client {
    fn start(targets: Vec<Arc<Target>>, first: usize, quorum: QuorumId) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        // Unbounded: one line per job of a client that waits for each.
        let (tell, news) = mpsc::unbounded_channel();
        let is_ended = ends.clone();
        let running = tokio::spawn(on_one_thread(async move || {
            let lane = HedgedLane::new(targets, first, quorum);
            while !is_ended.load(Ordering::Relaxed) {
                let began = Instant::now();
                lane.submit().await?;
                // Nobody listens once the measurement has failed.
                let _ = tell.send(Acknowledged { began, at: Instant::now() });
            }
            Ok(lane.counts.get())
        }));
        Self { ends, news, acknowledged: Vec::new(), running }
    }

    /// Until what was acknowledged is enough.
    async fn wait(&mut self, is_enough: impl Fn(&[Acknowledged]) -> bool) -> Result<(), BenchError> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !is_enough(&self.acknowledged) {
            match tokio::time::timeout_at(deadline, self.news.recv()).await {
                Ok(Some(acknowledged)) => self.acknowledged.push(acknowledged),
                Ok(None) | Err(_) => return Err(BenchError::Silence { after: PATIENCE }),
            }
        }
        Ok(())
    }

    async fn stop(&mut self) -> Result<Counts, BenchError> {
        self.ends.store(true, Ordering::Relaxed);
        let ended = (&mut self.running).await;
        ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }
}

/// Submits one job at a time, through whichever node acknowledges it first.
struct HedgedLane {
    targets: Vec<Arc<Target>>,
    /// Open connections to each target that no request is under way on.
    idle: Vec<RefCell<Vec<Connection>>>,
    quorum: QuorumId,
    /// The target that answered last.
    preferred: Cell<usize>,
    counts: Cell<Counts>,
    submitted: Cell<u64>,
    /// What the ids of no other client begin with.
    nonce: blake3::Hash,
}

impl HedgedLane {
    fn new(targets: Vec<Arc<Target>>, first: usize, quorum: QuorumId) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let nonce = blake3::hash(format!("{} {}", std::process::id(), now.as_nanos()).as_bytes());
        Self {
            idle: targets.iter().map(|_| RefCell::default()).collect(),
            targets,
            quorum,
            preferred: Cell::new(first),
            counts: Cell::default(),
            submitted: Cell::new(0),
            nonce,
        }
    }

    /// One job, until a node has acknowledged it.
    async fn submit(&self) -> Result<(), BenchError> {
        let request = SubmitRequest { job: Some(self.next_id()), ..nothing() };
        let body = serde_json::to_vec(&request).map_err(|error| BenchError::Plan(error.to_string()))?;
        let (body, began) = (Bytes::from(body), Instant::now());
        let (mut attempts, mut next) = (FuturesUnordered::new(), self.preferred.get());
        let mut failures = 0;
        let mut begin = |pause: Duration| {
            let target = next % self.targets.len();
            next += 1;
            self.attempt(target, body.clone(), pause)
        };
        attempts.push(begin(Duration::ZERO));
        while began.elapsed() < PATIENCE {
            tokio::select! {
                biased;
                Some((target, outcome)) = attempts.next() => match outcome {
                    Ok(()) => {
                        self.preferred.set(target);
                        return Ok(());
                    }
                    Err(_) => {
                        failures += 1;
                        let pause = if failures < self.targets.len() { Duration::ZERO } else { RETRY_PAUSE };
                        self.count(|counts| counts.retried += 1);
                        attempts.push(begin(pause));
                    }
                },
                () = tokio::time::sleep(HEDGE), if attempts.len() < self.targets.len() => {
                    self.count(|counts| counts.hedged += 1);
                    attempts.push(begin(Duration::ZERO));
                }
            }
        }
        Err(BenchError::Silence { after: PATIENCE })
    }

    /// Sends the submit to one node. If it is given up, its connection closes.
    async fn attempt(&self, target: usize, body: Bytes, pause: Duration) -> (usize, Result<(), CallError>) {
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        let idle = self.idle[target].borrow_mut().pop();
        let mut connection = idle.unwrap_or_else(|| Connection::new(self.targets[target].clone()));
        let outcome = connection.call(Method::POST, "/v1/jobs", Body::json(body)).await;
        if outcome.is_ok() {
            self.idle[target].borrow_mut().push(connection);
        }
        (target, outcome.map(drop))
    }

    fn next_id(&self) -> JobId {
        let number = self.submitted.replace(self.submitted.get() + 1);
        let digest = blake3::keyed_hash(self.nonce.as_bytes(), &number.to_le_bytes());
        let mut local = [0; 16];
        local.copy_from_slice(&digest.as_bytes()[..16]);
        JobId { quorum: self.quorum, local }
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }
}

/// Waits until the restarted member has applied what the others have committed: the next kill must not find the quorum
/// short of a member.
async fn wait_whole(testnet: &Testnet, quorum: QuorumId, restarted: usize) -> Result<(), BenchError> {
    let path = format!("/v1/quorums/{quorum}");
    let roles = Roles::of(testnet, quorum).await?;
    let wanted: QuorumDetail = testnet.client(roles.primary)?.get(&path).await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let own: Result<QuorumDetail, _> = testnet.client(restarted)?.get(&path).await;
        if let Ok(own) = own
            && own.applied >= wanted.committed
            && own.info.primary.is_some()
            && own.info.paused.is_none()
        {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(BenchError::Behind { index: restarted, after: PATIENCE });
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acknowledged(start: Instant, times: &[(u64, u64)]) -> Vec<Acknowledged> {
        let at = |ms| start + Duration::from_millis(ms);
        times.iter().map(|(began, ended)| Acknowledged { began: at(*began), at: at(*ended) }).collect()
    }

    /// Goal: neither an answer that was on its way, nor what came long before or after, makes the gap look other than
    /// it was.
    #[test]
    fn the_gap_lasts_until_a_job_of_the_time_after_is_acknowledged() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let gap = |times: &[(u64, u64)]| longest_silence(&acknowledged(start, times), at(100), at(105));
        let ms = |ms| Some(Duration::from_millis(ms));
        // One job was under way when the primary was killed, and waited for the next one.
        assert_eq!(gap(&[(0, 60), (60, 98), (98, 180), (180, 190)]), ms(82));
        // Its answer was on its way: the next one waits.
        assert_eq!(gap(&[(60, 98), (98, 101), (101, 185), (185, 190)]), ms(84));
        // A pause before the last answer does not count, nor does one after the quorum served again.
        assert_eq!(gap(&[(0, 1), (1, 99), (99, 140), (140, 150), (150, 900)]), ms(41));
        // Nothing begun since is acknowledged yet, or nothing was before.
        assert_eq!(gap(&[(90, 99), (99, 140)]), None);
        assert_eq!(gap(&[(120, 140)]), None);
    }

    #[test]
    fn every_job_has_an_id_of_its_own() {
        let quorum = QuorumId([3; 16]);
        let lane = HedgedLane::new(Vec::new(), 0, quorum);
        let ids: std::collections::BTreeSet<JobId> = (0..100).map(|_| lane.next_id()).collect();
        assert_eq!(ids.len(), 100);
        assert!(ids.iter().all(|id| id.quorum == quorum));
        let other = HedgedLane::new(Vec::new(), 0, quorum);
        assert!(!ids.contains(&other.next_id()));
    }
}
