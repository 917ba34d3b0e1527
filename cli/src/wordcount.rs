//! `demo --wordcount`: the words of a large text, counted by a network and by one process, and compared.
//!
//! Seven nodes come up, the text is put through one of them, the job of `examples/wordcount` is submitted through
//! another and looked at from a third. The text is a real one, chapters of Moby-Dick (Herman Melville, 1851, in the
//! public domain), repeated in an order that is drawn by paragraph until it is long enough; or any file. Segments are
//! cut without regard for words, so thousands of words lie across a border and must be counted once.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use quorate_api::{
    FileContent, JobInfo, Listing, OutputInfo, PlannedStep, PutInfo, RunState, SubmitInfo, SubmitRequest, TaskInfo,
};
use quorate_protocols::ids::{JobId, PeerId};
use quorate_testnet::{Client, Testnet, UpOptions};
use serde::Serialize;

use super::args::{Common, DemoArgs};
use super::failure::Failure;
use super::job;
use super::output::{Text, bytes, counter, facts, print_unless_json, progress, set_message};
use super::testnet::own_binary;
use super::transfer::{open_file, upload};

const NODES: usize = 7;

const BOOK: &str = include_str!("../../examples/wordcount/moby-dick.txt");
const SPEC: &str = include_str!("../../examples/wordcount/wordcount.toml");
const MODULE: &str = include_str!("../../examples/wordcount/wordcount.wat");

/// How long the job may take before the demo says that it failed.
const PATIENCE: Duration = Duration::from_secs(900);

/// Between two looks at the job.
const WAIT_MS: u64 = 200;

/// What was found, for `--json`.
#[derive(Debug, Serialize)]
pub struct Summary {
    identical: bool,
    bytes: u64,
    words: u64,
    distinct: usize,
    tasks: u32,
    /// Peers that were seen to run a task.
    workers: usize,
    job: JobId,
    job_s: f64,
    alone_s: f64,
    dir: Option<String>,
}

impl Summary {
    /// The same, with the folder of the network that was left running.
    pub fn in_dir(self, dir: Option<String>) -> Self {
        Self { dir, ..self }
    }

    pub fn text(&self) -> Text {
        let rate = |seconds: f64| self.bytes as f64 / 1e6 / seconds.max(1e-9);
        let network = format!(
            "{:.1} s, {:.0} MB/s, {} tasks on {} workers, by way of job {}",
            self.job_s,
            rate(self.job_s),
            self.tasks,
            self.workers,
            self.job
        );
        let figures = facts(&[
            ("text", format!("{}, {} words, {} different ones", bytes(self.bytes), self.words, self.distinct)),
            ("network", network),
            ("alone", format!("{:.1} s, {:.0} MB/s, one thread of this program", self.alone_s, rate(self.alone_s))),
        ]);
        Text::from("").and("identical: the network and one process count the same").below(figures)
    }
}

pub async fn perform(common: &Common, args: &DemoArgs, net: &Path, scratch: &Path) -> Result<Summary, Failure> {
    let text = match &args.text {
        Some(file) => file.clone(),
        None => {
            let path = scratch.join("text");
            print_unless_json(
                common,
                format!("Writing {} of text: paragraphs of Moby-Dick, in a drawn order", bytes(args.size)),
            )?;
            tokio::task::block_in_place(|| write_text(&path, args.size))
                .map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))?;
            path
        }
    };
    print_unless_json(common, format!("Starting {NODES} nodes on loopback, in {}", net.display()))?;
    let (testnet, up) = Testnet::up(UpOptions::new(net, NODES, &own_binary()?)).await?;
    print_unless_json(
        common,
        format!("Every node sees every other after {:.1} s; putting the text through node 1", up.as_secs_f64()),
    )?;

    let (body, what) = open_file(&text).await?;
    let bar = progress(what.size, common.json);
    let stored: Result<PutInfo, Failure> = upload(&testnet.client(1)?, &what, body, |progress| {
        set_message(&bar, progress.phase.to_string());
        bar.set_position(progress.bytes_stored);
    })
    .await;
    bar.finish_and_clear();
    let stored = stored?;
    let rate = stored.bytes as f64 / 1e3 / (stored.took_ms.max(1)) as f64;
    print_unless_json(common, format!("Stored as object {} ({rate:.0} MB/s)", stored.object))?;

    let request = SubmitRequest {
        spec: SPEC.to_owned(),
        file: Some("wordcount.toml".to_owned()),
        files: BTreeMap::from([("wordcount.wat".to_owned(), FileContent::Text(MODULE.to_owned()))]),
        set: BTreeMap::from([("text".to_owned(), stored.object.to_string())]),
        ..SubmitRequest::default()
    };
    let began = Instant::now();
    let SubmitInfo { job, .. } = testnet.client(2)?.post("/v1/jobs", &request).await?;
    print_unless_json(common, format!("Submitted through node 2 as job {job}; looking at it through node 3"))?;
    let (ended, workers) = until_end(common, &testnet.client(3)?, job).await?;
    let job_s = began.elapsed().as_secs_f64();
    let steps: &[PlannedStep] = ended.batch.as_ref().map(|batch| batch.steps.as_slice()).unwrap_or_default();
    let tasks = steps.iter().map(|step| step.tasks).sum();

    let reader = testnet.client(NODES)?;
    print_unless_json(
        common,
        format!("Counted in {job_s:.1} s; reading the result through node {NODES}, and counting alone"),
    )?;
    let counted = scratch.join("counts");
    let outputs: Listing<OutputInfo> = reader.get(&format!("/v1/jobs/{job}/outputs")).await?;
    super::object::write_file(job::output_content(reader, job, outputs), &counted).await?;
    let began = Instant::now();
    let alone = tokio::task::block_in_place(|| count(&text))
        .map_err(|error| Failure::failed(format!("cannot count {}: {error}", text.display())))?;
    let alone_s = began.elapsed().as_secs_f64();
    let found = std::fs::read(&counted).map_err(|error| Failure::failed(format!("cannot read the counts: {error}")))?;
    if let Some(fault) = difference(&found, &alone) {
        return Err(Failure::failed(format!("the counts DIFFER: {fault}")));
    }
    Ok(Summary {
        identical: true,
        bytes: stored.bytes,
        words: alone.values().sum(),
        distinct: alone.len(),
        tasks,
        workers: workers.len(),
        job,
        job_s,
        alone_s,
        dir: None,
    })
}

/// Follows the job to its end, with a bar, and notes who was seen to work.
async fn until_end(common: &Common, client: &Client, job: JobId) -> Result<(JobInfo, BTreeSet<PeerId>), Failure> {
    let began = Instant::now();
    let bar = counter(common.json);
    let mut workers = BTreeSet::new();
    loop {
        let info: JobInfo = match client.get(&format!("/v1/jobs/{job}/wait?timeout_ms={WAIT_MS}")).await {
            Ok(info) => info,
            Err(error) if job::passes(&error) && began.elapsed() < PATIENCE => continue,
            Err(error) => return Err(error.into()),
        };
        if info.state.is_final() || info.state == RunState::AwaitingResolution || began.elapsed() > PATIENCE {
            bar.finish_and_clear();
            let why = info.why.clone().unwrap_or_default();
            return match info.state {
                RunState::Succeeded => Ok((info, workers)),
                state => Err(Failure::failed(format!("job {job} is {state} after {:?}: {why}", began.elapsed()))),
            };
        }
        // Only for the summary: what is not seen now may be at the next look.
        let tasks: Listing<TaskInfo> = client.get(&format!("/v1/jobs/{job}/tasks")).await.unwrap_or_default();
        workers.extend(tasks.items.iter().flat_map(|task| &task.running).map(|attempt| attempt.worker));
        job::show_progress(&bar, &info);
    }
}

/// Writes at least `size` bytes: all paragraphs of the book in an order drawn anew each time.
fn write_text(path: &Path, size: u64) -> std::io::Result<()> {
    let mut paragraphs: Vec<&str> = BOOK.split("\n\n").map(str::trim_end).collect();
    let mut out = BufWriter::new(std::fs::File::create(path)?);
    let mut written = 0;
    // Any generator of numbers does; this one makes the same text everywhere.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % limit as u64) as usize
    };
    while written < size {
        for at in (1..paragraphs.len()).rev() {
            paragraphs.swap(at, below(at + 1));
        }
        for paragraph in &paragraphs {
            out.write_all(paragraph.as_bytes())?;
            out.write_all(b"\n\n")?;
            written += paragraph.len() as u64 + 2;
            if written >= size {
                break;
            }
        }
    }
    out.flush()
}

/// Letters of a word, and every byte above ASCII: what the module says a word is, said once more.
fn in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'\'' || byte >= 128
}

/// Counts in one pass, by one thread.
fn count(path: &Path) -> std::io::Result<BTreeMap<Vec<u8>, u64>> {
    let mut counts: std::collections::HashMap<Vec<u8>, u64> = std::collections::HashMap::new();
    let mut reader = BufReader::with_capacity(1 << 20, std::fs::File::open(path)?);
    let mut word: Vec<u8> = Vec::new();
    let mut end = |word: &mut Vec<u8>| {
        if !word.is_empty() {
            match counts.get_mut(word.as_slice()) {
                Some(count) => *count += 1,
                None => drop(counts.insert(word.clone(), 1)),
            }
            word.clear();
        }
    };
    loop {
        let chunk = reader.fill_buf()?;
        if chunk.is_empty() {
            break;
        }
        for &byte in chunk {
            if in_word(byte) { word.push(byte.to_ascii_lowercase()) } else { end(&mut word) }
        }
        let read = chunk.len();
        reader.consume(read);
    }
    end(&mut word);
    Ok(counts.into_iter().collect())
}

/// The first line at which what the network found (`WORD COUNT` a line, in byte order) is not what is true.
fn difference(found: &[u8], counts: &BTreeMap<Vec<u8>, u64>) -> Option<String> {
    let mut lines = found.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    for (word, count) in counts {
        let expected = [word.as_slice(), format!(" {count}").as_bytes()].concat();
        let line = lines.next().unwrap_or_default();
        if line != expected {
            let (line, expected) = (String::from_utf8_lossy(line), String::from_utf8_lossy(&expected));
            return Some(format!("{line:?} where {expected:?} is right"));
        }
    }
    lines.next().map(|line| format!("{:?} is one line too many", String::from_utf8_lossy(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_as_long_as_asked_and_the_same_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        let size = BOOK.len() as u64 * 2;
        write_text(&one, size).unwrap();
        write_text(&other, size).unwrap();
        let text = std::fs::read(&one).unwrap();
        assert!(text.len() as u64 >= size && text == std::fs::read(&other).unwrap());
        // Every paragraph is there once before any is there again.
        let once = count(&one).unwrap();
        assert!(once[b"ishmael".as_slice()] >= 2, "{:?}", once.get(b"ishmael".as_slice()));
    }

    #[test]
    fn the_first_difference_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text");
        std::fs::write(&path, "The whale, the WHALE; a ship's whale\u{e9}").unwrap();
        let counts = count(&path).unwrap();
        assert_eq!(difference("a 1\nship's 1\nthe 2\nwhale 2\nwhale\u{e9} 1\n".as_bytes(), &counts), None);
        let wrong = difference(b"a 1\nship's 2\n", &counts).unwrap();
        assert!(wrong.contains("ship's 2") && wrong.contains("ship's 1"), "{wrong}");
        let long = "a 1\nship's 1\nthe 2\nwhale 2\nwhale\u{e9} 1\nzoo 1\n";
        assert!(difference(long.as_bytes(), &counts).unwrap().contains("zoo 1"));
        assert!(difference(b"", &counts).is_some());
    }
}
