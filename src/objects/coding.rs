//! Erasure coding of one segment: k data pieces cut from one buffer, m parity pieces computed from them.
//!
//! Promises: any k of the k+m pieces give the segment back byte for byte, and pieces of equal content under an equal
//! profile are equal, so that their hashes are. Data pieces are slices of the segment's own buffer: encoding copies
//! nothing. Profiles with one data piece are plain copies: all pieces are the same bytes.
//!
//! Everything here blocks (a 16 MiB segment at 4+2 costs some milliseconds to code and more to hash): callers wrap it
//! in [`run_blocking`](crate::seams::run_blocking). What this does not do is check hashes: pieces come in as
//! [`CheckedPiece`]s, or the caller has checked them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_protocols::ids::PieceIndex;
use quorate_protocols::object::{CheckedPiece, Profile};
use reed_solomon_erasure::ReconstructShard;
use reed_solomon_erasure::galois_8::{Field, ReedSolomon};

use crate::buffers::Buffer;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodingError {
    #[error("profile {profile} cannot be coded")]
    Profile { profile: Profile },
    #[error("{found} pieces of the segment are there and {needed} are needed")]
    TooFew { found: usize, needed: usize },
    #[error("piece {piece} is {found} bytes long, expected {expected}")]
    Length { piece: PieceIndex, expected: usize, found: usize },
}

/// Codes segments under one profile. Building one costs a matrix inversion: take it from [`Coders`].
pub struct Coder {
    profile: Profile,
    /// `None` where nothing needs computing: copies, or no parity.
    code: Option<ReedSolomon>,
}

impl Coder {
    pub fn new(profile: Profile) -> Result<Self, CodingError> {
        Profile::new(profile.data, profile.parity).ok_or(CodingError::Profile { profile })?;
        let code = match (profile.data, profile.parity) {
            (1, _) | (_, 0) => None,
            (data, parity) => {
                Some(ReedSolomon::new(data as usize, parity as usize).map_err(|_| CodingError::Profile { profile })?)
            }
        };
        Ok(Self { profile, code })
    }

    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Codes and hashes one segment, which must not be empty. The last data piece is padded with zeros; a buffer with
    /// capacity for the padding is not moved.
    pub fn encode(&self, mut segment: Buffer) -> Vec<CheckedPiece> {
        let (data, parity) = (self.profile.data as usize, self.profile.parity as usize);
        let piece_bytes = segment.len().div_ceil(data);
        segment.resize(piece_bytes * data);
        let segment = segment.freeze();
        let mut pieces: Vec<CheckedPiece> =
            (0..data).map(|i| CheckedPiece::hash_of(segment.slice(i * piece_bytes..(i + 1) * piece_bytes))).collect();
        match &self.code {
            None => pieces.extend((0..parity).map(|_| pieces[0].clone()).collect::<Vec<_>>()),
            Some(code) => {
                // Coding overwrites all of it.
                let mut made = Buffer::with_length(piece_bytes * parity);
                {
                    let sources: Vec<&[u8]> = segment.chunks_exact(piece_bytes).collect();
                    let mut targets: Vec<&mut [u8]> = made.chunks_exact_mut(piece_bytes).collect();
                    code.encode_sep(&sources, &mut targets)
                        .expect("as many equal, non-empty pieces as the code was built for");
                }
                let made = made.freeze();
                pieces.extend(
                    (0..parity).map(|i| CheckedPiece::hash_of(made.slice(i * piece_bytes..(i + 1) * piece_bytes))),
                );
            }
        }
        pieces
    }

    /// The data pieces of a segment, in order, from any k of its pieces. Copies only when something was missing.
    pub fn data(&self, pieces: Vec<Option<Bytes>>, piece_bytes: usize) -> Result<Vec<Bytes>, CodingError> {
        let data = self.profile.data as usize;
        let pieces = self.checked(pieces, piece_bytes)?;
        if pieces[..data].iter().all(Option::is_some) {
            return Ok(pieces.into_iter().take(data).flatten().collect());
        }
        let Some(code) = &self.code else { return self.copies(pieces, data) };
        let mut shards: Vec<Shard> = pieces.into_iter().map(Shard::from).collect();
        code.reconstruct_data(&mut shards).expect("k equal, non-empty pieces were counted");
        Ok(shards.into_iter().take(data).filter_map(Shard::into_bytes).collect())
    }

    /// The piece of one column, from any k of the others.
    pub fn rebuild(
        &self,
        pieces: Vec<Option<Bytes>>,
        piece_bytes: usize,
        wanted: PieceIndex,
    ) -> Result<Bytes, CodingError> {
        let index = wanted.0 as usize;
        if index >= self.profile.columns() {
            return Err(CodingError::Profile { profile: self.profile });
        }
        let mut pieces = self.checked(pieces, piece_bytes)?;
        if let Some(piece) = pieces[index].take() {
            return Ok(piece);
        }
        let Some(code) = &self.code else {
            return Ok(self.copies(pieces, 1)?.swap_remove(0));
        };
        let mut shards: Vec<Shard> = pieces.into_iter().map(Shard::from).collect();
        if index < self.profile.data as usize {
            code.reconstruct_data(&mut shards)
        } else {
            code.reconstruct(&mut shards)
        }
        .expect("k equal, non-empty pieces were counted");
        Ok(shards.swap_remove(index).into_bytes().expect("the code filled every missing piece"))
    }

    /// Without a code any piece of a copied object is every other; without parity nothing can be made up.
    fn copies(&self, pieces: Vec<Option<Bytes>>, wanted: usize) -> Result<Vec<Bytes>, CodingError> {
        let found: Vec<Bytes> = pieces.into_iter().flatten().collect();
        match found.first() {
            Some(piece) if self.profile.data == 1 => Ok(vec![piece.clone(); wanted]),
            _ => Err(CodingError::TooFew { found: found.len(), needed: self.profile.data as usize }),
        }
    }

    fn checked(&self, mut pieces: Vec<Option<Bytes>>, expected: usize) -> Result<Vec<Option<Bytes>>, CodingError> {
        pieces.resize(self.profile.columns(), None);
        for (index, piece) in pieces.iter().enumerate() {
            if let Some(found) = piece.as_ref().map(Bytes::len).filter(|found| *found != expected || *found == 0) {
                return Err(CodingError::Length { piece: PieceIndex(index as u8), expected, found });
            }
        }
        let (found, needed) = (pieces.iter().flatten().count(), self.profile.data as usize);
        if found < needed { Err(CodingError::TooFew { found, needed }) } else { Ok(pieces) }
    }
}

/// One piece on its way through a reconstruction, which wants mutable slices of everything.
enum Shard {
    Missing,
    There(Buffer),
}

impl From<Option<Bytes>> for Shard {
    fn from(piece: Option<Bytes>) -> Self {
        match piece {
            None => Self::Missing,
            // A copy, which the pieces of a whole segment do not get.
            Some(bytes) => Self::There(Buffer::from(&bytes[..])),
        }
    }
}

impl Shard {
    fn into_bytes(self) -> Option<Bytes> {
        match self {
            Self::Missing => None,
            Self::There(bytes) => Some(bytes.freeze()),
        }
    }
}

impl ReconstructShard<Field> for Shard {
    fn len(&self) -> Option<usize> {
        match self {
            Self::Missing => None,
            Self::There(bytes) => Some(bytes.len()),
        }
    }
    fn get(&mut self) -> Option<&mut [u8]> {
        match self {
            Self::Missing => None,
            Self::There(bytes) => Some(bytes),
        }
    }
    fn get_or_initialize(&mut self, len: usize) -> Result<&mut [u8], Result<&mut [u8], reed_solomon_erasure::Error>> {
        let was_missing = matches!(self, Self::Missing);
        if was_missing {
            *self = Self::There(Buffer::with_length(len));
        }
        let Self::There(bytes) = self else { return Err(Err(reed_solomon_erasure::Error::EmptyShard)) };
        if was_missing { Err(Ok(bytes)) } else { Ok(bytes) }
    }
}

/// The coders in use, one per profile. At most as many as there are profiles: 136.
#[derive(Clone, Default)]
pub struct Coders(Arc<Mutex<BTreeMap<Profile, Arc<Coder>>>>);

impl Coders {
    pub fn get(&self, profile: Profile) -> Result<Arc<Coder>, CodingError> {
        let mut coders = self.0.lock();
        if let Some(coder) = coders.get(&profile) {
            return Ok(coder.clone());
        }
        let coder = Arc::new(Coder::new(profile)?);
        coders.insert(profile, coder.clone());
        Ok(coder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn joined(pieces: &[Bytes], length: usize) -> Vec<u8> {
        let mut bytes = pieces.concat();
        bytes.truncate(length);
        bytes
    }

    #[test]
    fn data_pieces_are_slices_of_the_segment() {
        let mut segment = Buffer::from(&b"0123456789~~~~~~"[..]);
        segment.truncate(10);
        let start = segment.as_ptr();
        let pieces = Coder::new(Profile::DEFAULT).unwrap().encode(segment);
        assert_eq!(pieces[0].bytes().as_ptr(), start);
        assert_eq!(pieces[3].bytes(), &Bytes::from_static(b"9\0\0"));
    }

    #[test]
    fn one_data_piece_means_copies() {
        let coder = Coder::new(Profile { data: 1, parity: 2 }).unwrap();
        let pieces = coder.encode(Buffer::from(&b"abc"[..]));
        assert!(pieces.iter().all(|piece| piece.bytes() == &Bytes::from_static(b"abc")));
        let only_last = vec![None, None, Some(Bytes::from_static(b"abc"))];
        assert_eq!(coder.data(only_last, 3).unwrap(), vec![Bytes::from_static(b"abc")]);
    }

    #[test]
    fn too_few_and_misfit_pieces_are_refused() {
        let coder = Coder::new(Profile::DEFAULT).unwrap();
        let one = Some(Bytes::from_static(b"abc"));
        assert_eq!(coder.data(vec![one.clone()], 3), Err(CodingError::TooFew { found: 1, needed: 4 }));
        let misfit = CodingError::Length { piece: PieceIndex(0), expected: 4, found: 3 };
        assert_eq!(coder.data(vec![one; 6], 4), Err(misfit));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Any k of the k+m pieces give the segment and every other piece back.
        #[test]
        fn any_k_pieces_read_back(
            data in 1u8..7, parity in 0u8..5,
            content in proptest::collection::vec(any::<u8>(), 1..600),
            order in proptest::collection::vec(any::<u32>(), 12),
        ) {
            let profile = Profile::new(data, parity).unwrap();
            let coder = Coder::new(profile).unwrap();
            let pieces = coder.encode(Buffer::from(&content[..]));
            prop_assert_eq!(pieces.len(), profile.columns());
            let piece_bytes = pieces[0].bytes().len();
            let mut chosen: Vec<usize> = (0..profile.columns()).collect();
            chosen.sort_by_key(|index| order[*index]);
            let mut given = vec![None; profile.columns()];
            for index in chosen.into_iter().take(data as usize) {
                given[index] = Some(pieces[index].bytes().clone());
            }
            prop_assert_eq!(joined(&coder.data(given.clone(), piece_bytes).unwrap(), content.len()), content);
            for (index, piece) in pieces.iter().enumerate() {
                let rebuilt = coder.rebuild(given.clone(), piece_bytes, PieceIndex(index as u8)).unwrap();
                prop_assert_eq!(&rebuilt, piece.bytes());
            }
        }
    }
}
