//! The files of a module: a small tree in memory, with a bound on bytes and on names.
//!
//! `in/` holds the declared inputs and cannot be changed. Below `out/` and `tmp/` the module makes what it likes.
//! `task/report` takes lines for the node; `task/checkpoint` is a file that the node gave, or takes. Nothing here is a
//! file of the machine except an input that was given as one, which is only read.
//!
//! The tree is made of inodes: a folder leads from names to inodes, one inode may have several names (hard links), and
//! an open descriptor keeps it when the last name goes. A name gets a cookie when it is made, and no other name ever
//! has that cookie: so `fd_readdir` skips no name that stays, whatever is removed or made between two calls. Symbolic
//! links lead to places below the folder that the walk began at, or nowhere ([`lookup`]).
//!
//! Times are the module's own clock ([`super::world`]) when something is written, made, renamed or linked, or what the
//! module sets. Reading moves none, as on a disk that is mounted `noatime`.
//!
//! Bounds: [`NAMES_MAX`] names at once, [`NAME_BYTES_MAX`] for one name, [`PATH_BYTES_MAX`] for a path, and what the
//! task may write. Names, inodes, links and contents all count as the module's memory.

mod lookup;
mod names;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

pub(super) use self::lookup::{Links, Place};
pub(super) use self::names::New;
use super::errno::{self, Errno};
use super::input::Input;
use super::memory::MemoryLimiter;
use crate::executors::Source;

/// Files, folders and links that a task has at once: room for an unpacked archive of a language's library, and few
/// enough that a walk over all of them is done between two looks at the deadline.
pub(super) const NAMES_MAX: usize = 65_536;

/// As on the file systems where outputs will be unpacked.
const NAME_BYTES_MAX: usize = 255;

/// Longest path: as given, from the root to any name, and what a symbolic link may hold.
const PATH_BYTES_MAX: usize = 1024;

/// A buffer that grows by doubling has room for twice what is in it.
const BYTES_PER_BYTE_WRITTEN: usize = 2;

/// What a name and an inode take of the node's memory beside their own bytes. Measured: 400 bytes for a file with its
/// name, 1,400 for a folder with a file in it; these are more.
const NAME_BYTES: usize = 256;
const NODE_BYTES: usize = 256;
const FOLDER_BYTES: usize = 1024;

const REPORT: &str = "report";
const CHECKPOINT: &str = "checkpoint";

/// What a name stands for, and what a descriptor stays with when the name goes.
pub(super) type NodeId = u64;

/// The folder that every path starts from.
pub(super) const ROOT: NodeId = 1;

/// Cookies of the two names that every folder has; those of others are higher.
const COOKIE_SELF: u64 = 1;
const COOKIE_PARENT: u64 = 2;

pub(super) enum Node {
    Folder(Folder),
    Given(Input),
    Written(Vec<u8>),
    /// A symbolic link and the path that it holds.
    Link(String),
    Report,
}

pub(super) struct Folder {
    /// None for the root, and for a folder that was removed while open.
    parent: Option<NodeId>,
    /// Bytes of its name there.
    name_bytes: usize,
    names: BTreeMap<Arc<str>, Entry>,
    /// The same names in the order they were made in.
    by_cookie: BTreeMap<u64, Arc<str>>,
    /// Whether the module may add and remove names.
    own: bool,
}

impl Folder {
    fn new(own: bool) -> Self {
        let (names, by_cookie) = (BTreeMap::new(), BTreeMap::new());
        Self { parent: None, name_bytes: 0, names, by_cookie, own }
    }
}

/// A directory entry, by its name.
#[derive(Clone, Copy)]
struct Entry {
    node: NodeId,
    cookie: u64,
    /// Bytes that it takes of the module's memory.
    charge: usize,
}

/// In nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) accessed: u64,
    pub(super) modified: u64,
    pub(super) changed: u64,
}

/// What is known of a node.
struct Inode {
    node: Node,
    times: Times,
    names: u32,
    descriptors: u32,
    /// Bytes that it takes of the module's memory, beside what was written.
    charge: usize,
}

/// The answer to `stat`.
pub(super) struct Filestat {
    pub(super) node: NodeId,
    pub(super) kind: u8,
    pub(super) names: u32,
    pub(super) bytes: u64,
    pub(super) times: Times,
}

pub(super) const KIND_UNKNOWN: u8 = 0;
pub(super) const KIND_FOLDER: u8 = 3;
pub(super) const KIND_FILE: u8 = 4;
pub(super) const KIND_LINK: u8 = 7;

#[derive(Debug)]
pub(super) enum WriteError {
    /// More than the task may write: it is stopped.
    TooLarge,
    Refused(Errno),
}

pub(super) struct Files {
    nodes: BTreeMap<NodeId, Inode>,
    /// The folders `task` and `out`.
    task: NodeId,
    out: NodeId,
    next: NodeId,
    next_cookie: u64,
    names: usize,
    names_max: usize,
    /// Whether a name was refused because there are too many.
    pub(super) names_refused: bool,
    bytes: u64,
    bytes_max: u64,
    /// Bytes walked over or made since it was last asked: see [`Files::take_work`].
    work: Cell<u64>,
    /// What is written is part of what the module may take of the node's memory.
    pub(super) memory: MemoryLimiter,
}

impl Files {
    /// The tree as a module finds it; `bytes_max` bounds everything that it writes, `now` is its clock.
    pub(super) fn new(
        inputs: BTreeMap<String, Source>,
        checkpoint: Option<Bytes>,
        bytes_max: u64,
        memory: MemoryLimiter,
        now: u64,
    ) -> std::io::Result<Self> {
        let mut files = Self {
            nodes: BTreeMap::new(),
            task: 0,
            out: 0,
            next: ROOT,
            next_cookie: COOKIE_PARENT + 1,
            names: 0,
            // The module's own: what it was given does not count.
            names_max: NAMES_MAX,
            names_refused: false,
            bytes: 0,
            bytes_max,
            work: Cell::new(0),
            memory,
        };
        files.add_node(Node::Folder(Folder::new(false)), 0, now);
        let folder =
            |files: &mut Self, name: &str, own| files.add_given(ROOT, name, Node::Folder(Folder::new(own)), now);
        let given = folder(&mut files, "in", false);
        files.out = folder(&mut files, "out", true);
        folder(&mut files, "tmp", true);
        files.task = folder(&mut files, "task", false);
        files.add_given(files.task, REPORT, Node::Report, now);
        if let Some(bytes) = checkpoint {
            files.bytes += bytes.len() as u64;
            files.memory.take_room(bytes.len() * BYTES_PER_BYTE_WRITTEN);
            files.add_given(files.task, CHECKPOINT, Node::Written(bytes.into()), now);
        }
        for (name, source) in inputs {
            let input = Input::open(source)?;
            files.add_given(given, &name, Node::Given(input), now);
        }
        files.names_max += files.names;
        Ok(files)
    }
    /// Adds what the node gives: it costs the module nothing.
    fn add_given(&mut self, folder: NodeId, name: &str, node: Node, now: u64) -> NodeId {
        let id = self.add_node(node, 0, now);
        self.attach(folder, name.into(), id, None, 0, now);
        id
    }
    fn add_node(&mut self, node: Node, charge: usize, now: u64) -> NodeId {
        let id = self.next;
        self.next += 1;
        let times = Times { accessed: now, modified: now, changed: now };
        self.nodes.insert(id, Inode { node, times, names: u32::from(id == ROOT), descriptors: 0, charge });
        id
    }
    /// Work that the bytes between a module and its files do not show: names walked over, files that grow.
    pub(super) fn note_work(&self, bytes: usize) {
        self.work.set(self.work.get().saturating_add(bytes as u64));
    }
    /// The work since the last time, in bytes.
    pub(super) fn take_work(&self) -> u64 {
        self.work.take()
    }
    fn inode(&self, id: NodeId) -> &Inode {
        self.nodes.get(&id).expect("a name or a descriptor keeps its node")
    }
    fn inode_mut(&mut self, id: NodeId) -> &mut Inode {
        self.nodes.get_mut(&id).expect("a name or a descriptor keeps its node")
    }
    pub(super) fn node(&mut self, id: NodeId) -> &mut Node {
        &mut self.inode_mut(id).node
    }
    fn folder(&self, id: NodeId) -> Result<&Folder, Errno> {
        match &self.inode(id).node {
            Node::Folder(folder) => Ok(folder),
            _ => Err(errno::NOTDIR),
        }
    }
    /// A folder that its caller knows to be one.
    fn folder_mut(&mut self, id: NodeId) -> &mut Folder {
        match &mut self.inode_mut(id).node {
            Node::Folder(folder) => folder,
            _ => unreachable!("only folders have names in them"),
        }
    }
    pub(super) fn is_folder(&self, id: NodeId) -> bool {
        matches!(self.inode(id).node, Node::Folder(_))
    }
    /// The path that a symbolic link holds.
    pub(super) fn link_target(&self, id: NodeId) -> Option<&str> {
        match &self.inode(id).node {
            Node::Link(target) => Some(target),
            _ => None,
        }
    }
    /// Its size where it is known.
    pub(super) fn len(&self, id: NodeId) -> u64 {
        match &self.inode(id).node {
            Node::Given(input) => input.len().unwrap_or(0),
            Node::Written(bytes) => bytes.len() as u64,
            Node::Link(target) => target.len() as u64,
            Node::Folder(_) | Node::Report => 0,
        }
    }
    fn kind(&self, id: NodeId) -> u8 {
        match self.inode(id).node {
            Node::Folder(_) => KIND_FOLDER,
            Node::Link(_) => KIND_LINK,
            Node::Given(_) | Node::Written(_) | Node::Report => KIND_FILE,
        }
    }
    pub(super) fn filestat(&self, id: NodeId) -> Filestat {
        let inode = self.inode(id);
        Filestat { node: id, kind: self.kind(id), names: inode.names, bytes: self.len(id), times: inode.times }
    }
    /// Whether a file may be opened for writing.
    pub(super) fn may_write(&self, id: NodeId) -> Result<(), Errno> {
        match self.inode(id).node {
            Node::Written(_) | Node::Report => Ok(()),
            Node::Folder(_) => Err(errno::ISDIR),
            Node::Link(_) => Err(errno::LOOP),
            Node::Given(_) => Err(errno::ROFS),
        }
    }
    /// Sets times: none for those that stay. What the node gave keeps its own.
    pub(super) fn set_times(
        &mut self,
        id: NodeId,
        accessed: Option<u64>,
        modified: Option<u64>,
        now: u64,
    ) -> Result<(), Errno> {
        let inode = self.inode_mut(id);
        match &inode.node {
            Node::Written(_) | Node::Link(_) => (),
            Node::Folder(folder) if folder.own => (),
            Node::Folder(_) | Node::Given(_) | Node::Report => return Err(errno::ROFS),
        }
        let times = &mut inode.times;
        times.accessed = accessed.unwrap_or(times.accessed);
        times.modified = modified.unwrap_or(times.modified);
        times.changed = now;
        Ok(())
    }
    fn was_modified(&mut self, id: NodeId, now: u64) {
        let times = &mut self.inode_mut(id).times;
        (times.modified, times.changed) = (now, now);
    }
    pub(super) fn opened(&mut self, id: NodeId) {
        self.inode_mut(id).descriptors += 1;
    }
    pub(super) fn closed(&mut self, id: NodeId) {
        self.inode_mut(id).descriptors -= 1;
        self.forget_if_unused(id);
    }
    /// Lets go of a node that has neither name nor descriptor, and of what it took.
    fn forget_if_unused(&mut self, id: NodeId) {
        let inode = self.inode(id);
        if inode.names > 0 || inode.descriptors > 0 {
            return;
        }
        let inode = self.nodes.remove(&id).expect("seen above");
        self.memory.give_back(inode.charge);
        if let Node::Written(bytes) = inode.node {
            self.give_room(bytes.len() as u64);
        }
    }
    /// What comes after a cookie in a folder: cookie, name, node and kind, in the order the names were made in.
    pub(super) fn list_after(
        &self,
        folder: NodeId,
        cookie: u64,
    ) -> Result<impl Iterator<Item = (u64, &str, NodeId, u8)>, Errno> {
        let found = self.folder(folder)?;
        // A folder that was removed lists nothing, not even itself.
        let parent = if folder == ROOT { Some(ROOT) } else { found.parent };
        let dots = parent.map(|parent| [(COOKIE_SELF, ".", folder), (COOKIE_PARENT, "..", parent)]);
        let dots = dots.into_iter().flatten().filter(move |(own, ..)| *own > cookie);
        let after = found.by_cookie.range(cookie.saturating_add(1)..);
        let names = after.map(|(cookie, name)| (*cookie, &**name, found.names[name].node));
        Ok(dots.chain(names).map(|(cookie, name, node)| (cookie, name, node, self.kind(node))))
    }
    /// Room for `more` bytes of anything that the module writes.
    pub(super) fn take_room(&mut self, more: u64) -> Result<(), WriteError> {
        let bytes = self.bytes.saturating_add(more);
        if bytes > self.bytes_max {
            return Err(WriteError::TooLarge);
        }
        if !self.memory.take_room((more as usize).saturating_mul(BYTES_PER_BYTE_WRITTEN)) {
            return Err(WriteError::Refused(errno::NOSPC));
        }
        self.bytes = bytes;
        Ok(())
    }
    fn give_room(&mut self, less: u64) {
        self.bytes -= less;
        self.memory.give_back((less as usize).saturating_mul(BYTES_PER_BYTE_WRITTEN));
    }
    /// Sets the size of a written file, with zeros where it grows.
    pub(super) fn resize(&mut self, id: NodeId, size: u64, now: u64) -> Result<(), WriteError> {
        let Node::Written(bytes) = &self.inode(id).node else { return Err(WriteError::Refused(errno::INVAL)) };
        let before = bytes.len() as u64;
        match size > before {
            true => self.take_room(size - before)?,
            false => self.give_room(before - size),
        }
        self.note_work(size.saturating_sub(before) as usize);
        if let Node::Written(bytes) = self.node(id) {
            bytes.resize(size as usize, 0);
            // What was given back is to be free.
            if size < before {
                bytes.shrink_to_fit();
            }
        }
        self.was_modified(id, now);
        Ok(())
    }
    pub(super) fn write_at(&mut self, id: NodeId, at: u64, data: &[u8], now: u64) -> Result<(), WriteError> {
        // Nothing written is nothing changed, wherever the place is.
        if data.is_empty() {
            return Ok(());
        }
        let end = at.checked_add(data.len() as u64).ok_or(WriteError::TooLarge)?;
        if end > self.len(id) {
            self.resize(id, end, now)?;
        }
        match self.node(id) {
            Node::Written(bytes) => bytes[at as usize..end as usize].copy_from_slice(data),
            _ => return Err(WriteError::Refused(errno::BADF)),
        }
        self.was_modified(id, now);
        Ok(())
    }
    /// The checkpoint as it stands.
    pub(super) fn checkpoint(&self) -> Option<&[u8]> {
        let name = self.folder(self.task).ok()?.names.get(CHECKPOINT)?;
        match &self.inode(name.node).node {
            Node::Written(bytes) => Some(bytes),
            _ => None,
        }
    }
    /// What the module leaves under `out/`, by the path there. Symbolic links are passed over, as in a program's
    /// folder. None if it is more than the task may write: a file with several names is several outputs.
    pub(super) fn into_outputs(mut self, stdout_bytes: u64) -> Option<BTreeMap<String, Bytes>> {
        let (mut found, mut taken) = (BTreeMap::new(), BTreeMap::<NodeId, Bytes>::new());
        let (mut bytes_left, mut path_bytes_left) = (self.bytes_max.checked_sub(stdout_bytes)?, self.bytes_max);
        let mut folders = vec![(self.out, String::new())];
        while let Some((folder, prefix)) = folders.pop() {
            let names = std::mem::take(&mut self.folder_mut(folder).names);
            for (name, Entry { node, .. }) in names {
                let path = format!("{prefix}{name}");
                match self.node(node) {
                    Node::Folder(_) => folders.push((node, format!("{path}/"))),
                    Node::Written(bytes) => {
                        let bytes = taken.entry(node).or_insert_with(|| std::mem::take(bytes).into()).clone();
                        bytes_left = bytes_left.checked_sub(bytes.len() as u64)?;
                        path_bytes_left = path_bytes_left.checked_sub(path.len() as u64)?;
                        found.insert(path, bytes);
                    }
                    Node::Link(_) | Node::Given(_) | Node::Report => (),
                }
            }
        }
        Some(found)
    }
}
