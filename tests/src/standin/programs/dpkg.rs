//! `dpkg`, `dpkg-query` and `dpkg-deb`.

use std::fs;

use anyhow::{Context as _, Result};
use camino::Utf8Path;

use super::{Call, err, out};
use crate::standin::packages::{Dpkg, Package};

pub(super) fn dpkg(call: &Call) -> Result<u8> {
    let mut status = Dpkg::read(&call.node)?;
    let unpacked: Vec<Package> = status.iter().filter(|package| !package.configured).cloned().collect();
    let arguments: Vec<&str> =
        call.arguments().into_iter().filter(|word| !word.starts_with("--force-")).collect();
    match arguments.as_slice() {
        ["--audit" | "-C"] => {
            if !unpacked.is_empty() {
                out("The following packages have been unpacked but not yet configured.");
                out("They must be configured using dpkg --configure or the configure");
                out("menu option in dselect for them to work:");
            }
            for package in &unpacked {
                out(format_args!(" {:<20} stand-in package", package.name));
            }
        }
        ["--configure", "-a" | "--pending"] => {
            for package in unpacked {
                out(format_args!("Setting up {} ({}) ...", package.name, package.version));
                status.set(Package { configured: true, ..package });
                status.write(&call.node)?;
            }
        }
        _ => {
            err("dpkg: error: need an action option");
            return Ok(2);
        }
    }
    Ok(0)
}

pub(super) fn query(call: &Call) -> Result<u8> {
    let format = call.value(&["-f", "--showformat"]).unwrap_or("${Package}\\t${Version}\\n");
    let status = Dpkg::read(&call.node)?;
    let wanted: Vec<&str> = call.arguments().into_iter().filter(|word| !word.starts_with('-')).collect();
    // Of patterns, those that end in an asterisk.
    let matches =
        |word: &str, name: &str| word.strip_suffix('*').map_or(word == name, |start| name.starts_with(start));
    let mut found = String::new();
    for package in status.iter().filter(|package| wanted.iter().any(|word| matches(word, &package.name))) {
        found += &format
            .replace("${Package}", &package.name)
            .replace("${Version}", &package.version)
            .replace("${db:Status-Abbrev}", &package.abbreviation())
            .replace("${db:Status-Want}", if package.held { "hold" } else { "install" })
            .replace("\\t", "\t")
            .replace("\\n", "\n");
    }
    if !found.is_empty() {
        out(found.trim_end_matches('\n'));
    }
    let missing: Vec<&&str> =
        wanted.iter().filter(|word| !status.iter().any(|package| matches(word, &package.name))).collect();
    for name in &missing {
        err(format_args!("dpkg-query: no packages found matching {name}"));
    }
    Ok(u8::from(!missing.is_empty()))
}

pub(super) fn deb(call: &Call) -> Result<u8> {
    let ["--extract" | "-x", archive, folder] = call.arguments().as_slice()[..] else {
        err("dpkg-deb: error: need an action option");
        return Ok(2);
    };
    unpack_into(Utf8Path::new(archive), Utf8Path::new(folder))
}

/// Puts the files of a package into a folder.
pub(super) fn unpack_into(archive: &Utf8Path, folder: &Utf8Path) -> Result<u8> {
    let text = fs::read_to_string(archive).with_context(|| format!("cannot read {archive}"))?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let (Some(package), Some(version)) = (field("Package:"), field("Version:")) else {
        err(format_args!("dpkg-deb: error: '{archive}' is not a Debian format archive"));
        return Ok(2);
    };
    fs::create_dir_all(folder.join("usr/bin"))?;
    fs::create_dir_all(folder.join("usr/lib/standin"))?;
    fs::write(folder.join("usr/lib/standin").join(package), version)?;
    std::os::unix::fs::symlink(std::env::current_exe()?, folder.join("usr/bin").join(package))?;
    Ok(0)
}
