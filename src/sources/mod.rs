//! Condition sources: read the value that a condition is evaluated on, from HTTP (hosts on the operator's list),
//! objects, other jobs, or this node's metrics.
//!
//! A read gives JSON of at most [`OBSERVED_BYTES_MAX`] bytes within [`SOURCE_DEADLINE`], or one line that says why
//! there is none. Reads are independent: the primary of the trigger's quorum decides when to read, and what follows.
//! Without `[conditions]` in the configuration no address is ever asked.

use std::sync::{Arc, OnceLock};

use futures::FutureExt;
use futures::StreamExt;
use futures::future::BoxFuture;
use quorate_protocols::ids::{JobId, ObjectId};
use quorate_protocols::job::JobRecord;
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::text::chain;
use quorate_protocols::trigger::limits::{OBSERVED_BYTES_MAX, SOURCE_DEADLINE};
use quorate_protocols::trigger::record::Fired;
use quorate_protocols::trigger::spec::Source;
use serde_json::{Value, json};

use crate::hosts::AllowedHosts;
use crate::quorums::QuorumClient;
use crate::quorums::ports::Sources;
use crate::workers::ports::TaskObjects;

/// Rows of a trigger's fires that are read at once, the newest last.
const ROWS: u32 = 500;

type Metrics = dyn Fn() -> String + Send + Sync;

/// What this node can look at. Cloneable; clones share all.
#[derive(Clone)]
pub struct NodeSources {
    hosts: AllowedHosts,
    client: QuorumClient,
    objects: Arc<dyn TaskObjects>,
    /// As `/metrics` shows them; set once the API is there.
    metrics: Arc<OnceLock<Box<Metrics>>>,
}

impl NodeSources {
    pub fn new(hosts: AllowedHosts, client: QuorumClient, objects: Arc<dyn TaskObjects>) -> Self {
        Self { hosts, client, objects, metrics: Arc::default() }
    }

    /// Where `metric` sources are read from. The first call counts.
    pub fn set_metrics(&self, metrics: impl Fn() -> String + Send + Sync + 'static) {
        let _ = self.metrics.set(Box::new(metrics));
    }

    async fn find(&self, source: Source) -> Result<String, String> {
        match source {
            Source::Http { url } => self.hosts.get(&url).await,
            Source::Object(object) => self.object(object).await,
            Source::Job(job) => self.job(job).await,
            Source::Metric { name } => {
                let metrics = self.metrics.get().ok_or("this node has no metrics")?;
                metric(&metrics(), &name)
            }
        }
    }

    async fn object(&self, object: ObjectId) -> Result<String, String> {
        let mut read = self.objects.read(object, None).await?;
        if read.size > OBSERVED_BYTES_MAX as u64 {
            return Err(format!("the object has {} bytes, more than the {OBSERVED_BYTES_MAX} allowed", read.size));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = read.bytes.next().await {
            bytes.extend_from_slice(&chunk?);
        }
        String::from_utf8(bytes).map_err(|_| "the object is not UTF-8".to_owned())
    }

    /// `{state, ended_at}` of the last run that ended, or `null` before there is one.
    async fn job(&self, job: JobId) -> Result<String, String> {
        let record = self.record(job).await?;
        let ended = if record.trigger().is_some() {
            match self.last_run(job).await? {
                Some(run) => Some(self.record(run).await?),
                None => None,
            }
        } else {
            record.state.is_final().then_some(record)
        };
        let value = ended.map(|record| json!({ "state": record.state, "ended_at": record.finished_at.map(|at| at.0) }));
        Ok(value.unwrap_or(Value::Null).to_string())
    }

    async fn record(&self, job: JobId) -> Result<Box<JobRecord>, String> {
        match self.client.query(job.quorum, Query::Job { job }, false, SOURCE_DEADLINE).await {
            Ok(QueryAnswer::Job(record)) => Ok(record),
            Ok(_) => Err(format!("there is no job {job}")),
            Err(error) => Err(chain(&error)),
        }
    }

    async fn last_run(&self, job: JobId) -> Result<Option<JobId>, String> {
        let (mut from, mut last) = (0, None);
        loop {
            let query = Query::Fires { job, from, limit: ROWS };
            let rows = match self.client.query(job.quorum, query, false, SOURCE_DEADLINE).await {
                Ok(QueryAnswer::Fires(rows)) => rows,
                Ok(_) => return Err(format!("there is no job {job}")),
                Err(error) => return Err(chain(&error)),
            };
            let Some(newest) = rows.last() else { return Ok(last) };
            from = newest.number + 1;
            let ended = rows.iter().rev().find_map(|row| match row.what {
                Fired::Run { run, end: Some(_) } => Some(run),
                _ => None,
            });
            last = ended.or(last);
        }
    }
}

impl Sources for NodeSources {
    fn fetch(&self, source: Source) -> BoxFuture<'static, Result<String, String>> {
        let sources = self.clone();
        async move {
            match tokio::time::timeout(SOURCE_DEADLINE, sources.find(source)).await {
                Ok(found) => found,
                Err(_) => Err(format!("no answer within {SOURCE_DEADLINE:?}")),
            }
        }
        .boxed()
    }
}

/// The value of the series with this name: with its labels, if it has any, as `/metrics` writes them.
fn metric(text: &str, name: &str) -> Result<String, String> {
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = value.ok_or_else(|| format!("this node has no metric {name:?}; /metrics lists them"))?;
    let number: f64 = value.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(f64::NAN);
    // JSON has no other numbers.
    if number.is_finite() { Ok(json!(number).to_string()) } else { Ok(Value::Null.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let text = "# HELP a_b c\na_b_total 5\na_b{quorum=\"x\"} 7\na_b 2.5 1700\n";
        assert_eq!(metric(text, "a_b").unwrap(), "2.5");
        assert_eq!(metric(text, "a_b{quorum=\"x\"}").unwrap(), "7.0");
        assert_eq!(metric(text, "a_b_total").unwrap(), "5.0");
        assert!(metric(text, "a").unwrap_err().contains("/metrics"));
    }
}
