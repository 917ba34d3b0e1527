//! One node as a process: the commands `init`, `admit` and `node`, and the helpers that a node starts beside itself.
//!
//! The command line knows these commands by name alone and has them passed in. Here the node, its HTTP API and the
//! settings of its data folder come together.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod admit;
mod allocator;
mod init;
mod log;
mod node;

use std::process::ExitCode;

use quorate_cli::Daemon;
use quorate_node::executors::command::{SUPERVISE, supervisor};
use quorate_node::executors::wasm::compiler::{self, COMPILE};

/// What the command line has passed in.
pub const DAEMON: Daemon = Daemon { init: init::run, admit: admit::run, node: node::run };

/// Does what a node started this process for, if one did: to watch over one program of a job, or to compile one module.
/// Both read what they are to do from their standard input, and have no runtime.
pub fn help_node() -> Option<ExitCode> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [name] = &arguments[..] else { return None };
    if name == SUPERVISE {
        return Some(supervisor::main());
    }
    if name == COMPILE {
        allocator::tune();
        return Some(compiler::main());
    }
    None
}
