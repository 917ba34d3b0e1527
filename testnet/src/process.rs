//! Processes found again: by id and start time, so that a recycled id is never mistaken for a node.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// One started process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    /// Ticks after boot, field 22 of `/proc/PID/stat`.
    pub started: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("cannot start {}: {source}", binary.display())]
    Start {
        binary: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot signal process {pid}: {source}")]
    Signal {
        pid: u32,
        #[source]
        source: std::io::Error,
    },
    #[error("process {pid} did not end within {after:?}")]
    Stubborn { pid: u32, after: Duration },
}

/// What `/proc` says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Running,
    /// Stopped by a signal.
    Paused,
    Gone,
}

/// State letter, threads and start time; `None` when there is no such process or the machine has no `/proc`.
fn stat(pid: u32) -> Option<(char, u32, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; fields count from behind its last parenthesis.
    let rest = text.rsplit_once(')')?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some((fields.first()?.chars().next()?, fields.get(17)?.parse().ok()?, fields.get(19)?.parse().ok()?))
}

/// Resident memory of a process in bytes; `None` when it is gone.
pub fn rss_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

impl Process {
    /// Starts `binary` in the background, in a process group of its own so that a Ctrl-C in the terminal does not
    /// reach it, with its output appended to `log`.
    pub fn start(binary: &Path, arguments: &[&std::ffi::OsStr], log: &Path) -> Result<Self, ProcessError> {
        use std::os::unix::fs::OpenOptionsExt;
        use std::os::unix::process::CommandExt;
        let fail = |source| ProcessError::Start { binary: binary.to_owned(), source };
        // What a node logs is for its owner, as its folder is.
        let out = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(log).map_err(fail)?;
        let errors = out.try_clone().map_err(fail)?;
        let mut child = Command::new(binary)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(fail)?;
        let pid = child.id();
        let started = stat(pid).map_or(0, |(_, _, started)| started);
        // Reaps the child when it ends while this process lives; afterwards init does.
        std::thread::spawn(move || drop(child.wait()));
        Ok(Self { pid, started })
    }

    pub fn condition(&self) -> Condition {
        match stat(self.pid) {
            Some((state, threads, started)) if started == self.started => match state {
                // Its first thread is dead. Until the last one is, the process keeps its files and their locks.
                'Z' if threads > 1 => Condition::Running,
                'Z' | 'X' | 'x' => Condition::Gone,
                'T' | 't' => Condition::Paused,
                _ => Condition::Running,
            },
            _ => Condition::Gone,
        }
    }

    /// Sends a signal; a process that is gone already is no error.
    pub fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        if self.condition() == Condition::Gone {
            return Ok(());
        }
        let Some(pid) = Pid::from_raw(self.pid as i32) else { return Ok(()) };
        match kill_process(pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(ProcessError::Signal { pid: self.pid, source: error.into() }),
        }
    }

    /// Waits until the process is gone. Blocks.
    pub fn wait_gone(&self, after: Duration) -> Result<(), ProcessError> {
        let deadline = Instant::now() + after;
        while self.condition() != Condition::Gone {
            if Instant::now() > deadline {
                return Err(ProcessError::Stubborn { pid: self.pid, after });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// SIGKILL, and waits until it has taken effect. Blocks.
    pub fn kill(&self) -> Result<(), ProcessError> {
        self.signal(Signal::KILL)?;
        self.wait_gone(Duration::from_secs(10))
    }

    /// SIGTERM, then SIGKILL to one that has not ended within `patience`. Blocks.
    pub fn stop(&self, patience: Duration) -> Result<(), ProcessError> {
        // A paused process would not see the request to end.
        self.signal(Signal::CONT)?;
        self.signal(Signal::TERM)?;
        match self.wait_gone(patience) {
            Err(ProcessError::Stubborn { .. }) => self.kill(),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_paused_resumed_and_killed() {
        let dir = tempfile::tempdir().unwrap();
        let process = Process::start(Path::new("sleep"), &["600".as_ref()], &dir.path().join("log")).unwrap();
        assert_eq!(process.condition(), Condition::Running);
        process.signal(Signal::STOP).unwrap();
        while process.condition() != Condition::Paused {
            std::thread::yield_now();
        }
        process.signal(Signal::CONT).unwrap();
        process.kill().unwrap();
        assert_eq!(process.condition(), Condition::Gone);
        process.signal(Signal::TERM).unwrap();
    }

    #[test]
    fn a_recycled_process_id_is_not_the_process() {
        assert!(rss_bytes(std::process::id()).unwrap() > 0);
        let own = Process { pid: std::process::id(), started: 1 };
        assert_eq!(own.condition(), Condition::Gone);
    }
}
