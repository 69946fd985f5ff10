//! `dnf`, as far as it installs Kubernetes' packages from repositories that are split by minor, and from files.

use std::fs;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};

use super::apt::{fault, of_file};
use super::{Call, err, out};
use crate::standin::fault::Point;
use crate::standin::packages::{Repository, archive_name};
use crate::standin::release::version_of_package;
use crate::standin::rpm::{DNF_VERSION, RpmDatabase};

/// What the repositories are called, but for the minor.
const SPLIT: &str = "http://packages.example/core:/stable:/v1.";

/// What dnf exits with when it could not.
const FAILED: u8 = 1;

pub(super) fn dnf(call: &Call) -> Result<u8> {
    let words: Vec<&str> = call.arguments().into_iter().filter(|word| !word.starts_with('-')).collect();
    match words.split_first() {
        None if call.has(&["--version"]) => {
            out(fs::read_to_string(call.node.at(DNF_VERSION)).unwrap_or_else(|_| "4.14.0".to_owned()));
            Ok(0)
        }
        Some((&"makecache", _)) => makecache(call),
        Some((&"repoquery", packages)) => repoquery(call, packages),
        Some((&"install", packages)) => install(call, packages, false),
        Some((&"reinstall", packages)) => install(call, packages, true),
        _ => {
            err(format_args!("No such command: {}.", words.first().unwrap_or(&"")));
            Ok(FAILED)
        }
    }
}

/// `kubeadm-1.31.2-1.1.x86_64.rpm`
fn file_name(name: &str, version: &str) -> String {
    format!("{name}-{version}.x86_64.rpm")
}

fn setting<'a>(call: &'a Call, name: &str) -> Option<&'a str> {
    call.arguments
        .iter()
        .find_map(|argument| argument.strip_prefix("--setopt=")?.strip_prefix(name)?.strip_prefix('='))
}

/// What the repositories' files say: the minors, and what is excluded.
fn repositories(call: &Call) -> Result<(Vec<u16>, Vec<String>)> {
    let folder =
        setting(call, "reposdir").map_or_else(|| call.node.at("/etc/yum.repos.d"), Utf8PathBuf::from);
    let (mut minors, mut excluded) = (Vec::new(), Vec::new());
    if call.has(&["--disablerepo=*"]) || !folder.is_dir() {
        return Ok((minors, excluded));
    }
    for entry in folder.read_dir_utf8()? {
        for line in fs::read_to_string(entry?.path())?.lines() {
            if let Some(rest) = line.strip_prefix("baseurl=").and_then(|url| url.strip_prefix(SPLIT)) {
                minors.extend(rest.split('/').next().and_then(|minor| minor.parse::<u16>().ok()));
            }
            if let Some(names) = line.strip_prefix("exclude=") {
                excluded.extend(names.split(' ').map(str::to_owned));
            }
        }
    }
    // dnf 4 calls all files' lines `all`, dnf 5 `*`.
    if setting(call, "disable_excludes").is_some_and(|said| said.split(',').any(|word| word == "all")) {
        excluded.clear();
    }
    Ok((minors, excluded))
}

/// What the repository of a minor has.
fn offers(call: &Call, minor: u16) -> Result<Repository> {
    let mut repository = Repository::read(&call.node.facts()?.repository)?;
    let of_minor = |version: &str| version_of_package(version).is_some_and(|version| version.minor == minor);
    repository.packages.retain(|(_, version)| of_minor(version));
    Ok(repository)
}

/// What dnf keeps of a repository lies under the repository's address.
fn kept(call: &Call, minor: u16) -> Utf8PathBuf {
    call.node.at(&format!("/var/cache/dnf/v1.{minor}"))
}

fn makecache(call: &Call) -> Result<u8> {
    if let Err(status) = fault(call, &Point::AptStarted) {
        return Ok(status);
    }
    for minor in repositories(call)?.0 {
        let offers = offers(call, minor)?;
        if offers.packages.is_empty() {
            err("Errors during downloading metadata for repository 'kubernetes':");
            err(format_args!("  - Status code: 404 for {SPLIT}{minor}/rpm/repodata/repomd.xml"));
            err(
                "Error: Failed to download metadata for repo 'kubernetes': Cannot download repomd.xml: Cannot download \
                 repodata/repomd.xml: All mirrors were tried",
            );
            return Ok(FAILED);
        }
        fs::create_dir_all(call.node.at("/var/cache/dnf"))?;
        offers.write_index(&kept(call, minor))?;
    }
    out("Metadata cache created.");
    Ok(0)
}

/// What is offered: as it was last seen, or asked for where that was never.
fn known(call: &Call) -> Result<Repository> {
    let (minors, excluded) = repositories(call)?;
    let mut known = Repository::default();
    for minor in minors {
        let kept = kept(call, minor);
        let offers = if kept.exists() || call.has(&["--cacheonly"]) {
            Repository::read_index(&kept).unwrap_or_default()
        } else {
            offers(call, minor)?
        };
        known.packages.extend(offers.packages);
    }
    known.packages.retain(|(name, _)| !excluded.contains(name));
    Ok(known)
}

fn repoquery(call: &Call, packages: &[&str]) -> Result<u8> {
    let known = known(call)?;
    for package in packages {
        for version in known.of(package) {
            // The format ends in a line's end, and dnf 4 adds another.
            out(format_args!("{package}\t{version}\n"));
        }
    }
    Ok(0)
}

/// Name and version of what a word names: `kubeadm-1.31.2`, `kubeadm-1.31.2-1.1`, or a file.
fn selected(known: &Repository, word: &str) -> Option<(String, String)> {
    if word.starts_with('/') {
        return of_file(word);
    }
    let (name, wanted) = word.split_once('-')?;
    let fits = |version: &&str| {
        version.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    known.of(name).find(fits).map(|version| (name.to_owned(), version.to_owned()))
}

fn install(call: &Call, words: &[&str], again: bool) -> Result<u8> {
    if let Err(status) = fault(call, &Point::AptStarted) {
        return Ok(status);
    }
    let known = known(call)?;
    let mut wanted = Vec::new();
    for word in words {
        let Some(package) = selected(&known, word) else {
            out(format_args!("No match for argument: {word}"));
            err(format_args!("Error: Unable to find a match: {word}"));
            return Ok(FAILED);
        };
        wanted.push(package);
    }
    if call.has(&["--downloadonly"]) {
        let folder = call.value(&["--downloaddir"]).context("no folder to download to")?;
        return download(call, &wanted, Utf8Path::new(folder));
    }
    for (name, version) in wanted {
        let earlier = RpmDatabase::read(&call.node)?;
        if !again && earlier.of(&name).contains(&version.as_str()) {
            out(format_args!("Package {name}-{version}.x86_64 is already installed."));
            continue;
        }
        out(format_args!("  Upgrading        : {name}-{version}.x86_64"));
        call.node.unpack(&name, &version)?;
        let mut both = earlier.clone();
        both.packages.retain(|package| *package != (name.clone(), version.clone()));
        both.packages.push((name.clone(), version.clone()));
        both.write(&call.node)?;
        if let Err(status) = fault(call, &Point::AptUnpacked(name.clone())) {
            return Ok(status);
        }
        std::thread::sleep(call.node.facts()?.tempo.stage);
        both.packages.retain(|(installed, of)| *installed != name || *of == version);
        both.write(&call.node)?;
    }
    out("Complete!");
    Ok(0)
}

fn download(call: &Call, packages: &[(String, String)], folder: &Utf8Path) -> Result<u8> {
    let repository = call.node.facts()?.repository;
    fs::create_dir_all(folder)?;
    for (name, version) in packages {
        if let Err(status) = fault(call, &Point::PackageDownloading(name.clone())) {
            return Ok(status);
        }
        fs::copy(repository.join(archive_name(name, version)), folder.join(file_name(name, version)))?;
    }
    out("Complete!");
    Ok(0)
}
