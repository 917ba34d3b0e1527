//! `bench put` and `bench get`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::stream::{self, Stream, StreamExt};
use quorate_api::PutInfo;
use quorate_bound::{Bound, Run, write_random};
use quorate_protocols::object::{Layout, Profile};
use quorate_testnet::{Client, Testnet};
use tokio::io::AsyncReadExt;

use super::cpu_of_all;
use super::{entry, median};
use crate::bench::report::TransferBench;
use crate::{
    Common, Failure, TransferArgs, Upload, download, facts, print, print_json, print_to_stderr, upload, write_file,
};

/// Bytes read at once; every such block of a run carries a stamp, so that no piece of it was ever stored before.
const BLOCK_BYTES: usize = 1 << 20;

pub async fn put(common: &Common, testnet: &Testnet, args: &TransferArgs) -> Result<(), Failure> {
    let set_up = SetUp::new(testnet, args)?;
    let client = testnet.client(entry(common, testnet)?)?;
    let mut runs = Runs::default();
    for run in 0..args.runs {
        runs.bound.push(set_up.bound(Bound::put)?);
        let cpu = cpu_of_all(testnet);
        let began = Instant::now();
        let stored = set_up.store(&client, run).await?;
        runs.network.push((began.elapsed(), cpu_of_all(testnet) - cpu));
        remove(&client, &stored).await?;
        runs.print_last_run("put", args);
    }
    report(common, args.size, &runs)
}

pub async fn get(common: &Common, testnet: &Testnet, args: &TransferArgs) -> Result<(), Failure> {
    let set_up = SetUp::new(testnet, args)?;
    let index = entry(common, testnet)?;
    // Another node than the one that reads, when there is another.
    let writer = testnet.indices().into_iter().rev().find(|other| *other != index).unwrap_or(index);
    let (writing, client) = (testnet.client(writer)?, testnet.client(index)?);
    let stored = set_up.store(&writing, 0).await?;
    set_up.bound(Bound::prepare_get)?;
    let out = set_up.folder.path().join("read");
    let mut runs = Runs::default();
    for _ in 0..args.runs {
        runs.bound.push(set_up.bound(Bound::get)?);
        let cpu = cpu_of_all(testnet);
        let began = Instant::now();
        let (_, stream) = download(&client, stored.object, None).await?;
        let bytes = write_file(stream, &out).await?;
        runs.network.push((began.elapsed(), cpu_of_all(testnet) - cpu));
        if bytes != args.size {
            return Err(Failure::failed(format!("read {bytes} bytes of {}", args.size)));
        }
        // As the bound does: what the system has not written to the disk yet must not slow the next run.
        std::fs::remove_file(&out).map_err(|error| Failure::of(&error))?;
        runs.print_last_run("get", args);
    }
    remove(&writing, &stored).await?;
    report(common, args.size, &runs)
}

/// The network and the bound take turns, so that what else the machine and its disk do hits both.
#[derive(Default)]
struct Runs {
    network: Vec<(Duration, f64)>,
    bound: Vec<Run>,
}

impl Runs {
    fn print_last_run(&self, what: &str, args: &TransferArgs) {
        let last = |took: Option<Duration>| rate(args.size, took.unwrap_or_default());
        let (network, bound) = (self.network.last().map(|run| run.0), self.bound.last().map(|run| run.took));
        let (network, bound) = (last(network), last(bound));
        print_to_stderr(format!(
            "{what} {}/{}: {network:.0} MB/s, bound {bound:.0} MB/s",
            self.network.len(),
            args.runs
        ));
    }
}

async fn remove(client: &Client, stored: &PutInfo) -> Result<(), Failure> {
    client.send(client.request(reqwest::Method::DELETE, &format!("/v1/objects/{}", stored.object))).await?;
    Ok(())
}

struct SetUp {
    /// On the disk that holds the testnet, so that the bound writes where the nodes write.
    folder: tempfile::TempDir,
    bound: Bound,
}

impl SetUp {
    fn new(testnet: &Testnet, args: &TransferArgs) -> Result<Self, Failure> {
        let fault = |error: std::io::Error| Failure::failed(format!("cannot prepare the measurement: {error}"));
        if args.runs == 0 {
            return Err(Failure::usage("--runs must be at least 1"));
        }
        let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(testnet.dir()).map_err(fault)?;
        let source = folder.path().join("source");
        write_random(&source, args.size).map_err(fault)?;
        let scratch = folder.path().join("pieces");
        std::fs::create_dir(&scratch).map_err(fault)?;
        let bound = Bound { source, scratch, layout: Layout::new(args.size, Profile::DEFAULT) };
        Ok(Self { folder, bound })
    }

    async fn store(&self, client: &Client, run: u32) -> Result<PutInfo, Failure> {
        let what = Upload {
            name: Some(format!("bench-{run}")),
            size: Some(self.bound.layout.size),
            profile: Some(self.bound.layout.profile),
            ..Upload::default()
        };
        // Two benchmarks on one testnet must not store the same pieces either.
        let stamp = format!("{} {run}", self.folder.path().display());
        let body = stamped(&self.bound.source, stamp).await?;
        upload(client, &what, body, |_| ()).await
    }

    fn bound<T>(&self, work: impl Fn(&Bound) -> std::io::Result<T>) -> Result<T, Failure> {
        tokio::task::block_in_place(|| work(&self.bound))
            .map_err(|error| Failure::failed(format!("measuring the bound: {error}")))
    }
}

/// The file block by block, each beginning with a hash of the stamp and its place.
async fn stamped(
    path: &Path,
    stamp: String,
) -> Result<impl Stream<Item = std::io::Result<Bytes>> + Send + use<>, Failure> {
    let file = tokio::fs::File::open(path).await.map_err(|error| Failure::of(&error))?;
    Ok(stream::try_unfold((file, 0u64, stamp), |(mut file, block, stamp)| async move {
        let mut buffer = BytesMut::with_capacity(BLOCK_BYTES);
        while buffer.len() < BLOCK_BYTES {
            let room = (BLOCK_BYTES - buffer.len()) as u64;
            if (&mut file).take(room).read_buf(&mut buffer).await? == 0 {
                break;
            }
        }
        if buffer.is_empty() {
            return Ok(None);
        }
        let mark = blake3::hash(format!("{stamp} {block}").as_bytes());
        let length = buffer.len().min(mark.as_bytes().len());
        buffer[..length].copy_from_slice(&mark.as_bytes()[..length]);
        Ok(Some((buffer.freeze(), (file, block + 1, stamp))))
    })
    .boxed())
}

fn rate(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / 1e6 / took.as_secs_f64().max(1e-9)
}

fn report(common: &Common, bytes: u64, runs: &Runs) -> Result<(), Failure> {
    let Runs { network: runs, bound } = runs;
    let megabytes = bytes as f64 / 1e6;
    let rates: Vec<f64> = runs.iter().map(|(took, _)| rate(bytes, *took)).collect();
    let bound_rates: Vec<f64> = bound.iter().map(|run| rate(bytes, run.took)).collect();
    let (mb_per_s, bound_mb_per_s) = (median(&rates), median(&bound_rates));
    let mut parts: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for run in bound {
        for (part, time) in &run.parts {
            parts.entry((*part).to_owned()).or_default().push(time.as_secs_f64());
        }
    }
    let result = TransferBench {
        bytes,
        mb_per_s,
        bound_mb_per_s,
        ratio: mb_per_s / bound_mb_per_s,
        cpu_s_per_mb: median(&runs.iter().map(|(_, cpu)| cpu / megabytes).collect::<Vec<_>>()),
        bound_cpu_s_per_mb: median(&bound.iter().map(|run| run.cpu_s / megabytes).collect::<Vec<_>>()),
        runs_mb_per_s: rates,
        bound_runs_mb_per_s: bound_rates,
        bound_parts_s: parts.into_iter().map(|(part, times)| (part, median(&times))).collect(),
    };
    if common.json {
        return print_json(&result);
    }
    let spread = |rates: &[f64]| {
        let (low, high) =
            rates.iter().fold((f64::INFINITY, 0f64), |(low, high), rate| (low.min(*rate), high.max(*rate)));
        format!("{low:.0} to {high:.0}")
    };
    let parts: Vec<String> = result.bound_parts_s.iter().map(|(part, s)| format!("{part} {s:.2} s")).collect();
    let network = format!(
        "{mb_per_s:.0} MB/s (median of {}, {})  {:.4} CPU s/MB over all nodes and the client",
        runs.len(),
        spread(&result.runs_mb_per_s),
        result.cpu_s_per_mb
    );
    let bound = format!(
        "{bound_mb_per_s:.0} MB/s (median of {}, {})  {:.4} CPU s/MB",
        bound.len(),
        spread(&result.bound_runs_mb_per_s),
        result.bound_cpu_s_per_mb
    );
    let figures = facts(&[("network", network), ("bound", bound), ("ratio", format!("{:.2}", result.ratio))]);
    print(
        figures.and(format!("of the bound, summed over threads: {}", parts.join(", "))).and(
            "the rest of the network's CPU time goes to sockets and copies, HTTP, framing, consensus and scheduling",
        ),
    )
}
