//! What apt's sources lead to: one repository of everything, or repositories of one minor each. Without a file of sources
//! it is the former.

use std::fs;

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};

use super::{Call, err, out};
use crate::standin::packages::Repository;
use crate::standin::release::version_of_package;

/// What the repositories that are split by minor are called, but for the minor.
const SPLIT: &str = "http://packages.example/core:/stable:/v1.";

/// A file of apt's, or a folder, unless an option names another.
fn place(call: &Call, option: &str, usual: &str) -> Utf8PathBuf {
    let named = format!("{option}=");
    let found = call.arguments.iter().find_map(|argument| Some(argument.split_once(&named)?.1));
    found.map_or_else(|| call.node.at(usual), Utf8PathBuf::from)
}

fn lists(call: &Call) -> Utf8PathBuf {
    place(call, "Dir::State::Lists", "/var/lib/apt/lists")
}

/// The minors of repositories that are split by minor; none where there is one repository of everything.
fn minors(call: &Call) -> Result<Vec<u16>> {
    let parts = place(call, "Dir::Etc::SourceParts", "/etc/apt/sources.list.d");
    let mut files = vec![place(call, "Dir::Etc::SourceList", "/etc/apt/sources.list")];
    if parts.is_dir() {
        for entry in parts.read_dir_utf8()? {
            files.push(entry?.into_path());
        }
    }
    let mut minors: Vec<u16> = Vec::new();
    for file in files.iter().filter(|file| file.is_file()) {
        let text = fs::read_to_string(file)?;
        let urls = text.lines().filter_map(|line| line.strip_prefix("deb ")?.strip_prefix(SPLIT));
        minors.extend(urls.filter_map(|rest| rest.split('/').next()?.parse::<u16>().ok()));
    }
    minors.sort_unstable();
    minors.dedup();
    Ok(minors)
}

fn index(folder: &Utf8Path, minor: u16) -> Utf8PathBuf {
    folder.join(format!("v1.{minor}-Packages"))
}

/// `apt-get update`, told to fail where a repository does not answer.
pub(super) fn update(call: &Call, otherwise: &str) -> Result<bool> {
    let repository = Repository::read(&call.node.facts()?.repository)?;
    let minors = minors(call)?;
    if minors.is_empty() {
        out(format_args!("Get:1 {otherwise} ./ Packages"));
        repository.write_lists(&call.node)?;
    }
    let mut answered = true;
    for minor in minors {
        let of_minor =
            |version: &str| version_of_package(version).is_some_and(|version| version.minor == minor);
        let mut part = repository.clone();
        part.packages.retain(|(_, version)| of_minor(version));
        if part.packages.is_empty() {
            out(format_args!("Err:1 {SPLIT}{minor}/deb  Packages"));
            out("  404  Not Found");
            err(format_args!("E: Failed to fetch {SPLIT}{minor}/deb/Packages  404  Not Found"));
            answered = false;
        } else {
            out(format_args!("Get:1 {SPLIT}{minor}/deb  Packages"));
            part.write_index(&index(&lists(call), minor))?;
        }
    }
    if !answered {
        err("E: Some index files failed to download. They have been ignored, or old ones used instead.");
    }
    Ok(answered)
}

/// What apt knows of what its sources lead to.
pub(super) fn known(call: &Call) -> Result<Repository> {
    let minors = minors(call)?;
    let looks_elsewhere = call.arguments.iter().any(|argument| argument.contains("Dir::State::Lists="));
    if minors.is_empty() && !looks_elsewhere {
        return Repository::read_lists(&call.node);
    }
    let mut known = Repository::default();
    for minor in minors.into_iter().rev() {
        let index = index(&lists(call), minor);
        if index.exists() {
            known.packages.extend(Repository::read_index(&index)?.packages);
        }
    }
    Ok(known)
}
