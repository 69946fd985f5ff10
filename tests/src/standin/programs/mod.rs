//! The programs of a stand-in node. Which one runs follows from the name that the binary is called by.

mod apt;
mod apt_sources;
mod ctr;
mod dnf;
mod dpkg;
mod etcdctl;
mod kubeadm;
mod kubeadm_join;
mod kubeadm_policy;
mod kubeadm_upgrade;
mod replace_system;
mod rpm;
mod systemd;

use std::fmt::Display;
use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use nix::sys::signal::{SigSet, Signal};

use crate::fleet::freeze;
use crate::standin::api::server::version;
use crate::standin::node::{NodeTree, ROOT_VARIABLE};
use crate::standin::release::{Release, version_of_package};
use crate::standin::systemd::UNIT_VARIABLE;

/// A program's call.
struct Call {
    /// As it was called: a bare name, or a path.
    program: Utf8PathBuf,
    arguments: Vec<String>,
    node: NodeTree,
    root: Utf8PathBuf,
}

impl Call {
    fn arguments(&self) -> Vec<&str> {
        self.arguments.iter().map(String::as_str).collect()
    }

    /// Whether one of these options is among the arguments.
    fn has(&self, options: &[&str]) -> bool {
        self.arguments.iter().any(|argument| options.contains(&argument.as_str()))
    }

    /// The value of an option, as `--name=value` or `--name value`.
    fn value(&self, options: &[&str]) -> Option<&str> {
        let mut arguments = self.arguments.iter();
        while let Some(argument) = arguments.next() {
            for option in options {
                if argument == option {
                    return arguments.next().map(String::as_str);
                }
                if let Some(value) = argument.strip_prefix(option).and_then(|rest| rest.strip_prefix('=')) {
                    return Some(value);
                }
            }
        }
        None
    }

    /// The release of the package that this program came in: beside it where it was called by a path, else the
    /// node's.
    fn release(&self, package: &str) -> Result<Release> {
        let beside =
            self.program.parent().and_then(Utf8Path::parent).map(|usr| usr.join("lib/standin").join(package));
        let file = beside
            .filter(|file| file.exists())
            .unwrap_or_else(|| self.node.at(&format!("/usr/lib/standin/{package}")));
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
        let version = version_of_package(text.trim()).with_context(|| format!("{file} holds no version"))?;
        Ok(Release(version))
    }
}

/// Runs the program that the binary was called as.
pub fn main() -> ExitCode {
    if std::env::var_os(UNIT_VARIABLE).is_some() {
        _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    }
    let mut arguments = std::env::args();
    let program = Utf8PathBuf::from(arguments.next().unwrap_or_default());
    let arguments: Vec<String> = arguments.collect();
    if program.file_name() == Some("standin") {
        return match arguments.split_first() {
            Some((verb, arguments)) if verb == freeze::VERB => freeze::main(arguments),
            _ => become_program(&arguments),
        };
    }
    let Ok(root) = std::env::var(ROOT_VARIABLE) else {
        err(format_args!(
            "{program}: {ROOT_VARIABLE} names no stand-in node; this is a stand-in program of Liftlock's tests"
        ));
        return ExitCode::from(99);
    };
    let root = Utf8PathBuf::from(root);
    let status = NodeTree::of_root(&root).and_then(|node| {
        let name = program.file_name().unwrap_or_default().to_owned();
        let call = Call { program, arguments, node, root };
        match name.as_str() {
            "apt-get" => apt::get(&call),
            "apt-cache" => apt::cache(&call),
            "apt-mark" => apt::mark(&call),
            "etcdctl" => etcdctl::etcdctl(&call),
            "dpkg" => dpkg::dpkg(&call),
            "dpkg-query" => dpkg::query(&call),
            "ctr" => ctr::ctr(&call),
            "dnf" => dnf::dnf(&call),
            "rpm" => rpm::rpm(&call),
            "dpkg-deb" => dpkg::deb(&call),
            "systemctl" => systemd::systemctl(&call),
            "systemd-run" => Ok(systemd::systemd_run(&call)),
            "kubelet" => kubelet(&call),
            "kubeadm" => kubeadm::kubeadm(&call),
            "replace-system" => replace_system::replace_system(&call),
            _ => anyhow::bail!("{name} is no program of a stand-in node"),
        }
    });
    match status {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            err(format_args!("stand-in: {error:#}"));
            ExitCode::from(98)
        }
    }
}

/// Becomes another program, which dies with whoever started it. A file that may not grow any more is an error to it
/// and not its death, so that a test can have a write fail.
fn become_program(argv: &[String]) -> ExitCode {
    _ = SigSet::from(Signal::SIGXFSZ).thread_block();
    _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    // Where only ancestors may follow a process (Yama), a sibling may follow this one.
    _ = rustix::process::set_ptracer(rustix::process::PTracer::Any);
    if let Some((program, arguments)) = argv.split_first() {
        let error = std::process::Command::new(program).args(arguments).exec();
        err(format_args!("cannot become {program}: {error}"));
    }
    ExitCode::from(97)
}

fn kubelet(call: &Call) -> Result<u8> {
    out(format_args!("Kubernetes {}", call.release("kubelet")?.0));
    Ok(0)
}

/// `version -o json` of kubeadm.
fn version_json(release: Release) -> Result<String> {
    Ok(serde_json::to_string_pretty(&serde_json::json!({"clientVersion": version(release)}))?)
}

/// A line on standard output.
fn out(line: impl Display) {
    _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// A line on standard error.
fn err(line: impl Display) {
    _ = writeln!(std::io::stderr().lock(), "{line}");
}
