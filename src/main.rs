//! The `quorate` binary: a helper of a node when a node started it, the command line otherwise.

fn main() -> std::process::ExitCode {
    quorate_daemon::help_node().unwrap_or_else(|| quorate_cli::main(&quorate_daemon::DAEMON))
}
