//! `apt-get`, `apt-cache` and `apt-mark`.

use std::fs::{self, File, TryLockError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{Call, apt_sources, err, out};
use crate::standin::fault::{Point, point};
use crate::standin::packages::{Dpkg, Package, archive_name, sha256};

/// What apt calls the repository. It is a folder, but one that apt fetches from, as it does over a network.
const REPOSITORY: &str = "http://packages.example";

/// What apt-get exits with when it could not.
const FAILED: u8 = 100;

pub(super) fn get(call: &Call) -> Result<u8> {
    let words = words(call);
    match words.split_first() {
        Some((&"update", _)) => update(call),
        Some((&"install", packages)) => install(call, packages),
        Some((&"download", packages)) => print_uris(call, packages),
        _ => {
            err(format_args!("E: Invalid operation {}", words.first().unwrap_or(&"")));
            Ok(FAILED)
        }
    }
}

/// The arguments that are no options; an option's value that stands alone (`-o X=Y`) belongs to it.
fn words(call: &Call) -> Vec<&str> {
    let mut words = Vec::new();
    let mut arguments = call.arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument == "-o" || argument == "--option" {
            arguments.next();
        } else if !argument.starts_with('-') {
            words.push(argument.as_str());
        }
    }
    words
}

pub(super) fn fault(call: &Call, at: &Point) -> Result<(), u8> {
    point(&call.node, at).map_err(|words| {
        err(format_args!("E: {words}"));
        FAILED
    })
}

fn update(call: &Call) -> Result<u8> {
    if let Err(status) = fault(call, &Point::AptStarted) {
        return Ok(status);
    }
    let answered = apt_sources::update(call, REPOSITORY)?;
    out("Reading package lists...");
    Ok(if answered { 0 } else { FAILED })
}

/// Takes dpkg's lock as apt does: waits as long as it was told to, and says so each second.
fn lock(call: &Call) -> Result<Option<File>> {
    let path = call.node.at("/var/lib/dpkg/lock-frontend");
    let file = File::options().create(true).append(true).open(&path)?;
    let patience = call
        .arguments
        .iter()
        .find_map(|argument| argument.split_once("DPkg::Lock::Timeout="))
        .and_then(|(_, seconds)| seconds.parse().ok());
    let end = patience.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut said = 0;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::Error(error)) => return Err(error.into()),
            Err(TryLockError::WouldBlock) => {}
        }
        let words = "Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 1 (another)";
        match end {
            Some(end) if Instant::now() < end => {
                if said % 100 == 0 {
                    out(format_args!("Waiting for cache lock: {words}..."));
                }
                said += 1;
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            Some(_) => {}
            None => err(format_args!("E: {words}")),
        }
        err(
            "E: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), is another process using it?",
        );
        return Ok(None);
    }
}

/// Name and exact version of each `name=pattern`.
fn selected(call: &Call, packages: &[&str]) -> Result<Result<Vec<(String, String)>, u8>> {
    let lists = apt_sources::known(call)?;
    let mut selected = Vec::new();
    for package in packages {
        if let Some(named) = package.starts_with('/').then(|| of_file(package)).flatten() {
            selected.push(named);
            continue;
        }
        let (name, pattern) = package.split_once('=').unwrap_or((package, "*"));
        if lists.of(name).next().is_none() {
            err(format_args!("E: Unable to locate package {name}"));
            return Ok(Err(FAILED));
        }
        let Some(version) = lists.select(name, pattern) else {
            out(format_args!("Package {name} is not available, but is referred to by another package."));
            out("This may mean that the package is missing, has been obsoleted, or");
            out("is only available from another source");
            out("");
            err(format_args!("E: Version '{pattern}' for '{name}' was not found"));
            return Ok(Err(FAILED));
        };
        selected.push((name.to_owned(), version.to_owned()));
    }
    Ok(Ok(selected))
}

/// Name and version of a package's file that is there.
pub(super) fn of_file(path: &str) -> Option<(String, String)> {
    let content = fs::read_to_string(path).ok()?;
    let field = |name: &str| content.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    Some((field("Package: ")?, field("Version: ")?))
}

fn install(call: &Call, packages: &[&str]) -> Result<u8> {
    let Some(_lock) = lock(call)? else {
        return Ok(FAILED);
    };
    if let Err(status) = fault(call, &Point::AptStarted) {
        return Ok(status);
    }
    let mut dpkg = Dpkg::read(&call.node)?;
    if dpkg.iter().any(|package| !package.configured) {
        err("E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem. ");
        return Ok(FAILED);
    }
    for line in ["Reading package lists...", "Building dependency tree...", "Reading state information..."] {
        out(line);
    }
    let selected = match selected(call, packages)? {
        Ok(selected) => selected,
        Err(status) => return Ok(status),
    };
    let mut changed: Vec<(Package, String)> = selected
        .into_iter()
        .filter_map(|(name, version)| dpkg.get(&name).map(|package| (package.clone(), version)))
        .filter(|(package, version)| package.version != *version)
        .collect();
    changed.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
    let names = |held: bool| -> Vec<&str> {
        changed
            .iter()
            .filter(|(package, _)| !held || package.held)
            .map(|(package, _)| package.name.as_str())
            .collect()
    };
    if !names(true).is_empty() {
        out("The following held packages will be changed:");
        out(format_args!("  {}", names(true).join(" ")));
    }
    if !changed.is_empty() {
        out("The following packages will be upgraded:");
        out(format_args!("  {}", names(false).join(" ")));
    }
    let lists = apt_sources::known(call)?;
    let behind =
        |package: &&Package| lists.of(&package.name).next().is_some_and(|newest| newest != package.version);
    let left = dpkg.iter().filter(behind).count().saturating_sub(changed.len());
    out(format_args!("{} upgraded, 0 newly installed, 0 to remove and {left} not upgraded.", changed.len()));
    if !names(true).is_empty() && !call.has(&["--allow-change-held-packages"]) {
        err("E: Held packages were changed and -y was used without --allow-change-held-packages.");
        return Ok(FAILED);
    }
    if !packages.iter().all(|package| package.starts_with('/')) {
        let status = download(call, &changed)?;
        if status != 0 {
            return Ok(status);
        }
    }
    if call.has(&["--download-only", "-d"]) {
        out("Download complete and in download only mode");
        return Ok(0);
    }
    let stage = call.node.facts()?.tempo.stage;
    for (package, version) in &changed {
        out(format_args!("Preparing to unpack ..././{} ...", archive_name(&package.name, version)));
        out(format_args!("Unpacking {} ({version}) over ({}) ...", package.name, package.version));
        call.node.unpack(&package.name, version)?;
        // A package that is installed by its exact version loses its hold.
        dpkg.set(Package { configured: false, ..Package::installed(&package.name, version) });
        dpkg.write(&call.node)?;
        if let Err(status) = fault(call, &Point::AptUnpacked(package.name.clone())) {
            return Ok(status);
        }
        std::thread::sleep(stage);
    }
    for (package, version) in &changed {
        out(format_args!("Setting up {} ({version}) ...", package.name));
        dpkg.set(Package::installed(&package.name, version));
        dpkg.write(&call.node)?;
    }
    Ok(0)
}

fn download(call: &Call, changed: &[(Package, String)]) -> Result<u8> {
    let repository = call.node.facts()?.repository;
    let archives = call.node.at("/var/cache/apt/archives");
    for (index, (package, version)) in changed.iter().enumerate() {
        let name = archive_name(&package.name, version);
        if !archives.join(&name).exists() {
            out(format_args!("Get:{} {REPOSITORY} ./ {} {version}", index + 1, package.name));
            if let Err(status) = fault(call, &Point::PackageDownloading(package.name.clone())) {
                return Ok(status);
            }
            fs::copy(repository.join(&name), archives.join(&name))
                .with_context(|| format!("cannot fetch {name}"))?;
        }
    }
    Ok(0)
}

fn print_uris(call: &Call, packages: &[&str]) -> Result<u8> {
    let repository = call.node.facts()?.repository;
    let selected = match selected(call, packages)? {
        Ok(selected) => selected,
        Err(status) => return Ok(status),
    };
    for (name, version) in selected {
        let archive = archive_name(&name, &version);
        let content = fs::read(repository.join(&archive))?;
        out(format_args!("'{REPOSITORY}/{archive}' {archive} {} SHA256:{}", content.len(), sha256(&content)));
    }
    Ok(0)
}

pub(super) fn cache(call: &Call) -> Result<u8> {
    let lists = apt_sources::known(call)?;
    if let Some((&"madison", packages)) = words(call).split_first() {
        for package in packages {
            for version in lists.of(package) {
                out(format_args!("{package:>10} | {version:>10} | {REPOSITORY} ./ Packages"));
            }
        }
        return Ok(0);
    }
    err("E: Invalid operation");
    Ok(FAILED)
}

pub(super) fn mark(call: &Call) -> Result<u8> {
    let mut dpkg = Dpkg::read(&call.node)?;
    let words = words(call);
    let Some((action, packages)) = words.split_first() else {
        err("E: No packages found");
        return Ok(FAILED);
    };
    if *action == "showhold" {
        for package in dpkg.iter().filter(|package| package.held) {
            if packages.is_empty() || packages.contains(&package.name.as_str()) {
                out(&package.name);
            }
        }
        return Ok(0);
    }
    let hold = *action == "hold";
    for name in packages {
        let Some(package) = dpkg.get(name).cloned() else {
            err(format_args!("E: Unable to locate package {name}"));
            err("E: No packages found");
            return Ok(FAILED);
        };
        out(match (hold, package.held) {
            (true, true) => format!("{name} was already set on hold."),
            (true, false) => format!("{name} set on hold."),
            (false, true) => format!("Canceled hold on {name}."),
            (false, false) => format!("{name} was already not on hold."),
        });
        dpkg.set(Package { held: hold, ..package });
    }
    dpkg.write(&call.node)?;
    Ok(0)
}
