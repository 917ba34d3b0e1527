//! One attempt of a program, from its folder to its outputs.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::control::{Event, ProcessLimits, Start};
use super::folder::{self, Folder};
use super::{AllowedCommand, CommandConfig, SUPERVISE, admit};
use crate::executors::log::LogBook;
use crate::executors::report::{Line, Lines};
use crate::executors::task::{self, CHECKPOINT_BYTES_MAX};
use crate::executors::{Content, Ending, Finished, Host, Limits, Logs, Source, Stdout, Stream, Task, Usage};
use crate::seams::{Entropy, run_blocking};

/// Less would not even carry the supervisor that starts the program.
const ADDRESS_SPACE_MIN: u64 = 256 << 20;

/// How often a running program's files are added up. What it can write in this time is what it can be over its limit.
const SIZE_CHECK: Duration = Duration::from_secs(1);

/// After the grace: the supervisor's own patience with killed processes, and room.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// How long pipes are read on after everything that could write to them has ended.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

const CHUNK_BYTES: usize = 64 << 10;

const SIGXCPU: i32 = 24;
const SIGXFSZ: i32 = 25;

/// Everything a program finds in its environment beside what the task sets.
fn environment(folder: &Path) -> BTreeMap<String, String> {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    BTreeMap::from([
        ("HOME".to_owned(), text(folder.to_owned())),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned()),
        ("TMPDIR".to_owned(), text(folder.join("tmp"))),
    ])
}

pub(super) async fn run(
    config: &CommandConfig,
    entropy: &dyn Entropy,
    task: Task,
    host: Arc<dyn Host>,
    stop: CancellationToken,
) -> Finished {
    let started = Instant::now();
    let limits = task.limits;
    let stdout = task.stdout;
    let log = LogBook::new(host.clone(), limits.log_bytes);
    let used = || Usage { wall: started.elapsed(), ..Usage::default() };
    let ended = |ending, logs| Finished::without_outputs(ending, logs, used());
    let deadline = started + limits.time;
    let prepared = tokio::select! {
        biased;
        () = stop.cancelled() => Err(Ending::Cancelled),
        () = tokio::time::sleep_until(deadline) => Err(Ending::DeadlinePassed { after: limits.time }),
        prepared = prepare(config, entropy, task) => prepared,
    };
    let (folder, start) = match prepared {
        Ok(prepared) => prepared,
        Err(ending) => return ended(ending, Logs::default()),
    };
    let running = Running { config, folder: folder.path(), limits, stdout, host, log: log.clone() };
    let ending = running.run(start, stop, deadline).await;
    let path = folder.path().to_owned();
    let collected = match ending {
        Ending::Succeeded => run_blocking(move || collect(&path, stdout, limits)).await,
        ending => Err(ending),
    };
    match collected {
        Ok((stdout, outputs)) => Finished {
            ending: Ending::Succeeded,
            stdout,
            outputs,
            logs: log.take_logs(),
            used: used(),
            folder: Some(folder),
        },
        Err(ending) => {
            // A folder can be large.
            run_blocking(move || drop(folder)).await;
            ended(ending, log.take_logs())
        }
    }
}

/// Makes the folder with all inputs in it, and says what to start there.
async fn prepare(config: &CommandConfig, entropy: &dyn Entropy, task: Task) -> Result<(Folder, Start), Ending> {
    task::check(&task)?;
    let AllowedCommand { path, args, .. } = admit(config, &task)?.clone();
    let root = config.folder.display();
    let failed = |error: io::Error| Ending::HostFailed { reason: format!("preparing a folder in {root}: {error}") };
    let folder = Folder::create(&config.folder, entropy).map_err(failed)?;
    let place = folder.path().to_owned();
    let identity = task.identity();
    for (name, source) in task.inputs {
        copy_input(source, place.join("in").join(name)).await?;
    }
    let stdin = match task.stdin {
        None => None,
        // It is only read: there is no need for a copy.
        Some(Source::File(path)) => Some(path),
        Some(source) => {
            let path = place.join("stdin");
            copy_input(source, path.clone()).await?;
            Some(path)
        }
    };
    if let Some(bytes) = task.checkpoint {
        copy_input(Source::Bytes(bytes), place.join("task/checkpoint")).await?;
    }
    mknodat(CWD, place.join("task/report"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .map_err(|error| failed(error.into()))?;
    let mut env = environment(&place);
    env.extend(identity);
    env.extend(task.env);
    let limits = ProcessLimits {
        address_space_bytes: task.limits.memory_bytes.max(ADDRESS_SPACE_MIN),
        cpu_seconds: task.limits.cpu.map(|cpu| cpu.as_secs().max(1)),
        file_bytes: task.limits.output_bytes,
        open_files: task.limits.files_open.max(16).into(),
    };
    let args = args.into_iter().chain(task.args).collect();
    let grace_ms = config.grace.as_millis() as u64;
    Ok((folder, Start { program: path, args, env, folder: place, stdin, limits, grace_ms }))
}

/// Puts an input into the folder: a copy, because the program may do with it what it likes.
async fn copy_input(source: Source, to: PathBuf) -> Result<(), Ending> {
    let broken = |error: io::Error| Ending::InputBroken { reason: error.to_string() };
    match source {
        Source::Bytes(bytes) => run_blocking(move || create_new(&to)?.write_all(&bytes)).await.map_err(broken),
        Source::File(from) => {
            let copied = run_blocking(move || io::copy(&mut fs::File::open(&from)?, &mut create_new(&to)?)).await;
            copied.map(|_| ()).map_err(broken)
        }
        Source::Stream(mut chunks) => {
            let mut file = tokio::fs::File::from_std(create_new(&to).map_err(broken)?);
            while let Some(chunk) = chunks.recv().await {
                file.write_all(&chunk.map_err(broken)?).await.map_err(broken)?;
            }
            file.flush().await.map_err(broken)
        }
    }
}

fn create_new(path: &Path) -> io::Result<fs::File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| named(path, &error))
}

/// What a program left, after it succeeded.
fn collect(
    folder: &Path,
    stdout: Stdout,
    limits: Limits,
) -> Result<(Option<Content>, BTreeMap<String, Content>), Ending> {
    let found = folder::files(&folder.join("out"))
        .map_err(|reason| Ending::Invalid { reason: format!("its outputs cannot be taken: {reason}") })?;
    let path = folder.join("stdout");
    let stdout = match stdout {
        Stdout::Output => {
            let bytes = path.metadata().map_or(0, |about| about.len());
            Some(Content::File { path, bytes })
        }
        Stdout::Log => None,
    };
    let told = stdout.iter().map(|content| match content {
        Content::File { bytes, .. } => *bytes,
        Content::Bytes(bytes) => bytes.len() as u64,
    });
    if told.chain(found.iter().map(|found| found.bytes)).sum::<u64>() > limits.output_bytes {
        return Err(Ending::OutputTooLarge { limit: limits.output_bytes });
    }
    let content = |found: folder::Found| (found.name, Content::File { path: found.path, bytes: found.bytes });
    Ok((stdout, found.into_iter().map(content).collect()))
}

struct Running<'a> {
    config: &'a CommandConfig,
    folder: &'a Path,
    limits: Limits,
    stdout: Stdout,
    host: Arc<dyn Host>,
    log: LogBook,
}

impl Running<'_> {
    async fn run(&self, start: Start, stop: CancellationToken, deadline: Instant) -> Ending {
        match self.supervised(start, stop, deadline).await {
            Ok(ending) => ending,
            Err(error) => Ending::HostFailed { reason: format!("running a program: {error}") },
        }
    }
    async fn supervised(&self, start: Start, stop: CancellationToken, deadline: Instant) -> io::Result<Ending> {
        // Both before the program can look for them. The pipe is also open for writing, by us: it has no end as long as
        // the task runs.
        let kept = match self.stdout {
            Stdout::Output => Some(create_new(&self.folder.join("stdout"))?),
            Stdout::Log => None,
        };
        let report = self.folder.join("task/report");
        let reported = pipe::OpenOptions::new().read_write(true).open_receiver(&report);
        let reported = reported.map_err(|error| named(&report, &error))?;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let (hearing, mut telling) = UnixStream::from_std(ours)?.into_split();
        let mut child = Command::new(&self.config.supervisor)
            .arg(SUPERVISE)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| named(&self.config.supervisor, &error))?;
        let out = child.stdout.take().expect("piped above");
        let err = child.stderr.take().expect("piped above");
        let mut line = serde_json::to_vec(&start).map_err(io::Error::other)?;
        line.push(b'\n');
        // From here on, dropping `telling` ends whatever was started: also when this future is dropped.
        telling.write_all(&line).await?;

        let (too_much, ended) = (CancellationToken::new(), CancellationToken::new());
        let group = OnceLock::new();
        let events = listen(hearing, &group);
        let pumps = async { tokio::join!(self.pump_stdout(out, kept, &too_much), self.pump_log(err, Stream::Stderr)) };
        let reports = self.reports(&reported, &ended);
        let sizes = self.watch_size(&too_much);
        tokio::pin!(events, pumps, reports, sizes);
        let (mut event, mut drained, mut told_all, mut ending) = (None, None, false, None);
        let mut patience = deadline;
        while event.is_none() || drained.is_none() || !told_all {
            tokio::select! {
                biased;
                told = &mut events, if event.is_none() => {
                    event = Some(told);
                    ended.cancel();
                    patience = Instant::now() + DRAIN_PATIENCE;
                }
                read = &mut pumps, if drained.is_none() => drained = Some(read),
                () = stop.cancelled(), if ending.is_none() && event.is_none() => {
                    ending = Some(Ending::Cancelled);
                    patience = Instant::now() + self.config.grace + STOP_PATIENCE;
                    telling.shutdown().await?;
                }
                () = too_much.cancelled(), if ending.is_none() => {
                    ending = Some(Ending::OutputTooLarge { limit: self.limits.output_bytes });
                    patience = Instant::now() + self.config.grace + STOP_PATIENCE;
                    telling.shutdown().await?;
                }
                () = tokio::time::sleep_until(patience) => {
                    if ending.is_some() || event.is_some() {
                        break;
                    }
                    ending = Some(Ending::DeadlinePassed { after: self.limits.time });
                    patience = Instant::now() + self.config.grace + STOP_PATIENCE;
                    telling.shutdown().await?;
                }
                read = &mut reports, if !told_all => {
                    read?;
                    told_all = true;
                }
                never = &mut sizes => match never {},
            }
        }
        if let Some((out, err)) = drained {
            out?;
            err?;
        }
        drop(telling);
        let Some(Some(event)) = event else {
            // The supervisor itself was killed, or is stuck: what can be ended from here is its program's group.
            child.start_kill()?;
            if let Some(group) = group.get() {
                let _ = kill_process_group(*group, Signal::KILL);
            }
            child.wait().await?;
            let reason = "the process that watches over the program was ended".to_owned();
            return Ok(ending.unwrap_or(Ending::HostFailed { reason }));
        };
        child.wait().await?;
        if let Event::Ended { survivors: survivors @ 1.., .. } = event {
            tracing::error!(folder = %self.folder.display(), survivors, "processes of a task could not be killed");
        }
        Ok(ending.unwrap_or_else(|| self.ending(event)))
    }
    fn ending(&self, event: Event) -> Ending {
        match event {
            Event::Ended { code: Some(0), .. } => Ending::Succeeded,
            Event::Ended { code: Some(code), .. } => Ending::Exited { code },
            Event::Ended { signal: Some(SIGXFSZ), .. } => Ending::OutputTooLarge { limit: self.limits.output_bytes },
            Event::Ended { signal: Some(SIGXCPU), .. } => Ending::OutOfFuel { what: "processor time" },
            Event::Ended { signal: Some(signal), .. } => Ending::Signalled { signal },
            Event::Ended { code: None, signal: None, .. } | Event::Started { .. } => {
                Ending::HostFailed { reason: "how the program ended was not learned".to_owned() }
            }
            Event::Failed { reason } => Ending::Refused { reason },
        }
    }
    /// Standard output goes into a file, or into the log without one.
    async fn pump_stdout(
        &self,
        mut from: impl AsyncRead + Unpin,
        file: Option<fs::File>,
        too_much: &CancellationToken,
    ) -> io::Result<()> {
        let Some(file) = file else { return self.pump_log(from, Stream::Stdout).await };
        let mut file = tokio::fs::File::from_std(file);
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut room = self.limits.output_bytes;
        loop {
            let count = from.read(&mut buffer).await?;
            if count == 0 {
                return file.flush().await;
            }
            self.log.show_output(&buffer[..count]);
            match room.checked_sub(count as u64) {
                Some(rest) if !too_much.is_cancelled() => {
                    room = rest;
                    file.write_all(&buffer[..count]).await?;
                }
                // Read on and thrown away, so that the program is not held up on its way out.
                _ => too_much.cancel(),
            }
        }
    }
    async fn pump_log(&self, mut from: impl AsyncRead + Unpin, stream: Stream) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            match from.read(&mut buffer).await? {
                0 => return Ok(()),
                count => self.log.push(stream, &buffer[..count]),
            }
        }
    }
    /// Adds up what the program has written, now and then: the kernel bounds each file, not all of them.
    async fn watch_size(&self, too_much: &CancellationToken) -> Never {
        loop {
            tokio::time::sleep(SIZE_CHECK).await;
            let (out, tmp) = (self.folder.join("out"), self.folder.join("tmp"));
            let bytes = run_blocking(move || {
                let both = folder::files(&out)?.into_iter().chain(folder::files(&tmp)?);
                Ok::<u64, String>(both.map(|found| found.bytes).sum())
            })
            .await;
            // Too many files, or too deep, is too much as well; a folder that cannot be read now may be later.
            if bytes.is_ok_and(|bytes| bytes > self.limits.output_bytes) {
                too_much.cancel();
            }
        }
    }
    /// Reads `task/report` until the program has ended and nothing is left in it.
    async fn reports(&self, from: &pipe::Receiver, ended: &CancellationToken) -> io::Result<()> {
        let mut lines = Lines::default();
        let mut buffer = [0; 4096];
        loop {
            let last = ended.is_cancelled();
            // Straight from the pipe: the runtime may not have noticed yet what is there.
            match rustix::io::read(from, &mut buffer) {
                Ok(count) => self.report(&mut lines, &buffer[..count]).await,
                Err(Errno::INTR) => (),
                Err(Errno::AGAIN) if last => return Ok(()),
                Err(Errno::AGAIN) => tokio::select! {
                    () = ended.cancelled() => (),
                    ready = from.readable() => {
                        ready?;
                        // Clears what the runtime believes, if nothing is there after all.
                        match from.try_read(&mut buffer) {
                            Ok(count) => self.report(&mut lines, &buffer[..count]).await,
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
                            Err(error) => return Err(error),
                        }
                    }
                },
                Err(error) => return Err(error.into()),
            }
        }
    }
    async fn report(&self, lines: &mut Lines, mut bytes: &[u8]) {
        while let Some(line) = lines.next_line(&mut bytes) {
            match line {
                Line::Progress { permille, note } => self.host.progress(permille, &note),
                Line::Checkpoint => {
                    if let Err(reason) = self.save_checkpoint().await {
                        self.log_line(&format!("a checkpoint was not saved: {reason}"));
                    }
                }
                Line::Unknown(text) => {
                    if let Some(words) = lines.describe_unknown(&text) {
                        self.log_line(&words);
                    }
                }
            }
        }
    }
    async fn save_checkpoint(&self) -> Result<(), String> {
        let path = self.folder.join("task/checkpoint");
        let bytes = run_blocking(move || {
            use std::io::Read;
            let mut bytes = Vec::new();
            // Neither a link to elsewhere nor a pipe that never ends.
            let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
            let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
            file.take(CHECKPOINT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
            Ok::<_, io::Error>(bytes)
        })
        .await
        .map_err(|error| format!("task/checkpoint: {error}"))?;
        match bytes.len() > CHECKPOINT_BYTES_MAX {
            true => Err(format!("it may have {CHECKPOINT_BYTES_MAX} bytes")),
            false => self.host.checkpoint(Bytes::from(bytes)).await,
        }
    }
    fn log_line(&self, text: &str) {
        self.log.push(Stream::Stderr, format!("[node] {text}\n").as_bytes());
    }
}

/// The error with the path that it is about, which the system does not say.
fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// No value: a future of it does not end by itself.
enum Never {}

/// Waits for the supervisor's last word; `None` when it ended without one. Notes the program's process group.
async fn listen(from: impl AsyncRead + Unpin, group: &OnceLock<Pid>) -> Option<Event> {
    let mut lines = BufReader::new(from).lines();
    loop {
        match serde_json::from_str(&lines.next_line().await.ok()??) {
            Ok(Event::Started { pid }) => {
                let _ = Pid::from_raw(pid).map(|pid| group.set(pid));
            }
            Ok(event) => return Some(event),
            Err(_) => return None,
        }
    }
}
