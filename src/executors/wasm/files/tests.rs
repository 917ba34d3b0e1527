//! The tree as a module uses it, and two properties of it: what it does is what a plain map of paths would do, and what
//! is counted is what is kept.

use proptest::prelude::*;

use super::*;

const NOW: u64 = 1_000_000_000_000_000_000;

fn files_within(bytes_max: u64, memory: u64) -> Files {
    let inputs = BTreeMap::from([("a".to_owned(), Source::Bytes(Bytes::from_static(b"given")))]);
    Files::new(inputs, None, bytes_max, MemoryLimiter::new(memory), NOW).unwrap()
}

fn files() -> Files {
    files_within(1 << 20, 1 << 30)
}

impl Files {
    fn at(&self, path: &str) -> Result<Place, Errno> {
        self.lookup(ROOT, path, Links::Keep)
    }
    fn make(&mut self, path: &str, new: New) -> Result<NodeId, Errno> {
        self.create(&self.at(path)?, new, NOW)
    }
    fn make_link(&mut self, path: &str, target: &str) -> Result<NodeId, Errno> {
        self.make(path, New::Link(target.to_owned()))
    }
    fn stat(&self, path: &str) -> Result<NodeId, Errno> {
        self.lookup(ROOT, path, Links::Follow)?.node.ok_or(errno::NOENT)
    }
    fn remove_name(&mut self, path: &str) -> Result<(), Errno> {
        self.unlink(&self.at(path)?, NOW)
    }
    fn remove_dir(&mut self, path: &str) -> Result<(), Errno> {
        self.remove_folder(&self.at(path)?, NOW)
    }
    fn mv(&mut self, from: &str, to: &str) -> Result<(), Errno> {
        self.rename(&self.at(from)?, &self.at(to)?, NOW)
    }
    fn hard_link(&mut self, from: &str, to: &str) -> Result<(), Errno> {
        self.link(&self.at(from)?, &self.at(to)?, NOW)
    }
    fn names_after(&self, folder: &str, cookie: u64) -> Vec<(u64, String)> {
        let listed = self.list_after(self.stat(folder).unwrap(), cookie).unwrap();
        listed.map(|(cookie, name, ..)| (cookie, name.to_owned())).collect()
    }
    /// Everything that is counted, counted anew; `other` bytes were written elsewhere.
    pub(in crate::executors::wasm) fn check(&self, other: usize) {
        let (mut names, mut charges, mut bytes) = (0, 0, other);
        let mut links = BTreeMap::from([(ROOT, 1)]);
        for (id, inode) in &self.nodes {
            charges += inode.charge;
            match &inode.node {
                Node::Folder(folder) => {
                    assert_eq!(folder.names.len(), folder.by_cookie.len());
                    for (name, found) in &folder.names {
                        names += 1;
                        charges += found.charge;
                        assert_eq!(folder.by_cookie.get(&found.cookie), Some(name));
                        *links.entry(found.node).or_insert(0) += 1;
                        if let Ok(below) = self.folder(found.node) {
                            assert_eq!((below.parent, below.name_bytes), (Some(*id), name.len()));
                        }
                    }
                    assert!(self.path_bytes(*id) <= PATH_BYTES_MAX + 1);
                }
                Node::Written(written) => {
                    bytes += written.len();
                    // No vector of bytes has room for fewer than eight.
                    assert!(written.capacity() <= (written.len() * BYTES_PER_BYTE_WRITTEN).max(8));
                }
                Node::Given(_) | Node::Link(_) | Node::Report => (),
            }
            assert!(inode.names > 0 || inode.descriptors > 0, "nothing leads to node {id}");
        }
        for (id, inode) in &self.nodes {
            assert_eq!(inode.names, links.get(id).copied().unwrap_or(0));
        }
        assert_eq!(self.names, names);
        assert_eq!(self.bytes, bytes as u64);
        assert_eq!(self.memory.used, charges + bytes * BYTES_PER_BYTE_WRITTEN);
    }
}

#[test]
fn no_path_leads_out_of_the_folder_it_starts_from() {
    let mut files = files();
    files.make("tmp/d", New::Folder).unwrap();
    files.make("tmp/d/e", New::Folder).unwrap();
    files.make("tmp/x", New::File).unwrap();
    let d = files.stat("tmp/d").unwrap();
    assert_eq!(files.lookup(ROOT, "..", Links::Follow).err(), Some(errno::NOTCAPABLE));
    assert_eq!(files.lookup(ROOT, "/tmp//./d/../x", Links::Follow).unwrap().node, files.stat("tmp/x").ok());
    for path in ["..", "../x", "e/../../x", "/tmp/x", "/", "e/../.."] {
        assert_eq!(files.lookup(d, path, Links::Follow).err(), Some(errno::NOTCAPABLE), "{path}");
    }
    files.make_link("tmp/d/out", "../x").unwrap();
    assert_eq!(files.lookup(d, "out", Links::Follow).err(), Some(errno::NOTCAPABLE));
    assert_eq!(files.stat("tmp/d/out"), files.stat("tmp/x"), "from above it leads nowhere else");
    files.make_link("tmp/d/given", "/in/a").unwrap();
    assert_eq!(files.stat("tmp/d/given"), files.stat("in/a"));
    assert_eq!(files.lookup(d, "given", Links::Follow).err(), Some(errno::NOTCAPABLE));
    assert_eq!(files.lookup(d, "given/x", Links::Keep).err(), Some(errno::NOTCAPABLE));
    assert_eq!(files.lookup(ROOT, &"x/".repeat(2000), Links::Follow).err(), Some(errno::NAMETOOLONG));
}

#[test]
fn paths_fail_as_posix_has_it() {
    let mut files = files();
    files.make("tmp/f", New::File).unwrap();
    files.make("tmp/d", New::Folder).unwrap();
    let cases = [
        ("", errno::NOENT),
        ("tmp/f/", errno::NOTDIR),
        ("tmp/f/x", errno::NOTDIR),
        ("tmp/f/.", errno::NOTDIR),
        ("tmp/f/..", errno::NOTDIR),
        ("tmp/none/../f", errno::NOENT),
        ("tmp/none", errno::NOENT),
        ("tmp/none/", errno::NOENT),
        ("tmp/f\0", errno::INVAL),
    ];
    for (path, expected) in cases {
        assert_eq!(files.stat(path), Err(expected), "{path:?}");
    }
    assert_eq!(files.stat(&format!("tmp/{}", "n".repeat(256))), Err(errno::NAMETOOLONG));
    assert_eq!(files.make("tmp/f/x", New::File), Err(errno::NOTDIR));
    assert_eq!(files.make("tmp/none/x", New::Folder), Err(errno::NOENT));
    assert_eq!(files.make("tmp/d", New::Folder), Err(errno::EXIST));
    assert_eq!(files.make("tmp/.", New::Folder), Err(errno::EXIST));
    files.make("tmp/e/", New::Folder).unwrap();
    assert_eq!(files.remove_name("tmp/f/"), Err(errno::NOTDIR));
    assert_eq!(files.remove_name("tmp/d"), Err(errno::ISDIR));
    assert_eq!(files.remove_dir("tmp/f"), Err(errno::NOTDIR));
    assert_eq!(files.remove_dir("tmp/d/."), Err(errno::INVAL));
    assert_eq!(files.mv("tmp/f", "tmp/d"), Err(errno::ISDIR));
    assert_eq!(files.mv("tmp/d", "tmp/f"), Err(errno::NOTDIR));
    assert_eq!(files.mv("tmp/f", "tmp/g/"), Err(errno::NOTDIR));
    assert_eq!(files.mv("tmp/d/.", "tmp/g"), Err(errno::BUSY));
    assert_eq!(files.mv("tmp/d/", "tmp/e/"), Ok(()), "over an empty folder");
    assert_eq!(files.mv("tmp/e", "tmp/e/x"), Err(errno::INVAL));
    assert_eq!(files.mv("tmp/f", "tmp/f"), Ok(()));
    files.check(0);
}

#[test]
fn inputs_cannot_be_changed_or_removed() {
    let mut files = files();
    let given = files.stat("in/a").unwrap();
    assert_eq!(files.may_write(given), Err(errno::ROFS));
    assert_eq!(files.remove_name("in/a"), Err(errno::ROFS));
    assert_eq!(files.make("in/b", New::File), Err(errno::ROFS));
    assert_eq!(files.mv("in/a", "out/a"), Err(errno::ROFS));
    assert_eq!(files.make("elsewhere", New::File), Err(errno::ROFS));
    assert_eq!(files.remove_dir("out"), Err(errno::ROFS));
    assert_eq!(files.set_times(given, Some(1), Some(1), NOW), Err(errno::ROFS));
    assert_eq!(files.hard_link("in/a", "out/a"), Err(errno::XDEV), "else it would be an output that nobody wrote");
    files.make("tmp/x", New::File).unwrap();
    assert_eq!(files.mv("tmp/x", "in/a"), Err(errno::ROFS));
    assert_eq!(files.hard_link("tmp/x", "task/other"), Err(errno::ROFS));
    files.mv("tmp/x", "task/checkpoint").unwrap();
    assert_eq!(files.checkpoint(), Some(&[][..]));
}

/// Goal: names, folders and links are paid for like contents, and a refusal is remembered for the task's ending.
#[test]
fn what_is_made_takes_of_the_memory() {
    let mut files = files_within(1 << 20, 3 * (NAME_BYTES + NODE_BYTES) as u64);
    let id = files.make("out/a", New::File).unwrap();
    files.write_at(id, 0, &[1; 50], NOW).unwrap();
    files.make("tmp/b", New::File).unwrap();
    assert_eq!(files.make("tmp/d", New::Folder), Err(errno::NOSPC));
    assert_eq!(files.make_link("tmp/l", &"x".repeat(1000)), Err(errno::NOSPC));
    assert!(files.memory.refused);
    assert!(matches!(files.write_at(id, 50, &[1; 1000], NOW), Err(WriteError::Refused(errno::NOSPC))));
    files.check(0);
    files.remove_name("tmp/b").unwrap();
    files.remove_name("out/a").unwrap();
    assert_eq!(files.memory.used, 0);
}

#[test]
fn names_have_a_limit_and_room_again_when_some_go() {
    let mut files = files();
    files.names_max = files.names + 2;
    files.make("tmp/a", New::File).unwrap();
    files.hard_link("tmp/a", "tmp/b").unwrap();
    assert_eq!(files.make("tmp/c", New::File), Err(errno::NOSPC));
    assert_eq!(files.hard_link("tmp/a", "tmp/c"), Err(errno::NOSPC));
    assert!(files.names_refused && !files.memory.refused);
    files.remove_name("tmp/b").unwrap();
    files.make_link("tmp/c", "a").unwrap();
    files.check(0);
}

#[test]
fn a_path_from_the_root_stays_short_enough_however_folders_move() {
    let mut files = files();
    let mut deep = "tmp".to_owned();
    while files.make(&format!("{deep}/{}", "d".repeat(99)), New::Folder).is_ok() {
        deep = format!("{deep}/{}", "d".repeat(99));
    }
    assert!(deep.len() > PATH_BYTES_MAX - 101);
    files.make("out/d", New::Folder).unwrap();
    files.make("out/d/e", New::Folder).unwrap();
    files.make(&format!("out/d/e/{}", "x".repeat(99)), New::File).unwrap();
    assert_eq!(files.mv("out/d", &format!("{deep}/d")), Err(errno::NAMETOOLONG));
    files.mv("out/d/e", "out/e").unwrap();
    files.mv("out/d", &format!("{deep}/d")).unwrap();
    files.check(0);
}

#[test]
fn a_file_lives_by_each_of_its_names_and_descriptors() {
    let mut files = files();
    let id = files.make("tmp/a", New::File).unwrap();
    files.write_at(id, 0, b"hello", NOW).unwrap();
    files.hard_link("tmp/a", "out/b").unwrap();
    assert_eq!((files.stat("out/b"), files.filestat(id).names), (Ok(id), 2));
    assert_eq!(files.hard_link("tmp/a", "out/b"), Err(errno::EXIST));
    assert_eq!(files.hard_link("tmp/a", "out/c/"), Err(errno::NOENT));
    assert_eq!(files.hard_link("tmp", "out/c"), Err(errno::PERM));
    files.mv("tmp/a", "out/b").unwrap();
    assert_eq!(files.filestat(id).names, 2, "both are the same file: a rename does nothing");
    files.remove_name("tmp/a").unwrap();
    files.opened(id);
    files.remove_name("out/b").unwrap();
    assert_eq!((files.len(id), files.filestat(id).names), (5, 0));
    files.check(0);
    files.closed(id);
    assert!(!files.nodes.contains_key(&id));
    files.check(0);
}

#[test]
fn a_folder_that_was_removed_while_open_holds_nothing() {
    let mut files = files();
    let id = files.make("tmp/d", New::Folder).unwrap();
    files.opened(id);
    files.remove_dir("tmp/d").unwrap();
    assert_eq!(files.list_after(id, 0).unwrap().count(), 0);
    let place = files.lookup(id, "x", Links::Keep).unwrap();
    assert_eq!(files.create(&place, New::File, NOW), Err(errno::NOENT));
    assert_eq!(files.lookup(id, "..", Links::Keep).err(), Some(errno::NOTCAPABLE));
    files.closed(id);
    files.check(0);
}

#[test]
fn symbolic_links_are_followed_and_circles_end() {
    let mut files = files();
    files.make("tmp/d", New::Folder).unwrap();
    let x = files.make("tmp/d/x", New::File).unwrap();
    files.make_link("tmp/l", "d/../d/x").unwrap();
    files.make_link("tmp/to-d", "d/").unwrap();
    files.make_link("tmp/dangling", "none").unwrap();
    for path in ["tmp/l", "tmp/to-d/x", "tmp/to-d/../d/x"] {
        assert_eq!(files.stat(path), Ok(x), "{path}");
    }
    assert_eq!(files.stat("tmp/l/"), Err(errno::NOTDIR));
    assert_eq!(files.stat("tmp/dangling"), Err(errno::NOENT));
    assert_eq!(files.make("tmp/dangling", New::File), Err(errno::EXIST));
    let beyond = files.lookup(ROOT, "tmp/dangling", Links::Follow).unwrap();
    let made = files.create(&beyond, New::File, NOW).unwrap();
    assert_eq!(files.stat("tmp/none"), Ok(made));
    assert_eq!(files.remove_dir("tmp/to-d"), Err(errno::NOTDIR));
    files.make_link("tmp/one", "two").unwrap();
    files.make_link("tmp/two", "one").unwrap();
    assert_eq!(files.stat("tmp/one"), Err(errno::LOOP));
    assert_eq!(files.stat("tmp/one/x"), Err(errno::LOOP));
    // Each of these doubles the walk of the one before.
    files.make_link("tmp/d/b0", "x").unwrap();
    for n in 1..64 {
        files.make_link(&format!("tmp/d/b{n}"), &format!("b{}/../b{}", n - 1, n - 1)).unwrap();
    }
    assert!(files.stat("tmp/d/b63").is_err());
    assert_eq!(files.make_link("tmp/e", ""), Err(errno::NOENT));
    files.check(0);
}

#[test]
fn times_are_those_of_the_last_change_or_those_that_were_set() {
    let mut files = files();
    let id = files.make("tmp/a", New::File).unwrap();
    files.write_at(id, 0, b"x", NOW + 1).unwrap();
    files.write_at(id, 0, b"", NOW + 2).unwrap();
    assert_eq!(files.filestat(id).times, Times { accessed: NOW, modified: NOW + 1, changed: NOW + 1 });
    files.set_times(id, Some(7), None, NOW + 3).unwrap();
    assert_eq!(files.filestat(id).times, Times { accessed: 7, modified: NOW + 1, changed: NOW + 3 });
    let folder = files.stat("tmp").unwrap();
    let (from, to) = (files.at("tmp/a").unwrap(), files.at("tmp/b").unwrap());
    files.rename(&from, &to, NOW + 4).unwrap();
    assert_eq!(files.filestat(folder).times.modified, NOW + 4);
    assert_eq!(files.filestat(id).times, Times { accessed: 7, modified: NOW + 1, changed: NOW + 4 });
    assert_eq!(files.set_times(folder, None, Some(9), NOW), Ok(()), "as copying a tree into `tmp` does");
}

#[test]
fn a_folder_moves_with_what_is_in_it() {
    let mut files = files();
    files.make("tmp/d", New::Folder).unwrap();
    let id = files.make("tmp/d/x", New::File).unwrap();
    files.write_at(id, 0, b"hello", NOW).unwrap();
    assert_eq!(files.remove_dir("tmp/d"), Err(errno::NOTEMPTY));
    files.mv("tmp/d", "out/e").unwrap();
    let names: Vec<_> = files.names_after("out", COOKIE_PARENT).into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["e"]);
    files.check(0);
    let expected = BTreeMap::from([("e/x".to_owned(), Bytes::from_static(b"hello"))]);
    assert_eq!(files.into_outputs(0), Some(expected));
}

/// Goal: outputs are bounded by what the task may write, also where one file has many names; links are passed over.
#[test]
fn each_name_of_a_file_is_an_output_of_its_own_and_links_are_none() {
    let made = |names: usize| {
        let mut files = files_within(100, 1 << 20);
        let id = files.make("out/0", New::File).unwrap();
        files.write_at(id, 0, &[7; 25], NOW).unwrap();
        for n in 1..names {
            files.hard_link("out/0", &format!("out/{n}")).unwrap();
        }
        files.make_link("out/l", "0").unwrap();
        files
    };
    let outputs = made(3).into_outputs(25).unwrap();
    assert_eq!(outputs.keys().collect::<Vec<_>>(), ["0", "1", "2"]);
    assert!(outputs.values().all(|bytes| bytes[..] == [7; 25]));
    assert_eq!(made(4).into_outputs(25), None);
    assert!(made(4).into_outputs(0).is_some());
}

/// Goal: a reader that removes, renames or makes names meanwhile meets each other name exactly once. Method: a folder
/// is read three names at a time, as with a small buffer, and after each the given changes are made.
#[test]
fn reading_a_folder_while_changing_it_skips_nothing() {
    let name = |n: usize| format!("file-{n:03}");
    let folder = |count| {
        let mut files = files();
        files.make("tmp/d", New::Folder).unwrap();
        for n in 0..count {
            files.make(&format!("tmp/d/{}", name(n)), New::File).unwrap();
        }
        files
    };
    type Change = fn(&mut Files, &str);
    let changes: [Change; 4] = [
        |files, read| files.remove_name(read).unwrap(),
        // As `for f in *; do mv $f $f.old; done`: the new name must not come again.
        |files, read| files.mv(read, &format!("{read}.old")).unwrap(),
        |files, read| files.mv(read, "tmp/moved").unwrap(),
        |_, _| (),
    ];
    for change in changes {
        let mut files = folder(100);
        let (mut seen, mut after) = (Vec::new(), 0);
        loop {
            let found: Vec<_> = files.names_after("tmp/d", after).into_iter().take(3).collect();
            let Some((last, _)) = found.last() else { break };
            after = *last;
            for (_, name) in found.into_iter().filter(|(_, name)| !name.starts_with('.')) {
                change(&mut files, &format!("tmp/d/{name}"));
                seen.push(name);
            }
        }
        assert_eq!(seen, (0..100).map(name).collect::<Vec<_>>());
        files.check(0);
    }
    let mut files = folder(3);
    let all = files.names_after("tmp/d", 0);
    assert_eq!(all, files.names_after("tmp/d", 0), "rewinding gives the same numbers");
    files.remove_name("tmp/d/file-001").unwrap();
    assert_eq!(files.names_after("tmp/d", all[3].0), all[4..], "the cookie of a name that is gone still is a place");
    assert!(files.names_after("tmp/d", u64::MAX).is_empty());
}

/// A file system that is one map from paths to what is there: slow, and plainly right.
#[derive(Default)]
struct Model(BTreeMap<String, Thing>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Thing {
    Folder,
    File(NodeId),
    Link(String),
}

impl Model {
    /// The path without links, dots and doubled slashes, whether something is there or not; and if a slash ended it.
    fn real(&self, path: &str, follow: bool, links: usize) -> Option<(String, bool)> {
        let mut real = String::new();
        let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
        let mut slash = path.ends_with('/');
        for (n, part) in parts.iter().enumerate() {
            let last = n + 1 == parts.len();
            if !real.is_empty() && self.0.get(&real) != Some(&Thing::Folder) {
                return None;
            }
            if *part == "." {
                continue;
            }
            if *part == ".." {
                real = real.rsplit_once('/').map_or("", |(parent, _)| parent).to_owned();
                continue;
            }
            let next = if real.is_empty() { (*part).to_owned() } else { format!("{real}/{part}") };
            match self.0.get(&next) {
                Some(Thing::Link(target)) if !last || follow => {
                    let target = format!("{real}/{target}");
                    let (found, also) = self.real(&target, true, links.checked_sub(1)?)?;
                    slash |= last && also;
                    real = found;
                }
                _ => real = next,
            }
        }
        match self.0.get(&real) {
            Some(Thing::File(_) | Thing::Link(_)) if slash => None,
            _ => Some((real, slash)),
        }
    }
    fn resolve_path(&self, path: &str) -> Option<(String, bool)> {
        self.real(path, false, LINKS)
    }
    fn follow(&self, path: &str) -> Option<Thing> {
        self.0.get(&self.real(path, true, LINKS)?.0).cloned()
    }
    /// What was made with a name that the path must not have yet, if that worked.
    fn add(&mut self, path: &str, thing: Thing) -> bool {
        match self.resolve_path(path) {
            Some((path, slash)) if !self.0.contains_key(&path) && (!slash || thing == Thing::Folder) => {
                self.0.insert(path, thing);
                true
            }
            _ => false,
        }
    }
    fn is_empty(&self, folder: &str) -> bool {
        !self.0.keys().any(|path| path.starts_with(&format!("{folder}/")))
    }
    fn remove(&mut self, path: &str, folder: bool) -> bool {
        match self.resolve_path(path).map(|(path, _)| (self.0.get(&path).cloned(), path)) {
            Some((Some(thing), path))
                if (thing == Thing::Folder) == folder && self.is_empty(&path) && path.contains('/') =>
            {
                self.0.remove(&path);
                true
            }
            _ => false,
        }
    }
    fn rename(&mut self, from: &str, to: &str) -> bool {
        let (Some((from, _)), Some((to, slash))) = (self.resolve_path(from), self.resolve_path(to)) else {
            return false;
        };
        let Some(thing) = self.0.get(&from).cloned() else { return false };
        let folder = thing == Thing::Folder;
        let there = self.0.get(&to).cloned();
        if (slash && !folder) || !from.contains('/') || !to.contains('/') {
            return false;
        }
        if from == to || (matches!(thing, Thing::File(_)) && there.as_ref() == Some(&thing)) {
            return true;
        }
        let over = there.is_none_or(|there| (there == Thing::Folder) == folder && self.is_empty(&to));
        if !over || to.starts_with(&format!("{from}/")) {
            return false;
        }
        self.0.remove(&to);
        let moved: Vec<_> =
            self.0.keys().filter(|path| **path == from || path.starts_with(&format!("{from}/"))).cloned().collect();
        for path in moved {
            let thing = self.0.remove(&path).unwrap();
            self.0.insert(format!("{to}{}", &path[from.len()..]), thing);
        }
        true
    }
}

/// Enough for every chain that the actions below can make without a circle.
const LINKS: usize = 10;

#[derive(Clone, Debug)]
enum Act {
    File(String),
    Folder(String),
    Link(String, String),
    HardLink(String, String),
    Unlink(String),
    RemoveFolder(String),
    Rename(String, String),
    Stat(String),
    Write(String, u8, u8),
    Resize(String, u8),
    Open(String),
    Close(u8),
}

fn act() -> impl Strategy<Value = Act> {
    let part = || prop::sample::select(vec!["a", "b", "c", "a", "b", "c", ".", ".."]);
    let path = move || {
        (prop::collection::vec(part(), 1..4), any::<bool>()).prop_map(|(drawn, slash)| {
            // The model knows nothing above `tmp`. A link leads no higher than where it is.
            let (mut parts, mut deep) = (Vec::new(), 0);
            for part in drawn {
                match part {
                    ".." if deep == 0 => continue,
                    ".." => deep -= 1,
                    "." => (),
                    _ => deep += 1,
                }
                parts.push(part);
            }
            // Dots at the end name no entry, and their errors differ from system to system.
            if parts.last().is_none_or(|part| part.starts_with('.')) {
                parts.push("a");
            }
            format!("tmp/{}{}", parts.join("/"), if slash { "/" } else { "" })
        })
    };
    let target = || prop::sample::select(vec!["a", "b", "c/a", "a/../b", "b/", "c"]).prop_map(str::to_owned);
    prop_oneof![
        3 => path().prop_map(Act::File),
        3 => path().prop_map(Act::Folder),
        2 => (path(), target()).prop_map(|(path, target)| Act::Link(path, target)),
        2 => (path(), path()).prop_map(|(from, to)| Act::HardLink(from, to)),
        2 => path().prop_map(Act::Unlink),
        1 => path().prop_map(Act::RemoveFolder),
        4 => (path(), path()).prop_map(|(from, to)| Act::Rename(from, to)),
        2 => path().prop_map(Act::Stat),
        2 => (path(), any::<u8>(), any::<u8>()).prop_map(|(path, at, len)| Act::Write(path, at, len)),
        1 => (path(), any::<u8>()).prop_map(|(path, size)| Act::Resize(path, size)),
        1 => path().prop_map(Act::Open),
        1 => any::<u8>().prop_map(Act::Close),
    ]
}

fn snapshot(files: &Files) -> BTreeMap<String, Thing> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![(files.stat("tmp").unwrap(), "tmp".to_owned())]);
    while let Some((folder, path)) = folders.pop() {
        for (cookie, name, node, kind) in files.list_after(folder, COOKIE_PARENT).unwrap() {
            assert!(cookie > COOKIE_PARENT);
            let path = format!("{path}/{name}");
            if kind == KIND_FOLDER {
                folders.push((node, path.clone()));
            }
            let thing = match &files.inode(node).node {
                Node::Folder(_) => Thing::Folder,
                Node::Link(target) => Thing::Link(target.clone()),
                _ => Thing::File(node),
            };
            found.insert(path, thing);
        }
        found.insert(path, Thing::Folder);
    }
    found
}

proptest! {
    /// Goal: whatever is made, linked, moved, removed, written and held open, the tree does what a plain map does, and
    /// the bytes counted are the bytes kept.
    #[test]
    fn the_tree_does_what_a_map_of_paths_does(acts in prop::collection::vec(act(), 0..80)) {
        let mut files = files_within(600, 1 << 20);
        let mut model = Model(BTreeMap::from([("tmp".to_owned(), Thing::Folder)]));
        let mut open: Vec<NodeId> = Vec::new();
        for act in acts {
            match &act {
                Act::File(path) => {
                    let made = files.make(path, New::File);
                    let expected = model.add(path, Thing::File(made.unwrap_or(0)));
                    prop_assert_eq!(made.is_ok(), expected, "{:?} {:?}", act, made);
                }
                Act::Folder(path) => {
                    prop_assert_eq!(files.make(path, New::Folder).is_ok(), model.add(path, Thing::Folder), "{:?}", act);
                }
                Act::Link(path, target) => {
                    let expected = model.add(path, Thing::Link(target.clone()));
                    prop_assert_eq!(files.make_link(path, target).is_ok(), expected, "{:?}", act);
                }
                Act::HardLink(from, to) => {
                    // Two names of one link are two links to the model.
                    let thing = model.resolve_path(from).and_then(|(path, _)| model.0.get(&path).cloned());
                    if let Some(Thing::Link(_)) = thing { continue }
                    let expected = thing.is_some_and(|thing| thing != Thing::Folder && model.add(to, thing));
                    prop_assert_eq!(files.hard_link(from, to).is_ok(), expected, "{:?}", act);
                }
                Act::Unlink(path) => {
                    prop_assert_eq!(files.remove_name(path).is_ok(), model.remove(path, false), "{:?}", act);
                }
                Act::RemoveFolder(path) => {
                    prop_assert_eq!(files.remove_dir(path).is_ok(), model.remove(path, true), "{:?}", act);
                }
                Act::Rename(from, to) => {
                    let done = files.mv(from, to);
                    prop_assert_eq!(done.is_ok(), model.rename(from, to), "{:?} {:?}", act, done);
                }
                Act::Stat(path) => match (files.stat(path), model.follow(path)) {
                    (Ok(node), Some(Thing::File(id))) => prop_assert_eq!(node, id),
                    (Ok(node), Some(Thing::Folder)) => prop_assert!(files.is_folder(node)),
                    (Err(_), None) => (),
                    (found, expected) => prop_assert!(false, "{:?}: {:?}, not {:?}", act, found, expected),
                },
                Act::Write(path, at, len) => if let Ok(id) = files.stat(path) && !files.is_folder(id) {
                    let _ = files.write_at(id, (*at).into(), &vec![1; (*len).into()], NOW);
                },
                Act::Resize(path, size) => if let Ok(id) = files.stat(path) {
                    let _ = files.resize(id, (*size).into(), NOW);
                },
                Act::Open(path) => if let Ok(id) = files.stat(path) { files.opened(id); open.push(id); },
                Act::Close(n) => if !open.is_empty() {
                    let id = open.swap_remove(usize::from(*n) % open.len());
                    files.closed(id);
                },
            }
            files.check(0);
            prop_assert!(files.bytes <= 600);
            prop_assert!(open.iter().all(|id| files.nodes.contains_key(id)));
        }
        prop_assert_eq!(snapshot(&files), model.0);
    }
}
