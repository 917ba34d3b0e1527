//! Arguments of `job`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use quorate_api::{Kind, NEXT_DEFAULT};

use super::super::reference::{JobRef, QuorumRef};
use super::values::{bytes, kind, next_count, pair};

#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// Submit a job that computes, and wait for its end; or several, and do not wait
    ///
    /// The file says what to run, on which inputs and within which limits: see examples/ and docs/jobs.md. Files that
    /// it names are sent along, large ones as objects. Ctrl-C ends the waiting, not the job. A job with a trigger is
    /// not waited for unless --wait or --follow ask for it: it ends when nothing is left to fire, which may be never.
    Submit(SubmitArgs),
    /// Check a specification, without asking anyone
    Validate(SpecArgs),
    /// Show what a submit would do: who would run it, and who would not and why
    Plan(SpecArgs),
    /// List jobs
    Ls(ListArgs),
    /// Show one job, with its outputs once it has succeeded
    Show {
        /// A job's id, or the first four or more digits of it or of its second half
        job: JobRef,
        /// Show who signed what, of a verified job; `quorate receipt verify` checks what --json prints
        #[arg(long)]
        receipts: bool,
    },
    /// Say why a job is in its state, and what it waits for
    Why {
        /// A job's id, or the first four or more digits of it or of its second half
        job: JobRef,
    },
    /// Wait until a job has ended, or waits for a decision
    Wait {
        /// A job's id, or the first four or more digits of it or of its second half
        job: JobRef,
    },
    /// Show what happened to a job
    History {
        /// A job's id, or the first four or more digits of it or of its second half
        job: JobRef,
    },
    /// List the tasks of a job that computes
    Tasks {
        /// A job's id, or the first four or more digits of it or of its second half
        job: JobRef,
        /// The step; without this, the present one, or the last
        #[arg(long)]
        step: Option<u16>,
    },
    /// Show what tasks wrote on standard error
    ///
    /// Workers keep it for a week at most. They show it through the node that submitted the job, a node of an operator,
    /// or a member of the job's quorum.
    Logs(LogArgs),
    /// Write the outputs of a job that computes, one after the other
    Output {
        /// A job's id, or the first four or more digits of it or of its second half
        job: JobRef,
        /// Only the output of this task
        #[arg(long)]
        task: Option<u32>,
        /// Where to write; without this, standard output
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Write control characters as they are, even to a terminal
        #[arg(long)]
        raw: bool,
    },
    /// Cancel a job; a second cancel gives up undoing, too
    Cancel {
        /// A job's id, or the first four or more digits of it or of its second half
        job: JobRef,
    },
    /// Stop the work of a job until it is resumed
    Pause {
        /// A job's id, or the first four or more digits of it or of its second half
        job: JobRef,
    },
    /// Let a paused job go on
    Resume {
        /// A job's id, or the first four or more digits of it or of its second half
        job: JobRef,
    },
    /// Try the tasks again that were given up, in a job that waits for a decision
    Retry {
        /// A job's id, or the first four or more digits of it or of its second half
        job: JobRef,
    },
    /// Decide how a job goes on that waits for a decision
    Resolve {
        /// A job's id, or the first four or more digits of it or of its second half
        job: JobRef,
        #[command(flatten)]
        how: Resolution,
    },
    /// Change priority, parallelism or resources of a live job
    Update(UpdateArgs),
    /// List what a trigger fired and what it skipped, and why
    Fires {
        /// A job's id, or the first four or more digits of it or of its second half
        job: JobRef,
    },
    /// Show when a trigger fires next: of a job, or of a specification before it is submitted
    Next(NextArgs),
    /// Have a trigger fire now
    Fire(FireArgs),
    /// Have a trigger skip what falls due from now on; its runs go on
    Suspend {
        /// A job's id, or the first four or more digits of it or of its second half
        job: JobRef,
    },
    /// Let a suspended trigger fire again
    Unsuspend {
        /// A job's id, or the first four or more digits of it or of its second half
        job: JobRef,
    },
}

#[derive(Clone, Debug, ClapArgs)]
pub struct SpecArgs {
    /// The specification, in TOML; `-` reads standard input
    pub spec: PathBuf,
    /// A value for one of its parameters; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub set: Vec<(String, String)>,
}

#[derive(Clone, Debug, ClapArgs)]
pub struct NextArgs {
    /// A job's id, or enough of its digits; or a specification, and `-` reads it from standard input
    #[arg(value_name = "JOB|SPEC")]
    pub job: String,
    /// Instants to show
    #[arg(short = 'n', long, default_value_t = NEXT_DEFAULT, value_parser = next_count)]
    pub count: usize,
    /// A value for a parameter of the specification; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub set: Vec<(String, String)>,
}

#[derive(Clone, Debug, ClapArgs)]
pub struct FireArgs {
    /// A job's id, or the first four or more digits of it or of its second half
    pub job: JobRef,
    /// Apply the overlap policy; without this it runs beside whatever runs
    #[arg(long)]
    pub respect_overlap: bool,
}

#[derive(Clone, Debug, ClapArgs)]
pub struct SubmitArgs {
    /// The specification, in TOML; `-` reads standard input. Of several, each is submitted and the id of each printed
    #[arg(value_name = "SPEC", required_unless_present = "batch")]
    pub specs: Vec<PathBuf>,
    /// Submit the jobs in this file, one per line, and print the id of each; `-` reads standard input
    ///
    /// A line is a JSON object. Its `file` names a specification, relative to this file, or its `spec` is the text of
    /// one; `set` has values for the parameters; `key` and `quorum` are as the options of these names.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["specs", "set", "key", "wait", "follow", "dry_run"])]
    pub batch: Option<PathBuf>,
    /// A value for one of its parameters; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub set: Vec<(String, String)>,
    /// Wait for the end and show the job then; the exit code says whether it succeeded (the default, but for triggers)
    #[arg(long, conflicts_with_all = ["follow", "detach"])]
    pub wait: bool,
    /// As --wait, and print what happens meanwhile
    #[arg(long, conflicts_with = "detach")]
    pub follow: bool,
    /// Print the id and do not wait
    #[arg(long)]
    pub detach: bool,
    /// Show what would happen, and submit nothing
    #[arg(long, conflicts_with_all = ["wait", "follow", "detach"])]
    pub dry_run: bool,
    /// Submits with the same key are the same job, through this node; with --quorum through every node
    #[arg(long)]
    pub key: Option<String>,
    /// The quorum that is to own the job
    #[arg(long)]
    pub quorum: Option<QuorumRef>,
}

impl SubmitArgs {
    /// The specification, if it is one.
    pub fn single(&self) -> Option<SpecArgs> {
        match (&self.specs[..], &self.batch) {
            ([spec], None) => Some(SpecArgs { spec: spec.clone(), set: self.set.clone() }),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, Default, ClapArgs)]
pub struct ListArgs {
    /// States, separated by commas; `live` stands for all that have not ended, `ended` for the others
    #[arg(long)]
    pub state: Option<String>,
    /// Kind of job: store or batch
    #[arg(long, value_parser = kind)]
    pub kind: Option<Kind>,
    /// The peer through which it was submitted; `me` is the node that is asked
    #[arg(long, value_name = "PEER|me")]
    pub owner: Option<String>,
    /// Part of the name
    #[arg(long)]
    pub name: Option<String>,
    /// Fail if anything may be missing or old: a quorum or most peers cannot be asked
    #[arg(long)]
    pub complete: bool,
}

#[derive(Clone, Debug, ClapArgs)]
pub struct LogArgs {
    /// A job's id, or the first four or more digits of it or of its second half
    pub job: JobRef,
    /// Print what is written until the job has ended
    #[arg(short, long)]
    pub follow: bool,
    /// Only the log of this task; without this, of all tasks of the step
    #[arg(long)]
    pub task: Option<u32>,
    /// The step; without this, the present one, or the last
    #[arg(long)]
    pub step: Option<u16>,
    /// Standard output instead, of tasks that run or failed; `job output` has that of tasks that succeeded
    #[arg(long)]
    pub stdout: bool,
    /// Write control characters as they are, even to a terminal
    #[arg(long)]
    pub raw: bool,
}

#[derive(Clone, Copy, Debug, ClapArgs)]
#[group(required = true, multiple = false)]
pub struct Resolution {
    /// Take the tasks that were given up as done, without outputs
    #[arg(long)]
    pub skip: bool,
    /// Let the job fail
    #[arg(long)]
    pub fail: bool,
    /// Undo what was begun, as the specification says
    #[arg(long)]
    pub revert: bool,
}

#[derive(Clone, Debug, ClapArgs)]
pub struct UpdateArgs {
    /// A job's id, or the first four or more digits of it or of its second half
    pub job: JobRef,
    /// Its share of the workers beside other jobs, 1 to 100
    #[arg(long)]
    pub priority: Option<u8>,
    /// Tasks that may run at once; 0 is as many as there is room for
    #[arg(long)]
    pub parallelism: Option<u32>,
    /// Memory of one task, such as 256MiB
    #[arg(long, value_parser = bytes)]
    pub memory: Option<u64>,
    /// Disk of one task
    #[arg(long, value_parser = bytes)]
    pub disk: Option<u64>,
    /// Slots of one task
    #[arg(long)]
    pub slots: Option<u32>,
    /// A label that workers must carry, in place of those of the specification; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub label: Vec<(String, String)>,
}
