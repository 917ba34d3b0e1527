//! Runs programs that this node's operator allows, and no others: none by default.
//!
//! The list is the node's own ([`AllowedCommand`], `[commands]` in `quorate.toml`). A task names an entry; the path and
//! the first arguments are the operator's, further arguments and the variables that the entry names are the task's. The
//! path is asked for at every run, so a program that went missing is a clear refusal. There is no shell.
//!
//! A program starts in a private folder ([`folder`]) with a cleared environment, low priority, limits on memory,
//! processor time, file sizes and open files, and no core dumps. Between it and the node stands a small process of our
//! own, the [`supervisor`]: descendants that lose their parent become its children, even those that left the process
//! group or the session, so that *all* of them are ended, told first and killed after a grace, when the program ends,
//! is stopped, or the node dies. A control group ([`group`]), where the machine lets the node make one, holds the same
//! processes once more and outlives the supervisor. When somebody kills the supervisor, the attempt fails and says so;
//! the node ends the group, and whatever works in the task's folder or was started with its environment. When the node
//! dies as well, its next start does that, and removes the folder.
//!
//! Everything in the folder is counted while the program runs, with files that it keeps open after it removed them.
//! More than the task may write ends it, and so does what cannot be counted.
//!
//! What it does not do: the program runs as the node's user and sees the machine's files and network as that user
//! does. It can write elsewhere, kill the supervisor and the node, and leave its group. An operator who lists a program
//! trusts it with any arguments. The number of processes has no limit of its own: the system counts those per user, and
//! other tasks' would count too.

pub mod control;
pub mod folder;
mod group;
mod run;
pub mod supervisor;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

pub use self::folder::Folder;
use super::{Ending, Executor, Finished, Host, Program, Task};
use crate::config::commands::AllowedCommand;
use crate::seams::Entropy;

/// Between being told to end and being killed.
pub const GRACE: Duration = Duration::from_secs(3);

/// The name of the hidden command of our own binary that supervises.
pub const SUPERVISE: &str = "supervise-command";

#[derive(Clone, Debug)]
pub struct CommandConfig {
    pub allowed: BTreeMap<String, AllowedCommand>,
    /// Where private folders are made; this node's alone.
    pub folder: PathBuf,
    /// Our own binary.
    pub supervisor: PathBuf,
    pub grace: Duration,
}

#[derive(Clone)]
pub struct CommandExecutor {
    config: Arc<CommandConfig>,
    entropy: Arc<dyn Entropy>,
}

impl CommandExecutor {
    pub fn new(config: CommandConfig, entropy: Arc<dyn Entropy>) -> Self {
        Self { config: Arc::new(config), entropy }
    }
    /// Ends what an earlier run of this node left working in its folders, and removes them. Call before the first task;
    /// blocks.
    pub fn sweep(&self) -> std::io::Result<folder::Swept> {
        folder::sweep(&self.config.folder)
    }
}

impl Executor for CommandExecutor {
    fn run(&self, task: Task, host: Arc<dyn Host>, stop: CancellationToken) -> BoxFuture<'static, Finished> {
        let (config, entropy) = (self.config.clone(), self.entropy.clone());
        async move { run::run(&config, &*entropy, task, host, stop).await }.boxed()
    }
}

/// The entry that a task may run, or why not.
fn admit<'a>(config: &'a CommandConfig, task: &Task) -> Result<&'a AllowedCommand, Ending> {
    let refused = |reason: String| Err(Ending::Refused { reason });
    let Program::Command { name } = &task.program else {
        return refused("only commands run here".to_owned());
    };
    let Some(allowed) = config.allowed.get(name) else {
        return refused(format!(
            "`{name}` is not a command of this node; its operator can add it under [commands] in quorate.toml"
        ));
    };
    if !allowed.submitters.contains(&task.submitter) {
        return refused(format!(
            "peer {} may not run `{name}` here; the node's operator can add it, or \"network\" for every peer, to \
             commands.{name}.submitters",
            task.submitter
        ));
    }
    if let Some(variable) = task.env.keys().find(|variable| !allowed.env.contains(*variable)) {
        return refused(format!(
            "`{name}` may not be given the variable {variable} here; the node's operator can add it to \
             commands.{name}.env"
        ));
    }
    match program_fault(&allowed.path) {
        Some(fault) => refused(format!("the program of `{name}`, {}, {fault}", allowed.path.display())),
        None => Ok(allowed),
    }
}

/// Why a path cannot be started, if it cannot.
fn program_fault(path: &Path) -> Option<String> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some("is missing on this node".to_owned()),
        Err(error) => Some(format!("cannot be looked at: {error}")),
        Ok(found) if !found.is_file() => Some("is not a file".to_owned()),
        Ok(found) if found.permissions().mode() & 0o111 == 0 => Some("is not executable".to_owned()),
        Ok(_) => None,
    }
}
