//! Compiled modules on this node's disk, so that a restart compiles nothing twice.
//!
//! Machine code runs unchecked, so only code that this node wrote itself may be loaded. Each file begins with a hash
//! over its name and content, keyed with a secret of the node: a file that rotted, that was cut off in a crash or that
//! comes from another node is removed and compiled anew. For the same reason no node takes compiled code from another.
//! A name stands for the module's bytes, the flavour and the engine (its version, settings and processor), so another
//! version of quorate finds nothing and the old files are the first to go.
//!
//! The folder is a cache: nothing is synced, everything may be deleted at any time, and a disk that fails costs a
//! compilation. It holds at most the bytes that its setting says, reserved from what the node lends; what was used
//! longest ago goes first.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::SystemTime;

use parking_lot::{Mutex, MutexGuard};
use quorate_protocols::resources::{Amounts, Scope, Service};

use crate::resources::Resources;
use crate::seams::Reservation;

/// Files of one node. The smallest modules make some 10 KB.
const FILES_MAX: usize = 4_096;

const ENDING: &str = "code";
const HASH_BYTES: usize = 32;

/// Where compiled modules are kept.
#[derive(Clone)]
pub struct ArtifactConfig {
    /// Of this node alone.
    pub folder: PathBuf,
    /// A secret of this node, which says that a file is its own.
    pub key: [u8; 32],
    pub bytes_max: u64,
}

pub(super) struct Artifacts {
    config: ArtifactConfig,
    files: Mutex<Files>,
}

struct Files {
    /// Bytes and last use, by name.
    known: BTreeMap<String, (u64, SystemTime)>,
    reserved: Reservation,
}

impl Files {
    fn bytes(&self) -> u64 {
        self.known.values().map(|(bytes, _)| bytes).sum()
    }
    fn oldest(&self) -> Option<String> {
        self.known.iter().min_by_key(|(_, (_, used))| *used).map(|(name, _)| name.clone())
    }
}

impl Artifacts {
    /// Opens the folder, made if need be, and removes what an earlier process left half written.
    pub(super) fn open(config: ArtifactConfig, resources: &Resources) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.folder)?;
        let mut known = BTreeMap::new();
        for entry in fs::read_dir(&config.folder)? {
            let entry = entry?;
            let (path, metadata) = (entry.path(), entry.metadata()?);
            let name = path.file_stem().and_then(|name| name.to_str()).map(str::to_owned);
            match name.filter(|_| path.extension().is_some_and(|ending| ending == ENDING) && metadata.is_file()) {
                Some(name) => {
                    let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    known.insert(name, (metadata.len(), used));
                }
                None if metadata.is_file() => fs::remove_file(path)?,
                None => (),
            }
        }
        let reserved = resources.reserve(Scope::Service(Service::Jobs), Amounts::ZERO).unwrap_or_default();
        let artifacts = Self { config, files: Mutex::new(Files { known, reserved }) };
        artifacts.make_room(&mut artifacts.lock(), 0);
        Ok(artifacts)
    }

    /// The code of that name, if this node wrote it and it is whole.
    pub(super) fn load(&self, name: &str) -> Option<Vec<u8>> {
        self.lock().known.contains_key(name).then_some(())?;
        let path = self.path(name);
        let mut file = match fs::read(&path) {
            Ok(file) => file,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a compiled module cannot be read; it is compiled anew");
                self.remove(&mut self.lock(), name);
                return None;
            }
        };
        let whole = file.split_at_checked(HASH_BYTES).is_some_and(|(hash, code)| {
            // The comparison of hashes takes the same time wherever they differ.
            <[u8; HASH_BYTES]>::try_from(hash).is_ok_and(|hash| self.seal(name, code) == blake3::Hash::from_bytes(hash))
        });
        if !whole {
            tracing::warn!(path = %path.display(), "a compiled module is not as this node wrote it; it is compiled anew");
            self.remove(&mut self.lock(), name);
            return None;
        }
        let now = SystemTime::now();
        if let Some((_, used)) = self.lock().known.get_mut(name) {
            *used = now;
        }
        // For the next process; one that cannot be told forgets this sooner.
        let _ = fs::File::open(&path).and_then(|file| file.set_modified(now));
        file.drain(..HASH_BYTES);
        Some(file)
    }

    /// Keeps the code, if there is room for it.
    pub(super) fn save(&self, name: &str, code: &[u8]) {
        let bytes = (HASH_BYTES + code.len()) as u64;
        let mut files = self.lock();
        self.remove(&mut files, name);
        if !self.make_room(&mut files, bytes) {
            return;
        }
        let (path, new) = (self.path(name), self.config.folder.join(format!("{name}.new")));
        let write = || -> io::Result<()> {
            let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(self.seal(name, code).as_bytes())?;
            file.write_all(code)?;
            fs::rename(&new, &path)
        };
        match write() {
            Ok(()) => {
                files.known.insert(name.to_owned(), (bytes, SystemTime::now()));
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a compiled module was not kept");
                let _ = fs::remove_file(&new);
                self.make_room(&mut files, 0);
            }
        }
    }

    /// Removes the oldest until there is room for so many bytes more; whether there is.
    fn make_room(&self, files: &mut Files, bytes: u64) -> bool {
        // What can never fit sends nothing else away.
        if bytes > self.config.bytes_max {
            return false;
        }
        loop {
            let wanted = files.bytes().saturating_add(bytes);
            let fits = wanted <= self.config.bytes_max && files.known.len() < FILES_MAX;
            let need = Amounts { disk_bytes: wanted, ..Amounts::ZERO };
            if fits && files.reserved.resize(need).is_ok() {
                return true;
            }
            let Some(oldest) = files.oldest() else {
                files.reserved.shrink_to(Amounts::ZERO);
                return false;
            };
            self.remove(files, &oldest);
        }
    }

    fn remove(&self, files: &mut Files, name: &str) {
        if files.known.remove(name).is_some() {
            let _ = fs::remove_file(self.path(name));
        }
    }

    fn seal(&self, name: &str, code: &[u8]) -> blake3::Hash {
        blake3::Hasher::new_keyed(&self.config.key).update(name.as_bytes()).update(code).finalize()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.config.folder.join(format!("{name}.{ENDING}"))
    }

    fn lock(&self) -> MutexGuard<'_, Files> {
        self.files.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &std::path::Path, key: u8, bytes_max: u64) -> Artifacts {
        let config = ArtifactConfig { folder: folder.to_owned(), key: [key; 32], bytes_max };
        Artifacts::open(config, &Resources::unlimited()).unwrap()
    }

    #[test]
    fn code_outlives_the_process_that_compiled_it() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = open(folder.path(), 1, 1_000);
        assert_eq!(artifacts.load("a"), None);
        artifacts.save("a", b"code");
        fs::write(folder.path().join("b.new"), b"half").unwrap();
        let again = open(folder.path(), 1, 1_000);
        assert_eq!(again.load("a").as_deref(), Some(&b"code"[..]));
        assert!(!folder.path().join("b.new").exists(), "what was half written is gone");
    }

    /// Goal: nothing runs that this node did not write. Method: a flipped bit, a file cut off, a file under another
    /// name, and a file of another node.
    #[test]
    fn code_that_this_node_did_not_write_is_not_loaded_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(format!("{name}.{ENDING}"));
        for name in ["flipped", "cut", "short"] {
            open(folder.path(), 1, 1_000).save(name, b"machine code");
        }
        let mut bytes = fs::read(at("flipped")).unwrap();
        fs::write(at("renamed"), &bytes).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(at("flipped"), &bytes).unwrap();
        fs::write(at("cut"), &bytes[..40]).unwrap();
        fs::write(at("short"), b"x").unwrap();
        open(folder.path(), 2, 1_000).save("foreign", b"machine code");
        let artifacts = open(folder.path(), 1, 1_000);
        for name in ["flipped", "cut", "short", "renamed", "foreign"] {
            assert!(at(name).exists());
            assert_eq!(artifacts.load(name), None, "{name}");
            assert!(!at(name).exists(), "{name}");
        }
    }

    #[test]
    fn the_folder_stays_within_its_bytes_and_what_was_used_longest_ago_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = open(folder.path(), 1, 400);
        for name in ["a", "b", "c"] {
            artifacts.save(name, &[0; 100]);
        }
        assert!(artifacts.load("a").is_some());
        artifacts.save("d", &[0; 100]);
        assert_eq!(artifacts.load("b"), None);
        assert!(["a", "c", "d"].iter().all(|name| artifacts.load(name).is_some()));
        artifacts.save("huge", &[0; 400]);
        assert!(artifacts.load("huge").is_none() && artifacts.load("a").is_some());
        // A smaller setting holds from the next start.
        artifacts.save("e", &[0; 100]);
        let smaller = open(folder.path(), 1, 140);
        assert!(smaller.load("e").is_some());
        let left = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 1);
    }

    #[test]
    fn the_bytes_are_reserved_from_what_the_node_lends() {
        use quorate_protocols::resources::Limits;
        let folder = tempfile::tempdir().unwrap();
        let system = Amounts { disk_bytes: 200, ..Amounts::UNLIMITED };
        let resources = Resources::new(Limits { system, ..Limits::unlimited() });
        let config = ArtifactConfig { folder: folder.path().to_owned(), key: [1; 32], bytes_max: 10_000 };
        let artifacts = Artifacts::open(config, &resources).unwrap();
        artifacts.save("a", &[0; 100]);
        assert_eq!(resources.used(Scope::System).disk_bytes, 132);
        artifacts.save("b", &[0; 110]);
        assert_eq!((artifacts.load("a"), artifacts.load("b").is_some()), (None, true));
        assert_eq!(resources.used(Scope::System).disk_bytes, 142);
        drop(artifacts);
        assert_eq!(resources.used(Scope::System).disk_bytes, 0);
    }
}
