//! The layout of an object: pure arithmetic over size and profile.

use serde::{Deserialize, Serialize};

use super::limits::{COLUMNS_MAX, COPY_BYTES_MAX, MANIFEST_BYTES_MAX, SEGMENT_BYTES, SEGMENTS_MAX};
use crate::ids::PieceHash;

/// `data` pieces are enough to read a segment; `parity` more may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Profile {
    pub data: u8,
    pub parity: u8,
}

impl Profile {
    pub const DEFAULT: Self = Self { data: 4, parity: 2 };

    /// `None` for profiles that cannot store anything or are wider than an object may be.
    pub fn new(data: u8, parity: u8) -> Option<Self> {
        (data >= 1 && data as usize + parity as usize <= COLUMNS_MAX).then_some(Self { data, parity })
    }
    pub const fn columns(self) -> usize {
        self.data as usize + self.parity as usize
    }
    /// Columns with which a put may return early, marked degraded, when no further holder answers.
    pub const fn columns_min(self) -> usize {
        if self.parity == 0 { self.data as usize } else { self.data as usize + 1 }
    }
    /// Segments that an object of this profile may have, so that its manifest and its run fit their limits.
    pub const fn segments_max(self) -> usize {
        let columns = if self.columns() == 0 { 1 } else { self.columns() };
        // 64 bytes are more than a manifest's version, size, profile and count take.
        let fitting = (MANIFEST_BYTES_MAX - 64) / (columns * PieceHash::LEN);
        if fitting < SEGMENTS_MAX { fitting } else { SEGMENTS_MAX }
    }
    /// Largest object of this profile, in bytes.
    pub const fn bytes_max(self) -> u64 {
        self.segments_max() as u64 * SEGMENT_BYTES as u64
    }
    /// The best profile for an object of `bytes` (`None`: not known yet) over `holders` peers. `None` when there are
    /// fewer holders than the smallest profile needs.
    pub fn fitting(bytes: Option<u64>, holders: usize) -> Option<Self> {
        if bytes.is_some_and(|bytes| bytes <= COPY_BYTES_MAX) && holders >= 3 {
            return Some(Self { data: 1, parity: 2 });
        }
        match holders {
            0..=2 => None,
            3 => Some(Self { data: 2, parity: 1 }),
            4 => Some(Self { data: 2, parity: 2 }),
            5 => Some(Self { data: 3, parity: 2 }),
            _ => Some(Self::DEFAULT),
        }
    }

    /// The profile for an object of `bytes` over these peers. The distant ones are left out, or given their columns by
    /// the repair, if the object then bears as many losses once it is whole: a put waits for a distant peer only where
    /// the nearer ones are too few.
    pub fn for_reachable(bytes: Option<u64>, peers: Reachable) -> Option<Self> {
        let Reachable { near, distant, absent, full } = peers;
        let without = Self::for_present(bytes, near, absent + distant, full);
        let with = Self::for_present(bytes, near + distant, absent, full);
        without.filter(|without| with.is_none_or(|with| without.parity >= with.parity)).or(with)
    }

    /// The profile for an object of `bytes` when `present` peers can hold a column now, `absent` ones could if they
    /// were there, and `full` ones have no room for it: the profile under which the object bears most losses as soon as
    /// it is stored, and of equals the one that bears most once what it owes is repaired.
    ///
    /// With one of five absent that is 2+2 (two losses) and not 3+2 with four columns (one loss until the repair); with
    /// one of four it is 2+2 with three columns (one loss, two after the repair) and not 2+1. Nothing of that fits on
    /// two peers: they get two copies, which bear a loss too, and owe the third.
    fn for_present(bytes: Option<u64>, present: usize, absent: usize, full: usize) -> Option<Self> {
        let borne = |profile: &Self| present.min(profile.columns()).saturating_sub(profile.data as usize);
        let (narrow, wide) = (Self::fitting(bytes, present), Self::fitting(bytes, present + absent));
        let possible = [wide, narrow].into_iter().flatten().filter(|profile| present >= profile.columns_min());
        // Of equals the last, which needs no repair.
        let best = possible.max_by_key(|profile| (borne(profile), profile.parity));
        let copies = Self { data: 1, parity: 2 };
        let may_copy = present >= copies.columns_min() && present + absent + full >= copies.columns();
        best.or(may_copy.then_some(copies))
    }
}

impl std::fmt::Display for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}+{}", self.data, self.parity)
    }
}

/// A text that is no profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a profile is data+parity with at most {COLUMNS_MAX} together, such as 4+2; found {found:?}")]
pub struct ProfileError {
    found: String,
}

impl std::str::FromStr for Profile {
    type Err = ProfileError;
    fn from_str(text: &str) -> Result<Self, ProfileError> {
        let profile = |(data, parity): (&str, &str)| Self::new(data.parse().ok()?, parity.parse().ok()?);
        text.split_once('+').and_then(profile).ok_or_else(|| ProfileError { found: text.to_owned() })
    }
}

/// Peers that may hold a column, counted by what can be expected of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reachable {
    /// They have room, and answer as quickly as most.
    pub near: usize,
    /// They have room, and are far away ([`crate::liveness::distance`]).
    pub distant: usize,
    /// They had room, and do not answer now.
    pub absent: usize,
    /// They keep columns, and have too little room for this one.
    pub full: usize,
}

impl Reachable {
    /// Peers that can hold a column now.
    pub const fn present(&self) -> usize {
        self.near + self.distant
    }
}

/// The arithmetic of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub size: u64,
    pub profile: Profile,
}

impl Layout {
    pub const fn new(size: u64, profile: Profile) -> Self {
        Self { size, profile }
    }
    /// Number of segments. An empty object has none.
    pub const fn segments(&self) -> u32 {
        self.size.div_ceil(SEGMENT_BYTES as u64) as u32
    }
    /// Bytes of data in `segment`; zero past the end.
    pub const fn segment_bytes(&self, segment: u32) -> usize {
        let start = segment as u64 * SEGMENT_BYTES as u64;
        let left = self.size.saturating_sub(start);
        if left < SEGMENT_BYTES as u64 { left as usize } else { SEGMENT_BYTES }
    }
    /// Bytes of every piece of `segment`: the data cut in `data` equal parts, the last zero padded.
    pub const fn piece_bytes(&self, segment: u32) -> usize {
        self.segment_bytes(segment).div_ceil(self.profile.data as usize)
    }
    /// Bytes of one whole column.
    pub fn column_bytes(&self) -> u64 {
        let full = self.size / SEGMENT_BYTES as u64;
        let full_piece = SEGMENT_BYTES.div_ceil(self.profile.data as usize) as u64;
        let rest =
            if self.size.is_multiple_of(SEGMENT_BYTES as u64) { 0 } else { self.piece_bytes(full as u32) as u64 };
        full * full_piece + rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn profile() -> impl Strategy<Value = Profile> {
        (1u8..=16, 0u8..16).prop_filter_map("too wide", |(data, parity)| Profile::new(data, parity))
    }

    #[test]
    fn the_profile_for_who_is_reachable_bears_most_losses_at_once_and_then_after_its_repair() {
        let shown = |profile: Option<Profile>| profile.map(|profile| profile.to_string());
        let chosen = |near, absent, full| {
            shown(Profile::for_reachable(Some(1 << 20), Reachable { near, absent, full, ..Reachable::default() }))
        };
        for holders in 0..=9 {
            let fitting = shown(Profile::fitting(Some(1 << 20), holders));
            assert_eq!(chosen(holders, 0, 0), fitting, "all {holders} are there");
        }
        for (present, profile) in [(2, "1+2"), (3, "2+2"), (4, "2+2"), (5, "3+2"), (6, "4+2"), (8, "4+2")] {
            assert_eq!(chosen(present, 1, 0).as_deref(), Some(profile), "one is absent, {present} are there");
        }
        assert_eq!(chosen(3, 2, 0).as_deref(), Some("2+1"), "3+2 needs four");
        assert_eq!(chosen(3, 0, 1).as_deref(), Some("2+1"), "who is full is not expected to have room soon");
        assert_eq!(chosen(2, 0, 1).as_deref(), Some("1+2"));
        assert_eq!((chosen(1, 4, 0), chosen(2, 0, 0)), (None, None));
        let tiny =
            |near, absent| shown(Profile::for_reachable(Some(100), Reachable { near, absent, ..Reachable::default() }));
        assert_eq!((tiny(4, 1).as_deref(), tiny(2, 1).as_deref()), (Some("1+2"), Some("1+2")));
    }

    #[test]
    fn a_distant_peer_is_left_out_or_owed_its_column_where_the_object_bears_as_many_losses_once_it_is_whole() {
        let chosen = |near, distant| {
            let peers = Reachable { near, distant, ..Reachable::default() };
            Profile::for_reachable(Some(1 << 20), peers).map(|profile| profile.to_string())
        };
        // Stored on the near ones alone: none of them, or one column is owed to the distant one.
        for (near, profile) in [(2, "1+2"), (3, "2+2"), (4, "2+2"), (5, "3+2"), (6, "4+2"), (8, "4+2")] {
            assert_eq!(chosen(near, 1).as_deref(), Some(profile), "one is distant, {near} are near");
        }
        assert_eq!(chosen(3, 2).as_deref(), Some("3+2"), "the near ones alone would bear one loss for ever");
        assert_eq!(chosen(1, 2).as_deref(), Some("2+1"));
        assert_eq!(chosen(0, 4).as_deref(), Some("2+2"));
        assert_eq!((chosen(1, 0), chosen(0, 2)), (None, None));
    }

    proptest! {
        #[test]
        fn segments_make_up_the_object_and_pieces_the_segments(
            profile in profile(),
            segments in 0u64..60,
            rest in 0..SEGMENT_BYTES as u64,
        ) {
            let layout = Layout::new(segments * SEGMENT_BYTES as u64 + rest, profile);
            let all = 0..layout.segments();
            prop_assert_eq!(all.clone().map(|segment| layout.segment_bytes(segment) as u64).sum::<u64>(), layout.size);
            prop_assert_eq!(all.clone().map(|segment| layout.piece_bytes(segment) as u64).sum::<u64>(), layout.column_bytes());
            for segment in all {
                let (bytes, piece) = (layout.segment_bytes(segment), layout.piece_bytes(segment));
                prop_assert!(bytes > 0 && bytes <= SEGMENT_BYTES);
                // The data pieces hold the segment, and no piece could be a byte shorter.
                prop_assert!(piece * profile.data as usize >= bytes);
                prop_assert!((piece - 1) * (profile.data as usize) < bytes);
            }
            prop_assert_eq!(layout.segment_bytes(layout.segments()), 0);
            prop_assert_eq!(layout.piece_bytes(layout.segments()), 0);
        }

        #[test]
        fn profiles_need_fewer_columns_to_commit_than_they_have_and_enough_to_lose_one(profile in profile()) {
            prop_assert!(profile.columns_min() <= profile.columns());
            prop_assert!(profile.parity == 0 || profile.columns_min() > profile.data as usize);
            prop_assert_eq!(profile.to_string().parse(), Ok(profile));
            // The largest object's manifest fits its limit.
            prop_assert!(profile.segments_max() * profile.columns() * PieceHash::LEN + 64 <= MANIFEST_BYTES_MAX);
        }

        #[test]
        fn the_fitting_profile_never_needs_more_holders_than_there_are(bytes: Option<u64>, holders in 0usize..20) {
            match Profile::fitting(bytes, holders) {
                Some(profile) => prop_assert!(profile.columns() <= holders && profile.parity >= 1),
                None => prop_assert!(holders < 3),
            }
        }
    }

    #[test]
    fn the_largest_manifest_of_every_profile_is_within_its_limit() {
        for columns in 1..=COLUMNS_MAX as u8 {
            let profile = Profile::new(1, columns - 1).unwrap();
            let pieces = vec![PieceHash([255; 32]); profile.segments_max() * profile.columns()];
            let manifest = crate::object::Manifest { size: profile.bytes_max(), profile, pieces };
            let encoded = manifest.encode();
            assert!(encoded.len() <= MANIFEST_BYTES_MAX, "{profile}: {} bytes", encoded.len());
            assert_eq!(crate::object::Manifest::decode(&encoded).as_ref(), Ok(&manifest));
        }
    }
}
