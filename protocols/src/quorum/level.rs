//! The rise of a quorum's state level.
//!
//! A level names what members must be able to apply. Commands of a level are proposed only after a committed *raise* to
//! it, and a raise is proposed only when every member advertises that it can apply the level: one that cannot would
//! have to stop. A level never falls, so a peer below it is not taken in as a member either ([`may_join`]).

/// The level to raise to, if it is above the present one: the newest that this build (`own`) and every member can
/// apply. `advertised` has one entry per voter and learner; a member that was not heard of allows no raise.
pub fn raise(present: u16, own: u16, advertised: impl IntoIterator<Item = Option<u16>>) -> Option<u16> {
    let common = advertised.into_iter().try_fold(own, |common, level| level.map(|level| common.min(level)))?;
    (common > present).then_some(common)
}

/// Whether a peer that advertises this may become a member. One that was not heard of may: it is asked for its promise
/// and stops by itself if it cannot apply the state.
pub fn may_join(present: u16, advertised: Option<u16>) -> bool {
    advertised.is_none_or(|level| level >= present)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_rises_to_what_the_last_of_all_members_can_apply() {
        assert_eq!(raise(1, 3, [Some(3), Some(2), Some(4)]), Some(2));
        assert_eq!(raise(1, 3, [Some(4), Some(4), Some(4)]), Some(3), "never above what this build applies");
        assert_eq!(raise(1, 3, [Some(3), Some(1), Some(3)]), None);
    }

    #[test]
    fn a_member_that_was_not_heard_of_holds_the_level_where_it_is() {
        assert_eq!(raise(1, 3, [Some(3), None, Some(3)]), None);
    }

    #[test]
    fn a_level_never_falls() {
        assert_eq!(raise(3, 2, [Some(2), Some(2), Some(2)]), None);
        assert!(!may_join(3, Some(2)) && may_join(3, Some(3)) && may_join(3, None));
    }
}
