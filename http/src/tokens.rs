//! Tokens that the operator mints: who has them, what they may do, until when.
//!
//! The node keeps hashes, in a file of its data folder that is replaced whole and synced before a mint is answered. A
//! revocation holds in memory before it is on the disk: from that moment on the token opens nothing, and what was
//! being answered to its holder breaks off. The same happens when a token ends by itself. The file's own token is the
//! operator's: it is not listed, cannot be revoked but by removing the file, and may do everything.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quorate_api::{ErrorCode, MintRequest, TOKEN_FOR_MS_MAX, TOKEN_FOR_MS_MIN, TOKEN_OWNER_BYTES_MAX, TokenInfo, Verb};
use quorate_node::seams::run_blocking;
use quorate_protocols::ids::Millis;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::error::ApiError;
use super::guard::Token;
use super::limits::{TOKENS_FILE_BYTES_MAX, TOKENS_MAX};

/// Holds the minted tokens of a data folder.
pub const FILE_NAME: &str = "api.tokens";

/// What a minted token begins with, so that one is known when it turns up where it should not.
const PREFIX: &str = "quorate-token-";

/// Version of the file.
const VERSION: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    #[error("{what} {}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not a list of tokens: {reason}. Restore it, or remove it: then no minted token holds any more", path.display())]
    Damaged { path: PathBuf, reason: String },
}

#[derive(Serialize, Deserialize)]
struct FileBody {
    version: u32,
    tokens: Vec<Record>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    id: String,
    /// Of the token's text, in hexadecimal digits.
    hash: Token,
    owner: String,
    may: Vec<Verb>,
    created_at: u64,
    expires_at: u64,
}

/// A minted token that holds, or did until a moment ago.
#[derive(Debug)]
pub struct Minted {
    record: Record,
    revoked: CancellationToken,
    /// Requests that it may have at once.
    pub requests: Arc<Semaphore>,
    used_at: AtomicU64,
}

impl Minted {
    fn new(record: Record, requests_max: usize) -> Arc<Self> {
        let requests = Arc::new(Semaphore::new(requests_max));
        Arc::new(Self { record, revoked: CancellationToken::new(), requests, used_at: AtomicU64::new(0) })
    }
    pub fn id(&self) -> &str {
        &self.record.id
    }
    pub fn owner(&self) -> &str {
        &self.record.owner
    }
    pub fn may(&self, verb: Verb) -> bool {
        self.record.may.contains(&verb)
    }
    fn info(&self) -> TokenInfo {
        let Record { id, owner, may, created_at, expires_at, .. } = self.record.clone();
        let used_at = Some(Millis(self.used_at.load(Ordering::Relaxed))).filter(|at| at.0 > 0);
        let (created_at, expires_at) = (Millis(created_at), Millis(expires_at));
        TokenInfo { token: id, owner, may, created_at, expires_at, used_at }
    }
    /// Returns once the token is revoked or has ended.
    pub async fn ended(self: Arc<Self>, now: Millis) {
        let left = Duration::from_millis(self.record.expires_at.saturating_sub(now.0));
        // Revoked, or timed out: either way it is over.
        let _ = tokio::time::timeout(left, self.revoked.cancelled()).await;
    }
}

/// Who asks.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Whoever can read the data folder.
    Operator,
    Token(Arc<Minted>),
}

impl Caller {
    pub fn may(&self, verb: Verb) -> bool {
        match self {
            Self::Operator => true,
            Self::Token(minted) => minted.may(verb),
        }
    }
}

/// All tokens of one node.
pub struct Tokens {
    operator: Token,
    path: PathBuf,
    requests_max: usize,
    minted: Mutex<BTreeMap<Token, Arc<Minted>>>,
    /// Held while the file is written, so that two changes are written in the order in which they were made.
    writing: tokio::sync::Mutex<()>,
}

impl Tokens {
    /// Reads the file of a data folder. Each token may have `requests_max` requests at once.
    pub fn load(dir: &Path, operator: Token, requests_max: usize) -> Result<Self, TokensError> {
        let path = dir.join(FILE_NAME);
        let fault = |source| TokensError::Io { what: "reading", path: path.clone(), source };
        let damaged = |reason: String| TokensError::Damaged { path: path.clone(), reason };
        let records = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(fault(error)),
            Ok(text) if text.len() > TOKENS_FILE_BYTES_MAX => return Err(damaged("it is too long".to_owned())),
            Ok(text) => {
                let body: FileBody = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
                match body.version {
                    VERSION => body.tokens,
                    other => return Err(damaged(format!("it has version {other}, not {VERSION}"))),
                }
            }
        };
        let minted = records.into_iter().map(|record| (record.hash, Minted::new(record, requests_max)));
        let minted = Mutex::new(minted.collect());
        Ok(Self { operator, path, requests_max, minted, writing: tokio::sync::Mutex::new(()) })
    }

    /// Whose token this text is, if it holds now.
    pub fn caller(&self, offered: &[u8], now: Millis) -> Option<Caller> {
        let offered = Token::new(offered);
        if offered == self.operator {
            return Some(Caller::Operator);
        }
        let minted = self.minted.lock().get(&offered).cloned()?;
        if minted.revoked.is_cancelled() || now.0 >= minted.record.expires_at {
            return None;
        }
        minted.used_at.store(now.0, Ordering::Relaxed);
        Some(Caller::Token(minted))
    }

    /// In the order in which they were minted.
    pub fn list(&self) -> Vec<TokenInfo> {
        let mut all: Vec<_> = self.minted.lock().values().map(|minted| minted.info()).collect();
        all.sort_by(|one, other| (one.created_at, &one.token).cmp(&(other.created_at, &other.token)));
        all
    }

    /// A new token and its text, once it is on the disk. Those that have ended make room.
    pub async fn mint(
        &self,
        request: MintRequest,
        now: Millis,
        random: [[u8; 16]; 3],
    ) -> Result<(TokenInfo, String), ApiError> {
        let MintRequest { owner, mut may, for_ms } = check(request)?;
        may.sort_unstable();
        may.dedup();
        let _turn = self.writing.lock().await;
        let [id, one, other] = random;
        let secret = format!("{PREFIX}{}{}", hex::encode(one), hex::encode(other));
        let record = Record {
            id: hex::encode(&id[..8]),
            hash: Token::new(secret.as_bytes()),
            owner,
            may,
            created_at: now.0,
            expires_at: now.0.saturating_add(for_ms),
        };
        let mut records: Vec<_> = self.minted.lock().values().map(|minted| minted.record.clone()).collect();
        records.retain(|record| record.expires_at > now.0);
        if records.len() >= TOKENS_MAX {
            return Err(ApiError::new(ErrorCode::Busy, format!("{TOKENS_MAX} tokens hold, and no more may"))
                .hint("revoke one that is not used: `quorate token ls` says when each was"));
        }
        records.push(record.clone());
        self.write(records).await?;
        let minted = Minted::new(record.clone(), self.requests_max);
        let info = minted.info();
        let mut all = self.minted.lock();
        all.retain(|_, minted| minted.record.expires_at > now.0);
        all.insert(record.hash, minted);
        Ok((info, secret))
    }

    /// From now on the token opens nothing. An error says that it may hold again after a restart.
    pub async fn revoke(&self, id: &str) -> Result<TokenInfo, ApiError> {
        let revoked = {
            let mut all = self.minted.lock();
            let hash = all.iter().find(|(_, minted)| minted.record.id == id).map(|(hash, _)| *hash);
            hash.and_then(|hash| all.remove(&hash))
        };
        let Some(revoked) = revoked else {
            return Err(
                ApiError::not_found(format!("no token {id} holds")).hint("`quorate token ls` lists those that do")
            );
        };
        revoked.revoked.cancel();
        let _turn = self.writing.lock().await;
        let records = self.minted.lock().values().map(|minted| minted.record.clone()).collect();
        self.write(records).await.map_err(|error| {
            ApiError::internal(format!("the token is revoked until this node restarts: {}", error.body.message)).hint(
                "make room on the disk of its data folder, then revoke any token or mint one: both write the list",
            )
        })?;
        Ok(revoked.info())
    }

    async fn write(&self, tokens: Vec<Record>) -> Result<(), ApiError> {
        let path = self.path.clone();
        let written = run_blocking(move || -> io::Result<()> {
            let text = serde_json::to_vec_pretty(&FileBody { version: VERSION, tokens })?;
            replace(&path, &text)
        });
        written.await.map_err(|error| ApiError::internal(format!("writing {}: {error}", self.path.display())))
    }
}

/// Writes beside, syncs, renames, syncs the folder: a crash leaves the old list or the new one.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("tokens.new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn check(request: MintRequest) -> Result<MintRequest, ApiError> {
    let MintRequest { owner, may, for_ms } = &request;
    let wrong = |text: String| Err(ApiError::bad_request(text));
    if owner.trim().is_empty() || owner.len() > TOKEN_OWNER_BYTES_MAX || owner.chars().any(char::is_control) {
        return wrong(format!("an owner has a name of 1 to {TOKEN_OWNER_BYTES_MAX} bytes without control characters"));
    }
    if may.is_empty() {
        return wrong("a token that may do nothing is of no use: say what it may".to_owned());
    }
    if may.contains(&Verb::Operate) {
        return wrong(format!(
            "{} is not given away: it is the operator's, whose token is in the data folder",
            Verb::Operate
        ));
    }
    if !(TOKEN_FOR_MS_MIN..=TOKEN_FOR_MS_MAX).contains(for_ms) {
        return wrong(format!("a token holds for {TOKEN_FOR_MS_MIN} to {TOKEN_FOR_MS_MAX} ms, a minute to a year"));
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use quorate_node::seams::TaskGroup;

    use super::*;

    const DAY: u64 = 24 * 3600 * 1000;

    fn tokens(dir: &Path) -> Tokens {
        Tokens::load(dir, Token::new(b"operator"), 4).unwrap()
    }

    fn random(seed: u8) -> [[u8; 16]; 3] {
        [seed, seed + 100, seed + 200].map(|byte| [byte; 16])
    }

    fn wanted(owner: &str, may: &[Verb]) -> MintRequest {
        MintRequest { owner: owner.to_owned(), may: may.to_vec(), for_ms: DAY }
    }

    /// As a task of a node does.
    async fn mint(
        tokens: &Tokens,
        request: MintRequest,
        now: Millis,
        random: [[u8; 16]; 3],
    ) -> Result<(TokenInfo, String), ApiError> {
        TaskGroup::threaded().scope(tokens.mint(request, now, random)).await
    }

    async fn revoke(tokens: &Tokens, id: &str) -> Result<TokenInfo, ApiError> {
        TaskGroup::threaded().scope(tokens.revoke(id)).await
    }

    fn id_of(caller: Option<Caller>) -> Option<String> {
        match caller? {
            Caller::Operator => Some("operator".to_owned()),
            Caller::Token(minted) => Some(minted.id().to_owned()),
        }
    }

    /// Goal: a token holds for its time, on this node and after a restart, and no file has its text.
    #[tokio::test]
    async fn a_token_holds_until_it_ends_and_only_its_hash_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = tokens(dir.path());
        let (info, secret) = mint(&first, wanted("alice", &[Verb::JobRead]), Millis(1_000), random(1)).await.unwrap();
        assert_eq!((info.created_at, info.expires_at, info.used_at), (Millis(1_000), Millis(1_000 + DAY), None));
        let text = fs::read_to_string(dir.path().join(FILE_NAME)).unwrap();
        assert!(!text.contains(&secret) && text.contains("alice"));
        for tokens in [&first, &tokens(dir.path())] {
            let found = tokens.caller(secret.as_bytes(), Millis(2_000));
            let Some(Caller::Token(minted)) = &found else { panic!("{found:?}") };
            assert!(minted.may(Verb::JobRead) && !minted.may(Verb::JobSubmit) && !minted.may(Verb::Operate));
            assert_eq!(tokens.list()[0].used_at, Some(Millis(2_000)));
            assert!(tokens.caller(secret.as_bytes(), Millis(1_000 + DAY)).is_none(), "it has ended");
            assert!(tokens.caller(&secret.as_bytes()[1..], Millis(2_000)).is_none());
            assert_eq!(id_of(tokens.caller(b"operator", Millis(u64::MAX))), Some("operator".to_owned()));
        }
    }

    #[tokio::test]
    async fn a_revoked_token_opens_nothing_at_once_and_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let tokens_now = tokens(dir.path());
        let (one, secret) = mint(&tokens_now, wanted("alice", &[Verb::JobRead]), Millis(1), random(2)).await.unwrap();
        let (other, kept) = mint(&tokens_now, wanted("bob", &[Verb::JobRead]), Millis(1), random(3)).await.unwrap();
        let Some(Caller::Token(minted)) = tokens_now.caller(secret.as_bytes(), Millis(2)) else { panic!() };
        let ended = tokio::spawn(minted.ended(Millis(2)));
        assert_eq!(revoke(&tokens_now, &one.token).await.unwrap().token, one.token);
        ended.await.unwrap();
        for tokens in [&tokens_now, &tokens(dir.path())] {
            assert!(tokens.caller(secret.as_bytes(), Millis(2)).is_none());
            assert_eq!(id_of(tokens.caller(kept.as_bytes(), Millis(2))), Some(other.token.clone()));
            assert_eq!(tokens.list().len(), 1);
        }
        assert_eq!(revoke(&tokens_now, &one.token).await.unwrap_err().code(), ErrorCode::NotFound);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_token_that_ends_was_being_answered_ends_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = tokens(dir.path());
        let request = MintRequest { for_ms: TOKEN_FOR_MS_MIN, ..wanted("alice", &[Verb::JobRead]) };
        let (_, secret) = mint(&tokens, request, Millis(0), random(4)).await.unwrap();
        let Some(Caller::Token(minted)) = tokens.caller(secret.as_bytes(), Millis(10_000)) else { panic!() };
        let began = tokio::time::Instant::now();
        minted.ended(Millis(10_000)).await;
        assert_eq!(began.elapsed().as_secs(), 50);
    }

    /// Goal: the list is bounded, what has ended makes room, and what is no token is refused.
    #[tokio::test]
    async fn wishes_for_tokens_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = tokens(dir.path());
        let may = [Verb::JobRead];
        for request in [
            wanted("", &may),
            wanted("a\nb", &may),
            wanted(&"x".repeat(TOKEN_OWNER_BYTES_MAX + 1), &may),
            wanted("alice", &[]),
            wanted("alice", &[Verb::JobRead, Verb::Operate]),
            MintRequest { for_ms: TOKEN_FOR_MS_MIN - 1, ..wanted("alice", &may) },
            MintRequest { for_ms: TOKEN_FOR_MS_MAX + 1, ..wanted("alice", &may) },
        ] {
            let refused = mint(&tokens, request.clone(), Millis(1), random(5)).await.unwrap_err();
            assert_eq!(refused.code(), ErrorCode::BadRequest, "{request:?}");
        }
        // As many as there may be, without writing a file for each.
        for at in 0..TOKENS_MAX {
            let record = Record {
                id: format!("{at:016x}"),
                hash: Token::new(at.to_string().as_bytes()),
                owner: "alice".to_owned(),
                may: may.to_vec(),
                created_at: 1,
                expires_at: 100,
            };
            tokens.minted.lock().insert(record.hash, Minted::new(record, 1));
        }
        let full = mint(&tokens, wanted("bob", &may), Millis(99), random(6)).await.unwrap_err();
        assert_eq!(full.code(), ErrorCode::Busy);
        mint(&tokens, wanted("bob", &may), Millis(100), random(7)).await.unwrap();
        assert_eq!(tokens.list().len(), 1, "those that have ended are forgotten");
    }

    #[test]
    fn a_damaged_list_is_no_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "{}", "{\"version\": 2, \"tokens\": []}"] {
            fs::write(dir.path().join(FILE_NAME), text).unwrap();
            let error = Tokens::load(dir.path(), Token::new(b"operator"), 4).err().expect("damaged").to_string();
            assert!(error.contains(FILE_NAME) && error.contains("remove it"), "{error}");
        }
    }
}
