//! Modules of WebAssembly: the check of their structure, and the engine's settings.
//!
//! Whoever submits a module, whoever passes a submit on, and the worker in front of its compiler ask the same check
//! and get the same answer. Nothing here compiles or runs a module.

pub mod check;
pub mod engine;
pub mod imports;
mod scan;

pub use scan::{ELEMENT_BYTES, MEMORIES_MAX, TABLES_MAX};
