//! Contents of objects that were never stored before, and the transfer of large ones from and to files, as
//! [`quorate_bound`] reads and writes them.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;
use quorate_bound::{Bound, write_random};
use quorate_protocols::object::{Layout, Profile};

use crate::connection::{Body, CallError, Connection, TRANSFER_DEADLINE};

/// Each block of a content begins with a stamp, so that no piece of it was ever stored before.
const BLOCK_BYTES: usize = 1 << 20;

/// The profile of the bound, which large objects are put with.
const PROFILE: Profile = Profile::DEFAULT;

/// Makes contents.
pub struct Contents {
    /// What no other maker has.
    seed: String,
    made: Cell<u64>,
    /// Bytes that do not compress.
    filler: Bytes,
}

impl Contents {
    /// `seed` is of this run alone, such as the name of a temporary folder.
    pub fn new(seed: String) -> Self {
        let mut filler = vec![0; BLOCK_BYTES];
        blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut filler);
        Self { seed, made: Cell::new(0), filler: filler.into() }
    }

    /// Bytes that were not made before. Short ones of fewer than 32 bytes may have been.
    pub fn make(&self, length: usize) -> Bytes {
        let content = self.next_stamp();
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let block = (length - bytes.len()).min(BLOCK_BYTES);
            let at = bytes.len();
            bytes.extend_from_slice(&self.filler[..block]);
            stamp(&mut bytes[at..], &content, (at / BLOCK_BYTES) as u64);
        }
        bytes.into()
    }

    /// The content of a file as new bytes, a block at a time.
    pub fn blocks(&self, path: &Path) -> io::Result<impl Iterator<Item = io::Result<Bytes>> + Send + use<>> {
        let (mut file, content, mut number) = (File::open(path)?, self.next_stamp(), 0);
        Ok(std::iter::from_fn(move || {
            let mut block = Vec::with_capacity(BLOCK_BYTES);
            if let Err(error) = (&mut file).take(BLOCK_BYTES as u64).read_to_end(&mut block) {
                return Some(Err(error));
            }
            stamp(&mut block, &content, number);
            number += 1;
            (!block.is_empty()).then(|| Ok(Bytes::from(block)))
        }))
    }

    fn next_stamp(&self) -> blake3::Hash {
        let number = self.made.replace(self.made.get() + 1);
        blake3::hash(format!("{} {number}", self.seed).as_bytes())
    }
}

/// Writes what names the content and the block over the block's beginning.
fn stamp(block: &mut [u8], content: &blake3::Hash, number: u64) {
    let mark = blake3::keyed_hash(content.as_bytes(), &number.to_le_bytes());
    let length = block.len().min(mark.as_bytes().len());
    block[..length].copy_from_slice(&mark.as_bytes()[..length]);
}

/// Puts and reads one large file, and does the same work without a network.
pub struct Large {
    pub bound: Bound,
    /// What is read is written here, as the bound does.
    out: PathBuf,
}

impl Large {
    /// `dir` is on the disk that holds the testnet, so that the bound writes where the nodes write.
    pub fn new(dir: &Path, bytes: u64) -> io::Result<Self> {
        let source = dir.join("source");
        write_random(&source, bytes)?;
        let scratch = dir.join("pieces");
        std::fs::create_dir_all(&scratch)?;
        Ok(Self { bound: Bound { source, scratch, layout: Layout::new(bytes, PROFILE) }, out: dir.join("read") })
    }

    /// What it is called now, and how long the put took.
    pub async fn put(&self, connection: &mut Connection, contents: &Contents) -> Result<(String, Duration), CallError> {
        let blocks = contents.blocks(&self.bound.source).map_err(|error| disk_fault(&error))?;
        let body = Body::blocks(self.bound.layout.size, blocks);
        let began = Instant::now();
        // In a query a bare plus is a space.
        let path = format!("/v1/objects?name=bench&profile={}", PROFILE.to_string().replace('+', "%2B"));
        let answer = connection.call_within(TRANSFER_DEADLINE, Method::POST, &path, body).await?;
        let took = began.elapsed();
        Ok((answer.json::<Stored<'_>>()?.object.to_owned(), took))
    }

    /// How long it took until the last byte was in the file, which is then removed: what the system has not written to
    /// the disk yet must not slow the next run.
    pub async fn get(&self, connection: &mut Connection, object: &str) -> Result<Duration, CallError> {
        let mut file = File::create(&self.out).map_err(|error| disk_fault(&error))?;
        let (began, mut bytes) = (Instant::now(), 0);
        let path = format!("/v1/objects/{object}/content");
        let read = connection.download(&path, |chunk| {
            bytes += chunk.len() as u64;
            file.write_all(&chunk)
        });
        read.await?;
        let took = began.elapsed();
        std::fs::remove_file(&self.out).map_err(|error| disk_fault(&error))?;
        match bytes == self.bound.layout.size {
            true => Ok(took),
            false => Err(CallError::Outcome { what: format!("read {bytes} bytes of {}", self.bound.layout.size) }),
        }
    }
}

/// The part of a put's answer that says what it stored.
#[derive(serde::Deserialize)]
pub struct Stored<'a> {
    pub object: &'a str,
}

fn disk_fault(error: &io::Error) -> CallError {
    CallError::Outcome { what: format!("the file of the measurement: {error}") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Goal: no block of any content was there before, whichever way it was made.
    #[test]
    fn every_block_is_new() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![1; 2 * BLOCK_BYTES + 5]).unwrap();
        let contents = Contents::new("a".to_owned());
        let mut blocks: Vec<Bytes> = contents.blocks(&path).unwrap().map(Result::unwrap).collect();
        assert_eq!(blocks.iter().map(Bytes::len).collect::<Vec<_>>(), [BLOCK_BYTES, BLOCK_BYTES, 5]);
        blocks.pop();
        blocks.extend(contents.blocks(&path).unwrap().take(2).map(Result::unwrap));
        let made = contents.make(2 * BLOCK_BYTES + 100);
        assert_eq!(made.len(), 2 * BLOCK_BYTES + 100);
        blocks.extend([
            made.slice(..BLOCK_BYTES),
            made.slice(BLOCK_BYTES..2 * BLOCK_BYTES),
            contents.make(BLOCK_BYTES),
        ]);
        blocks.push(Contents::new("b".to_owned()).make(BLOCK_BYTES));
        assert_eq!(blocks.iter().collect::<BTreeSet<_>>().len(), blocks.len());
        assert_eq!(contents.make(7).len(), 7);
    }

    #[test]
    fn the_answer_of_a_put_names_the_object() {
        let stored: Stored<'_> = serde_json::from_str(r#"{"object":"ab.cd","bytes":5,"job":"ab.ef"}"#).unwrap();
        assert_eq!(stored.object, "ab.cd");
    }
}
