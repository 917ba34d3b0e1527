//! Admission: whether a column may be changed, by what its row says and by what right it is asked for.
//!
//! A column has one row, and the row one attempt. While it fills, pieces of that attempt and lease are taken; a newer
//! assignment by the run's uploader takes the column over as long as nothing was signed for. A sealed column changes
//! only by a repair. The attempts of repairs come after all those of the upload, so a repair takes over whatever an
//! upload left: an upload's row whose attempt is not older than the repair's is foreign, and nothing of it is kept.

use quorate_protocols::approval::Writer;
use quorate_protocols::ids::LeaseId;
use quorate_protocols::piece::Slot;

use super::{ColumnRow, HoldState, StoreError};

/// By what right a column is changed: the lease, and who fills the column under it. Whether whoever asks is the writer
/// is not the store's to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    pub lease: LeaseId,
    pub writer: Writer,
}

impl Permit {
    fn is_repair(&self) -> bool {
        self.writer == Writer::Quorum
    }
}

/// A change of `slot` asks to be let in, and this is what is known of the column so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    pub slot: Slot,
    pub permit: Permit,
    pub row: Option<ColumnRow>,
    /// Another column of the run was filled under the lease.
    pub is_lease_used: bool,
    /// The column stays what it is: exactly this piece is in its place, or no piece is brought.
    pub is_unchanged: bool,
    /// The column takes more than before, and its lease is asked for it.
    pub needs_room: bool,
}

/// How a change relates to what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    /// It goes on with the row that is there.
    Present(ColumnRow),
    /// It begins an assignment, and what is held of the column counts for it.
    Following,
    /// It begins an assignment, and what is held of the column is foreign.
    Anew,
}

impl Admission {
    /// Whether there is room is asked for last, and not here.
    pub(super) fn judge(&self) -> Result<Admitted, StoreError> {
        match self.judge_row()? {
            Admitted::Following | Admitted::Anew if self.is_lease_used => Err(StoreError::LeaseUsed),
            admitted => Ok(admitted),
        }
    }

    fn judge_row(&self) -> Result<Admitted, StoreError> {
        let (slot, permit) = (self.slot, self.permit);
        let Some(row) = self.row else { return Ok(Admitted::Following) };
        if permit.is_repair() && row.writer != Writer::Quorum {
            return Ok(if row.attempt < slot.attempt { Admitted::Following } else { Admitted::Anew });
        }
        if row.attempt > slot.attempt {
            return Err(StoreError::StaleAttempt { given: slot.attempt, newest: row.attempt });
        }
        if row.attempt < slot.attempt {
            return match row.state {
                _ if row.lease == permit.lease => Err(StoreError::LeaseUsed),
                _ if permit.is_repair() => Ok(Admitted::Following),
                HoldState::Filling | HoldState::Released { .. } if row.writer != Writer::Quorum => {
                    Ok(Admitted::Following)
                }
                _ => Err(StoreError::Settled),
            };
        }
        match row.state {
            _ if row.lease != permit.lease => Err(StoreError::LeaseUsed),
            HoldState::Released { .. } => Err(StoreError::Released),
            HoldState::Filling => Ok(Admitted::Present(row)),
            HoldState::Sealed | HoldState::Confirmed { .. } if self.is_unchanged => Ok(Admitted::Present(row)),
            HoldState::Sealed | HoldState::Confirmed { .. } => Err(StoreError::Settled),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_protocols::ids::{Attempt, JobId, ManifestHash, Millis, PeerId, PieceIndex, QuorumId};

    const UPLOADER: Writer = Writer::Uploader(PeerId([1; 32]));
    const SEALED: [HoldState; 2] = [HoldState::Sealed, HoldState::Confirmed { manifest: ManifestHash([1; 32]) }];
    const RELEASED: HoldState = HoldState::Released { at: Millis(1) };

    fn row(attempt: u32, lease: u8, writer: Writer, state: HoldState) -> ColumnRow {
        ColumnRow { attempt: Attempt(attempt), lease: LeaseId([lease; 16]), writer, state, bytes: 16 }
    }

    /// A change that brings a piece of another hash than is there.
    fn change(attempt: u32, lease: u8, writer: Writer, row: Option<ColumnRow>) -> Admission {
        let job = JobId { quorum: QuorumId([1; 16]), local: [2; 16] };
        Admission {
            slot: Slot { job, column: PieceIndex(0), attempt: Attempt(attempt) },
            permit: Permit { lease: LeaseId([lease; 16]), writer },
            row,
            is_lease_used: false,
            is_unchanged: false,
            needs_room: true,
        }
    }

    #[test]
    fn a_column_fills_under_one_lease_and_one_attempt() {
        let filling = row(2, 7, UPLOADER, HoldState::Filling);
        assert_eq!(change(2, 7, UPLOADER, None).judge(), Ok(Admitted::Following));
        assert_eq!(change(2, 7, UPLOADER, Some(filling)).judge(), Ok(Admitted::Present(filling)));
        let stale = StoreError::StaleAttempt { given: Attempt(1), newest: Attempt(2) };
        assert_eq!(change(1, 8, UPLOADER, Some(filling)).judge(), Err(stale));
        for (attempt, lease) in [(2, 8), (3, 7), (u32::MAX, 7)] {
            let refused = change(attempt, lease, UPLOADER, Some(filling)).judge();
            assert_eq!(refused, Err(StoreError::LeaseUsed), "attempt {attempt} under lease {lease}");
        }
        assert_eq!(change(3, 8, UPLOADER, Some(filling)).judge(), Ok(Admitted::Following), "a newer assignment");
        let elsewhere = Admission { is_lease_used: true, ..change(2, 7, UPLOADER, None) };
        assert_eq!(elsewhere.judge(), Err(StoreError::LeaseUsed));
    }

    /// Goal: no uploader changes what was signed for, whatever attempt and lease it names.
    #[test]
    fn a_sealed_column_changes_only_by_a_repair() {
        for state in SEALED {
            let sealed = row(2, 7, UPLOADER, state);
            for (attempt, lease) in [(2, 7), (2, 8), (3, 7), (3, 8), (u32::MAX, 8)] {
                let refused = change(attempt, lease, UPLOADER, Some(sealed)).judge();
                assert!(matches!(refused, Err(StoreError::Settled | StoreError::LeaseUsed)), "{refused:?}");
            }
            let again = Admission { is_unchanged: true, ..change(2, 7, UPLOADER, Some(sealed)) };
            assert_eq!(again.judge(), Ok(Admitted::Present(sealed)), "the same piece once more");
            assert_eq!(change(3, 8, Writer::Quorum, Some(sealed)).judge(), Ok(Admitted::Following));
        }
    }

    /// Goal: a repair is not locked out by an attempt that its quorum never gave; a later repair alone fences it.
    #[test]
    fn a_repair_takes_over_what_an_upload_left_and_yields_to_a_later_repair() {
        for state in [HoldState::Filling, SEALED[0], SEALED[1], RELEASED] {
            for attempt in [3, 4, u32::MAX] {
                let foreign = row(attempt, 7, UPLOADER, state);
                assert_eq!(change(3, 8, Writer::Quorum, Some(foreign)).judge(), Ok(Admitted::Anew));
            }
            let later = row(4, 9, Writer::Quorum, state);
            let refused = change(3, 8, Writer::Quorum, Some(later)).judge();
            assert_eq!(refused, Err(StoreError::StaleAttempt { given: Attempt(3), newest: Attempt(4) }));
            let late = change(5, 8, UPLOADER, Some(later)).judge();
            assert_eq!(late, Err(StoreError::Settled), "an upload does not follow a repair");
        }
        let mine = row(3, 8, Writer::Quorum, HoldState::Filling);
        assert_eq!(change(3, 8, Writer::Quorum, Some(mine)).judge(), Ok(Admitted::Present(mine)));
    }

    #[test]
    fn a_column_that_was_let_go_takes_nothing_more_of_its_attempt() {
        let released = row(2, 7, UPLOADER, RELEASED);
        assert_eq!(change(2, 7, UPLOADER, Some(released)).judge(), Err(StoreError::Released));
        assert_eq!(change(3, 8, UPLOADER, Some(released)).judge(), Ok(Admitted::Following));
    }
}
