//! Arguments of `object`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use quorate_protocols::object::Profile;

use super::super::reference::{JobRef, ObjectRef, PeerRef, QuorumRef};
use super::values::range;

#[derive(Debug, Subcommand)]
pub enum ObjectCommand {
    /// Store a file
    Put(PutArgs),
    /// Read an object
    Get(GetArgs),
    /// List objects
    Ls {
        /// Fail if anything may be missing or old: a quorum or most peers cannot be asked
        #[arg(long)]
        complete: bool,
    },
    /// Show who holds what of an object
    Show {
        /// An object's reference, or the first four or more digits of it or of its second half
        object: ObjectRef,
    },
    /// Give up a claim on an object, and remove the object with the last one
    ///
    /// The same bytes are one object, whoever stores them and under whichever names. Each owner has a claim per name,
    /// and the object stays readable for every peer until the last claim is gone; what is said names those that keep
    /// it. An object that a live job or trigger needs is not removed without --force.
    Rm(RmArgs),
}

#[derive(Debug, ClapArgs)]
pub struct RmArgs {
    /// An object's reference, or the first four or more digits of it or of its second half
    pub object: ObjectRef,
    /// The claim under this name; "" is the one without a name
    #[arg(long, conflicts_with = "all")]
    pub name: Option<String>,
    /// All names of the owner
    #[arg(long)]
    pub all: bool,
    /// The claims of this peer; without this, those of the node that is asked. For operators
    #[arg(long, value_name = "PEER")]
    pub owner: Option<PeerRef>,
    /// The claims of everybody. For operators
    #[arg(long, conflicts_with_all = ["name", "all", "owner"])]
    pub everyone: bool,
    /// Do not ask before the claims of others are removed
    #[arg(long)]
    pub yes: bool,
    /// Remove the object even though live jobs need it
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, ClapArgs)]
pub struct PutArgs {
    /// The file; `-` reads standard input
    pub file: PathBuf,
    /// Name shown in listings; without this, the file's
    #[arg(long)]
    pub name: Option<String>,
    /// data+parity, such as 4+2; without this, chosen by the number of peers that have room
    #[arg(long)]
    pub profile: Option<Profile>,
    /// The quorum that is to own the object
    #[arg(long)]
    pub quorum: Option<QuorumRef>,
    /// Go on with a put that was interrupted on another node
    #[arg(long, value_name = "JOB")]
    pub resume: Option<JobRef>,
    /// Encrypt it here with the key in this file, which is made where there is none
    ///
    /// Nobody without the file reads the content: neither holders nor other peers, nor you once the file is lost. Its
    /// name and size stay visible.
    #[arg(long, value_name = "KEY_FILE")]
    pub encrypt: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub struct GetArgs {
    /// An object's reference, or the first four or more digits of it or of its second half
    pub object: ObjectRef,
    /// Where to write; `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Bytes to read: FIRST-LAST, FIRST- or -COUNT, counted from 0, both ends included
    #[arg(long, value_name = "RANGE", value_parser = range, allow_hyphen_values = true)]
    pub range: Option<String>,
    /// Decrypt it with the key in this file, with which it was put
    #[arg(long, value_name = "KEY_FILE", conflicts_with = "range")]
    pub decrypt: Option<PathBuf>,
    /// Write control characters as they are, even to a terminal
    #[arg(long)]
    pub raw: bool,
}
