//! A grant: what is left of an approval once a quorum has recorded it.

use serde::{Deserialize, Serialize};

use crate::ids::{LeaseId, MemberId};

/// A peer's promise, of a column or of work, as the quorum records it. The primary checked the approval's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Grant {
    pub holder: MemberId,
    pub lease: LeaseId,
}
