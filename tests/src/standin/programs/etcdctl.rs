//! `etcdctl`: its version, and `snapshot restore` into a folder that is not there yet.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;

use anyhow::Result;
use camino::Utf8Path;
use sha2::{Digest as _, Sha256};

use super::{Call, err, out};
use crate::standin::fault::{Point, point};

pub(super) fn etcdctl(call: &Call) -> Result<u8> {
    match call.arguments().as_slice() {
        ["version"] => {
            // Debian's etcd-client beside the first releases; later whoever installs it takes etcd's own.
            let release = call.release("kubeadm")?;
            let version = if release.0.minor < 22 { "3.4.23" } else { release.etcd() };
            out(format_args!("etcdctl version: {version}"));
            let api: Vec<&str> = version.split('.').take(2).collect();
            out(format_args!("API version: {}", api.join(".")));
            Ok(0)
        }
        ["snapshot", "restore", snapshot, ..] => restore(call, snapshot),
        words => Ok(failed(&format!("unknown command \"{}\" for \"etcdctl\"", words.join(" ")))),
    }
}

fn restore(call: &Call, snapshot: &str) -> Result<u8> {
    let data_dir = Utf8Path::new(call.value(&["--data-dir"]).unwrap_or("default.etcd"));
    if data_dir.exists() {
        return Ok(failed(&format!("data-dir \"{data_dir}\" exists")));
    }
    let Ok(bytes) = fs::read(snapshot) else {
        return Ok(failed(&format!("open {snapshot}: no such file or directory")));
    };
    let member = data_dir.join("member");
    let mut folders = fs::DirBuilder::new();
    folders.recursive(true).mode(0o700);
    folders.create(member.join("snap"))?;
    if let Err(words) = point(&call.node, &Point::EtcdctlRestoring) {
        return Ok(failed(&words));
    }
    let Some((database, said)) = bytes.split_last_chunk::<32>() else {
        return Ok(failed("snapshot missing hash but --skip-hash-check=false"));
    };
    fs::write(member.join("snap/db"), database)?;
    let found = Sha256::digest(database);
    if found.as_slice() != said {
        return Ok(failed(&format!("expected sha256 {}, got {}", list(said), list(&found))));
    }
    folders.create(member.join("wal"))?;
    Ok(0)
}

/// Bytes as Go prints them: `[203 189 18]`.
fn list(bytes: &[u8]) -> String {
    let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
    format!("[{}]", numbers.join(" "))
}

fn failed(why: &str) -> u8 {
    err(format_args!("Error: {why}"));
    1
}
