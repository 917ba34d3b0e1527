//! The identity of a node and of its network: the files of a data folder that hold them.
//!
//! A data folder holds the node's ed25519 key (`identity.key`), the incarnation drawn when the folder was created
//! (`incarnation`), and the network's secret (`network.secret`). Secrets are readable by their owner only, and files
//! are replaced whole, so that a crash leaves the old one or the new one. These files are read before the node's seams
//! exist, so they are opened directly; nothing here runs in a simulation, which builds its [`Identity`] from a seed.
//!
//! The *join line* is what a person pastes on the next machine: the network's secret and where to find its nodes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ed25519_dalek::SigningKey;
use quorate_protocols::admission::Admission;
use quorate_protocols::ids::{BootId, Incarnation, JobId, MemberId, PeerId};
use quorate_protocols::job::JobSpec;
use quorate_protocols::quorum::Command;

use crate::folder::{self, FolderError};
use crate::seams::Entropy;
use crate::signatures::SubmitSignatures;

pub const KEY_FILE: &str = "identity.key";
pub const INCARNATION_FILE: &str = "incarnation";
pub const SECRET_FILE: &str = "network.secret";

/// The key of an authority, in the folder of whoever made it, and the admission of the folder's own node.
pub const AUTHORITY_FILE: &str = "authority.key";
pub const ADMISSION_FILE: &str = "admission";

/// Far above any file kept here: a larger one is not ours.
const FILE_BYTES_MAX: u64 = 4 * 1024;

/// Addresses in one join line, and the length of the line: far above what a person pastes.
pub const JOIN_ADDRESSES_MAX: usize = 32;
const JOIN_AUTHORITIES_MAX: usize = 8;
const JOIN_LINE_BYTES_MAX: usize = 8 * 1024;

const JOIN_PREFIX: &str = "quorate1-join:";

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{what} {}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is damaged: expected {expected}. Restore it from a backup, or start with a new data folder", path.display())]
    Damaged { path: PathBuf, expected: &'static str },
    #[error("{} is missing. Create a data folder with `quorate init --dir {}`", path.display(), dir.display())]
    Missing { path: PathBuf, dir: PathBuf },
    /// The folder was set up, and part of what made it this node is gone. It is not drawn again: a member that forgot
    /// who it is must not speak for the one that promised.
    #[error(
        "{} is gone from a folder that was set up. {}. Without it this node is lost: move the folder away (`mv {dir} \
         {dir}.lost`) and set up a new one, which joins as a new member (`quorate init --dir {dir} --join LINE`)",
        path.display(), way_back(path), dir = dir.display()
    )]
    Lost { path: PathBuf, dir: PathBuf },
    #[error(
        "{} can be read by others (mode {mode:03o}) and holds a secret. Run `chmod 600 {}`",
        path.display(), path.display()
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error(
        "{} is missing: this folder has no authority. Run this where `quorate init --authority` made one, or bring its \
         key here", path.display()
    )]
    NoAuthority { path: PathBuf },
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("{} belongs to another network: its secret differs from the one given", path.display())]
    OtherNetwork { path: PathBuf },
}

fn way_back(path: &Path) -> &'static str {
    match path.ends_with(SECRET_FILE) {
        true => "Bring the file back from a copy of the folder, or from any other node of its network",
        false => "Bring the file back from a copy of the folder",
    }
}

/// A node's key, its peer id, and the numbers that tell its lives apart.
#[derive(Clone)]
pub struct Identity {
    key: SigningKey,
    pub incarnation: Incarnation,
    /// Drawn at every start of the process.
    pub boot: BootId,
    /// Grows with every start; settled before the node talks to anyone.
    pub boot_number: u64,
    /// What was signed and verified here.
    pub signatures: SubmitSignatures,
}

impl Identity {
    pub fn new(secret: [u8; 32], incarnation: Incarnation, boot: BootId) -> Self {
        Self {
            key: SigningKey::from_bytes(&secret),
            incarnation,
            boot,
            boot_number: 0,
            signatures: SubmitSignatures::default(),
        }
    }
    pub fn signing_key(&self) -> &SigningKey {
        &self.key
    }
    /// The submit of a job by this node.
    pub fn sign_submit(&self, job: JobId, spec: JobSpec) -> Command {
        self.signatures.sign(&self.key, job, spec)
    }
    pub fn peer(&self) -> PeerId {
        PeerId(self.key.verifying_key().to_bytes())
    }
    pub fn member(&self) -> MemberId {
        MemberId { peer: self.peer(), incarnation: self.incarnation }
    }
    /// The 32 secret bytes, for libp2p's own key type.
    pub fn secret_bytes(&self) -> [u8; 32] {
        self.key.to_bytes()
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the key.
        write!(f, "Identity({:?})", self.member())
    }
}

/// Reads the identity of a data folder; `quorate node` calls this. The boot id is drawn anew.
pub fn load(dir: &Path, entropy: &dyn Entropy) -> Result<Identity, IdentityError> {
    let key_path = dir.join(KEY_FILE);
    let key = read_hex::<32>(dir, &key_path, true, "64 hexadecimal digits")?;
    let incarnation = read_hex::<8>(dir, &dir.join(INCARNATION_FILE), false, "16 hexadecimal digits")?;
    Ok(Identity::new(key, Incarnation(u64::from_be_bytes(incarnation)), BootId(entropy.bytes())))
}

/// Reads the identity of a data folder, or draws and writes one when the folder has none; creates the folder.
pub fn load_or_create(dir: &Path, entropy: &dyn Entropy) -> Result<Identity, IdentityError> {
    create_dir(dir)?;
    let key_path = dir.join(KEY_FILE);
    if !exists(&key_path)? {
        // The incarnation goes first: a key without one would be a folder that is damaged, an incarnation without a
        // key is simply drawn again.
        write_incarnation(dir, Incarnation(entropy.u64()))?;
        write_private(&key_path, &hex::encode(entropy.bytes::<32>()))?;
    }
    load(dir, entropy)
}

/// Gives the folder a new life, after its disk was found to have forgotten what it promised.
pub fn renew_incarnation(dir: &Path, entropy: &dyn Entropy) -> Result<Incarnation, IdentityError> {
    let incarnation = Incarnation(entropy.u64());
    write_incarnation(dir, incarnation)?;
    Ok(incarnation)
}

fn write_incarnation(dir: &Path, incarnation: Incarnation) -> Result<(), IdentityError> {
    write_private(&dir.join(INCARNATION_FILE), &hex::encode(incarnation.0.to_be_bytes()))
}

/// Reads the key of the folder's authority.
pub fn load_authority(dir: &Path) -> Result<SigningKey, IdentityError> {
    let path = dir.join(AUTHORITY_FILE);
    if !exists(&path)? {
        return Err(IdentityError::NoAuthority { path });
    }
    read_hex::<32>(dir, &path, true, "64 hexadecimal digits").map(|key| SigningKey::from_bytes(&key))
}

/// Draws the key of an authority into the folder. One that is there stays.
pub fn load_or_create_authority(dir: &Path, entropy: &dyn Entropy) -> Result<SigningKey, IdentityError> {
    create_dir(dir)?;
    let path = dir.join(AUTHORITY_FILE);
    if !exists(&path)? {
        write_private(&path, &hex::encode(entropy.bytes::<32>()))?;
    }
    load_authority(dir)
}

/// What the folder's node shows to be trusted, if it was given something.
pub fn load_admission(dir: &Path) -> Result<Option<Admission>, IdentityError> {
    let path = dir.join(ADMISSION_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(IdentityError::Io { what: "reading", path, source }),
    };
    let damaged = |_| IdentityError::Damaged { path, expected: "a line that `quorate admit` printed" };
    text.parse().map(Some).map_err(damaged)
}

pub fn write_admission(dir: &Path, admission: &Admission) -> Result<(), IdentityError> {
    write_private(&dir.join(ADMISSION_FILE), &admission.to_string())
}

/// What the nodes of one network share. Whoever has it may join; it never leaves the folder but in a join line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NetworkSecret([u8; 32]);

impl NetworkSecret {
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
    pub fn generate(entropy: &dyn Entropy) -> Self {
        Self(entropy.bytes())
    }
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for NetworkSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NetworkSecret(..)")
    }
}

pub fn load_secret(dir: &Path) -> Result<NetworkSecret, IdentityError> {
    read_hex::<32>(dir, &dir.join(SECRET_FILE), true, "64 hexadecimal digits").map(NetworkSecret)
}

/// Reads the folder's network secret, or writes `wanted` (a drawn one when `None`) where there is none. A folder that
/// has one and is asked to hold another is an error: moving a node between networks takes a new folder.
pub fn load_or_create_secret(
    dir: &Path,
    wanted: Option<NetworkSecret>,
    entropy: &dyn Entropy,
) -> Result<NetworkSecret, IdentityError> {
    create_dir(dir)?;
    let path = dir.join(SECRET_FILE);
    if exists(&path)? {
        let found = load_secret(dir)?;
        return match wanted {
            Some(wanted) if wanted != found => Err(IdentityError::OtherNetwork { path }),
            _ => Ok(found),
        };
    }
    let secret = wanted.unwrap_or_else(|| NetworkSecret::generate(entropy));
    write_private(&path, &hex::encode(secret.0))?;
    Ok(secret)
}

/// The line that lets another machine join: the secret, and `host:port` (or multiaddr) of nodes to start from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinLine {
    pub secret: NetworkSecret,
    pub addresses: Vec<String>,
    /// Public keys of the network's authorities.
    pub authorities: Vec<PeerId>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinLineError {
    #[error("a join line starts with `{JOIN_PREFIX}`; copy the whole line that `quorate init` printed")]
    Prefix,
    #[error("a join line looks like `{JOIN_PREFIX}SECRET@host:port,host:port`; the `@` is missing")]
    Shape,
    #[error("the secret in the join line is damaged: it must be 64 hexadecimal digits. Copy the whole line again")]
    Secret,
    #[error("the join line names no address: expected host:port after the `@`")]
    NoAddress,
    #[error("the join line's address {address:?} is not usable: {reason}")]
    Address { address: String, reason: String },
    #[error("the join line's authority {authority:?} is no public key. Copy the whole line again")]
    Authority { authority: String },
    #[error("the join line is too long: at most {JOIN_ADDRESSES_MAX} addresses")]
    TooLong,
}

impl std::fmt::Display for JoinLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{JOIN_PREFIX}{}@{}", hex::encode(self.secret.0), self.addresses.join(","))?;
        for (at, authority) in self.authorities.iter().enumerate() {
            write!(f, "{}{authority}", if at == 0 { '#' } else { ',' })?;
        }
        Ok(())
    }
}

impl FromStr for JoinLine {
    type Err = JoinLineError;
    fn from_str(text: &str) -> Result<Self, JoinLineError> {
        let text = text.trim();
        if text.len() > JOIN_LINE_BYTES_MAX {
            return Err(JoinLineError::TooLong);
        }
        let rest = text.strip_prefix(JOIN_PREFIX).ok_or(JoinLineError::Prefix)?;
        let (secret, addresses) = rest.split_once('@').ok_or(JoinLineError::Shape)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(secret, &mut bytes).map_err(|_| JoinLineError::Secret)?;
        let (addresses, authorities) = addresses.split_once('#').unwrap_or((addresses, ""));
        let authorities: Vec<PeerId> = authorities
            .split(',')
            .filter(|authority| !authority.is_empty())
            .map(|authority| {
                authority.parse().map_err(|_| JoinLineError::Authority { authority: authority.to_owned() })
            })
            .collect::<Result<_, _>>()?;
        if authorities.len() > JOIN_AUTHORITIES_MAX {
            return Err(JoinLineError::TooLong);
        }
        let addresses: Vec<String> =
            addresses.split(',').map(str::trim).filter(|address| !address.is_empty()).map(str::to_owned).collect();
        if addresses.is_empty() {
            return Err(JoinLineError::NoAddress);
        }
        if addresses.len() > JOIN_ADDRESSES_MAX {
            return Err(JoinLineError::TooLong);
        }
        for address in &addresses {
            crate::config::address::Bootstrap::from_str(address)
                .map_err(|error| JoinLineError::Address { address: address.clone(), reason: error.to_string() })?;
        }
        Ok(Self { secret: NetworkSecret(bytes), addresses, authorities })
    }
}

/// Whether the folder holds any part of a node.
fn is_begun(dir: &Path) -> bool {
    let parts = [KEY_FILE, INCARNATION_FILE, SECRET_FILE, crate::config::FILE_NAME];
    parts.into_iter().any(|part| dir.join(part).exists())
}

/// Whether a folder that was set up has all that makes it a node.
pub fn check_whole(dir: &Path, entropy: &dyn Entropy) -> Result<(), IdentityError> {
    load_secret(dir)?;
    load(dir, entropy).map(drop)
}

fn exists(path: &Path) -> Result<bool, IdentityError> {
    path.try_exists().map_err(|source| IdentityError::Io { what: "looking at", path: path.to_owned(), source })
}

/// Makes the folder, unless it holds parts of a node already.
fn create_dir(dir: &Path) -> Result<(), IdentityError> {
    match is_begun(dir) {
        true => Ok(()),
        false => Ok(folder::create(dir)?),
    }
}

fn read_hex<const N: usize>(
    dir: &Path,
    path: &Path,
    secret: bool,
    expected: &'static str,
) -> Result<[u8; N], IdentityError> {
    let fault = |source| IdentityError::Io { what: "reading", path: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let (path, dir) = (path.to_owned(), dir.to_owned());
            return Err(match is_begun(&dir) {
                true => IdentityError::Lost { path, dir },
                false => IdentityError::Missing { path, dir },
            });
        }
        other => other.map_err(fault)?,
    };
    let mode = file.metadata().map_err(fault)?.mode() & 0o777;
    if secret && mode & 0o077 != 0 {
        return Err(IdentityError::Exposed { path: path.to_owned(), mode });
    }
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut text).map_err(fault)?;
    let mut bytes = [0; N];
    hex::decode_to_slice(text.trim_ascii(), &mut bytes)
        .map_err(|_| IdentityError::Damaged { path: path.to_owned(), expected })?;
    Ok(bytes)
}

/// Writes beside, syncs, renames, syncs the folder: a crash leaves no half-written key.
fn write_private(path: &Path, text: &str) -> Result<(), IdentityError> {
    let temporary = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        match path.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(|source| IdentityError::Io { what: "writing", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seams::entropy::SeededEntropy;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_identity_outlives_the_process_and_its_boot_id_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("node");
        let entropy = SeededEntropy::new(1);
        let first = load_or_create(&folder, &entropy).unwrap();
        let second = load_or_create(&folder, &entropy).unwrap();
        assert_eq!(first.member(), second.member());
        assert_ne!(first.boot, second.boot);
        let mode = fs::metadata(folder.join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let renewed = renew_incarnation(&folder, &entropy).unwrap();
        let third = load(&folder, &entropy).unwrap();
        assert_eq!((third.peer(), third.incarnation), (first.peer(), renewed));
        assert_ne!(renewed, first.incarnation);
    }

    #[test]
    fn a_damaged_missing_or_exposed_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let entropy = SeededEntropy::new(1);
        assert!(matches!(load(dir.path(), &entropy), Err(IdentityError::Missing { .. })));
        load_or_create(dir.path(), &entropy).unwrap();
        let key = dir.path().join(KEY_FILE);
        fs::write(&key, "not a key").unwrap();
        let error = load(dir.path(), &entropy).unwrap_err();
        assert!(error.to_string().contains("identity.key is damaged"), "{error}");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        let error = load(dir.path(), &entropy).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    /// Goal: no circle of advice. Method: each part taken away in turn; what is said names the part and a way out that
    /// does not lead back to where the user is.
    #[test]
    fn a_folder_that_lost_a_part_is_said_to_have_lost_it() {
        let entropy = SeededEntropy::new(1);
        for part in [KEY_FILE, INCARNATION_FILE, SECRET_FILE] {
            let dir = tempfile::tempdir().unwrap();
            load_or_create_secret(dir.path(), None, &entropy).unwrap();
            load_or_create(dir.path(), &entropy).unwrap();
            check_whole(dir.path(), &entropy).unwrap();
            fs::remove_file(dir.path().join(part)).unwrap();
            let error = check_whole(dir.path(), &entropy).unwrap_err();
            assert!(matches!(error, IdentityError::Lost { .. }), "{error}");
            let text = error.to_string();
            for word in [part, "from a copy", "move the folder away", "as a new member"] {
                assert!(text.contains(word), "{word:?} is not in {text}");
            }
        }
    }

    #[test]
    fn a_folder_keeps_the_secret_of_its_network() {
        let dir = tempfile::tempdir().unwrap();
        let entropy = SeededEntropy::new(1);
        let secret = load_or_create_secret(dir.path(), None, &entropy).unwrap();
        assert_eq!(load_or_create_secret(dir.path(), Some(secret), &entropy).unwrap(), secret);
        assert_eq!(load_secret(dir.path()).unwrap(), secret);
        let other = NetworkSecret::from_bytes([9; 32]);
        let error = load_or_create_secret(dir.path(), Some(other), &entropy).unwrap_err();
        assert!(matches!(error, IdentityError::OtherNetwork { .. }));
    }

    #[test]
    fn an_authority_and_its_admissions_stay_in_their_folders() {
        let dir = tempfile::tempdir().unwrap();
        let entropy = SeededEntropy::new(1);
        assert!(matches!(load_authority(dir.path()), Err(IdentityError::NoAuthority { .. })));
        let key = load_or_create_authority(dir.path(), &entropy).unwrap();
        assert_eq!(load_or_create_authority(dir.path(), &entropy).unwrap(), key);
        let mode = fs::metadata(dir.path().join(AUTHORITY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(load_admission(dir.path()).unwrap(), None);
        let admission = Admission::sign(&key, PeerId([3; 32]), quorate_protocols::ids::Millis(5));
        write_admission(dir.path(), &admission).unwrap();
        assert_eq!(load_admission(dir.path()).unwrap(), Some(admission));
        fs::write(dir.path().join(ADMISSION_FILE), "hello").unwrap();
        assert!(load_admission(dir.path()).unwrap_err().to_string().contains("quorate admit"));
    }

    #[test]
    fn a_join_line_reads_back_and_its_faults_are_explained() {
        let line = JoinLine {
            secret: NetworkSecret::from_bytes([7; 32]),
            addresses: vec!["192.168.1.4:7420".into(), "box.local:7420".into()],
            authorities: vec![],
        };
        let authority = SigningKey::from_bytes(&[1; 32]).verifying_key().to_bytes();
        let ruled = JoinLine { authorities: vec![PeerId(authority), PeerId(authority)], ..line.clone() };
        assert_eq!(ruled.to_string().parse(), Ok(ruled.clone()));
        assert!(matches!(format!("{line}#bob").parse::<JoinLine>(), Err(JoinLineError::Authority { .. })));
        assert_eq!(line.to_string().parse(), Ok(line.clone()));
        assert_eq!(format!("  {line}\n").parse(), Ok(line.clone()));
        assert_eq!("hello".parse::<JoinLine>(), Err(JoinLineError::Prefix));
        assert_eq!("quorate1-join:abc".parse::<JoinLine>(), Err(JoinLineError::Shape));
        assert_eq!("quorate1-join:abc@h:1".parse::<JoinLine>(), Err(JoinLineError::Secret));
        let text = line.to_string();
        let bare = &text[..=text.find('@').unwrap()];
        assert_eq!(bare.parse::<JoinLine>(), Err(JoinLineError::NoAddress));
        assert!(matches!(format!("{bare}nowhere").parse::<JoinLine>(), Err(JoinLineError::Address { .. })));
        assert_eq!("q".repeat(100_000).parse::<JoinLine>(), Err(JoinLineError::TooLong));
        assert!(!format!("{line:?}").contains("7, 7"), "a secret is never printed by accident");
    }
}
