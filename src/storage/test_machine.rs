//! The real disk for suites: a folder, and what a killed process leaves of it.

use std::fs;
use std::path::{Path, PathBuf};

use quorate_testkit::conformance::Machine;
use tempfile::TempDir;

use crate::seams::Disk;

/// A folder on this machine's disk. Killing the process that holds it open is a copy of what is in it, taken while it
/// is open: the next life opens the copy.
pub(crate) struct FolderMachine {
    folder: TempDir,
    life: u32,
}

impl FolderMachine {
    pub(crate) fn new() -> Self {
        Self { folder: TempDir::new().expect("a folder"), life: 0 }
    }
    fn path(&self) -> PathBuf {
        self.folder.path().join(self.life.to_string())
    }
}

impl Machine for FolderMachine {
    fn open(&mut self) -> Disk {
        super::open(&self.path()).expect("opens")
    }
    fn lose_power(&mut self) {
        let from = self.path();
        self.life += 1;
        copy_folder(&from, &self.path());
    }
}

pub(super) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("created");
    for entry in fs::read_dir(from).expect("listed") {
        let entry = entry.expect("listed");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("known").is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("copied")),
        }
    }
}
