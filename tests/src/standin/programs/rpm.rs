//! `rpm`, as far as it is asked and unpacks.

use anyhow::Result;
use camino::Utf8Path;

use super::apt::of_file;
use super::{Call, dpkg, err, out};
use crate::standin::rpm::RpmDatabase;

pub(super) fn rpm(call: &Call) -> Result<u8> {
    let words: Vec<&str> = call.arguments().into_iter().filter(|word| !word.starts_with('-')).collect();
    match words.as_slice() {
        [pattern] if call.has(&["--query"]) => query(call, pattern),
        [name] if call.has(&["--verify"]) => Ok(u8::from(RpmDatabase::read(&call.node)?.of(name).len() != 1)),
        [file] if call.has(&["--checksig"]) => {
            let whole = of_file(file).is_some();
            out(format_args!("{file}: {}", if whole { "digests OK" } else { "DIGESTS NOT OK" }));
            Ok(u8::from(!whole))
        }
        [folder, file] if call.has(&["--install"]) && call.has(&["--root"]) => {
            err("rpm: RPM should not be used directly install RPM packages, use Alien instead!");
            dpkg::unpack_into(Utf8Path::new(file), Utf8Path::new(folder))
        }
        packages if call.has(&["--erase"]) => erase(call, packages),
        _ => {
            err("rpm: unknown option");
            Ok(1)
        }
    }
}

fn query(call: &Call, pattern: &str) -> Result<u8> {
    let start = pattern.trim_end_matches('*');
    for (name, version) in RpmDatabase::read(&call.node)?.packages {
        if name.starts_with(start) {
            out(format_args!("{name}\t{version}"));
        }
    }
    Ok(0)
}

/// Files of both versions stay.
fn erase(call: &Call, packages: &[&str]) -> Result<u8> {
    let mut database = RpmDatabase::read(&call.node)?;
    database.packages.retain(|(name, version)| !packages.contains(&format!("{name}-{version}").as_str()));
    database.write(&call.node)?;
    Ok(0)
}
