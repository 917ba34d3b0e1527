//! The support of the front-door tests: the built binary, a testnet that ends with the test, files with known content.

#![allow(dead_code)] // Each test file is a crate of its own and uses its own part of this.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use quorate_testnet::{Client, Testnet, UpOptions};
use serde_json::Value;

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_quorate");

/// How long a test waits for something that should happen in a moment, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One testnet at a time: seven nodes are enough for two cores.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A testnet in a temporary folder. Its processes end when it is dropped.
pub struct Net {
    pub testnet: Testnet,
    pub dir: tempfile::TempDir,
    pub runtime: tokio::runtime::Runtime,
    _turn: MutexGuard<'static, ()>,
}

pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}\n{}", self.stdout, self.stderr);
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {:?}", self.stdout))
    }
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }
    /// Failed with this code and says all of these words on stderr.
    pub fn fails(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        let text = self.stderr.to_lowercase();
        for word in words {
            assert!(text.contains(&word.to_lowercase()), "{word:?} is not in: {}", self.stderr);
        }
        assert!(!text.contains("panicked"), "{}", self.stderr);
        self
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs the binary with these arguments and nothing of the environment that could lead it to another network.
pub fn quorate<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Ran {
    command().args(arguments).output().expect("the binary runs").into()
}

pub fn command() -> Command {
    let mut command = Command::new(BINARY);
    command.env_remove("QUORATE_TESTNET_DIR").env_remove("QUORATE_NODE").env_remove("RUST_LOG");
    command
}

/// A node promises nothing of the last GiB of its disk, and the largest test writes about two.
const DISK_FREE_MIN: u64 = 4 << 30;

/// A full disk would show as puts that find no room, which reads like a fault of the nodes.
fn assert_free_disk(folder: &Path) {
    let disk = rustix::fs::statvfs(folder).expect("the disk of the temporary folder");
    let free = disk.f_bavail * disk.f_frsize;
    assert!(
        free >= DISK_FREE_MIN,
        "the disk of {} has {} MiB free and the tests of whole nodes need {} MiB: make room, or set TMPDIR",
        folder.display(),
        free >> 20,
        DISK_FREE_MIN >> 20
    );
}

impl Net {
    pub fn up(nodes: usize) -> Self {
        Self::with(nodes, |_| ())
    }

    pub fn with(nodes: usize, change: impl FnOnce(&mut UpOptions)) -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let dir = tempfile::tempdir().expect("a temporary folder");
        assert_free_disk(dir.path());
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let mut options = UpOptions::new(dir.path().join("net"), nodes, BINARY);
        change(&mut options);
        let testnet = match runtime.block_on(Testnet::up(options)) {
            Ok((testnet, took)) => {
                println!("{nodes} nodes up in {took:?}");
                testnet.owned()
            }
            Err(error) => panic!("the testnet did not come up: {error}"),
        };
        Self { testnet, dir, runtime, _turn: turn }
    }

    /// Runs the binary against node `index`.
    pub fn at(&self, index: usize, arguments: &[&str]) -> Ran {
        let mut command = command();
        command.env("QUORATE_TESTNET_DIR", self.testnet.dir()).args(arguments).args(["--node", &index.to_string()]);
        command.output().expect("the binary runs").into()
    }

    /// Runs a `testnet` subcommand on this testnet.
    pub fn testnet(&self, arguments: &[&str]) -> Ran {
        let mut command = command();
        command.env("QUORATE_TESTNET_DIR", self.testnet.dir()).arg("testnet").args(arguments);
        command.output().expect("the binary runs").into()
    }

    pub fn client(&self, index: usize) -> Client {
        self.testnet.client(index).expect("the node is up")
    }

    pub fn get(&self, index: usize, path: &str) -> Value {
        self.runtime.block_on(self.client(index).get(path)).expect("the node answers")
    }

    pub fn restart(&self, index: usize) {
        self.runtime.block_on(async { self.testnet.restart(index).await }).expect("the node restarts");
    }

    pub fn put(&self, index: usize, file: &Path) -> Value {
        self.at(index, &["object", "put", file.to_str().unwrap(), "--json"]).json()
    }

    /// The object's bytes as node `index` reads them.
    pub fn read(&self, index: usize, object: &str) -> Vec<u8> {
        let out = self.dir.path().join(format!("read-{index}"));
        self.at(index, &["object", "get", object, "-o", out.to_str().unwrap()]).ok();
        let bytes = std::fs::read(&out).expect("the file was written");
        std::fs::remove_file(out).expect("it can be removed");
        bytes
    }

    /// A file of `bytes` bytes that no other call with another seed makes.
    pub fn file(&self, name: &str, bytes: usize, seed: u64) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content(bytes, seed)).expect("a file can be written");
        path
    }

    /// The primary of a quorum as node `index` believes it to be, once there is one.
    pub fn primary(&self, index: usize, quorum: &str) -> usize {
        wait("a primary", || {
            let rows = self.at(index, &["quorum", "ls", "--json"]);
            let rows: Value = serde_json::from_str(&rows.stdout).ok()?;
            let row = rows.as_array()?.iter().find(|row| row["quorum"] == quorum)?.clone();
            let primary = row["primary"].as_str()?.parse().ok()?;
            self.testnet.index_of(primary)
        })
    }
}

/// Bytes that do not compress and do not repeat.
pub fn content(bytes: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// Looks until there is an answer.
pub fn wait<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_within(PATIENCE, what, look)
}

/// The same for what takes its time by itself.
pub fn wait_within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} for {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}
