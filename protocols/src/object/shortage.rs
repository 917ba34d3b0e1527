//! Holder shortage: why too few peers can hold a column of an object, in words for its user.
//!
//! A full disk is the commonest cause and the one that the user can end, so peers that keep columns and have too little
//! free disk are counted apart from those that do not answer.

use std::fmt;

use super::layout::{Profile, Reachable};
use crate::text::counted;
use crate::units::ByteSize;

/// Peers that the smallest profile takes.
const HOLDERS_MIN: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HolderShortage {
    /// Peers that can hold a column now.
    pub holders: usize,
    /// Peers that keep columns and have less free disk than one takes.
    pub full: usize,
    /// Peers that had room and do not answer.
    pub absent: usize,
    pub profile: Profile,
    /// What a column takes; 0 while the size of the object is unknown.
    pub column_bytes: u64,
    /// The best profile for as many holders.
    pub fitting: Option<Profile>,
}

impl HolderShortage {
    /// Of an object of `bytes` (`None`: not known yet) for which `holders` were found; `known` says of the others what
    /// keeps them.
    pub fn new(bytes: Option<u64>, column_bytes: u64, profile: Profile, holders: usize, known: Reachable) -> Self {
        let fitting = Profile::fitting(bytes, holders);
        Self { holders, full: known.full, absent: known.absent, profile, column_bytes, fitting }
    }
    /// What the user can do, without a profile that fits: that is only the put's to choose.
    pub fn remedy(&self) -> String {
        let mut remedies = Vec::new();
        if self.full > 0 {
            remedies.push("free disk on the full nodes or raise their `resources.disk_max`");
        }
        if self.absent > 0 {
            remedies.push("start the nodes that do not answer");
        }
        remedies.push("add nodes");
        remedies.join(", or ")
    }
}

impl fmt::Display for HolderShortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { holders, full, absent, profile, column_bytes, fitting } = self;
        let column = match column_bytes {
            0 => "a column".to_owned(),
            bytes => format!("a column of {}", ByteSize(*bytes).rounded_up()),
        };
        let holders = match holders {
            0 => "no peer".to_owned(),
            holders => counted(*holders, "peer"),
        };
        write!(f, "{holders} can hold {column} and {} are needed for {profile}", profile.columns())?;
        match full {
            0 => (),
            1 => f.write_str("; 1 peer keeps columns but has too little free disk")?,
            full => write!(f, "; {full} peers keep columns but have too little free disk")?,
        }
        match absent {
            0 => (),
            1 => f.write_str("; 1 peer does not answer")?,
            absent => write!(f, "; {absent} peers do not answer")?,
        }
        match fitting.filter(|fitting| fitting != profile) {
            Some(fitting) => write!(f, "; {fitting} would fit"),
            None if fitting.is_none() && profile.columns() > HOLDERS_MIN => {
                write!(f, "; nothing is stored on fewer than {HOLDERS_MIN}")
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Profile = Profile { data: 2, parity: 1 };

    fn shortage(holders: usize, full: usize, absent: usize) -> HolderShortage {
        let known = Reachable { full, absent, ..Reachable::default() };
        HolderShortage::new(Some(80 << 20), 40 << 20, SMALL, holders, known)
    }

    #[test]
    fn a_full_disk_and_a_peer_that_is_silent_are_told_apart() {
        assert_eq!(
            shortage(0, 3, 0).to_string(),
            "no peer can hold a column of 40 MiB and 3 are needed for 2+1; 3 peers keep columns but have too little \
             free disk"
        );
        assert_eq!(
            shortage(1, 1, 1).to_string(),
            "1 peer can hold a column of 40 MiB and 3 are needed for 2+1; 1 peer keeps columns but has too little free \
             disk; 1 peer does not answer"
        );
    }

    #[test]
    fn the_remedy_is_for_what_is_wrong() {
        assert_eq!(shortage(2, 0, 0).remedy(), "add nodes");
        assert_eq!(
            shortage(0, 3, 0).remedy(),
            "free disk on the full nodes or raise their `resources.disk_max`, or add nodes"
        );
        assert_eq!(shortage(0, 0, 1).remedy(), "start the nodes that do not answer, or add nodes");
    }

    #[test]
    fn a_profile_that_fits_is_named() {
        let wide = HolderShortage::new(None, 0, Profile::DEFAULT, 4, Reachable::default());
        assert_eq!(wide.to_string(), "4 peers can hold a column and 6 are needed for 4+2; 2+2 would fit");
        let few = HolderShortage::new(None, 0, Profile::DEFAULT, 2, Reachable::default());
        assert_eq!(
            few.to_string(),
            "2 peers can hold a column and 6 are needed for 4+2; nothing is stored on fewer than 3"
        );
    }
}
