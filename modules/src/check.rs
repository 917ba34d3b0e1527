//! Module check: says whether a WebAssembly module can run on a worker, before anything is stored or compiled.
//!
//! One answer for everybody who asks: `job validate`, `plan` and `submit` of the command line, the HTTP API, and the
//! worker in front of its compiler. A module is a *command* of WASI preview 1, binary or text. The check parses it,
//! looks for `_start`, compares its imports with those that workers offer, bounds what its functions cost a compiler,
//! and validates it as the engine will. It compiles nothing, keeps nothing, and takes milliseconds per MiB.
//!
//! Custom sections (debug information, names, producers) mean nothing to a worker. [`strip`] drops them; the
//! command line does so before it stores or sends a module, so that the stored object, its hash and its size are those
//! of the code. The same file gives the same bytes, and so the same object, however often it is submitted.

use std::borrow::Cow;
use std::sync::OnceLock;

use quorate_protocols::task::limits::{MODULE_BYTES_MAX, compile_memory_bytes};
use quorate_protocols::units::ByteSize;
use wasmtime::{Engine, Module};

use super::engine::Flavour;
use super::imports;
use super::scan::{Scan, ScanError, Start, scan};

/// Largest module as text.
pub const TEXT_BYTES_MAX: usize = 4 << 20;

/// Memory that reading a text takes for each of its bytes.
const MEMORY_PER_TEXT_BYTE: u64 = 50;

/// Characters of a parser's message.
const MESSAGE_CHARS_MAX: usize = 400;

/// What every binary begins with, and the version that follows in a core module.
const MAGIC: &[u8] = b"\0asm";
const CORE: &[u8] = &[1, 0, 0, 0];

/// Why a module cannot run on any worker. The texts begin behind "the module" or a key's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModuleFault {
    #[error("it is empty")]
    Empty,
    #[error(
        "it has {}, and a module may have {}; debug sections are not needed here (`quorate job submit` \
         drops them, `wasm-strip` does too)",
        ByteSize(*bytes).rounded_up(),
        ByteSize(*limit)
    )]
    TooLarge { bytes: u64, limit: u64 },
    #[error(
        "it is text of {}, and a module as text may have {}: assemble it (`wat2wasm`)",
        ByteSize(*bytes as u64).rounded_up(),
        ByteSize(*limit as u64)
    )]
    TextTooLarge { bytes: usize, limit: usize },
    #[error(
        "it is no WebAssembly: a binary module begins with \"\\0asm\", a text with \"(module\", and this with {begins}"
    )]
    Foreign { begins: String },
    #[error("its text is no module: {0}")]
    Text(String),
    #[error(
        "it is a component, and workers run core modules of WASI preview 1: build it for the target wasm32-wasip1 \
         (not wasip2), or without `wasm-tools component new`"
    )]
    Component,
    #[error("it is damaged or cut off: {0}")]
    Damaged(String),
    #[error("it is invalid, or uses what workers do not have: {0}")]
    Invalid(String),
    #[error(
        "it exports no `_start`: this is a reactor, which waits for calls of its host; build it as a command (a program \
         with a main function)"
    )]
    Reactor,
    #[error("it exports no `_start`: this is a library; build it as a command (a program with a main function)")]
    Library,
    #[error("its `_start` is not a function without parameters and results")]
    MisshapenStart,
    #[error("{0}")]
    Imports(String),
    /// A sentence about something that it has too much of.
    #[error("{0}")]
    TooMuch(String),
}

/// A module that workers take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked<'a> {
    /// As a binary, whatever it was.
    pub binary: Cow<'a, [u8]>,
    pub facts: Facts,
}

/// What others ask of a module that is sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Memories and tables that it begins with; a task with less memory cannot start it.
    pub memory_bytes: u64,
    /// What its functions cost a compiler beyond their bytes: locals times blocks, of all together.
    pub cost: u64,
    /// What a worker sets aside to compile it.
    pub compile_memory_bytes: u64,
}

/// Memory that [`check`] takes, beside the module.
pub fn check_memory_bytes(module: &[u8]) -> u64 {
    match module.starts_with(MAGIC) {
        true => 0,
        false => MEMORY_PER_TEXT_BYTE * module.len().min(TEXT_BYTES_MAX) as u64,
    }
}

/// Checks a module of untrusted origin.
pub fn check(module: &[u8]) -> Result<Checked<'_>, ModuleFault> {
    let too_large = |bytes: usize| ModuleFault::TooLarge { bytes: bytes as u64, limit: MODULE_BYTES_MAX };
    if module.is_empty() {
        return Err(ModuleFault::Empty);
    }
    if module.len() as u64 > MODULE_BYTES_MAX {
        return Err(too_large(module.len()));
    }
    let binary = if module.starts_with(MAGIC) { Cow::Borrowed(module) } else { Cow::Owned(assemble(module)?) };
    if binary.len() as u64 > MODULE_BYTES_MAX {
        return Err(too_large(binary.len()));
    }
    let facts = check_binary(&binary)?;
    Ok(Checked { binary, facts })
}

/// The binary of a text.
fn assemble(module: &[u8]) -> Result<Vec<u8>, ModuleFault> {
    let text = std::str::from_utf8(module).ok().filter(|text| text.trim_start().starts_with(['(', ';']));
    let Some(text) = text else {
        let begins = module.iter().take(8).flat_map(|byte| std::ascii::escape_default(*byte));
        return Err(ModuleFault::Foreign { begins: format!("\"{}\"", begins.map(char::from).collect::<String>()) });
    };
    if text.len() > TEXT_BYTES_MAX {
        return Err(ModuleFault::TextTooLarge { bytes: text.len(), limit: TEXT_BYTES_MAX });
    }
    wat::parse_str(text).map_err(|error| ModuleFault::Text(line(&error.to_string())))
}

fn check_binary(binary: &[u8]) -> Result<Facts, ModuleFault> {
    // Read here, because a parser of components would go on into what this is not.
    match binary.get(MAGIC.len()..MAGIC.len() + CORE.len()) {
        Some(CORE) => (),
        // The second half of the version is the layer: components are of layer 1.
        Some([_, _, 1, 0]) => return Err(ModuleFault::Component),
        Some(version) => return Err(ModuleFault::Damaged(format!("its version is {version:?}, and there is only 1"))),
        None => return Err(ModuleFault::Damaged("it ends within its first 8 bytes".to_owned())),
    }
    let Scan { imports, start, is_reactor, memory_bytes, cost, largest_cost } =
        scan(binary).map_err(|error| match error {
            ScanError::Damaged(error) => ModuleFault::Damaged(line(&error.to_string())),
            ScanError::Unsupported(what) => ModuleFault::Invalid(what.to_owned()),
            ScanError::Refused(reason) => ModuleFault::TooMuch(reason),
        })?;
    match start {
        Start::Present => (),
        Start::Misshapen => return Err(ModuleFault::MisshapenStart),
        Start::Absent if is_reactor => return Err(ModuleFault::Reactor),
        Start::Absent => return Err(ModuleFault::Library),
    }
    if let Some(reason) = imports::refusal(&imports) {
        return Err(ModuleFault::Imports(reason));
    }
    // Last, because the reasons above tell more than "unknown type" does.
    Module::validate(engine(), binary).map_err(|error| ModuleFault::Invalid(chain(&error)))?;
    Ok(Facts { memory_bytes, cost, compile_memory_bytes: compile_memory_bytes(binary.len() as u64, largest_cost) })
}

/// Validates as every worker does. Both flavours accept the same modules.
fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Flavour::Free.engine().expect("the settings are constants, and tests start with them"))
}

/// Drops every custom section of a binary module that passed [`check`]; a text is left as it is.
pub fn strip(module: &[u8]) -> Cow<'_, [u8]> {
    const CUSTOM: u8 = 0;
    let header = MAGIC.len() + CORE.len();
    if !module.starts_with(MAGIC) || module.len() < header {
        return Cow::Borrowed(module);
    }
    let (mut kept, mut at) = (module[..header].to_vec(), header);
    while at < module.len() {
        let mut reader = wasmparser::BinaryReader::new(&module[at..], at);
        let Ok((id, length)) = reader.read_u8().and_then(|id| Ok((id, reader.read_var_u32()? as usize))) else {
            return Cow::Borrowed(module);
        };
        let next = reader.original_position().saturating_add(length);
        let Some(section) = module.get(at..next) else { return Cow::Borrowed(module) };
        if id != CUSTOM {
            kept.extend_from_slice(section);
        }
        at = next;
    }
    match kept.len() == module.len() {
        true => Cow::Borrowed(module),
        false => Cow::Owned(kept),
    }
}

/// An error with its causes, in one line and bounded: a text module's errors quote the text.
pub fn chain(error: &wasmtime::Error) -> String {
    line(&error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": "))
}

fn line(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().take(MESSAGE_CHARS_MAX).filter(|char| !char.is_control()).collect()
}

#[cfg(test)]
mod tests;
