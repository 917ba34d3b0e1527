//! Authors: who may propose a command. The quorum's primary compares the proposer with it: [`super::authority`].

use crate::ids::{JobId, ManifestHash};
use crate::quorum::claims::ClaimSelector;

/// Who may propose a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author<'c> {
    /// Any admitted peer.
    Anyone,
    /// The worker or uploader on record, whom the state machine compares with the author.
    Worker,
    /// The primary's own node.
    Primary,
    /// The owner of the job or an operator. The verb says what is done to the job.
    Owner { job: JobId, verb: &'static str },
    /// The owner of every claim that is given up, or an operator.
    Claimant { manifest: ManifestHash, claims: &'c ClaimSelector },
}
