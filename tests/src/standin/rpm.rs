//! A stand-in node whose packages are dnf's: rpm's database, and a repository for each minor.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result};
use camino::Utf8PathBuf;

use crate::standin::node::{NodeTree, write_whole};
use crate::standin::packages::{Dpkg, Package};

/// dnf's file with the node's repository.
pub const REPO_FILE: &str = "/etc/yum.repos.d/kubernetes.repo";

/// What dnf says of its version, where that is not 4.14.
pub const DNF_VERSION: &str = "/var/lib/dnf/says-version";

/// rpm's database: which packages are installed. One may be there twice, as an interrupted transaction leaves it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RpmDatabase {
    /// Name, and version with release.
    pub packages: Vec<(String, String)>,
}

impl RpmDatabase {
    fn path(node: &NodeTree) -> Utf8PathBuf {
        node.at("/var/lib/rpm/packages")
    }

    /// Reads it.
    pub fn read(node: &NodeTree) -> Result<Self> {
        let path = Self::path(node);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let pair =
            |line: &str| line.split_once('\t').map(|(name, version)| (name.to_owned(), version.to_owned()));
        Ok(Self { packages: text.lines().filter_map(pair).collect() })
    }

    /// Writes it.
    pub fn write(&self, node: &NodeTree) -> Result<()> {
        let text = self.packages.iter().fold(String::new(), |mut text, (name, version)| {
            _ = writeln!(text, "{name}\t{version}");
            text
        });
        write_whole(&Self::path(node), &text)
    }

    /// The versions of a package.
    pub fn of(&self, name: &str) -> Vec<&str> {
        let named = self.packages.iter().filter(|(installed, _)| installed == name);
        named.map(|(_, version)| version.as_str()).collect()
    }
}

/// dnf's file, as Kubernetes' documentation has it.
pub fn repo_file(minor: u16) -> String {
    format!(
        "[kubernetes]\nname=Kubernetes\nbaseurl=http://packages.example/core:/stable:/v1.{minor}/rpm/\nenabled=1\n\
         exclude=kubelet kubeadm kubectl cri-tools kubernetes-cni\n"
    )
}

/// Has what dpkg knows be rpm's, in a repository of one minor.
pub fn install_by_dnf(node: &NodeTree, minor: u16) -> Result<()> {
    let known = Dpkg::read(node)?;
    let packages =
        known.iter().map(|Package { name, version, .. }| (name.clone(), version.clone())).collect();
    fs::create_dir_all(node.at("/var/lib/rpm"))?;
    RpmDatabase { packages }.write(node)?;
    Dpkg::default().write(node)?;
    let file = node.at(REPO_FILE);
    fs::create_dir_all(file.with_file_name(""))?;
    fs::write(file, repo_file(minor))?;
    let program = node.programs().join("dpkg").read_link_utf8()?;
    for name in ["dnf", "rpm"] {
        std::os::unix::fs::symlink(&program, node.programs().join(name))?;
    }
    Ok(())
}
