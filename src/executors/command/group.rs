//! Control group of one task: everything that its program starts is in it, and one write ends all of them at once.
//!
//! Where the machine has control groups of version 2 and this node may make one below its own, a task has a group of
//! its own. A process leaves it neither by a new session nor by losing its parent, and the kernel kills the group
//! without looking for its members one by one. Unlike the [supervisor](super::supervisor), a group cannot be killed:
//! the node ends what is in it also when the supervisor is gone. Where there is none, the supervisor has to do.
//!
//! No controller is needed, so the group takes nothing from its neighbours and works without any setting of the node's
//! own group. The program runs as the node's user, who may move processes from group to group: a group holds what was
//! forgotten, and not what means to flee.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long killed processes may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Removed when dropped, if nothing is in it.
#[derive(Debug)]
pub(super) struct Group {
    path: PathBuf,
}

impl Group {
    /// Makes a group below the one that this process is in; `None` where that is not possible.
    pub(super) fn create(task: &str) -> Option<Self> {
        let path = path_for(task)?;
        fs::create_dir(&path).ok()?;
        let group = Self { path };
        // Older kernels have groups, and no way to kill one.
        group.path.join("cgroup.kill").exists().then_some(group)
    }

    /// The group that an earlier run of this node made for a task.
    pub(super) fn find(task: &str) -> Option<Self> {
        path_for(task).filter(|path| path.is_dir()).map(|path| Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Kills everything in it and waits until that is gone; how many processes there were. Blocks.
    pub(super) fn end(&self) -> usize {
        let found = processes(&self.path);
        let patience = Instant::now() + KILL_PATIENCE;
        while processes(&self.path) > 0 && Instant::now() < patience {
            let _ = kill(&self.path);
            std::thread::sleep(POLL_INTERVAL);
        }
        found
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        match fs::remove_dir(&self.path) {
            // The supervisor removed it, or is still ending what is in it and removes it then.
            Ok(()) => (),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ResourceBusy) => (),
            Err(error) => tracing::warn!(group = %self.path.display(), %error, "a task's control group stays behind"),
        }
    }
}

/// Moves the process that calls this.
pub(super) fn enter(group: &Path) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), "0")
}

/// Kills everything in a group, and what is being born there.
pub(super) fn kill(group: &Path) -> io::Result<()> {
    fs::write(group.join("cgroup.kill"), "1")
}

/// Processes in a group that have not ended.
pub(super) fn processes(group: &Path) -> usize {
    fs::read_to_string(group.join("cgroup.procs")).map_or(0, |text| text.lines().count())
}

fn path_for(task: &str) -> Option<PathBuf> {
    Some(own()?.join(format!("quorate-{task}")))
}

/// The group that this process is in.
fn own() -> Option<PathBuf> {
    let (groups, mounts) = (fs::read_to_string("/proc/self/cgroup"), fs::read_to_string("/proc/self/mountinfo"));
    locate(&groups.ok()?, &mounts.ok()?)
}

/// Where the file system of version 2 has a process's group, by the kernel's two tables of it.
fn locate(groups: &str, mounts: &str) -> Option<PathBuf> {
    let own = Path::new(groups.lines().find_map(|line| line.strip_prefix("0::"))?);
    mounts.lines().find_map(|line| {
        // Its number, its parent's, the device, the part that is mounted, and where; behind a dash the kind.
        let (place, kind) = line.split_once(" - ")?;
        let mut words = place.split(' ').skip(3);
        let (part, at) = (words.next()?, words.next()?);
        let below = own.strip_prefix(part).ok().filter(|_| kind.starts_with("cgroup2 "))?;
        Some(Path::new(at).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_a_process_is_found_however_it_is_mounted() {
        let host = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let hybrid = "30 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let inside = "700 690 0:26 /docker/abc /sys/fs/cgroup ro,nosuid master:9 - cgroup2 cgroup rw\n";
        let cases = [
            ("0::/system.slice/quorate.service\n", host, Some("/sys/fs/cgroup/system.slice/quorate.service")),
            ("4:memory:/x\n0::/\n", hybrid, Some("/sys/fs/cgroup/unified/")),
            ("0::/docker/abc/own\n", inside, Some("/sys/fs/cgroup/own")),
            ("0::/elsewhere\n", inside, None),
            ("4:memory:/x\n", host, None),
            ("0::/x\n", "30 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n", None),
        ];
        for (groups, mounts, expected) in cases {
            assert_eq!(locate(groups, mounts), expected.map(PathBuf::from), "{groups}{mounts}");
        }
    }
}
