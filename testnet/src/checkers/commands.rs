//! Models of one job and of one object, as clients of a quorum may see them, for [`super::linearizable`].
//!
//! A command that a client is answered may have been sent more than once under the hood, because commands may be
//! repeated: so a repeat's answer (*it existed*, *it is gone already*) is right for the first one too.

use super::linearizable::Model;

/// Where a job stands, as far as its submitter and canceller can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobState {
    Absent,
    /// Any state that is not final.
    Live,
    Cancelled,
    /// Succeeded or failed: the quorum's own doing, at any moment of a live job.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobOperation {
    Submit,
    Cancel,
    Read,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobAnswer {
    /// To a submit.
    Submitted { existed: bool, state: JobState },
    /// To a cancel: it is cancelled.
    Cancelled,
    /// To a cancel: it has ended otherwise.
    TooLate,
    /// To a cancel: no such job.
    Missing,
    /// To a look.
    Seen(JobState),
}

/// One job.
pub struct Job;

impl Job {
    fn follow(state: JobState, operation: JobOperation, answer: Option<&JobAnswer>) -> Option<JobState> {
        use JobAnswer::{Missing, Seen, Submitted, TooLate};
        use JobState::{Absent, Cancelled, Ended, Live};
        let (next, fits) = match (operation, state) {
            (JobOperation::Submit, Absent) => {
                let fits = |answer: &JobAnswer| match answer {
                    Submitted { existed: false, state } => matches!(state, Live | Ended),
                    // A repeat of its own answered, and others may have acted between the two.
                    Submitted { existed: true, state } => *state != Absent,
                    _ => false,
                };
                (Live, answer.is_none_or(fits))
            }
            (JobOperation::Submit, there) => {
                (there, answer.is_none_or(|answer| *answer == Submitted { existed: true, state: there }))
            }
            (JobOperation::Cancel, Absent) => (Absent, answer.is_none_or(|answer| *answer == Missing)),
            (JobOperation::Cancel, Live | Cancelled) => {
                (Cancelled, answer.is_none_or(|answer| *answer == JobAnswer::Cancelled))
            }
            (JobOperation::Cancel, Ended) => (Ended, answer.is_none_or(|answer| *answer == TooLate)),
            (JobOperation::Read, state) => (state, answer.is_none_or(|answer| *answer == Seen(state))),
        };
        fits.then_some(next)
    }
}

impl Model for Job {
    type State = JobState;
    type Operation = JobOperation;
    type Answer = JobAnswer;
    fn initial(&self) -> JobState {
        JobState::Absent
    }
    fn next(&self, state: &JobState, operation: &JobOperation, answer: Option<&JobAnswer>) -> Vec<JobState> {
        let before: &[JobState] = match state {
            JobState::Live => &[JobState::Live, JobState::Ended],
            JobState::Absent => &[JobState::Absent],
            JobState::Cancelled => &[JobState::Cancelled],
            JobState::Ended => &[JobState::Ended],
        };
        before.iter().filter_map(|before| Self::follow(*before, *operation, answer)).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectOperation {
    /// Its content belongs to it alone, and it is stored once.
    Store,
    Remove,
    Read,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectAnswer {
    /// To a store and a remove.
    Done,
    /// To a remove: no such object.
    Missing,
    /// To a look: whether it is there.
    Seen(bool),
}

/// One object: whether it is there.
pub struct Object;

impl Model for Object {
    type State = bool;
    type Operation = ObjectOperation;
    type Answer = ObjectAnswer;
    fn initial(&self) -> bool {
        false
    }
    fn next(&self, is_there: &bool, operation: &ObjectOperation, answer: Option<&ObjectAnswer>) -> Vec<bool> {
        use ObjectAnswer::*;
        let (next, fits) = match operation {
            ObjectOperation::Store => (true, answer.is_none_or(|answer| *answer == Done)),
            // Done again, or missing after a first try of its own: both are right whether it was there or not.
            ObjectOperation::Remove => (false, answer.is_none_or(|answer| matches!(answer, Done | Missing))),
            ObjectOperation::Read => (*is_there, answer.is_none_or(|answer| *answer == Seen(*is_there))),
        };
        if fits { vec![next] } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::linearizable::{Call, Verdict, check};
    use super::*;

    fn in_turn<O, A>(calls: Vec<(O, A)>) -> Vec<Call<O, A>> {
        let call = |(at, (operation, answer)): (u64, _)| Call {
            called: 2 * at,
            operation,
            returned: Some((2 * at + 1, answer)),
        };
        (0..).zip(calls).map(call).collect()
    }

    #[test]
    fn a_job_is_submitted_cancelled_and_stays_so() {
        use JobAnswer::*;
        let submitted = |existed, state| (JobOperation::Submit, Submitted { existed, state });
        let seen = |state| (JobOperation::Read, Seen(state));
        let story = vec![
            seen(JobState::Absent),
            submitted(false, JobState::Live),
            seen(JobState::Live),
            (JobOperation::Cancel, Cancelled),
            submitted(true, JobState::Cancelled),
            (JobOperation::Cancel, Cancelled),
        ];
        assert_eq!(check(&Job, &in_turn(story.clone())), Verdict::Linearizable);
        for wrong in [seen(JobState::Live), seen(JobState::Absent), submitted(false, JobState::Live)] {
            let calls = in_turn(story.iter().copied().chain([wrong]).collect());
            assert!(matches!(check(&Job, &calls), Verdict::Impossible { .. }), "{wrong:?}");
        }
    }

    #[test]
    fn a_live_job_may_end_by_itself_but_not_come_back() {
        use JobAnswer::*;
        let submitted = (JobOperation::Submit, Submitted { existed: false, state: JobState::Live });
        let ended = (JobOperation::Read, Seen(JobState::Ended));
        let late = (JobOperation::Cancel, TooLate);
        assert_eq!(check(&Job, &in_turn(vec![submitted, ended, late])), Verdict::Linearizable);
        assert_eq!(check(&Job, &in_turn(vec![submitted, late])), Verdict::Linearizable);
        let back = (JobOperation::Read, Seen(JobState::Live));
        assert!(matches!(check(&Job, &in_turn(vec![submitted, ended, back])), Verdict::Impossible { .. }));
    }

    #[test]
    fn a_removed_object_stays_away() {
        let (store, remove) =
            ((ObjectOperation::Store, ObjectAnswer::Done), (ObjectOperation::Remove, ObjectAnswer::Done));
        let seen = |is_there| (ObjectOperation::Read, ObjectAnswer::Seen(is_there));
        let story = in_turn(vec![store, seen(true), remove, seen(false), remove]);
        assert_eq!(check(&Object, &story), Verdict::Linearizable);
        for wrong in [vec![store, seen(false)], vec![store, remove, seen(true)], vec![seen(true), store]] {
            assert!(matches!(check(&Object, &in_turn(wrong)), Verdict::Impossible { .. }));
        }
    }
}
