//! The machine's resources: control group, memory, processors, descriptors. Read here and nowhere else.
//!
//! Everything that cannot be read falls back to something small and safe; a node on an unusual system lends little
//! rather than failing to start.

use std::path::Path;

use quorate_protocols::resources::Machine;

use crate::seams::Files;

const FALLBACK_MEMORY_BYTES: u64 = 512 * 1024 * 1024;

/// Stands for "no limit": more than any node opens.
const DESCRIPTORS_UNLIMITED: u64 = 1 << 20;

/// Reads the machine's limits; the disk's come from where the pieces are kept.
pub fn read(files: &dyn Files) -> Machine {
    let (disk_free_bytes, disk_bytes) = files.free_space().unwrap_or_else(|error| {
        tracing::warn!(%error, "the free space of the disk is unknown; nothing will be lent from it");
        (0, 0)
    });
    Machine {
        memory_bytes: memory_bytes(),
        cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64),
        disk_free_bytes,
        disk_bytes,
        descriptors: descriptors(),
    }
}

fn memory_bytes() -> u64 {
    let total = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| parse_meminfo(&text));
    let group = group_limit_files()
        .into_iter()
        .filter_map(|path| std::fs::read_to_string(path).ok().and_then(|text| parse_group_limit(&text)));
    group.chain(total).min().unwrap_or(FALLBACK_MEMORY_BYTES)
}

/// The limits of this process's control group and of every group above it: the least of them holds. Version 2 first,
/// then version 1.
fn group_limit_files() -> Vec<std::path::PathBuf> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            names if names.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let path = Path::new(path.trim_start_matches('/'));
        files.extend(path.ancestors().map(|group| Path::new(root).join(group).join(file)));
    }
    files
}

/// Bytes, or `None` for "max" and for the huge number with which version 1 says the same.
fn parse_group_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|&bytes| bytes < 1 << 60)
}

fn parse_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Lets this process open as many descriptors as it may: the lower limit that a login starts with is for programs that
/// use `select`. A node whose limit cannot be raised runs with what it has.
pub fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open descriptors stays as it is");
    }
}

fn descriptors() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(DESCRIPTORS_UNLIMITED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_the_kernel_writes_it() {
        assert_eq!(parse_meminfo("MemTotal:       24684476 kB\nMemFree: 1 kB\n"), Some(24_684_476 * 1024));
        assert_eq!(parse_meminfo("MemFree: 1 kB\n"), None);
        assert_eq!(parse_group_limit("536870912\n"), Some(512 * 1024 * 1024));
        assert_eq!(parse_group_limit("max\n"), None);
        assert_eq!(parse_group_limit("9223372036854771712\n"), None);
    }

    #[test]
    fn this_machine_has_something_of_everything() {
        assert!(memory_bytes() > 0);
        assert!(descriptors() > 0);
    }
}
