use super::*;

fn binary(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

const START: &str = "(memory (export \"memory\") 1) (func (export \"_start\"))";

fn sound() -> Vec<u8> {
    binary(&format!("(module {START})"))
}

/// A custom section, as compilers append them.
fn custom(name: &str, content: &[u8]) -> Vec<u8> {
    let mut body = vec![name.len() as u8];
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(content);
    let mut section = vec![0];
    let mut length = body.len();
    while length >= 0x80 {
        section.push(0x80 | (length & 0x7f) as u8);
        length >>= 7;
    }
    section.push(length as u8);
    section.extend(body);
    section
}

/// A module whose `_start` has so many locals and, in each other, so many blocks.
fn nested(locals: usize, blocks: usize, opening: &str) -> Vec<u8> {
    let mut text =
        format!("(module (memory (export \"memory\") 1) (func (export \"_start\") (local{})", " i32".repeat(locals));
    text.push_str(&format!(" {opening}").repeat(blocks));
    text.push_str(&" end".repeat(blocks));
    text.push_str("))");
    binary(&text)
}

/// A command whose imports are in one of the two groups of the compact-imports proposal: several names for one module.
fn compact_imports(group: u8) -> Vec<u8> {
    let module = b"\x16wasi_snapshot_preview1\0";
    let names: &[u8] = match group {
        // One type for all names, or one for each.
        0x7e => b"\0\0\x01\x0bsched_yield",
        _ => b"\x01\x0bsched_yield\0\0",
    };
    let imports = [&[1][..], module, &[group], names].concat();
    // Two types, the imports, one function, its export and its body.
    let sections: [(u8, &[u8]); 5] = [
        (1, b"\x02\x60\0\x01\x7f\x60\0\0"),
        (2, &imports),
        (3, b"\x01\x01"),
        (7, b"\x01\x06_start\0\x01"),
        (10, b"\x01\x02\0\x0b"),
    ];
    let mut module = [MAGIC, CORE].concat();
    for (id, content) in sections {
        module.extend([id, content.len() as u8]);
        module.extend(content);
    }
    module
}

#[test]
fn each_wrong_kind_of_module_is_told_as_what_it_is() {
    let many_imports: String = (0..2_000).map(|n| format!("(import \"env\" \"f{n}\" (func))")).collect();
    let memories = "(memory 1)".repeat(9);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "empty"),
        (b"\x7fELF\x02\x01\x01\0".to_vec(), "\\x7fELF"),
        (b"#!/bin/sh".to_vec(), "no WebAssembly"),
        (b"\0as".to_vec(), "no WebAssembly"),
        (b"\0asm\x01".to_vec(), "damaged or cut off"),
        (b"\0asm\x02\0\0\0".to_vec(), "version"),
        (b"\0asm\x0d\0\x01\0".to_vec(), "component"),
        (sound()[..sound().len() - 3].to_vec(), "damaged or cut off"),
        (b"(module".to_vec(), "no module"),
        (b"(module (func $f (call $g)))".to_vec(), "$g"),
        (binary("(module)"), "library"),
        (binary("(module (func (export \"_initialize\")))"), "reactor"),
        (binary("(module (func (export \"_start\") (param i32)))"), "parameters"),
        (binary("(module (memory (export \"_start\") 1))"), "not a function"),
        (binary(&format!("(module (import \"env\" \"launch\" (func)) {START})")), "`env.launch`"),
        (binary(&format!("(module (import \"wasi_snapshot_preview1\" \"fd_close\" (func)) {START})")), "fd_close"),
        (binary(&format!("(module (import \"wasi_snapshot_preview1\" \"fd_spin\" (func)) {START})")), "fd_spin"),
        (binary(&format!("(module {many_imports} {START})")), "imports"),
        (binary(&format!("(module {memories} (func (export \"_start\")))")), "memories"),
        (binary("(module (memory (export \"memory\") 1 1 shared) (func (export \"_start\")))"), "threads"),
        (binary("(module (memory i64 1) (func (export \"_start\")))"), "memory64"),
        (binary("(module (func (export \"_start\") i32.add drop))"), "invalid"),
        (compact_imports(0x7f), "compact-imports"),
        (compact_imports(0x7e), "compact-imports"),
        (nested(5_000, 1_000, "loop"), "5000 locals in 1000 blocks"),
    ];
    for (module, expected) in cases {
        let told = check(&module).expect_err(expected).to_string();
        assert!(told.contains(expected), "{expected}: {told}");
        assert!(told.len() < 1_000 && !told.contains('\n'), "{told}");
    }
}

#[test]
fn a_command_of_preview_1_is_taken_as_binary_and_as_text() {
    let text = format!("(module (import \"wasi_snapshot_preview1\" \"proc_exit\" (func (param i32))) {START})");
    let from_binary = binary(&text);
    let checked = check(&from_binary).unwrap();
    assert_eq!((&*checked.binary, checked.facts.memory_bytes), (&*from_binary, 64 * 1024));
    assert_eq!(check(text.as_bytes()).unwrap().binary, checked.binary);
    let large = binary("(module (memory 3) (table 100 funcref) (func (export \"_start\")))");
    assert_eq!(check(&large).unwrap().facts.memory_bytes, 3 * 65_536 + 1_600);
}

/// Goal: what a compiler made is not refused for what it costs. The numbers are of the largest function of a published
/// interpreter.
#[test]
fn the_largest_function_of_an_interpreter_is_taken() {
    check(&nested(169, 4_009, "block")).unwrap();
}

#[test]
fn too_many_bytes_are_refused_before_they_are_read() {
    let long = vec![0; MODULE_BYTES_MAX as usize + 1];
    assert!(matches!(check(&long), Err(ModuleFault::TooLarge { .. })));
    let text = format!("(module {START}){}", " ".repeat(TEXT_BYTES_MAX));
    assert!(matches!(check(text.as_bytes()), Err(ModuleFault::TextTooLarge { .. })));
}

/// Goal: no depth of a text overflows the stack of a thread. Method: on a thread of the smallest size that anything
/// here runs on.
#[test]
fn a_text_that_nests_without_end_is_an_error() {
    for opening in ["(", "(block ", "(;", "(module (func (if (then "] {
        let text = opening.repeat(200_000);
        assert!(check(text.as_bytes()).is_err());
    }
}

#[test]
fn stripping_drops_custom_sections_and_nothing_else() {
    let module = sound();
    let mut debug = module.clone();
    debug.extend(custom(".debug_info", &[7; 100_000]));
    // Between the others too.
    let mut between = module[..8].to_vec();
    between.extend(custom("producers", b"x"));
    between.extend_from_slice(&module[8..]);
    for with in [&debug, &between] {
        let stripped = strip(with);
        assert_eq!(&*stripped, &*module);
        check(&stripped).unwrap();
    }
    assert!(matches!(strip(&module), Cow::Borrowed(same) if same == &*module));
    // What is no module is left as it is, for the check to speak of.
    for other in [&b"(module)"[..], b"", b"\0asm", b"\0asm\x01\0\0\0\0\xff\xff\xff\xff\x0f", b"\0asm\x01\0\0\0\x01"] {
        assert_eq!(&*strip(other), other);
    }
}

#[test]
fn debug_sections_do_not_count_against_the_size() {
    let mut debug = sound();
    debug.extend(custom(".debug_info", &vec![7; MODULE_BYTES_MAX as usize]));
    assert!(matches!(check(&debug), Err(ModuleFault::TooLarge { .. })));
    check(&strip(&debug)).unwrap();
}
