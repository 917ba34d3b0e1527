//! The data folder's permissions: nobody but its owner reads it.
//!
//! A node keeps the secrets of its network, specifications with their arguments and environment, and pieces of objects.
//! Other users of the machine get none of it: files are made without permissions for them ([`restrict_new_files`]), and
//! a folder that lets them in, with everything right in it, is closed when the node starts ([`tighten`]). A folder that
//! holds something else is not ours to close, and is refused ([`create`]). A secret that others could read is not
//! closed here but refused by whoever reads it: they may have read it.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;

/// Permissions of the group and of everybody else.
const OF_OTHERS: u32 = 0o077;

#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("{what} {}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} can be read by others (mode {mode:03o}), and this user cannot change that. Give it to the user that runs \
         the node (`chown`), or run `chmod go= {}` as its owner",
        path.display(), path.display()
    )]
    Open {
        path: PathBuf,
        mode: u32,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} holds other files and can be read by others (mode {mode:03o}). Choose a folder of its own for the node, or \
         run `chmod go= {}`",
        path.display(), path.display()
    )]
    Shared { path: PathBuf, mode: u32 },
}

/// A folder or file that others could read until now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tightened {
    pub path: PathBuf,
    /// What its mode was.
    pub mode: u32,
}

/// From now on this process, and those that it starts, make files and folders for their owner alone.
pub fn restrict_new_files() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

/// Makes the folder of a node. One that is there already is closed to others if it is empty.
pub fn create(dir: &Path) -> Result<(), FolderError> {
    let fault = |what, source| FolderError::Io { what, path: dir.to_owned(), source };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| fault("creating the data folder", error))?;
    let mode = mode_of(&fs::metadata(dir).map_err(|error| fault("looking at", error))?);
    if mode & OF_OTHERS == 0 {
        return Ok(());
    }
    let mut entries = fs::read_dir(dir).map_err(|error| fault("looking into", error))?;
    match entries.next() {
        None => close(dir, mode),
        Some(_) => Err(FolderError::Shared { path: dir.to_owned(), mode }),
    }
}

/// Closes a node's folder to others, and what is right in it but for its `secrets`. What is deeper is reached through
/// these alone. Says what was open.
pub fn tighten(dir: &Path, secrets: &[&str]) -> Result<Vec<Tightened>, FolderError> {
    let fault = |what, path: &Path, source| FolderError::Io { what, path: path.to_owned(), source };
    let mut tightened = Vec::new();
    let mut close_open = |path: &Path, mode: u32| -> Result<(), FolderError> {
        if mode & OF_OTHERS != 0 {
            close(path, mode)?;
            tightened.push(Tightened { path: path.to_owned(), mode });
        }
        Ok(())
    };
    close_open(dir, mode_of(&fs::metadata(dir).map_err(|error| fault("looking at", dir, error))?))?;
    for entry in fs::read_dir(dir).map_err(|error| fault("looking into", dir, error))? {
        let entry = entry.map_err(|error| fault("looking into", dir, error))?;
        if secrets.iter().any(|secret| entry.file_name() == *secret) {
            continue;
        }
        // Not followed: where a link leads is the operator's, and may be everybody's.
        match entry.metadata() {
            Ok(metadata) if metadata.is_symlink() => (),
            Ok(metadata) => close_open(&entry.path(), mode_of(&metadata))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            Err(error) => return Err(fault("looking at", &entry.path(), error)),
        }
    }
    Ok(tightened)
}

fn mode_of(metadata: &fs::Metadata) -> u32 {
    metadata.permissions().mode() & 0o777
}

fn close(path: &Path, mode: u32) -> Result<(), FolderError> {
    fs::set_permissions(path, Permissions::from_mode(mode & !OF_OTHERS)).map_err(|source| FolderError::Open {
        path: path.to_owned(),
        mode,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        mode_of(&fs::symlink_metadata(path).unwrap())
    }

    fn open(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_new_folder_and_an_empty_one_are_for_their_owner_and_a_shared_one_is_refused() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("a").join("node");
        create(&dir).unwrap();
        assert_eq!(mode(&dir), 0o700);
        open(&dir, 0o755);
        create(&dir).unwrap();
        assert_eq!(mode(&dir), 0o700);
        fs::write(dir.join("diary"), "dear").unwrap();
        create(&dir).unwrap();
        open(&dir, 0o755);
        let error = create(&dir).unwrap_err().to_string();
        assert!(error.contains("holds other files") && error.contains("chmod go="), "{error}");
        assert_eq!(mode(&dir), 0o755, "it is left as it is");
    }

    /// Goal: a folder of which others can read something can be read by nobody else afterwards, and what was open is
    /// told; secrets and what links lead to stay.
    #[test]
    fn an_open_folder_is_closed_with_what_is_in_it() {
        let outer = tempfile::tempdir().unwrap();
        let (dir, elsewhere) = (outer.path().join("node"), outer.path().join("elsewhere"));
        for folder in [&dir, &dir.join("records"), &elsewhere] {
            fs::create_dir(folder).unwrap();
            open(folder, 0o755);
        }
        for (file, mode) in [("node.log", 0o644), ("network.secret", 0o644), ("quorate.toml", 0o600)] {
            fs::write(dir.join(file), "").unwrap();
            open(&dir.join(file), mode);
        }
        std::os::unix::fs::symlink(&elsewhere, dir.join("pieces")).unwrap();
        let mut found: Vec<_> = tighten(&dir, &["network.secret"]).unwrap();
        found.sort_by(|one, other| one.path.cmp(&other.path));
        let found: Vec<_> = found.iter().map(|found| (found.path.as_path(), found.mode)).collect();
        let (log, records) = (dir.join("node.log"), dir.join("records"));
        assert_eq!(found, [(dir.as_path(), 0o755), (&log, 0o644), (&records, 0o755)]);
        assert_eq!((mode(&dir), mode(&log), mode(&records)), (0o700, 0o600, 0o700));
        assert_eq!((mode(&dir.join("network.secret")), mode(&elsewhere)), (0o644, 0o755));
        assert_eq!(tighten(&dir, &[]).unwrap().len(), 1, "the secret, if nobody refuses it");
        assert_eq!(tighten(&dir, &[]).unwrap(), []);
    }
}
