//! Walks a path: part by part from an open folder, through symbolic links, and never out of that folder.

use std::sync::Arc;

use super::{Files, NAME_BYTES_MAX, Node, NodeId, PATH_BYTES_MAX, ROOT};
use crate::executors::wasm::errno::{self, Errno};

/// Symbolic links followed in one walk, as on Linux. It ends every circle.
const LINKS_FOLLOWED_MAX: usize = 40;

/// Work of one step from a name to its node: two searches in ordered maps.
const STEP_BYTES: usize = 256;

/// What to do with a symbolic link at the end of a path. Before the end it is always followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::executors::wasm) enum Links {
    Follow,
    Keep,
}

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::executors::wasm) struct Place {
    /// The folder of the last part.
    pub(super) folder: NodeId,
    /// The last part; none if the path ends in `.` or `..`, which name no entry.
    pub(super) name: Option<Arc<str>>,
    /// What is there, if anything.
    pub(in crate::executors::wasm) node: Option<NodeId>,
    /// Whether a slash says that it is a folder. What is there is one, then.
    pub(in crate::executors::wasm) slash: bool,
}

/// Where an absolute path starts: for a walk from the root it is the same place, for any other it would lead out.
fn from_root(base: NodeId) -> Result<NodeId, Errno> {
    if base == ROOT { Ok(ROOT) } else { Err(errno::NOTCAPABLE) }
}

impl Files {
    /// The place that `path` leads to from the folder `base`. What does not exist is a place only as the last part.
    pub(in crate::executors::wasm) fn lookup(&self, base: NodeId, path: &str, links: Links) -> Result<Place, Errno> {
        if path.is_empty() {
            return Err(errno::NOENT);
        }
        if path.len() > PATH_BYTES_MAX {
            return Err(errno::NAMETOOLONG);
        }
        if path.contains('\0') {
            return Err(errno::INVAL);
        }
        if path.starts_with('/') {
            from_root(base)?;
        }
        let mut slash = path.ends_with('/');
        let mut rest: Vec<&str> = path.rsplit('/').filter(|part| !part.is_empty()).collect();
        let (mut at, mut followed) = (base, 0);
        while let Some(part) = rest.pop() {
            let last = rest.is_empty();
            self.note_work(STEP_BYTES + part.len());
            let folder = self.folder(at)?;
            match part {
                "." => continue,
                ".." if at == base => return Err(errno::NOTCAPABLE),
                ".." => {
                    at = folder.parent.ok_or(errno::NOENT)?;
                    continue;
                }
                name if name.len() > NAME_BYTES_MAX => return Err(errno::NAMETOOLONG),
                _ => (),
            }
            let place = |node| Place { folder: at, name: Some(part.into()), node, slash };
            let Some(found) = folder.names.get(part) else {
                return if last { Ok(place(None)) } else { Err(errno::NOENT) };
            };
            match &self.inode(found.node).node {
                Node::Link(target) if !last || links == Links::Follow => {
                    followed += 1;
                    if followed > LINKS_FOLLOWED_MAX {
                        return Err(errno::LOOP);
                    }
                    if target.starts_with('/') {
                        at = from_root(base)?;
                    }
                    slash |= last && target.ends_with('/');
                    rest.extend(target.rsplit('/').filter(|part| !part.is_empty()));
                }
                Node::Folder(_) if !last => at = found.node,
                Node::Folder(_) => return Ok(place(Some(found.node))),
                _ if !last || slash => return Err(errno::NOTDIR),
                _ => return Ok(place(Some(found.node))),
            }
        }
        Ok(Place { folder: at, name: None, node: Some(at), slash })
    }
    /// Bytes of the path from the root to a folder, with a slash after each part.
    pub(super) fn path_bytes(&self, folder: NodeId) -> usize {
        let (mut at, mut bytes) = (folder, 0);
        while let Ok(super::Folder { parent: Some(parent), name_bytes, .. }) = self.folder(at) {
            self.note_work(STEP_BYTES);
            bytes += name_bytes + 1;
            at = *parent;
        }
        bytes
    }
    /// Bytes of the longest path below a folder, without its own.
    pub(super) fn longest_below(&self, folder: NodeId) -> usize {
        let (mut longest, mut folders) = (0, vec![(folder, 0)]);
        while let Some((folder, before)) = folders.pop() {
            let Ok(folder) = self.folder(folder) else { continue };
            for (name, found) in &folder.names {
                self.note_work(STEP_BYTES);
                let bytes = before + 1 + name.len();
                longest = longest.max(bytes);
                if self.is_folder(found.node) {
                    folders.push((found.node, bytes));
                }
            }
        }
        longest
    }
    /// Whether `folder` is `inside` or below it.
    pub(super) fn is_within(&self, folder: NodeId, inside: NodeId) -> bool {
        let mut at = Some(folder);
        while let Some(id) = at {
            if id == inside {
                return true;
            }
            at = self.folder(id).ok().and_then(|folder| folder.parent);
        }
        false
    }
}
