//! Committed inputs: `corpus/TARGET.txt` beside this crate, a line each (`name hex`), so that they show in review. The
//! same form is written for an input that failed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The committed inputs of a target, if there are any.
pub fn committed(target: &str) -> Vec<(String, Vec<u8>)> {
    let path = file_of(target);
    match fs::read_to_string(&path) {
        Ok(text) => {
            text.lines().map(|line| entry(line).unwrap_or_else(|| panic!("{}: {line}", path.display()))).collect()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

/// Where inputs of this target are committed.
pub fn file_of(target: &str) -> PathBuf {
    folder().join(format!("{target}.txt"))
}

/// Targets that have a file; each must exist.
pub fn targets() -> Vec<String> {
    let files = fs::read_dir(folder()).expect("the corpus is part of the source tree");
    let names = files.map(|file| file.expect("a folder can be listed").path());
    names.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// One `name hex` line.
pub fn entry(line: &str) -> Option<(String, Vec<u8>)> {
    let (name, bytes) = line.split_once(' ')?;
    Some((name.to_owned(), hex::decode(bytes.trim()).ok()?))
}

pub fn line(name: &str, bytes: &[u8]) -> String {
    format!("{name} {}\n", hex::encode(bytes))
}
