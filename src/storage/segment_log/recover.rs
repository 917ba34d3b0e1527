//! Opening a log: every segment is read, and the index built from what is in them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::index::Index;
use super::record::{self, HEADER_BYTES, Malformed, Record};
use super::{Newest, SUFFIX, Sealed, State, UNFINISHED, create, path_of};
use crate::seams::DiskError;
use crate::storage::{io_error, sync_folder};

/// A segment as it was read.
struct Opened {
    segment: Newest,
    /// What its header is linked to.
    follows: u32,
    is_sealed: bool,
}

/// Reads the log in a folder, and makes its first segment if there is none. What it found is on the disk when it
/// returns, and nothing else is.
pub(super) fn recover(folder: &Path) -> Result<State, DiskError> {
    let unfinished = folder.join(UNFINISHED);
    fs::remove_file(&unfinished)
        .or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
        .map_err(|error| io_error("removing", &unfinished, &error))?;
    let mut index = Index::default();
    let mut sealed = BTreeMap::new();
    let mut newest: Option<Opened> = None;
    let sequences = sequences(folder)?;
    let mut newest_bytes = Vec::new();
    for sequence in &sequences {
        let (opened, bytes) = open(folder, *sequence, &mut index)?;
        if let Some(before) = newest.take() {
            check_follows(folder, &before, &opened)?;
            seal(&mut sealed, before.segment);
        }
        newest = Some(opened);
        if sequences.last() == Some(sequence) {
            newest_bytes = bytes;
        }
    }
    let newest = match newest {
        None => create(folder, 1, 0)?,
        Some(mut last) => {
            rewrite(folder, &mut last.segment, &newest_bytes)?;
            sync_folder(folder)?;
            if last.is_sealed {
                let next = create(folder, last.segment.sequence + 1, last.segment.link)?;
                seal(&mut sealed, last.segment);
                next
            } else {
                last.segment
            }
        }
    };
    Ok(State { index, sealed, newest })
}

/// Puts the records of the newest segment on the disk, and nothing behind them.
///
/// They may have been in the memory of the kernel alone. After a sync that failed it takes them for written, and would
/// write them at no later one; so they are written again. What a torn write left behind them goes: were the record that
/// is missing written again, byte for byte, it would lead on to what was behind it.
fn rewrite(folder: &Path, segment: &mut Newest, bytes: &[u8]) -> Result<(), DiskError> {
    let path = path_of(folder, segment.sequence);
    let records = &bytes[..segment.end as usize];
    let written = segment.file.write_all_at(records, 0).and_then(|()| segment.file.set_len(segment.end));
    written.map_err(|error| io_error("writing", &path, &error))?;
    segment.filled = segment.end;
    segment.file.sync_all().map_err(|error| io_error("syncing", &path, &error))
}

fn seal(sealed: &mut BTreeMap<u64, Sealed>, segment: Newest) {
    sealed.insert(segment.sequence, Sealed { file: segment.file, bytes: segment.end });
}

/// The segments in a folder, in order.
fn sequences(folder: &Path) -> Result<Vec<u64>, DiskError> {
    let fault = |error: io::Error| io_error("listing", folder, &error);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(fault)? {
        let name = entry.map_err(fault)?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
        found.extend(number.and_then(|number| u64::from_str_radix(number, 16).ok()));
    }
    found.sort_unstable();
    Ok(found)
}

fn check_follows(folder: &Path, before: &Opened, next: &Opened) -> Result<(), DiskError> {
    let expected = before.segment.sequence.saturating_add(1);
    if next.segment.sequence != expected {
        return Err(damaged(&path_of(folder, expected), &"this segment of the log is missing"));
    }
    if !before.is_sealed {
        let what = format!("nothing can be read behind byte {} of this segment of the log", before.segment.end);
        return Err(damaged(&path_of(folder, before.segment.sequence), &what));
    }
    if next.follows != before.segment.link {
        return Err(damaged(&path_of(folder, expected), &"this segment follows another one than that before it"));
    }
    Ok(())
}

/// Also gives the bytes that it read.
fn open(folder: &Path, sequence: u64, index: &mut Index) -> Result<(Opened, Vec<u8>), DiskError> {
    let path = path_of(folder, sequence);
    let (file, bytes) = load(&path).map_err(|error| io_error("reading", &path, &error))?;
    let malformed = |error: Malformed| damaged(&path, &error);
    let (named, follows, link) = record::read_header(&bytes).map_err(malformed)?;
    if named != sequence {
        return Err(damaged(&path, &format!("its header says that it is segment {named}")));
    }
    let filled = bytes.len() as u64;
    let mut opened = Opened {
        segment: Newest { sequence, file: Arc::new(file), end: HEADER_BYTES as u64, link, filled },
        follows,
        is_sealed: false,
    };
    let segment = &mut opened.segment;
    while !opened.is_sealed
        && let Some(read) = record::read(&bytes, segment.end as usize, segment.link).map_err(malformed)?
    {
        (segment.end, segment.link) = (read.end as u64, read.link);
        match read.record {
            Record::Batch(group, changes) => index.apply(sequence, group, changes),
            Record::Seal => opened.is_sealed = true,
        }
    }
    if bytes[segment.end as usize..].iter().any(|byte| *byte != 0) {
        tracing::info!(path = %path.display(), end = segment.end, "what was being written to the log is not there");
    }
    Ok((opened, bytes))
}

fn load(path: &Path) -> io::Result<(File, Vec<u8>)> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok((file, bytes))
}

pub(super) fn damaged(place: &Path, reason: &dyn Display) -> DiskError {
    DiskError::Damaged { place: place.display().to_string(), reason: reason.to_string() }
}
