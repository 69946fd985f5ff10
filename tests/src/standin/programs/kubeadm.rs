//! `kubeadm`: version, images, and the way to `kubeadm upgrade`.

use std::fs;

use anyhow::Result;

use super::{Call, err, kubeadm_join, kubeadm_upgrade, out, version_json};
use crate::standin::release::Release;

const FLAGS: [&str; 11] = [
    "--upload-certs",
    "-y",
    "--yes",
    "-f",
    "--force",
    "-o",
    "--output",
    "--ignore-preflight-errors",
    "--kubernetes-version",
    "--config",
    "--context-lines",
];

pub(super) fn kubeadm(call: &Call) -> Result<u8> {
    let flag = |argument: &&str| argument.starts_with('-');
    let name = |argument: &str| argument.split('=').next().unwrap_or_default().to_owned();
    let arguments = call.arguments();
    if let Some(unknown) =
        arguments.iter().copied().filter(flag).find(|argument| !FLAGS.contains(&name(argument).as_str()))
    {
        return Ok(failed(&format!("unknown flag: {unknown}")));
    }
    let own = call.release("kubeadm")?;
    let words: Vec<&str> = arguments.iter().copied().filter(|argument| !flag(argument)).collect();
    match words.as_slice() {
        ["version", ..] => match call.value(&["-o", "--output"]) {
            Some("short") => out(own.0),
            _ => out(version_json(own)?),
        },
        ["config", "images", "list", ..] => return images(call, own),
        ["upgrade", "apply", target] => return kubeadm_upgrade::apply(call, own, target),
        ["upgrade", "diff", target] => return kubeadm_upgrade::diff(call, target),
        ["init", "phase", "upload-certs"] => return kubeadm_join::upload_certs(call),
        ["join"] => return kubeadm_join::join(call, own),
        ["reset"] => return kubeadm_join::reset(call),
        ["upgrade", "node"] => return kubeadm_upgrade::node(call, own),
        _ => return Ok(failed(&format!("unknown command \"{}\" for \"kubeadm\"", words.join(" ")))),
    }
    Ok(0)
}

fn images(call: &Call, own: Release) -> Result<u8> {
    let configuration = call.value(&["--config"]).map(fs::read_to_string).transpose()?.unwrap_or_default();
    let configured =
        |name: &str| configuration.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let version = call.value(&["--kubernetes-version"]).or_else(|| configured("kubernetesVersion:"));
    let release = match version.map(str::parse) {
        None => own,
        Some(Ok(version)) => Release(version),
        Some(Err(error)) => return Ok(failed(&error.to_string())),
    };
    for image in release.images(configured("imageRepository:").unwrap_or(release.registry())) {
        out(image);
    }
    Ok(0)
}

/// kubeadm's last words, and its exit status.
pub(super) fn failed(words: &str) -> u8 {
    err(words);
    err("To see the stack trace of this error execute with --v=5 or higher");
    1
}
