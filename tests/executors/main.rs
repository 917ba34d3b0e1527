//! Executors as a worker uses them: real modules on real threads, real programs under the built binary's supervisor.

mod command;
mod compilers;
mod compiling;
mod kit;
mod wasm;
mod wordcount;
