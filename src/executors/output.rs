//! The one output of a task: what it wrote to standard output, or the file that it left, or all of that as an archive.
//!
//! | standard output | files under `out/` | the output |
//! |---|---|---|
//! | anything | none | standard output |
//! | empty | one | that file |
//! | anything | others | a tar archive: `stdout` if it is not empty, then `out/NAME` in order of name |
//!
//! An archive holds names and bytes, and nothing of when or by whom: equal files make equal archives.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use bytes::Bytes;

use super::Content;
use super::task::open_regular;

/// The name of the archive that is made in a program's folder.
const ARCHIVE: &str = "output.tar";

/// Blocks when outputs are files: `folder` is where an archive of them is made.
pub fn output(
    stdout: Option<Content>,
    mut outputs: BTreeMap<String, Content>,
    folder: Option<&Path>,
) -> io::Result<Content> {
    let stdout = stdout.unwrap_or(Content::Bytes(Bytes::new()));
    match (outputs.len(), stdout.len()) {
        (0, _) => return Ok(stdout),
        (1, 0) => return Ok(outputs.pop_first().map_or(stdout, |(_, only)| only)),
        _ => (),
    }
    let sizes = outputs.iter().map(|(name, content)| (name.len() as u64, content.len()));
    let size = archive_bytes(stdout.len(), sizes);
    let stdout = (stdout.len() > 0).then_some(("stdout".to_owned(), stdout));
    let files = outputs.into_iter().map(|(name, content)| (format!("out/{name}"), content));
    let parts = stdout.into_iter().chain(files);
    match folder {
        Some(folder) => {
            let path = folder.join(ARCHIVE);
            let mut file = archive(io::BufWriter::new(File::create(&path)?), parts)?;
            file.flush()?;
            let bytes = file.get_ref().metadata()?.len();
            Ok(Content::File { path, bytes })
        }
        None => Ok(Content::Bytes(archive(Vec::with_capacity(size as usize), parts)?.into())),
    }
}

/// A header, and what contents are filled up to.
const BLOCK_BYTES: u64 = 512;

/// Longest name that stands in the header itself; a longer one has a header and blocks of its own before it.
const SHORT_NAME_BYTES: u64 = 100;

/// Size of the archive that [`output`] makes of so many bytes of standard output, and files by the length of their name
/// and content; 0 when it makes none.
pub(super) fn archive_bytes(stdout: u64, files: impl ExactSizeIterator<Item = (u64, u64)>) -> u64 {
    if (files.len(), stdout) == (1, 0) || files.len() == 0 {
        return 0;
    }
    let blocks = |bytes: u64| bytes.next_multiple_of(BLOCK_BYTES);
    let entry = |(name, content): (u64, u64)| {
        let long = if name > SHORT_NAME_BYTES { BLOCK_BYTES + blocks(name + 1) } else { 0 };
        long + BLOCK_BYTES + blocks(content)
    };
    let stdout = (stdout > 0).then_some(("stdout".len() as u64, stdout));
    let files = files.map(|(name, content)| ("out/".len() as u64 + name, content));
    2 * BLOCK_BYTES + stdout.into_iter().chain(files).map(entry).sum::<u64>()
}

fn archive<W: Write>(into: W, parts: impl Iterator<Item = (String, Content)>) -> io::Result<W> {
    let mut builder = tar::Builder::new(into);
    for (name, content) in parts {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len());
        header.set_mode(0o644);
        let reader: Box<dyn Read> = match content {
            Content::Bytes(bytes) => Box::new(io::Cursor::new(bytes)),
            Content::File { path, bytes } => Box::new(open_regular(&path)?.take(bytes)),
        };
        builder.append_data(&mut header, name, reader)?;
    }
    builder.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Content {
        Content::Bytes(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn listed(content: Content) -> Vec<(String, String)> {
        let read: Box<dyn Read> = match content {
            Content::Bytes(bytes) => Box::new(io::Cursor::new(bytes)),
            Content::File { path, .. } => Box::new(File::open(path).unwrap()),
        };
        let mut archive = tar::Archive::new(read);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (name, text)
        });
        entries.collect()
    }

    #[test]
    fn the_size_of_an_archive_is_known_before_it_is_made() {
        for (names, content) in [(2..3, 0), (90..110, 1), (505..520, 511), (1000..1024, 512), (1..2, 513)] {
            for stdout in [0, 1, 2000] {
                let files = names.clone().chain([3]).map(|length| ("n".repeat(length), content));
                let files: BTreeMap<String, usize> = files.collect();
                let sizes = files.iter().map(|(name, content)| (name.len() as u64, *content as u64));
                let expected = archive_bytes(stdout as u64, sizes);
                let zeros = |bytes: usize| Content::Bytes(vec![0; bytes].into());
                let outputs = files.iter().map(|(name, content)| (name.clone(), zeros(*content))).collect();
                let made = output(Some(zeros(stdout)), outputs, None).unwrap();
                assert_eq!(made.len(), expected, "names of {names:?} and {stdout} bytes of standard output");
            }
        }
    }

    #[test]
    fn one_thing_is_the_output_and_several_are_an_archive() {
        let files = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), bytes(name))).collect();
        assert_eq!(output(Some(bytes("text")), files(&[]), None).unwrap(), bytes("text"));
        assert_eq!(output(None, files(&["only"]), None).unwrap(), bytes("only"));
        let several = output(Some(bytes("text")), files(&["b", "a/c"]), None).unwrap();
        let expected = [("stdout", "text"), ("out/a/c", "a/c"), ("out/b", "b")];
        let expected = expected.map(|(name, text)| (name.to_owned(), text.to_owned()));
        assert_eq!(listed(several.clone()), expected);
        let folder = tempfile::tempdir().unwrap();
        let on_disk = output(Some(bytes("text")), files(&["b", "a/c"]), Some(folder.path())).unwrap();
        let Content::File { path, bytes } = &on_disk else { panic!("{on_disk:?}") };
        let Content::Bytes(in_memory) = several else { panic!() };
        assert_eq!(std::fs::read(path).unwrap(), in_memory);
        assert_eq!(*bytes, in_memory.len() as u64);
        assert_eq!(listed(on_disk), expected);
    }
}
