//! The files of a module: a small tree in memory, with a bound on bytes and on names.
//!
//! `in/` holds the declared inputs and cannot be changed. Below `out/` and `tmp/` the module makes what it likes.
//! `task/report` takes lines for the node; `task/checkpoint` is a file that the node gave, or takes. Nothing here is a
//! file of the machine except an input that was given as one, which is only read.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::errno::{self, Errno};
use super::input::Input;
use super::memory::MemoryLimiter;
use crate::executors::Source;

/// Files and folders. A guess: far more than a module that streams its data makes.
const NAMES_MAX: usize = 4096;

/// A buffer that grows by doubling has room for twice what is in it.
const BYTES_PER_BYTE_WRITTEN: usize = 2;

/// Longest path from the root.
const PATH_BYTES_MAX: usize = 1024;

pub(super) const REPORT: &str = "task/report";
pub(super) const CHECKPOINT: &str = "task/checkpoint";

/// What a name stands for, and what a descriptor stays with when the name goes.
pub(super) type NodeId = u64;

pub(super) enum Node {
    Folder,
    Given(Input),
    Written(Vec<u8>),
    Report,
}

#[derive(Debug)]
pub(super) enum WriteError {
    /// More than the task may write: it is stopped.
    TooLarge,
    Refused(Errno),
}

pub(super) struct Files {
    names: BTreeMap<String, NodeId>,
    nodes: BTreeMap<NodeId, Node>,
    /// Descriptors that are open, by node.
    open: BTreeMap<NodeId, usize>,
    next: NodeId,
    bytes: u64,
    bytes_max: u64,
    /// What is written is part of what the module may take of the node's memory.
    pub(super) memory: MemoryLimiter,
}

impl Files {
    /// The tree as a module finds it; `bytes_max` bounds everything that it writes.
    pub(super) fn new(
        inputs: BTreeMap<String, Source>,
        checkpoint: Option<Bytes>,
        bytes_max: u64,
        memory: MemoryLimiter,
    ) -> std::io::Result<Self> {
        let (names, nodes, open) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut files = Self { names, nodes, open, next: 1, bytes: 0, bytes_max, memory };
        for folder in ["", "in", "out", "tmp", "task"] {
            files.add(folder.to_owned(), Node::Folder);
        }
        files.add(REPORT.to_owned(), Node::Report);
        if let Some(bytes) = checkpoint {
            files.bytes += bytes.len() as u64;
            files.memory.take(bytes.len() * BYTES_PER_BYTE_WRITTEN);
            files.add(CHECKPOINT.to_owned(), Node::Written(bytes.into()));
        }
        for (name, source) in inputs {
            let input = Input::open(source)?;
            files.add(format!("in/{name}"), Node::Given(input));
        }
        Ok(files)
    }
    fn add(&mut self, path: String, node: Node) -> NodeId {
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, node);
        self.names.insert(path, id);
        id
    }
    /// The path that `path` means from `folder`. Never leads out of the root.
    pub(super) fn resolve(folder: &str, path: &str) -> Result<String, Errno> {
        let mut parts: Vec<&str> = match path.starts_with('/') {
            true => Vec::new(),
            false => folder.split('/').filter(|part| !part.is_empty()).collect(),
        };
        for part in path.split('/') {
            match part {
                "" | "." => (),
                ".." => {
                    parts.pop().ok_or(errno::NOTCAPABLE)?;
                }
                part => parts.push(part),
            }
        }
        let whole = parts.join("/");
        if whole.len() > PATH_BYTES_MAX {
            return Err(errno::NAMETOOLONG);
        }
        Ok(whole)
    }
    pub(super) fn find(&self, path: &str) -> Option<NodeId> {
        self.names.get(path).copied()
    }
    pub(super) fn node(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("a name or a descriptor keeps its node")
    }
    pub(super) fn is_folder(&self, id: NodeId) -> bool {
        matches!(self.nodes.get(&id), Some(Node::Folder))
    }
    /// Its size where it is known.
    pub(super) fn len(&self, id: NodeId) -> u64 {
        match self.nodes.get(&id) {
            Some(Node::Given(input)) => input.len().unwrap_or(0),
            Some(Node::Written(bytes)) => bytes.len() as u64,
            Some(Node::Folder | Node::Report) | None => 0,
        }
    }
    /// Whether the module may make, change or remove what stands under this path.
    fn may_change(path: &str) -> Result<(), Errno> {
        match path.starts_with("out/") || path.starts_with("tmp/") || path == CHECKPOINT {
            true => Ok(()),
            false => Err(errno::ROFS),
        }
    }
    fn may_add(&self, path: &str) -> Result<(), Errno> {
        Self::may_change(path)?;
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        match self.find(parent) {
            None => Err(errno::NOENT),
            Some(parent) if !self.is_folder(parent) => Err(errno::NOTDIR),
            Some(_) if self.names.len() >= NAMES_MAX => Err(errno::NOSPC),
            Some(_) => Ok(()),
        }
    }
    pub(super) fn create(&mut self, path: &str) -> Result<NodeId, Errno> {
        self.may_add(path)?;
        Ok(self.add(path.to_owned(), Node::Written(Vec::new())))
    }
    pub(super) fn create_folder(&mut self, path: &str) -> Result<(), Errno> {
        if self.find(path).is_some() {
            return Err(errno::EXIST);
        }
        self.may_add(path)?;
        self.add(path.to_owned(), Node::Folder);
        Ok(())
    }
    /// Whether a file may be opened for writing.
    pub(super) fn may_write(&self, id: NodeId) -> Result<(), Errno> {
        match self.nodes.get(&id) {
            Some(Node::Written(_) | Node::Report) => Ok(()),
            Some(Node::Folder) => Err(errno::ISDIR),
            Some(Node::Given(_)) | None => Err(errno::ROFS),
        }
    }
    pub(super) fn opened(&mut self, id: NodeId) {
        *self.open.entry(id).or_default() += 1;
    }
    pub(super) fn closed(&mut self, id: NodeId) {
        if let Some(count) = self.open.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&id);
                self.forget_unnamed(id);
            }
        }
    }
    fn forget_unnamed(&mut self, id: NodeId) {
        if self.open.contains_key(&id) || self.names.values().any(|named| *named == id) {
            return;
        }
        if let Some(Node::Written(bytes)) = self.nodes.remove(&id) {
            self.give_room(bytes.len() as u64);
        }
    }
    pub(super) fn unlink(&mut self, path: &str) -> Result<(), Errno> {
        let id = self.find(path).ok_or(errno::NOENT)?;
        if self.is_folder(id) {
            return Err(errno::ISDIR);
        }
        Self::may_change(path)?;
        self.names.remove(path);
        self.forget_unnamed(id);
        Ok(())
    }
    pub(super) fn remove_folder(&mut self, path: &str) -> Result<(), Errno> {
        let id = self.find(path).ok_or(errno::NOENT)?;
        if !self.is_folder(id) {
            return Err(errno::NOTDIR);
        }
        Self::may_change(path)?;
        if !self.below(path).is_empty() {
            return Err(errno::NOTEMPTY);
        }
        self.names.remove(path);
        self.forget_unnamed(id);
        Ok(())
    }
    /// Paths below a folder, at any depth.
    fn below(&self, path: &str) -> Vec<String> {
        let prefix = format!("{path}/");
        let names = self.names.range(prefix.clone()..).map(|(name, _)| name);
        names.take_while(|name| name.starts_with(&prefix)).cloned().collect()
    }
    pub(super) fn rename(&mut self, from: &str, to: &str) -> Result<(), Errno> {
        let id = self.find(from).ok_or(errno::NOENT)?;
        Self::may_change(from)?;
        Self::may_change(to)?;
        if from == to {
            return Ok(());
        }
        if to.starts_with(&format!("{from}/")) {
            return Err(errno::INVAL);
        }
        match self.find(to) {
            None => self.may_add(to)?,
            Some(there) => match (self.is_folder(id), self.is_folder(there)) {
                (true, false) => return Err(errno::NOTDIR),
                (false, true) => return Err(errno::ISDIR),
                (true, true) if !self.below(to).is_empty() => return Err(errno::NOTEMPTY),
                _ => {
                    self.names.remove(to);
                    self.forget_unnamed(there);
                }
            },
        }
        for name in self.below(from) {
            let moved = format!("{to}{}", &name[from.len()..]);
            let id = self.names.remove(&name).expect("listed just now");
            self.names.insert(moved, id);
        }
        self.names.remove(from);
        self.names.insert(to.to_owned(), id);
        Ok(())
    }
    /// Names directly in a folder, with their nodes, in order.
    pub(super) fn list(&self, folder: &str) -> Vec<(String, NodeId)> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        self.names
            .range(prefix.clone()..)
            .take_while(|(name, _)| name.starts_with(&prefix))
            .filter_map(|(name, id)| {
                let rest = &name[prefix.len()..];
                (!rest.is_empty() && !rest.contains('/')).then(|| (rest.to_owned(), *id))
            })
            .collect()
    }
    /// Room for `more` bytes of anything that the module writes.
    pub(super) fn take_room(&mut self, more: u64) -> Result<(), WriteError> {
        let bytes = self.bytes.saturating_add(more);
        if bytes > self.bytes_max {
            return Err(WriteError::TooLarge);
        }
        if !self.memory.take((more as usize).saturating_mul(BYTES_PER_BYTE_WRITTEN)) {
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
    pub(super) fn resize(&mut self, id: NodeId, size: u64) -> Result<(), WriteError> {
        let Some(Node::Written(bytes)) = self.nodes.get(&id) else { return Err(WriteError::Refused(errno::INVAL)) };
        let before = bytes.len() as u64;
        match size > before {
            true => self.take_room(size - before)?,
            false => self.give_room(before - size),
        }
        if let Node::Written(bytes) = self.node(id) {
            bytes.resize(size as usize, 0);
            // What was given back is to be free.
            if size < before {
                bytes.shrink_to_fit();
            }
        }
        Ok(())
    }
    pub(super) fn write_at(&mut self, id: NodeId, at: u64, data: &[u8]) -> Result<(), WriteError> {
        let end = at.checked_add(data.len() as u64).ok_or(WriteError::TooLarge)?;
        if end > self.len(id) {
            self.resize(id, end)?;
        }
        match self.node(id) {
            Node::Written(bytes) => bytes[at as usize..end as usize].copy_from_slice(data),
            _ => return Err(WriteError::Refused(errno::BADF)),
        }
        Ok(())
    }
    /// The checkpoint as it stands.
    pub(super) fn checkpoint(&self) -> Option<&[u8]> {
        match self.nodes.get(&self.find(CHECKPOINT)?) {
            Some(Node::Written(bytes)) => Some(bytes),
            _ => None,
        }
    }
    /// What the module leaves under `out/`, by the path there.
    pub(super) fn into_outputs(mut self) -> BTreeMap<String, Bytes> {
        let outputs = self.below("out");
        let mut found = BTreeMap::new();
        for name in outputs {
            let id = self.names[&name];
            if let Node::Written(bytes) = self.node(id) {
                found.insert(name["out/".len()..].to_owned(), Bytes::from(std::mem::take(bytes)));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn files(bytes_max: u64) -> Files {
        let inputs = BTreeMap::from([("a".to_owned(), Source::Bytes(Bytes::from_static(b"given")))]);
        Files::new(inputs, None, bytes_max, MemoryLimiter::new(1 << 20)).unwrap()
    }

    #[test]
    fn no_path_leads_out_of_the_root() {
        assert_eq!(Files::resolve("out", "../in/./a"), Ok("in/a".to_owned()));
        assert_eq!(Files::resolve("out", "/tmp//x/"), Ok("tmp/x".to_owned()));
        assert_eq!(Files::resolve("", ".."), Err(errno::NOTCAPABLE));
        assert_eq!(Files::resolve("out", "../../etc/passwd"), Err(errno::NOTCAPABLE));
        assert_eq!(Files::resolve("", &"x/".repeat(2000)), Err(errno::NAMETOOLONG));
    }

    #[test]
    fn inputs_cannot_be_changed_or_removed() {
        let mut files = files(100);
        let given = files.find("in/a").unwrap();
        assert_eq!(files.may_write(given), Err(errno::ROFS));
        assert_eq!(files.unlink("in/a"), Err(errno::ROFS));
        assert_eq!(files.create("in/b").err(), Some(errno::ROFS));
        assert_eq!(files.rename("in/a", "out/a"), Err(errno::ROFS));
        assert_eq!(files.create("elsewhere").err(), Some(errno::ROFS));
        assert_eq!(files.remove_folder("out"), Err(errno::ROFS));
    }

    #[test]
    fn what_is_written_takes_of_the_memory() {
        let mut files = Files::new(BTreeMap::new(), None, 1 << 20, MemoryLimiter::new(100)).unwrap();
        let id = files.create("out/a").unwrap();
        files.write_at(id, 0, &[1; 50]).unwrap();
        assert!(!files.memory.take(1));
        assert!(matches!(files.write_at(id, 50, &[1]), Err(WriteError::Refused(errno::NOSPC))));
        assert!(files.memory.refused);
        files.resize(id, 10).unwrap();
        assert!(files.memory.take(80));
    }

    #[test]
    fn a_folder_moves_with_what_is_in_it() {
        let mut files = files(100);
        files.create_folder("tmp/d").unwrap();
        let id = files.create("tmp/d/x").unwrap();
        files.write_at(id, 0, b"hello").unwrap();
        assert_eq!(files.remove_folder("tmp/d"), Err(errno::NOTEMPTY));
        assert_eq!(files.rename("tmp/d", "tmp/d/e"), Err(errno::INVAL));
        files.rename("tmp/d", "out/e").unwrap();
        assert_eq!(files.list("out").into_iter().map(|(name, _)| name).collect::<Vec<_>>(), ["e"]);
        assert_eq!(files.into_outputs(), BTreeMap::from([("e/x".to_owned(), Bytes::from_static(b"hello"))]));
    }

    /// Goal: the bytes counted are the bytes kept, whatever is written, cut, removed and held open.
    #[derive(Clone, Debug)]
    enum Act {
        Create(u8),
        Write(u8, u8, u8),
        Resize(u8, u8),
        Open(u8),
        Close(u8),
        Unlink(u8),
        Rename(u8, u8),
    }

    fn act() -> impl Strategy<Value = Act> {
        let name = 0u8..4;
        prop_oneof![
            name.clone().prop_map(Act::Create),
            (name.clone(), any::<u8>(), any::<u8>()).prop_map(|(n, at, len)| Act::Write(n, at, len)),
            (name.clone(), any::<u8>()).prop_map(|(n, size)| Act::Resize(n, size)),
            name.clone().prop_map(Act::Open),
            name.clone().prop_map(Act::Close),
            name.clone().prop_map(Act::Unlink),
            (name.clone(), name).prop_map(|(from, to)| Act::Rename(from, to)),
        ]
    }

    proptest! {
        #[test]
        fn bytes_counted_are_bytes_kept(acts in prop::collection::vec(act(), 0..60)) {
            let mut files = files(600);
            let mut open: Vec<NodeId> = Vec::new();
            let path = |n: u8| format!("tmp/{n}");
            for act in acts {
                match act {
                    Act::Create(n) if files.find(&path(n)).is_none() => { files.create(&path(n)).unwrap(); }
                    Act::Write(n, at, len) => if let Some(id) = files.find(&path(n)) {
                        let _ = files.write_at(id, at.into(), &vec![1; len.into()]);
                    },
                    Act::Resize(n, size) => if let Some(id) = files.find(&path(n)) {
                        let _ = files.resize(id, size.into());
                    },
                    Act::Open(n) => if let Some(id) = files.find(&path(n)) { files.opened(id); open.push(id); },
                    Act::Close(n) => if !open.is_empty() {
                        let id = open.swap_remove(usize::from(n) % open.len());
                        files.closed(id);
                    },
                    Act::Unlink(n) => { let _ = files.unlink(&path(n)); }
                    Act::Rename(from, to) => { let _ = files.rename(&path(from), &path(to)); }
                    Act::Create(_) => (),
                }
                let kept: u64 = files.nodes.values().map(|node| match node {
                    Node::Written(bytes) => bytes.len() as u64,
                    _ => 0,
                }).sum();
                prop_assert_eq!(files.bytes, kept);
                prop_assert_eq!(files.memory.used, kept as usize * BYTES_PER_BYTE_WRITTEN);
                let taken: usize = files.nodes.values().map(|node| match node {
                    // No vector of bytes has room for fewer than eight.
                    Node::Written(bytes) => bytes.capacity().saturating_sub(8),
                    _ => 0,
                }).sum();
                prop_assert!(taken <= files.memory.used);
                prop_assert!(kept <= 600);
                prop_assert!(files.names.values().all(|id| files.nodes.contains_key(id)));
                prop_assert!(open.iter().all(|id| files.nodes.contains_key(id)));
            }
        }
    }
}
