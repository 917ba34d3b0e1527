//! G8: what is reserved never exceeds a limit, and what nobody uses any more is released.

use std::fmt::Display;

use super::{Guarantee, Violation};

/// One resource of one scope.
#[derive(Clone, Debug)]
pub struct Account<T> {
    pub scope: T,
    pub used: u64,
    pub limit: u64,
}

/// At any moment.
pub fn check<T: Display>(accounts: &[Account<T>]) -> Vec<Violation> {
    let over = accounts.iter().filter(|account| account.used > account.limit);
    over.map(|account| {
        let Account { scope, used, limit } = account;
        Violation::new(Guarantee::G8, format!("{scope} has {used} reserved of {limit}"))
    })
    .collect()
}

/// Once everything has ended: only what is meant to stay, in the same order as `accounts`, may still be reserved.
pub fn check_at_rest<T: Display>(accounts: &[Account<T>], stays: &[u64]) -> Vec<Violation> {
    let left = accounts.iter().zip(stays).filter(|(account, stays)| account.used != **stays);
    left.map(|(account, stays)| {
        let Account { scope, used, .. } = account;
        Violation::new(Guarantee::G8, format!("{scope} still has {used} reserved, {stays} should be"))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_the_limit_and_left_behind_are_both_wrong() {
        let account = |used| Account { scope: "pieces/disk", used, limit: 10 };
        assert_eq!(check(&[account(10)]), []);
        assert_eq!(check(&[account(11)]).len(), 1);
        assert_eq!(check_at_rest(&[account(3)], &[3]), []);
        assert_eq!(check_at_rest(&[account(3)], &[0]).len(), 1);
    }
}
