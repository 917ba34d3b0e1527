//! Makes, links, moves and removes names. Each check comes before the first change.

use std::sync::Arc;

use super::{Entry, FOLDER_BYTES, Files, Folder, NAME_BYTES, NODE_BYTES, Node, NodeId, PATH_BYTES_MAX, Place, ROOT};
use crate::executors::wasm::errno::{self, Errno};

/// What a module can make.
pub(in crate::executors::wasm) enum New {
    File,
    Folder,
    /// A symbolic link and the path that it holds.
    Link(String),
}

impl Files {
    /// Whether the module may add, move or remove this name.
    fn may_change(&self, folder: NodeId, name: &str) -> Result<(), Errno> {
        match self.folder(folder)?.own || (folder == self.task && name == super::CHECKPOINT) {
            true => Ok(()),
            false => Err(errno::ROFS),
        }
    }
    /// Whether the name, and what is below it, may be added to the folder.
    fn may_add(&self, folder: NodeId, name: &str, below: usize) -> Result<(), Errno> {
        if folder != ROOT && self.folder(folder)?.parent.is_none() {
            return Err(errno::NOENT);
        }
        self.may_change(folder, name)?;
        match self.path_bytes(folder) + name.len() + below > PATH_BYTES_MAX {
            true => Err(errno::NAMETOOLONG),
            false => Ok(()),
        }
    }
    /// Takes memory for a name and what else is made with it.
    fn take_name(&mut self, name: &str, more: usize) -> Result<usize, Errno> {
        if self.names >= self.names_max {
            self.names_refused = true;
            return Err(errno::NOSPC);
        }
        let charge = NAME_BYTES + name.len();
        match self.memory.take_room(charge + more) {
            true => Ok(charge),
            false => Err(errno::NOSPC),
        }
    }
    /// Adds a name whose memory was taken. One that moves within its folder keeps its cookie: a reader that renames
    /// what it reads does not meet it again.
    pub(super) fn attach(
        &mut self,
        folder: NodeId,
        name: Arc<str>,
        node: NodeId,
        cookie: Option<u64>,
        charge: usize,
        now: u64,
    ) {
        let cookie = cookie.unwrap_or_else(|| {
            self.next_cookie += 1;
            self.next_cookie - 1
        });
        let into = self.folder_mut(folder);
        into.by_cookie.insert(cookie, name.clone());
        let name_bytes = name.len();
        let before = into.names.insert(name, Entry { node, cookie, charge });
        assert!(before.is_none(), "a name was added twice");
        self.names += 1;
        let inode = self.inode_mut(node);
        inode.names += 1;
        inode.times.changed = now;
        if let Node::Folder(moved) = &mut inode.node {
            (moved.parent, moved.name_bytes) = (Some(folder), name_bytes);
        }
        self.was_modified(folder, now);
    }
    /// Takes a name away; its node stays until `forget_if_unused`, its memory is the caller's to give back.
    fn detach(&mut self, folder: NodeId, name: &str, now: u64) -> Entry {
        let from = self.folder_mut(folder);
        let gone = from.names.remove(name).expect("found by the caller");
        from.by_cookie.remove(&gone.cookie);
        self.names -= 1;
        let inode = self.inode_mut(gone.node);
        inode.names -= 1;
        inode.times.changed = now;
        if let Node::Folder(moved) = &mut inode.node {
            moved.parent = None;
        }
        self.was_modified(folder, now);
        gone
    }
    fn remove(&mut self, folder: NodeId, name: &str, now: u64) {
        let gone = self.detach(folder, name, now);
        self.memory.give_back(gone.charge);
        self.forget_if_unused(gone.node);
    }
    /// Makes what does not exist yet.
    pub(in crate::executors::wasm) fn create(&mut self, place: &Place, new: New, now: u64) -> Result<NodeId, Errno> {
        let (Some(name), None) = (&place.name, place.node) else { return Err(errno::EXIST) };
        if place.slash && !matches!(new, New::Folder) {
            // Nothing there, and what comes will be no folder.
            return Err(errno::NOENT);
        }
        self.may_add(place.folder, name, 0)?;
        let (node, charge) = match new {
            New::File => (Node::Written(Vec::new()), NODE_BYTES),
            New::Folder => (Node::Folder(Folder::new(true)), NODE_BYTES + FOLDER_BYTES),
            New::Link(target) if target.is_empty() => return Err(errno::NOENT),
            New::Link(target) if target.len() > PATH_BYTES_MAX => return Err(errno::NAMETOOLONG),
            New::Link(target) if target.contains('\0') => return Err(errno::INVAL),
            New::Link(target) => {
                let charge = NODE_BYTES + target.len();
                (Node::Link(target), charge)
            }
        };
        let name_charge = self.take_name(name, charge)?;
        let id = self.add_node(node, charge, now);
        self.attach(place.folder, name.clone(), id, None, name_charge, now);
        Ok(id)
    }
    /// Gives a file or a symbolic link one more name. What the node gave stays outside of what the module leaves.
    pub(in crate::executors::wasm) fn link(&mut self, from: &Place, to: &Place, now: u64) -> Result<(), Errno> {
        let node = from.node.ok_or(errno::NOENT)?;
        match self.inode(node).node {
            Node::Folder(_) => return Err(errno::PERM),
            Node::Given(_) | Node::Report => return Err(errno::XDEV),
            Node::Written(_) | Node::Link(_) => (),
        }
        let (Some(name), None) = (&to.name, to.node) else { return Err(errno::EXIST) };
        if to.slash {
            return Err(errno::NOENT);
        }
        self.may_add(to.folder, name, 0)?;
        let charge = self.take_name(name, 0)?;
        self.attach(to.folder, name.clone(), node, None, charge, now);
        Ok(())
    }
    pub(in crate::executors::wasm) fn unlink(&mut self, place: &Place, now: u64) -> Result<(), Errno> {
        let node = place.node.ok_or(errno::NOENT)?;
        let Some(name) = place.name.as_ref().filter(|_| !self.is_folder(node)) else { return Err(errno::ISDIR) };
        self.may_change(place.folder, name)?;
        self.remove(place.folder, name, now);
        Ok(())
    }
    pub(in crate::executors::wasm) fn remove_folder(&mut self, place: &Place, now: u64) -> Result<(), Errno> {
        let node = place.node.ok_or(errno::NOENT)?;
        let empty = self.folder(node)?.names.is_empty();
        // `.` and `..`: a folder is removed by its name.
        let name = place.name.as_ref().ok_or(errno::INVAL)?;
        self.may_change(place.folder, name)?;
        if !empty {
            return Err(errno::NOTEMPTY);
        }
        self.remove(place.folder, name, now);
        Ok(())
    }
    pub(in crate::executors::wasm) fn rename(&mut self, from: &Place, to: &Place, now: u64) -> Result<(), Errno> {
        let node = from.node.ok_or(errno::NOENT)?;
        let (Some(old), Some(new)) = (&from.name, &to.name) else { return Err(errno::BUSY) };
        self.may_change(from.folder, old)?;
        let is_folder = self.is_folder(node);
        if to.slash && !is_folder {
            return Err(errno::NOTDIR);
        }
        let below = if is_folder { self.longest_below(node) } else { 0 };
        self.may_add(to.folder, new, below)?;
        // Two names of one file: nothing is to be done, and both stay.
        if to.node == Some(node) {
            return Ok(());
        }
        if is_folder && self.is_within(to.folder, node) {
            return Err(errno::INVAL);
        }
        if let Some(there) = to.node {
            match (is_folder, self.folder(there)) {
                (true, Err(_)) => return Err(errno::NOTDIR),
                (false, Ok(_)) => return Err(errno::ISDIR),
                (true, Ok(folder)) if !folder.names.is_empty() => return Err(errno::NOTEMPTY),
                _ => (),
            }
        }
        // A longer name takes more; a shorter one keeps what it has.
        let more = new.len().saturating_sub(old.len());
        if !self.memory.take_room(more) {
            return Err(errno::NOSPC);
        }
        if to.node.is_some() {
            self.remove(to.folder, new, now);
        }
        let moved = self.detach(from.folder, old, now);
        let cookie = (from.folder == to.folder).then_some(moved.cookie);
        self.attach(to.folder, new.clone(), node, cookie, moved.charge + more, now);
        Ok(())
    }
}
