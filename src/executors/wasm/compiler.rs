//! Compiler process: turns a module into machine code outside of the node, under limits that the kernel keeps.
//!
//! Others decide what is compiled, and a compiler can be made to want hours and gigabytes for a few kilobytes. A thread
//! cannot be ended from outside and shares its memory with the node; a process has limits of memory and of processor
//! time, and its end gives everything back. So `quorate compile-module` reads a request and a module from its
//! standard input, writes the code to its standard output, and is gone. It runs at a lower priority than the node's own
//! work, ends with its node, and both limits follow the size of the module.
//!
//! A module that reaches a limit is at fault wherever it runs: the quorum does not try it elsewhere. Processor time is
//! counted and not the time that passes, so a busy machine refuses nothing that a quiet one compiles. A compiler that
//! has not ended long after it should have is killed, and the node is at fault: something holds it up here.
//!
//! Whether the limits are enough was measured from outside (`docs/decisions/work-for-others.md`).

use std::io::{self, BufRead, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use quorate_modules::check;
use quorate_modules::engine::Flavour;
use quorate_protocols::task::limits::{COMPILE_CPU_BYTES_PER_SECOND, COMPILE_CPU_SECONDS_MIN};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, pidfd_open, set_parent_process_death_signal, setrlimit,
};
use serde::{Deserialize, Serialize};

use super::modules::ModuleError;
use super::threads;

/// The name of the hidden command of our own binary that compiles.
pub const COMPILE: &str = "compile-module";

/// Exit codes of a compiler that found the module wrong (its standard output says how), and of one that panicked.
const REFUSED: u8 = 3;
const PANICKED: u8 = 4;

/// What a compiler has beyond the memory that it is given: its stacks and the program's own data.
const OWN_BYTES: u64 = 32 << 20;

/// A compiler is given so much time, and so many times the processor time that it may use. It runs at a low priority,
/// so a busy machine lets it wait.
const PATIENCE: Duration = Duration::from_secs(120);
const PATIENCE_PER_CPU: u32 = 10;

/// How much more willingly than others the kernel ends a compiler when the machine's memory is over: the node is to
/// live.
const OOM_SCORE: &str = "500";

const CHUNK_BYTES: usize = 64 << 10;

/// Longest request, in bytes.
const REQUEST_BYTES_MAX: u64 = 1024;

/// Bytes of the compiler's last words that are read.
const STDERR_BYTES_MAX: usize = 4096;

/// What the node writes before the module: one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    flavour: Flavour,
    module_bytes: u64,
    memory_bytes: u64,
    cpu_seconds: u64,
}

/// Processor time that compiling a module of this size may take.
pub(super) fn cpu_seconds(module_bytes: u64) -> u64 {
    COMPILE_CPU_SECONDS_MIN + module_bytes / COMPILE_CPU_BYTES_PER_SECOND
}

/// What a compilation may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    pub memory_bytes: u64,
    pub cpu_seconds: u64,
}

/// Why there is no code.
#[derive(Debug)]
pub(super) enum CompileError {
    /// Its processor time was used up.
    Slow,
    Failed(ModuleError),
}

// ---- the node's side ----

/// Has a binary module compiled within an allowance, on the thread that calls this; the process ends with that thread.
pub(super) fn compile(
    compiler: &Path,
    binary: &[u8],
    flavour: Flavour,
    Allowance { memory_bytes, cpu_seconds }: Allowance,
) -> Result<Vec<u8>, CompileError> {
    let request = Request { flavour, module_bytes: binary.len() as u64, memory_bytes, cpu_seconds };
    let host = |what: &str, error: io::Error| CompileError::Failed(ModuleError::Host(format!("{what}: {error}")));
    let mut line = serde_json::to_vec(&request).map_err(|error| host("asking the compiler", error.into()))?;
    line.push(b'\n');
    let patience = PATIENCE + PATIENCE_PER_CPU * Duration::from_secs(cpu_seconds);
    let child = Command::new(compiler)
        .arg(COMPILE)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| host("starting the compiler", error))?;
    // No more code than it could have had in memory.
    let code_bytes_max = OWN_BYTES + request.memory_bytes;
    let output = CompilerOutput::from_child(child, [&line, binary], code_bytes_max as usize, Instant::now() + patience)
        .map_err(|error| host("talking to the compiler", error))?;
    match output {
        Some(CompilerOutput { status, stdout, .. }) if status.code() == Some(0) => Ok(stdout),
        Some(output) => Err(failure(&output, &request)),
        None => Err(CompileError::Failed(ModuleError::Host(format!(
            "the compiler had not ended after {} s and was killed",
            patience.as_secs()
        )))),
    }
}

/// What a compiler wrote, and how it ended.
struct CompilerOutput {
    status: ExitStatus,
    stdout: Vec<u8>,
    /// Its beginning.
    stderr: Vec<u8>,
}

impl CompilerOutput {
    /// Writes `parts` to a child while it listens, and reads what it writes, until it ends. `None` when it did not in
    /// time. Whatever comes of this, the child is gone afterwards.
    fn from_child(mut child: Child, parts: [&[u8]; 2], bytes_max: usize, until: Instant) -> io::Result<Option<Self>> {
        let heard = Self::exchange_bytes(&mut child, parts, bytes_max, until);
        if !matches!(heard, Ok(Some(_))) {
            // It may have ended meanwhile.
            let _ = child.kill();
        }
        let status = child.wait()?;
        Ok(heard?.map(|(stdout, stderr)| Self { status, stdout, stderr }))
    }

    /// The child has ended, or nearly, if this gives what it wrote.
    fn exchange_bytes(
        child: &mut Child,
        parts: [&[u8]; 2],
        bytes_max: usize,
        until: Instant,
    ) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        let (mut stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (mut stdout, mut stderr) = (stdout.expect("it is piped"), stderr.expect("it is piped"));
        let mut parts = parts.into_iter().filter(|part| !part.is_empty());
        let mut rest: &[u8] = parts.next().unwrap_or_default();
        // Nothing here may wait but the poll, which knows when to stop.
        fcntl_setfl(stdin.as_ref().expect("it is piped"), OFlags::NONBLOCK)?;
        fcntl_setfl(&stdout, OFlags::NONBLOCK)?;
        fcntl_setfl(&stderr, OFlags::NONBLOCK)?;
        let (mut code, mut words) = (Vec::new(), Vec::new());
        let (mut code_ended, mut words_ended) = (false, false);
        while !(code_ended && words_ended) {
            let mut waits = Vec::with_capacity(3);
            waits.extend(stdin.as_ref().map(|stdin| PollFd::new(stdin, PollFlags::OUT)));
            waits.extend((!code_ended).then(|| PollFd::new(&stdout, PollFlags::IN)));
            waits.extend((!words_ended).then(|| PollFd::new(&stderr, PollFlags::IN)));
            if !poll_until(&mut waits, until)? {
                return Ok(None);
            }
            if let Some(pipe) = &mut stdin {
                // One that died does not read; its status says why.
                let gone = match pipe.write(rest) {
                    Ok(count) => {
                        rest = &rest[count..];
                        if rest.is_empty() {
                            rest = parts.next().unwrap_or_default();
                        }
                        rest.is_empty()
                    }
                    Err(error) => !is_not_now(&error),
                };
                if gone {
                    stdin = None;
                }
            }
            code_ended = code_ended || read_some(&mut stdout, &mut code, bytes_max)?;
            words_ended = words_ended || read_some(&mut stderr, &mut words, STDERR_BYTES_MAX)?;
        }
        let pid = Pid::from_raw(child.id() as i32).expect("a child has a process id");
        let ended = pidfd_open(pid, PidfdFlags::empty())?;
        let ended = poll_until(&mut [PollFd::new(&ended, PollFlags::IN)], until)?;
        Ok(ended.then_some((code, words)))
    }
}

fn is_not_now(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Whether anything of it happened in time.
fn poll_until(waits: &mut [PollFd<'_>], until: Instant) -> io::Result<bool> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(waits, Some(&left)) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => (),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads what is there, and keeps so many bytes of it. Whether that was the end.
fn read_some(from: &mut impl Read, into: &mut Vec<u8>, bytes_max: usize) -> io::Result<bool> {
    let mut chunk = [0; CHUNK_BYTES];
    match from.read(&mut chunk) {
        Ok(0) => Ok(true),
        Ok(count) => {
            let room = bytes_max.saturating_sub(into.len());
            into.extend_from_slice(&chunk[..count.min(room)]);
            Ok(false)
        }
        Err(error) if is_not_now(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What the end of a compiler without code means.
fn failure(CompilerOutput { status, stdout, stderr }: &CompilerOutput, request: &Request) -> CompileError {
    let (stdout, stderr) = (String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr));
    let signal = status.signal();
    let of = |signal: Signal| Some(signal.as_raw());
    let invalid = |reason: String| CompileError::Failed(ModuleError::Invalid(reason));
    if status.code() == Some(REFUSED.into()) {
        return invalid(stdout.into_owned());
    }
    if status.code() == Some(PANICKED.into()) {
        // Our bug, but of this module wherever it is compiled: its author should hear of it, and at once.
        return invalid("the compiler failed on this module; this is a bug of quorate".to_owned());
    }
    if signal == of(Signal::XCPU) {
        return CompileError::Slow;
    }
    // Rust's allocator and a stack overflow end a process alike, after a line that tells which it was.
    if signal == of(Signal::ABORT)
        && ["memory allocation of", "overflowed its stack"].iter().any(|l| stderr.contains(l))
    {
        return invalid(format!(
            "compiling it took more than {} MiB of memory, which is what a module of {} bytes gets: its functions are too \
             large, or too many for their size",
            request.memory_bytes >> 20,
            request.module_bytes
        ));
    }
    let last = stderr.lines().last().unwrap_or_default();
    CompileError::Failed(ModuleError::Host(format!("the compiler broke off ({status}) {last}")))
}

/// A module that used up what a module of its size gets.
pub(super) fn too_slow(module_bytes: u64) -> ModuleError {
    ModuleError::Invalid(format!(
        "compiling it took more than {} s of processor time, which is what a module of {module_bytes} bytes gets: its \
         functions are too large",
        cpu_seconds(module_bytes)
    ))
}

// ---- the compiler's side ----

/// What the hidden command does.
pub fn main() -> ExitCode {
    // The node may have gone before this; then the standard input ends early.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    // Not everywhere, and then the kernel chooses as it does.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    match serve() {
        Ok(code) => code,
        Err(error) => {
            // Its reader is the node, and may be gone.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<ExitCode> {
    let mut stdin = io::stdin().lock();
    let mut line = Vec::new();
    stdin.by_ref().take(REQUEST_BYTES_MAX).read_until(b'\n', &mut line)?;
    let request: Request = serde_json::from_slice(&line)?;
    // All that it may write; the program's file and what the allocator only sets aside do not count.
    limit(Resource::Data, OWN_BYTES + request.memory_bytes)?;
    limit(Resource::Cpu, request.cpu_seconds)?;
    limit(Resource::Core, 0)?;
    let mut module = Vec::new();
    stdin.take(request.module_bytes).read_to_end(&mut module)?;
    if module.len() as u64 != request.module_bytes {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the module did not come whole"));
    }
    let (send, compiled) = std::sync::mpsc::channel();
    let work = move || {
        let compiled = request.flavour.engine().and_then(|engine| engine.precompile_module(&module));
        let _ = send.send(compiled.map_err(|error| check::chain(&error)));
    };
    threads::start("wasm-compile", work).map_err(io::Error::other)?;
    // A compiler that panics drops the sender after it said why.
    let Ok(compiled) = compiled.recv() else { return Ok(ExitCode::from(PANICKED)) };
    let mut stdout = io::stdout().lock();
    let (bytes, code) = match compiled {
        Ok(code) => (code, ExitCode::SUCCESS),
        Err(reason) => (reason.into_bytes(), ExitCode::from(REFUSED)),
    };
    stdout.write_all(&bytes)?;
    stdout.flush()?;
    Ok(code)
}

/// Lowers a limit, never above what this process has.
fn limit(resource: Resource, value: u64) -> io::Result<()> {
    let hard = getrlimit(resource).maximum;
    let value = hard.map_or(value, |hard| hard.min(value));
    Ok(setrlimit(resource, Rlimit { current: Some(value), maximum: hard })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Child {
        let pipe = Stdio::piped;
        Command::new("/bin/sh").args(["-c", script]).stdin(pipe()).stdout(pipe()).stderr(pipe()).spawn().unwrap()
    }

    /// Goal: whatever a child does with its pipes, it is heard, or gone when its time is over.
    #[test]
    fn a_child_is_heard_in_time_or_killed() {
        let soon = || Instant::now() + Duration::from_millis(200);
        let far = || Instant::now() + Duration::from_secs(600);
        let large = vec![7; 1 << 20];
        for held_up in ["exec sleep 1000", "exec sleep 1000 >&- 2>&-", "kill -STOP $$", "cat; exec sleep 1000"] {
            let child = shell(held_up);
            let process = format!("/proc/{}", child.id());
            assert!(CompilerOutput::from_child(child, [b"", &large], 1 << 21, soon()).unwrap().is_none(), "{held_up}");
            assert!(!Path::new(&process).exists(), "{held_up}");
        }
        // Talks before it listens, with more than a pipe holds.
        let child = shell("head -c 1000000 /dev/zero >&2; cat; exit 3");
        let output = CompilerOutput::from_child(child, [b"line", &large], 1 << 21, far()).unwrap().unwrap();
        assert_eq!(
            (output.status.code(), output.stdout.len(), output.stderr.len()),
            (Some(3), large.len() + 4, STDERR_BYTES_MAX)
        );
        // Never listens, and says more than anybody wants.
        let output = CompilerOutput::from_child(shell("head -c 1000000 /dev/zero"), [b"line", &large], 1000, far())
            .unwrap()
            .unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 1000));
    }
}
