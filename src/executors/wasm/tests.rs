//! The functions of WASI preview 1 as a module meets them. Method: a module that passes each call on, so that a test
//! says what a library of C, Go or Python would call, and reads what came back from the module's memory.

use futures::FutureExt;
use proptest::prelude::*;
use wasmtime::{Engine, Instance, Linker, Module, Val};

use super::errno::Errno;
use super::rights::{self as right, Rights};
use super::*;

/// Parameters of the functions: a file descriptor, flags or counts (`i`), a text (`t`) and its length (`n`), vectors
/// (`v`), a buffer (`b`), a place for the answer (`r`), all of 32 bits; and numbers of 64 (`I`).
const FUNCTIONS: [(&str, &str); 32] = [
    ("clock_time_get", "iIr"),
    ("fd_advise", "fIIi"),
    ("fd_allocate", "fII"),
    ("fd_close", "f"),
    ("fd_fdstat_get", "fr"),
    ("fd_fdstat_set_flags", "fi"),
    ("fd_fdstat_set_rights", "fII"),
    ("fd_filestat_get", "fr"),
    ("fd_filestat_set_size", "fI"),
    ("fd_filestat_set_times", "fIIi"),
    ("fd_pread", "fviIr"),
    ("fd_prestat_get", "fr"),
    ("fd_prestat_dir_name", "fbi"),
    ("fd_pwrite", "fviIr"),
    ("fd_read", "fvir"),
    ("fd_readdir", "fbiIr"),
    ("fd_renumber", "ff"),
    ("fd_seek", "fIir"),
    ("fd_sync", "f"),
    ("fd_tell", "fr"),
    ("fd_write", "fvir"),
    ("path_create_directory", "ftn"),
    ("path_filestat_get", "fitnr"),
    ("path_filestat_set_times", "fitnIIi"),
    ("path_link", "fitnftn"),
    ("path_open", "fitniIIir"),
    ("path_readlink", "ftnbir"),
    ("path_remove_directory", "ftn"),
    ("path_rename", "ftnftn"),
    ("path_symlink", "tnftn"),
    ("path_unlink_file", "ftn"),
    ("poll_oneoff", "bbir"),
];

const SOCKETS: [(&str, &str); 4] =
    [("sock_accept", "fir"), ("sock_recv", "fviirr"), ("sock_send", "fviir"), ("sock_shutdown", "fi")];

fn functions() -> impl Iterator<Item = (&'static str, &'static str)> {
    FUNCTIONS.into_iter().chain(SOCKETS)
}

/// Where answers, buffers and the texts of a call are put.
const RESULT: i32 = 0;
const VECTORS: i32 = 256;
const BUFFER: i32 = 1024;
const TEXTS: i32 = 32768;

const CREATE: i32 = 1;
const DIRECTORY: i32 = 2;
const EXCLUSIVE: i32 = 4;
const TRUNCATE: i32 = 8;
const READ_WRITE: u64 = right::FD_READ | right::FD_WRITE;
const FOLLOW: i32 = 1;

const CLOCK_MS: u64 = 1_700_000_000_000;
const CLOCK_NS: u64 = CLOCK_MS * 1_000_000;

struct Quiet;

impl Host for Quiet {
    fn progress(&self, _: u16, _: &str) {}
    fn checkpoint(&self, _: Bytes) -> BoxFuture<'static, Result<(), String>> {
        async { Ok(()) }.boxed()
    }
    fn log(&self, _: crate::executors::Stream, _: &[u8]) {}
}

struct Caller {
    store: Store<Guest>,
    instance: Instance,
    texts: i32,
    _runtime: tokio::runtime::Runtime,
}

impl Caller {
    fn new() -> Self {
        Self::with(CLOCK_MS, Limits::default())
    }
    fn with(clock_ms: u64, limits: Limits) -> Self {
        let mut text = String::new();
        let mut bodies = String::new();
        for (name, parameters) in functions() {
            let kinds: String = parameters.chars().map(|kind| if kind == 'I' { " i64" } else { " i32" }).collect();
            text += &format!(
                "(import \"{}\" \"{name}\" (func ${name} (param{kinds}) (result i32)))\n",
                quorate_modules::imports::MODULE
            );
            let gets: String = (0..parameters.len()).map(|n| format!("(local.get {n})")).collect();
            bodies += &format!("(func (export \"{name}\") (param{kinds}) (result i32) (call ${name} {gets}))\n");
        }
        let mut config = wasmtime::Config::new();
        let engine = Engine::new(config.consume_fuel(limits.fuel.is_some())).unwrap();
        let module = Module::new(&engine, format!("(module {text} (memory (export \"memory\") 1) {bodies})")).unwrap();
        let mut linker = Linker::new(&engine);
        wasi::offer(&mut linker).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let inputs = BTreeMap::from([("given".to_owned(), super::super::Source::Bytes(Bytes::from_static(b"input")))]);
        let world = World::made(super::super::Deterministic { seed: 1, clock_ms });
        let memory = MemoryLimiter::new(limits.memory_bytes);
        let mut files = Files::new(inputs, None, limits.output_bytes, memory, world.file_ns()).unwrap();
        let host: Arc<dyn Host> = Arc::new(Quiet);
        let guest = Guest {
            args: Vec::new(),
            env: Vec::new(),
            world,
            descriptors: Guest::first_descriptors(&mut files),
            descriptors_max: limits.files_open as usize,
            descriptors_refused: false,
            names_refusal_logged: false,
            files,
            stdin: None,
            stdin_at: 0,
            stdout: Some(Vec::new()),
            log: LogBook::new(host.clone(), 1 << 16),
            host,
            lines: Lines::default(),
            stop: Stop::new(&engine),
            runtime: runtime.handle().clone(),
            is_metered: limits.fuel.is_some(),
        };
        let mut store = Store::new(&engine, guest);
        if let Some(fuel) = limits.fuel {
            store.set_fuel(fuel).unwrap();
        }
        let instance = linker.instantiate(&mut store, &module).unwrap();
        Self { store, instance, texts: TEXTS, _runtime: runtime }
    }
    fn call(&mut self, name: &str, arguments: &[i64]) -> Result<(), Errno> {
        match self.try_call(name, arguments).unwrap() {
            errno::SUCCESS => Ok(()),
            error => Err(error),
        }
    }
    fn try_call(&mut self, name: &str, arguments: &[i64]) -> wasmtime::Result<Errno> {
        let (_, parameters) = functions().find(|(found, _)| *found == name).unwrap();
        assert_eq!(parameters.len(), arguments.len(), "{name}");
        let values = parameters.chars().zip(arguments);
        let values: Vec<Val> =
            values.map(|(kind, value)| if kind == 'I' { Val::I64(*value) } else { Val::I32(*value as i32) }).collect();
        let mut answer = [Val::I32(-1)];
        let function = self.instance.get_func(&mut self.store, name).unwrap();
        function.call(&mut self.store, &values, &mut answer)?;
        self.texts = TEXTS;
        Ok(answer[0].unwrap_i32())
    }
    fn memory(&mut self) -> &mut [u8] {
        let memory = self.instance.get_memory(&mut self.store, "memory").unwrap();
        memory.data_mut(&mut self.store)
    }
    fn put(&mut self, at: i32, bytes: &[u8]) {
        self.memory()[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }
    fn bytes(&mut self, at: i32, len: usize) -> Vec<u8> {
        self.memory()[at as usize..at as usize + len].to_vec()
    }
    fn u64(&mut self, at: i32) -> u64 {
        u64::from_le_bytes(self.bytes(at, 8).try_into().unwrap())
    }
    fn u32(&mut self, at: i32) -> u32 {
        u32::from_le_bytes(self.bytes(at, 4).try_into().unwrap())
    }
    /// Puts a text where nothing else of the same call is.
    fn text(&mut self, text: &str) -> (i64, i64) {
        let at = self.texts;
        self.put(at, text.as_bytes());
        self.texts += text.len() as i32;
        (at.into(), text.len() as i64)
    }
    fn open_at(&mut self, fd: i32, path: &str, how: i32, rights: Rights, flags: i32) -> Result<i32, Errno> {
        self.open_with(fd, FOLLOW, path, how, rights, flags)
    }
    fn open_with(
        &mut self,
        fd: i32,
        lookup: i32,
        path: &str,
        how: i32,
        rights: Rights,
        flags: i32,
    ) -> Result<i32, Errno> {
        let (at, len) = self.text(path);
        let (base, inheriting) = (rights.base as i64, rights.inheriting as i64);
        let arguments = [fd.into(), lookup.into(), at, len, how.into(), base, inheriting, flags.into(), RESULT.into()];
        self.call("path_open", &arguments)?;
        Ok(self.u32(RESULT) as i32)
    }
    fn open(&mut self, path: &str, how: i32, base: u64) -> Result<i32, Errno> {
        self.open_at(3, path, how, Rights { base, inheriting: 0 }, 0)
    }
    /// A folder with every right that a library of C asks for.
    fn open_folder(&mut self, path: &str) -> i32 {
        self.open_at(3, path, DIRECTORY, Rights::ROOT, 0).unwrap()
    }
    fn write(&mut self, fd: i32, bytes: &[u8]) -> Result<u32, Errno> {
        self.put(BUFFER, bytes);
        self.put(VECTORS, &BUFFER.to_le_bytes());
        self.put(VECTORS + 4, &(bytes.len() as u32).to_le_bytes());
        self.call("fd_write", &[fd.into(), VECTORS.into(), 1, RESULT.into()])?;
        Ok(self.u32(RESULT))
    }
    fn read(&mut self, fd: i32) -> Result<Vec<u8>, Errno> {
        self.put(VECTORS, &BUFFER.to_le_bytes());
        self.put(VECTORS + 4, &100u32.to_le_bytes());
        self.call("fd_read", &[fd.into(), VECTORS.into(), 1, RESULT.into()])?;
        let count = self.u32(RESULT) as usize;
        Ok(self.bytes(BUFFER, count))
    }
    fn seek(&mut self, fd: i32, offset: i64, whence: i64) -> Result<u64, Errno> {
        self.call("fd_seek", &[fd.into(), offset, whence, RESULT.into()])?;
        Ok(self.u64(RESULT))
    }
    /// Engine, flags and rights.
    fn fdstat(&mut self, fd: i32) -> Result<(u8, u16, Rights), Errno> {
        self.call("fd_fdstat_get", &[fd.into(), RESULT.into()])?;
        let found = self.bytes(RESULT, 4);
        let rights = Rights { base: self.u64(RESULT + 8), inheriting: self.u64(RESULT + 16) };
        Ok((found[0], u16::from_le_bytes([found[2], found[3]]), rights))
    }
    /// Engine, number of names, and the times of access and modification.
    fn stat(&mut self, path: &str, lookup: i32) -> Result<(u8, u64, u64, u64), Errno> {
        let (at, len) = self.text(path);
        self.call("path_filestat_get", &[3, lookup.into(), at, len, RESULT.into()])?;
        let kind = self.bytes(RESULT + 16, 1)[0];
        Ok((kind, self.u64(RESULT + 24), self.u64(RESULT + 40), self.u64(RESULT + 48)))
    }
    fn set_times(&mut self, path: &str, lookup: i32, times: (u64, u64), which: i32) -> Result<(), Errno> {
        let (at, len) = self.text(path);
        let (accessed, modified) = (times.0 as i64, times.1 as i64);
        self.call("path_filestat_set_times", &[3, lookup.into(), at, len, accessed, modified, which.into()])
    }
    fn mkdir(&mut self, path: &str) -> Result<(), Errno> {
        let (at, len) = self.text(path);
        self.call("path_create_directory", &[3, at, len])
    }
    fn unlink_at(&mut self, fd: i32, path: &str) -> Result<(), Errno> {
        let (at, len) = self.text(path);
        self.call("path_unlink_file", &[fd.into(), at, len])
    }
    fn symlink(&mut self, target: &str, path: &str) -> Result<(), Errno> {
        self.symlink_at(3, target, path)
    }
    fn symlink_at(&mut self, fd: i32, target: &str, path: &str) -> Result<(), Errno> {
        let ((target, target_len), (at, len)) = (self.text(target), self.text(path));
        self.call("path_symlink", &[target, target_len, fd.into(), at, len])
    }
    fn two_paths(&mut self, name: &str, lookup: Option<i32>, from: &str, to: &str) -> Result<(), Errno> {
        let ((from, from_len), (to, to_len)) = (self.text(from), self.text(to));
        let mut arguments = vec![3];
        arguments.extend(lookup.map(i64::from));
        arguments.extend([from, from_len, 3, to, to_len]);
        self.call(name, &arguments)
    }
    fn readlink(&mut self, path: &str, size: i64) -> Result<Vec<u8>, Errno> {
        let (at, len) = self.text(path);
        self.call("path_readlink", &[3, at, len, BUFFER.into(), size, RESULT.into()])?;
        let count = self.u32(RESULT) as usize;
        Ok(self.bytes(BUFFER, count))
    }
    /// Entries after a cookie, as many as fit wholly: their cookies and names.
    fn read_dir(&mut self, fd: i32, size: usize, cookie: u64) -> (Vec<(u64, String)>, bool) {
        let arguments = [fd.into(), BUFFER.into(), size as i64, cookie as i64, RESULT.into()];
        self.call("fd_readdir", &arguments).unwrap();
        let used = self.u32(RESULT) as usize;
        let bytes = self.bytes(BUFFER, used);
        let (mut rest, mut found) = (&bytes[..], Vec::new());
        while rest.len() >= 24 {
            let next = u64::from_le_bytes(rest[..8].try_into().unwrap());
            let len = u32::from_le_bytes(rest[16..20].try_into().unwrap()) as usize;
            let Some(name) = rest.get(24..24 + len) else { break };
            found.push((next, String::from_utf8(name.to_vec()).unwrap()));
            rest = &rest[24 + len..];
        }
        (found, used < size)
    }
    fn log(&self) -> String {
        self.store.data().log.take_logs().stderr.text()
    }
}

fn base(rights: u64) -> Rights {
    Rights { base: rights, inheriting: 0 }
}

#[test]
fn a_descriptor_does_what_it_was_opened_for_and_says_so() {
    let mut c = Caller::new();
    let both = c.open("tmp/f", CREATE | EXCLUSIVE, READ_WRITE | right::FD_SEEK).unwrap();
    assert_eq!(c.write(both, b"hello"), Ok(5));
    let (read, write) = (c.open("tmp/f", 0, right::FD_READ).unwrap(), c.open("tmp/f", 0, right::FD_WRITE).unwrap());
    // What F_GETFL looks at.
    let may = |c: &mut Caller, fd| c.fdstat(fd).unwrap().2.base & READ_WRITE;
    assert_eq!(may(&mut c, read), right::FD_READ);
    assert_eq!(may(&mut c, write), right::FD_WRITE);
    assert_eq!(may(&mut c, both), READ_WRITE);
    assert_eq!((may(&mut c, 0), may(&mut c, 1), may(&mut c, 2)), (right::FD_READ, right::FD_WRITE, right::FD_WRITE));
    assert_eq!(c.read(read), Ok(b"hello".to_vec()));
    assert_eq!((c.write(read, b"x"), c.read(write)), (Err(errno::BADF), Err(errno::BADF)));
    assert_eq!((c.write(0, b"x"), c.read(1)), (Err(errno::BADF), Err(errno::BADF)));
    assert_eq!(c.call("fd_filestat_set_size", &[read.into(), 0]), Err(errno::BADF));
    // An input is for reading; who asks for whatever applies gets that.
    assert_eq!(c.open("in/given", 0, READ_WRITE), Err(errno::ROFS));
    let given = c.open("in/given", 0, right::WHATEVER_APPLIES).unwrap();
    assert_eq!((c.read(given), c.write(given, b"x")), (Ok(b"input".to_vec()), Err(errno::BADF)));
    assert_eq!(c.open("in/given", TRUNCATE, right::FD_READ), Err(errno::ROFS));
}

#[test]
fn rights_can_be_given_up_and_do_not_come_back() {
    let mut c = Caller::new();
    let fd = c.open("tmp/f", CREATE, READ_WRITE | right::FD_SEEK).unwrap();
    let set = |c: &mut Caller, fd: i32, rights: Rights| {
        c.call("fd_fdstat_set_rights", &[fd.into(), rights.base as i64, rights.inheriting as i64])
    };
    assert_eq!(set(&mut c, fd, base(READ_WRITE | right::FD_SEEK)), Ok(()));
    assert_eq!(set(&mut c, fd, base(right::FD_SEEK)), Ok(()));
    assert_eq!((c.read(fd), c.write(fd, b"x")), (Err(errno::BADF), Err(errno::BADF)));
    assert_eq!(set(&mut c, fd, base(READ_WRITE)), Err(errno::NOTCAPABLE));
    assert_eq!(c.seek(fd, 0, 1), Ok(0), "who may seek may tell");
    assert_eq!(set(&mut c, fd, base(right::FD_TELL)), Err(errno::NOTCAPABLE));
    assert_eq!(set(&mut c, fd, base(0)), Ok(()));
    assert_eq!(c.call("fd_tell", &[fd.into(), RESULT.into()]), Err(errno::NOTCAPABLE));
    assert_eq!(set(&mut c, 77, base(0)), Err(errno::BADF));
    // What a folder does not pass on, no file that is opened from it has.
    let dir = c.open_folder("tmp");
    let kept = Rights { inheriting: right::FD_READ, ..Rights::ROOT };
    assert_eq!(set(&mut c, dir, kept), Ok(()));
    let below = c.open_at(dir, "f", 0, base(READ_WRITE), 0).unwrap();
    assert_eq!(c.fdstat(below).unwrap().2, base(right::FD_READ));
    // Cutting a file through the folder is a right of its own, and so is each thing that a path is used for.
    assert!(c.open_at(dir, "f", TRUNCATE, base(0), 0).is_ok());
    let without = Rights { base: kept.base & !right::PATH_FILESTAT_SET_SIZE & !right::PATH_UNLINK_FILE, ..kept };
    assert_eq!(set(&mut c, dir, without), Ok(()));
    assert_eq!(c.open_at(dir, "f", TRUNCATE, base(0), 0), Err(errno::NOTCAPABLE));
    assert_eq!(c.open_at(dir, "f", TRUNCATE, base(right::FD_WRITE), 0), Err(errno::NOTCAPABLE), "it is not passed on");
    let cutless = Rights { base: Rights::ROOT.base & !right::PATH_FILESTAT_SET_SIZE, ..Rights::ROOT };
    let other = c.open_at(3, "tmp", DIRECTORY, cutless, 0).unwrap();
    assert!(c.open_at(other, "f", TRUNCATE, base(right::FD_WRITE), 0).is_ok(), "who may write may cut");
    assert_eq!(c.unlink_at(dir, "f"), Err(errno::NOTCAPABLE));
    assert_eq!(c.unlink_at(3, "tmp/f"), Ok(()));
}

#[test]
fn folders_are_opened_to_be_listed_and_walked_not_written() {
    let mut c = Caller::new();
    assert_eq!(c.open("tmp", 0, right::FD_WRITE), Err(errno::ISDIR));
    assert_eq!(c.open("tmp", DIRECTORY, READ_WRITE), Err(errno::ISDIR));
    assert_eq!(c.open("tmp", CREATE, right::FD_READ), Err(errno::ISDIR));
    assert_eq!(c.open("tmp/d", CREATE | DIRECTORY, right::FD_READ), Err(errno::INVAL));
    assert_eq!(c.open("tmp/d/", CREATE, right::FD_READ), Err(errno::ISDIR));
    assert_eq!(c.open("in/given", DIRECTORY, right::FD_READ), Err(errno::NOTDIR));
    assert_eq!(c.open("in/given/", 0, right::FD_READ), Err(errno::NOTDIR));
    assert_eq!(c.open("tmp", EXCLUSIVE | CREATE, 0), Err(errno::EXIST));
    assert_eq!(c.open("tmp/f", 0, 0), Err(errno::NOENT));
    let dir = c.open("tmp/", DIRECTORY, right::WHATEVER_APPLIES).unwrap();
    let (kind, flags, rights) = c.fdstat(dir).unwrap();
    assert_eq!((kind, flags), (files::KIND_FOLDER, 0));
    assert_eq!(rights.base & (READ_WRITE | right::FD_SEEK | right::FD_FILESTAT_SET_SIZE), 0);
    assert_eq!((c.seek(dir, 0, 1), c.read(dir)), (Err(errno::ISDIR), Err(errno::ISDIR)));
    assert_eq!(c.open_at(dir, "/in/given", 0, base(0), 0), Err(errno::NOTCAPABLE));
    assert_eq!(c.open_at(dir, "../in/given", 0, base(0), 0), Err(errno::NOTCAPABLE));
    assert!(c.open("/in/given", 0, right::FD_READ).is_ok(), "from the root it is the same place");
    let file = c.open("in/given", 0, 0).unwrap();
    assert_eq!(c.open_at(file, "x", 0, base(0), 0), Err(errno::NOTDIR));
}

#[test]
fn flags_are_remembered_and_append_is_obeyed() {
    let (append, sync) = (1, 16);
    let mut c = Caller::new();
    let fd = c.open_at(3, "tmp/f", CREATE, base(FILE), append | sync).unwrap();
    assert_eq!(c.fdstat(fd).unwrap().1, 17);
    assert_eq!((c.write(fd, b"one"), c.seek(fd, 0, 0), c.write(fd, b"two")), (Ok(3), Ok(0), Ok(3)));
    assert_eq!(c.seek(fd, 0, 1), Ok(6));
    assert_eq!(c.call("fd_fdstat_set_flags", &[fd.into(), 4]), Ok(()));
    assert_eq!((c.fdstat(fd).unwrap().1, c.seek(fd, 0, 0), c.write(fd, b"ONE")), (4, Ok(0), Ok(3)));
    assert_eq!((c.seek(fd, 0, 0), c.read(fd)), (Ok(0), Ok(b"ONEtwo".to_vec())));
    assert_eq!(c.call("fd_fdstat_set_flags", &[fd.into(), 32]), Err(errno::INVAL));
    assert_eq!(c.open_at(3, "tmp/f", 0, base(FILE), 32), Err(errno::INVAL));
    assert_eq!((c.call("fd_fdstat_set_flags", &[0, 4]), c.fdstat(0).unwrap().1), (Ok(()), 4));
}

const FILE: u64 = READ_WRITE | right::FD_SEEK | right::FD_TELL | right::FD_FDSTAT_SET_FLAGS | right::FD_ALLOCATE;

#[test]
fn places_that_are_no_places_are_refused() {
    let mut c = Caller::new();
    let fd = c.open("tmp/f", CREATE, FILE | right::FD_FILESTAT_SET_SIZE | right::FD_ADVISE).unwrap();
    let of = i64::from(fd);
    assert_eq!(c.seek(fd, -1, 0), Err(errno::INVAL));
    assert_eq!((c.seek(fd, i64::MAX, 0), c.seek(fd, 1, 1)), (Ok(i64::MAX as u64), Err(errno::INVAL)));
    assert_eq!(c.call("fd_pread", &[of, VECTORS.into(), 0, -1, RESULT.into()]), Err(errno::INVAL));
    assert_eq!(c.call("fd_pwrite", &[of, VECTORS.into(), 0, -1, RESULT.into()]), Err(errno::INVAL));
    assert_eq!(c.call("fd_filestat_set_size", &[of, -1]), Err(errno::INVAL));
    assert_eq!(c.call("fd_allocate", &[of, 0, 0]), Err(errno::INVAL));
    assert_eq!(c.call("fd_allocate", &[of, 10, 10]), Ok(()));
    assert_eq!(c.seek(fd, 0, 2), Ok(20));
    assert_eq!((c.call("fd_advise", &[of, 0, 0, 5]), c.call("fd_advise", &[of, 0, 0, 6])), (Ok(()), Err(errno::INVAL)));
}

/// Goal: a file that is written has the module's own time, what a module sets stays, and no time is one that archives
/// cannot hold, whatever the clock of a deterministic task says.
#[test]
fn files_have_times_that_can_be_read_and_set() {
    const ACCESSED: i32 = 1;
    const ACCESSED_NOW: i32 = 2;
    const MODIFIED: i32 = 4;
    const MODIFIED_NOW: i32 = 8;
    let mut c = Caller::new();
    assert_eq!(c.stat("in/given", 0).unwrap().3, CLOCK_NS);
    c.call("clock_time_get", &[0, 1, RESULT.into()]).unwrap();
    let now = c.u64(RESULT);
    assert_eq!(now, CLOCK_NS + 1_000_000, "each look at the clock moves it");
    let fd = c.open("tmp/f", CREATE, FILE | right::FD_FILESTAT_SET_TIMES).unwrap();
    assert_eq!(c.stat("tmp/f", 0).unwrap(), (files::KIND_FILE, 1, now, now), "but a file does not");
    c.call("clock_time_get", &[0, 1, RESULT.into()]).unwrap();
    c.write(fd, b"x").unwrap();
    assert_eq!(c.stat("tmp/f", 0).unwrap().3, now + 1_000_000);
    let given = 1_000_000_000_123_456_789;
    assert_eq!(c.set_times("tmp/f", 0, (5, given), ACCESSED | MODIFIED), Ok(()));
    assert_eq!(c.stat("tmp/f", 0).unwrap(), (files::KIND_FILE, 1, 5, given));
    assert_eq!(c.call("fd_filestat_set_times", &[fd.into(), 6, 7, ACCESSED.into()]), Ok(()));
    assert_eq!(c.set_times("tmp/f", 0, (0, 0), MODIFIED_NOW), Ok(()));
    assert_eq!(c.stat("tmp/f", 0).unwrap(), (files::KIND_FILE, 1, 6, now + 1_000_000));
    for which in [ACCESSED | ACCESSED_NOW, MODIFIED | MODIFIED_NOW, 16] {
        assert_eq!(c.set_times("tmp/f", 0, (0, 0), which), Err(errno::INVAL));
    }
    assert_eq!(c.set_times("in/given", 0, (0, 0), MODIFIED), Err(errno::ROFS));
    assert_eq!(c.set_times("tmp/none", 0, (0, 0), MODIFIED), Err(errno::NOENT));
    c.symlink("f", "tmp/l").unwrap();
    assert_eq!(
        (c.set_times("tmp/l", 0, (0, 8), MODIFIED), c.set_times("tmp/l", FOLLOW, (0, 9), MODIFIED)),
        (Ok(()), Ok(()))
    );
    assert_eq!((c.stat("tmp/l", 0).unwrap().3, c.stat("tmp/f", 0).unwrap().3), (8, 9));
    let mut early = Caller::with(0, Limits::default());
    early.open("tmp/f", CREATE, 0).unwrap();
    assert_eq!(early.stat("tmp/f", 0).unwrap().3, 315_532_800_000_000_000, "1980-01-01");
}

/// Goal: no module takes the clock for broken, as Go's runtime does when it reads zero in the first millisecond.
#[test]
fn a_monotonic_clock_is_never_at_zero() {
    let system = Arc::new(crate::seams::clock::SystemClock::new());
    let mut real = World::real(system, Arc::new(crate::seams::entropy::OsEntropy));
    let mut made = World::made(super::super::Deterministic { seed: 1, clock_ms: 0 });
    assert!(real.monotonic_ns() > 0 && made.monotonic_ns() > 0);
}

#[test]
fn links_are_made_read_and_followed() {
    let mut c = Caller::new();
    let fd = c.open("tmp/target", CREATE, READ_WRITE).unwrap();
    c.write(fd, b"hello").unwrap();
    c.mkdir("tmp/d").unwrap();
    assert_eq!(c.symlink("target", "tmp/l"), Ok(()));
    assert_eq!(c.symlink("d", "tmp/to-d"), Ok(()));
    assert_eq!(c.symlink("target", "tmp/l"), Err(errno::EXIST));
    assert_eq!(c.symlink("target", "tmp/m/"), Err(errno::NOENT));
    assert_eq!(c.symlink("/tmp/target", "tmp/d/absolute"), Ok(()), "from the root it leads to the same place");
    assert_eq!(c.stat("tmp/d/absolute", FOLLOW).unwrap().0, 4);
    let dir = c.open_folder("tmp/d");
    assert_eq!(c.symlink_at(dir, "/tmp/target", "m"), Err(errno::NOTCAPABLE));
    assert_eq!(c.open_at(dir, "absolute", 0, base(0), 0), Err(errno::NOTCAPABLE));
    c.put(BUFFER, &[7; 10]);
    assert_eq!(c.readlink("tmp/l", 10), Ok(b"target".to_vec()));
    assert_eq!(c.bytes(BUFFER + 6, 4), [7; 4], "what is behind it is left alone");
    assert_eq!(c.readlink("tmp/l", 4), Ok(b"targ".to_vec()));
    assert_eq!(c.readlink("tmp/target", 4), Err(errno::INVAL));
    assert_eq!((c.stat("tmp/l", 0).unwrap().0, c.stat("tmp/l", FOLLOW).unwrap().0), (7, 4));
    assert_eq!((c.stat("tmp/to-d", 0).unwrap().0, c.stat("tmp/to-d/", 0).unwrap().0), (7, 3));
    let through = c.open("tmp/l", 0, right::FD_READ).unwrap();
    assert_eq!(c.read(through), Ok(b"hello".to_vec()));
    assert_eq!(c.open_with(3, 0, "tmp/l", 0, base(0), 0), Err(errno::LOOP));
    assert_eq!(c.open_with(3, 0, "tmp/l", CREATE, base(0), 0), Err(errno::LOOP));
    assert_eq!(c.open_with(3, 0, "tmp/to-d", DIRECTORY, base(0), 0), Err(errno::NOTDIR));
    assert!(c.open_with(3, FOLLOW, "tmp/to-d", DIRECTORY, base(0), 0).is_ok());
    assert_eq!(c.open("tmp/l", CREATE | EXCLUSIVE, 0), Err(errno::EXIST));
    c.symlink("circle", "tmp/circle").unwrap();
    assert_eq!(c.open("tmp/circle", 0, 0), Err(errno::LOOP));
    // A hard link is the file, or the link itself unless it is to be followed.
    assert_eq!(c.two_paths("path_link", Some(0), "tmp/target", "out/again"), Ok(()));
    assert_eq!(c.stat("out/again", 0).unwrap().1, 2);
    assert_eq!(c.two_paths("path_link", Some(0), "tmp/l", "tmp/d/l"), Ok(()));
    assert_eq!(c.stat("tmp/d/l", 0).unwrap(), c.stat("tmp/l", 0).unwrap());
    assert_eq!(c.two_paths("path_link", Some(FOLLOW), "tmp/l", "out/third"), Ok(()));
    assert_eq!(c.stat("tmp/target", 0).unwrap().1, 3);
    assert_eq!(c.two_paths("path_rename", None, "tmp/l", "out/l"), Ok(()));
    assert_eq!(c.stat("out/l", FOLLOW), Err(errno::NOENT), "it holds a path, which starts at the link's folder");
}

/// Goal: the cookie belongs to the name. Method: what `rm -r` does with a buffer for three names: read, unlink, read
/// on.
#[test]
fn a_folder_is_emptied_while_it_is_read() {
    let mut c = Caller::new();
    c.mkdir("tmp/d").unwrap();
    for n in 0..50 {
        let fd = c.open(&format!("tmp/d/{n:02}"), CREATE, 0).unwrap();
        c.call("fd_close", &[fd.into()]).unwrap();
    }
    let dir = c.open_folder("tmp/d");
    let (all, whole) = c.read_dir(dir, 30_000, 0);
    assert!(whole);
    assert_eq!(all.len(), 52);
    let (mut cookie, mut removed) = (0, 0);
    loop {
        // The last name is cut, which tells the reader to ask again from the cookie of the one before.
        let (found, ended) = c.read_dir(dir, 100, cookie);
        for (next, name) in found {
            cookie = next;
            if !name.starts_with('.') {
                c.unlink_at(dir, &name).unwrap();
                removed += 1;
            }
        }
        if ended {
            break;
        }
    }
    assert_eq!((removed, c.read_dir(dir, 1000, 0).0.len()), (50, 2));
    assert_eq!(c.call("fd_readdir", &[1, BUFFER.into(), 100, 0, RESULT.into()]), Err(errno::NOTDIR));
}

#[test]
fn what_is_not_open_is_an_error_whatever_is_asked() {
    let mut c = Caller::new();
    for fd in [77, -31337] {
        assert_eq!(c.call("fd_write", &[fd, 0, 0, RESULT.into()]), Err(errno::BADF), "also with no buffers");
        assert_eq!(c.call("fd_read", &[fd, 0, 0, RESULT.into()]), Err(errno::BADF));
    }
    for (name, parameters) in SOCKETS {
        let mut arguments = vec![0; parameters.len()];
        for (fd, error) in [(77, errno::BADF), (1, errno::NOTSOCK), (3, errno::NOTSOCK)] {
            arguments[0] = fd;
            assert_eq!(c.call(name, &arguments), Err(error), "{name} of {fd}");
        }
    }
    assert_eq!(c.call("fd_prestat_get", &[3, RESULT.into()]), Ok(()));
    let other = c.open_folder("/");
    assert_eq!(c.call("fd_prestat_get", &[other.into(), RESULT.into()]), Err(errno::BADF));
    c.call("fd_close", &[3]).unwrap();
    assert_eq!(c.call("fd_prestat_get", &[3, RESULT.into()]), Err(errno::BADF));
    assert!(c.fdstat(other).is_ok());
    let fd = c.open_at(other, "in/given", 0, base(0), 0).unwrap();
    assert_eq!(c.call("fd_renumber", &[0, fd.into()]), Ok(()));
    assert_eq!((c.fdstat(0), c.fdstat(fd).unwrap().2), (Err(errno::BADF), Rights::STDIN));
}

#[test]
fn polling_says_which_descriptor_is_not_open() {
    let mut c = Caller::new();
    // User data, kind, and of what: a clock that waits for a second, a descriptor to read, one to write.
    let subscriptions: [(u64, u8, u32); 4] = [(10, 0, 1), (11, 1, 77), (12, 2, 1), (13, 0, 9)];
    for (n, (user, kind, of)) in subscriptions.iter().enumerate() {
        let at = BUFFER + 48 * n as i32;
        c.put(at, &user.to_le_bytes());
        c.put(at + 8, &[*kind]);
        c.put(at + 16, &of.to_le_bytes());
        c.put(at + 24, &1_000_000_000u64.to_le_bytes());
    }
    let events = BUFFER + 1024;
    let poll = |c: &mut Caller, from: usize, count: i64| {
        let at = i64::from(BUFFER) + 48 * from as i64;
        c.call("poll_oneoff", &[at, events.into(), count, RESULT.into()]).unwrap();
        let count = c.u32(RESULT) as i32;
        let event = |c: &mut Caller, n| {
            let found = c.bytes(events + 32 * n + 8, 3);
            (c.u64(events + 32 * n), i32::from(found[0]), found[2])
        };
        (0..count).map(|n| event(c, n)).collect::<Vec<_>>()
    };
    assert_eq!(poll(&mut c, 0, 4), [(11, errno::BADF, 1), (12, 0, 2), (13, errno::INVAL, 0)]);
    assert_eq!(poll(&mut c, 0, 1), [(10, 0, 0)], "the clock alone is waited for");
}

/// Goal: a limit that is met is named in the task's log, once.
#[test]
fn limits_that_are_met_are_named() {
    let limits = Limits { files_open: 6, memory_bytes: 4096, ..Limits::default() };
    let mut c = Caller::with(CLOCK_MS, limits);
    let open = |c: &mut Caller| c.open("tmp/f", CREATE, READ_WRITE | right::FD_FILESTAT_SET_SIZE);
    let (fd, _) = (open(&mut c).unwrap(), open(&mut c).unwrap());
    for _ in 0..3 {
        assert_eq!(open(&mut c), Err(errno::MFILE));
    }
    assert_eq!(c.log(), "[node] a task may have 6 files and folders open at once\n");
    // Buffers that fit are written though the last does not: the next call meets the error.
    c.put(VECTORS, &[BUFFER, 1000, BUFFER, 2000].map(i32::to_le_bytes).concat());
    assert_eq!(c.call("fd_write", &[fd.into(), VECTORS.into(), 2, RESULT.into()]), Ok(()));
    assert_eq!(c.u32(RESULT), 1000);
    assert_eq!(c.write(fd, &[1; 2000]), Err(errno::NOSPC));
    assert!(c.store.data().files.memory.refused);
    let mut c = Caller::new();
    for n in 0..files::NAMES_MAX {
        let fd = c.open(&format!("tmp/{n}"), CREATE, 0).unwrap();
        c.call("fd_close", &[fd.into()]).unwrap();
    }
    assert_eq!((c.mkdir("tmp/x"), c.symlink("a", "tmp/x")), (Err(errno::NOSPC), Err(errno::NOSPC)));
    assert_eq!(c.log(), "[node] a task may have 65536 files, folders and links at once\n");
}

/// Goal: where instructions are counted a call takes of the fuel by what it does, and one that nothing is left for does
/// nothing.
#[test]
fn calls_take_of_the_fuel_by_what_they_do() {
    const MIB: u64 = 1 << 20;
    let mut c = Caller::with(CLOCK_MS, Limits { fuel: Some(1 << 30), ..Limits::default() });
    let rights = READ_WRITE | right::FD_SEEK | right::FD_FILESTAT_SET_SIZE;
    let fd = c.open("tmp/f", CREATE, rights).unwrap();
    let used = |c: &mut Caller, act: &mut dyn FnMut(&mut Caller)| {
        let before = c.store.get_fuel().unwrap();
        act(c);
        before - c.store.get_fuel().unwrap()
    };
    let few = used(&mut c, &mut |c| assert_eq!(c.write(fd, &[1; 4]), Ok(4)));
    let many = used(&mut c, &mut |c| assert_eq!(c.write(fd, &[1; 20_000]), Ok(20_000)));
    assert!((wasi::CALL_FUEL..200).contains(&few), "{few}");
    // Moved, and made room for.
    assert!((5_000..11_000).contains(&(many - few)), "{many}");
    let grown = used(&mut c, &mut |c| c.call("fd_filestat_set_size", &[fd.into(), MIB as i64]).unwrap());
    assert!(grown > MIB / 2 / wasi::BYTES_PER_FUEL, "{grown}");
    let at_end = used(&mut c, &mut |c| assert_eq!(c.seek(fd, 0, 2), Ok(MIB)));
    let nothing = used(&mut c, &mut |c| assert_eq!(c.read(fd), Ok(Vec::new())));
    assert!(at_end < 200 && nothing < 200, "a buffer that stays empty is not paid for: {at_end} {nothing}");
    c.mkdir("tmp/d").unwrap();
    for n in 0..1_000 {
        c.mkdir(&format!("tmp/d/{n}")).unwrap();
    }
    let moved = used(&mut c, &mut |c| c.two_paths("path_rename", None, "tmp/d", "tmp/e").unwrap());
    assert!(moved > 50_000, "all names below are walked over: {moved}");

    c.store.set_fuel(wasi::CALL_FUEL).unwrap();
    let error = c.try_call("fd_filestat_set_size", &[fd.into(), 0]).unwrap_err();
    assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::OutOfFuel));
    c.store.set_fuel(10_000).unwrap();
    assert_eq!(c.seek(fd, 0, 2), Ok(MIB), "it was not cut");
}

/// What a module without sense passes, mostly of the right kind: `dice` are thrown for each parameter.
fn arguments(parameters: &str, dice: &[u32], texts: &[&str]) -> Vec<i64> {
    let mut len = 0;
    let pairs = parameters.chars().zip(dice);
    pairs
        .map(|(kind, die)| {
            let (wild, n) = (die % 23 == 0, i64::from(die / 23));
            match kind {
                'I' => [-1, n % 300, n, READ_WRITE as i64, i64::MIN, 1 << 62][(n % 6) as usize],
                _ if wild => n,
                'f' => n % 10,
                't' => {
                    let chosen = (n as usize) % texts.len();
                    len = texts[chosen].len() as i64;
                    i64::from(TEXTS) + 32 * chosen as i64
                }
                'n' => len,
                'v' => VECTORS.into(),
                'b' => BUFFER.into(),
                'r' => RESULT.into(),
                _ => n % 33,
            }
        })
        .collect()
}

proptest! {
    // Each case compiles its module.
    #![proptest_config(ProptestConfig::with_cases(100))]
    /// Goal: no call that a module can make panics the node, and what is counted is what is kept, whatever it calls.
    #[test]
    fn senseless_calls_are_answered(
        calls in prop::collection::vec((0..FUNCTIONS.len(), prop::collection::vec(any::<u32>(), 9)), 1..120),
    ) {
        const NAMES: [&str; 14] = [
            "tmp/a", "tmp/b", "tmp/d", "tmp/d/c", "tmp/d/", "out/a", "a", "../a", "/tmp/a", "task/report", "task/checkpoint",
            "in/given", ".", "",
        ];
        let mut c = Caller::with(CLOCK_MS, Limits { files_open: 9, memory_bytes: 20_000, output_bytes: 4000, ..Limits::default() });
        for (n, name) in NAMES.iter().enumerate() {
            c.put(TEXTS + 32 * n as i32, name.as_bytes());
        }
        c.put(VECTORS, &[BUFFER, 100, BUFFER, 900, TEXTS, 64].map(i32::to_le_bytes).concat());
        for (function, dice) in calls {
            let (name, parameters) = FUNCTIONS[function];
            let arguments = arguments(parameters, &dice, &NAMES);
            match c.try_call(name, &arguments) {
                Ok(_) => (),
                // Too much output ends the module, and nothing else here does.
                Err(error) => match error.downcast_ref::<Halt>() {
                    Some(Halt::OutputTooLarge) => break,
                    other => prop_assert!(false, "{} {:?}: {:?} {}", name, arguments, other, error),
                },
            }
            let guest = c.store.data();
            guest.files.check(guest.stdout.as_ref().map_or(0, Vec::len));
            prop_assert!(guest.descriptors.len() <= 9);
        }
    }
}
