//! The approval protocol: how a peer promises to take something on, and how an asker gathers enough promises.
//!
//! Taking part: the *asker* (a node forming a quorum, or a primary that needs holders) and *approvers* (any peer).
//! An approval is a reservation with an end: the approver reserves first, then signs a statement that binds asker,
//! approver, its incarnation and boot, the subject, the digest of the requirement, the asker's nonce and the
//! duration. Asking is concurrent and asks more peers than are needed; the round stops as soon as enough *distinct*
//! approvers have answered, and releases what it does not use. Peers that hear an announcement may offer themselves.
//!
//! Wire: `/quorate/approval/1`, one [`message::ApprovalMessage`] in, one [`message::ApprovalAnswer`] out.

pub mod formation;
pub mod grant;
pub mod limits;
pub mod message;
pub mod replacement;
pub mod round;
pub mod standby;

pub use grant::Grant;
pub use message::{
    Approval, ApprovalAnswer, ApprovalMessage, ApprovalRequest, Refusal, Signature, Statement, Subject, Writer,
};
pub use round::{Granted, PeerFault, Round, RoundEffect, RoundInput, RoundSpec};

#[cfg(test)]
mod tests;
