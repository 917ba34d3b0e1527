//! Rights: who may do what to a job or an object, and who may read what of it. One table.
//!
//! The table is asked wherever a peer's word or question arrives: by a primary before a command enters the log
//! ([`super::authority`]), by any member before an answer leaves it ([`super::reading`]), and by a worker before it
//! shows a log. What a peer is to a job ([`Party`]) follows from the record and from what the transport authenticated,
//! never from a message.
//!
//! | verb | owner | operator | reader | worker | member | grantor | uploader | stranger |
//! |---|---|---|---|---|---|---|---|---|
//! | submit, read the state | yes | yes | yes | yes | yes | yes | yes | yes |
//! | attach, cancel, pause, resume, retry, resolve, update, fire, suspend, unsuspend, remove | yes | yes | | | | | | |
//! | read the specification, read logs | yes | yes | yes | | yes | | | |
//! | read results | yes | yes | yes | yes | yes | | | |
//! | read a lease's id | | | | | yes | yes | yes | |
//!
//! A member holds the state of its quorum, so it is refused no reading. A worker reads the outputs of the jobs that it
//! has attempts of, for it may have to fold them. A holder and a worker read the ids of the leases that they granted
//! themselves, and the uploader of a live run those of its columns, under which it sends their pieces. An id that was
//! learned all the same is no credential, for whoever grants a lease knows whom it serves; it is told to nobody else
//! because nobody else has a use for it.

/// What is done to a job or an object, or read of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    Submit,
    /// Go on with an upload.
    Attach,
    Cancel,
    Pause,
    Resume,
    Retry,
    Resolve,
    Update,
    Fire,
    Suspend,
    Unsuspend,
    /// Give up claims on an object.
    Remove,
    /// Where a job stands, how far it is and why; its history, its fires, its place in lists.
    ReadState,
    /// Arguments, environment, and what is inline in a specification.
    ReadSpec,
    /// Outputs of tasks, and the rows of tasks, which have their digests and receipts.
    ReadResults,
    /// What attempts wrote for people.
    ReadLogs,
    /// The id of a lease that the quorum counts on.
    ReadLease,
}

/// What a peer is to a job. One peer may be several of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// The peer that submitted it; of an object, the one whose claims are meant.
    Owner,
    /// Whom the settings of the node that is asked name.
    Operator,
    /// Whom the owner names in the specification.
    Reader,
    /// It has an attempt of the job.
    Worker,
    /// A voter or learner of the job's quorum.
    Member,
    /// It granted the lease that is meant.
    Grantor,
    /// The job is a live run that stores, which it uploads into, and the lease that is meant is a column's.
    Uploader,
    Stranger,
}

use Party::{Grantor, Member, Operator, Owner, Reader, Stranger, Uploader, Worker};

impl Verb {
    pub const ALL: [Self; 17] = [
        Self::Submit,
        Self::Attach,
        Self::Cancel,
        Self::Pause,
        Self::Resume,
        Self::Retry,
        Self::Resolve,
        Self::Update,
        Self::Fire,
        Self::Suspend,
        Self::Unsuspend,
        Self::Remove,
        Self::ReadState,
        Self::ReadSpec,
        Self::ReadResults,
        Self::ReadLogs,
        Self::ReadLease,
    ];

    /// The row of the table: who may.
    pub const fn parties(self) -> &'static [Party] {
        match self {
            Self::Submit | Self::ReadState => &[Owner, Operator, Reader, Worker, Member, Grantor, Uploader, Stranger],
            Self::Attach
            | Self::Cancel
            | Self::Pause
            | Self::Resume
            | Self::Retry
            | Self::Resolve
            | Self::Update
            | Self::Fire
            | Self::Suspend
            | Self::Unsuspend
            | Self::Remove => &[Owner, Operator],
            Self::ReadSpec | Self::ReadLogs => &[Owner, Operator, Reader, Member],
            Self::ReadResults => &[Owner, Operator, Reader, Worker, Member],
            Self::ReadLease => &[Member, Grantor, Uploader],
        }
    }

    /// Whether a peer may that is to the job what is true of these.
    pub fn allows(self, is: &[(Party, bool)]) -> bool {
        let row = self.parties();
        row.contains(&Stranger) || is.iter().any(|(party, holds)| *holds && row.contains(party))
    }

    /// As a refusal says it, before "it".
    pub const fn word(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Attach => "go on uploading",
            Self::Cancel => "cancel",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Retry => "retry",
            Self::Resolve => "resolve",
            Self::Update => "change",
            Self::Fire => "fire",
            Self::Suspend => "suspend",
            Self::Unsuspend => "unsuspend",
            Self::Remove => "remove",
            Self::ReadState => "see the state of",
            Self::ReadSpec => "read the specification of",
            Self::ReadResults => "read the results of",
            Self::ReadLogs => "read the logs of",
            Self::ReadLease => "read the leases of",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the table says what its drawing above says, row by row and party by party.
    #[test]
    fn every_verb_is_allowed_to_whom_its_row_names_and_nobody_else() {
        let parties = [Owner, Operator, Reader, Worker, Member, Grantor, Uploader, Stranger];
        for verb in Verb::ALL {
            let expected = match verb {
                Verb::Submit | Verb::ReadState => [true; 8],
                Verb::ReadSpec | Verb::ReadLogs => [true, true, true, false, true, false, false, false],
                Verb::ReadResults => [true, true, true, true, true, false, false, false],
                Verb::ReadLease => [false, false, false, false, true, true, true, false],
                _ => [true, true, false, false, false, false, false, false],
            };
            let allowed = parties.map(|party| verb.allows(&[(party, true)]));
            assert_eq!(allowed, expected, "{verb:?}");
            assert!(!verb.allows(&[(Owner, false)]) || verb.parties().contains(&Stranger), "{verb:?}");
        }
    }
}
