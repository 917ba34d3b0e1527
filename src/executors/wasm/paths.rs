//! The functions of WASI preview 1 that take a path. A path starts at an open folder and cannot leave it: too many
//! `..`, an absolute path and a link that leads out answer `ENOTCAPABLE`. From the root itself an absolute path is the
//! same as a relative one.

use quorate_modules::imports::MODULE;
use wasmtime::{Linker, Result};

use super::descriptors;
use super::errno;
use super::files::{self, Links, New, Node, Place};
use super::guest::{Descriptor, FLAGS_ALL, Fault, Guest, Target};
use super::rights::{self, Rights};
use super::wasi::{Calling, Memory, call};

/// How a file is opened.
const CREATE: i32 = 1 << 0;
const DIRECTORY: i32 = 1 << 1;
const EXCLUSIVE: i32 = 1 << 2;
const TRUNCATE: i32 = 1 << 3;

/// Flag of a lookup: a symbolic link at the end is followed.
const FOLLOW: i32 = 1;

/// A path in the module's memory, from an open folder.
#[derive(Clone, Copy)]
struct Path {
    folder: i32,
    at: i32,
    len: i32,
}

impl Path {
    /// Where it leads, for what needs these rights of the folder.
    fn find_place(self, memory: &mut Memory<'_>, guest: &mut Guest, right: u64, links: Links) -> Result<Place, Fault> {
        let folder = guest.folder(self.folder, right)?;
        Ok(guest.files.lookup(folder, memory.path(self.at, self.len)?, links)?)
    }
    /// The same for what looks at a file and may be told not to follow. Behind a slash is never a link.
    fn find_by_flags(
        self,
        memory: &mut Memory<'_>,
        guest: &mut Guest,
        right: u64,
        lookup: i32,
    ) -> Result<Place, Fault> {
        let follow = lookup & FOLLOW != 0 || memory.path(self.at, self.len)?.ends_with('/');
        self.find_place(memory, guest, right, if follow { Links::Follow } else { Links::Keep })
    }
}

pub(super) fn offer(linker: &mut Linker<Guest>) -> Result<()> {
    linker.func_wrap(
        MODULE,
        "path_open",
        |mut c: Calling<'_>,
         folder: i32,
         lookup: i32,
         at: i32,
         len: i32,
         how: i32,
         base: i64,
         inheriting: i64,
         flags: i32,
         result: i32| {
            call(&mut c, |memory, guest| {
                let wanted = Rights { base: base as u64, inheriting: inheriting as u64 };
                let fd = open(memory, guest, Path { folder, at, len }, lookup, how, wanted, flags)?;
                memory.put_u32(result, fd)
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "path_filestat_get",
        |mut c: Calling<'_>, folder: i32, lookup: i32, at: i32, len: i32, result: i32| {
            call(&mut c, |memory, guest| {
                let place = Path { folder, at, len }.find_by_flags(memory, guest, rights::PATH_FILESTAT_GET, lookup)?;
                let node = place.node.ok_or(errno::NOENT)?;
                descriptors::put_filestat(memory, &guest.files.filestat(node), result)
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "path_filestat_set_times",
        |mut c: Calling<'_>, folder: i32, lookup: i32, at: i32, len: i32, accessed: i64, modified: i64, which: i32| {
            call(&mut c, |memory, guest| {
                let place =
                    Path { folder, at, len }.find_by_flags(memory, guest, rights::PATH_FILESTAT_SET_TIMES, lookup)?;
                let node = place.node.ok_or(errno::NOENT)?;
                descriptors::set_times(guest, node, accessed as u64, modified as u64, which)
            })
        },
    )?;
    linker.func_wrap(MODULE, "path_create_directory", |mut c: Calling<'_>, folder: i32, at: i32, len: i32| {
        call(&mut c, |memory, guest| {
            let path = Path { folder, at, len };
            let place = path.find_place(memory, guest, rights::PATH_CREATE_DIRECTORY, Links::Keep)?;
            guest.create(&place, New::Folder).map(|_| ())
        })
    })?;
    linker.func_wrap(MODULE, "path_remove_directory", |mut c: Calling<'_>, folder: i32, at: i32, len: i32| {
        call(&mut c, |memory, guest| {
            let path = Path { folder, at, len };
            let place = path.find_place(memory, guest, rights::PATH_REMOVE_DIRECTORY, Links::Keep)?;
            Ok(guest.files.remove_folder(&place, guest.world.file_ns())?)
        })
    })?;
    linker.func_wrap(MODULE, "path_unlink_file", |mut c: Calling<'_>, folder: i32, at: i32, len: i32| {
        call(&mut c, |memory, guest| {
            let path = Path { folder, at, len };
            let place = path.find_place(memory, guest, rights::PATH_UNLINK_FILE, Links::Keep)?;
            Ok(guest.files.unlink(&place, guest.world.file_ns())?)
        })
    })?;
    linker.func_wrap(
        MODULE,
        "path_rename",
        |mut c: Calling<'_>, folder: i32, at: i32, len: i32, new_folder: i32, new_at: i32, new_len: i32| {
            call(&mut c, |memory, guest| {
                let (old, new) = (Path { folder, at, len }, Path { folder: new_folder, at: new_at, len: new_len });
                let from = old.find_place(memory, guest, rights::PATH_RENAME_SOURCE, Links::Keep)?;
                let to = new.find_place(memory, guest, rights::PATH_RENAME_TARGET, Links::Keep)?;
                Ok(guest.files.rename(&from, &to, guest.world.file_ns())?)
            })
        },
    )?;
    offer_links(linker)
}

fn offer_links(linker: &mut Linker<Guest>) -> Result<()> {
    linker.func_wrap(
        MODULE,
        "path_link",
        |mut c: Calling<'_>,
         folder: i32,
         lookup: i32,
         at: i32,
         len: i32,
         new_folder: i32,
         new_at: i32,
         new_len: i32| {
            call(&mut c, |memory, guest| {
                let (old, new) = (Path { folder, at, len }, Path { folder: new_folder, at: new_at, len: new_len });
                let from = old.find_by_flags(memory, guest, rights::PATH_LINK_SOURCE, lookup)?;
                let to = new.find_place(memory, guest, rights::PATH_LINK_TARGET, Links::Keep)?;
                let linked = guest.files.link(&from, &to, guest.world.file_ns());
                guest.log_names_refused();
                Ok(linked?)
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "path_symlink",
        |mut c: Calling<'_>, target: i32, target_len: i32, folder: i32, at: i32, len: i32| {
            call(&mut c, |memory, guest| {
                let target = memory.path(target, target_len)?.to_owned();
                if target.starts_with('/') && guest.folder(folder, rights::PATH_SYMLINK)? != files::ROOT {
                    return Err(errno::NOTCAPABLE.into());
                }
                let place = Path { folder, at, len }.find_place(memory, guest, rights::PATH_SYMLINK, Links::Keep)?;
                guest.create(&place, New::Link(target)).map(|_| ())
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "path_readlink",
        |mut c: Calling<'_>, folder: i32, at: i32, len: i32, buffer: i32, size: i32, result: i32| {
            call(&mut c, |memory, guest| {
                let place = Path { folder, at, len }.find_by_flags(memory, guest, rights::PATH_READLINK, 0)?;
                let node = place.node.ok_or(errno::NOENT)?;
                let target = guest.files.link_target(node).ok_or(errno::INVAL)?;
                // What does not fit is cut, as the standard has it.
                let bytes = &target.as_bytes()[..target.len().min(size as u32 as usize)];
                memory.put(buffer, bytes)?;
                memory.put_u32(result, bytes.len() as u32)
            })
        },
    )?;
    Ok(())
}

fn open(
    memory: &mut Memory<'_>,
    guest: &mut Guest,
    path: Path,
    lookup: i32,
    how: i32,
    wanted: Rights,
    flags: i32,
) -> Result<u32, Fault> {
    let (create, directory, truncate) = (how & CREATE != 0, how & DIRECTORY != 0, how & TRUNCATE != 0);
    if (create && directory) || flags & !i32::from(FLAGS_ALL) != 0 {
        return Err(errno::INVAL.into());
    }
    let exclusive = create && how & EXCLUSIVE != 0;
    let right = rights::PATH_OPEN | if create { rights::PATH_CREATE_FILE } else { 0 };
    // A link is something that exists, wherever it leads.
    let place = if exclusive {
        path.find_place(memory, guest, right, Links::Keep)?
    } else {
        path.find_by_flags(memory, guest, right, lookup)?
    };
    guest.may_open()?;
    let from = guest.descriptor(path.folder)?.rights;
    // Who opens a file to write may cut it: Go opens folders without the right to cut.
    if truncate && !from.of_file(wanted.base).may(rights::FD_WRITE) {
        from.demand(rights::PATH_FILESTAT_SET_SIZE)?;
    }
    let flags = flags as u16;
    let node = match place.node {
        Some(_) if exclusive => return Err(errno::EXIST.into()),
        Some(node) => node,
        None if create && place.slash => return Err(errno::ISDIR.into()),
        None if create => guest.create(&place, New::File)?,
        None => return Err(errno::NOENT.into()),
    };
    if guest.files.link_target(node).is_some() {
        return Err(if directory { errno::NOTDIR } else { errno::LOOP }.into());
    }
    if guest.files.is_folder(node) {
        let to_write = wanted.base != rights::WHATEVER_APPLIES && from.of_file(wanted.base).may(rights::FD_WRITE);
        if create || truncate || to_write {
            return Err(errno::ISDIR.into());
        }
        return guest.open(Descriptor { target: Target::Folder(node), rights: from.of_folder(wanted), flags });
    }
    if directory {
        return Err(errno::NOTDIR.into());
    }
    let mut rights = from.of_file(wanted.base);
    match guest.files.may_write(node) {
        Err(_) if wanted.base == rights::WHATEVER_APPLIES && !truncate => rights.base &= !rights::FD_WRITE,
        Err(errno) if truncate || rights.may(rights::FD_WRITE) => return Err(errno.into()),
        _ => (),
    }
    // The report is a stream: there is nothing to cut.
    if truncate && matches!(guest.files.node(node), Node::Written(_)) {
        guest.files.resize(node, 0, guest.world.file_ns())?;
    }
    guest.open(Descriptor { target: Target::File { node, at: 0 }, rights, flags })
}
