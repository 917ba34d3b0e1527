//! The process between the node and a program: starts it, waits, and leaves nothing of it behind.
//!
//! It runs as `quorate supervise-command` with the control socket as its standard input and the program's pipes as its
//! output and error, which the program inherits. It is the *subreaper* of everything below it: a descendant that
//! outlives its parent becomes our child, whatever session it moved to, so "no children left" means that nothing is
//! left. It does no more than this, in one thread, so that it has no way to hang but the kernel's.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, WaitOptions, getrlimit, kill_process, kill_process_group, pidfd_open,
    prlimit, set_child_subreaper, setpriority_process, setrlimit, setsid, umask, wait,
};

use super::control::{Event, ProcessLimits, START_BYTES_MAX, Start};
use super::group;

/// As low as modules: the node's own work comes first.
const NICENESS: i32 = 10;

/// How much more willingly than others the kernel ends a program when the machine's memory is over.
const OOM_SCORE: &str = "500";

/// How often the family is looked at while it is given time to end. Only then: before, the kernel says when.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// How long killed processes may take to be gone. One that waits for a dead disk may take for ever.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// What the hidden command does.
pub fn main() -> ExitCode {
    let stdin = io::stdin();
    let control = stdin.as_fd();
    let event = match supervise(control) {
        Ok(event) => event,
        Err(reason) => Event::Failed { reason },
    };
    // A node that is gone hears nothing, and needs nothing.
    let _ = send_event(control, &event);
    ExitCode::SUCCESS
}

fn supervise(control: BorrowedFd<'_>) -> Result<Event, String> {
    let start: Start = read_start(control)?;
    let because = |what: &'static str| move |error: Errno| format!("{what}: {error}");
    // Its own session: no terminal of the node's, and no signal meant for it.
    setsid().map_err(because("starting a session"))?;
    set_child_subreaper(Some(rustix::process::getpid())).map_err(because("becoming a subreaper"))?;
    umask(Mode::RWXG | Mode::RWXO);
    let _ = setpriority_process(None, NICENESS);

    let pid = launch(&start)?;
    let main = pidfd_open(pid, PidfdFlags::empty()).map_err(because("watching the program"))?;
    // If the node is gone, the socket is at its end and the next wait says so.
    let _ = send_event(control, &Event::Started { pid: pid.as_raw_nonzero().get() });

    let mut family = Family { main: pid, group: start.group.clone(), status: None };
    let mut waits = [PollFd::new(&control, PollFlags::IN), PollFd::new(&main, PollFlags::IN)];
    let stopped = loop {
        match poll(&mut waits, None) {
            Ok(_) if !waits[1].revents().is_empty() => break false,
            Ok(_) if !waits[0].revents().is_empty() => break true,
            Ok(_) | Err(Errno::INTR) => (),
            Err(error) => return Err(format!("waiting for the program: {error}")),
        }
    };
    if stopped {
        family.signal(Signal::TERM);
        family.wait_until(Instant::now() + Duration::from_millis(start.grace_ms), None);
    }
    // What a program leaves behind when it ends by itself is not given more time.
    family.wait_until(Instant::now() + KILL_PATIENCE, Some(Signal::KILL));
    let survivors = family.members().len();
    if let Some(group) = &start.group {
        // The node does this too, if it is there. A group that is not empty stays.
        let _ = std::fs::remove_dir(group);
    }
    let (code, signal) = family.status.unwrap_or((None, None));
    Ok(Event::Ended { code, signal, survivors })
}

/// Starts the program with its limits in force from its first instruction.
///
/// They are set as this process's soft limits and inherited; then the hard limits of the program, which has had
/// microseconds to raise its soft ones, are set too, and both are what they should be. Ours are put back, because a
/// supervisor without memory could not end what it supervises. It is in the task's control group in the same way, for
/// as long as it takes to start the program: ending the group must not end who says that it has ended.
fn launch(start: &Start) -> Result<Pid, String> {
    let stdin = match &start.stdin {
        Some(path) => Stdio::from(File::open(path).map_err(|error| format!("{}: {error}", path.display()))?),
        None => Stdio::null(),
    };
    let limits = resources(&start.limits);
    let group = start.group.as_deref().filter(|group| group::enter(group).is_ok());
    let mut own = Vec::new();
    for (resource, value) in &limits {
        let before = getrlimit(resource_of(*resource));
        let soft = before.maximum.map_or(*value, |hard| hard.min(*value));
        own.push((*resource, before));
        let lowered = Rlimit { current: Some(soft), maximum: before.maximum };
        setrlimit(resource_of(*resource), lowered).map_err(|error| format!("limiting {resource:?}: {error}"))?;
    }
    let mut command = Command::new(&start.program);
    command.args(&start.args).env_clear().envs(&start.env).current_dir(&start.folder).stdin(stdin).process_group(0);
    let spawned = command.spawn();
    for (resource, before) in own {
        setrlimit(resource_of(resource), before).map_err(|error| format!("limiting {resource:?}: {error}"))?;
    }
    if let Some((group, outside)) = group.and_then(|group| Some((group, group.parent()?)))
        && let Err(error) = group::enter(outside)
    {
        // What was started goes, and this process with it, which the node hears.
        let _ = group::kill(group);
        return Err(format!("leaving the program's control group: {error}"));
    }
    let child = spawned.map_err(|error| start_fault(start, &error))?;
    let pid = Pid::from_raw(child.id() as i32).expect("a child has a process id");
    // Rather this than the node, when the machine's memory is over. Not everywhere.
    let _ = std::fs::write(format!("/proc/{}/oom_score_adj", child.id()), OOM_SCORE);
    for (resource, value) in limits {
        let hard = match resource {
            // A program hears of its soft limit before the hard one kills it.
            Limited::Cpu => value.saturating_add(1),
            _ => value,
        };
        // More than this process may have cannot be given.
        let most = getrlimit(resource_of(resource)).maximum;
        let within = |value| Some(most.map_or(value, |most| most.min(value)));
        let both = Rlimit { current: within(value), maximum: within(hard) };
        match prlimit(Some(pid), resource_of(resource), both) {
            // It has ended already.
            Ok(_) | Err(Errno::SRCH) => (),
            Err(error) => {
                let _ = kill_process_group(pid, Signal::KILL);
                return Err(format!("limiting {resource:?}: {error}"));
            }
        }
    }
    Ok(pid)
}

/// Why the program did not start. The system gives one error for the program, its folder and what interprets it.
fn start_fault(start: &Start, error: &io::Error) -> String {
    let (program, folder) = (start.program.display(), start.folder.display());
    match (start.folder.metadata(), start.program.metadata()) {
        (Err(error), _) => format!("the folder that {program} was to run in, {folder}: {error}"),
        (Ok(_), Err(error)) => format!("{program}: {error}"),
        (Ok(_), Ok(_)) if error.kind() == io::ErrorKind::NotFound => {
            format!("{program}: what runs it (its loader, or the interpreter that its first line names) is missing")
        }
        (Ok(_), Ok(_)) => format!("{program}: {error}"),
    }
}

#[derive(Clone, Copy, Debug)]
enum Limited {
    AddressSpace,
    Cpu,
    FileSize,
    OpenFiles,
    Core,
}

fn resource_of(limited: Limited) -> Resource {
    match limited {
        Limited::AddressSpace => Resource::As,
        Limited::Cpu => Resource::Cpu,
        Limited::FileSize => Resource::Fsize,
        Limited::OpenFiles => Resource::Nofile,
        Limited::Core => Resource::Core,
    }
}

fn resources(limits: &ProcessLimits) -> Vec<(Limited, u64)> {
    let mut found = vec![
        (Limited::Core, 0),
        (Limited::FileSize, limits.file_bytes),
        (Limited::OpenFiles, limits.open_files),
        (Limited::AddressSpace, limits.address_space_bytes),
    ];
    found.extend(limits.cpu_seconds.map(|seconds| (Limited::Cpu, seconds)));
    found
}

/// The program and everything that descends from it.
struct Family {
    main: Pid,
    group: Option<PathBuf>,
    /// Exit code or signal of the program, once it was collected.
    status: Option<(Option<i32>, Option<i32>)>,
}

impl Family {
    /// Collects what has ended. False when no child is left, which means no descendant.
    fn collect(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.main => {
                    self.status = Some((status.exit_status(), status.terminating_signal()));
                }
                Ok(Some(_)) | Err(Errno::INTR) => (),
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }
    /// Waits until all have ended or the time has come, sending the signal at every look to those that are there: a
    /// family may grow while it is being ended.
    fn wait_until(&mut self, until: Instant, signal: Option<Signal>) {
        while self.collect() {
            if let Some(signal) = signal {
                self.signal(signal);
            }
            if Instant::now() >= until {
                return;
            }
            let pause = Timespec { tv_sec: 0, tv_nsec: POLL_INTERVAL.subsec_nanos().into() };
            let _ = poll(&mut [], Some(&pause));
        }
    }
    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group.as_ref().filter(|_| signal == Signal::KILL) {
            let _ = group::kill(group);
        }
        let members = self.members();
        // The group at one stroke, in which nobody can be born meanwhile; its number is taken while it has a member.
        if members.iter().any(|member| member.group == self.main) {
            let _ = kill_process_group(self.main, signal);
        }
        for member in members.iter().filter(|member| member.group != self.main) {
            let _ = kill_process(member.pid, signal);
        }
    }
    fn members(&self) -> Vec<Member> {
        descendants(rustix::process::getpid())
    }
}

/// Everything that descends from a process and has not ended.
pub(super) fn descendants(of: Pid) -> Vec<Member> {
    let all = processes();
    let mut parents = vec![of];
    let mut found: Vec<Member> = Vec::new();
    while let Some(parent) = parents.pop() {
        for process in all.iter().filter(|process| process.parent == Some(parent)) {
            parents.push(process.pid);
            if !process.ended {
                found.push(*process);
            }
        }
    }
    found
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) pid: Pid,
    parent: Option<Pid>,
    group: Pid,
    /// Ended, and waiting to be collected by its parent.
    ended: bool,
}

/// Every process of the machine that can be seen.
fn processes() -> Vec<Member> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers.filter_map(process).collect()
}

fn process(number: i32) -> Option<Member> {
    let text = std::fs::read(format!("/proc/{number}/stat")).ok()?;
    // The name stands in brackets and may hold anything; after the last bracket there are only numbers.
    let rest = text.get(text.iter().rposition(|byte| *byte == b')')? + 1..)?;
    let mut words = std::str::from_utf8(rest).ok()?.split_whitespace();
    let state = words.next()?;
    let (parent, group) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some(Member {
        pid: Pid::from_raw(number)?,
        parent: Pid::from_raw(parent),
        group: Pid::from_raw(group)?,
        ended: state == "Z" || state == "X",
    })
}

/// Reads one line.
fn read_start(control: BorrowedFd<'_>) -> Result<Start, String> {
    let mut line = Vec::new();
    let mut buffer = [0u8; 8192];
    while line.last() != Some(&b'\n') {
        match rustix::io::read(control, &mut buffer) {
            Ok(0) => return Err("the node left before it said what to start".to_owned()),
            Ok(count) => line.extend_from_slice(&buffer[..count]),
            Err(Errno::INTR) => (),
            Err(error) => {
                return Err(format!("hearing what to start: {error}; this command is for nodes, not for people"));
            }
        }
        if line.len() > START_BYTES_MAX {
            return Err("what to start is too long".to_owned());
        }
    }
    serde_json::from_slice(&line)
        .map_err(|error| format!("what to start cannot be read: {error}; this command is for nodes, not for people"))
}

fn send_event(control: BorrowedFd<'_>, event: &Event) -> Result<(), Errno> {
    let mut line = serde_json::to_vec(event).expect("plain data");
    line.push(b'\n');
    let mut rest = &line[..];
    while !rest.is_empty() {
        match rustix::io::write(control, rest) {
            Ok(count) => rest = &rest[count..],
            Err(Errno::INTR) => (),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
