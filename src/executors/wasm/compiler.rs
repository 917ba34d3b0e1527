//! Compiler process: turns a module into machine code outside of the node, under limits that the kernel keeps.
//!
//! Others decide what is compiled, and a compiler can be made to want hours and gigabytes for a few kilobytes. A thread
//! cannot be ended from outside and shares its memory with the node; a process has limits of memory and of processor
//! time, and its end gives everything back. So `quorate compile-module` reads a request and a module from its
//! standard input, writes the code to its standard output, and is gone. It runs at a lower priority than the node's own
//! work, ends with its node, and both limits follow the size of the module.
//!
//! A module that reaches a limit is at fault wherever it runs: the quorum does not try it elsewhere. Processor time is
//! counted and not the time that passes, so a busy machine refuses nothing that a quiet one compiles.

use std::io::{self, BufRead, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use quorate_modules::check;
use quorate_modules::engine::Flavour;
use quorate_protocols::task::limits::{COMPILE_CPU_BYTES_PER_SECOND, COMPILE_CPU_SECONDS_MIN};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit};
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

/// Longest request, in bytes.
const REQUEST_BYTES_MAX: u64 = 1024;

/// Bytes of the compiler's last words that are read.
const STDERR_BYTES_MAX: u64 = 4096;

/// What the node writes before the module: one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    flavour: Flavour,
    module_bytes: u64,
    memory_bytes: u64,
    cpu_seconds: u64,
}

/// Processor time that compiling a module of this size may take.
fn cpu_seconds(module_bytes: u64) -> u64 {
    COMPILE_CPU_SECONDS_MIN + module_bytes / COMPILE_CPU_BYTES_PER_SECOND
}

// ---- the node's side ----

/// Has a binary module compiled within so much memory, on the thread that calls this; the process ends with that
/// thread.
pub(super) fn compile(
    compiler: &Path,
    binary: &[u8],
    flavour: Flavour,
    memory_bytes: u64,
) -> Result<Vec<u8>, ModuleError> {
    let module_bytes = binary.len() as u64;
    let request = Request { flavour, module_bytes, memory_bytes, cpu_seconds: cpu_seconds(module_bytes) };
    let host = |what: &str, error: io::Error| ModuleError::Host(format!("{what}: {error}"));
    let mut child = Command::new(compiler)
        .arg(COMPILE)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| host("starting the compiler", error))?;
    let mut line = serde_json::to_vec(&request).map_err(|error| host("asking the compiler", error.into()))?;
    line.push(b'\n');
    let mut stdin = child.stdin.take().expect("it is piped");
    // It reads everything before it writes anything. One that died does not read; its status says why.
    let _ = stdin.write_all(&line).and_then(|()| stdin.write_all(binary));
    drop(stdin);
    let (mut code, mut words) = (Vec::new(), Vec::new());
    let stdout = child.stdout.take().expect("it is piped");
    // No more than it could have had in memory.
    let read = stdout.take(OWN_BYTES + request.memory_bytes).read_to_end(&mut code);
    let stderr = child.stderr.take().expect("it is piped");
    let _ = stderr.take(STDERR_BYTES_MAX).read_to_end(&mut words);
    let status = child.wait().map_err(|error| host("waiting for the compiler", error))?;
    read.map_err(|error| host("reading from the compiler", error))?;
    match status.code() {
        Some(0) => Ok(code),
        _ => Err(failure(status, &request, &String::from_utf8_lossy(&code), &String::from_utf8_lossy(&words))),
    }
}

/// What the end of a compiler without code means.
fn failure(status: ExitStatus, request: &Request, stdout: &str, stderr: &str) -> ModuleError {
    let signal = status.signal();
    let of = |signal: Signal| Some(signal.as_raw());
    if status.code() == Some(REFUSED.into()) {
        return ModuleError::Invalid(stdout.to_owned());
    }
    if status.code() == Some(PANICKED.into()) {
        // Our bug, but of this module wherever it is compiled: its author should hear of it, and at once.
        return ModuleError::Invalid("the compiler failed on this module; this is a bug of quorate".to_owned());
    }
    if signal == of(Signal::XCPU) {
        return ModuleError::Invalid(format!(
            "compiling it took more than {} s of processor time, which is what a module of {} bytes gets: split its \
             largest functions",
            request.cpu_seconds, request.module_bytes
        ));
    }
    // Rust's allocator and a stack overflow end a process alike, after a line that tells which it was.
    if signal == of(Signal::ABORT)
        && ["memory allocation of", "overflowed its stack"].iter().any(|l| stderr.contains(l))
    {
        return ModuleError::Invalid(format!(
            "compiling it took more than {} MiB of memory, which is what a module of {} bytes gets: split its largest \
             functions",
            request.memory_bytes >> 20,
            request.module_bytes
        ));
    }
    let last = stderr.lines().last().unwrap_or_default();
    ModuleError::Host(format!("the compiler broke off ({status}) {last}"))
}

// ---- the compiler's side ----

/// What the hidden command does.
pub fn main() -> ExitCode {
    // The node may have gone before this; then the standard input ends early.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
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
