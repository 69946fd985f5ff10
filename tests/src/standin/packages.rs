//! The package manager's files on a stand-in node: dpkg's status, apt's lists, and the repository behind them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use sha2::{Digest as _, Sha256};

use crate::standin::node::{NodeTree, write_whole};

/// One package as dpkg's status file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// `kubeadm`
    pub name: String,
    /// `1.31.2-1.1`
    pub version: String,
    /// Set on hold: `hold` instead of `install` is wanted.
    pub held: bool,
    /// Unpacked and configured; false between the two.
    pub configured: bool,
}

impl Package {
    /// An installed package that is not held.
    pub fn installed(name: &str, version: &str) -> Self {
        Self { name: name.to_owned(), version: version.to_owned(), held: false, configured: true }
    }

    /// dpkg's two letters and a blank: `ii `, `hi `, `hU `.
    pub fn abbreviation(&self) -> String {
        format!("{}{} ", if self.held { 'h' } else { 'i' }, if self.configured { 'i' } else { 'U' })
    }
}

/// dpkg's status file.
#[derive(Debug, Clone, Default)]
pub struct Dpkg {
    packages: BTreeMap<String, Package>,
}

impl Dpkg {
    fn path(node: &NodeTree) -> Utf8PathBuf {
        node.at("/var/lib/dpkg/status")
    }

    /// Reads it.
    pub fn read(node: &NodeTree) -> Result<Self> {
        let path = Self::path(node);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let mut packages = BTreeMap::new();
        for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
            let field = |name: &str| {
                paragraph
                    .lines()
                    .find_map(|line| line.strip_prefix(name))
                    .map(|value| value.trim().to_owned())
                    .with_context(|| format!("{path}: a paragraph without {name}"))
            };
            let (name, status) = (field("Package:")?, field("Status:")?);
            let package = Package {
                version: field("Version:")?,
                held: status.starts_with("hold"),
                configured: status.ends_with(" installed"),
                name: name.clone(),
            };
            packages.insert(name, package);
        }
        Ok(Self { packages })
    }

    /// Writes it.
    pub fn write(&self, node: &NodeTree) -> Result<()> {
        let mut text = String::new();
        for Package { name, version, held, configured } in self.packages.values() {
            let want = if *held { "hold" } else { "install" };
            let state = if *configured { "installed" } else { "unpacked" };
            _ = writeln!(
                text,
                "Package: {name}\nStatus: {want} ok {state}\nArchitecture: amd64\nVersion: {version}\n"
            );
        }
        write_whole(&Self::path(node), &text)
    }

    /// One package.
    pub fn get(&self, name: &str) -> Option<&Package> {
        self.packages.get(name)
    }

    /// Sets one package.
    pub fn set(&mut self, package: Package) {
        self.packages.insert(package.name.clone(), package);
    }

    /// Every package, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Package> {
        self.packages.values()
    }
}

/// The packages that a repository offers: name, version and size, newest first for each name.
#[derive(Debug, Clone, Default)]
pub struct Repository {
    /// Name and version.
    pub packages: Vec<(String, String)>,
}

impl Repository {
    /// Makes a repository's folder with these package versions, oldest first, of all three packages.
    pub fn create(folder: &Utf8Path, versions: &[String]) -> Result<()> {
        fs::create_dir_all(folder)?;
        let mut index = String::new();
        for version in versions.iter().rev() {
            for name in ["kubeadm", "kubectl", "kubelet"] {
                _ = writeln!(index, "{name} {version}");
                fs::write(folder.join(archive_name(name, version)), archive(name, version))?;
            }
        }
        write_whole(&folder.join("Packages"), &index)
    }

    /// Reads a repository's index.
    pub fn read(folder: &Utf8Path) -> Result<Self> {
        Self::read_index(&folder.join("Packages"))
    }

    /// Reads what the node's apt knows: the index as of the last update.
    pub fn read_lists(node: &NodeTree) -> Result<Self> {
        Self::read_index(&node.at("/var/lib/apt/lists/Packages"))
    }

    /// Reads an index.
    pub fn read_index(path: &Utf8Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        let pair =
            |line: &str| line.split_once(' ').map(|(name, version)| (name.to_owned(), version.to_owned()));
        Ok(Self { packages: text.lines().filter_map(pair).collect() })
    }

    /// Without every version but this one.
    #[must_use]
    pub fn only(mut self, version: &str) -> Self {
        self.packages.retain(|(_, offered)| offered == version);
        self
    }

    /// Makes it what the node's apt knows.
    pub fn write_lists(&self, node: &NodeTree) -> Result<()> {
        self.write_index(&node.at("/var/lib/apt/lists/Packages"))
    }

    /// Writes an index.
    pub fn write_index(&self, path: &Utf8Path) -> Result<()> {
        let index = self.packages.iter().fold(String::new(), |mut index, (name, version)| {
            _ = writeln!(index, "{name} {version}");
            index
        });
        write_whole(path, &index)
    }

    /// The version that `=PATTERN` selects, as apt matches it: exact, or a prefix before a `*`.
    pub fn select(&self, name: &str, pattern: &str) -> Option<&str> {
        self.of(name).find(|version| match pattern.strip_suffix('*') {
            Some(prefix) => version.starts_with(prefix),
            None => *version == pattern,
        })
    }

    /// The versions of a package, newest first.
    pub fn of(&self, name: &str) -> impl Iterator<Item = &str> {
        self.packages.iter().filter(move |(offered, _)| offered == name).map(|(_, version)| version.as_str())
    }
}

/// `kubeadm_1.31.2-1.1_amd64.deb`
pub fn archive_name(package: &str, version: &str) -> String {
    format!("{package}_{version}_amd64.deb")
}

/// A stand-in archive: what `dpkg-deb` needs to know.
fn archive(package: &str, version: &str) -> String {
    format!("Package: {package}\nVersion: {version}\n")
}

/// Lower-case hexadecimal SHA-256.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut hash, byte| {
        _ = write!(hash, "{byte:02x}");
        hash
    })
}
