//! The private folder of one task: mode 0700, made before the program starts, removed after its outputs were taken, and
//! at the next start of the node if it died before that.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use super::group::Group;
use crate::seams::Entropy;

/// Folders inside, for the program.
const PARTS: [&str; 4] = ["in", "out", "tmp", "task"];

/// Folders inside each other. A guess: nobody nests deeper on purpose.
const DEPTH_MAX: usize = 64;

/// Files, folders and whatever else a program may have in its folder at once: as many as a module may.
const ENTRIES_MAX: usize = 65_536;

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
        // As the kernel will say it of what works there: see `kill_of`.
        let path = root.canonicalize()?.join(hex::encode(entropy.bytes::<16>()));
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
    /// A name that no other task has.
    pub(super) fn name(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).expect("made of hexadecimal digits")
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

/// What is in a folder, at any depth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// Of regular files; one with several names counts once.
    pub bytes: u64,
    /// Files, folders, links and anything else that has a name.
    pub entries: usize,
}

/// Why it is not known what is in a folder.
#[derive(Debug, thiserror::Error)]
pub(super) enum CountError {
    /// The program's doing: a sentence about what it has made.
    #[error("{0}")]
    TooMuch(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Counts what is in a folder while a program may be at work there. Links are counted and not followed. What goes away
/// meanwhile is no error; what cannot be counted is one, because a program that makes it so would have no limit.
pub(super) fn count(root: &Path) -> Result<Contents, CountError> {
    count_within(root, ENTRIES_MAX)
}

fn count_within(root: &Path, entries_max: usize) -> Result<Contents, CountError> {
    let (mut found, mut shared) = (Contents::default(), BTreeSet::new());
    let mut folders = vec![(root.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let relative = || folder.strip_prefix(root).unwrap_or(&folder).display().to_string();
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            // Removed, or another thing by now.
            Err(error) if depth > 0 && is_gone(&error) => continue,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(CountError::TooMuch(format!("what is in `{}` cannot be counted: {error}", relative())));
            }
            Err(error) => return Err(error.into()),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(error.into()),
            };
            found.entries += 1;
            if found.entries > entries_max {
                return Err(CountError::TooMuch(format!("a task may have {entries_max} files and folders at once")));
            }
            match entry.metadata() {
                Ok(about) if about.is_dir() && depth >= DEPTH_MAX => {
                    let reason = format!("folders may be nested {DEPTH_MAX} deep, and `{}` goes on", relative());
                    return Err(CountError::TooMuch(reason));
                }
                Ok(about) if about.is_dir() => folders.push((entry.path(), depth + 1)),
                Ok(about) if about.is_file() => {
                    if about.nlink() == 1 || shared.insert((about.dev(), about.ino())) {
                        found.bytes = found.bytes.saturating_add(about.len());
                    }
                }
                Ok(_) => (),
                Err(error) if is_gone(&error) => (),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(CountError::TooMuch(format!("what is in `{}` cannot be counted: {error}", relative())));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(found)
}

/// Bytes of the files that these processes have open without a name, on the disk that the folder is on.
pub(super) fn unlinked(folder: &Path, processes: &[Pid]) -> Result<u64, CountError> {
    let disk = fs::metadata(folder)?.dev();
    let (mut found, mut seen) = (BTreeMap::new(), 0);
    for process in processes {
        // It has ended, or it is another user's, who can be given nothing by it.
        let Ok(opened) = fs::read_dir(format!("/proc/{}/fd", process.as_raw_nonzero())) else { continue };
        for entry in opened.flatten() {
            seen += 1;
            if seen > ENTRIES_MAX {
                return Err(CountError::TooMuch(format!("a task may have {ENTRIES_MAX} files open at once")));
            }
            let Ok(about) = entry.path().metadata() else { continue };
            if about.is_file() && about.nlink() == 0 && about.dev() == disk {
                found.insert(about.ino(), about.len());
            }
        }
    }
    Ok(found.into_values().fold(0, u64::saturating_add))
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
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
    let is_folder = |path: &Path| path.symlink_metadata().is_ok_and(|about| about.is_dir());
    if !is_folder(folder) {
        return Err(format!("{} is no folder any more", folder.display()));
    }
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
    swept.processes += kill_of(&root);
    for entry in fs::read_dir(&root)? {
        let entry = entry?;
        if let Some(group) = entry.file_name().to_str().and_then(Group::find) {
            swept.processes += group.end();
        }
        remove(&entry.path())?;
        swept.folders += 1;
    }
    Ok(swept)
}

/// Kills whatever shows that it belongs to a task with its folder at or below `root`: it works there, or it was started
/// with a home there, which every program of a task is. How many those were.
pub(super) fn kill_of(root: &Path) -> usize {
    let Ok(entries) = fs::read_dir("/proc") else { return 0 };
    let home = |environment: Vec<u8>| {
        let mut variables = environment.split(|byte| *byte == 0);
        variables.any(|variable| variable.strip_prefix(b"HOME=").is_some_and(|home| path_of(home).starts_with(root)))
    };
    let belongs = |process: &Path| {
        fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(root))
            || fs::read(process.join("environ")).is_ok_and(home)
    };
    entries
        .flatten()
        .filter_map(|entry| Some((entry.path(), entry.file_name().to_str()?.parse().ok()?)))
        .filter(|(process, _)| belongs(process))
        .filter_map(|(_, number)| Pid::from_raw(number))
        .filter(|pid| kill_process(*pid, Signal::KILL).is_ok())
        .count()
}

fn path_of(bytes: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: everything with a name counts, at any depth, up to the bound and not beyond.
    #[test]
    fn files_folders_and_links_are_counted_up_to_a_bound() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("file"), [0; 100]).unwrap();
        fs::hard_link(inner.join("file"), dir.path().join("same file")).unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("link")).unwrap();
        assert_eq!(count_within(dir.path(), 5).unwrap(), Contents { bytes: 100, entries: 5 });
        for more in ["one.txt", "two"] {
            fs::create_dir(inner.join(more)).unwrap();
        }
        let error = count_within(dir.path(), 6).unwrap_err();
        assert!(matches!(&error, CountError::TooMuch(reason) if reason.contains("6 files and folders")), "{error}");
    }
}
