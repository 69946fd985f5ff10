//! `replace-system`: what an operator's command does to a host that is replaced as a whole. The agent ends with the
//! system, everything but the persistent folder goes, and a system that knows nothing of the node takes its place, with
//! the packages of the version that kubeadm is at. The machine starts anew; who starts what in it is the test's to play.

use std::fs;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Call, err, out};
use crate::standin::fault::{Point, point};
use crate::standin::node::{NodeTree, PERSISTENT};
use crate::standin::packages::{Dpkg, Package, Repository};
use crate::standin::systemd::{Ask, ask};

pub(super) fn replace_system(call: &Call) -> Result<u8> {
    out("pulling the new system");
    if let Err(words) = point(&call.node, &Point::ReplaceStarted) {
        err(words);
        return Ok(1);
    }
    let dpkg = Dpkg::read(&call.node)?;
    let version = dpkg.get("kubeadm").context("kubeadm is not installed")?.version.clone();
    end_agent(&call.node)?;
    wipe(&call.node)?;
    lay(&call.node, &version)?;
    ask(&call.root, &Ask::Reboot)?;
    Ok(0)
}

/// The agent is a process of the old system.
fn end_agent(node: &NodeTree) -> Result<()> {
    let path = node.agent_pid();
    let pid = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(kill(Pid::from_raw(pid.trim().parse()?), Signal::SIGKILL)?)
}

/// Removes all but the persistent folder, and where this machine's systemd and runtime listen.
fn wipe(node: &NodeTree) -> Result<()> {
    let stays = [node.at(PERSISTENT), node.at("/run")];
    let mut folders = vec![node.root()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir_utf8()? {
            let entry = entry?;
            let path = entry.path();
            if stays.iter().any(|kept| path == kept) {
                continue;
            }
            if stays.iter().any(|kept| kept.starts_with(path)) {
                folders.push(path.to_owned());
            } else if entry.file_type()?.is_dir() {
                fs::remove_dir_all(path)?;
            } else {
                fs::remove_file(path)?;
            }
        }
    }
    Ok(())
}

fn lay(node: &NodeTree, version: &str) -> Result<()> {
    let facts = node.facts()?;
    let repository = Repository::read(&facts.repository)?;
    let program = camino::Utf8PathBuf::try_from(std::env::current_exe()?)?;
    node.lay_system(&program)?;
    let mut dpkg = Dpkg::default();
    for name in ["kubeadm", "kubectl", "kubelet"] {
        node.unpack(name, version)?;
        dpkg.set(Package { held: true, ..Package::installed(name, version) });
    }
    dpkg.write(node)?;
    repository.write_lists(node)?;
    fs::write(node.at("/etc/hostname"), format!("{}\n", facts.name))?;
    fs::write(node.at("/etc/machine-id"), "ffffffffffffffffffffffffffffffff\n")?;
    Ok(fs::write(node.at("/etc/os-release"), "NAME=\"the new system\"\n")?)
}
