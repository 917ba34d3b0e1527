//! WebAssembly modules, which any user of a node sends and names: the check in front of every submit and compiler.

use quorate_modules::check::{check, strip};

use super::Target;
use crate::meter::measure;
use crate::trail::Trail;

/// A command with an import, a memory, a table, data and a loop, as a binary; and things that are none.
const SEEDS: [&[u8]; 5] = [
    b"\0asm\x01\0\0\0\x01\x08\x02\x60\x01\x7f\0\x60\0\0\x02\x24\x01\x16wasi_snapshot_preview1\x09proc_exit\0\0\
      \x03\x02\x01\x01\x05\x03\x01\0\x01\x07\x0a\x01\x06_start\0\x01\x0a\x0b\x01\x09\x01\x02\x7f\x03\x40\x0c\0\x0b\x0b",
    b"\0asm\x01\0\0\0\0\x05\x04name\x01\x04\x01\x60\0\0",
    b"\0asm\x0d\0\x01\0",
    b"(module (import \"wasi_snapshot_preview1\" \"fd_close\" (func (param i32) (result i32))) (memory (export \"memory\") 1)\
      (table 4 funcref) (data (i32.const 0) \"a\\00\") (func (export \"_start\") (local i32 i64) (loop (br 0))))",
    b"(component)",
];

const WORDS: [&str; 16] = [
    "(module",
    "(func",
    "(import",
    "(export \"_start\"",
    "(memory 65536)",
    "(table 4294967295 funcref)",
    "(local i32",
    "(block",
    "(loop",
    "(if (then",
    "(;",
    "end",
    ")",
    "wasi_snapshot_preview1",
    "\0asm",
    "_start",
];

/// Bytes that a check may allocate whatever it reads, and for each byte of it.
const ALLOCATED_MAX: usize = 8 << 20;
const ALLOCATED_PER_BYTE: usize = 2_000;

pub fn target() -> Target {
    // The engine that validates is made once, which is no input's doing.
    let _ = check(SEEDS[0]);
    let target = Target::bytes("module", run).with_seeds(SEEDS);
    Target { words: WORDS.to_vec(), ..target }
}

fn run(bytes: &[u8]) -> Trail {
    let mut trail = Trail::default();
    let (checked, _, allocated) = measure(|| check(bytes));
    let allocated_max = ALLOCATED_MAX + ALLOCATED_PER_BYTE * bytes.len();
    assert!(allocated <= allocated_max, "{allocated} bytes allocated for a module of {}", bytes.len());
    match &checked {
        Ok(checked) => {
            trail.mark(("sound", checked.facts.memory_bytes.checked_ilog2()));
            let stripped = strip(&checked.binary);
            assert!(matches!(strip(&stripped), std::borrow::Cow::Borrowed(_)), "stripped twice is not stripped once");
            let again = check(&stripped).expect("a module without custom sections is the same module");
            assert_eq!(again.facts, checked.facts);
        }
        Err(fault) => {
            let told = fault.to_string();
            assert!(told.len() < 2_000 && !told.chars().any(char::is_control), "{told:?}");
            trail.mark_words("refused", &told);
        }
    }
    trail
}
