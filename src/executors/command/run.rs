//! One attempt of a program, from its folder to its outputs.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::control::{Event, ProcessLimits, Start};
use super::folder::{self, Contents, CountError, Folder};
use super::group::Group;
use super::supervisor::descendants;
use super::{AllowedCommand, CommandConfig, SUPERVISE, admit};
use crate::executors::log::LogBook;
use crate::executors::report::{Line, Lines};
use crate::executors::task::{self, CHECKPOINT_BYTES_MAX};
use crate::executors::{Content, Ending, Finished, Host, Limits, Logs, Source, Stdout, Stream, Task, Usage};
use crate::seams::{Entropy, run_blocking};

/// Less would not even carry the supervisor that starts the program.
const ADDRESS_SPACE_MIN: u64 = 256 << 20;

/// How often a running program's files are counted. What it can write in this time is what it can be over its limit.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);

/// Counting many files takes a while; pauses are so many times as long as the last count took.
const PAUSES_PER_COUNT: u32 = 10;

/// After the grace: the supervisor's own patience with killed processes, and room.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// How long pipes are read on after everything that could write to them has ended.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

const CHUNK_BYTES: usize = 64 << 10;

/// The file of its standard output, in the program's folder.
const STDOUT: &str = "stdout";

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
    let running = Running { config, folder: &folder, limits, host, log: log.clone() };
    let path = folder.path().to_owned();
    let collected = match running.run(start, stdout, stop, deadline).await {
        Ok(stdout) => run_blocking(move || collect(&path, stdout, limits)).await,
        Err(ending) => Err(ending),
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
    Ok((folder, Start { program: path, args, env, folder: place, stdin, group: None, limits, grace_ms }))
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

/// What a program left, after it succeeded and nothing of it runs any more. Its standard output is the file that was
/// made for it, and no other that stands in its place now.
fn collect(
    folder: &Path,
    stdout: Option<fs::File>,
    limits: Limits,
) -> Result<(Option<Content>, BTreeMap<String, Content>), Ending> {
    let unfit = |reason: String| Ending::Invalid { reason: format!("its outputs cannot be taken: {reason}") };
    let found = folder::files(&folder.join("out")).map_err(unfit)?;
    let path = folder.join(STDOUT);
    let stdout = match stdout.map(|file| file.metadata()).transpose() {
        Ok(Some(made)) => {
            let is_same = |found: fs::Metadata| (found.dev(), found.ino()) == (made.dev(), made.ino());
            if !path.symlink_metadata().is_ok_and(is_same) {
                return Err(unfit(format!("the file `{STDOUT}` in its folder was removed or replaced")));
            }
            Some(Content::File { path, bytes: made.len() })
        }
        Ok(None) => None,
        Err(error) => return Err(unfit(format!("`{STDOUT}`: {error}"))),
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
    folder: &'a Folder,
    limits: Limits,
    host: Arc<dyn Host>,
    log: LogBook,
}

impl Running<'_> {
    /// The file that its standard output is in, if that is output; or how it ended otherwise.
    async fn run(
        &self,
        mut start: Start,
        stdout: Stdout,
        stop: CancellationToken,
        deadline: Instant,
    ) -> Result<Option<fs::File>, Ending> {
        let failed = |error: io::Error| Ending::HostFailed { reason: format!("running a program: {error}") };
        // Before the program can look for it, and open until its content is taken: the name may become another file's.
        let made = || match stdout {
            Stdout::Output => {
                let file = create_new(&self.folder.path().join(STDOUT))?;
                Ok(Some((file.try_clone()?, file)))
            }
            Stdout::Log => Ok(None),
        };
        let (kept, written) = made().map_err(failed)?.unzip();
        let group = Group::create(self.folder.name());
        start.group = group.as_ref().map(|group| group.path().to_owned());
        match self.supervised(start, written, group, stop, deadline).await {
            Ok(Ending::Succeeded) => Ok(kept),
            Ok(ending) => Err(ending),
            Err(error) => Err(failed(error)),
        }
    }
    async fn supervised(
        &self,
        start: Start,
        stdout: Option<fs::File>,
        group: Option<Group>,
        stop: CancellationToken,
        deadline: Instant,
    ) -> io::Result<Ending> {
        // Also open for writing, by us: it has no end as long as the task runs.
        let report = self.folder.path().join("task/report");
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
        let supervisor = child.id().and_then(|id| Pid::from_raw(id as i32)).expect("it was not waited for");
        let out = child.stdout.take().expect("piped above");
        let err = child.stderr.take().expect("piped above");
        let mut line = serde_json::to_vec(&start).map_err(io::Error::other)?;
        line.push(b'\n');
        let folder = self.folder.path().to_owned();
        let given = run_blocking(move || folder::count(&folder)).await.map_err(io::Error::other)?;
        // From here on, dropping `telling` ends whatever was started: also when this future is dropped.
        telling.write_all(&line).await?;

        let (too_much, ended) = (CancellationToken::new(), CancellationToken::new());
        let main = OnceLock::new();
        let events = listen(hearing, &main);
        let pumps =
            async { tokio::join!(self.pump_stdout(out, stdout, &too_much), self.pump_log(err, Stream::Stderr)) };
        let reports = self.reports(&reported, &ended);
        let counts = self.watch_folder(supervisor, given);
        tokio::pin!(events, pumps, reports, counts);
        let (mut event, mut drained, mut told_all, mut ending) = (None, None, false, None);
        let mut patience = deadline;
        while event.is_none() || drained.is_none() || !told_all {
            tokio::select! {
                biased;
                told = &mut events, if event.is_none() => {
                    // Without a supervisor, what holds the pipes open has yet to be ended.
                    patience = Instant::now() + if told.is_some() { DRAIN_PATIENCE } else { Duration::ZERO };
                    event = Some(told);
                    ended.cancel();
                }
                unfit = &mut counts, if ending.is_none() && event.is_none() => {
                    ending = Some(unfit);
                    patience = Instant::now() + self.config.grace + STOP_PATIENCE;
                    telling.shutdown().await?;
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
            }
        }
        if let Some((out, err)) = drained {
            out?;
            err?;
        }
        drop(telling);
        let Some(Some(event)) = event else {
            // The supervisor itself was killed, or is stuck.
            child.start_kill()?;
            child.wait().await?;
            let (folder, main) = (self.folder.path().to_owned(), main.get().copied());
            run_blocking(move || end_without_supervisor(&folder, main, group.as_ref())).await;
            tracing::error!(folder = %self.folder.path().display(), "the supervisor of a task's program was ended");
            let reason = "the process that watches over the program was ended, by the program or by somebody else";
            return Ok(ending.unwrap_or(Ending::HostFailed { reason: reason.to_owned() }));
        };
        child.wait().await?;
        if let Event::Ended { survivors: survivors @ 1.., .. } = event {
            let folder = self.folder.path().display();
            tracing::error!(%folder, survivors, "processes of a task could not be killed");
            // Its outputs may change while they are read.
            let reason = format!("{survivors} processes of the program could not be ended");
            return Ok(ending.unwrap_or(Ending::HostFailed { reason }));
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
    /// Counts what the program has written, now and then, until it is too much: the kernel bounds each file, not all of
    /// them. What was `given` to it does not count.
    async fn watch_folder(&self, supervisor: Pid, given: Contents) -> Ending {
        let limit = self.limits.output_bytes;
        let mut pause = COUNT_INTERVAL;
        loop {
            tokio::time::sleep(pause).await;
            let (began, folder) = (Instant::now(), self.folder.path().to_owned());
            let counted = run_blocking(move || {
                let family: Vec<Pid> = descendants(supervisor).into_iter().map(|member| member.pid).collect();
                Ok::<_, CountError>(folder::count(&folder)?.bytes.saturating_add(folder::unlinked(&folder, &family)?))
            })
            .await;
            pause = COUNT_INTERVAL.max(PAUSES_PER_COUNT * began.elapsed());
            match counted {
                Ok(bytes) if bytes.saturating_sub(given.bytes) <= limit => (),
                Ok(_) => return Ending::OutputTooLarge { limit },
                Err(CountError::TooMuch(reason)) => return Ending::TooManyFiles { reason },
                Err(CountError::Io(error)) => {
                    return Ending::HostFailed { reason: format!("counting what a program has written: {error}") };
                }
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
        let path = self.folder.path().join("task/checkpoint");
        let bytes = run_blocking(move || {
            let mut bytes = Vec::new();
            let file = task::open_regular(&path)?;
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

/// Ends what a program started after its supervisor is gone. Whoever left the group, the folder and the environment
/// that it was started with is not found. Blocks.
fn end_without_supervisor(folder: &Path, main: Option<Pid>, group: Option<&Group>) {
    if let Some(main) = main {
        let _ = kill_process_group(main, Signal::KILL);
    }
    if let Some(group) = group {
        group.end();
    }
    let patience = Instant::now() + STOP_PATIENCE;
    // What is being born while others are killed is found the next time.
    while folder::kill_of(folder) > 0 && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits for the supervisor's last word; `None` when it ended without one. Notes the program, which leads its process
/// group.
async fn listen(from: impl AsyncRead + Unpin, main: &OnceLock<Pid>) -> Option<Event> {
    let mut lines = BufReader::new(from).lines();
    loop {
        match serde_json::from_str(&lines.next_line().await.ok()??) {
            Ok(Event::Started { pid }) => {
                let _ = Pid::from_raw(pid).map(|pid| main.set(pid));
            }
            Ok(event) => return Some(event),
            Err(_) => return None,
        }
    }
}
