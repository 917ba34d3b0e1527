//! Budgets of announcements: how much of one author, and through one sender, a node takes in and passes on.
//!
//! An announcement costs every node a look and a copy for some of its peers, so a peer that floods one node floods the
//! network. What is beyond a budget ends where it arrived. The author is the one that signed it, the sender the one
//! that sent it here; often they are one. A sender is charged for what is passed on and for nothing else: it could not
//! know how much of the author arrived here on other ways.
//!
//! An honest node stays within its budget by itself ([`ANNOUNCER_RATES`](super::limits::ANNOUNCER_RATES)).

use super::limits::{AUTHOR_RATES, COUNTED_MAX, SENDER_RATES};
use crate::budget::Budgets;
use crate::ids::{Millis, PeerId};

/// Whose budget an announcement was beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    Author,
    Sender,
}

/// See the module.
#[derive(Debug)]
pub struct AnnouncementBudgets {
    authors: Budgets,
    senders: Budgets,
}

impl Default for AnnouncementBudgets {
    fn default() -> Self {
        Self { authors: Budgets::new(AUTHOR_RATES, COUNTED_MAX), senders: Budgets::new(SENDER_RATES, COUNTED_MAX) }
    }
}

impl AnnouncementBudgets {
    /// Takes an announcement of so many bytes from both budgets, or from none.
    pub fn charge(&mut self, now: Millis, author: PeerId, sender: PeerId, bytes: usize) -> Result<(), Excess> {
        // Before the author is counted: a sender that invents authors would push others out.
        let left = self.senders.drawn(now, sender, bytes).map_err(|_| Excess::Sender)?;
        self.authors.charge(now, author, bytes).map_err(|_| Excess::Author)?;
        self.senders.set(now, sender, left);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::limits::{ADVERT_BYTES_MAX, ANNOUNCEMENT_LATE_MAX, ANNOUNCER_RATES};

    fn peer(number: u32) -> PeerId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        PeerId(bytes)
    }

    /// Goal: an author that floods is passed over, whoever passes its announcements on, and takes nothing from others.
    #[test]
    fn a_flood_ends_where_it_arrives_and_others_are_heard_beside_it() {
        let mut budgets = AnnouncementBudgets::default();
        let (flooder, honest) = (peer(1), peer(2));
        let mut taken = 0;
        while budgets.charge(Millis(0), flooder, flooder, 10).is_ok() {
            taken += 1;
        }
        assert_eq!(taken, AUTHOR_RATES.count_burst);
        for _ in 0..SENDER_RATES.count_burst {
            assert_eq!(budgets.charge(Millis(0), flooder, honest, 10), Err(Excess::Author));
        }
        // The sender was charged for none of them, and a flooder passes others' announcements on like anybody.
        assert_eq!(budgets.charge(Millis(0), honest, honest, 10), Ok(()));
        assert_eq!(budgets.charge(Millis(0), honest, flooder, 10), Ok(()));
        let second = (0..1_000).filter(|_| budgets.charge(Millis(1_000), flooder, honest, 10).is_ok()).count();
        assert_eq!(second as u64, AUTHOR_RATES.count_per_second);
    }

    /// Goal: large announcements are bounded by their bytes, and invented authors by the sender that sends them.
    #[test]
    fn bytes_are_bounded_and_so_are_authors_that_nobody_is() {
        let mut budgets = AnnouncementBudgets::default();
        let large =
            (0..10_000).filter(|_| budgets.charge(Millis(0), peer(1), peer(1), ADVERT_BYTES_MAX).is_ok()).count();
        assert_eq!(large as u64, AUTHOR_RATES.bytes_burst / ADVERT_BYTES_MAX as u64);
        let sender = peer(2);
        let mut number = 10;
        let excess = loop {
            number += 1;
            if let Err(excess) = budgets.charge(Millis(0), peer(number), sender, 10) {
                break excess;
            }
        };
        assert_eq!((excess, u64::from(number - 11)), (Excess::Sender, SENDER_RATES.count_burst));
        assert_eq!(budgets.charge(Millis(0), peer(3), peer(3), 10), Ok(()), "another sender is heard");
    }

    /// Goal: forty nodes that announce all they may for a minute, all through one sender and half a minute late at
    /// the end, are heard in full.
    #[test]
    fn honest_announcements_are_never_passed_over() {
        let mut budgets = AnnouncementBudgets::default();
        let bytes = (ANNOUNCER_RATES.bytes_per_second / ANNOUNCER_RATES.count_per_second) as usize;
        let sender = peer(1_000);
        for author in 0..40 {
            for _ in 0..ANNOUNCER_RATES.count_burst {
                assert_eq!(budgets.charge(Millis(0), peer(author), sender, bytes), Ok(()), "at the start");
            }
        }
        for second in 1..60 {
            for author in 0..40 {
                for _ in 0..ANNOUNCER_RATES.count_per_second {
                    assert_eq!(budgets.charge(Millis(second * 1_000), peer(author), sender, bytes), Ok(()));
                }
            }
        }
        // This node was held up: what an author sent meanwhile, and its burst, arrives at once from the author itself.
        let late = ANNOUNCEMENT_LATE_MAX.as_secs() * ANNOUNCER_RATES.count_per_second + ANNOUNCER_RATES.count_burst;
        for _ in 0..late {
            assert_eq!(budgets.charge(Millis(120_000), peer(0), peer(0), bytes), Ok(()), "late");
        }
    }
}
