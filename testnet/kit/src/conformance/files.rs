//! Conformance of piece files and small files: see [`quorate_seams::Files`].

use quorate_protocols::ids::PieceHash;

use super::Machine;

/// One test of each property, of the files of the machine that the expression makes.
#[macro_export]
macro_rules! files_suite {
    ($machine:expr) => {
        $crate::properties! { $machine, files:
            a_piece_is_kept_until_it_is_removed,
            pieces_are_listed_in_order,
            what_was_written_outlives_the_power,
            a_small_file_is_replaced_whole,
            small_files_cannot_leave_their_folder,
            the_disk_says_how_large_it_is,
        }
    };
}

/// Hashes all over the range, in no order. The store does not look at what they are of.
fn hash(index: u8) -> PieceHash {
    let mut hash = [index; 32];
    hash[0] = index.wrapping_mul(67);
    PieceHash(hash)
}

pub fn a_piece_is_kept_until_it_is_removed(machine: &mut dyn Machine) {
    let files = machine.open().files;
    assert_eq!(files.read_piece(hash(1)).expect("read"), None);
    files.write_piece(hash(1), b"one").expect("written");
    files.write_piece(hash(1), b"one").expect("writing again succeeds");
    files.write_piece(hash(2), b"").expect("a piece may be empty");
    assert_eq!(files.read_piece(hash(1)).expect("read").as_deref(), Some(&b"one"[..]));
    assert_eq!(files.read_piece(hash(2)).expect("read").as_deref(), Some(&b""[..]));
    files.remove_piece(hash(1)).expect("removed");
    files.remove_piece(hash(1)).expect("removing what is not there succeeds");
    assert_eq!(files.read_piece(hash(1)).expect("read"), None);
    files.write_piece(hash(1), b"one").expect("written anew");
    assert_eq!(files.read_piece(hash(1)).expect("read").as_deref(), Some(&b"one"[..]));
}

pub fn pieces_are_listed_in_order(machine: &mut dyn Machine) {
    let files = machine.open().files;
    assert_eq!(files.list_pieces(None, 9).expect("listed"), []);
    let mut hashes: Vec<_> = (0..40).map(hash).collect();
    for hash in &hashes {
        files.write_piece(*hash, &hash.0).expect("written");
    }
    hashes.sort();
    assert_eq!(files.list_pieces(None, 100).expect("listed"), hashes);
    // By steps, as a scrub goes through them.
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let step = files.list_pieces(after, 7).expect("listed");
        let Some(last) = step.last() else { break };
        after = Some(*last);
        listed.extend(step);
    }
    assert_eq!(listed, hashes);
    files.remove_piece(hashes[3]).expect("removed");
    assert_eq!(files.list_pieces(Some(hashes[2]), 1).expect("listed"), [hashes[4]]);
    assert_eq!(files.list_pieces(Some(hashes[3]), 1).expect("listed"), [hashes[4]], "after one that is gone");
}

pub fn what_was_written_outlives_the_power(machine: &mut dyn Machine) {
    let files = machine.open().files;
    for index in 0..10 {
        files.write_piece(hash(index), &[index; 100]).expect("written");
    }
    files.remove_piece(hash(4)).expect("removed");
    files.write_small("mark-1", b"one").expect("written");
    machine.lose_power();
    drop(files);
    let files = machine.open().files;
    for index in (0..10).filter(|index| *index != 4) {
        assert_eq!(files.read_piece(hash(index)).expect("read").as_deref(), Some(&[index; 100][..]));
    }
    assert_eq!(files.read_piece(hash(4)).expect("read"), None);
    assert_eq!(files.list_pieces(None, 100).expect("listed").len(), 9);
    assert_eq!(files.read_small("mark-1").expect("read").as_deref(), Some(&b"one"[..]));
}

pub fn a_small_file_is_replaced_whole(machine: &mut dyn Machine) {
    let files = machine.open().files;
    assert_eq!(files.read_small("mark-1").expect("read"), None);
    files.write_small("mark-1", b"a long first content").expect("written");
    files.write_small("mark-1", b"short").expect("replaced");
    files.write_small("mark-2", b"").expect("a file may be empty");
    assert_eq!(files.read_small("mark-1").expect("read").as_deref(), Some(&b"short"[..]));
    assert_eq!(files.read_small("mark-2").expect("read").as_deref(), Some(&b""[..]));
    assert_eq!(files.list_pieces(None, 9).expect("listed"), [], "a small file is no piece");
}

pub fn small_files_cannot_leave_their_folder(machine: &mut dyn Machine) {
    let files = machine.open().files;
    for name in ["", "..", ".hidden", "a/b", "../escape", "/etc/passwd", "new\nline", &"long".repeat(60)] {
        assert!(files.write_small(name, b"x").is_err(), "{name:?} was accepted");
        assert!(files.read_small(name).is_err(), "{name:?} was accepted");
    }
}

pub fn the_disk_says_how_large_it_is(machine: &mut dyn Machine) {
    let (free, size) = machine.open().files.free_space().expect("known");
    assert!(0 < free && free <= size, "{free} of {size} bytes are free");
}
