//! Two looks at a protected path, compared as its class demands.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use crate::host::trees::{Entry, Kind, Name, Tree};

/// How something differs from what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Difference {
    /// It is not there any more.
    Gone,
    /// It was not there.
    New,
    /// A file became a folder, or the like.
    Type,
    /// What is in the file.
    Content,
    /// Where the link leads.
    Target,
    /// Owner or group.
    Owner,
    /// Permission bits.
    Mode,
    /// Extended attributes, POSIX ACLs and capabilities among them.
    Attributes,
    /// When a file's content was changed last. A folder's time is not compared.
    Time,
    /// Which names in the tree are one file.
    Links,
    /// Another file system is mounted there.
    Mount,
    /// It is another folder.
    Replaced,
    /// A log that does not begin as it did.
    Rewritten,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "gone",
            Self::New => "new",
            Self::Type => "of another type",
            Self::Content => "content",
            Self::Target => "target",
            Self::Owner => "owner",
            Self::Mode => "mode",
            Self::Attributes => "extended attributes",
            Self::Time => "time",
            Self::Links => "hard links",
            Self::Mount => "another mount",
            Self::Replaced => "another folder",
            Self::Rewritten => "the log begins otherwise",
        })
    }
}

/// Differences by path, relative to the tree's root.
pub type Differences = BTreeMap<Name, BTreeSet<Difference>>;

/// Everything in which a tree that must stay as it was is another one, as far as `skip` does not say that a path and all
/// below it may change. Of a folder that is new nothing below it is named.
pub fn sealed(before: &Tree, now: &Tree, skip: impl Fn(&Name) -> bool) -> Differences {
    let mut differences = Differences::new();
    let (links_before, links_now) = (first_names(before), first_names(now));
    for (path, was) in before.entries() {
        if skip(&path) {
            continue;
        }
        let found: BTreeSet<Difference> = match now.entry(&path) {
            None => [Difference::Gone].into(),
            Some(is) => {
                let mut found = of_entries(was, is);
                if links_before.get(&path) != links_now.get(&path) && matches!(is.kind, Kind::File { .. }) {
                    found.insert(Difference::Links);
                }
                found
            }
        };
        if !found.is_empty() {
            differences.insert(path, found);
        }
    }
    for (path, _) in now.entries() {
        let was_folder = |folder: &Name| before.entry(folder).is_some_and(|was| was.kind == Kind::Folder);
        let above_is_new = path.split().is_some_and(|(folder, _)| !was_folder(&folder));
        if !skip(&path) && before.entry(&path).is_none() && !above_is_new {
            differences.insert(path, [Difference::New].into());
        }
    }
    differences
}

/// In what a path that is in use is not the one that it was. What was not there may have come.
pub fn live(before: &Tree, now: &Tree) -> Option<Difference> {
    let was = before.root.as_ref()?;
    let Some(is) = now.root.as_ref() else {
        return Some(Difference::Gone);
    };
    match (&was.kind, &is.kind) {
        _ if before.mount != now.mount => Some(Difference::Mount),
        (Kind::Folder, Kind::Folder) => (was.stamp.inode != is.stamp.inode).then_some(Difference::Replaced),
        (Kind::Link(before), Kind::Link(now)) => (before != now).then_some(Difference::Target),
        (was, is) => (std::mem::discriminant(was) != std::mem::discriminant(is)).then_some(Difference::Type),
    }
}

fn of_entries(was: &Entry, is: &Entry) -> BTreeSet<Difference> {
    let mut found = BTreeSet::new();
    match (&was.kind, &is.kind) {
        (Kind::File { blake3: before, .. }, Kind::File { blake3: now, .. }) => {
            if before != now || was.stamp.size != is.stamp.size {
                found.insert(Difference::Content);
            }
            if was.stamp.modified != is.stamp.modified {
                found.insert(Difference::Time);
            }
        }
        (Kind::Link(before), Kind::Link(now)) if before != now => {
            found.insert(Difference::Target);
        }
        // What is mounted is not ours to compare.
        (Kind::MountPoint, Kind::MountPoint) => return found,
        (before, now) if before != now => return [Difference::Type].into(),
        _ => {}
    }
    if (was.uid, was.gid) != (is.uid, is.gid) {
        found.insert(Difference::Owner);
    }
    // A link has no mode of its own.
    if was.mode != is.mode && !matches!(is.kind, Kind::Link(_)) {
        found.insert(Difference::Mode);
    }
    if was.xattrs != is.xattrs {
        found.insert(Difference::Attributes);
    }
    found
}

/// For each file that has several names in the tree: the first of them.
pub fn first_names(tree: &Tree) -> BTreeMap<Name, Name> {
    let mut groups: HashMap<(u64, u64), Vec<Name>> = HashMap::new();
    for (path, entry) in tree.entries() {
        if entry.links > 1 && matches!(entry.kind, Kind::File { .. }) {
            groups.entry((entry.stamp.device, entry.stamp.inode)).or_default().push(path);
        }
    }
    let mut first_names = BTreeMap::new();
    for mut names in groups.into_values().filter(|names| names.len() > 1) {
        names.sort();
        if let Some(first) = names.first().cloned() {
            first_names.extend(names.into_iter().map(|name| (name, first.clone())));
        }
    }
    first_names
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::host::trees::{Moment, Mount, Stamp};

    fn file(content: &str, inode: u64, links: u64) -> Entry {
        let hash = blake3::hash(content.as_bytes()).into();
        Entry {
            kind: Kind::File { blake3: Some(hash), sparse: false },
            mode: 0o644,
            uid: 0,
            gid: 0,
            links,
            stamp: Stamp { device: 1, inode, size: content.len() as u64, ..Stamp::default() },
            xattrs: BTreeMap::new(),
        }
    }

    fn folder(inode: u64) -> Entry {
        Entry { kind: Kind::Folder, ..file("", inode, 2) }
    }

    fn tree(entries: &[(&str, Entry)]) -> Tree {
        let mut tree = Tree { root: Some(folder(1)), ..Tree::default() };
        for (path, entry) in entries {
            let (above, name) = Name::from(*path).split().unwrap();
            Arc::make_mut(tree.folders.entry(above).or_default()).insert(name, entry.clone());
        }
        tree
    }

    fn few() -> Tree {
        tree(&[
            ("a", file("one", 10, 2)),
            ("b", file("one", 10, 2)),
            ("d", folder(11)),
            ("d/x", file("two", 12, 1)),
            ("l", Entry { kind: Kind::Link("d/x".into()), ..file("", 13, 1) }),
        ])
    }

    fn found(before: &Tree, now: &Tree) -> Vec<(String, Vec<Difference>)> {
        let differences = sealed(before, now, |_| false);
        differences.into_iter().map(|(path, found)| (path.to_string(), found.into_iter().collect())).collect()
    }

    fn change(tree: &Tree, path: &str, change: impl FnOnce(&mut Entry)) -> Tree {
        let mut tree = tree.clone();
        let (above, name) = Name::from(path).split().unwrap();
        change(Arc::make_mut(tree.folders.get_mut(&above).unwrap()).get_mut(&name).unwrap());
        tree
    }

    fn without(tree: &Tree, path: &str) -> Tree {
        let mut tree = tree.clone();
        let (above, name) = Name::from(path).split().unwrap();
        Arc::make_mut(tree.folders.get_mut(&above).unwrap()).remove(&name);
        tree.folders.remove(&Name::from(path));
        tree
    }

    #[test]
    fn a_tree_that_was_restored_by_the_byte_is_the_same_though_inodes_and_change_times_are_others() {
        let mut now = few();
        for entry in now.folders.values_mut().flat_map(|listing| Arc::make_mut(listing).values_mut()) {
            entry.stamp.inode += 100;
            entry.stamp.device += 1;
            entry.stamp.changed = Moment(9, 9);
        }
        assert_eq!(found(&few(), &now), []);
    }

    #[test]
    fn each_thing_that_can_change_is_told_by_its_name() {
        let was = few();
        let one = |now: &Tree| found(&was, now);
        let is = |path: &str, differences: &[Difference]| vec![(path.to_owned(), differences.to_vec())];
        assert_eq!(one(&change(&was, "d/x", |x| *x = file("twO", 12, 1))), is("d/x", &[Difference::Content]));
        assert_eq!(one(&change(&was, "d/x", |x| x.mode = 0o600)), is("d/x", &[Difference::Mode]));
        assert_eq!(one(&change(&was, "d", |d| d.mode = 0o777)), is("d", &[Difference::Mode]));
        assert_eq!(one(&change(&was, "d/x", |x| x.gid = 7)), is("d/x", &[Difference::Owner]));
        let acl = |x: &mut Entry| _ = x.xattrs.insert("system.posix_acl_access".into(), "x".into());
        assert_eq!(one(&change(&was, "d/x", acl)), is("d/x", &[Difference::Attributes]));
        assert_eq!(
            one(&change(&was, "d/x", |x| x.stamp.modified = Moment(1, 0))),
            is("d/x", &[Difference::Time])
        );
        assert_eq!(
            one(&change(&was, "l", |l| l.kind = Kind::Link("/etc/shadow".into()))),
            is("l", &[Difference::Target])
        );
        assert_eq!(one(&change(&was, "d/x", |x| x.kind = Kind::Folder)), is("d/x", &[Difference::Type]));
        assert_eq!(one(&without(&was, "l")), is("l", &[Difference::Gone]));
        let broken = change(&was, "b", |b| (b.stamp.inode, b.links) = (20, 1));
        let links = [Difference::Links].to_vec();
        assert_eq!(one(&broken), [("a".to_owned(), links.clone()), ("b".to_owned(), links)]);
    }

    #[test]
    fn a_folder_that_is_gone_takes_all_its_entries_and_one_that_is_new_is_named_alone() {
        let was = few();
        let gone = found(&was, &without(&was, "d"));
        assert_eq!(gone.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(), ["d", "d/x"]);
        let new = found(&without(&was, "d"), &was);
        assert_eq!(new, [("d".to_owned(), vec![Difference::New])]);
    }

    #[test]
    fn what_may_change_is_not_told() {
        let was = few();
        let now = change(&was, "d/x", |x| *x = file("new", 12, 1));
        let skip = |path: &Name| path.is_within(&"d".into());
        assert!(sealed(&was, &now, skip).is_empty());
        assert!(sealed(&was, &without(&was, "d"), skip).is_empty());
        assert!(sealed(&without(&was, "d"), &was, skip).is_empty());
    }

    #[test]
    fn a_path_in_use_must_be_the_same_folder_of_the_same_mount_and_nothing_else() {
        let mount = |source: &str| Mount {
            point: "/var/lib/etcd".to_owned(),
            kind: "ext4".to_owned(),
            source: source.to_owned(),
            root: "/".to_owned(),
        };
        let was = Tree { mount: Some(mount("/dev/sdb")), root: Some(folder(2)), ..Tree::default() };
        let grown = Tree { root: Some(Entry { links: 40, mode: 0o711, ..folder(2) }), ..was.clone() };
        assert_eq!(live(&was, &grown), None);
        assert_eq!(live(&Tree::default(), &was), None, "it came");
        assert_eq!(live(&was, &Tree::default()), Some(Difference::Gone));
        let replaced = Tree { root: Some(folder(3)), ..was.clone() };
        assert_eq!(live(&was, &replaced), Some(Difference::Replaced));
        let covered = Tree { mount: Some(mount("tmpfs")), ..was.clone() };
        assert_eq!(live(&was, &covered), Some(Difference::Mount));
        let linked = Entry { kind: Kind::Link("/data/etcd".into()), ..folder(2) };
        assert_eq!(live(&was, &Tree { root: Some(linked), ..was.clone() }), Some(Difference::Type));
    }

    fn any_tree() -> impl Strategy<Value = Tree> {
        let entry = (0..3u8, 0..3u32, 0..2u64).prop_map(|(content, mode, inode)| Entry {
            mode,
            ..file(["", "x", "yy"][usize::from(content)], inode + 10, 2)
        });
        prop::collection::btree_map("[ab]", entry, 0..4).prop_map(|entries| {
            let entries: Vec<(&str, Entry)> =
                entries.iter().map(|(name, entry)| (name.as_str(), entry.clone())).collect();
            tree(&entries)
        })
    }

    proptest! {
        #[test]
        fn a_tree_does_not_differ_from_itself(tree in any_tree()) {
            prop_assert!(sealed(&tree, &tree, |_| false).is_empty());
        }

        #[test]
        fn whoever_differs_differs_both_ways_and_gone_one_way_is_new_the_other(one in any_tree(), other in any_tree()) {
            let there = sealed(&one, &other, |_| false);
            let back = sealed(&other, &one, |_| false);
            let keys = |differences: &Differences| differences.keys().cloned().collect::<Vec<_>>();
            prop_assert_eq!(keys(&there), keys(&back));
            for (path, found) in &there {
                let gone = found.contains(&Difference::Gone);
                prop_assert_eq!(gone, back[path].contains(&Difference::New));
            }
        }

        #[test]
        fn nothing_that_may_change_is_ever_told(one in any_tree(), other in any_tree()) {
            prop_assert!(sealed(&one, &other, |path| path == &"a".into()).keys().all(|path| path != &"a".into()));
        }
    }
}
