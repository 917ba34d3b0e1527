//! Sealing of objects: bytes are encrypted before they leave this machine, with a key that its owner keeps in a file.
//!
//! A sealed object begins with [`MAGIC`] and a salt of 32 bytes. What follows is the content in segments of
//! [`SEGMENT_BYTES`], each encrypted and authenticated by ChaCha20-Poly1305 with the STREAM construction (Hoang,
//! Reyhanitabar, Rogaway and Vizár, "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", 2015), so
//! that no segment can be changed, moved, left out or cut off. The key of an object is derived from the file's key and
//! the salt. The salt of a file is a keyed digest of its content: the same file under the same key is the same object,
//! so that a put can go on where it stopped, and other content never meets the same key. The salt of a pipe is drawn.
//!
//! Holders, members and other peers see the object's size and name, and nothing of its content.

use std::io::{self, Read};
use std::path::Path;

use bytes::{Bytes, BytesMut};
use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::stream::{DecryptorBE32, EncryptorBE32};
use futures::{Stream, StreamExt, TryStreamExt};

use super::failure::Failure;

const MAGIC: &[u8; 16] = b"quorate sealed 1";
const SALT_BYTES: usize = 32;
const HEADER_BYTES: usize = MAGIC.len() + SALT_BYTES;

/// Bytes of content that are encrypted as one.
const SEGMENT_BYTES: usize = 64 * 1024;
const TAG_BYTES: usize = 16;

/// BLAKE3's contexts for the two uses of a key.
const CONTENT_CONTEXT: &str = "quorate 2026-11 sealed object content key 1";
const SALT_CONTEXT: &str = "quorate 2026-11 sealed object salt key 1";

/// Every object has a key of its own, so that the nonce needs nothing but the segment's number.
const NONCE: [u8; 7] = [0; 7];

/// Far above any key file.
const KEY_FILE_BYTES_MAX: u64 = 1024;

/// The key in an owner's file.
pub struct SealingKey([u8; 32]);

impl SealingKey {
    /// Reads the key, or draws one and writes it where there is none. Says whether it is new.
    pub fn load_or_create(path: &Path) -> Result<(Self, bool), Failure> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let fault = |error: io::Error| Failure::failed(format!("writing {}: {error}", path.display()));
        let mut options = std::fs::OpenOptions::new();
        let mut file = match options.write(true).create_new(true).mode(0o600).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok((Self::load(path)?, false)),
            other => other.map_err(fault)?,
        };
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|error| Failure::failed(format!("drawing a key: {error}")))?;
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(file, "{hex}").and_then(|()| file.sync_all()).map_err(fault)?;
        Ok((Self(key), true))
    }

    pub fn load(path: &Path) -> Result<Self, Failure> {
        let fault = |error: io::Error| Failure::failed(format!("reading the key in {}: {error}", path.display()));
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(fault)?;
        file.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text).map_err(fault)?;
        let key = blake3::Hash::from_hex(text.trim()).map_err(|_| {
            Failure::failed(format!("{} holds no key: 64 hexadecimal digits are expected", path.display()))
                .hint("name the file that `quorate object put --encrypt FILE` wrote")
        })?;
        Ok(Self(*key.as_bytes()))
    }

    /// The salt of a file's content.
    pub fn salt_of(&self, mut file: impl Read) -> io::Result<[u8; SALT_BYTES]> {
        let mut hasher = blake3::Hasher::new_keyed(&blake3::derive_key(SALT_CONTEXT, &self.0));
        io::copy(&mut file, &mut hasher)?;
        Ok(*hasher.finalize().as_bytes())
    }

    fn cipher_key(&self, salt: &[u8; SALT_BYTES]) -> [u8; 32] {
        blake3::derive_key(CONTENT_CONTEXT, &[self.0, *salt].concat())
    }
}

pub fn random_salt() -> Result<[u8; SALT_BYTES], Failure> {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt).map_err(|error| Failure::failed(format!("drawing a salt: {error}")))?;
    Ok(salt)
}

/// Bytes of a sealed object with so much content.
pub const fn sealed_bytes(content: u64) -> u64 {
    let segments = if content == 0 { 1 } else { content.div_ceil(SEGMENT_BYTES as u64) };
    HEADER_BYTES as u64 + content + segments * TAG_BYTES as u64
}

/// Pieces of one size out of chunks of any, and which of them is the last.
struct Segments<S> {
    chunks: S,
    buffer: BytesMut,
    bytes: usize,
    is_over: bool,
}

impl<S, E> Segments<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    fn new(chunks: S, bytes: usize) -> Self {
        Self { chunks, buffer: BytesMut::new(), bytes, is_over: false }
    }

    /// `None` after the last one, which may be shorter, and empty when it is the only one.
    async fn next(&mut self) -> Result<Option<(Bytes, bool)>, E> {
        if self.is_over {
            return Ok(None);
        }
        // One byte more says that this segment is not the last.
        while self.buffer.len() <= self.bytes {
            match self.chunks.next().await {
                Some(chunk) => self.buffer.extend_from_slice(&chunk?),
                None => {
                    self.is_over = true;
                    return Ok(Some((self.buffer.split().freeze(), true)));
                }
            }
        }
        Ok(Some((self.buffer.split_to(self.bytes).freeze(), false)))
    }
}

/// Encrypts the content as it goes by.
pub fn seal<S>(
    key: &SealingKey,
    salt: [u8; SALT_BYTES],
    content: S,
) -> impl Stream<Item = io::Result<Bytes>> + Send + use<S>
where
    S: Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
{
    let encryptor = EncryptorBE32::<ChaCha20Poly1305>::new(&key.cipher_key(&salt).into(), &NONCE.into());
    let header = Bytes::from([&MAGIC[..], &salt].concat());
    let state = (Segments::new(content, SEGMENT_BYTES), Some(encryptor));
    let sealed = futures::stream::try_unfold(state, |(mut segments, mut encryptor)| async move {
        let Some((segment, is_last)) = segments.next().await? else { return Ok(None) };
        // The library's only reason: more than 2^32 segments.
        let too_long =
            |_| io::Error::new(io::ErrorKind::FileTooLarge, "more than 256 TiB cannot be sealed as one object");
        let sealed = match (is_last, &mut encryptor) {
            (false, Some(encryptor)) => encryptor.encrypt_next(&segment[..]),
            (true, taken) => match taken.take() {
                Some(encryptor) => encryptor.encrypt_last(&segment[..]),
                None => return Ok(None),
            },
            (false, None) => return Ok(None),
        };
        Ok(Some((Bytes::from(sealed.map_err(too_long)?), (segments, encryptor))))
    });
    futures::stream::once(async move { Ok(header) }).chain(sealed)
}

fn damaged() -> Failure {
    Failure::failed("the object was not sealed with this key, or was changed since")
        .hint("name the key file that it was put with (`--encrypt FILE`)")
}

/// Whether the beginning of an object says that it is sealed.
pub fn is_sealed(beginning: &[u8]) -> bool {
    beginning.starts_with(MAGIC)
}

/// Decrypts an object as it arrives. Nothing of a segment is handed on before it was authenticated; that nothing is
/// missing is known with the last one.
pub fn unseal<S>(key: SealingKey, sealed: S) -> impl Stream<Item = Result<Bytes, Failure>>
where
    S: Stream<Item = Result<Bytes, Failure>> + Unpin,
{
    enum State<S> {
        Header(S, SealingKey),
        Body(Segments<S>, Option<DecryptorBE32<ChaCha20Poly1305>>),
    }
    let unsealed = futures::stream::try_unfold(State::Header(sealed, key), |state| async move {
        let (mut segments, mut decryptor) = match state {
            State::Body(segments, decryptor) => (segments, decryptor),
            State::Header(mut sealed, key) => {
                let mut buffer = BytesMut::new();
                while buffer.len() < HEADER_BYTES {
                    match sealed.next().await {
                        Some(chunk) => buffer.extend_from_slice(&chunk?),
                        None => break,
                    }
                }
                if buffer.len() < HEADER_BYTES || !is_sealed(&buffer) {
                    return Err(Failure::failed("the object is not sealed").hint("get it without --decrypt"));
                }
                let header = buffer.split_to(HEADER_BYTES);
                let mut salt = [0; SALT_BYTES];
                salt.copy_from_slice(&header[MAGIC.len()..]);
                let decryptor = DecryptorBE32::new(&key.cipher_key(&salt).into(), &NONCE.into());
                let mut segments = Segments::new(sealed, SEGMENT_BYTES + TAG_BYTES);
                segments.buffer = buffer;
                (segments, Some(decryptor))
            }
        };
        let Some((segment, is_last)) = segments.next().await? else { return Ok(None) };
        let content = match (is_last, &mut decryptor) {
            (false, Some(decryptor)) => decryptor.decrypt_next(&segment[..]),
            (true, taken) => match taken.take() {
                Some(decryptor) => decryptor.decrypt_last(&segment[..]),
                None => return Ok(None),
            },
            (false, None) => return Ok(None),
        };
        let content = content.map_err(|_| damaged())?;
        Ok(Some((Bytes::from(content), State::Body(segments, decryptor))))
    });
    unsealed.into_stream()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    fn key(number: u8) -> SealingKey {
        SealingKey([number; 32])
    }

    fn content(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at * 7 % 251) as u8).collect()
    }

    /// In chunks of a size that fits nothing.
    fn chunks<E: Send + 'static>(bytes: &[u8]) -> impl Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static {
        let chunks: Vec<_> = bytes.chunks(10_007).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        stream::iter(chunks)
    }

    async fn sealed(bytes: &[u8]) -> Vec<u8> {
        let salt = key(1).salt_of(bytes).unwrap();
        let sealed: Vec<Bytes> = seal(&key(1), salt, chunks(bytes)).try_collect().await.unwrap();
        sealed.concat()
    }

    async fn unsealed(number: u8, sealed: &[u8]) -> Result<Vec<u8>, Failure> {
        let content: Vec<Bytes> = Box::pin(unseal(key(number), chunks(sealed))).try_collect().await?;
        Ok(content.concat())
    }

    #[tokio::test]
    async fn what_is_sealed_reads_back_at_every_edge_of_a_segment() {
        for bytes in [0, 1, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 3 * SEGMENT_BYTES, 200_000] {
            let content = content(bytes);
            let object = sealed(&content).await;
            assert_eq!(object.len() as u64, sealed_bytes(bytes as u64), "{bytes}");
            assert!(is_sealed(&object));
            assert_eq!(unsealed(1, &object).await.unwrap(), content, "{bytes}");
            assert!(bytes < 100 || !object.windows(100).any(|window| content.starts_with(window)));
        }
    }

    /// Goal: the same file under the same key is the same object, and nothing else is. Method: objects compared.
    #[tokio::test]
    async fn equal_content_is_an_equal_object_and_other_content_has_another_key() {
        let (one, other) = (content(100_000), [content(99_999), vec![0]].concat());
        assert_eq!(sealed(&one).await, sealed(&one).await);
        let (one, other) = (sealed(&one).await, sealed(&other).await);
        assert_ne!(one[..HEADER_BYTES], other[..HEADER_BYTES]);
        assert_ne!(one[HEADER_BYTES..HEADER_BYTES + 1000], other[HEADER_BYTES..HEADER_BYTES + 1000]);
    }

    /// Goal: what was changed, moved, cut off or sealed with another key is refused. Method: each done to one object.
    #[tokio::test]
    async fn what_was_tampered_with_is_refused() {
        let object = sealed(&content(3 * SEGMENT_BYTES + 5)).await;
        let segment = SEGMENT_BYTES + TAG_BYTES;
        let mut tampered = Vec::new();
        for at in [MAGIC.len(), HEADER_BYTES, HEADER_BYTES + segment + 3, object.len() - 1] {
            let mut flipped = object.clone();
            flipped[at] ^= 1;
            tampered.push(flipped);
        }
        for end in [HEADER_BYTES, HEADER_BYTES + segment, HEADER_BYTES + 3 * segment, object.len() - 1] {
            tampered.push(object[..end].to_vec());
        }
        let mut moved = object.clone();
        moved[HEADER_BYTES..HEADER_BYTES + 2 * segment].rotate_left(segment);
        tampered.push(moved);
        for (number, tampered) in tampered.iter().enumerate() {
            let failure = unsealed(1, tampered).await.expect_err("it is not what was sealed");
            assert!(failure.text().as_str().contains("changed since"), "{number}: {failure:?}");
        }
        assert!(unsealed(2, &object).await.is_err(), "another key");
        let plain = unsealed(1, b"hello").await.unwrap_err();
        assert!(plain.text().as_str().contains("not sealed"));
    }

    #[test]
    fn a_key_file_is_made_once_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("photos.key");
        let (first, is_new) = SealingKey::load_or_create(&path).unwrap();
        assert!(is_new);
        let (second, is_new) = SealingKey::load_or_create(&path).unwrap();
        assert!(!is_new && first.0 == second.0 && first.0 != [0; 32]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "hello").unwrap();
        assert!(SealingKey::load(&path).err().unwrap().text().as_str().contains("64 hexadecimal digits"));
    }
}
