//! A module's structure, read without compiling anything: what it imports and exports, what it begins with, and how
//! much work its functions are. Reads untrusted bytes: everything that is kept has a bound, and what goes past it is an
//! error.

use quorate_protocols::units::ByteSize;
use wasmparser::{
    BinaryReaderError, CompositeInnerType, ExternalKind, FuncType, FunctionBody, Imports, Operator, Parser, Payload,
    TableType, TypeRef, ValType,
};

use super::imports::Import;

/// Charged per table element: a reference and what goes with it.
pub const ELEMENT_BYTES: usize = 16;

/// Memories and tables of one module. Compilers make one of each.
pub const MEMORIES_MAX: usize = 8;
pub const TABLES_MAX: usize = 16;

/// Types, imports and functions of one module. The largest interpreters have a thousand types and 20,000 functions.
const TYPES_MAX: usize = 65_536;
const IMPORTS_MAX: usize = 1_000;
const FUNCTIONS_MAX: usize = 500_000;

/// Bytes of one function. The largest of a published interpreter has 138 KB; compilers take memory for a whole function
/// at once.
const FUNCTION_BYTES_MAX: usize = 2 << 20;

/// What one function may cost a compiler, in locals times blocks: its time and memory grow with the product. The
/// largest function of a published interpreter (Ruby's, of 138 KB) has 700,000; one of 57 KB made by hand with
/// 5,000,000 took a compiler gigabytes.
const FUNCTION_COST_MAX: u64 = 2 << 20;

/// Of that cost a function gets memory for so much per byte: those of interpreters have up to 5. One made by hand to
/// cost more for its size runs into the compiler's limit instead.
const MEMORY_COST_PER_BYTE: u64 = 8;

const PAGE_BYTES: u64 = 64 * 1024;

#[derive(Debug, Default)]
pub(super) struct Scan<'a> {
    pub imports: Vec<Import<'a>>,
    pub start: Start,
    /// Whether it is made to be called by a host again and again.
    pub is_reactor: bool,
    /// Memories and tables that it begins with.
    pub memory_bytes: u64,
    /// Locals times blocks of all its functions: see [`FUNCTION_COST_MAX`].
    pub cost: u64,
    /// The same of the one for which a compiler needs most memory.
    pub largest_cost: u64,
}

/// The function that a command begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Start {
    #[default]
    Absent,
    /// Of the right type: no parameters and no results.
    Present,
    Misshapen,
}

/// Why a module was not read to its end.
#[derive(Debug)]
pub(super) enum ScanError {
    Damaged(BinaryReaderError),
    /// What it uses that the compiler of workers does not have.
    Unsupported(&'static str),
    /// A sentence about the module.
    Refused(String),
}

impl From<BinaryReaderError> for ScanError {
    fn from(error: BinaryReaderError) -> Self {
        Self::Damaged(error)
    }
}

/// A function type as far as it matters here.
struct Shape {
    params: u32,
    /// See [`Import::shape`].
    text: Option<String>,
}

#[derive(Default)]
struct Walk {
    types: Vec<Shape>,
    /// The type of each function, imported ones first.
    functions: Vec<u32>,
    imported: usize,
    bodies: usize,
    start: Option<u32>,
    start_is_other: bool,
    memories: usize,
    tables: usize,
}

fn bounded(what: &str, found: usize, max: usize) -> Result<(), ScanError> {
    match found <= max {
        true => Ok(()),
        false => Err(ScanError::Refused(format!("it has {found} {what}, and at most {max} are compiled"))),
    }
}

/// Reads a binary module's structure. It may still be invalid: this looks only at what is needed.
pub(super) fn scan(module: &[u8]) -> Result<Scan<'_>, ScanError> {
    let (mut scan, mut walk) = (Scan::default(), Walk::default());
    for payload in Parser::new(0).parse_all(module) {
        match payload? {
            Payload::TypeSection(types) => {
                for group in types {
                    for sub in group?.into_types() {
                        bounded("types", walk.types.len() + 1, TYPES_MAX)?;
                        walk.types.push(match &sub.composite_type.inner {
                            CompositeInnerType::Func(func) => shape_of(func),
                            _ => Shape { params: 0, text: None },
                        });
                    }
                }
            }
            Payload::ImportSection(imports) => {
                for group in imports {
                    // The engine's validation reads every encoding that there is, its compiler only what is enabled.
                    let Imports::Single(_, import) = group? else {
                        return Err(ScanError::Unsupported(
                            "its imports have the encoding of the compact-imports proposal",
                        ));
                    };
                    bounded("imports", scan.imports.len() + 1, IMPORTS_MAX)?;
                    scan.imports.push(walk.import(&import, &mut scan.memory_bytes)?);
                }
            }
            Payload::FunctionSection(functions) => {
                bounded("functions", functions.count() as usize, FUNCTIONS_MAX)?;
                for function in functions {
                    walk.functions.push(function?);
                }
            }
            Payload::TableSection(tables) => {
                for table in tables {
                    walk.add_table(&table?.ty, &mut scan.memory_bytes)?;
                }
            }
            Payload::MemorySection(memories) => {
                for memory in memories {
                    walk.add_memory(&memory?, &mut scan.memory_bytes)?;
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export?;
                    match (export.name, export.kind) {
                        ("_start", ExternalKind::Func) => walk.start = Some(export.index),
                        ("_start", _) => walk.start_is_other = true,
                        ("_initialize", _) => scan.is_reactor = true,
                        _ => (),
                    }
                }
            }
            Payload::CodeSectionEntry(body) => {
                let (cost, bytes) = (walk.cost(&body)?, body.range().len() as u64);
                scan.cost = scan.cost.saturating_add(cost);
                scan.largest_cost = scan.largest_cost.max(cost.min(MEMORY_COST_PER_BYTE * bytes));
            }
            _ => (),
        }
    }
    scan.start = walk.start();
    Ok(scan)
}

impl Walk {
    fn import<'a>(&mut self, import: &wasmparser::Import<'a>, memory_bytes: &mut u64) -> Result<Import<'a>, ScanError> {
        let shape = match &import.ty {
            TypeRef::Func(index) | TypeRef::FuncExact(index) => {
                self.functions.push(*index);
                self.imported += 1;
                self.types.get(*index as usize).and_then(|shape| shape.text.clone())
            }
            TypeRef::Memory(memory) => {
                self.add_memory(memory, memory_bytes)?;
                None
            }
            TypeRef::Table(table) => {
                self.add_table(table, memory_bytes)?;
                None
            }
            TypeRef::Global(_) | TypeRef::Tag(_) => None,
        };
        Ok(Import { module: import.module, name: import.name, shape })
    }

    fn add_memory(&mut self, memory: &wasmparser::MemoryType, bytes: &mut u64) -> Result<(), ScanError> {
        self.memories += 1;
        bounded("memories", self.memories, MEMORIES_MAX)?;
        *bytes = bytes.saturating_add(memory.initial.saturating_mul(PAGE_BYTES));
        Ok(())
    }

    fn add_table(&mut self, table: &TableType, bytes: &mut u64) -> Result<(), ScanError> {
        self.tables += 1;
        bounded("tables", self.tables, TABLES_MAX)?;
        *bytes = bytes.saturating_add(table.initial.saturating_mul(ELEMENT_BYTES as u64));
        Ok(())
    }

    /// What a function costs a compiler; an error for one that costs more than anything that a compiler made.
    fn cost(&mut self, body: &FunctionBody<'_>) -> Result<u64, ScanError> {
        let index = self.imported + self.bodies;
        self.bodies += 1;
        let bytes = body.range().len();
        if bytes > FUNCTION_BYTES_MAX {
            return Err(ScanError::Refused(format!(
                "its function {index} has {}, and one may have {}: split the function",
                ByteSize(bytes as u64).rounded_up(),
                ByteSize(FUNCTION_BYTES_MAX as u64)
            )));
        }
        let declared = self.functions.get(index).and_then(|index| self.types.get(*index as usize));
        let mut locals = u64::from(declared.map_or(0, |shape| shape.params));
        for group in body.get_locals_reader()? {
            locals = locals.saturating_add(group?.0.into());
        }
        let mut blocks = 0u64;
        for operator in body.get_operators_reader()? {
            use Operator::{Block, If, Loop, TryTable};
            blocks += u64::from(matches!(operator?, Block { .. } | If { .. } | Loop { .. } | TryTable { .. }));
        }
        match locals.saturating_mul(blocks) {
            cost if cost <= FUNCTION_COST_MAX => Ok(cost),
            _ => Err(ScanError::Refused(format!(
                "its function {index} has {locals} locals in {blocks} blocks, which takes a compiler too much memory: \
                 locals times blocks may be {FUNCTION_COST_MAX}; split the function"
            ))),
        }
    }

    fn start(&self) -> Start {
        let Some(function) = self.start else {
            return if self.start_is_other { Start::Misshapen } else { Start::Absent };
        };
        let shape = self.functions.get(function as usize).and_then(|index| self.types.get(*index as usize));
        match shape.and_then(|shape| shape.text.as_deref()) {
            Some(":") => Start::Present,
            _ => Start::Misshapen,
        }
    }
}

/// The longest shape that a function of WASI preview 1 has, with room.
const SHAPE_CHARS_MAX: usize = 16;

fn shape_of(func: &FuncType) -> Shape {
    let (params, results) = (func.params(), func.results());
    let letter = |ty: &ValType| match ty {
        ValType::I32 => Some('i'),
        ValType::I64 => Some('I'),
        _ => None,
    };
    let text = (params.len() + results.len() <= SHAPE_CHARS_MAX)
        .then(|| {
            let params = params.iter().map(letter);
            params.chain([Some(':')]).chain(results.iter().map(letter)).collect::<Option<String>>()
        })
        .flatten();
    Shape { params: params.len() as u32, text }
}
