//! The private folder of one task: mode 0700, made before the program starts, removed after its outputs were taken, and
//! at the next start of the node if it died before that.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use crate::seams::Entropy;

/// Folders inside, for the program.
const PARTS: [&str; 4] = ["in", "out", "tmp", "task"];

/// Depth to which outputs are looked for. A guess: nobody nests deeper on purpose.
const DEPTH_MAX: usize = 32;

/// Files that one task may leave as outputs.
const OUTPUTS_MAX: usize = 4096;

/// Removed with everything in it when dropped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes a folder under `root` that no one else has a name for.
    pub(super) fn create(root: &Path, entropy: &dyn Entropy) -> io::Result<Self> {
        private(root)?;
        let path = root.join(hex::encode(entropy.bytes::<16>()));
        DirBuilder::new().mode(0o700).create(&path)?;
        let folder = Self { path };
        for part in PARTS {
            DirBuilder::new().mode(0o700).create(folder.path.join(part))?;
        }
        Ok(folder)
    }
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!(folder = %self.path.display(), %error, "a task's folder stays behind until the next start");
        }
    }
}

fn private(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).recursive(true).create(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(0o700)),
        Err(error) => Err(error),
    }
}

/// Removes a folder, even if the program took our rights to its parts away.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path, 0);
            fs::remove_dir_all(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn open_up(folder: &Path, depth: usize) {
    let _ = fs::set_permissions(folder, Permissions::from_mode(0o700));
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        // Not through links: `file_type` does not follow them.
        if depth < DEPTH_MAX && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path(), depth + 1);
        }
    }
}

/// One regular file in a folder.
pub(super) struct Found {
    /// Path below the folder that was looked in, with slashes.
    pub name: String,
    pub path: PathBuf,
    pub bytes: u64,
}

/// Regular files below a folder, at any depth; links are passed over, so that nothing outside is ever an output. An
/// error names what is wrong with what the program left.
pub(super) fn files(folder: &Path) -> Result<Vec<Found>, String> {
    let mut found = Vec::new();
    collect(folder, "", 0, &mut found)?;
    Ok(found)
}

fn collect(folder: &Path, prefix: &str, depth: usize, found: &mut Vec<Found>) -> Result<(), String> {
    let fault = |error: io::Error| format!("{}: {error}", folder.display());
    if depth > DEPTH_MAX {
        return Err(format!("folders are nested more than {DEPTH_MAX} deep"));
    }
    for entry in fs::read_dir(folder).map_err(fault)? {
        let entry = entry.map_err(fault)?;
        let Ok(name) = entry.file_name().into_string() else {
            return Err(format!("{:?} is no name in UTF-8", entry.file_name()));
        };
        let name = format!("{prefix}{name}");
        // It may be gone again while the program still runs.
        let Ok(about) = entry.metadata() else { continue };
        if about.is_dir() {
            collect(&entry.path(), &format!("{name}/"), depth + 1, found)?;
        } else if about.is_file() {
            if found.len() >= OUTPUTS_MAX {
                return Err(format!("there are more than {OUTPUTS_MAX} files"));
            }
            found.push(Found { name, path: entry.path(), bytes: about.len() });
        }
    }
    Ok(())
}

/// What a sweep found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub folders: usize,
    /// Processes that still worked in one of them.
    pub processes: usize,
}

/// Ends what works in leftover folders and removes them. Only this node makes folders under `root`, and it holds the
/// lock on its data: whatever is there was left by an earlier run.
pub(super) fn sweep(root: &Path) -> io::Result<Swept> {
    let mut swept = Swept::default();
    let root = match root.canonicalize() {
        Ok(root) => root,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(swept),
        Err(error) => return Err(error),
    };
    for pid in working_in(&root) {
        swept.processes += usize::from(kill_process(pid, Signal::KILL).is_ok());
    }
    for entry in fs::read_dir(&root)? {
        remove(&entry?.path())?;
        swept.folders += 1;
    }
    Ok(swept)
}

fn working_in(root: &Path) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(root)))
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(Pid::from_raw)
        .collect()
}
