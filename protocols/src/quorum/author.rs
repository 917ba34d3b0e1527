//! Authors: who may propose a command. The quorum's primary compares the proposer with it: [`super::authority`].

use crate::ids::{JobId, ManifestHash};
use crate::quorum::claims::ClaimSelector;
use crate::quorum::rights::Verb;

/// Who may propose a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author<'c> {
    /// Any admitted peer.
    Anyone,
    /// The worker or uploader on record, whom the state machine compares with the author.
    Worker,
    /// The primary's own node.
    Primary,
    /// Those to whom the table of rights allows the verb on the job: its owner and the operators.
    Owner { job: JobId, verb: Verb },
    /// The owner of every claim that is given up, or an operator.
    Claimant { manifest: ManifestHash, claims: &'c ClaimSelector },
}
