//! The bytes of everything that travels or is kept are what they were. What hostile ones do is `testnet/fuzz`'s to
//! find.
//!
//! The fixtures are text (`name hex`, a file per protocol), so that a change of a format shows in review. To change one
//! on purpose: `UPDATE_FIXTURES=1 cargo test -p quorate-protocols --test wire`, in a commit of its own that says why.

mod samples;

use std::collections::BTreeMap;
use std::path::PathBuf;

use quorate_protocols::quorum::QuorumState;
use samples::{samples, state};

fn fixture(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(format!("{file}.txt"))
}

/// The fixture lines of every file, from the samples of today.
fn lines() -> BTreeMap<&'static str, String> {
    let mut files = BTreeMap::<_, String>::new();
    for sample in samples() {
        *files.entry(sample.file).or_default() += &format!("{} {}\n", sample.name, hex::encode(&sample.bytes));
    }
    let chunks = state().encode_snapshot();
    for (index, (hash, chunk)) in chunks.iter().enumerate() {
        *files.entry("records").or_default() += &format!("snapshot.{index}.{hash} {}\n", hex::encode(chunk));
    }
    files
}

#[test]
fn every_message_and_record_has_the_bytes_that_it_always_had() {
    let update = std::env::var_os("UPDATE_FIXTURES").is_some_and(|value| value == "1");
    for (file, lines) in lines() {
        if update {
            std::fs::write(fixture(file), lines).unwrap();
            continue;
        }
        let known = std::fs::read_to_string(fixture(file)).unwrap();
        for (known, found) in known.lines().zip(lines.lines()) {
            assert_eq!(known, found, "in {file}.txt");
        }
        assert_eq!(known.lines().count(), lines.lines().count(), "samples of {file}.txt");
    }
}

#[test]
fn every_fixture_reads_back_to_the_same_bytes_within_its_size_cap() {
    let samples: BTreeMap<_, _> =
        samples().into_iter().map(|sample| ((sample.file, sample.name.clone()), sample)).collect();
    let mut snapshot = Vec::new();
    for file in lines().into_keys() {
        for line in std::fs::read_to_string(fixture(file)).unwrap().lines() {
            let (name, bytes) = line.split_once(' ').unwrap();
            let bytes = hex::decode(bytes).unwrap();
            match samples.get(&(file, name.to_owned())) {
                Some(sample) => {
                    assert!(bytes.len() <= sample.limit, "{file} {name}");
                    assert_eq!((sample.reread)(&bytes).as_ref(), Ok(&bytes), "{file} {name}");
                }
                None => snapshot.push(bytes),
            }
        }
    }
    assert_eq!(QuorumState::decode_snapshot(&snapshot), Ok(state()));
}

#[test]
fn every_truncation_is_refused() {
    for sample in samples() {
        for length in 0..sample.bytes.len() {
            assert!(
                (sample.reread)(&sample.bytes[..length]).is_err(),
                "{} {} cut to {length} bytes",
                sample.file,
                sample.name
            );
        }
    }
}

#[test]
fn the_order_and_number_of_a_snapshots_chunks_count() {
    let chunks = state().encode_snapshot();
    let mut turned = chunks.clone();
    turned.reverse();
    assert!(QuorumState::decode_snapshot(turned.iter().map(|(_, chunk)| chunk)).is_err());
    assert!(QuorumState::decode_snapshot(chunks[1..].iter().map(|(_, chunk)| chunk)).is_err());
    assert!(QuorumState::decode_snapshot(chunks[..2].iter().map(|(_, chunk)| chunk)).is_err());
    assert!(QuorumState::decode_snapshot([[]; 0]).is_err());
}
