//! `demo`: the main job from end to end, on real processes, in a folder that is gone afterwards.
//!
//! Seven nodes come up, a small note makes the network form a quorum, and this program's own file is put through a
//! node that is not that quorum's primary. The upload is held back after its first part until the primary has been
//! killed with SIGKILL, so that the kill falls into the put whatever the machine's speed; the rest is sent while the
//! quorum elects anew. Then another node reads the file back, and it is compared byte for byte.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream::{self, Stream, TryStreamExt};
use quorate_api::{BenchCommit, CommitBench, PeerInfo, PutInfo, PutPhaseInfo, QuorumDetail};
use quorate_protocols::ids::{PeerId, QuorumId};
use quorate_protocols::object::limits::SEGMENT_BYTES;
use quorate_protocols::text::counted;
use quorate_testnet::{Testnet, TestnetNodeState, UpOptions};
use serde::Serialize;
use tokio::sync::watch;

use super::advice::shell_path;
use super::args::{Common, DemoArgs};
use super::failure::Failure;
use super::ids::Ids;
use super::object::write_file;
use super::output::{Text, bytes, facts, print, print_json, print_unless_json};
use super::reader;
use super::show::{peers_table, quorum_text};
use super::testnet::own_binary;
use super::transfer::{Upload, download, open_file, upload};
use super::wordcount;

const NODES: usize = 7;

/// How long any one step may take before the demo says that it failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks at something that should happen in a moment.
const POLL: Duration = Duration::from_millis(10);

/// What the demo found, for `--json`.
#[derive(Debug, Serialize)]
struct Summary {
    identical: bool,
    bytes: u64,
    put_mb_per_s: f64,
    get_mb_per_s: f64,
    failover_ms: f64,
    pieces_moved: u64,
    columns_replaced: u32,
    killed: PeerId,
    quorum: QuorumId,
    up_ms: u64,
    dir: Option<String>,
}

pub async fn run(common: &Common, args: &DemoArgs) -> Result<(), Failure> {
    let folder = tempfile::Builder::new()
        .prefix("quorate-demo-")
        .tempdir()
        .map_err(|error| Failure::failed(format!("cannot make a temporary folder: {error}")))?;
    let net = folder.path().join("net");
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")))?;
    let outcome = tokio::select! {
        outcome = shown(common, args, &net, folder.path()) => outcome,
        _ = tokio::signal::ctrl_c() => Err(Failure::failed("interrupted; everything was cleaned up")),
        _ = terminate.recv() => Err(Failure::failed("interrupted; everything was cleaned up")),
        () = reader::until_gone() => Err(Failure::reader_gone()),
    };
    let keep = args.keep && outcome.is_ok();
    if !keep {
        // However the demo ended, and however far the start had come: nothing is left running.
        if let Ok(testnet) = Testnet::open(&net) {
            tokio::task::block_in_place(|| testnet.down())?;
        }
    }
    let dir = keep.then(|| net.display().to_string());
    match (outcome?, common.json) {
        (Shown::Failover(summary), true) => print_json(&Summary { dir, ..summary })?,
        (Shown::Failover(summary), false) => print(summary_text(&summary))?,
        (Shown::Wordcount(summary), true) => print_json(&summary.in_dir(dir))?,
        (Shown::Wordcount(summary), false) => print(summary.text())?,
    }
    if keep {
        let folder = folder.keep();
        if !common.json {
            let status = Testnet::open(&net)?.status();
            let running = status.iter().filter(|node| node.state == TestnetNodeState::Running);
            let running: Vec<usize> = running.map(|node| node.index).collect();
            print(keep_text(&net, &folder, &running))?;
        }
    }
    Ok(())
}

/// What was shown, of two things.
enum Shown {
    Failover(Summary),
    Wordcount(wordcount::Summary),
}

async fn shown(common: &Common, args: &DemoArgs, net: &Path, scratch: &Path) -> Result<Shown, Failure> {
    match args.wordcount {
        true => wordcount::perform(common, args, net, scratch).await.map(Shown::Wordcount),
        false => perform(common, net, scratch).await.map(Shown::Failover),
    }
}

fn summary_text(summary: &Summary) -> Text {
    let put =
        format!("{:.0} MB/s ({}, the pause before the kill left out)", summary.put_mb_per_s, bytes(summary.bytes));
    let failover = format!("{:.0} ms from SIGKILL to the next committed command", summary.failover_ms);
    let moved = format!(
        "{} moved, {} went to a backup holder",
        summary.pieces_moved,
        counted(summary.columns_replaced, "column")
    );
    let figures = facts(&[
        ("put", put),
        ("get", format!("{:.0} MB/s from another node", summary.get_mb_per_s)),
        ("failover", failover),
        ("pieces", moved),
    ]);
    Text::from("").and("identical: the file read back is the file that was put, byte for byte").below(figures)
}

/// What can be done with a network that was left running, each line as it is to be typed. Some of its nodes may have
/// been killed on the way: those that `run` are named.
fn keep_text(net: &Path, folder: &Path, run: &[usize]) -> Text {
    let (one, other) = (run.first().copied().unwrap_or(1), run.last().copied().unwrap_or(1));
    Text::from("").and(Text::lines([
        "The network is still running. To talk to it:".to_owned(),
        format!("  export QUORATE_TESTNET_DIR={}", shell_path(net)),
        format!("  quorate --peers --node {one}"),
        format!("  quorate object ls --node {other}"),
        "  quorate testnet status".to_owned(),
        "To end it:".to_owned(),
        format!("  quorate testnet down && rm -r {}", shell_path(folder)),
    ]))
}

async fn perform(common: &Common, net: &Path, scratch: &Path) -> Result<Summary, Failure> {
    let file = own_binary()?;
    print_unless_json(common, format!("Starting {NODES} nodes on loopback, in {}", net.display()))?;
    // The failover is timed by commands that change nothing, which only such nodes take.
    let options = UpOptions { testing: true, ..UpOptions::new(net, NODES, &file) };
    let (testnet, up) = Testnet::up(options).await?;
    let peers: Vec<PeerInfo> = testnet.client(1)?.list("/v1/peers").await?.items;
    let seen = Text::from(format!("Every node sees every other after {:.1} s. Node 1's peers:", up.as_secs_f64()));
    print_unless_json(common, seen.below(peers_table(&peers, &Ids::new(common))))?;

    let note = Upload { name: Some("note".into()), ..Upload::default() };
    let hello = futures::stream::iter([Ok(Bytes::from_static(b"hello"))]);
    let quorum = upload(&testnet.client(1)?, &note, hello, |_| ()).await?.quorum;
    let detail: QuorumDetail = testnet.client(1)?.get(&format!("/v1/quorums/{quorum}")).await?;
    let formed = Text::from("").and("A small note was put through node 1, and these peers formed a quorum for it:");
    print_unless_json(common, formed.below(quorum_text(&detail, &Ids::new(common).with_peers(&peers))))?;

    let primary = primary_of(&testnet, 1, quorum).await?;
    let index_of = |peer: PeerId| {
        testnet.index_of(peer).ok_or_else(|| Failure::failed(format!("{peer} is not a node of this testnet")))
    };
    let victim = index_of(primary)?;
    let others: Vec<usize> = testnet.indices().into_iter().filter(|index| *index != victim).collect();
    let (entry, watcher, reader) = (others[0], others[1], others[others.len() - 1]);

    let (body, what) = open_file(&file).await?;
    let size = what.size.unwrap_or(0);
    // Past the first segment, so that pieces are on their way, and short of the end.
    let part = (SEGMENT_BYTES as u64 + SEGMENT_BYTES as u64 / 4).min(size / 2);
    let (open_gate, gate) = watch::channel(false);
    let (note_progress, progress) = watch::channel((PutPhaseInfo::default(), 0u64, 0u64));
    let putting = format!(
        "Putting {} ({}) through node {entry}; node {victim} is the quorum's primary",
        file.display(),
        bytes(size)
    );
    print_unless_json(common, Text::from("").and(putting))?;
    let client = testnet.client(entry)?;
    let what = Upload { quorum: Some(quorum), ..what };
    let began = Instant::now();
    let put = async {
        upload(&client, &what, held_back(body, part, gate), |now| {
            note_progress.send_replace((now.phase, now.bytes_read, now.pieces_sent));
        })
        .await
    };
    let kill = async {
        let pieces = wait_for_pieces(progress, part).await?;
        let held_since = Instant::now();
        print_unless_json(
            common,
            format!("{pieces} pieces are with their holders; now SIGKILL to node {victim}, the primary"),
        )?;
        let watching = testnet.client(watcher)?;
        let killed = Instant::now();
        tokio::task::block_in_place(|| testnet.kill(victim))?;
        open_gate.send_replace(true);
        let held = held_since.elapsed();
        commit(&watching, quorum).await?;
        let failover = killed.elapsed();
        let next = primary_of(&testnet, watcher, quorum).await?;
        print_unless_json(
            common,
            format!(
                "Failover: node {} is primary, the next command was committed {:.0} ms after the kill",
                index_of(next)?,
                failover.as_secs_f64() * 1000.0
            ),
        )?;
        Ok::<_, Failure>((failover, held))
    };
    let (stored, (failover, held)): (PutInfo, _) = tokio::try_join!(put, kill)?;
    let put_took = began.elapsed().saturating_sub(held);
    print_unless_json(
        common,
        format!("The put went through: {} pieces moved, object {}", stored.pieces_sent, stored.object),
    )?;
    print_unless_json(common, format!("Reading it back through node {reader}"))?;

    let copy = scratch.join("copy");
    let began = Instant::now();
    let (_, stream) = download(&testnet.client(reader)?, stored.object, None).await?;
    write_file(stream, &copy).await?;
    let get_took = began.elapsed();
    if !tokio::task::block_in_place(|| same_bytes(&file, &copy))? {
        return Err(Failure::failed("the file read back DIFFERS from the one that was put"));
    }
    let rate = |took: Duration| size as f64 / 1e6 / took.as_secs_f64().max(1e-9);
    Ok(Summary {
        identical: true,
        bytes: size,
        put_mb_per_s: rate(put_took),
        get_mb_per_s: rate(get_took),
        failover_ms: failover.as_secs_f64() * 1000.0,
        pieces_moved: stored.pieces_sent,
        columns_replaced: stored.columns_replaced,
        killed: primary,
        quorum,
        up_ms: up.as_millis() as u64,
        dir: None,
    })
}

/// Commits one command that changes nothing, as a client of this node.
async fn commit(client: &quorate_testnet::Client, quorum: QuorumId) -> Result<(), Failure> {
    let request = BenchCommit { quorum, count: 1, outstanding: 1 };
    let _: CommitBench = client.post("/v1/bench/noop", &request).await?;
    Ok(())
}

/// The quorum's primary as this node learns it, once there is one.
async fn primary_of(testnet: &Testnet, asked: usize, quorum: QuorumId) -> Result<PeerId, Failure> {
    let client = testnet.client(asked)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let detail: QuorumDetail = client.get(&format!("/v1/quorums/{quorum}")).await?;
        // A primary that was just killed may still be believed in.
        let alive = |peer: &PeerId| {
            let running = quorate_testnet::TestnetNodeState::Running;
            testnet.status().iter().any(|node| node.peer == Some(*peer) && node.state == running)
        };
        if let Some(primary) = detail.info.primary.filter(alive) {
            return Ok(primary);
        }
        if Instant::now() > deadline {
            return Err(Failure::failed(format!("quorum {quorum} has no primary after {PATIENCE:?}")));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until pieces of the file are stored, or, for a file smaller than a segment, its first part was read.
async fn wait_for_pieces(mut progress: watch::Receiver<(PutPhaseInfo, u64, u64)>, part: u64) -> Result<u64, Failure> {
    let small = part < SEGMENT_BYTES as u64;
    let under_way = progress
        .wait_for(|(phase, read, pieces)| *pieces > 0 || (small && *phase >= PutPhaseInfo::Sending && *read >= part));
    match tokio::time::timeout(PATIENCE, under_way).await {
        Ok(Ok(now)) => Ok(now.2),
        // The put has ended; its own error is the one to tell.
        Ok(Err(_)) => std::future::pending().await,
        Err(_) => Err(Failure::failed(format!("no piece was stored within {PATIENCE:?}"))),
    }
}

/// The body, held back behind its first `part` bytes until the gate opens.
fn held_back<S>(body: S, part: u64, gate: watch::Receiver<bool>) -> impl Stream<Item = std::io::Result<Bytes>> + Send
where
    S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
{
    stream::try_unfold((Box::pin(body), 0u64, gate), move |(mut body, sent, mut gate)| async move {
        if sent >= part {
            // A gate that is gone stays open: nothing waits for ever.
            let _ = gate.wait_for(|open| *open).await;
        }
        let chunk = body.try_next().await?;
        Ok(chunk.map(|chunk| {
            let sent = sent + chunk.len() as u64;
            (chunk, (body, sent, gate))
        }))
    })
}

/// Compares two files byte for byte. Blocks.
fn same_bytes(one: &Path, other: &Path) -> Result<bool, Failure> {
    use std::io::Read;
    let open = |path: &Path| {
        let path: PathBuf = path.to_owned();
        std::fs::File::open(&path).map_err(|error| Failure::failed(format!("cannot read {}: {error}", path.display())))
    };
    let (mut one, mut other) = (open(one)?, open(other)?);
    let length = |file: &std::fs::File| file.metadata().map(|metadata| metadata.len());
    let fault = |error: std::io::Error| Failure::failed(format!("comparing the files: {error}"));
    let mut left = length(&one).map_err(fault)?;
    if length(&other).map_err(fault)? != left {
        return Ok(false);
    }
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    while left > 0 {
        let now = left.min(a.len() as u64) as usize;
        one.read_exact(&mut a[..now]).map_err(fault)?;
        other.read_exact(&mut b[..now]).map_err(fault)?;
        if a[..now] != b[..now] {
            return Ok(false);
        }
        left -= now as u64;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    #[test]
    fn a_network_that_is_left_running_is_talked_to_through_a_node_that_runs() {
        let text = keep_text(Path::new("/tmp/a net"), Path::new("/tmp/a"), &[2, 3, 7]);
        let lines: Vec<&str> = text.as_str().lines().map(str::trim).collect();
        for line in [
            "export QUORATE_TESTNET_DIR='/tmp/a net'",
            "quorate --peers --node 2",
            "quorate object ls --node 7",
            "quorate testnet down && rm -r /tmp/a",
        ] {
            assert!(lines.contains(&line), "{line} is not in {lines:?}");
        }
    }

    #[test]
    fn files_are_compared_to_the_last_byte() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let mut content = vec![7; (1 << 20) + 5];
        let a = file("a", &content);
        assert!(same_bytes(&a, &file("same", &content)).unwrap());
        *content.last_mut().unwrap() = 8;
        assert!(!same_bytes(&a, &file("last", &content)).unwrap());
        content.pop();
        assert!(!same_bytes(&a, &file("short", &content)).unwrap());
    }

    #[tokio::test]
    async fn a_body_is_held_back_until_the_gate_opens() {
        let (open, gate) = watch::channel(false);
        let chunks = (0..4).map(|_| Ok(Bytes::from_static(b"1234")));
        let mut body = Box::pin(held_back(futures::stream::iter(chunks), 8, gate));
        assert!(body.next().await.is_some());
        assert!(body.next().await.is_some());
        assert!(futures::poll!(body.next()).is_pending());
        open.send_replace(true);
        assert_eq!(body.count().await, 2);
    }
}
